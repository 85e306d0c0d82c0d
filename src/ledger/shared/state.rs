//! How it stands with the shared store, for status and metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Timestamp;

/// The upper bounds of the times that verbs take, in milliseconds; longer ones are counted beyond the last.
pub const BOUNDS: [u64; 8] = [1, 2, 5, 10, 25, 50, 100, 250];

/// How it stands with the shared store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Whether verbs are answered; if not, this host goes on alone.
    pub connected: bool,
    /// Since when it is so.
    pub since: Timestamp,
    /// What ended the last connection, or kept it from coming about.
    pub trouble: Option<String>,
    /// How many changes wait for the store.
    pub queue: u64,
    /// How many changes were lost for want of room, or because it is not known whether they arrived.
    pub lost: u64,
    /// How many messages and lines of others could not be made out, or were not to be believed.
    pub foreign: u64,
    /// How many changes of other hosts were heard of.
    pub news: u64,
    /// How many connections came about.
    pub connects: u64,
    /// How many verbs were answered.
    pub answered: u64,
    /// How many verbs found the store away.
    pub away: u64,
    /// How many answered verbs took no longer than each of [`BOUNDS`], or longer: not added up.
    pub took: [u64; BOUNDS.len() + 1],
    /// How long all answered verbs took together.
    pub took_in_all: Duration,
}

/// What is counted. All relaxed: nothing follows from one count to another.
#[derive(Default, Debug)]
pub(super) struct Counts {
    pub(super) foreign: AtomicU64,
    pub(super) news: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) away: AtomicU64,
    took: [AtomicU64; BOUNDS.len() + 1],
    took_micros: AtomicU64,
}

pub(super) fn add_one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// A verb was answered after `span`.
    pub(super) fn answered(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS.iter().position(|bound| micros <= bound * 1000).unwrap_or(BOUNDS.len());
        if let Some(count) = self.took.get(place) {
            add_one(count);
        }
        self.took_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The counts as part of a state.
    pub(super) fn write(&self, state: &mut State) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        state.foreign = read(&self.foreign);
        state.news = read(&self.news);
        state.connects = read(&self.connects);
        state.away = read(&self.away);
        for (to, from) in state.took.iter_mut().zip(&self.took) {
            *to = read(from);
        }
        state.answered = state.took.iter().sum();
        state.took_in_all = Duration::from_micros(read(&self.took_micros));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_their_places() {
        let counts = Counts::default();
        for micros in [1, 1000, 1001, 49_000, 10_000_000] {
            counts.answered(Duration::from_micros(micros));
        }
        let mut state = State::default();
        counts.write(&mut state);
        assert_eq!(state.took, [2, 1, 0, 0, 0, 1, 0, 0, 1]);
        assert_eq!((state.answered, state.took_in_all), (5, Duration::from_micros(10_051_002)));
    }
}
