//! Hosts that share a store: what one changes reaches the others, they go on alone while it is away, and all is made good
//! for when it is back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails; clippy spares the functions marked as tests, not those that they call"
)]

mod host;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gatepost::addr::ClientKey;
use gatepost::clock::Clock;
use gatepost::ledger::shared::{Address, Change, Kind, Mirror, Overdue, Secret, Settings, Shared, Tls};
use gatepost::ledger::store::{Away, Store};
use gatepost::policy::ban::{Decision, Reason, What};
use gatepost::policy::guard::{Rules, Strike, Tally};
use gatepost::policy::record::Record;
use gatepost::screen::{Standing, Test, Tests};
use gatepost::time::Timestamp;
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use host::certificates::Certificates;
use host::peers::{Peer, present};
use host::valkey::{Cluster, Options, Valkey, Watched};
use host::wait;

/// The near copy of a host.
#[derive(Default)]
struct Near {
    standings: Mutex<HashMap<ClientKey, Standing>>,
    decisions: Mutex<HashMap<IpNet, Decision>>,
    tallies: Mutex<HashMap<ClientKey, Tally>>,
    forgotten: Mutex<Vec<ClientKey>>,
    overdue: Mutex<Vec<Overdue>>,
}

impl Mirror for Near {
    fn standing(&self, client: ClientKey, standing: Standing) {
        self.standings.lock().entry(client).or_default().merge(&standing);
    }

    fn revoked(&self, client: ClientKey, tests: Tests) {
        let mut standings = self.standings.lock();
        let standing = standings.entry(client).or_default();
        tests.iter().for_each(|test| standing.fail(test));
    }

    fn decision(&self, network: IpNet, decision: Decision) {
        let mut decisions = self.decisions.lock();
        if decisions.get(&network).is_none_or(|there| decision.outweighs(there)) {
            decisions.insert(network, decision);
        }
    }

    fn tally(&self, client: ClientKey, tally: Tally) {
        self.tallies.lock().insert(client, tally);
    }

    fn forgotten(&self, client: ClientKey) {
        self.tallies.lock().remove(&client);
        self.forgotten.lock().push(client);
    }

    fn decisions(&self) -> Vec<(IpNet, Decision)> {
        self.decisions.lock().iter().map(|(network, decision)| (*network, decision.clone())).collect()
    }

    fn standings(&self, each: &mut dyn FnMut(ClientKey, Standing)) {
        self.standings.lock().iter().for_each(|(client, standing)| each(*client, *standing));
    }

    fn overdue(&self, found: Overdue) {
        self.overdue.lock().push(found);
    }
}

/// A host: its near copy, and its end of the shared store.
struct Host {
    near: Arc<Near>,
    shared: Shared,
}

impl Host {
    fn open(runtime: &Runtime, name: &str, settings: &Settings) -> Self {
        let near = Arc::<Near>::default();
        let settings = Settings { node: name.to_owned(), ..settings.clone() };
        let mirror = Arc::clone(&near) as Arc<dyn Mirror>;
        let shared = runtime.block_on(async { Shared::open(settings, mirror, Clock::system()) });
        Self { near, shared }
    }

    #[track_caller]
    fn wait_connected(&self) {
        wait::until("the store to be there", || self.shared.state().connected.then_some(()));
    }

    #[track_caller]
    fn wait_away(&self) {
        wait::until("the store to be away", || (!self.shared.state().connected).then_some(()));
    }

    /// Decides as a session does: here at once, then for all.
    fn decide(&self, network: &str, decision: Decision) {
        let network = network.parse().unwrap();
        self.near.decision(network, decision.clone());
        self.shared.share(Change::Decision(network, decision));
    }

    fn decided(&self, network: &str) -> Option<What> {
        self.near.decisions.lock().get(&network.parse().unwrap()).map(|decision| decision.what)
    }

