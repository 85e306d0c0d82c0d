//! Trials: what an AUTH exchange that is over is held against, and what that comes to.
//!
//! What is counted, and when it is too much, is in [`policy::guard`](crate::policy::guard). Where several hosts share a
//! store, it counts for all of them, and is asked with a deadline; while it is away, and where there is none, the ledger of
//! this host counts, which is done at once.
//!
//! While a gate only observes, what would have been a ban is a line in the log.

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ipnet::IpNet;

use super::attempts::Permit;
use super::outside::ANNOUNCED;
use super::rulings::{Names, Settings};
use super::{Gate, Guest, House};
use crate::addr::ClientKey;
use crate::journal::VisitId;
use crate::ledger::shared::Overdue;
use crate::ledger::store::{Digest, Store};
use crate::policy::ban::{Decision, EVIDENCE_LIMIT, Reason, What, plain, who};
use crate::policy::guard::{Account as Counted, Failed, Rules, Sentence, Strike};
use crate::smtp::auth::Account;
use crate::time::{Timestamp, format_span};

/// How many digits of an account's digest are shown.
const SHOWN_DIGITS: usize = 12;

/// An AUTH exchange that is over, or that could not begin.
pub(super) struct Trial {
    house: Arc<House>,
    gate: Arc<Gate>,
    client: IpAddr,
    visit: VisitId,
    account: Option<Account>,
    settings: Arc<Settings>,
    now: Timestamp,
}

impl Trial {
    pub(super) fn of(house: &Arc<House>, guest: &Guest, account: Option<Account>) -> Self {
        Self {
            house: Arc::clone(house),
            gate: Arc::clone(&guest.gate),
            client: guest.client.ip(),
            visit: guest.id,
            account,
            settings: house.rulings.settings(),
            now: house.clock.now(),
        }
    }

    /// Somebody has logged in.
    pub(super) fn logged_in(self) {
        let is_shared = self.house.shared.is_some();
        carry_out(is_shared, async move {
            let count = self.count();
            count.logged_in(self.key()).await;
            if let Some(account) = &self.account {
                count.account_logged_in(account.digest(), self.key()).await;
            }
        });
    }

    /// It failed. Whether the client is banned for it, as far as that is known at once; `permit` is given back when it is.
    pub(super) fn failed(self, permit: Option<Permit>) -> bool {
        let is_shared = self.house.shared.is_some();
        let banned = carry_out(is_shared, async move {
            let strike = self.strike().await;
            let banned = self.struck(self.key(), strike).await;
            drop(permit);
            banned
        });
        banned.unwrap_or(false)
    }

    /// The client tried AUTH where it is not offered.
    pub(super) fn tried(self) {
        let is_shared = self.house.shared.is_some();
        carry_out(is_shared, async move { self.struck(self.key(), Strike::NotOffered).await });
    }

    fn key(&self) -> ClientKey {
        ClientKey::of(self.client)
    }

