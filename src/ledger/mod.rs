//! The ledger: what gatepost remembers of clients. Few verbs, each bounded, none of them waits for anything but a lock
//! that is held for microseconds.
//!
//! # What it promises
//!
//! - Never more than [`Settings::entries`] clients, about 55 bytes each, whoever connects.
//! - A pass counts to the second that it was remembered for, and not a second longer: expiry is looked at when a client
//!   is recalled. What expired is swept a few entries at a time by those who remember, so there is no pause and no thread
//!   for it.
//! - Clients that come again are kept rather than those that came once. An entry is *on probation* when it is new and
//!   *proven* once it has been recalled while it held something. At most three quarters of the places are for the proven.
//!
//! # Who gives way
//!
//! When there is no room: the expired first; then, on probation, whichever of the next few holds least long. The proven
//! never give way to a newcomer. They give way to one another alone, by second chance: when all their places are taken,
//! each recall of a client on probation moves a hand one place on among the proven, and the client under it goes back on
//! probation in exchange, unless it was recalled since the hand last came by.
//!
//! So an attacker who comes once from each of a million addresses, however many of them pass a test, pushes out clients
//! that came once and no others. A proven client that comes again is put back on probation only after three quarters ×
//! [`Settings::entries`] recalls of clients on probation since its last visit; and each client put back costs the attacker
//! an address that was remembered and came again. (Places are kept by shard; clients are spread over the shards by a
//! seeded hash that he does not know. The figures hold for each shard by itself, and he cannot choose one.)
//!
//! # Another store
//!
//! A store that outlives the process, or that several hosts share, takes its place behind the same verbs, with this one
//! as the copy in front of it: `recall` answers from the copy and never waits for a network; `remember` writes to the
//! copy and puts the change into a bounded queue for the store; what other hosts remember comes in as `remember` too,
//! where the longer pass wins, so that order does not matter. With the store away, each host goes on alone.

mod shard;

pub mod memory_store;
pub mod shared;
pub mod store;

use ahash::RandomState;
use parking_lot::Mutex;

use crate::addr::ClientKey;
use crate::screen::{Standing, Tests};
use crate::time::Timestamp;

use shard::{Key, Shard};

/// How much is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The most clients that are remembered; the least useful give way. Nothing is remembered if it is 0.
    pub entries: usize,
}

impl Default for Settings {
    /// A million clients: about 55 MB, once so many have come.
    fn default() -> Self {
        Self { entries: 1_000_000 }
    }
}

/// The most entries of a shard. It bounds the longest that a lock is held (a lap of the hand, or the index rehashed:
/// tens of microseconds), and fits an index of 4096 buckets, or, with the marks that removals leave, of 8192.
const SHARD_ENTRIES: usize = 3584;

/// What is remembered, in memory, bounded and expiring. Shared by reference; its locks are short.
#[derive(Debug)]
pub struct Ledger {
    /// Keys are chosen by whoever connects, so the hash is seeded.
    hasher: RandomState,
    /// Locked one at a time, so that cores do not wait for each other.
    shards: Box<[Mutex<Shard>]>,
}

impl Ledger {
    /// An empty ledger. Memory is taken as clients come.
    pub fn open(settings: Settings) -> Self {
        let count = settings.entries.div_ceil(SHARD_ENTRIES).max(1);
        let (each, rest) = (settings.entries / count, settings.entries % count);
        let shards = (0..count).map(|n| Mutex::new(Shard::new(each + usize::from(n < rest)))).collect();
        Self { hasher: RandomState::new(), shards }
    }

    /// What is known of a client; a stranger's standing if nothing is, or all of it has expired.
    pub fn recall(&self, client: ClientKey, now: Timestamp) -> Standing {
        let key = Key::of(client);
        let hash = key.hash(&self.hasher);
        match self.shard(hash) {
            Some(shard) => shard.lock().recall(key, hash, now, &self.hasher).unwrap_or_default(),
            None => Standing::stranger(),
        }
    }

    /// Remembers a client's standing. A pass that an entry already holds for longer stays; see [`Standing::pass`]. A
    /// standing in which nothing holds any more takes no place.
    pub fn remember(&self, client: ClientKey, standing: Standing, now: Timestamp) {
        let key = Key::of(client);
        let hash = key.hash(&self.hasher);
        if let Some(shard) = self.shard(hash) {
            shard.lock().remember(key, hash, standing, now, &self.hasher);
        }
    }

    /// Takes the passes of `tests` back, for the client has failed them since.
    pub fn revoke(&self, client: ClientKey, tests: Tests) {
        let key = Key::of(client);
        let hash = key.hash(&self.hasher);
        if let Some(shard) = self.shard(hash) {
            shard.lock().revoke(key, hash, tests);
        }
    }

