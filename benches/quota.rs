//! The limits at the door: what is asked on every accept, and what turning somebody away costs.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, criterion_group, criterion_main};

use gatepost::addr::ClientKey;
use gatepost::policy::class::{Class, PerClass};
use gatepost::policy::gcra::{Quota, Tat};
use gatepost::policy::quota::{Sessions, Settings};
use gatepost::policy::rates::Rates;
use gatepost::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

/// How many clients come, one after the other, in an order that no cache line likes.
const CLIENTS: u32 = 100_000;

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(n.wrapping_mul(2_654_435_761)).into()
}

fn generous() -> Option<Quota> {
    Quota::new(1_000_000, std::time::Duration::from_secs(3600)).ok()
}

fn quota(criterion: &mut Criterion) {
    let Some(quota) = generous() else { return };
    let mut tat = Tat::default();
    criterion.bench_function("gcra: one draw", |bench| {
        bench.iter(|| {
            tat = Tat::default();
            black_box(quota.draw(black_box(&mut tat), NOW))
        });
    });
    let rates = Rates::new(131_072);
    let mut n = 0;
    criterion.bench_function("rates: one draw, 100 000 clients", |bench| {
        bench.iter(|| {
            n = (n + 7919) % CLIENTS;
            black_box(rates.draw(ClientKey::of(address(n)), quota, NOW))
        });
    });

    // Every client of these has a session open already, as in a house that is full of them.
    let sessions = Sessions::new();
    let plain = Settings::plain(50, u32::MAX);
    let _inside: Vec<_> =
        (0..10_000).filter_map(|n| sessions.enter(address(n), Class::Unknown, &plain, NOW).ok()).collect();
    let all = Settings { per_prefix: 500, rate: PerClass::all(Some(quota)), reserved: 2000, ..plain };
    for (name, limits) in [("at once alone", plain), ("all limits", all)] {
        criterion.bench_function(&format!("sessions: enter and leave, {name}"), |bench| {
            bench.iter(|| {
                n = (n + 7919) % CLIENTS;
                black_box(sessions.enter(address(n), Class::Unknown, &limits, NOW))
            });
        });
    }
    let over = Settings { per_client: PerClass::all(1), ..all };
    criterion.bench_function("sessions: turned away, over the limit of its client", |bench| {
        bench.iter(|| black_box(sessions.enter(address(7), Class::Unknown, &over, NOW)).is_err());
    });
    let spent = Settings { rate: PerClass::all(Quota::new(1, std::time::Duration::from_secs(3600)).ok()), ..all };
    criterion.bench_function("sessions: turned away, over the rate of its client", |bench| {
        bench.iter(|| black_box(sessions.enter(address(20_000), Class::Unknown, &spent, NOW)).is_err());
    });
}

criterion_group!(benches, quota);
criterion_main!(benches);
