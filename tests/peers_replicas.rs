//! In front of Exchange and IceWarp, as far as that can be shown without them: `host::replica` speaks their words behind
//! the gate, version by version, and real programs are in front of it. Mail arrives once and byte for byte, people log
//! in, a refusal comes in the MTA's own words and at its own time, and what such servers say to their like goes neither
//! way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;
mod peers;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use gatepost::config::Config;
use gatepost::relay::ending::AuthOutcome;
use gatepost::relay::{self, Opening, Sides};
use gatepost::smtp::ehlo::{Keyword, Keywords};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use host::client::{Call, Client, Encryption};
use host::dialogue::{Dialogue, stuffed};
use host::gate::{Gate, Place};
use host::letter::Letter;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use host::replica::{Dialect, NOBODY, Options, PASSWORD, Replica, USER};
use host::secure::{Secure, clear, connect};
use host::{exchange, exim, icewarp, wait};
use peers::replicas::{
    ELSEWHERE, WITHHELD, assert_all_arrived, assert_nothing_private, certificates, dialects, for_each_dialect, keywords,
};
use peers::{ALLOWED, CLIENTS};

/// Let in untested.
const KNOWN: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 1);

/// A stranger to every gate that has not met it.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

/// The top of a file whose gates come next.
fn top(at: &Place<'_>) -> String {
    format!(
        "hostname = 'mx.gate.test'\nadmin = '{}'\n[access]\nallow = '{ALLOWED}'\n\
         [greet]\nwait_min = '200ms'\nwait_max = '6s'\n",
        at.admin
    )
}

/// One gate of a file.
fn gate(scene: &str, listen: SocketAddr, backend: SocketAddr, more: &str) -> String {
    format!(
        "[[gate]]\nscene = '{scene}'\nlisten = '{listen}'\nbackend = '{backend}'\nannounce = 'none'\n\
         accept_unknown_client = true\n{more}\n"
    )
}

/// A mail exchanger's gate, and what is behind it.
fn mx(dialect: Dialect, options: Options) -> (Gate, Replica) {
    let replica = Replica::with(dialect, options);
    let gate = Gate::start(|at| top(at) + &gate("mx", at.smtp, replica.address(), ""));
    replica.wait_for_probe();
    (gate, replica)
}

/// Where people log in, and how: port 587 with TLS at the MTA, port 587 with TLS at the gate, port 465.
struct Doors {
    /// The gates `end-to-end` and, with TLS at the gate, `here`.
    starttls: Gate,
    /// The gate `submissions`.
    implicit: Gate,
    replica: Replica,
}

impl Doors {
    fn of(dialect: Dialect) -> Self {
        let replica = Replica::with(dialect, Options { login_first: true, ..Options::default() });
        let backend = replica.address();
        // Exchange asks for passwords under TLS only, so the gate has to have TLS with it as well.
        let here = |dir: &Path| format!("backend_tls = 'starttls'\n{}", certificates(dir));
        let starttls = Gate::start(|at| {
            let named = format!("name = 'here'\n{}", here(at.dir));
            top(at)
                + &gate("submission", at.smtp, backend, "name = 'end-to-end'")
                + &gate("submission", at.second, backend, &named)
        });
        let implicit = Gate::start(|at| top(at) + &gate("submissions", at.smtp, backend, &here(at.dir)));
        replica.wait_for_probe();
        Self { starttls, implicit, replica }
    }

