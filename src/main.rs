//! The `gatepost` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    gatepost::cli::main()
}
