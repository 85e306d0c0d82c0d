//! EHLO replies: what a server offers (RFC 5321 §4.1.1.1), and what of that gatepost lets through.
//!
//! A keyword is a promise about commands, and gatepost must be able to follow every command of a dialogue. So a keyword
//! passes only if it is in this table; a line of any other (`PIPECONNECT`, `XCLIENT`, `XFORWARD`, `XEXCH50`,
//! `X-ANONYMOUSTLS`, `X-EXPS`, `PRDR`, and whatever comes next) is left out of every [`Offer`].
//!
//! | keyword | source | what it permits |
//! | --- | --- | --- |
//! | `SIZE` | RFC 1870 | MAIL parameter SIZE |
//! | `8BITMIME` | RFC 6152 | MAIL parameter BODY=7BIT, BODY=8BITMIME |
//! | `PIPELINING` | RFC 2920 | commands in groups |
//! | `ENHANCEDSTATUSCODES` | RFC 2034 | – |
//! | `DSN` | RFC 3461 | MAIL parameters RET, ENVID; RCPT parameters NOTIFY, ORCPT |
//! | `SMTPUTF8` | RFC 6531 | MAIL parameter SMTPUTF8 |
//! | `CHUNKING` | RFC 3030 | BDAT |
//! | `BINARYMIME` | RFC 3030 | MAIL parameter BODY=BINARYMIME |
//! | `STARTTLS` | RFC 3207 | STARTTLS |
//! | `AUTH` | RFC 4954 | AUTH, MAIL parameter AUTH |
//! | `VRFY`, `EXPN`, `HELP` | RFC 5321 | the command of that name |
//! | `ETRN` | RFC 1985 | ETRN |
//! | `DELIVERBY` | RFC 2852 | MAIL parameter BY |
//! | `MT-PRIORITY` | RFC 6710 | MAIL parameter MT-PRIORITY |
//! | `FUTURERELEASE` | RFC 4865 | MAIL parameters HOLDFOR, HOLDUNTIL |
//! | `LIMITS` | RFC 9422 | – |
//! | `REQUIRETLS` | RFC 8689 | MAIL parameter REQUIRETLS |

use std::fmt;
use std::iter;
use std::ops::Range;

use super::path::{is_blank, trim_blanks};
use super::reply::{LINE_LIMIT, Reply, WRITE_LIMIT, printable};

/// What a line has room for besides its code, separator and ending.
const TEXT_LIMIT: usize = LINE_LIMIT - "250-\r\n".len();

/// The service extensions that gatepost understands. Any other keyword is withheld from clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Keyword {
    Size,
    EightBitMime,
    Pipelining,
    EnhancedStatusCodes,
    Dsn,
    SmtpUtf8,
    Chunking,
    BinaryMime,
    StartTls,
    Auth,
    Vrfy,
    Expn,
    Etrn,
    Help,
    DeliverBy,
    MtPriority,
    FutureRelease,
    Limits,
    RequireTls,
}

impl Keyword {
    /// Every keyword, in the order of their declaration.
    pub const ALL: [Self; 19] = [
        Self::Size,
        Self::EightBitMime,
        Self::Pipelining,
        Self::EnhancedStatusCodes,
        Self::Dsn,
        Self::SmtpUtf8,
        Self::Chunking,
        Self::BinaryMime,
        Self::StartTls,
        Self::Auth,
        Self::Vrfy,
        Self::Expn,
        Self::Etrn,
        Self::Help,
        Self::DeliverBy,
        Self::MtPriority,
        Self::FutureRelease,
        Self::Limits,
        Self::RequireTls,
    ];

