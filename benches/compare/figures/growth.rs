//! How cost grows: curves of what was measured at one size after the other, and the plots that they belong into.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Summary;
use super::plan::Unit;
use super::ruler::short;
use super::table::{LABEL, cell};

/// One of the axes.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// What it is, and in what unit.
    pub label: &'static str,
    /// Whether equal distances are equal ratios.
    pub log: bool,
}

/// One picture.
#[derive(Clone, Copy, Debug)]
pub struct Plot {
    /// What its file is called, and its part of the file of values.
    pub id: &'static str,
    /// What stands above it.
    pub title: &'static str,
    /// The size.
    pub across: Axis,
    /// The cost.
    pub up: Axis,
    /// How a cost is shown in the table.
    pub unit: Unit,
}

const fn linear(label: &'static str) -> Axis {
    Axis { label, log: false }
}

const fn log(label: &'static str) -> Axis {
    Axis { label, log: true }
}

/// Memory of strangers that wait.
pub const PARKED_MEMORY: Plot = Plot {
    id: "parked-memory",
    title: "Memory of parked clients",
    across: linear("clients parked"),
    up: linear("more than with nobody parked, MB (PSS)"),
    unit: Unit::Megabytes,
};

/// Processor time of those that come.
pub const PARKED_PROCESSOR: Plot = Plot {
    id: "parked-processor",
    title: "CPU to park 1,000 more clients",
    across: linear("clients parked before"),
    up: log("CPU, ms"),
    unit: Unit::Milliseconds,
};

/// Known clients that come all at once.
pub const SESSIONS: Plot = Plot {
    id: "sessions",
    title: "Sessions of known clients",
    across: log("sessions at once"),
    up: linear("sessions per second"),
    unit: Unit::PerSecond,
};

/// What the ledger takes for a client.
pub const LEDGER_TIME: Plot = Plot {
    id: "ledger-time",
    title: "Ledger: recall and remember",
    across: log("entries"),
    up: linear("time of both, ns"),
    unit: Unit::Nanoseconds,
};

/// How much of it the ledger takes.
pub const LEDGER_MEMORY: Plot = Plot {
    id: "ledger-memory",
    title: "Ledger: memory of an entry",
    across: log("entries"),
    up: linear("bytes per entry (PSS)"),
    unit: Unit::Bytes,
};

/// All of them.
pub const PLOTS: [Plot; 5] = [PARKED_MEMORY, PARKED_PROCESSOR, SESSIONS, LEDGER_TIME, LEDGER_MEMORY];

/// One line of a plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Whose it is.
    pub name: String,
    /// By size, a value for each round that did not fail.
    pub points: BTreeMap<u32, Vec<f64>>,
}

impl Curve {
    /// What its values amount to, size by size.
    pub fn summaries(&self) -> impl Iterator<Item = (u32, Summary)> {
        self.points.iter().filter_map(|(size, values)| Some((*size, Summary::of(values)?)))
    }
}

/// All that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// On what, with what, and how.
    pub about: Value,
    /// How many rounds.
    pub rounds: usize,
    /// By plot.
    pub curves: BTreeMap<String, Vec<Curve>>,
}

impl Growth {
    /// Keeps a value of this round.
    pub fn add(&mut self, plot: &Plot, name: &str, size: u32, value: f64) {
        let curves = self.curves.entry(plot.id.to_owned()).or_default();
        let at = curves.iter().position(|curve| curve.name == name).unwrap_or_else(|| {
            curves.push(Curve { name: name.to_owned(), points: BTreeMap::new() });
            curves.len() - 1
        });
        curves[at].points.entry(size).or_default().push(value);
    }

    /// The curves of a plot.
    pub fn of(&self, plot: &Plot) -> &[Curve] {
        self.curves.get(plot.id).map_or(&[], Vec::as_slice)
    }

    /// Puts curves into this order, for whoever had the first turn came first; others stay behind them as they came.
    pub fn sort(&mut self, order: &[String]) {
        let place = |curve: &Curve| order.iter().position(|name| *name == curve.name).unwrap_or(usize::MAX);
        self.curves.values_mut().for_each(|curves| curves.sort_by_key(place));
    }

    /// Medians, and how far the rounds are spread in hundredths of them.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for plot in PLOTS.iter().filter(|plot| !self.of(plot).is_empty()) {
            let sizes: BTreeSet<u32> = self.of(plot).iter().flat_map(|curve| curve.points.keys().copied()).collect();
            let _ = write!(table, "{}\n{:LABEL$}", plot.title, format!("  {}", plot.across.label));
            sizes.iter().for_each(|size| cell(&mut table, &short(f64::from(*size))));
            table.push('\n');
            for curve in self.of(plot) {
                let summaries: BTreeMap<u32, Summary> = curve.summaries().collect();
                let _ = write!(table, "{:LABEL$}", format!("  {}", curve.name));
                for size in &sizes {
                    let shown = summaries
                        .get(size)
                        .map(|summary| format!("{} ±{:.0}%", plot.unit.show(summary.median), summary.spread() * 50.0));
                    cell(&mut table, shown.as_deref().unwrap_or("-"));
                }
                table.push('\n');
            }
            table.push('\n');
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth() -> Growth {
        let mut growth = Growth { rounds: 3, about: serde_json::json!({ "cores": 2 }), ..Growth::default() };
        for round in [1.0, 3.0, 2.0] {
            growth.add(&SESSIONS, "haproxy", 1, 1000.0 * round);
            growth.add(&SESSIONS, "gatepost", 1, 2000.0 * round);
            growth.add(&SESSIONS, "gatepost", 250, 20_000.0);
        }
        growth.add(&LEDGER_TIME, "new client", 1_000_000, 412.3);
        growth
    }

    #[test]
    fn curves_are_medians_by_size() {
        let growth = growth();
        let ours = growth.of(&SESSIONS).iter().find(|curve| curve.name == "gatepost").unwrap();
        let medians: Vec<_> = ours.summaries().map(|(size, summary)| (size, summary.median)).collect();
        assert_eq!(medians, [(1, 4000.0), (250, 20_000.0)]);
        assert!(growth.of(&PARKED_MEMORY).is_empty());
    }

    #[test]
    fn the_order_does_not_depend_on_whose_turn_was_first() {
        let mut growth = growth();
        growth.sort(&["gatepost".into(), "postscreen".into(), "haproxy".into()]);
        let names: Vec<_> = growth.of(&SESSIONS).iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["gatepost", "haproxy"]);
    }

    #[test]
    fn what_is_kept_is_what_was_measured() {
        let growth = growth();
        let text = serde_json::to_string(&growth).unwrap();
        assert_eq!(serde_json::from_str::<Growth>(&text).unwrap(), growth);
        assert!(serde_json::from_str::<Growth>("{}").is_err());
    }

    #[test]
    fn the_table_has_a_place_for_what_was_not_measured() {
        let table = growth().table();
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["sessions", "at", "once", "1", "250"], "{table}");
        assert_eq!(lines[2], ["haproxy", "2.00", "k/s", "±50%", "-"], "{table}");
        assert_eq!(lines[3], ["gatepost", "4.00", "k/s", "±50%", "20.0", "k/s", "±0%"], "{table}");
        assert!(table.contains("412 ns") && !table.contains("parked"), "{table}");
    }

    #[test]
    fn every_plot_has_a_file_of_its_own() {
        let ids = BTreeSet::from(PLOTS.map(|plot| plot.id));
        assert_eq!(ids.len(), PLOTS.len());
    }
}
