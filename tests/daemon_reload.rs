//! SIGHUP: a good file is in force for who comes next, and nobody who is inside notices; a wrong one changes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use daemon::{Mx, address, assert_says, backend, from};
use host::dialogue::Dialogue;
use host::gate::Gate;
use host::letter::Letter;
use host::wait;

const SUCCESSFUL: &str = "gatepost_config_last_reload_successful";

/// Has `text` read, and waits until the log says what became of it for the `nth` time.
#[track_caller]
fn reload(gate: &Gate, text: &str, says: &str, nth: usize) {
    gate.reload(text);
    wait::until("the file to be read", || (gate.complaints().matches(says).count() >= nth).then_some(()));
}

const IN_FORCE: &str = "the file was read again and is in force";
const NOT_IN_FORCE: &str = "is not in force, the one before is";

#[test]
fn a_good_file_is_in_force_for_the_next_who_come() {
    let backend = backend();
    let before = Mx::before(&backend).waiting("4s", "6s");
    let gate = before.start();
    let (here, there) = (gate.smtp(), gate.second());
    let allowed = address(4);
    assert_eq!(allowed.to_string(), "127.1.0.5");

    // One waits, under the rule that it came in by.
    let arrived = Instant::now();
    let mut waiting = Dialogue::from(address(1), here);
    waiting.expect_line("220-");
    assert!(TcpStream::connect(there).is_err(), "nothing listens there yet");

    let after = before.waiting("100ms", "1s").allowing("127.1.0.5");
    reload(&gate, &after.text(&[here, there], gate.admin()), IN_FORCE, 1);
    for (n, address_of_gate) in [(2, here), (3, there)] {
        let began = Instant::now();
        let mut stranger = Dialogue::from(address(n), address_of_gate);
        stranger.expect("220");
        assert!(began.elapsed() < Duration::from_secs(3), "the new wait holds at {address_of_gate}");
        stranger.deliver(&Letter::short());
    }
    assert_eq!(Dialogue::from(allowed, there).expect("220"), "220 mx.test ESMTP\n", "allowed from now on");

    // Another stays open in a transaction while the address that it came to is closed.
    let mut inside = Dialogue::from(allowed, here);
    inside.expect("220");
    inside.say("EHLO client.test").expect("250");
    inside.say("MAIL FROM:<bob@example.org>").expect("250");
    reload(&gate, &after.text(&[there], gate.admin()), IN_FORCE, 2);
    wait::until("the address to be closed", || TcpStream::connect(here).is_err().then_some(()));
    inside.say("RCPT TO:<alice@example.test>").expect("250");
    inside.say("QUIT").expect("221");
    Dialogue::from(allowed, there).expect("220");

    // And the first has waited all the time, and is greeted at the end of it.
    waiting.expect_line("220 ");
    assert!(arrived.elapsed() >= Duration::from_secs(4), "{:?}", arrived.elapsed());
    waiting.deliver(&Letter::short());
    let record = gate.wait_for_record(from(address(1)));
    assert_says(&record, &[("outcome", json!("relayed")), ("accepted", json!(1)), ("local", json!(here.to_string()))]);
    assert_eq!(gate.metric(SUCCESSFUL, &[]), Some(1.0));
    assert_eq!(gate.get("/ready").0, 200);
}

/// Nobody who asks whether to send connections here is told so before the new backend has said a word.
#[test]
fn a_backend_that_is_new_is_heard_of_before_the_gate_is_ready() {
    let before = backend();
    let mx = Mx::before(&before);
    let gate = mx.start();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = before.address().to_string();
    let text = mx.again(&gate).replace(&here, &silent.local_addr().unwrap().to_string());
    reload(&gate, &text, IN_FORCE, 1);
    assert_eq!(gate.get("/ready"), (503, "the backend of gate mx has not answered yet\n".to_owned()));
    reload(&gate, &mx.again(&gate), IN_FORCE, 2);
    wait::until("the backend of before", || (gate.get("/ready").0 == 200).then_some(()));
}