    /// How many clients are remembered, the expired ones that have not been swept yet included. Takes each lock in turn:
    /// for metrics, not for each connection.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shard for `hash`. Its middle bits choose: the index within the shard uses the lowest and the highest.
    fn shard(&self, hash: u64) -> Option<&Mutex<Shard>> {
        let spread = ((hash >> 16) & 0xffff_ffff) as usize;
        self.shards.get((spread * self.shards.len()) >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::screen::Test;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

    fn client(n: u32) -> ClientKey {
        ClientKey::V4(n)
    }

    fn holding(test: Test, span: Duration) -> Standing {
        let mut standing = Standing::stranger();
        standing.pass(test, NOW.plus(span));
        standing
    }

    fn week() -> Standing {
        holding(Test::Pregreet, Duration::from_secs(7 * 86_400))
    }

    fn bytes(ledger: &Ledger) -> usize {
        ledger.shards.iter().map(|shard| shard.lock().bytes()).sum()
    }

    #[test]
    fn a_pass_that_is_revoked_is_gone_and_the_others_stay() {
        let ledger = Ledger::open(Settings { entries: 10 });
        let hour = Duration::from_secs(3600);
        ledger.remember(client(1), holding(Test::HeloName, hour), NOW);
        ledger.remember(client(1), holding(Test::Pregreet, hour), NOW);
        let mut failed = Tests::NONE;
        failed.insert(Test::HeloName);
        ledger.revoke(client(1), failed);
        ledger.revoke(client(2), failed);
        let standing = ledger.recall(client(1), NOW);
        assert!(!standing.holds(Test::HeloName, NOW));
        assert!(standing.holds(Test::Pregreet, NOW));
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn what_is_remembered_is_recalled() {
        let ledger = Ledger::open(Settings { entries: 10 });
        assert_eq!(ledger.recall(client(1), NOW), Standing::stranger());
        ledger.remember(client(1), week(), NOW);
        assert_eq!(ledger.recall(client(1), NOW), week());
        assert_eq!(ledger.recall(client(2), NOW), Standing::stranger());
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn an_ipv4_client_and_an_ipv6_network_with_the_same_bits_are_two() {
        let ledger = Ledger::open(Settings { entries: 10 });
        ledger.remember(ClientKey::V4(7), week(), NOW);
        assert_eq!(ledger.recall(ClientKey::V6(7), NOW), Standing::stranger());
        assert_eq!(ledger.recall(ClientKey::of(IpAddr::V4(Ipv4Addr::from(7))), NOW), week());
    }

    #[test]
    fn neighbours_in_a_64_share_a_standing() {
        let ledger = Ledger::open(Settings { entries: 10 });
        let [a, b] = [1u128, 2].map(|host| {
            let bits = 0x2001_0db8_0000_0001_0000_0000_0000_0000 | host;
            ClientKey::of(IpAddr::V6(Ipv6Addr::from(bits)))
        });
        ledger.remember(a, week(), NOW);
        assert_eq!(ledger.recall(b, NOW), week());
    }

    #[test]
    fn a_pass_expires_to_the_second() {
        let ledger = Ledger::open(Settings { entries: 10 });
        ledger.remember(client(1), holding(Test::Dnsbl, Duration::from_secs(60)), NOW);
        let last = Timestamp::from_millis(NOW.plus(Duration::from_secs(60)).millis() - 1);
        assert!(ledger.recall(client(1), last).holds(Test::Dnsbl, last));
        let after = NOW.plus(Duration::from_secs(60));
        assert_eq!(ledger.recall(client(1), after), Standing::stranger());
        assert_eq!(ledger.len(), 0, "what has expired is dropped when it is met");
    }

    #[test]
    fn the_longer_pass_stays_for_each_test() {
        let ledger = Ledger::open(Settings { entries: 10 });
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(600));
        let mut first = holding(Test::Pregreet, long);
        first.pass(Test::Dnsbl, NOW.plus(short));
        let mut second = holding(Test::Pregreet, short);
        second.pass(Test::Dnsbl, NOW.plus(long));
        ledger.remember(client(1), first, NOW);
        ledger.remember(client(1), second, NOW);
        let both = ledger.recall(client(1), NOW);
        assert_eq!((both.until(Test::Pregreet), both.until(Test::Dnsbl)), (NOW.plus(long), NOW.plus(long)));
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn nothing_to_remember_takes_no_place() {
        let ledger = Ledger::open(Settings { entries: 10 });
        ledger.remember(client(1), Standing::stranger(), NOW);
        ledger.remember(client(2), week(), NOW.plus(Duration::from_secs(8 * 86_400)));
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_ledger_without_places_remembers_nothing() {
        let ledger = Ledger::open(Settings { entries: 0 });
        ledger.remember(client(1), week(), NOW);
        assert_eq!(ledger.recall(client(1), NOW), Standing::stranger());
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_million_addresses_do_not_grow_it_past_its_cap() {
        let settings = Settings { entries: 250_000 };
        let ledger = Ledger::open(settings);
        for n in 0..1_000_000 {
            ledger.remember(client(n), week(), NOW);
        }
        let (len, bytes) = (ledger.len(), bytes(&ledger));
        println!("{len} entries in {bytes} bytes: {:.1} bytes an entry", bytes as f64 / len as f64);
        assert_eq!(len, settings.entries);
        assert!(bytes < 60 * settings.entries, "{bytes} bytes");
    }

    #[test]
    fn clients_that_come_again_survive_a_flood_of_those_that_come_once() {
        let ledger = Ledger::open(Settings { entries: 20_000 });
        // Less than three quarters of 20 000, and of each shard, with room for an uneven spread.
        let honest = 0..12_000;
        for n in honest.clone() {
            ledger.remember(client(n), week(), NOW);
            ledger.recall(client(n), NOW);
        }
        for n in 0..200_000u32 {
            // The attacker's passes hold longer, which must not help him.
            let standing = holding(Test::Pregreet, Duration::from_secs(30 * 86_400));
            ledger.remember(client(0x0a00_0000 + n), standing, NOW);
        }
        assert!(honest.clone().all(|n| ledger.recall(client(n), NOW) == week()));
        assert_eq!(ledger.len(), 20_000);
    }

    #[test]
    fn clients_that_keep_coming_survive_a_flood_of_those_that_come_twice() {
        let ledger = Ledger::open(Settings { entries: 3000 });
        let honest = 0..500;
        for n in honest.clone() {
            ledger.remember(client(n), week(), NOW);
            ledger.recall(client(n), NOW);
            ledger.recall(client(n), NOW);
        }
        for n in 0..100_000u32 {
            ledger.remember(client(0x0a00_0000 + n), week(), NOW);
            ledger.recall(client(0x0a00_0000 + n), NOW);
            // There are 2250 proven places: each honest client comes again before the hand can be round.
            if n % 2200 == 0 {
                for n in honest.clone() {
                    assert_eq!(ledger.recall(client(n), NOW), week());
                }
            }
        }
    }

    #[test]
    fn the_expired_give_way_before_those_that_hold() {
        let ledger = Ledger::open(Settings { entries: 1000 });
        for n in 0..500 {
            ledger.remember(client(n), week(), NOW);
            ledger.remember(client(1000 + n), holding(Test::Pregreet, Duration::from_secs(10)), NOW);
        }
        let later = NOW.plus(Duration::from_secs(10));
        for n in 2000..2500 {
            ledger.remember(client(n), week(), later);
        }
        let kept = (0..500).filter(|&n| ledger.recall(client(n), later) == week()).count();
        assert_eq!(kept, 500);
    }

    #[test]
    fn remembering_sweeps_what_has_expired() {
        let ledger = Ledger::open(Settings { entries: 3000 });
        for n in 0..1000 {
            ledger.remember(client(n), holding(Test::Pregreet, Duration::from_secs(10)), NOW);
            if n % 2 == 0 {
                ledger.recall(client(n), NOW);
            }
        }
        let later = NOW.plus(Duration::from_secs(10));
        for n in 1000..1500 {
            ledger.remember(client(n), week(), later);
        }
        assert_eq!(ledger.len(), 500, "five hundred remembered, a thousand swept");
    }

    #[test]
    fn many_threads_at_once() {
        let ledger = Arc::new(Ledger::open(Settings { entries: 5000 }));
        let threads: Vec<_> = (0..8u32)
            .map(|thread| {
                let ledger = Arc::clone(&ledger);
                std::thread::spawn(move || {
                    for n in 0..20_000u32 {
                        let key = client((n.wrapping_mul(2_654_435_761).wrapping_add(thread)) % 10_000);
                        if ledger.recall(key, NOW) == Standing::stranger() {
                            ledger.remember(key, week(), NOW);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(ledger.len() <= 5000);
        for shard in &ledger.shards {
            shard.lock().check(&ledger.hasher);
        }
    }

    /// What of a standing still counts.
    fn counting(standing: &Standing, now: Timestamp) -> [u64; Test::COUNT] {
        Test::ALL.map(|test| if standing.holds(test, now) { standing.until(test).seconds() } else { 0 })
    }

    proptest! {
        /// Where there is room for all, the ledger is a map with expiry; where there is not, it forgets, and nothing else.
        #[test]
        fn it_is_a_bounded_map(
            entries in 0usize..32,
            acts in prop::collection::vec((0u32..16, 0u64..40, any::<bool>(), 0u64..3), 0..200),
        ) {
            let ledger = Ledger::open(Settings { entries });
            let mut model = std::collections::HashMap::<u32, Standing>::new();
            let mut now = NOW;
            for (n, span, recall, pause) in acts {
                now = now.plus(Duration::from_secs(pause));
                if recall {
                    let seen = counting(&ledger.recall(client(n), now), now);
                    let known = counting(&model.get(&n).copied().unwrap_or_default(), now);
                    prop_assert!(seen.iter().zip(&known).all(|(seen, known)| seen <= known));
                    prop_assert!(entries < 16 || seen == known, "{:?} {:?}", seen, known);
                } else {
                    let test = Test::ALL[span as usize % Test::COUNT];
                    let until = now.plus(Duration::from_secs(span));
                    let mut standing = Standing::stranger();
                    standing.pass(test, until);
                    ledger.remember(client(n), standing, now);
                    model.entry(n).or_default().pass(test, until);
                }
                prop_assert!(ledger.len() <= entries);
                for shard in &ledger.shards {
                    shard.lock().check(&ledger.hasher);
                }
            }
        }
    }
}
