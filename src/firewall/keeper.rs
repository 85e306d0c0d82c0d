//! The one task that tells: it takes in what changed, and hands it to whoever is to be told.

use std::collections::{BTreeSet, HashMap};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::counts::Seldom;
use super::export::Export;
use super::hook::Caller;
use super::kernel::Kernel;
use super::nets::NetMap;
use super::{Ban, MOST, Settings, Shared};
use crate::time::Timestamp;

/// What comes within this time is told together.
const BATCH: Duration = Duration::from_millis(150);

/// How long after its end a ban is taken out here, so that the packet filter has done so by itself.
const LINGER: Duration = Duration::from_secs(1);

/// How seldom it wakes when nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// Everything that is told, and to whom.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// What is to be known outside: what is wanted, but for what touches an exempt network.
    told: NetMap<Ban>,
    /// When what is wanted ends, told or not; and the same in order.
    until: HashMap<IpNet, Timestamp>,
    ends: BTreeSet<(Timestamp, IpNet)>,
    exempt: Arc<NetMap<()>>,
    kernel: Option<Kernel>,
    file: Option<Export>,
    hook: Option<Caller>,
    withheld: Seldom,
    too_many: Seldom,
    overflown: u64,
}

impl Keeper {
    pub(super) fn new(settings: Settings, shared: Arc<Shared>) -> Self {
        Self {
            told: NetMap::default(),
            until: HashMap::new(),
            ends: BTreeSet::new(),
            exempt: Arc::default(),
            kernel: settings.nftables.map(Kernel::new),
            file: settings.file.map(|file| Export::new(file, Arc::clone(&shared))),
            hook: settings.command.map(|hook| Caller::new(hook, Arc::clone(&shared))),
            withheld: Seldom::default(),
            too_many: Seldom::default(),
            overflown: 0,
            shared,
        }
    }

    /// Tells until `stop`, and then clears.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = shared.wake.notified() => {}
                () = sleep_until(self.due()) => {}
            }
            if stop.run_until_cancelled(sleep(BATCH)).await.is_none() {
                break;
            }
            self.round().await;
        }
        let touched = self.take_in();
        if !touched.is_empty()
            && let Some(file) = &self.file
        {
            file.changed();
        }
        let Self { told, kernel, file, .. } = &mut self;
        let file = async {
            if let Some(file) = file.take() {
                file.finish(told).await;
            }
        };
        let kernel = async {
            if let Some(kernel) = kernel {
                kernel.clear(&shared.counts).await;
            }
        };
        tokio::join!(file, kernel);
    }

    /// When there is something to do, even if nothing changes.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let clock = self.shared.clock.now();
        let end = self.ends.first().map(|(until, _)| now + until.plus(LINGER).since(clock).min(IDLE));
        let kernel = self.kernel.as_ref().map(Kernel::due);
        let file = self.file.as_ref().and_then(Export::due);
        [Some(now + IDLE), end, kernel, file].into_iter().flatten().min().unwrap_or(now)
    }

    async fn round(&mut self) {
        let touched = self.take_in();
        if let Some(file) = &mut self.file {
            if !touched.is_empty() {
                file.changed();
            }
            file.update(&self.told);
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.update(&self.told, &touched, self.shared.clock.now(), &self.shared.counts).await;
        }
    }

    /// Takes in what changed and what is over; the networks that it was about.
    fn take_in(&mut self) -> Vec<IpNet> {
        let changes = self.changes();
        let now = self.shared.clock.now();
        let mut touched = Vec::new();
        for (net, ban) in changes {
            self.note_end(net, ban.map(|ban| ban.until));
            // It is over already: nobody has to hear of it.
            let ban = ban.filter(|ban| ban.until > now && !self.is_withheld(net));
            if self.tell(net, ban) {
                touched.push(net);
            }
        }
        let over = self.over(now);
        touched.extend(over.into_iter().filter(|net| self.tell(*net, None)));
        self.say_if_too_many();
        touched
    }

    /// Takes out what is over; the networks that it was about.
    fn over(&mut self, now: Timestamp) -> Vec<IpNet> {
        let mut over = Vec::new();
        while let Some(&(until, net)) = self.ends.first()
            && until.plus(LINGER) <= now
        {
            self.note_end(net, None);
            over.push((until, net));
        }
        if !over.is_empty() {
            let mut wanted = self.shared.wanted.lock();
            for (until, net) in &over {
                // It may have been banned anew just now.
                if wanted.bans.get(net).is_some_and(|ban| ban.until == *until) {
                    wanted.bans.remove(net);
                }
            }
        }
        over.into_iter().map(|(_, net)| net).collect()
    }

    /// What is wanted of each network of which something changed.
    fn changes(&mut self) -> Vec<(IpNet, Option<Ban>)> {
        let now = self.shared.clock.now();
        let mut wanted = self.shared.wanted.lock();
        self.exempt = Arc::clone(&wanted.exempt);
        let changed = take(&mut wanted.changed);
        if take(&mut wanted.all) {
            wanted.bans.retain(|_, ban| ban.until > now);
            let all = wanted.bans.clone();
            drop(wanted);
            let gone: Vec<IpNet> = self.until.keys().filter(|net| !all.contains_key(net)).copied().collect();
            return gone
                .into_iter()
                .map(|net| (net, None))
                .chain(all.into_iter().map(|(net, ban)| (net, Some(ban))))
                .collect();
        }
        changed.into_iter().map(|net| (net, wanted.bans.get(&net).copied())).collect()
    }

    fn note_end(&mut self, net: IpNet, until: Option<Timestamp>) {
        let before = match until {
            Some(until) => self.until.insert(net, until),
            None => self.until.remove(&net),
        };
        if let Some(before) = before {
            self.ends.remove(&(before, net));
        }
        self.ends.extend(until.map(|until| (until, net)));
    }

    /// What is told of `net` from now on. Whether that is something else.
    fn tell(&mut self, net: IpNet, ban: Option<Ban>) -> bool {
        let before = self.told.get(net).copied();
        if before == ban {
            return false;
        }
        match ban {
            Some(ban) => self.told.insert(net, ban),
            None => drop(self.told.remove(net)),
        }
        if let Some(hook) = &mut self.hook {
            match ban {
                Some(ban) if !ban.old => hook.ban(net, ban),
                Some(_) => {}
                None => hook.unban(net),
            }
        }
        true
    }

    /// Whether a network has an address in it that must not leave. Everybody is somebody who is exempt.
    fn is_withheld(&mut self, net: IpNet) -> bool {
        let withheld = net.prefix_len() == 0 || self.exempt.touches(net);
        if withheld && let Some(hushed) = self.withheld.may() {
            tracing::warn!(
                %net, hushed,
                "a ban is in force here, and is not told to the firewall: it covers an address that is allowed, a load \
                 balancer, or a mail server; ban a narrower network"
            );
        }
        withheld
    }

    fn say_if_too_many(&mut self) {
        let overflown = self.shared.counts.overflown();
        if overflown != take(&mut self.overflown)
            && let Some(hushed) = self.too_many.may()
        {
            tracing::warn!(
                most = MOST,
                hushed,
                "further bans are in force here alone: the firewall is told no more than it has; ban networks, not addresses"
            );
        }
        self.overflown = overflown;
    }
}
