//! Bans, told to whoever can act on them before a connection reaches us: the kernel's packet filter, a plain file, a
//! program of the operator's.
//!
//! It promises: none of its verbs waits or fails; what is outside follows what was said here within a fraction of a second;
//! what cannot be told now is told later; and nothing that contains an exempt address ever leaves. It leaves to others who
//! is banned, and that bans are in force in this process whatever becomes of them outside.
//!
//! What is wanted is a map, not a queue: a verb changes it and wakes the keeper, which compares what changed with what it
//! last told. So a burst becomes one transaction, nothing is lost where the other side is slow, and memory has a cap.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `nets` | networks, of which each lies within another or apart from it |
//! | `keeper` | the one task: takes in what changed, and tells it |
//! | `kernel` | what the packet filter has, and how it comes to have what is wanted |
//! | `nft` | what is written to `nft` |
//! | `export` | the file |
//! | `hook` | the operator's program |
//! | `program` | running a program under a deadline |
//! | `counts` | what is counted, and how often something is said |

mod counts;
mod export;
mod hook;
mod keeper;
mod kernel;
mod nets;
mod nft;
mod program;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::counts::Counts;
pub use self::export::BanFile;
pub use self::hook::Hook;
use self::nets::NetMap;
pub use self::nft::{Nftables, examine};
pub use self::program::Failure;
use crate::clock::Clock;
use crate::policy::network;
use crate::time::Timestamp;

/// The most networks that are told outside. Beyond it a ban is in force in this process alone.
const MOST: usize = 65_536;

/// The most changes that are noted one by one; beyond it everything is compared.
const MOST_CHANGES: usize = 4096;

/// How long a stop waits for what is outside to be cleared.
const STOP: Duration = Duration::from_secs(12);

/// Whom bans are told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The kernel's packet filter.
    pub nftables: Option<Nftables>,
    /// A file with one network a line.
    pub file: Option<BanFile>,
    /// A program that is run for each ban and each end of one.
    pub command: Option<Hook>,
}

impl Settings {
    /// Whether nobody is told.
    pub fn is_empty(&self) -> bool {
        self.nftables.is_none() && self.file.is_none() && self.command.is_none()
    }
}

/// A ban, as it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ban {
    until: Timestamp,
    reason: &'static str,
    /// It was told before this process began.
    old: bool,
}

/// What is wanted outside. Locked for single look-ups and changes, and never across an await.
#[derive(Default)]
struct Wanted {
    bans: HashMap<IpNet, Ban>,
    changed: HashSet<IpNet>,
    /// More changed than was noted.
    all: bool,
    exempt: Arc<NetMap<()>>,
    stopped: bool,
}

impl Wanted {
    fn note(&mut self, net: IpNet) {
        if self.changed.len() >= MOST_CHANGES {
            self.changed.clear();
            self.all = true;
        }
        if !self.all {
            self.changed.insert(net);
        }
    }
}

/// What the verbs and the keeper share.
struct Shared {
    wanted: Mutex<Wanted>,
    wake: Notify,
    counts: counts::Counters,
    clock: Clock,
}

/// Tells bans to the outside. Cheap to clone; the last one that goes takes the keeper along, without clearing anything:
/// that is for [`stop`](Self::stop).
#[derive(Clone)]
pub struct Firewall {
    /// Nothing if nobody is to be told.
    open: Option<Arc<Open>>,
}

struct Open {
    shared: Arc<Shared>,
    stop: CancellationToken,
    keeper: Mutex<Option<JoinHandle<()>>>,
    _life: DropGuard,
}

impl std::fmt::Debug for Firewall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Firewall").field("open", &self.open.is_some()).finish_non_exhaustive()
    }
}

impl Firewall {
    /// Begins to tell. Within a tokio runtime; what a process before this one has left in the packet filter is replaced.
    pub fn open(settings: Settings, clock: Clock) -> Self {
        if settings.is_empty() {
            return Self { open: None };
        }
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            wake: Notify::new(),
            counts: counts::Counters::default(),
            clock,
        });
        let (stop, life) = (CancellationToken::new(), CancellationToken::new());
        let keeper = keeper::Keeper::new(settings, Arc::clone(&shared));
        let task = tokio::spawn({
            let (stop, life) = (stop.clone(), life.clone());
            async move {
                // Whoever drops it without a stop wants no more of it.
                let _ = life.run_until_cancelled(keeper.run(stop)).await;
            }
        });
        // What is there already has to go, even if nobody is banned.
        shared.wake.notify_one();
        let keeper = Mutex::new(Some(task));
        Self { open: Some(Arc::new(Open { shared, stop, keeper, _life: life.drop_guard() })) }
    }

    /// `net` is banned until `until`; again, if it was banned otherwise before.
    pub fn ban(&self, net: IpNet, until: Timestamp, reason: &'static str) {
        self.put([(net, until, reason)].into_iter(), false);
    }

    /// The bans that are in force when this process begins. The operator's program is not told of them again.
    pub fn restore(&self, bans: impl Iterator<Item = (IpNet, Timestamp, &'static str)>) {
        self.put(bans, true);
    }

    /// `net` is not banned any more. A wider or a narrower ban stays.
    pub fn unban(&self, net: IpNet) {
        let Some(Open { shared, .. }) = self.open.as_deref() else { return };
        let net = network::canonical(net);
        let mut wanted = shared.wanted.lock();
        if wanted.bans.remove(&net).is_some() {
            wanted.note(net);
            drop(wanted);
            shared.wake.notify_one();
        }
    }

    /// Whose addresses never leave: allowed networks, load balancers, mail servers. Replaces what was said before; bans
    /// that leave now and must not are taken back, those that may again are told.
    pub fn set_exempt(&self, networks: Vec<IpNet>) {
        let Some(Open { shared, .. }) = self.open.as_deref() else { return };
        let exempt = networks.into_iter().map(|net| (network::canonical(net), ())).collect();
        let mut wanted = shared.wanted.lock();
        wanted.exempt = Arc::new(exempt);
        wanted.all = true;
        wanted.changed.clear();
        drop(wanted);
        shared.wake.notify_one();
    }

    /// Ends it: the packet filter is cleared, the file stays, for it says until when. Bounded; later verbs do nothing.
    pub async fn stop(&self) {
        let Some(open) = self.open.as_deref() else { return };
        open.shared.wanted.lock().stopped = true;
        open.stop.cancel();
        let keeper = open.keeper.lock().take();
        if let Some(mut keeper) = keeper
            && timeout(STOP, &mut keeper).await.is_err()
        {
            keeper.abort();
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.open.as_deref().map(|open| open.shared.counts.told()).unwrap_or_default()
    }

    fn put(&self, bans: impl Iterator<Item = (IpNet, Timestamp, &'static str)>, old: bool) {
        let Some(Open { shared, .. }) = self.open.as_deref() else { return };
        let mut wanted = shared.wanted.lock();
        if wanted.stopped {
            return;
        }
        for (net, until, reason) in bans {
            let net = network::canonical(net);
            let before = wanted.bans.get(&net);
            if before.is_none() && wanted.bans.len() >= MOST {
                shared.counts.failed(counts::Kind::Overflow);
            } else if before.is_none_or(|before| (before.until, before.reason) != (until, reason)) {
                wanted.bans.insert(net, Ban { until, reason, old });
                wanted.note(net);
            }
        }
        drop(wanted);
        shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
