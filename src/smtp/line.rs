//! Command lines: where one ends, and what is odd about it (RFC 5321 §2.3.8, §4.5.3.1.4).

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
pub fn scan(_input: &[u8], _limit: usize) -> Scan<'_> {
    todo!()
}
