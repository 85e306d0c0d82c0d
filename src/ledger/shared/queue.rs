//! What waits for the store: changes that nobody waits for, and what was done while it was away.
//!
//! Bounded: a change of something that a change waits for already joins it; of what needs a place of its own and finds
//! none, it is counted that it was lost. Decisions and what is forgotten take the place of counted strikes, these of
//! standings, which mean least. What is put back after a failure joins what has come since, in the order of things.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use ipnet::IpNet;

use crate::addr::ClientKey;
use crate::ledger::store::Digest;
use crate::policy::ban::Decision;
use crate::policy::guard::{Rules, Strike};
use crate::screen::{Standing, Tests};

/// A change that is to be shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A client has passed tests.
    Standing(ClientKey, Standing),
    /// Passes of a client were taken back.
    Revoked(ClientKey, Tests),
    /// Something was decided of a network.
    Decision(IpNet, Decision),
    /// What is counted of a client is to be forgotten.
    Forgotten(ClientKey),
}

/// What of a client's passes is to be changed: some are taken back first, then some are added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Passes {
    pub(super) revoked: Tests,
    pub(super) standing: Standing,
}

impl Passes {
    const NONE: fn() -> Self = || Self { revoked: Tests::NONE, standing: Standing::stranger() };

    /// What both come to, `later` after this.
    fn then(mut self, later: Self) -> Self {
        for test in later.revoked.iter() {
            self.revoked.insert(test);
            self.standing.fail(test);
        }
        self.standing.merge(&later.standing);
        self
    }
}

/// Something that was counted by this host alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Owed {
    pub(super) client: ClientKey,
    pub(super) act: Act,
    pub(super) rules: Arc<Rules>,
    pub(super) now: u32,
    pub(super) dice: u32,
}

/// What it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    Strike(Strike),
    LoggedIn,
    AccountFailed(Digest),
    AccountLoggedIn(Digest),
    Offend(IpNet),
}

/// What gives way to what, the least first.
#[derive(Clone, Copy)]
enum Weight {
    Pass,
    Strike,
    Decision,
}

/// A part of what waits, taken out to be sent.
#[derive(Default, Debug)]
pub(super) struct Batch {
    pub(super) decisions: Vec<(IpNet, Decision)>,
    pub(super) forgotten: Vec<ClientKey>,
    pub(super) passes: Vec<(ClientKey, Passes)>,
    /// In the order in which it happened.
    pub(super) owed: VecDeque<Owed>,
}

