//! `[auth]`: what failed AUTH leads to, and from where AUTH is open at all.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{self, choice, count, expected, span, text};
use crate::policy::access::{Access, AccessList};
use crate::policy::ban::Ladder;
use crate::policy::guard::{Account, Limit, Network, Rules, Tally, Window};
use crate::session::rulings::{Answer, Names, Settings};
use crate::smtp::auth;
use crate::time::{format_span, parse_span};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What `[auth]` says.
#[derive(Debug)]
pub(super) struct AuthEntry {
    networks: Option<Vec<Spanned<IpNet>>>,
    session_failures: Option<u32>,
    failures: Option<Limit>,
    slow: Option<Limit>,
    accounts: Option<Limit>,
    strangers: Option<Limit>,
    attack: Option<Duration>,
    not_offered: Option<Limit>,
    known_for: Option<Duration>,
    patience: Option<u32>,
    honeypots: Vec<String>,
    names: Option<Names>,
    parallel: Option<usize>,
    delay: Option<Spanned<Duration>>,
    delayed: Option<Spanned<u32>>,
}

impl AuthEntry {
    /// Reads the keys of `[auth]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let month = DAY * 365;
        Self {
            networks: read_networks(table),
            session_failures: table.value("session_failures", count(1..=1000)).map(Spanned::into_inner),
            failures: table.value("failures", limit(Window::MOST)).map(Spanned::into_inner),
            slow: table.value("slow", limit(10_000)).map(Spanned::into_inner),
            accounts: table.value("accounts", limit(Tally::ACCOUNTS)).map(Spanned::into_inner),
            strangers: table.value("strangers", limit(Account::STRANGERS)).map(Spanned::into_inner),
            attack: table.value("attack", span(SECOND..=DAY * 7)).map(Spanned::into_inner),
            not_offered: table.value("not_offered", limit(Window::MOST)).map(Spanned::into_inner),
            known_for: table.value("known_for", span(SECOND..=month)).map(Spanned::into_inner),
            patience: table.value("patience", count(1..=100)).map(Spanned::into_inner),
            honeypots: names_of(table),
            names: table.value("names", names).map(Spanned::into_inner),
            parallel: table.value("parallel", count(1..=1000)).map(Spanned::into_inner),
            delay: table.value("delay", span(Duration::ZERO..=Duration::from_secs(60))),
            delayed: table.value("delayed", count(1..=100_000)),
        }
    }

    /// After how many failures a session ends.
    pub(super) fn session_failures(&self) -> u32 {
        self.session_failures.unwrap_or(3)
    }

    /// From where AUTH is open at a gate; from everywhere if nothing. `own` is what the gate says.
    pub(super) fn networks(
        &self,
        own: Option<&[Spanned<IpNet>]>,
        offered: bool,
        inspection: &Inspection,
    ) -> Option<Arc<AccessList>> {
        if let Some(first) = own.and_then(<[_]>::first)
            && !offered
        {
            let wrong =
                Wrong::new("this has no effect: the gate offers no AUTH", "take it out, or set offer_auth = true");
            inspection.warning(first.span(), wrong);
        }
        let networks = own.or(self.networks.as_deref())?;
        let entries = networks.iter().map(|network| (*network.get_ref(), Access::Allow)).collect();
        Some(Arc::new(AccessList::new(entries)))
    }

    /// The guard's settings, with what `[bans]` says.
    pub(super) fn settings(&self, bans: BanRules, hostname: &str, inspection: &Inspection) -> Settings {
        if let Some(delayed) = &self.delayed
            && self.delay.as_ref().is_none_or(|delay| delay.get_ref().is_zero())
        {
            let remedy = "set delay = \"3s\" or the like, or take it out";
            inspection.warning(delayed.span(), Wrong::new("this has no effect: no reply is held back", remedy));
        }
        let usual = Rules::default();
        let rules = Rules {
            failures: self.failures.unwrap_or(usual.failures),
            slow: self.slow.unwrap_or(usual.slow),
            accounts: self.accounts.unwrap_or(usual.accounts),
            strangers: self.strangers.unwrap_or(usual.strangers),
            attack: self.attack.unwrap_or(usual.attack),
            not_offered: self.not_offered.unwrap_or(usual.not_offered),
            known_for: self.known_for.unwrap_or(usual.known_for),
            patience: self.patience.unwrap_or(usual.patience),
            neighbours: bans.neighbours.unwrap_or(usual.neighbours),
            ladder: bans.ladder,
        };
        let defaults = Settings::default();
        Settings {
            rules: Arc::new(rules),
            honeypots: self
                .honeypots
                .iter()
                .filter_map(|name| auth::Account::new(name.as_bytes()))
                .map(|account| account.name().into())
                .collect(),
            names: self.names.unwrap_or(defaults.names),
            parallel: self.parallel.unwrap_or(defaults.parallel),
            delay: self.delay.as_ref().map_or(defaults.delay, |delay| *delay.get_ref()),
            delayed: self.delayed.as_ref().map_or(defaults.delayed, |delayed| *delayed.get_ref()),
            answer: bans.answer.unwrap_or(defaults.answer),
            held: bans.held.unwrap_or(defaults.held),
            node: if hostname.is_empty() { defaults.node } else { hostname.into() },
        }
    }
}

