//! Text from the wire, made safe to show: to a terminal, to a log, to a parser.
//!
//! | bytes | shown as |
//! | --- | --- |
//! | printable characters, UTF-8 | themselves |
//! | `\` | `\\`, so that what is shown can be told from what was sent |
//! | CR, LF, HT | `\r`, `\n`, `\t` |
//! | other bytes below 0x20, and DEL | `\x00` … `\x7F` |
//! | bytes that are no UTF-8 | `\x80` … `\xFF` |
//! | C1 controls, line separators, characters that turn, join or hide text | `\u{202E}` … |
//!
//! What is longer than its cap ends in `…`.

/// The most characters of a name from HELO or EHLO that are shown.
pub const HELO_CAP: usize = 100;

/// The most characters of a path that are shown: RFC 5321 §4.5.3.1.3 allows 256, and escapes need some more.
pub const PATH_CAP: usize = 320;

/// The most characters of a finding's detail, or of a note, that are shown.
pub const DETAIL_CAP: usize = 240;

/// `bytes` from the wire as one piece of printable text of at most `cap` characters and an ellipsis.
pub fn escape(bytes: &[u8], cap: usize) -> String {
    let mut text = String::new();
    pieces(bytes, cap, true, |piece| text.push_str(piece));
    text
}

/// Gives `bytes` to `out` in printable pieces: `cap` characters in all, and an ellipsis if there was more. A backslash is
/// doubled if `wire`; text of our own has been through here before.
pub(super) fn pieces(bytes: &[u8], cap: usize, wire: bool, mut out: impl FnMut(&str)) {
    let mut room = cap;
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while !rest.is_empty() {
            // Runs of plain text are most of it: they go as they are.
            let plain = rest.bytes().take(room).take_while(|&byte| is_plain(byte)).count();
            if let Some((run, tail)) = rest.split_at_checked(plain).filter(|_| plain > 0) {
                out(run);
                (rest, room) = (tail, room - plain);
                continue;
            }
            let Some(first) = rest.chars().next() else { break };
            let mut escaped = Escaped::default();
            let piece = escaped.of(first, wire);
            let Some(left) = room.checked_sub(piece.chars().count()).filter(|_| room > 0) else {
                out("…");
                return;
            };
            out(piece);
            room = left;
            rest = rest.split_at_checked(first.len_utf8()).map_or("", |(_, tail)| tail);
        }
        for &byte in chunk.invalid() {
            let Some(left) = room.checked_sub(4) else {
                out("…");
                return;
            };
            out(Escaped::default().byte(byte));
            room = left;
        }
    }
}

/// Printable ASCII but the backslash.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'\\'
}

/// Whether a character does something to a terminal or to the text around it instead of being shown: Unicode's control
/// and format characters (Cc, Cf), separators of lines and paragraphs, variation selectors and fillers that look like
/// nothing.
fn is_unsafe(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Room for one escaped character: `\u{10FFFF}` at the most.
#[derive(Default)]
struct Escaped {
    bytes: [u8; 10],
    len: usize,
}

impl Escaped {
    fn of(&mut self, c: char, wire: bool) -> &str {
        match c {
            '\\' if wire => "\\\\",
            '\r' => "\\r",
            '\n' => "\\n",
            '\t' => "\\t",
            '\0'..='\u{1f}' | '\u{7f}' => self.byte(c as u8),
            c if is_unsafe(c) => {
                self.push(b"\\u{");
                let digits = (32 - (c as u32).leading_zeros()).div_ceil(4).max(1);
                for place in (0..digits).rev() {
                    self.push(&[digit((c as u32) >> (4 * place))]);
                }
                self.push(b"}");
                self.as_str()
            }
            c => {
                self.len = c.encode_utf8(&mut self.bytes).len();
                self.as_str()
            }
        }
    }

    fn byte(&mut self, byte: u8) -> &str {
        self.push(&[b'\\', b'x', digit(u32::from(byte) >> 4), digit(u32::from(byte))]);
        self.as_str()
    }

    fn push(&mut self, bytes: &[u8]) {
        for (place, &byte) in self.bytes.iter_mut().skip(self.len).zip(bytes) {
            *place = byte;
            self.len += 1;
        }
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or("?")
    }
}

/// The lowest four bits as a digit.
fn digit(n: u32) -> u8 {
    b"0123456789ABCDEF".get((n & 15) as usize).copied().unwrap_or(b'?')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_shown() {
        let cases: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"mail.example.org", "mail.example.org"),
            (b"\"quoted\" <a@b>", "\"quoted\" <a@b>"),
            (b"a\\b", "a\\\\b"),
            (b"EHLO x\r\n\t", "EHLO x\\r\\n\\t"),
            (b"\0\x1b[31m\x7f", "\\x00\\x1B[31m\\x7F"),
            (b"\xff\xfe", "\\xFF\\xFE"),
            (b"caf\xc3\xa9", "café"),
            (b"caf\xc3", "caf\\xC3"),
            (b"\xc0\xaf \xed\xa0\x80", "\\xC0\\xAF \\xED\\xA0\\x80"),
            ("\u{9b}31m".as_bytes(), "\\u{9B}31m"),
            ("a\u{202e}b\u{2066}c\u{200b}d".as_bytes(), "a\\u{202E}b\\u{2066}c\\u{200B}d"),
            ("\u{2028}\u{feff}\u{e0041}".as_bytes(), "\\u{2028}\\u{FEFF}\\u{E0041}"),
            ("почта@пример".as_bytes(), "почта@пример"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(escape(bytes, 100), *shown);
        }
    }

    #[test]
    fn what_is_too_long_ends_in_an_ellipsis() {
        assert_eq!(escape(b"12345", 5), "12345");
        assert_eq!(escape(b"123456", 5), "12345…");
        assert_eq!(escape("éééé".as_bytes(), 3), "ééé…");
        assert_eq!(escape(b"12\xff", 5), "12…", "an escape is not cut");
        assert_eq!(escape(b"\r\r\r", 4), "\\r\\r…");
        assert_eq!(escape(b"x", 0), "…");
    }

    #[test]
    fn text_of_our_own_keeps_its_escapes() {
        let mut text = String::new();
        pieces(b"EHLO \\xFF\x1b", 100, false, |piece| text.push_str(piece));
        assert_eq!(text, "EHLO \\xFF\\x1B");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_comes_out(bytes in prop::collection::vec(any::<u8>(), 0..200), cap in 0usize..150) {
            let text = escape(&bytes, cap);
            prop_assert!(!text.chars().any(|c| c.is_control() || is_unsafe(c)));
            prop_assert!(text.chars().count() <= cap + 1);
        }

        #[test]
        fn every_character_that_is_unsafe_is_escaped(c: char) {
            let text = escape(c.to_string().as_bytes(), 100);
            prop_assert_eq!(text.contains(c), !c.is_control() && !is_unsafe(c));
        }
    }
}
