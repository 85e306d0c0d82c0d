//! What the packet filter has, and how it comes to have what is wanted.
//!
//! ```text
//!            a change was carried out
//!              ┌───────┐
//!  unknown ──► known ◄─┘        unknown: at the start, after any failure, and when somebody deleted the table
//!     ▲ everything │ a failure, or many changes
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

/// From how many changes on it is simpler to make everything anew.
const PLENTY: usize = 4096;

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
            check: now + nftables.check,
            nftables,
            has: None,
            retry: now,
            pause: FIRST_PAUSE,
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
        if touched.len() > PLENTY && self.has.take().is_some() {
            self.retry = Instant::now();
        }
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
        self.check = Instant::now() + self.nftables.check;
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
                self.check = Instant::now() + self.nftables.check;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn later(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn has(nets: &[(&str, u64)]) -> NetMap<Timestamp> {
        nets.iter().map(|&(text, seconds)| (net(text), later(seconds))).collect()
    }

    fn wanted(nets: &[(&str, u64)]) -> NetMap<Ban> {
        let ban = |seconds| Ban { until: later(seconds), reason: "test", old: false };
        nets.iter().map(|&(text, seconds)| (net(text), ban(seconds))).collect()
    }

    #[test]
    fn what_changes_is_told_and_nothing_else() {
        type Nets<'a> = &'a [(&'a str, u64)];
        /// What is there, what is wanted, what was touched; what goes out, what comes in.
        type Case<'a> = (Nets<'a>, Nets<'a>, &'a [&'a str], &'a [&'a str], Nets<'a>);
        let cases: &[Case<'_>] = &[
            // One comes, one goes, one is extended, one stays.
            (&[], &[("192.0.2.1/32", 60)], &["192.0.2.1/32"], &[], &[("192.0.2.1/32", 60)]),
            (&[("192.0.2.1/32", 60)], &[], &["192.0.2.1/32"], &["192.0.2.1/32"], &[]),
            (
                &[("192.0.2.1/32", 60)],
                &[("192.0.2.1/32", 90)],
                &["192.0.2.1/32"],
                &["192.0.2.1/32"],
                &[("192.0.2.1/32", 90)],
            ),
            (&[("192.0.2.1/32", 60)], &[("192.0.2.1/32", 60)], &["192.0.2.1/32"], &[], &[]),
            // What is not touched is let be.
            (&[("192.0.2.1/32", 60)], &[("192.0.2.9/32", 60)], &["192.0.2.9/32"], &[], &[("192.0.2.9/32", 60)]),
            // A narrow one within a wide one is not told; it is when the wide one goes.
            (&[("192.0.2.0/24", 60)], &[("192.0.2.0/24", 60), ("192.0.2.1/32", 90)], &["192.0.2.1/32"], &[], &[]),
            (
                &[("192.0.2.0/24", 60)],
                &[("192.0.2.1/32", 90), ("192.0.2.9/32", 90)],
                &["192.0.2.0/24"],
                &["192.0.2.0/24"],
                &[("192.0.2.1/32", 90), ("192.0.2.9/32", 90)],
            ),
            // A wide one takes the place of narrow ones.
            (
                &[("192.0.2.1/32", 60), ("192.0.2.9/32", 60), ("192.0.3.1/32", 60)],
                &[("192.0.2.0/24", 60), ("192.0.2.1/32", 60), ("192.0.2.9/32", 60), ("192.0.3.1/32", 60)],
                &["192.0.2.0/24"],
                &["192.0.2.1/32", "192.0.2.9/32"],
                &[("192.0.2.0/24", 60)],
            ),
            // Three within one another, and the outermost goes.
            (
                &[("10.0.0.0/8", 60)],
                &[("10.1.0.0/16", 60), ("10.1.1.1/32", 60)],
                &["10.0.0.0/8"],
                &["10.0.0.0/8"],
                &[("10.1.0.0/16", 60)],
            ),
            // Both at once.
            (
                &[("10.0.0.0/8", 60)],
                &[("10.1.1.1/32", 60)],
                &["10.1.0.0/16", "10.0.0.0/8", "10.1.1.1/32"],
                &["10.0.0.0/8"],
                &[("10.1.1.1/32", 60)],
            ),
            // What is over has gone by itself, and is not named.
            (&[("192.0.2.0/24", 0)], &[("192.0.2.1/32", 9)], &["192.0.2.0/24"], &[], &[("192.0.2.1/32", 9)]),
            (&[("192.0.2.1/32", 0)], &[("192.0.2.1/32", 9)], &["192.0.2.1/32"], &[], &[("192.0.2.1/32", 9)]),
            (&[("192.0.2.1/32", 0)], &[], &["192.0.2.1/32"], &[], &[]),
            (&[], &[("2001:db8::/64", 9)], &["2001:db8::/64"], &[], &[("2001:db8::/64", 9)]),
        ];
        for (before, after, touched, out, into) in cases {
            let touched: Vec<IpNet> = touched.iter().map(|text| net(text)).collect();
            let change = plan(&has(before), &wanted(after), &touched, NOW);
            assert_eq!(change.out, out.iter().map(|text| net(text)).collect::<Vec<_>>(), "{before:?} {after:?}");
            let into: Vec<_> = into.iter().map(|&(text, seconds)| (net(text), later(seconds))).collect();
            assert_eq!(change.into, into, "{before:?} {after:?}");
        }
    }

    /// Networks that are likely to lie within one another.
    fn some() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0_u32..16, 26_u8..=32).prop_map(|(host, length)| {
                IpNet::new(std::net::Ipv4Addr::from_bits(0xC000_0200 + host * 4).into(), length).unwrap().trunc()
            }),
            (0_u128..8, 58_u8..=66).prop_map(|(subnet, length)| {
                let bits = (0x2001_0db8_u128 << 96) + (subnet << 64);
                IpNet::new(std::net::Ipv6Addr::from_bits(bits).into(), length).unwrap().trunc()
            }),
        ]
    }

    proptest! {
        /// Whatever comes and goes, in whatever batches: what is there is what is wanted, and nothing overlaps on the way.
        #[test]
        fn what_is_there_follows_what_is_wanted(
            batches in prop::collection::vec(prop::collection::vec((some(), prop::option::of(1_u64..4)), 1..6), 1..12)
        ) {
            let (mut is, mut wants) = (NetMap::<Timestamp>::default(), NetMap::<Ban>::default());
            for batch in batches {
                let mut touched = Vec::new();
                for (net, seconds) in batch {
                    match seconds {
                        Some(seconds) => wants.insert(net, Ban { until: later(seconds), reason: "test", old: false }),
                        None => drop(wants.remove(net)),
                    }
                    touched.push(net);
                }
                let change = plan(&is, &wants, &touched, NOW);
                prop_assert!(change.gone.is_empty());
                for net in change.out {
                    prop_assert!(is.remove(net).is_some(), "{} is not there", net);
                }
                for (net, until) in change.into {
                    prop_assert!(!is.touches(net), "{} overlaps", net);
                    is.insert(net, until);
                }
                let all = ["0.0.0.0/0", "::/0"].map(net);
                let expected: Vec<_> = all.iter()
                    .flat_map(|all| wants.outermost(*all).map(|(net, ban)| (net, ban.until)).collect::<Vec<_>>()).collect();
                let found: Vec<_> = is.iter().map(|(net, until)| (net, *until)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