    #[track_caller]
    fn wait_decided(&self, network: &str, what: What) {
        wait::until("a decision to arrive", || (self.decided(network) == Some(what)).then_some(()));
    }

    fn pass(&self, client: ClientKey, test: Test) {
        let standing = passed(test);
        self.near.standing(client, standing);
        self.shared.share(Change::Standing(client, standing));
    }

    fn has_passed(&self, client: ClientKey, test: Test) -> bool {
        self.near.standings.lock().get(&client).is_some_and(|standing| standing.holds(test, now()))
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn settings(kind: Kind, servers: &[SocketAddr]) -> Settings {
    let servers = servers.iter().map(|at| Address::Tcp(at.ip().to_string(), at.port())).collect();
    // A busy machine must not make a store look away where a test does not want it to.
    Settings { kind, servers, deadline: Duration::from_secs(10), ..Settings::default() }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
}

fn seconds() -> u32 {
    u32::try_from(now().seconds()).unwrap()
}

fn passed(test: Test) -> Standing {
    let mut standing = Standing::stranger();
    standing.pass(test, now().plus(Duration::from_secs(86_400)));
    standing
}

fn client(n: u32) -> ClientKey {
    ClientKey::V4(0xc000_0200 + n)
}

fn decision(what: What, reason: Reason) -> Decision {
    Decision {
        what,
        reason,
        count: 5,
        level: 1,
        begin: now(),
        until: Some(now().plus(Duration::from_secs(86_400))),
        who: "test".into(),
        evidence: "seen".into(),
    }
}

fn ban() -> Decision {
    decision(What::Ban, Reason::Failures)
}

fn lifted() -> Decision {
    decision(What::Lifted, Reason::Operator)
}

fn three(runtime: &Runtime, settings: &Settings) -> [Host; 3] {
    let hosts = ["a", "b", "c"].map(|name| Host::open(runtime, name, settings));
    hosts.iter().for_each(Host::wait_connected);
    hosts
}

/// What is to hold of any store that is there.
fn shares(settings: &Settings) {
    let runtime = runtime();
    let hosts = three(&runtime, settings);
    let [a, b, c] = &hosts;

    let begin = Instant::now();
    a.decide("192.0.2.1/32", ban());
    b.wait_decided("192.0.2.1/32", What::Ban);
    c.wait_decided("192.0.2.1/32", What::Ban);
    println!("a ban reached two hosts after {:?}", begin.elapsed());

    b.pass(client(1), Test::Dnsbl);
    b.pass(client(1), Test::Pregreet);
    for host in [a, c] {
        let both = || host.has_passed(client(1), Test::Pregreet) && host.has_passed(client(1), Test::Dnsbl);
        wait::until("a standing to arrive", || both().then_some(()));
    }
    let mut tests = Tests::NONE;
    tests.insert(Test::Dnsbl);
    b.shared.share(Change::Revoked(client(1), tests));
    wait::until("a pass to be taken back", || (!c.has_passed(client(1), Test::Dnsbl)).then_some(()));
    assert!(c.has_passed(client(1), Test::Pregreet));

    // Failures at three hosts are counted together.
    let (rules, at) = (Rules::default(), seconds());
    let sentences: Vec<bool> = (0..5)
        .map(|n| {
            let strike = hosts[n % 3].shared.strike(client(7), Strike::Failed(None), &rules, at, 0);
            runtime.block_on(strike).unwrap().1.is_some()
        })
        .collect();
    assert_eq!(sentences, [false, false, false, false, true]);
    wait::until("the count to arrive", || {
        hosts
            .iter()
            .all(|host| {
                host.near.tallies.lock().get(&client(7)).is_some_and(|tally| tally.step.level == 1)
                    || std::ptr::eq(host, &hosts[1])
            })
            .then_some(())
    });

    // An unban is heard of everywhere, and what was counted is gone.
    c.decide("192.0.2.7/32", lifted());
    for host in [a, b] {
        host.wait_decided("192.0.2.7/32", What::Lifted);
        wait::until("the count to go", || host.near.forgotten.lock().contains(&client(7)).then_some(()));
    }
    wait::until("the count to be gone from the store", || {
        let strike = a.shared.strike(client(7), Strike::NotOffered, &rules, at + 1, 0);
        (runtime.block_on(strike).unwrap().0.step.level == 0).then_some(())
    });

    // Whoever comes later hears of everything.
    let d = Host::open(&runtime, "d", settings);
    d.wait_decided("192.0.2.1/32", What::Ban);
    d.wait_decided("192.0.2.7/32", What::Lifted);
    wait::until("a standing to be read", || d.has_passed(client(1), Test::Pregreet).then_some(()));

    for host in hosts.iter().chain([&d]) {
        let state = host.shared.state();
        assert_eq!((state.lost, state.foreign), (0, 0), "{state:?}");
        wait::until("the queue to be empty", || (host.shared.state().queue == 0).then_some(()));
        runtime.block_on(host.shared.close());
    }
}

#[test]
fn hosts_share_a_redis() {
    if present(&[Peer::Redis]) {
        let server = Valkey::start(Peer::Redis);
        shares(&settings(Kind::Single, &[server.address()]));
    }
}

#[test]
fn hosts_share_a_valkey() {
    if present(&[Peer::Valkey]) {
        let server = Valkey::start(Peer::Valkey);
        shares(&settings(Kind::Single, &[server.address()]));
    }
}

#[test]
fn hosts_share_a_cluster() {
    if present(&[Peer::Valkey]) {
        let cluster = Cluster::start(Peer::Valkey);
        let servers: Vec<SocketAddr> = cluster.nodes.iter().map(Valkey::address).collect();
        shares(&settings(Kind::Cluster, &servers));
    }
}

/// The user that docs/operations.md tells to make, with the password of these tests.
fn documented_user() -> String {
    let manual = include_str!("../docs/operations.md");
    let line = manual.lines().find(|line| line.starts_with("user gatepost ")).expect("a line for the user");
    line.replace(">PASSWORD", ">sesame")
}

#[test]
fn the_documented_user_is_enough_and_tls_is_spoken() {
    if !present(&[Peer::Redis, Peer::OpenSsl]) {
        return;
    }
    let certificates = Certificates::make();
    let users = format!("user default off\n{}\n", documented_user());
    let options = Options { tls: Some(&certificates), users: &users, ..Options::default() };
    let server = Valkey::start_with(Peer::Redis, &options);
    let settings = Settings {
        tls: Some(Tls { authority: Some(std::fs::read(certificates.authority()).unwrap()) }),
        user: Some("gatepost".to_owned()),
        password: Some(Secret::new("sesame".to_owned())),
        ..settings(Kind::Single, &[server.address()])
    };
    shares(&settings);

    // Without the authority, or with a wrong password, it is away, and says why.
    let runtime = runtime();
    for (settings, why) in [
        (Settings { tls: Some(Tls::default()), ..settings.clone() }, "certificate"),
        (Settings { password: Some(Secret::new("open".to_owned())), ..settings.clone() }, "WRONGPASS"),
    ] {
        let host = Host::open(&runtime, "x", &settings);
        let trouble = wait::until("the trouble to be told", || host.shared.state().trouble);
        assert!(trouble.to_lowercase().contains(&why.to_lowercase()), "{trouble}");
        assert!(!trouble.contains("open"), "{trouble}");
    }
}

#[test]
fn the_documented_user_is_enough_for_a_cluster() {
    if !present(&[Peer::Valkey]) {
        return;
    }
    let cluster = Cluster::start(Peer::Valkey);
    let user = documented_user();
    for node in &cluster.nodes {
        let mut set = ::redis::cmd("ACL");
        set.arg("SETUSER");
        for word in user.split_whitespace().skip(1) {
            set.arg(word);
        }
        set.exec(&mut node.ask()).unwrap();
    }
    let servers: Vec<SocketAddr> = cluster.nodes.iter().map(Valkey::address).collect();
    shares(&Settings {
        user: Some("gatepost".to_owned()),
        password: Some(Secret::new("sesame".to_owned())),
        ..settings(Kind::Cluster, &servers)
    });
}

#[test]
fn a_store_that_hangs_makes_one_wait_a_little_and_the_others_not_at_all() {
    if !present(&[Peer::Valkey]) {
        return;
    }
    let server = Valkey::start(Peer::Valkey);
    let runtime = runtime();
    let settings = Settings { deadline: Duration::from_millis(200), ..settings(Kind::Single, &[server.address()]) };
    let [a, b, _c] = three(&runtime, &settings);
    let (rules, at) = (Rules::default(), seconds());
    let strike = |host: &Host, n| runtime.block_on(host.shared.strike(client(n), Strike::NotOffered, &rules, at, 0));
    wait::until("a first answer", || strike(&a, 1).ok());

    server.freeze();
    let begin = Instant::now();
    let away = wait::until("the store to hang", || strike(&a, 2).err());
    let first = begin.elapsed();
    assert_eq!(away, Away);
    assert!(first < Duration::from_secs(5), "{first:?}");
    let begin = Instant::now();
    let count = 1000;
    assert!((0..count).all(|n| strike(&a, 100 + n).is_err()));
    let all = begin.elapsed();
    println!("the first waited {first:?}, {count} others {all:?}");
    // Each with a deadline of its own would take two hundred seconds.
    assert!(all < Duration::from_secs(20), "{all:?}");
    assert!(a.shared.state().queue >= 900, "{:?}", a.shared.state());

    // What it missed is made good for when it goes on.
    b.wait_away();
    b.decide("192.0.2.9/32", ban());
    server.thaw();
    a.wait_connected();
    b.wait_connected();
    a.wait_decided("192.0.2.9/32", What::Ban);
    wait::until("what was counted alone to be in the store", || {
        let (tally, _) = strike(&b, 150).ok()?;
        (tally.not_offered.times.len() >= 2).then_some(())
    });
}

#[test]
fn a_store_that_was_stopped_is_reconciled() {
    if !present(&[Peer::Redis]) {
        return;
    }
    let mut server = Valkey::start_with(Peer::Redis, &Options { lasting: true, ..Options::default() });
    let runtime = runtime();
    let [a, b, c] = three(&runtime, &settings(Kind::Single, &[server.address()]));
    let (rules, at) = (Rules::default(), seconds());
    a.decide("192.0.2.1/32", ban());
    for host in [&b, &c] {
        host.wait_decided("192.0.2.1/32", What::Ban);
    }

    server.stop();
    for host in [&a, &b, &c] {
        host.wait_away();
    }
    // Each decides, counts and learns by itself.
    let strike =
        |host: &Host, n, at| runtime.block_on(host.shared.strike(client(n), Strike::Failed(None), &rules, at, 0));
    a.decide("192.0.2.2/32", ban());
    b.decide("192.0.2.3/32", ban());
    b.decide("192.0.2.1/32", lifted());
    c.pass(client(4), Test::Pregreet);
    for _ in 0..3 {
        assert_eq!(strike(&a, 5, at), Err(Away));
        assert_eq!(strike(&b, 5, at + 1), Err(Away));
        // Forgiven by what b said after it.
        assert_eq!(strike(&a, 1, at - 10), Err(Away));
    }

    server.start_again();
    for host in [&a, &b, &c] {
        host.wait_connected();
        for (network, what) in
            [("192.0.2.1/32", What::Lifted), ("192.0.2.2/32", What::Ban), ("192.0.2.3/32", What::Ban)]
        {
            host.wait_decided(network, what);
        }
        wait::until("a standing to arrive", || host.has_passed(client(4), Test::Pregreet).then_some(()));
        wait::until("the queue to be empty", || (host.shared.state().queue == 0).then_some(()));
    }
    // Six failures, three at each: one too many, found out with the fifth.
    let found = |host: &Host| {
        host.near.overdue.lock().iter().any(
            |found| matches!(found, Overdue::Client(who, why) if *who == client(5) && why.reason == Reason::Failures),
        )
    };
    wait::until("the ban that is due", || (found(&a) || found(&b)).then_some(()));
    for host in [&a, &c] {
        assert!(host.near.forgotten.lock().contains(&client(1)));
    }
    let (tally, _) = wait::until("an answer", || strike(&c, 1, at + 2).ok());
    assert!(tally.failed.times.len() <= 1 + 3, "{tally:?}");
}

#[test]
fn a_store_that_lost_everything_is_filled_again() {
    if !present(&[Peer::Valkey]) {
        return;
    }
    let mut server = Valkey::start(Peer::Valkey);
    let runtime = runtime();
    let shared = settings(Kind::Single, &[server.address()]);
    let [a, b, _c] = three(&runtime, &shared);
    a.decide("192.0.2.1/32", ban());
    b.decide("192.0.2.7/32", lifted());
    for n in 0..2000 {
        a.pass(ClientKey::V4(0x0a00_0000 + n), Test::Dnsbl);
    }
    b.wait_decided("192.0.2.1/32", What::Ban);
    a.wait_decided("192.0.2.7/32", What::Lifted);
    let count = |server: &Valkey| -> usize {
        let mut keys = ::redis::cmd("KEYS");
        keys.arg("gatepost:standing:*").query::<Vec<String>>(&mut server.ask()).unwrap().len()
    };
    wait::until("all standings to be there", || (count(&server) == 2000).then_some(()));

    server.kill();
    a.wait_away();
    server.start_again();
    wait::until("the standings to be there again", || (count(&server) == 2000).then_some(()));
    let newcomer = Host::open(&runtime, "d", &shared);
    newcomer.wait_decided("192.0.2.1/32", What::Ban);
    newcomer.wait_decided("192.0.2.7/32", What::Lifted);
    wait::until("the standings to be read", || (newcomer.near.standings.lock().len() == 2000).then_some(()));
}

#[test]
fn hosts_follow_their_sentinel_to_the_new_master() {
    if !present(&[Peer::Redis]) {
        return;
    }
    let mut watched = Watched::start();
    let runtime = runtime();
    let kind = Kind::Sentinel { master: Watched::NAME.to_owned() };
    let [a, b, c] = three(&runtime, &settings(kind, &[watched.sentinel()]));
    a.decide("192.0.2.1/32", ban());
    b.wait_decided("192.0.2.1/32", What::Ban);
    watched.master.kill();
    a.wait_away();
    a.decide("192.0.2.2/32", ban());
    for host in [&a, &b, &c] {
        host.wait_connected();
        host.wait_decided("192.0.2.2/32", What::Ban);
    }
    let there: HashMap<String, String> =
        ::redis::cmd("HGETALL").arg("gatepost:{decisions}").query(&mut watched.replica.ask()).unwrap();
    assert!(there.contains_key("192.0.2.2/32"), "{there:?}");
}

#[test]
fn what_is_told_by_others_is_looked_at() {
    if !present(&[Peer::Valkey]) {
        return;
    }
    let server = Valkey::start(Peer::Valkey);
    let runtime = runtime();
    let shared = settings(Kind::Single, &[server.address()]);
    let [a, _b, _c] = three(&runtime, &shared);
    let (mut ask, rules) = (server.ask(), Rules::default());
    let publish = |message: &[u8]| {
        let mut publish = ::redis::cmd("PUBLISH");
        let count: u32 = publish.arg("gatepost:news").arg(message).query(&mut server.ask()).unwrap();
        assert!(count >= 3);
    };
    let bans = ban().line();
    let hostile: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"1".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"2 x decision 192.0.2.1/32 -".to_vec(),
        format!("1 x decision 0.0.0.0/0 {bans}").into(),
        format!("1 x decision 192.0.2.1/99 {bans}").into(),
        b"1 x tally 4c0000201 1 - - 99999999999999999999999 0 0 0 0 0 0 -".to_vec(),
        b"1 x standing 4c0000201 1 1 2 3".to_vec(),
        b"1 x revoked 4c0000201 9".to_vec(),
        [b"1 x tally 4c0000201 ".to_vec(), vec![b'9'; 1_000_000]].concat(),
    ];
    hostile.iter().for_each(|message| publish(message));
    publish(format!("1 x decision 192.0.2.1/32 {bans}").as_bytes());
    a.wait_decided("192.0.2.1/32", What::Ban);
    let state = a.shared.state();
    assert_eq!(state.foreign, u64::try_from(hostile.len()).unwrap(), "{state:?}");
    assert!(state.connected);
    assert_eq!(a.near.decisions.lock().len(), 1);
    assert!(a.near.tallies.lock().is_empty() && a.near.standings.lock().is_empty());

    // A flood neither stops it nor fills the memory.
    let message = format!("1 x standing 4c0000201 {}", passed(Test::Dnsbl).line());
    for _ in 0..50 {
        let mut pipe = ::redis::pipe();
        for _ in 0..2000 {
            pipe.publish("gatepost:news", &message).ignore();
        }
        pipe.exec(&mut ask).unwrap();
    }
    publish(format!("1 x decision 192.0.2.2/32 {bans}").as_bytes());
    wait::until("an answer after the flood", || {
        let strike = a.shared.strike(client(1), Strike::NotOffered, &rules, seconds(), 0);
        runtime.block_on(strike).ok()
    });
    // Nor does rubbish in the store.
    ::redis::cmd("HSET").arg("gatepost:{decisions}").arg("x").arg("y").exec(&mut ask).unwrap();
    ::redis::cmd("SET").arg("gatepost:standing:4c0000209").arg("z").exec(&mut ask).unwrap();
    ::redis::cmd("SET").arg("gatepost:standing:nobody").arg("z").exec(&mut ask).unwrap();
    ::redis::cmd("SET").arg("gatepost:tally:4c0000209").arg("z").exec(&mut ask).unwrap();
    let newcomer = Host::open(&runtime, "d", &shared);
    newcomer.wait_connected();
    wait::until("the rubbish to be counted", || (newcomer.shared.state().foreign >= 2).then_some(()));
    let strike = newcomer.shared.strike(client(9), Strike::NotOffered, &rules, seconds(), 0);
    assert_eq!(runtime.block_on(strike).unwrap().0.not_offered.times.len(), 1);
}

/// Between reading what has ended and taking it out, somebody may have decided something else.
#[test]
fn what_was_decided_anew_is_not_taken_out_with_what_has_ended() {
    if !present(&[Peer::Valkey]) {
        return;
    }
    let server = Valkey::start(Peer::Valkey);
    let mut store = server.ask();
    let drop = ::redis::Script::new(include_str!("../src/ledger/shared/lua/drop.lua"));
    let mut dropped = |line: &str| -> u64 {
        // As it is called: pairs, the channel, and what messages begin with.
        let mut call = drop.key("decisions");
        call.arg("192.0.2.1/32").arg(line).arg("channel").arg("head").invoke(&mut store).unwrap()
    };
    ::redis::cmd("HSET").arg("decisions").arg("192.0.2.1/32").arg("anew").exec(&mut server.ask()).unwrap();
    assert_eq!(dropped("as it was read"), 0);
    let there: String = ::redis::cmd("HGET").arg("decisions").arg("192.0.2.1/32").query(&mut server.ask()).unwrap();
    assert_eq!(there, "anew");
    assert_eq!(dropped("anew"), 1);
}
