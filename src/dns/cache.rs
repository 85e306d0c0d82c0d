//! What was learned of addresses that were asked about lately: one shard of it, behind one short lock.
//!
//! Promises: at most as many entries as it was made for; what has expired makes room first, then what expires next.
//! Pure: `now` is an argument.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;
use tokio::time::Instant;

/// One shard of the cache.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    capacity: usize,
    /// What was learned, and from when on it does not hold.
    entries: HashMap<IpAddr, (T, Instant), ahash::RandomState>,
    /// The same, by expiry.
    order: BTreeSet<(Instant, IpAddr)>,
}

impl<T> Cache<T> {
    /// An empty one for so many addresses.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::default(), order: BTreeSet::new() }
    }

    /// What is remembered of `client`, if it still holds.
    pub(crate) fn recall(&mut self, client: &IpAddr, now: Instant) -> Option<&T> {
        if self.entries.get(client)?.1 <= now {
            self.forget(client);
            return None;
        }
        self.entries.get(client).map(|(learned, _)| learned)
    }

    /// Remembers what was `learned` of `client` until it `expires`, in place of what was remembered before.
    pub(crate) fn remember(&mut self, client: IpAddr, learned: T, expires: Instant) {
        self.forget(&client);
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity
            && let Some((_, first)) = self.order.pop_first()
        {
            self.entries.remove(&first);
        }
        self.order.insert((expires, client));
        self.entries.insert(client, (learned, expires));
    }

    /// How many clients are remembered, the expired among them.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn forget(&mut self, client: &IpAddr) {
        if let Some((_, expires)) = self.entries.remove(client) {
            self.order.remove(&(expires, *client));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    fn client(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    fn after(at: Instant, seconds: u64) -> Instant {
        at + Duration::from_secs(seconds)
    }

    #[test]
    fn holds_until_it_expires() {
        let (mut cache, now) = (Cache::new(9), Instant::now());
        cache.remember(client(1), (), after(now, 60));
        assert!(cache.recall(&client(1), now + Duration::from_secs(59)).is_some());
        assert!(cache.recall(&client(2), now).is_none());
        assert!(cache.recall(&client(1), now + Duration::from_secs(60)).is_none());
        assert_eq!((cache.len(), cache.order.len()), (0, 0), "what has expired goes when it is met");
    }

    #[test]
    fn what_expires_first_makes_room() {
        let (mut cache, now) = (Cache::new(3), Instant::now());
        for (number, seconds) in [(1, 30), (2, 10), (3, 20), (4, 40), (5, 5)] {
            cache.remember(client(number), (), after(now, seconds));
            assert!(cache.len() <= 3 && cache.len() == cache.order.len());
        }
        let kept: Vec<u8> = (1..=5).filter(|&number| cache.recall(&client(number), now).is_some()).collect();
        assert_eq!(kept, [1, 4, 5]);
    }

    #[test]
    fn a_newer_entry_replaces_an_older() {
        let (mut cache, now) = (Cache::new(2), Instant::now());
        for seconds in [10, 60, 30] {
            cache.remember(client(1), (), after(now, seconds));
        }
        assert_eq!((cache.len(), cache.order.len()), (1, 1));
        assert!(cache.recall(&client(1), now + Duration::from_secs(31)).is_none());
    }

    #[test]
    fn a_cache_for_nobody_remembers_nothing() {
        let (mut cache, now) = (Cache::new(0), Instant::now());
        cache.remember(client(1), (), after(now, 60));
        assert_eq!(cache.len(), 0);
    }
}
