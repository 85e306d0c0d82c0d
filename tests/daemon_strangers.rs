//! Strangers who behave, and how long that is remembered; and those over whom the operator has already decided.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::time::{Duration, Instant};

use serde_json::json;

use daemon::{Mx, address, assert_says, backend, from, visits};
use host::backend::Manners;
use host::dialogue::Dialogue;
use host::letter::Letter;

/// Long enough to be told from no wait at all on a busy machine.
const WAIT: (&str, &str) = ("2s", "3s");
const LEAST: Duration = Duration::from_secs(2);

const VISITS: &str = "gatepost_visits_total";

/// Comes as one who is known: the backend's own greeting at once, and PIPELINING, which is used.
fn deliver_as_known(client: &mut Dialogue, letter: &Letter) {
    assert_eq!(client.expect("220"), "220 mx.test ESMTP\n", "the backend's own greeting, and no teaser");
    let offer = client.say("EHLO client.test").expect("250");
    assert!(offer.contains("250-PIPELINING\n"), "{offer}");
    client.send(format!("MAIL FROM:<{}>\r\nRCPT TO:<{}>\r\nDATA\r\n", letter.from, letter.to[0]));
    client.expect("250");
    client.expect("250");
    client.expect("354");
    client.send(host::dialogue::stuffed(&letter.bytes)).expect("250 2.0.0 taken");
    client.say("QUIT").expect("221 2.0.0 bye");
    client.expect_close();
}

#[test]
fn a_stranger_delivers_in_one_connection_and_is_known_from_then_on() {
    let backend = backend();
    let gate = Mx::before(&backend).waiting(WAIT.0, WAIT.1).start();
    let client = address(1);
    let (first, second) = (Letter::short(), Letter::short());

    let began = Instant::now();
    let mut stranger = Dialogue::from(client, gate.smtp());
    stranger.expect_line("220-mx.example.test ESMTP");
    stranger.expect_line("220 mx.example.test ESMTP");
    assert!(began.elapsed() >= LEAST, "greeted after {:?}", began.elapsed());
    let offer = stranger.say("EHLO client.test").expect("250");
    assert!(offer.contains("SIZE 10485760\n") && !offer.contains("PIPELINING"), "{offer}");
    assert!(visits(&backend).is_empty(), "before its RCPT the backend is left alone");
    stranger.say(&format!("MAIL FROM:<{}> SIZE=1000", first.from)).expect("250");
    stranger.say(&format!("RCPT TO:<{}>", first.to[0])).expect("250 2.0.0 ok");
    stranger.say("DATA").expect("354");
    stranger.send(host::dialogue::stuffed(&first.bytes)).expect("250 2.0.0 taken");

    // Known from its verdict on, while that visit still goes on.
    let began = Instant::now();
    deliver_as_known(&mut Dialogue::from(client, gate.smtp()), &second);
    assert!(began.elapsed() < LEAST, "{:?}", began.elapsed());
    stranger.say("QUIT").expect("221");
    stranger.expect_close();

    let record = gate.wait_for_record(|record| record["recognition"] == "stranger");
    let relayed = [("outcome", json!("relayed")), ("stage", json!("relay")), ("accepted", json!(1))];
    assert_says(&record, &relayed);
    let record = gate.wait_for_record(|record| record["recognition"] == "remembered");
    assert_says(&record, &relayed);
    assert_says(&record, &[("client", json!(client.to_string())), ("tests", json!(null))]);
    let seen = visits(&backend);
    assert_eq!(seen.len(), 2, "one connection each");
    for (seen, letter) in seen.iter().zip([&first, &second]) {
        let (source, destination) = seen.proxy.unwrap().addresses.unwrap();
        assert_eq!((source.ip(), destination), (client.into(), gate.smtp()));
        letter.assert_arrived_once(seen.messages.iter().map(Vec::as_slice), 0);
    }
    assert_eq!(seen[0].commands[1], format!("MAIL FROM:<{}> SIZE=1000", first.from), "verbatim");
    assert_eq!(gate.metric(VISITS, &[("recognition", "stranger")]), Some(1.0));
    assert_eq!(gate.metric(VISITS, &[("recognition", "remembered")]), Some(1.0));
    assert_eq!(gate.metric("gatepost_messages_accepted_total", &[]), Some(2.0));
    assert_eq!(gate.metric("gatepost_ledger_entries", &[]), Some(1.0));
}

