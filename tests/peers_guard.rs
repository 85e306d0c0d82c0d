//! Guessers of passwords, before a gate with a real MTA behind it: the door is closed to them, the MTA hears no more of them,
//! and the owner of the account that they guess notices nothing.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use host::dialogue::Dialogue;
use host::exim::{self, Exim};
use host::gate::Gate;
use host::peers::{Peer, present};
use host::sink::Sink;
use host::wait;

/// The account that exists, and its password.
const ANNA: (&str, &str) = ("anna@example.org", "sesame");

/// The bot of many a log: the name that it gives itself, and what it guesses.
const BOT: Ipv4Addr = Ipv4Addr::new(127, 0, 5, 5);

struct Scene {
    gate: Gate,
    exim: Exim,
    _sink: Sink,
}

impl Scene {
    /// A submission gate before an Exim that knows Anna; `more` goes into the file.
    fn set(more: &str) -> Self {
        let sink = Sink::start();
        let exim = Exim::start(&exim::Options { login: Some(ANNA), ..exim::Options::delivering_to(sink.address()) });
        let gate = Gate::start(|at| {
            format!(
                "hostname = \"mx.test\"\nadmin = \"{}\"\n{more}\n[access]\nallow = []\n[[gate]]\nscene = \"submission\"\n\
                 listen = \"{}\"\nbackend = \"{}\"\n",
                at.admin,
                at.smtp,
                exim.proxied(),
            )
        });
        Self { gate, exim, _sink: sink }
    }

    /// How many guesses Exim has heard.
    fn guesses(&self) -> usize {
        self.exim.log().lines().filter(|line| line.contains("535 Incorrect authentication data")).count()
    }

