//! All values that were measured, round by round.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::plan::{Figure, Target};
use super::{Summary, ratios};

/// Values by figure and contender, one for each round; none where it failed.
#[derive(Clone, Debug, Default)]
pub struct Results {
    rounds: usize,
    values: BTreeMap<&'static str, BTreeMap<String, Vec<Option<f64>>>>,
}

impl Results {
    /// From now on values are of the next round.
    pub fn next_round(&mut self) {
        self.rounds += 1;
    }

    /// Keeps a value of this round.
    pub fn add(&mut self, id: &'static str, contender: &str, value: f64) {
        let values = self.values.entry(id).or_default().entry(contender.to_owned()).or_default();
        values.resize(self.rounds.saturating_sub(1), None);
        values.push(Some(value));
    }

    /// The values of one figure of one contender.
    pub fn of(&self, id: &str, contender: &str) -> &[Option<f64>] {
        self.values.get(id).and_then(|values| values.get(contender)).map_or(&[], Vec::as_slice)
    }

    /// What they amount to.
    pub fn summary(&self, id: &str, contender: &str) -> Option<Summary> {
        Summary::of(&self.of(id, contender).iter().copied().flatten().collect::<Vec<_>>())
    }

    /// One contender's divided by another's, in the same round each.
    pub fn ratio(&self, id: &str, one: &str, other: &str) -> Option<Summary> {
        Summary::of(&ratios(self.of(id, one), self.of(id, other)))
    }

    /// Whether a contender reaches a target; nothing if what is needed to say so was not measured.
    pub fn reaches(&self, figure: &Figure, contender: &str, target: Target) -> Option<bool> {
        match target {
            Target::AtMost(most) => Some(self.summary(figure.id, contender)?.median <= most),
            Target::Against(peer, factor) => {
                let ratio = self.ratio(figure.id, contender, &peer.to_string())?.median;
                Some(if figure.more { ratio >= factor } else { ratio <= factor })
            }
        }
    }

    /// Every single value.
    pub fn to_json(&self) -> Value {
        json!(self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Kind, Unit};
    use super::*;

    #[test]
    fn a_round_that_failed_leaves_a_gap() {
        let mut results = Results::default();
        for round in [Some(1.0), None, Some(3.0)] {
            results.next_round();
            results.add("x", "haproxy", 2.0);
            if let Some(value) = round {
                results.add("x", "gatepost", value);
            }
        }
        assert_eq!(results.of("x", "gatepost"), [Some(1.0), None, Some(3.0)]);
        assert_eq!(results.summary("x", "gatepost").unwrap().median, 2.0);
        assert_eq!(results.ratio("x", "gatepost", "haproxy").unwrap().high, 1.5);
        assert_eq!(results.ratio("x", "gatepost", "nginx"), None);
    }

    #[test]
    fn targets_know_which_way_is_better() {
        let mut results = Results::default();
        results.next_round();
        results.add("x", "gatepost", 11.0);
        results.add("x", "haproxy", 10.0);
        let figure = |more| Figure { row: 1, id: "x", label: "x", unit: Unit::Times, more, targets: &[] };
        let reaches = |more, target| results.reaches(&figure(more), "gatepost", target);
        assert_eq!(reaches(true, Target::Against(Kind::Haproxy, 1.1)), Some(true));
        assert_eq!(reaches(true, Target::Against(Kind::Haproxy, 1.2)), Some(false));
        assert_eq!(reaches(false, Target::Against(Kind::Haproxy, 1.0)), Some(false));
        assert_eq!(reaches(false, Target::AtMost(11.0)), Some(true));
        assert_eq!(reaches(false, Target::Against(Kind::Nginx, 1.0)), None);
    }
}
