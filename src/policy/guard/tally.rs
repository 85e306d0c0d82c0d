//! What is counted of a client.

use super::window::{Few, Leak, Window};
use super::{Limit, Rules, Sentence};
use crate::policy::ban::{Reason, Step, seconds};
use crate::policy::record::{Reader, Record, Writer};

/// What a client did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strike {
    /// An AUTH exchange of its failed: for which account (the first four bytes of its digest), if that could be seen.
    Failed(Option<u32>),
    /// The same, for a name that nobody has.
    Honeypot,
    /// The same, for an account that is under attack by strangers, of whom it is one.
    Attack,
    /// It tried AUTH where it is not offered.
    NotOffered,
}

/// What is counted of a client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Its failed exchanges.
    pub failed: Window,
    /// Those over days.
    pub slow: Leak,
    /// The accounts that it failed for.
    pub accounts: Few<u32>,
    /// AUTH where it is not offered.
    pub not_offered: Window,
    /// Where it stands on the ladder of bans.
    pub step: Step,
    /// Until when it is known, for somebody has logged in from it: seconds since 1970.
    pub known_until: u32,
    /// When nothing of this means anything any more.
    pub ends: u32,
}

impl Tally {
    /// How many different accounts are told apart.
    pub const ACCOUNTS: usize = 16;

    /// Counts `strike`; `dice` is any number. What a client that is banned already was still about is
    /// not counted.
    pub fn strike(&mut self, strike: Strike, rules: &Rules, now: u32, dice: u32) -> Option<Sentence> {
        if self.step.until > now {
            return None;
        }
        let patience = if self.known_until > now { rules.patience.max(1) } else { 1 };
        let due = match strike {
            Strike::NotOffered => {
                let count = self.not_offered.count(rules.not_offered.within, now);
                rules.not_offered.is_reached(count, patience).then_some((Reason::NotOffered, count))
            }
            Strike::Failed(account) => self.failed(account, rules, now, patience),
            Strike::Honeypot | Strike::Attack => {
                let counted = self.failed(None, rules, now, patience);
                let reason = if strike == Strike::Honeypot { Reason::Honeypot } else { Reason::Account };
                // Behind the address of a known client there may be many, and most of them honest.
                if patience > 1 { counted } else { Some((reason, 1)) }
            }
        };
        let sentence = due.map(|(reason, count)| {
            self.step = rules.ladder.climb(self.step, now, dice);
            // What led here is paid for: the next ban takes as much again.
            (self.failed, self.not_offered) = (Window::default(), Window::default());
            (self.slow, self.accounts) = (Leak::default(), Few::default());
            Sentence { reason, count, level: self.step.level, until: self.step.until }
        });
        self.keep(rules);
        sentence
    }

    fn failed(&mut self, account: Option<u32>, rules: &Rules, now: u32, patience: u32) -> Option<(Reason, u32)> {
        let failures = self.failed.count(rules.failures.within, now);
        let slow = self.slow.count(rules.slow.within, now);
        let accounts = match account {
            Some(account) => self.accounts.add(account, Self::ACCOUNTS, rules.accounts.within, now),
            None => 0,
        };
        if rules.accounts.is_reached_of(accounts, patience, Self::ACCOUNTS) {
            Some((Reason::Accounts, accounts))
        } else if rules.failures.is_reached(failures, patience) {
            Some((Reason::Failures, failures))
        } else if rules.slow.is_reached(slow, patience) {
            Some((Reason::Slow, slow))
        } else {
            None
        }
    }

    /// Somebody has logged in from it.
    pub fn succeeded(&mut self, rules: &Rules, now: u32) {
        self.known_until = self.known_until.max(now.saturating_add(seconds(rules.known_for)));
        self.keep(rules);
    }

    /// Whether something speaks against it: it is half way to a ban, or was banned and that is not forgotten yet. Nothing
    /// does that a person may do who has a new password.
    pub fn is_bad(&self, rules: &Rules, now: u32) -> bool {
        let half_way = |window: &Window, limit: Limit| {
            let recent = window.recent(limit.within, now);
            limit.count > 0 && recent.saturating_mul(2) >= limit.count.max(3)
        };
        rules.ladder.level(self.step, now) > 0
            || self.known_until <= now
                && (half_way(&self.failed, rules.failures) || half_way(&self.not_offered, rules.not_offered))
    }

