//! Command lines that are no SMTP: another protocol that was sent our way, mail data without a DATA, or no text at all.
//!
//! At least what postscreen forbids by default (CONNECT, GET, POST, lines that begin with no letter, header labels),
//! and requests of other methods and other protocols of HTTP's shape. A typing error in SMTP is never one of them: a
//! line whose first word is an SMTP verb, with or without a colon behind it, can only be no text.
//!
//! Only for lines where a command is expected, without their ending: never for the answers of an AUTH exchange, mail
//! data or chunks. CR and LF that are left within a line belong to [`super::Test::BareNewline`].

/// What a line is that is no SMTP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// It has control characters or is no UTF-8.
    NotText,
    /// It begins with something that is no letter, as no verb does.
    NoLetter,
    /// A request of HTTP, or of a protocol that looks like it (RTSP, SIP).
    Http,
    /// A label with a colon, as in a mail or HTTP header.
    Header,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NotText, Self::NoLetter, Self::Http, Self::Header];

    /// The name in the journal and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotText => "not-text",
            Self::NoLetter => "no-letter",
            Self::Http => "http",
            Self::Header => "header",
        }
    }
}

/// What a command line is if it is no SMTP. An empty or blank line is merely an error.
pub fn not_smtp(line: &[u8]) -> Option<Kind> {
    if !is_text(line) {
        return Some(Kind::NotText);
    }
    let line = line.trim_ascii();
    if !line.first()?.is_ascii_alphabetic() {
        Some(Kind::NoLetter)
    } else if is_request(line) {
        Some(Kind::Http)
    } else if is_header(line) {
        Some(Kind::Header)
    } else {
        None
    }
}

/// The verbs of SMTP and its extensions, old ones included; and what becomes of two if the blank between is forgotten.
const VERBS: [&[u8]; 26] = [
    b"HELO",
    b"EHLO",
    b"LHLO",
    b"MAIL",
    b"RCPT",
    b"DATA",
    b"BDAT",
    b"RSET",
    b"NOOP",
    b"QUIT",
    b"VRFY",
    b"EXPN",
    b"HELP",
    b"ETRN",
    b"AUTH",
    b"STARTTLS",
    b"XCLIENT",
    b"XFORWARD",
    b"SEND",
    b"SOML",
    b"SAML",
    b"TURN",
    b"ATRN",
    b"BURL",
    b"MAILFROM",
    b"RCPTTO",
];

/// The methods of HTTP (RFC 9110 §9, RFC 5789, RFC 4918) and HTTP/2's preface (RFC 9113 §3.4).
const METHODS: [&[u8]; 17] = [
    b"GET",
    b"POST",
    b"CONNECT",
    b"HEAD",
    b"PUT",
    b"OPTIONS",
    b"DELETE",
    b"TRACE",
    b"PATCH",
    b"PRI",
    b"PROPFIND",
    b"PROPPATCH",
    b"MKCOL",
    b"COPY",
    b"MOVE",
    b"LOCK",
    b"UNLOCK",
];

/// Methods that need no second look: whatever follows, they are never an attempt at SMTP.
const PLAIN_METHODS: [&[u8]; 3] = [b"GET", b"POST", b"CONNECT"];

/// Whether `word` is a verb of SMTP, in any case.
pub(super) fn is_verb(word: &[u8]) -> bool {
    VERBS.iter().any(|verb| verb.eq_ignore_ascii_case(word))
}

/// Whether a verb of SMTP begins with `word`, in any case.
pub(super) fn begins_verb(word: &[u8]) -> bool {
    VERBS.iter().any(|verb| verb.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)))
}

/// Whether `line` is the first line of an HTTP request whose end has not come yet.
pub(super) fn begins_request(line: &[u8]) -> bool {
    METHODS.iter().any(|method| match line.strip_prefix(*method) {
        Some(rest) => rest.first().is_none_or(|&b| b == b' '),
        None => method.starts_with(line),
    })
}