    /// The keyword as it stands in an EHLO reply.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Size => "SIZE",
            Self::EightBitMime => "8BITMIME",
            Self::Pipelining => "PIPELINING",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::Dsn => "DSN",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Chunking => "CHUNKING",
            Self::BinaryMime => "BINARYMIME",
            Self::StartTls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Vrfy => "VRFY",
            Self::Expn => "EXPN",
            Self::Etrn => "ETRN",
            Self::Help => "HELP",
            Self::DeliverBy => "DELIVERBY",
            Self::MtPriority => "MT-PRIORITY",
            Self::FutureRelease => "FUTURERELEASE",
            Self::Limits => "LIMITS",
            Self::RequireTls => "REQUIRETLS",
        }
    }

    /// The keyword of that name, in any case.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|keyword| keyword.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// The extension that must have been offered for a MAIL or RCPT parameter ([`Envelope::parameters`]) to be passed
    /// on. `None`: no extension that we understand has it.
    ///
    /// [`Envelope::parameters`]: super::command::Envelope::parameters
    pub fn of_parameter(keyword: &[u8], value: Option<&[u8]>) -> Option<Self> {
        const PARAMETERS: [(&str, Keyword); 13] = [
            ("SIZE", Keyword::Size),
            ("SMTPUTF8", Keyword::SmtpUtf8),
            ("RET", Keyword::Dsn),
            ("ENVID", Keyword::Dsn),
            ("NOTIFY", Keyword::Dsn),
            ("ORCPT", Keyword::Dsn),
            ("AUTH", Keyword::Auth),
            ("BY", Keyword::DeliverBy),
            ("MT-PRIORITY", Keyword::MtPriority),
            ("HOLDFOR", Keyword::FutureRelease),
            ("HOLDUNTIL", Keyword::FutureRelease),
            ("REQUIRETLS", Keyword::RequireTls),
            ("BODY", Keyword::EightBitMime),
        ];
        let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
        let (_, found) = PARAMETERS.into_iter().find(|(name, _)| is(name))?;
        if found != Self::EightBitMime {
            return Some(found);
        }
        let value = value?;
        let says = |word: &str| value.eq_ignore_ascii_case(word.as_bytes());
        if says("BINARYMIME") {
            return Some(Self::BinaryMime);
        }
        (says("7BIT") || says("8BITMIME")).then_some(Self::EightBitMime)
    }

    /// Whether its parameters may go on though it was not offered: they only say what the message will be like (SIZE,
    /// BODY=8BITMIME). Programs write them after HELO too, and Postfix takes them there; an MTA that does not know them
    /// refuses the command itself.
    pub const fn is_mere_notice(self) -> bool {
        matches!(self, Self::Size | Self::EightBitMime)
    }
}

/// A set of keywords.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keywords(u32);

impl Keywords {
    /// No keyword.
    pub const NONE: Self = Self(0);

    /// Every keyword.
    pub const ALL: Self = Self((1 << Keyword::ALL.len()) - 1);

    /// With `keyword`.
    pub const fn with(self, keyword: Keyword) -> Self {
        Self(self.0 | 1 << keyword as u32)
    }

    /// Without `keyword`.
    pub const fn without(self, keyword: Keyword) -> Self {
        Self(self.0 & !(1 << keyword as u32))
    }

    /// Whether `keyword` is in it.
    pub const fn has(self, keyword: Keyword) -> bool {
        self.0 & (1 << keyword as u32) != 0
    }

    /// Those in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those in either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every keyword of `other` is in this.
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }
}

/// What a backend offers: the understood part of its EHLO reply, parameters as it wrote them.
#[derive(Clone, Default)]
pub struct Offer {
    /// The keywords.
    pub keywords: Keywords,
    /// The understood lines (`SIZE 10240000`, `AUTH PLAIN LOGIN`), in the backend's order, one for each keyword: where they
    /// are in `text`.
    lines: Vec<(Keyword, Range<usize>)>,
    /// The lines one behind the other, and what has become of them since.
    text: Vec<u8>,
}

