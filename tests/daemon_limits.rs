//! The limits at the door, seen from outside: who is turned away first, who notices nothing, and stress.

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
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use daemon::{Mx, address, assert_says, backend, from};
use host::dialogue::{Dialogue, stuffed};
use host::gate::Gate;
use host::letter::Letter;
use host::wait;

/// The zombie: one address, and all that it can open.
const ZOMBIE: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);
const ITS_SESSIONS: usize = 300;

/// Honest clients who work meanwhile, and how many letters each brings.
const HONEST: u32 = 50;
const LETTERS: u32 = 4;

/// How long things took, in the order of their length.
struct Took(Vec<Duration>);

impl Took {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        Self(all)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

impl std::fmt::Display for Took {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |percent| self.at(percent).as_secs_f64() * 1000.0;
        write!(f, "p50 {:8.1} ms   p95 {:8.1} ms   max {:8.1} ms", millis(50), millis(95), millis(100))
    }
}

/// A letter brought: how long until the banner, and until the 250 behind the data. Whatever goes wrong ends the test.
fn bring(client: Ipv4Addr, gate: SocketAddr) -> [Duration; 2] {
    let began = Instant::now();
    let mut client = Dialogue::from(client, gate);
    client.expect("220");
    let banner = began.elapsed();
    let letter = Letter::short();
    client.say("EHLO client.test").expect("250");
    client.say(&format!("MAIL FROM:<{}>", letter.from)).expect("250");
    for recipient in &letter.to {
        client.say(&format!("RCPT TO:<{recipient}>")).expect("250");
    }
    client.say("DATA").expect("354");
    client.send(stuffed(&letter.bytes)).expect("250");
    let taken = began.elapsed();
    client.say("QUIT").expect("221");
    [banner, taken]
}

