//! Replies (RFC 5321 §4.2, RFC 2034, RFC 3463): a backend's read piecemeal, our own written.
//!
//! [`parse`] keeps no state: it is given everything that has come since the last reply, and says whether that is a
//! reply yet. How the bytes were cut never matters: more of them turn [`Parsed::Incomplete`] into something else and
//! never change another answer. What a backend wrote can be passed on byte for byte ([`Reply::raw`]), or with every
//! ending made CRLF ([`Reply::write_to`]). What we [`write()`] ourselves is printable ASCII in lines of legal length,
//! whatever the text was made of.

use std::fmt;

use memchr::{memchr, memchr_iter};
use nom::branch::alt;
use nom::bytes::complete::take_while_m_n;
use nom::character::complete::{char, one_of};
use nom::combinator::{eof, map_opt, recognize, verify};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

use super::line::{self, Scan};

/// The longest line of a backend's reply that is read, CRLF included.
pub const LINE_LIMIT: usize = 4096;

/// The longest reply of a backend that is read, all its lines together.
pub const REPLY_LIMIT: usize = 65_536;

/// The longest line of a reply that we write, CRLF included (RFC 5321 §4.5.3.1.5).
pub const WRITE_LIMIT: usize = 512;

/// A reply code, 200 to 599.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Code(u16);

