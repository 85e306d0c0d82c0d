//! Replies (RFC 5321 §4.2, RFC 2034, RFC 3463): a backend's read piecemeal, our own written.

use std::fmt;

/// The longest line of a backend's reply that is read, CRLF included.
pub const LINE_LIMIT: usize = 4096;

/// The longest reply of a backend that is read, all its lines together.
pub const REPLY_LIMIT: usize = 65_536;

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
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An enhanced status code (RFC 3463).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enhanced(pub u8, pub u16, pub u16);

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
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }

    /// The enhanced status code at the front of the first line's text, if it agrees with the code's class.
    pub fn enhanced(&self) -> Option<Enhanced> {
        todo!()
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
pub fn parse(_input: &[u8]) -> Parsed<'_> {
    todo!()
}

/// Writes a reply of our own: `text` becomes one line for each of its lines, each with the enhanced code (if any);
/// anything in it that is not printable ASCII becomes `?`.
pub fn write(_out: &mut Vec<u8>, _code: Code, _enhanced: Option<Enhanced>, _text: &str) {
    todo!()
}
