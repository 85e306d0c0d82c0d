//! Starts that cannot be: the program ends at once, with an exit code and words that say what would mend it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use rustix::process::geteuid;

use daemon::{Mx, backend};
use host::backend::Backend;
use host::gate::program;
use host::ports::free_address;
use host::process::{Process, public_dir};
use host::wait;

/// EX_UNAVAILABLE.
const UNAVAILABLE: i32 = 69;
/// EX_CONFIG.
const CONFIG: i32 = 78;

/// Runs `command` with this file until it ends, and says how it ended and what it said.
#[track_caller]
fn run(mut command: Command, text: &str) -> (i32, String) {
    let dir = public_dir();
    let file = dir.path().join("gatepost.toml");
    fs::write(&file, text).unwrap();
    let mut process = Process::start("gatepost", command.args(["run", "-c"]).arg(&file), dir.path());
    let status = wait::until("gatepost to give up", || process.ended());
    assert_eq!(process.stdout(), "", "standard output is the journal's");
    (status.code().unwrap(), process.stderr())
}

/// A file for a gate at `listen`.
fn file(backend: &Backend, listen: SocketAddr) -> String {
    Mx::before(backend).text(&[listen], free_address())
}

#[test]
fn an_address_that_is_taken() {
    let (backend, taken) = (backend(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap();
    let (code, said) = run(program(), &file(&backend, address));
    assert_eq!(code, UNAVAILABLE, "{said}");
    assert!(said.contains(&format!("cannot listen at {address}")), "{said}");
    assert!(said.contains("ss -ltnp") && said.contains("move the MTA"), "{said}");
    // The backend was not bothered, and nothing was served meanwhile.
    assert_eq!(backend.connections(), 0);
}

#[test]
fn an_admin_address_that_is_taken_is_told_as_such() {
    let (backend, taken) = (backend(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap();
    let (code, said) = run(program(), &Mx::before(&backend).text(&[free_address()], address));
    assert_eq!(code, UNAVAILABLE, "{said}");
    assert!(said.contains(&address.to_string()) && said.contains("`admin`"), "{said}");
    assert!(said.contains("ss -ltnp") && !said.contains("MTA"), "{said}");
}

#[test]
fn an_address_of_another_machine() {
    let (code, said) = run(program(), &file(&backend(), "192.0.2.1:25".parse().unwrap()));
    assert_eq!(code, UNAVAILABLE, "{said}");
    assert!(said.contains("192.0.2.1:25") && said.contains("does not have that address"), "{said}");
}

#[test]
fn a_port_that_needs_a_permission() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if first.trim().parse::<u16>().is_ok_and(|first| first <= 1) {
        println!("SKIPPED: every port is everybody's on this machine");
        return;
    }
    let mut command = program();
    if geteuid().is_root() {
        command = Command::new("setpriv");
        command.arg("--bounding-set=-net_bind_service").arg(program().get_program());
    }
    let (code, said) = run(command, &file(&backend(), "127.0.0.1:1".parse().unwrap()));
    assert_eq!(code, UNAVAILABLE, "{said}");
    assert!(said.contains("127.0.0.1:1:") && said.contains("CAP_NET_BIND_SERVICE"), "{said}");
}

#[test]
fn a_journal_that_cannot_be_written() {
    let text = Mx::before(&backend())
        .section("[journal]\nto = \"/nonexistent/gatepost/visits.jsonl\"")
        .text(&[free_address()], free_address());
    let (code, said) = run(program(), &text);
    assert_eq!(code, UNAVAILABLE, "{said}");
    assert!(said.contains("/nonexistent/gatepost/visits.jsonl") && said.contains("`to` in [journal]"), "{said}");
}

#[test]
fn a_file_with_problems() {
    let backend = backend();
    let text = file(&backend, free_address())
        .replace("wait_min", "wait-min")
        .replace(&format!("backend = \"{}\"", backend.address()), "backend = \"nowhere\"");
    let (code, said) = run(program(), &text);
    assert_eq!(code, CONFIG, "{said}");
    // All of them, each with its place and what would be right.
    assert!(said.contains("wait-min") && said.contains("wait_min"), "{said}");
    assert!(said.contains("nowhere") && said.contains("gatepost.toml:"), "{said}");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_file_that_is_not_there() {
    let dir = public_dir();
    let file = dir.path().join("none.toml");
    let mut process = Process::start("gatepost", program().args(["run", "-c"]).arg(&file), dir.path());
    let status = wait::until("gatepost to give up", || process.ended());
    assert_eq!(status.code(), Some(CONFIG), "{}", process.stderr());
    assert!(process.stderr().contains("none.toml"), "{}", process.stderr());
}