impl Offer {
    /// Reads a positive reply to EHLO. `AUTH=…` (an old dialect) counts as AUTH, and all AUTH lines become one with the
    /// mechanisms of all; of any other keyword the first line counts. Lines of unknown keywords are left out, and lines
    /// that hold anything but printable ASCII or could not be written within [`LINE_LIMIT`].
    pub fn read(reply: &Reply<'_>) -> Self {
        let mut offer = Self::with_room(reply.raw.len());
        let fine = |line: &&[u8]| line.len() <= TEXT_LIMIT && line.iter().all(|byte| matches!(byte, b' '..=b'~'));
        for line in reply.lines().skip(1).filter(fine) {
            let (name, parameter) = split_keyword(line);
            match Keyword::from_name(name) {
                Some(Keyword::Auth) => offer.add_mechanisms(parameter),
                Some(keyword) if !offer.keywords.has(keyword) => offer.add(keyword, [trim_blanks(line)]),
                _ => (),
            }
        }
        offer
    }

    /// What follows `keyword` on its line; empty if nothing does, `None` if the keyword is not offered.
    pub fn parameter(&self, keyword: Keyword) -> Option<&[u8]> {
        let (_, line) = self.lines().find(|(of, _)| *of == keyword)?;
        Some(split_keyword(line).1)
    }

    fn lines(&self) -> impl Iterator<Item = (Keyword, &[u8])> {
        self.lines.iter().map(|(keyword, at)| (*keyword, self.text.get(at.clone()).unwrap_or_default()))
    }

    /// With room for all keywords, and so much text.
    fn with_room(text: usize) -> Self {
        let (lines, text) = (Vec::with_capacity(Keyword::ALL.len()), Vec::with_capacity(text));
        Self { keywords: Keywords::NONE, lines, text }
    }

    /// The same without the AUTH mechanisms that are bound to a TLS channel (`SCRAM-SHA-256-PLUS`, RFC 5802 §6): where
    /// TLS does not reach from client to backend, they cannot succeed. AUTH goes with the last mechanism.
    pub fn without_plus(&self) -> Self {
        let mut offer = Self::with_room(self.text.len());
        for (keyword, line) in self.lines() {
            match keyword {
                Keyword::Auth => {
                    let mut kept = words(split_keyword(line).1).filter(|mechanism| !is_plus(mechanism)).peekable();
                    if kept.peek().is_some() {
                        offer.add(Keyword::Auth, auth_line(kept));
                    }
                }
                _ => offer.add(keyword, [line]),
            }
        }
        offer
    }

    /// The same with `keyword`, without a parameter where the backend does not offer it.
    pub fn with(mut self, keyword: Keyword) -> Self {
        if !self.keywords.has(keyword) {
            self.add(keyword, [keyword.name().as_bytes()]);
        }
        self
    }

    /// Of this, what is in `keep`.
    pub fn only(mut self, keep: Keywords) -> Self {
        self.lines.retain(|(keyword, _)| keep.has(*keyword));
        self.keywords = self.keywords.and(keep);
        self
    }

    /// Writes an EHLO reply: `greeting` (the text of its first line) and the lines whose keyword is in `keep`.
    ///
    /// Of the greeting, bytes that are not printable ASCII become `?`, and what does not fit a legal line is cut off.
    pub fn write(&self, out: &mut Vec<u8>, greeting: &[u8], keep: Keywords) {
        let mut separator = out.len() + 3;
        out.extend_from_slice(b"250-");
        let room = WRITE_LIMIT - "250-\r\n".len();
        out.extend(greeting.iter().take(room).map(|&byte| printable(char::from(byte))));
        out.extend_from_slice(b"\r\n");
        for (_, line) in self.lines().filter(|(keyword, _)| keep.has(*keyword)) {
            separator = out.len() + 3;
            out.extend_from_slice(b"250-");
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
        if let Some(byte) = out.get_mut(separator) {
            *byte = b' ';
        }
    }

    fn add<'l>(&mut self, keyword: Keyword, line: impl IntoIterator<Item = &'l [u8]>) {
        self.keywords = self.keywords.with(keyword);
        let start = self.text.len();
        line.into_iter().for_each(|piece| self.text.extend_from_slice(piece));
        self.lines.push((keyword, start..self.text.len()));
    }

