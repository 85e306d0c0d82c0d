//! The ledger as its file sees it: which table an entry goes into, and what has changed.

use std::sync::Arc;

use super::embedded::{self, CannotOpen, Opened, Source, Store, Table};
use super::{Change, Kind, Ledger};
use crate::clock::Clock;

/// Tells the file what has changed in a ledger.
#[derive(Debug)]
pub struct Kept(Arc<Ledger>);

impl Kept {
    /// Opens the file, and takes what was kept in it into `ledger`. Waits for the disk.
    pub fn open(ledger: &Ledger, settings: embedded::Settings, clock: &Clock) -> Result<Opened, CannotOpen> {
        let now = clock.now();
        Store::open(settings, clock.clone(), |table, key, line| {
            let text = std::str::from_utf8(key).ok().zip(std::str::from_utf8(line).ok());
            text.is_some_and(|(key, line)| ledger.load(table.into(), key, line, now))
        })
    }

    /// From here on, what changes in `ledger` is noted.
    pub fn of(ledger: Arc<Ledger>) -> Self {
        ledger.note_changes();
        Self(ledger)
    }
}

impl Source for Kept {
    fn drain(&mut self, out: &mut Vec<embedded::Change>, most: usize) {
        self.0.take_changes(most, |Change { kind, key, line }| {
            let value = line.map(|line| line.into_bytes().into());
            out.push(embedded::Change { table: kind.into(), key: key.into_bytes().into(), value });
        });
    }

    fn all(&mut self) {
        self.0.note_all();
    }
}

impl From<Kind> for Table {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Standing => Self::Standings,
            Kind::Tally => Self::Tallies,
            Kind::Network => Self::Networks,
            Kind::Account => Self::Accounts,
            Kind::Decision => Self::Decisions,
        }
    }
}

impl From<Table> for Kind {
    fn from(table: Table) -> Self {
        match table {
            Table::Standings => Self::Standing,
            Table::Tallies => Self::Tally,
            Table::Networks => Self::Network,
            Table::Accounts => Self::Account,
            Table::Decisions => Self::Decision,
        }
    }
}