#[test]
fn an_allow_entry_that_is_taken_out_holds_no_longer() {
    let backend = backend();
    let mx = Mx::before(&backend);
    let gate = mx.clone().allowing("127.1.0.0/16").start();
    Dialogue::from(address(1), gate.smtp()).expect_line("220 mx.test");
    reload(&gate, &mx.access("deny = [\"127.1.0.3\"]").again(&gate), IN_FORCE, 1);
    Dialogue::from(address(1), gate.smtp()).expect_line("220-mx.example.test");
    Dialogue::from(address(2), gate.smtp()).expect_line("521 ");
}

#[test]
fn a_wrong_file_changes_nothing_and_says_so() {
    let backend = backend();
    let mx = Mx::before(&backend);
    let gate = mx.start();
    assert_eq!(gate.metric(SUCCESSFUL, &[]), Some(1.0));
    let mut inside = Dialogue::from(address(1), gate.smtp());
    inside.expect_line("220-");

    let good = mx.again(&gate);
    let served = |n: u32| Dialogue::from(address(n), gate.smtp()).expect_line("220-mx.example.test ESMTP");
    let wrong = good.replace("wait_min", "wait_mim").replace("hostname = \"mx.", "hostname = \"other.");
    reload(&gate, &wrong, NOT_IN_FORCE, 1);
    assert!(gate.complaints().contains("wait_mim"), "{}", gate.complaints());
    assert_eq!(gate.metric(SUCCESSFUL, &[]), Some(0.0));
    assert_eq!(gate.get("/ready"), (200, "ready\n".to_owned()));
    served(2);

    // Nothing wrong with this one, but that one of its addresses is not to be had; the other must not stay open.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let impossible: [SocketAddr; 3] = [gate.smtp(), gate.second(), taken.local_addr().unwrap()];
    reload(&gate, &mx.clone().waiting("0s", "1s").text(&impossible, gate.admin()), NOT_IN_FORCE, 2);
    assert!(gate.complaints().contains("another program listens there"), "{}", gate.complaints());
    assert_eq!(gate.metric(SUCCESSFUL, &[]), Some(0.0));
    assert!(TcpStream::connect(gate.second()).is_err(), "half of a file is in force");
    served(3);
    inside.expect_line("220 mx.example.test");

    reload(&gate, &good, IN_FORCE, 1);
    assert_eq!(gate.metric(SUCCESSFUL, &[]), Some(1.0));
    inside.deliver(&Letter::short());
}

#[test]
fn an_address_may_grow_to_all_addresses_of_its_port_and_back() {
    let backend = backend();
    let mx = Mx::before(&backend).allowing("127.0.0.0/8");
    let grow = || {
        let gate = mx.start();
        let mut inside = Dialogue::from(address(1), gate.smtp());
        inside.expect("220");
        let everywhere = SocketAddr::from(([0, 0, 0, 0], gate.smtp().port()));
        gate.reload(&mx.text(&[everywhere], gate.admin()));
        let in_force = wait::until("the file to be read", || match gate.complaints() {
            said if said.contains(IN_FORCE) => Some(true),
            said if said.contains(NOT_IN_FORCE) => Some(false),
            _ => None,
        });
        in_force.then_some((gate, inside))
    };
    // Its port at another address can be somebody else's; not each time.
    let (gate, mut inside) = (0..5).find_map(|_| grow()).expect("what is ours is not in our way");
    let port = gate.smtp().port();
    Dialogue::from(address(2), SocketAddr::from(([127, 0, 0, 2], port))).expect("220");
    reload(&gate, &mx.again(&gate), IN_FORCE, 2);
    wait::until("the other addresses to be closed", || TcpStream::connect(("127.0.0.2", port)).is_err().then_some(()));
    Dialogue::from(address(2), gate.smtp()).expect("220");
    inside.say("QUIT").expect("221");
}
