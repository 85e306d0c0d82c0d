//! The relay: a client that sends anything, a strict MTA that answers as it likes, and what both believe in the end.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a claim that does not hold panics"
)]

use std::time::Duration;

use gatepost::relay::ending::{AuthOutcome, End};
use gatepost::relay::{Attempt, BareNewline, Limits, Opening, Settings, Timeouts, Tls, Trace};
use gatepost::time::Timestamp;

use super::data::{assert_every_reader_agrees, assert_unambiguous, reference};
use super::stage::Stage;

/// Whatever the client sends, however the MTA answers, and in whatever pieces all of it comes: they agree on which
/// messages were accepted and on every byte of them; each reply that the client gets is the one to its own oldest
/// unanswered command; each AUTH that reaches the MTA was let go and is finished once; nothing positive is said but by the MTA; and no command reaches the MTA that could be read in two
/// ways, nor a parameter that it did not offer.
///
/// All of this is so too where each message gets a header field on top: then the field is what it has to be, the client's
/// own message follows it, behind an empty line if it would continue the field, and nothing comes by BDAT.
///
/// The first byte says how many of those behind it are choices: of the MTA's answers, and of how the bytes come. The
/// rest is what the client sends.
pub fn relay(input: &[u8]) {
    for traced in [false, true] {
        agree(input, Tls::EndToEnd, traced, false, Attempt::Go);
    }
    agree(input, Tls::EndToEnd, false, false, Attempt::Refuse);
}

/// The same where TLS with the client ends at the relay: besides, the MTA never hears of STARTTLS, and after it hears
/// EHLO or HELO before anything that could count on what was said in the clear. All of it holds where that is the MTA from
/// before, and where it is another one, which knows nothing.
pub fn relay_ending_tls(input: &[u8]) {
    let before_auth = input.last().is_some_and(|last| last % 2 == 1);
    for traced in [false, true] {
        for renews in [false, true] {
            agree(input, Tls::Offered { before_auth }, traced, renews, Attempt::Go);
        }
    }
}

/// When all of it happens.
const NOW: Timestamp = Timestamp::from_seconds(1_795_325_533);

fn agree(input: &[u8], tls: Tls, traced: bool, renews: bool, attempt: Attempt) {
    let Some((&choices, rest)) = input.split_first() else { return };
    let (choices, sent) = rest.split_at(usize::from(choices).min(rest.len()));
    let mut tape = Tape(choices);
    let mut mta = Mta { starttls: !tls.is_offered(), traced, ..Mta::default() };
    let trace = traced.then(|| Trace::new([192, 0, 2, 7].into(), "mx.test", "7K2MQ-9XV4T", || NOW));
    let mut stage = Stage::traced(&settings(), Opening::Greeting, tls, trace);
    stage.renews = renews;
    stage.leave = Some(attempt);
    mta.greet(&mut tape);
    play(&mut stage, &mut mta, &mut tape, sent);
    let view = View::of(sent, &stage.to_client, traced);
    assert_eq!(stage.tally().messages, view.accepted.len() as u64);
    account_for_attempts(&stage, &mta);
    let (seen, more) = mta.accepted.split_at_checked(view.accepted.len()).expect("accepted by the MTA, too");
    assert_eq!(seen, view.accepted, "the messages that client and MTA agreed on");
    if let Some(first) = more.first() {
        // Its reply got lost with the connection.
        assert!(stage.end.is_some_and(|end| end != End::Quit), "{:?}", stage.end);
        assert!(view.unanswered.is_none_or(|message| message == *first));
    }
}

/// Each attempt that was let go is finished once, none reaches the MTA that was not, and so many fail and no more.
fn account_for_attempts(stage: &Stage, mta: &Mta) {
    let over = stage.finished.len();
    let let_go = stage.let_go as usize;
    assert!(over == let_go || stage.end.is_none() && over + 1 == let_go, "{over} of {let_go}: {:?}", stage.finished);
    assert!(mta.attempts <= let_go, "{} of {let_go}", mta.attempts);
    let failed = stage.finished.iter().filter(|finished| finished.outcome == AuthOutcome::Failed).count();
    assert_eq!(failed, stage.tally().auth_failures as usize);
    assert!(failed <= 2, "{failed} failures");
}

