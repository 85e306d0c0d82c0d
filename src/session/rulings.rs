//! Rulings: what is decided of clients at run time, and what follows from it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::House;
use crate::ledger::decisions::{Decided, Held};
use crate::policy::ban::{Decision, EVIDENCE_LIMIT, Reason, What, plain, who};
use crate::policy::network;
use crate::time::Timestamp;

/// How long it is remembered that a decision was lifted.
const LIFTED: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// Why an operator's word is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotBanned {
    /// It is ours.
    #[error("{0} is allow-listed, a load balancer of ours or a backend: it is never banned; ban a network without it")]
    Exempt(IpNet),
    /// Another word of an operator's of the same moment.
    #[error("something else was decided of {0} at the same moment; say it again")]
    Outweighed(IpNet),
    /// There is no room.
    #[error("there is no room for a decision on {0}; lift some of them first")]
    Full(IpNet),
}

impl House {
    /// Bans a network at an operator's word, for so long or for ever.
    pub fn ban(
        &self,
        network: IpNet,
        span: Option<Duration>,
        who: &str,
        evidence: &str,
    ) -> Result<Arc<Held>, NotBanned> {
        if network.contains(&IpAddr::from([127, 0, 0, 1])) {
            return Err(NotBanned::Exempt(network));
        }
        self.operators(network, What::Ban, span, who, evidence)
    }

    /// Allows a network at an operator's word.
    pub fn allow(
        &self,
        network: IpNet,
        span: Option<Duration>,
        who: &str,
        evidence: &str,
    ) -> Result<Arc<Held>, NotBanned> {
        self.operators(network, What::Allow, span, who, evidence)
    }

    /// Lifts every ban and allowance of `network` and of what lies within it, and forgets the counters that led there.
    pub fn lift(&self, network: IpNet, who: &str) -> Vec<Arc<Held>> {
        let network = network::canonical(network);
        let now = self.clock.now();
        let mut lifted = self.ledger.decisions().all(now);
        lifted.retain(|held| network.contains(&held.network) && held.decision.what != What::Lifted);
        for held in &lifted {
            let decision = self.word(What::Lifted, Some(LIFTED), who, "", now);
            self.ledger.decisions().decide(held.network, decision);
        }
        self.ledger.forget(network);
        lifted
    }

    /// Carries a decision out, whoever made it.
    pub fn rule(&self, network: IpNet, decision: Decision) -> Decided {
        self.ledger.decisions().decide(network, decision)
    }

    fn operators(
        &self,
        network: IpNet,
        what: What,
        span: Option<Duration>,
        who: &str,
        evidence: &str,
    ) -> Result<Arc<Held>, NotBanned> {
        let decision = self.word(what, span, who, evidence, self.clock.now());
        match self.rule(network, decision) {
            Decided::InForce(held) => Ok(held),
            Decided::Outweighed(_) => Err(NotBanned::Outweighed(network)),
            Decided::Full => Err(NotBanned::Full(network)),
        }
    }

    fn word(&self, what: What, span: Option<Duration>, name: &str, evidence: &str, now: Timestamp) -> Decision {
        Decision {
            what,
            reason: Reason::Operator,
            count: 0,
            level: 0,
            begin: now,
            until: span.map(|span| now.plus(span)),
            who: who(name),
            evidence: plain(evidence, EVIDENCE_LIMIT),
        }
    }
}
