//! The programs that are compared, each set as an operator would set it for this work, and started afresh for each measurement.
//!
//! What they have in common: clients from 127.10.0.0/16 are known and not kept waiting, all others are strangers and wait for
//! a minute; who speaks meanwhile is turned away; limits per client are out of the way, for all come from one machine.

mod direct;
mod gatepost;
mod haproxy;
mod nginx;
mod postscreen;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use super::figures::plan::Kind;
use super::load::Report;
use super::sink::Ports;
use super::usage::{self, Usage};
use crate::host::certificates::Certificates;

/// How long strangers wait, in seconds: longer than any measurement of them.
const WAIT: u32 = 240;

/// The most connections at once that those are set for which have to be told.
const CONNECTIONS: usize = 19_000;

/// One column of the table.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What it is called there.
    pub name: String,
    /// Which program it is.
    pub kind: Kind,
    /// The program, where it is not the usual one.
    pub program: Option<PathBuf>,
}

/// What differs between measurements.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// Where mail goes.
    pub sink: Ports,
    /// How many clients are to be known.
    pub known: u32,
    /// Known clients begin with TLS, which ends at the contender, with the certificate of [`NAME`].
    pub tls: Option<&'a Certificates>,
    /// Bytes are to stay in the kernel, where a contender has to be told so.
    pub splice: bool,
    /// Strangers are to hear something before they have waited, where a contender does that.
    pub teaser: bool,
    /// The name server of a DNS list, `list.test`, that is to be asked about strangers.
    pub list: Option<SocketAddr>,
}

/// The zone of the DNS list.
const LIST: &str = "list.test";

/// The name that certificates are for.
const NAME: &str = "mx.test";

/// A running program.
pub trait Contender {
    /// Where strangers come to.
    fn strangers(&self) -> SocketAddr;

    /// Where known clients come to: the same place, or one without tests where the program knows nobody.
    fn known(&self) -> SocketAddr;

    /// The root of its processes; none if it is no program.
    fn pid(&self) -> Option<i32>;

    /// The name of those of its processes that screen alone, if others do other work.
    fn screen(&self) -> Option<&'static str> {
        None
    }

    /// How its answer to a bot begins; or how the connection ends, where it has none.
    fn farewells(&self) -> &'static [&'static str] {
        &[]
    }

    /// Waits until all that was done is counted, and checks that so many bots are.
    fn judge_bots(&self, _before: &Counts, _bots: u32) -> Result<(), String> {
        Ok(())
    }

    /// Waits until all that was done is counted, and checks that so many known clients were taken for such.
    fn judge_known(&self, _before: &Counts, _sessions: u32) -> Result<(), String> {
        Ok(())
    }

    /// Waits until the list's answers about so many clients have come, where it tells how many have, and checks that all have.
    fn judge_list(&self, _clients: u32) -> Result<(), String> {
        Ok(())
    }

    /// What it has counted so far, to be handed to those two.
    fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// What a program has counted of its work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Lines of its journal.
    pub lines: u64,
    /// Clients that it turned away.
    pub dropped: f64,
    /// Clients that it knew.
    pub known: f64,
}

impl dyn Contender + '_ {
    /// Whether each of so many bots met what it was to meet.
    pub fn met(&self, bots: u32, report: &Report) -> Result<(), String> {
        let as_wanted = |end: &str| self.farewells().iter().any(|start| end.starts_with(start));
        let met: u64 = report.endings.iter().filter(|(end, _)| as_wanted(end)).map(|(_, count)| count).sum();
        let all = met == u64::from(bots);
        all.then_some(()).ok_or_else(|| format!("{bots} bots met {:?}, not {:?}", report.endings, self.farewells()))
    }

    /// What its processes have used; nothing if there are none.
    pub fn usage(&self, only: Option<&str>) -> Result<Usage, String> {
        let Some(pid) = self.pid() else { return Ok(Usage::default()) };
        usage::processor(pid, only).map_err(|error| error.to_string())
    }

    /// The memory of its processes in bytes.
    pub fn memory(&self) -> Result<f64, String> {
        let pid = self.pid().ok_or("it has no memory")?;
        usage::memory(pid, None).map_err(|error| error.to_string())
    }

    /// How many processes there are.
    pub fn processes(&self) -> Result<usize, String> {
        let pid = self.pid().ok_or("it has no processes")?;
        usage::tree(pid, None).map(|tree| tree.len()).map_err(|error| error.to_string())
    }

    /// How many descriptors its processes have open.
    pub fn descriptors(&self) -> Result<usize, String> {
        let pid = self.pid().ok_or("it has no descriptors")?;
        usage::descriptors(pid).map_err(|error| error.to_string())
    }
}

impl Candidate {
    /// Starts it. It is ready when this returns.
    pub fn start(&self, setting: &Setting<'_>) -> Result<Box<dyn Contender>, String> {
        Ok(match self.kind {
            Kind::Gatepost => Box::new(gatepost::Gatepost::start(self.program.as_deref(), setting)?),
            Kind::Postscreen => Box::new(postscreen::Postscreen::start(setting)),
            Kind::Haproxy => Box::new(haproxy::Proxy::start(setting)),
            Kind::Nginx => Box::new(nginx::Proxy::start(setting)),
            Kind::Direct => Box::new(direct::Direct::start(setting)),
        })
    }
}
