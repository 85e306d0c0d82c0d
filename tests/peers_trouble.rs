//! The MTA behind the gate refuses, is away, hangs, or is killed in the middle of it. Its refusals reach the client as its
//! own; its troubles reach nobody as anything but a temporary failure; and no mail is lost, doubled or confirmed that
//! the MTA has not taken.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;
mod peers;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use host::client::{Call, Client};
use host::dialogue::{Dialogue, stuffed};
use host::letter::Letter;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix, REFUSED, SIZE_LIMIT, UNWANTED};
use host::wait;
use peers::{CLIENTS, Chain, File, Mta, assert_record, data};

/// Whom they test as a stranger first.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// Connects, and says EHLO.
#[track_caller]
fn greeted(client: Ipv4Addr, chain: &Chain) -> Dialogue {
    let mut dialogue = Dialogue::from(client, chain.gate.smtp());
    dialogue.expect("220");
    dialogue.say("EHLO client.test").expect("250");
    dialogue
}

/// Delivers one letter by hand and so becomes known to the gate.
#[track_caller]
fn introduce(client: Ipv4Addr, chain: &Chain) -> Letter {
    let letter = Letter::short();
    let mut dialogue = Dialogue::from(client, chain.gate.smtp());
    dialogue.expect("220");
    dialogue.deliver(&letter);
    letter
}

#[test]
fn the_mtas_refusal_of_a_recipient_reaches_every_client() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim]].concat()) {
        return;
    }
    let letter = Letter::short().to(&[REFUSED]);
    for chain in [Chain::postfix(File::default()), Chain::exim(File::default())] {
        for (at, client) in (1..).zip(Client::ALL) {
            let source = Ipv4Addr::new(127, 0, 1, at);
            for _ in ["stranger", "remembered"] {
                let outcome = client.send(&Call::to(chain.gate.smtp()).from(source), &letter);
                outcome.assert_refused("550 5.1.1");
                outcome.assert_refused("no such user here");
            }
            let visits = chain.visits(source, 2);
            assert_eq!([&visits[0]["recognition"], &visits[1]["recognition"]], ["stranger", "remembered"]);
            assert!(visits.iter().all(|visit| visit["accepted"] == 0 && visit["outcome"] == "relayed"), "{visits:#?}");
        }
        assert_eq!(chain.sink.connections(), 0);
    }
}

#[test]
fn a_refused_recipient_does_not_hold_up_the_others() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    for chain in [Chain::postfix(File::default()), Chain::exim(File::default())] {
        let mut letters = Vec::new();
        for _ in ["stranger", "remembered"] {
            let mut dialogue = greeted(CLIENT, &chain);
            let letter = Letter::short();
            dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
            dialogue.say(&format!("RCPT TO:<{REFUSED}>")).expect("550 5.1.1");
            dialogue.say("RCPT TO:<alice@example.test>").expect("250");
            dialogue.say(&format!("RCPT TO:<{REFUSED}>")).expect("550 5.1.1");
            dialogue.say("DATA").expect("354");
            dialogue.send(stuffed(&letter.bytes)).expect("250");
            dialogue.say("QUIT").expect("221");
            letters.push(letter);
        }
        let kept = chain.sink.wait_for(letters.len());
        letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    }
}

#[test]
fn a_sender_that_the_mta_refuses_is_the_answer_to_rcpt() {
    if !present(&[Peer::Swaks, Peer::Postfix, Peer::Exim]) {
        return;
    }
    for chain in [Chain::postfix(File::default()), Chain::exim(File::default())] {
        // gatepost cannot know that yet at MAIL, and says so at RCPT in the MTA's words; the client may go on.
        let mut dialogue = greeted(CLIENT, &chain);
        dialogue.say(&format!("MAIL FROM:<{UNWANTED}>")).expect("250");
        let answer = dialogue.say("RCPT TO:<alice@example.test>").expect("55");
        assert!(answer.contains("5.7.1") && answer.contains("not from you"), "{answer}");
        let letter = Letter::short();
        dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
        dialogue.say("RCPT TO:<alice@example.test>").expect("250");
        dialogue.say("DATA").expect("354");
        dialogue.send(stuffed(&letter.bytes)).expect("250");
        dialogue.say("QUIT").expect("221");
        letter.assert_arrived_once(data(&chain.sink.wait_for(1)), 1);

        let mut dialogue = greeted(CLIENT, &chain);
        let answer = dialogue.say(&format!("MAIL FROM:<{UNWANTED}>")).expect("55");
        assert!(answer.contains("not from you"), "{answer}");
        dialogue.say("QUIT").expect("221");

        let mut unwanted = Letter::short();
        unwanted.from = UNWANTED.to_owned();
        let stranger = Ipv4Addr::new(127, 0, 0, 8);
        for client in [stranger, stranger] {
            Client::Swaks.send(&Call::to(chain.gate.smtp()).from(client), &unwanted).assert_refused("not from you");
        }
        let visits = chain.visits(stranger, 2);
        assert!(visits.iter().all(|visit| visit["backend"] == true && visit["accepted"] == 0), "{visits:#?}");
        assert_eq!(chain.sink.kept().len(), 1);
    }
}

