//! One client's questions under way: who waits for the answers, and what becomes of them.
//!
//! ```text
//!   ask ──▶ remembered, nothing missing ──────────────────────────────▶ the score
//!    │
//!    ├────▶ in flight: join it ────────────────┐
//!    │                                         ▼
//!    └────▶ take off: one question a list ──▶ each answer: to all who wait ──▶ land: remember what was said
//! ```
//!
//! Promises: one set of questions for a client, however many connections ask at the same time, and one task for all of
//! them; [`Limits::questions`] under way at once, each of which holds a descriptor, and the rest in a queue;
//! [`Limits::flights`] clients at most, beyond which nothing is asked and the lists say nothing. A list that fails to
//! answer is left out of what is remembered, and asked again next time.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::health::Admission;
use super::zone::Zone;
use super::{Answer, Waiter};
use crate::dns::cache::Cache;
use crate::dns::resolver::Resolver;
use crate::screen::Score;
use crate::screen::score::{Lists, Word};

/// How much may be under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Questions at once; each has a socket.
    pub(super) questions: usize,
    /// Clients at once.
    pub(super) flights: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { questions: 4096, flights: 32_768 }
    }
}

/// The least and the most that an answer is remembered.
const REMEMBERED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// The most shards, and the least entries of one that is worth its lock.
const SHARDS: (usize, usize) = (16, 1024);

/// How often the log says that clients are not asked about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The lists, and the clients that are asked about.
pub(super) struct Desk {
    pub(super) lists: Lists,
    pub(super) zones: Vec<Zone>,
    pub(super) resolver: Resolver,
    /// Each behind a lock of its own, so that tasks on several threads rarely meet; held for a few steps, never across
    /// an await.
    shards: Box<[Mutex<Shard>]>,
    hasher: ahash::RandomState,
    questions: Semaphore,
    /// In each shard.
    flights: usize,
    runtime: Handle,
    pub(super) stop: CancellationToken,
    shed: Mutex<Shed>,
}

/// What the lists said of a client.
#[derive(Debug)]
struct Entry {
    /// Their words, in the order of the lists; a list that did not answer is left out.
    words: Box<[Word]>,
    /// When they were asked; TTLs count from here.
    at: Instant,
}

/// The clients whose addresses hash alike.
struct Shard {
    cache: Cache<Entry>,
    flights: HashMap<IpAddr, Flight, ahash::RandomState>,
}

/// A client that is asked about.
struct Flight {
    words: Box<[Word]>,
    waiters: Vec<Waiter>,
    /// When it took off.
    at: Instant,
}

/// Clients that were not asked about because there were too many.
#[derive(Default)]
struct Shed {
    clients: u64,
    complained: Option<Instant>,
}

/// A question to ask: the list's place, and on what terms.
type Question = (usize, Admission);

impl Desk {
    pub(super) fn new(
        lists: Lists,
        zones: Vec<Zone>,
        resolver: Resolver,
        cache_entries: usize,
        limits: Limits,
        runtime: Handle,
    ) -> Self {
        let (most, worth) = SHARDS;
        let count = (cache_entries / worth).clamp(1, most);
        let shard = || Shard { cache: Cache::new(cache_entries / count), flights: HashMap::default() };
        Self {
            lists,
            zones,
            resolver,
            shards: (0..count).map(|_| Mutex::new(shard())).collect(),
            hasher: ahash::RandomState::new(),
            questions: Semaphore::new(limits.questions),
            flights: limits.flights / count,
            runtime,
            stop: CancellationToken::new(),
            shed: Mutex::default(),
        }
    }

    /// What is known of `client` now; the waiter is told when there is more.
    pub(super) fn ask(self: &Arc<Self>, client: IpAddr, waiter: Waiter) -> Score {
        let now = Instant::now();
        let mut shard = self.shard(client);
        if let Some(flight) = shard.flights.get_mut(&client) {
            let score = self.score(&flight.words, flight.at);
            if score.outstanding > 0 {
                flight.waiters.push(waiter);
            }
            return score;
        }
        let room = shard.flights.len() < self.flights;
        let (words, questions) = self.prepare(shard.cache.recall(&client, now), room, now);
        let score = self.score(&words, now);
        if !questions.is_empty() {
            let waiters = if score.outstanding > 0 { vec![waiter] } else { Vec::new() };
            shard.flights.insert(client, Flight { words, waiters, at: now });
            drop(shard);
            self.take_off(client, questions);
        } else if !room {
            drop(shard);
            self.complain(now);
        }
        score
    }

    /// How many clients were not asked about because there were too many.
    pub(super) fn shed(&self) -> u64 {
        self.shed.lock().clients
    }

