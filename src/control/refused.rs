//! Why something that was asked for is not done, and what would help.

use std::fmt;

/// What kind of refusal it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It cannot be understood.
    Malformed,
    /// Whoever asks has not shown a token, or not the right one.
    Unknown,
    /// Nobody may do it this way.
    Forbidden,
    /// There is no such thing.
    Absent,
    /// Something stands against it.
    Exempt,
    /// It is too much.
    TooLarge,
    /// It is of a kind that is not taken.
    WrongKind,
}

/// A refusal, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// What kind it is.
    pub fault: Fault,
    /// What is wrong.
    pub error: String,
    /// What would be right.
    pub remedy: String,
}

impl Refused {
    /// A refusal.
    pub fn new(fault: Fault, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fault, error: error.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.error, self.remedy)
    }
}

impl std::error::Error for Refused {}
