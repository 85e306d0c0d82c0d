//! What is measured of whom, and what gatepost must reach.

use std::fmt;

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The built one, or another build.
    Gatepost,
    /// Debian's, with smtpd(8) behind it.
    Postscreen,
    /// Debian's, in TCP mode.
    Haproxy,
    /// Debian's, its mail proxy.
    Nginx,
    /// No program: clients connect to the sink.
    Direct,
}

impl Kind {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] = [Self::Gatepost, Self::Postscreen, Self::Haproxy, Self::Nginx, Self::Direct];
}

impl fmt::Display for Kind {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Gatepost => "gatepost",
            Self::Postscreen => "postscreen",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Direct => "direct",
        })
    }
}

/// How a figure is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A rate.
    PerSecond,
    /// Processor time.
    Milliseconds,
    /// Time.
    Nanoseconds,
    /// Memory.
    Bytes,
    /// More memory.
    Megabytes,
    /// Bytes per second.
    MegabytesPerSecond,
    /// Processor time for a gigabyte.
    SecondsPerGigabyte,
    /// No unit.
    Times,
    /// No unit, and whole.
    Count,
}

impl Unit {
    /// A value as the table shows it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 10_000.0 => format!("{:.1} k/s", value / 1e3),
            Self::PerSecond if value >= 1000.0 => format!("{:.2} k/s", value / 1e3),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Milliseconds if value >= 10.0 => format!("{value:.1} ms"),
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Bytes if value >= 1e7 => format!("{:.0} MB", value / 1e6),
            Self::Bytes => format!("{value:.0} B"),
            Self::Megabytes => format!("{value:.2} MB"),
            Self::MegabytesPerSecond => format!("{value:.0} MB/s"),
            Self::SecondsPerGigabyte => format!("{value:.2} s/GB"),
            Self::Count => format!("{value:.0}"),
            Self::Times => format!("{value:.2}"),
        }
    }
}

/// What gatepost must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Not more than this.
    AtMost(f64),
    /// At least so many times what that one does, of a figure of which more is better; at most so many times, of others.
    Against(Kind, f64),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The row that it belongs to.
    pub row: u8,
    /// What it is called in the file of results.
    pub id: &'static str,
    /// What it is called in the table.
    pub label: &'static str,
    /// How it is shown.
    pub unit: Unit,
    /// Whether more is better.
    pub more: bool,
    /// What gatepost must reach, all of it.
    pub targets: &'static [Target],
}

impl Figure {
    /// By how much `now` is worse than `before`: above 1 if it is, whichever way this figure counts.
    pub fn loss(&self, before: f64, now: f64) -> f64 {
        if self.more { before / now } else { now / before }
    }
}
