//! What the ledger promises, by cases and by properties.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::store::Store;
use super::*;
use crate::policy::guard::{Sentence, Strike};
use crate::screen::Test;

const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

fn client(n: u32) -> ClientKey {
    ClientKey::V4(n)
}

fn holding(test: Test, span: Duration) -> Standing {
    let mut standing = Standing::stranger();
    standing.pass(test, NOW.plus(span));
    standing
}

fn week() -> Standing {
    holding(Test::Pregreet, Duration::from_secs(7 * 86_400))
}

#[test]
fn a_pass_that_is_revoked_is_gone_and_the_others_stay() {
    let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
    let hour = Duration::from_secs(3600);
    Ledger::remember(&ledger, client(1), holding(Test::HeloName, hour), NOW);
    Ledger::remember(&ledger, client(1), holding(Test::Pregreet, hour), NOW);
    let mut failed = Tests::NONE;
    failed.insert(Test::HeloName);
    Ledger::revoke(&ledger, client(1), failed, NOW);
    Ledger::revoke(&ledger, client(2), failed, NOW);
    let standing = ledger.recall(client(1), NOW);
    assert!(!standing.holds(Test::HeloName, NOW));
    assert!(standing.holds(Test::Pregreet, NOW));
    assert_eq!(ledger.len(), 1);
}

fn rules() -> Rules {
    Rules::default()
}

/// What a verb of the ledger comes to: it is done at once.
fn done<T>(verb: impl Future<Output = store::Answer<T>>) -> T {
    let verb = std::pin::pin!(verb);
    match verb.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(Ok(answer)) => answer,
        _ => panic!("it waits"),
    }
}

fn strike(ledger: &Ledger, client: ClientKey, strike: Strike) -> Option<Sentence> {
    done(ledger.strike(client, strike, &rules(), second(NOW), 0)).1
}

fn ban(count: u32) -> Decision {
    use crate::policy::ban::{Reason, What};
    Decision {
        what: What::Ban,
        reason: Reason::Failures,
        count,
        level: 1,
        begin: NOW,
        until: Some(NOW.plus(Duration::from_secs(600))),
        who: "mx1".into(),
        evidence: "5 failed AUTH exchanges in 10m".into(),
    }
}

/// A ledger in which there is something of each kind.
fn full() -> Ledger {
    let ledger = Ledger::open(Settings::default());
    Ledger::remember(&ledger, client(1), week(), NOW);
    strike(&ledger, client(2), Strike::NotOffered);
    done(ledger.account_failed([7; 16], client(2), &rules(), second(NOW)));
    done(ledger.account_logged_in([8; 16], client(3), &rules(), second(NOW)));
    done(ledger.offend(client(2).neighbourhood(), client(2), &rules(), second(NOW), 0));
    ledger.decisions().decide("192.0.2.0/24".parse().unwrap(), ban(5));
    ledger
}

fn all(ledger: &Ledger) -> Vec<(&'static str, String, String)> {
    let mut all = Vec::new();
    ledger.each(NOW, |kind, key, line| all.push((kind.name(), key, line)));
    all.sort();
    all
}

#[test]
fn all_that_is_written_down_can_be_taken_in_again() {
    let (ledger, again) = (full(), Ledger::open(Settings::default()));
    ledger.each(NOW, |kind, key, line| assert!(again.load(kind, &key, &line, NOW), "{kind:?} {key} {line}"));
    assert_eq!(all(&ledger).len(), 6);
    assert_eq!(all(&again), all(&ledger));
    for kind in Kind::ALL {
        assert!(!again.load(kind, "x", "1", NOW) && !again.load(kind, "400000001", "2 1", NOW), "{kind:?}");
    }
    let later = NOW.plus(Duration::from_secs(400 * 86_400));
    let empty = Ledger::open(Settings::default());
    ledger.each(NOW, |kind, key, line| assert!(empty.load(kind, &key, &line, later)));
    assert_eq!(all(&empty), [], "what has expired takes no place");
}

