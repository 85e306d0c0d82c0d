//! Rulings: what is decided of clients at run time, and all that follows from it.
//!
//! ```text
//!  failed AUTH ──► guard ──┐                       ┌─► the ledger (kept, shared): the next connection meets it at the door
//!  an operator ────────────┼─► rule ── in force? ──┼─► live sessions of the network end
//!  another host ───────────┘                       ├─► the firewall
//!                                                  └─► one log line
//! ```
//!
//! Nobody is banned automatically who is allow-listed at any gate, a load balancer of ours, or a backend; an operator is
//! told so. Which bans the firewall is told of is in `outside`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashSet;
use ipnet::IpNet;
use tokio::sync::watch;

use super::attempts::Attempts;
use super::inside::Inside;
use super::outside::Gates;
use super::{Gate, House};
use crate::addr::ClientKey;
use crate::firewall::Firewall;
use crate::ledger::decisions::{Decided, Held};
use crate::ledger::shared::Change;
use crate::lists::Lists;
use crate::metrics::bans::Bans;
use crate::policy::access::{Access, AccessList};
use crate::policy::ban::{Decision, EVIDENCE_LIMIT, Reason, What, plain, who};
use crate::policy::guard::Rules;
use crate::policy::network;
use crate::time::{Timestamp, format_span};

/// How long it is remembered that a decision was lifted, so that a host that was away meanwhile hears of it: longer than any
/// automatic ban.
const LIFTED: Duration = Duration::from_secs(8 * 24 * 60 * 60);

/// By how much a later word is later than an earlier one, at the least.
const INSTANT: Duration = Duration::from_millis(1);

/// What a banned client meets at the door.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Answer {
    /// The connection is closed without a word.
    #[default]
    Close,
    /// One line, 421: come again later.
    Temporary,
    /// One line, 521: do not come again.
    Permanent,
    /// Silence, until it loses its patience or we do.
    Hold,
}

/// How account names are shown in logs, evidence and the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Names {
    /// As they are.
    Plain,
    /// The first digits of a digest: the same account looks the same, and its name is not told.
    #[default]
    Hashed,
    /// Not at all.
    Hidden,
}

/// What the file says of the guard and of bans.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What leads to a ban, and for how long.
    pub rules: Arc<Rules>,
    /// Names that nobody has, normalised.
    pub honeypots: HashSet<Box<[u8]>>,
    /// How account names are shown.
    pub names: Names,
    /// How many AUTH attempts of one client may be with the backends at once.
    pub parallel: usize,
    /// How long the reply to a failed AUTH is held back.
    pub delay: Duration,
    /// The most replies that are held back at once.
    pub delayed: u32,
    /// What banned clients meet.
    pub answer: Answer,
    /// The most banned connections that are held at once, in each lane.
    pub held: usize,
    /// Our name, where we decide.
    pub node: Box<str>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Arc::new(Rules::default()),
            honeypots: HashSet::new(),
            names: Names::default(),
            parallel: 4,
            delay: Duration::ZERO,
            delayed: 100,
            answer: Answer::default(),
            held: 1000,
            node: "gatepost".into(),
        }
    }
}

/// Why an operator's word is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotBanned {
    /// It is ours.
    #[error(
        "{0} is allow-listed, a load balancer of ours or a backend: it is never banned; take it off the list first, or ban a \
         network without it"
    )]
    Exempt(IpNet),
    /// Somebody else said something else at the same moment.
    #[error("something else was decided of {0} at the same moment; say it again")]
    Outweighed(IpNet),
    /// There is no room.
    #[error("as many networks are banned or allowed as there is room for; see `max` in [bans], or unban some")]
    Full,
}

/// Whom nothing bans.
#[derive(Debug, Default)]
pub(super) struct Exempt {
    list: AccessList,
    pub(super) networks: Vec<IpNet>,
}

impl Exempt {
    pub(super) fn of(networks: Vec<IpNet>) -> Self {
        let list = AccessList::new(networks.iter().map(|network| (*network, Access::Allow)).collect());
        Self { list, networks }
    }

    fn has(&self, client: IpAddr) -> bool {
        self.list.look_up(client) == Access::Allow
    }

    /// Whether all of `network` is exempt, or what is exempt lies within it.
    fn touches(&self, network: IpNet) -> bool {
        self.networks.iter().any(|ours| ours.contains(&network) || network.contains(ours))
    }
}

/// What rulings need. Shared by reference.
#[derive(Debug)]
pub struct Rulings {
    /// What the file says; a reload swaps it.
    settings: ArcSwap<Settings>,
    pub(super) exempt: ArcSwap<Exempt>,
    /// Lists of networks from outside.
    lists: ArcSwap<Lists>,
    pub(super) firewall: ArcSwap<Firewall>,
    /// What of the gates matters to what leaves this process.
    pub(super) gates: ArcSwap<Gates>,
    pub(super) attempts: Arc<Attempts>,
    pub(super) inside: Arc<Inside>,
    /// Counts bans: those who wait in a lot are looked through when it changes.
    banned: watch::Sender<u64>,
    /// Replies that are held back now.
    pub(super) delayed: AtomicU32,
    /// What is counted.
    pub(super) metrics: Bans,
    /// The knocks that the log has told of.
    told: AtomicU64,
}

