//! DNS lists: which to ask, what their answers are worth, and whether they can be believed.
//!
//! Open is the rule: a list that fails to answer, answers with an error, or cannot be believed says nothing of anybody,
//! and mail flows. What each file is for:
//!
//! - `flight`: one client's questions under way, shared by all who ask about it;
//! - `zone` and `health`: one list, and whether it is asked and believed;
//! - `selftest`: asks a list what it must say;
//! - `state`: what there is to tell of a list.
//!
//! What the answers add up to is [`crate::screen::score`]'s business; what the sum leads to, the verdict's. A zone may
//! hold a paid key: logs, errors, `Debug` and metrics have display names only.
//!
//! New settings are a new [`Dnsbl`]. Whoever has asked keeps a clone of the old one until it has its answer: with the
//! last clone go the tasks, the self-tests, what is remembered and what is known of the lists' health.

mod flight;
mod health;
mod selftest;
mod state;
mod zone;

#[cfg(test)]
mod tests;

pub use state::{Failure, Latency, Reason, State, ZoneState};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::addr::canonical;
use crate::dns::resolver::Resolver;
use crate::screen::score::{Lists, MAX_SITES, Word};
use crate::screen::{Score, Site};
use flight::{Desk, Limits};
use health::Rules;
use zone::Zone;

/// The most addresses of an answer that a [`Finding`] holds.
const MAX_ADDRESSES: usize = 16;

/// How the lists are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The lists; at most [`MAX_SITES`].
    pub sites: Vec<Site>,
    /// Name servers with port; the machine's own (`/etc/resolv.conf`) if empty.
    pub nameservers: Vec<SocketAddr>,
    /// How long one question may take, all retries together.
    pub timeout: Duration,
    /// How many clients' answers are remembered, for as long as their TTLs say, and an hour at most.
    pub cache_entries: usize,
    /// Every how often each list is asked for 127.0.0.2 and 127.0.0.1; never if zero.
    pub self_test: Duration,
    /// After how many failures in a row a list is left alone (0 counts as 1)…
    pub breaker_failures: u32,
    /// …and for how long.
    pub breaker_pause: Duration,
    /// The share of the last [`Settings::alarm_sample`] distinct clients, in percent, from which on a list that lists so
    /// many is taken out; never if 0. Strangers are mostly bots and a good list lists most of them, so this is near 100.
    /// Lists of negative weight are exempt.
    pub alarm_percent: u8,
    /// How many clients have to be asked about before the alarm can sound, and how many it looks at; at most 65,536
    /// count.
    pub alarm_sample: u32,
}

/// Who is to be told when more is known.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// Where to.
    pub to: UnboundedSender<Answer>,
    /// Comes back in the answer.
    pub ticket: u64,
}

/// More is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The waiter's.
    pub ticket: u64,
    /// What is known now.
    pub score: Score,
}

/// The lists, asked. Cheap to clone; its tasks end with the last clone.
#[derive(Clone)]
pub struct Dnsbl {
    settings: Arc<Settings>,
    desk: Arc<Desk>,
    _life: Arc<DropGuard>,
}

/// Why the lists cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The resolver could not be set up.
    #[error("cannot set up the DNS resolver: {0}")]
    Resolver(String),
    /// There are too many sites.
    #[error("there are {0} DNS list sites; {MAX_SITES} is the most")]
    Sites(usize),
    /// A list, by its display name, whose zone is no domain name.
    #[error("the DNS list {0} cannot be asked: its zone is no domain name, or too long")]
    Zone(String),
}

/// What one site makes of a client.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    /// The site's display name.
    pub display: String,
    /// What a hit adds.
    pub weight: i32,
    /// The addresses of the list's answer, the first few; none if the client is not listed.
    pub answers: Vec<Ipv4Addr>,
    /// Whether the answer adds the weight to a score: the filter matches, and the list is believed.
    pub counted: bool,
    /// How long the answer took.
    pub took: Duration,
    /// Why there is no answer that counts.
    pub error: Option<Failure>,
    /// Why the list's answers are not believed, whatever they are.
    pub doubt: Option<Reason>,
}

