//! What there is to tell of a list: how it does, how often it was asked and with what outcome, how long it took.
//!
//! Everything here may be shown: lists go by their display names, and labels come from closed sets.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::dns;

/// Why a question to a list has no answer that counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failure {
    /// Nothing came within [`Settings::timeout`](super::Settings::timeout).
    Timeout,
    /// The name server could not resolve it (SERVFAIL).
    ServFail,
    /// The name server would not (REFUSED).
    Refused,
    /// The list answered 127.255.255.x: it would not. The number is x.
    ErrorCode(u8),
    /// The list answered with an address outside 127/8.
    Outside,
    /// The name server could not be reached.
    Network,
    /// Anything else: another response code, a message that cannot be read.
    Malformed,
}

impl Failure {
    /// How many kinds there are.
    pub const KINDS: usize = 7;

    /// One of each kind, in the order of [`ZoneState::errors`].
    pub const ALL: [Self; Self::KINDS] = [
        Self::Timeout,
        Self::ServFail,
        Self::Refused,
        Self::ErrorCode(0),
        Self::Outside,
        Self::Network,
        Self::Malformed,
    ];

    /// The kind's name, as metrics label it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::ErrorCode(_) => "error-code",
            Self::Outside => "outside-127",
            Self::Network => "network",
            Self::Malformed => "malformed",
        }
    }

    /// The kind's place in [`Failure::ALL`].
    const fn kind(self) -> usize {
        match self {
            Self::Timeout => 0,
            Self::ServFail => 1,
            Self::Refused => 2,
            Self::ErrorCode(_) => 3,
            Self::Outside => 4,
            Self::Network => 5,
            Self::Malformed => 6,
        }
    }
}

/// What happened, and what to do about it.
impl From<dns::Failure> for Failure {
    fn from(failure: dns::Failure) -> Self {
        match failure {
            dns::Failure::Timeout => Self::Timeout,
            dns::Failure::ServFail => Self::ServFail,
            dns::Failure::Refused => Self::Refused,
            dns::Failure::Network => Self::Network,
            dns::Failure::Malformed => Self::Malformed,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str(
                "no answer in time: the list or the name server is down or slow; if it stays so, remove the list",
            ),
            Self::ServFail => f.write_str(
                "SERVFAIL: the name server cannot reach the list; if other lists answer, this one is down or gone",
            ),
            Self::Refused => f.write_str(
                "REFUSED: the name server does not answer for this list; ask through a resolver of your own",
            ),
            Self::ErrorCode(code) => {
                let meaning = match code {
                    252 => "the list's name is misspelt; compare it with the list's own instructions",
                    255 => "too many questions; use the list's key, or its paid service",
                    _ => {
                        "the list does not accept questions through this resolver; use your own resolver or the \
                         list's key"
                    }
                };
                write!(f, "the list answers 127.255.255.{code}: {meaning}")
            }
            Self::Outside => f.write_str(
                "the list answers with addresses outside 127.0.0.0/8: its domain has changed hands, or the resolver \
                 invents answers; remove the list, or use your own resolver",
            ),
            Self::Network => f.write_str("the name server cannot be reached; check `nameservers` or /etc/resolv.conf"),
            Self::Malformed => f.write_str("the name server's answer makes no sense; check what runs at its address"),
        }
    }
}

/// Why a list is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// 127.0.0.2 is not listed, as it has to be (RFC 5782, section 5): the list is empty, closed or misspelt.
    TestNotListed,
    /// 127.0.0.1 is listed, as it must not be: the list lists everybody.
    LoopbackListed,
    /// The answer to the test was an error of the list.
    TestFailed(Failure),
    /// It lists this share of the clients, in percent.
    Alarm(u8),
}

impl Reason {
    /// The reason's name, as metrics and the admin interface label it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TestNotListed => "test-not-listed",
            Self::LoopbackListed => "loopback-listed",
            Self::TestFailed(failure) => failure.name(),
            Self::Alarm(_) => "alarm",
        }
    }
}

/// What happened, and what to do about it.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TestNotListed => f.write_str(
                "it does not list 127.0.0.2, as every list does: it is empty, closed or misspelt; check its name, or \
                 remove it",
            ),
            Self::LoopbackListed => {
                f.write_str("it lists 127.0.0.1, as no list may: it lists everybody, as closed lists do; remove it")
            }
            Self::TestFailed(failure) => failure.fmt(f),
            Self::Alarm(share) => write!(
                f,
                "it lists {share} % of the clients, which is more than `alarm_percent` allows: it may list everybody; \
                 ask the list, or raise the limit if so many of your clients are bots"
            ),
        }
    }
}

