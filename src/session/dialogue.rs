//! Dialogue: gatepost speaks SMTP with a stranger itself, until the point of decision.
//!
//! That point is its first RCPT; its STARTTLS, where TLS is between the backend and it; its AUTH, where that is offered.
//! Where TLS ends here, STARTTLS decides nothing: the dialogue begins anew under it, all that was said before forgotten.
//! PIPELINING is not offered, so talking out of turn is evidence. A client that has failed under `enforce` stays here to
//! its end: every recipient is refused, and what it wanted is journalled.
//!
//! A load balancer that speaks for itself has a dialogue too, without a screen and without that point: whatever would
//! begin mail is its end.
//!
//! ```text
//!  greet ─► listen ─┬─ RCPT, STARTTLS, AUTH ─┬─ passed ─► HandOff ──(the backend refuses EHLO or MAIL)──┐
//!            ▲  ▲   │                        └─ failed ─► refusal ─┐                                    │
//!            │  └───┼──────────────────────────────────────────────┴────────────────────────────────────┘
//!            ├──────┴─ anything else ─► reply
//!            └───────── STARTTLS that ends here ─► 220, handshake
//!                      QUIT, a drop, a limit, a deadline, hang-up, shutdown ─► Over
//! ```

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::departure::Report;
use super::handoff::Replay;
use super::refusal::{self, Manner};
use super::{Guest, House, client, greeting, guard};
use crate::backend::Presence;
use crate::journal::{Outcome, Recognition};
use crate::relay::{self, NoTls, Wire};
use crate::screen::helo;
use crate::screen::not_smtp::not_smtp;
use crate::screen::{Evidence, Screen, Test, Verdict};
use crate::smtp::command::{Command, Envelope, Malformed, Verb};
use crate::smtp::ehlo::{Keyword, Keywords};
use crate::smtp::line::{self, Scan};
use crate::smtp::reply::{self, Code, Enhanced};
use crate::smtp::xclient;

/// How many forward-paths of a refused client are kept for the journal.
const RECIPIENTS: usize = 5;

/// What a stranger is offered, where the backend offers it. Not PIPELINING: a stranger has to wait for each reply.
const OFFERED: Keywords = Keywords::NONE
    .with(Keyword::Size)
    .with(Keyword::EightBitMime)
    .with(Keyword::EnhancedStatusCodes)
    .with(Keyword::Dsn)
    .with(Keyword::SmtpUtf8)
    .with(Keyword::Chunking)
    .with(Keyword::BinaryMime)
    .with(Keyword::StartTls)
    .with(Keyword::DeliverBy)
    .with(Keyword::MtPriority)
    .with(Keyword::FutureRelease)
    .with(Keyword::Limits)
    .with(Keyword::RequireTls);

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// Nothing is decided yet.
    Listen,
    /// The client has passed, and the command that is to be answered by the backend is still unread.
    HandOff,
    /// The visit is over.
    Over(Outcome),
}

/// The dialogue with one stranger.
pub(super) struct Dialogue<'a, C> {
    house: &'a Arc<House>,
    guest: &'a Guest,
    pub client: &'a mut C,
    pub report: Report,
    inbox: Vec<u8>,
    hello: Option<Hello>,
    mail: Option<Mail>,
    told: Keywords,
    /// What the command that is handed over needs to have been offered.
    asked: Keywords,
    commands: u32,
    errors: u32,
    ends: Instant,
}

struct Hello {
    extended: bool,
    name: Box<[u8]>,
}

struct Mail {
    line: Box<[u8]>,
    used: Keywords,
    /// What the backend said to the replay, if it did not want it: the client believes that its MAIL was accepted, so
    /// this has to be the answer to every recipient of the transaction.
    refused: Option<Box<[u8]>>,
}

