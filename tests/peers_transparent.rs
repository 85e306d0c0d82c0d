//! `announce = "transparent"`: a mail server that takes neither PROXY headers nor XCLIENT has each client's own address on
//! its socket. Clients, gate and mail server are three hosts; the routes are made by the script that the manual names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;
mod peers;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::thread;

use host::backend::Manners;
use host::client::{Call, Client};
use host::dialogue::Dialogue;
use host::gate::{Gate, Place, program};
use host::letter::Letter;
use host::network::{
    Family, GATE_V4, GATE_V6, INNER, INNER_V4, INNER_V6, Inside, MTA_NAME, MTA_V4, Network, client, gate, mta,
};
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use host::process::{Process, public_dir};
use host::sink::{Sink, Transaction};
use host::wait;
use peers::transparent;
use rustix::process::geteuid;

const PEERS: [Peer; 5] = [Peer::Ip, Peer::Nft, Peer::Postfix, Peer::Curl, Peer::Python];

/// It says so when clients are not answered.
const ROUTES: &str = "the backend answers gatepost itself, but not connections that come from clients' addresses";
/// It says so when clients of a family come that the backend has none of.
const FAMILY: &str = "clients of a family that the backend has no address of get 421";

/// The file of a gate for both families, before `backend`.
fn file(at: &Place<'_>, backend: &str, more: &str) -> String {
    format!(
        "hostname = \"mx.gate.test\"\nadmin = \"{}\"\n[[gate]]\nlisten = [\"{GATE_V4}:25\", \"[{GATE_V6}]:25\"]\n\
         backend = \"{backend}\"\nannounce = \"transparent\"\n[greet]\nwait_min = \"200ms\"\nwait_max = \"2s\"\n{more}\n",
        at.admin,
    )
}

/// A gate on its host, before `backend`.
#[track_caller]
fn gate_before<'a>(network: &'a Network, backend: &str, more: &str) -> Inside<'a, Gate> {
    transparent::gate(network, |at| file(at, backend, more))
}

/// A Postfix as it comes: two addresses, no PROXY, no XCLIENT, and it relays for its own network, where the gate is too.
struct Mta<'a> {
    postfix: Inside<'a, Postfix>,
    sink: Inside<'a, Sink>,
}

impl<'a> Mta<'a> {
    #[track_caller]
    fn start(network: &'a Network) -> Self {
        let sink = network.mta.keep(Sink::start);
        let services = Family::BOTH.map(|family| format!("{} inet n - n - - smtpd", mta(family, 25)));
        let main_cf = ["inet_protocols = all", "mynetworks = 127.0.0.1/32, 192.0.2.0/24, [2001:db8:b::]/64"];
        let postfix = network.mta.keep(|| {
            Postfix::start(&postfix::Options {
                main_cf: &main_cf,
                master_cf: &services.each_ref().map(String::as_str),
                ..postfix::Options::delivering_to(sink.address())
            })
        });
        Self { postfix, sink }
    }

    /// How many messages its log says came from `client`.
    fn taken_from(&self, client: IpAddr) -> usize {
        let words = format!(": client=unknown[{client}]");
        self.postfix.log().lines().filter(|line| line.contains(&words)).count()
    }

    /// Nothing is from the gate, and nobody came in by another way than over the socket.
    #[track_caller]
    fn assert_never_took_the_gate_for_a_client(&self) {
        for own in [INNER_V4, INNER_V6, GATE_V4, GATE_V6] {
            assert_eq!(self.taken_from(own), 0, "{}", self.postfix.log());
        }
        let log = self.postfix.log().to_ascii_lowercase();
        assert!(!log.contains("xclient") && !log.contains("proxy"), "{log}");
    }
}

fn data(kept: &[Transaction]) -> impl Iterator<Item = &[u8]> {
    kept.iter().map(|transaction| &transaction.data[..])
}

/// Asks to have mail relayed to a foreign domain, and is answered in this way.
#[track_caller]
fn relay(dialogue: &mut Dialogue, answer: &str) {
    dialogue.expect("220");
    dialogue.say("EHLO client.test").expect("250");
    dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
    dialogue.say("RCPT TO:<somebody@example.net>").expect(answer);
}

