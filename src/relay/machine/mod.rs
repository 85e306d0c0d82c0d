//! The protocol of a relay, without I/O and without a clock: bytes in from either side, bytes out to either side, events.
//!
//! Whoever drives it keeps the bytes that have come from each side, in order, and asks [`Machine::client_step`] and
//! [`Machine::backend_step`] what to do with the front of them until both say [`Step::Wait`] or [`Step::Hold`]. Bytes
//! are cut anywhere; the outcome is the same. Runs that go on unchanged are named by length alone, so that they need not
//! be copied.
//!
//! What the client's bytes are:
//!
//! ```text
//!            ┌────────────── reply to EHLO, HELO; refusal of DATA, STARTTLS; end of AUTH ──────────────┐
//!            ▼                                                                                         │
//!  Held ► Commands ── EHLO, HELO, DATA, AUTH, STARTTLS (passed on; nothing behind it is read) ────► Held
//!  (greeting) │ ▲                                                                                    │ │ │
//!             │ │ all of it passed                                              354 to DATA          │ │ │
//!             │ ├────────────────────── Chunk ◄── BDAT n (CHUNKING was offered)   Data ◄─────────────┘ │ │
//!             │ └──────────────────────────────────────────── end of data ────────┘                    │ │
//!             │                                                       334 to AUTH    Continuation ◄────┘ │
//!             │                                                       (its line: Held again)             │
//!             └─ QUIT, EOF, a fault: Ignored                          220 to STARTTLS   BeforeTls ◄──────┘
//!                                                                     (the client's first bytes: Opaque)
//! ```
//!
//! Where TLS with the client ends here ([`Tls::Offered`]), its STARTTLS goes nowhere: once all before it is answered,
//! gatepost says 220 itself, and the client is `Upgrading` until the driver has made its side a TLS connection
//! ([`Step::StartTls`], [`Machine::tls_begun`]). Nothing said before counts after, and until the client says EHLO or HELO
//! again, nothing reaches the backend that could. Whether that is still the connection from before or another one
//! ([`Wire::renew`](super::Wire::renew)), the machine need not know: nothing is unanswered at that point.
//!
//! ```text
//!  Commands ── STARTTLS ──► Held ── its turn: 220 ──► Upgrading ── tls_begun ──► Commands (EHLO due)
//!                            └── bytes of the client ──► 554, and the end
//! ```
//!
//! An AUTH command that may go on has to be let go first ([`Step::AskLeave`], [`Machine::may_try`]); until then nothing
//! behind it is read. Each that was let go is finished once: by the reply that ends its exchange
//! ([`Machine::take_finished`], [`Machine::settle`]), or by the end of the relay ([`Machine::break_off`]).
//!
//! ```text
//!  Commands ── AUTH ──► Asking ── may_try ─┬─ granted: passed on ──► Held
//!                                          └─ refused: 421, and the end
//! ```
//!
//! With a [`Trace`], a header field goes to the backend before the client's first byte of mail data, right behind its 354.
//! Mail data that begins with a blank would continue it: an empty line goes between them, as Postfix has it behind a field
//! of its own. Chunks are not touched, so CHUNKING and BINARYMIME are withheld then.
//!
//! A connection ends rather than go on where the two sides could read the same bytes differently. See
//! [`BackendFault`] and [`ProtocolFault`] for the cases.
//!
//! [`ProtocolFault`]: super::ending::ProtocolFault

mod backend;
mod client;

use std::borrow::Cow;

use super::ending::{AuthOutcome, BackendFault, End, Event, ProtocolFault, Tally, Wait};
use super::limits::{Count, Limits};
use super::outstanding::{Due, Outstanding};
use super::own::Own;
use super::{Aftermath, BareNewline, Finished, Opening, Settings, Tls, Trace};
use crate::smtp::auth::Exchange;
use crate::smtp::data::{Scanner, Then};
use crate::smtp::ehlo::{Keyword, Keywords};

/// What to do with the front of the bytes that have come from one side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// The first so many bytes (at least one) go to the other side, unchanged.
    Pass(usize),
    /// The first `take` bytes (possibly none) go to the other side as `with` (possibly nothing).
    Replace {
        /// How many bytes.
        take: usize,
        /// What goes on in their place.
        with: Cow<'static, [u8]>,
    },
    /// The first `take` bytes go nowhere, and the side that they came from is told `with`. Said of the client's bytes only.
    Answer {
        /// How many bytes.
        take: usize,
        /// gatepost's own reply.
        with: &'static [u8],
    },
    /// The first so many bytes go nowhere. Their answer comes in its turn.
    Drop(usize),
    /// More bytes are needed from this side.
    Wait,
    /// Nothing of this side can be used before something has come from the other.
    Hold,
    /// An AUTH command is at the front: it goes on, or does not, as [`Machine::may_try`] is told. Said of the client's bytes
    /// only, again and again.
    AskLeave,
    /// Once all that was said to the client has reached it, its side is to become a TLS connection: then
    /// [`Machine::tls_begun`]. Nothing more of it is to be read before. Said of the client's bytes only.
    StartTls,
    /// It is over. What has been said to the client by now is still to reach it; the backend is to get nothing more.
    Close(End),
}

