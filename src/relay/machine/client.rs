//! The client's side of the machine: which of its bytes go on, and as what.

use std::borrow::Cow;

use super::{Client, Field, Leave, Machine, Step};
use crate::relay::ending::{End, Event, ProtocolFault};
use crate::relay::limits::Excess;
use crate::relay::outstanding::Due;
use crate::relay::own::Own;
use crate::relay::tls::Tls;
use crate::smtp::auth::{Exchange, Start};
use crate::smtp::command::{Chunk, Command, Malformed, Verb};
use crate::smtp::data::Then;
use crate::smtp::ehlo::Keyword;
use crate::smtp::line::{self, AUTH_LIMIT, COMMAND_LIMIT, Line, Scan};

const CRLF: &[u8] = b"\r\n";

impl Machine {
    /// What to do with the front of `input`, all bytes that have come from the client and have not been dealt with.
    /// `eof`: none will follow.
    pub fn client_step(&mut self, input: &[u8], eof: bool) -> Step {
        if let Some(end) = self.over() {
            return Step::Close(end);
        }
        if let Some(then) = self.pending.take() {
            return self.follow(then);
        }
        match self.client {
            Client::Held | Client::Ignored => Step::Hold,
            Client::Commands if self.outstanding.is_full() => Step::Hold,
            Client::Commands if self.draining && self.is_at_rest() => Step::Hold,
            Client::Commands => self.command_line(input, eof),
            Client::Asking(leave) => self.attempt(leave, input, eof),
            Client::Continuation => self.continuation(input, eof),
            Client::Data(_) if self.field == Field::Due => self.field(),
            Client::Data(_) if self.field == Field::Open && !input.is_empty() => self.close_field(input, eof),
            Client::Data(_) => self.mail_data(input, eof),
            Client::Chunk(left) => self.chunk(left, input, eof),
            Client::BeforeTls if input.is_empty() => self.wait(eof),
            Client::BeforeTls => {
                self.client = Client::Opaque;
                self.event = Some(Event::Opaque);
                Step::Pass(input.len())
            }
            Client::Upgrading => Step::StartTls,
            Client::Opaque if input.is_empty() => Step::Wait,
            Client::Opaque => Step::Pass(input.len()),
        }
    }

    fn command_line(&mut self, input: &[u8], eof: bool) -> Step {
        match line::scan(input, command_limit(input)) {
            Scan::Line(line) => {
                self.acts.client += 1;
                self.tally.bare_lf_commands += u32::from(line.facts.bare_lf);
                self.command(line, input)
            }
            Scan::TooLong => self.leave(input.len(), Own::LineTooLong, ProtocolFault::LineTooLong),
            Scan::Incomplete if eof => {
                // Half a command was never given. All others are answered before this ends.
                self.client = Client::Ignored;
                self.leaving = Some(End::ClientEof);
                self.over().map_or(Step::Hold, Step::Close)
            }
            Scan::Incomplete => Step::Wait,
        }
    }