fn settings() -> Settings {
    let long = Duration::from_secs(300);
    Settings {
        auth: true,
        bare_newline: BareNewline::Normalize,
        max_errors: 20,
        // Few, so that they are come to.
        limits: Limits {
            recipients: 2,
            idle_commands: 8,
            message_commands: 16,
            auth_failures: 2,
            auth_lines: 3,
            ..Limits::default()
        },
        timeouts: Timeouts { command: long, data: long, reply: long, end_of_data: long, write: long },
    }
}

/// Choices, one byte each; when they are used up, zero: the usual.
struct Tape<'a>(&'a [u8]);

impl Tape<'_> {
    fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// How many of `count` bytes come now. Zero: all of them.
    fn some_of(&mut self, count: usize) -> usize {
        match usize::from(self.next()) {
            0 => count,
            some => some.min(count),
        }
    }
}

fn play(stage: &mut Stage, mta: &mut Mta, tape: &mut Tape<'_>, sent: &[u8]) {
    let (mut rest, mut taken) = (sent, 0);
    let mut patient = false;
    while stage.end.is_none() && !stage.is_opaque() {
        let choice = tape.next();
        if choice == u8::MAX {
            stage.drain();
        }
        if (rest.is_empty() || choice % 2 == 1 || patient) && !mta.out.is_empty() {
            let said: Vec<u8> = mta.out.drain(..tape.some_of(mta.out.len())).collect();
            stage.backend_says(&said);
        } else if !rest.is_empty() {
            // Most who say STARTTLS wait for the reply, or nobody would ever get as far as TLS.
            let command = b"STARTTLS\r\n";
            let asks = find(rest, command).map(|at| at + command.len()).filter(|_| choice % 8 < 6);
            let count = tape.some_of(rest.len()).min(asks.unwrap_or(usize::MAX));
            patient = Some(count) == asks;
            let (now, later) = rest.split_at(count);
            stage.client_says(now);
            rest = later;
        } else if mta.closed {
            stage.backend_closes();
        } else {
            stage.client_closes();
        }
        if let Some((at, _)) = stage.tls.filter(|_| !mta.hello_was_due) {
            mta.take(&stage.to_backend[taken..at], tape);
            taken = at;
            if stage.renews {
                *mta = mta.renewed();
            }
            (mta.hello_due, mta.hello_was_due) = (true, true);
        }
        mta.take(&stage.to_backend[taken..], tape);
        let moved = taken < stage.to_backend.len();
        taken = stage.to_backend.len();
        if rest.is_empty() && mta.out.is_empty() && !moved && !mta.closed && stage.end.is_none() {
            stage.client_closes();
            break;
        }
    }
}

/// A strict MTA: lines end in CRLF, mail data in CRLF "." CRLF. Each of its replies names the command that it is for.
#[derive(Default)]
struct Mta {
    unread: Vec<u8>,
    at: At,
    /// What it says.
    out: Vec<u8>,
    /// It has closed, or said what nobody can make sense of.
    closed: bool,
    chunking: bool,
    /// Whether it may hear of STARTTLS.
    starttls: bool,
    /// Whether TLS has begun before it, and it is to hear EHLO or HELO; and whether that was ever so.
    hello_due: bool,
    hello_was_due: bool,
    chunks: Vec<u8>,
    accepted: Vec<Vec<u8>>,
    /// Whether messages come with a field on top, which has to tell the four below.
    traced: bool,
    /// Its last HELO or EHLO that was accepted: the line.
    hello: Vec<u8>,
    authenticated: bool,
    /// How many messages have been begun.
    begun: usize,
    /// How many AUTH commands have come.
    attempts: usize,
}

