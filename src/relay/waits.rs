//! Deadlines: who is being waited for, since when, and until when.
//!
//! - A command, a reply: the wait covers the whole act; the bytes of half a command do not prolong it. It begins when the
//!   act before it is complete, and anew when nobody had to be waited for in between.
//! - Mail data, and what a side has to take: there is no telling how long the whole act may last, so it has a *budget*.
//!   Waiting uses it up, bytes earn some of it back (see [`Limits::min_rate`]), and it is never more than at first. Who
//!   says nothing runs out of it, and so does who says a byte now and then.
//! - The client's commands from one message to the next share a budget that nothing is earned back of.
//!
//! A message that the backend takes fills all budgets. While a side's bytes cannot be passed on, that side is not waited
//! for: the one that does not take them is.
//!
//! [`Limits::min_rate`]: super::Limits::min_rate

use std::time::Duration;

use tokio::time::Instant;

use super::ending::Wait;
use super::{Settings, Timeouts};

/// Who is waited for, for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Now {
    /// What the client is waited for as a whole act, and which of its acts that is.
    pub(super) client: Option<(Wait, u64)>,
    /// What the backend is waited for, and which of its acts that is.
    pub(super) backend: Option<(Wait, u64)>,
    /// The client, to bring mail data.
    pub(super) data: Pace,
    /// The client, to take what is there for it.
    pub(super) client_write: Pace,
    /// The backend, likewise.
    pub(super) backend_write: Pace,
    /// How many messages the backend has taken.
    pub(super) messages: u64,
}

/// Somebody who has to bring or to take bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pace {
    /// Whether that is what is waited for.
    pub(super) waiting: bool,
    /// How many bytes it has brought, or taken, by now.
    pub(super) moved: u64,
}

/// Since when each is waited for, and what is left of the budgets.
#[derive(Debug, Default)]
pub(super) struct Waits {
    acts: [Option<(Wait, u64, Instant)>; 2],
    budgets: [Budget; BUDGETS.len()],
    /// How many messages had been taken when the budgets were filled.
    messages: Option<u64>,
}

/// What has a budget, in the order of [`Waits::budgets`].
const BUDGETS: [Wait; 4] = [Wait::Data, Wait::ClientWrite, Wait::BackendWrite, Wait::Envelope];

#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    left: Duration,
    /// Since when it is being used up, if it is.
    since: Option<Instant>,
    /// The bytes that have earned already.
    moved: u64,
    /// Whether there have been bytes, too few to fill it.
    lags: bool,
}

impl Waits {
    /// Brings the waits up to date, and says which ends first, and when.
    pub(super) fn update(&mut self, now: Now, at: Instant, settings: &Settings) -> Option<(Instant, Wait)> {
        for (running, wanted) in self.acts.iter_mut().zip([now.client, now.backend]) {
            if running.map(|(wait, act, _)| (wait, act)) != wanted {
                *running = wanted.map(|(wait, act)| (wait, act, until(at, length(wait, settings))));
            }
        }
        let envelope = Pace { waiting: matches!(now.client, Some((Wait::Command, _))), moved: 0 };
        let paces = [now.data, now.client_write, now.backend_write, envelope];
        let fill = self.messages.replace(now.messages) != Some(now.messages);
        for ((budget, wait), pace) in self.budgets.iter_mut().zip(BUDGETS).zip(paces) {
            let full = length(wait, settings);
            if fill {
                *budget = Budget { left: full, since: budget.since.map(|_| at), moved: pace.moved, lags: false };
            }
            budget.account(pace, at, full, settings.limits.min_rate);
        }
        let acts = self.acts.iter().flatten().map(|&(wait, _, until)| (until, wait));
        let budgets = self.budgets.iter().zip(BUDGETS).filter_map(|(budget, wait)| {
            let wait = if wait == Wait::Data && budget.lags { Wait::DataRate } else { wait };
            Some((until(budget.since?, budget.left), wait))
        });
        acts.chain(budgets).min_by_key(|&(until, _)| until)
    }
}

impl Budget {
    /// Takes off what was waited, adds what was earned, and goes on as `pace` says.
    fn account(&mut self, pace: Pace, at: Instant, full: Duration, rate: u32) {
        if let Some(since) = self.since {
            self.left = self.left.saturating_sub(at.saturating_duration_since(since));
        }
        let bytes = pace.moved.saturating_sub(self.moved);
        if bytes > 0 {
            self.left = self.left.saturating_add(earned(bytes, rate)).min(full);
            self.lags = self.left < full;
        }
        self.moved = pace.moved;
        self.since = pace.waiting.then_some(at);
    }
}

/// What `bytes` are worth at so many bytes a second.
fn earned(bytes: u64, rate: u32) -> Duration {
    match rate {
        0 => Duration::MAX,
        rate => Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / u64::from(rate)),
    }
}

/// How long `wait` may take: a whole act, or at first.
fn length(wait: Wait, Settings { timeouts, limits, .. }: &Settings) -> Duration {
    match wait {
        Wait::Command => timeouts.command,
        Wait::Data | Wait::DataRate => timeouts.data,
        Wait::Reply => timeouts.reply,
        Wait::EndOfData => timeouts.end_of_data,
        Wait::ClientWrite | Wait::BackendWrite => timeouts.write,
        Wait::Envelope => limits.envelope,
        Wait::Idle => idle(timeouts),
    }
}

/// How long nothing may move where nothing is watched: behind TLS, any of these may be what keeps both sides silent.
pub(super) fn idle(timeouts: &Timeouts) -> Duration {
    timeouts.command.max(timeouts.data).max(timeouts.reply).max(timeouts.end_of_data)
}

