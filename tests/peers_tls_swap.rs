//! Certificates are swapped under load, in the ways in which operators and their programs swap them, and once by a broken
//! file: no session is lost, those that are open go on, and who comes next is shown what is in force.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;
mod peers;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;

use host::client::{Call, Client, Encryption};
use host::gate::Gate;
use host::letter::Letter;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use host::secure::Secure;
use host::sink::Sink;
use host::wait;
use peers::data;

/// Who only looks at the certificate.
const LOOKER: Ipv4Addr = Ipv4Addr::new(127, 9, 200, 1);

/// The end of the certificate number `number`, in seconds since 1970: in the year 2040 and so many.
fn end_of(number: i32) -> f64 {
    rcgen::date_time_ymd(2040 + number, 1, 1).unix_timestamp() as f64
}

/// Certificates for mx.test and other.test with new keys, in a folder of their own: the one for mx.test.
fn issue(dir: &Path, number: i32) -> CertificateDer<'static> {
    let archive = dir.join(format!("archive{number}"));
    fs::create_dir(&archive).unwrap();
    let [mx, _] = ["mx.test", "other.test"].map(|name| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2040 + number, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(archive.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(archive.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        certificate.der().clone()
    });
    mx
}

/// Where the gate looks: a link to the folder of the certificates in force.
fn live(dir: &Path) -> PathBuf {
    dir.join("live")
}

/// Has the link lead to another folder, in one step.
fn lead_to(dir: &Path, number: i32) {
    let new = dir.join("live.new");
    symlink(format!("archive{number}"), &new).unwrap();
    fs::rename(new, live(dir)).unwrap();
}

