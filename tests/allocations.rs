//! What the parts allocate: nothing, wherever a line or a piece of mail passes through; elsewhere no more than there is a
//! reason for. The parts are those of the benchmarks (`benches/parts`).
//!
//! Counted is what this thread asks the allocator for, a reallocation too, once a part has what it keeps from one go to the
//! next.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a part that does not do what it is for fails the test")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::future::pending;
use std::net::Ipv4Addr;

use allocation_counter::measure;
use gatepost::relay::{Sides, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

#[path = "../benches/parts/mod.rs"]
mod parts;

use parts::Look;
use parts::relay::{message, opening, settings};

/// Which parts may allocate in one go: so often, so many bytes, and why. All others must not.
const MAY: &[(&str, f64, f64, &str)] = &[
    ("auth::Exchange/PLAIN", 2.0, 64.0, "base64 is decoded into memory that is wiped; the account's name is kept"),
    ("auth::Exchange/LOGIN", 3.0, 64.0, "the same, of two lines"),
    ("auth::Exchange/CRAM-MD5", 2.0, 64.0, "the same"),
    ("relay::machine, a command line/AUTH PLAIN", 2.0, 64.0, "the same"),
    ("ehlo::Offer/read", 2.0, 1024.0, "the lines of the offer are kept, for as long as the backend's answer counts"),
    ("relay::machine, a command line/EHLO", 3.0, 1536.0, "the same, and the reply that is written from it"),
    ("relay::machine, a chunk/16 KiB, odd spelling", 2.0, 64.0, "the command is written anew"),
    ("relay::machine, a transaction/4 KiB, a field on top", 12.0, 1024.0, "the field is written, once a message"),
    ("score/parse_list, 12 sites", 100.0, 8192.0, "done when the configuration is read"),
    ("ledger, 1000 clients/remember, new", 0.05, 2000.0, REHASH),
    ("ledger, 10000 clients/remember, new", 0.05, 2000.0, REHASH),
];

const REHASH: &str = "now and then a shard's table is full of traces of those who gave way, and is laid out anew";

/// Compares all parts with [`MAY`].
#[derive(Default)]
struct Judge {
    seen: BTreeSet<String>,
    faults: String,
}

impl Look for Judge {
    fn at<T>(&mut self, group: &str, name: &str, bytes: usize, go: impl FnMut() -> T) {
        let part = format!("{group}/{name}");
        let (info, goes) = parts::allocated(bytes, go);
        let (count, bytes) = (info.count_total, info.bytes_total);
        let (most, most_bytes) = match MAY.iter().find(|row| row.0 == part) {
            Some((_, most, most_bytes, _)) => (*most, *most_bytes),
            None => (0.0, 0.0),
        };
        if count as f64 > most * goes as f64 || bytes as f64 > most_bytes * goes as f64 {
            let most = format!("{most} ({most_bytes} bytes)");
            writeln!(self.faults, "{part}: {count} ({bytes} bytes) in {goes} goes; in one, {most} at the most")
                .unwrap();
        }
        if most >= 1.0 && count == 0 {
            writeln!(self.faults, "{part}: allocates nothing any more, and need not be allowed to").unwrap();
        }
        assert!(self.seen.insert(part), "looked at twice");
    }
}

#[test]
fn nothing_is_allocated_without_a_reason() {
    let mut judge = Judge::default();
    parts::words::all(&mut judge);
    parts::relay::all(&mut judge);
    parts::score::all(&mut judge);
    parts::departure::all(&mut judge);
    for entries in [1000, 10_000] {
        parts::ledger::standings(&mut judge, &format!("ledger, {entries} clients"), &parts::ledger::full(entries));
    }
    parts::ledger::door(&mut judge, 1000);
    parts::ledger::tallies(&mut judge, 1000);
    for (part, ..) in MAY {
        if !judge.seen.contains(*part) {
            writeln!(judge.faults, "{part}: there is no such part").unwrap();
        }
    }
    assert!(judge.faults.is_empty(), "\n{}", judge.faults);
}

/// A client, a relay and a backend, all on one thread.
struct Visit {
    client: TcpStream,
    backend: TcpStream,
    /// Room for what either is to get.
    got: Vec<u8>,
}

impl Visit {
    async fn begin() -> Self {
        let ((client, near), (far, backend)) = (connected().await, connected().await);
        let sides = Sides { client: near, client_bytes: Vec::new(), backend: far, backend_bytes: Vec::new() };
        tokio::spawn(async { run(sides, opening(), &settings(), pending(), |_| {}).await });
        Self { client, backend, got: vec![0; 17 << 20] }
    }

    /// `said` by the client reaches the backend, and `reply` the client.
    async fn exchange(&mut self, said: &[u8], reply: &[u8]) {
        let got = self.got.get_mut(..said.len()).unwrap();
        let (sent, came) = tokio::join!(self.client.write_all(said), self.backend.read_exact(got));
        assert!(sent.is_ok() && came.is_ok() && got == said);
        self.backend.write_all(reply).await.unwrap();
        let got = self.got.get_mut(..reply.len()).unwrap();
        assert!(self.client.read_exact(got).await.is_ok() && got == reply);
    }

    async fn deliver(&mut self, message: &[u8]) {
        self.exchange(b"MAIL FROM:<a@example.org>\r\n", b"250 2.1.0 Ok\r\n").await;
        self.exchange(b"RCPT TO:<b@example.net>\r\n", b"250 2.1.5 Ok\r\n").await;
        self.exchange(b"DATA\r\n", b"354 Go on\r\n").await;
        self.exchange(message, b"250 2.0.0 Ok\r\n").await;
    }
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    (near, far)
}

#[test]
fn between_two_connections_a_message_allocates_nothing_however_long_it_is() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut visit = runtime.block_on(Visit::begin());
    let (short, long) = (message(4 << 10, "\r\n"), message(16 << 20, "\r\n"));
    // The thread has its stock of buffers from here on.
    runtime.block_on(visit.deliver(&long));
    for message in [&short, &long] {
        let info = measure(|| runtime.block_on(visit.deliver(message)));
        // Of the runtime's own: its list of tasks that have had their share for now, once each time that it is entered.
        assert!(info.count_total <= 1 && info.bytes_total <= 64, "{} bytes of mail: {info:?}", message.len());
    }
}

#[test]
fn a_relay_in_which_nothing_moves_holds_no_buffer() {
    const VISITS: i64 = 50;
    /// The relay's state, its two sockets and its task; a buffer alone would be 16 KiB.
    const MOST: i64 = 4 << 10;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let message = message(64 << 10, "\r\n");
    let go = || {
        runtime.block_on(async {
            let mut visit = Visit::begin().await;
            visit.deliver(&message).await;
            // What is the test's own.
            visit.got = Vec::new();
            visit
        })
    };
    let _first = go();
    let mut visits = Vec::with_capacity(VISITS as usize);
    let info = measure(|| visits.extend((0..VISITS).map(|_| go())));
    assert!(info.bytes_current < VISITS * MOST, "{} bytes each", info.bytes_current / VISITS);
}

#[test]
fn what_is_allocated_is_seen() {
    let (info, goes) = parts::allocated(0, || vec![0_u8; 100]);
    assert_eq!((info.count_total, info.bytes_total), (goes, 100 * goes));
    let mut judge = Judge::default();
    judge.at("a part", "that is not to allocate", 0, || Box::new(0_u64));
    assert!(judge.faults.contains("a part/that is not to allocate: 1000 (8000 bytes)"), "{}", judge.faults);
}
