//! Honest mail goes through: real mail programs before the gate, Postfix and Exim behind it. Every message arrives once and
//! byte for byte, and the MTA knows whose it is.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;
mod peers;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::thread;

use memchr::memmem;
use serde_json::json;

use host::client::{Call, Client};
use host::dialogue::Dialogue;
use host::exim;
use host::letter::Letter;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use peers::{CLIENTS, Chain, File, GREET_WAIT, Table, assert_record, data};

/// Just below the MTAs' limit of 1,000,000 bytes, with room for what they add themselves.
fn megabyte() -> Letter {
    let body: Vec<u8> =
        (0..10_000).flat_map(|line: u32| format!("{line:08} {}\r\n", "x".repeat(88)).into_bytes()).collect();
    Letter::saying(&body)
}

/// All letters that have something awkward about them.
fn awkward() -> Vec<Letter> {
    let line = Letter::saying(&[&b"y"[..]; 990].concat().into_iter().chain(*b"\r\n").collect::<Vec<u8>>());
    Letter::awkward().into_iter().chain([Letter::odd_header(), line, megabyte()]).collect()
}

/// Every program sends every awkward letter three times: from an address that was never seen, from the same address
/// again, and from one that is allowed.
fn deliver_everything(chain: &Chain, title: &'static str) {
    let table = Table::new(title);
    let send = |client: Client, letters: &[Letter], network: u8, number: u8| {
        for (at, letter) in (1..).zip(letters) {
            let call = Call::to(chain.gate.smtp()).from(Ipv4Addr::new(127, network, number, at));
            let outcome = client.send(&call, letter);
            assert!(outcome.accepted, "{client:?} from {}:\n{}", call.source, outcome.transcript);
        }
        letters.len()
    };
    let all = |client: Client, number: u8| {
        let [first, second, third] = [awkward(), awkward(), awkward()];
        table.time(format!("{client:?}, stranger"), || send(client, &first, 1, number));
        table.time(format!("{client:?}, remembered"), || send(client, &second, 1, number));
        table.time(format!("{client:?}, allowed"), || send(client, &third, 9, number));
        [first, second, third].concat()
    };
    let letters: Vec<Letter> = thread::scope(|scope| {
        let all = &all;
        let senders: Vec<_> =
            (1..).zip(Client::ALL).map(|(number, client)| scope.spawn(move || all(client, number))).collect();
        senders.into_iter().flat_map(|sender| sender.join().expect("a sender that did not panic")).collect()
    });

    let kept = chain.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len(), "as many as were sent");
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    assert!(kept.iter().all(|one| one.to == ["<alice@example.test>"]), "the envelopes are the ones sent");

    let each = u8::try_from(awkward().len()).expect("a handful of letters");
    for (number, at) in (1..).zip(Client::ALL).flat_map(|(number, _)| (1..=each).map(move |at| (number, at))) {
        let [tested, allowed] = [1, 9].map(|network| Ipv4Addr::new(127, network, number, at));
        let [first, second] = chain.visits(tested, 2).try_into().expect("two visits");
        let [third] = chain.visits(allowed, 1).try_into().expect("one visit");
        for (visit, recognition) in [(&first, "stranger"), (&second, "remembered"), (&third, "allowed")] {
            assert_record(
                visit,
                &[
                    ("recognition", json!(recognition)),
                    ("outcome", json!("relayed")),
                    ("stage", json!("relay")),
                    ("accepted", json!(1)),
                    ("note", json!(null)),
                ],
            );
        }
        assert!(first["duration_ms"].as_u64() >= u64::try_from(GREET_WAIT.as_millis()).ok(), "{first:#}");
        assert_eq!((chain.mta.taken_from(tested.into()), chain.mta.taken_from(allowed.into())), (2, 1));
    }
    assert_eq!(chain.mta.taken_from(Ipv4Addr::LOCALHOST.into()), 0, "the MTA does not take the gate for a client");
    let accepted = chain.gate.metric("gatepost_messages_accepted_total", &[("gate", "mx")]);
    assert_eq!(accepted.map(|count| count as usize), Some(letters.len()));
}

#[test]
fn every_client_delivers_through_the_gate_to_postfix() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix]].concat()) {
        return;
    }
    deliver_everything(&Chain::postfix(File::default()), "through the gate to Postfix (PROXY v2)");
}

#[test]
fn every_client_delivers_through_the_gate_to_exim() {
    if !present(&[&CLIENTS[..], &[Peer::Exim]].concat()) {
        return;
    }
    deliver_everything(&Chain::exim(File::default()), "through the gate to Exim (PROXY v2)");
}

