//! The guard: watches over AUTH in a relay, counts what fails, and has clients banned for it.
//!
//! What is counted, and what it comes to, is in [`policy::guard`](crate::policy::guard). Here: which attempts may go to the
//! backend at all and how many at once, what a failure is held against, and what is said of it.
//!
//! Nothing is counted of allow-listed clients. While a gate only observes, what would have been a ban is a line in the log.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::attempts::Permit;
use super::rulings::{Names, Ruling, Settings};
use super::{Guest, House};
use crate::addr::ClientKey;
use crate::journal::Recognition;
use crate::policy::ban::{Decision, EVIDENCE_LIMIT, Reason, What, plain, who};
use crate::policy::guard::{Failed, Rules, Sentence, Strike};
use crate::relay::ending::{AuthOutcome, Event, Tally};
use crate::relay::{Aftermath, Attempt, Finished, Warden};
use crate::screen::{Evidence, Screen};
use crate::smtp::auth::Account;
use crate::time::{Timestamp, format_span};

/// How many digits of an account's digest are shown.
const SHOWN_DIGITS: usize = 12;

/// What a visit sees of its relay while that runs.
pub(super) struct Guard<'v> {
    house: &'v House,
    guest: &'v Guest,
    screen: Option<&'v mut Screen>,
    /// What would be lost with a relay that is cut off.
    so_far: &'v mut Tally,
    /// Whether the client is banned for what it did here: it is to be told, and not put out before it is.
    sentenced: &'v AtomicBool,
    permit: Option<Permit>,
    delayed: Option<Delayed<'v>>,
}

/// A reply that is held back.
struct Delayed<'v> {
    house: &'v House,
    /// There is need of the place.
    stress: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.house.rulings.delayed.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'v> Guard<'v> {
    pub(super) fn new(
        house: &'v House,
        guest: &'v Guest,
        screen: Option<&'v mut Screen>,
        so_far: &'v mut Tally,
        sentenced: &'v AtomicBool,
    ) -> Self {
        Self { house, guest, screen, so_far, sentenced, permit: None, delayed: None }
    }

    /// Holds the reply back, if there is a place for it.
    fn delay(&mut self, settings: &Settings) -> Aftermath {
        let delayed = &self.house.rulings.delayed;
        let take = |count: u32| (count < settings.delayed).then_some(count + 1);
        let wanted = !settings.delay.is_zero() && !self.house.stress.is_on();
        if !wanted || delayed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Aftermath::default();
        }
        self.delayed = Some(Delayed { house: self.house, stress: Box::pin(self.house.stress.begun()) });
        Aftermath { delay: Some(settings.delay), over: false }
    }
}

impl Warden for Guard<'_> {
    fn offers_auth(&self) -> bool {
        self.guest.may_auth()
    }

    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Attempt> {
        self.delayed = None;
        if is_above_it(self.guest) {
            return Poll::Ready(Attempt::Go);
        }
        let settings = self.house.rulings.settings();
        let client = ClientKey::of(self.guest.client.ip());
        let permit = ready!(self.house.rulings.attempts.poll_begin(client, settings.parallel, cx));
        // What it had to wait for may have been the attempt that got it banned.
        let ruling = self.house.ruling(&self.guest.gate, self.guest.client.ip(), self.house.clock.now());
        if matches!(ruling, Ruling::Banned(_)) {
            return Poll::Ready(Attempt::Refuse);
        }
        self.permit = Some(permit);
        Poll::Ready(Attempt::Go)
    }

    fn finished(&mut self, finished: Finished) -> Aftermath {
        let permit = self.permit.take();
        if is_above_it(self.guest) {
            return Aftermath::default();
        }
        let aftermath = match finished.outcome {
            AuthOutcome::Succeeded => {
                self.house.logged_in(self.guest, finished.account.as_ref());
                Aftermath::default()
            }
            AuthOutcome::Undecided => Aftermath::default(),
            // Who does not wait for the verdict has had the guess judged all the same.
            AuthOutcome::Failed | AuthOutcome::Abandoned
                if self.house.login_failed(self.guest, finished.account.as_ref()) =>
            {
                self.sentenced.store(true, Ordering::Relaxed);
                Aftermath { delay: None, over: true }
            }
            AuthOutcome::Failed | AuthOutcome::Abandoned => self.delay(&self.house.rulings.settings()),
        };
        drop(permit);
        aftermath
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.delayed {
            Some(delayed) => delayed.stress.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }

    fn released(&mut self) {
        self.delayed = None;
    }

    fn event(&mut self, event: Event) {
        count(self.so_far, event);
        // A client that tries AUTH where none is offered is found out here too, if it was let through before.
        if event == Event::AuthNotOffered {
            self.house.tried_auth(self.guest);
            if let Some(screen) = &mut self.screen {
                screen.observe(Evidence::TriedAuth);
            }
        }
    }
}

