//! TLS at the gate as scanners and worse see it: what sslscan finds on both kinds of port, with certificates of both kinds,
//! and five hundred handshakes at once that never become any, with honest clients beside them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;
mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use host::backend::{Backend, Manners};
use host::certificates::Certificates;
use host::client::{run, run_reading};
use host::gate::Gate;
use host::peers::{Peer, present};
use host::secure::{Secure, clear, connect};
use host::wait;
use peers::ALLOWED;
use socket2::SockRef;

/// All that sslscan may report of a gate, beside its certificate: what it does not offer, and what it agrees to. A line
/// that is not among these is a finding. `KIND` is the kind of key; TLS 1.3 does not ask.
const SEEN: &[&str] = &[
    r#"<protocol type="ssl" version="2" enabled="0" />"#,
    r#"<protocol type="ssl" version="3" enabled="0" />"#,
    r#"<protocol type="tls" version="1.0" enabled="0" />"#,
    r#"<protocol type="tls" version="1.1" enabled="0" />"#,
    r#"<protocol type="tls" version="1.2" enabled="1" />"#,
    r#"<protocol type="tls" version="1.3" enabled="1" />"#,
    r#"<renegotiation supported="0" secure="0" />"#,
    r#"<heartbleed sslversion="TLSv1.3" vulnerable="0" />"#,
    r#"<heartbleed sslversion="TLSv1.2" vulnerable="0" />"#,
    r#"<cipher status="preferred" sslversion="TLSv1.3" bits="256" cipher="TLS_AES_256_GCM_SHA384" />"#,
    r#"<cipher status="accepted" sslversion="TLSv1.3" bits="128" cipher="TLS_AES_128_GCM_SHA256" />"#,
    r#"<cipher status="accepted" sslversion="TLSv1.3" bits="256" cipher="TLS_CHACHA20_POLY1305_SHA256" />"#,
    r#"<cipher status="preferred" sslversion="TLSv1.2" bits="256" cipher="ECDHE-KIND-AES256-GCM-SHA384" />"#,
    r#"<cipher status="accepted" sslversion="TLSv1.2" bits="128" cipher="ECDHE-KIND-AES128-GCM-SHA256" />"#,
    r#"<cipher status="accepted" sslversion="TLSv1.2" bits="256" cipher="ECDHE-KIND-CHACHA20-POLY1305" />"#,
    r#"<group sslversion="TLSv1.3" bits="128" name="secp256r1 (NIST P-256)" id="0x0017" />"#,
    r#"<group sslversion="TLSv1.3" bits="192" name="secp384r1 (NIST P-384)" id="0x0018" />"#,
    r#"<group sslversion="TLSv1.3" bits="128" name="x25519" id="0x001d" />"#,
];

/// What sslscan reports of the certificate that is no finding; the rest of its lines are that certificate's own names
/// and dates, which are the test's. RSA certificates of the test sign themselves, and nobody vouches for them.
const ALLOWANCES: &[&str] = &[
    "<signature-algorithm>ecdsa-with-SHA256</signature-algorithm>",
    "<signature-algorithm>sha256WithRSAEncryption</signature-algorithm>",
    r#"<pk error="false" type="EC" curve_name="prime256v1" bits="128" />"#,
    r#"<pk error="false" type="RSA" bits="2048" />"#,
    "<self-signed>false</self-signed>",
    "<self-signed>true</self-signed>",
    "<expired>false</expired>",
];

/// The lines of sslscan's report that say nothing.
const FRAME: [&str; 11] = [
    "<?xml",
    "<document",
    "</document",
    "<ssltest",
    "</ssltest",
    "<certificate",
    "</certificate",
    "<subject>",
    "<altnames>",
    "<issuer>",
    "<not-valid-",
];

/// Runs sslscan, and returns what it has seen, without what depends on the client's choices.
fn scan(server: SocketAddr, starttls: bool) -> Vec<String> {
    let mut sslscan = Command::new(Peer::SslScan.program());
    sslscan.args(["--xml=-", "--sni-name=mx.test"]);
    if starttls {
        sslscan.arg("--starttls-smtp");
    }
    sslscan.arg(server.to_string());
    let outcome = run(sslscan);
    outcome.assert_accepted();
    let lines = outcome.transcript.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !FRAME.iter().any(|frame| line.starts_with(frame)));
    // Behind the name of a suite stands what sslscan thinks of it, and the group that it came with.
    lines
        .map(|line| {
            line.split_once(" id=\"0x")
                .filter(|_| line.starts_with("<cipher"))
                .map_or_else(|| line.to_owned(), |(suite, _)| format!("{suite} />"))
        })
        .collect()
}

