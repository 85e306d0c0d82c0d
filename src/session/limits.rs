//! The limits at the door: in which class a client is counted, and what it hears when it is over one of them.
//!
//! Nothing here opens a screen, asks a list or waits: a client that floods us costs the look-ups, one reply and one record.

use std::net::IpAddr;

use mio::net::TcpStream;

use super::departure::Report;
use super::pregreet::Lot;
use super::{Gate, Guest, House, refusal};
use crate::addr::ClientKey;
use crate::journal::{Outcome, Stage};
use crate::metrics::Limit;
use crate::policy::class::Class;
use crate::policy::quota::{Full, Place};
use crate::screen::Tests;
use crate::time::Timestamp;

/// The class of a client of which the tests in `due` have still to be passed. Somebody that logs in now and then makes a
/// mistake now and then: only what is not known to be good is bad for it.
pub(super) fn class(house: &House, client: IpAddr, due: Tests, now: Timestamp) -> Class {
    if due.is_empty() {
        return Class::Passed;
    }
    let bad = house.ledger.is_bad(ClientKey::of(client), &house.rulings.settings().rules, now);
    if bad { Class::Bad } else { Class::Unknown }
}

/// Takes a place for a client.
pub(super) fn enter(house: &House, gate: &Gate, client: IpAddr, class: Class) -> Result<Place, Full> {
    let place = house.sessions.enter(client, class, &gate.settings.limits, house.clock.now())?;
    house.stress.look(house.sessions.open());
    Ok(place)
}

/// Tells a client that it is over a limit.
pub(super) fn turn_away(lot: &mut Lot, socket: TcpStream, guest: Guest, stage: Stage, full: Full) {
    let (limit, reply, note) = match full {
        Full::Client => (Limit::Client, refusal::too_many(&guest), "too many sessions of the client"),
        Full::Prefix => (Limit::Prefix, refusal::too_many_near(&guest), "too many sessions of its prefix"),
        Full::Rate(wait) => (Limit::Rate, refusal::too_often(&guest, wait), "too many new sessions of the client"),
        Full::Reserved => (Limit::Reserved, refusal::full(&guest), "the places that are free are kept for others"),
        Full::Total => (Limit::Total, refusal::full(&guest), "all places are taken"),
    };
    guest.gate.metrics.limited(limit);
    let report = Report { note: Some(note.to_owned()), ..Report::default() };
    lot.turn_away_with(socket, guest, &reply, (stage, Outcome::Limited), report);
}
