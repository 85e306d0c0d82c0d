//! What the lists said of the clients that were asked about lately: one shard of it, behind one short lock.
//!
//! Promises: at most as many entries as it was made for; what has expired makes room first, then what expires next.
//! Pure: `now` is an argument.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::screen::score::Word;

/// What the lists said of a client.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Their words, in the order of the lists; a list that did not answer is left out.
    pub(super) words: Box<[Word]>,
    /// When they were asked; TTLs count from here.
    pub(super) at: Instant,
    /// From when on it does not hold.
    pub(super) expires: Instant,
}

/// One shard of the cache.
#[derive(Debug)]
pub(super) struct Cache {
    capacity: usize,
    entries: HashMap<IpAddr, Entry, ahash::RandomState>,
    /// The same, by expiry.
    order: BTreeSet<(Instant, IpAddr)>,
}

impl Cache {
    /// An empty one for so many clients.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::default(), order: BTreeSet::new() }
    }

    /// What is remembered of `client`, if it still holds.
    pub(super) fn recall(&mut self, client: &IpAddr, now: Instant) -> Option<&Entry> {
        if self.entries.get(client)?.expires <= now {
            self.forget(client);
            return None;
        }
        self.entries.get(client)
    }

    /// Remembers what was said of `client`, in place of what was remembered before.
    pub(super) fn remember(&mut self, client: IpAddr, entry: Entry) {
        self.forget(&client);
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity
            && let Some((_, first)) = self.order.pop_first()
        {
            self.entries.remove(&first);
        }
        self.order.insert((entry.expires, client));
        self.entries.insert(client, entry);
    }

    /// How many clients are remembered, the expired among them.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn forget(&mut self, client: &IpAddr) {
        if let Some(entry) = self.entries.remove(client) {
            self.order.remove(&(entry.expires, *client));
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

    fn entry(at: Instant, seconds: u64) -> Entry {
        Entry { words: Box::new([]), at, expires: at + Duration::from_secs(seconds) }
    }

    #[test]
    fn holds_until_it_expires() {
        let (mut cache, now) = (Cache::new(9), Instant::now());
        cache.remember(client(1), entry(now, 60));
        assert!(cache.recall(&client(1), now + Duration::from_secs(59)).is_some());
        assert!(cache.recall(&client(2), now).is_none());
        assert!(cache.recall(&client(1), now + Duration::from_secs(60)).is_none());
        assert_eq!((cache.len(), cache.order.len()), (0, 0), "what has expired goes when it is met");
    }

    #[test]
    fn what_expires_first_makes_room() {
        let (mut cache, now) = (Cache::new(3), Instant::now());
        for (number, seconds) in [(1, 30), (2, 10), (3, 20), (4, 40), (5, 5)] {
            cache.remember(client(number), entry(now, seconds));
            assert!(cache.len() <= 3 && cache.len() == cache.order.len());
        }
        let kept: Vec<u8> = (1..=5).filter(|&number| cache.recall(&client(number), now).is_some()).collect();
        assert_eq!(kept, [1, 4, 5]);
    }

    #[test]
    fn a_newer_entry_replaces_an_older() {
        let (mut cache, now) = (Cache::new(2), Instant::now());
        for seconds in [10, 60, 30] {
            cache.remember(client(1), entry(now, seconds));
        }
        assert_eq!((cache.len(), cache.order.len()), (1, 1));
        assert!(cache.recall(&client(1), now + Duration::from_secs(31)).is_none());
    }

    #[test]
    fn a_cache_for_nobody_remembers_nothing() {
        let (mut cache, now) = (Cache::new(0), Instant::now());
        cache.remember(client(1), entry(now, 60));
        assert_eq!(cache.len(), 0);
    }
}