#[track_caller]
fn assert_seen(mut seen: Vec<String>, kind: &str) {
    seen.retain(|line| !ALLOWANCES.contains(&line.as_str()));
    seen.sort();
    let mut wanted: Vec<String> = SEEN.iter().map(|line| line.replace("KIND", kind)).collect();
    wanted.sort();
    assert_eq!(seen, wanted);
}

/// Makes an RSA certificate for mx.test in `dir`, and one more in place of that for other.test.
fn rsa(dir: &Path) {
    for name in ["mx.test", "other.test"] {
        let mut openssl = Command::new(Peer::OpenSsl.program());
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", &format!("/CN={name}")]);
        openssl.arg("-addext").arg(format!("subjectAltName=DNS:{name}"));
        openssl.arg("-out").arg(dir.join(format!("{name}.pem"))).arg("-keyout").arg(dir.join(format!("{name}.key")));
        run_reading(openssl, Stdio::null()).assert_accepted();
    }
}

fn backend() -> Backend {
    Manners::default().behind_proxy().start()
}

/// A failed handshake costs a line in the journal, and nothing else.
fn assert_only_lines(gate: Gate) {
    let mut letter = Secure::first(Ipv4Addr::new(127, 9, 0, 1), gate.second(), "mx.test");
    letter.expect("220");
    letter.ask("EHLO client.test", "250");
    letter.deliver("It still serves.");
    letter.ask("QUIT", "221");
    wait::until("all to have left", || (gate.metric("gatepost_sessions", &[]) == Some(0.0)).then_some(()));
    let handshakes = gate.metric("gatepost_tls_handshakes_total", &[]).unwrap() as usize;
    let complaints = gate.complaints();
    assert!(!complaints.contains(" WARN ") && !complaints.contains(" ERROR "), "{complaints}");
    let records = gate.stop();
    // sslscan looks once whether anybody is there, without any handshake.
    assert!((handshakes..=handshakes + 1).contains(&records.len()), "{handshakes} {}", records.len());
    for record in &records {
        let outcome = record["outcome"].as_str().unwrap();
        assert!(["protocol-fault", "hung-up", "relayed", "timed-out"].contains(&outcome), "{record}");
    }
}

/// STARTTLS with gatepost itself, as with a stranger; its scanner speaks before the greeting is over, for which a
/// stranger is turned away on port 25 before any handshake, so that the test `pregreet` is off.
#[test]
fn sslscan_finds_nothing_behind_starttls() {
    if !present(&[Peer::SslScan, Peer::OpenSsl]) {
        return;
    }
    let (certificates, backend) = (Certificates::make(), backend());
    let gate = Gate::start(|at| {
        let text = peers::tls::text(at, backend.address(), certificates.folder(), "");
        text.replace("[access]", "[tests]\npregreet = 'off'\n[access]")
    });
    // Strangers are shown what the backend offers, once that is known.
    backend.wait_for_ends(1);
    assert_seen(scan(gate.smtp(), true), "ECDSA");
    assert!(gate.journal().iter().any(|record| record["stage"] == "dialogue"));
    gate.stop();
}

/// STARTTLS in the relay, as with who is let in at once.
#[test]
fn sslscan_finds_nothing_behind_starttls_in_the_relay() {
    if !present(&[Peer::SslScan, Peer::OpenSsl]) {
        return;
    }
    let backend = backend();
    let gate = Gate::start(|at| {
        rsa(at.dir);
        peers::tls::text(at, backend.address(), at.dir, "").replace(ALLOWED, "127.0.0.0/8")
    });
    assert_seen(scan(gate.smtp(), true), "RSA");
    assert_only_lines(gate);
}

#[test]
fn sslscan_finds_nothing_where_tls_comes_first() {
    if !present(&[Peer::SslScan, Peer::OpenSsl]) {
        return;
    }
    let (certificates, backend) = (Certificates::make(), backend());
    let gate = peers::tls::before(backend.address(), &certificates, "");
    assert_seen(scan(gate.second(), false), "ECDSA");
    assert_only_lines(gate);
}

/// Handshakes that never become any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    Silence,
    Begun,
    Closed,
    Reset,
    Garbage,
}

impl Half {
    const ALL: [Self; 5] = [Self::Silence, Self::Begun, Self::Closed, Self::Reset, Self::Garbage];

