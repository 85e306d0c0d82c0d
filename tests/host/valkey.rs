//! A shared store: Redis or Valkey, as one server, as a cluster of three, or as a master with its replica and a sentinel.
//!
//! A server keeps nothing on disk unless it is [lasting](Options::lasting), so that one that is started again is empty.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use redis::{Client, Connection};
use rustix::process::Signal;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::peers::Peer;
use super::ports::{self, IN_USE, TRIES};
use super::process::{Process, public_dir};
use super::wait;

/// What a server does besides.
#[derive(Clone, Default)]
pub struct Options<'a> {
    /// It writes everything to its disk at once, and has it again when it is started again.
    pub lasting: bool,
    /// It speaks TLS alone, as `mx.test` and 127.0.0.1.
    pub tls: Option<&'a Certificates>,
    /// Its users, as lines of an ACL file.
    pub users: &'a str,
    /// More of its own options.
    pub more: &'a [String],
}

/// A running server.
pub struct Valkey {
    /// Nothing while it is stopped.
    process: Option<Process>,
    program: Peer,
    arguments: Vec<String>,
    address: SocketAddr,
    dir: TempDir,
}

impl Valkey {
    /// Starts `program` ([`Peer::Redis`] or [`Peer::Valkey`]).
    #[track_caller]
    pub fn start(program: Peer) -> Self {
        Self::start_with(program, &Options::default())
    }

    /// The same, with options.
    #[track_caller]
    pub fn start_with(program: Peer, options: &Options<'_>) -> Self {
        for _ in 0..TRIES {
            let mut server = Self {
                process: None,
                program,
                arguments: Vec::new(),
                address: ports::free_address(),
                dir: public_dir(),
            };
            server.arguments = arguments(server.address, server.dir.path(), options);
            if server.try_start() {
                return server;
            }
        }
        panic!("no free port for {program:?} in {TRIES} tries")
    }

    /// Whether it has come up; it has not if its port is taken.
    #[track_caller]
    fn try_start(&mut self) -> bool {
        let mut command = Command::new(self.program.program());
        command.args(&self.arguments);
        let mut process = Process::start("valkey", &command, self.dir.path());
        let is_up = wait::until("the store", || match process.ended() {
            Some(_) => Some(false),
            None => process.stdout().contains("Ready to accept connections").then_some(true),
        });
        let said = process.stdout() + &process.stderr();
        assert!(is_up || said.contains(IN_USE), "{:?} ended\n{said}", self.program);
        self.process = is_up.then_some(process);
        is_up
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection of our own, as its default user and without TLS.
    #[track_caller]
    pub fn ask(&self) -> Connection {
        let client = Client::open(format!("redis://{}/", self.address)).expect("an address");
        wait::until("a connection to the store", || client.get_connection_with_timeout(Duration::from_secs(2)).ok())
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(wait::PATIENCE);
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill_all();
        }
    }

    /// Starts it again, at the same address.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it is running");
        // The address is ours, though others may have got its port for a moment.
        wait::until("the store to come back", || self.try_start().then_some(()));
    }

    /// Stops it where it stands: who asks gets no answer. To be thawed before it is dropped.
    pub fn freeze(&self) {
        self.process.as_ref().expect("a running server").signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.as_ref().expect("a running server").signal(Signal::CONT);
    }
}

