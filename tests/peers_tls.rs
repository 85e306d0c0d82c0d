//! TLS that ends at the gate, with real programs: every client and both MTAs as senders, by STARTTLS and on a port like
//! 465, who verify the gate's certificate and show one of their own; and a real Postfix behind.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;
mod peers;

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;

use memchr::memmem;
use serde_json::{Value, json};

use host::certificates::Certificates;
use host::client::{Call, Client, Encryption, run_reading};
use host::dialogue::Dialogue;
use host::exim;
use host::gate::Gate;
use host::letter::Letter;
use host::opensmtpd::OpenSmtpd;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use host::sink::Sink;
use peers::{CLIENTS, Chain, Mta, Table, assert_record, data};

/// The ways in which TLS begins.
const BOTH: [Encryption; 2] = [Encryption::StartTls, Encryption::Implicit];

/// A gate that ends TLS, before a Postfix.
fn chain(certificates: &Certificates, tls: &str) -> Chain {
    let sink = Sink::start();
    let mta = Mta::Postfix(Postfix::start(&postfix::Options::delivering_to(sink.address())));
    let gate = peers::tls::before(mta.proxied(), certificates, tls);
    Chain { gate, mta, sink }
}

/// The port where TLS begins so.
fn server(gate: &Gate, tls: Encryption) -> SocketAddr {
    if tls == Encryption::Implicit { gate.second() } else { gate.smtp() }
}

fn call(gate: &Gate, tls: Encryption, source: Ipv4Addr, certificates: &Certificates) -> Call {
    Call::to(server(gate, tls)).from(source).over(tls).verifying(certificates.authority())
}

/// What each of them sends: a short letter, one with everything about dots, and one larger than any buffer on the way.
fn letters() -> [Letter; 3] {
    let dots = Letter::saying(b".\r\n..\r\n.hidden\r\nlast line is a dot\r\n.\r\n");
    [Letter::short(), dots, Letter::saying(&b"a secret line\r\n".repeat(30_000))]
}

/// A visit under TLS that delivered a message, of a client without a certificate.
fn assert_secure(visit: &Value) {
    assert_record(visit, &[("outcome", json!("relayed")), ("accepted", json!(1)), ("note", Value::Null)]);
    let tls = &visit["tls"];
    // In TLS 1.2 the key exchange is part of the suite's name.
    let forward_secret = match tls["version"].as_str() {
        Some("TLSv1.3") => "TLS_",
        Some("TLSv1.2") => "TLS_ECDHE_",
        _ => "another version",
    };
    let cipher = tls["cipher"].as_str().unwrap_or_default();
    assert!(cipher.starts_with(forward_secret), "{visit:#}");
    assert!(cipher.contains("_GCM_") || cipher.contains("_CHACHA20_POLY1305_"), "{visit:#}");
}

/// Where the MTA says, on top of a message, that it came from `client`.
fn received_from(message: &[u8], client: Ipv4Addr) -> bool {
    let first = message.split(|&byte| byte == b'\n').next().unwrap_or_default();
    memmem::find(first, format!("[{client}]").as_bytes()).is_some()
}

#[test]
fn every_client_delivers_under_tls_to_postfix() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::OpenSsl]].concat()) {
        return;
    }
    let table = Table::new("TLS up to the gate, to Postfix");
    let certificates = Certificates::make();
    let chain = chain(&certificates, "");
    let source = |tls, number| Ipv4Addr::new(127, 0, if tls == Encryption::Implicit { 2 } else { 1 }, number);
    let deliver = |client: Client, number: u8| {
        let mut sent = Vec::new();
        for tls in BOTH {
            let call = call(&chain.gate, tls, source(tls, number), &certificates);
            // The first is a stranger's, with whom gatepost speaks itself; the others are handed off at once.
            let all = letters();
            table.time(format!("{client:?}, {tls:?}"), || {
                all.iter().for_each(|letter| client.send(&call, letter).assert_accepted());
                all.len()
            });
            sent.extend(all);
        }
        sent
    };
    let letters: Vec<Letter> = thread::scope(|scope| {
        let deliver = &deliver;
        let senders: Vec<_> =
            (1..).zip(Client::ALL).map(|(number, client)| scope.spawn(move || deliver(client, number))).collect();
        senders.into_iter().flat_map(|sender| sender.join().expect("a sender that did not panic")).collect()
    });
    let kept = chain.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));

    for (number, client) in (1..).zip(Client::ALL) {
        for tls in BOTH {
            let source = source(tls, number);
            let visits = chain.visits(source, 3);
            visits.iter().for_each(assert_secure);
            assert_eq!(visits[0]["recognition"], "stranger", "{client:?}");
            assert!(visits[1..].iter().all(|visit| visit["recognition"] == "remembered"), "{visits:#?}");
            assert_eq!(chain.mta.taken_from(source.into()), 3, "{client:?}: the MTA knows whose they are");
            let told = data(&kept).filter(|message| received_from(message, source)).count();
            assert_eq!(told, 3, "{client:?}: and says so in Received");
        }
    }
}