impl Rulings {
    /// Rulings by `settings`, that are told to `firewall`.
    pub fn new(settings: Settings, firewall: Firewall, lists: Lists, metrics: Bans) -> Self {
        Self {
            settings: ArcSwap::from_pointee(settings),
            exempt: ArcSwap::default(),
            lists: ArcSwap::from_pointee(lists),
            firewall: ArcSwap::from_pointee(firewall),
            // Until they are known, nothing that is decided automatically leaves.
            gates: ArcSwap::from_pointee(Gates { one_observes: true, ..Gates::default() }),
            attempts: Attempts::new(),
            inside: Inside::new(),
            banned: watch::Sender::new(0),
            delayed: AtomicU32::new(0),
            metrics,
            told: AtomicU64::new(0),
        }
    }

    /// Rulings that nobody is told of, with no lists.
    #[cfg(test)]
    pub(crate) fn quiet(settings: Settings, metrics: Bans) -> Self {
        let firewall = Firewall::open(crate::firewall::Settings::default(), crate::clock::Clock::system());
        Self::new(settings, firewall, Lists::none(), metrics)
    }

    /// What the file says.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// From now on the file says this.
    pub fn set(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// The lists from outside.
    pub fn lists(&self) -> Arc<Lists> {
        self.lists.load_full()
    }

    /// From now on these lists count.
    pub fn set_lists(&self, lists: Lists) {
        self.lists.store(Arc::new(lists));
    }

    /// Who is told of bans.
    pub fn firewall(&self) -> Arc<Firewall> {
        self.firewall.load_full()
    }

    /// How many replies to failed AUTH are held back now.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::Relaxed).into()
    }

    /// Changes whenever somebody was banned.
    pub(super) fn banned(&self) -> watch::Receiver<u64> {
        self.banned.subscribe()
    }
}

/// What is known at the door of a client that the access list says nothing of.
#[derive(Debug)]
pub(super) enum Ruling {
    /// Nothing.
    None,
    /// It is allowed at run time.
    Allowed,
    /// It is not let in: by a decision, or else by a list from outside.
    Banned(Option<Arc<Held>>),
}

impl House {
    /// What was decided of a client of `gate`.
    pub(super) fn ruling(&self, gate: &Gate, client: IpAddr, now: Timestamp) -> Ruling {
        let rulings = &self.rulings;
        // While an operator only observes, nobody but he bans.
        let observes = gate.settings.screen.observe;
        let decisions = self.ledger.decisions();
        let held = if observes { decisions.said_of(client, now) } else { decisions.of(client, now) };
        let banned = match held {
            Some(held) if held.decision.what == What::Allow => return Ruling::Allowed,
            Some(held) => Some(held),
            None if !observes && rulings.lists.load().look_up(client).is_some() => None,
            None => return Ruling::None,
        };
        if rulings.exempt.load().has(client) { Ruling::None } else { Ruling::Banned(banned) }
    }

    /// Carries a decision out that was made here, and tells other hosts of it.
    pub fn rule(&self, network: IpNet, decision: Decision) -> Decided {
        let decided = self.rule_from_afar(network, decision);
        if let (Decided::InForce(held), Some(shared)) = (&decided, &self.shared) {
            shared.share(Change::Decision(held.network, held.decision.clone()));
        }
        decided
    }

    /// Carries a decision out.
    pub(super) fn rule_from_afar(&self, network: IpNet, decision: Decision) -> Decided {
        let decided = self.ledger.decisions().decide(network, decision);
        let Decided::InForce(held) = &decided else { return decided };
        let Held { network, decision, .. } = &**held;
        let rulings = &self.rulings;
        match decision.what {
            What::Ban => {
                rulings.metrics.banned(decision.reason);
                self.tell_firewall(held);
                rulings.inside.tell(*network);
                rulings.banned.send_modify(|count| *count = count.wrapping_add(1));
            }
            What::Allow | What::Lifted => {
                rulings.firewall.load().unban(*network);
                self.tell_exempt();
                self.ledger.forget(*network);
            }
        }
        log(held);
        decided
    }

    /// Bans a network at an operator's word, for so long or for ever.
    pub fn ban(
        &self,
        network: IpNet,
        span: Option<Duration>,
        by: &str,
        evidence: &str,
    ) -> Result<Arc<Held>, NotBanned> {
        let network = network::canonical(network);
        let exempt = self.rulings.exempt.load();
        if exempt.networks.iter().any(|ours| ours.contains(&network)) {
            return Err(NotBanned::Exempt(network));
        }
        self.operators(What::Ban, network, span, by, evidence)
    }