/// Whether a whole line is a request: a method of HTTP with something to ask for, or anything but SMTP that ends in a
/// protocol and its version.
pub(super) fn is_request(line: &[u8]) -> bool {
    let mut words = words(line);
    let Some(method) = words.next() else { return false };
    let is = |list: &[&[u8]]| list.iter().any(|m| m.eq_ignore_ascii_case(method));
    if is(&PLAIN_METHODS) {
        return true;
    }
    if is_verb(method) || !method.iter().all(u8::is_ascii_alphabetic) {
        return false;
    }
    let Some(target) = words.next() else { return false };
    let asked = is(&METHODS) && (matches!(target.first(), Some(b'/' | b'*')) || target.windows(3).any(|w| w == b"://"));
    asked || words.last().is_some_and(is_version)
}

/// Whether `word` is a protocol and its version, such as `HTTP/1.1`.
fn is_version(word: &[u8]) -> bool {
    let mut halves = word.splitn(2, |&b| b == b'/');
    let protocol = halves.next().unwrap_or_default();
    let version = halves.next().unwrap_or_default();
    !protocol.is_empty()
        && protocol.iter().all(u8::is_ascii_alphabetic)
        && version.first().is_some_and(u8::is_ascii_digit)
        && version.iter().all(|&b| b.is_ascii_digit() || b == b'.')
}

/// Whether `line` begins with a header label (RFC 5322 §2.2), the colon right behind it.
fn is_header(line: &[u8]) -> bool {
    let label = line.iter().position(|&b| b == b':').and_then(|colon| line.get(..colon));
    label.is_some_and(|label| label.iter().all(u8::is_ascii_graphic) && !is_verb(label))
}

/// Whether `line` is text: UTF-8, and no control characters but tabs (and line endings, which are not judged here).
fn is_text(line: &[u8]) -> bool {
    line.iter().all(|b| !b.is_ascii_control() || matches!(b, b'\t' | b'\r' | b'\n')) && str::from_utf8(line).is_ok()
}