    /// Each door, with the gate that it is in.
    fn all(&self) -> [(&'static str, &Gate, SocketAddr, Encryption); 3] {
        [
            ("end-to-end", &self.starttls, self.starttls.smtp(), Encryption::StartTls),
            ("here", &self.starttls, self.starttls.second(), Encryption::StartTls),
            ("submissions", &self.implicit, self.implicit.smtp(), Encryption::Implicit),
        ]
    }
}

/// How a client can log in to such an MTA under TLS.
fn mechanisms(client: Client, dialect: &Dialect) -> Vec<&'static str> {
    let known: &[&str] = match client {
        Client::Swaks | Client::SwaksPipelined | Client::Smtplib | Client::Nodemailer => {
            &["PLAIN", "LOGIN", "CRAM-MD5"]
        }
        Client::Curl => &["PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "NTLM"],
        Client::Msmtp => &["PLAIN", "LOGIN", "CRAM-MD5", "NTLM"],
    };
    let offered = dialect.secure.iter().find_map(|line| line.strip_prefix("AUTH ")).expect("a login");
    known.iter().copied().filter(|known| offered.split(' ').any(|one| one == *known)).collect()
}

/// The record of the one visit of `client` to the gate of that name.
#[track_caller]
fn record(gate: &Gate, name: &str, client: Ipv4Addr) -> Value {
    let client = client.to_string();
    gate.wait_for_record(|record| record["gate"] == name && record["client"] == client.as_str())
}

#[test]
fn every_client_delivers_to_every_replica() {
    if !present(&CLIENTS) {
        return;
    }
    for_each_dialect(|dialect| {
        let (gate, replica) = mx(dialect, Options::default());
        let mut sent = Vec::new();
        for (number, client) in (1..).zip(Client::ALL) {
            let first = [Letter::short(), Letter::short()];
            let rest = if client == Client::Msmtp { Letter::awkward() } else { vec![Letter::short()] };
            let sources = [Ipv4Addr::new(127, 1, 0, number); 2].into_iter();
            let sources = sources.chain([Ipv4Addr::new(127, 9, 1, number)].into_iter().cycle());
            for (letter, source) in first.iter().chain(&rest).zip(sources) {
                client.send(&Call::to(gate.smtp()).from(source), letter).assert_accepted();
            }
            sent.extend(first.into_iter().chain(rest));
        }
        assert_all_arrived(&replica, &sent, 0);
        let accepted = gate.metric("gatepost_messages_accepted_total", &[("gate", "mx")]);
        assert_eq!(accepted.map(|count| count as usize), Some(sent.len()));
        // Passwords are not asked for at this door, and nobody could give one.
        assert!(replica.attempts().is_empty());
        for record in gate.stop() {
            assert_eq!((&record["outcome"], &record["note"]), (&Value::from("relayed"), &Value::Null), "{record}");
        }
    });
}

#[test]
fn sending_mtas_deliver_and_take_the_replicas_refusals() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    for_each_dialect(|dialect| {
        let (gate, replica) = mx(dialect, Options::default());
        let mut letters = Vec::new();
        for (letter, source) in Letter::awkward().into_iter().skip(1).zip(1..) {
            let source = Ipv4Addr::new(127, 2, 0, source);
            let outcome = exim::send(&Call::to(gate.smtp()).from(source), &letter);
            outcome.assert_accepted();
            let chunking = dialect.clear.contains(&"CHUNKING");
            assert_eq!(exim::used_chunking(&outcome.transcript), chunking, "{}", outcome.transcript);
            letters.push(letter);
        }
        let options = postfix::Options {
            main_cf: &["smtp_bind_address = 127.3.0.1"],
            ..postfix::Options::delivering_to(gate.smtp())
        };
        let relay = Postfix::start(&options);
        for to in ["alice@example.test", NOBODY] {
            let letter = Letter::short().to(&[to]);
            let mut dialogue = Dialogue::with(relay.plain());
            dialogue.expect("220");
            dialogue.deliver(&letter);
            letters.extend((to != NOBODY).then_some(letter));
        }
        relay.wait_for_log(&["to=<alice@example.test>", "status=sent (250 2.6.0 "]);
        let refusal = dialect.replies.unknown_user.replace("{to}", &format!("<{NOBODY}>"));
        relay.wait_for_log(&[&format!("to=<{NOBODY}>"), "status=bounced", &refusal]);
        assert_all_arrived(&replica, &letters, 1);
    });
}

