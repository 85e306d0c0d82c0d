//! The backend's side of the machine: whose answer its reply is, and what that changes.

use std::borrow::Cow;

use super::{Client, Field, Machine, Step};
use crate::relay::ending::{AuthOutcome, BackendFault, End, Event, ProtocolFault, Refusal};
use crate::relay::outstanding::Due;
use crate::relay::own::Own;
use crate::relay::{Finished, Tls};
use crate::smtp::auth::Exchange;
use crate::smtp::data::Scanner;
use crate::smtp::ehlo::{Keywords, Offer};
use crate::smtp::reply::{self, Code, Enhanced, Parsed, Reply};

/// The backend closes the connection (RFC 5321 §3.8).
const CLOSING: u16 = 421;

impl Machine {
    /// What to do with the front of `input`, all bytes that have come from the backend and have not been dealt with.
    /// `eof`: none will follow. `client_waiting`: there are bytes of the client that have not been dealt with.
    pub fn backend_step(&mut self, input: &[u8], eof: bool, client_waiting: bool) -> Step {
        if let Some(end) = self.over() {
            return Step::Close(end);
        }
        if let Some(Due::Own(own)) = self.outstanding.first() {
            self.outstanding.pop();
            return say(own);
        }
        if self.outstanding.first() == Some(Due::BeginTls) {
            self.outstanding.pop();
            return self.begin_tls(client_waiting);
        }
        match self.client {
            Client::Opaque if input.is_empty() => return Step::Wait,
            Client::Opaque => return Step::Pass(input.len()),
            // Behind our 220, the client would read it as part of the handshake.
            Client::Upgrading => return Step::Hold,
            Client::BeforeTls if !input.is_empty() => return self.fault(BackendFault::BehindStartTls),
            _ if self.draining && self.is_at_rest() => {
                self.ended = Some(End::Shutdown);
                return say(Own::GoingDown);
            }
            _ => {}
        }
        match reply::parse(input) {
            Parsed::Complete(reply) => self.reply(reply, input, client_waiting),
            Parsed::Malformed => self.fault(BackendFault::Malformed),
            Parsed::Incomplete if eof => self.backend_gone(),
            Parsed::Incomplete => Step::Wait,
        }
    }

    fn reply(&mut self, reply: Reply<'_>, input: &[u8], client_waiting: bool) -> Step {
        let code = reply.code;
        self.acts.backend += 1;
        let early = self.in_chunk_of_first() || matches!(self.client, Client::Data(_));
        let Some(due) = self.outstanding.pop() else {
            return match code.number() {
                CLOSING => self.refused(&reply),
                _ if early => self.fault(BackendFault::Early),
                _ => self.fault(BackendFault::Unsolicited),
            };
        };
        if due == Due::Quit {
            self.ended = Some(End::Quit);
            return pass(&reply);
        }
        if early && code.number() != CLOSING {
            return self.fault(BackendFault::Early);
        }
        if !due.allows(code) {
            return self.fault(BackendFault::Unexpected(code));
        }
        let step = match due {
            Due::Greeting if !code.is_positive() => return self.refused(&reply),
            Due::Greeting => {
                self.release();
                pass(&reply)
            }
            Due::Ehlo | Due::Helo => self.hello(due, &reply),
            Due::Data => self.data(&reply, client_waiting),
            Due::Auth => self.auth(&reply),
            Due::StartTls => self.start_tls(&reply, input, client_waiting),
            Due::Mail | Due::Rcpt | Due::Rset | Due::EndOfData | Due::LastChunk | Due::Chunk => {
                self.transaction(due, &reply);
                pass(&reply)
            }
            Due::Quit | Due::Other | Due::Own(_) | Due::BeginTls => pass(&reply),
        };
        if code.number() == CLOSING {
            self.ended.get_or_insert(End::BackendRefused(code));
        }
        step
    }

    fn hello(&mut self, due: Due, reply: &Reply<'_>) -> Step {
        self.release();
        if !reply.code.is_positive() {
            return pass(reply);
        }
        self.transaction = false;
        self.hello_due = false;
        self.offered = Keywords::NONE;
        if let Some(trace) = &mut self.trace {
            trace.accepted();
        }
        if due == Due::Helo {
            return pass(reply);
        }
        let offer = self.tls.shown(Offer::read(reply));
        self.offered = self.usable(offer.keywords);
        let mut out = Vec::with_capacity(reply.raw.len());
        offer.write(&mut out, reply.lines().next().unwrap_or_default(), self.offered);
        Step::Replace { take: reply.raw.len(), with: Cow::Owned(out) }
    }

    fn transaction(&mut self, due: Due, reply: &Reply<'_>) {
        let accepted = reply.code.is_positive();
        let refusal = Refusal::read(reply);
        match due {
            Due::Mail if accepted => self.transaction = true,
            Due::Rset if accepted => self.transaction = false,
            Due::Rcpt if accepted => {
                self.tally.recipients_accepted += 1;
                self.event = Some(Event::RecipientAccepted);
            }
            Due::Rcpt => {
                self.tally.recipients_refused += 1;
                self.event = refusal.map(Event::RecipientRefused);
            }
            Due::EndOfData | Due::LastChunk => {
                self.transaction = false;
                if accepted {
                    self.tally.messages += 1;
                    self.count.message_taken();
                    self.event = Some(Event::MessageAccepted);
                }
            }
            _ => {}
        }
        if due != Due::Rset {
            self.tally.last_refusal = refusal.or(self.tally.last_refusal);
        }
    }

