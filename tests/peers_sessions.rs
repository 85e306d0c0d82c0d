//! What gatepost must not understand, and what it must not touch: TLS between the client and the MTA, which begins behind
//! the screen and goes through as bytes; and logins on a submission gate, which are counted and nothing else.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;
mod peers;

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use host::backend::{Act, Manners};
use host::certificates::Certificates;
use host::client::{Call, Client, Encryption, run_reading, swaks};
use host::dialogue::Dialogue;
use host::exim::{self, Exim};
use host::gate::Gate;
use host::letter::Letter;
use host::peers::{Peer, present};
use host::sink::Sink;
use host::wait;
use peers::{CLIENTS, Chain, File, Mta, Table, assert_record, data};

/// How many ends of pipes a gate holds: splice(2) needs them, and gatepost has no other use for any.
fn pipes(gate: &Gate) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", gate.pid())).expect("our own child's descriptors");
    let names = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("pipe:")).count()
}

#[test]
fn tls_goes_through_unread_to_the_mta_that_has_the_certificate() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim, Peer::OpenSsl]].concat()) {
        return;
    }
    let table = Table::new("inside TLS, through the gate to Postfix");
    let certificates = Certificates::make();
    let chain = Chain::postfix_with(File::default(), &["smtpd_tls_loglevel = 1"], Some(&certificates));
    let letters: Vec<Letter> = ["stranger", "remembered"]
        .into_iter()
        .flat_map(|who| {
            let mut sent = Vec::new();
            for (at, client) in (1..).zip(Client::ALL) {
                let call = Call::to(chain.gate.smtp()).from(Ipv4Addr::new(127, 0, 1, at)).over(Encryption::StartTls);
                // Larger than any buffer on the way.
                let all = [Letter::short(), Letter::saying(&b"a secret line\r\n".repeat(30_000))];
                table.time(format!("{client:?}, {who}"), || {
                    all.iter().for_each(|letter| client.send(&call, letter).assert_accepted());
                    all.len()
                });
                sent.extend(all);
            }
            sent
        })
        .collect();
    let kept = chain.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));

    for (at, _) in (1..).zip(Client::ALL) {
        let client = Ipv4Addr::new(127, 0, 1, at);
        let visits = chain.visits(client, 4);
        assert_eq!(visits[0]["recognition"], "stranger");
        assert!(visits[1..].iter().all(|visit| visit["recognition"] == "remembered"), "{visits:#?}");
        for (visit, least) in visits.iter().zip([0, 450_000, 0, 450_000]) {
            // What is said inside TLS is nobody's business: no envelope, no message counted. Bytes are.
            assert_record(
                visit,
                &[
                    ("outcome", json!("relayed")),
                    ("from", Value::Null),
                    ("to", Value::Null),
                    ("accepted", json!(0)),
                    ("note", Value::Null),
                ],
            );
            assert!(visit["bytes_in"].as_u64() > Some(least), "{visit:#}");
        }
        let log = chain.mta.log();
        let handshakes = format!("TLS connection established from unknown[{client}]");
        assert_eq!(log.matches(&handshakes).count(), 4, "{log}");
        assert_eq!(chain.mta.taken_from(client.into()), 4);
    }

    let letters = [Letter::short(), Letter::short()];
    for letter in &letters {
        let call = Call::to(chain.gate.smtp()).from(Ipv4Addr::new(127, 0, 1, 99)).over(Encryption::StartTls);
        exim::send(&call, letter).assert_accepted();
    }
    let kept = chain.sink.wait_for(letters.len() + kept.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 2));
}

