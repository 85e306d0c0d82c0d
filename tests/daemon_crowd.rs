//! A crowd of strangers in the greet wait: nobody else notices, and each costs little.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use daemon::{Mx, address, backend};
use host::dialogue::Dialogue;
use host::gate::Gate;
use host::letter::Letter;
use host::process::raise_descriptor_limit;
use host::wait;

/// How many strangers wait at once.
const CROWD: u32 = 5000;

/// How many of them have one address: below the limit per client.
const EACH: u32 = 40;

/// What a parked stranger may cost in resident memory. Debug builds keep more of everything.
const MOST_BYTES: u64 = if cfg!(debug_assertions) { 1200 } else { 900 };

/// A session of an allowed client that takes longer than this has been kept waiting by the crowd.
const LONGEST: Duration = Duration::from_millis(250);

/// Comes from the address of the `n`th stranger.
fn come(n: u32, gate: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address(1 + n / EACH), 0)).into()).unwrap();
    socket.connect(&gate.into()).unwrap_or_else(|error| panic!("the {n}th stranger: {error}"));
    socket.into()
}

/// The share of memory that is the gate's alone or its part of what is shared, in bytes.
fn resident(gate: &Gate) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", gate.pid())).expect("our own child");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn parked(gate: &Gate) -> f64 {
    gate.metric("gatepost_sessions", &[("state", "parked")]).unwrap_or_default()
}

/// How long a whole session of an allowed client takes, from connect to close: the middle one of many.
fn session(gate: &Gate) -> Duration {
    let mut took: Vec<Duration> = (0..21)
        .map(|_| {
            let began = Instant::now();
            let mut client = Dialogue::from(address(0), gate.smtp());
            client.expect("220");
            client.deliver(&Letter::short());
            client.expect_close();
            began.elapsed()
        })
        .collect();
    took.sort();
    took[took.len() / 2]
}

#[test]
fn five_thousand_strangers_wait_and_nobody_else_does() {
    // The test holds as many sockets as the gate, and some more.
    assert!(raise_descriptor_limit() >= u64::from(CROWD) + 200, "the hard limit of descriptors is too low");
    let backend = backend();
    let limits = "[limits]\nsessions_per_stranger = 50\nsessions_per_prefix = 10_000";
    let gate = Mx::before(&backend).waiting("60s", "60s").allowing("127.1.0.1").section(limits).start();
    let alone = session(&gate);
    let before = resident(&gate);

    let began = Instant::now();
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|n| come(n, gate.smtp())).collect();
    wait::until("all of them to wait", || (parked(&gate) == f64::from(CROWD)).then_some(()));
    let arrived = began.elapsed();
    // Each has got its teaser, so nothing that is to be done for them is still outstanding.
    let mut teaser = [0; 64];
    for stranger in &mut crowd {
        stranger.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        let length = stranger.read(&mut teaser).unwrap();
        assert!(teaser[..length].starts_with(b"220-"), "{}", teaser[..length].escape_ascii());
    }
    let each = resident(&gate).saturating_sub(before) / u64::from(CROWD);
    let among = session(&gate);
    println!(
        "{CROWD} strangers came within {arrived:?}; each costs {each} bytes of the process (PSS); \
         a session of an allowed client takes {alone:?} alone and {among:?} among them"
    );

    assert_eq!(parked(&gate), f64::from(CROWD), "all of them wait on");
    for stranger in &crowd {
        stranger.set_nonblocking(true).unwrap();
        let more = stranger.peek(&mut teaser).map_err(|error| error.kind());
        assert_eq!(more, Err(ErrorKind::WouldBlock), "nobody was greeted or sent away");
    }
    assert!(among < LONGEST, "{among:?} among the crowd, {alone:?} alone");
    assert!(each < MOST_BYTES, "each of them costs {each} bytes");

    // And they leave as easily as they came.
    drop(crowd);
    wait::until("all of them to be gone", || (parked(&gate) == 0.0).then_some(()));
    assert!(session(&gate) < LONGEST);
    let hung_up = gate.metric("gatepost_outcomes_total", &[("outcome", "hung-up")]);
    assert_eq!(hung_up, Some(f64::from(CROWD)));
}
