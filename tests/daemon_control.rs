//! What operators ask of a running gatepost, and change, through its socket: by the program itself, as they would.

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
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use daemon::{Mx, address, backend};
use host::backend::Backend;
use host::dialogue::Dialogue;
use host::gate::{Gate, program};
use host::letter::Letter;
use host::ports::free_address;
use host::process::{Process, public_dir};
use host::wait;

/// EX_DATAERR, EX_UNAVAILABLE and EX_NOPERM.
const INPUT: i32 = 65;
const UNAVAILABLE: i32 = 69;
const PERMISSION: i32 = 77;

/// A gate with a socket beside its file.
fn start(mx: &Mx) -> Gate {
    Gate::start(|place| with_socket(&mx.at(place), &place.dir.join("s").display().to_string()))
}

fn with_socket(text: &str, path: &str) -> String {
    format!("{text}\n[control]\nsocket = \"{path}\"\n")
}

fn socket(gate: &Gate) -> PathBuf {
    gate.dir().join("s")
}

fn command(gate: &Gate, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(arguments).env("GATEPOST_CONFIG", gate.dir().join("gatepost.toml")).env_remove("GATEPOST_SOCKET");
    command
}

fn said(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("an exit code"), text)
}

/// What the program says, and its exit code.
fn try_ask(gate: &Gate, arguments: &[&str]) -> (i32, String) {
    said(&command(gate, arguments).output().unwrap())
}

