//! What was seen, each kind with a name that says it all.

use std::fmt;

use super::helo::Fault;
use super::not_smtp;
use super::score::Score;
use super::test::Test;
use crate::smtp::command::Verb;

pub use super::early::Early;

/// Something that was seen of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// It spoke before the greeting had ended.
    SpokeEarly(Early),
    /// What the lists say so far. Evidence against the client only from [`super::Thresholds::block`] on.
    Listed(Score),
    /// The name that it gave in HELO or EHLO.
    Named(Fault),
    /// It sent more behind this command, without waiting for the reply, where that is not allowed.
    Pipelined(Verb),
    /// It does not speak SMTP.
    NotSmtp(not_smtp::Kind),
    /// It ended a command line in a bare LF, or put a bare CR into it.
    BareNewline,
    /// It tried AUTH where none is offered.
    TriedAuth,
}

impl Evidence {
    /// The test that this is evidence in.
    pub fn test(&self) -> Test {
        match self {
            Self::SpokeEarly(_) => Test::Pregreet,
            Self::Listed(_) => Test::Dnsbl,
            Self::Named(fault) => fault.test(),
            Self::Pipelined(_) => Test::Pipelining,
            Self::NotSmtp(_) => Test::NotSmtp,
            Self::BareNewline => Test::BareNewline,
            Self::TriedAuth => Test::AuthNotOffered,
        }
    }
}

/// In closed words, for the journal.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpokeEarly(early) => write!(f, "spoke early: {}", early.name()),
            Self::Listed(score) => write!(f, "score {}", score.total),
            Self::Named(fault) => write!(f, "{fault}"),
            Self::Pipelined(verb) => write!(f, "did not wait for the reply to {}", verb.as_str()),
            Self::NotSmtp(kind) => write!(f, "not SMTP: {}", kind.name()),
            Self::BareNewline => f.write_str("a command line ended in, or held, a bare LF or CR"),
            Self::TriedAuth => f.write_str("AUTH, which is not offered here"),
        }
    }
}
