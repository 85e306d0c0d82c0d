//! Mail data.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a claim that does not hold panics"
)]

use gatepost::smtp::data::{BareNewline, Facts, Scanner, Then};

use super::cuts;

/// However it is cut, what goes on is the same; every reader finds the same end in it; nothing odd is left in it; and
/// what had nothing odd in it has not changed.
pub fn data(input: &[u8]) {
    for newline in [BareNewline::Normalize, BareNewline::Refuse] {
        let whole = read(newline, [input]);
        assert_eq!(read(newline, input.chunks(1)), whole, "byte for byte");
        for cut in cuts(input) {
            let (head, tail) = input.split_at(cut);
            assert_eq!(read(newline, [head, tail]), whole, "cut at {cut}");
        }
        let (text, end) = match whole.out.strip_suffix(b".\r\n") {
            Some(text) if whole.ended => (text, true),
            _ => (whole.out.as_slice(), false),
        };
        assert_eq!(end, whole.ended);
        assert!(!end || text.is_empty() || text.ends_with(b"\r\n"));
        assert_unambiguous(text);
        assert_every_reader_agrees(&whole.out, whole.ended);
        let odd = Facts { bytes: 0, ..whole.facts } != Facts::default();
        let taken = usize::try_from(whole.facts.bytes).expect("a length");
        assert!(odd || input[..taken].starts_with(&whole.out), "changed without need");
    }
}

/// That no reader, however lenient, finds an end of data in `text`, which is whole lines and the beginning of one.
pub(super) fn assert_unambiguous(text: &[u8]) {
    let mut lines = text.split(|&byte| byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let whole = lines.peek().is_some();
        let line = if whole { line.strip_suffix(b"\r").expect("CRLF") } else { line };
        assert!(!line.contains(&b'\r') && !line.contains(&0), "{}", line.escape_ascii());
        assert!(!whole || line != b".", "{}", text.escape_ascii());
    }
}

/// A reader of mail data, as lenient as some MTA is or was.
struct Reader {
    /// Bytes that it does not see.
    blind: &'static [u8],
    /// What ends the data, for it, the CRLF of the DATA command included.
    ends: &'static [&'static [u8]],
}

const CRLF_DOT_CRLF: &[u8] = b"\r\n.\r\n";

/// All of them take the right end for one, too.
const READERS: [Reader; 12] = [
    Reader { blind: b"", ends: &[CRLF_DOT_CRLF] },
    Reader { blind: b"", ends: &[CRLF_DOT_CRLF, b"\n.\n"] },
    Reader { blind: b"", ends: &[CRLF_DOT_CRLF, b"\n.\r\n"] },
    Reader { blind: b"", ends: &[CRLF_DOT_CRLF, b"\r\n.\n"] },
    Reader { blind: b"", ends: &[CRLF_DOT_CRLF, b"\r.\r"] },
    Reader { blind: b"", ends: &[CRLF_DOT_CRLF, b"\r.\r\n"] },
    Reader { blind: b"", ends: &[CRLF_DOT_CRLF, b"\r\n.\r"] },
    Reader { blind: b"", ends: &[b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r"] },
    Reader { blind: b"\0", ends: &[CRLF_DOT_CRLF] },
    Reader { blind: b"\0", ends: &[b"\n.\n", b"\n.\r", b"\r.\n", b"\r.\r"] },
    Reader { blind: b"\r", ends: &[b"\n.\n"] },
    Reader { blind: b"\r\0", ends: &[b"\n.\n"] },
];

impl Reader {
    /// Where the dot of the first end is.
    fn first_end(&self, data: &[u8]) -> Option<usize> {
        let command_end = [b'\r', b'\n'].map(|byte| (None, byte));
        let seen = command_end.into_iter().chain(data.iter().enumerate().map(|(at, &byte)| (Some(at), byte)));
        let seen: Vec<_> = seen.filter(|(_, byte)| !self.blind.contains(byte)).collect();
        (0..seen.len()).find_map(|from| {
            let is_here = |end: &&&[u8]| seen[from..].iter().map(|(_, byte)| byte).take(end.len()).eq(end.iter());
            let end = self.ends.iter().find(is_here)?;
            let dot = end.iter().position(|&byte| byte == b'.')?;
            seen[from + dot].0
        })
    }
}

/// That every reader finds the end of what goes on at its very end, or, if it has none, finds none.
pub(super) fn assert_every_reader_agrees(wire: &[u8], ended: bool) {
    let dot = ended.then(|| wire.len() - 3);
    for (number, reader) in READERS.iter().enumerate() {
        assert_eq!(reader.first_end(wire), dot, "reader {number}: {}", wire.escape_ascii());
    }
}

#[derive(PartialEq, Debug, Default)]
struct Read {
    out: Vec<u8>,
    ended: bool,
    refused: bool,
    facts: Facts,
}

fn read<'a>(newline: BareNewline, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut scanner = Scanner::new(newline);
    let mut read = Read::default();
    for mut rest in pieces {
        while !read.ended && !read.refused {
            let run = scanner.step(rest);
            let (passed, behind) = rest.split_at(run.pass);
            read.out.extend_from_slice(passed);
            match run.then {
                Then::More => break,
                Then::Replace { take, with } | Then::End { take, with } => {
                    read.out.extend_from_slice(with);
                    rest = behind.split_at(take).1;
                    read.ended = matches!(run.then, Then::End { .. });
                }
                Then::Refused => read.refused = true,
            }
        }
    }
    read.facts = scanner.facts();
    read
}

/// What becomes of one message, told line by line and with hindsight: `None` if it has no end, else what goes on, and
/// how long the message was.
pub(super) fn reference(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut out, mut at, mut stuffed) = (Vec::new(), 0, true);
    loop {
        let rest = &input[at..];
        let lf = rest.iter().position(|&byte| byte == b'\n')?;
        let crlf = lf > 0 && rest[lf - 1] == b'\r';
        let line = &rest[..if crlf { lf - 1 } else { lf }];
        at += lf + 1;
        if line == b"." && stuffed && crlf {
            out.extend_from_slice(b".\r\n");
            return Some((out, at));
        }
        let dot = match line {
            [b'.'] | [b'.', b'\r' | 0, ..] => true,
            [b'.', b'.', ..] => false,
            [b'.', ..] => !stuffed,
            _ => false,
        };
        out.extend(dot.then_some(b'.'));
        out.extend(line.iter().map(|&byte| if matches!(byte, b'\r' | 0) { b' ' } else { byte }));
        out.extend_from_slice(b"\r\n");
        stuffed = crlf;
    }
}