/// Everything that holds where the routes are right.
fn deliver_in_both_families(network: &Network) {
    let mail_server = Mta::start(network);
    let mut gatepost = gate_before(network, &format!("{MTA_NAME}:25"), "");
    let mut letters = Vec::new();
    let mut senders = Vec::new();
    for family in Family::BOTH {
        let server = gate(family, 25);
        let awkward = Letter::awkward().into_iter().chain([Letter::odd_header()]).collect();
        let programs = [(Client::Curl, awkward), (Client::Smtplib, vec![Letter::short(), Letter::short()])];
        for (n, (program, sent)) in (1..).zip(programs) {
            let call = Call::to(server).from(client(family, n));
            for letter in &sent {
                network.clients.run(|| program.send(&call, letter)).assert_accepted();
            }
            // IPv6 clients of one network are one.
            let first = if family == Family::V6 && n > 1 { "remembered" } else { "stranger" };
            senders.push((client(family, n), sent.len(), first));
            letters.extend(sent);
        }
        // Not for the trust that the gate's network has.
        relay(&mut network.clients.run(|| Dialogue::from(client(family, 3), server)), "554 5.7.1");
    }
    let kept = mail_server.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    for (ip, sent, first) in senders {
        assert_eq!(mail_server.taken_from(ip), sent, "{ip}\n{}", mail_server.postfix.log());
        let mut visits = gatepost.journal();
        visits.retain(|record| record["client"] == ip.to_string());
        visits.sort_by_key(|record| record["ts"].as_str().map(str::to_owned));
        let recognized: Vec<_> = visits.iter().filter_map(|visit| visit["recognition"].as_str()).collect();
        assert_eq!((recognized.len(), recognized[0]), (sent, first), "{visits:#?}");
        assert!(recognized[1..].iter().all(|&as_what| as_what == "remembered"), "{visits:#?}");
    }
    mail_server.assert_never_took_the_gate_for_a_client();
    assert_eq!(gatepost.run(|gatepost| gatepost.get("/ready")), (200, "ready\n".to_owned()));
    assert!(!gatepost.complaints().contains(ROUTES) && !gatepost.complaints().contains(FAMILY));
}

#[test]
fn the_gate_is_the_mail_server_s_default_gateway() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
    network.make_gate_the_default_gateway();
    deliver_in_both_families(&network);
}

#[test]
fn the_mail_server_has_another_default_gateway_and_a_policy_route() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
    // What it sends of itself goes elsewhere. Twice, for it may be run again.
    network.mta.ip(&["route", "add", "default", "via", "192.0.2.254"]);
    network.mta.ip(&["route", "add", "default", "via", "2001:db8:b::fe"]);
    for gateway in [INNER_V4, INNER_V6, INNER_V4] {
        network.mta.deploy("transparent-routes.sh", &["mta", &gateway.to_string()]);
    }
    // The strictest that a host can be about where packets come from.
    for host in [&network.gate, &network.mta] {
        ["all", INNER].iter().for_each(|name| host.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1"));
    }
    deliver_in_both_families(&network);
}

#[test]
fn many_come_at_once_from_few_addresses() {
    if !present(&PEERS) {
        return;
    }
    const ADDRESSES: u8 = 5;
    const EACH: usize = 10;
    let network = Network::start();
    network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
    network.make_gate_the_default_gateway();
    let mail_server = Mta::start(&network);
    // All IPv6 clients here are of one /64, and so one client.
    let more = "[limits]\nsessions_per_stranger = 50";
    let gatepost = gate_before(&network, &format!("{MTA_NAME}:25"), more);
    for round in ["stranger", "remembered"] {
        let letters: Vec<(SocketAddr, IpAddr, Letter)> = (0..usize::from(ADDRESSES) * EACH)
            .map(|at| {
                let family = Family::BOTH[at % 2];
                // Five addresses of each family in turn.
                let n = u8::try_from(at / 2 % usize::from(ADDRESSES)).unwrap() + 1;
                (gate(family, 25), client(family, n), Letter::short())
            })
            .collect();
        // All are inside before the first goes on.
        let mut dialogues: Vec<Dialogue> = network.clients.run(|| {
            let dialogues = letters.iter().map(|(server, client, _)| Dialogue::from(*client, *server));
            dialogues.collect()
        });
        thread::scope(|scope| {
            for (dialogue, (_, _, letter)) in dialogues.iter_mut().zip(&letters) {
                scope.spawn(|| {
                    dialogue.expect("220");
                    dialogue.deliver(letter);
                });
            }
        });
        let before = if round == "stranger" { 0 } else { letters.len() };
        let kept = mail_server.sink.wait_for(before + letters.len());
        letters.iter().for_each(|(_, _, letter)| letter.assert_arrived_once(data(&kept), 1));
        for (_, ip, _) in &letters {
            let own = letters.iter().filter(|(_, other, _)| other == ip).count();
            let rounds = if round == "stranger" { 1 } else { 2 };
            assert_eq!(mail_server.taken_from(*ip), own * rounds, "{ip}");
        }
    }
    mail_server.assert_never_took_the_gate_for_a_client();
    drop(gatepost);
}

