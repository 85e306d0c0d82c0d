//! Command lines: where one ends, and what is odd about it (RFC 5321 §2.3.8, §4.5.3.1.4).
//!
//! A line ends at its first LF, whatever stands before it; whether that was CR LF or a bare LF is a fact about the
//! line, not an error. How the bytes were cut never matters: more of them turn [`Scan::Incomplete`] into something else
//! and never change another answer, so a CR whose LF is still on its way is no bare CR.
//!
//! What a line says is [`command`](super::command)'s to read; what its oddities mean is for the screen to decide.

use memchr::memchr;

/// The longest command line that is read, CRLF included: RFC 5321's 512 and room for what extensions add.
pub const COMMAND_LIMIT: usize = 2048;

/// The longest line of an AUTH exchange, CRLF included (RFC 4954 §4).
pub const AUTH_LIMIT: usize = 12_288;

/// What was odd about a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// It ended in LF without CR.
    pub bare_lf: bool,
    /// It holds a CR that no LF follows.
    pub bare_cr: bool,
    /// It holds a NUL.
    pub nul: bool,
    /// It holds a byte above 0x7f.
    pub eight_bit: bool,
    /// It holds a control character other than TAB, CR, LF and NUL.
    pub control: bool,
}

/// One line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// The line without its ending.
    pub text: &'a [u8],
    /// How many bytes of the input it took, its ending included.
    pub length: usize,
    /// What was odd about it.
    pub facts: Facts,
}

/// What stands at the front of some input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan<'a> {
    /// A whole line.
    Line(Line<'a>),
    /// No line ending yet, and fewer than the limit of bytes: read on.
    Incomplete,
    /// No line ending within the limit.
    TooLong,
}

/// Looks for a line of at most `limit` bytes, ending included, at the front of `input`.
///
/// ```
/// use gatepost::smtp::line::{COMMAND_LIMIT, Scan, scan};
///
/// let Scan::Line(line) = scan(b"NOOP\r\nQUIT\r\n", COMMAND_LIMIT) else { panic!() };
/// assert_eq!((line.text, line.length), (&b"NOOP"[..], 6));
/// assert_eq!(scan(b"NOOP\r", COMMAND_LIMIT), Scan::Incomplete);
/// ```
pub fn scan(input: &[u8], limit: usize) -> Scan<'_> {
    let window = input.get(..limit).unwrap_or(input);
    match memchr(b'\n', window).and_then(|end| window.split_at_checked(end)) {
        Some((before, _)) => {
            let text = before.strip_suffix(b"\r").unwrap_or(before);
            let facts = Facts { bare_lf: text.len() == before.len(), ..facts_of(text) };
            Scan::Line(Line { text, length: before.len() + 1, facts })
        }
        None if input.len() < limit => Scan::Incomplete,
        None => Scan::TooLong,
    }
}

/// What is odd about the bytes of a line whose ending has been cut off: any CR that is left has no LF behind it.
///
/// Without a branch in the loop, so that the compiler can look at many bytes at once.
fn facts_of(text: &[u8]) -> Facts {
    let mut facts = Facts::default();
    for &byte in text {
        facts.nul |= byte == 0;
        facts.bare_cr |= byte == b'\r';
        facts.eight_bit |= byte > 0x7f;
        facts.control |= ((byte < b' ') & (byte != 0) & (byte != b'\t') & (byte != b'\r')) | (byte == 0x7f);
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Facts = Facts { bare_lf: false, bare_cr: false, nul: false, eight_bit: false, control: false };

    #[test]
    fn a_line_ends_at_its_first_lf() {
        let bare_lf = Facts { bare_lf: true, ..CLEAN };
        let bare_cr = Facts { bare_cr: true, ..CLEAN };
        let rows: &[(&[u8], &[u8], usize, Facts)] = &[
            (b"\r\n", b"", 2, CLEAN),
            (b"\n", b"", 1, bare_lf),
            (b"NOOP\r\n", b"NOOP", 6, CLEAN),
            (b"NOOP\nQUIT\r\n", b"NOOP", 5, bare_lf),
            (b"a\tb\r\nrest", b"a\tb", 5, CLEAN),
            (b"a\r\r\n", b"a\r", 4, bare_cr),
            (b"a\rb\r\n", b"a\rb", 5, bare_cr),
            (b"\r\r\n", b"\r", 3, bare_cr),
            (b"a\rb\n", b"a\rb", 4, Facts { bare_lf: true, ..bare_cr }),
            (b"a\0\r\n", b"a\0", 4, Facts { nul: true, ..CLEAN }),
            (b"\xc3\xa4\r\n", b"\xc3\xa4", 4, Facts { eight_bit: true, ..CLEAN }),
            (b"a\x7f\r\n", b"a\x7f", 4, Facts { control: true, ..CLEAN }),
            (
                b"\x16\x03\x01\0\xff\n",
                b"\x16\x03\x01\0\xff",
                6,
                Facts { bare_lf: true, nul: true, eight_bit: true, control: true, ..CLEAN },
            ),
        ];
        for &(input, text, length, facts) in rows {
            let expected = Scan::Line(Line { text, length, facts });
            assert_eq!(scan(input, COMMAND_LIMIT), expected, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn no_byte_is_odd_in_two_ways() {
        for byte in (0..=u8::MAX).filter(|&byte| byte != b'\n') {
            let facts = facts_of(&[byte]);
            let odd = [facts.bare_cr, facts.nul, facts.eight_bit, facts.control];
            let expected = match byte {
                b'\t' | b' '..=b'~' => 0,
                _ => 1,
            };
            assert_eq!(odd.iter().filter(|&&is| is).count(), expected, "{byte:#04x}");
        }
    }

    #[test]
    fn the_limit_counts_the_ending() {
        assert!(matches!(scan(b"1234\r\n", 6), Scan::Line(_)));
        assert_eq!(scan(b"1234\r\n", 5), Scan::TooLong);
        assert!(matches!(scan(b"12345\n", 6), Scan::Line(_)));
        assert_eq!(scan(b"12345\n", 5), Scan::TooLong);
        assert_eq!(scan(b"1234\r", 6), Scan::Incomplete);
        assert_eq!(scan(b"123456", 6), Scan::TooLong);
        assert_eq!(scan(b"", 6), Scan::Incomplete);
        assert_eq!(scan(b"\n", 0), Scan::TooLong);
    }

    #[test]
    fn a_cr_whose_lf_has_not_come_is_incomplete() {
        assert_eq!(scan(b"EHLO a\r", COMMAND_LIMIT), Scan::Incomplete);
        assert_eq!(scan(b"a\rb", COMMAND_LIMIT), Scan::Incomplete);
    }
}
