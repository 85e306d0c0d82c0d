//! The loads: clients of all kinds, in processes of their own that are told what to do line by line.
//!
//! Each order is a line of JSON on standard input and is answered by one on standard output ([`Report`]). What is done goes on
//! one thread. Connections that were parked stay until they are told to leave, or until the process ends with its input.

mod clients;
mod crowd;
mod park;
mod probe;
mod script;
mod wire;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::process;
use crate::host::process::raise_descriptor_limit;
pub use script::Script;

/// No order may go on for so long without anything happening.
const PATIENCE: Duration = Duration::from_secs(20);

/// The second number of the loopback addresses that clients come from: 127.x.0.0/16.
pub const KNOWN: u8 = 10;
/// The same for strangers that wait.
pub const STRANGERS: u8 = 20;
/// The same for bots.
pub const BOTS: u8 = 30;

/// What a load is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Connect and say nothing, until there are so many that do.
    Park {
        /// Where to.
        target: SocketAddr,
        /// How many in all.
        count: u32,
    },
    /// Look whether those still wait: nobody was greeted or sent away.
    Look,
    /// So many sessions, so many of them at once.
    Crowd(Crowd),
    /// One session after another, so many a second; each `Report::latencies` is from connect to the whole greeting.
    Probe {
        /// Where to.
        target: SocketAddr,
        /// How many.
        count: u32,
        /// How many a second.
        rate: f64,
        /// How many clients take turns.
        clients: u32,
    },
}

/// Many sessions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Crowd {
    /// Where to.
    pub target: SocketAddr,
    /// What is said.
    pub script: Script,
    /// How many sessions in all.
    pub count: u32,
    /// How many at once.
    pub at_once: u32,
    /// Where clients come from: 127.`net`.0.0/16.
    pub net: u8,
    /// Which of them is the first.
    pub first: u32,
    /// How many take turns.
    pub clients: u32,
    /// How many begin in a second, at most; `None` is as fast as it goes.
    pub rate: Option<f64>,
    /// With it, TLS comes first, and the server's certificate is of this authority.
    pub authority: Option<PathBuf>,
}

/// What came of an order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// How many sessions came to the end that their script has.
    pub done: u64,
    /// From the first to the last of it.
    pub seconds: f64,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// The last words that bots heard, by reply code, or how their connections ended without any.
    pub endings: BTreeMap<String, u64>,
    /// In milliseconds, one for each session of a probe.
    pub latencies: Vec<f64>,
}

impl Report {
    fn error(&mut self, what: impl Into<String>) {
        *self.errors.entry(what.into()).or_default() += 1;
    }

    /// The report, if nothing went wrong and so many sessions were done.
    pub fn sound(self, wanted: u32) -> Result<Self, String> {
        if self.errors.is_empty() && self.done == u64::from(wanted) {
            return Ok(self);
        }
        Err(format!("{} of {wanted} sessions done, errors {:?}, endings {:?}", self.done, self.errors, self.endings))
    }
}

/// A running load; dropping it ends it, with all of its connections.
pub struct Load {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Load {
    /// Starts one, which waits for orders.
    pub fn start() -> io::Result<Self> {
        let mut child = process::ourselves("load")?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Gives an order and waits for its end.
    pub fn perform(&mut self, order: &Order) -> Result<Report, String> {
        self.begin(order)?;
        self.end()
    }

    /// Gives an order and does not wait; [`Self::end`] does.
    pub fn begin(&mut self, order: &Order) -> Result<(), String> {
        let mut line = serde_json::to_vec(order).map_err(|error| error.to_string())?;
        line.push(b'\n');
        let input = self.input.as_mut().ok_or("it takes no orders any more")?;
        input.write_all(&line).map_err(|error| format!("a load takes no orders: {error}"))
    }

    /// Waits for the end of what was begun.
    pub fn end(&mut self) -> Result<Report, String> {
        process::read_line(&mut self.output).map_err(|error| format!("a load does not answer: {error}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // What it is doing would go on to its end; nobody waits for that.
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself.
pub fn run() -> io::Result<()> {
    raise_descriptor_limit();
    let mut parked = park::Parked::default();
    for line in io::stdin().lock().lines() {
        let report = match serde_json::from_str(&line?)? {
            Order::Park { target, count } => parked.grow(target, count),
            Order::Look => Ok(parked.look()),
            Order::Crowd(crowd) => crowd::run(&crowd),
            Order::Probe { target, count, rate, clients } => probe::run(target, count, rate, clients),
        };
        // What ended the whole of it is an error of the report too.
        process::write_line(&report.unwrap_or_else(|error| {
            let mut report = Report::default();
            report.error(error.to_string());
            report
        }))?;
    }
    Ok(())
}
