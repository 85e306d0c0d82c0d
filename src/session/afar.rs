//! What other hosts have learned and decided, as the shared store tells of it.

use std::sync::{Arc, OnceLock, Weak};

use ipnet::IpNet;

use super::House;
use crate::addr::ClientKey;
use crate::ledger::shared::{Mirror, Overdue};
use crate::policy::ban::{Decision, What};
use crate::policy::guard::Tally;
use crate::screen::{Standing, Tests};

/// Brings what comes from afar into a house; nothing before there is one.
#[derive(Debug, Default)]
pub struct Afar(OnceLock<Weak<House>>);

impl Afar {
    /// From here on, into `house`.
    pub fn reaches(&self, house: &Arc<House>) {
        let _ = self.0.set(Arc::downgrade(house));
    }

    fn house(&self) -> Option<Arc<House>> {
        self.0.get()?.upgrade()
    }
}

impl Mirror for Afar {
    fn standing(&self, client: ClientKey, standing: Standing) {
        if let Some(house) = self.house() {
            house.ledger.remember(client, standing, house.clock.now());
        }
    }

    fn revoked(&self, client: ClientKey, tests: Tests) {
        if let Some(house) = self.house() {
            house.ledger.revoke(client, tests, house.clock.now());
        }
    }

    fn decision(&self, network: IpNet, decision: Decision) {
        if let Some(house) = self.house() {
            // Nothing that others decide bans whom nothing bans here; and news can be late.
            let counts = match decision.what {
                What::Ban => decision.holds(house.clock.now()) && !house.is_exempt(network),
                What::Allow => decision.holds(house.clock.now()),
                What::Lifted => true,
            };
            if counts {
                house.rule_from_afar(network, decision);
            }
        }
    }

    fn tally(&self, client: ClientKey, tally: Tally) {
        if let Some(house) = self.house() {
            house.ledger.take_tally(client, tally, house.clock.now());
        }
    }

    fn forgotten(&self, client: ClientKey) {
        if let Some(house) = self.house() {
            house.ledger.forget(client.network());
        }
    }

    fn decisions(&self) -> Vec<(IpNet, Decision)> {
        let Some(house) = self.house() else { return Vec::new() };
        let all = house.ledger.decisions().all(house.clock.now());
        all.into_iter().map(|held| (held.network, held.decision.clone())).collect()
    }

    fn standings(&self, each: &mut dyn FnMut(ClientKey, Standing)) {
        if let Some(house) = self.house() {
            house.ledger.each_standing(each);
        }
    }

    fn overdue(&self, found: Overdue) {
        if let Some(house) = self.house() {
            house.overdue(found);
        }
    }
}
