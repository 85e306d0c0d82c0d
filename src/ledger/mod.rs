//! The ledger: what gatepost remembers of clients. Few verbs, each bounded, none of them waits for anything but a lock
//! that is held for microseconds.
//!
//! # What is remembered
//!
//! | what | of whom | kept |
//! | --- | --- | --- |
//! | [`Standing`]: the tests that it passed, and until when | a client | until the last pass ends |
//! | [`Tally`]: its failed AUTH exchanges, and where it stands on the ladder of bans | a client | until they mean nothing any more |
//! | [`Account`]: who failed for it, and who is at home there | an account, by its digest | likewise |
//! | [`Network`]: which of its clients were banned | an IPv4 /24, an IPv6 /48 | likewise |
//! | [`Decision`]: bans, allowances | any network | until it ends |
//!
//! # What it promises
//!
//! - Never more than [`Settings`] says, whoever connects: a standing takes about 55 bytes, a tally or an account some 200.
//! - A pass counts to the second that it was remembered for, and not a second longer: expiry is looked at when a client
//!   is recalled. What expired is swept a few entries at a time by those who remember, so there is no pause and no thread
//!   for it.
//! - Clients that come again are kept rather than those that came once. An entry is *on probation* when it is new and
//!   *proven* once it has been recalled while it held something. At most three quarters of the places are for the proven.
//!
//! # Who gives way
//!
//! When there is no room: the expired first; then, on probation, whichever of the next few holds least long. The proven
//! never give way to a newcomer. They give way to one another alone, by second chance: when all their places are taken,
//! each recall of a client on probation moves a hand one place on among the proven, and the client under it goes back on
//! probation in exchange, unless it was recalled since the hand last came by.
//!
//! So an attacker who comes once from each of a million addresses, however many of them pass a test, pushes out clients
//! that came once and no others. A proven client that comes again is put back on probation only after three quarters ×
//! [`Settings::entries`] recalls of clients on probation since its last visit; and each client put back costs the attacker
//! an address that was remembered and came again. (Places are kept by shard; clients are spread over the shards by a
//! seeded hash that he does not know. The figures hold for each shard by itself, and he cannot choose one.)
//!
//! Of decisions see [`decisions`].
//!
//! # Other stores
//!
//! A store that outlives the process, or that several hosts share, stands behind this one, which is the copy in front of
//! it: `recall` answers from the copy and never waits. Which entries have changed is noted ([`Ledger::note_changes`]), so
//! that whoever writes them down asks for them when he is ready, however often they have changed meanwhile
//! ([`Ledger::take_changes`]). What other hosts remember comes in by the same verbs, where the longer pass wins and the
//! later decision, so that order does not matter. With the store away, each host goes on alone.

#[cfg(test)]
mod bytes;
pub mod decisions;
pub mod embedded;
mod kept;
mod local;
mod shard;
pub mod shared;
pub mod store;
mod table;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use ahash::RandomState;
use ipnet::IpNet;

use crate::addr::ClientKey;
use crate::policy::ban::Decision;
use crate::policy::guard::{Account, Network, Rules, Tally};
use crate::policy::record::Record;
use crate::screen::{Standing, Tests};
use crate::time::Timestamp;

pub use kept::Kept;

use decisions::Decisions;
use table::{AccountId, ClientId, Table};

/// How much is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The most clients whose standing is remembered; the least useful give way. Nothing is remembered if it is 0.
    pub entries: usize,
    /// The most clients of which it is remembered that they failed, and as many accounts and networks.
    pub tallies: usize,
    /// The most decisions that are in force at once.
    pub decisions: usize,
}

impl Default for Settings {
    /// A million clients: about 55 MB, once so many have come. Some 200 bytes for each of a quarter of a million that failed.
    fn default() -> Self {
        Self { entries: 1_000_000, tallies: 250_000, decisions: 100_000 }
    }
}

/// What an entry is about. The names are those in files and in the shared store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A client's [`Standing`].
    Standing,
    /// A client's [`Tally`].
    Tally,
    /// A [`Network`], by the first client of it.
    Network,
    /// An [`Account`], by its digest.
    Account,
    /// A [`Decision`], by its network.
    Decision,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Standing, Self::Tally, Self::Network, Self::Account, Self::Decision];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standing => "standing",
            Self::Tally => "tally",
            Self::Network => "network",
            Self::Account => "account",
            Self::Decision => "decision",
        }
    }
}

/// One entry, or that it is gone: both key and line are text without control characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// What it is about.
    pub kind: Kind,
    /// Of whom.
    pub key: String,
    /// What is remembered; nothing any more if nothing.
    pub line: Option<String>,
}

