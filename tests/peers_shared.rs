//! Three gates on one shared store: a ban at one closes the door at all, failures at all are counted together, whoever has
//! passed at one is known at the others; and each gate goes on by itself while the store is away, and makes up for it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use host::backend::{Act, Backend, Manners};
use host::dialogue::Dialogue;
use host::gate::{Gate, program};
use host::peers::{Peer, present};
use host::valkey::{Cluster, Valkey};
use host::wait;

/// What a ban that is told of by another host may take on a machine with much else to do. A second is promised.
const SOON: Duration = Duration::from_secs(3);

/// How long the store may take to count. Long where it is there and the machine may be busy.
const LONG: &str = "1s";

/// As it is unless somebody says otherwise, or nearly.
const SHORT: &str = "100ms";

/// How many gates there are.
const GATES: usize = 3;

/// A gate before a backend that knows nobody.
struct Member {
    gate: Gate,
    _backend: Backend,
}

impl Member {
    fn start(name: &str, shared: &str) -> Self {
        let mut manners = Manners::default().behind_proxy().but("AUTH", Act::Say("535 5.7.8 no"));
        manners.keywords.push("AUTH PLAIN LOGIN".to_owned());
        let backend = manners.start();
        let to = backend.address();
        let gate = Gate::start(|at| {
            let socket = at.dir.join("s").display().to_string();
            format!(
                "hostname = \"{name}.test\"\nadmin = \"{}\"\n[control]\nsocket = \"{socket}\"\n[access]\nallow = []\n\
                 [greet]\nwait_min = \"100ms\"\nwait_max = \"300ms\"\n{shared}\n\
                 [[gate]]\nname = \"submission\"\nscene = \"submission\"\nlisten = \"{}\"\nbackend = \"{to}\"\n\
                 [[gate]]\nname = \"mx\"\nscene = \"mx\"\nlisten = \"{}\"\nbackend = \"{to}\"\n",
                at.admin, at.smtp, at.second,
            )
        });
        Self { gate, _backend: backend }
    }

    fn figure(&self, name: &str) -> f64 {
        self.gate.metric(name, &[]).unwrap_or_default()
    }

    #[track_caller]
    fn wait_for_store(&self, is_there: bool) {
        let wanted = if is_there { 1.0 } else { 0.0 };
        wait::until("the gate to notice how it is with the store", || {
            (self.gate.metric("gatepost_shared_up", &[]) == Some(wanted)).then_some(())
        });
    }

    /// Makes a guess: the reply to it, and how long that took; nothing if the door is closed. Each client guesses at an
    /// account of its own: one that many try is another matter.
    fn guess(&self, source: Ipv4Addr) -> Option<(String, Duration)> {
        let mut dialogue = Dialogue::try_from(source, self.gate.smtp()).ok()?;
        dialogue.line().ok().flatten().filter(|line| line.starts_with("220"))?;
        dialogue.say("EHLO client.test").expect("250");
        let begun = Instant::now();
        dialogue.say(&format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0root-{source}\0secret"))));
        let reply = dialogue.line().ok().flatten()?;
        Some((reply, begun.elapsed()))
    }

    /// Guesses so many times; each is answered. The longest that one took.
    #[track_caller]
    fn guesses(&self, source: Ipv4Addr, count: usize) -> Duration {
        let one = |n| {
            let (reply, took) = self.guess(source).unwrap_or_else(|| panic!("{source}, guess {n}: shut out"));
            assert!(reply.starts_with("535"), "{source}, guess {n}: {reply}");
            took
        };
        (1..=count).map(one).max().unwrap_or_default()
    }

    fn is_shut(&self, source: Ipv4Addr) -> bool {
        is_shut(source, self.gate.smtp()) && is_shut(source, self.gate.second())
    }

    #[track_caller]
    fn wait_until_shut(&self, source: Ipv4Addr) {
        wait::until("the door to be closed", || self.is_shut(source).then_some(()));
    }

    #[track_caller]
    fn unban(&self, client: Ipv4Addr) {
        let mut unban = program();
        unban.args(["unban", &client.to_string()]).env("GATEPOST_CONFIG", self.gate.dir().join("gatepost.toml"));
        let output = unban.env_remove("GATEPOST_SOCKET").output().expect("the program that runs already");
        assert!(output.status.success(), "{output:?}");
    }

    /// The log's lines that have all of `words`.
    fn said(&self, words: &[&str]) -> Vec<String> {
        let complaints = self.gate.complaints();
        complaints.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }
}

/// Whether the connection is closed before a word was said.
fn is_shut(source: Ipv4Addr, server: SocketAddr) -> bool {
    let is_reset = |error: &std::io::Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    match Dialogue::try_from(source, server) {
        Ok(mut dialogue) => dialogue.line().map_or_else(|error| is_reset(&error), |line| line.is_none()),
        Err(error) => is_reset(&error),
    }
}

/// Clients that are not neighbours.
fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, n, 7)
}

