//! Behind real load balancers: HAProxy and nginx before the gate, Postfix behind it. What Postfix writes down is the address
//! that the client came from, and never a load balancer's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;
mod peers;

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use host::client::{Call, Client};
use host::dialogue::Dialogue;
use host::haproxy::{self, Haproxy};
use host::letter::Letter;
use host::nginx::{self, Nginx};
use host::peers::{Peer, present};
use host::wait;
use peers::{CLIENTS, Chain, File, assert_record, data};

const HEADERS: &str = "gatepost_proxy_headers_total";

/// A gate that believes the load balancers, before Postfix.
fn chain(from: &str) -> Chain {
    let gate = format!("proxy_from = {from}\n");
    Chain::postfix(File { gate: &gate, ..File::default() })
}

fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 100 + n)
}

/// Every mail program sends twice through `balancer`, as a stranger and as one who is known. `proxy` is where that connects
/// from.
fn deliver(chain: &Chain, balancer: SocketAddr, proxy: &str, before: usize) {
    let mut letters = Vec::new();
    for (n, program) in (1..).zip(Client::ALL) {
        for _ in 0..2 {
            let letter = Letter::short();
            program.send(&Call::to(balancer).from(client(n + before as u8)), &letter).assert_accepted();
            letters.push(letter);
        }
    }
    let kept = chain.sink.wait_for(letters.len() + before * 2);
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    for (n, _) in (1..).zip(Client::ALL) {
        let client = client(n + before as u8);
        let visits = chain.visits(client, 2);
        for (visit, recognition) in visits.iter().zip(["stranger", "remembered"]) {
            assert_record(
                visit,
                &[
                    ("recognition", json!(recognition)),
                    ("outcome", json!("relayed")),
                    ("local", json!(balancer.to_string())),
                    ("accepted", json!(1)),
                ],
            );
            assert!(visit["proxy"].as_str().unwrap().starts_with(&format!("{proxy}:")), "{visit:#}");
        }
        assert_eq!(chain.mta.taken_from(client.into()), 2, "{}", chain.mta.log());
    }
    assert!(!chain.mta.log().contains(proxy), "{}", chain.mta.log());
}

#[test]
fn haproxy_announces_its_clients_in_both_versions() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Haproxy]].concat()) {
        return;
    }
    let chain = chain(&format!("['{}']", haproxy::ADDRESS));
    for (before, version) in [(0, "send-proxy"), (Client::ALL.len(), "send-proxy-v2")] {
        let haproxy = Haproxy::before(chain.gate.smtp(), version);
        deliver(&chain, haproxy.address(), haproxy::ADDRESS, before);
    }
    // Each program twice through each of the two.
    let clients = (Client::ALL.len() * 4) as f64;
    assert_eq!(chain.gate.metric(HEADERS, &[("result", "client")]), Some(clients));
    assert_eq!(chain.gate.metric(HEADERS, &[]), Some(clients), "nothing but clients");
}

#[test]
fn haproxy_s_checks_follow_the_mta_and_never_reach_it() {
    if !present(&[Peer::Postfix, Peer::Haproxy, Peer::Swaks]) {
        return;
    }
    let mut chain = chain(&format!("['{}']", haproxy::ADDRESS));
    let balancers = ["send-proxy", "send-proxy-v2", "send-proxy-v2 check-send-proxy"]
        .map(|version| Haproxy::before(chain.gate.smtp(), &format!("{version} check inter 100ms rise 1 fall 1")));
    balancers.iter().for_each(|haproxy| haproxy.wait_for("UP"));
    let checked = |record: &serde_json::Value| record["outcome"] == "checked";
    let record = chain.gate.wait_for_record(checked);
    assert_record(
        &record,
        &[("recognition", json!("proxy")), ("client", json!(haproxy::ADDRESS)), ("stage", json!("dialogue"))],
    );
    assert_eq!(record["helo"], "balancer.test");

    chain.its_postfix().halt();
    // The first client that is to be handed off finds it away.
    let mut unlucky = Dialogue::from(Ipv4Addr::new(127, 9, 0, 1), balancers[0].address());
    unlucky.expect_line("421 4.3.2");
    balancers.iter().for_each(|haproxy| haproxy.wait_for("DOWN"));
    let (_, check) = balancers[1].state();
    assert!(check.contains("L7") && check.contains("421"), "{check}");

    chain.its_postfix().start_again();
    balancers.iter().for_each(|haproxy| haproxy.wait_for("UP"));
    let letter = Letter::short();
    Client::Swaks.send(&Call::to(balancers[1].address()).from(client(1)), &letter).assert_accepted();
    letter.assert_arrived_once(data(&chain.sink.wait_for(1)), 1);
    assert!(!chain.mta.log().contains(haproxy::ADDRESS), "{}", chain.mta.log());
    for fault in ["missing", "malformed", "late", "too-long", "untrusted"] {
        assert_eq!(chain.gate.metric(HEADERS, &[("result", fault)]), Some(0.0), "{fault}");
    }
}

#[test]
fn a_haproxy_that_does_not_say_who_the_client_is_is_told() {
    if !present(&[Peer::Postfix, Peer::Haproxy]) {
        return;
    }
    let gate = format!("proxy_from = '{}'\ntimeouts.proxy = '1s'\n", haproxy::ADDRESS);
    let chain = Chain::postfix(File { gate: &gate, ..File::default() });
    let haproxy = Haproxy::before(chain.gate.smtp(), "");
    let mut allowed = Dialogue::from(Ipv4Addr::new(127, 9, 0, 1), haproxy.address());
    allowed.expect_line("421 4.3.5 mx.gate.test Your proxy did not say who the client is");
    let logged = || chain.gate.complaints().contains("a load balancer does not say who its client is").then_some(());
    wait::until("a line of the log", logged);
    // Past the load balancer there is no way in.
    let mut past = Dialogue::from(Ipv4Addr::new(127, 9, 0, 1), chain.gate.smtp());
    past.expect_line("421 4.3.5 mx.gate.test This port takes connections from its load balancer only");
    assert_eq!(chain.mta.taken_from(Ipv4Addr::new(127, 9, 0, 1).into()), 0);
}

#[test]
fn nginx_announces_its_clients() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Nginx]].concat()) {
        return;
    }
    let chain = chain(&format!("['{}']", nginx::ADDRESS));
    let nginx = Nginx::stream(chain.gate.smtp());
    deliver(&chain, nginx.address(), nginx::ADDRESS, 0);
}

/// It speaks SMTP itself; what comes from it is the client's envelope and message, under its own name.
#[test]
fn nginx_s_smtp_part_announces_its_clients() {
    if !present(&[Peer::Postfix, Peer::Nginx, Peer::Swaks]) {
        return;
    }
    let chain = chain("['127.0.0.1']");
    let nginx = Nginx::mail(chain.gate.smtp());
    let letters = [Letter::short(), Letter::short()];
    for letter in &letters {
        Client::Swaks.send(&Call::to(nginx.address()).from(client(1)), letter).assert_accepted();
    }
    let kept = chain.sink.wait_for(2);
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    for (visit, recognition) in chain.visits(client(1), 2).iter().zip(["stranger", "remembered"]) {
        assert_record(visit, &[("recognition", json!(recognition)), ("outcome", json!("relayed"))]);
    }
    assert_eq!(chain.visits(client(1), 2)[0]["helo"], nginx::NAME);
    assert_eq!(chain.mta.taken_from(client(1).into()), 2, "{}", chain.mta.log());
}