/// What is remembered, in memory, bounded and expiring. Shared by reference; its locks are short.
#[derive(Debug)]
pub struct Ledger {
    standings: Table<ClientId, Standing>,
    tallies: Table<ClientId, Tally>,
    networks: Table<ClientId, Network>,
    accounts: Table<AccountId, Account>,
    decisions: Decisions,
    /// Where chance comes from, and how often it was asked.
    chance: (RandomState, AtomicU32),
}

impl Ledger {
    /// An empty ledger. Memory is taken as clients come.
    pub fn open(settings: Settings) -> Self {
        Self {
            standings: Table::new(settings.entries),
            tallies: Table::new(settings.tallies),
            networks: Table::new(settings.tallies),
            accounts: Table::new(settings.tallies),
            decisions: Decisions::new(settings.decisions),
            chance: (RandomState::new(), AtomicU32::new(0)),
        }
    }

    /// What is known of a client; a stranger's standing if nothing is, or all of it has expired.
    pub fn recall(&self, client: ClientKey, now: Timestamp) -> Standing {
        self.standings.recall(ClientId::of(client), now, |standing| *standing).unwrap_or_default()
    }

    /// The same, without any consequence for how long it is kept.
    pub fn peek(&self, client: ClientKey, now: Timestamp) -> Standing {
        self.standings.peek(ClientId::of(client), now, |standing| *standing).unwrap_or_default()
    }

    /// Remembers a client's standing. A pass that an entry already holds for longer stays; see [`Standing::pass`]. A
    /// standing in which nothing holds any more takes no place.
    pub fn remember(&self, client: ClientKey, standing: Standing, now: Timestamp) {
        self.standings.update(ClientId::of(client), now, |known| known.merge(&standing));
    }

    /// Takes the passes of `tests` back, for the client has failed them since.
    pub fn revoke(&self, client: ClientKey, tests: Tests, now: Timestamp) {
        self.standings.update_known(ClientId::of(client), now, |known| {
            tests.iter().for_each(|test| known.fail(test));
        });
    }

    /// What is counted of a client, if anything is.
    pub fn tally(&self, client: ClientKey, now: Timestamp) -> Option<Tally> {
        self.tallies.peek(ClientId::of(client), now, Tally::clone)
    }

    /// Whether something speaks against a client: see [`Tally::is_bad`].
    pub fn is_bad(&self, client: ClientKey, rules: &Rules, now: Timestamp) -> bool {
        // Recalled and not only looked at: those that come again are kept rather than those that came once.
        let is_bad = |tally: &Tally| tally.is_bad(rules, second(now));
        self.tallies.recall(ClientId::of(client), now, is_bad).unwrap_or_default()
    }

    /// What is counted of an account, if anything is.
    pub fn account(&self, account: [u8; 16], now: Timestamp) -> Option<Account> {
        self.accounts.peek(AccountId(account), now, Account::clone)
    }

    /// Forgets what was counted of the clients in `network`, and of the neighbourhoods in it or around it.
    pub fn forget(&self, network: IpNet) {
        let ours = |client: ClientKey| network.contains(&client.network()) || client.network().contains(&network);
        for client in self.clients(network, &self.tallies, ours) {
            self.tallies.forget(client);
        }
        let near = |client: ClientKey| {
            let neighbourhood = client.neighbourhood();
            network.contains(&neighbourhood) || neighbourhood.contains(&network)
        };
        for client in self.clients(network, &self.networks, near) {
            self.networks.forget(client);
        }
    }

    /// What was decided at run time.
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Takes in what is known elsewhere of a client's failures, in place of what is known here.
    pub fn take_tally(&self, client: ClientKey, tally: Tally, now: Timestamp) {
        self.tallies.update(ClientId::of(client), now, |known| *known = tally);
    }

    /// Takes in what is known elsewhere of an account, in place of what is known here.
    pub fn take_account(&self, account: [u8; 16], known: Account, now: Timestamp) {
        self.accounts.update(AccountId(account), now, |place| *place = known);
    }

    /// Any number.
    pub fn dice(&self) -> u32 {
        let (state, asked) = &self.chance;
        state.hash_one(asked.fetch_add(1, Ordering::Relaxed)) as u32
    }

    /// How many clients are remembered, the expired ones that have not been swept yet included. Takes each lock in turn:
    /// for metrics, not for each connection.
    pub fn len(&self) -> usize {
        self.standings.len()
    }