#[test]
fn behind_starttls_the_kernel_moves_the_bytes() {
    let mut manners = Manners::default().behind_proxy().but("STARTTLS", Act::Say("220 2.0.0 go on"));
    manners.keywords.push("STARTTLS".to_owned());
    let backend = manners.start();
    let gate = File::default().before(backend.address());
    let before = pipes(&gate);
    let mut dialogue = Dialogue::from(Ipv4Addr::new(127, 0, 0, 7), gate.smtp());
    dialogue.expect("220");
    dialogue.say("EHLO client.test").expect("250");
    dialogue.say("STARTTLS").expect("220");
    assert_eq!(pipes(&gate), before, "nothing is moved unseen so far");
    // Whether what follows is TLS is not asked.
    dialogue.say("XYZZY one").expect("250");
    dialogue.say("XYZZY two").expect("250");
    wait::until("a pipe to have been made, and kept for later", || (pipes(&gate) > before).then_some(()));
    dialogue.finish_sending().expect_close();
    assert!(
        backend.wait_for_ends(2).iter().any(|seen| seen.bytes.ends_with(b"STARTTLS\r\nXYZZY one\r\nXYZZY two\r\n"))
    );
}

#[test]
fn the_certificate_that_a_client_sees_is_the_mtas() {
    if !present(&[Peer::Postfix, Peer::OpenSsl]) {
        return;
    }
    let certificates = Certificates::make();
    let chain = Chain::postfix_with(File::default(), &[], Some(&certificates));
    for who in ["stranger", "remembered"] {
        let mut openssl = Command::new(Peer::OpenSsl.program());
        openssl.args(["s_client", "-starttls", "smtp", "-connect", &chain.gate.smtp().to_string()]);
        openssl.args([
            "-bind",
            "127.0.0.7:0",
            "-name",
            "client.test",
            "-verify_return_error",
            "-verify_hostname",
            "mx.test",
        ]);
        openssl.args(["-servername", "mx.test"]).arg("-CAfile").arg(certificates.authority());
        let outcome = run_reading(openssl, Stdio::null());
        assert!(outcome.transcript.contains("Verify return code: 0 (ok)"), "{who}: {}", outcome.transcript);
    }
    let visits = chain.visits(Ipv4Addr::new(127, 0, 0, 7), 2);
    assert_eq!([&visits[0]["recognition"], &visits[1]["recognition"]], ["stranger", "remembered"]);
}

#[test]
fn who_is_refused_is_offered_no_tls_by_an_mta_it_will_not_meet() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::OpenSsl]) {
        return;
    }
    let certificates = Certificates::make();
    let file =
        File { sections: "[tests]\nhelo = { bots = [\"client.test\"], names = \"enforce\" }", ..File::default() };
    let chain = Chain::postfix_with(file, &[], Some(&certificates));
    let call = Call::to(chain.gate.smtp()).from(Ipv4Addr::new(127, 0, 0, 7));
    Client::Swaks.send(&call, &Letter::short()).assert_refused("550 5.7.1 Helo command rejected");
    // Those that take TLS where they get it go on without, and hear why.
    swaks(&call, &Letter::short(), &["--tls-optional"]).assert_refused("550 5.7.1 Helo command rejected");
    Client::Swaks.send(&call.over(Encryption::StartTls), &Letter::short()).assert_refused("454 4.7.0");
    let visits = chain.visits(Ipv4Addr::new(127, 0, 0, 7), 3);
    assert!(visits.iter().all(|visit| visit["backend"] == false), "{visits:#?}");
}

const USER: &str = "ann";
const PASSWORD: &str = "correct-horse-battery";
const WRONG: &str = "wrong-horse-battery";

/// Both passwords, and what PLAIN and LOGIN make of them in base64.
const SECRETS: [&str; 6] = [
    PASSWORD,
    WRONG,
    "AGFubgBjb3JyZWN0LWhvcnNlLWJhdHRlcnk",
    "AGFubgB3cm9uZy1ob3JzZS1iYXR0ZXJ5",
    "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5",
    "d3JvbmctaG9yc2UtYmF0dGVyeQ",
];

