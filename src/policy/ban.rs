//! Bans and what else is decided at run time of a network: what, why, since when, until when, and who decided.
//!
//! # The ladder
//!
//! A ban lasts ten minutes the first time, and four times as long with each repetition, up to seven days: infections last
//! for days, and addresses change hands. Each [`Ladder::forget`] that goes by after a ban takes one step back. A little
//! chance is added, so that those who were banned together do not all come back at once.

use std::fmt;
use std::time::Duration;

use super::record::{Reader, Record, Writer};
use crate::time::Timestamp;

/// How much evidence is kept of a decision, in bytes.
pub const EVIDENCE_LIMIT: usize = 200;

/// How long a name of who decided can be, in bytes.
pub const WHO_LIMIT: usize = 64;

/// How far ahead another clock may be, or ours before it was set right, without anybody caring.
pub const AHEAD: Duration = Duration::from_secs(60 * 60);

/// The longest that anything is decided for automatically, whatever the ladder of a host is.
pub const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What is decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// It is not let in.
    Ban,
    /// It is let in, whatever else is known of it.
    Allow,
    /// What was decided before no longer holds. Kept for a while, so that other hosts hear of it.
    Lifted,
}

impl What {
    /// The word for it in the journal, the metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ban => "ban",
            Self::Allow => "allow",
            Self::Lifted => "lifted",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::Ban, Self::Allow, Self::Lifted].into_iter().find(|what| what.name() == name)
    }
}

/// Why.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// Too many failed AUTH exchanges in a short time.
    Failures,
    /// Too many failed AUTH exchanges over days.
    Slow,
    /// Failed AUTH exchanges for too many accounts.
    Accounts,
    /// A failed AUTH exchange for an account that many strangers are trying.
    Account,
    /// An AUTH exchange for a name that nobody has.
    Honeypot,
    /// AUTH where it is not offered, again and again.
    NotOffered,
    /// Several clients of the network were banned.
    Neighbours,
    /// An operator said so.
    Operator,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Failures,
        Self::Slow,
        Self::Accounts,
        Self::Account,
        Self::Honeypot,
        Self::NotOffered,
        Self::Neighbours,
        Self::Operator,
    ];

    /// The word for it in the journal, the metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failures => "auth-failures",
            Self::Slow => "auth-slow",
            Self::Accounts => "auth-accounts",
            Self::Account => "auth-account",
            Self::Honeypot => "auth-honeypot",
            Self::NotOffered => "auth-not-offered",
            Self::Neighbours => "neighbours",
            Self::Operator => "operator",
        }
    }

    /// What [`Self::name`] says.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was decided of a network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What.
    pub what: What,
    /// Why.
    pub reason: Reason,
    /// How many times it did what the reason says.
    pub count: u32,
    /// Which of its bans this is, from 1; 0 where that has no meaning.
    pub level: u8,
    /// Since when.
    pub begin: Timestamp,
    /// Until when; for ever if nothing.
    pub until: Option<Timestamp>,
    /// Who decided: the name of a host, or of an operator. Without blanks.
    pub who: Box<str>,
    /// What was seen, in words; printable, at most [`EVIDENCE_LIMIT`] bytes.
    pub evidence: Box<str>,
}

impl Decision {
    /// Whether it holds at `now`.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// The same, made now, if a clock was far ahead that has been set right since: what was decided automatically ends as
    /// long after `now` as it was to last, and not when that clock said. What people said until when holds.
    pub fn with_a_clock_set_right(self, now: Timestamp) -> Self {
        if self.reason == Reason::Operator || self.begin.since(now) <= AHEAD {
            return self;
        }
        let shifted = |until: Timestamp| if until < self.begin { until } else { now.plus(until.since(self.begin)) };
        let until = self.until.map(shifted);
        Self { begin: now, until, ..self }
    }

    /// Whether it takes the place of `other`: what was decided later does, and of what was decided at once, a word of
    /// an operator's, or else what holds longer. While a ban or an allowance of an operator's holds, nothing but another
    /// word of an operator's takes its place. Two hosts that hear of both agree, in whatever order they hear of them.
    pub fn outweighs(&self, other: &Self) -> bool {
        let stands_against = |one: &Self, other: &Self| {
            let was_said = one.reason == Reason::Operator && one.what != What::Lifted;
            was_said && other.reason != Reason::Operator && one.holds(other.begin)
        };
        if stands_against(self, other) != stands_against(other, self) {
            return stands_against(self, other);
        }
        let rank = |one: &Self| (one.begin, one.reason == Reason::Operator, one.until.is_none(), one.until);
        rank(self) > rank(other)
    }
}

/// The words of `text` on one line, without control characters, cut at `limit` bytes.
pub fn plain(text: &str, limit: usize) -> Box<str> {
    let mut plain = String::new();
    for letter in text.chars().map(|letter| if letter.is_control() { '?' } else { letter }) {
        if plain.len() + letter.len_utf8() > limit {
            break;
        }
        plain.push(letter);
    }
    plain.into()
}

