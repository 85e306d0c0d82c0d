//! Where PROXY headers are awaited: in the lot, like strangers, on nothing but a socket and a [`Guest`].
//!
//! ```text
//!  await_header ──► Unannounced ─┬─ whole ───────────────────────────► out of the lot: a client, or the load balancer itself
//!       │ it came with           ├─ none, broken, late, stopping ────► one reply ──► leaving
//!       └─ the connection ► out  └─ closed ──────────────────────────► departure
//! ```

use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};
use tokio::time::Instant;

use super::{Key, Lot, Place, Who};
use crate::journal::{Outcome, Stage};
use crate::metrics::Header;
use crate::session::arrival::Arrival;
use crate::session::departure::{self, Report};
use crate::session::introduction::{self, Fault, Introduction};
use crate::session::seldom::Seldom;
use crate::session::{Gate, Guest, attend, refusal};

/// A line about a load balancer's fault is logged at most this often.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Somebody whom a PROXY header has introduced.
#[derive(Debug)]
pub(in crate::session) enum Introduced {
    /// A client, as if it had connected here.
    Client { gate: Arc<Gate>, arrival: Arrival },
    /// The load balancer, which speaks for itself.
    Itself { guest: Box<Guest>, socket: TcpStream },
}

/// What is said in the log, now and then.
#[derive(Debug)]
pub(super) struct Complaints {
    untrusted: Seldom,
    unannounced: Seldom,
}

impl Lot {
    /// Takes in a load balancer's connection, until its header comes; mostly, that has come with it.
    pub(in crate::session) fn await_header(&mut self, socket: TcpStream, guest: Guest) -> Option<Introduced> {
        match introduction::hear(&socket, guest.client) {
            Introduction::Awaited => {}
            Introduction::Fault(fault) => {
                self.refuse(socket, guest, fault);
                return None;
            }
            somebody => return introduced(somebody, Box::new(guest), socket),
        }
        self.round = self.round.wrapping_add(1);
        let entry = self.places.vacant_entry();
        let index = entry.key();
        let key = Key { place: u32::try_from(index).unwrap_or(u32::MAX), round: self.round };
        let patience = guest.gate.settings.proxies.as_ref().map(|proxies| proxies.patience).unwrap_or_default();
        let arrived = guest.arrived;
        let place = entry.insert(Place { socket, round: self.round, who: Who::Unannounced(Box::new(guest)) });
        self.deadlines.push(arrived, patience, key);
        let token = Token(index);
        if self.registry.register(&mut place.socket, token, Interest::READABLE).is_err()
            && let Some(Place { who: Who::Unannounced(guest), .. }) = self.vacate(index)
        {
            attend::lost(&self.house, *guest, &std::io::Error::other("out of kernel memory"));
        }
        None
    }

    /// Turns away a connection on which nobody is introduced.
    pub(in crate::session) fn refuse(&mut self, socket: TcpStream, guest: Guest, fault: Fault) {
        self.complaints.about(&guest, fault);
        let reply = reply_to(&guest, fault);
        self.depart_unannounced(guest, fault);
        if fault != Fault::Closed {
            self.let_leave(socket, &reply);
        }
    }

    /// More of a header may have come; `closed` if no more will.
    pub(super) fn look_for_header(&mut self, index: usize, closed: bool) -> Option<Introduced> {
        let place = self.places.get_mut(index)?;
        let Who::Unannounced(guest) = &place.who else { return None };
        match introduction::hear(&place.socket, guest.client) {
            Introduction::Awaited if closed => self.fail(index, Fault::Closed),
            Introduction::Awaited => {}
            Introduction::Fault(fault) => self.fail(index, fault),
            somebody => {
                let deregistered = self.registry.deregister(&mut place.socket);
                let Some(Place { socket, who: Who::Unannounced(guest), .. }) = self.vacate(index) else { return None };
                match deregistered {
                    Ok(()) => return introduced(somebody, guest, socket),
                    Err(error) => attend::lost(&self.house, *guest, &error),
                }
            }
        }
        None
    }

