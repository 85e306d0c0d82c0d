//! Paths, domains and address literals (RFC 5321 §4.1.2, §4.1.3; RFC 6531).
//!
//! A [`Path`] is found, not judged: what matters here is where it ends, because the ESMTP parameters begin there. Where
//! two MTAs could disagree about that (a backslash, a blank or a bracket outside quotes) there is no path. Whether the
//! mailbox exists, or is well formed in its finer points, is the backend's to say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nom::branch::alt;
use nom::bytes::complete::{take_while_m_n, take_while1};
use nom::character::complete::char;
use nom::combinator::{eof, map, peek, recognize};
use nom::multi::{many0_count, many1_count};
use nom::sequence::{delimited, terminated};
use nom::{IResult, Parser};

/// A reverse-path or forward-path as a client wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path<'a> {
    /// What stands between the angle brackets (or in their place, where a sloppy client left them out), source route
    /// included. Empty for the null reverse-path `<>`.
    pub mailbox: &'a [u8],
}

/// What a client gave as its name in HELO or EHLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name<'a> {
    /// A syntactically valid domain of two labels or more, as written, a trailing dot included.
    Domain(&'a str),
    /// One label, such as `localhost` or `WIN-0A1B2C3D4E5`, as written.
    SingleLabel(&'a str),
    /// An address without brackets.
    BareAddress(IpAddr),
    /// A well-formed address literal: `[192.0.2.1]`, `[IPv6:2001:db8::1]`. An IPv4-mapped address stays IPv6, as it was
    /// written; [`crate::addr::canonical`] folds it.
    Literal(IpAddr),
    /// Begins with `[` and is not an address literal that we can read.
    BadLiteral(&'a [u8]),
    /// Anything else: underscores, spaces, control characters, empty labels, too long…
    Invalid(&'a [u8]),
    /// Nothing at all.
    Missing,
}

/// The longest domain, a trailing dot not counted (RFC 5321 §4.5.3.1.2).
const DOMAIN_LIMIT: usize = 255;

/// The longest label (RFC 1035 §2.3.4).
const LABEL_LIMIT: usize = 63;

/// Reads the parameter of HELO or EHLO. Outer blanks are not part of the name; a second word makes it invalid.
///
/// Labels are letters, digits and inner hyphens. A UTF-8 letter or digit, as Unicode counts them, is one too (RFC 6531
/// §3.7.1): this is not IDNA, the limits count the bytes as written, and a script whose words need joiners or combining
/// signs that are no letters is invalid here.
pub fn name(text: &[u8]) -> Name<'_> {
    let text = trim_blanks(text);
    if text.is_empty() {
        return Name::Missing;
    }
    if text.starts_with(b"[") {
        return literal(text).map_or(Name::BadLiteral(text), Name::Literal);
    }
    let Ok(written) = std::str::from_utf8(text) else { return Name::Invalid(text) };
    let domain = written.strip_suffix('.').unwrap_or(written);
    if let Ok(ip) = domain.parse() {
        return Name::BareAddress(ip);
    }
    if domain.len() > DOMAIN_LIMIT || !domain.split('.').all(is_label) {
        Name::Invalid(text)
    } else if domain.contains('.') {
        Name::Domain(written)
    } else {
        Name::SingleLabel(written)
    }
}

/// Reads a path, brackets or not, up to the blank or the end behind it, which it leaves.
pub(super) fn path(input: &[u8]) -> IResult<&[u8], Path<'_>> {
    let bracketed = delimited(char('<'), recognize(many0_count(piece)), char('>'));
    let bare = recognize(many1_count(piece));
    let end = peek(alt((eof, take_while_m_n(1, 1, is_blank))));
    map(terminated(alt((bracketed, bare)), end), |mailbox| Path { mailbox }).parse(input)
}

/// A run of characters that stand for themselves, or a quoted string.
fn piece(input: &[u8]) -> IResult<&[u8], &[u8]> {
    alt((take_while1(is_plain), quoted)).parse(input)
}

/// `"…"`, with `\` before any character (RFC 5321 §4.1.2, Quoted-string; RFC 6531 §3.3).
fn quoted(input: &[u8]) -> IResult<&[u8], &[u8]> {
    let text = take_while1(|byte| is_graphic(byte) && byte != b'"' && byte != b'\\');
    // Not `satisfy`: it takes a byte above 0x7f for a character of two.
    let pair = recognize((char('\\'), take_while_m_n(1, 1, is_graphic)));
    delimited(char('"'), recognize(many0_count(alt((text, pair)))), char('"')).parse(input)
}

/// No control character; a blank is fine, a TAB is not. Bytes above 0x7f are (RFC 6531).
fn is_graphic(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f
}

/// What may stand in a path outside quotes.
fn is_plain(byte: u8) -> bool {
    is_graphic(byte) && !matches!(byte, b' ' | b'<' | b'>' | b'"' | b'\\')
}

/// The address in `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
fn literal(text: &[u8]) -> Option<IpAddr> {
    let inner = std::str::from_utf8(text.strip_prefix(b"[")?.strip_suffix(b"]")?).ok()?;
    match inner.split_at_checked(5) {
        Some((tag, v6)) if tag.eq_ignore_ascii_case("IPv6:") => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn is_label(label: &str) -> bool {
    let fine = |c: char| c == '-' || c.is_alphanumeric();
    let inner = !label.starts_with('-') && !label.ends_with('-');
    !label.is_empty() && label.len() <= LABEL_LIMIT && inner && label.chars().all(fine)
}

/// SP or TAB: what separates words on a command line.
pub(super) fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// `text` without the blanks around it.
pub(super) fn trim_blanks(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_what_they_look_like() {
        let rows: &[(&str, Name<'_>)] = &[
            ("", Name::Missing),
            (" \t ", Name::Missing),
            ("mail.example.org", Name::Domain("mail.example.org")),
            (" mail.example.org\t", Name::Domain("mail.example.org")),
            ("mail.example.org.", Name::Domain("mail.example.org.")),
            ("xn--bcher-kva.example", Name::Domain("xn--bcher-kva.example")),
            ("bücher.example", Name::Domain("bücher.example")),
            ("1-2-3.dyn.example", Name::Domain("1-2-3.dyn.example")),
            ("3com.com", Name::Domain("3com.com")),
            ("300.1.2.3", Name::Domain("300.1.2.3")),
            ("localhost", Name::SingleLabel("localhost")),
            ("localhost.", Name::SingleLabel("localhost.")),
            ("WIN-0A1B2C3D4E5", Name::SingleLabel("WIN-0A1B2C3D4E5")),
            ("192.0.2.1", Name::BareAddress(ip("192.0.2.1"))),
            ("192.0.2.1.", Name::BareAddress(ip("192.0.2.1"))),
            ("2001:db8::1", Name::BareAddress(ip("2001:db8::1"))),
            ("::ffff:192.0.2.1", Name::BareAddress(ip("::ffff:192.0.2.1"))),
            ("[192.0.2.1]", Name::Literal(ip("192.0.2.1"))),
            ("[IPv6:2001:db8::1]", Name::Literal(ip("2001:db8::1"))),
            ("[ipv6:::ffff:192.0.2.1]", Name::Literal(ip("::ffff:192.0.2.1"))),
        ];
        for (text, expected) in rows {
            assert_eq!(name(text.as_bytes()), *expected, "{text:?}");
        }
    }

    #[test]
    fn literals_are_strict() {
        for text in [
            "[",
            "[]",
            "[192.0.2.1",
            "[192.0.2.1]]",
            "[192.0.2]",
            "[192.0.2.01]",
            "[192.0.2.256]",
            "[ 192.0.2.1]",
            "[2001:db8::1]",
            "[IPv6:]",
            "[IPv6:192.0.2.1]",
            "[IPv6:fe80::1%eth0]",
            "[IPv6 2001:db8::1]",
            "[tag:content]",
            "[ä:::1]",
        ] {
            assert_eq!(name(text.as_bytes()), Name::BadLiteral(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn everything_else_is_invalid() {
        let long = "a".repeat(64);
        for text in [
            "my_host.example",
            "two words",
            "a..b",
            ".",
            ".a",
            "a..",
            "-a.example",
            "a-.example",
            "a\0b",
            "a\rb",
            "a\u{7f}",
            "user@example.org",
            "a/b",
            "192.0.2.1]",
            "host:25",
            "\u{202e}a.example",
            long.as_str(),
        ] {
            assert_eq!(name(text.as_bytes()), Name::Invalid(text.as_bytes()), "{text:?}");
        }
        assert_eq!(name(b"a\xff.example"), Name::Invalid(b"a\xff.example"));
    }

    #[test]
    fn a_domain_has_a_longest() {
        let label = "a".repeat(63);
        let longest = [label.as_str(); 4].join(".");
        assert_eq!(longest.len(), DOMAIN_LIMIT);
        assert_eq!(name(longest.as_bytes()), Name::Domain(&longest));
        let dotted = format!("{longest}.");
        assert_eq!(name(dotted.as_bytes()), Name::Domain(&dotted));
        let longer = format!("{longest}.a");
        assert_eq!(name(longer.as_bytes()), Name::Invalid(longer.as_bytes()));
    }

    proptest! {
        #[test]
        fn a_literal_of_any_address_is_read_back(ip: IpAddr) {
            let text = if ip.is_ipv4() { format!("[{ip}]") } else { format!("[IPv6:{ip}]") };
            prop_assert_eq!(name(text.as_bytes()), Name::Literal(ip));
            let bare = ip.to_string();
            prop_assert_eq!(name(bare.as_bytes()), Name::BareAddress(ip));
        }

        #[test]
        fn a_path_ends_where_it_says(input in r#"[<>" \\a@\t\r\x00é]{0,12}"#) {
            if let Ok((rest, path)) = path(input.as_bytes()) {
                prop_assert!(rest.first().is_none_or(|&byte| is_blank(byte)));
                prop_assert!(path.mailbox.iter().all(|&byte| is_graphic(byte)));
            }
        }
    }
}
