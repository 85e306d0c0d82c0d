//! What was decided of networks at run time: bans, allowances, and for a while what was lifted.
//!
//! Asked on every accept: for each length of prefix that there is a decision of, one look-up. What was decided of a client
//! is of a /32 or a /64; automatic ones of its neighbours of a /24 or a /48; operators decide of any.
//!
//! An allowance beats every ban. Of several bans the one that holds longest counts. There is room for so many; who gives way
//! when it is full: what is only kept because it was lifted; then, of the automatic bans on the lowest step of the ladder, the
//! oldest, and none to a ban on a lower step. So whoever guesses from a million networks fills it with first bans, and pushes
//! out first bans; and whoever was banned just now, and may be busy still, is the last of them to go. No ban and no allowance of an operator's gives way to anything but another word of an
//! operator's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use parking_lot::RwLock;

use crate::addr;
use crate::policy::ban::{Decision, Reason, What};
use crate::policy::network;
use crate::time::Timestamp;

/// A decision, and how often it was met at the door.
#[derive(Debug)]
pub struct Held {
    /// Of whom.
    pub network: IpNet,
    /// What was decided.
    pub decision: Decision,
    knocks: AtomicU64,
}

impl Held {
    /// A client of the network has come.
    pub fn knock(&self) {
        self.knocks.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have come since this was decided.
    pub fn knocks(&self) -> u64 {
        self.knocks.load(Ordering::Relaxed)
    }
}

/// What has become of a decision.
#[derive(Debug)]
pub enum Decided {
    /// It is in force.
    InForce(Arc<Held>),
    /// What was decided before outweighs it.
    Outweighed(Arc<Held>),
    /// There is no room, and all that is there matters more.
    Full,
}

/// All decisions.
#[derive(Debug)]
pub struct Decisions {
    room: usize,
    /// Read on every accept, written when something is decided; held for look-ups in maps, and never across a wait.
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    held: HashMap<IpNet, Arc<Held>, RandomState>,
    /// When each ends, soonest first; those that never do are not there.
    ends: BTreeSet<(Timestamp, IpNet)>,
    /// Those that can give way, in the order in which they give way.
    weakest: BTreeSet<(u8, Timestamp, IpNet)>,
    /// The networks that are allowed.
    allowed: BTreeSet<IpNet>,
    /// How many there are of each length of prefix.
    v4: Lengths<33>,
    v6: Lengths<129>,
    /// The networks of which something has changed, if somebody wants to know.
    changed: Option<HashSet<IpNet, RandomState>>,
}

#[derive(Debug)]
struct Lengths<const N: usize>([u32; N]);

impl<const N: usize> Default for Lengths<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Lengths<N> {
    fn change(&mut self, length: u8, change: impl FnOnce(u32) -> u32) {
        if let Some(count) = self.0.get_mut(usize::from(length)) {
            *count = change(*count);
        }
    }

    /// The lengths that there are, longest first.
    fn there(&self) -> impl Iterator<Item = u8> {
        let lengths = self.0.iter().enumerate().rev();
        lengths.filter(|(_, count)| **count > 0).filter_map(|(length, _)| u8::try_from(length).ok())
    }
}

impl Decisions {
    /// None, and room for so many.
    pub(super) fn new(room: usize) -> Self {
        Self { room, inner: RwLock::default() }
    }

    pub(super) fn note_changes(&self) {
        self.inner.write().changed = Some(HashSet::default());
    }

    pub(super) fn note_all(&self) {
        let mut inner = self.inner.write();
        let Inner { held, changed, .. } = &mut *inner;
        if let Some(changed) = changed {
            changed.extend(held.keys());
        }
    }

    /// What counts for a client at `now`.
    pub fn of(&self, client: IpAddr, now: Timestamp) -> Option<Arc<Held>> {
        self.search(client, now, |_| true)
    }

    /// What counts for a client at `now` where only an operator's word does.
    pub fn said_of(&self, client: IpAddr, now: Timestamp) -> Option<Arc<Held>> {
        self.search(client, now, |decision| decision.reason == Reason::Operator)
    }

