//! What is counted of an account: who fails for it, and who is at home there.

use super::Rules;
use super::window::Few;
use crate::addr::ClientKey;
use crate::policy::ban::seconds;
use crate::policy::record::{Reader, Record, Writer};

/// What a failure for an account means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failed {
    /// Nothing for the client: it is at home there, or the account is not under attack.
    Nothing,
    /// The account is under attack, and the client is a stranger there.
    Attack {
        /// How many strangers failed by now.
        count: u32,
        /// The strangers that failed before it, if it is by this failure that it is an attack: they are found out too.
        others: Vec<ClientKey>,
    },
}

/// What is counted of an account.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// The strangers that failed for it.
    pub strangers: Few<ClientKey>,
    /// Until when it is held to be under attack: seconds since 1970.
    pub attacked_until: u32,
    /// The clients that logged in to it, and when each last did; the longest ago first.
    pub homes: Vec<(ClientKey, u32)>,
    /// When nothing of this means anything any more.
    pub ends: u32,
}

impl Account {
    /// How many different strangers are told apart.
    pub const STRANGERS: usize = 16;

    /// From how many clients one can be at home.
    pub const HOMES: usize = 8;

    /// Whether somebody has logged in from `client` lately.
    pub fn is_home(&self, client: ClientKey, rules: &Rules, now: u32) -> bool {
        let lately = |last: u32| now.saturating_sub(last) < seconds(rules.known_for);
        self.homes.iter().any(|&(home, last)| home == client && lately(last))
    }

    /// A login from `client` failed.
    pub fn failed(&mut self, client: ClientKey, rules: &Rules, now: u32) -> Failed {
        if self.is_home(client, rules, now) {
            return Failed::Nothing;
        }
        let attacked = self.attacked_until > now;
        let count = self.strangers.add(client, Self::STRANGERS, rules.strangers.within, now);
        let found_out = rules.strangers.is_reached(count, 1);
        let failed = if attacked || found_out {
            self.attacked_until = self.attacked_until.max(now.saturating_add(seconds(rules.attack)));
            let others = self.strangers.ones.iter().copied().filter(|&other| !attacked && other != client);
            Failed::Attack { count, others: others.collect() }
        } else {
            Failed::Nothing
        };
        self.keep(rules);
        failed
    }

    /// Somebody has logged in from `client`.
    pub fn succeeded(&mut self, client: ClientKey, rules: &Rules, now: u32) {
        self.homes.retain(|&(home, _)| home != client);
        if self.homes.len() >= Self::HOMES {
            self.homes.remove(0);
        }
        self.homes.push((client, now));
        self.strangers.ones.retain(|&stranger| stranger != client);
        self.keep(rules);
    }

    fn keep(&mut self, rules: &Rules) {
        let last = self.homes.iter().map(|&(_, last)| last.saturating_add(seconds(rules.known_for))).max();
        let ends = [self.strangers.ends(rules.strangers.within), self.attacked_until, last.unwrap_or(0)];
        self.ends = ends.into_iter().max().unwrap_or(0);
    }
}

impl Record for Account {
    fn line(&self) -> String {
        let line = Writer::new().word(self.attacked_until).word(self.ends);
        let line = line.list(self.homes.iter().map(|(client, last)| format!("{}={last}", client.word())));
        line.word(self.strangers.since).list(self.strangers.ones.iter().map(|client| client.word())).end()
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = Reader::new(line)?;
        let (attacked_until, ends) = (words.next()?, words.next()?);
        let homes = words.list(|word| {
            let (client, last) = word.split_once('=')?;
            Some((ClientKey::of_word(client)?, last.parse().ok()?))
        })?;
        let strangers = Few { since: words.next()?, ones: words.list(ClientKey::of_word)? };
        let fits = homes.len() <= Self::HOMES && strangers.ones.len() <= Self::STRANGERS;
        fits.then_some(Self { strangers, attacked_until, homes, ends })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u32 = 1_700_000_000;

    fn client(n: u32) -> ClientKey {
        ClientKey::V4(n)
    }

    #[test]
    fn the_tenth_stranger_finds_all_of_them_out_and_each_further_one_is_at_once() {
        let (rules, mut account) = (Rules::default(), Account::default());
        for n in 1..10 {
            assert_eq!(account.failed(client(n), &rules, NOW + n), Failed::Nothing);
            assert_eq!(account.failed(client(n), &rules, NOW + n), Failed::Nothing, "the same one");
        }
        let others = (1..10).map(client).collect();
        assert_eq!(account.failed(client(10), &rules, NOW + 10), Failed::Attack { count: 10, others });
        let next = account.failed(client(11), &rules, NOW + 11);
        assert_eq!(next, Failed::Attack { count: 11, others: Vec::new() });
        // An attack that goes on keeps itself going; one that is over is over.
        assert!(matches!(account.failed(client(12), &rules, NOW + 3600), Failed::Attack { .. }));
        assert!(matches!(account.failed(client(13), &rules, NOW + 7190), Failed::Attack { .. }));
        assert_eq!(account.failed(client(14), &rules, NOW + 7190 + 3600), Failed::Nothing);
    }

    #[test]
    fn whoever_is_at_home_is_no_stranger_for_a_month() {
        let (rules, mut account) = (Rules::default(), Account::default());
        account.succeeded(client(99), &rules, NOW);
        for n in 1..=10 {
            account.failed(client(n), &rules, NOW);
        }
        assert_eq!(account.failed(client(99), &rules, NOW + 1), Failed::Nothing);
        assert!(account.is_home(client(99), &rules, NOW + 30 * 86_400 - 1));
        assert!(!account.is_home(client(99), &rules, NOW + 30 * 86_400));
        assert!(!account.is_home(client(98), &rules, NOW));
        assert_eq!(account.ends, NOW + 30 * 86_400);
    }

    #[test]
    fn a_stranger_that_logs_in_is_a_stranger_no_more() {
        let (rules, mut account) = (Rules::default(), Account::default());
        (1..10).for_each(|n| drop(account.failed(client(n), &rules, NOW)));
        account.succeeded(client(1), &rules, NOW);
        assert_eq!(account.failed(client(10), &rules, NOW), Failed::Nothing, "nine are left");
        (20..40).for_each(|n| account.succeeded(client(n), &rules, NOW));
        assert_eq!(account.homes.len(), Account::HOMES);
    }

    proptest! {
        #[test]
        fn an_account_is_read_as_it_was_written(acts in prop::collection::vec((any::<bool>(), 0u32..40, 0u32..900), 0..60)) {
            let (rules, mut account, mut now) = (Rules::default(), Account::default(), NOW);
            for (succeeds, n, step) in acts {
                now += step;
                if succeeds {
                    account.succeeded(client(n), &rules, now);
                } else {
                    account.failed(client(n), &rules, now);
                }
                prop_assert_eq!(Account::read(&account.line()), Some(account.clone()));
            }
        }

        #[test]
        fn anything_else_is_none(line in "[0-9a-f =,-]{0,80}") {
            let _ = Account::read(&line);
        }
    }
}
