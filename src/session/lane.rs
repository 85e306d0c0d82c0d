//! A lane: one loop that accepts, and holds the strangers of its lot. There is one a core, each with a runtime of its own.
//!
//! The sockets of those who wait are in a poll of their own, which the runtime sees as one descriptor. So a stranger that
//! waits costs the runtime nothing, and a bot can come, talk and be turned away without a task being made for it. The same
//! goes for load balancers whose PROXY header is still to come. The doors are few, and the runtime's own.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task;
use std::time::Duration;

use mio::{Events, Poll};
use slab::Slab;
use tokio::io::Interest as Readiness;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::arrival::{Accepted, Arrival, Door};
use super::introduction::Fault;
use super::pregreet::{Introduced, Lot};
use super::recall::{Recall, recall};
use super::seldom::Seldom;
use super::{Gate, Guest, House, attend, limits, refusal, rulings};
use crate::dnsbl::Answer;
use crate::journal::{Outcome, Recognition, Stage};
use crate::ledger::decisions::Held;
use crate::metrics::{AcceptError, State};
use crate::policy::class::Class;

/// How many events are taken from the poll at once.
const BATCH: usize = 256;

/// How many connections a door accepts before the others inside get their turn.
const ACCEPTS: usize = 16;

/// How many who are still in a listening socket's queue are seen to when it closes.
const BACKLOG: usize = 4096;

/// A line about accepting that goes wrong is logged at most this often.
const COMPLAINT: Duration = Duration::from_secs(10);

/// How long after a ban those who wait are looked through: several that come close together cost one look.
const SEARCH: Duration = Duration::from_millis(100);

/// What the server tells a running lane.
#[derive(Debug)]
pub enum Order {
    /// Listen at this door too.
    Open(Door),
    /// Listen no longer at this address.
    Close(std::net::SocketAddr),
}

/// The loop's state.
#[derive(Debug)]
pub struct Lane {
    house: Arc<House>,
    poll: AsyncFd<PollFd>,
    doors: Slab<Entrance>,
    lot: Lot,
    answers: UnboundedReceiver<Answer>,
    complaint: Seldom,
    /// Changes when somebody was banned.
    banned: watch::Receiver<u64>,
    /// When those who wait are looked through for whoever was banned; not due if nothing.
    search: Option<Instant>,
}

#[derive(Debug)]
struct Entrance {
    door: AsyncFd<DoorFd>,
    /// Somebody may be waiting.
    ready: bool,
    /// Nothing is accepted before this.
    paused: Option<Instant>,
}

impl Entrance {
    fn door(&self) -> &Door {
        &self.door.get_ref().0
    }

    /// Accepts one connection, without waiting.
    fn accept(&self) -> Accepted {
        let accepted = self.door.try_io(Readiness::READABLE, |door| door.0.listener.accept());
        self.door().accepted(accepted)
    }
}

#[derive(Debug)]
struct DoorFd(Door);

impl AsRawFd for DoorFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.listener.as_raw_fd()
    }
}

#[derive(Debug)]
struct PollFd(Poll);

impl AsRawFd for PollFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Has the runtime tell when there is something to be read from `of`.
fn watched<T: AsRawFd>(of: T) -> io::Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "its successor is an unsafe fn; what that asks for holds, for the two types here own what they name"
    )]
    AsyncFd::with_interest(of, Readiness::READABLE)
}

impl Lane {
    /// A lane without doors. Must be made inside the runtime that will run it.
    pub fn new(house: Arc<House>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let poll = watched(PollFd(poll))?;
        let (to, answers) = mpsc::unbounded_channel();
        Ok(Self {
            banned: house.rulings.banned(),
            search: None,
            lot: Lot::new(Arc::clone(&house), registry, to),
            poll,
            house,
            doors: Slab::new(),
            answers,
            complaint: Seldom::new(COMPLAINT),
        })
    }

    /// Opens a door.
    pub fn open(&mut self, door: Door) -> io::Result<()> {
        self.doors.insert(Entrance { door: watched(DoorFd(door))?, ready: false, paused: None });
        Ok(())
    }