    fn search(&self, client: IpAddr, now: Timestamp, counts: impl Fn(&Decision) -> bool) -> Option<Arc<Held>> {
        let client = addr::canonical(client);
        let inner = self.inner.read();
        if inner.held.is_empty() {
            return None;
        }
        let found = match client {
            IpAddr::V4(_) => inner.most(client, inner.v4.there(), |decision| decision.holds(now) && counts(decision)),
            IpAddr::V6(_) => inner.most(client, inner.v6.there(), |decision| decision.holds(now) && counts(decision)),
        };
        found.cloned()
    }

    /// What was decided of exactly `network`, in force or not.
    pub fn get(&self, network: IpNet) -> Option<Arc<Held>> {
        self.inner.read().held.get(&network::canonical(network)).cloned()
    }

    /// Decides.
    pub fn decide(&self, network: IpNet, decision: Decision) -> Decided {
        let network = network::canonical(network);
        let mut inner = self.inner.write();
        if let Some(there) = inner.held.get(&network)
            && !decision.outweighs(&there.decision)
        {
            return Decided::Outweighed(Arc::clone(there));
        }
        let is_new = !inner.held.contains_key(&network);
        if is_new && inner.held.len() >= self.room {
            match inner.victim(&decision) {
                Some(victim) => drop(inner.remove(victim)),
                None => return Decided::Full,
            }
        }
        Decided::InForce(inner.insert(network, decision))
    }

    /// Takes out what has ended by `now`: their networks and what they were.
    pub fn sweep(&self, now: Timestamp) -> Vec<Arc<Held>> {
        let due = |inner: &Inner| inner.ends.first().filter(|(end, _)| *end <= now).map(|(_, network)| *network);
        if due(&self.inner.read()).is_none() {
            return Vec::new();
        }
        let mut inner = self.inner.write();
        let mut ended = Vec::new();
        while let Some(network) = due(&inner) {
            ended.extend(inner.remove(network));
        }
        ended
    }

    /// All that hold at `now`, in the order of their networks.
    pub fn all(&self, now: Timestamp) -> Vec<Arc<Held>> {
        let mut all: Vec<_> =
            self.inner.read().held.values().filter(|held| held.decision.holds(now)).cloned().collect();
        all.sort_by_key(|held| held.network);
        all
    }

    /// The networks that are allowed at `now`, in order.
    pub fn allowed(&self, now: Timestamp) -> Vec<IpNet> {
        let inner = self.inner.read();
        let holds = |network: &&IpNet| inner.held.get(*network).is_some_and(|held| held.decision.holds(now));
        inner.allowed.iter().filter(holds).copied().collect()
    }

    /// How many there are: bans and allowances.
    pub fn count(&self, what: What) -> usize {
        self.inner.read().held.values().filter(|held| held.decision.what == what).count()
    }

    /// Shows what has changed: the network, and what is decided of it, if anything is.
    pub(super) fn take_changes(&self, most: usize, mut show: impl FnMut(IpNet, Option<&Decision>)) {
        let mut inner = self.inner.write();
        let Some(changed) = &mut inner.changed else { return };
        let some: Vec<IpNet> = changed.iter().take(most).copied().collect();
        for network in &some {
            changed.remove(network);
        }
        for network in some {
            show(network, inner.held.get(&network).map(|held| &held.decision));
        }
    }
}

impl Inner {
    fn most(
        &self,
        client: IpAddr,
        lengths: impl Iterator<Item = u8>,
        counts: impl Fn(&Decision) -> bool,
    ) -> Option<&Arc<Held>> {
        let mut most: Option<&Arc<Held>> = None;
        for length in lengths {
            let Ok(network) = IpNet::new(client, length) else { continue };
            let Some(held) = self.held.get(&network.trunc()).filter(|held| counts(&held.decision)) else { continue };
            match held.decision.what {
                What::Allow => return Some(held),
                What::Lifted => {}
                What::Ban => {
                    let longer = |other: &&Arc<Held>| {
                        let until = |held: &Held| (held.decision.until.is_none(), held.decision.until);
                        until(held) > until(other)
                    };
                    if most.as_ref().is_none_or(longer) {
                        most = Some(held);
                    }
                }
            }
        }
        most
    }