#[test]
fn the_mtas_limit_of_size_holds() {
    if !present(&[Peer::Curl, Peer::Swaks, Peer::Postfix, Peer::Exim]) {
        return;
    }
    let line = [&[b'x'; 98][..], b"\r\n"].concat();
    let large = Letter::saying(&line.repeat(SIZE_LIMIT / 90));
    for chain in [Chain::postfix(File::default()), Chain::exim(File::default())] {
        let too_much = format!("MAIL FROM:<bob@example.org> SIZE={}", SIZE_LIMIT + 1);
        let mut dialogue = Dialogue::from(CLIENT, chain.gate.smtp());
        dialogue.expect("220");
        let offered = dialogue.say("EHLO client.test").expect("250");
        assert!(offered.contains(&format!("SIZE {SIZE_LIMIT}\n")), "a stranger hears of the MTA's limit: {offered}");
        dialogue.say(&too_much).expect("250");
        dialogue.say("RCPT TO:<alice@example.test>").expect("552");
        dialogue.say("QUIT").expect("221");
        // Being too large is no failed test, but nothing was decided either: the client may be a stranger still.
        introduce(CLIENT, &chain);
        let mut dialogue = greeted(CLIENT, &chain);
        dialogue.say(&too_much).expect("552");
        dialogue.say("QUIT").expect("221");

        // curl says the size beforehand, swaks does not.
        for (at, client) in [(11, Client::Curl), (12, Client::Swaks)] {
            let call = Call::to(chain.gate.smtp()).from(Ipv4Addr::new(127, 0, 0, at));
            for _ in ["stranger", "remembered"] {
                client.send(&call, &large).assert_refused("552");
            }
        }
        assert_eq!(chain.sink.wait_for(1).len(), 1, "the introduction alone");
    }
}

#[test]
fn while_the_mta_is_away_clients_are_put_off_and_their_retries_deliver() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix]].concat()) {
        return;
    }
    let mut chain = Chain::postfix(File::default());
    let [remembered, stranger, allowed] = [(0, 7), (0, 8), (9, 9)].map(|(net, at)| Ipv4Addr::new(127, net, 0, at));
    let first = introduce(remembered, &chain);
    first.assert_arrived_once(data(&chain.sink.wait_for(1)), 1);
    chain.its_postfix().wait_until_done(1);
    chain.its_postfix().halt();
    let letters: Vec<(Client, Call, Letter)> = [remembered, stranger, allowed]
        .into_iter()
        .flat_map(|client| Client::ALL.map(|program| (program, client)))
        .map(|(program, client)| (program, Call::to(chain.gate.smtp()).from(client), Letter::short()))
        .collect();
    for (program, call, letter) in &letters {
        program.send(call, letter).assert_refused("421");
    }
    for client in [remembered, stranger, allowed] {
        let before = usize::from(client == remembered);
        for visit in &chain.visits(client, Client::ALL.len() + before)[before..] {
            assert_record(visit, &[("outcome", json!("backend-failed")), ("backend", json!(false))]);
            let note = visit["note"].as_str().unwrap_or_default();
            assert!(note.contains("cannot connect"), "the journal says why: {visit:#}");
        }
    }
    assert!(chain.gate.complaints().contains("the backend does not answer"), "{}", chain.gate.complaints());
    assert!(chain.gate.metric("gatepost_backend_failures_total", &[("kind", "connect")]) >= Some(15.0));
    wait::until("readiness to be lost", || (chain.gate.get("/ready").0 == 503).then_some(()));

    chain.its_postfix().start_again();
    for (program, call, letter) in &letters {
        program.send(call, letter).assert_accepted();
    }
    let kept = chain.sink.wait_for(letters.len() + 1);
    assert_eq!(kept.len(), letters.len() + 1);
    letters.iter().for_each(|(_, _, letter)| letter.assert_arrived_once(data(&kept), 1));
    wait::until("readiness to come back", || (chain.gate.get("/ready").0 == 200).then_some(()));
}

#[test]
fn a_sending_mta_keeps_its_mail_until_the_other_is_back() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let mut chain = Chain::postfix(File::default());
    let options = postfix::Options {
        main_cf: &["smtp_bind_address = 127.3.0.1"],
        ..postfix::Options::delivering_to(chain.gate.smtp())
    };
    let relay = Postfix::start(&options);
    chain.its_postfix().halt();
    let letters = [Letter::short(), Letter::short(), Letter::short()];
    for letter in &letters {
        let mut dialogue = Dialogue::with(relay.plain());
        dialogue.expect("220");
        dialogue.deliver(letter);
    }
    let said = |status: &str| relay.log().lines().filter(|line| line.contains(status)).count();
    wait::until("all to be put off", || (said("status=deferred") >= letters.len()).then_some(()));
    relay.wait_for_log(&["status=deferred", "421 4.3.2"]);
    assert_eq!(said("status=bounced"), 0, "{}", relay.log());
    chain.its_postfix().start_again();
    // A destination that has failed is left alone for a while, whatever is in the queue.
    wait::until("all to be sent", || {
        relay.flush();
        (said("status=sent") == letters.len()).then_some(())
    });
    let kept = chain.sink.wait_for(letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 2));
    assert_eq!(kept.len(), letters.len());
}

