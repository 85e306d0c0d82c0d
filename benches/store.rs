//! The ledger's file with a million records in it: what a round of changes costs, and how long a start takes.

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use parking_lot::Mutex;

use gatepost::clock::Clock;
use gatepost::ledger::embedded::{Change, Settings, Source, Store, Table};

const RECORDS: u32 = 1_000_000;
const LONG: Duration = Duration::from_secs(600);

/// A record is its number, over and over: the bench remembers none of them.
#[derive(Clone, Default)]
struct Changed(Arc<Mutex<Vec<u32>>>);

impl Source for Changed {
    fn drain(&mut self, out: &mut Vec<Change>, most: usize) {
        let mut changed = self.0.lock();
        let rest = changed.len().saturating_sub(most);
        out.extend(changed.drain(rest..).map(|n| {
            let mut value = [0; 40];
            value[..4].copy_from_slice(&n.to_le_bytes());
            Change { table: Table::Standings, key: key(n), value: Some(value.into()) }
        }));
    }

    fn all(&mut self) {
        self.0.lock().extend(0..RECORDS);
    }
}

/// An address, of those that come in no order.
fn key(n: u32) -> Box<[u8]> {
    let [a, b, c, d] = n.wrapping_mul(2_654_435_761).to_be_bytes();
    Box::new([4, a, b, c, d])
}

fn start(path: &Path, changed: &Changed) -> Store {
    let mut settings = Settings::at(path);
    settings.interval = LONG;
    let store = Store::open(settings, Clock::system(), |_, _, _| true).map(|opened| {
        assert!(opened.records() == 0 || opened.records() == u64::from(RECORDS));
        opened.start(changed.clone()).expect("a thread")
    });
    store.expect("the file opens")
}

/// What a killed process leaves: the file as it is while it is open.
fn left_by_kill(path: &Path, to: &Path) {
    fs::copy(path, to).expect("a copy");
}

fn store(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.redb");
    let changed = Changed::default();
    let store = start(&path, &changed);
    changed.clone().all();
    assert!(store.flush(LONG));
    println!("a million records: {} MiB", store.state().bytes >> 20);

    let mut group = criterion.benchmark_group("the ledger's file, a million records");
    group.sample_size(10);
    let mut n = 0_u32;
    for many in [1_000, 10_000] {
        group.bench_function(format!("commit {many} changes"), |bench| {
            bench.iter(|| {
                changed.0.lock().extend((0..many).map(|_| {
                    n = (n + 7919) % RECORDS;
                    n
                }));
                assert!(store.flush(LONG));
            });
        });
    }
    println!("after that: {} MiB", store.state().bytes >> 20);
    let killed = folder.path().join("killed.redb");
    group.bench_function("open and read after kill -9", |bench| {
        bench.iter_batched(
            || left_by_kill(&path, &killed),
            |()| drop(black_box(Store::open(Settings::at(&killed), Clock::system(), |_, _, _| true))),
            BatchSize::PerIteration,
        );
    });
    assert!(store.stop(LONG));
    group.bench_function("open and read after a stop", |bench| {
        bench.iter(|| drop(black_box(Store::open(Settings::at(&path), Clock::system(), |_, _, _| true))));
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