#[test]
fn a_proxy_header_of_version_1_will_do_too() {
    if !present(&[Peer::Swaks, Peer::Postfix, Peer::Exim]) {
        return;
    }
    let file = File { gate: "announce = \"proxy-v1\"", ..File::default() };
    for chain in [Chain::postfix(file), Chain::exim(file)] {
        let client = Ipv4Addr::new(127, 0, 0, 7);
        let call = Call::to(chain.gate.smtp()).from(client);
        let letters = [Letter::short(), Letter::short()];
        letters.iter().for_each(|letter| Client::Swaks.send(&call, letter).assert_accepted());
        let kept = chain.sink.wait_for(letters.len());
        letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
        assert_eq!(chain.mta.taken_from(client.into()), 2, "{}", chain.mta.log());
    }
}

#[test]
fn whoever_comes_through_the_gate_is_not_trusted_as_loopback() {
    if !present(&[Peer::Swaks, Peer::Postfix, Peer::Exim]) {
        return;
    }
    let abroad = Letter::short().to(&["somebody@example.net"]);
    for chain in [Chain::postfix(File::default()), Chain::exim(File::default())] {
        for client in [Ipv4Addr::new(127, 0, 0, 7), Ipv4Addr::new(127, 0, 0, 7), Ipv4Addr::new(127, 9, 0, 7)] {
            Client::Swaks.send(&Call::to(chain.gate.smtp()).from(client), &abroad).assert_refused("5.7.1");
        }
        assert_eq!(chain.sink.connections(), 0);
    }
}

#[test]
fn a_last_line_without_an_end_arrives_with_one() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim]].concat()) {
        return;
    }
    for chain in [Chain::postfix(File::default()), Chain::exim(File::default())] {
        let server = chain.gate.smtp();
        let mut letters = Vec::new();
        for (at, client) in (1..).zip([Client::Curl, Client::Msmtp, Client::Smtplib]) {
            let call = Call::to(server).from(Ipv4Addr::new(127, 0, 1, at));
            for _ in ["stranger", "remembered"] {
                let letter = Letter::saying(b"no end to this line\r\n");
                client.send(&call, &letter.unended()).assert_accepted();
                letters.push(letter);
            }
        }
        // Only a chunk can really end without one; how the MTA passes that on is the MTA's affair.
        for _ in ["stranger", "remembered"] {
            let letter = Letter::saying(b".\r\n..\r\nno end to this line\r\n");
            let bytes = letter.unended().bytes;
            let mut dialogue = Dialogue::from(Ipv4Addr::new(127, 0, 2, 1), server);
            dialogue.expect("220");
            assert!(dialogue.say("EHLO client.test").expect("250").contains("CHUNKING"));
            dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
            dialogue.say("RCPT TO:<alice@example.test>").expect("250");
            let (front, back) = bytes.split_at(bytes.len() / 2);
            dialogue.send([format!("BDAT {}\r\n", front.len()).as_bytes(), front].concat()).expect("250");
            dialogue.send([format!("BDAT {} LAST\r\n", back.len()).as_bytes(), back].concat()).expect("250");
            dialogue.say("QUIT").expect("221");
            letters.push(letter);
        }
        let kept = chain.sink.wait_for(letters.len());
        letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    }
}

#[test]
fn smtp_source_delivers_two_thousand_messages() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    const SIZE: usize = 4000;
    let table = Table::new("smtp-source, 20 sessions at once, through the gate to Postfix");
    let chain = Chain::postfix(File::default());
    let Chain { gate, mta, sink } = &chain;
    let peers::Mta::Postfix(postfix) = mta else { unreachable!("it was started as one") };
    let body = |message: &[u8]| {
        let end = memmem::find(message, b"\r\n\r\n").expect("a header and a body");
        message[end..].to_vec()
    };
    // What it sends is what arrives without a gate.
    postfix::smtp_source(postfix.plain(), 1, 1, SIZE).assert_accepted();
    let sample = body(&sink.wait_for(1)[0].data);
    assert!(sample.len() >= SIZE / 2);

    for (round, who) in ["stranger", "remembered"].into_iter().enumerate() {
        let (before, after) = (round * 1000 + 1, round * 1000 + 1001);
        table.time(format!("smtp-source, {who}"), || {
            postfix::smtp_source(gate.smtp(), 20, 1000, SIZE).assert_accepted();
            1000
        });
        let kept = sink.wait_for(after);
        assert_eq!(kept.len(), after);
        let ids: HashSet<Vec<u8>> = kept[before..].iter().map(|one| message_id(&one.data)).collect();
        assert_eq!(ids.len(), 1000, "each of them once");
        assert!(kept[before..].iter().all(|one| body(&one.data) == sample), "each of them whole");
        let visits = chain.visits(Ipv4Addr::LOCALHOST, after - 1);
        let round = &visits[before - 1..];
        let strangers = round.iter().filter(|visit| visit["recognition"] == "stranger").count();
        match who {
            // A connection for each message; the first ones come together, before any has passed.
            "stranger" => assert!((2..500).contains(&strangers), "{strangers} strangers"),
            _ => assert_eq!(strangers, 0),
        }
        assert!(round.iter().all(|visit| visit["outcome"] == "relayed" && visit["accepted"] == 1));
        println!("  of 1000 visits {strangers} were a stranger's");
    }
}

