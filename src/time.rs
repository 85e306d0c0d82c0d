//! Moments and spans of time, and how a person writes them.

use std::time::Duration;

/// A moment of wall time: milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// `span` later; the end of time at the latest.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Why a text is not a span of time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a span of time; write a number and a unit: 250ms, 1.5s, 6s, 10m, 4h, 7d or 2w")]
pub struct NotASpan(pub String);

/// Reads a span of time: a decimal number followed by `ms`, `s`, `m`, `h`, `d` or `w`.
pub fn parse_span(_text: &str) -> Result<Duration, NotASpan> {
    todo!()
}

/// Writes a span as [`parse_span`] reads it, in the largest unit that keeps it exact to the millisecond.
pub fn format_span(_span: Duration) -> String {
    todo!()
}
