//! The ledger's file: what is remembered, kept on disk beside the memory, so that it outlives the process.
//!
//! ```text
//!   sessions ──mark──▶ ledger in memory ◀──drain── writer thread ──one transaction a round──▶ file
//!                       (keys that changed)         every interval, and when flushed or stopped
//! ```
//!
//! # What it promises
//!
//! - Whoever remembers or recalls never waits for the disk: they mark keys. One thread asks the [`Source`] for what
//!   changed, once an interval, so that a key that changed a thousand times is written once.
//! - What changed longer ago than an interval and a commit is on the disk. The file opens after `kill -9` or a power cut
//!   at any moment, as it was after the last commit.
//! - Every page has a checksum, and all of them are looked at when it is opened. A file that is damaged, or something
//!   else altogether, is *set aside*: renamed, never overwritten, never deleted; and another begun. All are kept.
//! - Good data is left alone: a file that another process has open, and one of a newer format, are reasons not to start
//!   ([`CannotOpen`]).
//! - With the disk full, or broken, the memory goes on alone. What changed is kept for the next try, which is an interval
//!   later; when that grows past [`Settings::most_pending`], it is dropped, and the whole memory written anew once the
//!   disk is well. Said once, then once a minute, and once more when it is over.
//!
//! # What it leaves to others
//!
//! What the records mean. Here they are bytes in one of a few [`Table`]s.
//!
//! Once open, the file is gatepost's own. One that is removed or replaced under a running gatepost is written anew from
//! the memory; so stop gatepost before you restore a copy.

mod aside;
mod fault;
mod file;
mod opening;
mod place;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use crate::time::Timestamp;

pub use fault::{CannotOpen, CannotRead};
pub use opening::{Notice, Opened, read};
pub use place::Place;
pub use writer::Store;

/// The format of the file that this gatepost writes. A change of what the records mean, or of their place, is another.
pub const FORMAT: u32 = 1;

/// Which kind of record. The names are in the file, and stay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Table {
    /// Which tests a client has passed.
    Standings,
    /// What is counted of an address.
    Tallies,
    /// What is counted of a network.
    Networks,
    /// What is counted of an account.
    Accounts,
    /// What was decided: bans and the like.
    Decisions,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Standings, Self::Tallies, Self::Networks, Self::Accounts, Self::Decisions];

    /// What it is called in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standings => "standings",
            Self::Tallies => "tallies",
            Self::Networks => "networks",
            Self::Accounts => "accounts",
            Self::Decisions => "decisions",
        }
    }
}

/// A record as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Where it belongs.
    pub table: Table,
    /// Which record.
    pub key: Box<[u8]>,
    /// What it holds; none if it is no more.
    pub value: Option<Box<[u8]>>,
}

/// Who knows what changed: the memory. Asked by the writer's thread alone.
pub trait Source: Send + 'static {
    /// Appends up to `most` records that changed since they were last handed over, as they are now. Fewer than `most`
    /// mean that there are no more for now.
    fn drain(&mut self, out: &mut Vec<Change>, most: usize);

    /// Counts all that is remembered as changed: the next drains hand over everything. What was removed need not be
    /// named; the file is emptied first.
    fn all(&mut self);
}

/// Where records are kept, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The file. Its folder has to be there.
    pub path: PathBuf,
    /// How often what changed is written.
    pub interval: Duration,
    /// The most changes that are kept for the next try while the disk takes nothing.
    pub most_pending: usize,
}

impl Settings {
    /// The file at `path`, written twice a second.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), interval: Duration::from_millis(500), most_pending: 1_000_000 }
    }
}

/// How the file does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// What is wrong, and since when, while it cannot be written.
    pub failing: Option<Failing>,
    /// How many records were written or deleted since the start.
    pub written: u64,
    /// How many transactions that took.
    pub commits: u64,
    /// How many rounds failed.
    pub failures: u64,
    /// When the last transaction was on the disk.
    pub last_commit: Option<Timestamp>,
    /// How long it took.
    pub last_took: Duration,
    /// How many changes wait for the next try.
    pub pending: usize,
    /// Too much waited: the whole memory is to be written.
    pub rewrite: bool,
    /// How large the file is.
    pub bytes: u64,
    /// How many files were set aside since the start.
    pub set_aside: u64,
}

/// Since when the file cannot be written, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failing {
    /// When the first round failed.
    pub since: Timestamp,
    /// What the last one failed of.
    pub reason: String,
}
