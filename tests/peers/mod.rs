//! What the tests between real programs have in common: a gate before a real MTA, and what is read of both.
//!
//! A test program says `mod host; mod peers;`. Loopback is tested like any other network here, but for [`ALLOWED`]; so each
//! address of 127.0.0.0/8 is a stranger at first.

#![allow(dead_code, unreachable_pub, reason = "each test program takes the part of this module that it needs")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

pub mod replicas;
pub mod tls;
pub mod transparent;

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::host::certificates::Certificates;
use crate::host::exim::{self, Exim};
use crate::host::gate::{Gate, Place};
use crate::host::peers::Peer;
use crate::host::postfix::{self, Postfix};
use crate::host::sink::{Sink, Transaction};
use crate::host::wait;

/// Who is let in untested.
pub const ALLOWED: &str = "127.9.0.0/16";

/// How long strangers wait for the greeting.
pub const GREET_WAIT: Duration = Duration::from_millis(300);

/// The programs behind [`crate::host::client::Client::ALL`].
pub const CLIENTS: [Peer; 5] = [Peer::Swaks, Peer::Curl, Peer::Msmtp, Peer::Python, Peer::Nodemailer];

/// A gate's file: for a mail exchanger, unless `gate` says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct File<'a> {
    /// Lines for the top.
    pub top: &'a str,
    /// Lines for the gate.
    pub gate: &'a str,
    /// Whole sections, for the end.
    pub sections: &'a str,
}

impl File<'_> {
    /// The file, for a gate before `backend`.
    pub fn text(&self, at: &Place<'_>, backend: SocketAddr) -> String {
        let wait = GREET_WAIT.as_millis();
        format!(
            "hostname = \"mx.gate.test\"\nadmin = \"{}\"\nledger.path = \"memory\"\n{}\n[[gate]]\nlisten = \"{}\"\nbackend = \"{backend}\"\n{}\n\
             [greet]\nwait_min = \"{wait}ms\"\nwait_max = \"6s\"\n[access]\nallow = \"{ALLOWED}\"\n{}\n",
            at.admin, self.top, at.smtp, self.gate, self.sections,
        )
    }

    /// A running gate before `backend`.
    #[track_caller]
    pub fn before(&self, backend: SocketAddr) -> Gate {
        Gate::start(|at| self.text(at, backend))
    }
}

/// The MTA behind a gate.
pub enum Mta {
    Postfix(Postfix),
    Exim(Exim),
}

impl Mta {
    /// Its name, for tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Postfix(_) => "Postfix",
            Self::Exim(_) => "Exim",
        }
    }

    /// The port that requires a PROXY header.
    pub fn proxied(&self) -> SocketAddr {
        match self {
            Self::Postfix(postfix) => postfix.proxied(),
            Self::Exim(exim) => exim.proxied(),
        }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        match self {
            Self::Postfix(postfix) => postfix.log(),
            Self::Exim(exim) => exim.log(),
        }
    }

    /// How many messages its log says came from `client`.
    pub fn taken_from(&self, client: IpAddr) -> usize {
        let log = self.log();
        let tells = |line: &&str| match self {
            Self::Postfix(_) => line.contains(&format!(": client=unknown[{client}]")),
            Self::Exim(_) => line.contains(" <= ") && line.contains(&format!(" [{client}]:")),
        };
        log.lines().filter(tells).count()
    }
}

/// A gate, a real MTA behind it, and what that delivers.
pub struct Chain {
    pub gate: Gate,
    pub mta: Mta,
    pub sink: Sink,
}

impl Chain {
    /// With Postfix.
    #[track_caller]
    pub fn postfix(file: File<'_>) -> Self {
        Self::postfix_with(file, &[], None)
    }

    /// With a Postfix that has these lines in its main.cf, and speaks TLS if there are certificates.
    #[track_caller]
    pub fn postfix_with(file: File<'_>, main_cf: &[&str], certificates: Option<&Certificates>) -> Self {
        let sink = Sink::start();
        let options = postfix::Options { main_cf, certificates, ..postfix::Options::delivering_to(sink.address()) };
        Self::with(file, Mta::Postfix(Postfix::start(&options)), sink)
    }

    /// With Exim.
    #[track_caller]
    pub fn exim(file: File<'_>) -> Self {
        Self::exim_with(file, &[])
    }

    /// With an Exim that has these lines in its main section.
    #[track_caller]
    pub fn exim_with(file: File<'_>, main: &[&str]) -> Self {
        let sink = Sink::start();
        let options = exim::Options { main, ..exim::Options::delivering_to(sink.address()) };
        Self::with(file, Mta::Exim(Exim::start(&options)), sink)
    }

    /// With what is running already.
    #[track_caller]
    pub fn with(file: File<'_>, mta: Mta, sink: Sink) -> Self {
        Self { gate: file.before(mta.proxied()), mta, sink }
    }

    /// The Postfix of a chain that has one.
    #[track_caller]
    pub fn its_postfix(&mut self) -> &mut Postfix {
        match &mut self.mta {
            Mta::Postfix(postfix) => postfix,
            Mta::Exim(_) => panic!("this chain has an Exim"),
        }
    }

    /// Waits until `count` visits of `client` are over, and returns their records in the order of arrival.
    #[track_caller]
    pub fn visits(&self, client: impl Into<IpAddr>, count: usize) -> Vec<Value> {
        visits(&self.gate, client, count)
    }
}

/// Waits until `count` visits of `client` to `gate` are over, and returns their records in the order of arrival.
#[track_caller]
pub fn visits(gate: &Gate, client: impl Into<IpAddr>, count: usize) -> Vec<Value> {
    let client = client.into().to_string();
    let mut found = wait::until(&format!("{count} visits of {client} in the journal"), || {
        let mut records = gate.journal();
        records.retain(|record| record["client"] == client.as_str());
        (records.len() >= count).then_some(records)
    });
    assert_eq!(found.len(), count, "{found:#?}");
    // Times are written so that they sort as text.
    found.sort_by_key(|record| record["ts"].as_str().unwrap_or_default().to_owned());
    found
}

/// Panics unless `record` has these values.
#[track_caller]
pub fn assert_record(record: &Value, wanted: &[(&str, Value)]) {
    for (key, value) in wanted {
        assert_eq!(&record[*key], value, "{key} of {record:#}");
    }
}

/// The messages among what a sink kept.
pub fn data(kept: &[Transaction]) -> impl Iterator<Item = &[u8]> {
    kept.iter().map(|transaction| &transaction.data[..])
}

/// What was delivered, by whom, and in what time; printed when the test is over (`--nocapture` shows it).
pub struct Table {
    title: &'static str,
    rows: Mutex<Vec<(String, usize, Duration)>>,
}

impl Table {
    pub fn new(title: &'static str) -> Self {
        Self { title, rows: Mutex::default() }
    }

    /// Runs `deliver`, which says how many messages it delivered, and adds a row.
    pub fn time(&self, who: impl Into<String>, deliver: impl FnOnce() -> usize) {
        let began = Instant::now();
        let messages = deliver();
        let row = (who.into(), messages, began.elapsed());
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let rows = self.rows.get_mut().unwrap_or_else(PoisonError::into_inner);
        rows.sort();
        let mut text = format!("\n{}\n", self.title);
        for (who, messages, took) in rows {
            let each = took.as_secs_f64() * 1000.0 / f64::from(u32::try_from(*messages).unwrap_or(u32::MAX).max(1));
            let _ =
                writeln!(text, "  {who:<44} {messages:>5} messages {:>7.2} s {each:>7.1} ms each", took.as_secs_f64());
        }
        println!("{text}");
    }
}