#[test]
fn people_log_in_by_every_mechanism_that_is_offered() {
    if !present(&CLIENTS) {
        return;
    }
    for_each_dialect(|dialect| {
        let doors = Doors::of(dialect);
        let mut sent = Vec::new();
        for ((door, gate, server, tls), network) in doors.all().into_iter().zip(1..) {
            let before = sent.len();
            for (client, number) in Client::ALL.into_iter().zip(0..) {
                for (mechanism, at) in mechanisms(client, &dialect).into_iter().zip(1..) {
                    let source = Ipv4Addr::new(127, network, number, at);
                    // That it is taken shows that the MTA knows who this is.
                    let letter = Letter::short().to(&[ELSEWHERE]);
                    let call = Call::to(server).from(source).over(tls).with_login(USER, PASSWORD).by(mechanism);
                    let outcome = client.send(&call, &letter);
                    assert!(outcome.accepted, "{door} {client:?} {mechanism}:\n{}", outcome.transcript);
                    sent.push(letter);
                    let record = record(gate, door, source);
                    let seen = u32::from(door != "end-to-end");
                    assert_eq!((&record["auth_ok"], &record["auth_failed"]), (&seen.into(), &0.into()), "{record}");
                    let last = doors.replica.attempts().pop().expect("an attempt");
                    assert_eq!((last.mechanism.as_str(), last.succeeded), (mechanism, Some(true)), "{last:?}");
                }
            }
            let logins = gate.metric("gatepost_auth_total", &[("gate", door), ("result", "ok")]);
            let seen = if door == "end-to-end" { 0 } else { sent.len() - before };
            assert_eq!(logins.unwrap_or_default() as usize, seen, "{door}");
        }
        assert_all_arrived(&doors.replica, &sent, 0);
        assert!(doors.replica.messages().iter().all(|message| message.to == [format!("<{ELSEWHERE}>")]));
    });
}

#[test]
fn a_wrong_password_is_answered_in_the_replicas_time_and_counted() {
    if !present(&CLIENTS) {
        return;
    }
    for_each_dialect(|dialect| {
        let doors = Doors::of(dialect);
        let tarpit = Options::default().tarpit;
        let mut tried = 0;
        for ((door, gate, server, tls), network) in doors.all().into_iter().zip(1..) {
            let (before, seen) = (tried, door != "end-to-end");
            // At the other doors, one mechanism for each program.
            let most = if door == "here" { usize::MAX } else { 1 };
            for (client, number) in Client::ALL.into_iter().zip(0..) {
                for (mechanism, at) in mechanisms(client, &dialect).into_iter().take(most).zip(1..) {
                    let source = Ipv4Addr::new(127, network, number, at);
                    // Of these two, the replica knows the name alone.
                    let user = if ["DIGEST-MD5", "NTLM"].contains(&mechanism) { "mallory" } else { USER };
                    let call = Call::to(server).from(source).over(tls).with_login(user, "wrong").by(mechanism);
                    let begun = Instant::now();
                    let outcome = client.send(&call, &Letter::short().to(&[ELSEWHERE]));
                    assert!(!outcome.accepted && begun.elapsed() >= tarpit, "{client:?} {mechanism}");
                    tried += 1;
                    let record = record(gate, door, source);
                    let failed = u32::from(seen);
                    assert_eq!((&record["auth_ok"], &record["auth_failed"]), (&0.into(), &failed.into()), "{record}");
                    // curl has words of its own for it.
                    if client != Client::Curl {
                        let (code, text) = dialect.replies.bad_login.split_at(3);
                        assert!(outcome.transcript.contains(code), "{}", outcome.transcript);
                        assert!(outcome.transcript.contains(text.trim()), "{}", outcome.transcript);
                    }
                }
            }
            let failures = gate.metric("gatepost_auth_total", &[("gate", door), ("result", "failed")]);
            let counted = failures.unwrap_or_default() as usize;
            assert_eq!(counted, if seen { tried - before } else { 0 }, "{door}");
        }
        let attempts = doors.replica.attempts();
        assert_eq!(attempts.iter().filter(|attempt| attempt.succeeded == Some(false)).count(), tried);
        assert!(doors.replica.messages().is_empty());
    });
}

