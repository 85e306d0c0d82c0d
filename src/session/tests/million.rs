//! A million distinct IPv6 networks knock, and half of them pass, and a tenth of them guess passwords: what that costs, and
//! whom it hurts. Nothing but the sockets is left out: each goes through recall and its limits, what it passed is remembered
//! as at its verdict, and each guess is tried as in a relay, while the ledger's file asks for what has changed.
//!
//! It runs in a process of its own, so that the memory of that process can be told from that of other tests.

use std::env;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::time::Instant as Stopwatch;

use super::super::departure;
use super::super::trial::Trial;
use super::*;
use crate::addr::ClientKey;
use crate::ledger::embedded::Source;
use crate::ledger::{Kept, Kind};
use crate::policy::ban::{Decision, Reason, What};
use crate::policy::class::PerClass;
use crate::smtp::auth::Account;

/// Set in the process that does it.
const CHILD: &str = "GATEPOST_MILLION_CHILD";

const KNOCKS: u64 = 1_000_000;
const HONEST: u32 = 1000;
const USERS: u32 = 500;
const BANS: u32 = 500;

/// A fraction of the default, so that each part is full several times over.
const SETTINGS: ledger::Settings = ledger::Settings { entries: 200_000, tallies: 50_000, decisions: 20_000 };

/// How much a standing takes at most, half of the shards' growing room included.
const STANDING: usize = 60;
/// A tally, an account and a network of one who guesses, each.
const TALLY: usize = 350;
/// A ban with its evidence.
const DECISION: usize = 700;
/// The mark of an entry that has changed, until the file has asked for it.
const MARK: usize = 20;
/// What does not grow: the states of rates, the tables of a house, the program.
const REST: usize = 16 << 20;

/// What may be taken, by the settings alone.
const fn cap() -> usize {
    let ledger::Settings { entries, tallies, decisions } = SETTINGS;
    entries * STANDING + 3 * tallies * TALLY + decisions * DECISION + (entries + 3 * tallies) * MARK + REST
}

/// The `n`th of a million networks, 65536 of each /48.
fn attacker(n: u64) -> IpAddr {
    Ipv6Addr::from(u128::from(0x2001_0db8_0000_0000 + n) << 64 | u128::from(n % 7 + 1)).into()
}

fn v4(net: u8, n: u32) -> IpAddr {
    Ipv4Addr::from_bits(u32::from(net) << 24 | 0x7b_0000 | n).into()
}

fn honest(n: u32) -> IpAddr {
    v4(198, n)
}

/// Somebody who logs in now and then.
fn user(n: u32) -> IpAddr {
    v4(203, n)
}

/// Somebody who was banned before, for the second to fourth time.
fn banned(n: u32) -> IpAddr {
    v4(192, n)
}

/// A mail exchanger of which one pass is enough.
fn post() -> Post {
    let mut settings = settings(nobody());
    only_early(&mut settings);
    settings.limits.rate = PerClass::all(Some("60/1m".parse().unwrap()));
    let mut post = Post::new(settings);
    let house = Arc::get_mut(&mut post.house).unwrap();
    house.ledger = Arc::new(Ledger::open(SETTINGS));
    post
}

fn guest(post: &Post, client: IpAddr) -> Guest {
    let mut guest = post.guest("192.0.2.7:40000");
    guest.client.set_ip(client);
    guest
}

/// Comes, and passes the one test if it is a stranger. What it was recalled as.
fn pass(post: &Post, client: IpAddr) -> Recall {
    let mut found = recall(&post.house, &post.gate, client);
    if let Recall::Stranger(_, screen) = &mut found {
        screen.waited();
        departure::remember(&post.house, &guest(post, client), &screen.close(NOW));
    }
    found
}

/// Guesses a password so many times, of an account that nobody else tries.
fn fail(post: &Post, client: IpAddr, times: usize) {
    let account = Account::new(format!("user-{client}").as_bytes());
    for _ in 0..times {
        Trial::of(&post.house, &guest(post, client), account.clone()).failed(None);
    }
}

fn ban_before(post: &Post, n: u32) {
    // Some of them end before any of the attackers', some long after.
    let span = Duration::from_secs(60 + u64::from(n) * 10);
    let begin = Timestamp::from_seconds(NOW.seconds() - 3600);
    let decision = Decision {
        what: What::Ban,
        reason: Reason::Failures,
        count: 5,
        level: 2 + (n % 3) as u8,
        begin,
        until: Some(NOW.plus(span)),
        who: "mx".into(),
        evidence: "5 failed AUTH exchanges within 10m".into(),
    };
    post.house.rule(ClientKey::of(banned(n)).network(), decision);
}