fn section(kind: &str, servers: &[SocketAddr], deadline: &str) -> String {
    let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
    format!("[shared]\nkind = \"{kind}\"\nservers = {servers:?}\ndeadline = \"{deadline}\"")
}

/// All of them, each with the store.
fn start(shared: &str) -> [Member; GATES] {
    let members = ["a", "b", "c"].map(|name| Member::start(name, shared));
    members.iter().for_each(|member| member.wait_for_store(true));
    members
}

/// What is to hold with any store that is there.
fn shares(what: &str, shared: &str) {
    let members = start(shared);
    let [a, b, c] = &members;

    // One guesses at one gate, and finds all of them closed.
    a.guesses(client(1), 5);
    wait::until("the ban", || (!a.said(&["banned", "127.2.1.7/32"]).is_empty()).then_some(()));
    let banned = Instant::now();
    a.wait_until_shut(client(1));
    b.wait_until_shut(client(1));
    c.wait_until_shut(client(1));
    let took = banned.elapsed();
    println!("{what}: a ban at one closed the doors of the two others {took:?} after it");
    assert!(took < SOON, "{took:?}");
    assert!(!b.is_shut(client(2)), "another client");
    // They know who decided it, and why.
    for other in [b, c] {
        let lines = other.said(&["banned", "127.2.1.7/32", "auth-failures", "a.test", "last at gate submission"]);
        assert_eq!(lines.len(), 1, "{}", other.gate.complaints());
    }

    // Failures at all of them are counted together.
    a.guesses(client(3), 2);
    b.guesses(client(3), 2);
    c.guesses(client(3), 1);
    members.iter().for_each(|member| member.wait_until_shut(client(3)));
    assert_eq!(c.said(&["banned", "127.2.3.7/32", "count=5"]).len(), 1, "{}", c.gate.complaints());

    // Whoever has passed at one is known at the others.
    let known = b.figure("gatepost_ledger_entries");
    let mut honest = Dialogue::from(client(4), a.gate.second());
    honest.expect("220");
    honest.say("EHLO client.test").expect("250");
    honest.say("MAIL FROM:<bob@example.org>").expect("250");
    honest.say("RCPT TO:<alice@example.test>").expect("250");
    honest.say("QUIT").expect("221");
    let passed = Instant::now();
    wait::until("b to know who passed at a", || (b.figure("gatepost_ledger_entries") > known).then_some(()));
    println!("{what}: a pass at one was known at another {:?} later", passed.elapsed());
    let mut again = Dialogue::from(client(4), b.gate.second());
    assert_eq!(again.expect("220"), "220 mx.test ESMTP\n", "the backend's own greeting");
    again.say("QUIT").expect("221");
    let record = b.gate.wait_for_record(|record| record["client"] == client(4).to_string());
    assert_eq!(record["recognition"], "remembered", "{record}");

    // An unban at one opens all of them, and what was counted is gone everywhere.
    b.unban(client(1));
    for member in &members {
        wait::until("the door to be open", || (!member.is_shut(client(1))).then_some(()));
    }
    a.guesses(client(1), 2);
    c.guesses(client(1), 2);
    assert!(!b.is_shut(client(1)), "four failures since are no ban");

    for member in &members {
        assert_eq!(member.gate.metric("gatepost_shared_foreign_total", &[]), Some(0.0));
    }
    members.into_iter().for_each(|member| drop(member.gate.stop()));
}

