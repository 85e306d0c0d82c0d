//! Many deadlines at the cost of few timers: one queue for each span of time, in each of which what came first is due
//! first. What a stranger in the lot costs in time-keeping is one entry, and no timer.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Deadlines of things named `K`.
#[derive(Debug)]
pub(super) struct Deadlines<K> {
    queues: Vec<(Duration, VecDeque<(Instant, K)>)>,
}

impl<K> Deadlines<K> {
    pub(super) fn new() -> Self {
        Self { queues: Vec::new() }
    }

    /// `key` is due `span` from `now` on; `now` never goes back from call to call.
    pub(super) fn push(&mut self, now: Instant, span: Duration, key: K) {
        let due = now + span;
        match self.queues.iter_mut().find(|(of, _)| *of == span) {
            Some((_, queue)) => queue.push_back((due, key)),
            // The spans are those of the settings; a queue that a reload has left empty makes room.
            None => {
                self.queues.retain(|(_, queue)| !queue.is_empty());
                self.queues.push((span, VecDeque::from([(due, key)])));
            }
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|(_, queue)| queue.front().map(|(due, _)| *due)).min()
    }

    /// Takes one that is due at `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<K> {
        let (_, queue) = self.queues.iter_mut().find(|(_, queue)| queue.front().is_some_and(|(due, _)| *due <= now))?;
        let (_, key) = queue.pop_front()?;
        if queue.is_empty() && queue.capacity() > 1024 {
            queue.shrink_to(64);
        }
        Some(key)
    }

    /// Drops from the front whatever `is_stale`, so that [`Self::next`] does not wake for it.
    pub(super) fn skip(&mut self, mut is_stale: impl FnMut(&K) -> bool) {
        for (_, queue) in &mut self.queues {
            while queue.front().is_some_and(|(_, key)| is_stale(key)) {
                queue.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_in_the_order_of_their_time_whatever_their_span() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut deadlines = Deadlines::new();
        deadlines.push(start, second * 6, "long");
        deadlines.push(start, second, "short");
        deadlines.push(start + second, second, "shortly after");
        assert_eq!(deadlines.next(), Some(start + second));
        assert_eq!(deadlines.pop(start), None);
        assert_eq!(deadlines.pop(start + second), Some("short"));
        assert_eq!(deadlines.pop(start + second), None);
        assert_eq!(deadlines.next(), Some(start + second * 2));
        assert_eq!(deadlines.pop(start + second * 9), Some("long"));
        assert_eq!(deadlines.pop(start + second * 9), Some("shortly after"));
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn the_stale_in_front_wake_nobody() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut deadlines = Deadlines::new();
        for key in 0..4 {
            deadlines.push(start + second * key, second, key);
        }
        deadlines.skip(|key| *key < 3);
        assert_eq!(deadlines.next(), Some(start + second * 4));
    }

    #[test]
    fn queues_that_a_reload_left_empty_go_away() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new();
        for n in 1..100 {
            let span = Duration::from_millis(n);
            deadlines.push(start, span, n);
            assert_eq!(deadlines.pop(start + span), Some(n));
        }
        assert!(deadlines.queues.len() <= 2, "{} queues", deadlines.queues.len());
    }
}
