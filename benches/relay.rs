//! What it costs to follow a dialogue: the machine alone, whole messages in one piece and in pieces of a driver's size.

#![allow(missing_docs, reason = "criterion's macros write the functions that this is about")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatepost::relay::machine::{Machine, Step};
use gatepost::relay::{BareNewline, Limits, Opening, Settings, Timeouts};
use gatepost::smtp::data::{Scanner, Then};
use gatepost::smtp::ehlo::{Keyword, Keywords};

/// How much a driver reads at once.
const PIECE: usize = 16 * 1024;

fn settings() -> Settings {
    let long = Duration::from_secs(300);
    Settings {
        auth: false,
        bare_newline: BareNewline::Normalize,
        max_errors: 20,
        limits: Limits::default(),
        timeouts: Timeouts { command: long, data: long, reply: long, end_of_data: long, write: long },
    }
}

/// Lines of base64 length, as in most large mail, up to `size` bytes and the end of data.
fn message(size: usize, ending: &str) -> Vec<u8> {
    let line =
        format!("{}{ending}", "TWFpbCBpcyBtb3N0bHkgYmFzZTY0IGxpbmVzLCA3NiBieXRlcyBlYWNoIG9m".repeat(2).split_at(76).0);
    let mut text = line.repeat(size / line.len());
    text.push_str("\r\n.\r\n");
    text.into_bytes()
}

/// Everything that the machine says about `input`; how many bytes of it were passed on as they were.
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
            Step::Wait | Step::Hold | Step::AskLeave | Step::StartTls | Step::Close(_) => return passed,
        };
        input = input.split_at(used).1;
    }
}

fn backend(machine: &mut Machine, mut input: &[u8]) {
    while let Step::Pass(count) = machine.backend_step(input, false, false) {
        black_box(machine.take_event());
        input = input.split_at(count).1;
    }
}

fn transaction(machine: &mut Machine, message: &[u8]) {
    client(machine, b"MAIL FROM:<bounce@list.example.net> SIZE=4096\r\n");
    backend(machine, b"250 2.1.0 Ok\r\n");
    client(machine, b"RCPT TO:<user@example.org>\r\n");
    backend(machine, b"250 2.1.5 Ok\r\n");
    client(machine, b"DATA\r\n");
    backend(machine, b"354 End data with <CR><LF>.<CR><LF>\r\n");
    for piece in message.chunks(PIECE) {
        black_box(client(machine, black_box(piece)));
    }
    backend(machine, b"250 2.0.0 Ok: queued as 4bXyZ12345\r\n");
}

fn machine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay::machine");
    for (name, size) in [("4 KiB", 4 << 10), ("10 MiB", 10 << 20)] {
        let message = message(size, "\r\n");
        let opening = Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Size), transaction: false };
        let mut machine = Machine::new(&settings(), opening);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| transaction(&mut machine, &message)));
        assert!(machine.tally().messages > 0);
    }
    group.finish();
}

fn scanner(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("data::Scanner");
    for (name, ending) in [("CRLF", "\r\n"), ("bare LF", "\n")] {
        let message = message(1 << 20, ending);
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
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
            })
        });
    }
    group.finish();
}

criterion_group!(benches, machine, scanner);
criterion_main!(benches);