#[test]
fn a_standing_that_has_run_out_makes_a_stranger_again() {
    let backend = backend();
    let section = "[tests]\npregreet = { action = \"drop\", ttl = \"4s\" }";
    let gate = Mx::before(&backend).waiting("500ms", "1s").section(section).start();
    let client = address(1);
    let mut stranger = Dialogue::from(client, gate.smtp());
    stranger.expect("220");
    stranger.deliver(&Letter::short());
    let passed = Instant::now();
    let mut known = Dialogue::from(client, gate.smtp());
    let greeting = known.expect_line("220");
    if passed.elapsed() < Duration::from_secs(3) {
        assert_eq!(greeting, "220 mx.test ESMTP");
    }
    drop(known);
    // Each further visit says whether the pass still counts.
    host::wait::until("the pass to run out", || {
        Dialogue::from(client, gate.smtp()).expect_line("220").starts_with("220-").then_some(())
    });
    assert!(passed.elapsed() >= Duration::from_secs(3), "gone after {:?}", passed.elapsed());
    // The other tests still count as passed, so after the wait the backend's own greeting follows the teaser.
    let mut again = Dialogue::from(client, gate.smtp());
    again.expect_line("220-mx.example.test ESMTP");
    again.expect_line("220 mx.test ESMTP");
    again.deliver(&Letter::short());
    let record = gate.wait_for_record(|record| record["recognition"] == "stranger" && record["accepted"] == 1);
    assert_says(&record, &[("outcome", json!("relayed"))]);
}

#[test]
fn what_a_client_fails_is_forgotten_it_had_passed() {
    let backend = backend();
    let gate = Mx::before(&backend).start();
    let client = address(1);
    let mut stranger = Dialogue::from(client, gate.smtp());
    stranger.expect("220");
    stranger.deliver(&Letter::short());
    let mut known = Dialogue::from(client, gate.smtp());
    known.expect("220");
    known.say("EHLO client.test").expect("250");
    known.say("AUTH LOGIN").expect("503");
    known.say("QUIT").expect("221");
    known.expect_close();
    gate.wait_for_record(|record| record["recognition"] == "remembered");
    let mut again = Dialogue::from(client, gate.smtp());
    // Early tests still count: no teaser; but gatepost speaks with it itself again.
    again.expect_line("220 mx.example.test ESMTP");
}

#[test]
fn the_access_list_beats_every_test() {
    let backend = backend();
    let gate = Mx::before(&backend)
        .waiting(WAIT.0, WAIT.1)
        .allowing("127.1.0.8/30")
        .access("rules = [\"deny 127.1.0.9\"]\ndeny = [\"127.1.0.16/30\"]")
        .section("[limits]\nsessions_per_client = 1")
        .start();
    let (allowed, excepted, denied) = (address(7), address(8), address(15));
    assert_eq!((allowed.octets()[3], excepted.octets()[3], denied.octets()[3]), (8, 9, 16));

    // A second session of an allowed client is let in too: the limit per client is not for it.
    let _open = Dialogue::from(allowed, gate.smtp());
    let began = Instant::now();
    deliver_as_known(&mut Dialogue::from(allowed, gate.smtp()), &Letter::short());
    assert!(began.elapsed() < LEAST, "{:?}", began.elapsed());
    let record = gate.wait_for_record(from(allowed));
    assert_says(&record, &[("recognition", json!("allowed")), ("accepted", json!(1))]);
    // Whatever it says.
    let mut bot = Dialogue::from(allowed, gate.smtp());
    bot.say("EHLO ylmf-pc").expect("220");
    bot.expect("250");

    let before = visits(&backend).len();
    for client in [excepted, denied] {
        let mut turned_away = Dialogue::from(client, gate.smtp());
        let reply = turned_away.expect_line("521 5.7.1 ");
        assert!(reply.contains("denied by local policy") && reply.contains(&client.to_string()), "{reply}");
        turned_away.expect_close();
        let record = gate.wait_for_record(from(client));
        assert_says(
            &record,
            &[("recognition", json!("denied")), ("outcome", json!("dropped")), ("backend", json!(false))],
        );
    }
    assert_eq!(visits(&backend).len(), before);
    assert_eq!(gate.metric("gatepost_backend_connections_saved_total", &[]), Some(2.0));
}

