//! The relay between two connections: the [`Machine`] decides, this reads, writes and keeps time.
//!
//! All of it is one future that polls: nothing that has read bytes is ever raced away. Each round reads what has come
//! from both sides, lets the machine work through it, and writes what that has made, so that what belongs together
//! leaves in one piece. A side is read only while there is room for its bytes, and there is room again when the other
//! side has taken some: a side that is slow slows the other, and one that takes nothing at all runs into its deadline.
//!
//! A reply that the [`Warden`] delays is held back before it is written, and nothing else goes on meanwhile: neither side's
//! bytes are looked at, and nobody's time passes. The client is read as far as there is room, so that it is seen if it leaves.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::buffer::SIZE;
use super::ending::{End, ProtocolFault, Tally, Wait};
use super::flow::Flow;
use super::machine::{Machine, Step};
use super::splice::{Done, splice};
use super::waits::{self, Pace, Waits};
use super::wire::{self, NoBackend, NoTls, Renewal};
use super::{Attempt, Opening, Settings, Trace, Warden, Wire};
use crate::smtp::reply::REPLY_LIMIT;

/// How long gatepost goes on reading from a client that it has said its last word to. A connection that is closed with
/// bytes unread is reset, and a reset can destroy the last word on its way.
const LINGER: Duration = Duration::from_secs(2);

/// From how many bytes on, of a chunk, the kernel is asked to move them: less is sooner read and written.
const WORTHWHILE: u64 = 32 * 1024;

/// The two connections, and what has been read from them already. Not to be printed: the bytes may hold a password.
pub struct Sides<C, B> {
    /// The client.
    pub client: C,
    /// Bytes of the client's that nothing has been done about: commands in a row, mostly none.
    pub client_bytes: Vec<u8>,
    /// The MTA.
    pub backend: B,
    /// Bytes of the backend's that nothing has been done about: mostly none.
    pub backend_bytes: Vec<u8>,
}

/// How a relay ended, and what it had counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    /// How.
    pub end: End,
    /// What it had counted.
    pub tally: Tally,
}

/// Relays between the two sides until one of them, or `shutdown`, ends it. Both connections are closed then.
///
/// When `shutdown` is ready, the client is turned away with 421 as soon as no command is unanswered and no transaction
/// open. How long that may take, and what becomes of connections on which TLS has begun, is for the caller to decide, who
/// may drop the future at any time; `warden` has been told by then of everything that had happened, and is then told of
/// an attempt that never will be finished.
pub async fn run<C: Wire, B: Wire>(
    sides: Sides<C, B>,
    opening: Opening,
    settings: &Settings,
    shutdown: impl Future<Output = ()>,
    warden: impl Warden,
) -> Ending {
    run_traced(sides, opening, settings, None, shutdown, warden).await
}

/// The same, with a header field on top of each message if there is a `trace`.
pub async fn run_traced<C: Wire, B: Wire>(
    sides: Sides<C, B>,
    opening: Opening,
    settings: &Settings,
    trace: Option<Trace>,
    shutdown: impl Future<Output = ()>,
    warden: impl Warden,
) -> Ending {
    let Sides { mut client, client_bytes, mut backend, backend_bytes } = sides;
    let mut relay = Relay {
        up: Flow::new(&client_bytes, SIZE),
        down: Flow::new(&backend_bytes, REPLY_LIMIT),
        machine: Machine::traced(settings, opening, client.tls(), trace),
        settings,
        warden,
        held: None,
        waits: Waits::default(),
        backend_deaf: false,
        draining: false,
        client_bytes: 0,
        splice: true,
    };
    drop((client_bytes, backend_bytes));
    if !relay.warden.offers_auth() {
        relay.machine.withhold_auth();
    }
    let end = {
        let mut shutdown = pin!(shutdown);
        let mut sleep = pin!(sleep_until(waits::until(Instant::now(), settings.timeouts.command)));
        loop {
            let turn = poll_fn(|cx| {
                let ends = Ends { client: &mut client, backend: &mut backend };
                relay.poll(cx, ends, sleep.as_mut(), shutdown.as_mut())
            });
            match turn.await {
                Turn::Over(end) => break end,
                // The machine has seen to it that nothing said in the clear is left to be read under TLS.
                Turn::StartTls if !relay.up.is_empty() => break End::ProtocolFault(ProtocolFault::BehindStartTls),
                Turn::StartTls => {
                    if let Err(end) = relay.start_tls(&mut client, &mut backend, shutdown.as_mut()).await {
                        break end;
                    }
                }
                Turn::Unwatched => {
                    if let Some(end) = relay.splice(client.tcp(), backend.tcp()).await {
                        break end;
                    }
                }
            }
        }
    };
    relay.break_off(Some(end));
    // At once: nothing half done is to wait there for the client to have read its last words.
    drop(backend);
    relay.part(&mut client, end).await;
    let tally = relay.machine.tally();
    let to_backend = relay.up.written.saturating_sub(tally.header_fields);
    let tally = Tally { to_backend, to_client: relay.down.written, ..tally };
    Ending { end, tally }
}

