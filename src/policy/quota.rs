//! How many sessions, at once and over time, by what a client has shown of itself.
//!
//! Asked on every accept, before anything costs more than a look-up: a few short locks of one part of each table, and an
//! atomic count.
//!
//! | limit | of whom | over it |
//! | --- | --- | --- |
//! | at once, per client (an IPv4 /32, an IPv6 /64) | by class | [`Full::Client`] |
//! | at once, per prefix (/24, /48) | the known and the others counted apart | [`Full::Prefix`] |
//! | new ones over time, per client | by class | [`Full::Rate`] |
//! | at once, in all, less a reserve | strangers; the bad already from 70 % of that on | [`Full::Reserved`] |
//! | at once, in all | everybody | [`Full::Total`] |
//!
//! So when the house fills, the bad are turned away first, strangers next, and the known last. The known and the others of a
//! prefix are counted apart, so that a neighbourhood of bots does not keep out the one honest host in it. Allow-listed
//! clients are counted in all, and nowhere else.
//!
//! Whoever connects chooses the keys: a client has an entry only while it has sessions, and what is counted of prefixes, and
//! over time, has a fixed room (`prefixes`, [`Rates`]).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::class::{Class, PerClass};
use super::counts::Counts;
use super::gcra::{Quota, Wait};
use super::prefixes::{Prefix, Prefixes};
use super::rates::Rates;
use super::stress::Marks;
use crate::addr::ClientKey;
use crate::time::Timestamp;

/// How many clients' rates are remembered: 2 MiB, and more than come in a minute anywhere but under attack.
const RATES: usize = 131_072;

/// The limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Sessions at once of one client.
    pub per_client: PerClass<u32>,
    /// Sessions at once of one prefix: for the known, and once more for the others.
    pub per_prefix: u32,
    /// New sessions of one client over time; any number if none is given.
    pub rate: PerClass<Option<Quota>>,
    /// Sessions at once in all.
    pub total: u32,
    /// How many of them are kept free for the known.
    pub reserved: u32,
}

impl Settings {
    /// So many of each client, whatever it is, and so many in all; nothing else is limited.
    pub fn plain(per_client: u32, total: u32) -> Self {
        Self {
            per_client: PerClass::all(per_client),
            per_prefix: u32::MAX,
            rate: PerClass::all(None),
            total,
            reserved: 0,
        }
    }

    /// How many sessions there may be when a stranger is let in, itself among them.
    pub fn open_to_strangers(&self) -> u32 {
        self.total.saturating_sub(self.reserved)
    }

    /// How many sessions there may be when one of `class` is let in, itself among them.
    fn open_to(&self, class: Class) -> u32 {
        match class {
            Class::Allowed | Class::Passed => self.total,
            Class::Unknown => self.open_to_strangers(),
            // One for whoever tries out a tiny house.
            Class::Bad => Marks::ease(self.open_to_strangers()).max(1).min(self.open_to_strangers()),
        }
    }
}

/// Counts the sessions that are open, and those that come. Shared by reference.
#[derive(Debug)]
pub struct Sessions {
    open: AtomicU32,
    clients: Counts<ClientKey>,
    prefixes: Prefixes,
    rates: Rates,
}

/// A counted session; uncounted when dropped.
#[derive(Debug)]
#[must_use = "a place is given back when it is dropped"]
pub struct Place {
    sessions: Arc<Sessions>,
    /// None if it is counted in all alone.
    client: Option<Counted>,
}

/// A client whose sessions are counted, and whether it was known. In parts, so that a place is 24 bytes and not 32: every
/// stranger waits with one.
#[derive(Clone, Copy, Debug)]
struct Counted {
    bits: u64,
    v6: bool,
    known: bool,
}

impl Counted {
    fn new(client: ClientKey, known: bool) -> Self {
        match client {
            ClientKey::V4(bits) => Self { bits: bits.into(), v6: false, known },
            ClientKey::V6(bits) => Self { bits, v6: true, known },
        }
    }

    fn client(self) -> ClientKey {
        if self.v6 { ClientKey::V6(self.bits) } else { ClientKey::V4(self.bits as u32) }
    }
}

