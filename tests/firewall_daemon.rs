//! The daemon and the kernel's packet filter: whoever guesses passwords is dropped at the mail port and nowhere else, until
//! the ban ends; a restart brings longer bans back, and a stop leaves nothing behind. Clients and gate are two hosts.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails, loudly and at once")]

mod host;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use host::backend::{Act, Backend, Manners};
use host::dialogue::Dialogue;
use host::gate::{Gate, program};
use host::network::{Family, Host, Inside, Network, client, gate};
use host::peers::{Peer, present};
use host::{process, proxy, wait};

const PEERS: [Peer; 2] = [Peer::Ip, Peer::Nft];

/// The port of clients, that of a load balancer, and one that has nothing to do with mail.
const MAIL: u16 = 587;
const BALANCED: u16 = 2587;
const OTHER: u16 = 8080;

/// The client that is a load balancer.
const BALANCER: u8 = 8;

/// Longer than a packet needs here, shorter than anybody's patience.
const MOMENT: Duration = Duration::from_millis(700);

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Door {
    /// Its packets go nowhere.
    Dropped,
    /// Nobody listens.
    Refused,
    /// It is closed without a word.
    Shut,
    /// It is greeted.
    Open,
}

/// A host with a gate, its backend and something else.
struct Scene {
    network: Network,
    /// For the ledger: it is there before and after the gate.
    dir: tempfile::TempDir,
}

impl Scene {
    fn set() -> Self {
        Self { network: Network::start(), dir: process::public_dir() }
    }

    /// A backend that knows nobody, and a server of something else.
    fn others(&self) -> Inside<'_, Backend> {
        self.network.gate.keep(|| {
            let listener = TcpListener::bind(gate(Family::V4, OTHER)).expect("a port");
            // It goes with the test program.
            thread::spawn(move || {
                for mut socket in listener.incoming().flatten() {
                    let _ = socket.write_all(b"220 here\r\n");
                }
            });
            let mut manners = Manners::default().behind_proxy().but("AUTH", Act::Say("535 5.7.8 no"));
            manners.keywords.push("AUTH PLAIN LOGIN".to_owned());
            manners.start()
        })
    }

    /// A gate; `more` goes to the top of its file. It is to be dropped before its host.
    #[track_caller]
    fn gate(&self, backend: &Backend, more: &str) -> Gate {
        let (ledger, backend) = (self.dir.path().join("ledger.redb").display().to_string(), backend.address());
        let file = |at: &host::gate::Place<'_>| {
            let listen = Family::BOTH.map(|family| gate(family, MAIL).to_string());
            format!(
                "hostname = \"mx.test\"\nadmin = \"{}\"\n[access]\nallow = []\n[ledger]\npath = \"{ledger}\"\n\
                 [control]\nsocket = \"{}\"\n{more}\n[bans.nftables]\nenabled = true\n\
                 [[gate]]\nscene = \"submission\"\nlisten = {listen:?}\nbackend = \"{backend}\"\n\
                 [[gate]]\nname = \"balanced\"\nscene = \"submission\"\nlisten = \"{}\"\nbackend = \"{backend}\"\n\
                 proxy_from = [\"{}\"]\n",
                at.admin,
                at.dir.join("s").display(),
                gate(Family::V4, BALANCED),
                client(Family::V4, BALANCER),
            )
        };
        let run = |file: &Path, _: &Path| {
            let mut run = program();
            run.args(["run", "-c"]).arg(file);
            self.network.gate.command(&run)
        };
        let gate = self.network.gate.run(|| Gate::start_by(file, run));
        wait::until("the table", || table(&self.network.gate));
        gate
    }

    fn door(&self, from: IpAddr, port: u16) -> Door {
        let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
        self.network.clients.run(|| knock(from, gate(family, port)))
    }

    /// Guesses so many times, by a load balancer if that is where `port` leads; each is answered.
    #[track_caller]
    fn guesses(&self, from: IpAddr, port: u16, count: usize) {
        let server = gate(if from.is_ipv4() { Family::V4 } else { Family::V6 }, port);
        self.network.clients.run(|| {
            for n in 1..=count {
                let mut dialogue = match port {
                    BALANCED => {
                        let mut dialogue = Dialogue::from(client(Family::V4, BALANCER), server);
                        dialogue.send(proxy::v2(SocketAddr::new(from, 4711), server));
                        dialogue
                    }
                    _ => Dialogue::from(from, server),
                };
                dialogue.expect("220");
                dialogue.say("EHLO client.test").expect("250");
                let guess = BASE64_STANDARD.encode(format!("\0root\0{n}"));
                dialogue.say(&format!("AUTH PLAIN {guess}")).expect("535");
            }
        });
    }

    /// What `gatepost` says to an operator.
    #[track_caller]
    fn ask(&self, gate: &Gate, arguments: &[&str]) {
        let mut command = program();
        command.args(arguments).env("GATEPOST_CONFIG", gate.dir().join("gatepost.toml")).env_remove("GATEPOST_SOCKET");
        let output = command.output().expect("the program that runs already");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    #[track_caller]
    fn wait_for_set(&self, what: &str, is_there: bool) {
        let is_so = || table(&self.network.gate).filter(|text| text.contains(what) == is_there);
        wait::until(&format!("{what} in the set: {is_there}"), is_so);
    }
}

