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