#[derive(Default, Clone, Copy)]
enum At {
    #[default]
    Command,
    AuthLine,
    Data,
    Chunk(usize, bool),
    Tls,
}

enum Mood {
    Usual,
    Refuse(u16),
    Close,
}

impl Mta {
    fn greet(&mut self, tape: &mut Tape<'_>) {
        if let Mood::Usual = self.mood(b"greeting", tape) {
            self.reply(220, b"greeting");
        }
    }

    /// Another connection to it, on which it has greeted. What it believes in the end is what it believed on both.
    fn renewed(&mut self) -> Self {
        Self {
            starttls: self.starttls,
            traced: self.traced,
            accepted: std::mem::take(&mut self.accepted),
            begun: self.begun,
            attempts: self.attempts,
            ..Self::default()
        }
    }

    fn take(&mut self, bytes: &[u8], tape: &mut Tape<'_>) {
        self.unread.extend_from_slice(bytes);
        while !self.closed && self.step(tape) {}
    }

    fn step(&mut self, tape: &mut Tape<'_>) -> bool {
        match self.at {
            At::Tls => false,
            At::Command | At::AuthLine => {
                let Some(end) = find(&self.unread, b"\r\n") else { return false };
                let line: Vec<u8> = self.unread.drain(..end + 2).take(end).collect();
                assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{}", line.escape_ascii());
                if let At::AuthLine = self.at {
                    self.at = At::Command;
                    self.auth(&line, tape);
                } else {
                    self.command(&line, tape);
                }
                true
            }
            At::Data => {
                let end = if self.unread.starts_with(b".\r\n") {
                    Some(0)
                } else {
                    find(&self.unread, b"\r\n.\r\n").map(|at| at + 2)
                };
                let Some(end) = end else {
                    if tape.next() >= 250 && !matches!(self.mood(b"early", tape), Mood::Usual) {
                        // Its last word: an MTA that answers one message twice has nobody who could follow it.
                        self.closed = true;
                    }
                    return false;
                };
                let mut message: Vec<u8> = self.unread.drain(..end + 3).collect();
                assert_unambiguous(&message[..end]);
                assert_every_reader_agrees(&message, true);
                if self.traced {
                    let field = self.field();
                    let found = String::from_utf8_lossy(message.get(..field.len()).unwrap_or(&message));
                    assert_eq!(found, field, "on top of a message");
                    message.drain(..field.len());
                }
                self.at = At::Command;
                if let Mood::Usual = self.mood(b".", tape) {
                    self.reply(250, b".");
                    self.accepted.push(message);
                }
                true
            }
            At::Chunk(size, last) => {
                if self.unread.len() < size {
                    return false;
                }
                let chunk: Vec<u8> = self.unread.drain(..size).collect();
                self.at = At::Command;
                let mood = self.mood(b"BDAT", tape);
                if let Mood::Usual = mood {
                    self.reply(250, b"BDAT");
                    self.chunks.extend(chunk);
                }
                if last {
                    let message = std::mem::take(&mut self.chunks);
                    self.accepted.extend(matches!(mood, Mood::Usual).then_some(message));
                }
                true
            }
        }
    }

