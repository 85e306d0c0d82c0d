//! Whoever keeps what is counted, it comes to the same: one suite for the store in memory, for Redis and for Valkey, alone
//! and as a cluster.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails; clippy spares the functions marked as tests, not those that they call"
)]

mod host;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gatepost::addr::ClientKey;
use gatepost::clock::Clock;
use gatepost::ledger::shared::{Address, Kind, Mirror, Settings, Shared};
use gatepost::ledger::store::Store;
use gatepost::ledger::{self, Ledger};
use gatepost::policy::ban::{Decision, Ladder, Reason, What};
use gatepost::policy::guard::{Account, Failed, Limit, Network, Rules, Sentence, Strike, Tally};
use gatepost::screen::{Standing, Test, Tests};
use gatepost::time::Timestamp;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use host::peers::{Peer, present};
use host::valkey::{Cluster, Valkey};
use host::wait;

/// A mirror that shows nothing.
struct Blind;

impl Mirror for Blind {
    fn standing(&self, _: ClientKey, _: Standing) {}
    fn revoked(&self, _: ClientKey, _: Tests) {}
    fn decision(&self, _: IpNet, _: Decision) {}
    fn tally(&self, _: ClientKey, _: Tally) {}
    fn forgotten(&self, _: ClientKey) {}
    fn decisions(&self) -> Vec<(IpNet, Decision)> {
        Vec::new()
    }
    fn standings(&self, _: &mut dyn FnMut(ClientKey, Standing)) {}
}

/// A year from now, so that nothing expires by the clock of a server.
fn soon() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    u32::try_from(now).unwrap() + 365 * 86_400
}

/// Clients that no other case has met: sixteen, beginning with this.
fn fresh() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0x0a00_0000);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// A fresh account and network are those of a fresh client.
fn account_of(n: u32) -> [u8; 16] {
    let mut digest = [0xf0; 16];
    digest[4..8].copy_from_slice(&n.to_be_bytes());
    digest
}

fn network_of(n: u32) -> IpNet {
    IpNet::new(std::net::Ipv4Addr::from(n).into(), 32).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn open(kind: Kind, servers: &[SocketAddr]) -> Shared {
    let servers = servers.iter().map(|at| Address::Tcp(at.ip().to_string(), at.port())).collect();
    let deadline = Duration::from_secs(20);
    let settings = Settings { kind, servers, deadline, ..Settings::default() };
    let shared = Shared::open(settings, Arc::new(Blind), Clock::system());
    wait::until("the store", || shared.state().connected.then_some(()));
    shared
}

/// What is done to a store.
#[derive(Clone, Debug)]
enum Verb {
    Strike(u32, Strike),
    LoggedIn(u32),
    AccountFailed(u32, u32),
    AccountLoggedIn(u32, u32),
    Offend(u32, u32),
    Remember(u32, Standing),
    Revoke(u32, Tests),
    Decide(u32, Box<Decision>),
    Forget(u32),
}

/// What it answers.
#[derive(PartialEq, Debug)]
enum Said {
    Tally(Tally, Option<Sentence>),
    Account(Account, Option<Failed>),
    Network(Network, Option<Sentence>),
    Standing(Standing),
    Decision(Decision),
    Nothing,
}

fn client(first: u32, n: u32) -> ClientKey {
    if n % 3 == 2 { ClientKey::V6(u64::from(first + n) << 32 | 0xffff_ffff) } else { ClientKey::V4(first + n) }
}

async fn act(store: &impl Store, first: u32, verb: &Verb, rules: &Rules, now: u32, dice: u32) -> Said {
    let client = |n: u32| client(first, n);
    match verb {
        Verb::Strike(n, strike) => {
            let (tally, sentence) = store.strike(client(*n), *strike, rules, now, dice).await.unwrap();
            Said::Tally(tally, sentence)
        }
        Verb::LoggedIn(n) => Said::Tally(store.logged_in(client(*n), rules, now).await.unwrap(), None),
        Verb::AccountFailed(account, n) => {
            let account = account_of(first + account);
            let (account, failed) = store.account_failed(account, client(*n), rules, now).await.unwrap();
            Said::Account(account, Some(failed))
        }
        Verb::AccountLoggedIn(account, n) => {
            let account = account_of(first + account);
            Said::Account(store.account_logged_in(account, client(*n), rules, now).await.unwrap(), None)
        }
        Verb::Offend(network, n) => {
            let network = network_of(first + network);
            let (network, sentence) = store.offend(network, client(*n), rules, now, dice).await.unwrap();
            Said::Network(network, sentence)
        }
        Verb::Remember(n, standing) => Said::Standing(store.remember(client(*n), *standing, now).await.unwrap()),
        Verb::Revoke(n, tests) => Said::Standing(store.revoke(client(*n), *tests, now).await.unwrap()),
        Verb::Decide(n, decision) => {
            // Of nobody whose strikes are counted: where hosts share, what is lifted is forgotten.
            let network = network_of((first + n) | 0x8000_0000);
            Said::Decision(store.decide(network, (**decision).clone()).await.unwrap())
        }
        Verb::Forget(n) => {
            store.forget(client(*n)).await.unwrap();
            Said::Nothing
        }
    }
}

fn tests() -> impl Strategy<Value = Tests> {
    any::<u8>().prop_map(|bits| {
        let mut tests = Tests::NONE;
        Test::ALL.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).for_each(|(_, test)| tests.insert(*test));
        tests
    })
}