/// Follows one dialogue.
#[derive(Debug)]
pub struct Machine {
    auth: bool,
    tls: Tls,
    /// What is told on top of each message, if anything is.
    trace: Option<Box<Trace>>,
    /// How far that is with the message that has begun.
    field: Field,
    newline: BareNewline,
    max_errors: u32,
    limits: Limits,
    count: Count,
    /// What the client's bytes are.
    client: Client,
    /// Whose turn it is to answer.
    outstanding: Outstanding,
    /// What the client was told in its last EHLO reply.
    offered: Keywords,
    /// Whether a MAIL has been accepted.
    transaction: bool,
    /// Whether an AUTH has succeeded.
    authenticated: bool,
    /// Whether TLS has begun since the client last said EHLO or HELO.
    hello_due: bool,
    /// The AUTH exchange that is under way.
    exchange: Option<Exchange>,
    /// How many lines of it have come from the client.
    auth_lines: u32,
    /// Whether the last of them was `*`.
    cancelled: bool,
    /// An exchange that is over, until somebody takes it.
    finished: Option<Finished>,
    /// What stands behind bytes just passed on.
    pending: Option<Then>,
    /// How it will end, once all is answered.
    leaving: Option<End>,
    /// How it has ended.
    ended: Option<End>,
    /// Whether it is to end where that hurts nobody.
    draining: bool,
    event: Option<Event>,
    tally: Tally,
    /// See [`Machine::acts`].
    acts: Acts,
}

/// What the client's bytes are.
#[derive(Debug)]
enum Client {
    Commands,
    /// Nothing, until a reply has come.
    Held,
    /// An AUTH command, which has been counted.
    Asking(Leave),
    /// A line of an AUTH exchange.
    Continuation,
    Data(Scanner),
    /// So many bytes of a chunk, never none.
    Chunk(u64),
    /// Nothing any more: only answers are still to come.
    Ignored,
    /// The first bytes of a TLS handshake.
    BeforeTls,
    /// Nothing, until its side has become a TLS connection.
    Upgrading,
    Opaque,
}

/// Whether an AUTH command may go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leave {
    Asked,
    Granted,
    Refused,
}

/// The header field on top of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    /// Still to be said.
    Due,
    /// Said; a first line of the client's that begins with a blank would continue it.
    Open,
    /// Not to be said, or nothing can get into it any more.
    Closed,
}

/// How many acts each side has completed. A wait for a side's next act begins anew when its number has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Acts {
    /// Commands, AUTH lines, messages and chunks of the client.
    pub client: u64,
    /// Replies of the backend.
    pub backend: u64,
}

impl Machine {
    /// Takes over where `opening` says, and TLS is the backend's.
    pub fn new(settings: &Settings, opening: Opening) -> Self {
        Self::with_tls(settings, opening, Tls::EndToEnd)
    }

    /// Takes over where `opening` says, and TLS with the client ends where `tls` says.
    pub fn with_tls(settings: &Settings, opening: Opening, tls: Tls) -> Self {
        Self::traced(settings, opening, tls, None)
    }

    /// Likewise, and what `trace` has to tell goes on top of each message.
    pub fn traced(settings: &Settings, opening: Opening, tls: Tls, trace: Option<Trace>) -> Self {
        let mut machine = Self {
            auth: settings.auth,
            tls,
            trace: trace.map(Box::new),
            field: Field::Closed,
            newline: settings.bare_newline,
            max_errors: settings.max_errors,
            limits: settings.limits,
            count: Count::default(),
            client: Client::Commands,
            outstanding: Outstanding::new(),
            offered: Keywords::NONE,
            transaction: false,
            authenticated: false,
            hello_due: false,
            exchange: None,
            auth_lines: 0,
            cancelled: false,
            finished: None,
            pending: None,
            leaving: None,
            ended: None,
            draining: false,
            event: None,
            tally: Tally::default(),
            acts: Acts::default(),
        };
        match opening {
            Opening::Greeting => machine.hold_for(Due::Greeting),
            Opening::Dialogue { offered, transaction } => {
                machine.offered = machine.usable(offered);
                machine.transaction = transaction;
            }
        }
        machine
    }

