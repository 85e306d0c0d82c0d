//! A gate that connects to its backend from clients' addresses, on a host of its own.

use std::path::Path;
use std::process::Command;

use crate::host::gate::{Gate, Place, program};
use crate::host::network::{Inside, Network};

/// A gate on its host, with no more rights than the manual gives it (and the one to read what is root's anyway).
#[track_caller]
pub fn gate(network: &Network, file: impl Fn(&Place<'_>) -> String + Send) -> Inside<'_, Gate> {
    let run = |file: &Path, _: &Path| {
        let mut run = Command::new("setpriv");
        run.arg("--bounding-set=-all,+net_bind_service,+net_raw,+dac_override");
        run.arg(program().get_program()).args(["run", "-c"]).arg(file);
        network.gate.command(&run)
    };
    network.gate.keep(|| Gate::start_by(file, run))
}
