//! The daemon among the things around it: signals, systemd, and whoever watches.

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
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use daemon::{Mx, address, assert_says, backend, from, visits};
use host::dialogue::{Dialogue, stuffed};
use host::gate::{Gate, program};
use host::letter::Letter;
use host::process::public_dir;
use host::wait::{self, PATIENCE};

/// A client on the allow list as far as the middle of its letter.
fn in_the_middle_of_data(gate: &Gate, letter: &Letter) -> (Dialogue, Vec<u8>) {
    let mut client = Dialogue::from(address(0), gate.smtp());
    client.expect("220");
    client.say("EHLO client.test").expect("250");
    client.say(&format!("MAIL FROM:<{}>", letter.from)).expect("250");
    client.say(&format!("RCPT TO:<{}>", letter.to[0])).expect("250");
    client.say("DATA").expect("354");
    let mut wire = stuffed(&letter.bytes);
    let rest = wire.split_off(wire.len() / 2);
    client.send(wire);
    (client, rest)
}

fn drains(gate: &Gate) {
    wait::until("gatepost to drain", || (gate.get("/ready") == (503, "draining\n".to_owned())).then_some(()));
}

#[test]
fn told_to_stop_it_lets_nobody_in_and_everybody_finish() {
    let backend = backend();
    let mut gate = Mx::before(&backend).waiting("200ms", "200ms").allowing("127.1.0.1").top("drain = \"25s\"").start();
    let letter = Letter::saying(&b"a line that takes its time\r\n".repeat(1000));
    let (mut sending, rest) = in_the_middle_of_data(&gate, &letter);
    let mut idle = Dialogue::from(address(0), gate.smtp());
    idle.expect("220");
    idle.say("EHLO client.test").expect("250");
    let mut talking = Dialogue::from(address(2), gate.smtp());
    talking.expect("220");
    talking.say("EHLO client.test").expect("250");
    // Now that it has been greeted, others wait for longer.
    gate.reload(&Mx::before(&backend).waiting("60s", "60s").allowing("127.1.0.1").top("drain = \"25s\"").again(&gate));
    let mut parked = wait::until("the longer wait", || {
        let mut parked = Dialogue::from(address(3), gate.smtp());
        parked.expect_line("220-");
        gate.complaints().contains("is in force").then_some(parked)
    });
    let newest = Dialogue::from(address(4), gate.smtp());
    drop(newest);

    let began = Instant::now();
    gate.signal(Signal::TERM);
    for client in [&mut parked, &mut talking, &mut idle] {
        let reply = client.expect_line("421 4.3.2 ");
        assert!(!reply.is_empty());
        client.expect_close();
    }
    drains(&gate);
    assert_eq!(gate.get("/live").0, 200, "alive all the same");
    assert!(TcpStream::connect(gate.smtp()).is_err(), "nobody is let in");

    // Whoever is in the middle of a letter is not hurried, and its 250 is the backend's.
    sending.expect_silence(Duration::from_millis(300));
    sending.send(rest).expect("250 2.0.0 taken");
    sending.expect_line("421 4.3.2 ");
    sending.expect_close();

    let status = gate.end_within(PATIENCE).expect("the last has left");
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    letter.assert_arrived_once(visits(&backend)[0].messages.iter().map(Vec::as_slice), 0);
    let records = gate.journal();
    let stages = [(address(3), "pregreet"), (address(2), "dialogue"), (address(0), "relay")];
    for (client, stage) in stages {
        let ended = |record: &&Value| from(client)(record) && record["outcome"] == "shutdown";
        let record = records.iter().find(ended).unwrap_or_else(|| panic!("no record of {client} in {records:?}"));
        assert_says(record, &[("stage", json!(stage))]);
    }
    let accepted: u64 = records.iter().filter_map(|record| record["accepted"].as_u64()).sum();
    assert_eq!(accepted, 1);
}

