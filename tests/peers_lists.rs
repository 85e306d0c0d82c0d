//! DNS lists, by a real list server: who is listed is refused in the list's public name, and a list that is broken, blocked
//! or dead, or lists the world, turns nobody away.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;
mod peers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use host::backend::{Backend, Manners};
use host::client::{Call, Client};
use host::dialogue::Dialogue;
use host::gate::Gate;
use host::letter::Letter;
use host::peers::{Peer, present};
use host::rbldnsd::{Rbldnsd, Zone};
use host::wait;
use peers::{CLIENTS, Chain, File, assert_record, data, visits};

/// Listed wherever a test lists somebody.
const BOT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// Listed nowhere, but where everybody is.
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// What a customer of a list has in its zone's name, and nobody else may learn.
const KEY: &str = "k3yw0rth1000euro";

const SOA: &str = "$SOA 600 ns.test hostmaster.test 0 10m 5m 1d 120\n$NS 600 ns.test\n";

/// A zone that lists `entries` besides 127.0.0.2, as every list must.
fn listing(name: &'static str, entries: &str) -> Zone {
    Zone { name, kind: "ip4set", text: format!("{SOA}:127.0.0.2:listed\n127.0.0.2\n{entries}\n") }
}

/// The section `[dnsbl]` for the lists of `server`.
fn lists(server: &Rbldnsd, sites: &str, more: &str) -> String {
    format!("[dnsbl]\nnameservers = \"{}\"\ntimeout = \"500ms\"\nsites = \"{sites}\"\n{more}\n", server.address())
}

/// Whether the gate's file has a client refused, in the words of `explain`.
fn explained_as_refused(gate: &Gate, client: impl Into<IpAddr>) -> bool {
    let text = gate.explain(client.into());
    let refused = text.contains("every recipient is refused with 550, for it fails dnsbl");
    assert_ne!(refused, text.contains("nothing is held against it so far"), "{text}");
    refused
}

/// Sends one letter as a program would.
#[track_caller]
fn delivers(chain: &Chain, client: Ipv4Addr) {
    let before = chain.sink.kept().len();
    let letter = Letter::short();
    Client::Swaks.send(&Call::to(chain.gate.smtp()).from(client), &letter).assert_accepted();
    letter.assert_arrived_once(data(&chain.sink.wait_for(before + 1)), 1);
}

/// Waits until the list of this name is out, or in again.
#[track_caller]
fn wait_until_zone(gate: &Gate, zone: &str, up: bool) {
    wait::until(&format!("{zone} to be up: {up}"), || {
        let now = gate.metric("gatepost_dnsbl_zone_up", &[("zone", zone)])?;
        (now == f64::from(u8::from(up))).then_some(())
    });
}

