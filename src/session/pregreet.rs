//! Pregreet: the lot, where strangers wait for the greeting. Bots cannot.
//!
//! A stranger that says nothing in its first two milliseconds gets the teaser `220-`, and then the wait: at least
//! [`Greet::minimum`](crate::screen::Greet) while speaking early would count, at most
//! [`Greet::maximum`](crate::screen::Greet) for the lists, and over as soon as nothing that is outstanding could change the
//! verdict. What it says meanwhile is peeked at, not taken: under `observe`
//! it is still there for whoever speaks with the client next.
//!
//! ```text
//! arrive ──► newcomer ── has spoken ──► one reply ──► gone ──► closed (client has read it, or LINGER is over)
//!               │                            ▲
//!            MOMENT is over    a drop is due │
//!               ▼                            │
//!            waiting ────────────────────────┤
//!               ├── wait over ──► a task: dialogue or handoff
//!               └── client hung up ──► departure
//! ```
//!
//! Behind a load balancer the lot is also where PROXY headers are awaited (`header`): those who are announced leave it, and
//! come back as strangers if that is what they are.

mod banned;
mod header;
mod leaving;
mod newcomers;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::{SendFlags, send};
use slab::Slab;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::client::{LAST_WORDS, LINGER};
use super::deadlines::Deadlines;
use super::departure::{self, Report};
use super::refusal::{self, Manner};
use super::stranger::Stranger;
use super::{Guest, House, attend, greeting};
use crate::dnsbl::{Answer, Waiter};
use crate::journal::{Outcome, Stage};
use crate::screen::{Evidence, Screen, Test, Verdict};

use header::Complaints;
pub(super) use header::Introduced;
use leaving::Leaving;

/// How much of what a client says too early is looked at (postscreen's figure).
const PEEK: usize = 1024;

/// How many that were turned away may linger at once in a lane; for one more, the one that has been there longest goes.
const LINGERING: usize = 2048;

/// How many whose time has come, of each kind, are seen to before the others in the lane get their turn.
const AT_ONCE: usize = 16;

/// Where strangers wait.
#[derive(Debug)]
pub(super) struct Lot {
    house: Arc<House>,
    /// Where the sockets of those in a place are registered, under the place's number.
    registry: Registry,
    places: Slab<Place>,
    deadlines: Deadlines<Key>,
    answers: UnboundedSender<Answer>,
    round: u32,
    /// Strangers who have come just now, in their order.
    newcomers: VecDeque<(TcpStream, Box<Stranger>)>,
    /// Those who were turned away: in a place that they had, and at the door.
    leaving: usize,
    gone: Leaving,
    /// Banned clients that are held.
    held: usize,
    complaints: Complaints,
}

/// A place in the lot, and which of those who have had it is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    place: u32,
    round: u32,
}

#[derive(Debug)]
struct Place {
    socket: TcpStream,
    round: u32,
    who: Who,
}

#[derive(Debug)]
enum Who {
    /// A load balancer, whose header is still to come.
    Unannounced(Box<Guest>),
    /// In a box of its own, so that the table of places stays small whatever it has grown to.
    Waiting(Box<Stranger>),
    Leaving {
        said: usize,
    },
    /// Banned, and held in silence.
    Held {
        said: usize,
    },
}

impl Lot {
    pub(super) fn new(house: Arc<House>, registry: Registry, answers: UnboundedSender<Answer>) -> Self {
        Self {
            house,
            registry,
            places: Slab::new(),
            deadlines: Deadlines::new(),
            answers,
            round: 0,
            newcomers: VecDeque::new(),
            leaving: 0,
            gone: Leaving::default(),
            held: 0,
            complaints: Complaints::new(),
        }
    }