/// What a command leads to.
enum Reaction {
    /// This reply; `true` if the command was in error.
    Say(Vec<u8>, bool),
    /// This reply, and the end.
    SayLast(Vec<u8>, Outcome),
    /// The backend is to answer.
    HandOff,
    /// TLS is to begin, here.
    StartTls,
}

impl<'a, C: Wire> Dialogue<'a, C> {
    pub(super) fn new(house: &'a Arc<House>, guest: &'a Guest, report: Report, client: &'a mut C) -> Self {
        let ends = Instant::now() + guest.gate.settings.dialogue.total_timeout;
        Self {
            house,
            guest,
            client,
            report,
            inbox: Vec::new(),
            hello: None,
            mail: None,
            told: Keywords::NONE,
            asked: Keywords::NONE,
            commands: 0,
            errors: 0,
            ends,
        }
    }

    /// Greets; or ends a greeting that a teaser began.
    pub(super) async fn greet(&mut self) -> Decision {
        self.say(&greeting::last_line(self.guest)).await
    }

    /// What has to be replayed to the backend.
    pub(super) fn replay(&self) -> Replay<'_> {
        let hello = self.hello.as_ref();
        let mail = self.mail.as_ref().filter(|mail| mail.refused.is_none());
        Replay {
            hello: xclient::Hello {
                extended: hello.is_some_and(|hello| hello.extended),
                name: hello.map(|hello| &*hello.name).unwrap_or_default(),
            },
            mail: mail.map(|mail| &*mail.line),
            told: self.told,
            used: mail.map(|mail| mail.used).unwrap_or_default().or(self.asked),
            tls: self.client.tls(),
        }
    }

    /// The backend refused the replay: that is the answer to the client's command.
    pub(super) async fn refused_by_backend(&mut self, reply: &[u8], closing: bool) -> Decision {
        self.take_line();
        if let Some(mail) = &mut self.mail {
            mail.refused = Some(reply.into());
        }
        self.errors += 1;
        match self.say(reply).await {
            Decision::Listen if closing => Decision::Over(Outcome::BackendFailed),
            decision => decision,
        }
    }

    /// The last words; whether they are heard no longer matters.
    pub(super) async fn say_last(&mut self, bytes: &[u8]) {
        let _ = self.say(bytes).await;
    }

    /// Ends it: what was learned, and what the client has said that is not answered yet.
    pub(super) fn leave(self) -> (Report, Vec<u8>) {
        (self.report, self.inbox)
    }

    /// Hears one command, and answers it.
    pub(super) async fn listen(&mut self) -> Decision {
        if let Err(outcome) = self.hear().await {
            let reply = match outcome {
                Outcome::TimedOut => refusal::too_slow(self.guest),
                Outcome::Limited => refusal::limited(self.guest, "Line too long"),
                Outcome::Shutdown => refusal::stopping(self.guest),
                _ => return Decision::Over(self.outcome_of_refusal(outcome)),
            };
            self.say_last(&reply).await;
            return Decision::Over(self.outcome_of_refusal(outcome));
        }
        self.commands += 1;
        let reaction = self.react();
        if !matches!(reaction, Reaction::HandOff) {
            self.take_line();
        }
        match reaction {
            Reaction::HandOff => Decision::HandOff,
            Reaction::StartTls => self.begin_tls().await,
            Reaction::SayLast(reply, outcome) => {
                self.say_last(&reply).await;
                Decision::Over(outcome)
            }
            Reaction::Say(reply, error) => {
                self.errors += u32::from(error);
                match self.over_limit() {
                    Some(reply) => {
                        self.say_last(&reply).await;
                        Decision::Over(self.outcome_of_refusal(Outcome::Limited))
                    }
                    None => self.say(&reply).await,
                }
            }
        }
    }

    /// Answers STARTTLS, and goes over to TLS. Nothing is in the inbox but that command, which has been taken: nothing
    /// that was said in the clear is there to be read after it.
    async fn begin_tls(&mut self) -> Decision {
        match self.say(&reply_of(220, Enhanced(2, 0, 0), "Ready to start TLS")).await {
            Decision::Listen => {}
            over => return over,
        }
        self.hello = None;
        self.mail = None;
        self.told = Keywords::NONE;
        self.asked = Keywords::NONE;
        let begun = tokio::select! {
            biased;
            () = self.house.cut.cancelled() => return Decision::Over(Outcome::Shutdown),
            begun = relay::start_tls(self.client, self.house.draining.cancelled()) => begun,
        };
        match begun {
            Ok(()) => Decision::Listen,
            Err(NoTls::Shutdown) => Decision::Over(Outcome::Shutdown),
            // What went wrong, the connection knows.
            Err(NoTls::Failed) => Decision::Over(self.outcome_of_refusal(Outcome::ProtocolFault)),
        }
    }

    fn over_limit(&self) -> Option<Vec<u8>> {
        let limits = &self.guest.gate.settings.dialogue;
        if self.errors >= limits.errors {
            Some(refusal::limited(self.guest, "Too many errors"))
        } else if self.commands >= limits.commands {
            Some(refusal::limited(self.guest, "Too many commands"))
        } else {
            None
        }
    }

    /// A client that was refused is `Refused`, however it ends.
    fn outcome_of_refusal(&self, otherwise: Outcome) -> Outcome {
        match self.report.screen.as_ref().map(Screen::verdict) {
            Some(Verdict::Enforce(_)) => Outcome::Refused,
            _ => otherwise,
        }
    }

    /// Reads until a whole line is at the front of the inbox. No buffer is held while there is nothing in it.
    async fn hear(&mut self) -> Result<(), Outcome> {
        let limits = &self.guest.gate.settings.dialogue;
        let patience = match self.house.stress.is_on() {
            true => limits.command_timeout.min(limits.stress_command_timeout),
            false => limits.command_timeout,
        };
        let deadline = (Instant::now() + patience).min(self.ends);
        loop {
            match line::scan(&self.inbox, limits.line) {
                Scan::Line(_) => return Ok(()),
                Scan::TooLong => return Err(Outcome::Limited),
                Scan::Incomplete => {}
            }
            let read = tokio::select! {
                biased;
                () = self.house.draining.cancelled() => return Err(Outcome::Shutdown),
                read = timeout_at(deadline, client::read_some(self.client, &mut self.inbox)) => read,
            };
            match read {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return Err(Outcome::HungUp),
                Err(_) => return Err(Outcome::TimedOut),
            }
        }
    }

    fn take_line(&mut self) {
        if let Scan::Line(line) = line::scan(&self.inbox, self.guest.gate.settings.dialogue.line) {
            let length = line.length;
            self.inbox.drain(..length);
        }
        if self.inbox.is_empty() {
            self.inbox = Vec::new();
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Decision {
        let outcome = match client::say(self.guest, self.client, bytes).await {
            Ok(()) => return Decision::Listen,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Outcome::TimedOut,
            Err(_) => Outcome::HungUp,
        };
        Decision::Over(self.outcome_of_refusal(outcome))
    }

    /// Judges the line at the front of the inbox, and decides what to say to it.
    fn react(&mut self) -> Reaction {
        let inbox = std::mem::take(&mut self.inbox);
        let reaction = match line::scan(&inbox, self.guest.gate.settings.dialogue.line) {
            Scan::Line(line) => self.judge(&line, inbox.len() > line.length),
            Scan::Incomplete | Scan::TooLong => Reaction::SayLast(Vec::new(), Outcome::ProtocolFault),
        };
        self.inbox = inbox;
        reaction
    }

    fn judge(&mut self, line: &line::Line<'_>, more: bool) -> Reaction {
        let command = Command::parse(line.text);
        let verb = command.verb();
        let facts = line.facts;
        let mut drop = None;
        if facts.bare_lf || facts.bare_cr {
            drop = drop.or(self.observe(Evidence::BareNewline));
        }
        if (verb == Verb::Unknown || facts.nul || facts.control)
            && !facts.bare_cr
            && let Some(kind) = not_smtp(line.text)
        {
            drop = drop.or(self.observe(Evidence::NotSmtp(kind)));
        }
        if more && verb != Verb::Quit {
            drop = drop.or(self.observe(Evidence::Pipelined(verb)));
        }
        if let Some(test) = drop {
            return self.dropped(test);
        }
        if more && matches!(command, Command::StartTls) && self.can_begin_tls() {
            // Said in the clear, to be read as if it had been said under TLS (CVE-2011-0411).
            let reply = reply_of(554, Enhanced(5, 5, 0), "Input behind STARTTLS");
            return Reaction::SayLast(reply, self.outcome_of_refusal(Outcome::ProtocolFault));
        }
        // Whatever the tests make of it: what is replayed to the backend has no control characters in it.
        if facts.bare_cr || facts.nul || facts.control {
            return error(500, Enhanced(5, 5, 2), "Syntax error: control character in a command");
        }
        self.answer(command, line.text)
    }

    /// Takes evidence in; the test that failed if the client is to be dropped.
    fn observe(&mut self, evidence: Evidence) -> Option<Test> {
        match self.report.screen.as_mut()?.observe(evidence)? {
            Verdict::Drop(test) => Some(test),
            Verdict::Pass | Verdict::Enforce(_) => None,
        }
    }

    fn dropped(&self, test: Test) -> Reaction {
        let reply = self.report.screen.as_ref().map(|screen| refusal::failed(self.guest, screen, test, Manner::Drop));
        Reaction::SayLast(reply.unwrap_or_default(), Outcome::Dropped)
    }

    /// Whether the client may be handed off; if not, the refusal.
    fn refusal(&self) -> Option<Vec<u8>> {
        let screen = self.report.screen.as_ref()?;
        match screen.verdict() {
            Verdict::Pass => None,
            Verdict::Enforce(test) | Verdict::Drop(test) => {
                Some(refusal::failed(self.guest, screen, test, Manner::Enforce))
            }
        }
    }

    fn answer(&mut self, command: Command<'_>, text: &[u8]) -> Reaction {
        if self.is_with_proxy() && begins_mail(command.verb()) {
            self.report.note = Some("the load balancer did not say who the client is".to_owned());
            return Reaction::SayLast(refusal::unannounced(self.guest), Outcome::ProtocolFault);
        }
        match command {
            Command::Helo { name } => self.hello(false, name),
            Command::Ehlo { name } => self.hello(true, name),
            Command::Mail(envelope) => self.mail(&envelope, text),
            Command::Rcpt(envelope) => self.rcpt(&envelope),
            Command::Auth(_) => self.auth(),
            Command::StartTls => self.starttls(),
            Command::Rset => {
                self.mail = None;
                ok(250, Enhanced(2, 0, 0), "Ok")
            }
            Command::Noop => ok(250, Enhanced(2, 0, 0), "Ok"),
            Command::Quit => {
                let outcome = self.outcome_of_refusal(Outcome::HungUp);
                Reaction::SayLast(reply_of(221, Enhanced(2, 0, 0), "Bye"), outcome)
            }
            Command::Data if self.mail.is_some() => error(554, Enhanced(5, 5, 1), "No valid recipients"),
            Command::Data => error(503, Enhanced(5, 5, 1), "Need RCPT first"),
            // The chunk follows at once; without a transaction there is no telling it from commands.
            Command::Bdat(_) | Command::Malformed { verb: Verb::Bdat, .. } => {
                let reply = reply_of(503, Enhanced(5, 5, 1), "Need RCPT first; closing, for the chunk is no command");
                Reaction::SayLast(reply, self.outcome_of_refusal(Outcome::ProtocolFault))
            }
            Command::Vrfy(_) => ok(252, Enhanced(2, 0, 0), "Cannot verify, but will take mail and try to deliver it"),
            Command::Help(_) => ok(214, Enhanced(2, 0, 0), "See RFC 5321"),
            Command::Expn(_) | Command::Etrn(_) | Command::Xclient(_) | Command::Xforward(_) => {
                error(502, Enhanced(5, 5, 1), "Command not offered here")
            }
            Command::Malformed { verb, reason } => self.malformed(verb, reason),
            Command::Unknown { .. } => error(500, Enhanced(5, 5, 2), "Command not recognized"),
        }
    }

    fn hello(&mut self, extended: bool, name: &[u8]) -> Reaction {
        self.report.helo = Some(name.into());
        let screen = self.report.screen.as_ref();
        let faults = screen.map(|screen| helo::examine(name, self.guest.client.ip(), &screen.settings().names));
        for fault in faults.unwrap_or_default().iter() {
            if let Some(test) = self.observe(Evidence::Named(fault)) {
                return self.dropped(test);
            }
        }
        if name.is_empty() {
            return error(501, Enhanced(5, 5, 4), "Syntax: EHLO hostname");
        }
        let backend = &self.guest.gate.backend;
        let offer = backend.offer();
        if offer.is_none() && backend.presence() == Presence::Away {
            self.report.note = Some("the backend is away, and what it offers is not known yet".to_owned());
            return Reaction::SayLast(refusal::unavailable(self.guest), Outcome::BackendFailed);
        }
        self.hello = Some(Hello { extended, name: name.into() });
        self.mail = None;
        self.told = Keywords::NONE;
        let hostname = &self.guest.gate.settings.hostname;
        if !extended {
            return Reaction::Say(plain(250, hostname), false);
        }
        let offer = self.client.tls().shown(offer.as_deref().cloned().unwrap_or_default());
        let keep = match self.guest.may_auth() {
            // It can use none of them.
            _ if self.is_with_proxy() => Keywords::NONE,
            true => OFFERED.with(Keyword::Auth),
            false => OFFERED,
        };
        self.told = offer.keywords.and(keep);
        let mut reply = Vec::with_capacity(256);
        offer.write(&mut reply, hostname.as_bytes(), self.told);
        Reaction::Say(reply, false)
    }

    /// Whether this is a load balancer that speaks for itself: greeted, and taken no mail from.
    fn is_with_proxy(&self) -> bool {
        self.guest.recognition == Recognition::Proxy
    }

    fn mail(&mut self, envelope: &Envelope<'_>, line: &[u8]) -> Reaction {
        if self.hello.is_none() {
            return error(503, Enhanced(5, 5, 1), "Send HELO or EHLO first");
        }
        if self.has_transaction() {
            return error(503, Enhanced(5, 5, 1), "Nested MAIL command");
        }
        let Some(used) = self.used(envelope) else {
            return error(555, Enhanced(5, 5, 4), "MAIL parameter not recognized");
        };
        self.report.from.get_or_insert_with(|| envelope.path.mailbox.into());
        self.mail = Some(Mail { line: line.into(), used, refused: None });
        ok(250, Enhanced(2, 1, 0), "Ok")
    }

    /// Whether a MAIL is open that the backend has not refused.
    fn has_transaction(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.refused.is_none())
    }

    fn rcpt(&mut self, envelope: &Envelope<'_>) -> Reaction {
        let Some(mail) = &self.mail else { return error(503, Enhanced(5, 5, 1), "Need MAIL first") };
        if self.report.to.len() < RECIPIENTS {
            self.report.to.push(envelope.path.mailbox.into());
        }
        if let Some(reply) = self.refusal().or_else(|| mail.refused.as_deref().map(<[u8]>::to_vec)) {
            return Reaction::Say(reply, true);
        }
        let Some(asked) = self.used(envelope) else {
            return error(555, Enhanced(5, 5, 4), "RCPT parameter not recognized");
        };
        self.asked = asked;
        Reaction::HandOff
    }

    /// What the parameters of MAIL or RCPT need to have been offered; nothing if one of them was not.
    fn used(&self, envelope: &Envelope<'_>) -> Option<Keywords> {
        envelope.parameters().try_fold(Keywords::NONE, |used, (keyword, value)| {
            match Keyword::of_parameter(keyword, value)? {
                keyword if self.told.has(keyword) => Some(used.with(keyword)),
                keyword if keyword.is_mere_notice() => Some(used),
                _ => None,
            }
        })
    }

    fn auth(&mut self) -> Reaction {
        if self.told.has(Keyword::Auth) {
            self.asked = Keywords::NONE.with(Keyword::Auth);
            return match self.refusal() {
                None => Reaction::HandOff,
                Some(reply) => Reaction::Say(reply, true),
            };
        }
        if self.guest.may_auth() && self.client.tls().bars_auth() {
            return error(538, Enhanced(5, 7, 11), "STARTTLS first: AUTH needs TLS here");
        }
        if !self.guest.may_auth() {
            guard::tried_auth(self.house, self.guest);
        }
        if !self.guest.may_auth()
            && let Some(test) = self.observe(Evidence::TriedAuth)
        {
            return self.dropped(test);
        }
        error(503, Enhanced(5, 5, 1), "AUTH is not offered here")
    }

    fn starttls(&mut self) -> Reaction {
        if self.client.tls() == relay::Tls::Begun {
            error(503, Enhanced(5, 5, 1), "TLS has begun already")
        } else if !self.told.has(Keyword::StartTls) {
            error(502, Enhanced(5, 5, 1), "STARTTLS is not offered here")
        } else if self.has_transaction() {
            error(503, Enhanced(5, 5, 1), "STARTTLS within a transaction")
        } else if self.can_begin_tls() {
            Reaction::StartTls
        } else if self.refusal().is_some() {
            // It is between the client and a backend that the client will not meet; without TLS it can go on to hear why.
            error(454, Enhanced(4, 7, 0), "TLS not available")
        } else {
            self.asked = Keywords::NONE.with(Keyword::StartTls);
            Reaction::HandOff
        }
    }

    /// Whether STARTTLS, said now, would begin TLS that ends here.
    fn can_begin_tls(&self) -> bool {
        self.client.tls().is_offered() && self.told.has(Keyword::StartTls) && !self.has_transaction()
    }

    fn malformed(&mut self, verb: Verb, reason: Malformed) -> Reaction {
        if verb == Verb::Auth && !self.guest.may_auth() {
            return self.auth();
        }
        let text = match reason {
            Malformed::UnexpectedParameter => "Syntax error: no parameter allowed",
            Malformed::MissingParameter => "Syntax error: parameter missing",
            Malformed::Path => "Syntax error in the path",
            Malformed::Parameter => "Syntax error in a parameter",
            Malformed::ChunkSize => "Syntax error in the chunk size",
        };
        error(501, Enhanced(5, 5, 4), text)
    }
}

/// Whether a command is one that mail, or the trust that it takes, begins with.
fn begins_mail(verb: Verb) -> bool {
    matches!(verb, Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat | Verb::Auth | Verb::StartTls)
}

fn reply_of(code: u16, enhanced: Enhanced, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    if let Some(code) = Code::new(code) {
        reply::write(&mut out, code, Some(enhanced), text);
    }
    out
}

fn plain(code: u16, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    if let Some(code) = Code::new(code) {
        reply::write(&mut out, code, None, text);
    }
    out
}

fn ok(code: u16, enhanced: Enhanced, text: &str) -> Reaction {
    Reaction::Say(reply_of(code, enhanced, text), false)
}

fn error(code: u16, enhanced: Enhanced, text: &str) -> Reaction {
    Reaction::Say(reply_of(code, enhanced, text), true)
}