fn message_id(message: &[u8]) -> Vec<u8> {
    let lower = message.to_ascii_lowercase();
    let begin = memmem::find(&lower, b"\r\nmessage-id:").expect("a Message-Id") + 2;
    let end = memmem::find(&message[begin..], b"\r\n").expect("the end of its line");
    message[begin..begin + end].to_vec()
}

/// Exim delivers every awkward letter, by BDAT, as a stranger and again.
fn exim_delivers(chain: &Chain, title: &'static str) {
    let table = Table::new(title);
    let deliver = || {
        let letters = awkward_for_exim();
        for (at, letter) in (1..).zip(&letters) {
            let client = Ipv4Addr::new(127, 2, 0, at);
            let outcome = exim::send(&Call::to(chain.gate.smtp()).from(client), letter);
            outcome.assert_accepted();
            assert!(exim::used_chunking(&outcome.transcript), "{}", outcome.transcript);
        }
        letters
    };
    let mut letters = Vec::new();
    for who in ["stranger", "remembered"] {
        table.time(format!("Exim by BDAT, {who}"), || {
            let sent = deliver();
            letters.extend(sent.iter().cloned());
            sent.len()
        });
    }
    let kept = chain.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    // Its own Received field, and the MTA's.
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 2));
    for at in 1..=u8::try_from(letters.len() / 2).expect("a handful of letters") {
        let client = Ipv4Addr::new(127, 2, 0, at);
        let visits = chain.visits(client, 2);
        assert_eq!([&visits[0]["recognition"], &visits[1]["recognition"]], ["stranger", "remembered"]);
        assert!(visits.iter().all(|visit| visit["accepted"] == 1 && visit["outcome"] == "relayed"), "{visits:#?}");
        assert_eq!(chain.mta.taken_from(client.into()), 2);
    }
}

/// Exim would complete the odd header, as it does for mail of its own users.
fn awkward_for_exim() -> Vec<Letter> {
    Letter::awkward().into_iter().chain([megabyte()]).collect()
}

#[test]
fn exim_as_a_client_delivers_by_bdat_through_the_gate_to_postfix() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    let chain = Chain::postfix(File::default());
    exim_delivers(&chain, "Exim as a client, to Postfix");
    let log = chain.mta.log();
    let ends: Vec<&str> = log.lines().filter(|line| line.contains("disconnect from unknown[127.2.")).collect();
    assert!(ends.iter().all(|line| line.contains(" bdat=") && !line.contains(" data=")), "{ends:#?}");
    assert_eq!(ends.len(), 2 * awkward_for_exim().len());
}

#[test]
fn exim_as_a_client_delivers_by_bdat_through_the_gate_to_exim() {
    if !present(&[Peer::Exim]) {
        return;
    }
    let chain = Chain::exim(File::default());
    exim_delivers(&chain, "Exim as a client, to Exim");
    let log = chain.mta.log();
    // K marks a message that came by BDAT.
    let taken: Vec<&str> = log.lines().filter(|line| line.contains(" <= ") && line.contains(" [127.2.")).collect();
    assert!(taken.iter().all(|line| line.contains(" K ")), "{taken:#?}");
    assert_eq!(taken.len(), 2 * awkward_for_exim().len());
}

#[test]
fn postfix_as_a_client_delivers_through_the_gate() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    let table = Table::new("Postfix as a client");
    for chain in [Chain::postfix(File::default()), Chain::exim(File::default())] {
        let client = Ipv4Addr::new(127, 3, 0, 1);
        let options = postfix::Options {
            main_cf: &["smtp_bind_address = 127.3.0.1", "smtp_tls_security_level = none"],
            ..postfix::Options::delivering_to(chain.gate.smtp())
        };
        let relay = Postfix::start(&options);
        let mut letters = Vec::new();
        for (who, sent) in [("stranger", vec![Letter::short()]), ("remembered", awkward())] {
            table.time(format!("Postfix to {}, {who}", chain.mta.name()), || {
                for letter in &sent {
                    let mut dialogue = Dialogue::with(relay.plain());
                    dialogue.expect("220");
                    dialogue.deliver(letter);
                }
                chain.sink.wait_for(letters.len() + sent.len());
                sent.len()
            });
            letters.extend(sent);
        }
        let kept = chain.sink.kept();
        assert_eq!(kept.len(), letters.len());
        letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 2));
        let visits = chain.visits(client, letters.len());
        assert_eq!(visits[0]["recognition"], "stranger");
        assert!(visits[1..].iter().all(|visit| visit["recognition"] == "remembered"), "{visits:#?}");
        assert_eq!(chain.mta.taken_from(client.into()), letters.len());
    }
}
