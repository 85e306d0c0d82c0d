//! How gatepost is.

use super::Control;
use super::answer::{Counted, GateStatus, Status, moment};
use crate::backend::Presence;
use crate::ledger::Kind;
use crate::metrics::State;
use crate::policy::ban::What;
use crate::session::Gate;

impl Control {
    /// How it is.
    pub fn status(&self) -> Status {
        let (house, now) = (&self.house, self.now());
        let gates: Vec<GateStatus> = self.gates.load().iter().map(|gate| of_gate(gate)).collect();
        let hindrances = (self.hindrances)();
        let decisions = house.ledger.decisions();
        let count = |what| decisions.count(what) as u64;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: moment(self.started),
            uptime: now.since(self.started).as_secs(),
            ready: hindrances.is_empty(),
            hindrances,
            sessions: house.sessions.open(),
            parked: gates.iter().map(|gate| gate.parked).sum(),
            gates,
            stress: house.stress.is_on(),
            decisions: Counted { ban: count(What::Ban), allow: count(What::Allow) },
            ledger: Kind::ALL
                .into_iter()
                .map(|kind| (kind.name().to_owned(), house.ledger.count(kind, now) as u64))
                .collect(),
            journal_lost: house.journal.lost(),
            parts: self.board.tell(),
        }
    }
}

fn of_gate(gate: &Gate) -> GateStatus {
    let presence = match gate.backend.presence() {
        Presence::There => "there",
        Presence::Away => "away",
        Presence::Unknown => "unknown",
    };
    let sessions = |state| gate.metrics.sessions(state);
    GateStatus {
        name: gate.name.to_string(),
        listen: gate.settings.listen.iter().map(ToString::to_string).collect(),
        backend: gate.settings.backend.address.to_string(),
        presence: presence.to_owned(),
        parked: sessions(State::Parked),
        dialogue: sessions(State::Dialogue),
        relay: sessions(State::Relay),
    }
}
