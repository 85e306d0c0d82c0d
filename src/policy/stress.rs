//! Stress: whether there are so many sessions that strangers are about to be turned away. With hysteresis, so that it
//! does not come and go with each of them: postscreen's figures.
//!
//! ```text
//!   calm ──open sessions ≥ 90 % of the places that strangers may have──► stress
//!     ▲                                                                     │
//!     └────────────────────────── ≤ 70 % ───────────────────────────────────┘
//! ```

/// From where on, and down to where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    begin: u32,
    end: u32,
}

/// What has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is on from now on.
    Begins,
    /// It is off from now on.
    Ends,
}

impl Marks {
    /// For so many places. Where there are none, there is no stress either.
    pub fn of(places: u32) -> Self {
        if places == 0 {
            return Self { begin: u32::MAX, end: u32::MAX };
        }
        Self { begin: percent(places, 90, 99), end: percent(places, 70, 0) }
    }

    /// What changes with so many sessions open.
    pub fn change(self, on: bool, open: u32) -> Option<Change> {
        match on {
            false if open >= self.begin => Some(Change::Begins),
            true if open <= self.end => Some(Change::Ends),
            _ => None,
        }
    }

    /// How many sessions may be open while nobody doubts that the house is at ease.
    pub fn ease(places: u32) -> u32 {
        percent(places, 70, 0)
    }
}

/// `share` percent of `places`, rounded up by up to `up` hundredths.
fn percent(places: u32, share: u64, up: u64) -> u32 {
    u32::try_from((u64::from(places) * share + up) / 100).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn on_from_nine_tenths_off_from_seven() {
        for (places, on, open, expected) in [
            (100, false, 89, None),
            (100, false, 90, Some(Change::Begins)),
            (100, false, 100, Some(Change::Begins)),
            (100, true, 100, None),
            (100, true, 71, None),
            (100, true, 70, Some(Change::Ends)),
            (100, true, 0, Some(Change::Ends)),
            (100, false, 70, None),
            (1, false, 0, None),
            (1, false, 1, Some(Change::Begins)),
            (1, true, 0, Some(Change::Ends)),
            (3, false, 2, None),
            (3, false, 3, Some(Change::Begins)),
            (u32::MAX, false, 3_865_470_565, None),
            (u32::MAX, false, 3_865_470_566, Some(Change::Begins)),
            (0, false, 10_000, None),
            (0, true, 10_000, Some(Change::Ends)),
        ] {
            assert_eq!(Marks::of(places).change(on, open), expected, "{open} of {places}, {on}");
        }
    }

    proptest! {
        #[test]
        fn what_began_does_not_end_at_once(places: u32, open: u32, on: bool) {
            let marks = Marks::of(places);
            if let Some(change) = marks.change(on, open) {
                prop_assert_eq!(marks.change(change == Change::Begins, open), None);
            }
        }
    }
}
