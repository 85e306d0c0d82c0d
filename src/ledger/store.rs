//! What is counted and decided of clients, behind verbs that may have to wait: the same rules, whoever keeps the lines.
//!
//! Each verb changes one value by one of its own verbs ([`crate::policy`]) and answers what it is now, and what follows
//! from it. `now` and `dice` are the caller's. A store either does all of a verb or answers [`Away`]; then the caller
//! decides by what it knows itself. All stores pass the same suite, `tests/store_suite.rs`.

use std::fmt;
use std::future::Future;

use ipnet::IpNet;

use crate::addr::ClientKey;
use crate::policy::ban::Decision;
use crate::policy::guard::{Account, Failed, Network, Rules, Sentence, Strike, Tally};
use crate::screen::{Standing, Tests};

/// The store did not answer: the caller is to decide alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Away;

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store is away")
    }
}

impl std::error::Error for Away {}

/// The digest that an account is known by.
pub type Digest = [u8; 16];

/// What a verb comes to.
pub type Answer<T> = Result<T, Away>;

/// Keeps what is counted and decided.
pub trait Store: Send + Sync {
    /// Counts a strike of a client.
    fn strike(
        &self,
        client: ClientKey,
        strike: Strike,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> impl Future<Output = Answer<(Tally, Option<Sentence>)>> + Send;

    /// Somebody has logged in from a client.
    fn logged_in(&self, client: ClientKey, rules: &Rules, now: u32) -> impl Future<Output = Answer<Tally>> + Send;

    /// A login to an account failed.
    fn account_failed(
        &self,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        now: u32,
    ) -> impl Future<Output = Answer<(Account, Failed)>> + Send;

    /// Somebody has logged in to an account.
    fn account_logged_in(
        &self,
        account: Digest,
        client: ClientKey,
        rules: &Rules,
        now: u32,
    ) -> impl Future<Output = Answer<Account>> + Send;

    /// A client of `network` was banned.
    fn offend(
        &self,
        network: IpNet,
        client: ClientKey,
        rules: &Rules,
        now: u32,
        dice: u32,
    ) -> impl Future<Output = Answer<(Network, Option<Sentence>)>> + Send;

    /// Remembers the passes of a client; of two passes of a test the longer stays.
    fn remember(
        &self,
        client: ClientKey,
        standing: Standing,
        now: u32,
    ) -> impl Future<Output = Answer<Standing>> + Send;

    /// Takes the passes of `tests` back.
    fn revoke(&self, client: ClientKey, tests: Tests, now: u32) -> impl Future<Output = Answer<Standing>> + Send;

    /// Decides of a network, unless something is decided that this does not outweigh. Answers what is decided by now.
    fn decide(&self, network: IpNet, decision: Decision) -> impl Future<Output = Answer<Decision>> + Send;

    /// Forgets what was counted of a client.
    fn forget(&self, client: ClientKey) -> impl Future<Output = Answer<()>> + Send;
}
