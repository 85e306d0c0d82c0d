//! How many sessions each /24 and /48 has, in a fixed room and without a lock.
//!
//! A prefix counts in one counter of either of two rows, chosen by a seeded hash; it has as many as the lesser of the two
//! says (a count-min sketch). That is never less than the truth, so the limit holds. It is more only if a prefix shares both
//! its counters with busy ones: beside sixteen prefixes that are at their limit, as many as find room in a house of the
//! default size, that is one in four millions.

use std::sync::atomic::{AtomicU32, Ordering};

use ahash::RandomState;

use crate::addr::ClientKey;

/// Counters in a row; a power of two.
const ROW: usize = 32_768;

/// A /24 or a /48, and whether it is the known in it that are meant, in one number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Prefix(u64);

impl Prefix {
    pub(super) fn of(client: ClientKey, known: bool) -> Self {
        let network = match client {
            ClientKey::V4(bits) => 1 << 48 | u64::from(bits >> 8),
            ClientKey::V6(bits) => bits >> 16,
        };
        Self(u64::from(known) << 63 | network)
    }
}

/// The counters: 256 KiB.
#[derive(Debug)]
pub(super) struct Prefixes {
    /// Keys are chosen by whoever connects, so the hash is seeded.
    hasher: RandomState,
    rows: [Box<[AtomicU32]>; 2],
}

impl Prefixes {
    pub(super) fn new() -> Self {
        let row = || (0..ROW).map(|_| AtomicU32::new(0)).collect();
        Self { hasher: RandomState::new(), rows: [row(), row()] }
    }

    /// Counts one more of `prefix`, if it has fewer than `most`.
    pub(super) fn raise(&self, prefix: Prefix, most: u32) -> bool {
        let mut fewer = false;
        for counter in self.counters(prefix) {
            fewer |= counter.fetch_add(1, Ordering::Relaxed) < most;
        }
        if !fewer {
            self.lower(prefix);
        }
        fewer
    }

    /// Counts one fewer of `prefix`.
    pub(super) fn lower(&self, prefix: Prefix) {
        for counter in self.counters(prefix) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn counters(&self, prefix: Prefix) -> impl Iterator<Item = &AtomicU32> {
        let hash = self.hasher.hash_one(prefix.0);
        let [one, other] = &self.rows;
        let at = |row: &'_ [AtomicU32], bits: u64| bits as usize % row.len().max(1);
        let (first, second) = (at(one, hash), at(other, hash >> 32));
        one.get(first).into_iter().chain(other.get(second))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.rows.iter().flatten().all(|counter| counter.load(Ordering::Relaxed) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_limit_and_hardly_ever_less() {
        let prefixes = Prefixes::new();
        let network = |n: u32| Prefix::of(ClientKey::V4(n << 8), false);
        // Sixteen that are at their limit…
        for n in 0..16 {
            assert_eq!((0..600).filter(|_| prefixes.raise(network(n), 500)).count(), 500);
        }
        // …and ten thousand others, one by one.
        let refused = (16..10_016).filter(|n| !prefixes.raise(network(*n), 500)).count();
        assert!(refused <= 1, "{refused} of ten thousand were taken for others");
        for n in 0..16 {
            (0..500).for_each(|_| prefixes.lower(network(n)));
        }
        (16..10_016).take(10_000 - refused).for_each(|n| prefixes.lower(network(n)));
        assert!(refused == 1 || prefixes.is_empty());
    }

    #[test]
    fn a_prefix_is_a_24_or_a_48_and_the_known_are_apart() {
        let of = |ip: &str, known| Prefix::of(ClientKey::of(ip.parse().unwrap()), known);
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.254", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("2001:db8:1:1::1", "2001:db8:1:ffff::1", true),
            ("2001:db8:1::1", "2001:db8:2::1", false),
            ("0.0.0.1", "::1", false),
        ] {
            assert_eq!(of(one, false) == of(other, false), same, "{one} and {other}");
            assert_ne!(of(one, false), of(one, true));
        }
    }
}
