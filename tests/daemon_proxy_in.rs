//! Behind a load balancer, the whole daemon: whom a PROXY header announces, on ports 25 and 465, over a reload, and what
//! becomes of those who announce nobody. The load balancer is a double at 127.0.0.1; its clients are elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use daemon::{Mx, assert_says, backend, failed, visits};
use host::backend::{Backend, Manners};
use host::dialogue::Dialogue;
use host::gate::Gate;
use host::letter::Letter;
use host::secure::{Secure, clear, connect};
use host::{proxy, wait};

const HEADERS: &str = "gatepost_proxy_headers_total";

/// A client that exists only in PROXY headers.
const CLIENT: &str = "192.0.2.77:4711";

const DESTINATION: &str = "203.0.113.25:25";

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn announced(client: &str) -> Vec<u8> {
    proxy::v2(socket(client), socket(DESTINATION))
}

fn behind(backend: &Backend) -> Mx {
    Mx::before(backend).gate("proxy_from = [\"127.0.0.1\"]")
}

/// A connection on which the load balancer has announced `client`.
fn come(gate: SocketAddr, client: &str) -> Dialogue {
    let mut dialogue = Dialogue::with(gate);
    dialogue.send(announced(client));
    dialogue
}

#[test]
fn a_client_that_is_announced_is_tested_and_remembered_and_told_to_the_backend() {
    let backend = backend();
    let gate = behind(&backend).start();
    let letters = [Letter::short(), Letter::short()];
    for (count, (letter, header)) in (1..).zip(letters.iter().zip([proxy::v1, proxy::v2])) {
        let mut client = Dialogue::with(gate.smtp());
        client.send(header(socket(CLIENT), socket(DESTINATION)));
        client.expect("220");
        client.deliver(letter);
        client.expect_close();
        wait::until("the visit to end", || (gate.journal().len() == count).then_some(()));
    }
    let known: Vec<_> = gate.journal().iter().map(|record| record["recognition"].clone()).collect();
    assert_eq!(known, ["stranger", "remembered"]);
    for record in gate.journal() {
        assert_says(&record, &[("port", json!(4711)), ("local", json!(DESTINATION)), ("stage", json!("relay"))]);
        assert!(record["proxy"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
    }
    let seen = visits(&backend);
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.proxy.unwrap().addresses == Some((socket(CLIENT), socket(DESTINATION)))));
    assert_eq!(gate.metric(HEADERS, &[("result", "client")]), Some(2.0));
}

#[test]
fn clients_of_one_load_balancer_are_judged_each_by_itself() {
    let backend = backend();
    let gate = behind(&backend).access("deny = [\"192.0.2.66\"]").allowing("192.0.2.1").start();
    let mut denied = come(gate.smtp(), "192.0.2.66:1");
    denied.expect_line("521 5.7.1 Service unavailable; client [192.0.2.66] is denied");
    denied.expect_close();
    let mut bot = come(gate.smtp(), "192.0.2.67:1");
    bot.expect_line("220-");
    bot.say("EHLO client.test").expect("521 5.5.1");
    bot.expect_close();
    // A PROXY header of the client's own is what it is everywhere: something said too early.
    let mut forger = Dialogue::with(gate.smtp());
    forger.send([announced("192.0.2.68:1"), announced("192.0.2.1:1")].concat());
    let said = String::from_utf8(forger.read_all()).unwrap();
    assert!(said.contains("521 5.5.1 "), "{said}");
    let record = gate.wait_for_record(|record| record["client"] == "192.0.2.68");
    assert_eq!(failed(&record), ["pregreet"]);
    let mut allowed = come(gate.smtp(), "192.0.2.1:1");
    assert_eq!(allowed.expect("220"), "220 mx.test ESMTP\n", "the backend's own greeting");
    allowed.say("QUIT").expect("221");
    // An address in a HELO is held against the announced one.
    let mut honest = come(gate.smtp(), "192.0.2.69:1");
    honest.expect("220");
    honest.say("EHLO [192.0.2.69]").expect("250");
    let mut liar = come(gate.smtp(), "192.0.2.70:1");
    liar.expect("220");
    liar.say("EHLO [198.51.100.9]");
    honest.say("QUIT").expect("221");
    drop(liar);
    let record = gate.wait_for_record(|record| record["client"] == "192.0.2.70");
    assert!(!failed(&record).is_empty(), "{record}");
    assert!(failed(&gate.wait_for_record(|record| record["client"] == "192.0.2.69")).is_empty());
    assert_eq!(visits(&backend).len(), 1);
}