/// Takes down what would be lost with a relay that is cut off.
fn count(tally: &mut Tally, event: Event) {
    match event {
        Event::MessageAccepted => tally.messages += 1,
        Event::AuthFinished { outcome: AuthOutcome::Succeeded, .. } => tally.auth_successes += 1,
        Event::AuthFinished { outcome: AuthOutcome::Failed, .. } => tally.auth_failures += 1,
        _ => {}
    }
}

/// Whether nothing is held against it.
fn is_above_it(guest: &Guest) -> bool {
    matches!(guest.recognition, Recognition::Allowed | Recognition::Proxy)
}

impl House {
    /// Somebody has logged in.
    fn logged_in(&self, guest: &Guest, account: Option<&Account>) {
        let (rules, now) = (&self.rulings.settings().rules, self.clock.now());
        let client = ClientKey::of(guest.client.ip());
        self.ledger.logged_in(client, rules, now);
        if let Some(account) = account {
            self.ledger.account_logged_in(account.digest(), client, rules, now);
        }
    }

    /// A login failed. Whether the client is banned for it.
    fn login_failed(&self, guest: &Guest, account: Option<&Account>) -> bool {
        let settings = self.rulings.settings();
        let (rules, now) = (&settings.rules, self.clock.now());
        let client = ClientKey::of(guest.client.ip());
        let mut strike = Strike::Failed(None);
        if let Some(account) = account {
            let digest = account.digest();
            let (known, failed) = self.ledger.account_failed(digest, client, rules, now);
            let [a, b, c, d, ..] = digest;
            strike = match failed {
                Failed::Attack { count, others } => {
                    let seen = Seen { guest, account: Some(account), settings: &settings, strangers: Some(count) };
                    for other in others {
                        self.struck(other, Strike::Attack, &seen, now);
                    }
                    Strike::Attack
                }
                // A name that somebody has logged in with is one that somebody has.
                Failed::Nothing if known.homes.is_empty() && settings.honeypots.contains(account.name()) => {
                    Strike::Honeypot
                }
                Failed::Nothing => Strike::Failed(Some(u32::from_be_bytes([a, b, c, d]))),
            };
            let strangers = u32::try_from(known.strangers.ones.len()).ok();
            return self.struck(
                client,
                strike,
                &Seen { guest, account: Some(account), settings: &settings, strangers },
                now,
            );
        }
        self.struck(client, strike, &Seen { guest, account: None, settings: &settings, strangers: None }, now)
    }

    /// A client tried AUTH where it is not offered.
    pub(super) fn tried_auth(&self, guest: &Guest) {
        let test = crate::screen::Test::AuthNotOffered;
        let is_made = guest.gate.settings.screen.rules[test].action != crate::screen::Action::Off;
        if is_made && !is_above_it(guest) {
            let settings = self.rulings.settings();
            let seen = Seen { guest, account: None, settings: &settings, strangers: None };
            self.struck(ClientKey::of(guest.client.ip()), Strike::NotOffered, &seen, self.clock.now());
        }
    }