/// The name of who decided, fit to be one word.
pub fn who(name: &str) -> Box<str> {
    let word: String = name.split_whitespace().collect::<Vec<_>>().join("_");
    if word.is_empty() { "-".into() } else { plain(&word, WHO_LIMIT) }
}

impl Record for Decision {
    fn line(&self) -> String {
        Writer::new()
            .word(self.what.name())
            .word(self.reason.name())
            .word(self.count)
            .word(self.level)
            .word(self.begin.millis())
            .word(self.until.map_or(0, |until| until.millis()))
            .word(&self.who)
            .word(&self.evidence)
            .end()
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = Reader::new(line)?;
        let what = What::of(words.word()?)?;
        let reason = Reason::of(words.word()?)?;
        let (count, level) = (words.next()?, words.next()?);
        let begin = Timestamp::from_millis(words.next()?);
        let until = Some(words.next()?).filter(|until| *until != 0).map(Timestamp::from_millis);
        let who = who(words.word()?);
        let evidence = plain(words.rest(), EVIDENCE_LIMIT);
        Some(Self { what, reason, count, level, begin, until, who, evidence })
    }
}

/// How long bans last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ladder {
    /// The first one.
    pub first: Duration,
    /// How many times as long each next one is.
    pub factor: u32,
    /// The longest.
    pub most: Duration,
    /// How much chance is in it, in hundredths, either way.
    pub jitter: u32,
    /// How long after a ban one step of the ladder is forgotten.
    pub forget: Duration,
}

impl Default for Ladder {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            first: Duration::from_secs(10 * 60),
            factor: 4,
            most: Duration::from_secs(7 * DAY),
            jitter: 10,
            forget: Duration::from_secs(14 * DAY),
        }
    }
}

/// Where a client stands on the ladder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Which ban its last one was, from 1; 0 if it had none.
    pub level: u8,
    /// When that one ended, or will: seconds since 1970.
    pub until: u32,
}

impl Ladder {
    /// How long, in seconds, the ban of `level` lasts; `dice` is any number.
    pub fn span(&self, level: u8, dice: u32) -> u32 {
        let most = seconds(self.most);
        let steps = u32::from(level.saturating_sub(1));
        let span = u64::from(self.factor).saturating_pow(steps).saturating_mul(u64::from(seconds(self.first)));
        let span = span.min(u64::from(most));
        let jitter = self.jitter.min(90);
        let hundredths = u64::from(100 - jitter + dice % (2 * jitter + 1));
        let span = (span * hundredths / 100).clamp(1, u64::from(most).max(1));
        u32::try_from(span).unwrap_or(u32::MAX)
    }

    /// The level that is left at `now`.
    pub fn level(&self, step: Step, now: u32) -> u8 {
        let gone = now.saturating_sub(step.until) / seconds(self.forget).max(1);
        step.level.saturating_sub(u8::try_from(gone).unwrap_or(u8::MAX))
    }

    /// The next ban.
    pub fn climb(&self, step: Step, now: u32, dice: u32) -> Step {
        let level = self.level(step, now).saturating_add(1);
        Step { level, until: now.saturating_add(self.span(level, dice)) }
    }

    /// When nothing of a step is left.
    pub fn forgotten(&self, step: Step) -> u32 {
        step.until.saturating_add(seconds(self.forget).saturating_mul(u32::from(step.level)))
    }
}