#[test]
fn what_changes_is_shown_once_whether_it_came_or_went() {
    let ledger = Ledger::open(Settings { entries: 2, ..Settings::default() });
    ledger.note_changes();
    let changes = || {
        let mut changes = Vec::new();
        ledger.take_changes(100, |change| changes.push((change.kind, change.key, change.line.is_some())));
        changes.sort_by(|a, b| a.1.cmp(&b.1));
        changes
    };
    Ledger::remember(&ledger, client(1), week(), NOW);
    Ledger::remember(&ledger, client(1), week(), NOW);
    assert_eq!(changes(), [(Kind::Standing, "400000001".to_owned(), true)]);
    assert_eq!(changes(), []);
    Ledger::remember(&ledger, client(2), week(), NOW);
    changes();
    Ledger::remember(&ledger, client(3), week(), NOW);
    let is_there: Vec<bool> = changes().into_iter().map(|(_, _, is_there)| is_there).collect();
    assert_eq!(is_there, [false, true], "one gave way to one that came");
    strike(&ledger, client(9), Strike::NotOffered);
    changes();
    Ledger::forget(&ledger, client(9).network());
    assert_eq!(changes(), [(Kind::Tally, "400000009".to_owned(), false)]);
}

#[test]
fn a_client_is_struck_banned_and_forgotten() {
    let ledger = Ledger::open(Settings::default());
    let strike = || strike(&ledger, client(9), Strike::Failed(Some(1)));
    assert!((0..4).all(|_| strike().is_none()) && ledger.is_bad(client(9), &rules(), NOW));
    assert_eq!(strike().map(|sentence| sentence.level), Some(1));
    let network = client(9).network();
    Ledger::forget(&ledger, network);
    assert_eq!((ledger.tally(client(9), NOW), ledger.is_bad(client(9), &rules(), NOW)), (None, false));
    assert!((0..4).all(|_| strike().is_none()), "it begins anew");
    super::tests::strike(&ledger, client(300), Strike::Failed(None));
    Ledger::forget(&ledger, client(9).neighbourhood());
    assert_eq!(ledger.tally(client(9), NOW), None);
    assert!(ledger.tally(client(300), NOW).is_some(), "of another neighbourhood");
}

#[test]
fn a_million_strangers_that_fail_once_push_out_none_that_failed_again() {
    let ledger = Ledger::open(Settings { tallies: 20_000, ..Settings::default() });
    for n in 0..1000 {
        strike(&ledger, client(n), Strike::Failed(None));
        // It comes again: its tally is looked at when it does.
        ledger.tallies.recall(ClientId::of(client(n)), NOW, |_| ());
    }
    for n in 0..1_000_000 {
        strike(&ledger, ClientKey::V6(n), Strike::Failed(None));
    }
    assert!((0..1000).all(|n| ledger.tally(client(n), NOW).is_some()));
    assert!(ledger.count(Kind::Tally, NOW) <= 20_000);
}

#[test]
fn what_is_remembered_is_recalled() {
    let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
    assert_eq!(ledger.recall(client(1), NOW), Standing::stranger());
    Ledger::remember(&ledger, client(1), week(), NOW);
    assert_eq!(ledger.recall(client(1), NOW), week());
    assert_eq!(ledger.recall(client(2), NOW), Standing::stranger());
    assert_eq!(ledger.len(), 1);
}

#[test]
fn an_ipv4_client_and_an_ipv6_network_with_the_same_bits_are_two() {
    let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
    Ledger::remember(&ledger, ClientKey::V4(7), week(), NOW);
    assert_eq!(ledger.recall(ClientKey::V6(7), NOW), Standing::stranger());
    assert_eq!(ledger.recall(ClientKey::of(IpAddr::V4(Ipv4Addr::from(7))), NOW), week());
}

#[test]
fn neighbours_in_a_64_share_a_standing() {
    let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
    let [a, b] = [1u128, 2].map(|host| {
        let bits = 0x2001_0db8_0000_0001_0000_0000_0000_0000 | host;
        ClientKey::of(IpAddr::V6(Ipv6Addr::from(bits)))
    });
    Ledger::remember(&ledger, a, week(), NOW);
    assert_eq!(ledger.recall(b, NOW), week());
}