/// `length` from `at`; a time that cannot be told is a year.
pub(super) fn until(at: Instant, length: Duration) -> Instant {
    at.checked_add(length).unwrap_or(at + Duration::from_secs(365 * 24 * 60 * 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::relay::{BareNewline, Limits};

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(min_rate: u32) -> Settings {
        Settings {
            auth: false,
            bare_newline: BareNewline::Normalize,
            max_errors: 20,
            limits: Limits { min_rate, ..Limits::default() },
            timeouts: Timeouts {
                command: SECOND * 300,
                data: SECOND * 180,
                reply: SECOND * 300,
                end_of_data: SECOND * 600,
                write: SECOND * 180,
            },
        }
    }

    fn brings(waiting: bool, moved: u64) -> Now {
        Now { data: Pace { waiting, moved }, ..Now::default() }
    }

    /// When a client is given up that brings `bytes` every `every`.
    fn ends(bytes: u64, every: Duration, rate: u32) -> Option<(Duration, Wait)> {
        let (settings, start) = (settings(rate), Instant::now());
        let mut waits = Waits::default();
        for n in 0..10_000 {
            let at = start + every * n;
            let (until, wait) = waits.update(brings(true, bytes * u64::from(n)), at, &settings).unwrap();
            if until <= at + every {
                return Some((until - start, wait));
            }
        }
        None
    }

    #[test]
    fn who_is_slower_than_the_rate_runs_out_of_time() {
        assert_eq!(ends(0, SECOND * 5, 500), Some((SECOND * 180, Wait::Data)));
        // A byte every five seconds earns 2 ms each.
        let (after, wait) = ends(1, SECOND * 5, 500).unwrap();
        assert_eq!((after.as_secs(), wait), (180, Wait::DataRate));
        // Half as fast as it should be: twice the time.
        let (after, wait) = ends(1250, SECOND * 5, 500).unwrap();
        assert!((350..=360).contains(&after.as_secs()), "{after:?}");
        assert_eq!(wait, Wait::DataRate);
        assert_eq!(ends(2500, SECOND * 5, 500), None);
        // In bursts, too: two minutes and a half of silence are earned back by 75,000 bytes.
        assert_eq!(ends(75_000, SECOND * 150, 500), None);
        assert_eq!(ends(1, SECOND * 179, 0), None);
        assert_eq!(ends(1, SECOND * 180, 0), Some((SECOND * 180, Wait::Data)));
    }

    #[test]
    fn a_burst_earns_no_more_than_there_was_at_first() {
        let (settings, start) = (settings(500), Instant::now());
        let mut waits = Waits::default();
        waits.update(brings(true, 0), start, &settings);
        let end = waits.update(brings(true, 1 << 40), start + SECOND, &settings);
        assert_eq!(end, Some((start + SECOND * 181, Wait::Data)));
    }

    #[test]
    fn nobody_is_charged_for_a_wait_that_is_anothers() {
        let (settings, start) = (settings(500), Instant::now());
        let mut waits = Waits::default();
        waits.update(brings(true, 0), start, &settings);
        waits.update(brings(false, 0), start + SECOND * 100, &settings);
        assert_eq!(waits.update(brings(false, 0), start + SECOND * 9000, &settings), None);
        let end = waits.update(brings(true, 0), start + SECOND * 10_000, &settings);
        assert_eq!(end, Some((start + SECOND * 10_080, Wait::Data)));
        // A message that was taken settles the account.
        let taken = Now { messages: 1, ..brings(true, 0) };
        let end = waits.update(taken, start + SECOND * 10_001, &settings);
        assert_eq!(end, Some((start + SECOND * 10_181, Wait::Data)));
    }

    #[test]
    fn commands_have_a_time_of_their_own_and_one_for_all() {
        let (settings, start) = (settings(500), Instant::now());
        let mut waits = Waits::default();
        for act in 0..12 {
            let now = Now { client: Some((Wait::Command, act)), ..Now::default() };
            let at = start + SECOND * 299 * u32::try_from(act).unwrap();
            assert_eq!(waits.update(now, at, &settings), Some((at + SECOND * 300, Wait::Command)));
        }
        let at = start + SECOND * 299 * 12;
        let end = waits.update(Now { client: Some((Wait::Command, 12)), ..Now::default() }, at, &settings);
        assert_eq!(end, Some((start + SECOND * 3600, Wait::Envelope)));
        let now = Now { client: Some((Wait::Command, 12)), messages: 1, ..Now::default() };
        assert_eq!(waits.update(now, at, &settings), Some((at + SECOND * 300, Wait::Command)));
    }

    proptest! {
        /// Looking more often changes nothing: a budget is a matter of time and bytes.
        #[test]
        fn looking_more_often_changes_nothing(
            acts in proptest::collection::vec((1_u32..100_000, 0_u64..4000, any::<bool>()), 1..40),
        ) {
            let (settings, start) = (settings(500), Instant::now());
            let (mut often, mut seldom) = (Waits::default(), Waits::default());
            let (mut at, mut moved) = (start, 0);
            for (after, bytes, waiting) in acts {
                let now = brings(waiting, moved);
                let ends = seldom.update(now, at, &settings);
                prop_assert_eq!(often.update(now, at, &settings), ends);
                for _ in 0..3 {
                    at += Duration::from_millis(u64::from(after)) / 4;
                    if ends.is_none_or(|(until, _)| at < until) {
                        prop_assert_eq!(often.update(now, at, &settings), ends);
                    }
                }
                if ends.is_some_and(|(until, _)| until <= at) {
                    break;
                }
                moved += bytes;
            }
        }
    }
}
