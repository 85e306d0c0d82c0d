//! What it costs to read a command line, a command and a reply.

#![allow(missing_docs, reason = "criterion's macros write the functions that this is about")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatepost::smtp::command::Command;
use gatepost::smtp::line::{self, COMMAND_LIMIT};
use gatepost::smtp::reply;

/// The commands of a usual transaction.
const DIALOGUE: [&[u8]; 6] = [
    b"EHLO mail-sender-17.example.org",
    b"STARTTLS",
    b"MAIL FROM:<bounce+2026-11-22-user=example.org@list.example.net> SIZE=48211 BODY=8BITMIME",
    b"RCPT TO:<user@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;user@example.org",
    b"DATA",
    b"QUIT",
];

const GREETING: &[u8] = b"220 mx.example.org ESMTP\r\n";

const OFFER: &[u8] =
    b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n250-STARTTLS\r\n\
    250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n";

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("line::scan");
    let long = [b"MAIL FROM:<a@b> ENVID=", "x".repeat(1900).as_bytes(), b"\r\n"].concat();
    for (name, line) in [("command", &b"RCPT TO:<user@example.org>\r\n"[..]), ("long", &long)] {
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| line::scan(black_box(line), COMMAND_LIMIT)));
    }
    group.finish();
}

fn command(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("Command::parse");
    group.throughput(Throughput::Elements(DIALOGUE.len() as u64));
    group.bench_function("dialogue", |bencher| {
        bencher.iter(|| {
            for line in DIALOGUE {
                black_box(Command::parse(black_box(line)));
            }
        })
    });
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reply::parse");
    for (name, raw) in [("greeting", GREETING), ("offer", OFFER)] {
        group.throughput(Throughput::Bytes(raw.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| matches!(reply::parse(black_box(raw)), reply::Parsed::Complete(_)))
        });
    }
    group.finish();
}

criterion_group!(words, scan, command, replies);
criterion_main!(words);