#[test]
fn without_a_header_nothing_reaches_the_backend_whoever_it_is() {
    let backend = backend();
    let gate = behind(&backend).gate("timeouts.proxy = \"1s\"").allowing("127.0.0.0/8").start();
    let unannounced = "421 4.3.5 mx.example.test Your proxy did not say who the client is";
    for (bytes, result) in [
        (&b"EHLO client.test\r\n"[..], "missing"),
        (b"", "missing"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.1", "late"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "too-long"),
    ] {
        let before = gate.metric(HEADERS, &[("result", result)]);
        let mut client = Dialogue::with(gate.smtp());
        client.send(bytes).expect_line(unannounced);
        client.expect_close();
        wait::until("it to be counted", || (gate.metric(HEADERS, &[("result", result)]) > before).then_some(()));
    }
    let mut stranger = Dialogue::from(Ipv4Addr::new(127, 0, 0, 2), gate.smtp());
    stranger.send(announced(CLIENT)).expect_line("421 4.3.5 mx.example.test This port takes connections from its load");
    stranger.expect_close();
    Dialogue::with(gate.smtp()).send("PROXY TCP4 ").finish_sending();
    gate.wait_for_record(|record| record["outcome"] == "hung-up");
    assert!(gate.journal().iter().all(|record| record["stage"] == "arrival" && record["backend"] == false));
    assert!(visits(&backend).is_empty());
    let lines = |words: &str| gate.complaints().lines().filter(|line| line.contains(words)).count();
    assert!((1..=2).contains(&lines("a load balancer does not say who its client is")), "{}", gate.complaints());
    assert!((1..=2).contains(&lines("not from a network that `proxy_from` names")), "{}", gate.complaints());
}

/// Each of many at once waits for its header, costs little, and is let in when it comes.
#[test]
fn a_crowd_that_says_nothing_yet_is_in_nobodys_way() {
    let backend = backend();
    let gate = behind(&backend).gate("timeouts.proxy = \"30s\"").allowing("192.0.2.0/24").start();
    let mut silent: Vec<Dialogue> = (0..200).map(|_| Dialogue::with(gate.smtp())).collect();
    wait::until("all to be inside", || {
        (gate.metric("gatepost_sessions", &[("state", "parked")]) == Some(200.0)).then_some(())
    });
    let mut client = come(gate.smtp(), CLIENT);
    client.expect("220 mx.test");
    let header = announced("192.0.2.78:1");
    for (at, dialogue) in silent.iter_mut().enumerate() {
        let (first, rest) = header.split_at(at % header.len());
        dialogue.send(first).send(rest);
    }
    // All are one client, which is allowed, and so exempt from the limit per client.
    silent.iter_mut().for_each(|dialogue| drop(dialogue.expect("220 mx.test")));
    assert_eq!(gate.metric(HEADERS, &[("result", "client")]), Some(201.0));
}

#[test]
fn a_health_check_is_told_how_the_backend_is() {
    let first = backend();
    let gate = behind(&first).allowing("127.0.0.0/8").gate("probe_interval = \"10s\"").start();
    wait::until("the first probe", || (first.wait_for_ends(1).len() == 1).then_some(()));
    let check = || {
        let mut check = Dialogue::with(gate.smtp());
        check.send(proxy::v2_local());
        check
    };
    let mut well = check();
    assert_eq!(well.expect("220"), "220 mx.example.test ESMTP\n", "no teaser, and not the backend's");
    assert_eq!(well.say("EHLO balancer.test").expect("250"), "250 mx.example.test\n");
    well.say("QUIT").expect("221");
    well.expect_close();
    let mut mail = check();
    mail.expect("220");
    mail.say("MAIL FROM:<bob@example.org>").expect_line("421 4.3.5 mx.example.test Your proxy did not say who");
    mail.expect_close();
    assert!(visits(&first).is_empty());

    let address = first.address();
    drop(first);
    wait::until("the backend to be gone", || TcpStream::connect(address).is_err().then_some(()));
    // Somebody notices.
    let mut client = come(gate.smtp(), "127.0.0.9:1");
    client.expect_line("421 4.3.2");
    let mut ill = check();
    ill.expect_line("421 4.3.2 mx.example.test Service not available");
    ill.expect_close();
    let _second = Manners::default().behind_proxy().start_at(address);
    wait::until("the backend's return to be told", || {
        let mut check = check();
        check.line().ok()??.starts_with("220 ").then_some(())
    });
    let records = gate.journal();
    assert!(records.iter().any(|record| record["recognition"] == "proxy" && record["outcome"] == "checked"));
    assert!(records.iter().any(|record| record["recognition"] == "proxy" && record["outcome"] == "backend-failed"));
}

/// Writes a certificate into `dir`.
fn certificate(dir: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
    fs::write(dir.join("mx.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(dir.join("mx.key"), key.serialize_pem()).unwrap();
}

fn submissions(backend: &Backend) -> Gate {
    Gate::start(|at| {
        certificate(at.dir);
        format!(
            "hostname = 'mx.example.test'\nadmin = '{}'\naccess.allow = '192.0.2.0/24'\n[[gate]]\nscene = 'submissions'\nlisten = '{}'\n\
             backend = '{}'\nproxy_from = '127.0.0.1'\ntimeouts.proxy = '1s'\n\
             tls.certificates = [{{ chain = 'mx.pem', key = 'mx.key' }}]\n",
            at.admin,
            at.smtp,
            backend.address()
        )
    })
}

#[test]
fn where_tls_comes_first_the_header_comes_before_it_however_it_is_cut() {
    let backend = backend();
    let gate = submissions(&backend);
    let header = announced(CLIENT);
    for cut in 0..=header.len() {
        let mut plain = connect(Ipv4Addr::LOCALHOST, gate.smtp());
        let (first, rest) = header.split_at(cut);
        plain.write_all(first).unwrap();
        thread::yield_now();
        plain.write_all(rest).unwrap();
        // The handshake's first bytes follow at once.
        let mut client = Secure::over(plain, "mx.test");
        client.expect("220");
        client.ask("EHLO client.test", "250");
        client.ask("QUIT", "221");
    }
    let count = header.len() + 1;
    let records = wait::until("all visits to end", || Some(gate.journal()).filter(|records| records.len() >= count));
    for record in records {
        assert_says(&record, &[("client", json!("192.0.2.77")), ("outcome", json!("relayed"))]);
        assert_eq!(record["tls"]["version"], "TLSv1.3");
    }
    // A check may speak TLS too.
    let mut plain = connect(Ipv4Addr::LOCALHOST, gate.smtp());
    plain.write_all(&proxy::v2_local()).unwrap();
    let mut check = Secure::over(plain, "mx.test");
    check.expect("220 mx.example.test ESMTP");
    check.ask("AUTH PLAIN AGEAYg==", "421 4.3.5");
    // Without a header there is nothing to say that could be heard.
    let mut none = Dialogue::with(gate.smtp());
    none.send("\x16\x03\x01\x02").expect_close();
    let mut silent = Dialogue::with(gate.smtp());
    silent.expect_close();
    assert_eq!(visits(&backend).len(), count);
}

#[test]
fn glued_to_the_header_the_handshake_is_not_lost() {
    let backend = backend();
    let gate = submissions(&backend);
    // A ClientHello in one piece with the header: the relay in between writes both at once.
    let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (relay.local_addr().unwrap(), gate.smtp());
    let glue = thread::spawn(move || {
        let (mut client, _) = relay.accept().unwrap();
        let mut hello = vec![0; 16_384];
        let count = std::io::Read::read(&mut client, &mut hello).unwrap();
        let mut server = connect(Ipv4Addr::LOCALHOST, server);
        server.write_all(&[&announced(CLIENT), &hello[..count]].concat()).unwrap();
        let (mut back, mut out) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut back, &mut out));
        let _ = std::io::copy(&mut client, &mut server);
    });
    let mut client = Secure::over(connect(Ipv4Addr::LOCALHOST, address), "mx.test");
    client.expect("220");
    client.ask("QUIT", "221");
    drop(client);
    glue.join().unwrap();
    let record = gate.wait_for_record(|record| record["client"] == "192.0.2.77");
    assert_says(&record, &[("outcome", json!("relayed"))]);
}

#[test]
fn a_reload_changes_who_is_believed_and_a_stop_tells_those_who_wait() {
    let backend = backend();
    let mx = Mx::before(&backend).allowing("192.0.2.0/24");
    let gate = mx.clone().gate("proxy_from = [\"127.0.0.1\"]").gate("timeouts.proxy = \"30s\"").start();
    let mut before = Dialogue::with(gate.smtp());
    wait::until("it to be inside", || {
        (gate.metric("gatepost_sessions", &[("state", "parked")]) == Some(1.0)).then_some(())
    });
    gate.reload(&mx.clone().gate("proxy_from = [\"127.0.0.2\"]").gate("timeouts.proxy = \"30s\"").again(&gate));
    wait::until("the file to be read", || gate.complaints().contains("the file was read again").then_some(()));
    Dialogue::with(gate.smtp()).expect_line("421 4.3.5 mx.example.test This port takes connections from its load");
    // Who was there before is under the rules that it came under.
    before.send(announced(CLIENT)).expect("220 mx.test");
    before.say("QUIT").expect("221");
    let mut silent = Dialogue::from(Ipv4Addr::new(127, 0, 0, 2), gate.smtp());
    wait::until("it to be inside", || {
        (gate.metric("gatepost_sessions", &[("state", "parked")]) == Some(1.0)).then_some(())
    });
    gate.signal(Signal::TERM);
    silent.expect_line("421 4.3.2 mx.example.test Service is shutting down");
    silent.expect_close();
    assert!(gate.wait_for_end().success());
}

/// Random cuts of a stream of a known client: the backend reads what the client has written, and nothing of the header.
#[test]
fn not_a_byte_is_lost_or_added_between_header_and_backend() {
    let backend = backend();
    let gate = behind(&backend).allowing("192.0.2.0/24").start();
    let all = [announced(CLIENT), b"EHLO client.test\r\nNOOP\r\nQUIT\r\n".to_vec()].concat();
    for cut in 0..all.len() {
        let mut client = connect(Ipv4Addr::LOCALHOST, gate.smtp());
        client.write_all(&all[..cut]).unwrap();
        thread::yield_now();
        client.write_all(&all[cut..]).unwrap();
        clear(&mut client, "", "220");
        clear(&mut client, "", "250");
        clear(&mut client, "", "250");
        clear(&mut client, "", "221");
    }
    wait::within(Duration::from_secs(10), || (visits(&backend).len() == all.len()).then_some(())).unwrap();
    for seen in visits(&backend) {
        assert_eq!(seen.commands, ["EHLO client.test", "NOOP", "QUIT"]);
    }
}