    /// Runs until the house is [draining](House::draining) and nobody is left in the lot.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut events = Events::with_capacity(BATCH);
        let mut answers = Vec::with_capacity(BATCH);
        let draining = self.house.draining.clone();
        let draining = draining.cancelled();
        tokio::pin!(draining);
        let alarm = sleep_until(Instant::now());
        tokio::pin!(alarm);
        let mut open = true;
        // Whether somebody's time has come who has not been seen to.
        let mut overdue = false;
        while open || !self.lot.is_empty() {
            let due = self.next_deadline();
            if let Some(due) = due
                && due != alarm.deadline()
            {
                alarm.as_mut().reset(due);
            }
            let busy = overdue || self.has_ready_door();
            tokio::select! {
                biased;
                () = &mut draining, if open => {
                    open = false;
                    self.stop();
                }
                Some(order) = orders.recv(), if open => self.obey(order),
                _ = self.answers.recv_many(&mut answers, BATCH) => {
                    for answer in answers.drain(..) {
                        self.lot.answered(answer);
                    }
                }
                () = knock(&mut self.doors) => {}
                turned = turn(&mut self.poll, &mut events) => {
                    if turned.is_ok() {
                        self.dispatch(&events);
                    }
                }
                Ok(()) = self.banned.changed(), if self.search.is_none() => self.search = Some(Instant::now() + SEARCH),
                // Not while somebody is overdue: it would be over at once, again and again, and nobody else would get a turn.
                () = &mut alarm, if due.is_some() && !overdue => {}
                () = tokio::task::yield_now(), if busy => {}
            }
            self.accept();
            overdue = self.lot.expire(Instant::now());
            if self.search.is_some_and(|due| due <= Instant::now()) {
                self.search = None;
                self.banned.mark_unchanged();
                self.lot.put_out_banned();
            }
        }
    }

    fn dispatch(&mut self, events: &Events) {
        for event in events {
            if let Some(introduced) = self.lot.readable(event.token(), event.is_read_closed()) {
                self.meet(introduced);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Open(door) => {
                let address = door.local;
                if let Err(error) = self.open(door) {
                    tracing::error!(%address, %error, "cannot listen");
                }
            }
            Order::Close(address) => self.close(address),
        }
    }

    /// Listens no longer at `address`. Those who had come as far as the listening socket are let in: closing it would
    /// reset them.
    fn close(&mut self, address: std::net::SocketAddr) {
        let index = self.doors.iter().find(|(_, entrance)| entrance.door().local == address).map(|(index, _)| index);
        let Some(Entrance { door, .. }) = index.and_then(|index| self.doors.try_remove(index)) else { return };
        let DoorFd(door) = door.into_inner();
        for _ in 0..BACKLOG {
            let Accepted::Client(arrival) = door.accept() else { break };
            self.receive(&door.gate.load_full(), arrival);
        }
    }

    /// No more arrivals; those who had come as far as the listening socket are told, like those in the lot.
    fn stop(&mut self) {
        for Entrance { door, .. } in std::mem::take(&mut self.doors).into_iter().map(|(_, entrance)| entrance) {
            let DoorFd(door) = door.into_inner();
            for _ in 0..BACKLOG {
                let Accepted::Client(arrival) = door.accept() else { break };
                let gate = door.gate.load_full();
                let known = if gate.settings.proxies.is_some() { Recognition::Proxy } else { Recognition::Stranger };
                let guest = self.guest(&gate, &arrival, known);
                let reply = refusal::stopping(&guest);
                self.lot.turn_away(arrival.socket, guest, &reply, (Stage::Recall, Outcome::Shutdown));
            }
        }
        self.lot.drain();
    }

    fn has_ready_door(&self) -> bool {
        let now = Instant::now();
        self.doors.iter().any(|(_, entrance)| entrance.ready && entrance.paused.is_none_or(|until| until <= now))
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let paused = self.doors.iter().filter_map(|(_, entrance)| entrance.paused).min();
        self.lot.next_deadline().into_iter().chain(paused).chain(self.search).min()
    }

    fn accept(&mut self) {
        for index in 0..self.doors.capacity() {
            for _ in 0..ACCEPTS {
                let Some(entrance) = self.doors.get_mut(index) else { break };
                if !entrance.ready || entrance.paused.is_some_and(|until| until > Instant::now()) {
                    break;
                }
                entrance.paused = None;
                match entrance.accept() {
                    Accepted::Client(arrival) => {
                        let gate = entrance.door().gate.load_full();
                        self.receive(&gate, arrival);
                    }
                    Accepted::Nobody => entrance.ready = false,
                    Accepted::Gone => entrance.door().gate.load().metrics.accept_failed(AcceptError::Connection),
                    Accepted::Pause(pause, error) => {
                        entrance.paused = Some(Instant::now() + pause);
                        let address = entrance.door().local;
                        let shortage = super::arrival::is_shortage(&error);
                        let kind = if shortage { AcceptError::Resources } else { AcceptError::Listener };
                        entrance.door().gate.load().metrics.accept_failed(kind);
                        self.complain(address, &error);
                    }
                }
            }
        }
    }

    fn complain(&mut self, address: std::net::SocketAddr, error: &io::Error) {
        if self.complaint.is_due(Instant::now()).is_some() {
            tracing::error!(
                %address, %error,
                "cannot accept; those inside are served on. Out of descriptors? Raise LimitNOFILE= of the service, or lower \
                 `sessions` in [limits]"
            );
        }
    }

    /// Somebody has connected: the client, or the load balancer in front of the gate, which is to say who the client is.
    fn receive(&mut self, gate: &Arc<Gate>, arrival: Arrival) {
        let Some(proxies) = &gate.settings.proxies else { return self.admit(gate, arrival) };
        if !proxies.are_at(arrival.client.ip()) {
            let guest = self.guest(gate, &arrival, Recognition::Denied);
            return self.lot.refuse(arrival.socket, guest, Fault::Untrusted);
        }
        let mut guest = self.guest(gate, &arrival, Recognition::Proxy);
        // All that come through a load balancer come from its address: it counts in all, and not as a client.
        match limits::enter(&self.house, gate, arrival.client.ip(), Class::Allowed) {
            Ok(place) => guest.place = Some(place),
            Err(full) => {
                return limits::turn_away(&mut self.lot, arrival.socket, guest, Stage::Arrival, full);
            }
        }
        guest.presence = Some(gate.metrics.present(State::Parked));
        if let Some(introduced) = self.lot.await_header(arrival.socket, guest) {
            self.meet(introduced);
        }
    }

    /// A PROXY header has come.
    fn meet(&mut self, introduced: Introduced) {
        match introduced {
            Introduced::Client { gate, arrival } => self.admit(&gate, arrival),
            Introduced::Itself { guest, socket } => match tokio::net::TcpStream::from_std(socket.into()) {
                Ok(socket) => attend::spawn_proxy(Arc::clone(&self.house), *guest, socket),
                Err(error) => attend::lost(&self.house, *guest, &error),
            },
        }
    }

    fn admit(&mut self, gate: &Arc<Gate>, arrival: Arrival) {
        match recall(&self.house, gate, arrival.client.ip()) {
            Recall::Known(recognition, place, screen) => {
                let mut guest = self.guest(gate, &arrival, recognition);
                guest.place = Some(place);
                guest.presence = Some(gate.metrics.present(State::Relay));
                match tokio::net::TcpStream::from_std(arrival.socket.into()) {
                    Ok(socket) => attend::spawn_known(Arc::clone(&self.house), guest, screen, socket),
                    Err(error) => attend::lost(&self.house, guest, &error),
                }
            }
            Recall::Stranger(place, screen) => {
                let mut guest = self.guest(gate, &arrival, Recognition::Stranger);
                guest.place = Some(place);
                guest.presence = Some(gate.metrics.present(State::Parked));
                self.lot.arrive(arrival.socket, guest, screen);
            }
            Recall::Banned(held) => self.meet_banned(gate, arrival, held.as_deref()),
            Recall::Denied => {
                let guest = self.guest(gate, &arrival, Recognition::Denied);
                let reply = refusal::denied(&guest);
                self.lot.turn_away(arrival.socket, guest, &reply, (Stage::Recall, Outcome::Dropped));
            }
            Recall::Full(recognition, full) => {
                let guest = self.guest(gate, &arrival, recognition);
                limits::turn_away(&mut self.lot, arrival.socket, guest, Stage::Recall, full);
            }
        }
    }

    /// A banned client has come. That is no visit, and leaves no record.
    fn meet_banned(&mut self, gate: &Arc<Gate>, arrival: Arrival, held: Option<&Held>) {
        if let Some(held) = held {
            held.knock();
        }
        let rulings = &self.house.rulings;
        rulings.metrics.turn_away();
        let settings = rulings.settings();
        match settings.answer {
            rulings::Answer::Close => drop(arrival.socket),
            rulings::Answer::Temporary | rulings::Answer::Permanent => {
                let guest = self.guest(gate, &arrival, Recognition::Denied);
                let reply = refusal::banned(&guest, settings.answer == rulings::Answer::Permanent);
                self.lot.tell_banned(arrival.socket, &guest, &reply);
            }
            rulings::Answer::Hold => self.lot.hold_banned(arrival.socket, settings.held),
        }
    }

    fn guest(&self, gate: &Arc<Gate>, arrival: &Arrival, recognition: Recognition) -> Guest {
        Guest {
            id: self.house.ids.next(),
            gate: Arc::clone(gate),
            client: arrival.client,
            local: arrival.local,
            proxy: arrival.proxy.map(Box::new),
            arrived: Instant::now(),
            begin: self.house.clock.now(),
            recognition,
            place: None,
            presence: None,
        }
    }
}

/// Waits until somebody may be waiting at a door where nobody was.
async fn knock(doors: &mut Slab<Entrance>) {
    poll_fn(|cx| {
        let mut knocked = task::Poll::Pending;
        for (_, entrance) in doors.iter_mut().filter(|(_, entrance)| !entrance.ready) {
            // What goes wrong with it, accepting tells.
            if entrance.door.poll_read_ready(cx).is_ready() {
                entrance.ready = true;
                knocked = task::Poll::Ready(());
            }
        }
        knocked
    })
    .await;
}

/// Waits until the poll has something to tell, and takes a batch of it.
async fn turn(poll: &mut AsyncFd<PollFd>, events: &mut Events) -> io::Result<()> {
    loop {
        let mut ready = poll.readable_mut().await?;
        let polled = ready.get_inner_mut().0.poll(events, Some(Duration::ZERO));
        if let Err(error) = polled {
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if events.iter().count() < BATCH {
            ready.clear_ready();
        }
        if !events.is_empty() {
            return Ok(());
        }
    }
}