/// To whom a second EHLO is an error: it is not the MTA that has heard the first that clients speak with under TLS.
#[test]
fn known_clients_deliver_under_tls_to_opensmtpd() {
    if !present(&[&CLIENTS[..], &[Peer::OpenSmtpd, Peer::OpenSsl]].concat()) {
        return;
    }
    let (certificates, sink) = (Certificates::make(), Sink::start());
    let mta = OpenSmtpd::start(sink.address());
    let mut twice = Dialogue::with(mta.plain());
    twice.expect("220");
    twice.say("EHLO client.test").expect("250");
    twice.say("EHLO client.test").expect("503 5.5.1");
    let gate = peers::tls::before(mta.proxied(), &certificates, "");
    let mut letters = Vec::new();
    for (number, client) in (1..).zip(Client::ALL) {
        let source = Ipv4Addr::new(127, 9, 5, number);
        let letter = Letter::short();
        client.send(&call(&gate, Encryption::StartTls, source, &certificates), &letter).assert_accepted();
        let visit = gate.wait_for_record(|visit| visit["client"] == source.to_string());
        assert_secure(&visit);
        assert_eq!(visit["recognition"], "allowed", "{visit}");
        letters.push((letter, source));
    }
    let kept = sink.wait_for(letters.len());
    for (letter, source) in &letters {
        letter.assert_arrived_once(data(&kept), 1);
        assert_eq!(data(&kept).filter(|mail| received_from(mail, *source)).count(), 1);
    }
    let visits = gate.metric("gatepost_backend_connections_total", &[("gate", "mx")]);
    assert_eq!(visits, Some(letters.len() as f64), "visits, not connections");
}

/// That they verify is what makes the test above one of the certificate, too.
#[test]
fn a_client_that_does_not_trust_the_certificate_sends_nothing() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim, Peer::OpenSsl]].concat()) {
        return;
    }
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let chain = chain(&certificates, "");
    for (number, client) in (1..).zip(Client::ALL) {
        for (network, tls) in (1..).zip(BOTH) {
            let source = Ipv4Addr::new(127, 9, network, number);
            let outcome = client.send(&call(&chain.gate, tls, source, &others), &Letter::short());
            assert!(!outcome.accepted, "{client:?} {tls:?}\n{}", outcome.transcript);
            let [visit] = chain.visits(source, 1).try_into().expect("one visit");
            assert_record(&visit, &[("accepted", json!(0)), ("from", Value::Null)]);
        }
    }
    let call = call(&chain.gate, Encryption::StartTls, Ipv4Addr::new(127, 9, 3, 1), &others);
    assert!(!exim::send(&call, &Letter::short()).accepted);
    assert_eq!(chain.sink.connections(), 0);
}

/// What Postfix needs in main.cf to send over TLS from `source`, to nobody but the owner of a certificate for mx.test.
fn sending(tls: Encryption, source: Ipv4Addr, certificates: &Certificates) -> Vec<String> {
    let mut lines = vec![
        format!("smtp_bind_address = {source}"),
        "smtp_tls_security_level = verify".to_owned(),
        "smtp_tls_verify_cert_match = mx.test".to_owned(),
        format!("smtp_tls_CAfile = {}", certificates.authority().display()),
        "smtp_tls_loglevel = 1".to_owned(),
    ];
    if tls == Encryption::Implicit {
        lines.push("smtp_tls_wrappermode = yes".to_owned());
    }
    lines
}

fn postfix_to(server: SocketAddr, lines: &[String]) -> Postfix {
    let main_cf: Vec<&str> = lines.iter().map(String::as_str).collect();
    Postfix::start(&postfix::Options { main_cf: &main_cf, ..postfix::Options::delivering_to(server) })
}

fn hand_in(relay: &Postfix, letter: &Letter) {
    let mut dialogue = Dialogue::with(relay.plain());
    dialogue.expect("220");
    dialogue.deliver(letter);
}

#[test]
fn postfix_as_a_client_delivers_under_tls() {
    if !present(&[Peer::Postfix, Peer::OpenSsl]) {
        return;
    }
    let certificates = Certificates::make();
    let chain = chain(&certificates, "");
    let mut letters = Vec::new();
    for (number, tls) in (1..).zip(BOTH) {
        let source = Ipv4Addr::new(127, 3, 0, number);
        let relay = postfix_to(server(&chain.gate, tls), &sending(tls, source, &certificates));
        for letter in self::letters() {
            hand_in(&relay, &letter);
            letters.push(letter);
            chain.sink.wait_for(letters.len());
        }
        relay.wait_for_log(&["Verified TLS connection established to"]);
        let visits = chain.visits(source, 3);
        visits.iter().for_each(assert_secure);
        assert_eq!(visits[0]["recognition"], "stranger");
        assert_eq!(chain.mta.taken_from(source.into()), 3);
    }
    let kept = chain.sink.kept();
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 2));
}

