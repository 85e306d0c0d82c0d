//! `[ledger]`: how much is remembered, and where it is kept.

use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::inspection::Wrong;
use super::table::Table;
use super::values::{count, text};
use crate::ledger;
use crate::ledger::embedded::Place;

/// What the file says of the ledger.
#[derive(Debug)]
pub(super) struct LedgerEntry {
    entries: Option<Spanned<usize>>,
    path: Option<Spanned<Place>>,
}

impl LedgerEntry {
    /// Reads `[ledger]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        Self { entries: table.value("entries", count(1_000..=100_000_000)), path: table.value("path", place) }
    }

    /// How much is remembered; of decisions, what `[bans]` says.
    pub(super) fn settings(&self, decisions: Option<usize>) -> ledger::Settings {
        let usual = ledger::Settings::default();
        ledger::Settings {
            entries: self.entries.as_ref().map_or(usual.entries, |entries| *entries.get_ref()),
            decisions: decisions.unwrap_or(usual.decisions),
            ..usual
        }
    }

    /// Where it is kept.
    pub(super) fn kept(&self) -> Place {
        self.path.as_ref().map_or(Place::Given, |path| path.get_ref().clone())
    }
}

fn place(value: &DeValue<'_>) -> Result<Place, Wrong> {
    match text(value)? {
        "memory" => Ok(Place::Memory),
        path if path.starts_with('/') && !path.ends_with('/') => Ok(Place::At(PathBuf::from(path))),
        other => {
            let remedy = "write a file with its full path, \"/var/lib/gatepost/ledger.redb\", or \"memory\"";
            Err(Wrong::new(format!("{other:?} is no place for the ledger"), remedy))
        }
    }
}
