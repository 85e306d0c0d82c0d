//! A store in memory that is neither bounded nor shared: what the others are held against.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::hash::Hash;

use ipnet::IpNet;
use parking_lot::Mutex;

use super::store::{Answer, Digest, Store};
use crate::addr::ClientKey;
use crate::policy::ban::Decision;
use crate::policy::guard::{Account, Failed, Network, Rules, Sentence, Strike, Tally};
use crate::screen::{Standing, Tests};

/// The values, by their keys. Locked for one verb at a time.
#[derive(Debug, Default)]
pub struct Memory {
    tallies: Mutex<HashMap<ClientKey, Tally>>,
    accounts: Mutex<HashMap<Digest, Account>>,
    networks: Mutex<HashMap<IpNet, Network>>,
    standings: Mutex<HashMap<ClientKey, Standing>>,
    decisions: Mutex<HashMap<IpNet, Decision>>,
}

/// Does `act` to a value that means something until `ends`, and keeps it if it still does.
fn change<K: Eq + Hash, V: Clone + Default, T>(
    values: &Mutex<HashMap<K, V>>,
    key: K,
    ends: impl Fn(&V) -> u64,
    now: u32,
    act: impl FnOnce(&mut V) -> T,
) -> (V, T) {
    let mut values = values.lock();
    let mut value = values.remove(&key).filter(|value| ends(value) > u64::from(now)).unwrap_or_default();
    let answer = act(&mut value);
    if ends(&value) > u64::from(now) {
        values.insert(key, value.clone());
    }
    (value, answer)
}

impl Memory {
    fn tally<T>(&self, client: ClientKey, now: u32, act: impl FnOnce(&mut Tally) -> T) -> (Tally, T) {
        change(&self.tallies, client, |tally| tally.ends.into(), now, act)
    }

    fn account<T>(&self, digest: Digest, now: u32, act: impl FnOnce(&mut Account) -> T) -> (Account, T) {
        change(&self.accounts, digest, |account| account.ends.into(), now, act)
    }

    fn standing(&self, client: ClientKey, now: u32, act: impl FnOnce(&mut Standing)) -> Standing {
        change(&self.standings, client, |standing| standing.expires().seconds(), now, act).0
    }
}

impl Store for Memory {
    fn strike(
        &self,
        client: ClientKey,
        strike: Strike,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> impl Future<Output = Answer<(Tally, Option<Sentence>)>> + Send {
        ready(Ok(self.tally(client, now, |tally| tally.strike(strike, rules, now, dice))))
    }

    fn logged_in(&self, client: ClientKey, rules: &Rules, now: u32) -> impl Future<Output = Answer<Tally>> + Send {
        ready(Ok(self.tally(client, now, |tally| tally.succeeded(rules, now)).0))
    }

    fn account_failed(
        &self,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        now: u32,
    ) -> impl Future<Output = Answer<(Account, Failed)>> + Send {
        ready(Ok(self.account(account, now, |account| account.failed(client, rules, now))))
    }

    fn account_logged_in(
        &self,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        now: u32,
    ) -> impl Future<Output = Answer<Account>> + Send {
        ready(Ok(self.account(account, now, |account| account.succeeded(client, rules, now)).0))
    }

    fn offend(
        &self,
        network: IpNet,
        client: ClientKey,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> impl Future<Output = Answer<(Network, Option<Sentence>)>> + Send {
        let act = |network: &mut Network| network.offend(client, rules, now, dice);
        ready(Ok(change(&self.networks, network, |network| network.ends.into(), now, act)))
    }

    fn remember(
        &self,
        client: ClientKey,
        standing: Standing,
        now: u32,
    ) -> impl Future<Output = Answer<Standing>> + Send {
        ready(Ok(self.standing(client, now, |kept| kept.merge(&standing))))
    }

    fn revoke(&self, client: ClientKey, tests: Tests, now: u32) -> impl Future<Output = Answer<Standing>> + Send {
        ready(Ok(self.standing(client, now, |kept| tests.iter().for_each(|test| kept.fail(test)))))
    }

    fn decide(&self, network: IpNet, decision: Decision) -> impl Future<Output = Answer<Decision>> + Send {
        let mut decisions = self.decisions.lock();
        let there = decisions.entry(network).or_insert_with(|| decision.clone());
        if decision.outweighs(there) {
            *there = decision;
        }
        ready(Ok(there.clone()))
    }

    fn forget(&self, client: ClientKey) -> impl Future<Output = Answer<()>> + Send {
        self.tallies.lock().remove(&client);
        ready(Ok(()))
    }
}
