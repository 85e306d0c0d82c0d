//! An SMTP server that is a library with a short script around it: [`super::aiosmtpd`], [`super::smtp_server`].
//!
//! Such a server has no queue. Its script writes each message that it takes to standard output, as a JSON record, before
//! the client is told; so whoever saw the 250 finds it here.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::ports::{self, IN_USE, TRIES};
use super::postfix::greets;
use super::process::{Process, public_dir};
use super::sink::Transaction;
use super::wait;

/// A running server.
pub struct Scripted {
    process: Process,
    plain: SocketAddr,
    proxied: SocketAddr,
    _dir: TempDir,
}

impl Scripted {
    /// Starts what `command` makes of two ports, a plain one and one that requires a PROXY header.
    #[track_caller]
    pub fn start(name: &'static str, command: impl Fn(SocketAddr, SocketAddr) -> Command) -> Self {
        for _ in 0..TRIES {
            let [plain, proxied] = std::array::from_fn(|_| ports::free_address());
            let dir = public_dir();
            let process = Process::start(name, &command(plain, proxied), dir.path());
            let mut started = Self { process, plain, proxied, _dir: dir };
            if wait::until("the server to greet", || started.is_up()) {
                return started;
            }
            let said = started.process.stderr();
            assert!(said.contains(IN_USE) || said.contains("EADDRINUSE"), "{name} ended\n{said}");
        }
        panic!("no free ports for {name} in {TRIES} tries")
    }

    /// The port for anybody.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// The port that requires a PROXY header.
    pub fn proxied(&self) -> SocketAddr {
        self.proxied
    }

    /// All that it has taken so far, as a [`super::sink::Sink`] would have kept it.
    pub fn kept(&self) -> Vec<Transaction> {
        let text = self.process.stdout();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| transaction(&serde_json::from_str(line).expect("a record"))).collect()
    }

    /// `Some(false)` if it has ended, `Some(true)` if it greets.
    fn is_up(&mut self) -> Option<bool> {
        if self.process.ended().is_some() {
            return Some(false);
        }
        greets(self.plain).then_some(true)
    }
}

fn transaction(record: &Value) -> Transaction {
    let path = |value: &Value| format!("<{}>", value.as_str().expect("an address"));
    let digits = record["data"].as_str().expect("hexadecimal digits").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("two digits");
    Transaction {
        connection: 0,
        hello: String::new(),
        from: path(&record["from"]),
        to: record["to"].as_array().expect("a list").iter().map(path).collect(),
        data: digits.chunks(2).map(byte).collect(),
        chunked: false,
    }
}
