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
mod table;

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

pub mod shared;
pub mod store;

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
        self.standings.recall(ClientId::of(client), now).unwrap_or_default()
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
        let tally = self.tallies.recall(ClientId::of(client), now);
        tally.is_some_and(|tally| tally.is_bad(rules, second(now)))
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::store::Store;
    use super::*;
    use crate::policy::guard::{Sentence, Strike};
    use crate::screen::Test;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

    fn client(n: u32) -> ClientKey {
        ClientKey::V4(n)
    }

    fn holding(test: Test, span: Duration) -> Standing {
        let mut standing = Standing::stranger();
        standing.pass(test, NOW.plus(span));
        standing
    }

    fn week() -> Standing {
        holding(Test::Pregreet, Duration::from_secs(7 * 86_400))
    }

    #[test]
    fn a_pass_that_is_revoked_is_gone_and_the_others_stay() {
        let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
        let hour = Duration::from_secs(3600);
        Ledger::remember(&ledger, client(1), holding(Test::HeloName, hour), NOW);
        Ledger::remember(&ledger, client(1), holding(Test::Pregreet, hour), NOW);
        let mut failed = Tests::NONE;
        failed.insert(Test::HeloName);
        Ledger::revoke(&ledger, client(1), failed, NOW);
        Ledger::revoke(&ledger, client(2), failed, NOW);
        let standing = ledger.recall(client(1), NOW);
        assert!(!standing.holds(Test::HeloName, NOW));
        assert!(standing.holds(Test::Pregreet, NOW));
        assert_eq!(ledger.len(), 1);
    }

    fn rules() -> Rules {
        Rules::default()
    }

    /// What a verb of the ledger comes to: it is done at once.
    fn done<T>(verb: impl Future<Output = store::Answer<T>>) -> T {
        let verb = std::pin::pin!(verb);
        match verb.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(Ok(answer)) => answer,
            _ => panic!("it waits"),
        }
    }

    fn strike(ledger: &Ledger, client: ClientKey, strike: Strike) -> Option<Sentence> {
        done(ledger.strike(client, strike, &rules(), second(NOW), 0)).1
    }

    fn ban(count: u32) -> Decision {
        use crate::policy::ban::{Reason, What};
        Decision {
            what: What::Ban,
            reason: Reason::Failures,
            count,
            level: 1,
            begin: NOW,
            until: Some(NOW.plus(Duration::from_secs(600))),
            who: "mx1".into(),
            evidence: "5 failed AUTH exchanges in 10m".into(),
        }
    }

    /// A ledger in which there is something of each kind.
    fn full() -> Ledger {
        let ledger = Ledger::open(Settings::default());
        Ledger::remember(&ledger, client(1), week(), NOW);
        strike(&ledger, client(2), Strike::NotOffered);
        done(ledger.account_failed([7; 16], client(2), &rules(), second(NOW)));
        done(ledger.account_logged_in([8; 16], client(3), &rules(), second(NOW)));
        done(ledger.offend(client(2).neighbourhood(), client(2), &rules(), second(NOW), 0));
        ledger.decisions().decide("192.0.2.0/24".parse().unwrap(), ban(5));
        ledger
    }

    fn all(ledger: &Ledger) -> Vec<(&'static str, String, String)> {
        let mut all = Vec::new();
        ledger.each(NOW, |kind, key, line| all.push((kind.name(), key, line)));
        all.sort();
        all
    }

    #[test]
    fn all_that_is_written_down_can_be_taken_in_again() {
        let (ledger, again) = (full(), Ledger::open(Settings::default()));
        ledger.each(NOW, |kind, key, line| assert!(again.load(kind, &key, &line, NOW), "{kind:?} {key} {line}"));
        assert_eq!(all(&ledger).len(), 6);
        assert_eq!(all(&again), all(&ledger));
        for kind in Kind::ALL {
            assert!(!again.load(kind, "x", "1", NOW) && !again.load(kind, "400000001", "2 1", NOW), "{kind:?}");
        }
        let later = NOW.plus(Duration::from_secs(400 * 86_400));
        let empty = Ledger::open(Settings::default());
        ledger.each(NOW, |kind, key, line| assert!(empty.load(kind, &key, &line, later)));
        assert_eq!(all(&empty), [], "what has expired takes no place");
    }

    #[test]
    fn what_changes_is_shown_once_whether_it_came_or_went() {
        let ledger = Ledger::open(Settings { entries: 2, ..Settings::default() });
        ledger.note_changes();
        let changes = || {
            let mut changes = Vec::new();
            ledger.take_changes(100, |change| changes.push((change.kind, change.key, change.line.is_some())));
            changes.sort_by(|a, b| a.1.cmp(&b.1));
            changes
        };
        Ledger::remember(&ledger, client(1), week(), NOW);
        Ledger::remember(&ledger, client(1), week(), NOW);
        assert_eq!(changes(), [(Kind::Standing, "400000001".to_owned(), true)]);
        assert_eq!(changes(), []);
        Ledger::remember(&ledger, client(2), week(), NOW);
        changes();
        Ledger::remember(&ledger, client(3), week(), NOW);
        let is_there: Vec<bool> = changes().into_iter().map(|(_, _, is_there)| is_there).collect();
        assert_eq!(is_there, [false, true], "one gave way to one that came");
        strike(&ledger, client(9), Strike::NotOffered);
        changes();
        Ledger::forget(&ledger, client(9).network());
        assert_eq!(changes(), [(Kind::Tally, "400000009".to_owned(), false)]);
    }

    #[test]
    fn a_client_is_struck_banned_and_forgotten() {
        let ledger = Ledger::open(Settings::default());
        let strike = || strike(&ledger, client(9), Strike::Failed(Some(1)));
        assert!((0..4).all(|_| strike().is_none()) && ledger.is_bad(client(9), &rules(), NOW));
        assert_eq!(strike().map(|sentence| sentence.level), Some(1));
        let network = client(9).network();
        Ledger::forget(&ledger, network);
        assert_eq!((ledger.tally(client(9), NOW), ledger.is_bad(client(9), &rules(), NOW)), (None, false));
        assert!((0..4).all(|_| strike().is_none()), "it begins anew");
        super::tests::strike(&ledger, client(300), Strike::Failed(None));
        Ledger::forget(&ledger, client(9).neighbourhood());
        assert_eq!(ledger.tally(client(9), NOW), None);
        assert!(ledger.tally(client(300), NOW).is_some(), "of another neighbourhood");
    }

    #[test]
    fn a_million_strangers_that_fail_once_push_out_none_that_failed_again() {
        let ledger = Ledger::open(Settings { tallies: 20_000, ..Settings::default() });
        for n in 0..1000 {
            strike(&ledger, client(n), Strike::Failed(None));
            // It comes again: its tally is looked at when it does.
            ledger.tallies.recall(ClientId::of(client(n)), NOW);
        }
        for n in 0..1_000_000 {
            strike(&ledger, ClientKey::V6(n), Strike::Failed(None));
        }
        assert!((0..1000).all(|n| ledger.tally(client(n), NOW).is_some()));
        assert!(ledger.count(Kind::Tally, NOW) <= 20_000);
    }

    #[test]
    fn what_is_remembered_is_recalled() {
        let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
        assert_eq!(ledger.recall(client(1), NOW), Standing::stranger());
        Ledger::remember(&ledger, client(1), week(), NOW);
        assert_eq!(ledger.recall(client(1), NOW), week());
        assert_eq!(ledger.recall(client(2), NOW), Standing::stranger());
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn an_ipv4_client_and_an_ipv6_network_with_the_same_bits_are_two() {
        let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
        Ledger::remember(&ledger, ClientKey::V4(7), week(), NOW);
        assert_eq!(ledger.recall(ClientKey::V6(7), NOW), Standing::stranger());
        assert_eq!(ledger.recall(ClientKey::of(IpAddr::V4(Ipv4Addr::from(7))), NOW), week());
    }

    #[test]
    fn neighbours_in_a_64_share_a_standing() {
        let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
        let [a, b] = [1u128, 2].map(|host| {
            let bits = 0x2001_0db8_0000_0001_0000_0000_0000_0000 | host;
            ClientKey::of(IpAddr::V6(Ipv6Addr::from(bits)))
        });
        Ledger::remember(&ledger, a, week(), NOW);
        assert_eq!(ledger.recall(b, NOW), week());
    }

    #[test]
    fn a_pass_expires_to_the_second() {
        let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
        Ledger::remember(&ledger, client(1), holding(Test::Dnsbl, Duration::from_secs(60)), NOW);
        let last = Timestamp::from_millis(NOW.plus(Duration::from_secs(60)).millis() - 1);
        assert!(ledger.recall(client(1), last).holds(Test::Dnsbl, last));
        let after = NOW.plus(Duration::from_secs(60));
        assert_eq!(ledger.recall(client(1), after), Standing::stranger());
        assert_eq!(ledger.len(), 0, "what has expired is dropped when it is met");
    }

    #[test]
    fn the_longer_pass_stays_for_each_test() {
        let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
        let (short, long) = (Duration::from_secs(60), Duration::from_secs(600));
        let mut first = holding(Test::Pregreet, long);
        first.pass(Test::Dnsbl, NOW.plus(short));
        let mut second = holding(Test::Pregreet, short);
        second.pass(Test::Dnsbl, NOW.plus(long));
        Ledger::remember(&ledger, client(1), first, NOW);
        Ledger::remember(&ledger, client(1), second, NOW);
        let both = ledger.recall(client(1), NOW);
        assert_eq!((both.until(Test::Pregreet), both.until(Test::Dnsbl)), (NOW.plus(long), NOW.plus(long)));
        assert_eq!(ledger.len(), 1);
    }

    #[test]
    fn nothing_to_remember_takes_no_place() {
        let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
        Ledger::remember(&ledger, client(1), Standing::stranger(), NOW);
        Ledger::remember(&ledger, client(2), week(), NOW.plus(Duration::from_secs(8 * 86_400)));
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_ledger_without_places_remembers_nothing() {
        let ledger = Ledger::open(Settings { entries: 0, ..Settings::default() });
        Ledger::remember(&ledger, client(1), week(), NOW);
        assert_eq!(ledger.recall(client(1), NOW), Standing::stranger());
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_million_addresses_do_not_grow_it_past_its_cap() {
        let settings = Settings { entries: 250_000, ..Settings::default() };
        let ledger = Ledger::open(settings);
        for n in 0..1_000_000 {
            Ledger::remember(&ledger, client(n), week(), NOW);
        }
        let (len, bytes) = (ledger.len(), ledger.bytes(Kind::Standing, NOW));
        println!("{len} entries in {bytes} bytes: {:.1} bytes an entry", bytes as f64 / len as f64);
        assert_eq!(len, settings.entries);
        assert!(bytes < 60 * settings.entries, "{bytes} bytes");
    }

    #[test]
    fn clients_that_come_again_survive_a_flood_of_those_that_come_once() {
        let ledger = Ledger::open(Settings { entries: 20_000, ..Settings::default() });
        // Less than three quarters of 20 000, and of each shard, with room for an uneven spread.
        let honest = 0..12_000;
        for n in honest.clone() {
            Ledger::remember(&ledger, client(n), week(), NOW);
            ledger.recall(client(n), NOW);
        }
        for n in 0..200_000u32 {
            // The attacker's passes hold longer, which must not help him.
            let standing = holding(Test::Pregreet, Duration::from_secs(30 * 86_400));
            Ledger::remember(&ledger, client(0x0a00_0000 + n), standing, NOW);
        }
        assert!(honest.clone().all(|n| ledger.recall(client(n), NOW) == week()));
        assert_eq!(ledger.len(), 20_000);
    }

    #[test]
    fn those_that_hold_long_survive_side_by_side() {
        let ledger = Ledger::open(Settings { entries: 3000, ..Settings::default() });
        let month = || holding(Test::Pregreet, Duration::from_secs(30 * 86_400));
        // One after another, and none of them has come again yet.
        for n in 0..300 {
            Ledger::remember(&ledger, client(n), month(), NOW);
        }
        for n in 0..100_000 {
            Ledger::remember(&ledger, client(0x0a00_0000 + n), week(), NOW);
        }
        assert_eq!((0..300).filter(|&n| ledger.recall(client(n), NOW) == month()).count(), 300);
    }

    #[test]
    fn clients_that_keep_coming_survive_a_flood_of_those_that_come_twice() {
        let ledger = Ledger::open(Settings { entries: 3000, ..Settings::default() });
        let honest = 0..500;
        for n in honest.clone() {
            Ledger::remember(&ledger, client(n), week(), NOW);
            ledger.recall(client(n), NOW);
            ledger.recall(client(n), NOW);
        }
        for n in 0..100_000u32 {
            Ledger::remember(&ledger, client(0x0a00_0000 + n), week(), NOW);
            ledger.recall(client(0x0a00_0000 + n), NOW);
            // There are 2250 proven places: each honest client comes again before the hand can be round.
            if n % 2200 == 0 {
                for n in honest.clone() {
                    assert_eq!(ledger.recall(client(n), NOW), week());
                }
            }
        }
    }

    #[test]
    fn the_expired_give_way_before_those_that_hold() {
        let ledger = Ledger::open(Settings { entries: 1000, ..Settings::default() });
        for n in 0..500 {
            Ledger::remember(&ledger, client(n), week(), NOW);
            Ledger::remember(&ledger, client(1000 + n), holding(Test::Pregreet, Duration::from_secs(10)), NOW);
        }
        let later = NOW.plus(Duration::from_secs(10));
        for n in 2000..2500 {
            Ledger::remember(&ledger, client(n), week(), later);
        }
        let kept = (0..500).filter(|&n| ledger.recall(client(n), later) == week()).count();
        assert_eq!(kept, 500);
    }

    #[test]
    fn remembering_sweeps_what_has_expired() {
        let ledger = Ledger::open(Settings { entries: 3000, ..Settings::default() });
        for n in 0..1000 {
            Ledger::remember(&ledger, client(n), holding(Test::Pregreet, Duration::from_secs(10)), NOW);
            if n % 2 == 0 {
                ledger.recall(client(n), NOW);
            }
        }
        let later = NOW.plus(Duration::from_secs(10));
        for n in 1000..1500 {
            Ledger::remember(&ledger, client(n), week(), later);
        }
        assert_eq!(ledger.len(), 500, "five hundred remembered, a thousand swept");
    }

    #[test]
    fn many_threads_at_once() {
        let ledger = Arc::new(Ledger::open(Settings { entries: 5000, ..Settings::default() }));
        let threads: Vec<_> = (0..8u32)
            .map(|thread| {
                let ledger = Arc::clone(&ledger);
                std::thread::spawn(move || {
                    for n in 0..20_000u32 {
                        let key = client((n.wrapping_mul(2_654_435_761).wrapping_add(thread)) % 10_000);
                        if ledger.recall(key, NOW) == Standing::stranger() {
                            Ledger::remember(&ledger, key, week(), NOW);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(ledger.len() <= 5000);
        for shard in &ledger.standings.shards {
            shard.lock().check(&ledger.standings.hasher);
        }
    }

    /// What of a standing still counts.
    fn counting(standing: &Standing, now: Timestamp) -> [u64; Test::COUNT] {
        Test::ALL.map(|test| if standing.holds(test, now) { standing.until(test).seconds() } else { 0 })
    }

    proptest! {
        /// Where there is room for all, the ledger is a map with expiry; where there is not, it forgets, and nothing else.
        #[test]
        fn it_is_a_bounded_map(
            entries in 0usize..32,
            acts in prop::collection::vec((0u32..16, 0u64..40, any::<bool>(), 0u64..3), 0..200),
        ) {
            let ledger = Ledger::open(Settings { entries, ..Settings::default() });
            let mut model = std::collections::HashMap::<u32, Standing>::new();
            let mut now = NOW;
            for (n, span, recall, pause) in acts {
                now = now.plus(Duration::from_secs(pause));
                if recall {
                    let seen = counting(&ledger.recall(client(n), now), now);
                    let known = counting(&model.get(&n).copied().unwrap_or_default(), now);
                    prop_assert!(seen.iter().zip(&known).all(|(seen, known)| seen <= known));
                    prop_assert!(entries < 16 || seen == known, "{:?} {:?}", seen, known);
                } else {
                    let test = Test::ALL[span as usize % Test::COUNT];
                    let until = now.plus(Duration::from_secs(span));
                    let mut standing = Standing::stranger();
                    standing.pass(test, until);
                    Ledger::remember(&ledger, client(n), standing, now);
                    model.entry(n).or_default().pass(test, until);
                }
                prop_assert!(ledger.len() <= entries);
                for shard in &ledger.standings.shards {
                    shard.lock().check(&ledger.standings.hasher);
                }
            }
        }
    }
}
