//! gatepost: the built program, or another build of it.
//!
//! Two gates: one makes strangers wait for as long as it takes, with its teaser, as by default; at the other clients become
//! known, by waiting a moment and delivering a message. Whom one of them has let in, both know. Journal and ledger are files.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::super::load::{Crowd, KNOWN, Load, Order, Script};
use super::{CONNECTIONS, Contender, Counts, LIST, NAME, Setting, WAIT};
use crate::host::gate::{Gate, Place, program};
use crate::host::wait;

/// How long it may take until all is counted and written.
const COUNTED: Duration = Duration::from_secs(30);

pub(super) struct Gatepost(Gate);

impl Gatepost {
    pub(super) fn start(other: Option<&Path>, setting: &Setting<'_>) -> Result<Self, String> {
        let gate = Gate::start_by(
            |at| configuration(at, setting),
            |file, _| {
                let mut command = other.map_or_else(program, Command::new);
                command.args(["run", "-c"]).arg(file);
                command
            },
        );
        let gate = Self(gate);
        gate.learn(setting.known)?;
        Ok(gate)
    }

    /// Each of them delivers a message at the gate where that takes a moment, and is known then.
    fn learn(&self, known: u32) -> Result<(), String> {
        if known == 0 {
            return Ok(());
        }
        let mut load = Load::start().map_err(|error| error.to_string())?;
        let lesson = Crowd {
            target: self.0.second(),
            script: Script::Message(100),
            count: known,
            at_once: known.min(64),
            net: KNOWN,
            first: 0,
            clients: known,
            rate: None,
            authority: None,
        };
        load.perform(&Order::Crowd(lesson))?.sound(known)?;
        self.wait_for("visits", f64::from(known), |gate| gate.metric("gatepost_visits_total", &[]))
    }

    /// Waits until a figure is what it is to be: it must not be more, and must not stay less.
    fn wait_for(&self, what: &str, wanted: f64, figure: impl Fn(&Gate) -> Option<f64>) -> Result<(), String> {
        let mut last = 0.0;
        let reached = wait::within(COUNTED, || {
            last = figure(&self.0).unwrap_or_default();
            (last >= wanted).then_some(())
        });
        if reached.is_some() && last == wanted {
            return Ok(());
        }
        Err(format!("gatepost counts {last} {what}, and there were {wanted}"))
    }

    fn lines(&self) -> u64 {
        let Ok(file) = File::open(self.0.dir().join("journal")) else { return 0 };
        let lines = BufReader::with_capacity(1 << 20, file).split(b'\n');
        lines.map_while(Result::ok).count() as u64
    }
}

fn configuration(at: &Place<'_>, setting: &Setting<'_>) -> String {
    let (sink, dir) = (setting.sink.proxied, at.dir.display());
    // The list is no real one, so it would fail its self-test; an operator with a slow one waits as long as postscreen does.
    let list = setting.list.map_or_else(String::new, |server| {
        format!("[dnsbl]\nsites = [\"{LIST}\"]\nnameservers = [\"{server}\"]\ntimeout = \"10s\"\nself_test = false\n")
    });
    let teaser = if setting.teaser { "" } else { "teaser = false\n" };
    let tls = setting.tls.map_or_else(String::new, |certificates| {
        let (chain, key) = (certificates.chain(NAME), certificates.key(NAME));
        let (chain, key) = (chain.display(), key.display());
        format!("[gate.tls]\nimplicit = true\ncertificates = [{{ chain = \"{chain}\", key = \"{key}\" }}]\n")
    });
    format!(
        "hostname = \"mx.example.test\"\nadmin = \"{}\"\n\
         [[gate]]\nlisten = \"{}\"\nbackend = \"{sink}\"\nannounce = \"proxy-v1\"\n\
         [gate.greet]\nwait_min = \"{WAIT}s\"\nwait_max = \"{WAIT}s\"\n{teaser}{tls}\
         [[gate]]\nname = \"lesson\"\nlisten = \"{}\"\nbackend = \"{sink}\"\nannounce = \"proxy-v1\"\n\
         [gate.greet]\nwait_min = \"5ms\"\nwait_max = \"10ms\"\nteaser = false\n\
         [access]\nallow = []\n\
         [limits]\nsessions = {most}\nreserved_percent = 0\nsessions_per_client = {CONNECTIONS}\nsessions_per_stranger = {CONNECTIONS}\n\
         sessions_per_offender = {CONNECTIONS}\nsessions_per_prefix = {CONNECTIONS}\nrate_per_stranger = false\n\
         rate_per_offender = false\n\
         [journal]\nto = \"{dir}/journal\"\n\
         [ledger]\npath = \"{dir}/ledger.redb\"\n{list}",
        at.admin,
        at.smtp,
        at.second,
        most = 2 * CONNECTIONS,
    )
}

impl Contender for Gatepost {
    fn strangers(&self) -> SocketAddr {
        self.0.smtp()
    }

    fn known(&self) -> SocketAddr {
        self.0.smtp()
    }

    fn pid(&self) -> Option<i32> {
        Some(self.0.pid())
    }

    fn farewells(&self) -> &'static [&'static str] {
        &["521"]
    }

    /// Each of them has its place in the figures, and its line of the journal.
    fn judge_bots(&self, before: &Counts, bots: u32) -> Result<(), String> {
        let bots = f64::from(bots);
        self.wait_for("bots", before.dropped + bots, dropped)?;
        self.wait_for("records", before.lines as f64 + bots, |_| Some(self.lines() as f64))?;
        self.wait_for("lost records", 0.0, |gate| gate.metric("gatepost_journal_lost_total", &[]))
    }

    fn judge_known(&self, before: &Counts, sessions: u32) -> Result<(), String> {
        self.wait_for("known clients", before.known + f64::from(sessions), known)
    }

    fn judge_list(&self, clients: u32) -> Result<(), String> {
        self.wait_for("answers", f64::from(clients), |gate| {
            gate.metric("gatepost_dnsbl_queries_total", &[("result", "miss")])
        })
    }

    fn counts(&self) -> Counts {
        let (dropped, known) = (dropped(&self.0), known(&self.0));
        Counts { lines: self.lines(), dropped: dropped.unwrap_or_default(), known: known.unwrap_or_default() }
    }
}

fn dropped(gate: &Gate) -> Option<f64> {
    gate.metric("gatepost_pregreet_total", &[("class", "smtp")])
}

fn known(gate: &Gate) -> Option<f64> {
    gate.metric("gatepost_visits_total", &[("recognition", "remembered")])
}
