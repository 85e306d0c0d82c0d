//! AUTH exchanges (RFC 4954): how one starts, what a client's line in it is, and which account is tried.
//!
//! | file | what it is about |
//! | --- | --- |
//! | this | the command, and the line that cancels |
//! | `exchange` | one exchange, followed to the account that it tries |
//! | `mechanism` | where each mechanism has the account's name |
//! | `account` | the name in one spelling |
//!
//! Secrets never leave this module except as the bytes that they came as: what is decoded to find a name in it is wiped
//! before the line is done with, nothing is kept of it but the name, and no `Debug` prints either. What the backend thinks of
//! an exchange is in its replies, not here.

mod account;
mod exchange;
mod mechanism;

use std::fmt;

use nom::bytes::complete::{take_while_m_n, take_while1};
use nom::combinator::{all_consuming, opt};
use nom::sequence::preceded;
use nom::{IResult, Parser};

pub use self::account::{Account, LONGEST};
pub use self::exchange::Exchange;
use super::path::is_blank;

/// How an exchange begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// The mechanism's name, as written.
    pub mechanism: &'a [u8],
    /// The initial response, base64, `=` for an empty one.
    pub initial: Option<&'a [u8]>,
}

/// What a client's line within an exchange is. It holds nothing of the line, so it can be printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientLine {
    /// `*`: the client gives up, and the server's next reply is a 501 (RFC 4954 §4).
    Cancel,
    /// Anything else, an empty line included: an answer to the server's last challenge.
    Response,
}

/// What a client's line within an exchange is, its ending cut off.
pub fn client_line(line: &[u8]) -> ClientLine {
    match line {
        b"*" => ClientLine::Cancel,
        _ => ClientLine::Response,
    }
}

impl<'a> Start<'a> {
    /// What an MTA may make of the command line `line`, whose parameters are none that [`Command`](super::command::Command)
    /// reads: its second word and its third.
    pub fn guess(line: &'a [u8]) -> Self {
        let mut words = line.split(|&byte| is_blank(byte)).filter(|word| !word.is_empty()).skip(1);
        Self { mechanism: words.next().unwrap_or_default(), initial: words.next() }
    }
}

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("mechanism", &self.mechanism.escape_ascii().to_string())
            .field("initial", &self.initial.map(|_| "…"))
            .finish()
    }
}

/// The parameters of AUTH, outer blanks removed: a mechanism (RFC 4422 §3.1, in either case) and perhaps an initial
/// response. Whether that is sound base64 is the backend's to say; that it is one word of its characters is said here.
pub(super) fn start(text: &[u8]) -> Option<Start<'_>> {
    let mechanism = take_while_m_n(1, 20, |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let initial = take_while1(|byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    let parsed: IResult<_, _> = all_consuming((mechanism, opt(preceded(take_while1(is_blank), initial)))).parse(text);
    parsed.ok().map(|(_, (mechanism, initial))| Start { mechanism, initial })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_star_cancels() {
        assert_eq!(client_line(b"*"), ClientLine::Cancel);
        for line in [&b""[..], b"**", b"* ", b" *", b"=", b"AGEAYg==", b"\0"] {
            assert_eq!(client_line(line), ClientLine::Response, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_start_is_a_mechanism_and_at_most_one_word() {
        type Row = (&'static [u8], Option<(&'static [u8], Option<&'static [u8]>)>);
        let rows: &[Row] = &[
            (b"LOGIN", Some((b"LOGIN", None))),
            (b"plain AGEAYg==", Some((b"plain", Some(b"AGEAYg==")))),
            (b"PLAIN \t =", Some((b"PLAIN", Some(b"=")))),
            (b"SCRAM-SHA-256-PLUS", Some((b"SCRAM-SHA-256-PLUS", None))),
            (b"A2345678901234567890", Some((b"A2345678901234567890", None))),
            (b"A23456789012345678901", None),
            (b"", None),
            (b"PLAIN a b", None),
            (b"PLAIN a\0b", None),
            (b"PL\xc3\x84IN", None),
            (b"PLAIN *", None),
        ];
        for &(text, expected) in rows {
            let found = start(text).map(|start| (start.mechanism, start.initial));
            assert_eq!(found, expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn debug_prints_no_secret() {
        for secret in [&b"AGFsaWNlAHNlc2FtZQ=="[..], b"="] {
            let printed = format!("{:?}", Start { mechanism: b"PLAIN", initial: Some(secret) });
            assert_eq!(printed, r#"Start { mechanism: "PLAIN", initial: Some("…") }"#);
        }
    }
}
