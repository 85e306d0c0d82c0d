//! The ledger as a [`Store`]: what this host counts and decides alone. Its verbs are done at once.

use std::future::{Future, ready};

use ipnet::IpNet;

use super::Ledger;
use super::decisions::Decided;
use super::store::{Answer, Digest, Store};
use super::table::{AccountId, ClientId};
use crate::addr::ClientKey;
use crate::policy::ban::Decision;
use crate::policy::guard::{Account, Failed, Network, Rules, Sentence, Strike, Tally};
use crate::screen::{Standing, Tests};
use crate::time::Timestamp;

impl Ledger {
    /// What is known of a client after a change: nothing, if it has all expired.
    fn change_standing(&self, client: ClientKey, now: u32, act: impl FnOnce(&mut Standing)) -> Standing {
        let now = moment(now);
        let (standing, ()) = self.standings.update(ClientId::of(client), now, act);
        if standing.expires() > now { standing } else { Standing::stranger() }
    }
}

fn moment(now: u32) -> Timestamp {
    Timestamp::from_seconds(u64::from(now))
}

impl Store for Ledger {
    fn strike(
        &self,
        client: ClientKey,
        strike: Strike,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> impl Future<Output = Answer<(Tally, Option<Sentence>)>> + Send {
        let act = |tally: &mut Tally| tally.strike(strike, rules, now, dice);
        ready(Ok(self.tallies.update(ClientId::of(client), moment(now), act)))
    }

    fn logged_in(&self, client: ClientKey, rules: &Rules, now: u32) -> impl Future<Output = Answer<Tally>> + Send {
        let act = |tally: &mut Tally| tally.succeeded(rules, now);
        ready(Ok(self.tallies.update(ClientId::of(client), moment(now), act).0))
    }

    fn account_failed(
        &self,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        now: u32,
    ) -> impl Future<Output = Answer<(Account, Failed)>> + Send {
        let act = |account: &mut Account| account.failed(client, rules, now);
        ready(Ok(self.accounts.update(AccountId(account), moment(now), act)))
    }

    fn account_logged_in(
        &self,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        now: u32,
    ) -> impl Future<Output = Answer<Account>> + Send {
        let act = |account: &mut Account| account.succeeded(client, rules, now);
        ready(Ok(self.accounts.update(AccountId(account), moment(now), act).0))
    }

    fn offend(
        &self,
        network: IpNet,
        client: ClientKey,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> impl Future<Output = Answer<(Network, Option<Sentence>)>> + Send {
        let id = ClientId::of(ClientKey::of(network.network()));
        let act = |network: &mut Network| network.offend(client, rules, now, dice);
        ready(Ok(self.networks.update(id, moment(now), act)))
    }

    fn remember(
        &self,
        client: ClientKey,
        standing: Standing,
        now: u32,
    ) -> impl Future<Output = Answer<Standing>> + Send {
        let act = |kept: &mut Standing| kept.merge(&standing);
        ready(Ok(self.change_standing(client, now, act)))
    }

    fn revoke(&self, client: ClientKey, tests: Tests, now: u32) -> impl Future<Output = Answer<Standing>> + Send {
        let act = |kept: &mut Standing| tests.iter().for_each(|test| kept.fail(test));
        ready(Ok(self.change_standing(client, now, act)))
    }

    fn decide(&self, network: IpNet, decision: Decision) -> impl Future<Output = Answer<Decision>> + Send {
        let there = match self.decisions.decide(network, decision.clone()) {
            Decided::InForce(held) | Decided::Outweighed(held) => held.decision.clone(),
            Decided::Full => decision,
        };
        ready(Ok(there))
    }

    fn forget(&self, client: ClientKey) -> impl Future<Output = Answer<()>> + Send {
        self.tallies.forget(ClientId::of(client));
        ready(Ok(()))
    }
}