/// How a list does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is asked and believed.
    Working,
    /// It failed to answer several times in a row, and is left alone; at `until` one question is let through.
    Paused {
        /// When it is asked again.
        until: Instant,
        /// The last failure.
        last: Failure,
    },
    /// It answers, but is not believed.
    Failed {
        /// Why.
        reason: Reason,
    },
}

impl State {
    /// The state's name, as metrics label it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Paused { .. } => "paused",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What there is to tell of a list.
#[derive(Clone, PartialEq, Debug)]
pub struct ZoneState {
    /// Its display name.
    pub display: String,
    /// How it does.
    pub state: State,
    /// Questions asked: clients', self-tests' and an operator's, here and below.
    pub queries: u64,
    /// Answers that listed the address: at least one site's filter matched.
    pub hits: u64,
    /// Answers that did not.
    pub misses: u64,
    /// Questions without an answer that counts, in the order of [`Failure::ALL`].
    pub errors: [u64; Failure::KINDS],
    /// How long the answers took.
    pub latency: Latency,
}

impl ZoneState {
    /// Each kind of failure and how often it was seen.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Failure::ALL.into_iter().map(Failure::name).zip(self.errors)
    }
}

/// How long answers took, as a histogram. Questions that ran into the time-out are in it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Latency {
    /// How many there were.
    pub count: u64,
    /// How long all took together.
    pub sum: Duration,
    /// For each of [`Latency::BOUNDS`], how many took at most so long (cumulative, as Prometheus has it).
    pub buckets: [u64; Latency::BOUNDS.len()],
}

impl Latency {
    /// The upper bounds of the buckets, in microseconds.
    pub const BOUNDS: [u64; 11] =
        [1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000];
}

/// The counters of a list.
#[derive(Debug, Default)]
pub(super) struct Counters {
    queries: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    errors: [AtomicU64; Failure::KINDS],
    micros: AtomicU64,
    buckets: [AtomicU64; Latency::BOUNDS.len()],
    beyond: AtomicU64,
}

impl Counters {
    /// Counts a question and what became of it.
    pub(super) fn count(&self, outcome: Result<bool, Failure>, took: Duration) {
        let add = |counter: &AtomicU64, amount| counter.fetch_add(amount, Ordering::Relaxed);
        add(&self.queries, 1);
        match outcome {
            Ok(true) => add(&self.hits, 1),
            Ok(false) => add(&self.misses, 1),
            Err(failure) => self.errors.get(failure.kind()).map_or(0, |counter| add(counter, 1)),
        };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.micros, micros);
        let bucket = Latency::BOUNDS.iter().zip(&self.buckets).find(|&(&bound, _)| micros <= bound);
        add(bucket.map_or(&self.beyond, |(_, bucket)| bucket), 1);
    }

    /// The counts as they stand.
    pub(super) fn read(&self, display: &str, state: State) -> ZoneState {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut latency = Latency { sum: Duration::from_micros(read(&self.micros)), ..Latency::default() };
        for (cumulative, bucket) in latency.buckets.iter_mut().zip(&self.buckets) {
            latency.count += read(bucket);
            *cumulative = latency.count;
        }
        latency.count += read(&self.beyond);
        ZoneState {
            display: display.to_owned(),
            state,
            queries: read(&self.queries),
            hits: read(&self.hits),
            misses: read(&self.misses),
            errors: self.errors.each_ref().map(read),
            latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_in_their_places() {
        for (place, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure.kind(), place);
        }
        let mut names = Failure::ALL.map(Failure::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn counts_by_outcome_and_time() {
        let counters = Counters::default();
        counters.count(Ok(true), Duration::from_millis(3));
        counters.count(Ok(false), Duration::from_millis(40));
        counters.count(Err(Failure::ErrorCode(254)), Duration::from_millis(40));
        counters.count(Err(Failure::Timeout), Duration::from_secs(9));
        let seen = counters.read("a", State::Working);
        assert_eq!((seen.queries, seen.hits, seen.misses), (4, 1, 1));
        let errors: Vec<_> = seen.errors().filter(|&(_, count)| count > 0).collect();
        assert_eq!(errors, [("timeout", 1), ("error-code", 1)]);
        assert_eq!(seen.latency.count, 4);
        assert_eq!(seen.latency.sum, Duration::from_millis(9083));
        assert_eq!(seen.latency.buckets, [0, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3]);
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let text = Failure::ErrorCode(254).to_string();
        assert!(text.contains("127.255.255.254") && text.contains("your own resolver or the list's key"), "{text}");
        assert!(Failure::ErrorCode(252).to_string().contains("misspelt"));
        assert_eq!(Reason::TestFailed(Failure::Outside).name(), "outside-127");
    }
}