fn arguments(address: SocketAddr, dir: &Path, options: &Options<'_>) -> Vec<String> {
    let port = address.port().to_string();
    let path = |name: &str| dir.join(name).display().to_string();
    let mut words = vec!["--bind".into(), "127.0.0.1".into(), "--dir".into(), dir.display().to_string()];
    words.extend(["--save", "", "--loglevel", "notice"].map(String::from));
    match options.tls {
        Some(certificates) => {
            // It may run as another user than the one whose key it is.
            let key = path("key.pem");
            fs::copy(certificates.key("mx.test"), &key).expect("a copy of the key");
            words.extend(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"].map(String::from));
            words.extend(["--tls-key-file".into(), key]);
            words.extend(["--tls-cert-file".into(), certificates.chain("mx.test").display().to_string()]);
            words.extend(["--tls-ca-cert-file".into(), certificates.authority().display().to_string()]);
        }
        None => words.extend(["--port".into(), port]),
    }
    if options.lasting {
        words.extend(["--appendonly", "yes", "--appendfsync", "always"].map(String::from));
    }
    if !options.users.is_empty() {
        fs::write(path("users.acl"), options.users).expect("a file of users");
        words.extend(["--aclfile".into(), path("users.acl")]);
    }
    words.extend(options.more.iter().cloned());
    words
}

/// A cluster of three masters without replicas.
pub struct Cluster {
    /// Its nodes.
    pub nodes: Vec<Valkey>,
}

impl Cluster {
    /// Starts it; all slots are served when this returns.
    #[track_caller]
    pub fn start(program: Peer) -> Self {
        let nodes: Vec<(Valkey, u16)> = (0..3)
            .map(|_| {
                let bus = ports::free_port();
                let more = ["--cluster-enabled", "yes", "--cluster-node-timeout", "15000", "--cluster-port"];
                let more: Vec<String> = more.into_iter().map(String::from).chain([bus.to_string()]).collect();
                (Valkey::start_with(program, &Options { more: &more, ..Options::default() }), bus)
            })
            .collect();
        let slots = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
        for ((node, _), (first, last)) in nodes.iter().zip(slots) {
            let mut ask = node.ask();
            let mut add = redis::cmd("CLUSTER");
            add.arg("ADDSLOTSRANGE").arg(first).arg(last).exec(&mut ask).expect("slots are assigned");
            for (other, bus) in &nodes {
                let mut meet = redis::cmd("CLUSTER");
                meet.arg("MEET").arg("127.0.0.1").arg(other.address.port()).arg(*bus);
                meet.exec(&mut ask).expect("nodes are introduced");
            }
        }
        for (node, _) in &nodes {
            let mut ask = node.ask();
            wait::until("the cluster", || {
                let said: String = redis::cmd("CLUSTER").arg("INFO").query(&mut ask).ok()?;
                (said.contains("cluster_state:ok") && said.contains("cluster_known_nodes:3")).then_some(())
            });
        }
        Self { nodes: nodes.into_iter().map(|(node, _)| node).collect() }
    }
}

/// A master, its replica, and a sentinel that makes the replica master when the master is gone.
pub struct Watched {
    /// The master at first.
    pub master: Valkey,
    /// Its replica at first.
    pub replica: Valkey,
    sentinel: Valkey,
}

impl Watched {
    /// What the sentinel calls the master.
    pub const NAME: &'static str = "gatepost-test";

    /// Starts all three; the sentinel knows of the replica when this returns.
    #[track_caller]
    pub fn start() -> Self {
        let master = Valkey::start(Peer::Redis);
        let port = master.address.port();
        let more = ["--replicaof".into(), format!("127.0.0.1 {port}"), "--repl-diskless-sync-delay".into(), "0".into()];
        let replica = Valkey::start_with(Peer::Redis, &Options { more: &more, ..Options::default() });
        let sentinel = Self::start_sentinel(port);
        let watched = Self { master, replica, sentinel };
        let mut ask = watched.sentinel.ask();
        wait::until("the sentinel to know of the replica", || {
            let mut question = redis::cmd("SENTINEL");
            let replicas: Vec<Vec<String>> = question.arg("REPLICAS").arg(Self::NAME).query(&mut ask).ok()?;
            let is_known = |replica: &Vec<String>| {
                replica.windows(2).any(|pair| pair[0] == "master-link-status" && pair[1] == "ok")
            };
            replicas.iter().any(is_known).then_some(())
        });
        watched
    }

    #[track_caller]
    fn start_sentinel(master: u16) -> Valkey {
        for _ in 0..TRIES {
            let (address, dir) = (ports::free_address(), public_dir());
            let file = dir.path().join("sentinel.conf");
            let name = Self::NAME;
            let text = format!(
                "port {}\nbind 127.0.0.1\nsentinel monitor {name} 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds {name} 1500\nsentinel failover-timeout {name} 6000\n",
                address.port()
            );
            fs::write(&file, text).expect("a file for the sentinel");
            let mut command = Command::new(Peer::Redis.program());
            command.arg(&file).arg("--sentinel");
            let mut process = Process::start("sentinel", &command, dir.path());
            let is_up = wait::until("the sentinel", || match process.ended() {
                Some(_) => Some(false),
                None => process.stdout().contains("+monitor").then_some(true),
            });
            if is_up {
                let arguments = Vec::new();
                return Valkey { process: Some(process), program: Peer::Redis, arguments, address, dir };
            }
            assert!((process.stdout() + &process.stderr()).contains(IN_USE), "the sentinel ended");
        }
        panic!("no free port for a sentinel in {TRIES} tries")
    }

    /// Where the sentinel is.
    pub fn sentinel(&self) -> SocketAddr {
        self.sentinel.address
    }
}