    fn command(&mut self, line: &[u8], tape: &mut Tape<'_>) {
        let verb = verb(line);
        let harmless = matches!(verb.as_slice(), b"EHLO" | b"HELO" | b"NOOP" | b"RSET" | b"QUIT" | b"HELP");
        assert!(harmless || !self.hello_due, "{} before EHLO", line.escape_ascii());
        assert!(self.starttls || verb != b"STARTTLS", "STARTTLS passed on");
        if verb == b"BDAT" {
            assert!(self.chunking && !self.traced, "a chunk that was never offered");
            let rest = std::str::from_utf8(&line[5..]).expect("ASCII");
            let (size, last) = rest.strip_suffix(" LAST").map_or((rest, false), |size| (size, true));
            let number: usize = size.parse().expect("a size");
            assert_eq!(number.to_string(), size);
            self.at = At::Chunk(number, last);
            return;
        }
        if verb == b"AUTH" {
            self.attempts += 1;
            return self.auth(line, tape);
        }
        if matches!(verb.as_slice(), b"MAIL" | b"RCPT") {
            // Of what it offers, only AUTH has a parameter; these need no offer.
            let notices = [&b"SIZE="[..], b"BODY=7BIT", b"BODY=8BITMIME"];
            let offered = |word: &Vec<u8>| {
                let word = word.to_ascii_uppercase();
                word.starts_with(b"AUTH=") || notices.iter().any(|notice| word.starts_with(notice))
            };
            assert!(parameters(line).iter().all(offered), "{}", line.escape_ascii());
        }
        let code = match verb.as_slice() {
            b"DATA" => 354,
            b"STARTTLS" => 220,
            b"QUIT" => 221,
            b"HELO" | b"EHLO" | b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" | b"VRFY" | b"EXPN" | b"HELP" | b"ETRN" => 250,
            other => panic!("{} passed on", other.escape_ascii()),
        };
        let Mood::Usual = self.mood(line, tape) else { return };
        if matches!(verb.as_slice(), b"EHLO" | b"HELO") && self.hello_due {
            self.hello_due = false;
            self.chunks.clear();
        }
        if matches!(verb.as_slice(), b"EHLO" | b"HELO") {
            self.hello = line.to_vec();
        }
        match verb.as_slice() {
            b"EHLO" => {
                self.chunking = tape.next() % 4 != 3;
                let marked = format!("250-{}\r\n", mark(line));
                self.out.extend_from_slice(marked.as_bytes());
                self.out.extend_from_slice(if self.chunking { b"250-CHUNKING\r\n" } else { b"250-X-MORE\r\n" });
                self.out.extend_from_slice(b"250-STARTTLS\n250 AUTH PLAIN\r\n");
            }
            _ => self.reply(code, line),
        }
        match verb.as_slice() {
            b"DATA" => {
                self.at = At::Data;
                self.begun += 1;
            }
            b"STARTTLS" => self.at = At::Tls,
            b"HELO" => self.chunking = false,
            b"QUIT" => self.closed = true,
            _ => {}
        }
    }

