//! Whether a list is asked, and believed: a breaker against lists that do not answer, the self-test's verdict, and the
//! alarm against lists that list everybody. Pure: `now` is an argument, and a state change is seen by comparing
//! [`Health::state`] before and after.
//!
//! ```text
//!  the breaker                                            what is believed
//!
//!            n failures in a row                                      a test that failed
//!   closed ──────────────────────▶ open until t              in ──────────────────────────▶ out, not asked
//!     ▲                             │    ▲                   ▲ │                               │
//!     │ any answer                  │ t  │ it fails          │ │ a test that passed ◀──────────┘
//!     └──────────── one question is let through              │ │
//!                                                            │ │ lists too many             asked, but not
//!                                                            │ └──────────────────────────▶ counted or awaited
//!                                                            └─────────────────────────────────┘
//!                                        a test that passed since, and of a whole new sample fewer are listed
//! ```
//!
//! - *Breaker.* Failures are time-outs, SERVFAIL, REFUSED, error answers: of clients' questions and of self-tests. While
//!   it is open nobody waits for the list. When the pause is over, one question is let through and the next pause begins
//!   at once, so that a probe whose answer never comes holds nothing up.
//! - *Self-test.* Only an answer can fail it; silence is the breaker's business. A list that failed it is not asked
//!   again, except by the self-test, until it passes.
//! - *Alarm.* Counted over the last `alarm_sample` distinct clients ([`ClientKey`]: an IPv6 /64 is one). A list that is
//!   out because of it is asked on, without being counted or waited for, because only its answers can show that it has
//!   come to its senses. The sample begins anew when the alarm sounds: the answers from before must not decide the way
//!   back, and a list at the limit does not flicker. Without self-tests the share alone decides. Lists of allowed hosts
//!   are exempt: listing many is what they are for.
//! - *Trust.* An answer counts only if the list was in when it was given ([`Health::trusted_since`]): answers that were
//!   remembered from before a list was taken out do not come back with it.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use tokio::time::Instant;

use super::state::{Failure, Reason, State};
use crate::addr::ClientKey;

/// The most clients that an alarm looks at, whatever the settings say.
const MAX_SAMPLE: usize = 65_536;

/// What an operator says of all lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How many failures in a row open the breaker; 0 counts as 1.
    pub(super) failures: u32,
    /// For how long.
    pub(super) pause: Duration,
    /// From which share on the alarm sounds, in percent; never if 0 or more than 100.
    pub(super) alarm_percent: u8,
    /// How many clients it looks at.
    pub(super) alarm_sample: u32,
    /// Whether there are self-tests.
    pub(super) tested: bool,
}

/// What to do with a client's question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Ask, and wait for the answer.
    Ask {
        /// Whether this is the one question that an open breaker lets through.
        probe: bool,
    },
    /// Ask, but neither wait for the answer nor count it.
    Watch {
        /// As in `Ask`.
        probe: bool,
    },
    /// Do not ask.
    Skip,
}

/// What a self-test found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tested {
    /// All as it should be.
    Passed,
    /// The list answered, and cannot be believed.
    Failed(Reason),
    /// No answer.
    Unanswered(Failure),
}

/// The health of one list.
#[derive(Debug)]
pub(super) struct Health {
    rules: Rules,
    /// Failures in a row.
    failures: u32,
    /// Set while the breaker is open: when the next question is let through, and the last failure.
    open: Option<(Instant, Failure)>,
    /// What the last self-test that had an answer found.
    flaw: Option<Reason>,
    alarm: Option<Alarm>,
    sample: Sample,
    trusted_since: Option<Instant>,
}

/// An alarm that sounds.
#[derive(Clone, Copy, Debug)]
struct Alarm {
    share: u8,
    /// Whether a self-test has passed since.
    tested: bool,
}

