//! The ledger: what gatepost remembers of clients. Few verbs, each bounded.

use crate::addr::ClientKey;
use crate::screen::Standing;
use crate::time::Timestamp;

/// How much is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The most clients that are remembered; the least useful give way.
    pub entries: usize,
}

/// What is remembered, in memory, bounded and expiring. Shared by reference; its locks are short.
#[derive(Debug)]
pub struct Ledger {}

impl Ledger {
    /// An empty ledger.
    pub fn open(_settings: Settings) -> Self {
        Self {}
    }

    /// What is known of a client; a stranger's standing if nothing is, or all of it has expired.
    pub fn recall(&self, _client: ClientKey, _now: Timestamp) -> Standing {
        todo!()
    }

    /// Remembers a client's standing. A pass that an entry already holds for longer stays; see [`Standing::pass`].
    pub fn remember(&self, _client: ClientKey, _standing: Standing, _now: Timestamp) {
        todo!()
    }

    /// How many clients are remembered, the expired ones that have not been swept yet included.
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