/// Why a session is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The client has too many open.
    Client,
    /// Its prefix has too many open.
    Prefix,
    /// The client has come too often; in so long it may come again.
    Rate(Wait),
    /// What is still free is kept for others.
    Reserved,
    /// All places are taken.
    Total,
}

impl Sessions {
    /// Nobody is there.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            open: AtomicU32::new(0),
            clients: Counts::new(),
            prefixes: Prefixes::new(),
            rates: Rates::new(RATES),
        })
    }

    /// Takes a place for `client`, which is of `class`, under `limits`.
    ///
    /// The limits may differ from call to call: places taken under wider ones stay. Who is not let in has drawn nothing
    /// from its rate.
    pub fn enter(
        self: &Arc<Self>,
        client: IpAddr,
        class: Class,
        limits: &Settings,
        now: Timestamp,
    ) -> Result<Place, Full> {
        let known = class.is_known();
        let Some(per_client) = limits.per_client.of(class) else {
            self.take_one(class, limits)?;
            return Ok(Place { sessions: Arc::clone(self), client: None });
        };
        let client = ClientKey::of(client);
        let rate = limits.rate.of(class).flatten();
        let prefix = Prefix::of(client, known);
        self.clients.raise(client, per_client, Full::Client, || {
            if !self.prefixes.raise(prefix, limits.per_prefix) {
                return Err(Full::Prefix);
            }
            let taken = self.take_one(class, limits).and_then(|()| {
                let drawn = rate.map_or(Ok(()), |quota| self.rates.draw(client, quota, now));
                // A place that is given back at once may have kept another out, in the last place of all.
                drawn.inspect_err(|_| self.give_one()).map_err(Full::Rate)
            });
            taken.inspect_err(|_| self.prefixes.lower(prefix))
        })?;
        Ok(Place { sessions: Arc::clone(self), client: Some(Counted::new(client, known)) })
    }

    /// How many sessions are open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes one of the places that are open to `class`.
    fn take_one(&self, class: Class, limits: &Settings) -> Result<(), Full> {
        let most = limits.open_to(class);
        let more = |open: u32| (open < most).then(|| open + 1);
        let taken = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(drop).map_err(|open| if open < limits.total { Full::Reserved } else { Full::Total })
    }

    fn give_one(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(counted) = self.client {
            let client = counted.client();
            self.sessions.clients.lower(client);
            self.sessions.prefixes.lower(Prefix::of(client, counted.known));
        }
        self.sessions.give_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

    /// A stranger at the door.
    fn enter(sessions: &Arc<Sessions>, client: IpAddr, limits: Settings) -> Result<Place, Full> {
        sessions.enter(client, Class::Unknown, &limits, NOW)
    }

    fn limits() -> Settings {
        Settings::plain(3, 10)
    }

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn entries(sessions: &Sessions) -> usize {
        sessions.clients.len()
    }

    #[test]
    fn a_place_is_small() {
        assert!(size_of::<Place>() <= 24, "{}", size_of::<Place>());
    }

    #[test]
    fn a_client_has_so_many_places_and_no_more() {
        let sessions = Sessions::new();
        let mut places: Vec<_> = (0..3).map(|_| enter(&sessions, v4(1), limits()).unwrap()).collect();
        assert_eq!(enter(&sessions, v4(1), limits()).unwrap_err(), Full::Client);
        assert!(enter(&sessions, v4(2), limits()).is_ok());
        places.pop();
        assert!(enter(&sessions, v4(1), limits()).is_ok());
    }

    #[test]
    fn all_clients_together_have_so_many_places_and_no_more() {
        let sessions = Sessions::new();
        let places: Vec<_> = (0..10).map(|n| enter(&sessions, v4(n), limits()).unwrap()).collect();
        assert_eq!(sessions.open(), 10);
        assert_eq!(enter(&sessions, v4(10), limits()).unwrap_err(), Full::Total);
        assert_eq!(sessions.enter(v4(10), Class::Allowed, &limits(), NOW).unwrap_err(), Full::Total);
        assert_eq!(entries(&sessions), 10, "a client that was not let in has no entry");
        drop(places);
        assert_eq!((sessions.open(), entries(&sessions)), (0, 0));
    }

    #[test]
    fn an_exempt_client_is_counted_in_all_only() {
        let sessions = Sessions::new();
        let places: Vec<_> = (0..10).map(|_| sessions.enter(v4(1), Class::Allowed, &limits(), NOW).unwrap()).collect();
        assert_eq!((sessions.open(), entries(&sessions)), (10, 0));
        drop(places);
        assert_eq!(sessions.open(), 0);
    }

    #[test]
    fn hosts_in_one_64_share_their_places_and_mapped_addresses_are_ipv4() {
        let sessions = Sessions::new();
        let host = |n: u128| IpAddr::from(Ipv6Addr::from(0x2001_0db8_0000_0000_0000_0000_0000_0000 + n));
        let _places: Vec<_> = (0..3).map(|n| enter(&sessions, host(n), limits()).unwrap()).collect();
        assert_eq!(enter(&sessions, host(99), limits()).unwrap_err(), Full::Client);
        let mapped = IpAddr::from(Ipv4Addr::from(1).to_ipv6_mapped());
        let _more: Vec<_> = (0..3).map(|_| enter(&sessions, mapped, limits()).unwrap()).collect();
        assert_eq!(enter(&sessions, v4(1), limits()).unwrap_err(), Full::Client);
    }

    #[test]
    fn narrower_limits_count_what_is_there() {
        let sessions = Sessions::new();
        let places: Vec<_> = (0..3).map(|_| enter(&sessions, v4(1), limits()).unwrap()).collect();
        let narrow = Settings::plain(2, 10);
        assert_eq!(enter(&sessions, v4(1), narrow).unwrap_err(), Full::Client);
        let none = Settings::plain(0, 10);
        assert_eq!(enter(&sessions, v4(2), none).unwrap_err(), Full::Client);
        drop(places);
        assert!(enter(&sessions, v4(1), narrow).is_ok());
    }

    #[test]
    fn each_class_has_its_own_places_and_all_are_counted_together() {
        let sessions = Sessions::new();
        let per_client = PerClass { passed: 4, unknown: 2, bad: 1 };
        let limits = Settings { per_client, ..Settings::plain(0, 100) };
        let enter = |n: u32, class| sessions.enter(v4(n), class, &limits, NOW);
        let most = |n: u32, class| std::iter::from_fn(|| enter(n, class).ok()).take(50).collect::<Vec<_>>();
        let open = [Class::Bad, Class::Unknown, Class::Passed, Class::Allowed].map(|class| most(class as u32, class));
        assert_eq!(open.each_ref().map(Vec::len), [1, 2, 4, 50]);
        // Once it has passed it may have more, and if it then does wrong no more at all.
        let unknown = Class::Unknown as u32;
        let more = most(unknown, Class::Passed);
        assert_eq!(more.len(), 2);
        drop(open);
        assert_eq!(enter(unknown, Class::Bad).unwrap_err(), Full::Client);
        drop(more);
        assert!(enter(unknown, Class::Bad).is_ok());
    }

    #[test]
    fn a_prefix_has_so_many_and_its_bots_do_not_keep_out_the_known() {
        let sessions = Sessions::new();
        let limits = Settings { per_prefix: 5, ..Settings::plain(100, 1000) };
        let v6 = |n: u128| IpAddr::from(Ipv6Addr::from((0x2001_0db8_0000_u128 << 80) | n << 64));
        for (inside, neighbour) in
            [([v4(0x0a00_0001), v4(0x0a00_00ff)], v4(0x0a00_0100)), ([v6(0), v6(0xffff)], v6(0x1_0000))]
        {
            let enter = |client, class| sessions.enter(client, class, &limits, NOW);
            let mut open: Vec<_> = (0..5).map(|n| enter(inside[n % 2], Class::Unknown).unwrap()).collect();
            for class in [Class::Unknown, Class::Bad] {
                assert_eq!(enter(inside[0], class).unwrap_err(), Full::Prefix);
            }
            open.extend((0..5).map(|_| enter(inside[0], Class::Passed).unwrap()));
            assert_eq!(enter(inside[1], Class::Passed).unwrap_err(), Full::Prefix);
            assert!(enter(inside[1], Class::Allowed).is_ok());
            assert!(enter(neighbour, Class::Unknown).is_ok());
            drop(open.remove(0));
            assert!(enter(inside[1], Class::Unknown).is_ok());
        }
        assert_eq!((sessions.open(), entries(&sessions), sessions.prefixes.is_empty()), (0, 0, true));
    }

    #[test]
    fn who_comes_too_often_is_told_when_to_come_again() {
        let sessions = Sessions::new();
        let quota = |text: &str| Some(text.parse().unwrap());
        let rate = PerClass { passed: None, unknown: quota("3/3s"), bad: quota("1/1m") };
        let limits = Settings { rate, ..Settings::plain(2, 4) };
        let at = |n: u32, class, millis| sessions.enter(v4(n), class, &limits, NOW.plus(Duration::from_millis(millis)));
        for _ in 0..3 {
            assert!(at(1, Class::Unknown, 0).is_ok());
        }
        let Err(Full::Rate(wait)) = at(1, Class::Unknown, 0) else { panic!("it drew a fourth time") };
        assert_eq!(wait.span(), Duration::from_secs(1));
        assert_eq!(
            (sessions.open(), entries(&sessions), sessions.prefixes.is_empty()),
            (0, 0, true),
            "it has left nothing"
        );
        assert!(at(1, Class::Unknown, 1000).is_ok());
        assert!((0..1000).all(|_| at(1, Class::Passed, 1000).is_ok() && at(1, Class::Allowed, 1000).is_ok()));
        assert!(at(2, Class::Bad, 0).is_ok());
        assert!(matches!(at(2, Class::Bad, 59_999), Err(Full::Rate(_))));
        // Who is not let in for another reason has drawn nothing.
        let open = [at(3, Class::Unknown, 0).unwrap(), at(3, Class::Unknown, 0).unwrap()];
        assert!((0..10).all(|_| at(3, Class::Unknown, 0).unwrap_err() == Full::Client));
        drop(open);
        assert!(at(3, Class::Unknown, 0).is_ok());
    }

    #[test]
    fn the_bad_are_turned_away_first_and_the_known_last() {
        let sessions = Sessions::new();
        let limits = Settings { reserved: 20, ..Settings::plain(1, 100) };
        let mut clients = 0..;
        let mut most = |class| {
            let come = |n| sessions.enter(v4(n), class, &limits, NOW);
            let places: Vec<_> = clients.by_ref().map_while(|n| come(n).ok()).collect();
            (places, come(1000).unwrap_err(), sessions.open())
        };
        let (bad, why, open) = most(Class::Bad);
        assert_eq!((why, open), (Full::Reserved, 56));
        let (unknown, why, open) = most(Class::Unknown);
        assert_eq!((why, open), (Full::Reserved, 80));
        let (passed, why, open) = most(Class::Passed);
        assert_eq!((why, open), (Full::Total, 100));
        drop(passed);
        let (allowed, why, open) = most(Class::Allowed);
        assert_eq!((why, open), (Full::Total, 100));
        assert_eq!(sessions.enter(v4(2000), Class::Unknown, &limits, NOW).unwrap_err(), Full::Total);
        drop((bad, unknown, allowed));
        assert_eq!(sessions.open(), 0);
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let sessions = Sessions::new();
        let limits = Settings::plain(1, u32::MAX);
        let places: Vec<_> = (0..50_000).map(|n| enter(&sessions, v4(n), limits).unwrap()).collect();
        drop(places);
        let capacity = sessions.clients.capacity();
        assert!(capacity <= 64 * 64, "{capacity}");
    }

    #[test]
    fn never_above_the_limits_under_threads_and_all_places_return() {
        let sessions = Sessions::new();
        let limits = Settings::plain(4, 24);
        // What is inside, counted by those who are: after entering and before leaving, so never more than the truth.
        let inside = Arc::new([const { AtomicU32::new(0) }; 9]);
        let threads: Vec<_> = (0..8u32)
            .map(|thread| {
                let (sessions, inside) = (Arc::clone(&sessions), Arc::clone(&inside));
                std::thread::spawn(move || {
                    let (mut held, mut refused) = (Vec::new(), 0u32);
                    for n in 0..20_000u32 {
                        let client = (n.wrapping_mul(2_654_435_761) >> 13).wrapping_add(thread) % 8;
                        if let Ok(place) = enter(&sessions, v4(client), limits) {
                            assert!(inside[client as usize].fetch_add(1, Ordering::SeqCst) < limits.per_client.unknown);
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