#[test]
fn logins_go_through_a_submission_gate_and_failures_are_counted() {
    if !present(&[&CLIENTS[..], &[Peer::Exim]].concat()) {
        return;
    }
    let sink = Sink::start();
    let options = exim::Options { login: Some((USER, PASSWORD)), ..exim::Options::delivering_to(sink.address()) };
    let file = File { top: "log = \"trace\"", gate: "scene = \"submission\"", ..File::default() };
    let chain = Chain::with(file, Mta::Exim(Exim::start(&options)), sink);
    let server = chain.gate.smtp();
    let mut letters = Vec::new();
    for (at, client) in (1..).zip(Client::ALL) {
        let source = Ipv4Addr::new(127, 0, 1, at);
        let call = Call::to(server).from(source);
        // Abroad, where only those may send who have logged in.
        let letter = Letter::short().to(&["somebody@example.net"]);
        client.send(&call, &letter).assert_refused("5.7.1");
        client.send(&call.clone().with_login(USER, WRONG), &letter).assert_refused("535");
        client.send(&call.with_login(USER, PASSWORD), &letter).assert_accepted();
        letters.push(letter);
        let visits = chain.visits(source, 3);
        assert_record(&visits[0], &[("auth_ok", json!(0)), ("auth_failed", json!(0)), ("accepted", json!(0))]);
        assert_record(&visits[2], &[("auth_ok", json!(1)), ("auth_failed", json!(0)), ("accepted", json!(1))]);
        assert_eq!((&visits[1]["auth_ok"], &visits[1]["accepted"]), (&json!(0), &json!(0)));
        // Some try a second mechanism after the first has failed.
        assert!(visits[1]["auth_failed"].as_u64() >= Some(1), "{:#}", visits[1]);
        // Nobody waits for the greeting here.
        assert!(visits.iter().all(|visit| visit["gate"] == "submission"), "{visits:#?}");
        assert_eq!(chain.mta.taken_from(source.into()), 1);
    }
    // Every step of LOGIN is a line of its own.
    let call = Call::to(server).from(Ipv4Addr::new(127, 0, 2, 1));
    let step_by_step = |password| {
        let login = ["--auth", "LOGIN", "--auth-user", USER, "--auth-password", password];
        let letter = Letter::short().to(&["somebody@example.net"]);
        (swaks(&call, &letter, &login), letter)
    };
    step_by_step(WRONG).0.assert_refused("535");
    let (outcome, letter) = step_by_step(PASSWORD);
    outcome.assert_accepted();
    letters.push(letter);
    let visits = chain.visits(Ipv4Addr::new(127, 0, 2, 1), 2);
    assert_eq!((&visits[0]["auth_failed"], &visits[1]["auth_ok"]), (&json!(1), &json!(1)), "{visits:#?}");

    let kept = chain.sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    let counted = |result| chain.gate.metric("gatepost_auth_total", &[("gate", "submission"), ("result", result)]);
    // Every client, and the one that goes step by step.
    let logins = (Client::ALL.len() + 1) as f64;
    assert_eq!(counted("ok"), Some(logins));
    assert!(counted("failed") >= Some(logins));

    // Neither the passwords nor what they are on the wire.
    let journal = chain.gate.journal().iter().map(Value::to_string).collect::<String>();
    for text in [journal, chain.gate.complaints(), chain.gate.get("/metrics").1] {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn a_mail_exchangers_gate_withholds_auth() {
    if !present(&[Peer::Swaks, Peer::Exim]) {
        return;
    }
    let sink = Sink::start();
    let options = exim::Options { login: Some((USER, PASSWORD)), ..exim::Options::delivering_to(sink.address()) };
    let chain = Chain::with(File::default(), Mta::Exim(Exim::start(&options)), sink);
    let source = Ipv4Addr::new(127, 0, 0, 7);
    let call = Call::to(chain.gate.smtp()).from(source);
    // As a stranger, and when it is known.
    for _ in ["stranger", "remembered"] {
        let outcome = Client::Swaks.send(&call.clone().with_login(USER, PASSWORD), &Letter::short());
        outcome.assert_refused("Host did not advertise authentication");
        assert!(!outcome.transcript.contains("235"), "{}", outcome.transcript);
        Client::Swaks.send(&call, &Letter::short()).assert_accepted();
    }
    let visits = chain.visits(source, 4);
    assert!(visits.iter().all(|visit| visit["auth_ok"] == 0 && visit["auth_failed"] == 0), "{visits:#?}");
}
