//! Lines of the log that whoever connects could bring about: said once in a while, however often there is reason to.

use std::time::Duration;

use tokio::time::Instant;

/// When a line was last said, and how often it was not since then.
#[derive(Debug)]
pub(super) struct Seldom {
    every: Duration,
    last: Option<Instant>,
    passed_over: u64,
}

impl Seldom {
    /// A line that is said once in `every` at most.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, last: None, passed_over: 0 }
    }

    /// There is reason to say it at `now`. If it is to be said: how often it was not, since it was said last.
    pub(super) fn is_due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.every) {
            self.passed_over = self.passed_over.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.passed_over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_a_while_with_the_count_of_the_others() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut line = Seldom::new(second * 10);
        let said: Vec<_> = (0..25).map(|n| line.is_due(start + second * n)).filter(Option::is_some).collect();
        assert_eq!(said, [Some(0), Some(9), Some(9)]);
    }
}
