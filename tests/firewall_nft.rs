//! Bans in the kernel's packet filter: what a banned client sends to a mail port never arrives, and all else does. Clients
//! and gate are two hosts; the firewall is the crate's own, driven here, and `nft` is Debian's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use gatepost::clock::Clock;
use gatepost::firewall::{Failure, Firewall, Nftables, Settings, examine};
use gatepost::time::Timestamp;
use ipnet::IpNet;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use host::network::{Family, GATE_V4, GATE_V6, Host, Inside, Network, client, gate};
use host::peers::{Peer, present};
use host::wait;

const PEERS: [Peer; 2] = [Peer::Ip, Peer::Nft];

/// A mail port that is guarded, and one of the same host that is none.
const MAIL: u16 = 25;
const OTHER: u16 = 8080;

/// Longer than a packet needs here, shorter than anybody's patience.
const MOMENT: Duration = Duration::from_millis(700);

/// Far longer than a test runs.
const LONG: Duration = Duration::from_secs(3600);

/// Servers that greet whoever comes, at both ports and in both families.
struct Greeters;

impl Greeters {
    fn start() -> Self {
        for family in Family::BOTH {
            for port in [MAIL, OTHER] {
                let listener = TcpListener::bind(gate(family, port)).expect("a port");
                // They go with the test program.
                thread::spawn(move || {
                    for mut socket in listener.incoming().flatten() {
                        let _ = socket.write_all(b"220 here\r\n");
                    }
                });
            }
        }
        Self
    }
}

/// Whether a client is greeted at a port.
fn is_greeted(network: &Network, from: IpAddr, port: u16) -> bool {
    let Some(mut socket) = connect(network, from, port, wait::PATIENCE) else { return false };
    let mut greeting = [0; 4];
    socket.read_exact(&mut greeting).expect("a greeting");
    greeting == *b"220 "
}

/// Whether nothing at all answers a client.
fn is_kept_out(network: &Network, from: IpAddr, port: u16) -> bool {
    connect(network, from, port, MOMENT).is_none()
}

/// A connection, unless none comes about for that long.
fn connect(network: &Network, from: IpAddr, port: u16, patience: Duration) -> Option<TcpStream> {
    let to = SocketAddr::new(if from.is_ipv4() { GATE_V4 } else { GATE_V6 }, port);
    network.clients.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).expect("a client's address");
        match socket.connect_timeout(&to.into(), patience) {
            Ok(()) => {}
            Err(error) if [ErrorKind::TimedOut, ErrorKind::WouldBlock].contains(&error.kind()) => return None,
            Err(error) => panic!("{from} to {to}: {error}"),
        }
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        Some(socket)
    })
}

/// A firewall in a gatepost of its own.
struct Daemon {
    runtime: Option<Runtime>,
    firewall: Firewall,
}

impl Daemon {
    fn start(host: &Host, bans: &[(&str, Duration)]) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let settings = Settings { nftables: Some(nftables(host)), ..Settings::default() };
        let firewall = runtime.block_on(async { Firewall::open(settings, Clock::system()) });
        firewall.restore(bans.iter().map(|(net, span)| (net.parse().unwrap(), later(*span), "auth-failures")));
        Self { runtime: Some(runtime), firewall }
    }

    fn ban(&self, net: &str, span: Duration) {
        self.firewall.ban(net.parse().unwrap(), later(span), "auth-failures");
    }

    fn unban(&self, net: &str) {
        self.firewall.unban(net.parse().unwrap());
    }

    fn stop(self) {
        self.runtime.as_ref().unwrap().block_on(self.firewall.stop());
    }

    /// As by `kill -9`.
    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

fn later(span: Duration) -> Timestamp {
    Clock::system().now().plus(span)
}

/// The `nft` of that host.
fn nftables(host: &Host) -> Nftables {
    let inside = host.command(&Command::new(Peer::Nft.program()));
    let words = [inside.get_program()].into_iter().chain(inside.get_args());
    Nftables {
        program: words.map(|word| word.to_str().unwrap().to_owned()).collect(),
        ports: vec![MAIL, 465, 587],
        check: Duration::from_millis(500),
        ..Nftables::default()
    }
}

