//! The ledger with a million clients in it: what one recall and one remember cost, while a writer asks for what changes;
//! and what else is looked up at the door: bans, and what is counted of a client.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use gatepost::addr::ClientKey;
use gatepost::ledger::embedded::Source;
use gatepost::ledger::{Kept, Ledger, Settings};
use gatepost::policy::ban::{Decision, Reason, What};
use gatepost::policy::guard::{Rules, Strike, Tally};
use gatepost::screen::{Standing, Test};
use gatepost::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);
const ENTRIES: u32 = 1_000_000;
const TALLIES: u32 = 250_000;
const BANS: u32 = 100_000;

/// Addresses in an order that no cache line likes.
fn client(n: u32) -> ClientKey {
    ClientKey::V4(n.wrapping_mul(2_654_435_761))
}

fn full() -> (Ledger, Standing) {
    let ledger = Ledger::open(Settings { entries: ENTRIES as usize, ..Settings::default() });
    let mut standing = Standing::stranger();
    standing.pass(Test::Pregreet, NOW.plus(Duration::from_secs(86_400)));
    for n in 0..ENTRIES + ENTRIES / 8 {
        ledger.remember(client(n), standing, NOW);
    }
    assert_eq!(ledger.len(), ENTRIES as usize);
    (ledger, standing)
}

/// A thread that takes what has changed, as the one that writes the file does.
struct Drain {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Drain {
    fn begin(ledger: &Arc<Ledger>) -> Self {
        let (mut kept, over) = (Kept::of(Arc::clone(ledger)), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let (mut changes, mut taken) = (Vec::new(), 0);
            while !done.load(Ordering::Relaxed) {
                // Twice a second, a transaction's worth at the most.
                for _ in 0..12 {
                    changes.clear();
                    kept.drain(&mut changes, 4096);
                    taken += changes.len() as u64;
                    if changes.len() < 4096 {
                        break;
                    }
                }
                thread::park_timeout(Duration::from_millis(500));
            }
            taken
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            println!("{} changes were asked for meanwhile", thread.join().unwrap_or_default());
        }
    }
}

fn known(criterion: &mut Criterion, name: &str, ledger: &Ledger, standing: Standing) {
    let mut n = 0u32;
    criterion.bench_function(name, |bench| {
        bench.iter(|| {
            n = (n + 7919) % ENTRIES;
            let client = client(n);
            black_box(ledger.recall(client, NOW));
            ledger.remember(client, standing, NOW);
        });
    });
}

fn new(criterion: &mut Criterion, name: &str, ledger: &Ledger, standing: Standing) {
    let mut stranger = 2 * ENTRIES;
    criterion.bench_function(name, |bench| {
        bench.iter(|| {
            stranger = stranger.wrapping_add(1);
            let client = client(stranger);
            black_box(ledger.recall(client, NOW));
            ledger.remember(client, standing, NOW);
        });
    });
}

fn ledger(criterion: &mut Criterion) {
    let (ledger, standing) = full();
    let ledger = Arc::new(ledger);
    known(criterion, "recall and remember, known", &ledger, standing);
    new(criterion, "recall and remember, new to a full ledger", &ledger, standing);
    let _drain = Drain::begin(&ledger);
    known(criterion, "recall and remember, known, changes asked for", &ledger, standing);
    new(criterion, "recall and remember, new to a full ledger, changes asked for", &ledger, standing);
}

/// Of each ten bans, seven are of IPv4 clients, two of IPv6 clients, one of a network.
fn banned(n: u32) -> IpAddr {
    let bits = n.wrapping_mul(2_654_435_761);
    match n % 10 {
        0..7 | 9 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from(u128::from(0x2001_0db8_0000_0000 | u64::from(bits)) << 64).into(),
    }
}

fn door(criterion: &mut Criterion) {
    let ledger = Ledger::open(Settings::default());
    for n in 0..BANS {
        let client = ClientKey::of(banned(n));
        let network = if n % 10 == 9 { client.neighbourhood() } else { client.network() };
        let ban = Decision {
            what: What::Ban,
            reason: Reason::Failures,
            count: 5,
            level: 1,
            begin: NOW,
            until: Some(NOW.plus(Duration::from_secs(600 + u64::from(n)))),
            who: "mx1".into(),
            evidence: "5 failed AUTH exchanges within 10m".into(),
        };
        ledger.decisions().decide(network, ban);
    }
    let bans = ledger.decisions().all(NOW).len();
    let mut group = criterion.benchmark_group(format!("at the door, {bans} bans"));
    let mut n = 0;
    group.bench_function("a banned client", |bench| {
        bench.iter(|| {
            n = (n + 7919) % BANS;
            assert!(ledger.decisions().of(banned(n), NOW).is_some());
        });
    });
    for (name, other) in [("another client, IPv4", 0_u32), ("another client, IPv6", 8)] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                n = n.wrapping_add(10) | 0x8000_0000;
                black_box(ledger.decisions().of(banned(n - n % 10 + other), NOW))
            });
        });
    }
    group.finish();
}

fn tally(criterion: &mut Criterion) {
    let ledger = Ledger::open(Settings::default());
    let rules = Rules::default();
    for n in 0..TALLIES {
        let mut tally = Tally::default();
        tally.strike(Strike::Failed(Some(n)), &rules, NOW.seconds() as u32, n);
        ledger.take_tally(client(n), tally, NOW);
    }
    let mut group = criterion.benchmark_group(format!("what speaks against a client, {TALLIES} counted"));
    for (name, first) in [("one that failed", 0), ("one that did not", TALLIES)] {
        let mut n = 0;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                n = (n + 7919) % TALLIES;
                black_box(ledger.is_bad(client(first + n), &rules, NOW))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, ledger, door, tally);
criterion_main!(benches);
