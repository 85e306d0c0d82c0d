//! What a run was made on, and with.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::contenders::{Candidate, Kind};
use crate::host::gate::program;
use crate::host::peers;

/// The machine.
pub fn about() -> Value {
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": line_of("/proc/cpuinfo", "model name").unwrap_or_default(),
        "memory": line_of("/proc/meminfo", "MemTotal").unwrap_or_default(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "somaxconn": read("/proc/sys/net/core/somaxconn"),
    })
}

/// The version of a contender.
pub fn version(candidate: &Candidate) -> String {
    let package = match candidate.kind {
        Kind::Gatepost => return told(&mut candidate.program.as_ref().map_or_else(program, Command::new)),
        Kind::Postscreen => "postfix",
        Kind::Haproxy => "haproxy",
        Kind::Nginx => "nginx",
        Kind::Direct => return String::new(),
    };
    // The second line of the stamp that tests/run leaves.
    let stamp = fs::read_to_string(peers::tree(package).join(".unpacked")).unwrap_or_default();
    stamp.lines().nth(1).unwrap_or("unknown").to_owned()
}

fn told(program: &mut Command) -> String {
    let output = program.arg("--version").output();
    output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// How often the kernel has dropped a connection because nobody accepted it in time, since the machine began. Such a client
/// comes again after a second, which spoils what is measured.
pub fn overflows() -> u64 {
    overflows_in(&fs::read_to_string("/proc/net/netstat").unwrap_or_default()).unwrap_or_default()
}

fn overflows_in(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let at = lines.next()?.split(' ').position(|name| name == "ListenOverflows")?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

fn line_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
