//! Waiting for something that can be seen, never for time to pass.

use std::thread;
use std::time::{Duration, Instant};

/// Long enough for any host on a busy two-core machine; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at again. Short beside anything a test measures.
const STEP: Duration = Duration::from_millis(5);

/// Looks until `probe` has an answer, and returns it. Panics with `what` when [`PATIENCE`] is at its end.
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, probe).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain for {what}"))
}

/// Looks until `probe` has an answer or `limit` is over.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(STEP);
    }
}
