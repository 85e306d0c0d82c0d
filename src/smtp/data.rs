//! Mail data: where a message ends, and how it is made unambiguous on the way (RFC 5321 §2.3.8, §4.1.1.4, §4.5.2).
//!
//! [`Scanner`] reads mail data as a client sends it, cut anywhere, and says what of it goes on. It promises that
//!
//! - the end of data is the client's own CRLF "." CRLF and nothing else, the CRLF of the DATA command included;
//! - what goes on has CRLF for its only line ending and no other CR, LF or NUL in it, and holds exactly one line that is
//!   a lone dot, its last: strict and lenient readers agree on where it ends;
//! - data that has nothing odd in it goes on byte for byte;
//! - how the bytes were cut never matters, and never more than one CR is held back.
//!
//! The states are named for what the *backend* has seen last. A dot is passed on as soon as it comes; whether it needs a
//! second one shows at the byte behind it, and it is not too late then.
//!
//! ```text
//!             CRLF                                 "."            CRLF
//!   Text ────────────► Start ───────────────────────────► Dot ──────────► Ended
//!    │                   │ other                            │ other: as it is        → Text
//!    │                   └──► Text                          │ LF, CR, NUL: one "." first → AfterLf, Text
//!    │ bare LF (CRLF goes on)     "."
//!    └──────────────────► AfterLf ──► DotAfterLf ── "." ──► Text
//!                            │             └─ other: one "." first, then as Text
//!                            └ other: as Text
//! ```

use memchr::memchr3;

const CR: u8 = b'\r';
const LF: u8 = b'\n';
const NUL: u8 = 0;

/// What becomes of a bare LF in mail data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BareNewline {
    /// It becomes CRLF. It never ends a message.
    Normalize,
    /// The message is refused.
    Refuse,
}

/// What was odd about the data so far, and how much of it there was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// LFs without a CR in front.
    pub bare_lf: u64,
    /// CRs without an LF behind.
    pub bare_cr: u64,
    /// NULs.
    pub nul: u64,
    /// Bytes read from the client, the end of data included.
    pub bytes: u64,
}

/// What to do with the front of some mail data: first `pass`, then `then`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// So many bytes go on unchanged.
    pub pass: usize,
    /// And then?
    pub then: Then,
}

/// What follows a run of bytes that go on unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Nothing: the whole input has been passed.
    More,
    /// The next `take` bytes (possibly none) go on as `with` (possibly nothing); [`Scanner::step`] wants the rest.
    Replace {
        /// How many bytes of the input.
        take: usize,
        /// What goes on in their place.
        with: &'static [u8],
    },
    /// The data ends behind the next `take` bytes, which go on as `with`. What follows is no mail data.
    End {
        /// How many bytes of the input.
        take: usize,
        /// What goes on in their place.
        with: &'static [u8],
    },
    /// A bare LF came, and [`BareNewline::Refuse`] says that the message is not to go on.
    Refused,
}

/// Follows the mail data of one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scanner {
    at: At,
    newline: BareNewline,
    facts: Facts,
}

/// Where in a line the data stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// Behind the client's own CRLF, or before everything.
    Start,
    /// Behind a bare LF, which went on as CRLF.
    AfterLf,
    /// Behind a dot that followed the client's own CRLF.
    Dot,
    /// Behind a dot that followed a bare LF.
    DotAfterLf,
    /// Anywhere else in a line.
    Text,
    /// As [`At::Text`], and a CR is held back: an LF may follow.
    Cr,
    /// As [`At::Dot`], and a CR is held back: an LF may follow.
    DotCr,
    /// Behind the end of data.
    Ended,
    /// At a bare LF that is not let through.
    Refused,
}

impl Scanner {
    /// For the data that follows a DATA command.
    pub fn new(newline: BareNewline) -> Self {
        Self { at: At::Start, newline, facts: Facts::default() }
    }