#[test]
fn who_is_over_a_limit_hears_421_and_may_come_again() {
    let backend = backend();
    let gate = Mx::before(&backend)
        .waiting("0s", "1s")
        .section("[limits]\nsessions = 3\nsessions_per_client = 2\ncommands = 6\nerrors = 3\nline_length = 512")
        .start();
    let limited = [("outcome", json!("limited")), ("backend", json!(false))];
    let (one, other) = (address(1), address(2));

    let mut open: Vec<Dialogue> = (0..2).map(|_| Dialogue::from(one, gate.smtp())).collect();
    for client in &mut open {
        client.expect("220");
    }
    let mut third = Dialogue::from(one, gate.smtp());
    third.expect_line("421 4.7.0 mx.example.test Too many connections from your address");
    third.expect_close();
    assert_says(&gate.wait_for_record(from(one)), &limited);
    open.push(Dialogue::from(other, gate.smtp()));
    open[2].expect("220");
    let mut fourth = Dialogue::from(address(3), gate.smtp());
    fourth.expect_line("421 4.3.2 mx.example.test All screening ports are busy");
    fourth.expect_close();
    assert_says(&gate.wait_for_record(from(address(3))), &limited);

    // Places come free.
    for mut client in open {
        client.say("QUIT").expect("221");
        client.expect_close();
    }
    host::wait::until("the places to be free", || {
        let mut client = Dialogue::from(one, gate.smtp());
        client.line().unwrap().filter(|line| line.starts_with("220"))
    });

    let talk = |n: u32, lines: &[String], last: &str| {
        let mut client = Dialogue::from(address(n), gate.smtp());
        client.expect("220");
        let (end, before) = lines.split_last().unwrap();
        for line in before {
            client.say(line);
            assert!(client.line().unwrap().is_some());
        }
        client.say(end).expect_line(last);
        client.expect_close();
        assert_says(&gate.wait_for_record(from(address(n))), &limited);
    };
    let times = |line: &str, count| vec![line.to_owned(); count];
    talk(11, &times("NOOP", 6), "421 4.7.0 mx.example.test Too many commands");
    talk(12, &times("FOO", 3), "421 4.7.0 mx.example.test Too many errors");
    talk(13, &["x".repeat(600)], "421 4.7.0 mx.example.test Line too long");
    assert!(visits(&backend).is_empty());
}

#[test]
fn a_backend_that_refuses_is_heard_by_the_stranger_in_its_own_words() {
    let refusing = Manners::default()
        .behind_proxy()
        .but("RCPT TO:<NOBODY@", host::backend::Act::Say("550 5.1.1 no such user here"))
        .start();
    let gate = Mx::before(&refusing).start();
    let mut stranger = Dialogue::from(address(1), gate.smtp());
    stranger.expect("220");
    stranger.say("EHLO client.test").expect("250");
    stranger.say("MAIL FROM:<bob@example.org>").expect("250");
    stranger.say("RCPT TO:<nobody@example.test>").expect("550 5.1.1 no such user here");
    stranger.say("RCPT TO:<alice@example.test>").expect("250 2.0.0 ok");
    stranger.say("QUIT").expect("221");
    let record = gate.wait_for_record(from(address(1)));
    assert_says(&record, &[("outcome", json!("relayed")), ("accepted", json!(0)), ("tests", json!(null))]);
}