fn is_banned(post: &Post, client: IpAddr) -> bool {
    matches!(recall(&post.house, &post.gate, client), Recall::Banned(Some(_)))
}

/// The memory of this process that is its own, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn a_million_networks_stay_within_the_cap_and_push_out_nobody_that_matters() {
    if env::var_os(CHILD).is_some() {
        return a_million_networks();
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let mut child = Command::new(env::current_exe().unwrap());
    let child = child.args([name.as_str(), "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    let done = child.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    said.lines().filter(|line| !line.is_empty()).for_each(|line| println!("{line}"));
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

fn a_million_networks() {
    let post = post();
    let ledger = &post.house.ledger;
    let mut file = Kept::of(Arc::clone(ledger));
    let mut changes = Vec::new();
    for n in 0..HONEST {
        pass(&post, honest(n));
        assert!(matches!(pass(&post, honest(n)), Recall::Known(..)), "it has come again");
    }
    for n in 0..USERS {
        Trial::of(&post.house, &guest(&post, user(n)), Account::new(format!("anna{n}").as_bytes())).logged_in();
    }
    (0..BANS).for_each(|n| ban_before(&post, n));
    let before = resident();
    let began = Stopwatch::now();
    let (mut met, mut guessers, mut highest, mut last) = (0, 0, before, attacker(0));
    for n in 0..KNOCKS {
        let client = attacker(n);
        if n % 2 == 0 {
            met += u64::from(matches!(pass(&post, client), Recall::Stranger(..)));
        } else {
            met += u64::from(matches!(recall(&post.house, &post.gate, client), Recall::Stranger(..)));
        }
        if n % 10 == 1 {
            fail(&post, client, 5);
            guessers += 1;
            assert!(is_banned(&post, client), "the {guessers}th guesser is not banned");
            last = client;
        }
        if n % 50_000 == 49_999 {
            // The writer comes by, twice a second; it takes all there is.
            while {
                changes.clear();
                file.drain(&mut changes, 4096);
                changes.len() == 4096
            } {}
            highest = highest.max(resident());
        }
    }
    let took = began.elapsed();
    let (own, grown) = report(&post, before, highest);
    println!(
        "{KNOCKS} networks in {took:.1?}, {met} of them strangers; by its own account {own} bytes; the process grew by \
         {grown} bytes at the most; the cap by the settings is {} bytes",
        cap()
    );
    assert!(own < cap(), "{own} bytes");
    assert!(grown < cap(), "{grown} bytes");
    assert!((0..HONEST).all(|n| matches!(recall(&post.house, &post.gate, honest(n)), Recall::Known(..))));
    assert!((0..BANS).all(|n| is_banned(&post, banned(n))), "bans of before");
    assert!(is_banned(&post, last), "who guessed last");
    let known =
        |n| ledger.tally(ClientKey::of(user(n)), NOW).is_some_and(|tally| u64::from(tally.known_until) > NOW.seconds());
    assert!((0..USERS).all(known), "who has logged in");
    let homes = |n| {
        let account = Account::new(format!("anna{n}").as_bytes()).unwrap();
        ledger.account(account.digest(), NOW).is_some_and(|account| account.homes.len() == 1)
    };
    assert!((0..USERS).all(homes), "where they are at home");
}

/// Prints what each part has, and takes.
fn report(post: &Post, before: usize, highest: usize) -> (usize, usize) {
    let ledger = &post.house.ledger;
    let caps = [SETTINGS.entries, SETTINGS.tallies, SETTINGS.tallies, SETTINGS.tallies, SETTINGS.decisions];
    let mut own = 0;
    for (kind, most) in Kind::ALL.into_iter().zip(caps) {
        let (count, bytes) = (ledger.count(kind, NOW), ledger.bytes(kind, NOW));
        println!(
            "{:>9}: {count:>7} of {most:>7} places, {:>9} bytes, {} each",
            kind.name(),
            bytes,
            bytes / count.max(1)
        );
        assert!(count <= most);
        own += bytes;
    }
    (own, highest.saturating_sub(before))
}