    /// Nobody is introduced on a connection that was waited on.
    fn fail(&mut self, index: usize, fault: Fault) {
        let Some(guest) = self.let_go(index) else { return };
        self.complaints.about(&guest, fault);
        let reply = reply_to(&guest, fault);
        self.depart_unannounced(*guest, fault);
        match fault {
            Fault::Closed => drop(self.vacate(index)),
            _ => self.see_off(index, &reply),
        }
    }

    fn depart_unannounced(&self, guest: Guest, fault: Fault) {
        guest.gate.metrics.proxy_header(fault.kind());
        let report = Report { note: Some(fault.to_string()), ..Report::default() };
        departure::depart(&self.house, guest, Stage::Arrival, fault.outcome(), report);
    }

    /// It has had its time.
    pub(super) fn header_is_late(&mut self, index: usize) {
        let Some(place) = self.places.get(index) else { return };
        let fault = if introduction::is_silent(&place.socket) { Fault::Missing } else { Fault::Late };
        self.fail(index, fault);
    }

    /// Tells a load balancer, and so whoever is behind it, that gatepost is stopping.
    pub(super) fn dismiss_unannounced(&mut self, index: usize) {
        let Some(guest) = self.let_go(index) else { return };
        let reply = audible(&guest, refusal::stopping(&guest));
        departure::depart(&self.house, *guest, Stage::Arrival, Outcome::Shutdown, Report::default());
        self.see_off(index, &reply);
    }

    /// Its connection is only left to be closed.
    fn let_go(&mut self, index: usize) -> Option<Box<Guest>> {
        let place = self.places.get_mut(index)?;
        let Who::Unannounced(guest) = std::mem::replace(&mut place.who, Who::Leaving { said: 0 }) else { return None };
        self.leaving += 1;
        Some(guest)
    }
}

impl Complaints {
    pub(super) fn new() -> Self {
        Self { untrusted: Seldom::new(COMPLAINT), unannounced: Seldom::new(COMPLAINT) }
    }

    /// Says what the operator may want to mend; where strangers can bring it about too, no louder than for a stranger.
    fn about(&mut self, guest: &Guest, fault: Fault) {
        let now = Instant::now();
        let (gate, address) = (&guest.gate.name, guest.client.ip());
        match fault {
            // How connections are looked at by load balancers that do not speak.
            Fault::Closed => {}
            Fault::Untrusted => {
                if let Some(passed_over) = self.untrusted.is_due(now) {
                    tracing::info!(%gate, %address, passed_over, "refused: {fault}");
                }
            }
            Fault::Missing | Fault::Malformed | Fault::TooLong | Fault::Late => {
                if let Some(passed_over) = self.unannounced.is_due(now) {
                    tracing::warn!(
                        %gate, %address, %fault, passed_over,
                        "a load balancer does not say who its client is, who gets 421: whoever connects from `proxy_from` \
                         has to begin with a PROXY header"
                    );
                }
            }
        }
    }
}

/// Counts a header that introduces somebody, and says whom. A client has its own visit, which begins now: what the load
/// balancer had been given ends here.
fn introduced(somebody: Introduction, guest: Box<Guest>, socket: TcpStream) -> Option<Introduced> {
    let metrics = &guest.gate.metrics;
    match somebody {
        Introduction::Client { source, destination } => {
            metrics.proxy_header(Header::Client);
            let arrival = Arrival { socket, client: source, local: destination, proxy: Some(guest.client) };
            Some(Introduced::Client { gate: Arc::clone(&guest.gate), arrival })
        }
        Introduction::Itself => {
            metrics.proxy_header(Header::Itself);
            Some(Introduced::Itself { guest, socket })
        }
        Introduction::Awaited | Introduction::Fault(_) => None,
    }
}

fn reply_to(guest: &Guest, fault: Fault) -> Vec<u8> {
    audible(guest, if fault == Fault::Untrusted { refusal::untrusted(guest) } else { refusal::unannounced(guest) })
}

/// What of a reply can be heard: where TLS comes first, nothing before it.
fn audible(guest: &Guest, reply: Vec<u8>) -> Vec<u8> {
    if guest.gate.settings.tls.is_first() { Vec::new() } else { reply }
}
