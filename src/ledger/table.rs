//! A table: shards under locks of their own, so that cores do not wait for each other.

use std::fmt::Debug;

use ahash::RandomState;
use parking_lot::Mutex;

use super::shard::{Key, Shard, Value};
use crate::addr::ClientKey;
use crate::policy::guard::{Account, Network, Tally};
use crate::screen::Standing;
use crate::time::Timestamp;

/// The most entries of a shard. It bounds the longest that a lock is held (a lap of the hand, or the index rehashed:
/// tens of microseconds), and fits an index of 4096 buckets, or, with the marks that removals leave, of 8192.
const SHARD_ENTRIES: usize = 3584;

/// A [`ClientKey`] in bytes, so that an entry is 44 bytes and not 56: its family, and its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct ClientId([u8; 9]);

impl ClientId {
    pub(super) fn of(client: ClientKey) -> Self {
        let (family, bits) = match client {
            ClientKey::V4(bits) => (4, u64::from(bits)),
            ClientKey::V6(bits) => (6, bits),
        };
        let [a, b, c, d, e, f, g, h] = bits.to_be_bytes();
        Self([family, a, b, c, d, e, f, g, h])
    }

    pub(super) fn client(self) -> ClientKey {
        let [family, bits @ ..] = self.0;
        let bits = u64::from_be_bytes(bits);
        if family == 4 { ClientKey::V4(bits as u32) } else { ClientKey::V6(bits) }
    }
}

impl Key for ClientId {
    /// An IPv4 client and an IPv6 network may share a hash: two keys at the most, and one number is hashed fastest.
    fn hashed(&self, hasher: &RandomState) -> u64 {
        let [_, bits @ ..] = self.0;
        hasher.hash_one(u64::from_be_bytes(bits))
    }
}

/// An account's digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct AccountId(pub(super) [u8; 16]);

impl Key for AccountId {
    fn hashed(&self, hasher: &RandomState) -> u64 {
        hasher.hash_one(self.0)
    }
}

impl Value for Standing {
    fn ends(&self) -> u64 {
        self.expires().seconds()
    }
}

impl Value for Tally {
    fn ends(&self) -> u64 {
        u64::from(self.ends)
    }
}

impl Value for Network {
    fn ends(&self) -> u64 {
        u64::from(self.ends)
    }
}

impl Value for Account {
    fn ends(&self) -> u64 {
        u64::from(self.ends)
    }
}

/// Bounded, expiring; see the module's description of who gives way.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    /// Keys are chosen by whoever connects, so the hash is seeded.
    pub(super) hasher: RandomState,
    /// Locked one at a time.
    pub(super) shards: Box<[Mutex<Shard<K, V>>]>,
}

impl<K: Key, V: Value> Table<K, V> {
    /// An empty table of at most so many entries. Memory is taken as they come.
    pub(super) fn new(entries: usize) -> Self {
        let count = entries.div_ceil(SHARD_ENTRIES).max(1);
        let (each, rest) = (entries / count, entries % count);
        let shards = (0..count).map(|n| Mutex::new(Shard::new(each + usize::from(n < rest)))).collect();
        Self { hasher: RandomState::new(), shards }
    }

    pub(super) fn note_changes(&self) {
        self.shards.iter().for_each(|shard| shard.lock().note_changes(&self.hasher));
    }

    pub(super) fn note_all(&self) {
        self.shards.iter().for_each(|shard| shard.lock().note_all());
    }

    /// What is known of `key`, and has not expired. It is looked at where it is: a copy of some would take memory.
    pub(super) fn recall<T>(&self, key: K, now: Timestamp, look: impl FnOnce(&V) -> T) -> Option<T> {
        let hash = key.hashed(&self.hasher);
        self.shard(hash)?.lock().recall(key, hash, now.seconds(), &self.hasher, look)
    }

    /// What is known of `key`, and has not expired, without any consequence for how long it is kept.
    pub(super) fn peek<T>(&self, key: K, now: Timestamp, look: impl FnOnce(&V) -> T) -> Option<T> {
        let hash = key.hashed(&self.hasher);
        let shard = self.shard(hash)?.lock();
        shard.peek(key, hash).filter(|value| value.ends() > now.seconds()).map(look)
    }

    /// Changes what is known of `key`; what is known then, and what `change` says.
    pub(super) fn update<T>(&self, key: K, now: Timestamp, change: impl FnOnce(&mut V) -> T) -> (V, T) {
        let hash = key.hashed(&self.hasher);
        match self.shard(hash) {
            Some(shard) => shard.lock().update(key, hash, now.seconds(), &self.hasher, change),
            None => {
                let mut value = V::default();
                let answer = change(&mut value);
                (value, answer)
            }
        }
    }

    /// Changes what is known of `key` where something is.
    pub(super) fn update_known(&self, key: K, now: Timestamp, change: impl FnOnce(&mut V)) {
        let hash = key.hashed(&self.hasher);
        if let Some(shard) = self.shard(hash) {
            let mut shard = shard.lock();
            if shard.peek(key, hash).is_some() {
                shard.update(key, hash, now.seconds(), &self.hasher, change);
            }
        }
    }

    pub(super) fn load(&self, key: K, value: V, now: Timestamp) {
        let hash = key.hashed(&self.hasher);
        if let Some(shard) = self.shard(hash) {
            shard.lock().load(key, hash, value, now.seconds(), &self.hasher);
        }
    }

    pub(super) fn forget(&self, key: K) -> bool {
        let hash = key.hashed(&self.hasher);
        self.shard(hash).is_some_and(|shard| shard.lock().forget(key, hash, &self.hasher))
    }

    /// Takes each lock in turn: for metrics, not for each connection.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Shows all entries, a shard at a time.
    pub(super) fn each(&self, mut show: impl FnMut(K, &V)) {
        for shard in &self.shards {
            // Out of the lock: whoever looks may take long.
            let entries: Vec<(K, V)> = shard.lock().all().map(|(key, value)| (key, value.clone())).collect();
            entries.iter().for_each(|(key, value)| show(*key, value));
        }
    }

    /// Shows what has changed, at most `most` entries: the key, and what is known of it, if anything is.
    pub(super) fn take_changes(&self, most: usize, mut show: impl FnMut(K, Option<&V>)) {
        let mut left = most;
        for shard in &self.shards {
            if left == 0 {
                return;
            }
            let mut shard = shard.lock();
            let changed = shard.take_changes(left);
            left -= changed.len();
            for key in changed {
                show(key, shard.peek(key, key.hashed(&self.hasher)));
            }
        }
    }

    /// The shard for `hash`. Its middle bits choose: the index within the shard uses the lowest and the highest.
    fn shard(&self, hash: u64) -> Option<&Mutex<Shard<K, V>>> {
        let spread = ((hash >> 16) & 0xffff_ffff) as usize;
        self.shards.get((spread * self.shards.len()) >> 32)
    }
}
