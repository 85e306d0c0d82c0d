//! The ledger: what one recall and one remember cost; and what else is looked up at the door: bans, and what is counted of
//! a client.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use gatepost::addr::ClientKey;
use gatepost::ledger::{Ledger, Settings};
use gatepost::policy::ban::{Decision, Reason, What};
use gatepost::policy::guard::{Rules, Strike, Tally};
use gatepost::screen::Standing;

use super::Look;
pub use super::clients::NOW;
use super::clients::{client, passed};

/// A ledger that is full of so many clients.
pub fn full(entries: u32) -> Ledger {
    let ledger = Ledger::open(Settings { entries: entries as usize, ..Settings::default() });
    // Some more, until there is no room anywhere.
    for n in (0..).take_while(|n| *n < entries || ledger.len() < entries as usize && *n < 2 * entries) {
        ledger.remember(client(n), passed(), NOW);
    }
    assert_eq!(ledger.len(), entries as usize);
    ledger
}

pub fn standings(look: &mut impl Look, group: &str, ledger: &Ledger) {
    let entries = ledger.len() as u32;
    let known: Vec<u32> = (0..2 * entries).filter(|n| ledger.peek(client(*n), NOW) != Standing::stranger()).collect();
    let mut each = known.iter().cycle().map(|n| client(*n));
    let go = || assert!(ledger.recall(each.next().unwrap(), NOW) != Standing::stranger());
    look.at(group, "recall, known", 0, go);
    let mut strangers = (3 * entries..).map(client);
    look.at(group, "recall, a stranger", 0, || black_box(ledger.recall(strangers.next().unwrap(), NOW)));
    let mut each = known.iter().cycle().map(|n| client(*n));
    look.at(group, "remember, known", 0, || ledger.remember(each.next().unwrap(), passed(), NOW));
    look.at(group, "remember, new", 0, || ledger.remember(strangers.next().unwrap(), passed(), NOW));
}

/// Of each ten bans, seven are of IPv4 clients, two of IPv6 clients, one of a network.
fn banned(n: u32) -> IpAddr {
    let bits = n.wrapping_mul(2_654_435_761);
    match n % 10 {
        0..7 | 9 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from(u128::from(0x2001_0db8_0000_0000 | u64::from(bits)) << 64).into(),
    }
}

pub fn door(look: &mut impl Look, bans: u32) {
    let ledger = Ledger::open(Settings::default());
    for n in 0..bans {
        let client = ClientKey::of(banned(n));
        let network = if n % 10 == 9 { client.neighbourhood() } else { client.network() };
        let ban = Decision {
            what: What::Ban,
            reason: Reason::Failures,
            count: 5,
            level: 1,
            begin: NOW,
            until: Some(NOW.plus(Duration::from_secs(600 + u64::from(n)))),
            who: "mx1".into(),
            evidence: "5 failed AUTH exchanges within 10m".into(),
        };
        ledger.decisions().decide(network, ban);
    }
    let group = format!("at the door, {} bans", ledger.decisions().all(NOW).len());
    let mut n = 0;
    let go = || {
        n = (n + 7919) % bans;
        assert!(ledger.decisions().of(banned(n), NOW).is_some());
    };
    look.at(&group, "a banned client", 0, go);
    for (name, other) in [("another client, IPv4", 0_u32), ("another client, IPv6", 8)] {
        let go = || {
            n = n.wrapping_add(10) | 0x8000_0000;
            black_box(ledger.decisions().of(banned(n - n % 10 + other), NOW))
        };
        look.at(&group, name, 0, go);
    }
}

pub fn tallies(look: &mut impl Look, counted: u32) {
    let ledger = Ledger::open(Settings::default());
    let rules = Rules::default();
    for n in 0..counted {
        let mut tally = Tally::default();
        tally.strike(Strike::Failed(Some(n)), &rules, NOW.seconds() as u32, n);
        ledger.take_tally(client(n), tally, NOW);
    }
    let group = format!("what speaks against a client, {counted} counted");
    for (name, first) in [("one that failed", 0), ("one that did not", counted)] {
        let mut n = 0;
        let go = || {
            n = (n + 7919) % counted;
            black_box(ledger.is_bad(client(first + n), &rules, NOW))
        };
        look.at(&group, name, 0, go);
    }
}
