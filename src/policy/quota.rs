//! How many sessions at once, per client and in all.
//!
//! Asked on every accept, before anything else is known: one short lock of one part of the clients, and an
//! atomic count. A client has an entry only while it has sessions open, so there are never more entries than sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::Mutex;

use crate::addr::ClientKey;

/// In how many parts the clients are counted, so that cores do not wait for each other.
const SHARDS: usize = 64;

/// The limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Sessions at once of one client (an IPv4 /32, an IPv6 /64); allow-listed clients are exempt.
    pub per_client: u32,
    /// Sessions at once in all.
    pub total: u32,
}

/// Counts the sessions that are open. Shared by reference.
#[derive(Debug)]
pub struct Sessions {
    open: AtomicU32,
    /// Keys are chosen by whoever connects, so the hash is seeded.
    hasher: RandomState,
    shards: [Mutex<Clients>; SHARDS],
}

/// Each client that has sessions open, and how many.
type Clients = HashTable<(ClientKey, u32)>;

/// A counted session; uncounted when dropped.
#[derive(Debug)]
#[must_use = "a place is given back when it is dropped"]
pub struct Place {
    sessions: Arc<Sessions>,
    /// None if exempt from the limit per client.
    client: Option<ClientKey>,
}

/// Why a session is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The client has too many open.
    Client,
    /// All places are taken.
    Total,
}

