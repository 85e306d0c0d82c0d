//! The built `gatepost` program, run as an operator would run it.
//!
//! The test writes the configuration, with the addresses it is given, so that it shows what it is about:
//!
//! ```ignore
//! let gate = Gate::start(|at| format!("…listen = \"{}\"…admin = \"{}\"…", at.smtp, at.admin));
//! ```
//!
//! The gate is ready when `GET /ready` at its admin address says 200, or nothing worse than that a backend is away. Its
//! journal is taken from standard output, one JSON record a line; lines that are no JSON objects are log text.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::ports::{self, IN_USE, TRIES};
use super::process::{Process, public_dir};
use super::wait::{self, PATIENCE};

/// Free loopback addresses for one gate, and a directory of its own.
#[derive(Debug)]
pub struct Place<'a> {
    /// For its SMTP port.
    pub smtp: SocketAddr,
    /// For a second one: submission, implicit TLS, or a gate with other rules.
    pub second: SocketAddr,
    /// For the admin interface; the configuration must name it.
    pub admin: SocketAddr,
    /// For its ledger and other files.
    pub dir: &'a Path,
}

/// A running gate.
pub struct Gate {
    process: Process,
    command: Command,
    smtp: SocketAddr,
    second: SocketAddr,
    admin: SocketAddr,
    dir: TempDir,
}

impl Gate {
    /// Starts a gate with the configuration that `configuration` writes; it is ready when this returns.
    ///
    /// `configuration` is called again, with other addresses, if one of them was taken in between.
    #[track_caller]
    pub fn start(configuration: impl Fn(&Place<'_>) -> String) -> Self {
        Self::start_by(configuration, |file, _| {
            let mut command = program();
            command.args(["run", "-c"]).arg(file);
            command
        })
    }

    /// Starts a gate in surroundings of the test's own: `command` makes, of the path of the file and the directory that
    /// it is in, the command that is to become the gate (`exec`, where a shell is in between).
    #[track_caller]
    pub fn start_by(configuration: impl Fn(&Place<'_>) -> String, command: impl Fn(&Path, &Path) -> Command) -> Self {
        for _ in 0..TRIES {
            let [smtp, second, admin] = std::array::from_fn(|_| ports::free_address());
            let dir = public_dir();
            let file = dir.path().join("gatepost.toml");
            let text = configuration(&Place { smtp, second, admin, dir: dir.path() });
            fs::write(&file, text).expect("gatepost.toml");
            let command = command(&file, dir.path());
            let process = Process::start("gatepost", &command, dir.path());
            let mut gate = Self { process, command, smtp, second, admin, dir };
            if wait::until("gatepost to be ready", || gate.is_up()) {
                return gate;
            }
            let said = gate.process.stderr() + &gate.process.stdout();
            assert!(said.contains(IN_USE), "gatepost ended before it was ready\n{said}");
        }
        panic!("no free ports for gatepost in {TRIES} tries")
    }

    /// Where it takes mail.
    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// Its second SMTP address, if the configuration used it.
    pub fn second(&self) -> SocketAddr {
        self.second
    }

    /// Its admin address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its directory, with `gatepost.toml` in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// All journal records so far.
    pub fn journal(&self) -> Vec<Value> {
        let text = self.process.stdout();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect()
    }

    /// Waits for a journal record that `wanted` accepts, and returns it.
    #[track_caller]
    pub fn wait_for_record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        wait::within(PATIENCE, || self.journal().into_iter().find(&wanted))
            .unwrap_or_else(|| panic!("no such record came\n{}", self.process.stdout()))
    }

    /// The sum of all samples of the metric `name` whose labels contain `labels`; none if there is no such sample.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200, "{text}");
        sum_of_samples(&text, name, labels)
    }

