//! What of the rulings leaves this process: which bans the firewall is told of, and who never is.
//!
//! The firewall knows neither gates nor allowances, and what it drops nobody else gets to see. So an automatic ban does
//! not leave
//!
//! - if it was made of a client that a load balancer announced: the packets of such a client do not come here by
//!   themselves, and who else has that address is not what was seen. Its evidence says so, for as long as it is kept and
//!   wherever it is told;
//! - while one of the gates only observes: its clients are not to be kept out by anybody but an operator.
//!
//! Inside it holds all the same. What an operator bans always leaves. Nothing leaves that has somebody in it who is
//! allowed: by the file, or at run time.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::rulings::Exempt;
use super::{Gate, House};
use crate::ledger::decisions::Held;
use crate::policy::ban::{Decision, Reason, What};
use crate::time::Timestamp;

/// For how long the firewall is told of a ban that has no end; it is told again before that is over.
const FOR_EVER: Duration = Duration::from_secs(21 * 24 * 60 * 60);

/// What the evidence begins with that was seen of a client whom a load balancer announced.
pub(super) const ANNOUNCED: &str = "behind a load balancer: ";

/// What of the gates matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Gates {
    /// One of them only observes.
    pub(super) one_observes: bool,
    /// All of them do.
    pub(super) all_observe: bool,
    /// One of them is behind a load balancer.
    pub(super) one_is_behind: bool,
}

impl Gates {
    fn of(gates: &[Arc<Gate>]) -> Self {
        let observes = |gate: &Arc<Gate>| gate.settings.screen.observe;
        Self {
            one_observes: gates.iter().any(observes),
            all_observe: !gates.is_empty() && gates.iter().all(observes),
            one_is_behind: gates.iter().any(|gate| gate.settings.proxies.is_some()),
        }
    }

    /// Whether a ban leaves.
    fn let_out(self, ban: &Decision) -> bool {
        ban.reason == Reason::Operator || !self.one_observes && !ban.evidence.starts_with(ANNOUNCED)
    }
}

impl House {
    /// From now on these are the gates, and nobody in `exempt` is banned.
    pub fn set_gates(&self, gates: &[Arc<Gate>], exempt: Vec<IpNet>) {
        self.rulings.gates.store(Arc::new(Gates::of(gates)));
        self.rulings.exempt.store(Arc::new(Exempt::of(exempt)));
        self.tell_exempt();
        self.restore_firewall();
    }

    /// Tells the firewall of every ban that is in force: at the start, and once in a while of those that have no end. What
    /// does not leave any more is taken back.
    pub fn restore_firewall(&self) {
        let now = self.clock.now();
        let (firewall, gates) = (self.rulings.firewall(), **self.rulings.gates.load());
        let bans = self.ledger.decisions().all(now).into_iter().filter(|held| held.decision.what == What::Ban);
        let (out, back): (Vec<_>, Vec<_>) = bans.partition(|held| gates.let_out(&held.decision));
        firewall.restore(out.iter().map(|held| (held.network, end(held, now), held.decision.reason.name())));
        back.iter().for_each(|held| firewall.unban(held.network));
    }

    /// Tells the firewall of a ban, or takes back what it was told of the network before.
    pub(super) fn tell_firewall(&self, held: &Held) {
        let firewall = self.rulings.firewall.load();
        if self.rulings.gates.load().let_out(&held.decision) {
            firewall.ban(held.network, end(held, self.clock.now()), held.decision.reason.name());
        } else {
            firewall.unban(held.network);
        }
    }

    /// A decision has ended.
    pub(super) fn tell_end(&self, ended: &Held) {
        match ended.decision.what {
            What::Allow => self.tell_exempt(),
            // Something else may have been decided in between.
            _ if self.ledger.decisions().get(ended.network).is_some() => {}
            _ => self.rulings.firewall.load().unban(ended.network),
        }
    }

    /// Tells the firewall who never leaves, if that has changed.
    pub(super) fn tell_exempt(&self) {
        let allowed = self.ledger.decisions().allowed(self.clock.now());
        let all = self.rulings.exempt.load().networks.iter().copied().chain(allowed).collect();
        self.rulings.firewall.load().set_exempt(all);
    }
}

/// Until when the firewall is told that a ban holds.
fn end(held: &Held, now: Timestamp) -> Timestamp {
    held.decision.until.unwrap_or_else(|| now.plus(FOR_EVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(reason: Reason, evidence: &str) -> Decision {
        let begin = Timestamp::from_seconds(1_700_000_000);
        let (who, evidence) = ("mx1".into(), evidence.into());
        Decision { what: What::Ban, reason, count: 5, level: 1, begin, until: None, who, evidence }
    }

    #[test]
    fn an_automatic_ban_leaves_if_no_gate_observes_and_nobody_announced_the_client() {
        let announced = format!("{ANNOUNCED}5 failed AUTH exchanges within 10m");
        let inside = "5 failed AUTH exchanges within 10m, account behind a load balancer: ";
        let watched = Gates { one_observes: true, ..Gates::default() };
        for (gates, ban, leaves) in [
            (Gates::default(), ban(Reason::Failures, inside), true),
            (Gates::default(), ban(Reason::Failures, &announced), false),
            (Gates::default(), ban(Reason::Operator, &announced), true),
            (watched, ban(Reason::Failures, inside), false),
            (watched, ban(Reason::Neighbours, inside), false),
            (watched, ban(Reason::Operator, ""), true),
        ] {
            assert_eq!(gates.let_out(&ban), leaves, "{gates:?} {ban:?}");
        }
    }
}