    /// Adds those of `mechanisms` that the AUTH line does not hold yet, as far as there is room on it.
    fn add_mechanisms(&mut self, mechanisms: &[u8]) {
        let Some((_, at)) = self.lines.iter_mut().find(|(keyword, _)| *keyword == Keyword::Auth) else {
            return self.add(Keyword::Auth, auth_line(words(mechanisms)));
        };
        if at.end != self.text.len() {
            // It goes on behind the others, which are of other keywords, and so not many.
            let start = self.text.len();
            self.text.extend_from_within(at.clone());
            *at = start..self.text.len();
        }
        for new in words(mechanisms) {
            let known = split_keyword(self.text.get(at.clone()).unwrap_or_default()).1;
            if words(known).any(|old| old.eq_ignore_ascii_case(new)) {
                continue;
            }
            if at.len() + 1 + new.len() > TEXT_LIMIT {
                break;
            }
            self.text.push(b' ');
            self.text.extend_from_slice(new);
            at.end = self.text.len();
        }
    }
}

impl PartialEq for Offer {
    fn eq(&self, other: &Self) -> bool {
        self.lines().eq(other.lines())
    }
}

impl Eq for Offer {}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines().map(|(_, line)| String::from_utf8_lossy(line))).finish()
    }
}

/// The keyword of an EHLO line and what follows it, blanks removed. Only AUTH was ever written with `=`.
fn split_keyword(line: &[u8]) -> (&[u8], &[u8]) {
    let line = trim_blanks(line);
    let end = match line.get(..5) {
        Some(front) if front.eq_ignore_ascii_case(b"AUTH=") => 4,
        _ => line.iter().position(|&byte| is_blank(byte)).unwrap_or(line.len()),
    };
    let (name, rest) = line.split_at_checked(end).unwrap_or((line, b""));
    (name, trim_blanks(rest.strip_prefix(b"=").unwrap_or(rest)))
}

/// An AUTH line of as many of `mechanisms` as one line holds, in pieces.
fn auth_line<'a>(mechanisms: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    let fits = |length: &mut usize, mechanism: &'a [u8]| {
        *length += 1 + mechanism.len();
        (*length <= TEXT_LIMIT).then_some([b" ", mechanism])
    };
    iter::once(&b"AUTH"[..]).chain(mechanisms.scan("AUTH".len(), fits).flatten())
}