fn standing() -> impl Strategy<Value = Standing> {
    (tests(), 0u64..20_000).prop_map(|(tests, span)| {
        let mut standing = Standing::stranger();
        tests.iter().for_each(|test| standing.pass(test, Timestamp::from_seconds(u64::from(soon()) + span)));
        standing
    })
}

fn decision() -> impl Strategy<Value = Decision> {
    let what = prop_oneof![Just(What::Ban), Just(What::Allow), Just(What::Lifted)];
    let reason = prop_oneof![Just(Reason::Operator), Just(Reason::Failures), Just(Reason::Neighbours)];
    let words = prop_oneof![Just(""), Just("five failures"), Just("seen: \u{e9}\u{20ac} %d {x}")];
    (what, reason, 0u64..4, prop::option::of(0u64..4), words).prop_map(|(what, reason, begin, until, evidence)| {
        let at = |step: u64| Timestamp::from_millis(u64::from(soon()) * 1000 + step);
        Decision {
            what,
            reason,
            count: 7,
            level: 2,
            begin: at(begin),
            until: until.map(at),
            who: "mx1".into(),
            evidence: evidence.into(),
        }
    })
}

fn verb() -> impl Strategy<Value = Verb> {
    let strike = prop_oneof![
        8 => prop::option::of(0u32..8).prop_map(|account| Strike::Failed(account.map(|n| n * 0x1fff_ffff))),
        1 => Just(Strike::Honeypot),
        1 => Just(Strike::Attack),
        3 => Just(Strike::NotOffered),
    ];
    prop_oneof![
        10 => (0u32..3, strike).prop_map(|(n, strike)| Verb::Strike(n, strike)),
        2 => (0u32..3).prop_map(Verb::LoggedIn),
        6 => (0u32..2, 0u32..12).prop_map(|(account, n)| Verb::AccountFailed(account, n)),
        2 => (0u32..2, 0u32..12).prop_map(|(account, n)| Verb::AccountLoggedIn(account, n)),
        5 => (0u32..2, 0u32..12).prop_map(|(network, n)| Verb::Offend(network, n)),
        4 => (0u32..3, standing()).prop_map(|(n, standing)| Verb::Remember(n, standing)),
        2 => (0u32..3, tests()).prop_map(|(n, tests)| Verb::Revoke(n, tests)),
        6 => (0u32..2, decision()).prop_map(|(n, decision)| Verb::Decide(n, Box::new(decision))),
        1 => (0u32..3).prop_map(Verb::Forget),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    let limit = |most: u32| {
        (0..most, 0u64..5000).prop_map(|(count, within)| Limit { count, within: Duration::from_secs(within) })
    };
    let span = |most: u64| (0..most).prop_map(Duration::from_secs);
    let ladder = (span(3000), 0u32..9, span(90_000), prop_oneof![Just(0u32), 0u32..200], span(20_000))
        .prop_map(|(first, factor, most, jitter, forget)| Ladder { first, factor, most, jitter, forget });
    let limits = (limit(8), limit(8), limit(5), limit(8), limit(8), limit(5));
    (limits, span(5000), prop_oneof![span(20_000), Just(Duration::MAX)], 0u32..6, ladder).prop_map(
        |((failures, slow, accounts, strangers, not_offered, neighbours), attack, known_for, patience, ladder)| Rules {
            failures,
            slow,
            accounts,
            strangers,
            attack,
            not_offered,
            known_for,
            patience,
            neighbours,
            ladder,
        },
    )
}

/// Steps of time, mostly short, sometimes long, sometimes back; a verb; dice.
fn deeds() -> impl Strategy<Value = Vec<(i64, Verb, u32)>> {
    let step = prop_oneof![6 => 0i64..60, 3 => 0i64..5000, 1 => -300i64..0, 1 => Just(400_000)];
    prop::collection::vec((step, verb(), any::<u32>()), 1..60)
}

/// What is to hold of every store.
fn suite(store: &impl Store, cases: u32) {
    let runtime = runtime();
    runtime.block_on(rows(store));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(&(rules(), rules(), deeds()), |(one, other, deeds)| {
            let (memory, first) = (Ledger::open(ledger::Settings::default()), fresh());
            runtime.block_on(async {
                let mut now = i64::from(soon());
                for (n, (step, verb, dice)) in deeds.iter().enumerate() {
                    now += step;
                    // Rules change at a reload.
                    let rules = if n < 40 { &one } else { &other };
                    let at = u32::try_from(now).unwrap();
                    let here = act(store, first, verb, rules, at, *dice).await;
                    let there = act(&memory, first, verb, rules, at, *dice).await;
                    prop_assert_eq!(here, there, "{}: {:?}", n, verb);
                }
                Ok(())
            })
        })
        .unwrap();
}

/// The same rows as of the values themselves, in short.
async fn rows(store: &impl Store) {
    let rules = Rules { ladder: Ladder { jitter: 0, ..Ladder::default() }, ..Rules::default() };
    let (first, now) = (fresh(), soon());
    let one = client(first, 0);

    // The fifth failure is one too many, and the second ban is longer.
    for n in 0..4 {
        assert_eq!(store.strike(one, Strike::Failed(None), &rules, now + n, 0).await.unwrap().1, None);
    }
    let (tally, sentence) = store.strike(one, Strike::Failed(None), &rules, now + 4, 0).await.unwrap();
    assert_eq!(sentence, Some(Sentence { reason: Reason::Failures, count: 5, level: 1, until: now + 604 }));
    assert_eq!((tally.step.level, tally.ends), (1, now + 604 + 14 * 86_400));
    assert_eq!(store.strike(one, Strike::Honeypot, &rules, now + 5, 0).await.unwrap(), (tally, None), "banned already");
    let again = store.strike(one, Strike::Honeypot, &rules, now + 604, 0).await.unwrap().1.unwrap();
    assert_eq!((again.reason, again.level, again.until), (Reason::Honeypot, 2, now + 604 + 2400));

    // An unban clears it.
    store.forget(one).await.unwrap();
    let (tally, sentence) = store.strike(one, Strike::Failed(Some(7)), &rules, now + 605, 0).await.unwrap();
    assert_eq!((tally.failed.times, tally.step.level, sentence), (vec![now + 605], 0, None));

    // The tenth stranger finds the others out.
    let account = account_of(first);
    for n in 1..10 {
        let (_, failed) = store.account_failed(account, client(first, n), &rules, now).await.unwrap();
        assert_eq!(failed, Failed::Nothing, "{n}");
    }
    store.account_logged_in(account, client(first, 15), &rules, now).await.unwrap();
    assert_eq!(store.account_failed(account, client(first, 15), &rules, now).await.unwrap().1, Failed::Nothing);
    let others = (1..10).map(|n| client(first, n)).collect();
    let (_, failed) = store.account_failed(account, client(first, 10), &rules, now).await.unwrap();
    assert_eq!(failed, Failed::Attack { count: 10, others });

    // A pass that is revoked is gone, the longer one stays.
    let mut short = Standing::stranger();
    short.pass(Test::Dnsbl, Timestamp::from_seconds(u64::from(now) + 60));
    short.pass(Test::Pregreet, Timestamp::from_seconds(u64::from(now) + 60));
    let mut long = Standing::stranger();
    long.pass(Test::Dnsbl, Timestamp::from_seconds(u64::from(now) + 600));
    store.remember(one, long, now).await.unwrap();
    let both = store.remember(one, short, now).await.unwrap();
    assert_eq!(both.until(Test::Dnsbl), long.until(Test::Dnsbl));
    let mut tests = Tests::NONE;
    tests.insert(Test::Pregreet);
    assert_eq!(store.revoke(one, tests, now).await.unwrap(), long);

    // What an operator said stands against what is found out later.
    let at = |n: u64| Timestamp::from_seconds(u64::from(now) + n);
    let said = Decision {
        what: What::Allow,
        reason: Reason::Operator,
        count: 0,
        level: 0,
        begin: at(0),
        until: None,
        who: "ann".into(),
        evidence: "our office".into(),
    };
    let found = Decision { what: What::Ban, reason: Reason::Failures, begin: at(5), ..said.clone() };
    let lifted = Decision { what: What::Lifted, begin: at(6), until: Some(at(7)), ..said.clone() };
    for (decision, then) in [(&found, &found), (&said, &said), (&found, &said), (&lifted, &lifted), (&said, &lifted)] {
        assert_eq!(store.decide(network_of(first | 0x8000_0000), decision.clone()).await.unwrap(), *then);
    }
}

#[test]
fn the_store_in_memory() {
    suite(&Ledger::open(ledger::Settings::default()), 20);
}

#[test]
fn redis() {
    one_server(Peer::Redis);
}

#[test]
fn valkey() {
    one_server(Peer::Valkey);
}

fn one_server(program: Peer) {
    if !present(&[program]) {
        return;
    }
    let server = Valkey::start(program);
    let runtime = runtime();
    let shared = runtime.block_on(async { open(Kind::Single, &[server.address()]) });
    suite(&shared, 250);
    assert!(shared.state().connected, "{:?}", shared.state());
}

#[test]
fn a_cluster_of_redis() {
    three_nodes(Peer::Redis);
}

#[test]
fn a_cluster_of_valkey() {
    three_nodes(Peer::Valkey);
}

fn three_nodes(program: Peer) {
    if !present(&[program]) {
        return;
    }
    let cluster = Cluster::start(program);
    let servers: Vec<SocketAddr> = cluster.nodes.iter().map(Valkey::address).collect();
    let runtime = runtime();
    let shared = runtime.block_on(async { open(Kind::Cluster, &servers) });
    suite(&shared, 60);
    let keys: Vec<u64> =
        cluster.nodes.iter().map(|node| ::redis::cmd("DBSIZE").query(&mut node.ask()).unwrap()).collect();
    assert!(keys.iter().all(|count| *count > 0), "{keys:?}");
}

#[test]
fn what_means_nothing_any_more_is_gone_from_the_server() {
    if !present(&[Peer::Redis]) {
        return;
    }
    let server = Valkey::start(Peer::Redis);
    let runtime = runtime();
    let shared = runtime.block_on(async { open(Kind::Single, &[server.address()]) });
    let (one, rules, now) = (client(fresh(), 0), Rules::default(), soon() - 365 * 86_400);
    let ends = runtime.block_on(async {
        let (tally, _) = shared.strike(one, Strike::Failed(None), &rules, now, 0).await.unwrap();
        let long_ago = client(fresh(), 1);
        shared.strike(long_ago, Strike::Failed(None), &rules, now - 86_400, 0).await.unwrap();
        tally.ends
    });
    let mut ask = server.ask();
    let mut keys: Vec<String> = ::redis::cmd("KEYS").arg("gatepost:tally:*").query(&mut ask).unwrap();
    assert_eq!(keys, [format!("gatepost:tally:{}", one.word())]);
    let expires: u32 = ::redis::cmd("EXPIRETIME").arg(keys.pop()).query(&mut ask).unwrap();
    assert_eq!(expires, ends);
}