    fn data(&mut self, reply: &Reply<'_>, client_waiting: bool) -> Step {
        if reply.code.is_intermediate() {
            self.client = Client::Data(Scanner::new(self.newline));
            self.field = if self.trace.is_some() { Field::Due } else { Field::Closed };
            return pass(reply);
        }
        self.tally.last_refusal = Refusal::read(reply).or(self.tally.last_refusal);
        if client_waiting {
            // Are these commands, or a message sent in the belief that DATA would be accepted? Nobody can know.
            self.client = Client::Ignored;
            self.leaving = Some(End::ProtocolFault(ProtocolFault::BehindData));
            self.outstanding.push(Due::Own(Own::BehindData));
        } else {
            self.release();
        }
        pass(reply)
    }

    fn auth(&mut self, reply: &Reply<'_>) -> Step {
        let code = reply.code;
        if code.is_intermediate() {
            self.client = Client::Continuation;
            if let Some(exchange) = &mut self.exchange {
                exchange.challenge(reply.lines().next().unwrap_or_default());
            }
            return pass(reply);
        }
        let exchange = self.exchange.take();
        let doubted = exchange.as_ref().is_some_and(Exchange::is_doubted);
        let outcome = match code.number() {
            _ if code.is_positive() => AuthOutcome::Succeeded,
            _ if doubted && code.is_permanent() => AuthOutcome::Failed,
            _ if self.cancelled => AuthOutcome::Undecided,
            535 => AuthOutcome::Failed,
            // IceWarp's word for it in its older versions; of an exchange that it could not read, it says 5.5.4.
            501 if reply.enhanced() == Some(Enhanced(5, 7, 0)) => AuthOutcome::Failed,
            _ => AuthOutcome::Undecided,
        };
        match outcome {
            AuthOutcome::Succeeded => {
                self.authenticated = true;
                self.tally.auth_successes += 1;
            }
            AuthOutcome::Failed => self.tally.auth_failures += 1,
            AuthOutcome::Undecided | AuthOutcome::Abandoned => {}
        }
        self.event = Some(Event::AuthFinished { code, outcome });
        self.finished = Some(Finished {
            outcome,
            code: Some(code),
            complete: exchange.as_ref().is_some_and(Exchange::is_complete),
            account: exchange.and_then(Exchange::into_account),
            tls: self.tls == Tls::Begun,
        });
        self.release();
        if outcome == AuthOutcome::Failed && self.tally.auth_failures == self.limits.auth_failures {
            self.end_by_auth();
        }
        pass(reply)
    }

    fn start_tls(&mut self, reply: &Reply<'_>, input: &[u8], client_waiting: bool) -> Step {
        if client_waiting {
            self.ended = Some(End::ProtocolFault(ProtocolFault::BehindStartTls));
            return Step::Replace { take: reply.raw.len(), with: Cow::Borrowed(Own::BehindStartTls.bytes()) };
        }
        if !reply.code.is_positive() {
            self.release();
            return pass(reply);
        }
        if input.len() > reply.raw.len() {
            return self.fault(BackendFault::BehindStartTls);
        }
        self.client = Client::BeforeTls;
        pass(reply)
    }

    /// All before the client's STARTTLS is answered: now it is that one's turn.
    fn begin_tls(&mut self, client_waiting: bool) -> Step {
        if client_waiting {
            // Said in the clear, to be read as if it had been said under TLS (CVE-2011-0411).
            self.ended = Some(End::ProtocolFault(ProtocolFault::BehindStartTls));
            return say(Own::BehindStartTls);
        }
        self.client = Client::Upgrading;
        say(Own::BeginTls)
    }

    /// Passes on a reply by which the backend takes its leave.
    fn refused(&mut self, reply: &Reply<'_>) -> Step {
        self.ended = Some(End::BackendRefused(reply.code));
        pass(reply)
    }

    fn backend_gone(&mut self) -> Step {
        // Some hang up on QUIT without a word.
        if self.outstanding.first() == Some(Due::Quit) {
            self.ended = Some(End::Quit);
            return Step::Close(End::Quit);
        }
        self.give_up(End::BackendEof)
    }
}

impl Due {
    /// Whether the backend may answer so (RFC 5321 §4.3.2, RFC 4954 §4, RFC 3207 §4).
    fn allows(self, code: Code) -> bool {
        match self {
            _ if code.is_transient() || code.is_permanent() => true,
            Self::Greeting | Self::StartTls => code.number() == 220,
            Self::Data => code.number() == 354,
            Self::Auth => code.is_positive() || code.number() == 334,
            _ => code.is_positive(),
        }
    }
}

/// The reply as it came, its lines ended by CRLF.
fn pass(reply: &Reply<'_>) -> Step {
    if reply.is_canonical() {
        return Step::Pass(reply.raw.len());
    }
    let mut out = Vec::with_capacity(reply.raw.len() + 16);
    reply.write_to(&mut out);
    Step::Replace { take: reply.raw.len(), with: Cow::Owned(out) }
}

fn say(own: Own) -> Step {
    Step::Replace { take: 0, with: Cow::Borrowed(own.bytes()) }
}
