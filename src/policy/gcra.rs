//! How often: GCRA (ITU-T I.371, the generic cell rate algorithm), in whole milliseconds.
//!
//! A [`Quota`] of `count` draws `per` span lets a burst of `count` through at once, and gives one draw back every `T` after
//! that, evenly. Its whole state is one number a client: the *theoretical arrival time*, TAT, until which the client has
//! used its draws up. A client that has never come, and one whose TAT is past, are the same; so states may be forgotten as
//! soon as they are past.
//!
//! # The algorithm, exactly
//!
//! All numbers are whole and not negative, in milliseconds; `now` is since 1970. It fits the doubles of Lua, which are exact
//! up to 2^53. Another store that counts by it has to do the same steps:
//!
//! ```text
//! T    = ceil(per / count)                    -- the interval; 1 or more
//! full = T * count                            -- the depth; less than per + count
//!
//! t    = min(max(tat, now), now + full)       -- a state of 0, or none, is one that is past
//! wait = (t + T) - (now + full)
//! if wait > 0 then tat = t;     refused, and in wait ms it would not be
//! else             tat = t + T; drawn
//! ```
//!
//! The `min` is for clocks that are set back, and for quotas that became narrower: no client ever waits for more than `T`
//! at that moment, nor longer than `full` until all is given back. A clock that is set forward gives back early, and
//! that is all. A refused draw costs nothing: who goes on knocking is not shut out for it.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use crate::time::{SPAN_LIMIT, Timestamp, format_span, parse_span};

/// So many draws in such a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    count: NonZeroU32,
    per: Duration,
    /// `T`.
    interval: u64,
    /// `full`.
    depth: u64,
}

/// The theoretical arrival time of a client: all that there is to keep of it. The default is that of somebody new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Tat(u64);

/// How long until a draw would not be refused, if nobody else draws.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Wait(u64);

/// Why a text, or two numbers, are no quota.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAQuota {
    /// It has another form.
    #[error("{0:?} is not a number for a span of time; write both with a slash between, such as 60/1m")]
    Form(String),
    /// Nobody would ever draw.
    #[error("a quota of 0 would let nobody through")]
    Nothing,
    /// Finer than it is counted.
    #[error("{0} is more than one in each millisecond")]
    TooMany(String),
}

impl Quota {
    /// `count` draws in `per`: one or more, and one each millisecond at the most.
    pub fn new(count: u32, per: Duration) -> Result<Self, NotAQuota> {
        let count = NonZeroU32::new(count).ok_or(NotAQuota::Nothing)?;
        let per = per.min(SPAN_LIMIT);
        let millis = u64::try_from(per.as_millis()).unwrap_or(u64::MAX);
        if u64::from(count.get()) > millis {
            return Err(NotAQuota::TooMany(format!("{count}/{}", format_span(per))));
        }
        let interval = millis.div_ceil(u64::from(count.get()));
        Ok(Self { count, per, interval, depth: interval * u64::from(count.get()) })
    }

    /// How many draws, all at once if need be.
    pub fn count(self) -> u32 {
        self.count.get()
    }

    /// In which span they are given back.
    pub fn per(self) -> Duration {
        self.per
    }

    /// Whether it is more generous than `other`: in what it allows at once, or over time.
    pub fn exceeds(self, other: Self) -> bool {
        self.count > other.count || self.interval < other.interval
    }

    /// Takes a draw, if there is one.
    pub fn draw(self, tat: &mut Tat, now: Timestamp) -> Result<(), Wait> {
        let now = now.millis();
        let full = now.saturating_add(self.depth);
        let used = tat.0.clamp(now, full);
        let then = used.saturating_add(self.interval);
        match then.saturating_sub(full) {
            0 => {
                tat.0 = then;
                Ok(())
            }
            wait => {
                tat.0 = used;
                Err(Wait(wait))
            }
        }
    }
}

impl Tat {
    /// Whether it is as good as new: nothing is lost if it is forgotten.
    pub fn is_past(self, now: Timestamp) -> bool {
        self.0 <= now.millis()
    }
}

impl Wait {
    /// As a span.
    pub fn span(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// In whole seconds, rounded up: 1 or more.
    pub fn seconds(self) -> u64 {
        self.0.div_ceil(1000).max(1)
    }
}

impl FromStr for Quota {
    type Err = NotAQuota;