/// IceWarp takes twenty seconds to refuse a password, Exchange five: with the waits that a file has if it says nothing
/// of them, at every door, the gate is still there.
#[tokio::test(start_paused = true)]
async fn the_usual_waits_outlast_every_tarpit() {
    let text = "hostname = 'mx.gate.test'\n\
                [[gate]]\nlisten = '127.0.0.1:25'\nbackend = '127.0.0.1:2525'\n\
                [[gate]]\nscene = 'submission'\nlisten = '127.0.0.1:587'\nbackend = '127.0.0.1:2587'\n";
    let (config, _) = Config::parse(text, "gatepost.toml").unwrap_or_else(|report| panic!("{report}"));
    for dialect in dialects() {
        for gate in &config.gates {
            assert!(gate.backend.reply_timeout >= 2 * dialect.tarpit, "{}", gate.name);
            assert!(gate.relay.timeouts.reply >= 2 * dialect.tarpit, "{}", gate.name);
        }
        let settings = relay::Settings { auth: true, ..(*config.gates[1].relay).clone() };
        let ((mut client, near), (far, mut backend)) = (duplex(4096), duplex(4096));
        let sides = Sides { client: near, client_bytes: Vec::new(), backend: far, backend_bytes: Vec::new() };
        let opening = Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Auth), transaction: false };
        let mut outcomes = Vec::new();
        let mta = async {
            let mut heard = vec![0; "AUTH PLAIN AGEAYg==\r\n".len()];
            backend.read_exact(&mut heard).await.unwrap();
            tokio::time::sleep(dialect.tarpit).await;
            backend.write_all(format!("{}\r\n", dialect.replies.bad_login).as_bytes()).await.unwrap();
            let mut quit = [0; 6];
            backend.read_exact(&mut quit).await.unwrap();
            backend.write_all(b"221 bye\r\n").await.unwrap();
        };
        let begun = tokio::time::Instant::now();
        let person = async {
            client.write_all(b"AUTH PLAIN AGEAYg==\r\n").await.unwrap();
            let mut heard = vec![0; dialect.replies.bad_login.len() + 2];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, format!("{}\r\n", dialect.replies.bad_login).as_bytes());
            assert_eq!(begun.elapsed().as_secs(), dialect.tarpit.as_secs(), "{}", dialect.name);
            client.write_all(b"QUIT\r\n").await.unwrap();
            client.read_exact(&mut [0; 9]).await.unwrap();
        };
        let never = std::future::pending::<()>();
        let relayed = relay::run(sides, opening, &settings, never, |event| outcomes.push(event));
        let (ending, (), ()) = tokio::join!(relayed, mta, person);
        assert_eq!(ending.tally.auth_failures, 1, "{}", dialect.name);
        let failed = |event: &relay::ending::Event| {
            matches!(event, relay::ending::Event::AuthFinished { outcome: AuthOutcome::Failed, .. })
        };
        assert!(outcomes.iter().all(failed) && outcomes.len() == 1, "{outcomes:?}");
    }
}

#[test]
fn what_servers_offer_their_like_is_shown_to_no_client() {
    for_each_dialect(|dialect| {
        let (gate, _replica) = mx(dialect, Options::default());
        for client in [STRANGER, KNOWN] {
            let mut dialogue = Dialogue::from(client, gate.smtp());
            let greeting = dialogue.expect("220");
            let reply = dialogue.say("EHLO client.test").expect("250");
            assert_nothing_private(&dialect, &reply);
            // What remains is enough for mail, in the MTA's own words; and AUTH is not for strangers from everywhere.
            let offered = keywords(&reply);
            assert!(offered.iter().any(|line| line.starts_with("SIZE")) && offered.contains(&"DSN"), "{reply}");
            assert!(offered.contains(&"STARTTLS") && !reply.contains("AUTH"), "{reply}");
            let pipelining = client == KNOWN && dialect.clear.contains(&"PIPELINING");
            assert_eq!(offered.contains(&"PIPELINING"), pipelining, "{reply}");
            if client == KNOWN {
                assert!(greeting.starts_with(&format!("220 {} ", dialect.host)), "{greeting}");
            }
        }
        let doors = Doors::of(dialect);
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
        let of = |lines: &[&str]| lines.iter().find_map(|line| line.strip_prefix("AUTH ")).map(words);
        let shown = |reply: &str| of(&keywords(reply));
        for (door, gate, server, tls) in doors.all() {
            for client in [STRANGER, KNOWN] {
                let reply = match tls {
                    Encryption::Implicit => {
                        let mut secure = Secure::first(client, server, "mx.gate.test");
                        secure.expect("220");
                        secure.ask("EHLO client.test", "250")
                    }
                    _ => {
                        let mut plain = connect(client, server);
                        clear(&mut plain, "", "220");
                        let reply = clear(&mut plain, "EHLO client.test", "250");
                        assert_nothing_private(&dialect, &reply);
                        assert_eq!(shown(&reply), if door == "here" { None } else { of(dialect.clear) }, "{reply}");
                        clear(&mut plain, "STARTTLS", "220");
                        Secure::over(plain, "mx.gate.test").ask("EHLO client.test", "250")
                    }
                };
                if door == "end-to-end" {
                    // Under TLS that is not ours, the MTA says what it likes: why TLS should end at the gate.
                    let private = dialect.secure.iter().find(|line| WITHHELD.contains(line) || line.starts_with("X-"));
                    assert!(keywords(&reply).contains(private.expect("one")), "{reply}");
                    continue;
                }
                assert_nothing_private(&dialect, &reply);
                assert_eq!(shown(&reply), of(dialect.secure), "{door} of {}: {reply}", gate.admin());
            }
        }
    });
}