impl Dnsbl {
    /// Sets the resolver up; within a tokio runtime, where all questions are asked from then on. Nothing is asked yet,
    /// except by the self-test; clients' questions wait for the first one of each list.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        Self::with(settings, Limits::default())
    }

    fn with(settings: Settings, limits: Limits) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| Error::Resolver(error.to_string()))?;
        if settings.sites.len() > MAX_SITES {
            return Err(Error::Sites(settings.sites.len()));
        }
        let resolver = Resolver::new(&settings.nameservers, settings.timeout)
            .map_err(|error| Error::Resolver(error.to_string()))?;
        let lists = Lists::of(&settings.sites);
        let now = Instant::now();
        let zone = |list: &crate::screen::score::List| {
            Zone::new(list.clone(), settings.rules(), now).ok_or_else(|| Error::Zone(list.display.clone()))
        };
        let zones = lists.as_slice().iter().map(zone).collect::<Result<Vec<_>, _>>()?;
        let desk = Arc::new(Desk::new(lists, zones, resolver, settings.cache_entries, limits, runtime.clone()));
        let life = Arc::new(desk.stop.clone().drop_guard());
        if !settings.self_test.is_zero() {
            for place in 0..desk.zones.len() {
                let (desk, every, pause) = (Arc::clone(&desk), settings.self_test, settings.breaker_pause);
                runtime.spawn(async move {
                    let Some(zone) = desk.zones.get(place) else { return };
                    desk.stop.run_until_cancelled(selftest::watch(zone, &desk.resolver, every, pause)).await;
                });
            }
        }
        Ok(Self { settings: Arc::new(settings), desk, _life: life })
    }

    /// What the lists say of `client`: what is known at once, and, while anything is outstanding, an [`Answer`] to the
    /// waiter each time more is. Parallel asks about one client share one set of questions. A waiter that has gone is
    /// forgotten; one whose last answer has nothing outstanding hears no more.
    pub fn ask(&self, client: IpAddr, waiter: Waiter) -> Score {
        self.desk.ask(canonical(client), waiter)
    }

    /// Asks every list about `client` now, past what is remembered and whether or not the list is in, and tells what
    /// each site makes of it: in the sites' order. Waits for the lists' first self-test, as clients' questions do, and
    /// leaves their health alone.
    pub async fn examine(&self, client: IpAddr) -> Vec<Finding> {
        let client = canonical(client);
        let (desk, sites) = (&self.desk, &self.settings.sites);
        let asked = desk.zones.iter().map(|zone| async move {
            zone.ready().await;
            (zone, zone.ask(&desk.resolver, client).await)
        });
        let mut findings: Vec<Option<Finding>> = vec![None; sites.len()];
        for (zone, asked) in flight::all(asked).await {
            let believed = zone.trusted(Instant::now());
            let doubt = match zone.state().state {
                State::Failed { reason } => Some(reason),
                State::Working | State::Paused { .. } => None,
            };
            for (place, pair) in zone.list().pairs.iter().enumerate() {
                let hit = matches!(asked.word, Ok(Word::Said { hits, .. }) if hits.has(place));
                let slot = (sites.get(usize::from(pair.site)), findings.get_mut(usize::from(pair.site)));
                if let (Some(site), Some(finding)) = slot {
                    *finding = Some(Finding {
                        display: site.display.clone(),
                        weight: pair.weight,
                        answers: asked.addresses.iter().copied().take(MAX_ADDRESSES).collect(),
                        counted: hit && believed,
                        took: asked.took,
                        error: asked.word.err(),
                        doubt,
                    });
                }
            }
        }
        findings.into_iter().flatten().collect()
    }

    /// How each list does, and its counts; in the order of their first sites.
    pub fn zones(&self) -> Vec<ZoneState> {
        self.desk.zones.iter().map(Zone::state).collect()
    }

    /// How many clients are remembered.
    pub fn remembered(&self) -> usize {
        self.desk.remembered()
    }

    /// How many clients are being asked about.
    pub fn in_flight(&self) -> usize {
        self.desk.in_flight()
    }

    /// How many clients the lists were not asked about because too many were being asked about already.
    pub fn shed(&self) -> u64 {
        self.desk.shed()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

impl fmt::Debug for Dnsbl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dnsbl").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Settings {
    fn rules(&self) -> Rules {
        Rules {
            failures: self.breaker_failures,
            pause: self.breaker_pause,
            alarm_percent: self.alarm_percent,
            alarm_sample: self.alarm_sample,
            tested: !self.self_test.is_zero(),
        }
    }
}
