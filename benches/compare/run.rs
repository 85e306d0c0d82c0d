//! One run: round by round, row by row, each contender in its turn.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::arguments::Arguments;
use super::contenders::{Candidate, Kind};
use super::figures::kept::{self, Ratios};
use super::figures::plan::Figure;
use super::figures::results::Results;
use super::figures::table;
use super::machine;
use super::rows::{ROWS, Row, Surroundings, Values};
use crate::host::peers::Peer;
use crate::host::process::raise_descriptor_limit;

/// What a short run leaves out: it costs much time there, and little is learned from it.
const NOT_QUICK: [Kind; 2] = [Kind::Postscreen, Kind::Direct];

/// Measures, prints, and writes what is asked for.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let mut run = Run::new(arguments)?;
    run.print_head();
    run.rounds();
    let mut told = run.judge();
    if told.is_err() && run.compares() && run.failures.is_empty() {
        // A short run may have had bad luck, a change that costs half has it twice.
        println!("once more, since that may have been chance");
        run.rounds();
        told = run.judge();
    }
    println!("\n{}", table::write(&run.figures, &run.names(), &run.results));
    println!("every value: {}", results_file().display());
    if !run.failures.is_empty() {
        return Err(format!("{} measurements failed:\n{}", run.failures.len(), run.failures.join("\n")));
    }
    if arguments.keep { keep(run.ratios()) } else { told.map(|compared| println!("{compared}")) }
}

struct Run<'a> {
    arguments: &'a Arguments,
    descriptors: u64,
    machine: Value,
    candidates: Vec<Candidate>,
    rows: Vec<&'static Row>,
    figures: Vec<Figure>,
    around: Surroundings,
    results: Results,
    failures: Vec<String>,
    done: usize,
}

impl<'a> Run<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self, String> {
        let wanted = |row: &&Row| row.figures.iter().any(|figure| arguments.wants(figure.row));
        let rows: Vec<&Row> = ROWS.into_iter().filter(wanted).collect();
        let mut figures: Vec<Figure> = rows.iter().flat_map(|row| row.figures).copied().collect();
        if !arguments.judges() {
            figures.iter_mut().for_each(|figure| figure.targets = &[]);
        }
        Ok(Self {
            arguments,
            descriptors: raise_descriptor_limit(),
            machine: machine::about(),
            candidates: taking_part(arguments)?,
            rows,
            figures,
            around: Surroundings::start(arguments.scale())?,
            results: Results::default(),
            failures: Vec::new(),
            done: 0,
        })
    }

    fn names(&self) -> Vec<String> {
        self.candidates.iter().map(|one| one.name.clone()).collect()
    }

    fn print_head(&self) {
        println!("machine: {}", self.machine);
        println!("descriptors of a process: {}", self.descriptors);
        versions(&self.candidates).iter().for_each(|(name, version)| println!("{name}: {version}"));
        println!("{:?}\n", self.around.scale);
    }

    /// As many rounds as are asked for.
    fn rounds(&mut self) {
        for _ in 0..self.arguments.rounds() {
            self.results.next_round();
            for row in self.rows.clone() {
                let turns = turns(&self.candidates, row.contenders, self.done);
                turns.iter().for_each(|candidate| self.turn(row, candidate));
            }
            self.done += 1;
            // So that a run that is broken off was not in vain.
            if let Err(error) = self.write_results() {
                self.failures.push(error);
            }
        }
    }

    fn turn(&mut self, row: &Row, candidate: &Candidate) {
        let of = format!("round {}, row {}, {}", self.done + 1, row.figures[0].row, candidate.name);
        match guarded(|| (row.measure)(&self.around, candidate)) {
            Ok(values) => {
                println!("{of}: {}", shown(row, &values));
                values.iter().for_each(|(id, value)| self.results.add(id, &candidate.name, *value));
            }
            Err(error) => {
                println!("{of}: FAILED: {error}");
                self.failures.push(format!("{of}: {error}"));
            }
        }
    }

    fn ratios(&self) -> Ratios {
        kept::ratios(&self.figures, &self.results)
    }

    /// Whether ratios are held against those that are kept.
    fn compares(&self) -> bool {
        self.arguments.quick && self.arguments.bench && !self.arguments.keep
    }

    /// Whether ratios are as good as those that are kept, as far as such a short run can say.
    fn judge(&self) -> Result<String, String> {
        if !self.compares() {
            return Ok(String::new());
        }
        let (losses, compared) = kept::losses(&self.figures, &read_kept()?, &self.ratios());
        if losses.is_empty() {
            return Ok(format!("{compared} ratios compared with those kept; none is grossly worse"));
        }
        Err(format!("far worse than what is kept in {}:\n{}", kept_file().display(), losses.join("\n")))
    }

    fn write_results(&self) -> Result<(), String> {
        let results = json!({
            "machine": self.machine,
            "versions": versions(&self.candidates),
            "descriptors": self.descriptors,
            "options": self.arguments,
            "rounds": self.done,
            "scale": self.around.scale,
            "values": self.results.to_json(),
            "ratios": self.ratios(),
            "failures": self.failures,
        });
        write(&results_file(), &results)
    }
}

