//! How cost grows: the same work at one size after the other, drawn as curves (`--growth`).
//!
//! What comes of it goes to standard output as a table, with every value to `target/compare/growth.json`, and beside that as
//! plots; `--keep` puts values and plots into `docs/plots`. No size is judged: curves are to be looked at.

#[path = "../../parts/clients.rs"]
mod clients;
mod ledger;
mod parked;
mod sessions;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

pub use ledger::child as ledger_child;

use super::arguments::Arguments;
use super::contenders::{Candidate, Kind};
use super::figures::draw;
use super::figures::growth::{Growth, PLOTS, Plot};
use super::machine;
use super::rows::{Scale, Surroundings};
use super::run::{self, guarded, write};
use crate::host::process::raise_descriptor_limit;

/// The sizes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sizes {
    /// How many strangers wait.
    pub parked: &'static [u32],
    /// How many more come then, unless the next size is nearer.
    pub more: u32,
    /// How many known clients there are at once.
    pub at_once: &'static [u32],
    /// How long each crowd of them takes, about.
    pub seconds: f64,
    /// How many entries the ledger has.
    pub entries: &'static [u32],
    /// How often it is asked.
    pub operations: u32,
}

impl Sizes {
    /// Curves to go by.
    pub const FULL: Self = Self {
        parked: &[100, 1000, 5000, 10_000, 15_000],
        more: 1000,
        at_once: &[1, 4, 16, 64, 250, 1000],
        seconds: 1.5,
        entries: &[1000, 10_000, 100_000, 1_000_000],
        operations: 1_000_000,
    };
    /// Enough to see where they go.
    pub const QUICK: Self = Self {
        parked: &[100, 500, 1000, 2000],
        more: 500,
        at_once: &[1, 16, 64],
        seconds: 0.5,
        entries: &[1000, 10_000, 100_000],
        operations: 200_000,
    };
    /// Enough to see that everything works.
    pub const TINY: Self = Self {
        parked: &[5, 20, 40],
        more: 10,
        at_once: &[1, 8],
        seconds: 0.0,
        entries: &[500, 5000],
        operations: 10_000,
    };
}

/// What was measured: of which plot, at which size.
type Points = Vec<(&'static Plot, u32, f64)>;

/// One kind of work.
struct Work {
    name: &'static str,
    /// Who can do it.
    contenders: &'static [Kind],
    /// Does it once, at all sizes.
    measure: fn(&Surroundings, &Candidate, &Sizes) -> Result<Points, String>,
}

const WORKS: [&Work; 2] = [&parked::WORK, &sessions::WORK];

/// Measures, prints, writes, and draws.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let sizes = arguments.sizes();
    let scale = Scale { seconds: arguments.seconds.unwrap_or(sizes.seconds), ..arguments.scale() };
    let descriptors = raise_descriptor_limit();
    let candidates = run::taking_part(arguments)?;
    let about = json!({
        "machine": machine::about(),
        "versions": run::versions(&candidates),
        "descriptors": descriptors,
        "scale": scale,
        "sizes": sizes,
    });
    println!("{about}\n");
    let around = Surroundings::start(scale)?;
    let mut rounds = Rounds { growth: Growth { about, ..Growth::default() }, failures: Vec::new() };
    for _ in 0..arguments.rounds() {
        rounds.next(&around, &candidates, &sizes);
        // So that a run that is broken off was not in vain.
        write(&values_file(), &rounds.growth)?;
    }
    let Rounds { growth, failures } = rounds;
    println!("\n{}every value: {}", growth.table(), values_file().display());
    if !failures.is_empty() {
        return Err(format!("{} measurements failed:\n{}", failures.len(), failures.join("\n")));
    }
    draw_beside(&growth, &values_file())?;
    if arguments.keep {
        write(&kept_file(), &growth)?;
        draw_beside(&growth, &kept_file())?;
    }
    Ok(())
}

struct Rounds {
    growth: Growth,
    failures: Vec<String>,
}

impl Rounds {
    fn next(&mut self, around: &Surroundings, candidates: &[Candidate], sizes: &Sizes) {
        let done = self.growth.rounds;
        self.growth.rounds += 1;
        for work in WORKS {
            for candidate in run::turns(candidates, work.contenders, done) {
                self.keep(work.name, &candidate.name, guarded(|| (work.measure)(around, &candidate, sizes)));
            }
        }
        // It is measured in this program, whichever builds take part.
        if candidates.iter().any(|one| one.kind == Kind::Gatepost) {
            for entries in sizes.entries {
                let measured = guarded(|| ledger::measure(*entries, sizes.operations));
                match measured {
                    Ok(curves) => curves.into_iter().for_each(|(name, points)| self.keep("ledger", name, Ok(points))),
                    Err(error) => self.keep("ledger", "gatepost", Err(error)),
                }
            }
        }
        self.growth.sort(&candidates.iter().map(|one| one.name.clone()).collect::<Vec<_>>());
    }

    fn keep(&mut self, work: &str, name: &str, measured: Result<Points, String>) {
        let of = format!("round {}, {work}, {name}", self.growth.rounds);
        match measured {
            Ok(points) => {
                let shown = |(plot, size, value): &(&Plot, u32, f64)| format!("{size}: {}", plot.unit.show(*value));
                println!("{of}: {}", points.iter().map(shown).collect::<Vec<_>>().join("; "));
                points.into_iter().for_each(|(plot, size, value)| self.growth.add(plot, name, size, value));
            }
            Err(error) => {
                println!("{of}: FAILED: {error}");
                self.failures.push(format!("{of}: {error}"));
            }
        }
    }
}

/// Draws what is in a file once more.
pub fn draw_again(values: &Path) -> Result<(), String> {
    let text = fs::read_to_string(values).map_err(|error| format!("{}: {error}", values.display()))?;
    let growth: Growth = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", values.display()))?;
    draw_beside(&growth, values)
}

/// The plots of which there are values, into the folder that those are in.
fn draw_beside(growth: &Growth, values: &Path) -> Result<(), String> {
    for plot in PLOTS.iter().filter(|plot| !growth.of(plot).is_empty()) {
        let file = values.with_file_name(plot.id).with_extension("svg");
        fs::write(&file, draw::svg(growth, plot)?).map_err(|error| format!("{}: {error}", file.display()))?;
        println!("drawn: {}", file.display());
    }
    Ok(())
}

fn values_file() -> PathBuf {
    run::root().join("target/compare/growth.json")
}

fn kept_file() -> PathBuf {
    run::root().join("docs/plots/growth.json")
}
