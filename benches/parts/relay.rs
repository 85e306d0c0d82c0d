//! The relay's machine alone, and the scanner of mail data: lines, whole messages, and pieces of a driver's size.

use std::hint::black_box;
use std::time::Duration;

use gatepost::relay::ending::AuthOutcome;
use gatepost::relay::machine::{Machine, Step};
use gatepost::relay::{Aftermath, BareNewline, Limits, Opening, Settings, Timeouts, Tls, Trace};
use gatepost::smtp::data::{Scanner, Then};
use gatepost::smtp::ehlo::{Keyword, Keywords};
use gatepost::time::Timestamp;

use super::{Look, words};

/// How much a driver reads at once.
pub const PIECE: usize = 16 * 1024;

const OK: &[u8] = b"250 2.1.5 Ok\r\n";

/// Without limits that going on and on would reach.
pub fn settings() -> Settings {
    let long = Duration::from_secs(300);
    let limits = Limits {
        recipients: u32::MAX,
        idle_commands: u32::MAX,
        message_commands: u32::MAX,
        auth_failures: 0,
        ..Limits::default()
    };
    Settings {
        auth: true,
        bare_newline: BareNewline::Normalize,
        max_errors: u32::MAX,
        limits,
        timeouts: Timeouts { command: long, data: long, reply: long, end_of_data: long, write: long },
    }
}

/// In the middle of a dialogue, in which the client has been told of what it uses here.
pub fn opening() -> Opening {
    let offered = [Keyword::Size, Keyword::Chunking, Keyword::Auth].into_iter().fold(Keywords::NONE, Keywords::with);
    Opening::Dialogue { offered, transaction: false }
}

/// Lines of base64 length, as in most large mail, up to `size` bytes.
pub fn text(size: usize, ending: &str) -> Vec<u8> {
    let line =
        format!("{}{ending}", "TWFpbCBpcyBtb3N0bHkgYmFzZTY0IGxpbmVzLCA3NiBieXRlcyBlYWNoIG9m".repeat(2).split_at(76).0);
    line.repeat(size / line.len()).into_bytes()
}

/// The same with the end of data.
pub fn message(size: usize, ending: &str) -> Vec<u8> {
    [&text(size, ending)[..], b"\r\n.\r\n"].concat()
}

/// Everything that the machine says about `input`, which it must take; how many bytes of it were passed on as they were.
fn client(machine: &mut Machine, mut input: &[u8]) -> usize {
    let mut passed = 0;
    loop {
        let used = match machine.client_step(input, false) {
            Step::Pass(count) => {
                passed += count;
                count
            }
            Step::Replace { take, with } => {
                black_box(with);
                take
            }
            Step::Answer { take, .. } | Step::Drop(take) => take,
            Step::AskLeave => {
                machine.may_try(true);
                0
            }
            Step::Wait | Step::Hold if input.is_empty() => return passed,
            step => panic!("{step:?} with {} bytes left", input.len()),
        };
        input = input.split_at(used).1;
    }
}

/// The same of what the backend says.
fn backend(machine: &mut Machine, mut input: &[u8]) {
    loop {
        let used = match machine.backend_step(input, false, false) {
            Step::Pass(count) => count,
            Step::Replace { take, with } => {
                black_box(with);
                take
            }
            Step::Wait if input.is_empty() => return,
            step => panic!("{step:?} with {} bytes left", input.len()),
        };
        black_box(machine.take_event());
        input = input.split_at(used).1;
    }
}

/// One of the client's commands, and the reply to it.
fn exchange(machine: &mut Machine, command: &[u8], reply: &[u8]) {
    client(machine, black_box(command));
    backend(machine, black_box(reply));
}

/// What comes before mail data.
fn begin(machine: &mut Machine) {
    exchange(machine, b"MAIL FROM:<bounce@list.example.net> SIZE=4096\r\n", b"250 2.1.0 Ok\r\n");
    exchange(machine, b"RCPT TO:<user@example.org>\r\n", OK);
    exchange(machine, b"DATA\r\n", b"354 End data with <CR><LF>.<CR><LF>\r\n");
}

fn transaction(machine: &mut Machine, message: &[u8]) {
    begin(machine);
    for piece in message.chunks(PIECE) {
        black_box(client(machine, black_box(piece)));
    }
    backend(machine, b"250 2.0.0 Ok: queued as 4bXyZ12345\r\n");
}

