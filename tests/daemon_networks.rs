//! Tens of thousands of distinct IPv6 networks come to a gate: its memory stays within its cap, and nobody that matters is
//! forgotten.
//!
//! They come as behind a load balancer: there are not so many addresses on loopback. `GATEPOST_KNOCKS=1000000` for a
//! million. What is at stake for bans and counts is shown, without the sockets, by `src/session/tests/million.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use host::backend::{Act, Manners};
use host::gate::Gate;
use host::proxy;
use host::wait::PATIENCE;

/// How many clients come at once.
const CROWD: usize = 48;

/// Clients that pass, come again, and are to be known at the end.
const HONEST: u64 = 100;

/// How many standings, and how many bans, there is room for: far fewer than come.
const ENTRIES: u64 = 2000;
const BANS: u64 = 500;

/// What the process may grow by, in bytes: its tables (60 for a standing, 700 for a ban, 1100 for the tally, the account and
/// the network of each that guesses, up to 250,000), the 2 MiB of rates, and 10 MiB for the sockets, tasks, pages of the
/// file and whatever else a debug build likes to have.
fn cap(knocks: u64) -> u64 {
    ENTRIES * 60 + BANS * 700 + (knocks / 20).min(250_000) * 1100 + (12 << 20)
}

/// The `n`th network's host.
fn client(n: u64) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::from(u128::from(0x2001_0db8_0000_0000 + n) << 64 | 1), 40_000))
}

/// A connection that a load balancer has announced.
struct Visit(BufReader<TcpStream>);

impl Visit {
    fn begin(client: SocketAddr, server: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(server).expect("the gate listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        // Leaves by a reset, so that no port is kept waiting.
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        stream.write_all(&proxy::v2(client, "[2001:db8:ffff::25]:25".parse().unwrap())).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next line; none if it is closed.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(read) => (read > 0).then_some(line),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn say(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        loop {
            let line = self.line().expect("a reply");
            if line.as_bytes()[3] == b' ' {
                return line;
            }
        }
    }
}

/// Comes, and is gone when it has seen that it has to wait.
fn knock(n: u64, mx: SocketAddr) {
    let teaser = Visit::begin(client(n), mx).line().expect("a teaser");
    assert!(teaser.starts_with("220-"), "{teaser}");
}

/// Comes and waits until it has passed. Whether it was known before.
fn pass(n: u64, mx: SocketAddr) -> bool {
    let mut visit = Visit::begin(client(n), mx);
    let first = visit.line().expect("a greeting");
    if first.starts_with("220-") {
        assert!(visit.line().expect("the rest of it").starts_with("220 "));
        // Whoever is greeted has passed; when it hears more, that is remembered for sure.
        assert!(visit.say("EHLO client.test").starts_with("250 "));
    }
    first == "220 mx.test ESMTP\r\n"
}

/// Guesses a password, which is one too many, and comes again. Whether the door is shut then.
fn guess(n: u64, submission: SocketAddr) -> bool {
    let mut visit = Visit::begin(client(n), submission);
    assert!(visit.line().expect("a greeting").starts_with("220 "));
    visit.say("EHLO client.test");
    let reply = visit.say(&format!("AUTH PLAIN {}", BASE64_STANDARD.encode(format!("\0user{n}\0x"))));
    assert!(reply.starts_with("535"), "{reply}");
    Visit::begin(client(n), submission).line().is_none()
}

/// The memory of the gate that is no file's, in bytes.
fn resident(gate: &Gate) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gate.pid())).expect("our own child");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn distinct_networks_without_number_neither_fill_the_memory_nor_push_out_the_known() {
    let knocks: u64 = env::var("GATEPOST_KNOCKS").map_or(20_000, |knocks| knocks.parse().expect("a number"));
    let mut manners = Manners::default().but("AUTH", Act::Say("535 5.7.8 no"));
    manners.keywords.push("AUTH PLAIN".to_owned());
    let backend = manners.behind_proxy().start();
    let gate = Gate::start(|at| {
        let (admin, mx, submission, backend) = (at.admin, at.smtp, at.second, backend.address());
        format!(
            "hostname = \"mx.example.test\"\nadmin = \"{admin}\"\nlanes = 2\n\
             [[gate]]\nlisten = \"{mx}\"\nbackend = \"{backend}\"\nproxy_from = [\"127.0.0.1\"]\n\
             [[gate]]\nscene = \"submission\"\nlisten = \"{submission}\"\nbackend = \"{backend}\"\n\
             proxy_from = [\"127.0.0.1\"]\n\
             [tests]\nhelo = {{ names = \"off\", syntax = \"off\" }}\npipelining = \"off\"\nnot-smtp = \"off\"\n\
             bare-newline = \"off\"\nauth-not-offered = \"off\"\n\
             [greet]\nwait_min = \"20ms\"\nwait_max = \"40ms\"\n[auth]\nfailures = \"1/10m\"\n\
             [bans]\nmax = {BANS}\n[ledger]\nentries = {ENTRIES}\npath = \"{}\"\n",
            at.dir.join("ledger.redb").display()
        )
    });
    let (mx, submission) = (gate.smtp(), gate.second());
    let honest = || (0..HONEST).map(|n| 1 << 28 | n);
    for n in honest() {
        assert!(!pass(n, mx));
        assert!(pass(n, mx), "it has come again");
    }
    assert!(guess(1 << 27, submission));
    let (before, began, next) = (resident(&gate), Instant::now(), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    match n {
                        n if n >= knocks => return,
                        n if n % 20 == 1 => assert!(guess(n, submission), "{n} is not banned"),
                        n if n % 4 == 0 => assert!(!pass(n, mx), "{n} was not here before"),
                        n => knock(n, mx),
                    }
                }
            });
        }
    });
    let (took, grown) = (began.elapsed(), resident(&gate).saturating_sub(before));
    let entries = gate.metric("gatepost_ledger_entries", &[]).unwrap_or_default();
    println!(
        "{knocks} networks within {took:.1?}, a quarter of them passed, a twentieth was banned; {entries} standings; the process \
         grew by {grown} bytes from {before}, the cap is {}",
        cap(knocks)
    );
    assert!(grown < cap(knocks), "{grown} bytes");
    assert!(entries <= ENTRIES as f64, "{entries}");
    assert!(honest().all(|n| pass(n, mx)), "who came again is known");
}