/// All that waits.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    decisions: HashMap<IpNet, Decision>,
    forgotten: HashMap<ClientKey, ()>,
    passes: HashMap<ClientKey, Passes>,
    owed: VecDeque<Owed>,
    lost: u64,
    /// Rules are the same for long: they are kept once.
    rules: Arc<Rules>,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            decisions: HashMap::new(),
            forgotten: HashMap::new(),
            passes: HashMap::new(),
            owed: VecDeque::new(),
            lost: 0,
            rules: Arc::default(),
        }
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.decisions.len() + self.forgotten.len() + self.passes.len() + self.owed.len()
    }

    /// How much was lost for want of room, or because it is not known whether it arrived.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn lose(&mut self, count: usize) {
        self.lost = self.lost.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Puts a change in.
    pub(super) fn put(&mut self, change: Change) {
        match change {
            Change::Standing(client, standing) => {
                self.put_passes(client, Passes { revoked: Tests::NONE, standing });
            }
            Change::Revoked(client, revoked) => {
                self.put_passes(client, Passes { revoked, standing: Standing::stranger() });
            }
            Change::Decision(network, decision) => self.put_decision(network, decision),
            Change::Forgotten(client) => self.put_forgotten(client),
        }
    }

    /// Puts in that something was counted here alone.
    pub(super) fn owe(&mut self, client: ClientKey, act: Act, rules: &Rules, now: u32, dice: u32) {
        if *self.rules != *rules {
            self.rules = Arc::new(rules.clone());
        }
        if self.has_room(Weight::Strike) {
            self.owed.push_back(Owed { client, act, rules: Arc::clone(&self.rules), now, dice });
        }
    }

    fn put_passes(&mut self, client: ClientKey, later: Passes) {
        if self.passes.contains_key(&client) || self.has_room(Weight::Pass) {
            let passes = self.passes.entry(client).or_insert_with(Passes::NONE);
            *passes = passes.then(later);
        }
    }

    fn put_decision(&mut self, network: IpNet, decision: Decision) {
        if let Some(there) = self.decisions.get_mut(&network) {
            if decision.outweighs(there) {
                *there = decision;
            }
        } else if self.has_room(Weight::Decision) {
            self.decisions.insert(network, decision);
        }
    }

    fn put_forgotten(&mut self, client: ClientKey) {
        self.owed.retain(|owed| owed.client != client);
        if self.forgotten.contains_key(&client) || self.has_room(Weight::Decision) {
            self.forgotten.insert(client, ());
        }
    }

    /// Whether there is room, if need be after something that means less has given way.
    fn has_room(&mut self, weight: Weight) -> bool {
        if self.len() < self.limit {
            return true;
        }
        self.lose(1);
        match weight {
            Weight::Pass => false,
            Weight::Strike => take_one(&mut self.passes).is_some(),
            Weight::Decision => take_one(&mut self.passes).is_some() || self.owed.pop_front().is_some(),
        }
    }

    /// Takes about `most` out; what is owed only if `is_settled`.
    pub(super) fn take(&mut self, most: usize, is_settled: bool) -> Batch {
        let owed = if is_settled { self.owed.len().min(most) } else { 0 };
        Batch {
            decisions: take_some(&mut self.decisions, most),
            forgotten: take_some(&mut self.forgotten, most).into_iter().map(|(client, ())| client).collect(),
            passes: take_some(&mut self.passes, most),
            owed: self.owed.drain(..owed).collect(),
        }
    }

    /// Puts back what could not be sent.
    pub(super) fn put_back(&mut self, batch: Batch) {
        batch.decisions.into_iter().for_each(|(network, decision)| self.put_decision(network, decision));
        for client in batch.forgotten {
            if self.has_room(Weight::Decision) {
                self.forgotten.insert(client, ());
            }
        }
        for (client, earlier) in batch.passes {
            let later = self.passes.remove(&client).unwrap_or_else(Passes::NONE);
            self.put_passes(client, earlier.then(later));
        }
        for owed in batch.owed.into_iter().rev() {
            if self.has_room(Weight::Strike) {
                self.owed.push_front(owed);
            }
        }
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        let Self { decisions, forgotten, passes, owed } = self;
        decisions.is_empty() && forgotten.is_empty() && passes.is_empty() && owed.is_empty()
    }
}

fn take_one<K: Eq + Hash + Copy, V>(from: &mut HashMap<K, V>) -> Option<V> {
    let key = from.keys().next().copied()?;
    from.remove(&key)
}

