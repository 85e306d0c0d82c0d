//! Recall: one look-up, and who the client is to us: access list, places, standing. Nothing here waits.

use std::net::IpAddr;
use std::sync::Arc;

use super::rulings::Ruling;
use super::{Gate, House, limits};
use crate::addr::ClientKey;
use crate::journal::Recognition;
use crate::ledger::decisions::Held;
use crate::policy::access::Access;
use crate::policy::class::Class;
use crate::policy::quota::{Full, Place};
use crate::screen::Screen;

/// What a client is to us.
#[derive(Debug)]
pub(super) enum Recall {
    /// To be handed off at once. What it does there can still count against it, unless it is allow-listed.
    Known(Recognition, Place, Option<Screen>),
    /// To be tested.
    Stranger(Place, Screen),
    /// Not let in by the access list.
    Denied,
    /// Not let in for what it did before, or for what a list from outside says.
    Banned(Option<Arc<Held>>),
    /// Over a limit, whoever it is.
    Full(Recognition, Full),
}

/// Looks a client up. What is allowed, in the file or at run time, beats everything; who is denied or banned takes no place.
pub(super) fn recall(house: &House, gate: &Gate, client: IpAddr) -> Recall {
    let settings = &gate.settings;
    let access = settings.access.look_up(client);
    let now = house.clock.now();
    let ruling = if access == Access::Allow { Ruling::Allowed } else { house.ruling(gate, client, now) };
    match (ruling, access) {
        (Ruling::Allowed, _) => {
            return match limits::enter(house, gate, client, Class::Allowed) {
                Ok(place) => Recall::Known(Recognition::Allowed, place, None),
                Err(full) => Recall::Full(Recognition::Allowed, full),
            };
        }
        (_, Access::Deny) => return Recall::Denied,
        (Ruling::Banned(banned), _) => return Recall::Banned(banned),
        (Ruling::None, _) => {}
    }
    let standing = house.ledger.recall(ClientKey::of(client), now);
    // Before a screen is opened: whoever floods us costs no more than look-ups.
    let due = settings.screen.due(&standing, now);
    let recognition = if due.is_empty() { Recognition::Remembered } else { Recognition::Stranger };
    let place = match limits::enter(house, gate, client, limits::class(house, client, due, now)) {
        Ok(place) => place,
        Err(full) => return Recall::Full(recognition, full),
    };
    let screen = Screen::open(settings.screen.clone(), standing, now);
    match recognition {
        Recognition::Remembered => Recall::Known(recognition, place, Some(screen)),
        _ => Recall::Stranger(place, screen),
    }
}