    /// Whether nobody is there.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.newcomers.is_empty() && self.gone.is_empty()
    }

    /// How many were turned away and may still read why.
    #[cfg(test)]
    pub(super) fn lingering(&self) -> usize {
        self.leaving + self.gone.len()
    }

    /// Takes a stranger in at once.
    #[cfg(test)]
    pub(super) fn park(&mut self, socket: TcpStream, guest: Guest, screen: Screen) {
        let stranger = self.stranger(guest, screen);
        self.place(socket, stranger);
    }

    fn stranger(&self, guest: Guest, screen: Screen) -> Box<Stranger> {
        // Whoever waits already waits on as it was begun: what is held is soon over in any case.
        let hurried = self.house.stress.is_on();
        Box::new(Stranger { guest, screen, hurried, teased: false, said: None })
    }

    /// From here on it waits.
    fn place(&mut self, socket: TcpStream, mut stranger: Box<Stranger>) {
        let (now, hurried) = (Instant::now(), stranger.hurried);
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let entry = self.places.vacant_entry();
        let key = Key { place: u32::try_from(entry.key()).unwrap_or(u32::MAX), round };

        let mut verdict = None;
        if stranger.screen.due().has(Test::Dnsbl)
            && let Some(dnsbl) = &stranger.guest.gate.dnsbl
        {
            let waiter = Waiter { to: self.answers.clone(), ticket: key.ticket() };
            let score = dnsbl.ask(stranger.guest.client.ip(), waiter);
            verdict = stranger.screen.observe(Evidence::Listed(score));
        }
        let greet = &stranger.screen.settings().greet;
        let wait = stranger.screen.wait();
        if wait.minimum
            && verdict.is_none()
            && !stranger.guest.gate.settings.tls.is_first()
            && let Some(teaser) = &greet.teaser
        {
            let line = greeting::teaser(teaser);
            // Into an empty send buffer; should it not fit, the greeting is lost and the client with it.
            stranger.teased = (&socket).write(&line).is_ok();
        }
        if !wait.is_over() {
            let (least, most) = greet.waits(hurried);
            self.deadlines.push(now, if wait.minimum { least } else { most }, key);
        }
        let token = Token(entry.key());
        let place = entry.insert(Place { socket, round, who: Who::Waiting(stranger) });
        if self.registry.register(&mut place.socket, token, Interest::READABLE).is_err() {
            // Only for want of kernel memory. The client has heard nothing that binds us.
            self.hang_up(key.place as usize, Some("cannot watch the connection: out of kernel memory"));
            return;
        }
        self.settle(key.place as usize, verdict);
    }

    /// Turns somebody away that was never let in.
    pub(super) fn turn_away(&mut self, socket: TcpStream, guest: Guest, reply: &[u8], end: (Stage, Outcome)) {
        self.turn_away_with(socket, guest, reply, end, Report::default());
    }

    /// Likewise, with something to report.
    pub(super) fn turn_away_with(
        &mut self,
        socket: TcpStream,
        guest: Guest,
        reply: &[u8],
        (stage, outcome): (Stage, Outcome),
        report: Report,
    ) {
        let reply = heard(&guest, reply);
        departure::depart(&self.house, guest, stage, outcome, report);
        self.let_leave(socket, reply);
    }

    /// The visit is over, and the client has still to read why.
    fn let_leave(&mut self, socket: TcpStream, reply: &[u8]) {
        let is_full = self.leaving + self.gone.len() >= LINGERING && !self.gone.close_oldest();
        if say_last(&socket, reply) && !is_full {
            self.gone.add(socket, Instant::now());
        }
    }

    /// Something has happened on a socket; `closed` if its client will say nothing more.
    pub(super) fn readable(&mut self, token: Token, closed: bool) -> Option<Introduced> {
        let Token(index) = token;
        if matches!(self.places.get(index), Some(Place { who: Who::Unannounced(_), .. })) {
            return self.look_for_header(index, closed);
        }
        self.hear(index);
        // The poll is edge-triggered: a close that came together with the last bytes is not told of again.
        let goes = |place: &Place| matches!(place.who, Who::Leaving { .. } | Who::Held { .. });
        if closed && self.places.get(index).is_some_and(goes) {
            self.vacate(index);
        }
        None
    }

    fn hear(&mut self, index: usize) {
        let Some(place) = self.places.get_mut(index) else { return };
        match &mut place.who {
            Who::Unannounced(_) => {}
            Who::Leaving { said } | Who::Held { said } => {
                if drain(&mut place.socket, said) == Drained::Over {
                    self.vacate(index);
                }
            }
            Who::Waiting(stranger) => {
                let mut peeked = [0; PEEK];
                match place.socket.peek(&mut peeked) {
                    Ok(0) => self.hang_up(index, None),
                    Ok(n) => {
                        let verdict = stranger.spoke(peeked.get(..n).unwrap_or_default());
                        self.settle(index, verdict);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => self.hang_up(index, None),
                }
            }
        }
    }

    /// The lists say more.
    pub(super) fn answered(&mut self, answer: Answer) {
        let key = Key::of(answer.ticket);
        let Some(index) = self.find(key) else { return };
        let Some(Place { who: Who::Waiting(stranger), .. }) = self.places.get_mut(index) else { return };
        let verdict = stranger.screen.observe(Evidence::Listed(answer.score));
        self.settle(index, verdict);
    }

    /// When [`Self::expire`] is to be called next.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let places = &self.places;
        self.deadlines.skip(|key| places.get(key.place as usize).is_none_or(|place| place.round != key.round));
        let newcomer = self.next_newcomer();
        [self.deadlines.next(), newcomer, self.gone.next_deadline()].into_iter().flatten().min()
    }

    /// Time has passed: sees to some of those whose time has come, and says whether there may be more of them. Many can come
    /// together, and the other visits of the lane go on in between.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let leave = self.gone.expire(now);
        let came = self.look_at_newcomers(now);
        let waited = self.end_waits(now);
        leave || came || waited
    }

    /// Likewise for those in a place alone, whose wait is over.
    fn end_waits(&mut self, now: Instant) -> bool {
        for _ in 0..AT_ONCE {
            let Some(key) = self.deadlines.pop(now) else { return false };
            let Some(index) = self.find(key) else { continue };
            let Some(place) = self.places.get_mut(index) else { continue };
            let stranger = match &mut place.who {
                Who::Waiting(stranger) => stranger,
                Who::Unannounced(_) => {
                    self.header_is_late(index);
                    continue;
                }
                Who::Leaving { .. } | Who::Held { .. } => {
                    self.vacate(index);
                    continue;
                }
            };
            let (least, most) = stranger.screen.settings().greet.waits(stranger.hurried);
            let longer = most.saturating_sub(least);
            if now >= stranger.guest.arrived + most {
                let verdict = stranger.screen.stop_waiting();
                match verdict {
                    Some(_) => self.settle(index, verdict),
                    None => self.move_on(index),
                }
            } else {
                stranger.screen.waited();
                if !stranger.screen.wait().is_over() {
                    self.deadlines.push(now, longer, key);
                }
                self.settle(index, None);
            }
        }
        true
    }

    /// gatepost is stopping: nobody who waits is kept.
    pub(super) fn drain(&mut self) {
        for (socket, stranger) in std::mem::take(&mut self.newcomers) {
            let reply = refusal::stopping(&stranger.guest);
            self.part(*stranger, Outcome::Shutdown, None);
            self.let_leave(socket, &reply);
        }
        let waiting: Vec<usize> = self
            .places
            .iter()
            .filter(|(_, place)| !matches!(place.who, Who::Leaving { .. }))
            .map(|(index, _)| index)
            .collect();
        for index in waiting {
            match self.places.get(index).map(|place| &place.who) {
                Some(Who::Waiting(stranger)) => {
                    let reply = refusal::stopping(&stranger.guest);
                    self.dismiss(index, &reply, Outcome::Shutdown);
                }
                Some(Who::Unannounced(_)) => self.dismiss_unannounced(index),
                Some(Who::Held { .. }) => drop(self.vacate(index)),
                Some(Who::Leaving { .. }) | None => {}
            }
        }
    }

    /// Does what the state of the screening asks for.
    fn settle(&mut self, index: usize, verdict: Option<Verdict>) {
        let Some(Place { who: Who::Waiting(stranger), .. }) = self.places.get(index) else { return };
        match verdict {
            Some(Verdict::Drop(test)) => {
                let reply = refusal::failed(&stranger.guest, &stranger.screen, test, Manner::Drop);
                self.dismiss(index, &reply, Outcome::Dropped);
            }
            _ if stranger.screen.wait().is_over() => self.move_on(index),
            _ => {}
        }
    }

    /// The wait is over: from here on the stranger has a task of its own.
    fn move_on(&mut self, index: usize) {
        let Some(mut place) = self.places.try_remove(index) else { return };
        let Who::Waiting(stranger) = place.who else { return };
        Self::waited(&stranger);
        let house = Arc::clone(&self.house);
        let tokio_socket = self
            .registry
            .deregister(&mut place.socket)
            .and_then(|()| tokio::net::TcpStream::from_std(place.socket.into()));
        match tokio_socket {
            Ok(socket) => attend::spawn(house, *stranger, socket),
            Err(error) => {
                let report = Report {
                    screen: Some(stranger.screen),
                    said: stranger.said,
                    note: Some(format!("cannot watch the connection: {error}")),
                    ..Report::default()
                };
                departure::depart(&house, stranger.guest, Stage::Pregreet, Outcome::Limited, report);
            }
        }
    }

    /// The client has left, or cannot be kept.
    fn hang_up(&mut self, index: usize, note: Option<&str>) {
        let Some(Place { who: Who::Waiting(stranger), .. }) = self.vacate(index) else { return };
        self.part(*stranger, Outcome::HungUp, note);
    }

    /// One reply, and the visit is over; the socket stays until the client has read it.
    fn dismiss(&mut self, index: usize, reply: &[u8], outcome: Outcome) {
        let Some(place) = self.places.get_mut(index) else { return };
        let Who::Waiting(stranger) = std::mem::replace(&mut place.who, Who::Leaving { said: 0 }) else { return };
        self.leaving += 1;
        let reply = heard(&stranger.guest, reply);
        self.part(*stranger, outcome, None);
        self.see_off(index, reply);
    }

    /// The visit of somebody who has waited is over.
    fn part(&self, stranger: Stranger, outcome: Outcome, note: Option<&str>) {
        Self::waited(&stranger);
        if matches!(outcome, Outcome::Dropped | Outcome::HungUp) {
            let conclusion = stranger.screen.abandon(self.house.clock.now());
            departure::remember(&self.house, &stranger.guest, &conclusion);
        }
        let report = Report {
            screen: Some(stranger.screen),
            said: stranger.said,
            note: note.map(str::to_owned),
            ..Report::default()
        };
        departure::depart(&self.house, stranger.guest, Stage::Pregreet, outcome, report);
    }

    /// Says the last words to somebody in the state [`Who::Leaving`]. What the client has said is read first, and read
    /// on until it closes: closing a socket with unread bytes resets the connection, and the reply would be lost with it.
    fn see_off(&mut self, index: usize, reply: &[u8]) {
        let full = self.leaving + self.gone.len() > LINGERING && !self.gone.close_oldest();
        // What it waited for before is no longer due.
        self.round = self.round.wrapping_add(1);
        let Some(place) = self.places.get_mut(index) else { return };
        place.round = self.round;
        let Who::Leaving { said } = &mut place.who else { return };
        let drained = drain(&mut place.socket, said);
        let told = say_last(&place.socket, reply);
        if full || !told || drained == Drained::Over {
            self.vacate(index);
            return;
        }
        let key = Key { place: u32::try_from(index).unwrap_or(u32::MAX), round: place.round };
        self.deadlines.push(Instant::now(), LINGER, key);
    }

    /// The wait of a stranger is over, in whatever way.
    fn waited(stranger: &Stranger) {
        stranger.guest.gate.metrics.parked(stranger.guest.arrived.elapsed());
    }

    fn find(&self, key: Key) -> Option<usize> {
        let index = key.place as usize;
        self.places.get(index).filter(|place| place.round == key.round).map(|_| index)
    }

    /// Closing the socket takes it out of the poll.
    fn vacate(&mut self, index: usize) -> Option<Place> {
        let place = self.places.try_remove(index)?;
        match place.who {
            Who::Leaving { .. } => self.leaving -= 1,
            Who::Held { .. } => self.held -= 1,
            Who::Unannounced(_) | Who::Waiting(_) => {}
        }
        Some(place)
    }
}