/// What `nft` has to say of its own; nothing if it fails.
fn nft(host: &Host, arguments: &[&str]) -> Option<Value> {
    let output = host.command(Command::new(Peer::Nft.program()).arg("-j").args(arguments)).output().expect("nft runs");
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// The elements of the two sets, in order; nothing if there is no table.
fn banned(host: &Host) -> Option<Vec<IpNet>> {
    let mut banned = Vec::new();
    for set in ["banned4", "banned6"] {
        let listed = nft(host, &["list", "set", "inet", "gatepost", set])?;
        let objects = listed["nftables"].as_array().unwrap();
        let set = objects.iter().find_map(|object| object.get("set")).expect("the set");
        for element in set.get("elem").and_then(Value::as_array).into_iter().flatten() {
            let value = &element["elem"]["val"];
            assert!(element["elem"]["expires"].is_u64(), "{element} would stay for ever");
            banned.push(match value.as_str() {
                Some(address) => IpNet::from(address.parse::<IpAddr>().unwrap()),
                None => {
                    let prefix = &value["prefix"];
                    let length = prefix["len"].as_u64().unwrap() as u8;
                    IpNet::new(prefix["addr"].as_str().unwrap().parse().unwrap(), length).unwrap()
                }
            });
        }
    }
    banned.sort();
    Some(banned)
}

#[track_caller]
fn until_banned(host: &Host, nets: &[&str]) {
    let mut nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
    nets.sort();
    wait::until("the sets", || (banned(host).as_ref() == Some(&nets)).then_some(()));
}

/// How many packets were dropped.
fn dropped(host: &Host) -> u64 {
    let listed = nft(host, &["list", "chain", "inet", "gatepost", "input"]).expect("the chain");
    let rules = listed["nftables"].as_array().unwrap().iter().filter_map(|object| object.get("rule"));
    let counters = rules.flat_map(|rule| rule["expr"].as_array().unwrap()).filter_map(|part| part.get("counter"));
    counters.map(|counter| counter["packets"].as_u64().unwrap()).sum()
}

fn greeters(network: &Network) -> Inside<'_, Greeters> {
    network.gate.keep(Greeters::start)
}

#[test]
fn a_banned_client_reaches_no_mail_port_and_every_other_one() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let _greeters = greeters(&network);
    let daemon = Daemon::start(&network.gate, &[]);
    until_banned(&network.gate, &[]);
    for family in Family::BOTH {
        assert!(is_greeted(&network, client(family, 1), MAIL));
    }

    daemon.ban("198.51.100.11/32", LONG);
    daemon.ban("2001:db8:c::11/128", LONG);
    until_banned(&network.gate, &["198.51.100.11/32", "2001:db8:c::11/128"]);
    for family in Family::BOTH {
        let before = dropped(&network.gate);
        assert!(is_kept_out(&network, client(family, 1), MAIL), "{family:?}: a mail port");
        assert!(dropped(&network.gate) > before, "{family:?}: it is the kernel that drops them");
        assert!(is_greeted(&network, client(family, 1), OTHER), "{family:?}: another port");
        assert!(is_greeted(&network, client(family, 2), MAIL), "{family:?}: another client");
    }

    daemon.unban("198.51.100.11/32");
    daemon.unban("2001:db8:c::11/128");
    until_banned(&network.gate, &[]);
    for family in Family::BOTH {
        assert!(is_greeted(&network, client(family, 1), MAIL));
    }
    daemon.stop();
}

#[test]
fn the_set_empties_by_itself_whatever_becomes_of_gatepost() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let _greeters = greeters(&network);
    let daemon = Daemon::start(&network.gate, &[]);
    until_banned(&network.gate, &[]);
    daemon.ban("198.51.100.11/32", Duration::from_secs(8));
    until_banned(&network.gate, &["198.51.100.11/32"]);
    daemon.kill();
    assert!(is_kept_out(&network, client(Family::V4, 1), MAIL));
    until_banned(&network.gate, &[]);
    assert!(is_greeted(&network, client(Family::V4, 1), MAIL));
}

#[test]
fn a_restart_restores_what_is_in_force_and_a_stop_clears_it() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let _greeters = greeters(&network);
    let bans = [("198.51.100.11/32", LONG), ("2001:db8:c::/64", LONG)];
    let nets = ["198.51.100.11/32", "2001:db8:c::/64"];
    let daemon = Daemon::start(&network.gate, &bans);
    until_banned(&network.gate, &nets);
    assert!(is_kept_out(&network, client(Family::V6, 1), MAIL));
    daemon.stop();
    assert_eq!(banned(&network.gate), None, "the table is gone");
    assert!(is_greeted(&network, client(Family::V6, 1), MAIL));

    let daemon = Daemon::start(&network.gate, &bans);
    until_banned(&network.gate, &nets);
    daemon.ban("198.51.100.12/32", LONG);
    until_banned(&network.gate, &["198.51.100.11/32", "198.51.100.12/32", "2001:db8:c::/64"]);
    daemon.kill();

    // Its table is taken over: what was lifted meanwhile is not there any more.
    assert_eq!(banned(&network.gate).map(|nets| nets.len()), Some(3), "a killed one leaves its table");
    let daemon = Daemon::start(&network.gate, &bans);
    until_banned(&network.gate, &nets);
    assert!(is_kept_out(&network, client(Family::V4, 1), MAIL));
    assert!(is_greeted(&network, client(Family::V4, 2), MAIL));
    daemon.stop();
    assert_eq!(banned(&network.gate), None);
}

