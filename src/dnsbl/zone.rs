//! One list as it is asked: the names of its questions, its health, its counters.
//!
//! Logs a line when the list's state changes, and at no other time; under the display name, because the zone may hold a
//! paid key.

use std::mem::discriminant;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::health::{Admission, Health, Rules, Tested};
use super::state::{Counters, Failure, State, ZoneState};
use crate::addr::ClientKey;
use crate::dns::resolver::{Answer, Resolver};
use crate::screen::score::{List, Unbelievable, Word};

/// Stands for "not trusted" in [`Zone::trusted`].
const NEVER: u64 = u64::MAX;

/// One list.
pub(super) struct Zone {
    list: List,
    /// Answers, self-tests and admissions meet here, from several tasks; held for a few steps, never across an await.
    health: Mutex<Health>,
    /// [`Health::trusted_since`] in microseconds after `epoch`, for those who only read; [`NEVER`] if there is none.
    trusted: AtomicU64,
    epoch: Instant,
    counters: Counters,
    /// Whether the first self-test is through: clients' questions wait for it.
    ready: watch::Sender<bool>,
    /// Wakes the self-test.
    nudge: Notify,
}

impl Zone {
    /// A list that nothing is known of. None if its zone is no domain name, or too long for an IPv6 client's question.
    pub(super) fn new(list: List, rules: Rules, now: Instant) -> Option<Self> {
        let zone = Self {
            health: Mutex::new(Health::new(rules, list.blocks(), now)),
            list,
            trusted: AtomicU64::new(0),
            epoch: now,
            counters: Counters::default(),
            ready: watch::Sender::new(!rules.tested),
            nudge: Notify::new(),
        };
        zone.question([0; 16].into()).map(|_| zone)
    }

    /// The list.
    pub(super) fn list(&self) -> &List {
        &self.list
    }

    /// How it does, and its counts.
    pub(super) fn state(&self) -> ZoneState {
        let state = self.health.lock().state();
        self.counters.read(&self.list.display, state)
    }

    /// Whether what the list says of a client asked about at `asked` counts: it was in then, and has been since.
    pub(super) fn trusted(&self, asked: Instant) -> bool {
        self.trusted.load(Ordering::Acquire) <= self.micros(asked)
    }

    /// What to do with a client's question.
    pub(super) fn admit(&self, now: Instant) -> Admission {
        self.health.lock().admit(now)
    }

    /// Whether an admitted question is still worth asking.
    pub(super) fn still(&self, admission: Admission) -> bool {
        self.health.lock().still(admission)
    }