#[test]
fn without_a_way_back_the_log_names_the_routes_once() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    let mail_server = Mta::start(&network);
    let mut gatepost = gate_before(&network, &format!("{MTA_V4}:25"), "[timeouts]\nconnect = \"1s\"");
    let server = gate(Family::V4, 25);
    let refused = |n: u8| {
        let mut stranger = network.clients.run(|| Dialogue::from(client(Family::V4, n), server));
        stranger.expect("220");
        stranger.say("EHLO client.test").expect("250");
        stranger.say("MAIL FROM:<bob@example.org>").expect("250");
        stranger.say("RCPT TO:<alice@example.test>").expect("421");
        stranger.expect_close();
        let ip = client(Family::V4, n).to_string();
        let record = gatepost.wait_for_record(|record| record["client"] == ip.as_str());
        assert_eq!(record["outcome"], "backend-failed", "{record:#}");
    };
    refused(1);
    wait::until("the log to name the routes", || gatepost.complaints().contains(ROUTES).then_some(()));
    // Those of the other family have another trouble, and nobody is asked about it.
    relay(&mut network.clients.run(|| Dialogue::from(client(Family::V6, 1), gate(Family::V6, 25))), "421");
    // One from the same network is known by now.
    network.clients.run(|| Dialogue::from(client(Family::V6, 2), gate(Family::V6, 25))).expect("421");
    let said = gatepost.complaints();
    assert_eq!(said.matches(FAMILY).count(), 1, "{said}");
    (2..=4).for_each(refused);
    // The backend was asked again each time, and answered; that is waited for, so that it could have been said again.
    let probed = || mail_server.postfix.log().matches(&format!("disconnect from unknown[{INNER_V4}]")).count();
    let before = probed();
    refused(5);
    wait::until("the backend to be asked again", || (probed() > before).then_some(()));
    let said = gatepost.complaints();
    assert_eq!(said.matches(ROUTES).count(), 1, "{said}");
    assert!(said.contains("deploy/transparent-routes.sh"), "{said}");
    assert!(!said.contains("the backend does not answer"), "it does, and everybody may know: {said}");
    assert_eq!(gatepost.run(|gatepost| gatepost.get("/ready")).0, 200);
    // With the routes in place they are served.
    network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
    network.make_gate_the_default_gateway();
    let letter = Letter::short();
    let mut client = network.clients.run(|| Dialogue::from(client(Family::V4, 6), server));
    client.expect("220");
    client.deliver(&letter);
    letter.assert_arrived_once(data(&mail_server.sink.wait_for(1)), 1);
    mail_server.assert_never_took_the_gate_for_a_client();
}

#[test]
fn a_mail_server_on_the_gate_s_own_host_is_at_loopback() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    network.gate.deploy("transparent-routes.sh", &["loopback"]);
    let sink = network.gate.keep(Sink::start);
    // It relays for its own host, as most do.
    let mta = network.gate.keep(|| {
        let here = ["127.0.0.1:2525 inet n - n - - smtpd", "[::1]:2525 inet n - n - - smtpd"];
        let options = postfix::Options::delivering_to(sink.address());
        Postfix::start(&postfix::Options { main_cf: &["inet_protocols = all"], master_cf: &here, ..options })
    });
    let _gatepost = gate_before(&network, "localhost:2525", "");
    let mut sent = 0;
    for family in Family::BOTH {
        let (server, ip) = (gate(family, 25), client(family, 1));
        for _ in ["stranger", "remembered"] {
            let letter = Letter::short();
            let mut dialogue = network.clients.run(|| Dialogue::from(ip, server));
            dialogue.expect("220");
            dialogue.deliver(&letter);
            sent += 1;
            letter.assert_arrived_once(data(&sink.wait_for(sent)), 1);
        }
        let log = mta.log();
        assert_eq!(log.matches(&format!(": client=unknown[{ip}]")).count(), 2, "{log}");
        relay(&mut network.clients.run(|| Dialogue::from(ip, server)), "554 5.7.1");
        // A client on the gate's own host is there too: that is what it is shown as.
        relay(&mut network.gate.run(|| Dialogue::from(server.ip(), server)), "554 5.7.1");
        assert!(mta.log().contains(&format!("connect from unknown[{}]", server.ip())), "{}", mta.log());
    }
    assert!(!mta.log().contains(": client=unknown[127.0.0.1]"), "{}", mta.log());
}

