//! Ratios that were kept, and whether those of now are far worse: a change that cost gatepost half of its speed is noticed by
//! whoever made it. Times are never compared, for machines differ.

use std::collections::BTreeMap;

use super::plan::{Figure, Kind, Unit};
use super::results::Results;
use super::table::OURS;

/// How many times as bad a ratio may be before it counts: what a busy machine does to short runs is less.
const GROSS: f64 = 2.0;

/// Of each figure, gatepost's median ratio to each peer.
pub type Ratios = BTreeMap<String, BTreeMap<String, f64>>;

/// The ratios of this run; not of figures that are ratios themselves.
pub fn ratios(figures: &[Figure], results: &Results) -> Ratios {
    let figures = figures.iter().filter(|figure| figure.unit != Unit::Times);
    let of = |figure: &Figure| {
        let peers = Kind::ALL.map(|kind| kind.to_string()).into_iter().filter(|peer| peer != OURS);
        let ratios = peers.filter_map(|peer| Some((peer.clone(), results.ratio(figure.id, OURS, &peer)?.median)));
        ratios.map(|(peer, ratio)| (peer, (ratio * 1000.0).round() / 1000.0)).collect::<BTreeMap<_, _>>()
    };
    figures.map(|figure| (figure.id.to_owned(), of(figure))).filter(|(_, ratios)| !ratios.is_empty()).collect()
}

/// What is grossly worse than it was, each in a sentence, and how many ratios were compared.
pub fn losses(figures: &[Figure], kept: &Ratios, now: &Ratios) -> (Vec<String>, usize) {
    let (mut losses, mut compared) = (Vec::new(), 0);
    for figure in figures {
        let (Some(kept), Some(now)) = (kept.get(figure.id), now.get(figure.id)) else { continue };
        for (peer, before) in kept {
            let Some(now) = now.get(peer) else { continue };
            compared += 1;
            let loss = figure.loss(*before, *now);
            // What cannot be compared, such as a ratio of 0, is no reason to be content.
            if loss.is_nan() || loss > GROSS {
                losses.push(format!(
                    "{} ({}): gatepost / {peer} was {before:.3} and is {now:.3}, {loss:.1} times as bad",
                    figure.label, figure.id
                ));
            }
        }
    }
    (losses, compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Figure = Figure { row: 4, id: "rate", label: "rate", unit: Unit::PerSecond, more: true, targets: &[] };
    const COST: Figure = Figure { id: "cost", label: "cost", more: false, ..RATE };

    fn one(id: &str, ratio: f64) -> Ratios {
        BTreeMap::from([(id.into(), BTreeMap::from([("haproxy".into(), ratio)]))])
    }

    #[test]
    fn only_gross_losses_count_and_each_way() {
        for (id, now, lost) in [
            ("rate", 0.6, false),
            ("rate", 0.49, true),
            ("rate", 5.0, false),
            ("rate", 0.0, true),
            ("cost", 1.9, false),
            ("cost", 2.1, true),
            ("cost", 0.1, false),
        ] {
            let (losses, compared) = losses(&[RATE, COST], &one(id, 1.0), &one(id, now));
            assert_eq!((!losses.is_empty(), compared), (lost, 1), "{id} {now} {losses:?}");
        }
    }

    #[test]
    fn what_was_not_kept_is_not_compared() {
        assert_eq!(losses(&[RATE], &Ratios::new(), &one("rate", 0.0)), (vec![], 0));
        assert_eq!(losses(&[RATE], &one("rate", 1.0), &Ratios::new()), (vec![], 0));
    }

    #[test]
    fn ratios_are_those_to_the_peers() {
        let mut results = Results::default();
        results.next_round();
        for (name, value) in [("gatepost", 3.0), ("haproxy", 9.0), ("other1", 1.0)] {
            results.add("rate", name, value);
        }
        assert_eq!(ratios(&[RATE, COST], &results), one("rate", 0.333));
        let times = Figure { unit: Unit::Times, ..RATE };
        assert!(ratios(&[times], &results).is_empty());
    }
}