impl Health {
    /// Of a list that nothing is known of; `blocks` unless all its weights are negative.
    pub(super) fn new(rules: Rules, blocks: bool, now: Instant) -> Self {
        let exempt = !blocks || rules.alarm_percent == 0 || rules.alarm_percent > 100;
        let size = usize::try_from(rules.alarm_sample).unwrap_or(MAX_SAMPLE).clamp(1, MAX_SAMPLE);
        Self {
            rules,
            failures: 0,
            open: None,
            flaw: None,
            alarm: None,
            sample: Sample::new(if exempt { 0 } else { size }),
            trusted_since: Some(now),
        }
    }

    /// How the list does.
    pub(super) fn state(&self) -> State {
        match (self.flaw, self.alarm, self.open) {
            (Some(reason), _, _) => State::Failed { reason },
            (None, Some(alarm), _) => State::Failed { reason: Reason::Alarm(alarm.share) },
            (None, None, Some((until, last))) => State::Paused { until, last },
            (None, None, None) => State::Working,
        }
    }

    /// Since when the list's answers have counted; none if they do not.
    pub(super) fn trusted_since(&self) -> Option<Instant> {
        self.trusted_since
    }

    /// What to do with a client's question. The one that an open breaker lets through has to be asked.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        if self.flaw.is_some() {
            return Admission::Skip;
        }
        let probe = match &mut self.open {
            Some((until, _)) if now < *until => return Admission::Skip,
            Some((until, _)) => {
                *until = now + self.rules.pause;
                true
            }
            None => false,
        };
        if self.alarm.is_some() { Admission::Watch { probe } } else { Admission::Ask { probe } }
    }

    /// Whether a question that was admitted, and has waited since, is still worth asking.
    pub(super) fn still(&self, admission: Admission) -> bool {
        self.flaw.is_none()
            && match admission {
                Admission::Ask { probe } | Admission::Watch { probe } => probe || self.open.is_none(),
                Admission::Skip => false,
            }
    }

    /// The list answered a client's question. Returns whether the alarm has begun to sound.
    pub(super) fn answered(&mut self, client: ClientKey, listed: bool, now: Instant) -> bool {
        self.close();
        self.sample.note(client, listed);
        let Some(share) = self.sample.share() else { return false };
        let over = share >= self.rules.alarm_percent;
        match &mut self.alarm {
            None if over => {
                self.alarm = Some(Alarm { share, tested: !self.rules.tested });
                self.sample.clear();
            }
            Some(alarm) if over => alarm.share = share,
            Some(alarm) if alarm.tested => self.alarm = None,
            None | Some(_) => return false,
        }
        let sounds = self.alarm.is_some() && self.trusted_since.is_some();
        self.weigh_trust(now);
        sounds
    }

    /// A question had no answer that counts.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        // A question from before the breaker opened does not prolong the pause.
        match &mut self.open {
            Some((_, last)) => *last = failure,
            None if self.failures >= self.rules.failures => self.open = Some((now + self.rules.pause, failure)),
            None => {}
        }
    }

    /// A self-test is through.
    pub(super) fn tested(&mut self, found: Tested, now: Instant) {
        match found {
            Tested::Unanswered(failure) => return self.failed(failure, now),
            Tested::Failed(reason) => self.flaw = Some(reason),
            Tested::Passed => {
                self.flaw = None;
                if let Some(alarm) = &mut self.alarm {
                    alarm.tested = true;
                }
            }
        }
        self.close();
        self.weigh_trust(now);
    }

    fn close(&mut self) {
        self.failures = 0;
        self.open = None;
    }

    fn weigh_trust(&mut self, now: Instant) {
        if self.flaw.is_some() || self.alarm.is_some() {
            self.trusted_since = None;
        } else if self.trusted_since.is_none() {
            self.trusted_since = Some(now);
        }
    }
}

/// The last so many distinct clients, and which of them are listed.
#[derive(Debug)]
struct Sample {
    size: usize,
    order: VecDeque<ClientKey>,
    listed: HashMap<ClientKey, bool, ahash::RandomState>,
    hits: usize,
}

impl Sample {
    fn new(size: usize) -> Self {
        Self { size, order: VecDeque::new(), listed: HashMap::default(), hits: 0 }
    }

