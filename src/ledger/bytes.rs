//! How much memory a ledger takes, by its own account: for tests that hold it to its cap.

use std::mem::size_of;

use super::decisions::Held;
use super::shard::{Key, Value};
use super::table::Table;
use super::{Kind, Ledger};
use crate::addr::ClientKey;
use crate::policy::guard::{Account, Network, Tally};
use crate::screen::Standing;
use crate::time::Timestamp;

/// What the allocator adds to each piece, about.
const PIECE: usize = 16;

/// What a decision takes in the map and in the two orders, besides itself.
const INDEXED: usize = 170;

fn piece<T>(of: &Vec<T>) -> usize {
    if of.capacity() == 0 { 0 } else { of.capacity() * size_of::<T>() + PIECE }
}

/// What a value holds elsewhere.
trait Elsewhere {
    fn bytes(&self) -> usize;
}

impl Elsewhere for Standing {
    fn bytes(&self) -> usize {
        0
    }
}

impl Elsewhere for Tally {
    fn bytes(&self) -> usize {
        piece(&self.failed.times) + piece(&self.not_offered.times) + piece::<u32>(&self.accounts.ones)
    }
}

impl Elsewhere for Network {
    fn bytes(&self) -> usize {
        piece::<ClientKey>(&self.offenders.ones)
    }
}

impl Elsewhere for Account {
    fn bytes(&self) -> usize {
        piece::<ClientKey>(&self.strangers.ones) + piece(&self.homes)
    }
}

fn of_table<K: Key, V: Value + Elsewhere>(table: &Table<K, V>) -> usize {
    let of_shard = |shard: &parking_lot::Mutex<super::shard::Shard<K, V>>| {
        let shard = shard.lock();
        shard.bytes() + shard.all().map(|(_, value)| value.bytes()).sum::<usize>()
    };
    table.shards.iter().map(of_shard).sum()
}

impl Ledger {
    /// How much memory the entries of a kind take that hold at `now`.
    pub(crate) fn bytes(&self, kind: Kind, now: Timestamp) -> usize {
        match kind {
            Kind::Standing => of_table(&self.standings),
            Kind::Tally => of_table(&self.tallies),
            Kind::Network => of_table(&self.networks),
            Kind::Account => of_table(&self.accounts),
            Kind::Decision => {
                let of = |held: &Held| {
                    size_of::<Held>() + INDEXED + held.decision.evidence.len() + held.decision.who.len() + 3 * PIECE
                };
                self.decisions.all(now).iter().map(|held| of(held)).sum()
            }
        }
    }
}