#[test]
fn a_listed_client_is_refused_in_the_lists_public_name() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Rbldnsd]].concat()) {
        return;
    }
    let zone = "k3yw0rth1000euro.paid.test";
    let server = Rbldnsd::start(&[listing(zone, "127.0.0.66\n127.0.1.0/24"), listing("other.test", "")]);
    let more = format!("threshold = 3\nnames = {{ \"{zone}\" = \"paid.example\" }}");
    let sections = lists(&server, &format!("{zone}=127.0.0.[2..11]*3, other.test"), &more);
    // Everything that is ever logged.
    let top = "log = \"trace\"\ncontact = \"see https://example.org/blocked\"";
    let chain = Chain::postfix(File { top, sections: &sections, ..File::default() });
    let mut replies = String::new();
    for (at, client) in (1..).zip(Client::ALL) {
        let source = Ipv4Addr::new(127, 0, 1, at);
        // Nothing is remembered in a listed client's favour.
        for _ in 0..2 {
            let outcome = client.send(&Call::to(chain.gate.smtp()).from(source), &Letter::short());
            outcome.assert_refused(&format!(
                "550 5.7.1 Service unavailable; client [{source}] blocked using paid.example"
            ));
            outcome.assert_refused("; see https://example.org/blocked");
            replies += &outcome.transcript;
        }
        for visit in chain.visits(source, 2) {
            assert_record(
                &visit,
                &[
                    ("recognition", json!("stranger")),
                    ("outcome", json!("refused")),
                    ("action", json!("enforce")),
                    ("score", json!(3)),
                    ("lists", json!(["paid.example"])),
                    ("backend", json!(false)),
                    ("from", json!("bob@example.org")),
                    ("to", json!(["alice@example.test"])),
                ],
            );
            assert!(replies.contains(visit["visit"].as_str().expect("an id")), "the refusal names the visit");
        }
    }
    assert_eq!(chain.sink.connections(), 0);
    delivers(&chain, HONEST);

    let explained = chain.gate.explain(BOT.into());
    assert!(explained.contains("paid.example  listed (127.0.0.2): +3"), "{explained}");
    assert!(explained_as_refused(&chain.gate, BOT) && !explained_as_refused(&chain.gate, HONEST));

    let hits = chain.gate.metric("gatepost_dnsbl_queries_total", &[("zone", "paid.example"), ("result", "hit")]);
    assert!(hits >= Some(5.0), "{hits:?}");
    let checked = host::gate::program().arg("check").arg(chain.gate.dir().join("gatepost.toml")).output();
    let checked = checked.expect("the program that runs already");
    let journal = chain.gate.journal().iter().map(Value::to_string).collect::<String>();
    let everything = [
        ("replies", replies),
        ("metrics", chain.gate.get("/metrics").1),
        ("readiness", chain.gate.get("/ready").1),
        ("log", chain.gate.complaints()),
        ("journal", journal),
        ("explain", explained),
        ("check", String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned()),
    ];
    for (where_, text) in everything {
        assert!(!text.to_ascii_lowercase().contains(KEY), "the key is in the {where_}:\n{text}");
    }
}

#[test]
fn a_dead_lists_key_stays_out_of_the_log_too() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::Rbldnsd]) {
        return;
    }
    let zone = "k3yw0rth1000euro.paid.test";
    let server = Rbldnsd::start(&[listing(zone, "127.0.0.66")]);
    let more = format!("breaker_failures = 2\nnames = {{ \"{zone}\" = \"paid.example\" }}");
    let sections = lists(&server, zone, &more);
    let chain = Chain::postfix(File { top: "log = \"trace\"", sections: &sections, ..File::default() });
    wait_until_zone(&chain.gate, "paid.example", true);
    server.freeze();
    for at in 1..=3 {
        delivers(&chain, Ipv4Addr::new(127, 0, 2, at));
    }
    wait_until_zone(&chain.gate, "paid.example", false);
    let explained = chain.gate.explain(BOT.into());
    server.thaw();
    assert!(explained.contains("paid.example  no answer that counts: no answer in time"), "{explained}");
    let log = chain.gate.complaints();
    assert!(log.contains("paid.example"), "the log says which list: {log}");
    for text in [log, explained, chain.gate.get("/metrics").1] {
        assert!(!text.contains(KEY), "{text}");
    }
}

#[test]
fn a_list_that_dies_turns_nobody_away() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::Rbldnsd]) {
        return;
    }
    let server = Rbldnsd::start(&[listing("bl.test", "127.0.0.66\n127.0.2.0/24")]);
    let sections = lists(&server, "bl.test", "breaker_failures = 2");
    let chain = Chain::postfix(File { sections: &sections, ..File::default() });
    let refused = |client| Client::Swaks.send(&Call::to(chain.gate.smtp()).from(client), &Letter::short());
    refused(BOT).assert_refused("blocked using bl.test");
    server.stop();
    for at in 1..=3 {
        delivers(&chain, Ipv4Addr::new(127, 0, 2, at));
    }
    wait_until_zone(&chain.gate, "bl.test", false);
    let failures = chain.gate.metric("gatepost_dnsbl_queries_total", &[("zone", "bl.test"), ("result", "network")]);
    let timeouts = chain.gate.metric("gatepost_dnsbl_queries_total", &[("zone", "bl.test"), ("result", "timeout")]);
    assert!(failures.unwrap_or(0.0) + timeouts.unwrap_or(0.0) >= 2.0, "{failures:?} {timeouts:?}");
    assert!(chain.gate.complaints().contains("bl.test"), "{}", chain.gate.complaints());
    // Nobody waits any longer for a list that is out: the greet wait alone is left.
    let began = Instant::now();
    delivers(&chain, Ipv4Addr::new(127, 0, 2, 4));
    let [visit] = chain.visits(Ipv4Addr::new(127, 0, 2, 4), 1).try_into().expect("one visit");
    assert_record(&visit, &[("score", json!(null)), ("outcome", json!("relayed"))]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!explained_as_refused(&chain.gate, BOT));
}