    fn insert(&mut self, network: IpNet, decision: Decision) -> Arc<Held> {
        self.remove(network);
        if let Some(until) = decision.until {
            self.ends.insert((until, network));
            if decision.reason != Reason::Operator || decision.what == What::Lifted {
                self.weakest.insert((decision.level, decision.begin, network));
            }
        }
        match network {
            IpNet::V4(_) => self.v4.change(network.prefix_len(), |count| count + 1),
            IpNet::V6(_) => self.v6.change(network.prefix_len(), |count| count + 1),
        }
        if decision.what == What::Allow {
            self.allowed.insert(network);
        }
        self.note(network);
        let held = Arc::new(Held { network, decision, knocks: AtomicU64::new(0) });
        self.held.insert(network, Arc::clone(&held));
        held
    }

    fn remove(&mut self, network: IpNet) -> Option<Arc<Held>> {
        let held = self.held.remove(&network)?;
        self.allowed.remove(&network);
        if let Some(until) = held.decision.until {
            self.ends.remove(&(until, network));
            self.weakest.remove(&(held.decision.level, held.decision.begin, network));
        }
        match network {
            IpNet::V4(_) => self.v4.change(network.prefix_len(), |count| count.saturating_sub(1)),
            IpNet::V6(_) => self.v6.change(network.prefix_len(), |count| count.saturating_sub(1)),
        }
        self.note(network);
        Some(held)
    }

    fn note(&mut self, network: IpNet) {
        if let Some(changed) = &mut self.changed {
            changed.insert(network);
        }
    }

