//! Bots against the built program: they are turned away, the MTA behind never hears of them, and the journal says why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use daemon::{Mx, address, assert_says, backend, failed, from, visits};
use host::backend::Backend;
use host::dialogue::Dialogue;
use host::gate::Gate;
use host::peers::{Peer, present};
use host::rbldnsd::{Rbldnsd, Zone};

const SAVED: &str = "gatepost_backend_connections_saved_total";

/// Something that a client does.
#[derive(Clone, Copy)]
enum Step {
    /// Waits for a whole reply that begins so.
    Hear(&'static str),
    /// Waits for one line that begins so.
    Line(&'static str),
    /// Likewise, and the teaser may come before it: whoever speaks at once may hear it or not.
    Told(&'static str),
    Say(&'static [u8]),
    /// Waits for the other side to close, with nothing left to be read.
    Close,
}

use Step::{Close, Hear, Line, Say, Told};

fn play(bot: &mut Dialogue, script: &[Step]) {
    for step in script {
        match step {
            Hear(start) => drop(bot.expect(start)),
            Line(start) => drop(bot.expect_line(start)),
            Told(start) => {
                let line = bot.expect_line("");
                let told = if line.starts_with("220-mx.example.test ESMTP") { bot.expect_line(start) } else { line };
                assert!(told.starts_with(start), "{told}");
            }
            Say(bytes) => drop(bot.send(bytes)),
            Close => bot.expect_close(),
        }
    }
}

/// A greeting that is waited for: the teaser, and the rest.
const GREETED: Step = Hear("220");
/// The teaser alone.
const TEASED: Step = Line("220-mx.example.test ESMTP");
const EHLO: Step = Say(b"EHLO client.test\r\n");
const MAIL: Step = Say(b"MAIL FROM:<bob@example.org>\r\n");
const RCPT: Step = Say(b"RCPT TO:<alice@example.test>\r\n");
const OK: Step = Hear("250");
const QUIT: Step = Say(b"QUIT\r\n");
const BYE: Step = Hear("221");

/// What a published log of an IceWarp server shows of it: in its own order, but without waiting for anything.
const YLMF_IN_A_HURRY: &[Step] =
    &[Say(b"EHLO ylmf-pc\r\nAUTH LOGIN\r\naGFua3M=\r\nODg4ODg4\r\n"), Told("521 5.5.1 "), Close];

const YLMF_POLITE: &[Step] = &[GREETED, Say(b"EHLO ylmf-pc\r\n"), Line("521 5.7.1 "), Close];

/// Under another name it comes as far as it can.
const GUESSER: &[Step] = &[
    GREETED,
    EHLO,
    OK,
    Say(b"AUTH LOGIN\r\n"),
    Hear("503 5.5.1 "),
    Say(b"aGFua3M=\r\n"),
    Hear("500 "),
    Say(b"ODg4ODg4\r\n"),
    Hear("500 "),
    Say(b"AUTH PLAIN AGhhbmtzADg4ODg4OA==\r\n"),
    Hear("503 "),
    MAIL,
    OK,
    RCPT,
    Hear("550 5.7.1 "),
    QUIT,
    BYE,
    Close,
];

/// What of the transcript must be found nowhere: user and password, alone and together, encoded and not.
const SECRETS: [&str; 4] = ["aGFua3M", "ODg4ODg4", "AGhhbmtzADg4ODg4OA", "888888"];

#[test]
fn ylmf_pc_is_refused_and_the_backend_never_hears_of_it() {
    let backend = backend();
    // All that gatepost can say of it, to look for the password in.
    let gate = Mx::before(&backend).top("log = \"trace\"").start();
    let bots: [(Ipv4Addr, &[Step], Value); 5] = [
        (address(1), YLMF_IN_A_HURRY, json!(["pregreet", "dropped", "pregreet"])),
        (address(2), YLMF_POLITE, json!(["dialogue", "dropped", "helo-name"])),
        (address(3), GUESSER, json!(["dialogue", "refused", "auth-not-offered"])),
        (
            address(4),
            &[Say(b"AUTH LOGIN\r\naGFua3M=\r\nODg4ODg4\r\n"), Told("521 "), Close],
            json!(["pregreet", "dropped", "pregreet"]),
        ),
        (
            address(5),
            &[Say(b"AUTH PLAIN AGhhbmtzADg4ODg4OA==\r\n"), Told("521 "), Close],
            json!(["pregreet", "dropped", "pregreet"]),
        ),
    ];
    for (count, (client, script, expected)) in (1..).zip(&bots) {
        play(&mut Dialogue::from(*client, gate.smtp()), script);
        let record = gate.wait_for_record(from(*client));
        assert_eq!(json!([record["stage"], record["outcome"], record["tests"][0]["test"]]), *expected, "{record}");
        assert_says(&record, &[("recognition", json!("stranger")), ("backend", json!(false)), ("gate", json!("mx"))]);
        assert_eq!(gate.metric(SAVED, &[("gate", "mx")]), Some(f64::from(count)));
    }

    let hurried = gate.wait_for_record(from(address(1)));
    assert_says(&hurried, &[("action", json!("drop")), ("bytes_in", json!(0)), ("auth_failed", json!(0))]);
    let detail = hurried["tests"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("smtp") && detail.contains("EHLO ylmf-pc"), "{detail}");
    let polite = gate.wait_for_record(from(address(2)));
    assert_says(&polite, &[("helo", json!("ylmf-pc")), ("action", json!("drop"))]);
    let guesser = gate.wait_for_record(from(address(3)));
    assert_says(&guesser, &[("action", json!("enforce")), ("to", json!(["alice@example.test"]))]);

    assert!(visits(&backend).is_empty(), "the backend saw {:?}", visits(&backend));
    assert_eq!(gate.metric("gatepost_pregreet_total", &[("class", "smtp")]), Some(3.0));
    let (_, metrics) = gate.get("/metrics");
    let log = gate.complaints();
    let journal = gate.stop();
    let journal = journal.iter().map(Value::to_string).collect::<String>();
    for secret in SECRETS {
        for (place, text) in [("journal", &journal), ("log", &log), ("metrics", &metrics)] {
            assert!(!text.contains(secret), "the {place} has {secret:?}:\n{text}");
        }
    }
}

/// One test of the screen, and how a client fails it.
struct Row {
    says: &'static str,
    script: &'static [Step],
    test: &'static str,
    stage: &'static str,
    outcome: &'static str,
}

const fn dropped(test: &'static str, stage: &'static str, says: &'static str, script: &'static [Step]) -> Row {
    Row { says, script, test, stage, outcome: "dropped" }
}

const fn refused(test: &'static str, says: &'static str, script: &'static [Step]) -> Row {
    Row { says, script, test, stage: "dialogue", outcome: "refused" }
}

const CLIENT_HELLO: Step = Say(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\x5e\x88");

/// Every test of the screen that needs no lists.
const ROWS: &[Row] = &[
    dropped("pregreet", "pregreet", "http", &[Say(b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n"), Told("521 "), Close]),
    dropped("pregreet", "pregreet", "tls", &[CLIENT_HELLO, Told("521 "), Close]),
    dropped("pregreet", "pregreet", "ssh", &[Say(b"SSH-2.0-Go\r\n"), Told("521 "), Close]),
    dropped("pregreet", "pregreet", "socks", &[Say(b"\x05\x01\x00"), Told("521 "), Close]),
    dropped(
        "pregreet",
        "pregreet",
        "proxy-header",
        &[Say(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n"), Told("521 "), Close],
    ),
    // Behind the teaser, which is no whole greeting.
    dropped("pregreet", "pregreet", "smtp", &[TEASED, EHLO, Line("521 "), Close]),
    dropped("not-smtp", "dialogue", "http", &[GREETED, Say(b"POST / HTTP/1.1\r\n"), Line("521 5.7.0 "), Close]),
    dropped("not-smtp", "dialogue", "header", &[GREETED, EHLO, OK, Say(b"Subject: hi\r\n"), Line("521 "), Close]),
    dropped("not-smtp", "dialogue", "not-text", &[GREETED, Say(b"\x16\x03\x01\xa5\r\n"), Line("521 "), Close]),
    // Our own name would count for nothing here: over loopback we may well be speaking with ourselves.
    dropped("helo-name", "dialogue", "only bots", &[GREETED, Say(b"HELO WIN-4711.test\r\n"), Line("521 "), Close]),
    refused(
        "helo-syntax",
        "fully-qualified",
        &[GREETED, Say(b"EHLO localhost\r\n"), OK, MAIL, OK, RCPT, Hear("550 5.5.2 "), QUIT, BYE, Close],
    ),
    refused(
        "helo-syntax",
        "brackets",
        &[GREETED, Say(b"EHLO 192.0.2.7\r\n"), OK, MAIL, OK, RCPT, Hear("550 "), QUIT, BYE, Close],
    ),
    refused(
        "helo-syntax",
        "literal",
        &[GREETED, Say(b"EHLO [192.0.2.777]\r\n"), OK, MAIL, OK, RCPT, Hear("550 "), QUIT, BYE, Close],
    ),
    refused(
        "pipelining",
        "MAIL",
        &[
            GREETED,
            EHLO,
            OK,
            Say(b"MAIL FROM:<bob@example.org>\r\nRCPT TO:<alice@example.test>\r\n"),
            OK,
            Hear("550 5.5.1 "),
            QUIT,
            BYE,
            Close,
        ],
    ),
    refused(
        "auth-not-offered",
        "AUTH",
        &[
            GREETED,
            EHLO,
            OK,
            Say(b"AUTH LOGIN\r\n"),
            Hear("503 "),
            MAIL,
            OK,
            RCPT,
            Hear("550 5.7.1 "),
            QUIT,
            BYE,
            Close,
        ],
    ),
];

#[test]
fn every_test_of_the_screen_turns_away_who_fails_it() {
    let backend = backend();
    let gate = Mx::before(&backend).section("[tests.helo]\nbots = [\"win-????.test\"]").start();
    for (n, row) in (1..).zip(ROWS) {
        let client = address(n);
        let mut bot = Dialogue::from(client, gate.smtp());
        play(&mut bot, row.script);
        let transcript = bot.transcript().to_owned();
        drop(bot);
        let record = gate.wait_for_record(from(client));
        assert_eq!(failed(&record), [row.test], "{record}");
        let action = if row.outcome == "dropped" { "drop" } else { "enforce" };
        assert_says(
            &record,
            &[
                ("stage", json!(row.stage)),
                ("outcome", json!(row.outcome)),
                ("action", json!(action)),
                ("backend", json!(false)),
                ("accepted", json!(0)),
            ],
        );
        let detail = record["tests"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(row.says), "{:?} is not in {record}", row.says);
        // Each refusal carries the visit's id, so that whoever is refused can be helped.
        let visit = record["visit"].as_str().unwrap();
        assert!(transcript.contains(&format!("; visit {visit}")), "{transcript}");
        assert_eq!(gate.metric(SAVED, &[]), Some(f64::from(n)));
        let labels = [("test", row.test), ("action", action)];
        assert!(gate.metric("gatepost_findings_total", &labels) > Some(0.0));
    }
    assert!(visits(&backend).is_empty(), "the backend saw {:?}", visits(&backend));
}

#[test]
fn a_client_on_the_lists_is_refused_and_one_that_is_not_gets_through() {
    if !present(&[Peer::Rbldnsd]) {
        return;
    }
    let (listed, other) = (address(1), address(2));
    let text = format!("{listed} :127.0.0.2:a bot\n127.0.0.2 :127.0.0.2:test\n");
    let lists = Rbldnsd::start(&[Zone { name: "bl.test", kind: "ip4set", text }]);
    let backend = backend();
    let gate = Mx::before(&backend)
        .section(&format!(
            "[dnsbl]\nsites = [\"bl.test=127.0.0.2*3\"]\nthreshold = 3\nnameservers = [\"{}\"]\nself_test = false",
            lists.address()
        ))
        .start();

    let mut bot = Dialogue::from(listed, gate.smtp());
    play(&mut bot, &[GREETED, EHLO, OK, MAIL, OK, RCPT, Hear("550 5.7.1 "), QUIT, BYE, Close]);
    assert!(bot.transcript().contains("blocked using bl.test"), "{}", bot.transcript());
    let record = gate.wait_for_record(from(listed));
    assert_says(
        &record,
        &[
            ("outcome", json!("refused")),
            ("score", json!(3)),
            ("lists", json!(["bl.test"])),
            ("from", json!("bob@example.org")),
            ("backend", json!(false)),
        ],
    );
    assert_eq!(failed(&record), ["dnsbl"]);

    play(&mut Dialogue::from(other, gate.smtp()), &[GREETED, EHLO, OK, MAIL, OK, RCPT, OK, QUIT, BYE, Close]);
    assert_says(&gate.wait_for_record(from(other)), &[("outcome", json!("relayed")), ("backend", json!(true))]);
    assert_eq!(visits(&backend).len(), 1);
}

/// What SMTP bots do where nobody is turned away: each goes on until its recipient is taken.
const OBSERVED: &[(&[&str], &[Step])] = &[
    (&["pregreet"], &[Say(b"EHLO client.test\r\n"), GREETED, OK, MAIL, OK, RCPT, OK, QUIT, BYE, Close]),
    (&["helo-name", "helo-syntax"], &[GREETED, Say(b"EHLO ylmf-pc\r\n"), OK, MAIL, OK, RCPT, OK, QUIT, BYE, Close]),
    (&["helo-syntax"], &[GREETED, Say(b"EHLO localhost\r\n"), OK, MAIL, OK, RCPT, OK, QUIT, BYE, Close]),
    (
        &["pipelining"],
        &[
            GREETED,
            Say(b"EHLO client.test\r\nMAIL FROM:<bob@example.org>\r\nRCPT TO:<alice@example.test>\r\nQUIT\r\n"),
            OK,
            OK,
            OK,
            BYE,
            Close,
        ],
    ),
    (
        &["not-smtp"],
        &[GREETED, Say(b"POST / HTTP/1.1\r\n"), Hear("500 "), EHLO, OK, MAIL, OK, RCPT, OK, QUIT, BYE, Close],
    ),
    (&["bare-newline"], &[GREETED, Say(b"EHLO client.test\n"), OK, MAIL, OK, RCPT, OK, QUIT, BYE, Close]),
    (
        &["auth-not-offered"],
        &[GREETED, EHLO, OK, Say(b"AUTH LOGIN\r\n"), Hear("503 "), MAIL, OK, RCPT, OK, QUIT, BYE, Close],
    ),
];

fn observe_all(gate: &Gate, backend: &Backend) {
    for (count, (tests, script)) in (1..).zip(OBSERVED) {
        let client = address(count);
        play(&mut Dialogue::from(client, gate.smtp()), script);
        let record = gate.wait_for_record(from(client));
        assert_eq!(failed(&record), *tests, "{record}");
        assert_says(
            &record,
            &[
                ("outcome", json!("relayed")),
                ("stage", json!("relay")),
                ("action", json!("observe")),
                ("backend", json!(true)),
            ],
        );
        let seen = visits(backend).pop().unwrap();
        assert_eq!(seen.proxy.unwrap().addresses.unwrap().0.ip(), client);
        assert!(seen.commands.contains(&"RCPT TO:<alice@example.test>".to_owned()), "{:?}", seen.commands);
        for test in *tests {
            assert!(gate.metric("gatepost_findings_total", &[("test", test), ("action", "observe")]) > Some(0.0));
        }
    }
    assert_eq!(gate.metric(SAVED, &[]), Some(0.0));
}

#[test]
fn who_only_observes_turns_nobody_away_and_journals_what_would_have_been_done() {
    let backend = backend();
    let gate = Mx::before(&backend).top("observe = true").start();
    observe_all(&gate, &backend);
}

#[test]
fn under_observe_what_is_no_smtp_still_never_reaches_the_backend() {
    let backend = backend();
    let gate = Mx::before(&backend).top("observe = true").section("[limits]\nerrors = 2").start();
    let http: &[Step] = &[Say(b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n"), GREETED, Hear("500 "), Hear("421 "), Close];
    play(&mut Dialogue::from(address(1), gate.smtp()), http);
    let record = gate.wait_for_record(from(address(1)));
    assert_eq!(failed(&record)[0], "pregreet");
    assert_says(&record, &[("action", json!("observe")), ("outcome", json!("limited")), ("backend", json!(false))]);
    assert!(visits(&backend).is_empty());
}