#[test]
fn who_is_near_is_shown_truly_or_not_at_all() {
    if !present(&PEERS) {
        return;
    }
    let network = Network::start();
    network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
    network.make_gate_the_default_gateway();
    let mail_server = Mta::start(&network);
    let gatepost = gate_before(&network, &format!("{MTA_NAME}:25"), "");
    let seen = |ip: IpAddr| mail_server.postfix.log().contains(&format!("]: connect from unknown[{ip}]"));
    for family in Family::BOTH {
        let (server, loopback) = match family {
            Family::V4 => (gate(family, 25), IpAddr::from(Ipv4Addr::LOCALHOST)),
            Family::V6 => (gate(family, 25), IpAddr::from(Ipv6Addr::LOCALHOST)),
        };
        // On the gate's host: by its own address it is there, and no more trusted than that.
        relay(&mut network.gate.run(|| Dialogue::from(server.ip(), server)), "554 5.7.1");
        assert!(seen(server.ip()), "{}", mail_server.postfix.log());
        // Not so by loopback, which on the mail server means another host. (It is let in untested, and so hears it first.)
        network.gate.run(|| Dialogue::from(loopback, server)).expect("421");
        // The mail server itself would not believe it.
        let itself = mta(family, 25).ip();
        relay(&mut network.mta.run(|| Dialogue::from(itself, server)), "421");
        assert!(!seen(itself), "{}", mail_server.postfix.log());
        for (ip, note) in [(loopback, "means nothing to another host"), (itself, "at the backend's own address")] {
            let record = gatepost.wait_for_record(|record| record["client"] == ip.to_string());
            assert!(record["note"].as_str().is_some_and(|said| said.contains(note)), "{record:#}");
        }
    }
    mail_server.assert_never_took_the_gate_for_a_client();
    assert!(!gatepost.complaints().contains("the backend does not answer"), "{}", gatepost.complaints());
}

#[test]
fn a_client_with_no_port_left_is_our_trouble_and_passes() {
    if !present(&PEERS) {
        return;
    }
    const PORTS: usize = 4;
    let network = Network::start();
    network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
    network.make_gate_the_default_gateway();
    let _mail_server = Mta::start(&network);
    let mut gatepost = gate_before(&network, &format!("{MTA_NAME}:25"), "");
    let ports = |range: &str| network.gate.sysctl("net/ipv4/ip_local_port_range", range);
    let few = format!("40000 {}", 40000 + PORTS - 1);
    ports(&few);
    let server = gate(Family::V4, 25);
    let begin = |n: u8| {
        let mut dialogue = network.clients.run(|| Dialogue::from(client(Family::V4, n), server));
        dialogue.expect("220");
        dialogue.say("EHLO client.test").expect("250");
        dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
        dialogue.say("RCPT TO:<alice@example.test>");
        dialogue
    };
    // All pass the tests as strangers, and are handed off only then.
    let mut inside: Vec<Dialogue> = (0..PORTS).map(|_| begin(1)).collect();
    inside.iter_mut().for_each(|dialogue| drop(dialogue.expect("250")));
    // Known by now, it is greeted by nobody.
    let mut one_more = network.clients.run(|| Dialogue::from(client(Family::V4, 1), server));
    one_more.expect("421");
    // It is nobody else's trouble, and nobody takes the backend for away.
    begin(2).expect("250");
    ports("32768 60999");
    assert_eq!(gatepost.run(|gatepost| gatepost.get("/ready")).0, 200);
    assert!(!gatepost.complaints().contains("the backend does not answer"), "{}", gatepost.complaints());
    ports(&few);
    // Where the others leave, there is room again: the backend has closed first, and so keeps nothing busy here.
    for dialogue in &mut inside {
        dialogue.say("QUIT").expect("221");
        dialogue.expect_close();
    }
    wait::until("a port to be free", || {
        let mut again = network.clients.run(|| Dialogue::from(client(Family::V4, 1), server));
        again.line().ok().flatten().is_some_and(|line| line.starts_with("220")).then_some(())
    });
}