/// Which version each of them is.
pub fn versions(candidates: &[Candidate]) -> BTreeMap<&str, String> {
    candidates.iter().map(|one| (one.name.as_str(), machine::version(one))).collect()
}

/// Those that can do the work, in the order of this round: another one is the first in each.
pub fn turns(candidates: &[Candidate], able: &[Kind], round: usize) -> Vec<Candidate> {
    let mut turns: Vec<Candidate> = candidates.iter().filter(|one| able.contains(&one.kind)).cloned().collect();
    let first = round % turns.len().max(1);
    turns.rotate_left(first);
    turns
}

/// The contenders that are asked for, and here.
pub fn taking_part(arguments: &Arguments) -> Result<Vec<Candidate>, String> {
    let mut candidates = arguments.candidates()?;
    // In CI nobody may be left out unnoticed.
    let must_have_all = env::var_os("CI").is_some_and(|value| value == "true");
    if arguments.contenders.is_empty() {
        // Peers are not what `cargo test` is about, and whoever cannot have them compares what is here.
        candidates.retain(|one| match one.kind {
            Kind::Gatepost => true,
            Kind::Direct => !arguments.quick,
            _ if !arguments.bench || (arguments.quick && NOT_QUICK.contains(&one.kind)) => false,
            _ => must_have_all || is_here(one),
        });
    }
    match candidates.iter().find(|one| !is_here(one)) {
        Some(missing) => Err(format!("{} is not here: benches/run brings it, as root on Debian 12", missing.name)),
        None => Ok(candidates),
    }
}

fn is_here(candidate: &Candidate) -> bool {
    let peer = match candidate.kind {
        Kind::Gatepost | Kind::Direct => return true,
        Kind::Postscreen => Peer::Postfix,
        Kind::Haproxy => Peer::Haproxy,
        Kind::Nginx => Peer::Nginx,
    };
    peer.missing().is_none_or(|missing| {
        eprintln!("without {}: {missing}", candidate.name);
        false
    })
}

/// One measurement. A host that cannot go on panics; that is a failure of this measurement alone.
pub fn guarded<T>(measure: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let before = machine::overflows();
    let measured = catch_unwind(AssertUnwindSafe(measure));
    let overflows = machine::overflows() - before;
    if overflows > 0 {
        println!(
            "note: {overflows} connections came when the queue for accept (somaxconn, backlog) was full, and again later"
        );
    }
    measured.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
    })
}

fn shown(row: &Row, values: &Values) -> String {
    let show = |figure: &Figure| {
        let (_, value) = values.iter().find(|(id, _)| *id == figure.id)?;
        Some(format!("{} {}", figure.label, figure.unit.show(*value)))
    };
    row.figures.iter().filter_map(show).collect::<Vec<_>>().join("; ")
}

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn results_file() -> PathBuf {
    root().join("target/compare/results.json")
}

fn kept_file() -> PathBuf {
    root().join("benches/compare/kept.json")
}

/// Writes a value as JSON; folders that are missing are made.
pub fn write(file: &Path, value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(file, text + "\n"))
        .map_err(|error| format!("{}: {error}", file.display()))
}

fn read_kept() -> Result<Ratios, String> {
    let file = kept_file();
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

/// Those that were not measured now stay as they are.
fn keep(ratios: Ratios) -> Result<(), String> {
    let mut kept = read_kept().unwrap_or_default();
    for (figure, ratios) in ratios {
        kept.entry(figure).or_default().extend(ratios);
    }
    write(&kept_file(), &kept)?;
    println!("kept: {}", kept_file().display());
    Ok(())
}
