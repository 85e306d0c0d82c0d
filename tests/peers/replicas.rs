//! What the tests in front of Exchange and IceWarp have in common: every dialect, and what none of them may show a client.

use std::fs;
use std::path::Path;
use std::thread;

use gatepost::smtp::ehlo::Keyword;

use crate::host::letter::Letter;
use crate::host::replica::{Dialect, Replica};
use crate::host::{exchange, icewarp};

/// Somewhere that no replica takes mail for, unless one has logged in.
pub const ELSEWHERE: &str = "carol@elsewhere.test";

/// What must be in no reply to EHLO: each MTA has some of it.
pub const WITHHELD: &[&str] = &[
    "X-",
    "XEXCH50",
    "XRDST",
    "XSHADOW",
    "XPROXY",
    "XOORG",
    "XORIG",
    "XSESSION",
    "XMESSAGE",
    "TURN",
    "ATRN",
    "CHECKPOINT",
    "TLS",
    "OK",
];

/// All of them, of both.
pub fn dialects() -> impl Iterator<Item = Dialect> {
    exchange::ALL.into_iter().chain(icewarp::ALL)
}

/// Runs a test for every dialect, all at the same time.
#[track_caller]
pub fn for_each_dialect(test: impl Fn(Dialect) + Sync) {
    thread::scope(|scope| {
        let test = &test;
        let runs: Vec<_> = dialects().map(|dialect| (dialect.name, scope.spawn(move || test(dialect)))).collect();
        for (name, run) in runs {
            assert!(run.join().is_ok(), "{name}");
        }
    });
}

/// A certificate for mx.gate.test in `dir`, and what `[gate.tls]` has to say of it.
pub fn certificates(dir: &Path) -> &'static str {
    if !dir.join("gate.pem").exists() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["mx.gate.test".to_owned()]).expect("a name");
        fs::write(dir.join("gate.pem"), certificate.self_signed(&key).expect("a certificate").pem()).expect("a file");
        fs::write(dir.join("gate.key"), key.serialize_pem()).expect("a file");
    }
    "[gate.tls]\ncertificates = [{ chain = 'gate.pem', key = 'gate.key' }]"
}

/// Panics unless every letter was taken once and unchanged, `hops` MTAs later, and nothing else was.
#[track_caller]
pub fn assert_all_arrived(replica: &Replica, letters: &[Letter], hops: usize) {
    let messages = replica.messages();
    assert_eq!(messages.len(), letters.len(), "as many as were sent");
    for letter in letters {
        letter.assert_arrived_once(messages.iter().map(|message| &message.bytes[..]), hops);
    }
}

/// The keywords in a reply to EHLO.
#[track_caller]
pub fn keywords(reply: &str) -> Vec<&str> {
    reply.lines().skip(1).map(|line| line.get(4..).unwrap_or_default()).collect()
}

/// Panics if `reply` offers what it must not, or AUTH more than once, or in the old way.
#[track_caller]
pub fn assert_nothing_private(dialect: &Dialect, reply: &str) {
    for line in keywords(reply) {
        let hidden = WITHHELD.iter().any(|word| line == *word || (word.starts_with('X') && line.starts_with(word)));
        assert!(!hidden, "{}: {reply}", dialect.name);
        assert!(Keyword::from_name(line.split(' ').next().unwrap_or_default().as_bytes()).is_some(), "{reply}");
    }
    assert!(!reply.contains("AUTH="), "{}: {reply}", dialect.name);
    assert!(keywords(reply).iter().filter(|line| line.starts_with("AUTH")).count() <= 1, "{reply}");
}
