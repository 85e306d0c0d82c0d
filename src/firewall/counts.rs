//! What is counted, and how often the same trouble is said.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::program::Failure;

/// How often the same trouble is said at most.
const SELDOM: Duration = Duration::from_secs(60);

/// What was counted so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Networks that the packet filter has now.
    pub elements: u64,
    /// What could not be told, by kind, since the start.
    pub failures: Vec<(&'static str, u64)>,
    /// Runs of the operator's program, by what came of them, since the start.
    pub runs: Vec<(&'static str, u64)>,
}

impl Default for Counts {
    fn default() -> Self {
        Counters::default().told()
    }
}

/// Why something could not be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `nft` is not there, or cannot be run.
    Missing,
    /// gatepost may not change the packet filter.
    Denied,
    /// `nft` did not end in time.
    Timeout,
    /// `nft` did not do it.
    Refused,
    /// The file could not be written.
    File,
    /// There are too many.
    Overflow,
}

/// What came of a run of the operator's program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Run {
    Ok,
    /// It ended with another exit status than 0.
    Failed,
    /// It was killed at its deadline.
    Timeout,
    /// It could not be started.
    Missing,
    /// It was not run: too many were waiting.
    Dropped,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Missing, "missing"),
    (Kind::Denied, "denied"),
    (Kind::Timeout, "timeout"),
    (Kind::Refused, "refused"),
    (Kind::File, "file"),
    (Kind::Overflow, "overflow"),
];

const RUNS: [(Run, &str); 5] = [
    (Run::Ok, "ok"),
    (Run::Failed, "failed"),
    (Run::Timeout, "timeout"),
    (Run::Missing, "missing"),
    (Run::Dropped, "dropped"),
];

#[derive(Default, Debug)]
pub(super) struct Counters {
    elements: AtomicU64,
    failures: [AtomicU64; KINDS.len()],
    runs: [AtomicU64; RUNS.len()],
}

impl Counters {
    pub(super) fn has(&self, elements: usize) {
        self.elements.store(u64::try_from(elements).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn failed(&self, kind: Kind) {
        count(&KINDS, &self.failures, kind);
    }

    pub(super) fn nft_failed(&self, failure: &Failure) {
        self.failed(match failure {
            Failure::Missing(_) => Kind::Missing,
            Failure::Denied(_) => Kind::Denied,
            Failure::Timeout(_) => Kind::Timeout,
            Failure::Refused(_) => Kind::Refused,
        });
    }

    pub(super) fn ran(&self, run: Run) {
        count(&RUNS, &self.runs, run);
    }

    pub(super) fn told(&self) -> Counts {
        Counts {
            elements: self.elements.load(Ordering::Relaxed),
            failures: told(&KINDS, &self.failures),
            runs: told(&RUNS, &self.runs),
        }
    }

    /// How many were not told because there are too many.
    pub(super) fn overflown(&self) -> u64 {
        let told = self.told().failures;
        told.iter().find(|(kind, _)| *kind == "overflow").map_or(0, |&(_, n)| n)
    }
}

fn count<T: PartialEq>(words: &[(T, &str)], counters: &[AtomicU64], what: T) {
    if let Some((_, counter)) = words.iter().zip(counters).find(|((word, _), _)| *word == what) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn told<T>(words: &[(T, &'static str)], counters: &[AtomicU64]) -> Vec<(&'static str, u64)> {
    words.iter().zip(counters).map(|((_, word), n)| (*word, n.load(Ordering::Relaxed))).collect()
}

/// Says the same at once, and then once a minute at most.
#[derive(Default, Debug)]
pub(super) struct Seldom {
    next: Option<Instant>,
    hushed: u64,
}

impl Seldom {
    /// Whether it may be said now, and how often it was hushed since it last was.
    pub(super) fn may(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.next.is_some_and(|next| now < next) {
            self.hushed = self.hushed.saturating_add(1);
            return None;
        }
        self.next = Some(now + SELDOM);
        Some(std::mem::take(&mut self.hushed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trouble_is_said_at_once_and_then_once_a_minute() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.may(), Some(0));
        assert_eq!((seldom.may(), seldom.may()), (None, None));
        tokio::time::advance(SELDOM).await;
        assert_eq!(seldom.may(), Some(2));
        assert_eq!(seldom.may(), None);
    }

    #[test]
    fn every_word_is_counted_by_itself() {
        let counters = Counters::default();
        for (kind, _) in KINDS {
            counters.failed(kind);
        }
        for (run, _) in RUNS {
            counters.ran(run);
        }
        counters.has(7);
        let told = counters.told();
        assert_eq!(told.elements, 7);
        assert!(told.failures.iter().chain(&told.runs).all(|(_, n)| *n == 1), "{told:?}");
        assert_eq!(counters.overflown(), 1);
    }
}