/// What a relay has come to.
enum Turn {
    Over(End),
    /// Nothing is held and nothing is to be watched: the kernel can do the rest.
    Unwatched,
    /// The client has its 220: its side is to become a TLS connection.
    StartTls,
}

/// The two connections.
struct Ends<'e, C, B> {
    client: &'e mut C,
    backend: &'e mut B,
}

struct Relay<'s, W: Warden> {
    machine: Machine,
    /// From the client to the backend.
    up: Flow,
    /// From the backend to the client.
    down: Flow,
    settings: &'s Settings,
    warden: W,
    /// Until when the reply to an AUTH exchange is held back. Boxed: most relays never hold one.
    held: Option<Pin<Box<Sleep>>>,
    waits: Waits,
    /// Whether writing to the backend has failed. What it said last may still be worth reading.
    backend_deaf: bool,
    draining: bool,
    /// How many bytes have come from the client.
    client_bytes: u64,
    /// Whether to let the kernel move the bytes when nothing is to be watched.
    splice: bool,
}

impl<W: Warden> Drop for Relay<'_, W> {
    fn drop(&mut self) {
        self.break_off(None);
    }
}

impl<W: Warden> Relay<'_, W> {
    fn poll<C: Wire, B: Wire>(
        &mut self,
        cx: &mut Context<'_>,
        mut ends: Ends<'_, C, B>,
        mut sleep: Pin<&mut Sleep>,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Turn> {
        if !self.draining && shutdown.poll(cx).is_ready() {
            self.draining = true;
            self.machine.drain();
        }
        if let Err(turn) = self.move_bytes(cx, &mut ends) {
            return Poll::Ready(turn);
        }
        loop {
            let now = Instant::now();
            let Some((until, wait)) = self.waits.update(self.waiting(), now, self.settings) else {
                return Poll::Pending;
            };
            if until <= now {
                let words = self.machine.time_out(wait);
                self.down.replace(0, words);
                return Poll::Ready(Turn::Over(End::TimedOut(wait)));
            }
            // A deadline that has moved away is found out when the old one comes: setting a timer costs a lock.
            if sleep.is_elapsed() || sleep.deadline() > until {
                sleep.as_mut().reset(until);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Has the client's side become a TLS connection, and the backend's one that knows nothing of what came before.
    async fn start_tls<C: Wire, B: Wire>(
        &mut self,
        client: &mut C,
        backend: &mut B,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), End> {
        match wire::start_tls(client, self.leaving(shutdown.as_mut())).await {
            Ok(()) => self.renew(backend, shutdown).await,
            Err(NoTls::Failed) => Err(End::NoTls),
            Err(NoTls::Shutdown) => Err(End::Shutdown),
        }
    }

    /// TLS with the client has begun.
    async fn renew<B: Wire>(
        &mut self,
        backend: &mut B,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), End> {
        // Up to here it was the client's time, and from here on it is not.
        self.waits.update(self.waiting(), Instant::now(), self.settings);
        let renewed = tokio::select! {
            biased;
            () = self.leaving(shutdown) => None,
            renewed = backend.renew() => Some(renewed),
        };
        self.machine.tls_begun();
        match renewed {
            Some(Ok(Renewal::Anew)) => {
                self.up.discard();
                self.down.forget();
                self.backend_deaf = false;
                Ok(())
            }
            // When all are to leave, nothing is begun any more: the machine says so next, whatever backend there is.
            Some(Ok(Renewal::Kept)) | None => Ok(()),
            Some(Err(NoBackend)) => {
                let words = self.machine.no_backend();
                self.down.replace(0, words);
                Err(End::NoBackend)
            }
        }
    }

    /// Until all are to leave. The machine is told.
    async fn leaving(&mut self, shutdown: Pin<&mut impl Future<Output = ()>>) {
        if !self.draining {
            shutdown.await;
            self.draining = true;
            self.machine.drain();
        }
    }

    /// Reads, thinks and writes until none of it can be done any more.
    fn move_bytes<C: Wire, B: Wire>(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_, C, B>) -> Result<(), Turn> {
        loop {
            let mut moved = self.read(cx, ends)?;
            self.release(cx);
            moved |= self.advance(cx).map_err(Turn::Over)?;
            moved |= self.write(cx, ends)?;
            if self.machine.is_opaque() {
                self.pass_on_ends(cx, ends)?;
            }
            if self.machine.is_upgrading() && !self.down.is_blocked() {
                return Err(Turn::StartTls);
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// Reads once from each side, as far as there is room.
    fn read<C: Wire, B: Wire>(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_, C, B>) -> Result<bool, Turn> {
        // What the client says behind our 220 to STARTTLS is for the handshake to read.
        let from_client = match self.machine.is_upgrading() {
            true => Poll::Pending,
            false => self.read_client(cx, ends),
        };
        let from_client = match from_client {
            Poll::Ready(Ok(count)) => {
                self.client_bytes += count as u64;
                true
            }
            Poll::Ready(Err(_)) => return Err(Turn::Over(self.torn(End::ClientReset))),
            Poll::Pending => false,
        };
        let from_backend = match self.down.poll_read(cx, ends.backend) {
            Poll::Ready(Ok(_)) => true,
            Poll::Ready(Err(_)) if self.machine.is_opaque() => return Err(Turn::Over(End::Opaque)),
            Poll::Ready(Err(_)) => {
                self.down.eof = true;
                true
            }
            Poll::Pending => false,
        };
        Ok(from_client | from_backend)
    }

    /// Reads from the client. Of a chunk, of which nothing is looked at, the kernel moves what it can.
    fn read_client<C: Wire, B: Wire>(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_, C, B>,
    ) -> Poll<io::Result<usize>> {
        if let Some(left) = self.machine.chunk_left().filter(|left| *left >= WORTHWHILE)
            && !self.backend_deaf
            && self.up.takes_unseen()
            && let (Some(client), Some(_)) = (ends.client.tcp(), ends.backend.tcp())
        {
            let moved = self.up.poll_take(cx, client, left);
            if let Poll::Ready(Ok(count)) = moved {
                self.machine.chunk_moved(count as u64);
            }
            if moved.is_ready() || self.up.takes_unseen() {
                return moved;
            }
        }
        self.up.poll_read(cx, ends.client)
    }

    /// Lets the machine work through what has been read, as far as there is room for what it makes of it.
    ///
    /// The backend first: what its reply means can depend on whether the client has waited for it.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        loop {
            let before = moved;
            moved = false;
            while self.held.is_none() && self.down.has_room() {
                let waiting = !self.up.unseen().is_empty();
                match self.machine.backend_step(self.down.unseen(), self.down.eof, waiting) {
                    Step::Pass(count) => self.down.pass(count),
                    Step::Replace { take, with } => self.down.replace(take, &with),
                    // Of the backend's bytes, the machine never says the other four.
                    Step::Wait | Step::Hold => break,
                    Step::Answer { .. } | Step::Drop(_) | Step::StartTls | Step::AskLeave => break,
                    Step::Close(end) => return Err(end),
                }
                moved = true;
                self.tell();
            }
            while self.held.is_none() && self.up.has_room() && self.down.has_room() {
                match self.machine.client_step(self.up.unseen(), self.up.eof) {
                    Step::Pass(count) => self.up.pass(count),
                    Step::Replace { take, with } => self.up.replace(take, &with),
                    Step::Answer { take, with } => {
                        self.up.replace(take, b"");
                        self.down.replace(0, with);
                    }
                    Step::Drop(take) => self.up.replace(take, b""),
                    Step::AskLeave => match self.warden.poll_attempt(cx) {
                        Poll::Ready(attempt) => self.machine.may_try(attempt == Attempt::Go),
                        // The machine will not have it wait.
                        Poll::Pending if self.up.eof => {}
                        Poll::Pending => break,
                    },
                    Step::Wait | Step::Hold | Step::StartTls => break,
                    Step::Close(end) => return Err(end),
                }
                moved = true;
                self.tell();
            }
            if !moved {
                return Ok(before);
            }
        }
    }

    fn tell(&mut self) {
        if let Some(event) = self.machine.take_event() {
            self.warden.event(event);
        }
        if let Some(finished) = self.machine.take_finished() {
            let aftermath = self.warden.finished(finished);
            self.machine.settle(aftermath);
            let delay = aftermath.delay.filter(|delay| !delay.is_zero() && !self.draining);
            self.held = delay.map(|delay| Box::pin(sleep_until(waits::until(Instant::now(), delay))));
        }
    }

    /// Lets go of a reply that is held back, if that is over: in its time, when the warden says so, and when somebody is to
    /// leave or has left.
    fn release(&mut self, cx: &mut Context<'_>) {
        if let Some(until) = &mut self.held
            && (self.draining
                || self.up.eof
                || until.as_mut().poll(cx).is_ready()
                || self.warden.poll_release(cx).is_ready())
        {
            self.held = None;
            self.warden.released();
        }
    }

    /// Tells of an attempt that is not finished and never will be.
    fn break_off(&mut self, end: Option<End>) {
        if let Some(finished) = self.machine.break_off(end) {
            self.warden.finished(finished);
        }
    }

    /// Writes once to each side what there is for it.
    fn write<C: Wire, B: Wire>(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_, C, B>) -> Result<bool, Turn> {
        let mut moved = false;
        if self.backend_deaf {
            self.up.discard();
        }
        let to_backend = match ends.backend.tcp().filter(|_| self.up.has_unseen()) {
            Some(backend) => self.up.poll_bring(cx, backend),
            None => self.up.poll_write(cx, ends.backend),
        };
        match to_backend {
            Poll::Ready(Ok(())) => moved = true,
            Poll::Ready(Err(_)) if self.machine.is_opaque() => return Err(Turn::Over(End::Opaque)),
            Poll::Ready(Err(_)) => {
                self.backend_deaf = true;
                self.up.discard();
                moved = true;
            }
            Poll::Pending => {}
        }
        let to_client = match self.held {
            Some(_) => Poll::Pending,
            None => self.down.poll_write(cx, ends.client),
        };
        match to_client {
            Poll::Ready(Ok(())) => moved = true,
            Poll::Ready(Err(_)) => return Err(Turn::Over(self.torn(End::ClientReset))),
            Poll::Pending => {}
        }
        Ok(moved)
    }

    /// Where nothing is watched, what one side closes is closed at the other; both, and it is over.
    fn pass_on_ends<C: Wire, B: Wire>(&mut self, cx: &mut Context<'_>, ends: &mut Ends<'_, C, B>) -> Result<(), Turn> {
        if self.up.eof && self.up.is_empty() && !self.up.shut {
            self.up.shut = Pin::new(&mut *ends.backend).poll_shutdown(cx).is_ready();
        }
        if self.down.eof && self.down.is_empty() && !self.down.shut {
            self.down.shut = Pin::new(&mut *ends.client).poll_shutdown(cx).is_ready();
        }
        if self.up.shut && self.down.shut {
            return Err(Turn::Over(End::Opaque));
        }
        let sockets = ends.client.tcp().is_some() && ends.backend.tcp().is_some();
        if self.splice && sockets && self.up.is_empty() && self.down.is_empty() {
            return Err(Turn::Unwatched);
        }
        Ok(())
    }

    /// What a torn connection means: where nothing is watched, that it is over.
    fn torn(&self, end: End) -> End {
        if self.machine.is_opaque() { End::Opaque } else { end }
    }

    /// Who is being waited for. A side whose bytes the other does not take is not.
    fn waiting(&self) -> waits::Now {
        if self.machine.is_opaque() {
            let moved = self.up.written + self.down.written + self.client_bytes;
            return waits::Now { client: Some((Wait::Idle, moved)), ..waits::Now::default() };
        }
        let takes = |flow: &Flow| Pace { waiting: flow.is_blocked(), moved: flow.written };
        if self.held.is_some() {
            let (backend_write, messages) = (takes(&self.up), self.machine.messages());
            return waits::Now { backend_write, messages, ..waits::Now::default() };
        }
        let acts = self.machine.acts();
        let client = self.machine.client_wait().filter(|_| !self.up.is_blocked());
        let backend = self.machine.backend_wait().filter(|_| !self.down.is_blocked());
        waits::Now {
            client: client.filter(|&wait| wait != Wait::Data).map(|wait| (wait, acts.client)),
            backend: backend.map(|wait| (wait, acts.backend)),
            data: Pace { waiting: client == Some(Wait::Data), moved: self.client_bytes },
            client_write: takes(&self.down),
            backend_write: takes(&self.up),
            messages: self.machine.messages(),
        }
    }

    /// Lets the kernel move the bytes to the end. `None`: it cannot, go on here.
    async fn splice(&mut self, client: Option<&TcpStream>, backend: Option<&TcpStream>) -> Option<End> {
        self.splice = false;
        let (client, backend) = (client?, backend?);
        let idle = waits::idle(&self.settings.timeouts);
        // Boxed: few connections come this far, and all would carry it.
        match Box::pin(splice(client, backend, &mut self.up, &mut self.down, idle)).await {
            Done::Closed => Some(End::Opaque),
            Done::Idle => Some(End::TimedOut(Wait::Idle)),
            Done::Unfit => None,
        }
    }

    /// Brings the client what has been said to it, and closes.
    async fn part(&mut self, client: &mut impl Wire, end: End) {
        if end == End::TimedOut(Wait::ClientWrite) {
            return client.give_up();
        }
        if matches!(end, End::ClientReset | End::NoTls | End::Opaque | End::TimedOut(Wait::Idle)) {
            return;
        }
        let last = poll_fn(|cx| say_last(cx, client, &mut self.down, end == End::Quit));
        let said = timeout(self.settings.timeouts.write, last).await;
        if said == Ok(Last::ToBeRead) && end != End::ClientEof {
            // Whether the client closes or not has no bearing on anything any more.
            let _ = timeout(LINGER, poll_fn(|cx| read_out(cx, client))).await;
        }
    }
}

/// What is left to do once the last word has been said.
#[derive(PartialEq, Eq)]
enum Last {
    /// Nothing: to close is as good as to say that nothing more will come.
    WillBeRead,
    /// To let the client read it before the connection is closed.
    ToBeRead,
}

/// Writes all that is left for the client, and closes that direction; that is left to closing the connection where the
/// client `leaves` and that is as good.
fn say_last<C: Wire>(cx: &mut Context<'_>, client: &mut C, down: &mut Flow, leaves: bool) -> Poll<Last> {
    while let Poll::Ready(written) = down.poll_write_last(cx, client) {
        if written.is_err() {
            return Poll::Ready(Last::ToBeRead);
        }
    }
    if down.is_blocked() {
        return Poll::Pending;
    }
    if leaves && client.closes_well() {
        return Poll::Ready(Last::WillBeRead);
    }
    Pin::new(client).poll_shutdown(cx).map(|_| Last::ToBeRead)
}

/// Reads until there is nothing more to come, and forgets it.
fn read_out<C: Wire>(cx: &mut Context<'_>, client: &mut C) -> Poll<()> {
    let mut sink = [0; 4096];
    loop {
        let mut room = ReadBuf::new(&mut sink);
        match Pin::new(&mut *client).poll_read(cx, &mut room) {
            Poll::Ready(Ok(())) if !room.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