/// Replaces one file in the folder in force, in one step.
fn replace(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let new = live(dir).join("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, live(dir).join(name)).unwrap();
}

/// The certificates that the two ports show.
fn shown(gate: &Gate) -> [CertificateDer<'static>; 2] {
    [Secure::after_starttls(LOOKER, gate.smtp(), "mx.test"), Secure::first(LOOKER, gate.second(), "mx.test")]
        .map(|client| client.certificate())
}

#[track_caller]
fn wait_until_shown(gate: &Gate, certificate: &CertificateDer<'static>, number: i32) {
    wait::until("the new certificate on both ports", || {
        shown(gate).iter().all(|shown| shown == certificate).then_some(())
    });
    assert_end(gate, number);
}

/// What the metric tells of the end of both gates' certificates.
#[track_caller]
fn assert_end(gate: &Gate, number: i32) {
    for name in ["mx", "submissions"] {
        let labels = [("gate", name), ("name", "mx.test")];
        let told = gate.metric("gatepost_tls_certificate_not_after_timestamp_seconds", &labels);
        assert_eq!(told, Some(end_of(number)), "{name}");
    }
}

/// A session from its greeting to EHLO.
fn session(gate: &Gate, source: Ipv4Addr, first: bool) -> Secure {
    let mut client = if first {
        let mut client = Secure::first(source, gate.second(), "mx.test");
        client.expect("220");
        client
    } else {
        Secure::after_starttls(source, gate.smtp(), "mx.test")
    };
    client.ask("EHLO client.test", "250");
    client
}

/// Has the threads that look at it come to their end when it is dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn certificates_are_swapped_under_load_and_no_session_is_lost() {
    if !present(&[Peer::Postfix, Peer::Curl, Peer::Msmtp, Peer::Python]) {
        return;
    }
    let sink = Sink::start();
    let postfix = Postfix::start(&postfix::Options::delivering_to(sink.address()));
    let gate = Gate::start(|at| {
        if !live(at.dir).exists() {
            issue(at.dir, 0);
            lead_to(at.dir, 0);
        }
        peers::tls::text(at, postfix.proxied(), &live(at.dir), "")
    });
    let (over, sessions, delivered) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let letters: Vec<Letter> = thread::scope(|scope| {
        let (gate, over, sessions, delivered) = (&gate, &over, &sessions, &delivered);
        // However this ends: a scope waits for its threads.
        let ending = Ending(over);
        // One after the other, each from a thread of its own, half of them on either port.
        for number in 1..=8 {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Let in at once, and strangers that gatepost speaks with first.
                    let source = Ipv4Addr::new(127, if number <= 4 { 9 } else { 0 }, 1, number);
                    let mut client = session(gate, source, number % 2 == 0);
                    client.deliver("Hello.");
                    client.ask("QUIT", "221");
                    delivered.fetch_add(1, Ordering::Relaxed);
                    sessions.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let real = [Client::Curl, Client::Msmtp, Client::Smtplib].map(|client| {
            scope.spawn(move || {
                let mut sent = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    for (server, tls) in [(gate.smtp(), Encryption::StartTls), (gate.second(), Encryption::Implicit)] {
                        let call = Call::to(server).from(Ipv4Addr::new(127, 9, 2, 1)).over(tls);
                        let letter = Letter::short();
                        client.send(&call, &letter).assert_accepted();
                        sent.push(letter);
                        sessions.fetch_add(1, Ordering::Relaxed);
                    }
                }
                sent
            })
        });
        // These stay open all the time.
        let mut open: Vec<Secure> =
            (0..12).map(|number| session(gate, Ipv4Addr::new(127, 9, 3, number / 2 + 1), number % 2 == 0)).collect();
        let old = open[0].certificate();
        let go_on = |open: &mut Vec<Secure>| {
            let before = delivered.load(Ordering::Relaxed);
            open.iter_mut().for_each(|session| session.deliver("Still here."));
            wait::until("the others to go on", || (delivered.load(Ordering::Relaxed) > before + 8).then_some(()));
            delivered.fetch_add(open.len(), Ordering::Relaxed);
        };
        let dir = gate.dir();
        assert_end(gate, 0);
        go_on(&mut open);

        // A link that leads elsewhere: all four files at once.
        let first = issue(dir, 1);
        assert_ne!(first, old);
        lead_to(dir, 1);
        wait_until_shown(gate, &first, 1);
        go_on(&mut open);

        // File by file, of which a look in between may find some new and some old.
        let second = issue(dir, 2);
        for name in ["mx.test.pem", "mx.test.key"] {
            replace(dir, name, fs::read(dir.join("archive2").join(name)).unwrap());
        }
        wait_until_shown(gate, &second, 2);
        go_on(&mut open);

        // A broken file changes nothing, and is told once for each gate.
        let chain = fs::read(live(dir).join("mx.test.pem")).unwrap();
        let told = || gate.complaints().matches("mx.test.pem: broken PEM").count();
        assert_eq!(told(), 0);
        replace(dir, "mx.test.pem", &chain[..chain.len() / 2]);
        wait::until("both complaints", || (told() == 2).then_some(()));
        assert!(gate.complaints().contains("cannot be used; those before stay in force"), "{}", gate.complaints());
        assert!(shown(gate).iter().all(|shown| *shown == second));
        assert_end(gate, 2);
        go_on(&mut open);

        // The next renewal mends it; an operator who cannot wait asks for it.
        let third = issue(dir, 3);
        lead_to(dir, 3);
        gate.signal(Signal::HUP);
        wait_until_shown(gate, &third, 3);
        assert_eq!(told(), 2, "{}", gate.complaints());
        go_on(&mut open);

        drop(ending);
        sessions.fetch_add(open.len(), Ordering::Relaxed);
        open.iter_mut().for_each(|session| {
            session.ask("QUIT", "221");
        });
        real.into_iter().flat_map(|client| client.join().expect("a client that did not panic")).collect()
    });

    let all = delivered.into_inner() + letters.len();
    let kept = sink.wait_for(all);
    assert_eq!(kept.len(), all, "each message once");
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    let mut records = gate.stop();
    records.retain(|record| record["client"] != LOOKER.to_string());
    assert_eq!(records.len(), sessions.into_inner());
    for record in &records {
        assert_eq!((&record["outcome"], &record["note"]), (&"relayed".into(), &serde_json::Value::Null), "{record}");
        assert!(record["accepted"].as_u64() >= Some(1) && !record["tls"].is_null(), "{record}");
    }
    println!("{} sessions with {all} messages, {} of them by real clients", records.len(), letters.len());
}
