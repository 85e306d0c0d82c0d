//! What things are counted in: a window of time, a bucket that leaks, and a few different ones.

use std::time::Duration;

use super::super::ban::seconds;
use super::Limit;

/// How much a [`Leak`] counts for one.
const ONE: u64 = 1000;

/// A count of what happened within the last so many seconds, exact up to [`Self::MOST`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Window {
    /// When it happened, in seconds since 1970; the longest ago first.
    pub times: Vec<u32>,
}

impl Window {
    /// Up to how many are counted.
    pub const MOST: usize = 64;

    /// Counts one more, and says how many there are by now.
    pub fn count(&mut self, within: Duration, now: u32) -> u32 {
        let within = seconds(within).max(1);
        self.times.retain(|&at| now.saturating_sub(at) < within);
        if self.times.len() >= Self::MOST {
            self.times.remove(0);
        }
        self.times.push(now);
        u32::try_from(self.times.len()).unwrap_or(u32::MAX)
    }

    /// How many there are at `now`.
    pub fn recent(&self, within: Duration, now: u32) -> u32 {
        let within = seconds(within).max(1);
        let recent = self.times.iter().filter(|&&at| now.saturating_sub(at) < within).count();
        u32::try_from(recent).unwrap_or(u32::MAX)
    }

    /// When it will be empty.
    pub fn ends(&self, within: Duration) -> u32 {
        self.times.iter().max().map_or(0, |last| last.saturating_add(seconds(within).max(1)))
    }
}

/// A bucket that loses one in each span of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leak {
    /// What is in it, in thousandths.
    pub level: u64,
    /// As of when.
    pub at: u32,
}

impl Leak {
    /// Adds one, and says how many are in it by now, begun ones counted as whole.
    pub fn count(&mut self, one_in: Duration, now: u32) -> u32 {
        let one_in = u64::from(seconds(one_in).max(1));
        let gone = u64::from(now.saturating_sub(self.at));
        self.level = self.level.saturating_sub(gone * ONE / one_in) + ONE;
        self.at = self.at.max(now);
        u32::try_from(self.level.div_ceil(ONE)).unwrap_or(u32::MAX)
    }

    /// When it will be empty.
    pub fn ends(&self, one_in: Duration) -> u32 {
        let span = self.level.div_ceil(ONE).saturating_mul(u64::from(seconds(one_in).max(1)));
        if self.level == 0 { 0 } else { self.at.saturating_add(u32::try_from(span).unwrap_or(u32::MAX)) }
    }
}

/// The last few different ones within a span of time. Where there are more than there is room for, the oldest is
/// forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Few<T> {
    /// Since when.
    pub since: u32,
    /// The oldest first.
    pub ones: Vec<T>,
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self { since: 0, ones: Vec::new() }
    }
}

impl<T: PartialEq> Few<T> {
    /// Adds `one`, and says how many there are. All are forgotten once the first is older than `within`.
    pub fn add(&mut self, one: T, room: usize, within: Duration, now: u32) -> u32 {
        if self.ones.is_empty() || now.saturating_sub(self.since) >= seconds(within).max(1) {
            self.ones.clear();
            self.since = now;
        }
        if !self.ones.contains(&one) {
            if self.ones.len() >= room.max(1) {
                self.ones.remove(0);
            }
            self.ones.push(one);
        }
        u32::try_from(self.ones.len()).unwrap_or(u32::MAX)
    }

    /// When it will be empty.
    pub fn ends(&self, within: Duration) -> u32 {
        if self.ones.is_empty() { 0 } else { self.since.saturating_add(seconds(within).max(1)) }
    }
}

impl Limit {
    /// Whether `count` is too many for whoever may do `patience` times as much.
    ///
    /// Nothing counts further than [`Window::MOST`]: patience cannot ask for more.
    pub(super) fn is_reached(&self, count: u32, patience: u32) -> bool {
        self.is_reached_of(count, patience, Window::MOST)
    }

    /// The same, where no more than `most` can be counted.
    pub(super) fn is_reached_of(&self, count: u32, patience: u32, most: usize) -> bool {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        self.count > 0 && count >= self.count.saturating_mul(patience).min(most)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u32 = 1_700_000_000;
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_window_counts_what_lies_within_it_and_forgets_what_does_not() {
        let mut window = Window::default();
        let counted: Vec<u32> = [0, 10, 20, 59, 60, 75].iter().map(|at| window.count(MINUTE, NOW + at)).collect();
        assert_eq!(counted, [1, 2, 3, 4, 4, 4]);
        assert_eq!(window.ends(MINUTE), NOW + 75 + 60);
        assert_eq!(Window::default().ends(MINUTE), 0);
        let most = (0..1000).map(|_| window.count(MINUTE, NOW + 76)).max();
        assert_eq!(most, Some(Window::MOST as u32), "it does not grow");
    }

    #[test]
    fn a_bucket_leaks_one_in_each_span() {
        let mut leak = Leak::default();
        assert_eq!((0..3).map(|_| leak.count(MINUTE, NOW)).last(), Some(3));
        assert_eq!(leak.count(MINUTE, NOW + 30), 4, "three and a half, begun ones are whole");
        assert_eq!(leak.ends(MINUTE), NOW + 30 + 240);
        assert_eq!(leak.count(MINUTE, NOW + 90), 4);
        assert_eq!(leak.count(MINUTE, NOW + 9000), 1);
        let mut patient = Leak::default();
        assert!((0..100).all(|n| patient.count(MINUTE, NOW + n * 60) == 1), "one a minute never adds up");
    }

    #[test]
    fn a_few_are_counted_once_each_and_the_oldest_gives_way() {
        let mut few = Few::default();
        let counted: Vec<u32> = [1, 2, 1, 2, 3].iter().map(|one| few.add(*one, 3, MINUTE, NOW)).collect();
        assert_eq!(counted, [1, 2, 2, 2, 3]);
        assert_eq!((few.add(4, 3, MINUTE, NOW + 59), few.ones.as_slice()), (3, &[2, 3, 4][..]));
        assert_eq!((few.add(4, 3, MINUTE, NOW + 60), few.since), (1, NOW + 60));
    }

    proptest! {
        #[test]
        fn a_window_is_exact(within in 1u32..100, steps in prop::collection::vec(0u32..50, 1..60)) {
            let (mut window, mut all, mut now) = (Window::default(), Vec::new(), NOW);
            for step in steps {
                now += step;
                all.push(now);
                let counted = window.count(Duration::from_secs(u64::from(within)), now);
                prop_assert_eq!(counted as usize, all.iter().filter(|at| now - **at < within).count());
            }
        }

        #[test]
        fn nothing_panics(times in prop::collection::vec(any::<u32>(), 0..70), level: u64, at: u32, within: u64, now: u32) {
            let within = Duration::from_secs(within);
            let mut window = Window { times };
            window.count(within, now);
            window.ends(within);
            let mut leak = Leak { level: level / 2, at };
            leak.count(within, now);
            leak.ends(within);
        }
    }
}