    fn command(&mut self, line: Line<'_>, input: &[u8]) -> Step {
        if line.facts.bare_cr || line.facts.nul {
            // A backend may take either for the end of the line.
            return self.refuse(line.length, Own::ControlBytes);
        }
        let command = Command::parse(line.text);
        if let Some(step) = self.excess(command.verb(), line) {
            return step;
        }
        let due = match command.verb() {
            verb if self.hello_due && !needs_no_hello(verb) => return self.hello_first(verb, line),
            Verb::Unknown | Verb::Xclient | Verb::Xforward => return self.refuse(line.length, Own::UnknownCommand),
            Verb::Bdat => return self.bdat(line, command),
            Verb::Mail | Verb::Rcpt if let Some(own) = self.bars_envelope(&command) => {
                return self.refuse(line.length, own);
            }
            Verb::Auth if !self.auth => {
                self.tally.auth_not_offered += 1;
                self.event = Some(Event::AuthNotOffered);
                return self.refuse(line.length, Own::AuthNotOffered);
            }
            Verb::Auth if self.tls.bars_auth() => return self.refuse(line.length, Own::AuthNeedsTls),
            Verb::StartTls => {
                if let Some(own) = self.bars_start_tls() {
                    return self.refuse(line.length, own);
                }
                if self.tls.is_offered() && !matches!(command, Command::StartTls) {
                    return self.refuse(line.length, Own::StartTlsSyntax);
                }
                if input.len() > line.length {
                    return self.leave(input.len(), Own::BehindStartTls, ProtocolFault::BehindStartTls);
                }
                if self.tls.is_offered() {
                    self.hold_for(Due::BeginTls);
                    return Step::Drop(line.length);
                }
                Due::StartTls
            }
            Verb::Auth => {
                self.client = Client::Asking(Leave::Asked);
                return Step::AskLeave;
            }
            Verb::Helo => Due::Helo,
            Verb::Ehlo => Due::Ehlo,
            Verb::Data => Due::Data,
            Verb::Mail => Due::Mail,
            Verb::Rcpt => Due::Rcpt,
            Verb::Rset => Due::Rset,
            Verb::Quit => Due::Quit,
            Verb::Noop | Verb::Vrfy | Verb::Expn | Verb::Help | Verb::Etrn => Due::Other,
        };
        if let (Some(trace), Command::Helo { name } | Command::Ehlo { name }) = (&mut self.trace, command) {
            trace.asked(due == Due::Ehlo, name);
        }
        match due {
            // Their answers decide what the bytes behind them are.
            Due::Helo | Due::Ehlo | Due::Data | Due::StartTls => self.hold_for(due),
            Due::Quit => {
                self.outstanding.push(due);
                self.client = Client::Ignored;
                self.leaving = Some(End::Quit);
            }
            _ => self.outstanding.push(due),
        }
        self.pass_line(line)
    }

    /// An AUTH command that nothing stands against but that it may not be tried.
    fn attempt(&mut self, leave: Leave, input: &[u8], eof: bool) -> Step {
        let Scan::Line(line) = line::scan(input, AUTH_LIMIT) else { return self.wait(eof) };
        match leave {
            Leave::Asked if eof => {
                // Who does not stay to hear need not be let in.
                self.client = Client::Ignored;
                self.leaving = Some(End::ClientEof);
                self.over().map_or(Step::Hold, Step::Close)
            }
            Leave::Asked => Step::AskLeave,
            Leave::Refused => self.leave(line.length, Own::AuthRefused, ProtocolFault::AuthRefused),
            Leave::Granted => {
                let start = match Command::parse(line.text) {
                    Command::Auth(start) => start,
                    _ => Start::guess(line.text),
                };
                self.exchange = Some(Exchange::begin(start));
                self.auth_lines = 0;
                self.cancelled = false;
                self.hold_for(Due::Auth);
                self.pass_line(line)
            }
        }
    }

    /// Counts a command, and answers it if it is one too many.
    fn excess(&mut self, verb: Verb, line: Line<'_>) -> Option<Step> {
        let nested = verb == Verb::Mail && (self.transaction || self.outstanding.contains(Due::Mail));
        Some(match self.count.command(verb, nested, &self.limits)? {
            Excess::Recipient => self.answer(line.length, Own::TooManyRecipients),
            Excess::Recipients => self.refuse(line.length, Own::TooManyRecipients),
            Excess::Commands(own) => self.leave(line.length, own, ProtocolFault::TooManyCommands),
        })
    }

    /// Why MAIL or RCPT cannot be passed on, if it cannot. A parameter whose keyword the client was not told is no word of
    /// this dialogue: the backend may take it for one of its own (Exchange's XSHADOW and XMESSAGECONTEXT are for servers
    /// that trust each other), or as a promise that it cannot keep here. Where no path can be read, nobody knows what the
    /// parameters are.
    fn bars_envelope(&self, command: &Command<'_>) -> Option<Own> {
        match command {
            Command::Mail(envelope) | Command::Rcpt(envelope) => {
                let of = |(keyword, value)| Keyword::of_parameter(keyword, value);
                let fine = |keyword: Keyword| self.offered.has(keyword) || keyword.is_mere_notice();
                let known = envelope.parameters().map(of).all(|keyword| keyword.is_some_and(fine));
                (!known).then_some(Own::UnknownParameter)
            }
            Command::Malformed { reason: Malformed::Path | Malformed::Parameter, .. } => Some(Own::EnvelopeSyntax),
            _ => None,
        }
    }

