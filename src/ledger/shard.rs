//! One shard of a table: its entries side by side, an index to find them, and two hands.
//!
//! ```text
//!   entries   | proven . . . . . . | on probation . . . . . |  room  |
//!             0        ^hand       proven                   len      capacity
//!
//!   new ──update──▶ probation ──recall──▶ proven
//!        (full: one on    ▲                  │ (proven full: the one under the hand
//!         probation goes) └──────────────────┘  goes, if not recalled since its last lap)
//! ```
//!
//! An entry moves by changing places with another one; the index holds its number, so each move mends two numbers.
//! A shard knows nothing of locks; time is an argument. Which keys have changed since they were last asked for is noted, if
//! somebody wants to know ([`Shard::note_changes`]).

use std::fmt::Debug;

use ahash::RandomState;
use hashbrown::{HashSet, HashTable};

/// How many entries each newcomer makes us look at, in either part, for what has expired. More than the one that it adds: so
/// the expired are swept faster than they can be added.
const SWEEP: usize = 4;

/// Of how many entries on probation the one that holds least long gives way.
const CANDIDATES: usize = 8;

/// How many times as many changes as there is room for entries are noted: beyond that, those of entries that are gone are
/// forgotten.
const CHANGES: usize = 8;

/// What an entry is found by.
pub(super) trait Key: Copy + Eq + std::hash::Hash + Debug {
    fn hashed(&self, hasher: &RandomState) -> u64;
}

/// What is kept of a key. The default is what is known of a key that has no entry.
pub(super) trait Value: Clone + Default + Debug {
    /// From when on it is as good as the default, in seconds since 1970.
    fn ends(&self) -> u64;
}

#[derive(Clone, Debug)]
struct Entry<K, V> {
    value: V,
    key: K,
    /// Whether it was recalled since it was proven or the hand last came by. Means something among the proven only.
    recalled: bool,
}

impl<K: Key, V: Value> Entry<K, V> {
    fn has_expired(&self, now: u64) -> bool {
        self.value.ends() <= now
    }
}

#[derive(Debug)]
pub(super) struct Shard<K, V> {
    /// From a client's hash to its entry's number.
    index: HashTable<u32>,
    /// The proven first, then those on probation.
    entries: Vec<Entry<K, V>>,
    /// How many are proven.
    proven: usize,
    /// The most entries.
    room: usize,
    /// The most proven entries: three quarters of the room, and always at least one less than it.
    proven_room: usize,
    /// Where the second-chance hand stands among the proven.
    hand: usize,
    /// Where sweeping goes on among the proven.
    swept_proven: usize,
    /// Where sweeping goes on among those on probation, counted from the first of them.
    swept_probation: usize,
    /// The keys whose entries have changed, if somebody wants to know.
    changed: Option<HashSet<K, RandomState>>,
}

