//! What is asked for on the command line.

use std::path::PathBuf;

use clap::Parser;
use serde::Serialize;

use super::contenders::{Candidate, Kind};
use super::growth::Sizes;
use super::rows::Scale;

/// The last row of a short run.
const QUICK_ROWS: u8 = 6;

/// The last row of a tiny one: the next takes its time however little is done.
const TINY_ROWS: u8 = 10;

/// gatepost beside postscreen, HAProxy and nginx, doing the same work in turns on one machine.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "benches/run", version = None)]
pub struct Arguments {
    /// The rows to measure; all if there are none
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    pub rows: Vec<u8>,
    /// How many rounds; of an odd number the median is one that was seen
    #[arg(long, value_name = "N")]
    pub rounds: Option<u32>,
    /// Who takes part: gatepost, postscreen, haproxy, nginx, direct
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub contenders: Vec<String>,
    /// Another build of gatepost, which gets a column of its own; may be given several times, and as NAME=PATH
    #[arg(long, value_name = "PATH")]
    pub gatepost: Vec<String>,
    /// Small counts, and no judgement but that the ratios are not far worse than those that are kept
    #[arg(long)]
    pub quick: bool,
    /// Keeps the ratios of this run in benches/compare/kept.json; with --growth its values and plots in docs/plots
    #[arg(long)]
    pub keep: bool,
    /// Measures how cost grows with the number of clients and of entries in the ledger, and nothing else: a table, and plots
    #[arg(long, conflicts_with = "rows")]
    pub growth: bool,
    /// Draws the plots of such a run once more, beside the file of its values, and measures nothing
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        default_missing_value = "docs/plots/growth.json",
        conflicts_with_all = ["rows", "growth"]
    )]
    pub draw: Option<PathBuf>,
    /// How long each measured crowd takes, about
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// cargo bench says so
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Arguments {
    /// How many rounds there are.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.bench { 3 } else { 1 })
    }

    /// How much is done in each.
    pub fn scale(&self) -> Scale {
        let scale = match (self.bench, self.quick) {
            (false, _) => Scale::TINY,
            (true, true) => Scale::QUICK,
            (true, false) => Scale::FULL,
        };
        Scale { seconds: self.seconds.unwrap_or(scale.seconds), ..scale }
    }

    /// The same for how cost grows.
    pub fn sizes(&self) -> Sizes {
        match (self.bench, self.quick) {
            (false, _) => Sizes::TINY,
            (true, true) => Sizes::QUICK,
            (true, false) => Sizes::FULL,
        }
    }

    /// Whether growth is to be measured: where it is asked for, and in a tiny run of everything.
    pub fn grows(&self) -> bool {
        self.growth || (!self.bench && self.rows.is_empty())
    }

    /// Whether a row is to be measured.
    pub fn wants(&self, row: u8) -> bool {
        let last = match (self.bench, self.quick) {
            (_, true) => QUICK_ROWS,
            (false, false) => TINY_ROWS,
            (true, false) => u8::MAX,
        };
        if self.rows.is_empty() { row <= last } else { self.rows.contains(&row) }
    }

    /// Whether so much is done that it can be said whether targets are met.
    pub fn judges(&self) -> bool {
        self.bench && !self.quick
    }

    /// Who takes part, in the order of the table.
    pub fn candidates(&self) -> Result<Vec<Candidate>, String> {
        let known = Kind::ALL.map(|kind| kind.to_string());
        if let Some(unknown) = self.contenders.iter().find(|name| !known.contains(name)) {
            return Err(format!("no contender is called {unknown}; there are {}", known.join(", ")));
        }
        let mut candidates = Vec::new();
        for (kind, name) in Kind::ALL.into_iter().zip(known) {
            if self.contenders.is_empty() || self.contenders.contains(&name) {
                candidates.push(Candidate { name, kind, program: None });
            }
            if kind == Kind::Gatepost {
                candidates.extend(self.gatepost.iter().enumerate().map(|(at, text)| other_build(at, text)));
            }
        }
        match candidates.iter().find_map(|candidate| candidate.program.as_ref().filter(|program| !program.is_file())) {
            Some(missing) => Err(format!("there is no {}", missing.display())),
            None => Ok(candidates),
        }
    }
}

fn other_build(at: usize, text: &str) -> Candidate {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name.to_owned(), path),
        None => (format!("other{}", at + 1), text),
    };
    Candidate { name, kind: Kind::Gatepost, program: Some(PathBuf::from(path)) }
}