    fn count(&self) -> Count<'_> {
        Count { house: &self.house, rules: &self.settings.rules, now: self.now }
    }

    /// What the failure is. If it is by this one that the account is found to be under attack, the strangers before it are
    /// found out too.
    async fn strike(&self) -> Strike {
        let Some(account) = &self.account else { return Strike::Failed(None) };
        let digest = account.digest();
        let (known, failed) = self.count().account_failed(digest, self.key()).await;
        match failed {
            Failed::Attack { others, .. } => {
                for other in others {
                    self.struck(other, Strike::Attack).await;
                }
                Strike::Attack
            }
            // A name that somebody has logged in with is one that somebody has.
            Failed::Nothing if known.homes.is_empty() && self.settings.honeypots.contains(account.name()) => {
                Strike::Honeypot
            }
            Failed::Nothing => {
                let [a, b, c, d, ..] = digest;
                Strike::Failed(Some(u32::from_be_bytes([a, b, c, d])))
            }
        }
    }

    /// Counts a strike, and carries out what follows from it. Whether the client is banned for it.
    async fn struck(&self, client: ClientKey, strike: Strike) -> bool {
        let count = self.count();
        let Some(sentence) = count.strike(client, strike).await else { return false };
        let banned = self.sentence(client.network(), sentence);
        if banned && let Some(sentence) = count.offend(client).await {
            self.sentence(client.neighbourhood(), sentence);
        }
        banned
    }

    /// Bans a network, unless that is not to be.
    fn sentence(&self, network: IpNet, sentence: Sentence) -> bool {
        let evidence = self.evidence(&sentence);
        if self.gate.settings.screen.observe {
            would_ban(network, &sentence, &evidence);
            return false;
        }
        self.house.sentence(network, sentence, evidence, self.now)
    }

    /// What was seen, in words, for logs and for whoever asks.
    fn evidence(&self, sentence: &Sentence) -> Box<str> {
        let what = seen(sentence, &self.settings.rules);
        let account = self.account.as_ref().map(|account| name(account, self.settings.names)).unwrap_or_default();
        let (gate, visit) = (&self.gate.name, self.visit);
        let announced = if self.gate.settings.proxies.is_some() { ANNOUNCED } else { "" };
        plain(&format!("{announced}{what}; last at gate {gate}{account}, visit {visit}"), EVIDENCE_LIMIT)
    }
}

impl House {
    /// Bans a network automatically, unless it is one that nothing bans.
    fn sentence(&self, network: IpNet, sentence: Sentence, evidence: Box<str>, now: Timestamp) -> bool {
        let Sentence { reason, count, level, until } = sentence;
        if self.is_exempt(network) {
            tracing::warn!(%network, reason = reason.name(), evidence = &*evidence,
                "not banned: it is allow-listed, a load balancer of ours or a backend, or holds one");
            return false;
        }
        if self.ledger.decisions().allowed(now).iter().any(|allowed| allowed.contains(&network)) {
            tracing::info!(%network, reason = reason.name(), evidence = &*evidence, "not banned: it is allowed");
            return false;
        }
        let span = Duration::from_secs(u64::from(until).saturating_sub(now.seconds()));
        let (begin, who) = (self.after(network, now, |there| there > now), who(&self.rulings.settings().node));
        let decision =
            Decision { what: What::Ban, reason, count, level, begin, until: Some(now.plus(span)), who, evidence };
        self.rule(network, decision);
        true
    }

    /// What was done while the shared store was away comes to this, now that all hosts' counts are together.
    pub(super) fn overdue(&self, found: Overdue) {
        let (settings, gates, now) = (self.rulings.settings(), **self.rulings.gates.load(), self.clock.now());
        let (network, sentence) = match found {
            Overdue::Client(client, sentence) => (client.network(), sentence),
            Overdue::Network(network, sentence) => (network, sentence),
            // They are strangers there still, and with their next failure it is said so.
            Overdue::Account(..) => return,
        };
        // At which gate it was, nobody knows any more.
        let announced = if gates.one_is_behind { ANNOUNCED } else { "" };
        let what = seen(&sentence, &settings.rules);
        let evidence =
            plain(&format!("{announced}{what}; counted over all hosts when the shared store was back"), EVIDENCE_LIMIT);
        if gates.all_observe {
            return would_ban(network, &sentence, &evidence);
        }
        self.sentence(network, sentence, evidence, now);
    }
}

/// Counts for all hosts while the shared store answers, and for this one while it does not.
struct Count<'c> {
    house: &'c House,
    rules: &'c Rules,
    now: Timestamp,
}