#[test]
fn an_mta_that_hangs_is_waited_for_and_no_longer() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let sections = "[timeouts]\nreplay = \"1s\"\nreply = \"1s\"";
    let chain = Chain::postfix(File { sections, ..File::default() });
    let Mta::Postfix(postfix) = &chain.mta else { unreachable!("it was started as one") };
    introduce(CLIENT, &chain);
    postfix.freeze();
    // Remembered: the greeting is the MTA's to give.
    let mut remembered = Dialogue::from(CLIENT, chain.gate.smtp());
    remembered.expect("421");
    remembered.expect_close();
    // A stranger has been greeted, and has named a sender, before the MTA is needed.
    let mut stranger = greeted(Ipv4Addr::new(127, 0, 0, 8), &chain);
    stranger.say("MAIL FROM:<bob@example.org>").expect("250");
    stranger.say("RCPT TO:<alice@example.test>").expect("421");
    stranger.expect_close();
    for (client, visit) in [(CLIENT, 1), (Ipv4Addr::new(127, 0, 0, 8), 0)] {
        let visit = &chain.visits(client, visit + 1)[visit];
        assert_record(visit, &[("outcome", json!("backend-failed")), ("backend", json!(true))]);
        assert!(visit["note"].as_str().is_some_and(|note| note.contains("repl")), "{visit:#}");
    }
    postfix.thaw();
    introduce(CLIENT, &chain);
    assert_eq!(chain.sink.wait_for(2).len(), 2);
}

/// Where in a message the MTA is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    InData,
    AfterTheFinalDot,
    InChunk,
    AfterTheLastChunk,
}

#[test]
fn an_mta_that_is_killed_midway_confirms_nothing() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let mut chain = Chain::postfix(File::default());
    let mut letters = vec![introduce(CLIENT, &chain)];
    let rows = [Moment::InData, Moment::AfterTheFinalDot, Moment::InChunk, Moment::AfterTheLastChunk];
    for (number, (at, moment)) in rows.into_iter().flat_map(|moment| [(7, moment), (0, moment)]).enumerate() {
        // A client that is remembered, and a new stranger each time.
        let stranger = Ipv4Addr::new(127, 0, 4, u8::try_from(number + 1).expect("a handful of rows"));
        let client = if at == 7 { CLIENT } else { stranger };
        let letter = Letter::saying(&b"so far so good\r\n".repeat(4000));
        chain.its_postfix().wait_until_done(letters.len());
        let mut dialogue = greeted(client, &chain);
        dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
        dialogue.say("RCPT TO:<alice@example.test>").expect("250");
        let half = letter.bytes.len() / 2;
        match moment {
            Moment::InData | Moment::AfterTheFinalDot => dialogue.say("DATA").expect("354"),
            Moment::InChunk | Moment::AfterTheLastChunk => {
                dialogue.send([format!("BDAT {half}\r\n").as_bytes(), &letter.bytes[..half]].concat()).expect("250")
            }
        };
        // What has not answered when it is frozen has not answered when it is killed.
        let Mta::Postfix(postfix) = &chain.mta else { unreachable!("it was started as one") };
        postfix.freeze();
        let rest = letter.bytes.len() - half;
        match moment {
            Moment::InData => dialogue.send(&letter.bytes[..half]),
            Moment::AfterTheFinalDot => dialogue.send(stuffed(&letter.bytes)),
            Moment::InChunk => dialogue.send(format!("BDAT {rest} LAST\r\nhalf a chunk")),
            Moment::AfterTheLastChunk => {
                dialogue.send([format!("BDAT {rest} LAST\r\n").as_bytes(), &letter.bytes[half..]].concat())
            }
        };
        dialogue.expect_silence(Duration::from_millis(50));
        chain.its_postfix().kill();
        let said = String::from_utf8_lossy(&dialogue.read_all()).into_owned();
        assert!(said.is_empty() || said.starts_with("421 "), "{moment:?}: {said}\n{}", dialogue.transcript());
        let visits = chain.visits(client, if client == CLIENT { 2 + number } else { 1 });
        let last = visits.last().expect("one at least");
        assert_record(last, &[("accepted", json!(0)), ("outcome", json!("backend-failed"))]);

        chain.its_postfix().start_again();
        if client == CLIENT {
            // The retry is a visit too; count it in for the next round.
            let mut again = greeted(client, &chain);
            again.say("MAIL FROM:<bob@example.org>").expect("250");
            again.say("RCPT TO:<alice@example.test>").expect("250");
            again.say("DATA").expect("354");
            again.send(stuffed(&letter.bytes)).expect("250");
            again.say("QUIT").expect("221");
            letters.push(letter);
        }
    }
    let kept = chain.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
}