/// Which networks AUTH is open from.
pub(super) fn read_networks(table: &mut Table<'_>) -> Option<Vec<Spanned<IpNet>>> {
    table.list("networks", values::network).map(Spanned::into_inner)
}

/// What `[bans]` says of bans themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct BanRules {
    ladder: Ladder,
    neighbours: Option<Limit>,
    answer: Option<Answer>,
    held: Option<usize>,
    /// The most decisions.
    pub(super) most: Option<usize>,
}

impl BanRules {
    /// Reads these keys of `[bans]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let usual = Ladder::default();
        let spans = SECOND..=DAY * 365;
        let first = table.value("first", span(spans.clone()));
        let most = table.value("longest", span(spans.clone()));
        let ladder = Ladder {
            first: first.as_ref().map_or(usual.first, |span| *span.get_ref()),
            factor: table.value("factor", count(1..=100)).map_or(usual.factor, Spanned::into_inner),
            most: most.as_ref().map_or(usual.most, |span| *span.get_ref()),
            jitter: table.value("jitter", count(0..=50)).map_or(usual.jitter, Spanned::into_inner),
            forget: table.value("forget", span(spans)).map_or(usual.forget, Spanned::into_inner),
        };
        if ladder.first > ladder.most
            && let Some(wrong) = first.or(most)
        {
            let (first, most) = (format_span(ladder.first), format_span(ladder.most));
            let cause = format!("`first` ({first}) is more than `longest` ({most})");
            let remedy = format!("set longest = \"{first}\" or more, or first = \"{most}\" or less");
            table.inspection().error(wrong.span(), Wrong::new(cause, remedy));
        }
        let held = table.value("held", count(1..=100_000));
        let answer = table.value("answer", answer).map(Spanned::into_inner);
        if let Some(held) = &held
            && answer != Some(Answer::Hold)
        {
            let remedy = "set answer = \"hold\", or take it out";
            let wrong = Wrong::new("this has no effect: banned clients are not held", remedy);
            table.inspection().warning(held.span(), wrong);
        }
        Self {
            ladder,
            neighbours: table.value("neighbours", limit(Network::OFFENDERS)).map(Spanned::into_inner),
            answer,
            held: held.map(Spanned::into_inner),
            most: table.value("max", count(100..=10_000_000)).map(Spanned::into_inner),
        }
    }
}

/// `"5/10m"`: so many, `most` at the most, within such a span; `false`: never.
fn limit(most: usize) -> impl Fn(&DeValue<'_>) -> Result<Limit, Wrong> {
    move |value| {
        let remedy =
            format!("write a number from 1 to {most} and a span in quotes, such as \"5/10m\", or false for never");
        if value.as_bool() == Some(false) {
            return Ok(Limit { count: 0, within: SECOND });
        }
        let Some(text) = value.as_str() else {
            return Err(expected("a number within a span of time", value, &remedy));
        };
        let read = || {
            let (count, within) = text.split_once('/')?;
            let plain = count.bytes().all(|digit| digit.is_ascii_digit());
            let count: u32 = count.parse().ok().filter(|_| plain)?;
            let within = parse_span(within).ok().filter(|within| (SECOND..=DAY * 365).contains(within))?;
            (count > 0 && usize::try_from(count).is_ok_and(|count| count <= most)).then_some(Limit { count, within })
        };
        read().ok_or_else(|| Wrong::new(format!("{text:?} is no number within a span of time"), remedy))
    }
}

fn names_of(table: &mut Table<'_>) -> Vec<String> {
    let name = |value: &DeValue<'_>| match text(value)? {
        name if name.trim().is_empty() => {
            Err(Wrong::new("the name is empty", "write a name that nobody has, or take it out"))
        }
        name if name.len() > auth::LONGEST => {
            Err(Wrong::new("the name is too long", format!("keep it to {} bytes", auth::LONGEST)))
        }
        name => Ok(name.to_owned()),
    };
    let names = table.list("honeypots", name).map(Spanned::into_inner).unwrap_or_default();
    names.into_iter().map(Spanned::into_inner).collect()
}

fn names(value: &DeValue<'_>) -> Result<Names, Wrong> {
    const WORDS: &[(&str, Names)] = &[("plain", Names::Plain), ("hashed", Names::Hashed), ("none", Names::Hidden)];
    choice(WORDS, &[("hash", "hashed"), ("clear", "plain"), ("off", "none"), ("hidden", "none")])(value)
}

fn answer(value: &DeValue<'_>) -> Result<Answer, Wrong> {
    const WORDS: &[(&str, Answer)] =
        &[("close", Answer::Close), ("421", Answer::Temporary), ("521", Answer::Permanent), ("hold", Answer::Hold)];
    choice(WORDS, &[("drop", "close"), ("silent", "close"), ("reject", "521"), ("554", "521"), ("tarpit", "hold")])(
        value,
    )
}