    /// The log lines of gatepost that have all of `words`.
    fn said(&self, words: &[&str]) -> Vec<String> {
        let complaints = self.gate.complaints();
        complaints.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait_for(&self, words: &[&str], count: usize) -> Vec<String> {
        wait::until(&format!("{count} log lines with {words:?}"), || {
            Some(self.said(words)).filter(|lines| lines.len() >= count)
        })
    }
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// What came of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Heard {
    /// Closed before a word was said.
    Nothing,
    /// The reply to AUTH, and whether it was the last that was said.
    Reply(String, bool),
}

/// The ylmf-pc bot: one guess a connection, by LOGIN, each line after the reply to the one before.
fn bot(source: Ipv4Addr, server: SocketAddr, password: &str) -> Heard {
    let guess = [String::from("AUTH LOGIN"), base64("hanks"), base64(password)];
    converse(source, server, "ylmf-pc", &guess)
}

/// One exchange in a connection of its own.
fn converse(source: Ipv4Addr, server: SocketAddr, hello: &str, exchange: &[String]) -> Heard {
    let mut dialogue = Dialogue::from(source, server);
    if !matches!(dialogue.line(), Ok(Some(line)) if line.starts_with("220")) {
        return Heard::Nothing;
    }
    dialogue.say(&format!("EHLO {hello}")).expect("250");
    let mut reply = String::new();
    for line in exchange {
        dialogue.say(line);
        reply = dialogue.line().ok().flatten().unwrap_or_default();
    }
    // It may be closed already.
    dialogue.say("QUIT");
    let goodbye = dialogue.line().ok().flatten().unwrap_or_default();
    Heard::Reply(reply, !goodbye.starts_with("221"))
}

/// Logs in once.
fn log_in(source: Ipv4Addr, server: SocketAddr, (user, password): (&str, &str)) -> Heard {
    let exchange = format!("AUTH PLAIN {}", base64(&format!("\0{user}\0{password}")));
    converse(source, server, "client.example", &[exchange])
}

fn is_shut(source: Ipv4Addr, server: SocketAddr) -> bool {
    match Dialogue::try_from(IpAddr::V4(source), server) {
        Ok(mut dialogue) => match dialogue.line() {
            Ok(line) => line.is_none(),
            Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        },
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn the_polite_bot_is_banned_with_its_fifth_guess_and_the_next_ban_is_longer() {
    if !present(&[Peer::Exim]) {
        return;
    }
    let scene = Scene::set("[bans]\nfirst = \"4s\"\njitter = 0\n[auth]\nnames = \"plain\"");
    let server = scene.gate.smtp();
    for n in 1..=5 {
        let heard = bot(BOT, server, &format!("888{n}"));
        let Heard::Reply(reply, is_last) = heard else { panic!("guess {n}: shut out") };
        assert!(reply.starts_with("535"), "guess {n}: {reply}");
        assert_eq!(is_last, n == 5, "guess {n}");
    }
    let banned = scene.wait_for(&["banned", "127.0.5.5/32", "auth-failures"], 1);
    assert_eq!(banned.len(), 1, "one line for one ban: {banned:?}");
    for words in
        ["count=5", "level=1", "span=\"4s\"", "5 failed AUTH exchanges within 10m", "account hanks", "who=\"mx.test\""]
    {
        assert!(banned[0].contains(words), "{words}: {}", banned[0]);
    }
    let heard = scene.guesses();
    assert_eq!(heard, 5);
    // It goes on, and Exim hears nothing of it.
    assert!((0..30).all(|_| is_shut(BOT, server)));
    assert_eq!(scene.guesses(), heard);
    assert_eq!(scene.gate.metric("gatepost_bans_total", &[("reason", "auth-failures")]), Some(1.0));
    assert!(scene.gate.metric("gatepost_banned_connections_total", &[]) >= Some(30.0));
    // Others are not concerned.
    assert!(
        matches!(log_in(Ipv4Addr::new(127, 0, 5, 6), server, ANNA), Heard::Reply(reply, _) if reply.starts_with("235"))
    );
    // It expires, and the bot goes on as before.
    wait::until("the ban to end", || (!is_shut(BOT, server)).then_some(()));
    for n in 1..=5 {
        assert!(matches!(bot(BOT, server, &format!("999{n}")), Heard::Reply(..)), "guess {n}");
    }
    let second = scene.wait_for(&["banned", "127.0.5.5/32", "level=2"], 1);
    assert!(second[0].contains("span=\"16s\""), "{}", second[0]);
    assert!(is_shut(BOT, server));
    assert_eq!(scene.guesses(), 10);
}

#[test]
fn however_many_connections_guess_at_once_the_mta_hears_a_few_more_and_no_others() {
    if !present(&[Peer::Exim]) {
        return;
    }
    let scene = Scene::set("[auth]\nparallel = 3\n[limits]\nsessions_per_client = 500");
    let server = scene.gate.smtp();
    let bots: Vec<_> = (0..40)
        .map(|n| {
            thread::spawn(move || {
                let Ok(mut dialogue) = Dialogue::try_from(IpAddr::V4(BOT), server) else { return };
                // All in one packet, and three guesses of it.
                let guess = format!("AUTH PLAIN {}\r\n", base64(&format!("\0root\0{n}")));
                let mut sent = dialogue.line().is_ok_and(|line| line.is_some());
                if sent {
                    dialogue.send(format!("EHLO x\r\n{guess}{guess}{guess}"));
                }
                while sent {
                    sent = dialogue.line().is_ok_and(|line| line.is_some());
                }
            })
        })
        .collect();
    bots.into_iter().for_each(|bot| bot.join().expect("a bot"));
    let heard = scene.guesses();
    println!("of 120 guesses by 40 connections at once, the MTA heard {heard}");
    assert!((5..=5 + 2).contains(&heard), "{heard}");
    assert!(is_shut(BOT, server));
}

#[test]
fn two_hundred_guessers_of_one_account_are_shut_out_and_its_owner_is_not() {
    if !present(&[Peer::Exim]) {
        return;
    }
    let scene = Scene::set("");
    let server = scene.gate.smtp();
    let home = Ipv4Addr::new(127, 0, 9, 9);
    let owner = |what: &str| {
        let heard = log_in(home, server, ANNA);
        assert!(matches!(&heard, Heard::Reply(reply, _) if reply.starts_with("235")), "{what}: {heard:?}");
    };
    owner("before");
    let guesser = |n: u8| Ipv4Addr::new(127, 0, 7, n);
    let began = Instant::now();
    for n in 1..=200 {
        let heard = log_in(guesser(n), server, (ANNA.0, &format!("guess-{n}")));
        assert!(matches!(&heard, Heard::Reply(reply, _) if reply.starts_with("535")), "guesser {n}: {heard:?}");
        if n % 20 == 0 {
            owner("while it is guessed");
            // He mistypes now and then.
            let heard = log_in(home, server, (ANNA.0, "sesam"));
            assert!(matches!(&heard, Heard::Reply(reply, _) if reply.starts_with("535")), "{heard:?}");
        }
    }
    let banned = scene.wait_for(&["banned", "auth-account"], 200);
    assert_eq!(banned.len(), 200, "each of them, once");
    assert!((1..=200).all(|n| is_shut(guesser(n), server)), "all of them are shut out");
    owner("afterwards");
    let guesses = scene.guesses();
    println!("200 guessers, one guess each, {guesses} heard with the owner's ten typos; {:?}", began.elapsed());
    assert_eq!(guesses, 210);
}

#[test]
fn sessions_of_a_client_that_is_banned_end() {
    if !present(&[Peer::Exim]) {
        return;
    }
    let scene = Scene::set("");
    let server = scene.gate.smtp();
    let mut idle = Dialogue::from(BOT, server);
    idle.expect("220");
    idle.say("EHLO x").expect("250");
    for n in 1..=5 {
        bot(BOT, server, &n.to_string());
    }
    idle.patience(Duration::from_secs(20));
    idle.expect_close();
    let record = scene.gate.wait_for_record(|record| record["outcome"] == "banned");
    assert_eq!(record["client"], "127.0.5.5");
}

#[test]
fn auth_is_open_to_some_networks_and_a_name_that_nobody_has_is_a_trap() {
    if !present(&[Peer::Exim]) {
        return;
    }
    let scene = Scene::set(
        "[limits]\nsessions_per_offender = 50\n[auth]\nnetworks = [\"127.0.9.0/24\"]\nhoneypots = [\"Scanner\"]\nnot_offered = \"3/1h\"\nnames = \"none\"",
    );
    let server = scene.gate.smtp();
    let home = Ipv4Addr::new(127, 0, 9, 9);
    assert!(matches!(log_in(home, server, ANNA), Heard::Reply(reply, _) if reply.starts_with("235")));
    // From elsewhere it is not there, though the password is right, and trying it has consequences.
    let mut dialogue = Dialogue::from(BOT, server);
    dialogue.expect("220");
    assert!(!dialogue.say("EHLO client.example").expect("250").contains("AUTH"));
    for _ in 0..3 {
        assert!(matches!(log_in(BOT, server, ANNA), Heard::Reply(reply, _) if reply.starts_with("503")));
    }
    let banned = scene.wait_for(&["banned", "127.0.5.5/32", "auth-not-offered", "count=3"], 1);
    assert!(is_shut(BOT, server), "{banned:?}");
    assert_eq!(scene.guesses(), 0);
    // The trap: one try, in any spelling.
    let bot = Ipv4Addr::new(127, 0, 9, 66);
    assert!(
        matches!(log_in(bot, server, ("SCANNER", "scanner")), Heard::Reply(reply, true) if reply.starts_with("535"))
    );
    let banned = scene.wait_for(&["banned", "127.0.9.66/32", "auth-honeypot"], 1);
    assert!(!banned[0].to_lowercase().contains("account"), "names are not shown: {banned:?}");
    assert!(is_shut(bot, server) && !is_shut(home, server));
}

#[test]
fn a_failed_login_is_told_late_to_so_many_at_once() {
    if !present(&[Peer::Exim]) {
        return;
    }
    const DELAY: Duration = Duration::from_secs(2);
    let scene = Scene::set("[auth]\ndelay = \"2s\"\ndelayed = 1");
    let server = scene.gate.smtp();
    let timed = |source: Ipv4Addr, login| {
        let began = Instant::now();
        let heard = log_in(source, server, login);
        (began.elapsed(), heard)
    };
    let (took, heard) = timed(BOT, (ANNA.0, "guess"));
    assert!(
        took >= DELAY && matches!(&heard, Heard::Reply(reply, _) if reply.starts_with("535")),
        "{took:?} {heard:?}"
    );
    let (took, _) = timed(BOT, ANNA);
    assert!(took < DELAY, "who logs in does not wait: {took:?}");
    // While one is held back there is no place for a second.
    let first = thread::spawn(move || {
        let began = Instant::now();
        log_in(BOT, server, (ANNA.0, "guess"));
        began.elapsed()
    });
    wait::until("a reply to be held back", || {
        (scene.gate.metric("gatepost_auth_delayed", &[]) == Some(1.0)).then_some(())
    });
    let (took, _) = timed(Ipv4Addr::new(127, 0, 5, 7), (ANNA.0, "guess"));
    let first = first.join().expect("a client");
    println!("held back: {first:?}; beyond the cap: {took:?}");
    assert!(first >= DELAY && took < DELAY);
    assert_eq!(scene.gate.metric("gatepost_auth_delayed", &[]), Some(0.0));
}