/// What of `reply` a client can hear: where TLS comes first, nothing before it has begun.
fn heard<'a>(guest: &Guest, reply: &'a [u8]) -> &'a [u8] {
    if guest.gate.settings.tls.is_first() { b"" } else { reply }
}

/// Says `reply`, and that nothing follows: in one packet, for it is held until the end is behind it. False if it did not fit.
fn say_last(socket: &TcpStream, reply: &[u8]) -> bool {
    let told = send(socket, reply, SendFlags::NOSIGNAL | SendFlags::MORE).is_ok();
    let _ = socket.shutdown(Shutdown::Write);
    told
}

#[derive(PartialEq, Eq)]
enum Drained {
    /// Nothing to read now.
    Waiting,
    /// Closed, broken, or it has said too much.
    Over,
}

/// Reads and forgets.
fn drain(socket: &mut TcpStream, said: &mut usize) -> Drained {
    let mut scratch = [0; 4096];
    loop {
        match socket.read(&mut scratch) {
            Ok(0) => return Drained::Over,
            Ok(n) => {
                *said += n;
                if *said > LAST_WORDS {
                    return Drained::Over;
                }
                if n < scratch.len() {
                    return Drained::Waiting;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Drained::Waiting,
            Err(_) => return Drained::Over,
        }
    }
}

impl Key {
    fn ticket(self) -> u64 {
        u64::from(self.place) << 32 | u64::from(self.round)
    }

    fn of(ticket: u64) -> Self {
        Self { place: (ticket >> 32) as u32, round: ticket as u32 }
    }
}
