//! The host's own ledger, as the shared store sees it.

use ipnet::IpNet;

use crate::addr::ClientKey;
use crate::ledger::store::Digest;
use crate::policy::ban::Decision;
use crate::policy::guard::{Sentence, Tally};
use crate::screen::{Standing, Tests};

/// What is kept near, so that nobody waits for a network: it hears of what other hosts change, and tells what it has.
///
/// Its verbs are called on the main runtime, often: they must not wait.
pub trait Mirror: Send + Sync {
    /// A client has passed tests elsewhere; the longer pass of each stays.
    fn standing(&self, client: ClientKey, standing: Standing);

    /// The passes of `tests` were taken back elsewhere.
    fn revoked(&self, client: ClientKey, tests: Tests);

    /// Something was decided of a network elsewhere. It holds unless what is held here
    /// [outweighs](Decision::outweighs) it.
    fn decision(&self, network: IpNet, decision: Decision);

    /// What is counted of a client in all.
    fn tally(&self, client: ClientKey, tally: Tally);

    /// What was counted of a client is to be forgotten.
    fn forgotten(&self, client: ClientKey);

    /// All that is decided here, what was lifted included.
    fn decisions(&self) -> Vec<(IpNet, Decision)>;

    /// Every standing that is held here.
    fn standings(&self, each: &mut dyn FnMut(ClientKey, Standing));

    /// What was done while the store was away, and has been counted only now, comes to this, counted over all hosts.
    fn overdue(&self, found: Overdue) {
        let _ = found;
    }
}

/// What a late count comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Overdue {
    /// A client is to be banned.
    Client(ClientKey, Sentence),
    /// A network is to be banned.
    Network(IpNet, Sentence),
    /// An account was found to be under attack by these strangers.
    Account(Digest, Vec<ClientKey>),
}