/// Takes up to `most` out; gives memory back that a long absence has taken.
fn take_some<K: Eq + Hash + Copy, V>(from: &mut HashMap<K, V>, most: usize) -> Vec<(K, V)> {
    if from.len() <= most {
        return std::mem::take(from).into_iter().collect();
    }
    let keys: Vec<K> = from.keys().take(most).copied().collect();
    keys.into_iter().filter_map(|key| from.remove_entry(&key)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::ban::{Reason, What};
    use crate::screen::Test;
    use crate::time::Timestamp;

    const NOW: u32 = 1_700_000_000;

    fn client(n: u32) -> ClientKey {
        ClientKey::V4(n)
    }

    fn pass(test: Test, span: u64) -> Standing {
        let mut standing = Standing::stranger();
        standing.pass(test, Timestamp::from_seconds(u64::from(NOW)).plus(Duration::from_secs(span)));
        standing
    }

    fn tests(test: Test) -> Tests {
        let mut tests = Tests::NONE;
        tests.insert(test);
        tests
    }

    fn ban(begin: u64) -> Decision {
        Decision {
            what: What::Ban,
            reason: Reason::Failures,
            count: 1,
            level: 1,
            begin: Timestamp::from_seconds(begin),
            until: None,
            who: "a".into(),
            evidence: "".into(),
        }
    }

    fn owe(queue: &mut Queue, n: u32) {
        queue.owe(client(n), Act::Strike(Strike::NotOffered), &Rules::default(), NOW + n, 0);
    }

    #[test]
    fn changes_of_one_thing_are_one_change() {
        let mut queue = Queue::new(10);
        queue.put(Change::Standing(client(1), pass(Test::Pregreet, 10)));
        queue.put(Change::Standing(client(1), pass(Test::Dnsbl, 20)));
        queue.put(Change::Revoked(client(1), tests(Test::Pregreet)));
        queue.put(Change::Decision(client(1).network(), ban(2)));
        queue.put(Change::Decision(client(1).network(), ban(1)));
        assert_eq!(queue.len(), 2);
        let batch = queue.take(10, true);
        let passes = Passes { revoked: tests(Test::Pregreet), standing: pass(Test::Dnsbl, 20) };
        assert_eq!(batch.passes, [(client(1), passes)]);
        assert_eq!(batch.decisions, [(client(1).network(), ban(2))]);
        assert!(queue.take(10, true).is_empty());
    }

    #[test]
    fn what_was_put_back_comes_before_what_came_since() {
        let mut queue = Queue::new(10);
        queue.put(Change::Standing(client(1), pass(Test::Pregreet, 10)));
        owe(&mut queue, 1);
        let batch = queue.take(10, true);
        queue.put(Change::Revoked(client(1), tests(Test::Pregreet)));
        owe(&mut queue, 2);
        queue.put_back(batch);
        let batch = queue.take(10, true);
        let passes = Passes { revoked: tests(Test::Pregreet), standing: Standing::stranger() };
        assert_eq!(batch.passes, [(client(1), passes)]);
        assert_eq!(batch.owed.iter().map(|owed| owed.client).collect::<Vec<_>>(), [client(1), client(2)]);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn whoever_is_forgotten_owes_nothing() {
        let mut queue = Queue::new(10);
        owe(&mut queue, 1);
        owe(&mut queue, 2);
        queue.put(Change::Forgotten(client(1)));
        let batch = queue.take(10, true);
        assert_eq!((batch.forgotten, batch.owed.len()), (vec![client(1)], 1));
    }

    #[test]
    fn a_full_queue_loses_what_means_least_and_says_how_much() {
        let mut queue = Queue::new(3);
        for n in 0..5 {
            queue.put(Change::Standing(client(n), pass(Test::Dnsbl, 10)));
        }
        assert_eq!((queue.len(), queue.lost()), (3, 2));
        owe(&mut queue, 1);
        owe(&mut queue, 2);
        queue.put(Change::Decision(client(1).network(), ban(1)));
        assert_eq!((queue.len(), queue.lost(), queue.passes.len()), (3, 5, 0));
        queue.put(Change::Decision(client(2).network(), ban(1)));
        queue.put(Change::Decision(client(3).network(), ban(1)));
        queue.put(Change::Decision(client(4).network(), ban(1)));
        assert_eq!((queue.len(), queue.decisions.len(), queue.lost()), (3, 3, 8));
    }

    #[test]
    fn what_is_owed_waits_until_it_is_known_what_was_lifted() {
        let mut queue = Queue::new(3);
        owe(&mut queue, 1);
        assert!(queue.take(10, false).is_empty());
        assert_eq!(queue.take(10, true).owed.len(), 1);
    }

    proptest! {
        /// Changes that are joined do what they do one after the other.
        #[test]
        fn joined_passes_are_passes_one_after_the_other(acts in prop::collection::vec((any::<bool>(), 0usize..8, 1u64..50), 0..30)) {
            let (mut queue, mut standing) = (Queue::new(10), pass(Test::BareNewline, 25));
            let before = standing;
            for (is_pass, test, span) in acts {
                let test = Test::ALL[test];
                if is_pass {
                    standing.merge(&pass(test, span));
                    queue.put(Change::Standing(client(1), pass(test, span)));
                } else {
                    standing.fail(test);
                    queue.put(Change::Revoked(client(1), tests(test)));
                }
            }
            let mut joined = before;
            for (_, passes) in queue.take(1, true).passes {
                passes.revoked.iter().for_each(|test| joined.fail(test));
                joined.merge(&passes.standing);
            }
            prop_assert_eq!(joined, standing);
        }

        #[test]
        fn it_never_holds_more_than_its_limit(limit in 0usize..8, acts in prop::collection::vec((0u8..6, 0u32..20), 0..80)) {
            let mut queue = Queue::new(limit);
            let mut taken = Batch::default();
            for (act, n) in acts {
                match act {
                    0 => queue.put(Change::Standing(client(n), pass(Test::Dnsbl, 10))),
                    1 => queue.put(Change::Decision(client(n).network(), ban(u64::from(n)))),
                    2 => queue.put(Change::Forgotten(client(n))),
                    3 => owe(&mut queue, n),
                    _ if n % 2 == 0 => taken = queue.take(3, true),
                    _ => queue.put_back(std::mem::take(&mut taken)),
                }
                prop_assert!(queue.len() <= limit, "{} of {}", queue.len(), limit);
            }
        }
    }
}