#[test]
fn a_pass_expires_to_the_second() {
    let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
    Ledger::remember(&ledger, client(1), holding(Test::Dnsbl, Duration::from_secs(60)), NOW);
    let last = Timestamp::from_millis(NOW.plus(Duration::from_secs(60)).millis() - 1);
    assert!(ledger.recall(client(1), last).holds(Test::Dnsbl, last));
    let after = NOW.plus(Duration::from_secs(60));
    assert_eq!(ledger.recall(client(1), after), Standing::stranger());
    assert_eq!(ledger.len(), 0, "what has expired is dropped when it is met");
}

#[test]
fn the_longer_pass_stays_for_each_test() {
    let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
    let (short, long) = (Duration::from_secs(60), Duration::from_secs(600));
    let mut first = holding(Test::Pregreet, long);
    first.pass(Test::Dnsbl, NOW.plus(short));
    let mut second = holding(Test::Pregreet, short);
    second.pass(Test::Dnsbl, NOW.plus(long));
    Ledger::remember(&ledger, client(1), first, NOW);
    Ledger::remember(&ledger, client(1), second, NOW);
    let both = ledger.recall(client(1), NOW);
    assert_eq!((both.until(Test::Pregreet), both.until(Test::Dnsbl)), (NOW.plus(long), NOW.plus(long)));
    assert_eq!(ledger.len(), 1);
}

#[test]
fn nothing_to_remember_takes_no_place() {
    let ledger = Ledger::open(Settings { entries: 10, ..Settings::default() });
    Ledger::remember(&ledger, client(1), Standing::stranger(), NOW);
    Ledger::remember(&ledger, client(2), week(), NOW.plus(Duration::from_secs(8 * 86_400)));
    assert!(ledger.is_empty());
}

#[test]
fn a_ledger_without_places_remembers_nothing() {
    let ledger = Ledger::open(Settings { entries: 0, ..Settings::default() });
    Ledger::remember(&ledger, client(1), week(), NOW);
    assert_eq!(ledger.recall(client(1), NOW), Standing::stranger());
    assert!(ledger.is_empty());
}

#[test]
fn a_million_addresses_do_not_grow_it_past_its_cap() {
    let settings = Settings { entries: 250_000, ..Settings::default() };
    let ledger = Ledger::open(settings);
    for n in 0..1_000_000 {
        Ledger::remember(&ledger, client(n), week(), NOW);
    }
    let (len, bytes) = (ledger.len(), ledger.bytes(Kind::Standing, NOW));
    println!("{len} entries in {bytes} bytes: {:.1} bytes an entry", bytes as f64 / len as f64);
    assert_eq!(len, settings.entries);
    assert!(bytes < 60 * settings.entries, "{bytes} bytes");
}

#[test]
fn clients_that_come_again_survive_a_flood_of_those_that_come_once() {
    let ledger = Ledger::open(Settings { entries: 20_000, ..Settings::default() });
    // Less than three quarters of 20 000, and of each shard, with room for an uneven spread.
    let honest = 0..12_000;
    for n in honest.clone() {
        Ledger::remember(&ledger, client(n), week(), NOW);
        ledger.recall(client(n), NOW);
    }
    for n in 0..200_000u32 {
        // The attacker's passes hold longer, which must not help him.
        let standing = holding(Test::Pregreet, Duration::from_secs(30 * 86_400));
        Ledger::remember(&ledger, client(0x0a00_0000 + n), standing, NOW);
    }
    assert!(honest.clone().all(|n| ledger.recall(client(n), NOW) == week()));
    assert_eq!(ledger.len(), 20_000);
}

#[test]
fn those_that_hold_long_survive_side_by_side() {
    let ledger = Ledger::open(Settings { entries: 3000, ..Settings::default() });
    let month = || holding(Test::Pregreet, Duration::from_secs(30 * 86_400));
    // One after another, and none of them has come again yet.
    for n in 0..300 {
        Ledger::remember(&ledger, client(n), month(), NOW);
    }
    for n in 0..100_000 {
        Ledger::remember(&ledger, client(0x0a00_0000 + n), week(), NOW);
    }
    assert_eq!((0..300).filter(|&n| ledger.recall(client(n), NOW) == month()).count(), 300);
}

