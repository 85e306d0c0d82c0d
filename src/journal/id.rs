//! The names of visits: ten symbols that can be read over the phone, such as `7K2MQ-9XV4T`.
//!
//! An id is 50 bits, in Crockford's base 32: digits and capital letters without I, L, O and U. The hyphen in the middle
//! is for the eye. Read back, case does not matter, hyphens are passed over, I and L are 1, O is 0.
//!
//! Ids are a counter, sent through a permutation of 50 bits that a secret keyed at start has chosen: so none is given
//! twice while a process runs, the next one cannot be told from the last, and two processes share one by chance alone
//! (two days of a million visits each, restarted in between: one chance in a thousand that there is a single pair).

use std::fmt;
use std::hash::BuildHasher;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::time::Timestamp;

/// Names a visit: in the journal, in every refusal, and to `explain`. The lower [`VisitId::BITS`] count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VisitId(pub u64);

/// Why a text is not a visit's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a visit's id: that is ten digits and letters, such as 7K2MQ-9XV4T")]
pub struct NotAVisitId;

const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl VisitId {
    /// How many bits an id has.
    pub const BITS: u32 = 50;

    /// The id as it is written.
    pub fn symbols(self) -> [u8; 11] {
        let mut text = [b'-'; 11];
        let mut rest = self.0;
        for place in text.iter_mut().rev().enumerate().filter_map(|(n, place)| (n != 5).then_some(place)) {
            *place = SYMBOLS.get((rest & 31) as usize).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        text
    }
}

impl fmt::Display for VisitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(str::from_utf8(&self.symbols()).unwrap_or_default())
    }
}

impl FromStr for VisitId {
    type Err = NotAVisitId;

    fn from_str(text: &str) -> Result<Self, NotAVisitId> {
        let (mut id, mut symbols) = (0u64, 0);
        for byte in text.trim().bytes().filter(|&byte| byte != b'-') {
            let byte = match byte.to_ascii_uppercase() {
                b'I' | b'L' => b'1',
                b'O' => b'0',
                other => other,
            };
            let value = SYMBOLS.iter().position(|&symbol| symbol == byte).ok_or(NotAVisitId)?;
            id = id << 5 | value as u64;
            symbols += 1;
            if symbols > 10 {
                return Err(NotAVisitId);
            }
        }
        if symbols == 10 { Ok(Self(id)) } else { Err(NotAVisitId) }
    }
}

/// Gives ids out. Without a lock.
#[derive(Debug)]
pub struct VisitIds {
    next: AtomicU64,
    keys: [u64; 4],
}

/// Half of an id: what one round of the permutation works on.
const HALF: u32 = VisitId::BITS / 2;
const HALF_MASK: u64 = (1 << HALF) - 1;

impl VisitIds {
    /// Ids for a process that starts at `start`. The operating system's randomness goes in too.
    pub fn new(start: Timestamp) -> Self {
        let secret = std::hash::RandomState::new();
        Self::keyed(|round| secret.hash_one((start.millis(), round)))
    }

    /// The same ids each time: for tests.
    pub fn seeded(seed: u64) -> Self {
        Self::keyed(|round| mix(seed.wrapping_add(round)))
    }

    fn keyed(key: impl Fn(u64) -> u64) -> Self {
        Self { next: AtomicU64::new(key(4)), keys: [key(0), key(1), key(2), key(3)] }
    }

    /// The next id.
    #[allow(clippy::should_implement_trait, reason = "it takes &self, and never ends")]
    pub fn next(&self) -> VisitId {
        VisitId(self.permute(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// A Feistel network of four rounds: one-to-one on 50 bits, whatever the rounds mix.
    fn permute(&self, n: u64) -> u64 {
        let (mut left, mut right) = (n >> HALF & HALF_MASK, n & HALF_MASK);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & HALF_MASK));
        }
        left << HALF | right
    }
}

/// Spreads each bit over all (the finalizer of SplitMix64).
fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_looks_like_this() {
        assert_eq!(VisitId(0).to_string(), "00000-00000");
        assert_eq!(VisitId((1 << 50) - 1).to_string(), "ZZZZZ-ZZZZZ");
        assert_eq!(VisitId(0b11111).to_string(), "00000-0000Z");
        assert_eq!(VisitId(1 << 25).to_string(), "00001-00000");
        assert_eq!(format!("[{:>12}]", VisitId(0)), "[ 00000-00000]");
    }

    #[test]
    fn what_a_person_writes_is_read() {
        for (text, id) in [
            ("7K2MQ-9XV4T", Ok("7K2MQ-9XV4T")),
            ("7k2mq9xv4t", Ok("7K2MQ-9XV4T")),
            ("  7k2-mq9-xv4t ", Ok("7K2MQ-9XV4T")),
            ("OoIiL-lo0l1", Ok("00111-10011")),
            ("7K2MQ-9XV4", Err(NotAVisitId)),
            ("7K2MQ-9XV4T0", Err(NotAVisitId)),
            ("7K2MQ-9XV4U", Err(NotAVisitId)),
            ("7K2MQ 9XV4T", Err(NotAVisitId)),
            ("7K2MQ-9XV4é", Err(NotAVisitId)),
            ("", Err(NotAVisitId)),
        ] {
            assert_eq!(text.parse().map(|id: VisitId| id.to_string()), id.map(str::to_string), "{text}");
        }
    }

    #[test]
    fn none_is_given_twice_and_neighbours_are_far_apart() {
        let ids = VisitIds::seeded(7);
        let given: Vec<_> = (0..200_000).map(|_| ids.next().0).collect();
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len());
        assert!(given.iter().all(|&id| id < 1 << VisitId::BITS));
        // Of 50 bits, about 25 differ from one to the next, as between any two numbers.
        let differ: u32 = given.windows(2).map(|pair| (pair[0] ^ pair[1]).count_ones()).sum();
        let mean = f64::from(differ) / (given.len() - 1) as f64;
        assert!((24.5..25.5).contains(&mean), "{mean}");
    }

    #[test]
    fn the_next_process_gives_others() {
        let start = Timestamp::from_seconds(1_700_000_000);
        let (one, two) = (VisitIds::new(start), VisitIds::new(start));
        let given: HashSet<_> = (0..1000).flat_map(|_| [one.next(), two.next()]).collect();
        assert_eq!(given.len(), 2000);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bits in 0u64..1 << VisitId::BITS) {
            prop_assert_eq!(VisitId(bits).to_string().parse(), Ok(VisitId(bits)));
        }

        #[test]
        fn different_counts_give_different_ids(seed: u64, a in 0u64..1 << 50, b in 0u64..1 << 50) {
            let ids = VisitIds::seeded(seed);
            prop_assert_eq!(ids.permute(a) == ids.permute(b), a == b);
        }
    }
}
