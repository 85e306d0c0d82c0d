//! A visit with a task of its own: dialogue, handoff and relay, in order, and departure at the end of every way.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::bell::Belled;
use super::client::{read_some, say, see_off};
use super::connection::{self, Connection};
use super::departure::{self, Report, depart};
use super::dialogue::{Decision, Dialogue};
use super::guard::Guard;
use super::handoff::{self, Handoff, Ready, Trouble};
use super::inside::Stay;
use super::renewal::Renewable;
use super::rulings::Ruling;
use super::stranger::Stranger;
use super::{Guest, House, greeting, refusal};
use crate::addr::ClientKey;
use crate::backend::Presence;
use crate::journal::{Outcome, Recognition, Stage};
use crate::metrics::{BackendFailure, State};
use crate::relay::ending::{End, Tally};
use crate::relay::{self, NoTls, Sides, Wire};
use crate::screen::{Screen, Test, Verdict};

/// A stranger's greet wait is over.
pub(super) fn spawn(house: Arc<House>, stranger: Stranger, client: TcpStream) {
    let tasks = house.tasks.clone();
    tasks.spawn(Box::pin(async move {
        stranger_visit(&house, stranger, client).await;
    }));
}

/// A client that is handed off at once.
pub(super) fn spawn_known(house: Arc<House>, guest: Guest, screen: Option<Screen>, client: TcpStream) {
    let tasks = house.tasks.clone();
    tasks.spawn(Box::pin(async move {
        // Boxed, like the future: both go through many hands before they come to rest.
        let report = Box::new(Report { screen, ..Report::default() });
        let client = Connection::new(client, &guest.gate);
        if let Some((guest, report, client)) = secured(&house, guest, report, client).await {
            let stay = stay(&house, &guest);
            direct(&house, guest, report, false, client, stay).await;
        }
    }));
}

/// A load balancer that speaks for itself.
pub(super) fn spawn_proxy(house: Arc<House>, guest: Guest, proxy: TcpStream) {
    let tasks = house.tasks.clone();
    tasks.spawn(async move {
        proxy_visit(&house, guest, proxy).await;
    });
}

/// A client's socket could not be taken over by the runtime.
pub(super) fn lost(house: &Arc<House>, guest: Guest, error: &io::Error) {
    let report = Report { note: Some(format!("cannot watch the connection: {error}")), ..Report::default() };
    depart(house, guest, Stage::Recall, Outcome::Limited, report);
}

/// From the end of the greet wait on.
pub(super) async fn stranger_visit<C: Wire>(house: &Arc<House>, stranger: Stranger, client: C) {
    let Stranger { guest, screen, teased, said, .. } = stranger;
    let needs_dialogue = screen.needs_dialogue();
    let stay = stay(house, &guest);
    let report = Box::new(Report { screen: Some(screen), said, ..Report::default() });
    let client = Connection::new(client, &guest.gate);
    let Some((guest, report, client)) = secured(house, guest, report, client).await else { return };
    if needs_dialogue {
        Box::pin(screened(house, guest, report, client, stay)).await;
    } else {
        conclude(house, &guest, &report);
        direct(house, guest, report, teased, client, stay).await;
    }
}

/// Where TLS comes first, the handshake. One that fails costs its deadline and a line in the journal.
async fn secured<C: Wire>(
    house: &Arc<House>,
    guest: Guest,
    mut report: Box<Report>,
    mut client: Connection<C>,
) -> Option<(Guest, Box<Report>, Connection<C>)> {
    if !guest.gate.settings.tls.is_first() {
        return Some((guest, report, client));
    }
    let begun = tokio::select! {
        biased;
        () = house.cut.cancelled() => Err(NoTls::Shutdown),
        begun = relay::start_tls(&mut client, house.draining.cancelled()) => begun,
    };
    match begun {
        Ok(()) => return Some((guest, report, client)),
        Err(NoTls::Shutdown) => {
            depart(house, guest, Stage::Arrival, Outcome::Shutdown, *report);
            return None;
        }
        Err(NoTls::Failed) => {}
    }
    if let Some(screen) = &report.screen {
        departure::remember(house, &guest, &screen.abandon(house.clock.now()));
    }
    report.note = client.failure().map(|failure| failure.to_string());
    let outcome = client.failure().map_or(Outcome::ProtocolFault, connection::outcome);
    depart(house, guest, Stage::Arrival, outcome, *report);
    None
}

/// Counts the client among those who are inside, so that it can be put out. Nobody puts out who is allow-listed.
pub(super) fn stay(house: &Arc<House>, guest: &Guest) -> Option<Stay> {
    (guest.recognition != Recognition::Allowed).then(|| house.rulings.inside.enter(ClientKey::of(guest.client.ip())))
}