    /// Why STARTTLS cannot be passed on, if it cannot.
    fn bars_start_tls(&self) -> Option<Own> {
        if self.tls == Tls::Begun {
            Some(Own::StartTlsTwice)
        } else if !self.offered.has(Keyword::StartTls) {
            Some(Own::StartTlsNotOffered)
        } else if self.authenticated && self.tls.is_offered() {
            // What it authenticated in the clear must not count under TLS, and it may believe that it would.
            Some(Own::StartTlsAfterAuth)
        } else if self.transaction || self.outstanding.contains(Due::Mail) {
            Some(Own::StartTlsOutOfPlace)
        } else {
            None
        }
    }

    /// TLS has begun, and the client goes on as if nothing had happened.
    fn hello_first(&mut self, verb: Verb, line: Line<'_>) -> Step {
        match verb {
            // What follows could be mail data, or a chunk.
            Verb::Data | Verb::Bdat => self.leave(line.length, Own::HelloFirst, ProtocolFault::NoHello),
            _ => self.refuse(line.length, Own::HelloFirst),
        }
    }

    /// BDAT goes on in one spelling only, so that no backend can read another number out of it.
    fn bdat(&mut self, line: Line<'_>, command: Command<'_>) -> Step {
        if !self.offered.has(Keyword::Chunking) {
            // The backend would take the chunk for commands.
            return self.leave(line.length, Own::ChunkingNotOffered, ProtocolFault::Chunk);
        }
        let Command::Bdat(chunk @ Chunk { size, last }) = command else {
            return self.leave(line.length, Own::ChunkSize, ProtocolFault::Chunk);
        };
        self.outstanding.push(if last { Due::LastChunk } else { Due::Chunk });
        if last {
            self.count.transaction_over();
        }
        if size > 0 {
            self.client = Client::Chunk(size);
        }
        if chunk.is_written_as(line.text) {
            self.pass_line(line)
        } else {
            Step::Replace { take: line.length, with: Cow::Owned(format!("{chunk}\r\n").into_bytes()) }
        }
    }

    fn chunk(&mut self, left: u64, input: &[u8], eof: bool) -> Step {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        if here == 0 {
            return self.wait(eof);
        }
        self.chunk_is_left(left - here as u64);
        Step::Pass(here)
    }

    pub(super) fn chunk_is_left(&mut self, left: u64) {
        self.client = if left > 0 { Client::Chunk(left) } else { Client::Commands };
        self.acts.client += u64::from(left == 0);
    }

    /// What goes before the client's first byte of mail data.
    fn field(&mut self) -> Step {
        self.field = Field::Open;
        let (tls, authenticated) = (self.tls == Tls::Begun, self.authenticated);
        let field = self.trace.as_mut().map(|trace| trace.field(tls, authenticated)).unwrap_or_default();
        self.tally.header_fields += field.len() as u64;
        Step::Replace { take: 0, with: Cow::Owned(field) }
    }

    /// Keeps the client's first line of mail data out of the field before it.
    fn close_field(&mut self, input: &[u8], eof: bool) -> Step {
        let continues = match input {
            [b'\r'] => return self.wait(eof),
            // A bare CR and a NUL go on as blanks.
            [b'\r', behind, ..] => *behind != b'\n',
            [first, ..] => matches!(first, b' ' | b'\t' | 0),
            [] => false,
        };
        self.field = Field::Closed;
        if !continues {
            return self.mail_data(input, eof);
        }
        self.tally.header_fields += CRLF.len() as u64;
        Step::Replace { take: 0, with: Cow::Borrowed(CRLF) }
    }

    fn mail_data(&mut self, input: &[u8], eof: bool) -> Step {
        let Client::Data(scanner) = &mut self.client else { return Step::Hold };
        if input.is_empty() {
            return self.wait(eof);
        }
        if scanner.facts().bytes == 0 && is_begun_dot_line(input) {
            return self.wait(eof);
        }
        let run = scanner.step(input);
        match run.then {
            then if run.pass == 0 => return self.follow(then),
            Then::More => {}
            Then::End { take: 0, .. } => self.end_of_data(),
            then => self.pending = Some(then),
        }
        Step::Pass(run.pass)
    }

    /// What stands behind bytes that have just been passed on.
    fn follow(&mut self, then: Then) -> Step {
        match then {
            Then::More => Step::Wait,
            Then::Replace { take, with } => Step::Replace { take, with: Cow::Borrowed(with) },
            Then::End { take, with } => {
                self.end_of_data();
                Step::Replace { take, with: Cow::Borrowed(with) }
            }
            Then::Refused => {
                self.leave_data(Client::Ignored);
                self.leave(0, Own::BareLf, ProtocolFault::BareLf)
            }
        }
    }