    /// Says its half on a connection that has come to where a handshake belongs; the connection, if it stays open.
    fn begin(self, mut plain: TcpStream) -> Option<TcpStream> {
        // A ClientHello of 512 bytes, of which these come.
        let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 32]].concat();
        let said = match self {
            Self::Silence => &b""[..],
            Self::Garbage => b"GET / HTTP/1.1\r\n\r\n",
            _ => &hello,
        };
        plain.write_all(said).unwrap();
        match self {
            Self::Silence | Self::Begun | Self::Garbage => return Some(plain),
            Self::Closed => {}
            Self::Reset => SockRef::from(&plain).set_linger(Some(std::time::Duration::ZERO)).unwrap(),
        }
        None
    }

    fn outcome(self) -> &'static str {
        match self {
            Self::Silence | Self::Begun => "timed-out",
            Self::Closed | Self::Reset => "hung-up",
            Self::Garbage => "protocol-fault",
        }
    }
}

/// Has the threads that look at it come to their end when it is dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn five_hundred_half_handshakes_do_not_keep_honest_clients_out() {
    const EACH: usize = 50;
    let backend = backend();
    let gate = Gate::start(|at| {
        rcgen_pairs(at.dir);
        peers::tls::text(at, backend.address(), at.dir, "handshake_time = '3s'")
    });
    let over = AtomicBool::new(false);
    let delivered = AtomicUsize::new(0);
    // Of each kind so many on each port, from ten addresses a kind.
    let source = |half: Half, first: bool, number: usize| {
        let kind = half as u8 * 2 + u8::from(first);
        Ipv4Addr::new(127, 9, 100 + kind, (number % 10 + 1) as u8)
    };
    let records = thread::scope(|scope| {
        let (gate, over, delivered) = (&gate, &over, &delivered);
        // However this ends: a scope waits for its threads.
        let _ending = Ending(over);
        for number in 1..=8 {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let source = Ipv4Addr::new(127, 9, 0, number);
                    let mut client = if number % 2 == 0 {
                        let mut client = Secure::first(source, gate.second(), "mx.test");
                        client.expect("220");
                        client
                    } else {
                        Secure::after_starttls(source, gate.smtp(), "mx.test")
                    };
                    client.ask("EHLO client.test", "250");
                    client.deliver("Hello.");
                    client.ask("QUIT", "221");
                    delivered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut open = Vec::new();
        for (number, half, first) in
            (0..EACH).flat_map(|number| Half::ALL.map(|half| [(number, half, false), (number, half, true)])).flatten()
        {
            let mut plain = connect(source(half, first, number), if first { gate.second() } else { gate.smtp() });
            if !first {
                clear(&mut plain, "", "220");
                clear(&mut plain, "EHLO client.test", "250");
                clear(&mut plain, "STARTTLS", "220");
            }
            open.extend(half.begin(plain));
        }
        let so_far = delivered.load(Ordering::Relaxed);
        let ours = |record: &serde_json::Value| record["client"].as_str().is_some_and(|ip| ip.starts_with("127.9.1"));
        let all = 2 * EACH * Half::ALL.len();
        let records = wait::until("the end of all that was begun", || {
            let mut records = gate.journal();
            records.retain(ours);
            (records.len() >= all).then_some(records)
        });
        assert!(delivered.load(Ordering::Relaxed) >= so_far + 8, "honest clients go on meanwhile");
        assert_eq!(records.len(), all, "one line each");
        records
    });
    let mut outcomes = BTreeMap::new();
    for record in &records {
        *outcomes.entry((record["client"].as_str().unwrap(), record["outcome"].as_str().unwrap())).or_insert(0) += 1;
        assert!(record["note"].as_str().unwrap().contains("TLS"), "{record}");
    }
    for half in Half::ALL {
        for (first, number) in [false, true].into_iter().flat_map(|first| (0..10).map(move |number| (first, number))) {
            let source = source(half, first, number).to_string();
            assert_eq!(outcomes.get(&(source.as_str(), half.outcome())), Some(&(EACH / 10)), "{half:?}: {outcomes:?}");
        }
    }
    assert_eq!(backend.seen().iter().flat_map(|seen| &seen.messages).count(), delivered.into_inner());
    assert_only_lines(gate);
}

/// Certificates for mx.test and other.test, without any program.
fn rcgen_pairs(dir: &Path) {
    for name in ["mx.test", "other.test"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