impl Count<'_> {
    fn second(&self) -> u32 {
        u32::try_from(self.now.seconds()).unwrap_or(u32::MAX)
    }

    async fn strike(&self, client: ClientKey, strike: Strike) -> Option<Sentence> {
        let House { ledger, shared, .. } = self.house;
        let (second, dice) = (self.second(), ledger.dice());
        if let Some(shared) = shared
            && let Ok((tally, sentence)) = shared.strike(client, strike, self.rules, second, dice).await
        {
            ledger.take_tally(client, tally, self.now);
            return sentence;
        }
        ledger.strike(client, strike, self.rules, second, dice).await.ok().and_then(|(_, sentence)| sentence)
    }

    async fn offend(&self, client: ClientKey) -> Option<Sentence> {
        let House { ledger, shared, .. } = self.house;
        let (network, second, dice) = (client.neighbourhood(), self.second(), ledger.dice());
        if let Some(shared) = shared
            && let Ok((_, sentence)) = shared.offend(network, client, self.rules, second, dice).await
        {
            return sentence;
        }
        ledger.offend(network, client, self.rules, second, dice).await.ok().and_then(|(_, sentence)| sentence)
    }

    async fn account_failed(&self, account: Digest, client: ClientKey) -> (Counted, Failed) {
        let House { ledger, shared, .. } = self.house;
        if let Some(shared) = shared
            && let Ok((known, failed)) = shared.account_failed(account, client, self.rules, self.second()).await
        {
            ledger.take_account(account, known.clone(), self.now);
            return (known, failed);
        }
        let alone = ledger.account_failed(account, client, self.rules, self.second()).await;
        alone.unwrap_or_else(|_| (Counted::default(), Failed::Nothing))
    }

    async fn logged_in(&self, client: ClientKey) {
        let House { ledger, shared, .. } = self.house;
        match shared {
            Some(shared) => match shared.logged_in(client, self.rules, self.second()).await {
                Ok(tally) => ledger.take_tally(client, tally, self.now),
                Err(_) => drop(ledger.logged_in(client, self.rules, self.second()).await),
            },
            None => drop(ledger.logged_in(client, self.rules, self.second()).await),
        }
    }

    async fn account_logged_in(&self, account: Digest, client: ClientKey) {
        let House { ledger, shared, .. } = self.house;
        if let Some(shared) = shared
            && let Ok(known) = shared.account_logged_in(account, client, self.rules, self.second()).await
        {
            return ledger.take_account(account, known, self.now);
        }
        drop(ledger.account_logged_in(account, client, self.rules, self.second()).await);
    }
}

/// Carries something out: at once where nobody has to be asked, else in a task of its own. What it comes to, if that is
/// known at once.
fn carry_out<T: Send + 'static>(is_shared: bool, act: impl Future<Output = T> + Send + 'static) -> Option<T> {
    if is_shared {
        tokio::spawn(act);
        return None;
    }
    match pin!(act).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        // The ledger never waits.
        Poll::Pending => None,
    }
}

fn would_ban(network: IpNet, sentence: &Sentence, evidence: &str) {
    let Sentence { reason, count, level, .. } = sentence;
    tracing::info!(%network, reason = reason.name(), count, level, evidence,
        "would be banned, if the gate did more than observe");
}

/// What was counted, in words.
fn seen(sentence: &Sentence, rules: &Rules) -> String {
    let Sentence { reason, count, .. } = sentence;
    match reason {
        Reason::Failures => format!("{count} failed AUTH exchanges within {}", format_span(rules.failures.within)),
        Reason::Slow => format!("{count} failed AUTH exchanges over days"),
        Reason::Accounts => format!("failed AUTH for {count} accounts within {}", format_span(rules.accounts.within)),
        Reason::Account => "failed AUTH for an account that many strangers are trying".to_owned(),
        Reason::Honeypot => "AUTH for a name that nobody has".to_owned(),
        Reason::NotOffered => {
            format!("AUTH where it is not offered, {count} times within {}", format_span(rules.not_offered.within))
        }
        Reason::Neighbours => {
            format!("{count} clients of the network banned within {}", format_span(rules.neighbours.within))
        }
        Reason::Operator => String::new(),
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