#[test]
fn the_script_takes_back_what_it_has_set_up() {
    if !present(&[Peer::Ip, Peer::Nft]) {
        return;
    }
    let network = Network::start();
    let gate = &network.gate;
    let seen = || {
        let routes = ["-4", "-6"]
            .map(|family| [gate.ip(&[family, "rule"]), gate.ip(&[family, "route", "show", "table", "all"])].concat());
        let tables = gate.command(Command::new(Peer::Nft.program()).args(["list", "ruleset"])).output().unwrap();
        assert!(tables.status.success(), "{tables:?}");
        routes.concat() + &String::from_utf8(tables.stdout).unwrap()
    };
    let before = seen();
    for arguments in [&["gate", INNER, "outer"][..], &["mta", "192.0.2.25"], &["mta", "2001:db8:b::25"], &["loopback"]]
    {
        gate.deploy("transparent-routes.sh", arguments);
        let once = seen();
        assert_ne!(once, before, "{arguments:?}");
        gate.deploy("transparent-routes.sh", arguments);
        // Whatever is counted anew in nftables, handles, is not shown.
        assert_eq!(seen(), once, "again, it changes nothing: {arguments:?}");
        gate.deploy("transparent-routes.sh", &["undo"]);
        assert_eq!(seen(), before, "{arguments:?}");
    }
    gate.deploy("transparent-routes.sh", &["undo"]);
}

/// The program, which may not connect from other addresses.
fn powerless(program: Command) -> Command {
    if !geteuid().is_root() {
        return program;
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw", "--"]);
    command.arg(program.get_program()).args(program.get_args());
    command
}

const LOOPBACK: &str = "hostname = \"mx.gate.test\"\nadmin = \"ADMIN\"\n[[gate]]\nlisten = \"SMTP\"\n\
                        backend = \"127.0.0.1:1\"\nannounce = \"transparent\"\n";

#[test]
fn without_the_capability_it_says_what_to_do_and_does_not_start() {
    let dir = public_dir();
    let path = dir.path().join("gatepost.toml");
    let [smtp, admin] = [(); 2].map(|()| host::ports::free_address());
    fs::write(&path, LOOPBACK.replace("SMTP", &smtp.to_string()).replace("ADMIN", &admin.to_string())).unwrap();
    let with = |task: &str| {
        let mut command = program();
        command.args([task, "-c"]).arg(&path);
        powerless(command)
    };
    let mut run = Process::start("gatepost", &with("run"), dir.path());
    let status = wait::until("gatepost to give up", || run.ended());
    assert_eq!(status.code(), Some(69), "{}", run.stderr());
    let checked = with("check").output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "the file is right; another user may do more");
    let complaint = String::from_utf8(checked.stderr).unwrap();
    for said in [run.stderr(), complaint] {
        for words in
            ["CAP_NET_RAW or CAP_NET_ADMIN", "AmbientCapabilities=", "setcap cap_net_bind_service,cap_net_raw+ep"]
        {
            assert!(said.contains(words), "{words}\n{said}");
        }
    }
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(told.contains("sees each client's own address") && told.contains("transparent-routes.sh"), "{told}");
    if geteuid().is_root() {
        let mut check = program();
        let checked = check.args(["check", "-c"]).arg(&path).output().unwrap();
        let told = String::from_utf8(checked.stdout).unwrap();
        assert!(told.contains("capability: this user may") && checked.stderr.is_empty(), "{told}");
    }
}

#[test]
fn without_the_capability_a_reload_changes_nothing() {
    let text =
        |at: (SocketAddr, SocketAddr)| LOOPBACK.replace("SMTP", &at.0.to_string()).replace("ADMIN", &at.1.to_string());
    let without = |text: String| text.replace("transparent", "proxy-v2");
    let backend = Manners::default().behind_proxy().start();
    let text = |at| text(at).replace("127.0.0.1:1", &backend.address().to_string());
    let gatepost = Gate::start_by(
        |at| without(text((at.smtp, at.admin))),
        |file, _| {
            let mut run = program();
            run.args(["run", "-c"]).arg(file);
            powerless(run)
        },
    );
    gatepost.reload(&text((gatepost.smtp(), gatepost.admin())));
    let refused = "the file is not in force, the one before is: cannot connect from clients' addresses";
    wait::until("the file to be refused", || gatepost.complaints().contains(refused).then_some(()));
    assert_eq!(gatepost.metric("gatepost_config_last_reload_successful", &[]), Some(0.0));
    assert_eq!(gatepost.get("/ready").0, 200, "the backend of before is the one that counts");
}
