//! What operators are told, as it goes over the wire: written by the daemon, read by the command line.
//!
//! Moments are RFC 3339, UTC, with milliseconds. Keys may be added; `docs/openapi.json` has all of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ledger::decisions::Held;
use crate::time::Timestamp;

/// Why something is not done, and what would help.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Error {
    /// What is wrong.
    pub error: String,
    /// What would be right.
    pub remedy: String,
}

/// How gatepost is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// When it was started.
    pub started: String,
    /// How long it has been running, in seconds.
    pub uptime: u64,
    /// Whether it takes mail.
    pub ready: bool,
    /// Why not, if it does not.
    pub hindrances: Vec<String>,
    /// The gates.
    pub gates: Vec<GateStatus>,
    /// The sessions that are open.
    pub sessions: u32,
    /// Those of them that wait for their greeting.
    pub parked: u64,
    /// Whether there are so many that strangers are hurried.
    pub stress: bool,
    /// The bans and allowances in force.
    pub decisions: Counted,
    /// How many entries of each kind are remembered.
    pub ledger: BTreeMap<String, u64>,
    /// Journal records that were lost since the start.
    pub journal_lost: u64,
    /// What the other parts have to tell: firewall, lists, store, shared.
    pub parts: BTreeMap<String, Value>,
}

/// How a gate is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GateStatus {
    /// Its name.
    pub name: String,
    /// Where it listens, as the file has it.
    pub listen: Vec<String>,
    /// The MTA behind it.
    pub backend: String,
    /// Whether that one answers: `there`, `away`, or `unknown` so far.
    pub presence: String,
    /// Sessions that wait for their greeting.
    pub parked: u64,
    /// Sessions that gatepost itself speaks with.
    pub dialogue: u64,
    /// Sessions that speak with the MTA.
    pub relay: u64,
}

/// How many decisions there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Bans.
    pub ban: u64,
    /// Allowances.
    pub allow: u64,
}

/// A decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ruling {
    /// Of whom.
    pub network: String,
    /// `ban` or `allow`; `lifted` where it no longer holds.
    pub what: String,
    /// Why: one of a few words.
    pub reason: String,
    /// What was seen, or what the operator noted.
    pub evidence: String,
    /// How many times it did what the reason says.
    pub count: u32,
    /// Which ban of this client it is, from 1; 0 where that has no meaning.
    pub level: u8,
    /// Since when.
    pub begin: String,
    /// Until when; for ever if nothing.
    pub until: Option<String>,
    /// How many seconds are left; for ever if nothing.
    pub remaining: Option<u64>,
    /// Who decided.
    pub who: String,
    /// How many connections of it have come since, here.
    pub knocks: u64,
}

impl Ruling {
    /// Of what is held, at `now`.
    pub fn of(held: &Held, now: Timestamp) -> Self {
        let decision = &held.decision;
        Self {
            network: shown(held.network),
            what: decision.what.name().to_owned(),
            reason: decision.reason.name().to_owned(),
            evidence: decision.evidence.to_string(),
            count: decision.count,
            level: decision.level,
            begin: moment(decision.begin),
            until: decision.until.map(moment),
            remaining: decision.until.map(|until| until.since(now).as_millis().div_ceil(1000) as u64),
            who: decision.who.to_string(),
            knocks: held.knocks(),
        }
    }
}

/// Some of the decisions in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rulings {
    /// How many there are, these included.
    pub total: u64,
    /// These.
    pub bans: Vec<Ruling>,
}

/// What was lifted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lifted {
    /// The network that was asked for.
    pub network: String,
    /// What no longer holds.
    pub lifted: Vec<Ruling>,
    /// Bans of wider networks, by which it is still shut out.
    pub still: Vec<Ruling>,
}

/// What is known of an address.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// The address.
    pub address: String,
    /// The client that it counts as.
    pub client: String,
    /// What holds for it: the decision that counts, if there is one.
    pub decision: Option<Ruling>,
    /// All decisions that it falls under, that one included.
    pub decisions: Vec<Ruling>,
    /// What each gate's access list says of it.
    pub access: Vec<GateAccess>,
    /// The imported list that it is on, if there is one: it is shut out for that.
    pub list: Option<String>,
    /// The tests that it has passed.
    pub standing: Vec<Passed>,
    /// What is counted of it, if anything is.
    pub tally: Option<Counts>,
    /// Its last visits, the latest first: records of the journal.
    pub visits: Vec<Value>,
}

/// What a gate's access list says of an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GateAccess {
    /// The gate.
    pub gate: String,
    /// `allow`, `deny`, or `test`: it says nothing.
    pub access: String,
}

/// A test that a client has passed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Passed {
    /// The test.
    pub test: String,
    /// Until when that counts.
    pub until: String,
    /// Whether it still does.
    pub holds: bool,
}

/// What is counted of a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Counts {
    /// Failed AUTH exchanges of late.
    pub failures: u32,
    /// When the last of them was.
    pub last_failure: Option<String>,
    /// Failed AUTH exchanges over days, less those that have been forgiven by now.
    pub slow: u32,
    /// Different accounts that it failed for.
    pub accounts: u32,
    /// AUTH where it is not offered.
    pub not_offered: u32,
    /// Which ban its last one was, from 1; 0 if it had none, or that is forgotten.
    pub level: u8,
    /// When that one ended, or will.
    pub banned_until: Option<String>,
    /// Until when it has more patience, for somebody has logged in from it.
    pub known_until: Option<String>,
    /// When all of this is forgotten.
    pub forgotten: String,
}

/// What became of entries that were brought in.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Imported {
    /// Lines that were read.
    pub read: u64,
    /// Entries that were taken in.
    pub taken: u64,
    /// Entries that had expired.
    pub expired: u64,
    /// Lines that could not be understood.
    pub refused: u64,
    /// The first few of those: the line's number, and what is wrong with it.
    pub problems: Vec<String>,
}

/// RFC 3339, UTC, milliseconds.
pub fn moment(at: Timestamp) -> String {
    const PRINTER: jiff::fmt::temporal::DateTimePrinter =
        jiff::fmt::temporal::DateTimePrinter::new().precision(Some(3));
    let at = i64::try_from(at.millis()).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    let mut text = String::new();
    // A String takes everything.
    let _ = PRINTER.print_timestamp(&at.unwrap_or(jiff::Timestamp::MAX), &mut text);
    text
}

/// A moment in whole seconds since 1970; nothing if it is 0.
pub(super) fn second(at: u32) -> Option<String> {
    (at != 0).then(|| moment(Timestamp::from_seconds(u64::from(at))))
}

/// A network as people write it: one host without its length.
pub fn shown(network: ipnet::IpNet) -> String {
    let mut text = network.addr().to_string();
    if network.prefix_len() < network.max_prefix_len() {
        let _ = write!(text, "/{}", network.prefix_len());
    }
    text
}