/// What a client may say to be taken for one of the MTA's own.
const PRETENCES: &[&str] = &[
    "X-ANONYMOUSTLS",
    "X-EXPS GSSAPI",
    "X-EXPS=LOGIN",
    "X-EXPS NTLM TlRMTVNTUAABAAAA",
    "X-EXPS EXCHANGEAUTH SHA256 AAAA",
    "AUTH=LOGIN",
    "XEXCH50 2 2",
    "X-LINK2STATE LAST CHUNK={00000001}",
    "XSHADOW 1a2b",
    "XSHADOWREQUEST",
    "XQDISCARD 1 <1@example.org>",
    "XPROXY SID=08D0 IP=192.0.2.7 PORT=25 DOMAIN=example.org",
    "XPROXYFROM SID=08D0 IP=192.0.2.7 PORT=25 DOMAIN=example.org SEQNUM=1 PERMS=1073",
    "XPROXYTO DESTINATIONS=EX2 SID=08D0",
    "XSESSIONPARAMS MDBGUID=08d0",
    "XCLIENT ADDR=192.0.2.1",
    "TURN",
    "ATRN example.org",
];

/// Whether one of [`PRETENCES`] is among what came over.
fn pretended(commands: &[String]) -> Vec<&String> {
    commands.iter().filter(|line| PRETENCES.iter().any(|word| line.eq_ignore_ascii_case(word))).collect()
}

#[test]
fn the_replica_would_obey_what_the_gate_keeps_from_it() {
    let replica = Replica::start(exchange::SE);
    let mut straight = Dialogue::with(replica.address());
    straight.expect("220");
    assert!(straight.say("EHLO client.test").expect("250").contains("X-EXPS GSSAPI NTLM"));
    straight.say("XPROXYTO DESTINATIONS=EX2 SID=08D0").expect("250");
    straight.say("X-LINK2STATE LAST CHUNK={00000001}").expect("200");
    straight.say("WHAT").expect("500 5.3.3");
    straight.say("MAIL FROM:<bob@example.org> XSHADOW=1a2b").expect("250 2.1.0 Sender OK");
    straight.say("RCPT TO:<alice@example.test> XWHAT=1").expect("501");
    straight.say(&format!("RCPT TO:<{ELSEWHERE}>")).expect("550 5.7.54");
    straight.say("QUIT").expect("221");
    assert_eq!(pretended(&replica.commands()).len(), 2);
}

#[test]
fn who_pretends_to_be_a_server_of_their_own_is_not_heard() {
    for_each_dialect(|dialect| {
        let (gate, replica) = mx(dialect, Options::default());
        for (client, transaction) in [(STRANGER, false), (KNOWN, false), (KNOWN, true)] {
            let mut dialogue = Dialogue::from(client, gate.smtp());
            dialogue.expect("220");
            dialogue.say("EHLO client.test").expect("250");
            if transaction {
                dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
                dialogue.say("RCPT TO:<alice@example.test>").expect("250");
            }
            for line in PRETENCES {
                let reply = dialogue.say(line).expect("50");
                assert!(reply.starts_with("500 ") || reply.starts_with("502 "), "{line}: {reply}");
            }
            dialogue.say("QUIT").expect("221");
        }
        let doors = Doors::of(dialect);
        for (door, _, server, tls) in doors.all() {
            for client in [STRANGER, KNOWN] {
                let mut secure = match (door, tls) {
                    ("end-to-end", _) => {
                        let mut dialogue = Dialogue::from(client, server);
                        dialogue.expect("220");
                        dialogue.say("EHLO client.test").expect("250");
                        PRETENCES.iter().for_each(|line| drop(dialogue.say(line).expect("50")));
                        continue;
                    }
                    (_, Encryption::Implicit) => {
                        let mut secure = Secure::first(client, server, "mx.gate.test");
                        secure.expect("220");
                        secure
                    }
                    _ => Secure::after_starttls(client, server, "mx.gate.test"),
                };
                secure.ask("EHLO client.test", "250");
                for line in PRETENCES {
                    secure.ask(line, "50");
                }
                secure.ask("QUIT", "221");
            }
        }
        for commands in [replica.commands(), doors.replica.commands()] {
            assert!(pretended(&commands).is_empty(), "{}: {commands:?}", dialect.name);
            assert!(commands.iter().any(|line| line.starts_with("EHLO")), "somebody was there");
        }
    });
}