impl Sessions {
    /// Nobody is there.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicU32::new(0),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::new(Clients::new())),
        })
    }

    /// Takes a place for `client`, under `limits`; `exempt` clients are counted in all but not per client.
    ///
    /// The limits may differ from call to call: places taken under wider ones stay.
    pub fn enter(self: &Arc<Self>, client: IpAddr, limits: Settings, exempt: bool) -> Result<Place, Full> {
        let client = (!exempt).then(|| ClientKey::of(client));
        match client {
            None => self.take_one(limits.total)?,
            Some(client) => self.count(client, limits)?,
        }
        Ok(Place { sessions: Arc::clone(self), client })
    }

    /// How many sessions are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes one of `total` places.
    fn take_one(&self, total: u32) -> Result<(), Full> {
        let more = |open: u32| (open < total).then(|| open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map(drop).map_err(|_| Full::Total)
    }

    /// Takes one of the client's places and one of all, or neither.
    fn count(&self, client: ClientKey, limits: Settings) -> Result<(), Full> {
        if limits.per_client == 0 {
            return Err(Full::Client);
        }
        let hash = self.hasher.hash_one(client);
        let Some(shard) = self.shard(hash) else { return Err(Full::Total) };
        let mut clients = shard.lock();
        match clients.entry(hash, |(key, _)| *key == client, |(key, _)| self.hasher.hash_one(key)) {
            Entry::Occupied(mut entry) => {
                let (_, count) = entry.get_mut();
                if *count >= limits.per_client {
                    return Err(Full::Client);
                }
                self.take_one(limits.total)?;
                *count += 1;
            }
            Entry::Vacant(entry) => {
                self.take_one(limits.total)?;
                entry.insert((client, 1));
            }
        }
        Ok(())
    }

    /// Gives a place of `client` back.
    fn uncount(&self, client: ClientKey) {
        let hash = self.hasher.hash_one(client);
        let Some(shard) = self.shard(hash) else { return };
        let mut clients = shard.lock();
        let Ok(mut entry) = clients.find_entry(hash, |(key, _)| *key == client) else { return };
        let (_, count) = entry.get_mut();
        *count = count.saturating_sub(1);
        if *count == 0 {
            entry.remove();
            // What a burst took is given back, though not at every ebb.
            if clients.capacity() > 64 && clients.len() < clients.capacity() / 8 {
                let room = clients.len() * 2;
                clients.shrink_to(room, |(key, _)| self.hasher.hash_one(key));
            }
        }
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<Clients>> {
        // The tables use the lowest and the highest bits.
        self.shards.get((hash >> 40) as usize % SHARDS)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            self.sessions.uncount(client);
        }
        self.sessions.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const LIMITS: Settings = Settings { per_client: 3, total: 10 };

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn entries(sessions: &Sessions) -> usize {
        sessions.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    #[test]
    fn a_place_is_small() {
        assert!(size_of::<Place>() <= 32, "{}", size_of::<Place>());
    }

    #[test]
    fn a_client_has_so_many_places_and_no_more() {
        let sessions = Sessions::new();
        let mut places: Vec<_> = (0..3).map(|_| sessions.enter(v4(1), LIMITS, false).unwrap()).collect();
        assert_eq!(sessions.enter(v4(1), LIMITS, false).unwrap_err(), Full::Client);
        assert!(sessions.enter(v4(2), LIMITS, false).is_ok());
        places.pop();
        assert!(sessions.enter(v4(1), LIMITS, false).is_ok());
    }

    #[test]
    fn all_clients_together_have_so_many_places_and_no_more() {
        let sessions = Sessions::new();
        let places: Vec<_> = (0..10).map(|n| sessions.enter(v4(n), LIMITS, false).unwrap()).collect();
        assert_eq!(sessions.open(), 10);
        assert_eq!(sessions.enter(v4(10), LIMITS, false).unwrap_err(), Full::Total);
        assert_eq!(sessions.enter(v4(10), LIMITS, true).unwrap_err(), Full::Total);
        assert_eq!(entries(&sessions), 10, "a client that was not let in has no entry");
        drop(places);
        assert_eq!((sessions.open(), entries(&sessions)), (0, 0));
    }

    #[test]
    fn an_exempt_client_is_counted_in_all_only() {
        let sessions = Sessions::new();
        let places: Vec<_> = (0..10).map(|_| sessions.enter(v4(1), LIMITS, true).unwrap()).collect();
        assert_eq!((sessions.open(), entries(&sessions)), (10, 0));
        drop(places);
        assert_eq!(sessions.open(), 0);
    }

    #[test]
    fn hosts_in_one_64_share_their_places_and_mapped_addresses_are_ipv4() {
        let sessions = Sessions::new();
        let host = |n: u128| IpAddr::from(Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0000 + n));
        let _places: Vec<_> = (0..3).map(|n| sessions.enter(host(n), LIMITS, false).unwrap()).collect();
        assert_eq!(sessions.enter(host(99), LIMITS, false).unwrap_err(), Full::Client);
        let mapped = IpAddr::from(Ipv4Addr::from(1).to_ipv6_mapped());
        let _more: Vec<_> = (0..3).map(|_| sessions.enter(mapped, LIMITS, false).unwrap()).collect();
        assert_eq!(sessions.enter(v4(1), LIMITS, false).unwrap_err(), Full::Client);
    }

    #[test]
    fn narrower_limits_count_what_is_there() {
        let sessions = Sessions::new();
        let places: Vec<_> = (0..3).map(|_| sessions.enter(v4(1), LIMITS, false).unwrap()).collect();
        let narrow = Settings { per_client: 2, total: 10 };
        assert_eq!(sessions.enter(v4(1), narrow, false).unwrap_err(), Full::Client);
        let none = Settings { per_client: 0, total: 10 };
        assert_eq!(sessions.enter(v4(2), none, false).unwrap_err(), Full::Client);
        drop(places);
        assert!(sessions.enter(v4(1), narrow, false).is_ok());
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let sessions = Sessions::new();
        let limits = Settings { per_client: 1, total: u32::MAX };
        let places: Vec<_> = (0..50_000).map(|n| sessions.enter(v4(n), limits, false).unwrap()).collect();
        drop(places);
        let capacity: usize = sessions.shards.iter().map(|shard| shard.lock().capacity()).sum();
        assert!(capacity <= 64 * SHARDS, "{capacity}");
    }

    #[test]
    fn never_above_the_limits_under_threads_and_all_places_return() {
        let sessions = Sessions::new();
        let limits = Settings { per_client: 4, total: 24 };
        // What is inside, counted by those who are: after entering and before leaving, so never more than the truth.
        let inside = Arc::new([const { AtomicU32::new(0) }; 9]);
        let threads: Vec<_> = (0..8u32)
            .map(|thread| {
                let (sessions, inside) = (Arc::clone(&sessions), Arc::clone(&inside));
                std::thread::spawn(move || {
                    let (mut held, mut refused) = (Vec::new(), 0u32);
                    for n in 0..20_000u32 {
                        let client = (n.wrapping_mul(2_654_435_761) >> 13).wrapping_add(thread) % 8;
                        if let Ok(place) = sessions.enter(v4(client), limits, false) {
                            assert!(inside[client as usize].fetch_add(1, Ordering::SeqCst) < limits.per_client);
                            assert!(inside[8].fetch_add(1, Ordering::SeqCst) < limits.total);
                            held.push((client, place));
                        } else {
                            refused += 1;
                        }
                        if held.len() > 4 || n % 3 == 0 || n == 19_999 {
                            for (client, place) in held.drain(..) {
                                inside[8].fetch_sub(1, Ordering::SeqCst);
                                inside[client as usize].fetch_sub(1, Ordering::SeqCst);
                                drop(place);
                            }
                        }
                    }
                    refused
                })
            })
            .collect();
        let refused: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(refused > 0, "the limits were never met");
        assert_eq!((sessions.open(), entries(&sessions)), (0, 0));
    }
}