    /// Withholds AUTH from this client, even if the settings offer it. Said before anything else.
    pub fn withhold_auth(&mut self) {
        self.auth = false;
        self.offered = self.usable(self.offered);
    }

    /// Answers [`Step::AskLeave`].
    pub fn may_try(&mut self, yes: bool) {
        if matches!(self.client, Client::Asking(_)) {
            self.client = Client::Asking(if yes { Leave::Granted } else { Leave::Refused });
        }
    }

    /// Takes the AUTH exchange that the last step has finished, if it has. [`Machine::settle`] is to follow.
    pub fn take_finished(&mut self) -> Option<Finished> {
        self.finished.take()
    }

    /// What follows from an exchange that is over, apart from the delay, which is the driver's to keep.
    pub fn settle(&mut self, aftermath: Aftermath) {
        if aftermath.over {
            self.end_by_auth();
        }
    }

    /// The AUTH attempt that was let go and is not finished, if there is one: it never will be, for the relay has come to
    /// `end`, or to none at all.
    pub fn break_off(&mut self, end: Option<End>) -> Option<Finished> {
        let granted = matches!(self.client, Client::Asking(Leave::Granted));
        let exchange = self.exchange.take();
        if granted {
            self.client = Client::Ignored;
        }
        if let Some(finished) = self.finished.take() {
            return Some(finished);
        }
        let complete = exchange.as_ref().is_some_and(Exchange::is_complete);
        let abandoned = complete && end.is_some_and(End::is_the_clients);
        (granted || exchange.is_some()).then(|| Finished {
            outcome: if abandoned { AuthOutcome::Abandoned } else { AuthOutcome::Undecided },
            code: None,
            account: exchange.and_then(Exchange::into_account),
            complete,
            tls: self.tls == Tls::Begun,
        })
    }

