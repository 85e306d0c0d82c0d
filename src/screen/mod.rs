//! The screen: what a client's behaviour amounts to. Pure: values and `now` in, values out; no sockets, no clock, no log.
//!
//! What was seen is [`Evidence`], what it means for a test is whether the test is still [due](Screen::due) or failed, and
//! what we do about all of it is a [`Verdict`]. The action (off, observe, enforce, drop) is applied in one function for
//! all tests.
//!
//! `Screen::open(settings, standing, now)`, `.observe(evidence, now)`, `.close(now)` is the whole of it, driven by the
//! daemon's stages and by whoever wants to know what would have happened.

pub mod early;
pub mod evidence;
pub mod helo;
pub mod not_smtp;
pub mod score;
pub mod standing;
pub mod test;

pub use early::Early;
pub use evidence::Evidence;
pub use score::{Score, Site};
pub use standing::Standing;
pub use test::{Action, PerTest, Rule, Test, Tests};

use std::time::Duration;

/// Everything an operator can say of the screen, for one gate.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Turns every action into [`Action::Observe`].
    pub observe: bool,
    /// What each test leads to, and how long a pass of it counts.
    pub rules: PerTest<Rule>,
    /// How strangers are made to wait.
    pub greet: Greet,
    /// When a DNSBL score counts.
    pub thresholds: Thresholds,
    /// Which names give a client away.
    pub names: helo::Names,
}

/// How strangers are made to wait for the greeting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greet {
    /// The least a stranger waits while [`Test::Pregreet`] is due.
    pub minimum: Duration,
    /// The most it waits, for the lists to answer.
    pub maximum: Duration,
    /// The text of the line `220-` that is sent at once; none is sent if there is none.
    pub teaser: Option<String>,
}

/// When a DNSBL score counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// From this score on a client fails [`Test::Dnsbl`]; 1 or more.
    pub block: i32,
    /// At this score and below, a client that has failed nothing passes every test, and need not wait; below 0.
    pub allow: Option<i32>,
    /// The least and the most that a pass is remembered, whatever the TTLs of the answers.
    pub ttl: (Duration, Duration),
}
