//! TLS with a real MTA behind the gate: Postfix and Exim, in each of the ways in which it begins, verified and not; and
//! what becomes of a client where the MTA cannot be trusted.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;
mod peers;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::json;

use host::certificates::Certificates;
use host::client::{Call, Client};
use host::exim::{self, Exim};
use host::gate::Gate;
use host::letter::Letter;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use host::sink::Sink;
use host::wait;
use peers::{File, Mta, assert_record, data, visits};
use rustix::process::Signal;

/// Both MTAs, with a certificate for mx.test.
fn mtas(certificates: &Certificates, sink: &Sink) -> [Mta; 2] {
    let certificates = Some(certificates);
    let next_hop = sink.address();
    [
        Mta::Postfix(Postfix::start(&postfix::Options {
            certificates,
            main_cf: &["smtpd_tls_loglevel = 1"],
            ..postfix::Options::delivering_to(next_hop)
        })),
        Mta::Exim(Exim::start(&exim::Options { certificates, ..exim::Options::delivering_to(next_hop) })),
    ]
}

/// The port where TLS comes behind the PROXY header.
fn wrapped(mta: &Mta) -> SocketAddr {
    match mta {
        Mta::Postfix(postfix) => postfix.proxied_and_wrapped(),
        Mta::Exim(exim) => exim.wrapped(),
    }
}

/// How many messages or connections of `client` the MTA says came under TLS.
fn under_tls(mta: &Mta, client: Ipv4Addr) -> usize {
    let log = mta.log();
    let tells = |line: &&str| match mta {
        Mta::Postfix(_) => line.contains(&format!("TLS connection established from unknown[{client}]: TLSv1.3 with")),
        Mta::Exim(_) => line.contains(" <= ") && line.contains(&format!("[{client}]:")) && line.contains(" X=TLS1.3:"),
    };
    log.lines().filter(tells).count()
}

fn trusting(authority: &Path, name: &str) -> String {
    format!("backend_ca = '{}'\nbackend_name = '{name}'", authority.display())
}

#[test]
fn both_mtas_are_delivered_to_under_tls() {
    if !present(&[Peer::Postfix, Peer::Exim, Peer::Swaks, Peer::OpenSsl]) {
        return;
    }
    let (certificates, sink) = (Certificates::make(), Sink::start());
    let trust = trusting(&certificates.authority(), "mx.test");
    let mut letters = Vec::new();
    for mta in mtas(&certificates, &sink) {
        for (network, begins, port, trust) in [
            (1, "starttls", mta.proxied(), ""),
            (2, "starttls-required", mta.proxied(), &trust),
            (3, "implicit", wrapped(&mta), &trust),
            (4, "implicit", wrapped(&mta), "backend_verify = false"),
        ] {
            let tls = format!("backend_tls = '{begins}'\n{trust}");
            let gate = File { gate: &tls, ..File::default() }.before(port);
            // One that gatepost speaks with first, and one that is let in at once.
            for client in [Ipv4Addr::new(127, 0, network, 1), Ipv4Addr::new(127, 9, network, 1)] {
                let letter = Letter::saying(&b".\r\na line of some length\r\n".repeat(10_000));
                Client::Swaks.send(&Call::to(gate.smtp()).from(client), &letter).assert_accepted();
                letters.push(letter);
                assert_eq!(mta.taken_from(client.into()), 1, "{} {begins}: the MTA knows whose it is", mta.name());
                assert_eq!(under_tls(&mta, client), 1, "{} {begins}\n{}", mta.name(), mta.log());
                let [visit] = visits(&gate, client, 1).try_into().expect("one visit");
                assert_record(&visit, &[("outcome", json!("relayed")), ("accepted", json!(1))]);
            }
        }
    }
    let kept = sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
}

/// A client is put off with 421, the operator is told why, and nothing is said to whoever stands there.
#[track_caller]
fn assert_put_off(gate: &Gate, mta: &Mta, clients: [Ipv4Addr; 2]) {
    // A stranger cannot be greeted: what the MTA offers has never been learned. One that is let in is what dials.
    for (client, why) in
        clients.into_iter().zip(["the backend is away", "TLS handshake failed: invalid peer certificate"])
    {
        let outcome = Client::Swaks.send(&Call::to(gate.smtp()).from(client), &Letter::short());
        outcome.assert_refused("421 ");
        let [visit] = visits(gate, client, 1).try_into().expect("one visit");
        assert_record(&visit, &[("outcome", json!("backend-failed")), ("accepted", json!(0))]);
        assert!(visit["note"].as_str().unwrap_or_default().contains(why), "{visit:#}");
        assert_eq!(mta.taken_from(client.into()), 0);
    }
    let told = wait::until("a word to the operator", || {
        gate.complaints().lines().find(|line| line.contains(" WARN ")).map(str::to_owned)
    });
    assert!(told.contains("failure=the TLS handshake failed: invalid peer certificate"), "{told}");
    assert_eq!(gate.metric("gatepost_backend_failures_total", &[("kind", "tls")]), Some(1.0));
}

#[test]
fn an_mta_with_another_name_or_authority_is_not_spoken_to() {
    if !present(&[Peer::Postfix, Peer::Exim, Peer::Swaks, Peer::OpenSsl]) {
        return;
    }
    let (certificates, others, sink) = (Certificates::make(), Certificates::make(), Sink::start());
    for mta in mtas(&certificates, &sink) {
        for (network, begins, port) in [(1, "starttls-required", mta.proxied()), (2, "implicit", wrapped(&mta))] {
            for (number, trust) in
                (1..).zip([trusting(&certificates.authority(), "other.test"), trusting(&others.authority(), "mx.test")])
            {
                let tls = format!("backend_tls = '{begins}'\n{trust}");
                let gate = File { gate: &tls, ..File::default() }.before(port);
                let clients = [Ipv4Addr::new(127, 0, network, number), Ipv4Addr::new(127, 9, network, number)];
                assert_put_off(&gate, &mta, clients);
            }
        }
    }
    assert_eq!(sink.connections(), 0);
}

/// An authority is renewed like a certificate: in the same file, and whoever reloads expects it to be read.
#[test]
fn a_reload_reads_the_authorities_anew() {
    if !present(&[Peer::Postfix, Peer::Exim, Peer::Swaks, Peer::OpenSsl]) {
        return;
    }
    let (certificates, others, sink) = (Certificates::make(), Certificates::make(), Sink::start());
    for (number, mta) in (1..).zip(mtas(&certificates, &sink)) {
        let gate = Gate::start(|at| {
            let authority = at.dir.join("ca.pem");
            fs::copy(others.authority(), &authority).expect("a copy");
            let tls = format!("backend_tls = 'implicit'\n{}", trusting(&authority, "mx.test"));
            File { gate: &tls, ..File::default() }.text(at, wrapped(&mta))
        });
        assert_put_off(&gate, &mta, [Ipv4Addr::new(127, 0, 0, number), Ipv4Addr::new(127, 9, 0, number)]);
        fs::copy(certificates.authority(), gate.dir().join("ca.pem")).expect("a copy");
        gate.signal(Signal::HUP);
        let client = Ipv4Addr::new(127, 9, 1, number);
        let letter = wait::until("a client to be let in", || {
            let letter = Letter::short();
            Client::Swaks.send(&Call::to(gate.smtp()).from(client), &letter).accepted.then_some(letter)
        });
        let kept = sink.wait_for(number.into());
        letter.assert_arrived_once(data(&kept), 1);
        assert_eq!(under_tls(&mta, client), 1);
    }
}