    /// What has been seen so far.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Says what to do with the front of `input`, the bytes that follow those already dealt with.
    ///
    /// After [`Then::End`] every input is [`Then::End`] again, with nothing taken; after [`Then::Refused`], refused.
    pub fn step(&mut self, input: &[u8]) -> Run {
        let mut pass = 0;
        let then = loop {
            let Some((&first, behind)) = input.get(pass..).and_then(<[u8]>::split_first) else { break Then::More };
            match (self.at, first) {
                (At::Ended, _) => break Then::End { take: 0, with: b"" },
                (At::Refused, _) => break Then::Refused,
                (At::Cr | At::DotCr, _) => break self.behind_held_cr(first),
                (At::DotAfterLf, b'.') => {
                    // Stuffed, or two dots of a client that does not stuff here. Either way no lone dot.
                    self.at = At::Text;
                    pass += 1;
                }
                (At::DotAfterLf, _) => {
                    // The client took the line for the middle of one and has not stuffed its dot.
                    self.at = At::Text;
                    break Then::Replace { take: 0, with: b"." };
                }
                (_, CR) => match behind.first() {
                    Some(&LF) if self.at == At::Dot => {
                        self.at = At::Ended;
                        pass += 2;
                        break Then::End { take: 0, with: b"" };
                    }
                    Some(&LF) => {
                        self.at = At::Start;
                        pass += 2;
                    }
                    Some(_) => break self.blank(1, Fact::BareCr),
                    None => {
                        self.at = if self.at == At::Dot { At::DotCr } else { At::Cr };
                        break Then::Replace { take: 1, with: b"" };
                    }
                },
                (_, LF) => break self.bare_lf(),
                (_, NUL) => break self.blank(1, Fact::Nul),
                (At::Start, b'.') => {
                    self.at = At::Dot;
                    pass += 1;
                }
                (At::AfterLf, b'.') => {
                    self.at = At::DotAfterLf;
                    pass += 1;
                }
                _ => {
                    self.at = At::Text;
                    pass += self.text(input.get(pass..).unwrap_or_default());
                }
            }
        };
        let taken = match then {
            Then::Replace { take, .. } | Then::End { take, .. } => take,
            Then::More | Then::Refused => 0,
        };
        self.facts.bytes += (pass + taken) as u64;
        Run { pass, then }
    }

    /// How much of `rest`, which begins with an ordinary byte inside a line, can be passed at once. At least one byte.
    fn text(&mut self, rest: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(block) = rest.get(passed..passed + BLOCK + 1)
            && is_plain(block)
        {
            passed += BLOCK;
        }
        match passed.checked_sub(1).and_then(|last| rest.get(last)) {
            // The LF behind it has been seen, and is looked at again together with it.
            Some(&CR) => return passed - 1,
            Some(&LF) => {
                self.at = At::Start;
                return passed;
            }
            _ => {}
        }
        let odd = rest.get(passed..).and_then(|rest| memchr3(CR, LF, NUL, rest));
        odd.map_or(rest.len(), |odd| passed + odd)
    }

    /// The byte behind a CR that was held back because the input ended there.
    fn behind_held_cr(&mut self, next: u8) -> Then {
        match (next, self.at) {
            (LF, At::DotCr) => {
                self.at = At::Ended;
                Then::End { take: 1, with: b"\r\n" }
            }
            (LF, _) => {
                self.at = At::Start;
                Then::Replace { take: 1, with: b"\r\n" }
            }
            _ => self.blank(0, Fact::BareCr),
        }
    }

    /// A bare CR or a NUL becomes a blank. Were it removed instead, its neighbours would close up: CR NUL LF would become
    /// a line ending, and "." NUL CRLF a lone dot. A blank can be part of neither. A dot line that would hold nothing
    /// else gets a second dot all the same: there are readers that trim.
    fn blank(&mut self, take: usize, fact: Fact) -> Then {
        match fact {
            Fact::BareCr => self.facts.bare_cr += 1,
            Fact::Nul => self.facts.nul += 1,
        }
        let with: &[u8] = if matches!(self.at, At::Dot | At::DotCr) { b". " } else { b" " };
        self.at = At::Text;
        Then::Replace { take, with }
    }