/// The words of a line.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_protocols_are_seen() {
        for (line, kind) in [
            (&b"GET / HTTP/1.1"[..], Kind::Http),
            (b"get /", Kind::Http),
            (b"GET", Kind::Http),
            (b"POST /cgi-bin/mail HTTP/1.0", Kind::Http),
            (b"CONNECT mx.example.com:25 HTTP/1.0", Kind::Http),
            (b"connect mx.example.com:25", Kind::Http),
            (b"HEAD / HTTP/1.0", Kind::Http),
            (b"PUT /a HTTP/1.1", Kind::Http),
            (b"OPTIONS / HTTP/1.0", Kind::Http),
            (b"OPTIONS / RTSP/1.0", Kind::Http),
            (b"OPTIONS sip:nm SIP/2.0", Kind::Http),
            (b"REGISTER sip:example.com SIP/2.0", Kind::Http),
            (b"PRI * HTTP/2.0", Kind::Http),
            (b"DELETE http://example.com/", Kind::Http),
            (b"PROPFIND /dav HTTP/1.1", Kind::Http),
            (b"BREW /pot HTCPCP/1.0", Kind::Http),
            (b" GET / HTTP/1.1", Kind::Http),
            (b"GET / HTTP/1.1\r", Kind::Http),
            (b"Host: mx.example.com", Kind::Header),
            (b"Host:mx.example.com", Kind::Header),
            (b"User-Agent: curl/8.5.0", Kind::Header),
            (b"Content-Length: 0", Kind::Header),
            (b"Subject: hello", Kind::Header),
            (b"From: <a@example.com>", Kind::Header),
            (b"Received: from x by y; z", Kind::Header),
            (b"X-Priority:", Kind::Header),
            (b"Proxy_Connection: keep-alive", Kind::Header),
            (b"Help-Wanted: yes", Kind::Header),
            (b"http://example.com/", Kind::Header),
            (b".", Kind::NoLetter),
            (b"--=_boundary", Kind::NoLetter),
            (b"<html>", Kind::NoLetter),
            (b"{\"method\":\"login\"}", Kind::NoLetter),
            (b"*1", Kind::NoLetter),
            (b"$4", Kind::NoLetter),
            (b"1 CAPABILITY", Kind::NoLetter),
            ("\u{feff}EHLO mx.example.com".as_bytes(), Kind::NoLetter),
            ("привет".as_bytes(), Kind::NoLetter),
            (b"\x16\x03\x01\x02\x00", Kind::NotText),
            (b"EHLO \0", Kind::NotText),
            (b"EHLO mx\x08\x08", Kind::NotText),
            (b"EHLO mx\x7f", Kind::NotText),
            (b"\x1b[A", Kind::NotText),
            (b"\xff\xf4\xff\xfd\x06", Kind::NotText),
            (b"MAIL FROM:<jos\xe9@example.com>", Kind::NotText),
            (b"EHLO \xed\xa0\x80", Kind::NotText),
            (b"GET /\0 HTTP/1.1", Kind::NotText),
        ] {
            assert_eq!(not_smtp(line), Some(kind), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn smtp_and_its_typing_errors_are_not() {
        for line in [
            "",
            " ",
            "\t",
            "\r",
            "EHLO mx.example.com",
            "ehlo mx.example.com",
            "EHLO [IPv6:2001:db8::1]",
            "EHLO:",
            "EHLO: mx.example.com",
            "HELO:mx.example.com",
            "EHLO http://mx.example.com/ HTTP/1.1",
            "EHLO",
            "EHLOmx.example.com",
            "EHLLO mx.example.com",
            "MAIL FROM:<a@example.com>",
            "MAIL FROM: <a@example.com> SIZE=1000 BODY=8BITMIME",
            "MAIL FROM:<http://a/1.0@example.com>",
            "mail from :<a@example.com>",
            "Mail From : a@example.com",
            "MAIL: FROM:<a@example.com>",
            "MAILFROM:<a@example.com>",
            "mail\tfrom:<a@example.com>",
            "RCPT TO:<b@example.com>",
            "RCPT TO : <b@example.com>",
            "RCPTTO:<b@example.com>",
            "rcpt:<b@example.com>",
            "RCPT TO:<postmaster>",
            "RCPT TO:<b@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@example.com",
            "MAIL FROM:<δοκιμή@παράδειγμα.example> SMTPUTF8",
            "DATA",
            "DATA:",
            "DATA /1.0",
            "BDAT 86 LAST",
            "NOOP GET / HTTP/1.1",
            "NOOP",
            "RSET",
            "QUIT",
            "QUIT\r",
            "quit ",
            "VRFY a:b",
            "HELP MAIL",
            "AUTH PLAIN AGEAYg==",
            "AUTH LOGIN",
            "STARTTLS",
            "XCLIENT ADDR=192.0.2.1",
            "XFORWARD NAME=mx",
            "ETRN example.com",
            "HEAD",
            "PUT it here",
            "OPTIONS",
            "hello",
            "hello there : friend",
            "HTTP/1.1 200 OK",
            "POSTMASTER",
            "GETTING started",
            "exit",
            "logout",
        ] {
            assert_eq!(not_smtp(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.into_iter().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(line in any::<Vec<u8>>()) {
            let _ = not_smtp(&line);
        }

        #[test]
        fn case_makes_no_difference(line in "(GET|Host|MAIL FROM|put|OPTIONS|x)?[ :/*.a-zA-Z0-9]{0,20}( HTTP/1)?") {
            let (lower, upper) = (line.to_ascii_lowercase(), line.to_ascii_uppercase());
            prop_assert_eq!(not_smtp(lower.as_bytes()), not_smtp(upper.as_bytes()));
        }

        #[test]
        fn a_line_that_begins_with_a_verb_is_smtp(verb in prop::sample::select(VERBS.to_vec()), rest in "[: \t][ -~]{0,60}") {
            let line = [verb, rest.as_bytes()].concat();
            prop_assert_eq!(not_smtp(&line), None, "{}", line.escape_ascii());
        }

        #[test]
        fn utf8_without_control_characters_is_text(line in "\\PC{0,40}") {
            prop_assert!(line.chars().any(char::is_control) || not_smtp(line.as_bytes()) != Some(Kind::NotText));
        }
    }
}
