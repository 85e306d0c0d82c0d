//! Moments and spans of time, and how a person writes them.

use std::time::Duration;

/// A moment of wall time: milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// `span` later; the end of time at the latest.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The longest span that can be written: a hundred years, near enough. Sums of spans and moments stay far from any end.
pub const SPAN_LIMIT: Duration = Duration::from_secs(5200 * 7 * 24 * 60 * 60);

/// Why a text is not a span of time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a span of time; write a number and a unit: 250ms, 1.5s, 6s, 10m, 4h, 7d or 2w")]
pub struct NotASpan(pub String);

/// The units and their milliseconds, from the largest, but `ms` before `s`, which it ends in.
const UNITS: [(&str, u64); 6] =
    [("w", 7 * 24 * 3_600_000), ("d", 24 * 3_600_000), ("h", 3_600_000), ("ms", 1), ("m", 60_000), ("s", 1000)];

/// Reads a span of time: a decimal number followed by `ms`, `s`, `m`, `h`, `d` or `w`.
///
/// No sign, no blank, no exponent; digits on both sides of a point. It must come to whole milliseconds and to no more
/// than [`SPAN_LIMIT`].
pub fn parse_span(text: &str) -> Result<Duration, NotASpan> {
    span_millis(text)
        .map(Duration::from_millis)
        .filter(|span| *span <= SPAN_LIMIT)
        .ok_or_else(|| NotASpan(text.to_owned()))
}

/// Writes a span as [`parse_span`] reads it: as a whole number of the largest unit, or as seconds with a fraction.
/// What is finer than a millisecond is cut off.
pub fn format_span(span: Duration) -> String {
    let millis = span.as_millis();
    let whole = UNITS.iter().find(|(_, unit)| millis.is_multiple_of(u128::from(*unit)) && *unit > 1);
    match whole {
        _ if millis == 0 => "0s".to_owned(),
        Some((name, unit)) => format!("{}{name}", millis / u128::from(*unit)),
        None if millis < 1000 => format!("{millis}ms"),
        None => format!("{}.{:03}", millis / 1000, millis % 1000).trim_end_matches('0').to_owned() + "s",
    }
}

/// The milliseconds in `text`, exactly, or nothing.
fn span_millis(text: &str) -> Option<u64> {
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let parts = digits(fraction)?.checked_mul(unit)?;
    if !parts.is_multiple_of(scale) {
        return None;
    }
    digits(whole)?.checked_mul(unit)?.checked_add(parts / scale)
}

/// The number that `text` is, if it is digits and nothing else (`str::parse` would take a sign).
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_are_numbers_and_units() {
        let day = 24 * 60 * 60 * 1000;
        for (text, millis) in [
            ("250ms", 250),
            ("1.5s", 1500),
            ("1.500s", 1500),
            ("0.001s", 1),
            ("6s", 6000),
            ("06s", 6000),
            ("10m", 600_000),
            ("1.5m", 90_000),
            ("4h", 4 * 60 * 60 * 1000),
            ("7d", 7 * day),
            ("0.5d", day / 2),
            ("2w", 14 * day),
            ("0s", 0),
            ("0ms", 0),
            ("5200w", 5200 * 7 * day),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_its_name() {
        for text in [
            "",
            "0",
            "6",
            "s",
            "ms",
            ".5s",
            "1.s",
            ".s",
            "1.5.5s",
            "+1s",
            "-1s",
            "1.+5s",
            "1 s",
            " 1s",
            "1s ",
            "1e3s",
            "1,5s",
            "1S",
            "1sec",
            "1y",
            "1m30s",
            "٣s",
            "0.5ms",
            "1.0005s",
            "5201w",
            "18446744073709551616ms",
            "99999999999999999999w",
            "0.00000000000000000000s",
            "1_000s",
            "0x1s",
        ] {
            assert_eq!(parse_span(text), Err(NotASpan(text.to_owned())), "{text:?}");
        }
        assert!(parse_span("6").unwrap_err().to_string().starts_with("\"6\" is not a span of time"));
    }

    #[test]
    fn spans_are_written_in_the_largest_unit_that_fits() {
        for (millis, text) in [
            (0, "0s"),
            (1, "1ms"),
            (250, "250ms"),
            (1000, "1s"),
            (1001, "1.001s"),
            (1500, "1.5s"),
            (60_500, "60.5s"),
            (90_000, "90s"),
            (120_000, "2m"),
            (7_200_000, "2h"),
            (86_400_000, "1d"),
            (7 * 86_400_000, "1w"),
            (8 * 86_400_000, "8d"),
        ] {
            assert_eq!(format_span(Duration::from_millis(millis)), text);
        }
        assert_eq!(format_span(Duration::from_micros(1_500_999)), "1.5s");
        assert_eq!(format_span(Duration::from_micros(999)), "0s");
    }

    #[test]
    fn moments_do_not_pass_the_end_of_time() {
        let late = Timestamp::from_millis(u64::MAX);
        assert_eq!(late.plus(Duration::from_millis(1)), late);
        assert_eq!(Timestamp::from_seconds(1).plus(Duration::MAX), late);
        assert_eq!(Timestamp::from_seconds(u64::MAX), late);
        assert_eq!(Timestamp::from_seconds(1).since(late), Duration::ZERO);
        assert_eq!(Timestamp::from_millis(1999).seconds(), 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(millis in 0..=5200 * 7 * 86_400_000_u64, round in 0..4_u32) {
            let millis = millis - millis % [1, 10, 1000, 3_600_000][round as usize];
            let span = Duration::from_millis(millis);
            prop_assert_eq!(parse_span(&format_span(span)), Ok(span));
        }

        #[test]
        fn what_is_read_is_within_the_limit(text in "[0-9]{1,21}(\\.[0-9]{1,21})?(ms|s|m|h|d|w)") {
            if let Ok(span) = parse_span(&text) {
                prop_assert!(span <= SPAN_LIMIT);
                prop_assert_eq!(parse_span(&format_span(span)), Ok(span));
            }
        }

        #[test]
        fn since_takes_back_plus(start in 0..1_u64 << 62, millis in 0..1_u64 << 62) {
            let (start, span) = (Timestamp::from_millis(start), Duration::from_millis(millis));
            prop_assert_eq!(start.plus(span).since(start), span);
        }
    }
}