#[test]
fn clients_that_keep_coming_survive_a_flood_of_those_that_come_twice() {
    let ledger = Ledger::open(Settings { entries: 3000, ..Settings::default() });
    let honest = 0..500;
    for n in honest.clone() {
        Ledger::remember(&ledger, client(n), week(), NOW);
        ledger.recall(client(n), NOW);
        ledger.recall(client(n), NOW);
    }
    for n in 0..100_000u32 {
        Ledger::remember(&ledger, client(0x0a00_0000 + n), week(), NOW);
        ledger.recall(client(0x0a00_0000 + n), NOW);
        // There are 2250 proven places: each honest client comes again before the hand can be round.
        if n % 2200 == 0 {
            for n in honest.clone() {
                assert_eq!(ledger.recall(client(n), NOW), week());
            }
        }
    }
}

#[test]
fn the_expired_give_way_before_those_that_hold() {
    let ledger = Ledger::open(Settings { entries: 1000, ..Settings::default() });
    for n in 0..500 {
        Ledger::remember(&ledger, client(n), week(), NOW);
        Ledger::remember(&ledger, client(1000 + n), holding(Test::Pregreet, Duration::from_secs(10)), NOW);
    }
    let later = NOW.plus(Duration::from_secs(10));
    for n in 2000..2500 {
        Ledger::remember(&ledger, client(n), week(), later);
    }
    let kept = (0..500).filter(|&n| ledger.recall(client(n), later) == week()).count();
    assert_eq!(kept, 500);
}

#[test]
fn remembering_sweeps_what_has_expired() {
    let ledger = Ledger::open(Settings { entries: 3000, ..Settings::default() });
    for n in 0..1000 {
        Ledger::remember(&ledger, client(n), holding(Test::Pregreet, Duration::from_secs(10)), NOW);
        if n % 2 == 0 {
            ledger.recall(client(n), NOW);
        }
    }
    let later = NOW.plus(Duration::from_secs(10));
    for n in 1000..1500 {
        Ledger::remember(&ledger, client(n), week(), later);
    }
    assert_eq!(ledger.len(), 500, "five hundred remembered, a thousand swept");
}

#[test]
fn many_threads_at_once() {
    let ledger = Arc::new(Ledger::open(Settings { entries: 5000, ..Settings::default() }));
    let threads: Vec<_> = (0..8u32)
        .map(|thread| {
            let ledger = Arc::clone(&ledger);
            std::thread::spawn(move || {
                for n in 0..20_000u32 {
                    let key = client((n.wrapping_mul(2_654_435_761).wrapping_add(thread)) % 10_000);
                    if ledger.recall(key, NOW) == Standing::stranger() {
                        Ledger::remember(&ledger, key, week(), NOW);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(ledger.len() <= 5000);
    for shard in &ledger.standings.shards {
        shard.lock().check(&ledger.standings.hasher);
    }
}

/// What of a standing still counts.
fn counting(standing: &Standing, now: Timestamp) -> [u64; Test::COUNT] {
    Test::ALL.map(|test| if standing.holds(test, now) { standing.until(test).seconds() } else { 0 })
}

proptest! {
    /// Where there is room for all, the ledger is a map with expiry; where there is not, it forgets, and nothing else.
    #[test]
    fn it_is_a_bounded_map(
        entries in 0usize..32,
        acts in prop::collection::vec((0u32..16, 0u64..40, any::<bool>(), 0u64..3), 0..200),
    ) {
        let ledger = Ledger::open(Settings { entries, ..Settings::default() });
        let mut model = std::collections::HashMap::<u32, Standing>::new();
        let mut now = NOW;
        for (n, span, recall, pause) in acts {
            now = now.plus(Duration::from_secs(pause));
            if recall {
                let seen = counting(&ledger.recall(client(n), now), now);
                let known = counting(&model.get(&n).copied().unwrap_or_default(), now);
                prop_assert!(seen.iter().zip(&known).all(|(seen, known)| seen <= known));
                prop_assert!(entries < 16 || seen == known, "{:?} {:?}", seen, known);
            } else {
                let test = Test::ALL[span as usize % Test::COUNT];
                let until = now.plus(Duration::from_secs(span));
                let mut standing = Standing::stranger();
                standing.pass(test, until);
                Ledger::remember(&ledger, client(n), standing, now);
                model.entry(n).or_default().pass(test, until);
            }
            prop_assert!(ledger.len() <= entries);
            for shard in &ledger.standings.shards {
                shard.lock().check(&ledger.standings.hasher);
            }
        }
    }
}