    /// Lets a network in at an operator's word, whatever else is known of it; what was counted of it is forgotten.
    pub fn allow(
        &self,
        network: IpNet,
        span: Option<Duration>,
        by: &str,
        evidence: &str,
    ) -> Result<Arc<Held>, NotBanned> {
        self.operators(What::Allow, network::canonical(network), span, by, evidence)
    }

    /// Lifts every ban and allowance of `network` and of what lies within it, and forgets the counts that led there.
    /// Answers what was lifted.
    pub fn lift(&self, network: IpNet, by: &str) -> Vec<Arc<Held>> {
        let network = network::canonical(network);
        let now = self.clock.now();
        let all = self.ledger.decisions().all(now);
        let lifted: Vec<_> = all
            .into_iter()
            .filter(|held| network.contains(&held.network) && held.decision.what != What::Lifted)
            .collect();
        for held in &lifted {
            let _ = self.operators(What::Lifted, held.network, Some(LIFTED), by, "");
        }
        // Also where nothing was decided yet: the counts may be near it.
        self.ledger.forget(network);
        let client = ClientKey::of(network.network());
        if let Some(shared) = &self.shared
            && network.contains(&client.network())
        {
            shared.share(Change::Forgotten(client));
        }
        lifted
    }

    fn operators(
        &self,
        what: What,
        network: IpNet,
        span: Option<Duration>,
        by: &str,
        evidence: &str,
    ) -> Result<Arc<Held>, NotBanned> {
        // An operator has the last word, also where somebody's clock is ahead.
        let now = self.clock.now();
        let decision = Decision {
            what,
            reason: Reason::Operator,
            count: 0,
            level: 0,
            begin: self.after(network, now, |there| there >= now),
            until: span.map(|span| now.plus(span)),
            who: who(by),
            evidence: plain(evidence, EVIDENCE_LIMIT),
        };
        match self.rule(network, decision) {
            Decided::InForce(held) => Ok(held),
            Decided::Outweighed(_) => Err(NotBanned::Outweighed(network)),
            Decided::Full => Err(NotBanned::Full),
        }
    }

    /// Whether nothing may ban `network` automatically.
    pub(super) fn is_exempt(&self, network: IpNet) -> bool {
        self.rulings.exempt.load().touches(network)
    }

    /// When something that is decided of `network` at `now` begins: behind what was decided there `is_later` than now, by a
    /// host whose clock is ahead of ours, or by us before our clock was set back. Whoever decides has seen that.
    pub(super) fn after(&self, network: IpNet, now: Timestamp, is_later: impl Fn(Timestamp) -> bool) -> Timestamp {
        match self.ledger.decisions().get(network) {
            Some(there) if is_later(there.decision.begin) => there.decision.begin.plus(INSTANT),
            _ => now,
        }
    }

    /// Takes out what has ended, and tells the log of it.
    pub fn sweep_rulings(&self) {
        for ended in self.ledger.decisions().sweep(self.clock.now()) {
            if ended.decision.what != What::Lifted {
                self.tell_end(&ended);
                tracing::info!(
                    network = %ended.network,
                    what = ended.decision.what.name(),
                    reason = ended.decision.reason.name(),
                    knocks = ended.knocks(),
                    "what was decided has ended"
                );
            }
        }
    }

    /// Tells the log, in one line, how many connections of banned clients were turned away since it was last called.
    pub fn sum_up_knocks(&self) {
        let rulings = &self.rulings;
        let all = rulings.metrics.turned_away();
        let since = all.saturating_sub(rulings.told.swap(all, Ordering::Relaxed));
        if since == 0 {
            return;
        }
        let bans = self.ledger.decisions().all(self.clock.now());
        let busiest = bans.iter().filter(|held| held.decision.what == What::Ban).max_by_key(|held| held.knocks());
        match busiest.filter(|held| held.knocks() > 0) {
            Some(busiest) => tracing::info!(
                connections = since,
                busiest = %busiest.network,
                knocks = busiest.knocks(),
                "banned clients were turned away"
            ),
            None => tracing::info!(connections = since, "banned clients were turned away"),
        }
    }
}

/// One line for each decision.
fn log(held: &Held) {
    let Held { network, decision, .. } = held;
    let span = match decision.until {
        Some(until) => format_span(until.since(decision.begin)),
        None => "ever".to_owned(),
    };
    let Decision { reason, count, level, who, evidence, .. } = decision;
    match decision.what {
        What::Ban => tracing::info!(
            %network, reason = reason.name(), count, level, span, who = &**who, evidence = &**evidence, "banned"
        ),
        What::Allow => tracing::info!(%network, span, who = &**who, evidence = &**evidence, "allowed"),
        What::Lifted => tracing::info!(%network, who = &**who, "a ban or an allowance was lifted"),
    }
}
