//! HAProxy in TCP mode, before a gate: announces its clients by PROXY headers, and checks by SMTP whether the gate is well.
//!
//! It connects from [`ADDRESS`], so that its own connections can be told from those of clients.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::peers::Peer;
use super::ports::{self, IN_USE, TRIES};
use super::process::{Process, public_dir};
use super::wait;

/// Where it connects from.
pub const ADDRESS: &str = "127.0.0.50";

/// A running HAProxy.
pub struct Haproxy {
    process: Process,
    address: SocketAddr,
    second: SocketAddr,
    dir: TempDir,
}

/// Free loopback addresses for one HAProxy, and a directory of its own.
#[derive(Debug)]
pub struct Place<'a> {
    /// For its first frontend.
    pub address: SocketAddr,
    /// For another one.
    pub second: SocketAddr,
    /// For its files; the socket that tells of it is `stats` there, and the configuration must name it.
    pub dir: &'a Path,
}

impl Haproxy {
    /// Starts one before `gate`, with these words on its `server` line (`send-proxy-v2 check inter 100ms`). It listens when
    /// this returns, and takes the gate for well until a check says otherwise.
    #[track_caller]
    pub fn before(gate: SocketAddr, server: &str) -> Self {
        Self::start(|at| configuration(at.dir, at.address, gate, server))
    }

    /// Starts one with the configuration that `configuration` writes. It listens when this returns.
    #[track_caller]
    pub fn start(configuration: impl Fn(&Place<'_>) -> String) -> Self {
        for _ in 0..TRIES {
            let ([address, second], dir) = (std::array::from_fn(|_| ports::free_address()), public_dir());
            let file = dir.path().join("haproxy.cfg");
            let text = configuration(&Place { address, second, dir: dir.path() });
            fs::write(&file, text).expect("haproxy.cfg");
            let mut command = Command::new(Peer::Haproxy.program());
            // In the foreground, one process.
            command.arg("-db").arg("-f").arg(&file);
            let mut process = Process::start("haproxy", &command, dir.path());
            let up = wait::until("HAProxy", || match process.ended() {
                Some(_) => Some(false),
                None => ask(dir.path(), "show info").map(|_| true),
            });
            if up {
                return Self { process, address, second, dir };
            }
            let said = process.stderr() + &process.stdout();
            assert!(said.contains(IN_USE), "HAProxy ended\n{said}");
        }
        panic!("no free port for HAProxy in {TRIES} tries")
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its second address, if the configuration used it.
    pub fn second(&self) -> SocketAddr {
        self.second
    }

    /// The process id as a number, for `/proc`.
    pub fn pid(&self) -> i32 {
        self.process.number()
    }

    /// What it makes of the gate: `UP`, `DOWN`, `DOWN 1/2`, …, and what the last check was.
    #[track_caller]
    pub fn state(&self) -> (String, String) {
        let stat = ask(self.dir.path(), "show stat").expect("HAProxy answers");
        let mut lines = stat.lines().map(|line| line.trim_start_matches("# ").split(',').collect::<Vec<_>>());
        let names = lines.next().expect("a line with the names");
        let server = lines.find(|fields| fields.get(1) == Some(&"one")).expect("the server's line");
        let field = |name| names.iter().position(|&other| other == name).and_then(|at| server.get(at).copied());
        let of = |name| field(name).unwrap_or_default().to_owned();
        (of("status"), format!("{} {} {}", of("check_status"), of("check_code"), of("last_chk")))
    }

    /// Waits until a check has found the gate well, or not well.
    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        wait::until(&format!("HAProxy to say {status}, not {:?}", self.state()), || {
            let (found, check) = self.state();
            // Before its first check it says UP too.
            (found == status && !check.starts_with(' ') && !check.starts_with("INI")).then_some(())
        });
    }
}

fn configuration(dir: &Path, address: SocketAddr, gate: SocketAddr, server: &str) -> String {
    format!(
        "global
  stats socket {}/stats level admin
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend smtp
  bind {address}
  default_backend gate
backend gate
  source {ADDRESS}
  option smtpchk EHLO balancer.test
  server one {gate} {server}
",
        dir.display()
    )
}

/// One command to its socket; nothing if it is not there yet.
fn ask(dir: &Path, command: &str) -> Option<String> {
    let mut stream = UnixStream::connect(dir.join("stats")).ok()?;
    writeln!(stream, "{command}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}
