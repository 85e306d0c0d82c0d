//! The trace header: a `Received:` field on top of each message, for an MTA that cannot be told of the client otherwise.
//!
//! ```text
//! Received: from client.example ([192.0.2.7]) by mx.example.org (gatepost) with
//!         ESMTPS id 7K2MQ-9XV4T-2; Sun, 22 Nov 2026 05:32:13 +0000
//! ```
//!
//! Promises: at most [`LIMIT`] bytes, each line ended by CRLF and none of them blank; nothing of the client's is in it but
//! letters, digits and `.-_:[]`, and no more than [`NAME_LIMIT`] of those. What the client is called, and in which protocol
//! it speaks, the machine knows; the rest, the time too, is given to it.

use std::fmt;
use std::net::IpAddr;

use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

use crate::time::Timestamp;

/// The longest field.
pub const LIMIT: usize = 768;

/// How much of the name that the client gave is shown.
const NAME_LIMIT: usize = 64;

/// The longest host name.
const HOST_LIMIT: usize = 255;

/// The column that a line ends before where it can (RFC 5322 §2.1.1).
const COLUMNS: usize = 78;

/// What a TAB at the front of a line counts as.
const TAB: usize = 8;

/// What there is to tell of one visit.
pub struct Trace {
    client: IpAddr,
    host: Box<str>,
    visit: Box<str>,
    now: Box<dyn Fn() -> Timestamp + Send>,
    hello: Option<Hello>,
    /// A HELO or EHLO that the backend has not answered.
    asked: Option<Hello>,
    messages: u32,
}

struct Hello {
    extended: bool,
    name: Box<str>,
}

impl Trace {
    /// For the visit called `visit`, of `client`, to the host of this name; `now` tells the time of each message.
    pub fn new(client: IpAddr, host: &str, visit: &str, now: impl Fn() -> Timestamp + Send + 'static) -> Self {
        Self {
            client,
            host: safe(host.as_bytes(), HOST_LIMIT),
            visit: safe(visit.as_bytes(), NAME_LIMIT),
            now: Box::new(now),
            hello: None,
            asked: None,
            messages: 0,
        }
    }

    /// The same where the client has said EHLO (or HELO, if that was not `extended`), and was taken at its word.
    #[must_use]
    pub fn greeted(mut self, extended: bool, name: &[u8]) -> Self {
        self.asked(extended, name);
        self.accepted();
        self
    }

    /// The client says HELO or EHLO.
    pub(super) fn asked(&mut self, extended: bool, name: &[u8]) {
        self.asked = Some(Hello { extended, name: safe(name, NAME_LIMIT) });
    }

    /// The backend accepts that.
    pub(super) fn accepted(&mut self) {
        self.hello = self.asked.take().or_else(|| self.hello.take());
    }

    /// TLS has begun: what was said before does not count.
    pub(super) fn forget(&mut self) {
        self.hello = None;
        self.asked = None;
    }

    /// The field for the next message.
    pub(super) fn field(&mut self, tls: bool, authenticated: bool) -> Vec<u8> {
        self.messages = self.messages.saturating_add(1);
        let name = self.hello.as_ref().map_or("", |hello| &hello.name);
        let extended = self.hello.as_ref().is_some_and(|hello| hello.extended);
        // RFC 3848 has names for ESMTP alone.
        let protocol = match (extended, tls, authenticated) {
            (false, _, _) => "SMTP",
            (true, false, false) => "ESMTP",
            (true, true, false) => "ESMTPS",
            (true, false, true) => "ESMTPA",
            (true, true, true) => "ESMTPSA",
        };
        let client = match self.client {
            IpAddr::V4(ip) => format!("([{ip}])"),
            IpAddr::V6(ip) => format!("([IPv6:{ip}])"),
        };
        let id = match self.messages {
            1 => format!("{};", self.visit),
            n => format!("{}-{n};", self.visit),
        };
        let date = date((self.now)());
        let name = if name.is_empty() { "unknown" } else { name };
        let words = ["from", name, &client, "by", &self.host, "(gatepost)", "with", protocol, "id", &id]
            .into_iter()
            .chain([&*date]);
        fold("Received:", words)
    }
}

/// Letters, digits and `.-_:[]` of `text`, a `?` for each other byte, and dots in place of what is too long.
fn safe(text: &[u8], limit: usize) -> Box<str> {
    const MORE: &str = "...";
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let kept = if text.len() > limit { limit - MORE.len() } else { text.len() };
    let mut out: String = text.iter().take(kept).map(|&byte| if fine(byte) { char::from(byte) } else { '?' }).collect();
    if text.len() > limit {
        out.push_str(MORE);
    }
    out.into()
}

/// As RFC 5322 §3.3 has it, in UTC.
fn date(at: Timestamp) -> String {
    let millis = i64::try_from(at.millis()).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    let moment = millis.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_zoned(TimeZone::UTC);
    let mut out = String::new();
    // It has no words for years before 0 and behind 9999.
    let _ = DateTimePrinter::new().print_zoned(&moment, &mut out);
    out
}