#[test]
fn a_list_that_will_not_answer_us_turns_nobody_away() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::Rbldnsd]) {
        return;
    }
    let blocked = ":127.255.255.254:open resolver\n0.0.0.0/1\n128.0.0.0/1\n";
    let server = Rbldnsd::start(&[Zone { name: "blocked.test", kind: "ip4set", text: format!("{SOA}{blocked}") }]);
    for self_test in ["", "self_test = false\nbreaker_failures = 2"] {
        let sections = lists(&server, "blocked.test*9", self_test);
        let chain = Chain::postfix(File { sections: &sections, ..File::default() });
        for at in 1..=3 {
            delivers(&chain, Ipv4Addr::new(127, 0, 2, at));
        }
        wait_until_zone(&chain.gate, "blocked.test", false);
        let refusals = &[("zone", "blocked.test"), ("result", "error-code")];
        assert!(chain.gate.metric("gatepost_dnsbl_queries_total", refusals) >= Some(1.0));
        let log = chain.gate.complaints();
        assert!(log.contains("127.255.255.254") && log.contains("blocked.test"), "{log}");
        assert!(!explained_as_refused(&chain.gate, HONEST));
        assert!(chain.gate.explain(HONEST.into()).contains("127.255.255.254"));
    }
}

#[test]
fn a_list_that_lists_everybody_turns_nobody_away() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::Rbldnsd]) {
        return;
    }
    let server = Rbldnsd::start(&[listing("world.test", "0.0.0.0/1\n128.0.0.0/1")]);
    let sections = lists(&server, "world.test*9", "");
    let chain = Chain::postfix(File { sections: &sections, ..File::default() });
    delivers(&chain, HONEST);
    wait_until_zone(&chain.gate, "world.test", false);
    let log = chain.gate.complaints();
    assert!(log.contains("world.test") && log.contains("it lists 127.0.0.1"), "{log}");
    assert!(!explained_as_refused(&chain.gate, HONEST), "{}", chain.gate.explain(HONEST.into()));
    let explained = chain.gate.explain(HONEST.into());
    assert!(explained.contains("it lists 127.0.0.1"), "{explained}");
}

#[test]
fn a_list_that_begins_to_list_everybody_is_found_out() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::Rbldnsd]) {
        return;
    }
    // 127.0.0.1 is not listed, so that the self-test finds nothing.
    let server = Rbldnsd::start(&[listing("world.test", "127.0.2.0/24")]);
    let sections = lists(&server, "world.test", "alarm_sample = 10");
    let chain = Chain::postfix(File { sections: &sections, ..File::default() });
    let answers: Vec<String> = (1..=12)
        .map(|at| {
            let mut dialogue = Dialogue::from(Ipv4Addr::new(127, 0, 2, at), chain.gate.smtp());
            dialogue.expect("220");
            dialogue.say("EHLO client.test").expect("250");
            dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
            dialogue.say("RCPT TO:<alice@example.test>").line().ok().flatten().unwrap_or_default()
        })
        .collect();
    assert!(answers[..9].iter().all(|answer| answer.starts_with("550 ")), "too few to know: {answers:#?}");
    assert!(answers[10..].iter().all(|answer| answer.starts_with("250 ")), "not believed any more: {answers:#?}");
    wait_until_zone(&chain.gate, "world.test", false);
    assert!(chain.gate.complaints().contains("it lists 100 % of the clients"), "{}", chain.gate.complaints());
}

