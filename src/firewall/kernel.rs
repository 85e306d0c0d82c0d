//! What the packet filter has, and how it comes to have what is wanted.
//!
//! ```text
//!            a change was carried out
//!              ┌───────┐
//!  unknown ──► known ◄─┘        unknown: at the start, after any failure, and when somebody deleted the table
//!     ▲ everything │ a failure
//!     └────────────┘            everything anew, in one step; at once, and then with a growing pause
//! ```
//!
//! A set of intervals takes no two that overlap: of nested networks only the outermost is there, and the inner ones come
//! when that one goes. What has run out has gone by itself.

use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::Ban;
use super::counts::{Counters, Seldom};
use super::nets::NetMap;
use super::nft::Nftables;
use super::program::Failure;
use crate::time::Timestamp;

/// The pauses between attempts to make everything anew.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// How often it is looked whether the table is still there: a reload of the host's own rules flushes everything.
const CHECK: Duration = Duration::from_secs(30);

/// The packet filter, as far as it is known.
pub(super) struct Kernel {
    nftables: Nftables,
    /// What is there, and until when; nothing while that is unknown.
    has: Option<NetMap<Timestamp>>,
    retry: Instant,
    pause: Duration,
    check: Instant,
    failing: bool,
    complaint: Seldom,
}

/// What changes one state into another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Change {
    out: Vec<IpNet>,
    into: Vec<(IpNet, Timestamp)>,
    /// What has gone, or will go at once, by itself.
    gone: Vec<IpNet>,
}

impl Kernel {
    pub(super) fn new(nftables: Nftables) -> Self {
        let now = Instant::now();
        Self {
            nftables,
            has: None,
            retry: now,
            pause: FIRST_PAUSE,
            check: now + CHECK,
            failing: false,
            complaint: Seldom::default(),
        }
    }

    /// When it wants to be brought up to date, even if nothing changes.
    pub(super) fn due(&self) -> Instant {
        if self.has.is_none() { self.retry } else { self.check }
    }

    /// Brings it up to date. `touched` are the networks of which something may have changed in `wanted`.
    pub(super) async fn update(&mut self, wanted: &NetMap<Ban>, touched: &[IpNet], now: Timestamp, counts: &Counters) {
        self.change(wanted, touched, now, counts).await;
        self.look(counts).await;
        if self.has.is_none() && Instant::now() >= self.retry {
            self.renew(wanted, now, counts).await;
        }
        counts.has(self.has.as_ref().map_or(0, NetMap::len));
    }

    /// Takes the table away. What cannot be taken away goes by itself, one after the other.
    pub(super) async fn clear(&mut self, counts: &Counters) {
        let ended = self.nftables.carry_out(&self.nftables.nothing(), 0).await;
        counts.has(0);
        if let Err(failure) = ended {
            counts.nft_failed(&failure);
            if !self.failing {
                let table = &self.nftables.table;
                tracing::warn!(
                    %failure,
                    "the firewall keeps the bans until they run out: its table cannot be deleted; do it with `nft delete \
                     table inet {table}`"
                );
            }
        }
    }

    async fn change(&mut self, wanted: &NetMap<Ban>, touched: &[IpNet], now: Timestamp, counts: &Counters) {
        let Some(has) = &mut self.has else { return };
        let Change { out, into, gone } = plan(has, wanted, touched, now);
        for net in gone {
            has.remove(net);
        }
        if out.is_empty() && into.is_empty() {
            return;
        }
        let text = self.nftables.change(&out, &into, now);
        // To find overlaps, nft asks for all that is there.
        match self.nftables.carry_out(&text, has.len() + out.len() + into.len()).await {
            Ok(()) => {
                for net in out {
                    has.remove(net);
                }
                for (net, until) in into {
                    has.insert(net, until);
                }
            }
            Err(failure) => {
                // An element that went in this moment, or a hand that was in the table: all anew mends either.
                tracing::debug!(%failure, "the firewall did not take a change; everything is told anew");
                self.has = None;
                self.retry = Instant::now();
            }
        }
        counts.has(self.has.as_ref().map_or(0, NetMap::len));
    }