#[test]
fn who_does_not_end_in_time_is_cut_off_and_journalled() {
    let backend = backend();
    let mut gate = Mx::before(&backend).allowing("127.1.0.1").top("drain = \"1s\"").start();
    let (mut sending, _) = in_the_middle_of_data(&gate, &Letter::saying(&b"x\r\n".repeat(1000)));
    let began = Instant::now();
    gate.signal(Signal::TERM);
    let status = gate.end_within(PATIENCE).expect("nobody keeps it");
    assert!(status.success(), "{status}");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(gate.complaints().contains("1 sessions did not end in time"), "{}", gate.complaints());
    // A close or a reset: it must not look like an end of data to anyone.
    assert!(!matches!(sending.line(), Ok(Some(_))), "{}", sending.transcript());
    let seen = backend.wait_for_ends(2);
    assert!(seen.iter().all(|seen| seen.messages.is_empty()), "half a letter was taken for one");
    let records = gate.journal();
    let record = records.iter().find(|record| from(address(0))(record)).expect("it has been here");
    assert_says(record, &[("outcome", json!("shutdown")), ("backend", json!(true)), ("accepted", json!(0))]);
    assert!(record["note"].as_str().unwrap().starts_with("cut off"), "{record}");
}

#[test]
fn told_twice_it_stops_at_once() {
    let backend = backend();
    let mut gate = Mx::before(&backend).allowing("127.1.0.1").top("drain = \"1h\"").start();
    let (_sending, _) = in_the_middle_of_data(&gate, &Letter::short());
    gate.signal(Signal::TERM);
    drains(&gate);
    assert!(gate.end_within(Duration::from_millis(300)).is_none(), "there is somebody inside");
    let began = Instant::now();
    gate.signal(Signal::INT);
    let status = gate.end_within(PATIENCE).expect("told twice");
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_journal_file_that_was_renamed_is_opened_anew() {
    let backend = backend();
    let mx = Mx::before(&backend).access("deny = [\"127.0.0.0/8\"]");
    let gate = Gate::start(|place| {
        let to = place.dir.join("visits.jsonl");
        mx.clone().section(&format!("[journal]\nto = {to:?}")).at(place)
    });
    let (path, rotated) = (gate.dir().join("visits.jsonl"), gate.dir().join("visits.jsonl.1"));
    let visit = |n: u32| Dialogue::from(address(n), gate.smtp()).expect_line("521 ");
    let has = |path: &std::path::Path, n: u32| {
        fs::read_to_string(path).unwrap_or_default().contains(&format!("\"client\":\"{}\"", address(n)))
    };
    visit(1);
    wait::until("the first record", || has(&path, 1).then_some(()));
    fs::rename(&path, &rotated).unwrap();
    visit(2);
    wait::until("the second record, in the old file", || has(&rotated, 2).then_some(()));
    gate.signal(Signal::USR1);
    wait::until("the new file", || path.exists().then_some(()));
    visit(3);
    wait::until("the third record, in the new file", || has(&path, 3).then_some(()));
    assert!(!has(&rotated, 3) && !has(&path, 1));
    assert_eq!(gate.metric("gatepost_journal_lost_total", &[]), Some(0.0));
    gate.stop();
}

/// systemd's side of the conversation. It never stops reading: who talks to it waits until it has.
struct Systemd {
    messages: mpsc::Receiver<String>,
    dir: tempfile::TempDir,
}

impl Systemd {
    fn new() -> Self {
        let dir = public_dir();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let (to, messages) = mpsc::channel();
        thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                if to.send(String::from_utf8_lossy(&message[..length]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { messages, dir }
    }

    /// Starts a gate that has to say every 200 ms that it is alive.
    fn start(&self, mx: &Mx) -> Gate {
        Gate::start_by(
            |place| mx.at(place),
            |file, _| {
                let mut command = program();
                command.args(["run", "-c"]).arg(file);
                command.env("NOTIFY_SOCKET", self.dir.path().join("notify")).env("WATCHDOG_USEC", "200000");
                command
            },
        )
    }

    /// The next message.
    fn hear(&self) -> String {
        self.messages.recv_timeout(PATIENCE).expect("a message for systemd")
    }

    /// The next message that is no sign of life.
    fn hear_news(&self) -> String {
        wait::until("news for systemd", || Some(self.hear()).filter(|message| message.trim() != "WATCHDOG=1"))
    }

    /// Takes all that was said so far.
    fn forget(&self) {
        self.messages.try_iter().for_each(drop);
    }
}

fn has_line(message: &str, line: &str) -> bool {
    message.lines().any(|one| one == line)
}

#[test]
fn systemd_hears_of_every_change() {
    let systemd = Systemd::new();
    let backend = backend();
    let mx = Mx::before(&backend).allowing("127.1.0.1");
    let mut gate = systemd.start(&mx);
    assert!(has_line(&systemd.hear_news(), "READY=1"));
    wait::until("a sign of life", || has_line(&systemd.hear(), "WATCHDOG=1").then_some(()));

    for text in [mx.again(&gate), "nonsense".to_owned()] {
        gate.reload(&text);
        let reloading = systemd.hear_news();
        assert!(has_line(&reloading, "RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
        assert!(has_line(&systemd.hear_news(), "READY=1"), "ready again, whatever became of the file");
    }

    let letter = Letter::short();
    let (mut sending, rest) = in_the_middle_of_data(&gate, &letter);
    gate.signal(Signal::TERM);
    assert!(has_line(&systemd.hear_news(), "STOPPING=1"));
    systemd.forget();
    // Who is still inside must not be killed because nobody said that all is well.
    for _ in 0..3 {
        assert!(has_line(&systemd.hear(), "WATCHDOG=1"));
    }
    sending.send(rest).expect("250 2.0.0 taken");
    assert!(gate.end_within(PATIENCE).expect("the last has left").success());
}

#[test]
fn signals_that_come_while_it_stops_do_not_kill_it() {
    let backend = backend();
    let mx = Mx::before(&backend).allowing("127.1.0.1");
    let gate = Gate::start(|place| {
        mx.clone().section(&format!("[journal]\nto = {:?}", place.dir.join("visits.jsonl"))).at(place)
    });
    let (path, rotated) = (gate.dir().join("visits.jsonl"), gate.dir().join("visits.jsonl.1"));
    let (mut sending, rest) = in_the_middle_of_data(&gate, &Letter::short());
    gate.signal(Signal::TERM);
    drains(&gate);
    fs::rename(&path, &rotated).unwrap();
    gate.signal(Signal::HUP);
    gate.signal(Signal::USR1);
    wait::until("the new file", || path.exists().then_some(()));
    wait::until("a word on the file", || gate.complaints().contains("not read again").then_some(()));
    sending.send(rest).expect("250 2.0.0 taken");
    sending.expect_line("421 ");
    wait::until("the record, in the new file", || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')));
    gate.stop();
}

#[test]
fn whoever_watches_is_told_how_it_stands() {
    let backend = backend();
    let gate = Mx::before(&backend).allowing("127.1.0.1").start();
    assert_eq!(gate.get("/live"), (200, "live\n".to_owned()));
    assert_eq!(gate.get("/ready"), (200, "ready\n".to_owned()));
    let (status, metrics) = gate.get("/metrics");
    assert_eq!(status, 200);
    for name in ["gatepost_build_info{", "gatepost_sessions{gate=\"mx\",state=\"parked\"} 0\n", "process_open_fds "] {
        assert!(metrics.contains(name), "{name}");
    }
    assert_eq!(gate.get("/nowhere").0, 404);

    let sessions = |state| gate.metric("gatepost_sessions", &[("state", state)]);
    let mut stranger = Dialogue::from(address(2), gate.smtp());
    stranger.expect_line("220-");
    stranger.expect_line("220 ");
    wait::until("a session in its dialogue", || (sessions("dialogue") == Some(1.0)).then_some(()));
    let mut known = Dialogue::from(address(0), gate.smtp());
    known.expect("220");
    wait::until("a session in the relay", || (sessions("relay") == Some(1.0)).then_some(()));
    drop((stranger, known));
    wait::until("nobody to be there", || {
        ["parked", "dialogue", "relay"].iter().all(|state| sessions(state) == Some(0.0)).then_some(())
    });
}
