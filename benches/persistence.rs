//! Sessions per second with the ledger in memory alone and with its file, in turns on one machine: what keeping costs.
//!
//! Two gates run, of the same build; round by round each in its turn serves the same sessions by concurrent clients: half of
//! them by clients that are known (connect, 220, EHLO, QUIT, all through to an MTA's double), half by strangers that pass, so
//! that each of those is written. Rates, their ratio round by round, and how far these are spread are printed.
//!
//! `cargo bench --bench persistence`; `GATEPOST_ROUNDS` and `GATEPOST_SESSIONS` for more than the usual. `cargo test
//! --benches` runs a tiny round of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "it is no daemon")]

#[path = "../tests/host/mod.rs"]
mod host;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use host::gate::Gate;

/// How many clients are there at once.
const CROWD: usize = 64;

/// How many known clients take turns.
const KNOWN: u32 = 1000;

/// No session may take as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The two that are compared.
const NAMES: [&str; 2] = ["memory", "file"];

fn number(variable: &str, usual: u32) -> u32 {
    env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

fn main() {
    // cargo bench says so; cargo test does not.
    let full = env::args().any(|argument| argument == "--bench");
    let rounds = number("GATEPOST_ROUNDS", if full { 11 } else { 1 });
    let sessions = number("GATEPOST_SESSIONS", if full { 4000 } else { 100 });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mta = runtime.block_on(mta());
    let gates = NAMES.map(|name| start(mta, name));
    let (known, mut strangers) = (first(10), first(20));
    // Whoever is to be known passes once; what is warmed up besides is welcome.
    for gate in &gates {
        runtime.block_on(crowd(gate.smtp(), (0..KNOWN.min(sessions)).map(|n| known + n).collect()));
    }
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let mut line = format!("round {:>2}", round + 1);
        for which in [round as usize % 2, (round as usize + 1) % 2] {
            let clients =
                (0..sessions).map(|n| if n % 2 == 0 { known + n / 2 % KNOWN.min(sessions) } else { strangers + n });
            let took = runtime.block_on(crowd(gates[which].smtp(), clients.collect()));
            let rate = f64::from(sessions) / took.as_secs_f64();
            write!(line, "  {:>6} {rate:>6.0}/s", NAMES[which]).expect("a string takes all");
            rates[which].push(rate);
        }
        strangers += sessions;
        println!("{line}");
    }
    report(&rates);
    for (name, gate) in NAMES.iter().zip(gates) {
        let (entries, cpu) = (gate.metric("gatepost_ledger_entries", &[]), processor(&gate));
        let file = fs::metadata(gate.dir().join("ledger.redb")).map_or(0, |file| file.len());
        println!(
            "{name:>6}: {} clients remembered, a file of {file} bytes, {cpu:.2} s of processor",
            entries.unwrap_or(0.0)
        );
        assert_eq!(file > 0, *name == "file", "who keeps what");
    }
}

/// The first of many loopback addresses.
fn first(net: u8) -> u32 {
    Ipv4Addr::new(127, net, 0, 0).to_bits()
}

/// A gate that keeps what it remembers in a file, or does not.
fn start(mta: SocketAddr, name: &str) -> Gate {
    Gate::start(|at| {
        let path = if name == "file" { at.dir.join("ledger.redb").display().to_string() } else { name.to_owned() };
        format!(
            "hostname = \"mx.example.test\"\nadmin = \"{}\"\n[[gate]]\nlisten = \"{}\"\nbackend = \"{mta}\"\n\
             announce = \"proxy-v1\"\n[greet]\nwait_min = \"5ms\"\nwait_max = \"10ms\"\nteaser = false\n[access]\nallow = []\n\
             [tests]\nhelo = {{ names = \"off\", syntax = \"off\" }}\npipelining = \"off\"\nnot-smtp = \"off\"\n\
             bare-newline = \"off\"\nauth-not-offered = \"off\"\n[limits]\nsessions_per_prefix = 10_000\n\
             [ledger]\npath = \"{path}\"\n",
            at.admin, at.smtp
        )
    })
}

/// The seconds of processor that a gate has used.
fn processor(gate: &Gate) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gate.pid())).expect("our own child");
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

/// An MTA's double that says yes to everything.
async fn mta() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut stream, mut line) = (BufReader::new(stream), String::new());
    stream.read_line(&mut line).await?;
    stream.write_all(b"220 mx.test ESMTP\r\n").await?;
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line.get(..4).unwrap_or_default() {
            "EHLO" => stream.write_all(b"250-mx.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n").await?,
            "QUIT" => return stream.write_all(b"221 2.0.0 bye\r\n").await,
            _ => stream.write_all(b"250 2.0.0 ok\r\n").await?,
        }
    }
}

/// One session of each of `clients`, so many at once. How long all of them took.
async fn crowd(server: SocketAddr, clients: Vec<u32>) -> Duration {
    let (clients, next) = (Arc::new(clients), Arc::new(AtomicU32::new(0)));
    let began = Instant::now();
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let (clients, next) = (Arc::clone(&clients), Arc::clone(&next));
            tokio::spawn(async move {
                while let Some(client) = clients.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let client = Ipv4Addr::from_bits(*client);
                    let done = timeout(PATIENCE, session(client, server)).await;
                    done.expect("in time").unwrap_or_else(|error| panic!("{client}: {error}"));
                }
            })
        })
        .collect();
    for one in crowd {
        one.await.expect("a client");
    }
    began.elapsed()
}

async fn session(client: Ipv4Addr, server: SocketAddr) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((client, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    reply(&mut stream, "220").await?;
    stream.write_all(b"EHLO client.test\r\n").await?;
    reply(&mut stream, "250").await?;
    stream.write_all(b"QUIT\r\n").await?;
    reply(&mut stream, "221").await?;
    let mut rest = String::new();
    stream.read_line(&mut rest).await.map(drop)
}

async fn reply(stream: &mut BufReader<TcpStream>, code: &str) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        if !line.starts_with(code) {
            return Err(io::Error::other(line));
        }
        if line.as_bytes().get(3) == Some(&b' ') {
            return Ok(());
        }
    }
}

/// The middle one, and those a quarter from either end.
fn quartiles(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |quarter: usize| sorted[(sorted.len() - 1) * quarter / 4];
    (at(1), at(2), at(3))
}

fn report(rates: &[Vec<f64>; 2]) {
    for (name, rates) in NAMES.iter().zip(rates) {
        let (low, middle, high) = quartiles(rates);
        println!("{name:>6}: median {middle:.0} sessions/s, the middle half from {low:.0} to {high:.0}");
    }
    let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(memory, file)| file / memory).collect();
    let (low, middle, high) = quartiles(&ratios);
    println!(
        "with the file / in memory, round by round: median {middle:.3}, the middle half from {low:.3} to {high:.3}"
    );
}