/// Waits until the client is put out: one that was banned between the door and here, too. One that was `sentenced` in
/// this very session is told so, and then leaves.
pub(super) async fn put_out(house: &House, guest: &Guest, stay: &mut Option<Stay>, sentenced: Option<&AtomicBool>) {
    if let Some(stay) = stay {
        let is_sentenced = || sentenced.is_some_and(|sentenced| sentenced.load(Ordering::Relaxed));
        while !is_banned(house, guest) || is_sentenced() {
            stay.told().await;
        }
        return;
    }
    std::future::pending().await
}

/// Whether the client would not be let in any more.
fn is_banned(house: &House, guest: &Guest) -> bool {
    let ruling = house.ruling(&guest.gate, guest.client.ip(), house.clock.now());
    matches!(ruling, Ruling::Banned(_))
}

/// Measures a replay.
async fn timed(guest: &Guest, replay: impl Future<Output = Handoff>) -> Handoff {
    let decided = Instant::now();
    let handoff = replay.await;
    if matches!(handoff, Handoff::Ready(_)) {
        guest.gate.metrics.handed_off(decided.elapsed());
    }
    handoff
}

fn conclude(house: &Arc<House>, guest: &Guest, report: &Report) {
    if let Some(screen) = &report.screen {
        departure::remember(house, guest, &screen.close(house.clock.now()));
    }
}

/// Handed off before a word was said: the backend's own greeting is the client's.
async fn direct<C: Wire>(
    house: &Arc<House>,
    guest: Guest,
    mut report: Box<Report>,
    teased: bool,
    mut client: Connection<C>,
    stay: Option<Stay>,
) {
    let decided = Instant::now();
    let visitor = guest.visitor(client.facts(), departure::total(report.screen.as_ref()));
    match handoff::direct(&guest, visitor, teased).await {
        Ok(ready) => {
            guest.gate.metrics.handed_off(decided.elapsed());
            relayed(house, guest, report, client, ready, Vec::new(), stay).await;
        }
        Err(failure) => {
            guest.gate.metrics.backend_failed(failure.kind());
            report.note = Some(failure.to_string());
            report.backend = failure.reached();
            report.tls = client.facts().cloned();
            if teased {
                // A greeting that was begun has to be finished (“220-” cannot become 421): the 421 answers the first
                // command.
                let _ = say(&guest, &mut client, &greeting::last_line(&guest)).await;
                let wait = guest.gate.settings.dialogue.command_timeout;
                let mut heard = Vec::new();
                tokio::select! {
                    () = house.draining.cancelled() => {}
                    _ = timeout(wait, read_some(&mut client, &mut heard)) => {}
                }
            }
            let _ = say(&guest, &mut client, &refusal::unavailable(&guest)).await;
            depart(house, guest, Stage::Handoff, Outcome::BackendFailed, *report);
            see_off(client).await;
        }
    }
}

/// gatepost speaks with the client itself, until the point of decision.
async fn screened<C: Wire>(
    house: &Arc<House>,
    mut guest: Guest,
    report: Box<Report>,
    mut client: Connection<C>,
    mut stay: Option<Stay>,
) {
    if let Some(presence) = &mut guest.presence {
        presence.moves_to(State::Dialogue);
    }
    let mut dialogue = Dialogue::new(house, &guest, *report, &mut client);
    let withheld = dialogue.report.screen.as_ref().map(Screen::verdict) == Some(Verdict::Enforce(Test::Pregreet));
    let mut decision = if withheld { Decision::Listen } else { dialogue.greet().await };
    let (stage, outcome) = loop {
        match decision {
            Decision::Listen => {
                decision = tokio::select! {
                    biased;
                    () = put_out(house, &guest, &mut stay, None) => Decision::Over(Outcome::Banned),
                    decision = dialogue.listen() => decision,
                }
            }
            Decision::Over(outcome) => break (Stage::Dialogue, outcome),
            Decision::HandOff => {
                // It has passed, whatever becomes of the backend now: its retry need not wait again.
                conclude(house, &guest, &dialogue.report);
                let total = departure::total(dialogue.report.screen.as_ref());
                let visitor = guest.visitor(dialogue.client.facts(), total);
                match timed(&guest, handoff::replay(&guest, visitor, dialogue.replay())).await {
                    Handoff::Ready(ready) => {
                        let (report, inbox) = dialogue.leave();
                        return relayed(house, guest, Box::new(report), client, ready, inbox, stay).await;
                    }
                    Handoff::Refused { reply, closing } => {
                        dialogue.report.backend = true;
                        if closing {
                            guest.gate.metrics.backend_failed(BackendFailure::Refused);
                            dialogue.report.note = Some("the backend refuses service".to_owned());
                        }
                        decision = dialogue.refused_by_backend(&reply, closing).await;
                    }
                    Handoff::Failed(trouble) => {
                        guest.gate.metrics.backend_failed(trouble.kind());
                        dialogue.report.backend |= trouble.reached();
                        dialogue.report.note = Some(trouble.to_string());
                        dialogue.say_last(&refusal::unavailable(&guest)).await;
                        break (Stage::Handoff, Outcome::BackendFailed);
                    }
                }
            }
        }
    };
    let (mut report, _) = dialogue.leave();
    report.tls = client.facts().cloned();
    let mut outcome = outcome;
    if let Some(failure) = client.failure() {
        report.note = Some(failure.to_string());
        outcome = if outcome == Outcome::Refused { outcome } else { connection::outcome(failure) };
    }
    if let Some(screen) = &report.screen {
        let now = house.clock.now();
        let decided = !report.to.is_empty();
        let conclusion = if decided { screen.close(now) } else { screen.abandon(now) };
        departure::remember(house, &guest, &conclusion);
    }
    depart(house, guest, stage, outcome, report);
    see_off(client).await;
}