#[test]
fn three_gates_on_one_valkey_are_as_one() {
    if present(&[Peer::Valkey]) {
        let server = Valkey::start(Peer::Valkey);
        shares("Valkey", &section("single", &[server.address()], LONG));
    }
}

#[test]
fn three_gates_on_one_redis_are_as_one() {
    if present(&[Peer::Redis]) {
        let server = Valkey::start(Peer::Redis);
        let about: String = redis::cmd("INFO").arg("server").query(&mut server.ask()).expect("an answer");
        let version = about.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?");
        shares(&format!("Redis {version}"), &section("single", &[server.address()], LONG));
    }
}

#[test]
fn three_gates_on_a_cluster_are_as_one() {
    if present(&[Peer::Valkey]) {
        let cluster = Cluster::start(Peer::Valkey);
        let servers: Vec<SocketAddr> = cluster.nodes.iter().map(Valkey::address).collect();
        shares("a cluster of three", &section("cluster", &servers, LONG));
    }
}

/// What is to hold while the store is away, and when it is back: `leave` and `come_back` are its doing.
fn goes_on_alone(what: &str, server: &mut Valkey, leave: fn(&mut Valkey), come_back: fn(&mut Valkey)) {
    let members = start(&section("single", &[server.address()], SHORT));
    let [a, b, c] = &members;
    // Banned everywhere, by whatever count: with so short a deadline on a busy machine one may be lost.
    let everywhere = client(10);
    wait::until("a ban", || a.guess(everywhere).is_none().then_some(()));
    members.iter().for_each(|member| member.wait_until_shut(everywhere));
    let with = (20..28).map(|n| a.guesses(client(n), 1)).max().unwrap_or_default();

    leave(server);
    let without = (30..38).map(|n| a.guesses(client(n), 1)).max().unwrap_or_default();
    members.iter().for_each(|member| member.wait_for_store(false));
    let later = (40..48).map(|n| b.guesses(client(n), 1)).max().unwrap_or_default();
    println!(
        "{what}: the slowest of eight refusals: {with:?} with the store, {without:?} as it left, {later:?} without"
    );
    for took in [without, later] {
        assert!(took < Duration::from_secs(5), "{took:?}");
    }

    // Each bans by itself, and the others do not know.
    a.guesses(client(11), 5);
    b.guesses(client(12), 5);
    a.wait_until_shut(client(11));
    b.wait_until_shut(client(12));
    assert!(!b.is_shut(client(11)) && !c.is_shut(client(11)) && !a.is_shut(client(12)));
    // Too few for any of them, too many together.
    a.guesses(client(13), 3);
    c.guesses(client(13), 3);
    assert!(!a.is_shut(client(13)) && !c.is_shut(client(13)));
    b.unban(everywhere);
    assert!(!b.is_shut(everywhere));
    assert!(a.is_shut(everywhere));

    come_back(server);
    let back = Instant::now();
    members.iter().for_each(|member| member.wait_for_store(true));
    for member in &members {
        member.wait_until_shut(client(11));
        member.wait_until_shut(client(12));
        wait::until("the unban to be heard of", || (!member.is_shut(everywhere)).then_some(()));
    }
    println!("{what}: bans and unbans were everywhere {:?} after it was back", back.elapsed());
    members.iter().for_each(|member| member.wait_until_shut(client(13)));
    println!("{what}: the failures of all were counted together {:?} after it was back", back.elapsed());
    members.into_iter().for_each(|member| drop(member.gate.stop()));
}

#[test]
fn gates_go_on_alone_while_the_store_is_stopped_and_are_reconciled() {
    if present(&[Peer::Valkey]) {
        let mut server = Valkey::start(Peer::Valkey);
        goes_on_alone("stopped", &mut server, Valkey::stop, Valkey::start_again);
    }
}

#[test]
fn gates_go_on_alone_while_the_store_is_frozen_and_are_reconciled() {
    if present(&[Peer::Valkey]) {
        let mut server = Valkey::start(Peer::Valkey);
        goes_on_alone("frozen", &mut server, |server| server.freeze(), |server| server.thaw());
    }
}