#[test]
fn parameters_between_servers_are_refused_and_those_for_everybody_go_on() {
    for_each_dialect(|dialect| {
        let (gate, replica) = mx(dialect, Options::default());
        let offers = |keyword: &str| dialect.clear.iter().any(|line| line.eq_ignore_ascii_case(keyword));
        let mut mail = "MAIL FROM:<bob@example.org> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=one".to_owned();
        if offers("SMTPUTF8") {
            mail.push_str(" SMTPUTF8");
        }
        let rcpt = "RCPT TO:<alice@example.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;alice@example.test";
        for client in [STRANGER, KNOWN] {
            let letter = Letter::short();
            let mut dialogue = Dialogue::from(client, gate.smtp());
            dialogue.expect("220");
            dialogue.say("EHLO client.test").expect("250");
            for parameter in
                ["XSHADOW=1a2b", "XMESSAGECONTEXT=ADRC-2.1.0.0", "XORIG=HOST", "XOORG=example.org", "TRANSID=<1@a>"]
            {
                dialogue.say(&format!("{mail} {parameter}")).expect("555 5.5.4");
            }
            // The AUTH parameter says whose mail it is: an MTA that trusts the gate could believe it.
            dialogue.say("MAIL FROM:<bob@example.org> AUTH=ceo@example.test").expect("555 5.5.4");
            dialogue.say(&mail).expect("250");
            for parameter in ["XRDST=EX2", "XLONGADDR=1"] {
                dialogue.say(&format!("{rcpt} {parameter}")).expect("555 5.5.4");
            }
            dialogue.say(rcpt).expect("250");
            dialogue.say("DATA").expect("354");
            dialogue.send(stuffed(&letter.bytes)).expect("250");
            dialogue.say("QUIT").expect("221");
            let message = replica.messages().pop().expect("the message");
            assert_eq!(format!("MAIL FROM:{}", message.from), mail);
            assert_eq!(message.to.iter().map(|to| format!("RCPT TO:{to}")).collect::<Vec<_>>(), [rcpt]);
            assert!(letter.is(&message.bytes, 0));
        }
        for line in replica.commands() {
            let own = dialect.parameters.iter().any(|parameter| line.contains(&format!(" {parameter}=")));
            assert!(!own && !line.contains("AUTH="), "{line}");
        }
    });
}

#[test]
fn refusals_come_in_the_replicas_own_words_and_time() {
    for_each_dialect(|dialect| {
        let replies = dialect.replies;
        let (gate, replica) = mx(dialect, Options::default());
        for client in [STRANGER, KNOWN] {
            let mut dialogue = Dialogue::from(client, gate.smtp());
            dialogue.expect("220");
            dialogue.say("EHLO client.test").expect("250");
            dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
            for (to, text) in [(NOBODY, replies.unknown_user), (ELSEWHERE, replies.no_relay)] {
                let begun = Instant::now();
                let wanted = text.replace("{to}", &format!("<{to}>")).replace("{peer}", "127.0.0.1");
                assert_eq!(dialogue.say(&format!("RCPT TO:<{to}>")).expect("550").trim_end(), wanted);
                let held_back = begun.elapsed() >= Options::default().tarpit;
                assert!(held_back || !dialect.tarpits_recipients, "{:?}", begun.elapsed());
            }
            dialogue.say("RCPT TO:<alice@example.test>").expect("250 2.1.5");
            assert_eq!(dialogue.say("DATA").expect("354").trim_end(), replies.go_on);
            // Many honest programs end lines so; Exchange would refuse it.
            dialogue.send("Subject: lines\n\nby LF\nonly\r\n.\r\n").expect("250 2.6.0");
            let message = replica.messages().pop().expect("the message");
            assert_eq!(message.bytes, b"Subject: lines\r\n\r\nby LF\r\nonly\r\n");
            if dialect.clear.contains(&"CHUNKING") {
                // A chunk is nobody's to change: what Exchange says of a bare LF in it is for the client to hear.
                for (last, first) in [("a\r\nb", "x"), ("a\nb", "y")] {
                    dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
                    dialogue.say("RCPT TO:<alice@example.test>").expect("250");
                    let reply = dialogue.send(format!("BDAT 1\r\n{first}")).expect("250");
                    assert_eq!(reply.trim_end(), replies.chunk.replace("{bytes}", "1"));
                    dialogue.send(format!("BDAT {} LAST\r\n{last}", last.len()));
                    match replies.bare_lf.filter(|_| first == "y") {
                        Some(refusal) => assert_eq!(dialogue.expect("550").trim_end(), refusal),
                        None => {
                            dialogue.expect("250 2.6.0");
                            let message = replica.messages().pop().expect("the message");
                            assert_eq!(message.bytes, format!("{first}{last}").as_bytes());
                            assert!(message.chunked);
                        }
                    }
                }
            }
            assert_eq!(dialogue.say("QUIT").expect("221").trim_end(), replies.bye.replace("{host}", dialect.host));
        }
    });
}