#[test]
fn networks_within_one_another_and_other_spans_are_taken_by_the_kernel() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let host = &network.gate;
    let daemon = Daemon::start(host, &[("198.51.100.11/32", LONG), ("198.51.100.0/28", LONG)]);
    until_banned(host, &["198.51.100.0/28"]);
    daemon.ban("198.51.100.0/24", LONG);
    until_banned(host, &["198.51.100.0/24"]);
    daemon.ban("198.51.100.200/32", LONG);
    daemon.unban("198.51.100.0/24");
    until_banned(host, &["198.51.100.0/28", "198.51.100.200/32"]);
    // Longer, and shorter.
    for span in [LONG * 48, Duration::from_secs(600)] {
        daemon.ban("198.51.100.0/28", span);
        wait::until("another span", || {
            let listed = nft(host, &["list", "set", "inet", "gatepost", "banned4"])?.to_string();
            let timeouts =
                listed.split("\"timeout\":").skip(1).filter_map(|rest| rest.split([',', '}']).next()?.parse().ok());
            let about = span.as_secs() - 60..=span.as_secs();
            timeouts.into_iter().any(|timeout: u64| about.contains(&timeout)).then_some(())
        });
    }
    daemon.unban("198.51.100.0/28");
    daemon.ban("2001:db8::/32", LONG);
    daemon.ban("2001:db8:c::/64", LONG);
    until_banned(host, &["198.51.100.11/32", "198.51.100.200/32", "2001:db8::/32"]);
    let failures = daemon.firewall.counts().failures;
    assert!(failures.iter().all(|(_, n)| *n == 0), "{failures:?}");
    daemon.stop();
}

#[test]
fn a_table_that_somebody_deleted_is_made_anew() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let daemon = Daemon::start(&network.gate, &[("198.51.100.11/32", LONG)]);
    until_banned(&network.gate, &["198.51.100.11/32"]);
    nft(&network.gate, &["flush", "ruleset"]);
    until_banned(&network.gate, &["198.51.100.11/32"]);
    // Likewise where the next ban comes first, mostly.
    nft(&network.gate, &["flush", "ruleset"]);
    daemon.ban("198.51.100.12/32", LONG);
    until_banned(&network.gate, &["198.51.100.11/32", "198.51.100.12/32"]);
    daemon.stop();
}

#[test]
fn all_that_there_may_be_is_taken_in_time() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let daemon = Daemon::start(&network.gate, &[]);
    until_banned(&network.gate, &[]);
    let begin = std::time::Instant::now();
    let bans = (0..65_536_u32).map(|n| {
        let ip = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0A00_0000 + n * 3));
        (IpNet::from(ip), later(LONG), "auth-failures")
    });
    daemon.firewall.restore(bans);
    let all = || (daemon.firewall.counts().elements == 65_536).then_some(());
    wait::within(4 * wait::PATIENCE, all).expect("all of them");
    println!("65536 elements in {:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    daemon.ban("198.51.100.11/32", LONG);
    daemon.ban("10.0.0.0/32", 2 * LONG);
    let failures = daemon.firewall.counts().failures;
    assert!(failures.contains(&("overflow", 1)), "{failures:?}");
    let extended = || {
        let get = ["get", "element", "inet", "gatepost", "banned4", "{ 10.0.0.0 }"];
        let output = network.gate.command(Command::new(Peer::Nft.program()).args(get)).output().expect("nft runs");
        String::from_utf8_lossy(&output.stdout).contains("timeout 1h59m").then_some(())
    };
    wait::within(4 * wait::PATIENCE, extended).expect("another span");
    println!("a change among them in {:?}", begin.elapsed());
    daemon.stop();
    assert_eq!(banned(&network.gate), None);
}

#[test]
fn the_examination_tells_whether_nft_would_work() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let works = nftables(&network.gate);
    assert_eq!(runtime.block_on(examine(&works)), Ok(()));
    assert_eq!(banned(&network.gate), None, "nothing was changed");
    // As somebody who may not.
    let mut program = works.program.clone();
    let at = program.len() - 1;
    program.splice(at..at, ["setpriv", "--reuid=65534", "--clear-groups"].map(str::to_owned));
    let failure = runtime.block_on(examine(&Nftables { program, ..works }));
    assert!(matches!(failure, Err(Failure::Denied(_))), "{failure:?}");
}