    fn bare_lf(&mut self) -> Then {
        self.facts.bare_lf += 1;
        if self.newline == BareNewline::Refuse {
            self.at = At::Refused;
            return Then::Refused;
        }
        // A dot before it is no end of data: with a second dot, no reader can think so.
        let with: &[u8] = if self.at == At::Dot { b".\r\n" } else { b"\r\n" };
        self.at = At::AfterLf;
        Then::Replace { take: 1, with }
    }
}

/// Which odd byte becomes a blank.
#[derive(Clone, Copy)]
enum Fact {
    BareCr,
    Nul,
}

/// How many bytes [`is_plain`] judges in one go: enough to pay, little enough to be looked at twice.
const BLOCK: usize = 256;

/// Whether in `block` there is no NUL, no CR or LF outside of a CRLF, and no line that begins with a dot. The last byte
/// serves as the neighbour of the one before it only; that the first is no LF, the caller knows.
///
/// Written without a branch in the loop, so that the compiler makes vector instructions of it: on ordinary mail this is
/// several times as fast as going from line ending to line ending.
fn is_plain(block: &[u8]) -> bool {
    let Some((_, behind)) = block.split_first() else { return false };
    let odd = block.iter().zip(behind).fold(0_u8, |odd, (&byte, &next)| {
        odd | u8::from(byte == NUL)
            | (u8::from(byte == CR) ^ u8::from(next == LF))
            | (u8::from(byte == LF) & u8::from(next == b'.'))
    });
    odd == 0
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(PartialEq, Eq, Debug, Default)]
    struct Read {
        out: Vec<u8>,
        ended: bool,
        refused: bool,
        facts: Facts,
    }

    fn read<'a>(newline: BareNewline, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let mut scanner = Scanner::new(newline);
        let mut read = Read::default();
        'pieces: for piece in pieces {
            let mut rest = piece;
            loop {
                let run = scanner.step(rest);
                read.out.extend_from_slice(&rest[..run.pass]);
                rest = &rest[run.pass..];
                match run.then {
                    Then::More => break,
                    Then::Replace { take, with } => {
                        read.out.extend_from_slice(with);
                        rest = &rest[take..];
                    }
                    Then::End { with, .. } => {
                        read.out.extend_from_slice(with);
                        read.ended = true;
                        break 'pieces;
                    }
                    Then::Refused => {
                        read.refused = true;
                        break 'pieces;
                    }
                }
            }
        }
        read.facts = scanner.facts();
        read
    }

    fn normalize(input: &[u8]) -> Read {
        read(BareNewline::Normalize, [input])
    }

    /// The same rules, line by line and with hindsight.
    fn reference(input: &[u8]) -> (Vec<u8>, bool) {
        let (mut out, mut rest, mut stuffed) = (Vec::new(), input, true);
        while let Some(lf) = rest.iter().position(|&b| b == LF) {
            let crlf = lf > 0 && rest[lf - 1] == CR;
            let line = &rest[..if crlf { lf - 1 } else { lf }];
            if line == b"." && stuffed && crlf {
                out.extend_from_slice(b".\r\n");
                return (out, true);
            }
            let dot = match line {
                [b'.'] | [b'.', CR | NUL, ..] => true,
                [b'.', b'.', ..] => false,
                [b'.', ..] => !stuffed,
                _ => false,
            };
            out.extend(dot.then_some(b'.'));
            out.extend(line.iter().map(|&b| if b == CR || b == NUL { b' ' } else { b }));
            out.extend_from_slice(b"\r\n");
            (rest, stuffed) = (&rest[lf + 1..], crlf);
        }
        (out, false)
    }

    /// Where a reader that takes every kind of line ending for one believes that the data ends.
    fn lenient_end(data: &[u8]) -> Option<usize> {
        let ending = |at: usize| matches!(data.get(at), Some(&(CR | LF)));
        (0..data.len()).find(|&at| data[at] == b'.' && (at == 0 || ending(at - 1)) && ending(at + 1))
    }

    #[test]
    fn ends_only_at_the_clients_own_crlf_dot_crlf() {
        for (input, out, ended) in [
            // Clean: byte for byte.
            (&b".\r\n"[..], &b".\r\n"[..], true),
            (b"\r\n.\r\n", b"\r\n.\r\n", true),
            (b"a\r\n.\r\n", b"a\r\n.\r\n", true),
            (b"..\r\n.\r\n", b"..\r\n.\r\n", true),
            (b".x\r\n. \r\n...\r\n.\r\n", b".x\r\n. \r\n...\r\n.\r\n", true),
            (b"\xff\x80\r\n.\r\n", b"\xff\x80\r\n.\r\n", true),
            (b"x.\r\n.\r\n", b"x.\r\n.\r\n", true),
            // What follows the end is no mail data.
            (b"a\r\n.\r\nQUIT\r\n", b"a\r\n.\r\n", true),
            // A dot behind a bare LF, before one, and both.
            (b"a\n.\r\nb", b"a\r\n..\r\nb", false),
            (b"a\n.\n", b"a\r\n..\r\n", false),
            (b"a\r\n.\n", b"a\r\n..\r\n", false),
            (b".\n", b"..\r\n", false),
            (b"a\n.x\r\n.\r\n", b"a\r\n..x\r\n.\r\n", true),
            (b"a\n..\r\n.\r\n", b"a\r\n..\r\n.\r\n", true),
            (b"\n\r\n.\r\n", b"\r\n\r\n.\r\n", true),
            (b"\n\n.\r\n", b"\r\n\r\n..\r\n", false),
            // Bare CR.
            (b"a\r.\r\n", b"a .\r\n", false),
            (b"a\r.\rb", b"a . b", false),
            (b"a\r\n.\r\r\n", b"a\r\n.. \r\n", false),
            (b"a\r\n.\rb\r\n", b"a\r\n.. b\r\n", false),
            (b"a\r\r\n.\r\n", b"a \r\n.\r\n", true),
            (b"a\r\r\n.\r\r\n.\n", b"a \r\n.. \r\n..\r\n", false),
            (b"a\n\r.\r\n", b"a\r\n .\r\n", false),
            (b"a\n.\r\r\n", b"a\r\n.. \r\n", false),
            // NUL.
            (b"a\r\n.\0\r\n", b"a\r\n.. \r\n", false),
            (b"a\r\0\n.\r\n", b"a  \r\n..\r\n", false),
            (b"a\r\n\0.\r\n", b"a\r\n .\r\n", false),
            (b"a\n.\0\n", b"a\r\n.. \r\n", false),
        ] {
            let whole = normalize(input);
            assert_eq!((whole.out.as_slice(), whole.ended), (out, ended), "{}", input.escape_ascii());
            for cut in 0..=input.len() {
                let (head, tail) = input.split_at(cut);
                assert_eq!(
                    read(BareNewline::Normalize, [head, tail]),
                    whole,
                    "{} | {}",
                    head.escape_ascii(),
                    tail.escape_ascii()
                );
            }
            assert_eq!(read(BareNewline::Normalize, input.chunks(1)), whole, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn counts_what_is_odd() {
        let facts = normalize(b"a\nb\n\rc\0\r\r\n\0.\r\n.\r\nQUIT\r\n").facts;
        assert_eq!(facts, Facts { bare_lf: 2, bare_cr: 2, nul: 2, bytes: 17 });
    }

    #[test]
    fn refuses_a_bare_lf_where_that_is_the_rule() {
        for input in [&b"a\nb"[..], b"\n", b".\n", b"\r\n.\n", b"a\n.\r\n"] {
            for pieces in [vec![input], input.chunks(1).collect()] {
                let read = read(BareNewline::Refuse, pieces);
                assert!(read.refused && !read.ended, "{}", input.escape_ascii());
                assert!(!read.out.contains(&LF) || read.out == b"\r\n.");
                assert_eq!(read.facts.bare_lf, 1);
            }
        }
        assert!(read(BareNewline::Refuse, [&b"a\r\nb\rc\0\r\n.\r\n"[..]]).ended);
    }

    #[test]
    fn says_the_same_again_behind_an_end() {
        let mut scanner = Scanner::new(BareNewline::Normalize);
        assert_eq!(scanner.step(b".\r\n"), Run { pass: 3, then: Then::End { take: 0, with: b"" } });
        assert_eq!(scanner.step(b".\r\n"), Run { pass: 0, then: Then::End { take: 0, with: b"" } });
        assert_eq!(scanner.facts().bytes, 3);
    }

    /// Input in which everything that matters is frequent, and runs long enough for the blocks.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(b"\r\n".to_vec()),
            3 => Just(b".".to_vec()),
            2 => Just(b"\n".to_vec()),
            2 => Just(b"\r".to_vec()),
            1 => Just(b"\0".to_vec()),
            2 => Just(b"a".to_vec()),
            1 => (1_usize..600).prop_map(|n| vec![b'x'; n]),
            1 => (1_usize..9).prop_map(|n| b"Lorem ipsum dolor sit amet, consectetur adipisici elit\r\n".repeat(n)),
            1 => Just(b"\r\n.\r\n".to_vec()),
        ];
        vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    fn clean() -> impl Strategy<Value = Vec<u8>> {
        let byte = any::<u8>().prop_map(|b| if matches!(b, CR | LF | NUL) { b'.' } else { b });
        vec(vec(byte, 0..400), 0..12).prop_map(|lines| {
            let stuffed = |line: Vec<u8>| if line.starts_with(b".") { [b".".to_vec(), line].concat() } else { line };
            let mut message: Vec<u8> =
                lines.into_iter().flat_map(|l| [stuffed(l), b"\r\n".to_vec()].concat()).collect();
            message.extend_from_slice(b".\r\n");
            message
        })
    }

    fn chunks<'a>(input: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let (mut rest, mut pieces, mut sizes) = (input, Vec::new(), sizes.iter().cycle());
        while let Some(&size) = sizes.next().filter(|_| !rest.is_empty()) {
            let (piece, tail) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        pieces
    }

    proptest! {
        #[test]
        fn chunking_never_matters(input in hostile(), sizes in vec(1_usize..300, 1..8)) {
            for newline in [BareNewline::Normalize, BareNewline::Refuse] {
                let whole = read(newline, [input.as_slice()]);
                prop_assert_eq!(read(newline, chunks(&input, &sizes)), whole);
            }
        }

        #[test]
        fn agrees_with_the_rules_read_line_by_line(mut input in hostile()) {
            input.extend_from_slice(b"\n");
            let (out, ended) = reference(&input);
            let read = normalize(&input);
            prop_assert_eq!(read.out.escape_ascii().to_string(), out.escape_ascii().to_string());
            prop_assert_eq!(read.ended, ended);
        }

        #[test]
        fn every_reader_sees_one_end_at_the_very_end(mut input in hostile()) {
            input.extend_from_slice(b"\r\n.\r\n");
            let read = normalize(&input);
            prop_assert!(read.ended);
            prop_assert!(!read.out.contains(&NUL));
            prop_assert_eq!(lenient_end(&read.out), Some(read.out.len() - 3));
            let endings = read.out.windows(2).filter(|pair| pair == b"\r\n").count();
            prop_assert_eq!(read.out.iter().filter(|&&b| b == CR || b == LF).count(), 2 * endings);
        }

        #[test]
        fn clean_data_goes_on_byte_for_byte(input in clean(), sizes in vec(1_usize..300, 1..8)) {
            let read = read(BareNewline::Refuse, chunks(&input, &sizes));
            prop_assert!(read.ended);
            prop_assert_eq!(read.facts, Facts { bytes: input.len() as u64, ..Facts::default() });
            prop_assert_eq!(read.out, input);
        }
    }
}