impl Code {
    /// The code `n`, if it is one.
    pub const fn new(n: u16) -> Option<Self> {
        if n >= 200 && n <= 599 { Some(Self(n)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// 2yz.
    pub const fn is_positive(self) -> bool {
        self.0 / 100 == 2
    }

    /// 3yz.
    pub const fn is_intermediate(self) -> bool {
        self.0 / 100 == 3
    }

    /// 4yz.
    pub const fn is_transient(self) -> bool {
        self.0 / 100 == 4
    }

    /// 5yz.
    pub const fn is_permanent(self) -> bool {
        self.0 / 100 == 5
    }

    /// Its three digits.
    fn digits(self) -> [u8; 3] {
        [self.0 / 100, self.0 / 10, self.0].map(|n| b'0' + (n % 10) as u8)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An enhanced status code (RFC 3463): class, subject, detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A whole reply, one line or several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// The code that all its lines carry.
    pub code: Code,
    /// The reply's bytes as they came, line endings included.
    pub raw: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The text of each line, code, separator and line ending removed.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.framed().map(|line| line.get(4..).unwrap_or_default())
    }

    /// The enhanced status code at the front of the first line's text, if it agrees with the code's class.
    pub fn enhanced(&self) -> Option<Enhanced> {
        let (_, found) = enhanced(self.lines().next()?).ok()?;
        (u16::from(found.0) == self.code.0 / 100).then_some(found)
    }

    /// Whether every line ends in CRLF, so that `raw` can be passed on as it is.
    pub fn is_canonical(&self) -> bool {
        memchr_iter(b'\n', self.raw).all(|end| end.checked_sub(1).and_then(|at| self.raw.get(at)) == Some(&b'\r'))
    }

    /// Writes the reply with every line ending in CRLF, and otherwise as it came.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        if self.is_canonical() {
            out.extend_from_slice(self.raw);
            return;
        }
        for line in self.framed() {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Each line, its ending removed.
    fn framed(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let raw = self.raw.strip_suffix(b"\n").unwrap_or(self.raw);
        raw.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// What stands at the front of a backend's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed<'a> {
    /// A whole reply; `reply.raw.len()` bytes are used up.
    Complete(Reply<'a>),
    /// The beginning of one: read on.
    Incomplete,
    /// Not SMTP: no code, codes that differ among the lines, a line or a reply over the limit, a NUL, a bare CR.
    Malformed,
}

/// Reads the reply at the front of `input`. A line may end in a bare LF: some backends do.
///
/// Bytes that cannot become a reply any more are malformed at once, not at the end of their line.
pub fn parse(input: &[u8]) -> Parsed<'_> {
    let mut first = None;
    let mut length = 0;
    loop {
        let rest = input.get(length..).unwrap_or_default();
        let line = match line::scan(rest, LINE_LIMIT.min(REPLY_LIMIT.saturating_sub(length))) {
            Scan::Line(line) => line,
            Scan::Incomplete if may_become_line(rest, first) => return Parsed::Incomplete,
            Scan::Incomplete | Scan::TooLong => return Parsed::Malformed,
        };
        if line.facts.nul || line.facts.bare_cr {
            return Parsed::Malformed;
        }
        let Ok((_, (code, last))) = opening(line.text) else { return Parsed::Malformed };
        if first.is_some_and(|first| first != code) {
            return Parsed::Malformed;
        }
        first = Some(code);
        length += line.length;
        if last {
            let raw = input.get(..length).unwrap_or_default();
            return Parsed::Complete(Reply { code, raw });
        }
    }
}

/// Writes a reply of our own: `text` becomes one line for each of its lines, each with the enhanced code (if any);
/// anything in it that is not printable ASCII becomes `?`.
///
/// A line that would be longer than [`WRITE_LIMIT`] goes on in the next, broken at a blank where there is one. Without
/// any text it is still a reply.
pub fn write(out: &mut Vec<u8>, code: Code, enhanced: Option<Enhanced>, text: &str) {
    let head = enhanced.map(|enhanced| format!("{enhanced} ")).unwrap_or_default();
    let room = WRITE_LIMIT.saturating_sub("250-\r\n".len() + head.len());
    let mut separator = out.len();
    // `"".lines()` is no line, and a reply has one.
    for line in text.lines().chain(text.is_empty().then_some("")) {
        let mut rest = line;
        loop {
            let (piece, behind) = split_line(rest, room);
            out.extend_from_slice(&code.digits());
            separator = out.len();
            out.push(b'-');
            out.extend_from_slice(head.as_bytes());
            out.extend(piece.chars().map(printable));
            out.extend_from_slice(b"\r\n");
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
    }
    if let Some(byte) = out.get_mut(separator) {
        *byte = b' ';
    }
}

/// `c`, or `?` where it is not printable ASCII: nothing that we write ends a line but its ending.
pub(super) fn printable(c: char) -> u8 {
    if matches!(c, ' '..='~') { c as u8 } else { b'?' }
}

/// The front of `line` that fits into `room` characters, and what is left for the next line: broken at a blank, which
/// is dropped, or else where the room ends.
fn split_line(line: &str, room: usize) -> (&str, &str) {
    let Some((end, next)) = line.char_indices().nth(room) else { return (line, "") };
    let (front, behind) = line.split_at_checked(end).unwrap_or((line, ""));
    if next == ' ' {
        return (front, behind.strip_prefix(' ').unwrap_or(behind));
    }
    let blank = front.rfind(' ').filter(|&at| at > 0);
    match blank.and_then(|at| line.split_at_checked(at)) {
        Some((front, behind)) => (front, behind.strip_prefix(' ').unwrap_or(behind)),
        None => (front, behind),
    }
}

/// The front of a line: its code, and whether the line is the reply's last (RFC 5321 §4.2).
fn opening(line: &[u8]) -> IResult<&[u8], (Code, bool)> {
    let code = map_opt(take_while_m_n(3, 3, |byte: u8| byte.is_ascii_digit()), |digits: &[u8]| {
        Code::new(digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit.wrapping_sub(b'0'))))
    });
    let last = alt((char(' ').map(|_| true), char('-').map(|_| false), eof.map(|_| true)));
    (code, last).parse(line)
}

/// Whether `partial`, which holds no LF, can still become a line of a reply whose first line's code is `first`.
///
/// Never yes where the whole line would be read, and no where it would not: [`parse`] asks this only in order to know
/// sooner.
fn may_become_line(partial: &[u8], first: Option<Code>) -> bool {
    // A CR at the very end may be half of a CRLF.
    let text = partial.strip_suffix(b"\r").unwrap_or(partial);
    let sound = memchr(b'\r', text).is_none() && memchr(0, text).is_none();
    let code = match text {
        [] => text.len() == partial.len(),
        [a] => (b'2'..=b'5').contains(a),
        [a, b] => (b'2'..=b'5').contains(a) && b.is_ascii_digit(),
        _ => opening(text).is_ok(),
    };
    // A CR that comes before the code does will never be the end of a line with one.
    let whole = text.len() >= 3 || text.len() == partial.len();
    let same = first.is_none_or(|first| text.iter().zip(first.digits()).all(|(&byte, digit)| byte == digit));
    sound && code && whole && same
}

/// `5.7.1`, followed by a blank or the end. Sub-codes have no leading zeros (RFC 3463 §2).
fn enhanced(text: &[u8]) -> IResult<&[u8], Enhanced> {
    let class = one_of("245").map(|c| c as u8 - b'0');
    let end = alt((eof, recognize(char(' '))));
    terminated((class, preceded(char('.'), sub_code), preceded(char('.'), sub_code)), end)
        .map(|(class, subject, detail)| Enhanced(class, subject, detail))
        .parse(text)
}

fn sub_code(text: &[u8]) -> IResult<&[u8], u16> {
    verify(take_while_m_n(1, 3, |byte: u8| byte.is_ascii_digit()), |digits: &[u8]| {
        digits.len() == 1 || digits.first() != Some(&b'0')
    })
    .map(|digits: &[u8]| digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit.wrapping_sub(b'0'))))
    .parse(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(n: u16) -> Code {
        Code::new(n).unwrap()
    }

    fn complete(raw: &[u8]) -> Reply<'_> {
        match parse(raw) {
            Parsed::Complete(reply) => reply,
            other => panic!("{}: {other:?}", raw.escape_ascii()),
        }
    }

    fn written(enhanced: Option<Enhanced>, text: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, code(550), enhanced, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_end_at_a_line_without_hyphen() {
        type Row = (&'static [u8], u16, &'static [&'static [u8]]);
        let rows: &[Row] = &[
            (b"220 mx.example.org ESMTP\r\n", 220, &[b"mx.example.org ESMTP"]),
            (b"250\r\n", 250, &[b""]),
            (b"250 \r\n", 250, &[b""]),
            (b"250-\r\n250\r\n", 250, &[b"", b""]),
            (b"250-a\r\n250-b\r\n250 c\r\n", 250, &[b"a", b"b", b"c"]),
            (b"334 UGFzc3dvcmQ6\r\n", 334, &[b"UGFzc3dvcmQ6"]),
            (b"550-a\n550 b\n", 550, &[b"a", b"b"]),
            (b"550 \xc3\xa4\x1b\t\r\n", 550, &[b"\xc3\xa4\x1b\t"]),
            (b"599 -\n", 599, &[b"-"]),
        ];
        for &(raw, number, lines) in rows {
            let mut input = raw.to_vec();
            input.extend_from_slice(b"354 next\r\n");
            let reply = complete(&input);
            assert_eq!((reply.code, reply.raw), (code(number), raw));
            assert_eq!(reply.lines().collect::<Vec<_>>(), lines);
            for cut in 0..raw.len() {
                assert_eq!(parse(&raw[..cut]), Parsed::Incomplete, "{} cut at {cut}", raw.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_reply_is_known_at_its_first_wrong_byte() {
        for (raw, at) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], 1),
            (b"\r\n", 1),
            (b"\n", 1),
            (b"150 a\r\n", 1),
            (b"600 a\r\n", 1),
            (b"2x0 a\r\n", 2),
            (b"25\r\n", 3),
            (b"25 a\r\n", 3),
            (b"2500 a\r\n", 4),
            (b"250\ta\r\n", 4),
            (b"250_a\r\n", 4),
            (b"250 a\0\r\n", 6),
            (b"250 a\rb\r\n", 7),
            (b"250 a\r\r\n", 7),
            (b"250-a\r\n251 b\r\n", 10),
            (b"250-a\r\n 250 b\r\n", 8),
            (b"250-a\r\nb\r\n", 8),
        ] {
            for cut in 0..=raw.len() {
                let expected = if cut < at { Parsed::Incomplete } else { Parsed::Malformed };
                assert_eq!(parse(&raw[..cut]), expected, "{} cut at {cut}", raw.escape_ascii());
            }
        }
    }

    #[test]
    fn lines_and_replies_have_a_longest() {
        let line = |separator: char, length: usize| format!("250{separator}{}\r\n", "a".repeat(length - 6));
        assert!(matches!(parse(line(' ', LINE_LIMIT).as_bytes()), Parsed::Complete(_)));
        assert_eq!(parse(line(' ', LINE_LIMIT + 1).as_bytes()), Parsed::Malformed);
        assert_eq!(parse(&line(' ', LINE_LIMIT).as_bytes()[..LINE_LIMIT - 1]), Parsed::Incomplete);
        assert_eq!(parse(&line(' ', LINE_LIMIT + 1).as_bytes()[..LINE_LIMIT]), Parsed::Malformed);

        let most = line('-', LINE_LIMIT).repeat(REPLY_LIMIT / LINE_LIMIT - 1);
        let full = most.clone() + &line(' ', LINE_LIMIT);
        assert_eq!(complete(full.as_bytes()).raw.len(), REPLY_LIMIT);
        assert_eq!(parse(&full.as_bytes()[..REPLY_LIMIT - 1]), Parsed::Incomplete);
        assert_eq!(parse((most + &line('-', LINE_LIMIT)).as_bytes()), Parsed::Malformed);
        let short = line('-', 100).repeat(REPLY_LIMIT / 100);
        assert_eq!(parse((short + &line(' ', 100)).as_bytes()), Parsed::Malformed);
    }

    #[test]
    fn endings_can_be_made_whole() {
        for (raw, canonical, expected) in [
            (&b"250-a\r\n250 b\r\n"[..], true, &b"250-a\r\n250 b\r\n"[..]),
            (b"250-a\n250 b\r\n", false, b"250-a\r\n250 b\r\n"),
            (b"250-\n250\n", false, b"250-\r\n250\r\n"),
        ] {
            let reply = complete(raw);
            assert_eq!(reply.is_canonical(), canonical);
            let mut out = b"x".to_vec();
            reply.write_to(&mut out);
            assert_eq!(out.strip_prefix(b"x"), Some(expected));
        }
    }

    #[test]
    fn enhanced_codes_agree_with_the_class() {
        for (raw, expected) in [
            ("550 5.7.1 no\r\n", Some(Enhanced(5, 7, 1))),
            ("250 2.0.0\r\n", Some(Enhanced(2, 0, 0))),
            ("452-4.10.999 a\r\n452 b\r\n", Some(Enhanced(4, 10, 999))),
            ("550 4.7.1 no\r\n", None),
            ("354 3.0.0 go\r\n", None),
            ("550 5.7.1no\r\n", None),
            ("550 5.7\r\n", None),
            ("550 5.07.1 a\r\n", None),
            ("550 5.1000.1 a\r\n", None),
            ("550 5..1 a\r\n", None),
            ("550\r\n", None),
            ("550-a\r\n550 5.7.1 b\r\n", None),
        ] {
            assert_eq!(complete(raw.as_bytes()).enhanced(), expected, "{raw:?}");
        }
    }

    #[test]
    fn our_own_lines_are_whole_and_clean() {
        let enhanced = Some(Enhanced(5, 7, 1));
        for (enhanced, text, expected) in [
            (None, "no", "550 no\r\n"),
            (enhanced, "no", "550 5.7.1 no\r\n"),
            (enhanced, "one\ntwo\r\nthree\n", "550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n"),
            (None, "", "550 \r\n"),
            (None, "\n", "550 \r\n"),
            (None, "a\n\nb", "550-a\r\n550-\r\n550 b\r\n"),
            (None, "a\rb\0c\td\x7fé€", "550 a?b?c?d???\r\n"),
        ] {
            assert_eq!(written(enhanced, text), expected, "{text:?}");
        }
    }

    #[test]
    fn long_text_goes_on_in_the_next_line() {
        let room = WRITE_LIMIT - "550-5.7.1 \r\n".len();
        let rows = [
            ("a".repeat(room), vec![room]),
            ("a".repeat(room + 1), vec![room, 1]),
            (format!("{} {}", "a".repeat(room), "b"), vec![room, 1]),
            (format!("{} {}", "a".repeat(room - 5), "bbbbbb"), vec![room - 5, 6]),
            ("é".repeat(room + 1), vec![room, 1]),
            (format!(" {}", "a".repeat(room)), vec![room, 1]),
        ];
        for (text, lengths) in rows {
            let out = written(Some(Enhanced(5, 7, 1)), &text);
            let found: Vec<usize> = out.lines().map(|line| line.len() - "550-5.7.1 ".len()).collect();
            assert_eq!(found, lengths, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_we_write_is_a_reply(
            number in 200..600_u16,
            sub: Option<(u16, u16)>,
            text in "(.|[ \r\n]|.{400,700}){0,6}",
        ) {
            let code = code(number);
            let enhanced = sub.map(|(subject, detail)| Enhanced((number / 100) as u8, subject, detail));
            let mut out = b"x".to_vec();
            write(&mut out, code, enhanced, &text);
            let out = &out[1..];
            let Parsed::Complete(reply) = parse(out) else { panic!("{}", out.escape_ascii()) };
            prop_assert_eq!((reply.code, reply.raw), (code, out));
            prop_assert!(reply.is_canonical());
            prop_assert!(out.split_inclusive(|&byte| byte == b'\n').all(|line| line.len() <= WRITE_LIMIT));
            prop_assert!(reply.lines().flatten().all(|byte| matches!(byte, b' '..=b'~')));
        }

        /// Blanks may be lost where a line is broken; nothing else is.
        #[test]
        fn no_word_is_lost_in_breaking(text in "[a-z ]{0,2000}") {
            let mut out = Vec::new();
            write(&mut out, code(250), None, &text);
            let letters = |byte: &&u8| **byte != b' ';
            let kept: Vec<u8> = complete(&out).lines().flatten().filter(letters).copied().collect();
            let given: Vec<u8> = text.as_bytes().iter().filter(letters).copied().collect();
            prop_assert_eq!(kept, given);
        }
    }
}