pub fn all(look: &mut impl Look) {
    command_lines(look);
    attempts(look);
    mail_data(look);
    chunks(look);
    transactions(look);
    scanner(look);
}

/// Each with its reply.
fn command_lines(look: &mut impl Look) {
    let mut machine = Machine::new(&settings(), opening());
    exchange(&mut machine, b"MAIL FROM:<bounce@list.example.net>\r\n", OK);
    let told: [(&str, &[u8], &[u8]); 4] = [
        ("RCPT", b"RCPT TO:<user@example.org>\r\n", OK),
        ("RCPT, refused", b"RCPT TO:<nobody@example.org>\r\n", b"550 5.1.1 <nobody@example.org>: No such user\r\n"),
        ("NOOP, bare LF", b"NOOP\n", OK),
        ("EHLO", b"EHLO mail-sender-17.example.org\r\n", words::OFFER),
    ];
    for (name, command, reply) in told {
        let go = || exchange(&mut machine, command, reply);
        look.at("relay::machine, a command line", name, command.len() + reply.len(), go);
    }
    // Answered by the machine itself.
    let unknown = b"GET / HTTP/1.1\r\n";
    let go = || client(&mut machine, black_box(unknown));
    look.at("relay::machine, a command line", "unknown", unknown.len(), go);
    assert!(machine.tally().errors > 0 && machine.tally().recipients_refused > 0);
}

fn attempts(look: &mut impl Look) {
    let (command, reply) = (b"AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n", b"535 5.7.8 No\r\n");
    let mut machine = Machine::new(&settings(), opening());
    let go = || {
        exchange(&mut machine, command, reply);
        let finished = machine.take_finished().unwrap();
        assert!(finished.outcome == AuthOutcome::Failed && finished.account.is_some());
        machine.settle(Aftermath::default());
    };
    look.at("relay::machine, a command line", "AUTH PLAIN", command.len() + reply.len(), go);
}

/// One piece after the other of a message without an end.
fn mail_data(look: &mut impl Look) {
    for (name, ending) in [("16 KiB", "\r\n"), ("16 KiB, bare LF", "\n")] {
        let mut machine = Machine::new(&settings(), opening());
        begin(&mut machine);
        let piece = text(PIECE, ending);
        let go = || client(&mut machine, black_box(&piece));
        look.at("relay::machine, mail data", name, piece.len(), go);
        assert_eq!(machine.tally().mail_data.bare_lf == 0, ending == "\r\n");
    }
}

fn chunks(look: &mut impl Look) {
    let mut machine = Machine::new(&settings(), opening());
    for (name, command) in [("16 KiB", "BDAT 16384\r\n"), ("16 KiB, odd spelling", "bdat 016384\r\n")] {
        let chunk = [command.as_bytes(), &[b'x'; PIECE]].concat();
        look.at("relay::machine, a chunk", name, chunk.len(), || exchange(&mut machine, &chunk, OK));
    }
}

fn transactions(look: &mut impl Look) {
    let field =
        || Trace::new([192, 0, 2, 7].into(), "mx.test", "7K2MQ-9XV4T", || Timestamp::from_seconds(1_795_325_533));
    for (name, size, trace) in
        [("4 KiB", 4 << 10, None), ("4 KiB, a field on top", 4 << 10, Some(field())), ("10 MiB", 10 << 20, None)]
    {
        let message = message(size, "\r\n");
        let mut machine = Machine::traced(&settings(), opening(), Tls::EndToEnd, trace);
        look.at("relay::machine, a transaction", name, message.len(), || transaction(&mut machine, &message));
        assert!(machine.messages() > 0);
    }
}

fn scanner(look: &mut impl Look) {
    for (name, ending) in [("CRLF", "\r\n"), ("bare LF", "\n")] {
        let message = message(1 << 20, ending);
        look.at("data::Scanner", name, message.len(), || {
            let mut scanner = Scanner::new(BareNewline::Normalize);
            let mut rest = black_box(message.as_slice());
            loop {
                let run = scanner.step(rest);
                match run.then {
                    Then::Replace { take, with } => {
                        black_box(with);
                        rest = rest.split_at(run.pass + take).1;
                    }
                    then => break then,
                }
            }
        });
    }
}