/// Whole seconds, as they are counted here.
pub(crate) fn seconds(span: Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u32 = 1_700_000_000;

    #[test]
    fn what_was_decided_by_a_clock_that_was_ahead_lasts_no_longer_for_it() {
        let at = |seconds: u64| Timestamp::from_seconds(u64::from(NOW) + seconds);
        let ban = |reason, begin, until| Decision {
            what: What::Ban,
            reason,
            count: 5,
            level: 1,
            begin: at(begin),
            until: Some(at(until)),
            who: "mx1".into(),
            evidence: "".into(),
        };
        const YEAR: u64 = 365 * 86_400;
        for (decided, begin, until) in [
            (ban(Reason::Failures, 0, 600), 0, 600),
            (ban(Reason::Failures, 3000, 3600), 3000, 3600),
            (ban(Reason::Failures, YEAR, YEAR + 600), 0, 600),
            (ban(Reason::Failures, YEAR, 600), 0, 600),
            (ban(Reason::Operator, YEAR, YEAR + 600), YEAR, YEAR + 600),
        ] {
            let right = decided.clone().with_a_clock_set_right(at(0));
            assert_eq!((right.begin, right.until), (at(begin), Some(at(until))), "{decided:?}");
        }
    }

    #[test]
    fn the_ladder_goes_up_fourfold_and_ends_at_a_week() {
        let ladder = Ladder { jitter: 0, ..Ladder::default() };
        let spans: Vec<u32> = (0..8).map(|level| ladder.span(level, 7)).collect();
        assert_eq!(spans, [600, 600, 2400, 9600, 38_400, 153_600, 604_800, 604_800]);
        assert_eq!(ladder.span(255, 0), 604_800);
    }

    #[test]
    fn chance_changes_a_ban_by_a_tenth_and_never_makes_it_longer_than_the_longest() {
        let ladder = Ladder::default();
        let (least, most) = (0..200)
            .map(|dice| ladder.span(1, dice))
            .fold((u32::MAX, 0), |(least, most), span| (least.min(span), most.max(span)));
        assert_eq!((least, most), (540, 660));
        assert!((0..200).all(|dice| ladder.span(9, dice) <= 604_800));
        assert!((0..200).all(|dice| ladder.span(2, dice) > ladder.span(1, 199 - dice)));
    }

    #[test]
    fn a_step_is_forgotten_with_each_fortnight() {
        let ladder = Ladder { jitter: 0, ..Ladder::default() };
        let fortnight = 14 * 86_400;
        let first = ladder.climb(Step::default(), NOW, 0);
        assert_eq!(first, Step { level: 1, until: NOW + 600 });
        let second = ladder.climb(first, first.until, 0);
        assert_eq!(second, Step { level: 2, until: first.until + 2400 });
        assert_eq!(ladder.level(second, second.until + fortnight - 1), 2);
        assert_eq!(ladder.level(second, second.until + fortnight), 1);
        assert_eq!(ladder.level(second, second.until + 2 * fortnight), 0);
        assert_eq!(ladder.forgotten(second), second.until + 2 * fortnight);
        assert_eq!(ladder.climb(second, second.until + 2 * fortnight, 0).level, 1);
    }

    #[test]
    fn a_later_word_outweighs_an_earlier_one_and_an_operators_one_of_the_same_moment() {
        let at = |millis, reason, until: Option<u64>| Decision {
            what: What::Ban,
            reason,
            count: 1,
            level: 1,
            begin: Timestamp::from_millis(millis),
            until: until.map(Timestamp::from_millis),
            who: "mx1".into(),
            evidence: "".into(),
        };
        let rows = [
            (at(2, Reason::Failures, Some(5)), at(1, Reason::Failures, Some(9))),
            (at(1, Reason::Operator, Some(5)), at(1, Reason::Failures, Some(9))),
            (at(1, Reason::Failures, Some(9)), at(1, Reason::Failures, Some(5))),
            (at(1, Reason::Failures, None), at(1, Reason::Failures, Some(5))),
            (at(1, Reason::Operator, None), at(2, Reason::Failures, Some(9))),
            (at(1, Reason::Operator, Some(3)), at(2, Reason::Failures, Some(9))),
            (at(2, Reason::Failures, Some(9)), at(1, Reason::Operator, Some(2))),
        ];
        for (heavier, lighter) in rows {
            assert!(heavier.outweighs(&lighter), "{heavier:?} {lighter:?}");
            assert!(!lighter.outweighs(&heavier), "{heavier:?} {lighter:?}");
            assert!(!heavier.outweighs(&heavier));
        }
    }

    #[test]
    fn what_is_kept_of_a_name_is_one_word_and_printable() {
        assert_eq!(&*who("  admin at\r\nhome "), "admin_at_home");
        assert_eq!(&*who(""), "-");
        assert_eq!(&*plain("a\nb\u{1b}[31m", 100), "a?b?[31m");
        assert_eq!(&*plain("äöü", 5), "äö");
    }

    proptest! {
        #[test]
        fn a_decision_is_read_as_it_was_written(
            what in prop_oneof![Just(What::Ban), Just(What::Allow), Just(What::Lifted)],
            reason in prop::sample::select(&Reason::ALL[..]),
            (count, level, begin) in any::<(u32, u8, u64)>(),
            until in prop::option::of(1u64..),
            (name, evidence) in any::<(String, String)>(),
        ) {
            let decision = Decision {
                what, reason, count, level,
                begin: Timestamp::from_millis(begin),
                until: until.map(Timestamp::from_millis),
                who: who(&name),
                evidence: plain(&evidence, EVIDENCE_LIMIT),
            };
            prop_assert_eq!(Decision::read(&decision.line()), Some(decision));
        }

        #[test]
        fn anything_else_is_no_decision(line: String) {
            let _ = Decision::read(&line);
        }

        #[test]
        fn no_ladder_panics(
            (first, most, forget) in any::<(u64, u64, u64)>(),
            (factor, jitter, level, until, now, dice) in any::<(u32, u32, u8, u32, u32, u32)>(),
        ) {
            let span = Duration::from_secs;
            let ladder = Ladder { first: span(first), factor, most: span(most), jitter, forget: span(forget) };
            let step = ladder.climb(Step { level, until }, now, dice);
            prop_assert!(step.level >= 1 && step.until >= now);
            ladder.forgotten(step);
        }
    }
}
