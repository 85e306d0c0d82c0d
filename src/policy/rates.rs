//! How often each client comes: the states of GCRA, in a table that never grows.
//!
//! Whoever connects chooses the keys, so the room is fixed: [`Rates::new`] takes it, 16 bytes a state, and nothing is ever
//! added to it. Each client has its state in one of the eight places of one bucket, chosen by a seeded hash. When a newcomer
//! finds no room there, first one goes that is as good as new ([`Tat::is_past`]), and if all are busy, the one with the
//! least load. So an attacker with a million networks that each come a little pushes out his own: those who have drawn
//! more, the ones worth to be remembered, stay; and of who is forgotten, nothing is forgotten but a smaller load than
//! that of seven others.

use std::fmt;

use ahash::RandomState;
use parking_lot::Mutex;

use super::gcra::{Quota, Tat, Wait};
use crate::addr::ClientKey;
use crate::time::Timestamp;

/// In how many parts the table is locked.
const SHARDS: usize = 64;

/// How many states are looked at for each client: two cache lines.
const WAYS: usize = 8;

/// One client's state. A place that is free has a state that is past.
#[derive(Clone, Copy, Default)]
struct State {
    key: u64,
    tat: Tat,
}

type Bucket = [State; WAYS];

/// The states. Shared by reference; its locks are short.
pub struct Rates {
    /// Keys are chosen by whoever connects, so the hash is seeded.
    hasher: RandomState,
    shards: Box<[Mutex<Box<[Bucket]>>]>,
}

impl Rates {
    /// Room for `states` clients, rounded up; it takes 16 bytes for each.
    pub fn new(states: usize) -> Self {
        let buckets = states.div_ceil(SHARDS * WAYS).max(1);
        let shard = || Mutex::new(vec![Bucket::default(); buckets].into());
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// Takes a draw of `client`'s, if `quota` has one for it.
    pub fn draw(&self, client: ClientKey, quota: Quota, now: Timestamp) -> Result<(), Wait> {
        let key = number(client);
        let hash = self.hasher.hash_one(key);
        let Some(shard) = self.shards.get((hash >> 40) as usize % SHARDS) else { return Ok(()) };
        let mut buckets = shard.lock();
        let count = buckets.len() as u64;
        let Some(bucket) = buckets.get_mut((((hash & 0xffff_ffff) * count) >> 32) as usize) else { return Ok(()) };
        if let Some(state) = bucket.iter_mut().find(|state| state.key == key) {
            return quota.draw(&mut state.tat, now);
        }
        // Whoever is past is less than whoever is not, so that the least goes first in any case.
        let Some(place) = bucket.iter_mut().min_by_key(|state| state.tat) else { return Ok(()) };
        let mut tat = Tat::default();
        let drawn = quota.draw(&mut tat, now);
        *place = State { key, tat };
        drawn
    }

    /// How many bytes the table takes, whoever comes.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| size_of_val(&**shard.lock())).sum()
    }
}

/// A client as one number. An IPv4 address stands where the IPv6 network `::/32` would have its /64s, from which nobody
/// comes.
fn number(client: ClientKey) -> u64 {
    match client {
        ClientKey::V4(bits) => u64::from(bits),
        ClientKey::V6(bits) => bits,
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rates").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

    fn quota(text: &str) -> Quota {
        text.parse().unwrap()
    }

    fn draws(rates: &Rates, client: ClientKey, quota: Quota, now: Timestamp) -> u32 {
        (0..).find(|_| rates.draw(client, quota, now).is_err()).unwrap()
    }

    #[test]
    fn each_client_has_its_own() {
        let rates = Rates::new(1000);
        let quota = quota("3/3s");
        for client in [ClientKey::V4(1), ClientKey::V4(2), ClientKey::V6(1 << 61), ClientKey::V6(1 << 61 | 1)] {
            assert_eq!(draws(&rates, client, quota, NOW), 3, "{client}");
        }
        let wait = rates.draw(ClientKey::V4(1), quota, NOW).unwrap_err();
        assert_eq!(wait.span(), Duration::from_secs(1));
        assert_eq!(draws(&rates, ClientKey::V4(1), quota, NOW.plus(wait.span())), 1);
    }

    #[test]
    fn a_state_takes_sixteen_bytes_and_a_million_networks_do_not_add_one() {
        let rates = Rates::new(131_072);
        let before = rates.bytes();
        assert_eq!(before, 131_072 * 16);
        let quota = quota("60/1m");
        for n in 0..1_000_000 {
            rates.draw(ClientKey::V6(0x2001_0db8_0000_0000 + n), quota, NOW).unwrap();
        }
        println!("a million networks: {} bytes before and after", rates.bytes());
        assert_eq!(rates.bytes(), before);
    }

    #[test]
    fn a_million_networks_do_not_wash_out_those_who_have_drawn() {
        let rates = Rates::new(16_384);
        let quota = quota("60/1m");
        // Few enough that no bucket is full of them.
        let busy: Vec<ClientKey> = (0..2000).map(|n| ClientKey::V4(0x0a00_0000 + n)).collect();
        for client in &busy {
            (0..30).for_each(|_| rates.draw(*client, quota, NOW).unwrap());
        }
        for n in 0..1_000_000 {
            let _ = rates.draw(ClientKey::V6(0x2001_0db8_0000_0000 + n), quota, NOW);
        }
        let forgotten = busy.iter().filter(|client| draws(&rates, **client, quota, NOW) != 30).count();
        assert!(forgotten <= 2, "{forgotten} of 2000 were forgotten");
    }

    #[test]
    fn who_is_as_good_as_new_goes_first() {
        let rates = Rates::new(1);
        let (quota, other) = (quota("60/1m"), super::tests::quota("1000/10s"));
        let full = SHARDS * WAYS;
        for n in 0..full as u32 * 4 {
            rates.draw(ClientKey::V4(n), quota, NOW).unwrap();
        }
        // All of them are past by now; whoever came since is not, and is not pushed out by who comes after.
        let later = NOW.plus(Duration::from_secs(2));
        let mut kept = 0;
        for n in 0..64 {
            let client = ClientKey::V4(0x0a00_0000 + n);
            rates.draw(client, other, later).unwrap();
            kept += u32::from(draws(&rates, client, other, later) == 999);
        }
        assert_eq!(kept, 64);
    }

    #[test]
    fn many_threads_draw_no_more_than_there_is() {
        let rates = Rates::new(1000);
        let quota = quota("1000/1h");
        let drawn: usize = std::thread::scope(|scope| {
            let draw = || (0..1000).filter(|_| rates.draw(ClientKey::V4(7), quota, NOW).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(drawn, 1000);
    }
}