#[test]
fn who_is_vouched_for_does_not_wait() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::Rbldnsd]) {
        return;
    }
    let server = Rbldnsd::start(&[listing("wl.test", "127.0.0.88"), listing("bl.test", "127.0.0.66")]);
    let sections = lists(&server, "bl.test*1, wl.test*-2", "allow_threshold = -2");
    let file = File { sections: &sections, ..File::default() };
    let sink = host::sink::Sink::start();
    let options = host::postfix::Options::delivering_to(sink.address());
    let postfix = host::postfix::Postfix::start(&options);
    // Whoever has to wait does so for longer than a client of this test has patience.
    let patient =
        |text: String| text.replace("wait_min = \"300ms\"", "wait_min = \"100s\"").replace("\"6s\"", "\"100s\"");
    let gate = Gate::start(|at| patient(file.text(at, postfix.proxied())));
    let chain = Chain { gate, mta: peers::Mta::Postfix(postfix), sink };
    let vouched = Ipv4Addr::new(127, 0, 0, 88);
    delivers(&chain, vouched);
    delivers(&chain, vouched);
    let visits = chain.visits(vouched, 2);
    assert_eq!([&visits[0]["recognition"], &visits[1]["recognition"]], ["stranger", "remembered"]);
    assert_eq!((&visits[0]["score"], &visits[0]["accepted"]), (&json!(-2), &json!(1)), "{:#}", visits[0]);
    assert!(visits[0]["duration_ms"].as_u64() < Some(20_000));
    let mut other = Dialogue::from(HONEST, chain.gate.smtp());
    other.expect_line("220-");
    other.expect_silence(Duration::from_millis(300));
    let explained = chain.gate.explain(vouched.into());
    assert!(explained.contains("the lists vouch for it: handed to the backend without a wait"), "{explained}");
}

#[test]
fn a_client_that_comes_by_ipv6_is_looked_up_too() {
    let here = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !here {
        println!("SKIPPED a_client_that_comes_by_ipv6_is_looked_up_too: this machine has no [::1]");
        return;
    }
    if !present(&[Peer::Postfix, Peer::Python, Peer::Rbldnsd]) {
        return;
    }
    let six = |name, entries: &str| Zone {
        name,
        kind: "ip6trie",
        text: format!("{SOA}:127.0.0.3:listed\n::ffff:7f00:2\n{entries}\n"),
    };
    let server = Rbldnsd::start(&[six("six.test", "::1/128"), six("clean.test", "2001:db8::/32")]);
    let sections = lists(&server, "six.test", "");
    let listen = |text: String, at: &host::gate::Place<'_>| {
        text.replace(&format!("listen = \"{}\"", at.smtp), &format!("listen = \"[::1]:{}\"", at.smtp.port()))
    };

    let backend: Backend = Manners::default().behind_proxy().start();
    let gate =
        Gate::start(|at| listen(File { sections: &sections, ..File::default() }.text(at, backend.address()), at));
    let server_address = (Ipv6Addr::LOCALHOST, gate.smtp().port()).into();
    let call = Call::to(server_address).from(Ipv6Addr::LOCALHOST);
    Client::Smtplib.send(&call, &Letter::short()).assert_refused("client [::1] blocked using six.test");
    let [visit] = visits(&gate, Ipv6Addr::LOCALHOST, 1).try_into().expect("one visit");
    assert_record(&visit, &[("lists", json!(["six.test"])), ("outcome", json!("refused")), ("backend", json!(false))]);
    assert!(explained_as_refused(&gate, Ipv6Addr::LOCALHOST));

    // Where it is not listed it gets through, and Postfix hears of its address.
    let sections = lists(&server, "clean.test", "");
    let sink = host::sink::Sink::start();
    let options = host::postfix::Options {
        main_cf: &["inet_protocols = all"],
        ..host::postfix::Options::delivering_to(sink.address())
    };
    let postfix = host::postfix::Postfix::start(&options);
    let gate =
        Gate::start(|at| listen(File { sections: &sections, ..File::default() }.text(at, postfix.proxied()), at));
    let letters = [Letter::short(), Letter::short()];
    for letter in &letters {
        let server_address = (Ipv6Addr::LOCALHOST, gate.smtp().port()).into();
        Client::Smtplib.send(&Call::to(server_address).from(Ipv6Addr::LOCALHOST), letter).assert_accepted();
    }
    let kept = sink.wait_for(letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    let visits = visits(&gate, Ipv6Addr::LOCALHOST, 2);
    assert_eq!([&visits[0]["recognition"], &visits[1]["recognition"]], ["stranger", "remembered"]);
    postfix.wait_for_log(&["client=unknown[::1]"]);
    assert!(!explained_as_refused(&gate, Ipv6Addr::LOCALHOST));
}
