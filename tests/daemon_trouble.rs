//! Trouble that is not the client's: a backend that goes and comes, a system that is short of descriptors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use daemon::{Mx, address, assert_says, backend, from};
use host::backend::Manners;
use host::dialogue::Dialogue;
use host::gate::{Gate, program};
use host::letter::Letter;
use host::wait;

/// What gatepost logs when it cannot accept for want of descriptors.
const SHORT: &str = "Out of descriptors?";

/// A gate that may have 64 descriptors, and cannot raise that.
fn short_of_descriptors(mx: &Mx) -> Gate {
    Gate::start_by(
        |place| mx.at(place),
        |file, _| {
            let mut command = Command::new("sh");
            command.args(["-c", "ulimit -n 64; exec \"$0\" run -c \"$1\""]).arg(program().get_program()).arg(file);
            command
        },
    )
}

#[test]
fn a_backend_that_is_away_is_noticed_and_so_is_its_return() {
    let before = backend();
    let gate = Mx::before(&before).waiting("0s", "1s").allowing("127.1.0.1").gate("name = \"front\"").start();
    wait::until("the first probe", || (before.wait_for_ends(1).len() == 1).then_some(()));
    let address_of_backend = before.address();
    drop(before);
    wait::until("the backend to be gone", || TcpStream::connect(address_of_backend).is_err().then_some(()));

    let mut known = Dialogue::from(address(0), gate.smtp());
    known.expect_line("421 4.3.2 mx.example.test ");
    known.expect_close();
    let mut stranger = Dialogue::from(address(2), gate.smtp());
    stranger.expect("220");
    // What it offered when it was there is still known.
    assert!(stranger.say("EHLO client.test").expect("250").contains("SIZE"));
    stranger.say("MAIL FROM:<bob@example.org>").expect("250");
    stranger.say("RCPT TO:<alice@example.test>").expect_line("421 4.3.2 ");
    stranger.expect_close();
    for client in [address(0), address(2)] {
        let record = gate.wait_for_record(from(client));
        assert_says(&record, &[("outcome", json!("backend-failed")), ("backend", json!(false))]);
    }
    assert_eq!(gate.metric("gatepost_backend_failures_total", &[("kind", "connect")]), Some(2.0));
    let ready = wait::until("it to be noticed", || Some(gate.get("/ready")).filter(|(status, _)| *status == 503));
    assert_eq!(ready.1, "the backend of gate front is away\n");
    assert!(gate.complaints().contains("the backend does not answer"), "{}", gate.complaints());

    // Long before the next probe would be due.
    let _back = Manners::default().behind_proxy().start_at(address_of_backend);
    wait::until("its return to be noticed", || (gate.get("/ready").0 == 200).then_some(()));
    Dialogue::from(address(0), gate.smtp()).expect("220");
    let mut stranger = Dialogue::from(address(2), gate.smtp());
    stranger.expect("220");
    stranger.deliver(&Letter::short());
}

#[test]
fn out_of_descriptors_it_goes_on_and_recovers() {
    let backend = backend();
    let mx = Mx::before(&backend).waiting("1s", "2s");
    let gate = short_of_descriptors(&mx);
    wait::until("the first probe", || (backend.wait_for_ends(1).len() == 1).then_some(()));
    let limit = gate.metric("process_max_fds", &[]).unwrap();
    assert!(limit <= 64.0, "{limit}");

    // The kernel takes all of them; gatepost as many as it can.
    let began = Instant::now();
    let mut clients: Vec<Dialogue> = (0..200).map(|n| Dialogue::from(address(n), gate.smtp())).collect();
    wait::until("it to be said", || gate.complaints().contains(SHORT).then_some(()));
    // Who is inside is served. Nobody can be handed off now: that would take another descriptor.
    for client in &mut clients[..10] {
        client.expect("220");
        client.say("EHLO client.test").expect("250");
        client.say("NOOP").expect("250");
    }
    let last = clients.split_off(199);
    let mut served: Vec<Dialogue> = clients.drain(..10).collect();
    for client in &mut served {
        client.say("QUIT").expect("221");
    }
    drop((served, clients));
    // Those who were still in the queue, too: the last of them is greeted in the end.
    for mut client in last {
        client.expect("220");
        client.deliver(&Letter::short());
    }

    let mut next = Dialogue::from(address(300), gate.smtp());
    next.expect("220");
    next.deliver(&Letter::short());
    assert_eq!(gate.get("/ready"), (200, "ready\n".to_owned()));
    assert!(gate.metric("gatepost_accept_errors_total", &[("kind", "resources")]) > Some(0.0));
    // In each lane once, or every ten seconds if it takes that long.
    let most = 2 * (1 + began.elapsed().as_secs() as usize / 10);
    assert!(gate.complaints().matches(SHORT).count() <= most, "{}", gate.complaints());
    wait::until("nobody to be there", || (gate.metric("gatepost_sessions", &[]) == Some(0.0)).then_some(()));
    gate.stop();
}

#[test]
fn want_of_descriptors_is_not_taken_for_the_backends_absence() {
    let backend = backend();
    let mx = Mx::before(&backend).waiting("60s", "60s").allowing("127.1.0.1");
    let gate = short_of_descriptors(&mx);
    wait::until("the first probe", || (backend.wait_for_ends(1).len() == 1).then_some(()));
    // Strangers take what there is but for one or none, and clients on the allow list meet what is left.
    let mut strangers: Vec<Dialogue> = Vec::new();
    for n in 10..74 {
        let mut stranger = Dialogue::from(address(n), gate.smtp());
        stranger.patience(Duration::from_millis(300));
        match stranger.line() {
            Ok(Some(line)) => assert!(line.starts_with("220-"), "{line}"),
            _ => break,
        }
        strangers.push(stranger);
    }
    assert!(gate.complaints().contains(SHORT), "{}", gate.complaints());
    // One place: for the client, and none for the backend.
    strangers.truncate(strangers.len() - 1);
    let mut known = Dialogue::from(address(0), gate.smtp());
    known.line().unwrap().expect("an answer, if only 421");
    drop((strangers, known));
    wait::until("a place", || {
        Dialogue::from(address(0), gate.smtp()).line().ok().flatten().filter(|line| line.starts_with("220 mx.test"))
    });
    assert!(!gate.complaints().contains("the backend does not answer"), "{}", gate.complaints());
    assert_eq!(gate.get("/ready").0, 200);
}