    fn keep(&mut self, rules: &Rules) {
        let ends = [
            self.failed.ends(rules.failures.within),
            self.slow.ends(rules.slow.within),
            self.accounts.ends(rules.accounts.within),
            self.not_offered.ends(rules.not_offered.within),
            rules.ladder.forgotten(self.step),
            self.known_until,
        ];
        self.ends = ends.into_iter().max().unwrap_or(0);
    }
}

impl Record for Tally {
    fn line(&self) -> String {
        let Self { failed, slow, accounts, not_offered, step, known_until, ends } = self;
        let line = Writer::new().list(&failed.times).list(&not_offered.times);
        let line = line.word(slow.level).word(slow.at).word(step.level).word(step.until).word(known_until).word(ends);
        line.word(accounts.since).list(&accounts.ones).end()
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = Reader::new(line)?;
        let mut window = || Some(Window { times: words.list(|word| word.parse().ok())? });
        let (failed, not_offered) = (window()?, window()?);
        let slow = Leak { level: words.next()?, at: words.next()? };
        let step = Step { level: words.next()?, until: words.next()? };
        let (known_until, ends) = (words.next()?, words.next()?);
        let accounts = Few { since: words.next()?, ones: words.list(|word| word.parse().ok())? };
        let fits = failed.times.len().max(not_offered.times.len()) <= Window::MOST;
        (fits && accounts.ones.len() <= Self::ACCOUNTS).then_some(Self {
            failed,
            slow,
            accounts,
            not_offered,
            step,
            known_until,
            ends,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::ban::Ladder;

    const NOW: u32 = 1_700_000_000;

    fn rules() -> Rules {
        Rules { ladder: Ladder { jitter: 0, ..Ladder::default() }, ..Rules::default() }
    }

    /// Strikes at the times given, until a sentence.
    fn sentence(
        tally: &mut Tally,
        strike: impl Fn(u32) -> Strike,
        times: impl Iterator<Item = u32>,
    ) -> Option<Sentence> {
        times.enumerate().find_map(|(n, at)| tally.strike(strike(n as u32), &rules(), at, 0))
    }

    #[test]
    fn the_fifth_failure_within_ten_minutes_is_one_too_many_and_the_second_ban_is_longer() {
        let mut tally = Tally::default();
        let failed = |_| Strike::Failed(None);
        assert_eq!(sentence(&mut tally, failed, (0..4).map(|n| NOW + n * 20)), None);
        let first = sentence(&mut tally, failed, [NOW + 80].into_iter());
        assert_eq!(first, Some(Sentence { reason: Reason::Failures, count: 5, level: 1, until: NOW + 680 }));
        assert_eq!(sentence(&mut tally, failed, (0..50).map(|n| NOW + 81 + n)), None, "banned already");
        let second = sentence(&mut tally, failed, (0..5).map(|n| NOW + 700 + n));
        assert_eq!(second, Some(Sentence { reason: Reason::Failures, count: 5, level: 2, until: NOW + 704 + 2400 }));
    }

    #[test]
    fn what_led_to_a_ban_does_not_lead_to_the_next() {
        let mut tally = Tally::default();
        let failed = |_| Strike::Failed(None);
        let first = sentence(&mut tally, failed, (0..5).map(|n| NOW + n)).unwrap();
        assert_eq!(sentence(&mut tally, failed, (0..4).map(|n| first.until + n)), None);
        assert!(sentence(&mut tally, failed, [first.until + 4].into_iter()).is_some());
    }

    #[test]
    fn slow_guessing_adds_up_over_days() {
        let mut tally = Tally::default();
        // One in half an hour: never five in ten minutes, but three more in two hours than leak away.
        let slow = sentence(&mut tally, |_| Strike::Failed(None), (0..100).map(|n| NOW + n * 1800)).unwrap();
        assert_eq!((slow.reason, slow.count), (Reason::Slow, 20));
        let mut tally = Tally::default();
        assert_eq!(sentence(&mut tally, |_| Strike::Failed(None), (0..1000).map(|n| NOW + n * 7200)), None);
    }

    #[test]
    fn many_accounts_are_found_out_however_slowly() {
        let mut tally = Tally::default();
        let spray = sentence(&mut tally, |n| Strike::Failed(Some(n)), (0..6).map(|n| NOW + n * 500)).unwrap();
        assert_eq!((spray.reason, spray.count), (Reason::Accounts, 6));
        let mut tally = Tally::default();
        assert_eq!(
            sentence(&mut tally, |_| Strike::Failed(Some(1)), (0..6).map(|n| NOW + n * 500)),
            None,
            "one account"
        );
    }

    #[test]
    fn traps_and_accounts_under_attack_are_sentenced_at_once_and_auth_that_is_not_offered_with_the_tenth() {
        for (strike, reason, times) in [
            (Strike::Honeypot, Reason::Honeypot, 1),
            (Strike::Attack, Reason::Account, 1),
            (Strike::NotOffered, Reason::NotOffered, 10),
        ] {
            let mut tally = Tally::default();
            assert_eq!(sentence(&mut tally, |_| strike, (1..times).map(|n| NOW + n)), None);
            let sentence = sentence(&mut tally, |_| strike, [NOW + 30].into_iter()).unwrap();
            assert_eq!((sentence.reason, sentence.count), (reason, times));
        }
    }

    #[test]
    fn a_client_that_somebody_logged_in_from_has_four_times_the_patience() {
        let mut tally = Tally::default();
        tally.succeeded(&rules(), NOW);
        assert_eq!(sentence(&mut tally, |_| Strike::Failed(Some(1)), (0..19).map(|_| NOW + 1)), None);
        let found = sentence(&mut tally, |_| Strike::Failed(Some(1)), [NOW + 1].into_iter()).unwrap();
        assert_eq!((found.reason, found.count), (Reason::Failures, 20));
        for strike in [Strike::Honeypot, Strike::Attack] {
            let mut tally = Tally::default();
            tally.succeeded(&rules(), NOW);
            assert_eq!(sentence(&mut tally, |_| strike, (0..19).map(|_| NOW + 1)), None, "{strike:?}");
            assert!(sentence(&mut tally, |_| strike, [NOW + 1].into_iter()).is_some());
        }
        let mut tally = Tally::default();
        tally.succeeded(&rules(), NOW);
        let later = NOW + 31 * 86_400;
        assert!(sentence(&mut tally, |_| Strike::Failed(Some(1)), (0..5).map(|n| later + n)).is_some());
    }

    #[test]
    fn it_is_kept_as_long_as_it_means_something() {
        let mut tally = Tally::default();
        tally.strike(Strike::Failed(None), &rules(), NOW, 0);
        assert_eq!(tally.ends, NOW + 2 * 3600, "the slow count holds longest");
        assert!(!tally.is_bad(&rules(), NOW), "who may mistype");
        (0..2).for_each(|_| drop(tally.strike(Strike::Failed(None), &rules(), NOW, 0)));
        assert!(tally.is_bad(&rules(), NOW + 599) && !tally.is_bad(&rules(), NOW + 600));
        let mut known = tally.clone();
        known.succeeded(&rules(), NOW);
        assert!(!known.is_bad(&rules(), NOW), "somebody has logged in from it");
        let until = sentence(&mut tally, |_| Strike::Failed(None), (0..5).map(|_| NOW)).unwrap().until;
        assert_eq!(tally.ends, until + 14 * 86_400);
        assert!(tally.is_bad(&rules(), until + 86_400));
    }

    #[test]
    fn a_limit_of_nothing_bans_nobody() {
        let never = super::super::Limit { count: 0, within: Duration::from_secs(60) };
        let rules = Rules { failures: never, slow: never, accounts: never, not_offered: never, ..rules() };
        let mut tally = Tally::default();
        for n in 0..1000 {
            assert_eq!(tally.strike(Strike::Failed(Some(n)), &rules, NOW, 0), None);
            assert_eq!(tally.strike(Strike::NotOffered, &rules, NOW, 0), None);
        }
    }

    proptest! {
        #[test]
        fn a_tally_is_read_as_it_was_written(acts in prop::collection::vec((0u8..5, 0u32..20, 0u32..4000), 0..60)) {
            let (mut tally, mut now) = (Tally::default(), NOW);
            for (act, account, step) in acts {
                now += step;
                match act {
                    0 => tally.succeeded(&rules(), now),
                    1 => drop(tally.strike(Strike::NotOffered, &rules(), now, account)),
                    2 => drop(tally.strike(Strike::Failed(None), &rules(), now, account)),
                    _ => drop(tally.strike(Strike::Failed(Some(account)), &rules(), now, account)),
                }
                prop_assert_eq!(Tally::read(&tally.line()), Some(tally.clone()));
            }
        }

        #[test]
        fn anything_else_is_none(line in "[0-9 ,-]{0,80}") {
            if let Some(mut tally) = Tally::read(&line) {
                let _ = tally.strike(Strike::Failed(Some(1)), &rules(), NOW, 1);
            }
        }
    }
}
