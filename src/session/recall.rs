//! Recall: one look-up, and who the client is to us: access list, places, standing. Nothing here waits.

use std::net::IpAddr;

use super::{Gate, House};
use crate::addr::ClientKey;
use crate::journal::Recognition;
use crate::policy::access::Access;
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
    /// Not let in for want of a place.
    Full(Full),
}

/// Looks a client up. The allow list beats everything; a denied client takes no place.
pub(super) fn recall(house: &House, gate: &Gate, client: IpAddr) -> Recall {
    let settings = &gate.settings;
    let access = settings.access.look_up(client);
    if access == Access::Deny {
        return Recall::Denied;
    }
    let allowed = access == Access::Allow;
    let place = match house.sessions.enter(client, settings.limits, allowed) {
        Ok(place) => place,
        Err(full) => return Recall::Full(full),
    };
    if allowed {
        return Recall::Known(Recognition::Allowed, place, None);
    }
    let now = house.clock.now();
    let standing = house.ledger.recall(ClientKey::of(client), now);
    let screen = Screen::open(settings.screen.clone(), standing, now);
    if screen.due().is_empty() {
        Recall::Known(Recognition::Remembered, place, Some(screen))
    } else {
        Recall::Stranger(place, screen)
    }
}
