//! gatepost beside Debian's postscreen, HAProxy and nginx, end to end: they do the same work in turns on one machine, and a
//! table says how they compare, and whether gatepost reaches what it must.
//!
//! `benches/run` brings the programs and starts it; `benches/run --help` tells what it can be asked. What comes of it goes to
//! standard output, and with every single value to `target/compare/results.json`. It fails if anything went wrong: each reply
//! is checked, and each contender's own count where it has one.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`arguments`] | the command line |
//! | [`rows`] | the kinds of work, one file each |
//! | [`contenders`] | the programs, one file each |
//! | [`load`], [`sink`] | clients and mail server: this program again, in processes of their own |
//! | [`usage`], [`machine`] | what `/proc` tells |
//! | [`figures`] | medians, ratios, the table, the ratios that are kept, and plots |
//! | [`growth`] | how cost grows, with `--growth` |
//!
//! `cargo test --benches` runs a tiny round of it with gatepost and without its peers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "it is no daemon")]
#![allow(unreachable_pub, missing_docs, reason = "it is no library")]
#![allow(
    dead_code,
    unused_imports,
    reason = "cargo compiles unit tests here and leaves them out: tests/compare.rs has them"
)]

#[path = "../../tests/host/mod.rs"]
mod host;

mod arguments;
mod contenders;
mod figures;
mod growth;
mod load;
mod machine;
mod process;
mod rows;
mod run;
mod sink;
mod usage;

use std::env;
use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;

fn perform(arguments: &Arguments) -> Result<(), String> {
    if let Some(values) = &arguments.draw {
        return growth::draw_again(values);
    }
    if !arguments.growth {
        run::run(arguments)?;
    }
    if arguments.grows() { growth::run(arguments) } else { Ok(()) }
}

fn main() -> ExitCode {
    let told = match env::args().nth(1).as_deref() {
        Some("sink") => sink::run().map_err(|error| format!("sink: {error}")),
        Some("load") => load::run().map_err(|error| format!("load: {error}")),
        Some("ledger") => {
            growth::ledger_child(&env::args().skip(2).collect::<Vec<_>>()).map_err(|error| format!("ledger: {error}"))
        }
        _ => perform(&Arguments::parse()),
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