/// The honest at work, from the `first` address on: each comes once as a stranger, and then as one that is known.
fn work(first: u32, gate: SocketAddr) -> [[Took; 2]; 2] {
    let took: Vec<[[Duration; 2]; 5]> = thread::scope(|scope| {
        let visits = |n| move || std::array::from_fn(|_| bring(address(first + n), gate));
        let threads: Vec<_> = (0..HONEST).map(|n| scope.spawn(visits(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an honest client was turned away")).collect()
    });
    assert_eq!(LETTERS as usize + 1, took[0].len());
    let of = |visits: std::ops::Range<usize>, what: usize| {
        Took::of(took.iter().flat_map(|visit| &visit[visits.clone()]).map(|took| took[what]).collect())
    };
    [0..1, 1..5].map(|visits| [of(visits.clone(), 0), of(visits, 1)])
}

/// Holds hundreds of sessions open, or tries to: whichever is turned away is tried again.
fn hold(gate: SocketAddr, over: &AtomicBool, refused: &AtomicU32) {
    let come = || Dialogue::try_from(ZOMBIE, gate).ok();
    let mut held: Vec<Option<Dialogue>> = (0..ITS_SESSIONS / 10).map(|_| come()).collect();
    while !over.load(Ordering::Relaxed) {
        for session in &mut held {
            let Some(client) = session else {
                *session = come();
                continue;
            };
            client.patience(Duration::from_millis(1));
            let turned_away = match client.line() {
                Ok(Some(line)) => line.starts_with("421"),
                Ok(None) => true,
                Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
            };
            if turned_away {
                refused.fetch_add(1, Ordering::Relaxed);
                *session = None;
            }
        }
        thread::park_timeout(Duration::from_millis(250));
    }
}

#[test]
fn three_hundred_sessions_of_one_address_are_not_noticed_by_fifty_honest_clients() {
    let backend = backend();
    let gate = Mx::before(&backend).start();
    let smtp = gate.smtp();
    let without = work(1, smtp);
    let (over, refused) = (AtomicBool::new(false), AtomicU32::new(0));
    let with = thread::scope(|scope| {
        let zombie: Vec<_> = (0..10).map(|_| scope.spawn(|| hold(smtp, &over, &refused))).collect();
        wait::until("the zombie to be turned away", || (refused.load(Ordering::Relaxed) >= 280).then_some(()));
        let with = work(1001, smtp);
        over.store(true, Ordering::Relaxed);
        zombie.into_iter().for_each(|thread| thread.thread().unpark());
        with
    });
    println!("{HONEST} honest clients, without and with {ITS_SESSIONS} sessions of one address");
    for (visits, who) in ["strangers (wait_min 300 ms)", "known"].into_iter().enumerate() {
        for (what, word) in ["banner", "250"].into_iter().enumerate() {
            println!("{who}, to the {word}\n  without {}\n  with    {}", without[visits][what], with[visits][what]);
        }
    }
    let client = gate.metric("gatepost_limit_refusals_total", &[("limit", "client")]).unwrap();
    let rate = gate.metric("gatepost_limit_refusals_total", &[("limit", "rate")]).unwrap();
    println!("the zombie was turned away {client} times for its sessions at once, {rate} for its rate");
    assert!(client + rate >= 280.0);
    for visits in 0..2 {
        for what in 0..2 {
            let (before, after) = (without[visits][what].at(50), with[visits][what].at(50));
            assert!(after < before * 3 + Duration::from_millis(200), "{before:?} became {after:?}");
        }
    }
}

#[test]
fn strangers_fill_the_house_and_those_who_are_known_still_come_in() {
    let backend = backend();
    let gate = Mx::before(&backend)
        .allowing("127.2.0.1")
        .section("[limits]\nsessions = 20\nreserved_percent = 20\nstress_command_time = \"5m\"")
        .start();
    let (known, allowed) = (address(1), Ipv4Addr::new(127, 2, 0, 1));
    bring(known, gate.smtp());
    gate.wait_for_record(from(known));

    let mut strangers: Vec<Dialogue> = (0..16).map(|n| Dialogue::from(address(100 + n), gate.smtp())).collect();
    for stranger in &mut strangers {
        stranger.expect("220");
    }
    let one_more = address(200);
    let mut client = Dialogue::from(one_more, gate.smtp());
    client.expect_line("421 4.3.2 mx.example.test All screening ports are busy");
    client.expect_close();
    let said = json!("the places that are free are kept for others");
    let record = gate.wait_for_record(from(one_more));
    assert_says(&record, &[("outcome", json!("limited")), ("recognition", json!("stranger")), ("note", said)]);
    let [reserved, total] =
        ["reserved", "total"].map(|limit| gate.metric("gatepost_limit_refusals_total", &[("limit", limit)]));
    assert_eq!((reserved, total), (Some(1.0), Some(0.0)));

    for client in [known, allowed] {
        bring(client, gate.smtp());
    }
    wait::until("their places to be free", || {
        let visits = |client| gate.journal().iter().filter(|record| from(client)(record)).count();
        (visits(known) == 2 && visits(allowed) == 1).then_some(())
    });
    let mut known: Vec<Dialogue> = (0..4).map(|_| Dialogue::from(known, gate.smtp())).collect();
    for client in &mut known {
        client.expect("220 mx.test ");
    }
    let mut last = Dialogue::from(allowed, gate.smtp());
    last.expect_line("421 4.3.2 ");
    assert_eq!(gate.metric("gatepost_limit_refusals_total", &[("limit", "total")]), Some(1.0));
    // And those who were in stay in.
    for client in strangers.iter_mut().chain(&mut known) {
        client.say("QUIT").expect("221");
    }
}

#[test]
fn who_comes_too_often_hears_when_to_come_again() {
    let backend = backend();
    let gate = Mx::before(&backend).waiting("0s", "1s").section("[limits]\nrate_per_stranger = \"3/1h\"").start();
    for _ in 0..3 {
        Dialogue::from(address(1), gate.smtp()).expect("220");
    }
    let mut fourth = Dialogue::from(address(1), gate.smtp());
    let reply = fourth.expect_line("421 4.7.0 mx.example.test Too many connections from your address in a short time");
    fourth.expect_close();
    let seconds: u64 = reply.split("try again in ").nth(1).unwrap().split(" s;").next().unwrap().parse().unwrap();
    assert!((1..=1200).contains(&seconds), "{reply}");
    Dialogue::from(address(2), gate.smtp()).expect("220");
    assert_eq!(gate.metric("gatepost_limit_refusals_total", &[("limit", "rate")]), Some(1.0));
    let limited = gate.wait_for_record(|record| record["outcome"] == "limited");
    assert_says(&limited, &[("note", json!("too many new sessions of the client")), ("stage", json!("recall"))]);
}

#[test]
fn a_network_of_bots_is_one_neighbourhood() {
    let backend = backend();
    let gate = Mx::before(&backend).section("[limits]\nsessions_per_client = 2\nsessions_per_prefix = 5").start();
    let come = |n: u8, host: u8| Dialogue::from(Ipv4Addr::new(127, 3, n, host), gate.smtp());
    let mut bots: Vec<Dialogue> = (1..=5).map(|host| come(1, host)).collect();
    bots.iter_mut().for_each(|bot| drop(bot.expect("220")));
    come(1, 6).expect_line("421 4.7.0 mx.example.test Too many connections from your network");
    come(2, 1).expect("220");
    assert_eq!(gate.metric("gatepost_limit_refusals_total", &[("limit", "prefix")]), Some(1.0));
}

#[test]
fn stress_begins_hurries_strangers_and_ends() {
    const PATIENT: Duration = Duration::from_secs(1);
    let backend = backend();
    let gate = Mx::before(&backend)
        .waiting("2m", "2m")
        .gate("greet.stress_wait = \"100ms\"")
        .section("[limits]\nsessions = 20\nreserved_percent = 50\nstress_command_time = \"5m\"")
        .start();
    let stress = || gate.metric("gatepost_stress", &[]).unwrap();
    let come = |n| {
        let mut client = Dialogue::from(address(n), gate.smtp());
        client.expect_line("220-");
        client
    };
    let mut waiting: Vec<Dialogue> = (0..8).map(come).collect();
    waiting[7].expect_silence(PATIENT);
    assert_eq!(stress(), 0.0);
    let mut ninth = come(8);
    assert_eq!(stress(), 1.0);
    ninth.expect_line("220 ");
    let mut tenth = come(9);
    tenth.expect_line("220 ");
    Dialogue::from(address(10), gate.smtp()).expect_line("421 4.3.2 ");
    waiting[7].expect_silence(PATIENT);

    // At eight it goes on, at seven it ends.
    tenth.say("QUIT").expect("221");
    tenth.expect_close();
    drop(waiting.pop());
    wait::until("two of them to be gone", || (gate.journal().len() == 3).then_some(()));
    assert_eq!(stress(), 1.0);
    ninth.say("QUIT").expect("221");
    ninth.expect_close();
    wait::until("stress to end", || (stress() == 0.0).then_some(()));
    come(11).expect_silence(PATIENT);
    let said = gate.complaints();
    for words in ["under stress: nine tenths", "no longer under stress"] {
        assert_eq!(said.matches(words).count(), 1, "{words}\n{said}");
    }
}

/// Ticks a second, as the kernel tells them to programs.
const TICKS: u64 = 100;

/// What the process has computed so far, in the system's ticks.
fn ticks(gate: &Gate) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gate.pid())).expect("our own child");
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [11, 12].iter().map(|field| fields[*field].parse::<u64>().unwrap()).sum()
}

