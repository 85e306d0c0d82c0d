//! The table: for each figure a line of values with their spread, and one of gatepost's ratios to all others.

use std::fmt::Write;

use super::plan::{Figure, Target};
use super::results::Results;

/// The contender that targets are for.
pub const OURS: &str = "gatepost";

pub(super) const LABEL: usize = 38;
const COLUMN: usize = 18;

/// Writes it: medians, how far the rounds are spread in hundredths of the median, and ratios (ours divided by theirs).
pub fn write(figures: &[Figure], contenders: &[String], results: &Results) -> String {
    let mut table = format!("{:LABEL$}", "row");
    for contender in contenders {
        cell(&mut table, contender);
    }
    table.push_str("  gatepost must\n");
    for figure in figures {
        let summaries: Vec<_> = contenders.iter().map(|one| results.summary(figure.id, one)).collect();
        if summaries.iter().all(Option::is_none) {
            continue;
        }
        let label = format!("{:>2} {}", figure.row, figure.label);
        let _ = write!(table, "{label:LABEL$}");
        for summary in summaries {
            let shown =
                summary.map(|summary| format!("{} ±{:.0}%", figure.unit.show(summary.median), summary.spread() * 50.0));
            cell(&mut table, shown.as_deref().unwrap_or("-"));
        }
        for (at, target) in figure.targets.iter().enumerate() {
            let _ = write!(table, "{}{}", if at == 0 { "  " } else { "; " }, judgement(figure, *target, results));
        }
        table.push('\n');
        let others = contenders.iter().map(|one| results.ratio(figure.id, OURS, one).filter(|_| one != OURS));
        let ratios: Vec<_> = others.map(|ratio| ratio.map(|ratio| format!("{:.3}", ratio.median))).collect();
        if ratios.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(table, "{:LABEL$}", "   gatepost / this one");
        ratios.iter().for_each(|ratio| cell(&mut table, ratio.as_deref().unwrap_or_default()));
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    table
}

pub(super) fn cell(table: &mut String, text: &str) {
    // Aligned to the right, with a blank at least.
    let _ = write!(table, " {text:>COLUMN$}");
}

fn judgement(figure: &Figure, target: Target, results: &Results) -> String {
    let sign = if figure.more { ">=" } else { "<=" };
    let wanted = match target {
        Target::AtMost(most) => format!("{sign} {}", figure.unit.show(most)),
        Target::Against(peer, 1.0) => format!("{sign} {peer}"),
        Target::Against(peer, factor) => format!("{sign} {factor} x {peer}"),
    };
    let word = match results.reaches(figure, OURS, target) {
        Some(true) => "met",
        Some(false) => "NOT MET",
        None => "not judged",
    };
    format!("{wanted}: {word}")
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Kind, Unit};
    use super::*;

    const FIGURE: Figure = Figure {
        row: 4,
        id: "sessions.rate",
        label: "sessions",
        unit: Unit::PerSecond,
        more: true,
        targets: &[Target::Against(Kind::Haproxy, 1.1), Target::Against(Kind::Nginx, 1.0)],
    };

    #[test]
    fn a_line_of_values_and_one_of_ratios() {
        let mut results = Results::default();
        for (ours, theirs) in [(1200.0, 1000.0), (1300.0, 1000.0), (1100.0, 1000.0)] {
            results.next_round();
            results.add("sessions.rate", "gatepost", ours);
            results.add("sessions.rate", "haproxy", theirs);
        }
        let absent = Figure { id: "absent", label: "absent", ..FIGURE };
        let table = write(&[FIGURE, absent], &["gatepost".into(), "haproxy".into(), "nginx".into()], &results);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..8], ["4", "sessions", "1.20", "k/s", "±8%", "1.00", "k/s", "±0%"], "{table}");
        assert!(table.contains(">= 1.1 x haproxy: met; >= nginx: not judged\n"), "{table}");
        assert_eq!(lines[2], ["gatepost", "/", "this", "one", "1.200"], "{table}");
        assert_eq!(lines.len(), 3);
    }
}