    /// The field on top of the message that was begun last, made here a second time.
    fn field(&self) -> String {
        let line = trim_blanks(&self.hello);
        let name = trim_blanks(line.get(4..).unwrap_or_default());
        let safe = |&byte: &u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'[' | b']' => char::from(byte),
            _ => '?',
        };
        let mut name: String = name.iter().map(safe).collect();
        if name.len() > 64 {
            name.truncate(61);
            name.push_str("...");
        }
        if name.is_empty() {
            "unknown".clone_into(&mut name);
        }
        let tls = if self.hello_was_due { "S" } else { "" };
        let auth = if self.authenticated { "A" } else { "" };
        let extended = line.to_ascii_uppercase().starts_with(b"EHLO");
        let protocol = if extended { format!("ESMTP{tls}{auth}") } else { "SMTP".to_owned() };
        let id = if self.begun > 1 { format!("-{}", self.begun) } else { String::new() };
        let words = format!("from {name} ([192.0.2.7]) by mx.test (gatepost) with {protocol} id 7K2MQ-9XV4T{id};");
        let mut field = "Received:".to_owned();
        let mut column = field.len();
        for word in words.split(' ').chain(["Sun, 22 Nov 2026 05:32:13 +0000"]) {
            // 77 columns, a TAB counted as eight.
            if column + word.len() < 77 {
                field.push(' ');
                column += 1 + word.len();
            } else {
                field.push_str("\r\n\t");
                column = 8 + word.len();
            }
            field.push_str(word);
        }
        field + "\r\n"
    }

    fn auth(&mut self, line: &[u8], tape: &mut Tape<'_>) {
        if let Mood::Usual = self.mood(line, tape) {
            match tape.next() % 3 {
                0 => self.reply(535, line),
                1 => {
                    self.reply(235, line);
                    self.authenticated = true;
                }
                _ => {
                    self.reply(334, line);
                    self.at = At::AuthLine;
                }
            }
        }
    }

    fn reply(&mut self, code: u16, line: &[u8]) {
        let reply = format!("{code} {}\r\n", mark(line));
        self.out.extend_from_slice(reply.as_bytes());
    }

    /// How it takes a command. All but the usual is answered here.
    fn mood(&mut self, line: &[u8], tape: &mut Tape<'_>) -> Mood {
        let mood = match tape.next() {
            0..=199 => return Mood::Usual,
            200..=215 => Mood::Refuse(451),
            216..=235 => Mood::Refuse(554),
            236..=240 => Mood::Refuse(421),
            241..=243 => Mood::Refuse(354),
            244..=246 => Mood::Refuse(250),
            _ => Mood::Close,
        };
        match mood {
            // Right for most commands, wrong for DATA and the like: then it has not meant it.
            Mood::Refuse(250) if !matches!(verb(line).as_slice(), b"DATA" | b"STARTTLS" | b"GREETING" | b"EARLY") => {
                return Mood::Usual;
            }
            // It may come when the end of data is on its way, and then nobody can tell it from the word that was waited
            // for: an MTA that accepts what it has not seen deceives everybody.
            Mood::Refuse(250) if line == b"early" => return Mood::Usual,
            Mood::Refuse(code) => {
                self.reply(code, line);
                self.closed = code == 421 || code < 400;
            }
            Mood::Close => {
                self.out.extend_from_slice(if tape.next() % 2 == 1 { b"what?\r\n" } else { b"" });
                self.closed = true;
            }
            Mood::Usual => {}
        }
        mood
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The words behind the path of MAIL or RCPT. Blanks within quotes part no words.
fn parameters(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut quoted, mut escaped) = (vec![Vec::new()], false, false);
    for &byte in line {
        match (byte, quoted, words.last_mut()) {
            (b' ' | b'\t', false, _) => words.push(Vec::new()),
            (_, _, Some(word)) => word.push(byte),
            _ => {}
        }
        quoted ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && quoted && !escaped;
    }
    words.retain(|word| !word.is_empty());
    let path = if words.get(1).is_some_and(|word| word.ends_with(b":")) { 3 } else { 2 };
    words.split_off(path.min(words.len()))
}