    fn end_of_data(&mut self) {
        self.acts.client += 1;
        self.leave_data(Client::Commands);
        self.count.transaction_over();
        self.outstanding.push(Due::EndOfData);
    }

    fn continuation(&mut self, input: &[u8], eof: bool) -> Step {
        match line::scan(input, AUTH_LIMIT) {
            Scan::Incomplete => self.wait(eof),
            Scan::TooLong => self.leave(input.len(), Own::AuthLineTooLong, ProtocolFault::AuthLine),
            Scan::Line(line) if line.facts.bare_cr || line.facts.nul => {
                self.leave(line.length, Own::AuthLine, ProtocolFault::AuthLine)
            }
            Scan::Line(line) if self.auth_lines >= self.limits.auth_lines => {
                self.leave(line.length, Own::AuthLines, ProtocolFault::AuthLines)
            }
            Scan::Line(line) => {
                self.acts.client += 1;
                self.auth_lines += 1;
                if let Some(exchange) = &mut self.exchange {
                    exchange.client_line(line.text);
                }
                self.cancelled = line.text.trim_ascii() == b"*";
                self.hold_for(Due::Auth);
                self.pass_line(line)
            }
        }
    }

    /// The rest of what has begun is missing. If it will never come, nothing half done must stand at the backend.
    fn wait(&mut self, eof: bool) -> Step {
        if !eof {
            return Step::Wait;
        }
        self.ended = Some(End::ClientReset);
        Step::Close(End::ClientReset)
    }

    /// Passes a line on, ended by CRLF.
    fn pass_line(&mut self, line: Line<'_>) -> Step {
        let fix = Then::Replace { take: 1, with: CRLF };
        match (line.facts.bare_lf, line.text.len()) {
            (false, _) => Step::Pass(line.length),
            (true, 0) => self.follow(fix),
            (true, text) => {
                self.pending = Some(fix);
                Step::Pass(text)
            }
        }
    }

    /// A command that gatepost refuses itself.
    fn refuse(&mut self, take: usize, own: Own) -> Step {
        self.tally.errors += 1;
        if self.tally.errors > self.max_errors {
            return self.leave(take, Own::TooManyErrors, ProtocolFault::TooManyErrors);
        }
        self.answer(take, own)
    }

    /// Says a last word in its turn, and ends.
    fn leave(&mut self, take: usize, own: Own, fault: ProtocolFault) -> Step {
        self.client = Client::Ignored;
        self.leaving = Some(End::ProtocolFault(fault));
        self.answer(take, own)
    }

    /// Says `own` when all before it has been answered.
    fn answer(&mut self, take: usize, own: Own) -> Step {
        if self.outstanding.is_empty() {
            return Step::Answer { take, with: own.bytes() };
        }
        self.outstanding.push(Due::Own(own));
        Step::Drop(take)
    }
}

/// Whether mail data begins with a dot, is not at its end with that, and there is less of it than any message that begins
/// so has: a dot line of two bytes or more, and the end of data.
///
/// There are MTAs that take the first dot out of a line of two, forget that they did, and find a lone dot when the rest
/// comes by itself (smtp-server 3.13). What goes on in one piece gives a client no say in where it is cut.
fn is_begun_dot_line(input: &[u8]) -> bool {
    const LEAST: usize = b"..\r\n.\r\n".len();
    input.starts_with(b".") && input.len() < LEAST && !input.starts_with(b".\r\n")
}

/// Whether the backend may hear `verb` before it has forgotten, by EHLO or HELO, what was said in the clear.
fn needs_no_hello(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Helo
            | Verb::Ehlo
            | Verb::Noop
            | Verb::Rset
            | Verb::Quit
            | Verb::Help
            | Verb::StartTls
            | Verb::Unknown
            | Verb::Xclient
            | Verb::Xforward
    )
}

/// An AUTH command may carry an initial response, and with it be as long as the lines of the exchange (RFC 4954 §4).
fn command_limit(input: &[u8]) -> usize {
    match input.get(..5) {
        Some(verb) if verb.eq_ignore_ascii_case(b"AUTH ") => AUTH_LIMIT,
        _ => COMMAND_LIMIT,
    }
}
