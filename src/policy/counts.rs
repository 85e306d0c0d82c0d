//! How many of each key there are: a table in parts, so that cores do not wait for each other.
//!
//! A key has an entry only while its count is above zero, so there are never more entries than what is counted.

use std::hash::Hash;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;

const SHARDS: usize = 64;

/// Counts by key.
#[derive(Debug)]
pub(super) struct Counts<K> {
    /// Keys are chosen by whoever connects, so the hash is seeded.
    hasher: RandomState,
    shards: [Mutex<HashTable<(K, u32)>>; SHARDS],
}

impl<K: Copy + Eq + Hash> Counts<K> {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::new(HashTable::new())) }
    }

    /// Counts one more of `key`, if there are fewer than `most` (else `full` is the answer) and `rest`, which is called under
    /// the lock, has nothing against it.
    pub(super) fn raise<E>(&self, key: K, most: u32, full: E, rest: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if most == 0 {
            return Err(full);
        }
        let hash = self.hasher.hash_one(key);
        let Some(shard) = self.shard(hash) else { return Err(full) };
        let mut counts = shard.lock();
        match counts.entry(hash, |(other, _)| *other == key, |(key, _)| self.hasher.hash_one(key)) {
            Entry::Occupied(mut entry) => {
                let (_, count) = entry.get_mut();
                if *count >= most {
                    return Err(full);
                }
                rest()?;
                *count += 1;
            }
            Entry::Vacant(entry) => {
                rest()?;
                entry.insert((key, 1));
            }
        }
        Ok(())
    }

    /// Counts one fewer of `key`.
    pub(super) fn lower(&self, key: K) {
        let hash = self.hasher.hash_one(key);
        let Some(shard) = self.shard(hash) else { return };
        let mut counts = shard.lock();
        let Ok(mut entry) = counts.find_entry(hash, |(other, _)| *other == key) else { return };
        let (_, count) = entry.get_mut();
        *count = count.saturating_sub(1);
        if *count == 0 {
            entry.remove();
            // What a burst took is given back, though not at every ebb.
            if counts.capacity() > 64 && counts.len() < counts.capacity() / 8 {
                let room = counts.len() * 2;
                counts.shrink_to(room, |(key, _)| self.hasher.hash_one(key));
            }
        }
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<HashTable<(K, u32)>>> {
        // The tables use the lowest and the highest bits.
        self.shards.get((hash >> 40) as usize % SHARDS)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().capacity()).sum()
    }
}