/// A header field of these words, folded between them.
fn fold<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Vec<u8> {
    let mut out = name.as_bytes().to_vec();
    let mut column = name.len();
    for word in words {
        if column + 1 + word.len() < COLUMNS || column <= name.len() {
            out.push(b' ');
            column += 1 + word.len();
        } else {
            out.extend_from_slice(b"\r\n\t");
            column = TAB + word.len();
        }
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("visit", &self.visit).field("messages", &self.messages).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: Timestamp = Timestamp::from_seconds(1_795_325_533);

    fn trace(client: &str, host: &str) -> Trace {
        Trace::new(client.parse().unwrap(), host, "7K2MQ-9XV4T", || AT)
    }

    fn text(trace: &mut Trace, tls: bool, authenticated: bool) -> String {
        String::from_utf8(trace.field(tls, authenticated)).unwrap()
    }

    #[test]
    fn a_field_tells_who_how_and_when() {
        let mut one = trace("192.0.2.7", "mx.example.org").greeted(true, b"client.example");
        assert_eq!(
            text(&mut one, true, false),
            "Received: from client.example ([192.0.2.7]) by mx.example.org (gatepost) with\r\n\
             \tESMTPS id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000\r\n"
        );
        let mut six = trace("2001:db8::7", "mx.example.org").greeted(false, b"[IPv6:2001:db8::7]");
        assert_eq!(
            text(&mut six, true, true),
            "Received: from [IPv6:2001:db8::7] ([IPv6:2001:db8::7]) by mx.example.org\r\n\
             \t(gatepost) with SMTP id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000\r\n"
        );
    }

    #[test]
    fn protocols_and_messages_have_their_names() {
        let mut one = trace("192.0.2.7", "mx.example.org").greeted(true, b"a");
        let rows = [(false, false, "ESMTP"), (true, false, "ESMTPS"), (false, true, "ESMTPA"), (true, true, "ESMTPSA")];
        for (n, (tls, authenticated, protocol)) in rows.into_iter().enumerate() {
            let id = if n == 0 { String::new() } else { format!("-{}", n + 1) };
            let wanted = format!("with {protocol} id 7K2MQ-9XV4T{id};");
            assert!(text(&mut one, tls, authenticated).replace("\r\n\t", " ").contains(&wanted), "{wanted}");
        }
    }

    #[test]
    fn a_hello_counts_when_it_is_accepted_and_until_tls_begins() {
        let mut one = trace("192.0.2.7", "mx.example.org");
        let from = |trace: &mut Trace| text(trace, false, false).split(' ').nth(2).unwrap().to_owned();
        assert_eq!(from(&mut one), "unknown");
        one.asked(true, b"first");
        assert_eq!(from(&mut one), "unknown");
        one.accepted();
        assert_eq!(from(&mut one), "first");
        one.asked(true, b"second");
        assert_eq!(from(&mut one), "first");
        one.asked(true, b"third");
        one.accepted();
        assert_eq!(from(&mut one), "third");
        one.forget();
        assert_eq!(from(&mut one), "unknown");
        one.asked(true, b"");
        one.accepted();
        assert_eq!(from(&mut one), "unknown");
    }

    #[test]
    fn what_the_client_writes_is_made_safe() {
        for (name, shown) in [
            (&b"a) (by evil\r\nSubject: x"[..], "a???by?evil??Subject:?x".to_owned()),
            (b"\x1b[31m\0\xc3\xa4;<>\\\"", "?[31m????????".to_owned()),
            (&[b'x'; 65], "x".repeat(61) + "..."),
            (&[b'x'; 64], "x".repeat(64)),
        ] {
            let mut one = trace("192.0.2.7", "mx.example.org").greeted(true, name);
            let field = text(&mut one, false, false).replace("\r\n\t", " ");
            let found = field.strip_prefix("Received: from ").unwrap().split(" ([").next().unwrap();
            assert_eq!(found, shown);
        }
    }

    proptest! {
        #[test]
        fn a_field_is_one_whatever_the_client_says(
            client: IpAddr, name: Vec<u8>, host in "[a-z.]{1,300}", at: u64, messages: u32, extended: bool,
        ) {
            let now = move || Timestamp::from_millis(at);
            let mut one = Trace::new(client, &host, "7K2MQ-9XV4T", now).greeted(extended, &name);
            one.messages = messages;
            let field = text(&mut one, true, true);
            prop_assert!(field.len() <= LIMIT && field.ends_with("\r\n"));
            let lines: Vec<&str> = field.strip_suffix("\r\n").unwrap().split("\r\n").collect();
            prop_assert!(lines[0].starts_with("Received: ") && lines[1..].iter().all(|line| line.starts_with('\t')));
            for line in lines {
                prop_assert!(line.trim_start_matches('\t').bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{}", line);
                // Only a host name can be longer than a line.
                prop_assert!(line.len() < COLUMNS || line.contains(&*one.host), "{}", line);
            }
            prop_assert_eq!(field.matches('(').count(), 2);
        }
    }
}
