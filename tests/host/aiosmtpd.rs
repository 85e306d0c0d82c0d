//! aiosmtpd, the SMTP server library of Python, to stand behind a gate: as lenient with line ends in mail data as it was
//! before that became CVE-2024-27305. What it takes it keeps; see [`super::scripted`].

use std::path::Path;
use std::process::Command;

use super::scripted::Scripted;

/// Starts an instance; it greets on its plain port when this returns.
#[track_caller]
pub fn start() -> Scripted {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/serve_aiosmtpd.py");
    Scripted::start("aiosmtpd", |plain, proxied| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(&script).args([plain, proxied].map(|at| at.port().to_string()));
        command
    })
}
