//! An axis: what part of it is shown, where its ticks are, and what they are called.

/// From where to where an axis goes. On a logarithmic one, places are decimal logarithms.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruler {
    log: bool,
    /// Where it begins and where it ends.
    pub ends: [f64; 2],
    /// Where its ticks are.
    pub ticks: Vec<f64>,
}

/// About how many ticks there are, at most.
const TICKS: f64 = 6.0;

/// Of how many decades an axis shows the powers of ten alone.
const DECADES: f64 = 1.7;

/// What each decade is divided by where there are fewer.
const STEPS: [f64; 3] = [1.0, 2.0, 5.0];

impl Ruler {
    /// One that has a place for all of these. A linear one shows the zero, so that lengths can be compared; a logarithmic one has
    /// no place for what is not positive.
    pub fn over(values: impl IntoIterator<Item = f64>, log: bool) -> Self {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite() && (!log || *value > 0.0)).collect();
        let (low, high) = values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
        match (values.is_empty(), log) {
            (true, true) => Self::logarithmic(1.0, 10.0),
            (true, false) => Self::linear(0.0, 1.0),
            (false, true) => Self::logarithmic(low, high),
            (false, false) => Self::linear(low.min(0.0), high.max(0.0)),
        }
    }

    fn linear(low: f64, high: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let span = high - low;
        let decade = 10_f64.powf((span / TICKS).log10().floor());
        let step = STEPS.iter().map(|step| step * decade).find(|step| span / step <= TICKS).unwrap_or(10.0 * decade);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let ticks = (first as i64..=last as i64).map(|n| n as f64 * step).collect();
        Self { log: false, ends: [first * step, last * step], ticks }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let many = high.log10() - low.log10() > DECADES;
        let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let steps: &[f64] = if many { &STEPS[..1] } else { &STEPS };
        let all: Vec<f64> = decades.flat_map(|n| steps.iter().map(move |step| step * 10_f64.powi(n))).collect();
        // The nearest on either side.
        let first = all.iter().rposition(|tick| *tick <= low).unwrap_or(0);
        let last = all.iter().position(|tick| *tick >= high && *tick > all[first]).unwrap_or(all.len() - 1);
        let ticks: Vec<f64> = all[first..=last].iter().map(|tick| tick.log10()).collect();
        Self { log: true, ends: [ticks[0], ticks[ticks.len() - 1]], ticks }
    }

    /// Where a value is; nothing if it has no place.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = if self.log { value.log10() } else { value };
        place.is_finite().then_some(place)
    }

    /// What a place is called.
    pub fn name(&self, place: f64) -> String {
        short(if self.log { 10_f64.powf(place) } else { place })
    }
}

/// A number of few digits: 250, 10 k, 1.5 M.
pub fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        1e6.. => (value / 1e6, " M"),
        1e3.. => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = format!("{value:.2}");
    format!("{}{unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(values: &[f64], log: bool) -> Vec<String> {
        let ruler = Ruler::over(values.iter().copied(), log);
        ruler.ticks.iter().map(|tick| ruler.name(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_and_hold_all_values_between_them() {
        assert_eq!(names(&[100.0, 15_000.0], false), ["0", "5 k", "10 k", "15 k"]);
        assert_eq!(names(&[0.3, 37.9], false), ["0", "10", "20", "30", "40"]);
        assert_eq!(names(&[-0.1, 0.4], false), ["-0.1", "0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!(names(&[1.0, 1000.0], true), ["1", "10", "100", "1 k"]);
        assert_eq!(names(&[1e3, 1e6], true), ["1 k", "10 k", "100 k", "1 M"]);
        assert_eq!(names(&[11.9, 204.0], true), ["10", "20", "50", "100", "200", "500"]);
    }

    #[test]
    fn what_is_measured_is_between_the_ends() {
        for log in [false, true] {
            for values in [[3.0, 3.0], [0.02, 0.9], [1.0, 10.0], [999.0, 1001.0], [7.0, 7e8]] {
                let ruler = Ruler::over(values, log);
                let [begin, end] = ruler.ends;
                assert!(begin < end && ruler.ticks.len() >= 2 && ruler.ticks.len() <= 11, "{ruler:?}");
                for value in values {
                    let place = ruler.place(value).unwrap();
                    assert!(begin <= place && place <= end, "{value} of {ruler:?}");
                }
            }
        }
    }

    #[test]
    fn an_axis_without_values_is_one_all_the_same() {
        assert_eq!(Ruler::over([], false).ends, [0.0, 1.0]);
        assert_eq!(Ruler::over([f64::NAN, 0.0, -1.0], true).ends, [0.0, 1.0]);
        assert_eq!(Ruler::over([0.0], false).ends, [0.0, 1.0]);
    }

    #[test]
    fn a_logarithmic_axis_has_no_place_for_nothing() {
        let ruler = Ruler::over([1.0, 100.0], true);
        assert_eq!(ruler.place(100.0), Some(2.0));
        assert_eq!(ruler.place(0.0), None);
        assert_eq!(ruler.place(-1.0), None);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.25, 16.0, 250.0, 1000.0, 15_500.0, 1e6].map(short),
            ["0", "0.25", "16", "250", "1 k", "15.5 k", "1 M"]
        );
    }
}