    fn note(&mut self, client: ClientKey, listed: bool) {
        if self.size == 0 {
            return;
        }
        match self.listed.insert(client, listed) {
            Some(before) => self.hits -= usize::from(before),
            None => self.order.push_back(client),
        }
        self.hits += usize::from(listed);
        if self.order.len() > self.size
            && let Some(oldest) = self.order.pop_front()
        {
            self.hits -= usize::from(self.listed.remove(&oldest).unwrap_or(false));
        }
    }

    /// The share of those listed, in percent, rounded down; none before there are enough clients.
    fn share(&self) -> Option<u8> {
        let full = self.size > 0 && self.order.len() >= self.size;
        full.then(|| u8::try_from(self.hits * 100 / self.size).unwrap_or(100))
    }

    fn clear(&mut self) {
        *self = Self::new(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    const PAUSE: Duration = Duration::from_secs(30);
    const RULES: Rules = Rules { failures: 3, pause: PAUSE, alarm_percent: 80, alarm_sample: 10, tested: true };
    const ASK: Admission = Admission::Ask { probe: false };

    fn client(number: u32) -> ClientKey {
        ClientKey::of(Ipv4Addr::from(0xC000_0200 + number).into())
    }

    fn health(rules: Rules) -> (Health, Instant) {
        let now = Instant::now();
        (Health::new(rules, true, now), now)
    }

    #[test]
    fn the_breaker_opens_half_opens_and_closes() {
        let (mut list, now) = health(RULES);
        list.failed(Failure::Timeout, now);
        list.failed(Failure::ServFail, now);
        assert_eq!((list.state(), list.admit(now)), (State::Working, ASK));
        list.failed(Failure::Timeout, now);
        assert_eq!(list.state(), State::Paused { until: now + PAUSE, last: Failure::Timeout });
        assert_eq!(list.admit(now + PAUSE / 2), Admission::Skip);

        let over = now + PAUSE;
        assert_eq!(list.admit(over), Admission::Ask { probe: true });
        assert_eq!(list.admit(over), Admission::Skip, "one probe, not one for each client");
        assert!(list.still(Admission::Ask { probe: true }) && !list.still(ASK));
        list.failed(Failure::Refused, over);
        assert_eq!(list.state(), State::Paused { until: over + PAUSE, last: Failure::Refused });

        let again = over + PAUSE;
        assert_eq!(list.admit(again), Admission::Ask { probe: true });
        list.answered(client(1), false, again);
        assert_eq!((list.state(), list.admit(again)), (State::Working, ASK));
    }

    #[test]
    fn an_answer_between_failures_starts_the_count_anew() {
        let (mut list, now) = health(RULES);
        for _ in 0..5 {
            list.failed(Failure::Timeout, now);
            list.failed(Failure::Timeout, now);
            list.answered(client(1), true, now);
        }
        assert_eq!(list.state(), State::Working);
    }

    #[test]
    fn a_probe_that_is_lost_holds_nothing_up() {
        let (mut list, now) = health(Rules { failures: 0, ..RULES });
        list.failed(Failure::Timeout, now);
        assert_eq!(list.admit(now + PAUSE), Admission::Ask { probe: true });
        assert_eq!(list.admit(now + 2 * PAUSE), Admission::Ask { probe: true });
    }

    #[test]
    fn a_failed_test_takes_the_list_out_until_one_passes() {
        let (mut list, now) = health(RULES);
        list.tested(Tested::Failed(Reason::LoopbackListed), now);
        assert_eq!(list.state(), State::Failed { reason: Reason::LoopbackListed });
        assert_eq!((list.admit(now), list.trusted_since()), (Admission::Skip, None));
        assert!(!list.still(ASK), "questions that were queued are dropped");

        list.tested(Tested::Unanswered(Failure::Timeout), now);
        assert_eq!(list.state(), State::Failed { reason: Reason::LoopbackListed }, "silence proves nothing");

        let later = now + PAUSE;
        list.tested(Tested::Passed, later);
        assert_eq!((list.state(), list.admit(later)), (State::Working, ASK));
        assert_eq!(list.trusted_since(), Some(later), "what it said before does not count again");
    }

    #[test]
    fn a_test_without_an_answer_is_a_failure_like_any_other() {
        let (mut list, now) = health(RULES);
        list.tested(Tested::Unanswered(Failure::Timeout), now);
        assert_eq!(list.state(), State::Working);
        list.failed(Failure::Timeout, now);
        list.tested(Tested::Unanswered(Failure::Timeout), now);
        assert!(matches!(list.state(), State::Paused { .. }));
        list.tested(Tested::Passed, now);
        assert_eq!(list.state(), State::Working, "a test that passes closes the breaker");
    }

    #[test]
    fn the_alarm_sounds_and_falls_silent() {
        let (mut list, now) = health(RULES);
        let mut numbers = 0..;
        let mut ask = |list: &mut Health, listed| list.answered(client(numbers.next().unwrap()), listed, now);

        assert!(!(0..9).any(|_| ask(&mut list, true)), "nine clients are no sample");
        assert!(ask(&mut list, true));
        assert_eq!(list.state(), State::Failed { reason: Reason::Alarm(100) });
        assert_eq!((list.admit(now), list.trusted_since()), (Admission::Watch { probe: false }, None));
        assert!(list.still(Admission::Watch { probe: false }));

        // The share falls, but no test has passed.
        assert!(!(0..10).any(|_| ask(&mut list, false)));
        assert_eq!(list.state().name(), "failed");
        list.tested(Tested::Passed, now);
        assert_eq!(list.state().name(), "failed", "the next answer decides");
        assert!(!ask(&mut list, false));
        assert_eq!((list.state(), list.trusted_since()), (State::Working, Some(now)));
    }

    #[test]
    fn the_way_back_needs_a_whole_new_sample() {
        let (mut list, now) = health(RULES);
        for number in 0..10 {
            list.answered(client(number), true, now);
        }
        list.tested(Tested::Passed, now);
        for number in 10..19 {
            list.answered(client(number), false, now);
            assert_eq!(list.state().name(), "failed");
        }
        list.answered(client(19), true, now);
        assert_eq!(list.state(), State::Working);
    }

    #[test]
    fn a_client_counts_once_in_the_sample() {
        let (mut list, now) = health(RULES);
        for _ in 0..100 {
            list.answered(client(1), true, now);
        }
        assert_eq!(list.state(), State::Working);
        for number in 2..10 {
            list.answered(client(number), number < 8, now);
        }
        list.answered(client(10), false, now);
        assert_eq!(list.state(), State::Working, "7 of 10");
        list.answered(client(9), true, now);
        assert_eq!(
            list.state(),
            State::Failed { reason: Reason::Alarm(80) },
            "a client's newer answer replaces its older"
        );
    }

    #[test]
    fn some_lists_are_exempt_from_the_alarm() {
        let now = Instant::now();
        let never = Rules { alarm_percent: 0, ..RULES };
        let beyond = Rules { alarm_percent: 101, ..RULES };
        for (rules, blocks) in [(RULES, false), (never, true), (beyond, true)] {
            let mut list = Health::new(rules, blocks, now);
            assert!(!(0..50).any(|number| list.answered(client(number), true, now)));
            assert_eq!(list.sample.order.len(), 0, "and take no memory for it");
        }
    }

    #[test]
    fn without_self_tests_the_share_alone_decides() {
        let (mut list, now) = health(Rules { tested: false, ..RULES });
        for number in 0..10 {
            list.answered(client(number), true, now);
        }
        for number in 10..20 {
            list.answered(client(number), false, now);
        }
        assert_eq!(list.state(), State::Working);
    }

    #[test]
    fn the_sample_has_a_cap() {
        let (mut list, now) = health(Rules { alarm_sample: u32::MAX, ..RULES });
        assert_eq!(list.sample.size, MAX_SAMPLE);
        list.sample.size = 100;
        for number in 0..1000 {
            list.answered(client(number), false, now);
        }
        assert_eq!((list.sample.order.len(), list.sample.listed.len()), (100, 100));
    }
}
