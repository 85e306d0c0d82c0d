//! A relay machine between two sides in memory: what its driver does, without sockets.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a claim that does not hold panics"
)]

use gatepost::relay::ending::{End, Event, Tally};
use gatepost::relay::machine::{Machine, Step};
use gatepost::relay::{Aftermath, Attempt, Finished, Opening, Settings, Tls, Trace};

/// Bytes on their way to the machine and what has come out of it.
pub struct Stage {
    machine: Machine,
    from_client: Vec<u8>,
    client_eof: bool,
    from_backend: Vec<u8>,
    backend_eof: bool,
    /// Whether there is another backend once TLS has begun here, as in the daemon, or the same goes on.
    pub renews: bool,
    /// What the backend got.
    pub to_backend: Vec<u8>,
    /// What the client got.
    pub to_client: Vec<u8>,
    /// How many bytes had gone to the backend and to the client when TLS began here.
    pub tls: Option<(usize, usize)>,
    /// What has been told.
    pub events: Vec<Event>,
    /// What becomes of AUTH; none: it waits.
    pub leave: Option<Attempt>,
    /// What follows from each that is finished.
    pub aftermath: Aftermath,
    /// How many were let go.
    pub let_go: u32,
    /// Those that are finished.
    pub finished: Vec<Finished>,
    /// How it ended.
    pub end: Option<End>,
}

impl Stage {
    /// A machine at the beginning.
    pub fn new(settings: &Settings, opening: Opening) -> Self {
        Self::with_tls(settings, opening, Tls::EndToEnd)
    }

    /// Likewise, where TLS with the client ends where `tls` says. A handshake takes no bytes here.
    pub fn with_tls(settings: &Settings, opening: Opening, tls: Tls) -> Self {
        Self::traced(settings, opening, tls, None)
    }

    /// Likewise, and with what `trace` has to tell on top of each message.
    pub fn traced(settings: &Settings, opening: Opening, tls: Tls, trace: Option<Trace>) -> Self {
        Self {
            machine: Machine::traced(settings, opening, tls, trace),
            tls: None,
            from_client: Vec::new(),
            client_eof: false,
            from_backend: Vec::new(),
            backend_eof: false,
            renews: false,
            to_backend: Vec::new(),
            to_client: Vec::new(),
            events: Vec::new(),
            leave: Some(Attempt::Go),
            aftermath: Aftermath::default(),
            let_go: 0,
            finished: Vec::new(),
            end: None,
        }
    }

    /// The client sends `bytes`.
    pub fn client_says(&mut self, bytes: &[u8]) {
        self.from_client.extend_from_slice(bytes);
        self.advance();
    }

    /// The client closes its side.
    pub fn client_closes(&mut self) {
        self.client_eof = true;
        self.advance();
    }

    /// The backend sends `bytes`.
    pub fn backend_says(&mut self, bytes: &[u8]) {
        self.from_backend.extend_from_slice(bytes);
        self.advance();
    }

    /// The backend closes its side.
    pub fn backend_closes(&mut self) {
        self.backend_eof = true;
        self.advance();
    }

    /// AUTH is not for this client.
    pub fn withhold_auth(&mut self) {
        self.machine.withhold_auth();
    }

    /// From here on, that becomes of AUTH.
    pub fn may(&mut self, leave: Option<Attempt>) {
        self.leave = leave;
        self.advance();
    }

    /// gatepost is to end.
    pub fn drain(&mut self) {
        self.machine.drain();
        self.advance();
    }

    /// What the machine has counted.
    pub fn tally(&self) -> Tally {
        self.machine.tally()
    }

    /// Whether the machine watches nothing any more.
    pub fn is_opaque(&self) -> bool {
        self.machine.is_opaque()
    }

    /// As the driver does it: the backend's bytes first, until neither side moves.
    fn advance(&mut self) {
        let mut moved = true;
        while moved && self.end.is_none() {
            moved = false;
            while self.end.is_none() {
                let waiting = !self.from_client.is_empty();
                match self.machine.backend_step(&self.from_backend, self.backend_eof, waiting) {
                    Step::Pass(count) => self.to_client.extend(self.from_backend.drain(..count)),
                    Step::Replace { take, with } => {
                        self.from_backend.drain(..take);
                        self.to_client.extend_from_slice(&with);
                    }
                    Step::Wait | Step::Hold => break,
                    Step::Close(end) => self.end = Some(end),
                    step => panic!("{step:?} of the backend's bytes"),
                }
                moved = true;
                self.events.extend(self.machine.take_event());
                if let Some(finished) = self.machine.take_finished() {
                    self.machine.settle(self.aftermath);
                    self.finished.push(finished);
                }
            }
            while self.end.is_none() {
                match self.machine.client_step(&self.from_client, self.client_eof) {
                    Step::Pass(count) => self.to_backend.extend(self.from_client.drain(..count)),
                    Step::Replace { take, with } => {
                        self.from_client.drain(..take);
                        self.to_backend.extend_from_slice(&with);
                    }
                    Step::Answer { take, with } => {
                        self.from_client.drain(..take);
                        self.to_client.extend_from_slice(with);
                    }
                    Step::Drop(take) => drop(self.from_client.drain(..take)),
                    Step::StartTls => {
                        assert!(self.from_client.is_empty(), "said in the clear, read under TLS");
                        self.tls = Some((self.to_backend.len(), self.to_client.len()));
                        if self.renews {
                            self.from_backend.clear();
                            self.backend_eof = false;
                        }
                        self.machine.tls_begun();
                    }
                    Step::AskLeave => match self.leave {
                        Some(attempt) => {
                            self.let_go += u32::from(attempt == Attempt::Go);
                            self.machine.may_try(attempt == Attempt::Go);
                        }
                        None if self.client_eof => {}
                        None => break,
                    },
                    Step::Wait | Step::Hold => break,
                    Step::Close(end) => self.end = Some(end),
                }
                moved = true;
                self.events.extend(self.machine.take_event());
            }
        }
        if let Some(end) = self.end {
            self.finished.extend(self.machine.break_off(Some(end)));
        }
    }
}
