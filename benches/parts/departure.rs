//! The end of a visit: its record, kept in memory as it is by default, and what is counted of it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use gatepost::journal::{Finding, Journal, Outcome, Recognition, Stage, Target, Visit, VisitId};
use gatepost::metrics::{BackendFailure, Metrics, State};
use gatepost::screen::{Action, Early, Test};
use gatepost::time::Timestamp;

use super::Look;

/// Room for many records, and soon full.
const RECENT: usize = 64 << 10;

/// A bot that spoke early and was sent away.
fn dropped() -> Visit {
    Visit {
        id: VisitId(0x2_3456_789a_bcde),
        gate: Arc::from("mx"),
        client: "192.0.2.7:51234".parse().unwrap(),
        local: "198.51.100.25:25".parse().unwrap(),
        proxy: None,
        begin: Timestamp::from_millis(1_700_000_000_123),
        duration: Duration::from_millis(1234),
        recognition: Recognition::Stranger,
        stage: Stage::Pregreet,
        outcome: Outcome::Dropped,
        findings: vec![Finding {
            test: Test::Pregreet,
            action: Action::Drop,
            detail: "smtp, EHLO ylmf-pc\\r\\n".into(),
        }],
        score: None,
        lists: Vec::new(),
        helo: None,
        from: None,
        to: Vec::new(),
        tls: None,
        backend: false,
        accepted: 0,
        auth: (0, 0),
        bytes: (0, 0),
        note: None,
    }
}

/// An honest host that delivered a message.
fn relayed() -> Visit {
    Visit {
        recognition: Recognition::Remembered,
        stage: Stage::Relay,
        outcome: Outcome::Relayed,
        findings: Vec::new(),
        helo: Some(Box::from(&b"mail.example.org"[..])),
        from: Some(Box::from(&b"bounce+2026-11-22-user=example.org@list.example.net"[..])),
        to: vec![Box::from(&b"postmaster@example.com"[..])],
        backend: true,
        accepted: 1,
        bytes: (5000, 400),
        ..dropped()
    }
}

pub fn all(look: &mut impl Look) {
    let visits = [("a bot", dropped()), ("a message", relayed())];
    for (name, visit) in &visits {
        let journal = Journal::remembering(Target::Off, RECENT).unwrap();
        journal.record(visit);
        let line = journal.recent().of_visit(visit.id).unwrap();
        look.at("Journal::record", name, line.len(), || journal.record(black_box(visit)));
    }
    let metrics = Metrics::new();
    for (name, visit) in &visits {
        look.at("Metrics", &format!("departed, {name}"), 0, || metrics.departed(black_box(visit)));
    }
    let gate = metrics.gate("mx");
    look.at("Metrics", "spoke_early", 0, || gate.spoke_early(black_box(Early::Smtp)));
    look.at("Metrics", "parked, a histogram", 0, || gate.parked(black_box(Duration::from_secs(6))));
    look.at("Metrics", "backend_failed", 0, || gate.backend_failed(black_box(BackendFailure::Refused)));
    look.at("Metrics", "gate, by its name", 0, || metrics.gate(black_box("mx")));
    look.at("Metrics", "a presence from parked to relay", 0, || {
        gate.present(State::Parked).moves_to(black_box(State::Relay));
    });
}