/// Shows a load balancer how gatepost is, and the backend behind it. What is said here reaches nobody: who connected to
/// the load balancer is not known, and must not be granted what its own address is.
pub(super) async fn proxy_visit<C: Wire>(house: &Arc<House>, guest: Guest, proxy: C) {
    let proxy = Connection::new(proxy, &guest.gate);
    let Some((mut guest, report, mut proxy)) = secured(house, guest, Box::default(), proxy).await else { return };
    if let Some(presence) = &mut guest.presence {
        presence.moves_to(State::Dialogue);
    }
    let mut dialogue = Dialogue::new(house, &guest, *report, &mut proxy);
    let outcome = if guest.gate.backend.presence() != Presence::There {
        dialogue.say_last(&refusal::unavailable(&guest)).await;
        Outcome::BackendFailed
    } else {
        let mut decision = dialogue.greet().await;
        loop {
            match decision {
                Decision::Listen => decision = dialogue.listen().await,
                Decision::Over(Outcome::HungUp) => break Outcome::Checked,
                Decision::Over(outcome) => break outcome,
                // There is no command that it could be decided at.
                Decision::HandOff => break Outcome::ProtocolFault,
            }
        }
    };
    let (mut report, _) = dialogue.leave();
    report.tls = proxy.facts().cloned();
    depart(house, guest, Stage::Dialogue, outcome, report);
    see_off(proxy).await;
}

/// The backend has taken over.
async fn relayed<C: Wire>(
    house: &Arc<House>,
    mut guest: Guest,
    mut report: Box<Report>,
    mut client: Connection<C>,
    ready: Ready,
    client_bytes: Vec<u8>,
    mut stay: Option<Stay>,
) {
    let Ready { backend, backend_bytes, opening, hello } = ready;
    let trace = guest.trace(&house.clock, hello);
    report.backend = true;
    if let Some(presence) = &mut guest.presence {
        presence.moves_to(State::Relay);
    }
    let trouble = OnceLock::new();
    let total = departure::total(report.screen.as_ref());
    let backend = Renewable::new(backend, &guest, total, client.agreed(), &trouble);
    let sides = Sides { client: &mut client, client_bytes, backend, backend_bytes };
    let settings = &guest.gate.settings.relay;
    let drained = pin!(house.draining.cancelled());
    let drained = Belled::new(drained);
    let mut so_far = Tally::default();
    let sentenced = AtomicBool::new(false);
    let guard = Guard::new(house, &guest, report.screen.as_mut(), &mut so_far, &sentenced);
    let ending = {
        let broken_off = pin!(async {
            tokio::select! {
                biased;
                () = house.cut.cancelled() => Outcome::Shutdown,
                () = put_out(house, &guest, &mut stay, Some(&sentenced)) => Outcome::Banned,
            }
        });
        tokio::select! {
            biased;
            ending = relay::run_traced(sides, opening, settings, trace, drained, guard) => Ok(ending),
            outcome = Belled::new(broken_off) => Err(outcome),
        }
    };
    let ending = match ending {
        Ok(ending) => ending,
        Err(outcome) => {
            let words = "cut off: it did not end in the time that a stop gives";
            report.note = (outcome == Outcome::Shutdown).then(|| words.to_owned());
            report.tally = so_far;
            report.tls = client.facts().cloned();
            return depart(house, guest, Stage::Relay, outcome, *report);
        }
    };
    if ending.tally.auth_not_offered > 0
        && let Some(screen) = &report.screen
    {
        departure::remember(house, &guest, &screen.abandon(house.clock.now()));
    }
    let trouble = trouble.into_inner();
    if let Some(fault) = trouble.as_ref().map(Trouble::kind).or_else(|| handoff::fault(&ending.end)) {
        guest.gate.metrics.backend_failed(fault);
    }
    let failure = client.failure().filter(|_| ending.end == End::NoTls);
    report.note = match (failure, trouble) {
        (Some(failure), _) => Some(failure.to_string()),
        (None, Some(trouble)) => Some(format!("after STARTTLS: {trouble}")),
        (None, None) => handoff::note(&ending.end),
    };
    report.tally = ending.tally;
    report.tls = client.facts().cloned();
    drop(client);
    let outcome = match sentenced.into_inner() {
        true => Outcome::Banned,
        false => failure.map_or_else(|| handoff::outcome(&ending.end), connection::outcome),
    };
    depart(house, guest, Stage::Relay, outcome, *report);
}