fn knock(from: IpAddr, to: SocketAddr) -> Door {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from, 0).into()).expect("a client's address");
    match socket.connect_timeout(&to.into(), MOMENT) {
        Ok(()) => {}
        Err(error) if [ErrorKind::TimedOut, ErrorKind::WouldBlock].contains(&error.kind()) => return Door::Dropped,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Door::Refused,
        Err(error) => panic!("{from} to {to}: {error}"),
    }
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(wait::PATIENCE)).expect("a limit");
    let mut greeting = [0; 4];
    match socket.read_exact(&mut greeting) {
        Ok(()) if greeting.starts_with(b"220") => Door::Open,
        Ok(()) => panic!("{from} to {to}: {}", greeting.escape_ascii()),
        Err(error) if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind()) => Door::Shut,
        Err(error) => panic!("{from} to {to}: {error}"),
    }
}

/// What `nft` says of our table; nothing if there is none.
fn table(host: &Host) -> Option<String> {
    let list = ["list", "table", "inet", "gatepost"];
    let output = host.command(Command::new(Peer::Nft.program()).args(list)).output().expect("nft runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn whoever_guesses_is_dropped_by_the_kernel_at_the_mail_port_until_the_ban_ends() {
    if !present(&PEERS) {
        return;
    }
    let scene = Scene::set();
    let backend = scene.others();
    let gate = scene.gate(&backend, "[bans]\nfirst = \"8s\"\njitter = 0");
    let (bot, honest) = (client(Family::V4, 1), client(Family::V4, 2));
    assert_eq!(scene.door(bot, MAIL), Door::Open);
    scene.guesses(bot, MAIL, 5);
    scene.wait_for_set("198.51.100.11", true);
    assert_eq!(scene.door(bot, MAIL), Door::Dropped);
    assert_eq!(scene.door(bot, OTHER), Door::Open, "another port of the same host");
    assert_eq!(scene.door(honest, MAIL), Door::Open, "another client");
    // Nobody takes it out: it has its time.
    scene.wait_for_set("198.51.100.11", false);
    wait::until("the ban to end", || (scene.door(bot, MAIL) == Door::Open).then_some(()));
    scene.network.gate.run(|| drop(gate.stop()));
    assert_eq!(table(&scene.network.gate), None);
}

#[test]
fn a_restart_restores_the_bans_that_hold_and_a_stop_clears_the_table() {
    if !present(&PEERS) {
        return;
    }
    let scene = Scene::set();
    let backend = scene.others();
    let bot = client(Family::V4, 1);
    let gate = scene.gate(&backend, "");
    scene.guesses(bot, MAIL, 5);
    scene.ask(&gate, &["ban", "198.51.100.13"]);
    let banned = ["198.51.100.11", "198.51.100.13"];
    banned.into_iter().for_each(|net| scene.wait_for_set(net, true));
    scene.network.gate.run(|| drop(gate.stop()));
    assert_eq!(table(&scene.network.gate), None, "the table is gone");
    assert_eq!(scene.door(bot, MAIL), Door::Refused, "nothing drops its packets, and nobody listens");

    let gate = scene.gate(&backend, "");
    banned.into_iter().for_each(|net| scene.wait_for_set(net, true));
    assert_eq!(scene.door(client(Family::V4, 3), MAIL), Door::Dropped);
    assert_eq!(scene.door(bot, MAIL), Door::Dropped);
    assert_eq!(scene.door(client(Family::V4, 2), MAIL), Door::Open);
    scene.ask(&gate, &["unban", "198.51.100.13"]);
    wait::until("the door to be open", || (scene.door(client(Family::V4, 3), MAIL) == Door::Open).then_some(()));
    scene.network.gate.run(|| drop(gate.stop()));
    assert_eq!(table(&scene.network.gate), None, "the table is gone");
}

#[test]
fn what_a_load_balancer_tells_of_stays_inside_and_what_is_allowed_is_never_dropped() {
    if !present(&PEERS) {
        return;
    }
    let scene = Scene::set();
    let backend = scene.others();
    let gate = scene.gate(&backend, "");
    let (bot, honest, other) = (client(Family::V4, 1), client(Family::V4, 2), client(Family::V4, 3));
    // Whom a load balancer announces is banned at each gate, by gatepost alone.
    scene.guesses(bot, BALANCED, 5);
    wait::until("the ban", || gate.complaints().contains("behind a load balancer: 5 failed AUTH").then_some(()));
    assert_eq!(scene.door(bot, MAIL), Door::Shut);
    // What comes after it is told in its turn: an operator's word, of whomever.
    scene.ask(&gate, &["ban", "198.51.100.14"]);
    scene.wait_for_set("198.51.100.14", true);
    scene.wait_for_set("198.51.100.11", false);
    scene.ask(&gate, &["ban", "198.51.100.11"]);
    scene.wait_for_set("198.51.100.11", true);
    assert_eq!(scene.door(bot, MAIL), Door::Dropped);

    // Nobody who is allowed is dropped with his neighbours; those are banned all the same.
    scene.ask(&gate, &["ban", "198.51.100.8/29"]);
    scene.wait_for_set("198.51.100.8/29", true);
    assert_eq!(scene.door(honest, MAIL), Door::Dropped);
    scene.ask(&gate, &["allow", "198.51.100.12"]);
    scene.wait_for_set("198.51.100.8/29", false);
    assert_eq!((scene.door(honest, MAIL), scene.door(other, MAIL)), (Door::Open, Door::Shut));
    scene.ask(&gate, &["unban", "198.51.100.12"]);
    scene.wait_for_set("198.51.100.8/29", true);
    scene.network.gate.run(|| drop(gate.stop()));
    assert_eq!(table(&scene.network.gate), None, "the table is gone");
}