impl<K: Key, V: Value> Shard<K, V> {
    pub(super) fn new(room: usize) -> Self {
        Self {
            index: HashTable::new(),
            entries: Vec::new(),
            proven: 0,
            room,
            proven_room: room - room.div_ceil(4),
            hand: 0,
            swept_proven: 0,
            swept_probation: 0,
            changed: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// From here on, notes which keys change.
    pub(super) fn note_changes(&mut self, hasher: &RandomState) {
        self.changed = Some(HashSet::with_hasher(hasher.clone()));
    }

    /// Counts all keys as changed.
    pub(super) fn note_all(&mut self) {
        if let Some(changed) = &mut self.changed {
            changed.extend(self.entries.iter().map(|entry| entry.key));
        }
    }

    /// The keys that have changed, at most `most` of them; they count as unchanged then.
    pub(super) fn take_changes(&mut self, most: usize) -> Vec<K> {
        let Some(changed) = &mut self.changed else { return Vec::new() };
        let some: Vec<K> = changed.iter().take(most).copied().collect();
        for key in &some {
            changed.remove(key);
        }
        if changed.is_empty() {
            changed.shrink_to(64);
        }
        some
    }

    fn note(&mut self, key: K) {
        let most = self.room.saturating_mul(CHANGES);
        if let Some(changed) = &mut self.changed
            && changed.len() < most
        {
            changed.insert(key);
        }
    }

    /// What is known and has not expired; that it was asked for is noted.
    pub(super) fn recall<T>(
        &mut self,
        key: K,
        hash: u64,
        now: u64,
        hasher: &RandomState,
        look: impl FnOnce(&V) -> T,
    ) -> Option<T> {
        let slot = self.find(key, hash)?;
        let entry = self.entries.get_mut(slot)?;
        if entry.has_expired(now) {
            self.remove(slot, hasher);
            return None;
        }
        let seen = look(&entry.value);
        if slot < self.proven {
            entry.recalled = true;
        } else {
            self.prove(slot, now, hasher);
        }
        Some(seen)
    }

    /// What is known, expired or not; that it was asked for makes no difference.
    pub(super) fn peek(&self, key: K, hash: u64) -> Option<&V> {
        self.find(key, hash).and_then(|slot| self.entries.get(slot)).map(|entry| &entry.value)
    }

    /// Changes what is known of `key`. If it means nothing then, it takes no place.
    pub(super) fn update<T>(
        &mut self,
        key: K,
        hash: u64,
        now: u64,
        hasher: &RandomState,
        change: impl FnOnce(&mut V) -> T,
    ) -> (V, T) {
        if let Some(slot) = self.find(key, hash)
            && let Some(entry) = self.entries.get_mut(slot)
        {
            if entry.has_expired(now) {
                entry.value = V::default();
            }
            let answer = change(&mut entry.value);
            let (value, expired) = (entry.value.clone(), entry.has_expired(now));
            self.note(key);
            if expired {
                self.remove(slot, hasher);
            }
            return (value, answer);
        }
        let mut entry = Entry { key, value: V::default(), recalled: false };
        let answer = change(&mut entry.value);
        let value = entry.value.clone();
        if self.room == 0 || entry.has_expired(now) {
            return (value, answer);
        }
        self.sweep(now, hasher);
        if self.entries.len() < self.room {
            self.push(entry, hash, hasher);
        } else if let Some(slot) = self.victim() {
            self.replace(slot, entry, hash, hasher);
        }
        (value, answer)
    }

    /// Takes in what was remembered by an earlier process, as a client that comes again.
    pub(super) fn load(&mut self, key: K, hash: u64, value: V, now: u64, hasher: &RandomState) {
        self.update(key, hash, now, hasher, |place| *place = value);
        self.recall(key, hash, now, hasher, |_| ());
    }

    /// Forgets `key`.
    pub(super) fn forget(&mut self, key: K, hash: u64, hasher: &RandomState) -> bool {
        let slot = self.find(key, hash);
        slot.inspect(|slot| self.remove(*slot, hasher)).is_some()
    }

    /// All that is known, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (K, &V)> {
        self.entries.iter().map(|entry| (entry.key, &entry.value))
    }

    /// The number of the entry of `key`.
    fn find(&self, key: K, hash: u64) -> Option<usize> {
        let is_it = |&slot: &u32| self.entries.get(slot as usize).is_some_and(|entry| entry.key == key);
        self.index.find(hash, is_it).map(|&slot| slot as usize)
    }

    /// Adds an entry on probation; there is room.
    fn push(&mut self, entry: Entry<K, V>, hash: u64, hasher: &RandomState) {
        if self.entries.len() == self.entries.capacity() {
            // By a quarter, not twofold: memory follows what is remembered.
            let more = (self.entries.len() / 4).max(16).min(self.room - self.entries.len());
            self.entries.reserve_exact(more);
        }
        self.note(entry.key);
        self.entries.push(entry);
        self.enter(self.entries.len() - 1, hash, hasher);
    }

    /// Lets an entry give way to another one.
    fn replace(&mut self, slot: usize, entry: Entry<K, V>, hash: u64, hasher: &RandomState) {
        let Some(place) = self.entries.get_mut(slot) else { return };
        let (old, new) = (place.key, entry.key);
        *place = entry;
        self.note(old);
        self.note(new);
        self.strike(old, slot, hasher);
        self.enter(slot, hash, hasher);
    }

    /// Puts the number of the entry with `hash` into the index.
    fn enter(&mut self, slot: usize, hash: u64, hasher: &RandomState) {
        let hash_of = |&slot: &u32| self.entries.get(slot as usize).map_or(0, |entry| entry.key.hashed(hasher));
        self.index.insert_unique(hash, slot as u32, hash_of);
    }

    /// Takes the number of the entry of `key` out of the index.
    fn strike(&mut self, key: K, slot: usize, hasher: &RandomState) {
        if let Ok(found) = self.index.find_entry(key.hashed(hasher), |&other| other as usize == slot) {
            found.remove();
        }
    }

    /// Moves an entry from probation to the proven. If they are full, the hand takes one step: it changes places with the
    /// one that the hand comes to, unless that one was recalled since its last lap and so has earned another.
    ///
    /// One step, and not as many as it takes: else a lap could be over in one call, and its marks would protect nobody.
    fn prove(&mut self, slot: usize, now: u64, hasher: &RandomState) {
        if self.proven < self.proven_room {
            self.swap(slot, self.proven, hasher);
            self.proven += 1;
            return;
        }
        if self.hand >= self.proven {
            self.hand = 0;
        }
        let under = self.hand;
        self.hand += 1;
        let Some(entry) = self.entries.get_mut(under).filter(|_| under < self.proven) else { return };
        let earned = std::mem::take(&mut entry.recalled) && !entry.has_expired(now);
        if !earned {
            self.swap(slot, under, hasher);
        }
    }

    /// Drops what has expired among the next few of either part.
    fn sweep(&mut self, now: u64, hasher: &RandomState) {
        for _ in 0..SWEEP.min(self.proven) {
            if self.swept_proven >= self.proven {
                self.swept_proven = 0;
            }
            if !self.remove_if_expired(self.swept_proven, now, hasher) {
                self.swept_proven += 1;
            }
        }
        for _ in 0..SWEEP.min(self.entries.len() - self.proven) {
            if self.proven + self.swept_probation >= self.entries.len() {
                self.swept_probation = 0;
            }
            if !self.remove_if_expired(self.proven + self.swept_probation, now, hasher) {
                self.swept_probation += 1;
            }
        }
    }

    fn remove_if_expired(&mut self, slot: usize, now: u64, hasher: &RandomState) -> bool {
        let expired = self.entries.get(slot).is_some_and(|entry| entry.has_expired(now));
        if expired {
            self.remove(slot, hasher);
        }
        expired
    }

    /// Which one gives way to a newcomer: of a few on probation, the one that holds least long. They lie far apart, since
    /// those that came together lie together: it would be one of those that hold long where all around do. The proven never
    /// fill the shard, so in a full one there is one.
    fn victim(&mut self) -> Option<usize> {
        let on_probation = self.entries.len() - self.proven;
        let (few, apart) = (CANDIDATES.min(on_probation), (on_probation / CANDIDATES).max(1));
        let next = (0..few).map(|n| self.proven + (self.swept_probation + n * apart) % on_probation);
        let victim = next.min_by_key(|&slot| self.entries.get(slot).map(|entry| entry.value.ends()));
        self.swept_probation += CANDIDATES - SWEEP;
        victim
    }

    /// Takes an entry out. The last one of its part takes its place.
    fn remove(&mut self, slot: usize, hasher: &RandomState) {
        let mut slot = slot;
        if slot < self.proven {
            self.proven -= 1;
            self.swap(slot, self.proven, hasher);
            // The one that takes the place may come under the hand sooner for it.
            if let Some(moved) = self.entries.get_mut(slot) {
                moved.recalled = true;
            }
            slot = self.proven;
        }
        let Some(last) = self.entries.len().checked_sub(1) else { return };
        self.swap(slot, last, hasher);
        if let Some(entry) = self.entries.pop() {
            self.note(entry.key);
            self.strike(entry.key, last, hasher);
        }
    }

    /// Lets two entries change places, and mends the index.
    fn swap(&mut self, a: usize, b: usize, hasher: &RandomState) {
        /// The number of no entry: it holds the place in the index while both would have the same.
        const NONE: u32 = u32::MAX;
        let (Some(first), Some(second)) = (self.entries.get(a), self.entries.get(b)) else { return };
        if a == b {
            return;
        }
        let (first, second) = (first.key.hashed(hasher), second.key.hashed(hasher));
        let (a, b) = (a as u32, b as u32);
        for (hash, from, to) in [(first, a, NONE), (second, b, a), (first, NONE, b)] {
            if let Some(slot) = self.index.find_mut(hash, |&slot| slot == from) {
                *slot = to;
            }
        }
        self.entries.swap(a as usize, b as usize);
    }
}

#[cfg(test)]
impl<K: Key, V: Value> Shard<K, V> {
    /// Memory taken.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.entries.capacity() * size_of::<Entry<K, V>>() + self.index.allocation_size()
    }

    /// Panics unless index and entries agree and the bounds hold.
    pub(super) fn check(&self, hasher: &RandomState) {
        assert!(self.entries.len() <= self.room);
        assert!(self.proven <= self.entries.len() && self.proven <= self.proven_room);
        assert_eq!(self.index.len(), self.entries.len());
        for (slot, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.find(entry.key, entry.key.hashed(hasher)), Some(slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::table::ClientId;
    use crate::screen::Standing;

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry<ClientId, Standing>>(), 44);
    }

    #[test]
    fn there_is_always_a_place_for_a_newcomer() {
        for room in 1..100 {
            assert!(Shard::<ClientId, Standing>::new(room).proven_room < room);
        }
    }
}
