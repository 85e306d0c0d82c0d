//! Wall time, from one place, so that a test can hold it. Monotonic time comes from the runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::time::Timestamp;

/// Tells the wall time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that shows what it was last [`set`](Self::set) to: for tests.
    pub fn held(at: Timestamp) -> Self {
        Self(Some(Arc::new(AtomicU64::new(at.millis()))))
    }

    /// Moves a held clock; no effect on the machine's.
    pub fn set(&self, at: Timestamp) {
        if let Some(held) = &self.0 {
            held.store(at.millis(), Ordering::Relaxed);
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Some(held) => Timestamp::from_millis(held.load(Ordering::Relaxed)),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_held_clock_shows_what_it_was_set_to_in_all_its_clones() {
        let clock = Clock::held(Timestamp::from_seconds(1_700_000_000));
        let clone = clock.clone();
        assert_eq!(clone.now(), Timestamp::from_seconds(1_700_000_000));
        clock.set(clone.now().plus(Duration::from_millis(1500)));
        assert_eq!(clone.now(), Timestamp::from_millis(1_700_000_001_500));
        clone.set(Timestamp::default());
        assert_eq!(clock.now(), Timestamp::default(), "it can be set back too");
    }

    #[test]
    fn the_machines_clock_goes_on_and_cannot_be_set() {
        let clock = Clock::system();
        let before = clock.now();
        clock.set(Timestamp::default());
        let after = clock.now();
        // This file was written in 2026.
        assert!(before >= Timestamp::from_seconds(1_767_225_600));
        assert!(after.since(before) < Duration::from_secs(600));
        assert_ne!(after, Timestamp::default());
    }
}