    /// How many entries of a kind there are.
    pub fn count(&self, kind: Kind, now: Timestamp) -> usize {
        match kind {
            Kind::Standing => self.standings.len(),
            Kind::Tally => self.tallies.len(),
            Kind::Network => self.networks.len(),
            Kind::Account => self.accounts.len(),
            Kind::Decision => self.decisions.all(now).len(),
        }
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From here on, notes which entries change.
    pub fn note_changes(&self) {
        self.standings.note_changes();
        self.tallies.note_changes();
        self.networks.note_changes();
        self.accounts.note_changes();
        self.decisions.note_changes();
    }

    /// Counts all that is remembered as changed.
    pub fn note_all(&self) {
        self.standings.note_all();
        self.tallies.note_all();
        self.networks.note_all();
        self.accounts.note_all();
        self.decisions.note_all();
    }

    /// Shows what has changed since it was last asked, at most `most` entries. Fewer mean that there is no more for now.
    pub fn take_changes(&self, most: usize, mut show: impl FnMut(Change)) {
        let left = Cell::new(most);
        let mut show = |change| {
            left.set(left.get().saturating_sub(1));
            show(change);
        };
        // What was decided is worth most, and least of it.
        self.decisions.take_changes(left.get(), |network, decision| {
            show(Change { kind: Kind::Decision, key: network.to_string(), line: decision.map(Record::line) });
        });
        let mut of_client = |kind, client: ClientId, line| show(Change { kind, key: client.client().word(), line });
        self.tallies.take_changes(left.get(), |id, value| of_client(Kind::Tally, id, value.map(Record::line)));
        self.networks.take_changes(left.get(), |id, value| of_client(Kind::Network, id, value.map(Record::line)));
        self.standings.take_changes(left.get(), |id, value| of_client(Kind::Standing, id, value.map(Record::line)));
        self.accounts.take_changes(left.get(), |id, value| {
            show(Change { kind: Kind::Account, key: hex(&id.0), line: value.map(Record::line) });
        });
    }

    /// Shows every standing.
    pub fn each_standing(&self, mut show: impl FnMut(ClientKey, Standing)) {
        self.standings.each(|id, standing| show(id.client(), *standing));
    }

    /// Shows all that is remembered.
    pub fn each(&self, now: Timestamp, mut show: impl FnMut(Kind, String, String)) {
        for held in self.decisions.all(now) {
            show(Kind::Decision, held.network.to_string(), held.decision.line());
        }
        self.tallies.each(|id, tally| show(Kind::Tally, id.client().word(), tally.line()));
        self.networks.each(|id, network| show(Kind::Network, id.client().word(), network.line()));
        self.standings.each(|id, standing| show(Kind::Standing, id.client().word(), standing.line()));
        self.accounts.each(|id, account| show(Kind::Account, hex(&id.0), account.line()));
    }

    /// Takes in an entry that was written down. Whether it could be read; one that has expired by `now` can, and takes no
    /// place.
    pub fn load(&self, kind: Kind, key: &str, line: &str, now: Timestamp) -> bool {
        let client = || ClientKey::of_word(key).map(ClientId::of);
        let loaded = match kind {
            Kind::Standing => client().zip(Standing::read(line)).map(|(id, value)| self.standings.load(id, value, now)),
            Kind::Tally => client().zip(Tally::read(line)).map(|(id, value)| self.tallies.load(id, value, now)),
            Kind::Network => client().zip(Network::read(line)).map(|(id, value)| self.networks.load(id, value, now)),
            Kind::Account => {
                let id = of_hex(key).map(AccountId);
                id.zip(Account::read(line)).map(|(id, value)| self.accounts.load(id, value, now))
            }
            Kind::Decision => {
                let network = key.parse::<IpNet>().ok();
                network.zip(Decision::read(line)).map(|(network, decision)| {
                    let decision = decision.with_a_clock_set_right(now);
                    if decision.holds(now) {
                        self.decisions.decide(network, decision);
                    }
                })
            }
        };
        loaded.is_some()
    }

    /// The clients of a table that `wanted` speaks of, given that all of them lie in or around `network`.
    fn clients<V: shard::Value>(
        &self,
        network: IpNet,
        table: &Table<ClientId, V>,
        wanted: impl Fn(ClientKey) -> bool,
    ) -> Vec<ClientId> {
        // One client: no need to look at all of them.
        let client = ClientKey::of(network.network());
        if client.network() == network || network.prefix_len() == network.max_prefix_len() {
            return vec![ClientId::of(client), ClientId::of(ClientKey::of(client.neighbourhood().network()))]
                .into_iter()
                .filter(|id| wanted(id.client()))
                .collect();
        }
        let mut found = Vec::new();
        table.each(|id, _| {
            if wanted(id.client()) {
                found.push(id);
            }
        });
        found
    }
}

/// Whole seconds since 1970.
fn second(now: Timestamp) -> u32 {
    u32::try_from(now.seconds()).unwrap_or(u32::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_hex(text: &str) -> Option<[u8; 16]> {
    let sound = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    sound.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}
