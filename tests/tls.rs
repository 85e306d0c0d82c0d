//! TLS that ends at the gate, of the whole daemon: real clients and hand-written ones, known and not, by STARTTLS and
//! from the first byte, and what attackers and operators do to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod host;

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::Path;

use host::backend::{Act, Backend, Manners};
use host::client::{Call, Client, Encryption};
use host::gate::{Gate, Place};
use host::letter::Letter;
use host::peers::present;
use host::secure::{Secure, clear, connect};
use host::wait;
use rustls::pki_types::CertificateDer;

/// Allowed: handed off at once.
const KNOWN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Tested: gatepost speaks with it until RCPT.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Writes a certificate for `name` into `dir`.
fn certificate(dir: &Path, file: &str, name: &str) -> CertificateDer<'static> {
    certificate_until(dir, file, name, 4000)
}

/// The same, good until that year begins.
fn certificate_until(dir: &Path, file: &str, name: &str, year: i32) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    for (kind, text) in [("key", key.serialize_pem()), ("pem", certificate.pem())] {
        let new = dir.join(format!("{file}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, dir.join(format!("{file}.{kind}"))).unwrap();
    }
    certificate.der().clone()
}

/// A gate for strangers with STARTTLS, and one for people with TLS first; both before `backend`.
fn configuration(at: &Place<'_>, backend: &Backend, tls: &str) -> String {
    if !at.dir.join("mx.pem").exists() {
        certificate(at.dir, "mx", "mx.test");
        certificate(at.dir, "other", "other.test");
    }
    let certificates =
        "certificates = [{ chain = 'mx.pem', key = 'mx.key' }, { chain = 'other.pem', key = 'other.key' }]";
    let (smtp, second, admin, backend) = (at.smtp, at.second, at.admin, backend.address());
    format!(
        "hostname = 'mx.test'\nadmin = '{admin}'\n[access]\nallow = ['{KNOWN}']\n[tests]\npregreet = 'off'\n\
         [[gate]]\nname = 'mx'\nlisten = '{smtp}'\nbackend = '{backend}'\noffer_auth = true\n\
         [gate.tls]\nstarttls = 'here'\n{certificates}\n{tls}\n\
         [[gate]]\nscene = 'submissions'\nlisten = '{second}'\nbackend = '{backend}'\n\
         [gate.tls]\n{certificates}\n{tls}\n"
    )
}

fn manners() -> Manners {
    let mut manners = Manners::default().behind_proxy();
    // What a backend says of TLS and channels is between it and the gate.
    manners.keywords.extend(["STARTTLS", "AUTH PLAIN LOGIN SCRAM-SHA-256-PLUS"].map(str::to_owned));
    // PLAIN with the initial response, and without it; the response begins so in capitals.
    let manners = manners.but("AUTH PLAIN A", Act::Say("235 2.7.0 ok")).but("AGJVY", Act::Say("235 2.7.0 ok"));
    manners.but("AUTH", Act::Say("334 "))
}

fn start(backend: &Backend, tls: &str) -> Gate {
    let gate = Gate::start(|at| configuration(at, backend, tls));
    // Strangers are shown what the backend offers, once that is known.
    wait::until("the backend to be known", || backend.wait_for_ends(1).first().map(|_| ()));
    gate
}

#[test]
fn real_clients_deliver_over_tls() {
    let clients: Vec<Client> = Client::ALL.into_iter().filter(|client| present(&[client.peer()])).collect();
    let backend = manners().start();
    let gate = start(&backend, "");
    for (number, client) in (1..).zip(clients) {
        // Each is a stranger but once.
        let [first, second] = [1, 2].map(|gate| Ipv4Addr::new(127, 0, 100 + gate, number));
        for (tls, server, source) in [
            (Encryption::StartTls, gate.smtp(), KNOWN),
            (Encryption::StartTls, gate.smtp(), first),
            (Encryption::Implicit, gate.second(), KNOWN),
            (Encryption::Implicit, gate.second(), second),
        ] {
            let letter = Letter::short();
            let outcome = client.send(&Call::to(server).from(source).over(tls).with_login("bob", "secret"), &letter);
            assert!(outcome.accepted, "{client:?} {tls:?} {source}:\n{}", outcome.transcript);
            let messages: Vec<_> = backend.seen().into_iter().flat_map(|seen| seen.messages).collect();
            assert_eq!(messages.iter().filter(|message| **message == letter.bytes).count(), 1, "{client:?} {tls:?}");
        }
    }
    let seen = backend.seen();
    let commands: Vec<&String> = seen.iter().flat_map(|seen| &seen.commands).collect();
    assert!(!commands.iter().any(|command| command.eq_ignore_ascii_case("STARTTLS")), "{commands:?}");
    for record in gate.stop() {
        assert!(record["tls"]["version"].as_str().is_some_and(|version| version.starts_with("TLSv1.")), "{record}");
        assert_eq!(record["outcome"], "relayed", "{record}");
    }
}

#[test]
fn what_is_offered_before_tls_and_after() {
    let backend = manners().start();
    let gate = start(&backend, "auth_requires_tls = true");
    for source in [KNOWN, STRANGER] {
        let mut plain = connect(source, gate.smtp());
        clear(&mut plain, "", "220");
        let offer = clear(&mut plain, "EHLO client.test", "250");
        assert!(offer.contains("STARTTLS") && !offer.contains("AUTH"), "{offer}");
        clear(&mut plain, "AUTH PLAIN AGJvYgBzZWNyZXQ=", "538");
        clear(&mut plain, "STARTTLS", "220");
        let mut client = Secure::over(plain, "mx.test");
        client.ask("MAIL FROM:<bob@example.org>", "503");
        let offer = client.ask("EHLO client.test", "250");
        assert!(offer.contains("AUTH PLAIN LOGIN\r\n") && !offer.contains("STARTTLS"), "{offer}");
        client.ask("STARTTLS", "503");
        client.deliver("Hello.");
        client.ask("STARTTLS", "503");
        client.ask("QUIT", "221");
        let record = gate.wait_for_record(|record| record["client"] == source.to_string() && record["accepted"] == 1);
        assert_eq!(record["tls"]["version"], "TLSv1.3");
        assert_eq!(record["tls"]["group"], "X25519MLKEM768", "post-quantum, both being able to");
        assert_eq!(record["tls"]["sni"], "mx.test");
    }
    assert_eq!(gate.metric("gatepost_tls_handshakes_total", &[("gate", "mx"), ("result", "ok")]), Some(2.0));
}

#[test]
fn nothing_said_in_the_clear_behind_starttls_is_read() {
    let backend = manners().start();
    let gate = start(&backend, "");
    for source in [KNOWN, STRANGER] {
        let mut plain = connect(source, gate.smtp());
        clear(&mut plain, "", "220");
        clear(&mut plain, "EHLO client.test", "250");
        clear(&mut plain, "STARTTLS\r\nMAIL FROM:<mallory@example.org>", "554 5.5.0");
        assert_eq!(plain.read(&mut [0; 64]).unwrap_or(0), 0, "and it is over");
        let of = |record: &serde_json::Value| record["client"] == source.to_string();
        let record = gate.wait_for_record(of);
        assert!(["protocol-fault", "refused"].contains(&record["outcome"].as_str().unwrap()), "{record}");
        assert!(record["tls"].is_null());
    }
    let seen = backend.seen();
    assert!(!seen.iter().flat_map(|seen| &seen.commands).any(|command| command.contains("mallory")));
}

#[test]
fn starttls_inside_a_transaction_or_an_auth_exchange() {
    let backend = manners().start();
    let gate = start(&backend, "auth_requires_tls = false");
    for source in [KNOWN, STRANGER] {
        let mut plain = connect(source, gate.smtp());
        clear(&mut plain, "", "220");
        clear(&mut plain, "STARTTLS", "502");
        clear(&mut plain, "EHLO client.test", "250");
        clear(&mut plain, "MAIL FROM:<bob@example.org>", "250");
        clear(&mut plain, "STARTTLS", "503");
        clear(&mut plain, "RSET", "250");
        clear(&mut plain, "AUTH PLAIN AGJvYgBzZWNyZXQ=", "235");
        clear(&mut plain, "STARTTLS", "503");
        clear(&mut plain, "QUIT", "221");
    }
}

#[test]
fn a_failed_handshake_costs_a_deadline_and_a_line() {
    let backend = manners().start();
    let gate = start(&backend, "handshake_time = '1s'");
    let hello = [0x16, 3, 1, 0, 200, 1];
    let cases: [(&str, &[u8], &str, &str); 3] = [
        ("garbage", b"EHLO client.test\r\n", "protocol-fault", "not-tls"),
        ("half", &hello, "timed-out", "timeout"),
        ("nothing", b"", "timed-out", "timeout"),
    ];
    for (index, (what, said, outcome, result)) in (10_u8..).zip(cases) {
        for (gate_name, server, starttls) in [("mx", gate.smtp(), true), ("submissions", gate.second(), false)] {
            let source = Ipv4Addr::new(127, 0, index, u8::from(starttls) + 1);
            let failed = || gate.metric("gatepost_tls_handshakes_total", &[("gate", gate_name), ("result", result)]);
            let before = failed().unwrap();
            let mut plain = connect(source, server);
            if starttls {
                clear(&mut plain, "", "220");
                clear(&mut plain, "EHLO client.test", "250");
                clear(&mut plain, "STARTTLS", "220");
            }
            plain.write_all(said).unwrap();
            let mut rest = Vec::new();
            let _ = plain.read_to_end(&mut rest);
            assert!(!rest.starts_with(b"2") && !rest.starts_with(b"5"), "{what}: nothing more in the clear: {rest:?}");
            let record = gate.wait_for_record(|record| record["client"] == source.to_string());
            assert_eq!(record["outcome"], outcome, "{what}: {record}");
            assert_eq!(record["stage"], if starttls { "dialogue" } else { "arrival" }, "{what}: {record}");
            assert!(record["note"].as_str().is_some_and(|note| note.contains("TLS")), "{what}: {record}");
            assert_eq!(failed(), Some(before + 1.0), "{what}");
        }
    }
    // In the relay, too.
    let mut plain = connect(KNOWN, gate.smtp());
    clear(&mut plain, "", "220");
    clear(&mut plain, "EHLO client.test", "250");
    clear(&mut plain, "STARTTLS", "220");
    let record = gate.wait_for_record(|record| record["client"] == KNOWN.to_string());
    assert_eq!((&record["stage"], &record["outcome"]), (&"relay".into(), &"timed-out".into()), "{record}");
    assert_eq!(backend.seen().iter().flat_map(|seen| &seen.messages).count(), 0);
}

#[test]
fn each_client_is_shown_the_certificate_of_the_name_it_asks_for() {
    let backend = manners().start();
    let gate = start(&backend, "");
    let shown = |name: &str| Secure::first(KNOWN, gate.second(), name).certificate();
    assert_ne!(shown("mx.test"), shown("other.test"));
    assert_eq!(shown("mx.test"), shown("nobody.test"));
    let ends = |name| gate.metric("gatepost_tls_certificate_not_after_timestamp_seconds", &[("name", name)]);
    assert!(ends("mx.test").is_some() && ends("other.test").is_some() && ends("nobody.test").is_none());
}

#[test]
fn a_certificate_is_swapped_under_load_and_no_session_is_lost() {
    let backend = manners().start();
    let gate = start(&backend, "");
    let mut sessions: Vec<Secure> = (0..20)
        .map(|index| match index % 2 {
            0 => Secure::after_starttls(if index % 4 == 0 { KNOWN } else { STRANGER }, gate.smtp(), "mx.test"),
            _ => {
                let mut client = Secure::first(KNOWN, gate.second(), "mx.test");
                client.expect("220");
                client
            }
        })
        .collect();
    let old = sessions[0].certificate();
    for session in &mut sessions {
        session.ask("EHLO client.test", "250");
    }
    let new = certificate(gate.dir(), "mx", "mx.test");
    assert_ne!(old, new);
    let shown = || Secure::after_starttls(KNOWN, gate.smtp(), "mx.test").certificate();
    // Without anybody's doing, within ten seconds.
    wait::until("the new certificate", || (shown() == new).then_some(()));

    // A broken new file changes nothing, and is told once.
    let chain = gate.dir().join("mx.pem");
    let good = fs::read(&chain).unwrap();
    fs::write(&chain, "").unwrap();
    let told = || gate.complaints().matches("the file is empty").count();
    // Each of the two gates looks for itself.
    wait::until("the complaints", || (told() == 2).then_some(()));
    assert_eq!(shown(), new);
    // Whole, or it could be looked at half written.
    fs::write(gate.dir().join("mx.new"), good).unwrap();
    fs::rename(gate.dir().join("mx.new"), &chain).unwrap();

    for session in &mut sessions {
        session.deliver("Hello.");
        session.ask("QUIT", "221");
    }
    assert_eq!(told(), 2, "once for each of the two gates");
    assert_eq!(backend.seen().iter().flat_map(|seen| &seen.messages).count(), sessions.len());
}

#[test]
fn an_expired_certificate_is_shown_until_there_is_a_better_one() {
    let backend = manners().start();
    let gate = Gate::start(|at| {
        certificate_until(at.dir, "mx", "mx.test", 2020);
        certificate(at.dir, "other", "other.test");
        configuration(at, &backend, "")
    });
    wait::until("the backend to be known", || backend.wait_for_ends(1).first().map(|_| ()));
    let expired = "the certificate has expired: it was good until 2020-01-01";
    let told = |words: &str| gate.complaints().matches(words).count();
    let warned = "a certificate is not good now, and is shown all the same: ";
    // When the file is read, and in the log; for each gate.
    assert_eq!((told(warned), told(expired)), (2, 4), "{}", gate.complaints());
    for server in [gate.smtp(), gate.second()] {
        let mut client = match server == gate.smtp() {
            true => Secure::after_starttls(STRANGER, server, "mx.test"),
            false => {
                let mut client = Secure::first(STRANGER, server, "mx.test");
                client.expect("220");
                client
            }
        };
        client.ask("EHLO client.test", "250");
        client.deliver("Hello.");
        client.ask("QUIT", "221");
    }
    let shown = || Secure::after_starttls(KNOWN, gate.smtp(), "mx.test").certificate();
    // One that has expired too takes its place, and is told of.
    let other = certificate_until(gate.dir(), "mx", "mx.test", 2021);
    wait::until("the other one", || (shown() == other).then_some(()));
    wait::until("what each gate says of it", || {
        (told(warned) == 4 && told("it was good until 2021-01-01") == 2).then_some(())
    });
    let good = certificate(gate.dir(), "mx", "mx.test");
    wait::until("the good one", || (shown() == good).then_some(()));

    // That one stays, whether the gates notice by themselves or are told.
    let kept = "the one before, which is, stays in force";
    certificate_until(gate.dir(), "mx", "mx.test", 2022);
    wait::until("each gate to notice", || (told(kept) == 2).then_some(()));
    assert_eq!(shown(), good);
    let text = fs::read_to_string(gate.dir().join("gatepost.toml")).unwrap();
    gate.reload(&text);
    wait::until("it to be read again", || (told("the file was read again") == 1).then_some(()));
    assert_eq!((shown(), told(kept)), (good, 4), "{}", gate.complaints());
}

/// Gates before gates: each of the first pair has one of the second for its backend, under TLS.
#[test]
fn the_backend_is_spoken_to_under_tls() {
    for (scene, tls, here, back) in [
        ("mx", "starttls-required", "starttls = 'here'", true),
        ("submissions", "implicit", "", true),
        ("mx", "starttls", "starttls = 'here'", false),
    ] {
        let mta = Manners::default().behind_proxy().start();
        let behind = Gate::start(|at| {
            certificate(at.dir, "mx", "mx.test");
            let (smtp, admin, mta) = (at.smtp, at.admin, mta.address());
            format!(
                "hostname = 'mx.test'\nadmin = '{admin}'\n[[gate]]\nscene = '{scene}'\nlisten = '{smtp}'\n\
                 backend = '{mta}'\n[gate.tls]\ncertificates = [{{ chain = 'mx.pem', key = 'mx.key' }}]\n{here}\n"
            )
        });
        let gate = Gate::start(|at| {
            let (smtp, admin, backend) = (at.smtp, at.admin, behind.smtp());
            let ca = behind.dir().join("mx.pem").display().to_string();
            let trust = if back { format!("backend_ca = '{ca}'\nbackend_name = 'mx.test'\n") } else { String::new() };
            format!(
                "hostname = 'front.test'\nadmin = '{admin}'\n[[gate]]\nlisten = '{smtp}'\nbackend = '{backend}'\n\
                 announce = 'none'\nbackend_tls = '{tls}'\n{trust}"
            )
        });
        let mut plain = connect(Ipv4Addr::LOCALHOST, gate.smtp());
        clear(&mut plain, "", "220");
        clear(&mut plain, "EHLO client.test", "250");
        clear(&mut plain, "MAIL FROM:<bob@example.org>", "250");
        clear(&mut plain, "RCPT TO:<alice@example.test>", "250");
        clear(&mut plain, "DATA", "354");
        clear(&mut plain, &format!("{}\r\n.", "a line of some length\r\n".repeat(20_000)), "250");
        clear(&mut plain, "QUIT", "221");
        let record = behind.wait_for_record(|record| record["accepted"] == 1);
        assert_eq!(record["tls"]["group"], "X25519MLKEM768", "{tls}: {record}");
        gate.wait_for_record(|record| record["accepted"] == 1);
    }
}
