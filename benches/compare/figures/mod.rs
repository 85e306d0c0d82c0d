//! What is made of many values: the middle one, percentiles, how far they are spread, and what all of that says.

pub mod draw;
pub mod growth;
pub mod kept;
pub mod plan;
pub mod results;
pub mod ruler;
pub mod table;

/// The middle one of several values, and the ends of what was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The least.
    pub low: f64,
    /// The middle one; of an even number, the mean of the two.
    pub median: f64,
    /// The greatest.
    pub high: f64,
}

impl Summary {
    /// Nothing, if there are no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let (half, even) = (sorted.len() / 2, sorted.len().is_multiple_of(2));
        let upper = *sorted.get(half)?;
        let median = if even { f64::midpoint(*sorted.get(half - 1)?, upper) } else { upper };
        Some(Self { low, median, high })
    }

    /// How far apart the ends are, as a part of the median.
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / self.median.abs() }
    }
}

/// The least value that `share` (0 to 1) of all values do not exceed: the nearest-rank percentile.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(values);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// One value divided by the other, round by round; rounds that one of them lacks are left out.
pub fn ratios(one: &[Option<f64>], other: &[Option<f64>]) -> Vec<f64> {
    let pairs = one.iter().zip(other).filter_map(|(one, other)| Some(((*one)?, (*other)?)));
    pairs.filter(|(_, other)| *other != 0.0).map(|(one, other)| one / other).collect()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_depend_on_the_order() {
        let summary = |values: &[f64]| Summary::of(values).unwrap();
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Summary { low: 1.0, median: 2.0, high: 3.0 });
        assert_eq!(summary(&[4.0, 1.0, 3.0, 2.0]).median, 2.5);
        assert_eq!(summary(&[7.0]), Summary { low: 7.0, median: 7.0, high: 7.0 });
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn the_spread_is_a_part_of_the_median() {
        assert_eq!(Summary::of(&[9.0, 10.0, 12.0]).unwrap().spread(), 0.3);
        assert_eq!(Summary::of(&[0.0, 0.0]).unwrap().spread(), 0.0);
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(100.0));
        assert_eq!(percentile(&values, 0.99), Some(198.0));
        assert_eq!(percentile(&values, 1.0), Some(200.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn ratios_go_round_by_round() {
        let one = [Some(1.0), Some(4.0), None, Some(5.0)];
        assert_eq!(ratios(&one, &[Some(2.0), Some(2.0), Some(2.0), None]), [0.5, 2.0]);
        assert_eq!(ratios(&one, &[Some(0.0)]), [0.0; 0]);
    }
}
