//! Who tells which figures: to the metrics, and on the board that operators look at.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use serde_json::{Value, json};

use super::Server;
use crate::config::Config;
use crate::dnsbl::{self, Dnsbl};
use crate::ledger::shared::Shared;
use crate::ledger::{Kind, embedded};
use crate::lists::ListState;
use crate::metrics::ZoneState;
use crate::metrics::remembered::Remembered;
use crate::policy::ban::What;
use crate::session::House;

impl Server {
    /// Tells operators of the parts that are in use, and of no others.
    pub(super) fn tell_parts(&self, config: &Config) {
        let board = self.control.board();
        board.clear("firewall");
        if !self.config.firewall.is_empty() {
            let house = Arc::clone(&self.house);
            board.set("firewall", move || {
                let counts = house.rulings.firewall().counts();
                let some = |counted: &[(&'static str, u64)]| -> BTreeMap<_, _> {
                    counted.iter().copied().filter(|(_, count)| *count > 0).collect()
                };
                json!({
                    "networks": counts.elements,
                    "failures": some(&counts.failures),
                    "runs": some(&counts.runs),
                })
            });
        }
        if let Some(store) = &self.store {
            let store = Arc::downgrade(store);
            board.set("file", move || {
                let Some(state) = store.upgrade().map(|store| store.state()) else { return Value::Null };
                json!({
                    "failing": state.failing.map(|failing| failing.reason),
                    "pending": state.pending,
                    "bytes": state.bytes,
                })
            });
        }
        if self.house.shared.is_some() {
            let house = Arc::clone(&self.house);
            board.set("shared", move || {
                let Some(state) = house.shared.as_ref().map(Shared::state) else { return Value::Null };
                json!({ "connected": state.connected, "queue": state.queue, "lost": state.lost })
            });
        }
        board.clear("lists");
        if !config.lists.files.is_empty() {
            let house = Arc::clone(&self.house);
            board.set("lists", move || {
                let states = house.rulings.lists().states();
                let of = |state: &ListState| json!({"entries": state.entries, "failures": state.failures});
                states.iter().map(|state| (state.list.to_string(), of(state))).collect()
            });
        }
    }

    /// Tells the metrics where figures are that others keep.
    pub(super) fn keep_figures(&self) {
        let sources = self.house.metrics.sources();
        let house = Arc::downgrade(&self.house);
        sources.set_ledger_entries(move || house.upgrade().map_or(0, |house| house.ledger.len() as u64));
        let house = Arc::downgrade(&self.house);
        sources.set_stress(move || house.upgrade().is_some_and(|house| house.stress.is_on()));
        let (house, store) = (Arc::downgrade(&self.house), self.store.as_ref().map(Arc::downgrade));
        sources.set_remembered(move || match house.upgrade() {
            Some(house) => remembered(&house, store.as_ref().and_then(Weak::upgrade).as_deref()),
            None => Remembered::default(),
        });
        let house = Arc::downgrade(&self.house);
        sources
            .set_firewall(move || house.upgrade().map(|house| house.rulings.firewall().counts()).unwrap_or_default());
        let house = Arc::downgrade(&self.house);
        sources.set_lists(move || house.upgrade().map(|house| house.rulings.lists().states()).unwrap_or_default());
        if self.house.shared.is_some() {
            let house = Arc::downgrade(&self.house);
            let state = move || house.upgrade()?.shared.as_ref().map(Shared::state);
            sources.set_shared(move || state().unwrap_or_default());
        }
        let journal = self.house.journal.clone();
        sources.set_journal_lost(move || journal.lost());
    }

    pub(super) fn show_lists(&self) {
        let lists = self.lists.clone();
        self.house.metrics.sources().set_zones(move || {
            let zones = lists.as_ref().map(Dnsbl::zones).unwrap_or_default();
            zones.into_iter().map(zone_state).collect()
        });
    }
}

/// How much a house remembers and has decided.
fn remembered(house: &House, file: Option<&embedded::Store>) -> Remembered {
    let now = house.clock.now();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let decisions = house.ledger.decisions();
    Remembered {
        entries: Kind::ALL.map(|kind| (kind, count(house.ledger.count(kind, now)))).to_vec(),
        decisions: [What::Ban, What::Allow].map(|what| (what, count(decisions.count(what)))).to_vec(),
        delayed: house.rulings.delayed(),
        file: file.map(embedded::Store::state),
    }
}

fn zone_state(zone: dnsbl::ZoneState) -> ZoneState {
    let results = [("hit", zone.hits), ("miss", zone.misses)].into_iter().chain(zone.errors()).collect();
    ZoneState { up: zone.state == dnsbl::State::Working, zone: zone.display, results }
}