#[test]
fn exim_as_a_client_delivers_under_tls() {
    if !present(&[Peer::Postfix, Peer::Exim, Peer::OpenSsl]) {
        return;
    }
    let certificates = Certificates::make();
    let chain = chain(&certificates, "");
    let mut letters = Vec::new();
    for (number, tls) in (1..).zip(BOTH) {
        let source = Ipv4Addr::new(127, 4, 0, number);
        for letter in self::letters() {
            let outcome = exim::send(&call(&chain.gate, tls, source, &certificates), &letter);
            outcome.assert_accepted();
            assert!(outcome.transcript.contains(" CV=yes "), "it has verified\n{}", outcome.transcript);
            assert!(exim::used_chunking(&outcome.transcript), "{}", outcome.transcript);
            letters.push(letter);
        }
        let visits = chain.visits(source, 3);
        visits.iter().for_each(assert_secure);
        assert_eq!(visits[0]["recognition"], "stranger");
        assert_eq!(chain.mta.taken_from(source.into()), 3);
    }
    let kept = chain.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 2));
}

#[test]
fn clients_are_asked_for_a_certificate_and_need_none() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim, Peer::OpenSsl]].concat()) {
        return;
    }
    let certificates = Certificates::make();
    let own = (certificates.chain("other.test"), certificates.key("other.test"));
    // MTAs that send read it as a user of their own.
    fs::set_permissions(&own.1, Permissions::from_mode(0o644)).expect("our own file");
    let chain = chain(&certificates, "client_certificate = 'ask'");
    let mut sent = 0;
    let mut check = |source: Ipv4Addr, shown: bool| {
        sent += 1;
        let [visit] = chain.visits(source, 1).try_into().expect("one visit");
        assert_secure(&visit);
        assert_eq!(visit["tls"]["certificate"], shown, "{visit:#}");
    };
    for (network, tls) in (1..).zip(BOTH) {
        for (number, client) in (1..).zip(Client::ALL) {
            for shown in [false, true] {
                // Strangers and those who are handed off at once, by turns.
                let first = if number % 2 == 0 { 0 } else { 9 };
                let source = Ipv4Addr::new(127, first, network + if shown { 10 } else { 20 }, number);
                let mut call = call(&chain.gate, tls, source, &certificates);
                if shown {
                    call = call.showing(own.0.clone(), own.1.clone());
                }
                client.send(&call, &Letter::short()).assert_accepted();
                check(source, shown);
            }
        }
        let source = Ipv4Addr::new(127, 5, 0, network);
        let call = call(&chain.gate, tls, source, &certificates).showing(own.0.clone(), own.1.clone());
        exim::send(&call, &Letter::short()).assert_accepted();
        check(source, true);

        let source = Ipv4Addr::new(127, 6, 0, network);
        let mut lines = sending(tls, source, &certificates);
        lines.push(format!("smtp_tls_chain_files = {}, {}", own.1.display(), own.0.display()));
        let relay = postfix_to(server(&chain.gate, tls), &lines);
        hand_in(&relay, &Letter::short());
        check(source, true);
    }
    assert_eq!(chain.sink.wait_for(sent).len(), sent);
}

/// What curl and OpenSSL are shown: the certificate of the name that they ask for, or else the first.
#[test]
fn real_clients_are_shown_the_certificate_of_the_name_they_ask_for() {
    if !present(&[Peer::Postfix, Peer::Curl, Peer::OpenSsl]) {
        return;
    }
    let certificates = Certificates::make();
    let chain = chain(&certificates, "");
    let address = IpAddr::from(Ipv4Addr::LOCALHOST);
    for (scheme, server) in [("smtp", chain.gate.smtp()), ("smtps", chain.gate.second())] {
        for (name, trusted) in [("mx.test", true), ("other.test", true), ("smtp.test", true), ("nobody.test", false)] {
            let port = server.port();
            let mut curl = Command::new(Peer::Curl.program());
            curl.args(["--verbose", "--silent", "--show-error", "--ssl-reqd", "--request", "NOOP"]);
            curl.arg("--interface").arg("127.9.0.1").arg("--cacert").arg(certificates.authority());
            curl.args([
                "--resolve",
                &format!("{name}:{port}:{address}"),
                &format!("{scheme}://{name}:{port}/client.test"),
            ]);
            let outcome = run_reading(curl, Stdio::null());
            assert_eq!(outcome.accepted, trusted, "{scheme} {name}\n{}", outcome.transcript);

            let mut openssl = Command::new(Peer::OpenSsl.program());
            openssl.args(["s_client", "-connect", &server.to_string(), "-bind", "127.9.0.2:0", "-servername", name]);
            if scheme == "smtp" {
                openssl.args(["-starttls", "smtp", "-name", "client.test"]);
            }
            let outcome = run_reading(openssl, Stdio::null());
            let shown = if name == "other.test" { "subject=CN = other.test" } else { "subject=CN = mx.test" };
            assert!(outcome.transcript.contains(shown), "{scheme} {name}\n{}", outcome.transcript);
        }
    }
    let asked: Vec<Value> = chain.visits(Ipv4Addr::new(127, 9, 0, 2), 8);
    let names: Vec<&str> = asked.iter().filter_map(|visit| visit["tls"]["sni"].as_str()).collect();
    assert_eq!(names, ["mx.test", "other.test", "smtp.test", "nobody.test"].repeat(2));
}
