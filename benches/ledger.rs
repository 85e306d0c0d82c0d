//! The ledger with a million clients in it: what one recall and one remember cost.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use gatepost::addr::ClientKey;
use gatepost::ledger::{Ledger, Settings};
use gatepost::screen::{Standing, Test};
use gatepost::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);
const ENTRIES: u32 = 1_000_000;

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

fn ledger(criterion: &mut Criterion) {
    let (ledger, standing) = full();
    let mut n = 0u32;
    criterion.bench_function("recall and remember, known", |bench| {
        bench.iter(|| {
            n = (n + 7919) % ENTRIES;
            let client = client(n);
            black_box(ledger.recall(client, NOW));
            ledger.remember(client, standing, NOW);
        });
    });
    let mut stranger = 2 * ENTRIES;
    criterion.bench_function("recall and remember, new to a full ledger", |bench| {
        bench.iter(|| {
            stranger = stranger.wrapping_add(1);
            let client = client(stranger);
            black_box(ledger.recall(client, NOW));
            ledger.remember(client, standing, NOW);
        });
    });
}

criterion_group!(benches, ledger);
criterion_main!(benches);