    /// Counts a strike, and carries out what follows from it. Whether the client is banned for it.
    fn struck(&self, client: ClientKey, strike: Strike, seen: &Seen<'_>, now: Timestamp) -> bool {
        let rules = &seen.settings.rules;
        let (_, sentence) = self.ledger.strike(client, strike, rules, now);
        let Some(sentence) = sentence else { return false };
        let banned = self.sentence(client.network(), sentence, seen, now);
        if banned {
            let (_, neighbours) = self.ledger.offend(client, rules, now);
            if let Some(sentence) = neighbours {
                self.sentence(client.neighbourhood(), sentence, seen, now);
            }
        }
        banned
    }

    /// Bans a network automatically, unless that is not to be.
    fn sentence(&self, network: ipnet::IpNet, sentence: Sentence, seen: &Seen<'_>, now: Timestamp) -> bool {
        let evidence = seen.evidence(&sentence);
        let Sentence { reason, count, level, until } = sentence;
        let span = Duration::from_secs(u64::from(until).saturating_sub(now.seconds()));
        if self.is_exempt(network) {
            tracing::warn!(%network, reason = reason.name(), evidence = &*evidence,
                "not banned: it is allow-listed, a load balancer of ours or a backend, or holds one");
            return false;
        }
        if seen.guest.gate.settings.screen.observe {
            tracing::info!(%network, reason = reason.name(), count, level, evidence = &*evidence,
                "would be banned, if the gate did more than observe");
            return false;
        }
        let decision = Decision {
            what: What::Ban,
            reason,
            count,
            level,
            begin: now,
            until: Some(now.plus(span)),
            who: who(&seen.settings.node),
            evidence,
        };
        self.rule(network, decision);
        true
    }
}

/// What a strike was seen in.
struct Seen<'s> {
    guest: &'s Guest,
    account: Option<&'s Account>,
    settings: &'s Settings,
    strangers: Option<u32>,
}

impl Seen<'_> {
    /// In words, for logs and for whoever asks.
    fn evidence(&self, sentence: &Sentence) -> Box<str> {
        let Rules { failures, accounts, not_offered, neighbours, .. } = &*self.settings.rules;
        let count = sentence.count;
        let what = match sentence.reason {
            Reason::Failures => format!("{count} failed AUTH exchanges within {}", format_span(failures.within)),
            Reason::Slow => format!("{count} failed AUTH exchanges over days"),
            Reason::Accounts => {
                format!("failed AUTH for {count} accounts within {}", format_span(accounts.within))
            }
            Reason::Account => {
                format!("failed AUTH for an account that {} strangers are trying", self.strangers.unwrap_or(count))
            }
            Reason::Honeypot => "AUTH for a name that nobody has".to_owned(),
            Reason::NotOffered => {
                format!("AUTH where it is not offered, {count} times within {}", format_span(not_offered.within))
            }
            Reason::Neighbours => {
                format!("{count} clients of the network banned within {}", format_span(neighbours.within))
            }
            Reason::Operator => String::new(),
        };
        let account = self.account.map(|account| name(account, self.settings.names)).unwrap_or_default();
        let (gate, id) = (&self.guest.gate.name, self.guest.id);
        plain(&format!("{what}; last at gate {gate}{account}, visit {id}"), EVIDENCE_LIMIT)
    }
}

/// The name of an account as it is shown.
fn name(account: &Account, names: Names) -> String {
    match names {
        Names::Plain => format!(", account {}", account.name().escape_ascii()),
        Names::Hashed => {
            let digits: String = account.digest().iter().map(|byte| format!("{byte:02x}")).collect();
            format!(", account #{}", digits.get(..SHOWN_DIGITS).unwrap_or_default())
        }
        Names::Hidden => String::new(),
    }
}