/// What the program says; it has to succeed.
#[track_caller]
fn ask(gate: &Gate, arguments: &[&str]) -> String {
    let (code, text) = try_ask(gate, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

#[track_caller]
fn ask_json(gate: &Gate, arguments: &[&str]) -> Value {
    let text = ask(gate, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

/// What the program says of what is given to it.
fn feed(gate: &Gate, arguments: &[&str], text: &str) -> (i32, String) {
    use std::io::Write;
    let mut command = command(gate, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    said(&child.wait_with_output().unwrap())
}

/// Whether the door is closed to a client without a word.
fn is_shut_out(client: Ipv4Addr, gate: &Gate) -> bool {
    let Ok(mut dialogue) = Dialogue::try_from(client, gate.smtp()) else { return true };
    !matches!(dialogue.line(), Ok(Some(_)))
}

fn mx(backend: &Backend) -> Mx {
    Mx::before(backend).waiting("100ms", "500ms")
}

#[test]
fn a_ban_counts_from_the_next_connection_on_and_so_does_its_end() {
    let backend = backend();
    let gate = start(&mx(&backend));
    let client = address(1).to_string();
    assert_eq!(fs::metadata(socket(&gate)).unwrap().permissions().mode() & 0o777, 0o660);
    let status = ask_json(&gate, &["status"]);
    assert_eq!((&status["ready"], &status["gates"][0]["presence"]), (&json!(true), &json!("there")));
    assert!(ask(&gate, &["status"]).contains("takes mail"));
    assert!(ask(&gate, &["bans"]).contains("nobody"));

    assert!(!is_shut_out(address(1), &gate));
    ask(&gate, &["ban", &client, "--for", "1h", "--note", "guesses passwords"]);
    assert!(is_shut_out(address(1), &gate), "the door is closed");
    assert!(!is_shut_out(address(2), &gate), "to nobody else");
    let bans = ask_json(&gate, &["bans"]);
    let ban = &bans["bans"][0];
    assert_eq!(
        (&ban["network"], &ban["reason"], &ban["evidence"]),
        (&json!(client), &json!("operator"), &json!("guesses passwords"))
    );
    assert_eq!((&ban["knocks"], ban["remaining"].as_u64().unwrap() <= 3600), (&json!(1), true));
    let explained = ask(&gate, &["explain", &client]);
    for words in ["BANNED", "guesses passwords", "1 knocks", "left", "gatepost unban", "gate mx (backend"] {
        assert!(explained.contains(words), "{words}\n{explained}");
    }

    ask(&gate, &["ban", "127.1.0.0/24"]);
    let lifted = ask(&gate, &["unban", &client]);
    assert!(lifted.contains("lifted: the ban") && lifted.contains("STILL BANNED with 127.1.0.0/24"), "{lifted}");
    assert!(is_shut_out(address(1), &gate));
    ask(&gate, &["unban", "127.1.0.0/24"]);
    assert!(!is_shut_out(address(1), &gate), "it is open again");

    // An allowance beats the ban of its neighbourhood, and spares the tests.
    ask(&gate, &["ban", "127.1.0.0/24"]);
    ask(&gate, &["allow", &address(3).to_string()]);
    assert_eq!(Dialogue::from(address(3), gate.smtp()).expect("220"), "220 mx.test ESMTP\n");
    assert!(is_shut_out(address(4), &gate));
    gate.stop();
}

#[test]
fn a_visit_is_explained_by_its_id_and_a_client_by_what_it_did() {
    let backend = backend();
    let gate = start(&mx(&backend));
    let mut early = Dialogue::from(address(1), gate.smtp());
    early.send("EHLO too-early.example\r\n");
    early.read_all();
    let record = gate.wait_for_record(daemon::from(address(1)));
    let id = record["visit"].as_str().unwrap();
    assert_eq!(ask_json(&gate, &["explain", id]), record);
    let words = ask(&gate, &["explain", &id.to_lowercase()]);
    assert!(words.contains("failed    pregreet (drop)") && words.contains("never touched"), "{words}");
    let (code, words) = try_ask(&gate, &["explain", "00000-00000"]);
    assert!(code == UNAVAILABLE && words.contains("journalctl"), "{words}");

    let mut honest = Dialogue::from(address(2), gate.smtp());
    honest.expect("220");
    honest.deliver(&Letter::short());
    gate.wait_for_record(daemon::from(address(2)));
    let known = ask_json(&gate, &["explain", &address(2).to_string()]);
    assert!(known["standing"].as_array().unwrap().iter().all(|passed| passed["holds"] == true), "{known}");
    assert_eq!((&known["visits"][0]["accepted"], &known["decision"]), (&json!(1), &Value::Null));
    gate.stop();
}

#[test]
fn what_is_wrong_is_said_with_a_remedy_and_an_exit_code() {
    let backend = backend();
    let gate = start(&mx(&backend));
    for (arguments, code, words) in [
        (&["ban", "10.0.0.1/8"][..], INPUT, "write 10.0.0.0/8 for the network"),
        (&["ban", "example.org"], INPUT, "write an address or a network"),
        (&["ban", "192.0.2.7", "--for", "soon"], INPUT, "12h"),
        (&["ban", "127.0.0.1"], INPUT, "never banned"),
        (&["bans", "--limit", "5000"], INPUT, "limit=1000"),
        (&["status", "--socket", "/nowhere/s"], UNAVAILABLE, "systemctl status gatepost"),
        (&["explain", "nobody"], 64, "the id of a visit"),
    ] {
        let (is, text) = try_ask(&gate, arguments);
        assert!(is == code && text.contains(words), "{arguments:?}: {is} {text}");
    }
    // Another user, who is in no group of ours.
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program().get_program());
    let (code, text) = said(&other.args(["status", "--socket"]).arg(socket(&gate)).output().unwrap());
    assert!(code == PERMISSION && text.contains("group"), "{code} {text}");
    gate.stop();
}

#[test]
fn a_socket_is_one_gateposts_alone_and_outlives_no_kill() {
    let backend = backend();
    let gate = start(&mx(&backend));
    let path = socket(&gate);
    // Another one finds it in use, and takes nothing away.
    let dir = public_dir();
    let text = mx(&backend).text(&[free_address()], free_address());
    let file = dir.path().join("gatepost.toml");
    fs::write(&file, with_socket(&text, &path.display().to_string())).unwrap();
    let mut second = Process::start("gatepost", program().args(["run", "-c"]).arg(&file), dir.path());
    let status = wait::until("the second one to give up", || second.ended());
    assert_eq!(status.code(), Some(UNAVAILABLE));
    assert!(second.stderr().contains("is in use: another gatepost runs"), "{}", second.stderr());
    ask(&gate, &["status"]);

    // A reload leaves it alone; the same path is taken again after a kill, and gone after a stop.
    let again = with_socket(&mx(&backend).again(&gate), &path.display().to_string());
    gate.reload(&again);
    wait::until("the reload", || gate.complaints().contains("is in force").then_some(()));
    ask(&gate, &["ban", "192.0.2.7"]);
    gate.signal(Signal::KILL);
    let kept = public_dir();
    let left = kept.path().join("s");
    fs::rename(&path, &left).unwrap();
    gate.wait_for_end();
    assert!(left.exists(), "a kill leaves it");
    let third = Gate::start(|place| with_socket(&mx(&backend).at(place), &left.display().to_string()));
    assert_eq!(ask_json(&third, &["status"])["ready"], true);
    third.stop();
    assert!(!left.exists());
}

#[test]
fn what_is_exported_is_brought_in_elsewhere() {
    let backend = backend();
    let (one, other) = (start(&mx(&backend)), start(&Mx::before(&backend).waiting("40s", "50s")));
    let mut honest = Dialogue::from(address(1), one.smtp());
    honest.expect("220");
    honest.deliver(&Letter::short());
    one.wait_for_record(daemon::from(address(1)));
    ask(&one, &["ban", &address(2).to_string(), "--note", "says \"hello\""]);
    let state = ask(&one, &["state", "export"]);
    assert!(state.contains("\"kind\":\"standing\"") && state.contains("\"pregreet\""), "{state}");

    let (code, told) = feed(&other, &["state", "import", "-"], &format!("{state}rubbish\n"));
    assert!(code == INPUT && told.contains("2 taken in") && told.contains("entry 3: not an entry"), "{told}");
    let (code, told) = feed(&other, &["state", "import", "-"], &state);
    assert_eq!(code, 0, "{told}");
    assert_eq!(Dialogue::from(address(1), other.smtp()).expect("220"), "220 mx.test ESMTP\n", "known there too");
    assert!(is_shut_out(address(2), &other));
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(ask(&other, &["state", "export"])), sorted(state));
    one.stop();
    other.stop();
}

#[test]
fn the_state_of_a_gatepost_that_does_not_run_is_in_its_file() {
    let backend = backend();
    let file = |place: &std::path::Path| format!("[ledger]\npath = \"{}\"", place.join("ledger").display());
    let gate = Gate::start(|place| {
        let text = mx(&backend).section(&file(place.dir)).at(place);
        with_socket(&text, &place.dir.join("s").display().to_string())
    });
    ask(&gate, &["ban", "192.0.2.7"]);
    let running = ask(&gate, &["state", "export"]);
    gate.signal(Signal::TERM);
    wait::until("gatepost to be gone", || (!socket(&gate).exists()).then_some(()));
    let kept = || {
        let output = command(&gate, &["state", "export"]).output().unwrap();
        (output.status.success() && !output.stdout.is_empty()).then(|| String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(wait::until("the file to be let go", kept), running);

    let other = running.replace("192.0.2.7", "192.0.2.8");
    let (code, told) = feed(&gate, &["state", "import", "-"], &other);
    assert!(code == 0 && told.contains("1 taken in") && told.contains("none runs"), "{told}");
    assert_eq!(kept().unwrap(), running + &other);
}

#[test]
fn clients_of_a_postscreen_cache_need_not_wait() {
    let backend = backend();
    let gate = start(&Mx::before(&backend).waiting("40s", "50s"));
    let later = (SystemTime::now() + Duration::from_secs(3600)).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let cache = format!(
        "{}\t{later};{later};{later};{later};{later}\n{}\t{later};1;1;1;1\n{}\t1;2;3;4;5\n\
         _LAST_CACHE_CLEANUP_COMPLETED_\t1700000000\nnobody\t1;2;3;4;5\n",
        address(1),
        address(2),
        address(3),
    );
    let (code, told) = feed(&gate, &["state", "import", "--postscreen", "-"], &cache);
    assert_eq!(code, INPUT, "{told}");
    assert!(told.contains("3 entries: 2 taken in, 1 had expired") && told.contains("line 5: \"nobody\""), "{told}");
    for n in [1, 2] {
        assert_eq!(Dialogue::from(address(n), gate.smtp()).expect("220"), "220 mx.test ESMTP\n");
    }
    let mut stranger = Dialogue::from(address(3), gate.smtp());
    stranger.expect_line("220-");
    gate.stop();
}