    /// Returns once the first self-test is through.
    pub(super) async fn ready(&self) {
        // Fails only without a sender, and `self` is one.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Returns when the list should be tested out of turn.
    pub(super) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Asks about `address`, and counts it; the list's health is left to the caller.
    pub(super) async fn ask(&self, resolver: &Resolver, address: IpAddr) -> Asked {
        let begin = Instant::now();
        let answer = match self.question(address) {
            Some(name) => resolver.addresses(name).await.map_err(Failure::from),
            None => Err(Failure::Malformed),
        };
        let (addresses, word) = match answer {
            Ok(Answer { records: addresses, ttl }) => {
                let word = match self.list.hear(&addresses) {
                    Ok(hits) => Ok(Word::Said { hits, ttl }),
                    Err(Unbelievable::ErrorCode(code)) => Err(Failure::ErrorCode(code)),
                    Err(Unbelievable::Outside) => Err(Failure::Outside),
                };
                (addresses, word)
            }
            Err(failure) => (Vec::new(), Err(failure)),
        };
        let took = begin.elapsed();
        self.counters.count(word.map(listed), took);
        Asked { addresses, word, took }
    }

    /// Takes note of what a client's question came to.
    pub(super) fn heard(&self, client: IpAddr, word: Result<Word, Failure>) {
        let now = Instant::now();
        let alarmed = self.turn(|health| match word {
            Ok(word) => health.answered(ClientKey::of(client), listed(word), now),
            Err(failure) => {
                health.failed(failure, now);
                false
            }
        });
        if alarmed {
            self.nudge.notify_one();
        }
    }

    /// Takes note of a self-test.
    pub(super) fn tested(&self, found: Tested) {
        let now = Instant::now();
        self.turn(|health| health.tested(found, now));
        self.ready.send_replace(true);
    }

    /// Does something to the list's health, and tells when its state has changed by that.
    fn turn<T>(&self, act: impl FnOnce(&mut Health) -> T) -> T {
        let (before, after, result) = {
            let mut health = self.health.lock();
            let before = health.state();
            let result = act(&mut health);
            let trusted = health.trusted_since().map_or(NEVER, |since| self.micros(since));
            self.trusted.store(trusted, Ordering::Release);
            (before, health.state(), result)
        };
        self.tell(before, after);
        result
    }

    fn tell(&self, before: State, after: State) {
        let list = self.list.display.as_str();
        match (before, after) {
            (State::Failed { reason: old }, State::Failed { reason: new }) if old.name() == new.name() => {}
            (_, State::Failed { reason }) => error!(list, "DNS list is no longer counted: {reason}"),
            _ if discriminant(&before) == discriminant(&after) => {}
            (_, State::Paused { last, .. }) => warn!(list, "DNS list is left alone for a while: {last}"),
            (_, State::Working) => info!(list, "DNS list works again, and is counted"),
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(NEVER - 1)
    }

    /// The name of the question about `address`: an IPv4 address's octets or an IPv6 address's nibbles, the last one
    /// first, under the zone (RFC 5782, sections 2.1 and 2.4).
    fn question(&self, address: IpAddr) -> Option<Name> {
        use std::fmt::Write;

        let mut name = String::with_capacity(64 + self.list.zone.len() + 1);
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                write!(name, "{d}.{c}.{b}.{a}.").ok()?;
            }
            IpAddr::V6(address) => {
                for octet in address.octets().into_iter().rev() {
                    write!(name, "{:x}.{:x}.", octet & 0xf, octet >> 4).ok()?;
                }
            }
        }
        name.push_str(&self.list.zone);
        // The dot at the end keeps search lists out.
        name.push('.');
        Name::from_ascii(name).ok()
    }
}

/// What a question came to.
#[derive(Debug)]
pub(super) struct Asked {
    /// The addresses of the answer.
    pub(super) addresses: Vec<Ipv4Addr>,
    /// What they mean.
    pub(super) word: Result<Word, Failure>,
    /// How long it took.
    pub(super) took: Duration,
}

/// Whether a word lists its client.
fn listed(word: Word) -> bool {
    matches!(word, Word::Said { hits, .. } if !hits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::screen::score::{Lists, Site};

    fn zone(name: &str) -> Option<Zone> {
        let site = Site { zone: name.to_owned(), filter: None, weight: 1, display: "shown".to_owned() };
        let list = Lists::of(&[site]).as_slice()[0].clone();
        let rules =
            Rules { failures: 1, pause: Duration::from_secs(1), alarm_percent: 0, alarm_sample: 1, tested: false };
        Zone::new(list, rules, Instant::now())
    }

    #[test]
    fn questions_are_named_as_rfc_5782_has_it() {
        let zone = zone("dnsbl_1.test").unwrap();
        let question = |address: &str| zone.question(address.parse().unwrap()).unwrap();
        assert_eq!(question("192.0.2.99").to_ascii(), "99.2.0.192.dnsbl_1.test.");
        assert_eq!(
            question("2001:db8:1:2:3:4:567:89ab").to_ascii(),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.dnsbl_1.test."
        );
        assert!(question("2001:db8::1").is_fqdn());
    }

    #[test]
    fn a_zone_that_cannot_be_asked_is_refused() {
        for bad in ["a..test", "", &"a.".repeat(120), &"abcdefghi.".repeat(19)] {
            assert!(zone(bad).is_none(), "{bad}");
        }
    }
}