    /// Which one gives way to `newcomer`, if one does.
    fn victim(&self, newcomer: &Decision) -> Option<IpNet> {
        let (level, _, network) = self.weakest.first()?;
        let matters = newcomer.reason == Reason::Operator || newcomer.level >= *level;
        matters.then_some(*network)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

    fn net(text: &str) -> IpNet {
        network::parse(text).unwrap()
    }

    fn decision(what: What, reason: Reason, begin: Timestamp, seconds: Option<u64>) -> Decision {
        Decision {
            what,
            reason,
            count: 5,
            level: 1,
            begin,
            until: seconds.map(|seconds| begin.plus(Duration::from_secs(seconds))),
            who: "mx1".into(),
            evidence: "".into(),
        }
    }

    fn ban(seconds: u64) -> Decision {
        decision(What::Ban, Reason::Failures, NOW, Some(seconds))
    }

    fn later(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn what(decisions: &Decisions, client: &str, now: Timestamp) -> Option<(What, IpNet)> {
        decisions.of(client.parse().unwrap(), now).map(|held| (held.decision.what, held.network))
    }

    #[test]
    fn a_ban_counts_for_its_network_until_it_ends() {
        let decisions = Decisions::new(10);
        decisions.decide(net("192.0.2.7"), ban(60));
        decisions.decide(net("2001:db8:0:1::/64"), ban(60));
        for client in ["192.0.2.7", "::ffff:192.0.2.7"] {
            assert_eq!(what(&decisions, client, NOW), Some((What::Ban, net("192.0.2.7"))));
            assert_eq!(what(&decisions, client, later(60)), None);
        }
        assert_eq!(what(&decisions, "2001:db8:0:1:5::9", NOW), Some((What::Ban, net("2001:db8:0:1::/64"))));
        assert_eq!((what(&decisions, "192.0.2.8", NOW), what(&decisions, "2001:db8:0:2::", NOW)), (None, None));
        assert_eq!(decisions.sweep(later(59)).len(), 0);
        assert_eq!(decisions.sweep(later(60)).len(), 2);
        assert_eq!((decisions.all(NOW).len(), decisions.count(What::Ban)), (0, 0));
    }

    #[test]
    fn an_allowance_beats_every_ban_and_the_longest_ban_counts() {
        let decisions = Decisions::new(10);
        decisions.decide(net("192.0.2.0/24"), ban(600));
        decisions.decide(net("192.0.2.7"), ban(60));
        decisions.decide(net("192.0.0.0/16"), decision(What::Ban, Reason::Operator, NOW, None));
        assert_eq!(what(&decisions, "192.0.2.7", NOW), Some((What::Ban, net("192.0.0.0/16"))));
        decisions.decide(net("192.0.2.0/28"), decision(What::Allow, Reason::Operator, NOW, Some(30)));
        assert_eq!(what(&decisions, "192.0.2.7", NOW), Some((What::Allow, net("192.0.2.0/28"))));
        assert_eq!(what(&decisions, "192.0.2.77", NOW), Some((What::Ban, net("192.0.0.0/16"))));
        assert_eq!(what(&decisions, "192.0.2.7", later(30)), Some((What::Ban, net("192.0.0.0/16"))));
    }

    #[test]
    fn what_is_lifted_no_longer_counts_and_can_be_banned_again() {
        let decisions = Decisions::new(10);
        decisions.decide(net("192.0.2.7"), ban(600));
        let lifted = decision(What::Lifted, Reason::Operator, later(1), Some(3600));
        assert!(matches!(decisions.decide(net("192.0.2.7"), lifted), Decided::InForce(_)));
        assert_eq!(what(&decisions, "192.0.2.7", later(1)), None);
        assert!(
            matches!(decisions.decide(net("192.0.2.7"), ban(600)), Decided::Outweighed(_)),
            "an old one, from afar"
        );
        let again = decision(What::Ban, Reason::Failures, later(2), Some(600));
        decisions.decide(net("192.0.2.7"), again);
        assert_eq!(what(&decisions, "192.0.2.7", later(2)), Some((What::Ban, net("192.0.2.7"))));
    }

    #[test]
    fn a_full_house_lets_the_least_of_the_soonest_go_and_nothing_of_an_operators() {
        let decisions = Decisions::new(3);
        decisions.decide(net("10.0.0.1"), decision(What::Ban, Reason::Operator, NOW, Some(1)));
        decisions.decide(net("10.0.0.2"), Decision { level: 3, ..ban(10) });
        decisions.decide(net("10.0.0.3"), ban(20));
        assert!(matches!(decisions.decide(net("10.0.0.4"), ban(5)), Decided::InForce(_)));
        assert_eq!(what(&decisions, "10.0.0.3", NOW), None, "the lowest step gave way");
        decisions.decide(net("10.0.0.5"), Decision { level: 3, ..ban(30) });
        assert!(
            matches!(decisions.decide(net("10.0.0.6"), ban(900)), Decided::Full),
            "a first ban pushes no third out"
        );
        assert!(matches!(decisions.decide(net("10.0.0.2"), Decision { level: 4, ..ban(99) }), Decided::InForce(_)));
        let word = decision(What::Ban, Reason::Operator, NOW, None);
        for n in 7..9 {
            assert!(matches!(decisions.decide(net(&format!("10.0.0.{n}")), word.clone()), Decided::InForce(_)));
        }
        assert!(matches!(decisions.decide(net("10.0.0.9"), word), Decided::Full), "all of them are an operator's");
        assert_eq!(decisions.all(NOW).len(), 3);
    }

    #[test]
    fn later_bans_that_end_soon_do_not_keep_first_ones_from_giving_way() {
        let decisions = Decisions::new(100);
        for n in 0..50 {
            decisions.decide(net(&format!("10.0.1.{n}")), Decision { level: 2, ..ban(60) });
            decisions.decide(net(&format!("10.0.2.{n}")), ban(600 + n));
        }
        for n in 0..200 {
            let decided = decisions.decide(net(&format!("10.0.3.{n}")), ban(700 + n));
            assert!(matches!(decided, Decided::InForce(_)), "{n}: {decided:?}");
        }
        assert!((0..50).all(|n| what(&decisions, &format!("10.0.1.{n}"), NOW).is_some()));
        assert!((150..200).all(|n| what(&decisions, &format!("10.0.3.{n}"), NOW).is_some()), "the last fifty");
        assert_eq!(decisions.sweep(later(1000)).len(), 100);
        assert!(decisions.inner.read().weakest.is_empty());
    }

    #[test]
    fn who_was_banned_last_is_the_last_to_give_way_however_soon_its_ban_ends() {
        let decisions = Decisions::new(3);
        for (n, seconds) in [(1, 900), (2, 600), (3, 700), (4, 100), (5, 100)] {
            let ban = decision(What::Ban, Reason::Failures, later(n), Some(seconds));
            assert!(matches!(decisions.decide(net(&format!("10.0.0.{n}")), ban), Decided::InForce(_)));
        }
        let there = |n: u32| what(&decisions, &format!("10.0.0.{n}"), later(5)).is_some();
        assert_eq!([1, 2, 3, 4, 5].map(there), [false, false, true, true, true]);
    }

    #[test]
    fn what_was_lifted_gives_way_when_the_house_is_full() {
        let decisions = Decisions::new(3);
        for n in 1..=3 {
            let lifted = Decision { level: 0, ..decision(What::Lifted, Reason::Operator, NOW, Some(9000)) };
            decisions.decide(net(&format!("10.0.0.{n}")), lifted);
        }
        for n in 4..=6 {
            assert!(matches!(decisions.decide(net(&format!("10.0.0.{n}")), ban(600)), Decided::InForce(_)), "{n}");
        }
        assert_eq!(decisions.count(What::Ban), 3);
    }

    #[test]
    fn an_operators_word_is_heard_beneath_a_longer_ban_of_another() {
        let decisions = Decisions::new(10);
        decisions.decide(net("192.0.2.0/24"), ban(9000));
        assert!(decisions.said_of("192.0.2.7".parse().unwrap(), NOW).is_none());
        decisions.decide(net("192.0.2.7"), decision(What::Ban, Reason::Operator, NOW, Some(60)));
        let said = decisions.said_of("192.0.2.7".parse().unwrap(), NOW).unwrap();
        assert_eq!((said.network, said.decision.reason), (net("192.0.2.7"), Reason::Operator));
    }

    #[test]
    fn who_is_allowed_is_known_without_a_search() {
        let decisions = Decisions::new(10);
        decisions.decide(net("192.0.2.7"), ban(60));
        for (n, seconds) in [(1, Some(60)), (2, None)] {
            let allow = decision(What::Allow, Reason::Operator, NOW, seconds);
            decisions.decide(net(&format!("10.0.0.{n}")), allow);
        }
        assert_eq!(decisions.allowed(NOW), [net("10.0.0.1"), net("10.0.0.2")]);
        assert_eq!(decisions.allowed(later(60)), [net("10.0.0.2")]);
        decisions.decide(net("10.0.0.2"), decision(What::Lifted, Reason::Operator, later(1), Some(60)));
        assert_eq!(decisions.allowed(NOW), [net("10.0.0.1")]);
    }

    #[test]
    fn what_has_changed_is_told_once() {
        let decisions = Decisions::new(10);
        decisions.decide(net("10.0.0.1"), ban(1));
        decisions.note_changes();
        decisions.decide(net("10.0.0.2"), ban(10));
        decisions.sweep(later(1));
        let mut told = Vec::new();
        decisions.take_changes(10, |network, decision| told.push((network, decision.is_some())));
        told.sort();
        assert_eq!(told, [(net("10.0.0.1"), false), (net("10.0.0.2"), true)]);
        decisions.take_changes(10, |_, _| panic!("nothing has changed since"));
    }

    #[test]
    fn knocks_are_counted() {
        let decisions = Decisions::new(10);
        decisions.decide(net("10.0.0.1"), ban(10));
        let held = decisions.of("10.0.0.1".parse().unwrap(), NOW).unwrap();
        (0..3).for_each(|_| held.knock());
        assert_eq!(decisions.get(net("10.0.0.1")).unwrap().knocks(), 3);
    }
}