    /// Asks the admin interface: status and body. Panics if it does not answer.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        http_get(self.admin, path).unwrap_or_else(|| panic!("no answer to GET {path} at {}", self.admin))
    }

    /// What `gatepost explain` tells of a client under this gate's file.
    #[track_caller]
    pub fn explain(&self, client: IpAddr) -> String {
        let mut explain = program();
        explain.args(["explain", &client.to_string(), "-c"]).arg(self.dir.path().join("gatepost.toml"));
        let told = explain.output().expect("the program that runs already");
        let text = String::from_utf8_lossy(&told.stdout).into_owned() + &String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "explain left with {}\n{text}", told.status);
        text
    }

    /// What it wrote to standard error so far.
    pub fn complaints(&self) -> String {
        self.process.stderr()
    }

    /// Writes another configuration and asks for it to be read (SIGHUP).
    pub fn reload(&self, text: &str) {
        fs::write(self.dir.path().join("gatepost.toml"), text).expect("gatepost.toml");
        self.process.signal(Signal::HUP);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// The process id as a number, for `/proc`.
    pub fn pid(&self) -> i32 {
        self.process.number()
    }

    /// Asks it to leave (SIGTERM); panics unless it leaves with success. Returns its journal, complete.
    #[track_caller]
    pub fn stop(mut self) -> Vec<Value> {
        let status = self.process.stop(PATIENCE);
        assert!(status.success(), "gatepost left with {status}\n{}", self.process.stderr());
        self.journal()
    }

    /// Asks it to leave, as [`Self::stop`] does, and keeps its place for [`Self::restart`].
    #[track_caller]
    pub fn leave(&mut self) {
        let status = self.process.stop(PATIENCE);
        assert!(status.success(), "gatepost left with {status}\n{}", self.process.stderr());
    }

    /// Ends it by SIGKILL, without a chance to tidy up; it is gone when this returns. Its place is kept for
    /// [`Self::restart`].
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.kill_all();
    }

    /// Starts it again once it has ended: with the file that is there now, in the same directory, at the same addresses. It
    /// is ready when this returns. Its journal and its complaints begin anew.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.process.ended().is_some(), "it has to end before it is started again");
        for _ in 0..TRIES {
            self.process = Process::start("gatepost", &self.command, self.dir.path());
            if wait::until("gatepost to be ready again", || self.is_up()) {
                return;
            }
            let said = self.process.stderr() + &self.process.stdout();
            assert!(said.contains(IN_USE), "gatepost ended before it was ready\n{said}");
        }
        panic!("somebody else has taken gatepost's port")
    }

    /// Waits for it to end by itself, after a signal or for a reason of its own.
    #[track_caller]
    pub fn wait_for_end(mut self) -> ExitStatus {
        wait::until("gatepost to end", || self.process.ended())
    }

    /// How it ended, if it has within `limit`.
    pub fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait::within(limit, || self.process.ended())
    }

    /// `Some(false)` if it has ended, `Some(true)` if it is as ready as it can be: it listens, and knows how its backends
    /// are. Whether one of them is away is for the test to know.
    fn is_up(&mut self) -> Option<bool> {
        if self.process.ended().is_some() {
            return Some(false);
        }
        let (status, hindrances) = http_get(self.admin, "/ready")?;
        let settled = !hindrances.is_empty() && hindrances.lines().all(|hindrance| hindrance.ends_with(" is away"));
        (status == 200 || settled).then_some(true)
    }
}

/// The program itself, for its other commands: `check`, `explain`, …
pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gatepost"))
}

/// One HTTP request on a connection of its own; nothing if there is no sound answer.
pub fn http_get(server: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some((status, if chunked { unchunked(body) } else { body.to_owned() }))
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(size @ 1..) = usize::from_str_radix(size, 16) else { break };
        text.push_str(rest.get(..size).unwrap_or_default());
        body = rest.get(size + 2..).unwrap_or_default();
    }
    text
}

/// Reads Prometheus' text format as far as tests need it: no timestamps, no commas or escapes in label values.
pub fn sum_of_samples(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (found, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let found: Vec<&str> = found.split(',').collect();
        wanted.iter().all(|label| found.contains(&label.as_str())).then(|| value.parse::<f64>().ok())?
    });
    samples.fold(None, |sum, sample| Some(sum.unwrap_or(0.0) + sample))
}
