//! What is known of an address, and of a visit.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use super::answer::{Counts, Explanation, GateAccess, Passed, Ruling, moment, second};
use super::{Control, Fault, Refused};
use crate::addr::{self, ClientKey};
use crate::journal::VisitId;
use crate::policy::access::Access;
use crate::policy::ban::What;
use crate::policy::guard::{Limit, Rules, Tally, Window};
use crate::screen::{Standing, Test};
use crate::time::Timestamp;

/// How many visits of a client are told.
const VISITS: usize = 10;

impl Control {
    /// What is known of an address.
    pub fn explain(&self, address: IpAddr) -> Explanation {
        let (address, now) = (addr::canonical(address), self.now());
        let (client, ledger) = (ClientKey::of(address), &self.house.ledger);
        let of = |held: &Arc<_>| Ruling::of(held, now);
        let counts = ledger.decisions().of(address, now).filter(|held| held.decision.what != What::Lifted);
        Explanation {
            address: address.to_string(),
            client: client.to_string(),
            decision: counts.as_ref().map(of),
            decisions: self.covering(address.into(), now).iter().map(of).collect(),
            access: self
                .gates
                .load()
                .iter()
                .map(|gate| access(&gate.name, gate.settings.access.look_up(address)))
                .collect(),
            list: self.house.rulings.lists().look_up(address).map(|list| list.to_string()),
            standing: passed(&ledger.peek(client, now), now),
            tally: ledger.tally(client, now).map(|tally| counted(&tally, &self.rules(), now)),
            visits: self
                .house
                .journal
                .recent()
                .of_client(client, VISITS)
                .iter()
                .filter_map(|line| record(line))
                .collect(),
        }
    }

    /// By which rules failures are counted.
    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.house.rulings.settings().rules)
    }

    /// The journal's record of a visit that ended of late.
    pub fn visit(&self, id: VisitId) -> Result<Value, Refused> {
        let line = self.house.journal.recent().of_visit(id);
        line.as_deref().and_then(record).ok_or_else(|| {
            let error = format!("no visit {id} has ended of late");
            let remedy = format!(
                "one that is still open has no record yet; look for an older one in the journal: \
                                  journalctl -u gatepost -o cat --grep {id}"
            );
            Refused::new(Fault::Absent, error, remedy)
        })
    }
}

fn record(line: &[u8]) -> Option<Value> {
    serde_json::from_slice(line).ok()
}

fn access(gate: &str, access: Access) -> GateAccess {
    let access = match access {
        Access::Allow => "allow",
        Access::Deny => "deny",
        Access::Test => "test",
    };
    GateAccess { gate: gate.to_owned(), access: access.to_owned() }
}

/// The tests that were ever passed, those of today and those of before.
pub(super) fn passed(standing: &Standing, now: Timestamp) -> Vec<Passed> {
    let ever = Test::ALL.into_iter().filter(|&test| standing.until(test) > Timestamp::default());
    ever.map(|test| Passed {
        test: test.name().to_owned(),
        until: moment(standing.until(test)),
        holds: standing.holds(test, now),
    })
    .collect()
}

/// What a tally says by these rules.
pub(super) fn counted(tally: &Tally, rules: &Rules, now: Timestamp) -> Counts {
    let this = u32::try_from(now.seconds()).unwrap_or(u32::MAX);
    let few = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let within = |window: &Window, limit: Limit| {
        few(window.times.iter().filter(|at| u64::from(this.saturating_sub(**at)) < limit.within.as_secs()).count())
    };
    let holds = tally.accounts.ends(rules.accounts.within) > this;
    let forgiven = u64::from(this.saturating_sub(tally.slow.at)) * 1000 / rules.slow.within.as_secs().max(1);
    Counts {
        failures: within(&tally.failed, rules.failures),
        last_failure: tally.failed.times.iter().max().and_then(|at| second(*at)),
        slow: u32::try_from(tally.slow.level.saturating_sub(forgiven).div_ceil(1000)).unwrap_or(u32::MAX),
        accounts: if holds { few(tally.accounts.ones.len()) } else { 0 },
        not_offered: within(&tally.not_offered, rules.not_offered),
        level: rules.ladder.level(tally.step, this),
        banned_until: second(tally.step.until),
        known_until: second(tally.known_until),
        forgotten: moment(Timestamp::from_seconds(u64::from(tally.ends))),
    }
}