fn is_plus(mechanism: &[u8]) -> bool {
    mechanism
        .len()
        .checked_sub(5)
        .and_then(|at| mechanism.get(at..))
        .is_some_and(|end| end.eq_ignore_ascii_case(b"-PLUS"))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| is_blank(byte)).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::{self, Parsed};

    fn offer(raw: &str) -> Offer {
        let Parsed::Complete(reply) = reply::parse(raw.as_bytes()) else { panic!("{raw:.200?}") };
        Offer::read(&reply)
    }

    fn written(offer: &Offer, greeting: &[u8], keep: Keywords) -> String {
        let mut out = b"before".to_vec();
        offer.write(&mut out, greeting, keep);
        String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
    }

    const POSTFIX: &str = "250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n\
        250-STARTTLS\r\n250-AUTH PLAIN LOGIN SCRAM-SHA-256-PLUS\r\n250-AUTH=PLAIN LOGIN XOAUTH2\r\n\
        250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n";

    #[test]
    fn an_offer_keeps_order_and_parameters() {
        let offer = offer(POSTFIX);
        assert_eq!(offer.parameter(Keyword::Size), Some(&b"10240000"[..]));
        assert_eq!(offer.parameter(Keyword::Dsn), Some(&b""[..]));
        assert_eq!(offer.parameter(Keyword::BinaryMime), None);
        let keep = Keywords::ALL.without(Keyword::Pipelining).without(Keyword::Chunking);
        assert_eq!(
            written(&offer, b"gate.example.org", keep),
            "250-gate.example.org\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n250-STARTTLS\r\n\
             250-AUTH PLAIN LOGIN SCRAM-SHA-256-PLUS XOAUTH2\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n\
             250-DSN\r\n250 SMTPUTF8\r\n"
        );
        assert_eq!(written(&offer, b"gate", Keywords::NONE), "250 gate\r\n");
    }

    #[test]
    fn the_first_of_duplicates_counts() {
        let offer = offer("250-a\r\n250-size 1\r\n250-SIZE 2\r\n250-AUTH=LOGIN\r\n250 auth plain login\r\n");
        assert_eq!(written(&offer, b"a", Keywords::ALL), "250-a\r\n250-size 1\r\n250 AUTH LOGIN plain\r\n");
    }

    #[test]
    fn mechanisms_come_together_wherever_they_stand() {
        let mechanisms =
            "250-a\r\n250-AUTH PLAIN\r\n250-SIZE 1\r\n250-AUTH=LOGIN plain\r\n250-DSN\r\n250 AUTH XOAUTH2 LOGIN\r\n";
        let offer = offer(mechanisms);
        let written = |keep| written(&offer, b"a", keep);
        assert_eq!(written(Keywords::ALL), "250-a\r\n250-AUTH PLAIN LOGIN XOAUTH2\r\n250-SIZE 1\r\n250 DSN\r\n");
        let auth = Keywords::NONE.with(Keyword::Auth);
        assert_eq!(offer.clone().only(auth), self::offer("250-a\r\n250 AUTH PLAIN LOGIN XOAUTH2\r\n"));
        assert_ne!(offer.clone().only(auth), self::offer("250-a\r\n250 AUTH PLAIN LOGIN\r\n"));
        assert_eq!(format!("{:?}", offer.only(auth)), "[\"AUTH PLAIN LOGIN XOAUTH2\"]");
    }

    #[test]
    fn keywords_that_nobody_here_understands_do_not_pass() {
        for name in [
            "PIPECONNECT",
            "XCLIENT NAME ADDR",
            "XFORWARD NAME",
            "XEXCH50",
            "X-ANONYMOUSTLS",
            "X-EXPS GSSAPI NTLM",
            "X-EXPS=LOGIN",
            "PRDR",
            "XRDST",
            "X-PIPE_CONNECT",
            "PIPE_CONNECT",
            "XXXX",
            "ONEX",
            "SIZE=10",
            "AUTHX",
            "TIME",
            "",
        ] {
            let offer = offer(&format!("250-a\r\n250-{name}\r\n250 DSN\r\n"));
            assert_eq!(offer.keywords, Keywords::NONE.with(Keyword::Dsn), "{name}");
            assert_eq!(written(&offer, b"a", Keywords::ALL), "250-a\r\n250 DSN\r\n", "{name}");
        }
    }

    #[test]
    fn a_keyword_on_the_greeting_line_or_in_odd_bytes_is_none() {
        let offer = offer("250-DSN\r\n250-SIZE 1\x1b[2J\r\n250-HELP \u{e4}\r\n250 8BITMIME\r\n");
        assert_eq!(offer.keywords, Keywords::NONE.with(Keyword::EightBitMime));
    }

    #[test]
    fn a_greeting_cannot_break_out() {
        let offer = offer("250-a\r\n250 DSN\r\n");
        assert_eq!(
            written(&offer, b"a\r\n250 XCLIENT\0\x7f\xc3\xa4\tb", Keywords::ALL),
            "250-a??250 XCLIENT?????b\r\n250 DSN\r\n"
        );
        let long = written(&offer, &[b'a'; 4096], Keywords::ALL);
        assert_eq!(long.lines().next().unwrap().len() + 2, WRITE_LIMIT);
    }

    #[test]
    fn channel_binding_goes_where_tls_ends() {
        let plain = offer(POSTFIX).without_plus();
        assert_eq!(plain.parameter(Keyword::Auth), Some(&b"PLAIN LOGIN XOAUTH2"[..]));
        assert_eq!(plain.keywords, offer(POSTFIX).keywords);
        let none = offer("250-a\r\n250-AUTH SCRAM-SHA-1-plus\r\n250 DSN\r\n").without_plus();
        assert_eq!(none.keywords, Keywords::NONE.with(Keyword::Dsn));
        assert_eq!(none.parameter(Keyword::Auth), None);
    }

    #[test]
    fn an_auth_line_stays_a_line() {
        let lines: String = (10_000..12_000).map(|n| format!("250-AUTH M{n}\r\n")).collect();
        let offer = offer(&format!("250-a\r\n{lines}250 DSN\r\n"));
        let out = written(&offer, b"a", Keywords::ALL);
        assert!(out.lines().all(|line| line.len() + 2 <= LINE_LIMIT));
        assert!(matches!(reply::parse(out.as_bytes()), Parsed::Complete(_)));
    }

    #[test]
    fn keywords_have_names_and_places_of_their_own() {
        let mut all = Keywords::NONE;
        for (at, keyword) in Keyword::ALL.into_iter().enumerate() {
            assert_eq!(keyword as usize, at);
            assert_eq!(Keyword::from_name(keyword.name().as_bytes()), Some(keyword));
            assert_eq!(Keyword::from_name(keyword.name().to_lowercase().as_bytes()), Some(keyword));
            assert!(!all.has(keyword));
            all = all.with(keyword);
            assert!(all.has(keyword) && Keywords::ALL.without(keyword) != Keywords::ALL);
        }
        assert_eq!(all, Keywords::ALL);
        assert!(Keywords::ALL.covers(all) && !Keywords::NONE.covers(all));
    }

    #[test]
    fn parameters_belong_to_extensions() {
        let rows: &[(&str, Option<&str>, Option<Keyword>)] = &[
            ("SIZE", Some("1000"), Some(Keyword::Size)),
            ("size", None, Some(Keyword::Size)),
            ("BODY", Some("7BIT"), Some(Keyword::EightBitMime)),
            ("body", Some("8bitmime"), Some(Keyword::EightBitMime)),
            ("BODY", Some("BINARYMIME"), Some(Keyword::BinaryMime)),
            ("BODY", Some("9BIT"), None),
            ("BODY", None, None),
            ("SMTPUTF8", None, Some(Keyword::SmtpUtf8)),
            ("RET", Some("FULL"), Some(Keyword::Dsn)),
            ("ENVID", Some("x"), Some(Keyword::Dsn)),
            ("NOTIFY", Some("NEVER"), Some(Keyword::Dsn)),
            ("ORCPT", Some("rfc822;a@b"), Some(Keyword::Dsn)),
            ("AUTH", Some("<>"), Some(Keyword::Auth)),
            ("BY", Some("120;R"), Some(Keyword::DeliverBy)),
            ("MT-PRIORITY", Some("3"), Some(Keyword::MtPriority)),
            ("HOLDFOR", Some("60"), Some(Keyword::FutureRelease)),
            ("HOLDUNTIL", Some("2030-01-01T00:00:00Z"), Some(Keyword::FutureRelease)),
            ("REQUIRETLS", None, Some(Keyword::RequireTls)),
            ("PRDR", None, None),
            ("XOORG", Some("example.org"), None),
            ("XSHADOW", Some("1"), None),
            ("", None, None),
        ];
        for (keyword, value, expected) in rows {
            let found = Keyword::of_parameter(keyword.as_bytes(), value.map(str::as_bytes));
            assert_eq!(found, *expected, "{keyword}={value:?}");
        }
    }
}