    /// How many clients are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().cache.len()).sum()
    }

    /// How many clients are being asked about.
    pub(super) fn in_flight(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().flights.len()).sum()
    }

    /// What each list is known to say, and what is left to ask.
    fn prepare(&self, known: Option<&Entry>, room: bool, now: Instant) -> (Box<[Word]>, Vec<Question>) {
        let mut questions = Vec::new();
        let mut words = Vec::with_capacity(self.zones.len());
        for (place, zone) in self.zones.iter().enumerate() {
            let remembered = known.and_then(|entry| {
                let word = entry.words.get(place).copied()?;
                zone.trusted(entry.at).then(|| aged(word, now.saturating_duration_since(entry.at)))
            });
            if let Some(word @ Word::Said { .. }) = remembered {
                words.push(word);
                continue;
            }
            let admission = if room { zone.admit(now) } else { Admission::Skip };
            match admission {
                Admission::Ask { .. } => questions.push((place, admission)),
                // A client that is remembered has been seen by the alarm.
                Admission::Watch { .. } if known.is_none() => questions.push((place, admission)),
                Admission::Watch { .. } | Admission::Skip => {}
            }
            words.push(if matches!(admission, Admission::Ask { .. }) { Word::Outstanding } else { Word::LeftOut });
        }
        (words.into(), questions)
    }

    /// Adds up `words` about a client that was asked about at `at`. A list that has been taken out since has no part in
    /// it, and nobody waits for it.
    fn score(&self, words: &[Word], at: Instant) -> Score {
        let believed = |(zone, &word): (&Zone, &Word)| if zone.trusted(at) { word } else { Word::LeftOut };
        self.lists.score(self.zones.iter().zip(words).map(believed))
    }

    fn take_off(self: &Arc<Self>, client: IpAddr, questions: Vec<Question>) {
        let landing = Landing { desk: Arc::clone(self), client };
        self.runtime.spawn(async move {
            let desk = &landing.desk;
            desk.stop.run_until_cancelled(desk.fly(client, questions)).await;
        });
    }

    async fn fly(&self, client: IpAddr, questions: Vec<Question>) {
        let questions = questions.into_iter().filter_map(|(place, admission)| {
            let zone = self.zones.get(place)?;
            let ask: Pin<Box<dyn Future<Output = _> + Send + '_>> =
                Box::pin(async move { (place, admission, self.question(client, zone, admission).await) });
            Some(ask)
        });
        let mut under_way: Vec<_> = questions.collect();
        while let Some((place, admission, word)) = next(&mut under_way).await {
            if matches!(admission, Admission::Ask { .. }) {
                self.tell(client, place, word);
            }
        }
    }

    /// Asks one list, in its turn.
    async fn question(&self, client: IpAddr, zone: &Zone, admission: Admission) -> Word {
        zone.ready().await;
        // Never closed.
        let Ok(_turn) = self.questions.acquire().await else { return Word::LeftOut };
        if !zone.still(admission) {
            return Word::LeftOut;
        }
        let asked = zone.ask(&self.resolver, client).await;
        zone.heard(client, asked.word);
        asked.word.unwrap_or(Word::LeftOut)
    }

    fn tell(&self, client: IpAddr, place: usize, word: Word) {
        let mut shard = self.shard(client);
        let Some(flight) = shard.flights.get_mut(&client) else { return };
        if let Some(said) = flight.words.get_mut(place) {
            *said = word;
        }
        let score = self.score(&flight.words, flight.at);
        flight.waiters.retain(|waiter| waiter.to.send(Answer { ticket: waiter.ticket, score }).is_ok());
    }

    fn land(&self, client: IpAddr) {
        let mut shard = self.shard(client);
        let Some(flight) = shard.flights.remove(&client) else { return };
        let Flight { mut words, waiters, at } = flight;
        let mut lost = false;
        for word in words.iter_mut().filter(|word| **word == Word::Outstanding) {
            *word = Word::LeftOut;
            lost = true;
        }
        if lost {
            // Cut short: those who wait are not left waiting.
            let score = self.score(&words, at);
            for Waiter { to, ticket } in waiters {
                let _ = to.send(Answer { ticket, score });
            }
        }
        let said = words.iter().filter_map(|word| match word {
            Word::Said { ttl, .. } => Some(ttl.unwrap_or(0)),
            Word::Outstanding | Word::LeftOut => None,
        });
        if let Some(ttl) = said.min() {
            let (least, most) = REMEMBERED;
            let expires = at + Duration::from_secs(u64::from(ttl)).clamp(least, most);
            shard.cache.remember(client, Entry { words, at }, expires);
        }
    }

    #[allow(clippy::indexing_slicing, reason = "a remainder is below its divisor, and there is at least one shard")]
    fn shard(&self, client: IpAddr) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(client) as usize;
        self.shards[hash % self.shards.len()].lock()
    }

    fn complain(&self, now: Instant) {
        let mut shed = self.shed.lock();
        shed.clients = shed.clients.saturating_add(1);
        if shed.complained.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_EVERY) {
            shed.complained = Some(now);
            warn!(
                clients = shed.clients,
                "DNS lists are not asked about some clients: too many are being asked about; is the name server slow?"
            );
        }
    }
}

/// Lands its client when it goes, whatever ends the flight.
struct Landing {
    desk: Arc<Desk>,
    client: IpAddr,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.desk.land(self.client);
    }
}

/// What `word` is `age` after it was said.
fn aged(word: Word, age: Duration) -> Word {
    let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    match word {
        Word::Said { hits, ttl } => Word::Said { hits, ttl: ttl.map(|ttl| ttl.saturating_sub(age)) },
        other => other,
    }
}

/// The outcomes of all of `futures`, in the order in which they are through.
pub(super) async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T> + Send>) -> Vec<T> {
    let mut under_way: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>> =
        futures.map(|future| -> Pin<Box<dyn Future<Output = T> + Send + '_>> { Box::pin(future) }).collect();
    let mut outcomes = Vec::with_capacity(under_way.len());
    while let Some(outcome) = next(&mut under_way).await {
        outcomes.push(outcome);
    }
    outcomes
}

/// The outcome of whichever of `futures` is through first; none if there are none. They are a handful: that each is
/// polled when one is woken costs less than the bookkeeping that would tell them apart.
async fn next<T>(futures: &mut Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Option<T> {
    poll_fn(|wake| {
        if futures.is_empty() {
            return Poll::Ready(None);
        }
        let through = futures.iter_mut().enumerate().find_map(|(place, future)| match future.as_mut().poll(wake) {
            Poll::Ready(outcome) => Some((place, outcome)),
            Poll::Pending => None,
        });
        match through {
            Some((place, outcome)) => {
                drop(futures.swap_remove(place));
                Poll::Ready(Some(outcome))
            }
            None => Poll::Pending,
        }
    })
    .await
}