#[test]
fn a_replica_that_closes_is_heard_to_say_why() {
    for (at, reply) in [
        ("MAIL", "421 4.3.2 Service not active"),
        ("RCPT", "421 4.3.2 The maximum number of concurrent server connections has exceeded a limit"),
        ("DATA", "421 4.4.1 Connection timed out"),
        ("MAIL", "452 4.3.1 Insufficient system resources"),
    ] {
        let (gate, replica) = mx(exchange::SE, Options { instead: Some((at, reply)), ..Options::default() });
        for client in [STRANGER, KNOWN] {
            let mut dialogue = Dialogue::from(client, gate.smtp());
            dialogue.expect("220");
            dialogue.say("EHLO client.test").expect("250");
            let lines = ["MAIL FROM:<bob@example.org>", "RCPT TO:<alice@example.test>", "DATA"];
            let heard = lines.iter().find_map(|line| {
                let reply = dialogue.say(line).expect("");
                (!reply.starts_with("25")).then_some(reply)
            });
            assert_eq!(heard.as_deref().map(str::trim_end), Some(reply), "{at}");
            if reply.starts_with("421") {
                dialogue.expect_close();
            }
        }
        assert!(replica.messages().is_empty());
    }
}

#[test]
fn what_is_tarpitted_holds_nobody_else_up() {
    let options = Options { tarpit: Duration::from_secs(3), login_first: true, ..Options::default() };
    let replica = Replica::with(icewarp::V14, options);
    let gate = Gate::start(|at| top(at) + &gate("submission", at.smtp, replica.address(), ""));
    replica.wait_for_probe();
    let mut waiting: Vec<Dialogue> = (0..20_u8)
        .map(|number| {
            let mut dialogue = Dialogue::from(Ipv4Addr::new(127, 0, 3, number + 1), gate.smtp());
            dialogue.expect("220");
            dialogue.say("EHLO client.test").expect("250");
            dialogue.say("AUTH PLAIN AGEAYg==");
            dialogue
        })
        .collect();
    let mut person = Dialogue::from(KNOWN, gate.smtp());
    person.expect("220");
    person.say("EHLO client.test").expect("250");
    person.say("AUTH LOGIN").expect("334 VXNlcm5hbWU6");
    person.say("dGlt").expect("334 UGFzc3dvcmQ6");
    person.say("dGFuc3RhYWZ0YW5zdGFhZg==").expect("235");
    let failed =
        |attempts: Vec<host::replica::Attempt>| attempts.iter().filter(|one| one.succeeded == Some(false)).count();
    wait::until("all to be refused", || (failed(replica.attempts()) == waiting.len()).then_some(()));
    for dialogue in &mut waiting {
        dialogue.expect("535 5.7.8");
    }
    drop(waiting);
    person.say("QUIT").expect("221");
    let counted = || gate.metric("gatepost_auth_total", &[("result", "failed")]);
    wait::until("them to be counted", || (counted() == Some(20.0)).then_some(()));
}