    /// Takes what has happened in the last step, if anything has.
    pub fn take_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// What has been counted so far. The bytes each way are for the driver to fill in.
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally;
        if let Client::Data(scanner) = &self.client {
            add(&mut tally, scanner);
        }
        tally
    }

    /// Whether everything goes on unseen, in both directions. What each side closes is then closed at the other.
    pub fn is_opaque(&self) -> bool {
        matches!(self.client, Client::Opaque)
    }

    /// How many bytes of a chunk are still to come from the client, where nothing else can come before them. They go on as
    /// they are, so that they need not be shown: say [`Machine::chunk_moved`] of those that are not.
    pub fn chunk_left(&self) -> Option<u64> {
        match self.client {
            Client::Chunk(left) if self.ended.is_none() && self.pending.is_none() => Some(left),
            _ => None,
        }
    }

    /// So many bytes of a chunk, no more than are left, have gone on without being shown.
    pub fn chunk_moved(&mut self, count: u64) {
        if let Client::Chunk(left) = self.client {
            self.chunk_is_left(left.saturating_sub(count));
        }
    }

    /// Whether the client's side is to become a TLS connection: nothing is to be read from it before.
    pub fn is_upgrading(&self) -> bool {
        matches!(self.client, Client::Upgrading)
    }

    /// The client's side has become a TLS connection. What it said in the clear, and what it was told, is forgotten; what
    /// the backend has said since its last answer may be, too.
    pub fn tls_begun(&mut self) {
        self.tls = Tls::Begun;
        self.client = Client::Commands;
        self.offered = Keywords::NONE;
        self.hello_due = true;
        self.cancelled = false;
        if let Some(trace) = &mut self.trace {
            trace.forget();
        }
        self.acts.client += 1;
    }

    /// Ends it because there is no backend for what the client would say under TLS. Returns what it is to be told.
    pub fn no_backend(&mut self) -> &'static [u8] {
        self.ended.get_or_insert(End::NoBackend);
        Own::BackendTrouble.bytes()
    }

    /// Asks for an end as soon as no command is unanswered and no transaction under way. Has no effect on TLS.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// How many acts each side has completed.
    pub fn acts(&self) -> Acts {
        self.acts
    }

    /// How many messages the backend has taken.
    pub fn messages(&self) -> u64 {
        self.tally.messages
    }

    /// What the client is waited for: [`Wait::Command`] or [`Wait::Data`], if it is waited for.
    pub fn client_wait(&self) -> Option<Wait> {
        match self.client {
            _ if self.ended.is_some() => None,
            Client::Data(_) | Client::Chunk(_) => Some(Wait::Data),
            Client::Continuation | Client::BeforeTls => Some(Wait::Command),
            Client::Commands | Client::Asking(_) if self.outstanding.is_empty() => Some(Wait::Command),
            Client::Commands
            | Client::Asking(_)
            | Client::Held
            | Client::Ignored
            | Client::Opaque
            | Client::Upgrading => None,
        }
    }

    /// What the backend is waited for: [`Wait::Reply`] or [`Wait::EndOfData`], if it is waited for.
    pub fn backend_wait(&self) -> Option<Wait> {
        match self.outstanding.first() {
            _ if self.ended.is_some() || self.in_chunk_of_first() => None,
            Some(Due::EndOfData | Due::LastChunk) => Some(Wait::EndOfData),
            None | Some(Due::Own(_) | Due::BeginTls) => None,
            Some(_) => Some(Wait::Reply),
        }
    }

    /// Ends it because `wait` has taken too long. Returns what the client is to be told, possibly nothing.
    pub fn time_out(&mut self, wait: Wait) -> &'static [u8] {
        self.ended.get_or_insert(End::TimedOut(wait));
        match wait {
            _ if !self.client_can_read() => b"",
            Wait::ClientWrite | Wait::Idle => b"",
            Wait::Command | Wait::Data | Wait::DataRate | Wait::Envelope => Own::TooSlow.bytes(),
            Wait::Reply | Wait::EndOfData | Wait::BackendWrite => Own::BackendTrouble.bytes(),
        }
    }

    /// What of `offered` clients can be offered.
    fn usable(&self, offered: Keywords) -> Keywords {
        let offered = if self.auth { offered } else { offered.without(Keyword::Auth) };
        match self.trace {
            Some(_) => offered.without(Keyword::Chunking).without(Keyword::BinaryMime),
            None => offered,
        }
    }

    /// How it has ended, if it has.
    fn over(&mut self) -> Option<End> {
        if self.ended.is_none() && self.outstanding.is_empty() && self.pending.is_none() {
            self.ended = self.leaving;
        }
        self.ended
    }

    /// Whether this is a place to end at when draining: nothing unanswered, nothing begun.
    fn is_at_rest(&self) -> bool {
        matches!(self.client, Client::Commands | Client::Asking(Leave::Asked))
            && self.outstanding.is_empty()
            && self.pending.is_none()
            && self.leaving.is_none()
            && !self.transaction
    }

    /// Whether a reply would be read as one by the client.
    fn client_can_read(&self) -> bool {
        !matches!(self.client, Client::BeforeTls | Client::Opaque | Client::Upgrading)
    }

    /// Whether the oldest answer that is due is that to a chunk which has not wholly come.
    fn in_chunk_of_first(&self) -> bool {
        matches!(self.client, Client::Chunk(_)) && self.outstanding.len() == 1
    }

    /// Reads nothing more of the client before its answer has come.
    fn hold_for(&mut self, due: Due) {
        self.outstanding.push(due);
        self.client = Client::Held;
    }

    /// The answer that was waited for has come: the client's bytes are commands again.
    fn release(&mut self) {
        if matches!(self.client, Client::Held) {
            self.client = Client::Commands;
        }
    }

    /// Reads nothing more of the client, and says so when all is answered.
    fn end_by_auth(&mut self) {
        if self.ended.is_none() && self.leaving.is_none() {
            self.client = Client::Ignored;
            self.leaving = Some(End::ProtocolFault(ProtocolFault::AuthFailures));
            self.outstanding.push(Due::Own(Own::AuthFailures));
        }
    }

    /// The mail data is over, one way or another.
    fn leave_data(&mut self, next: Client) {
        if let Client::Data(scanner) = std::mem::replace(&mut self.client, next) {
            add(&mut self.tally, &scanner);
        }
    }

    /// The backend cannot be believed any more.
    fn fault(&mut self, fault: BackendFault) -> Step {
        self.give_up(End::BackendFault(fault))
    }

    /// Ends it at once because of the backend, with a 421 for the client where it can read one.
    fn give_up(&mut self, end: End) -> Step {
        self.ended = Some(end);
        if self.client_can_read() {
            Step::Replace { take: 0, with: Cow::Borrowed(Own::BackendTrouble.bytes()) }
        } else {
            Step::Close(end)
        }
    }
}

fn add(tally: &mut Tally, scanner: &Scanner) {
    let facts = scanner.facts();
    tally.mail_data.bare_lf += facts.bare_lf;
    tally.mail_data.bare_cr += facts.bare_cr;
    tally.mail_data.nul += facts.nul;
    tally.mail_data.bytes += facts.bytes;
}
