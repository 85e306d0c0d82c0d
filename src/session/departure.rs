//! Departure: the one place where a visit ends, whatever went wrong before: journalled, counted, its place given back.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Guest, House, refusal};
use crate::addr::ClientKey;
use crate::journal::{Finding, Outcome, Stage, Visit};
use crate::ledger::shared::Change;
use crate::relay::ending::Tally;
use crate::screen::{Conclusion, Score, Screen, Test};
use crate::tls::Facts;

/// What the stages have learned of a visit that only its end needs.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The screening, where there was one.
    pub screen: Option<Screen>,
    /// What was said too early, in words that are fit to be shown.
    pub said: Option<Box<str>>,
    /// The name in the last HELO or EHLO.
    pub helo: Option<Box<[u8]>>,
    /// The first reverse-path.
    pub from: Option<Box<[u8]>>,
    /// The first forward-paths.
    pub to: Vec<Box<[u8]>>,
    /// What was agreed on with it, where TLS ended here.
    pub tls: Option<Facts>,
    /// Whether the backend was connected to.
    pub backend: bool,
    /// What the relay counted.
    pub tally: Tally,
    /// What went wrong, in words.
    pub note: Option<String>,
}

/// Remembers what a client has passed and failed. Done at the verdict, so that its next connection, which may come while
/// this one goes on, is already known.
pub(super) fn remember(house: &House, guest: &Guest, conclusion: &Conclusion) {
    let client = ClientKey::of(guest.client.ip());
    let now = house.clock.now();
    let share = |change| {
        if let Some(shared) = &house.shared {
            shared.share(change);
        }
    };
    house.ledger.remember(client, conclusion.standing, now);
    if conclusion.standing.expires() > now {
        share(Change::Standing(client, conclusion.standing));
    }
    if !conclusion.failed.is_empty() {
        house.ledger.revoke(client, conclusion.failed, now);
        share(Change::Revoked(client, conclusion.failed));
    }
}

/// Ends a visit.
pub(super) fn depart(house: &House, guest: Guest, stage: Stage, outcome: Outcome, report: Report) {
    let screen = report.screen.as_ref();
    let score = score(screen);
    let visit = Visit {
        id: guest.id,
        gate: Arc::clone(&guest.gate.name),
        client: guest.client,
        local: guest.local,
        proxy: guest.proxy.as_deref().copied(),
        begin: guest.begin,
        duration: Instant::now().saturating_duration_since(guest.arrived),
        recognition: guest.recognition,
        stage,
        outcome,
        findings: screen.map(|screen| findings(screen, report.said.as_deref())).unwrap_or_default(),
        score,
        lists: score
            .and_then(|score| score.worst)
            .and_then(|worst| refusal::list_name(&guest, worst))
            .map(|name| vec![Arc::from(name)])
            .unwrap_or_default(),
        helo: report.helo,
        from: report.from,
        to: report.to,
        tls: report.tls,
        backend: report.backend,
        accepted: u32::try_from(report.tally.messages).unwrap_or(u32::MAX),
        auth: (report.tally.auth_successes, report.tally.auth_failures),
        bytes: (report.tally.to_backend, report.tally.to_client),
        note: report.note,
    };
    house.metrics.departed(&visit);
    house.journal.record(&visit);
    if guest.place.is_some() {
        drop(guest.place);
        house.stress.look(house.sessions.open());
    }
}

/// The sum that the lists made of a client, if any of them said something.
pub(super) fn total(screen: Option<&Screen>) -> Option<i32> {
    score(screen).map(|score| score.total)
}

/// What the lists made of a client, if any of them said something.
fn score(screen: Option<&Screen>) -> Option<Score> {
    screen.map(Screen::score).filter(|score| score.worst.is_some() || score.total != 0)
}

fn findings(screen: &Screen, said: Option<&str>) -> Vec<Finding> {
    let finding = |seen: &crate::screen::Evidence| {
        let test = seen.test();
        let mut detail = seen.to_string();
        if let (Test::Pregreet, Some(said)) = (test, said) {
            detail.push_str(", ");
            detail.push_str(said);
        }
        Finding { test, action: screen.settings().action(test), detail }
    };
    screen.seen().iter().map(finding).collect()
}