/// Without the blanks of SMTP at its ends: ASCII has more of them, which are part of a word.
fn trim_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn verb(line: &[u8]) -> Vec<u8> {
    let line = line.trim_ascii();
    let end = line.iter().position(|&byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    line[..end].to_ascii_uppercase()
}

/// What a reply calls the command that it is for.
fn mark(line: &[u8]) -> String {
    let digits: String = line.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("#{digits}.{}", line.len())
}

/// What the client believes: its own bytes, read with the replies that it got.
struct View {
    accepted: Vec<Vec<u8>>,
    /// The first message whose end was sent, and not answered.
    unanswered: Option<Vec<u8>>,
    /// Whether there is a field on top of each message.
    traced: bool,
}

impl View {
    fn of(sent: &[u8], got: &[u8], traced: bool) -> Self {
        let mut view = Self { accepted: Vec::new(), unanswered: None, traced };
        let mut replies = replies(got).into_iter();
        if replies.next().is_some_and(|greeting| greeting.is(220, b"greeting")) {
            view.read(sent, &mut replies);
        }
        // What is left when the bytes are no commands any more is a farewell: ours, or the MTA's to mail data without end.
        let left: Vec<_> = replies.collect();
        let farewell = |reply: &Reply| reply.mark.is_none() || reply.is(421, b"early");
        assert!(left.iter().all(farewell), "answers to nothing: {left:?}");
        view
    }

    fn read(&mut self, sent: &[u8], replies: &mut impl Iterator<Item = Reply>) {
        let (mut rest, mut chunks) = (sent, Vec::new());
        while let Some(line) = take_line(&mut rest) {
            let verb = verb(&line);
            let Some(reply) = replies.next() else {
                return;
            };
            if verb == b"BDAT" && reply.mark.is_some() {
                let words = String::from_utf8_lossy(&line).to_ascii_uppercase();
                let mut words = words.split_ascii_whitespace().skip(1);
                let size = words.next().and_then(|size| size.parse::<usize>().ok());
                let Some((chunk, behind)) = size.and_then(|size| rest.split_at_checked(size)) else { return };
                assert!(reply.is(reply.code, b"BDAT"), "{reply:?}");
                rest = behind;
                if reply.is_positive() {
                    chunks.extend_from_slice(chunk);
                }
                if words.next() == Some("LAST") {
                    let message = std::mem::take(&mut chunks);
                    self.accepted.extend(reply.is_positive().then_some(message));
                }
            } else if reply.mark.is_some() {
                assert!(reply.is(reply.code, &line), "{reply:?} to {}", line.escape_ascii());
            }
            match (verb.as_slice(), reply.code) {
                (_, 421) => return,
                (b"STARTTLS", 220) if reply.mark.is_some() => return,
                (b"STARTTLS", 220) => chunks.clear(),
                (b"QUIT", _) if reply.mark.is_some() => return,
                (b"AUTH", 334) => loop {
                    let Some(line) = take_line(&mut rest) else { return };
                    let Some(reply) = replies.next().filter(|reply| reply.mark.is_some()) else { return };
                    assert!(reply.is(reply.code, &line), "{reply:?} to {}", line.escape_ascii());
                    if reply.code == 421 {
                        return;
                    }
                    if reply.code != 334 {
                        break;
                    }
                },
                (b"DATA", 354) => {
                    let Some((mut message, length)) = reference(rest) else { return };
                    if self.traced && matches!(message.first(), Some(b' ' | b'\t')) {
                        message.splice(..0, *b"\r\n");
                    }
                    rest = &rest[length..];
                    match replies.next() {
                        Some(reply) if reply.is(250, b".") => self.accepted.push(message),
                        Some(reply) if reply.mark.is_some() && reply.code != 421 => {
                            // What was said too early and came too late to be seen as that is a refusal all the same.
                            let early = reply.is(reply.code, b"early") && !reply.is_positive();
                            assert!(early || reply.is(reply.code, b"."), "{reply:?} to the end of data");
                        }
                        _ => {
                            self.unanswered = Some(message);
                            return;
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

fn take_line(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let lf = rest.iter().position(|&byte| byte == b'\n')?;
    let line = &rest[..lf];
    *rest = &rest[lf + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

#[derive(Debug)]
struct Reply {
    code: u16,
    mark: Option<String>,
}

impl Reply {
    fn is(&self, code: u16, line: &[u8]) -> bool {
        self.code == code && self.mark.as_deref() == Some(mark(line).as_str())
    }

    fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }
}

fn replies(got: &[u8]) -> Vec<Reply> {
    let got = std::str::from_utf8(got).expect("ASCII");
    let mut replies = Vec::new();
    let mut first: Option<Option<String>> = None;
    for line in got.split_terminator("\r\n") {
        assert!(!line.contains(['\r', '\n']), "{line:?}");
        let (code, text) = line.split_at(3);
        let code = code.parse().expect("a code");
        let mark =
            first.take().unwrap_or_else(|| text.get(1..).filter(|text| text.starts_with('#')).map(str::to_owned));
        if text.starts_with('-') {
            first = Some(mark);
            continue;
        }
        let own = code >= 400 || line == "220 2.0.0 Ready to start TLS";
        assert!(own || mark.is_some(), "{line:?} is the gate's own");
        replies.push(Reply { code, mark });
    }
    assert!(first.is_none(), "half a reply");
    replies
}
