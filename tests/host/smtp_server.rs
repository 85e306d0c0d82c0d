//! smtp-server, the SMTP server of nodemailer's makers, to stand behind a gate. What it takes it keeps; see
//! [`super::scripted`].

use std::path::Path;
use std::process::Command;

use super::peers::{node, tree};
use super::scripted::Scripted;

/// Starts an instance; it greets on its plain port when this returns.
#[track_caller]
pub fn start() -> Scripted {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/serve_smtp_server.js");
    Scripted::start("smtp-server", |plain, proxied| {
        let mut command = Command::new(node());
        command.arg(&script).arg(tree("node").join("node_modules/smtp-server"));
        command.args([plain, proxied].map(|at| at.port().to_string()));
        command
    })
}
