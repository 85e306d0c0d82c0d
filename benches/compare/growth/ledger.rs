//! The ledger with more and more in it: how long it takes to recall a client and to remember it, and how much memory an entry
//! takes. Each size is a process of its own, so that none has what another has left behind.

use std::hint::black_box;
use std::io;
use std::process::Stdio;
use std::time::Instant;

use gatepost::addr::ClientKey;
use gatepost::ledger::{Ledger, Settings};
use gatepost::screen::Standing;
use serde::{Deserialize, Serialize};

use super::super::figures::Summary;
use super::super::figures::growth::{LEDGER_MEMORY, LEDGER_TIME};
use super::super::{process, usage};
use super::Points;
use super::clients::{NOW, client, passed};

/// In how many parts operations are timed: whatever interrupts some of them does not count.
const PARTS: u32 = 50;

/// The curves: clients that are remembered, those that take somebody's place, and what both have in common.
const KNOWN: &str = "known client";
const NEW: &str = "new client, full ledger";
const ENTRY: &str = "full ledger";

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    /// In nanoseconds each.
    known: f64,
    new: f64,
    /// In bytes for all of it.
    memory: f64,
}

/// Measures a ledger of so many entries, which is full.
pub(super) fn measure(entries: u32, operations: u32) -> Result<Vec<(&'static str, Points)>, String> {
    let output = process::ourselves("ledger")
        .and_then(|mut child| {
            let sizes = [entries, operations].map(|size| size.to_string());
            child.args(sizes).stdin(Stdio::null()).stderr(Stdio::inherit()).output()
        })
        .map_err(|error| format!("the ledger: {error}"))?;
    let report: Report =
        process::read_line(&mut output.stdout.as_slice()).map_err(|error| format!("the ledger: {error}"))?;
    Ok(vec![
        (KNOWN, vec![(&LEDGER_TIME, entries, report.known)]),
        (NEW, vec![(&LEDGER_TIME, entries, report.new)]),
        (ENTRY, vec![(&LEDGER_MEMORY, entries, report.memory / f64::from(entries))]),
    ])
}

/// The process itself.
pub fn child(arguments: &[String]) -> io::Result<()> {
    let sizes: Option<Vec<u32>> = arguments.iter().map(|size| size.parse().ok()).collect();
    let Some(&[entries, operations]) = sizes.as_deref() else { return Err(io::Error::other("two sizes")) };
    // What the program itself takes, and its code, is there before.
    let _small = (full(100)?, used()?);
    let before = used()?;
    let ledger = full(entries)?;
    let memory = used()? - before;
    // A few had to give way to others of their shard.
    let mut known: Vec<ClientKey> = (0..beyond(entries)).map(client).collect();
    known.retain(|client| ledger.peek(*client, NOW) != Standing::stranger());
    let mut turns = known.iter().copied().cycle();
    // Once around, so that the table is as it is after years.
    visits(&ledger, turns.by_ref(), entries);
    process::write_line(&Report {
        known: timed(&ledger, turns, operations),
        new: timed(&ledger, (beyond(entries)..).map(client), operations),
        memory,
    })
}

/// How many clients have to come until each shard is full.
fn beyond(entries: u32) -> u32 {
    entries + entries / 4
}

fn full(entries: u32) -> io::Result<Ledger> {
    let ledger = Ledger::open(Settings { entries: entries as usize, tallies: 0, decisions: 0 });
    (0..beyond(entries)).for_each(|n| ledger.remember(client(n), passed(), NOW));
    let full = ledger.len() == entries as usize;
    full.then_some(ledger).ok_or_else(|| io::Error::other(format!("it has no {entries} entries")))
}

fn used() -> io::Result<f64> {
    usage::memory(std::process::id() as i32, None)
}

fn visits(ledger: &Ledger, clients: impl Iterator<Item = ClientKey>, count: u32) {
    let passed = passed();
    for client in clients.take(count as usize) {
        black_box(ledger.recall(client, NOW));
        ledger.remember(client, passed, NOW);
    }
}

/// Nanoseconds of one visit: the median of parts.
fn timed(ledger: &Ledger, mut clients: impl Iterator<Item = ClientKey>, operations: u32) -> f64 {
    let each = (operations / PARTS).max(1);
    let part = |_| {
        let began = Instant::now();
        visits(ledger, clients.by_ref(), each);
        began.elapsed().as_secs_f64() * 1e9 / f64::from(each)
    };
    let parts: Vec<f64> = (0..PARTS).map(part).collect();
    Summary::of(&parts).map_or(f64::NAN, |summary| summary.median)
}