    fn from_str(text: &str) -> Result<Self, NotAQuota> {
        let form = || NotAQuota::Form(text.to_owned());
        let (count, per) = text.split_once('/').ok_or_else(form)?;
        // `parse` would take a sign.
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(form());
        }
        Self::new(count.parse().map_err(|_| form())?, parse_span(per).map_err(|_| form())?)
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, format_span(self.per))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_790_000_000);

    fn quota(text: &str) -> Quota {
        text.parse().unwrap()
    }

    fn after(millis: u64) -> Timestamp {
        NOW.plus(Duration::from_millis(millis))
    }

    /// How many draws succeed at once.
    fn burst(quota: Quota, tat: &mut Tat, now: Timestamp) -> u32 {
        (0..).find(|_| quota.draw(tat, now).is_err()).unwrap()
    }

    #[test]
    fn quotas_are_read_and_written() {
        for text in ["30/1m", "1/1ms", "1000/1s", "4294967295/52w", "7/1.5s"] {
            assert_eq!(quota(text).to_string(), text);
        }
        assert_eq!(quota("60/60s"), quota("60/1m"));
        for (text, words) in [
            ("", "such as 60/1m"),
            ("60", "such as 60/1m"),
            ("/1m", "such as 60/1m"),
            ("60/", "such as 60/1m"),
            ("60/m", "such as 60/1m"),
            ("60/1", "such as 60/1m"),
            ("+60/1m", "such as 60/1m"),
            ("-1/1m", "such as 60/1m"),
            ("1.5/1m", "such as 60/1m"),
            ("4294967296/1m", "such as 60/1m"),
            ("60 / 1m", "such as 60/1m"),
            ("0/1m", "nobody"),
            ("1/0s", "each millisecond"),
            ("1001/1s", "each millisecond"),
        ] {
            let error = text.parse::<Quota>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_burst_and_then_evenly() {
        let (quota, mut tat) = (quota("3/6s"), Tat::default());
        assert_eq!(burst(quota, &mut tat, NOW), 3);
        assert_eq!(quota.draw(&mut tat, NOW), Err(Wait(2000)));
        assert_eq!(quota.draw(&mut tat, after(500)), Err(Wait(1500)));
        assert_eq!(quota.draw(&mut tat, after(1999)), Err(Wait(1)));
        assert_eq!(quota.draw(&mut tat, after(2000)), Ok(()));
        assert_eq!(quota.draw(&mut tat, after(2000)), Err(Wait(2000)));
        assert!(!tat.is_past(after(7999)) && tat.is_past(after(8000)));
        assert_eq!(burst(quota, &mut tat, after(8000)), 3);
        assert_eq!((Wait(1).seconds(), Wait(1000).seconds(), Wait(1001).seconds()), (1, 1, 2));
    }

    #[test]
    fn what_does_not_divide_is_rounded_against_the_client() {
        let (quota, mut tat) = (quota("7/1m"), Tat::default());
        assert_eq!(burst(quota, &mut tat, NOW), 7);
        assert_eq!(quota.draw(&mut tat, NOW), Err(Wait(8572)));
    }

    #[test]
    fn a_clock_that_is_set_back_shuts_nobody_out() {
        let (quota, mut tat) = (quota("60/1m"), Tat::default());
        assert_eq!(burst(quota, &mut tat, after(3_600_000)), 60);
        assert_eq!(quota.draw(&mut tat, NOW), Err(Wait(1000)));
        assert_eq!(quota.draw(&mut tat, after(1000)), Ok(()));
    }

    #[test]
    fn a_narrower_quota_counts_what_was_drawn_and_no_more_than_it_has() {
        let mut tat = Tat::default();
        assert_eq!(burst(quota("600/10m"), &mut tat, NOW), 600);
        assert_eq!(quota("2/2s").draw(&mut tat, NOW), Err(Wait(1000)));
        assert_eq!(quota("2/2s").draw(&mut tat, after(1000)), Ok(()));
    }

    #[test]
    fn who_is_more_generous() {
        for (one, other, expected) in [
            ("60/1m", "60/1m", false),
            ("61/1m", "60/1m", true),
            ("60/1m", "61/1m", false),
            ("60/30s", "60/1m", true),
            ("10/1s", "60/1m", true),
            ("1/1h", "60/1m", false),
        ] {
            assert_eq!(quota(one).exceeds(quota(other)), expected, "{one} beside {other}");
        }
    }

    /// A bucket that holds `full` milliseconds' worth of tokens, and fills by one each millisecond.
    struct Bucket {
        tokens: u128,
        at: u64,
    }

    impl Bucket {
        fn draw(&mut self, (interval, full): (u128, u128), now: u64) -> Result<(), u128> {
            self.tokens = (self.tokens + u128::from(now - self.at)).min(full);
            self.at = now;
            match self.tokens.checked_sub(interval) {
                Some(left) => {
                    self.tokens = left;
                    Ok(())
                }
                None => Err(interval - self.tokens),
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_bucket_of_tokens(
            count in 1u32..50, each in 1u64..5000, rest in 0u64..50,
            steps in prop::collection::vec(0u64..4000, 1..200),
        ) {
            let per = u64::from(count) * each + rest.min(u64::from(count) - 1);
            let quota = Quota::new(count, Duration::from_millis(per)).unwrap();
            let interval = u128::from(per.div_ceil(u64::from(count)));
            let model = (interval, interval * u128::from(count));
            let mut bucket = Bucket { tokens: model.1, at: 0 };
            let (mut tat, mut now) = (Tat::default(), 0);
            for step in steps {
                now += step;
                let drawn = quota.draw(&mut tat, Timestamp::from_millis(now)).map_err(|wait| u128::from(wait.0));
                prop_assert_eq!(drawn, bucket.draw(model, now));
            }
        }

        #[test]
        fn nothing_overflows_and_no_state_is_worse_than_empty(count: u32, per: u64, tat: u64, now: u64) {
            let Ok(quota) = Quota::new(count, Duration::from_millis(per)) else { return Ok(()) };
            let (mut tat, now) = (Tat(tat), Timestamp::from_millis(now));
            if let Err(wait) = quota.draw(&mut tat, now) {
                prop_assert!(wait.0 >= 1 && wait.0 <= quota.interval);
                let later = now.plus(wait.span());
                prop_assert_eq!(quota.draw(&mut tat, later), Ok(()));
            }
        }

        #[test]
        fn a_clock_that_jumps_costs_a_client_one_interval(
            count in 1u32..20, each in 1u64..1000, moments in prop::collection::vec(0u64..1_000_000, 1..50), last: u32,
        ) {
            let quota = Quota::new(count, Duration::from_millis(u64::from(count) * each)).unwrap();
            let mut tat = Tat::default();
            for moment in moments {
                let _ = quota.draw(&mut tat, Timestamp::from_millis(moment));
            }
            let now = Timestamp::from_millis(u64::from(last));
            if quota.draw(&mut tat, now).is_err() {
                prop_assert_eq!(quota.draw(&mut tat, now.plus(Duration::from_millis(each))), Ok(()));
            }
        }
    }
}