#[test]
fn a_flood_over_the_limit_costs_little_and_leaves_one_record_each() {
    const FLOOD: u32 = 3000;
    let backend = backend();
    let gate = Mx::before(&backend)
        .waiting("2m", "2m")
        .section("[limits]\nsessions_per_stranger = 1\n[dnsbl]\nsites = \"bl.example\"\nnameservers = \"127.0.0.1:1\"\nself_test = false")
        .start();
    let mut first = Dialogue::from(ZOMBIE, gate.smtp());
    first.expect_line("220-");
    let before = ticks(&gate);
    let began = Instant::now();
    for _ in 0..FLOOD {
        Dialogue::from(ZOMBIE, gate.smtp()).expect_line("421 4.7.0 ");
    }
    let took = began.elapsed();
    let limited = wait::within(wait::PATIENCE, || {
        (gate.metric("gatepost_outcomes_total", &[("outcome", "limited")]) == Some(f64::from(FLOOD))).then_some(())
    });
    let computed = (ticks(&gate) - before) * 1_000_000 / TICKS;
    println!(
        "{FLOOD} connections over the limit in {took:?}; each cost the gate {} µs of computing, accept to close",
        computed / u64::from(FLOOD)
    );
    assert!(limited.is_some());
    // The one that waits is asked about, and nobody else.
    let asked = gate.metric("gatepost_dnsbl_queries_total", &[]).unwrap_or_default();
    assert!(asked <= 3.0, "{asked} questions");
    assert_eq!(gate.stop().iter().filter(|record| record["outcome"] == "limited").count(), FLOOD as usize);
}