    /// Looks whether the table is still there, when it is time to.
    async fn look(&mut self, counts: &Counters) {
        if self.has.is_none() || Instant::now() < self.check {
            return;
        }
        self.check = Instant::now() + CHECK;
        match self.nftables.is_there().await {
            Ok(()) => {}
            Err(Failure::Refused(_)) => {
                tracing::info!("the firewall's table was deleted by somebody else; it is made anew");
                self.has = None;
                self.retry = Instant::now();
            }
            // Whether it is there, is not known. What changes next will tell.
            Err(failure) => counts.nft_failed(&failure),
        }
    }

    /// Makes everything anew.
    async fn renew(&mut self, wanted: &NetMap<Ban>, now: Timestamp, counts: &Counters) {
        let all = ["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse::<IpNet>().ok());
        let elements: Vec<(IpNet, Timestamp)> = all
            .flat_map(|all| wanted.outermost(all).map(|(net, ban)| (net, ban.until)).collect::<Vec<_>>())
            .filter(|(_, until)| *until > now)
            .collect();
        let text = self.nftables.whole(&elements, now);
        match self.nftables.carry_out(&text, elements.len()).await {
            Ok(()) => {
                tracing::debug!(elements = elements.len(), "the firewall has every ban");
                if std::mem::take(&mut self.failing) {
                    tracing::info!(elements = elements.len(), "the firewall has every ban again");
                }
                self.has = Some(elements.into_iter().collect());
                self.pause = FIRST_PAUSE;
                self.check = Instant::now() + CHECK;
            }
            Err(failure) => {
                counts.nft_failed(&failure);
                self.failing = true;
                self.retry = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(LAST_PAUSE);
                if let Some(hushed) = self.complaint.may() {
                    let remedy = remedy(&failure);
                    tracing::warn!(
                        %failure, remedy, hushed,
                        "bans are in force here, and the firewall cannot be told of them; it is tried again"
                    );
                }
            }
        }
    }
}

/// What mends it.
fn remedy(failure: &Failure) -> &'static str {
    match failure {
        Failure::Missing(_) => "install the package nftables, or take [bans.nftables] out of the file",
        Failure::Denied(_) => {
            "give gatepost CAP_NET_ADMIN and the address family AF_NETLINK, as gatepost.service shows, or take \
             [bans.nftables] out of the file"
        }
        Failure::Timeout(_) => "see what keeps nft from ending: `nft list ruleset` by hand tells",
        Failure::Refused(_) => {
            "see whether the kernel has nftables (`nft list ruleset`), and whether another program works on the same table"
        }
    }
}

/// What has to change around the `touched` networks for `has` to become the outermost of `wanted`.
fn plan(has: &NetMap<Timestamp>, wanted: &NetMap<Ban>, touched: &[IpNet], now: Timestamp) -> Change {
    // What is around a network now, or is to be, changes with it.
    let around = |net: IpNet| {
        [has.widest(net), wanted.widest(net), Some(net)].into_iter().flatten().min_by_key(IpNet::prefix_len)
    };
    let regions: NetMap<()> = touched.iter().filter_map(|net| Some((around(*net)?, ()))).collect();
    let mut change = Change::default();
    for (region, ()) in regions.iter().filter(|(region, ())| regions.widest(*region) == Some(*region)) {
        let target = wanted.outermost(region).filter(|(_, ban)| ban.until > now);
        change
            .into
            .extend(target.map(|(net, ban)| (net, ban.until)).filter(|(net, until)| has.get(*net) != Some(until)));
        let stays = |net: IpNet, until: Timestamp| {
            wanted.widest(net) == Some(net) && wanted.get(net).is_some_and(|ban| ban.until == until)
        };
        for (net, until) in has.within(region).filter(|(net, until)| !stays(*net, **until)) {
            // What is over went by itself. To name it would be an error.
            if *until > now { change.out.push(net) } else { change.gone.push(net) }
        }
    }
    change
}
