//! Bans and allowances: which there are, and an operator's own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::answer::{Lifted, Ruling, Rulings, shown};
use super::{Control, Fault, Refused};
use crate::addr::ClientKey;
use crate::ledger::decisions::Held;
use crate::policy::ban::What;
use crate::policy::network;
use crate::time::{SPAN_LIMIT, Timestamp, format_span, parse_span};

/// How long an operator's ban holds, unless he says otherwise. Addresses change hands: for ever is a word of its own.
pub(super) const BAN: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an operator's allowance holds, unless he says otherwise.
pub(super) const ALLOWANCE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The word for a decision without an end.
pub(super) const FOR_EVER: &str = "ever";

/// The most decisions that are told at once.
pub(super) const MOST: usize = 1000;

/// In which order decisions are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The last one first.
    #[default]
    Newest,
    /// By network.
    Network,
}

/// Which decisions are asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// `ban` or `allow`; both if nothing.
    pub what: Option<String>,
    /// In which order.
    #[serde(default)]
    pub order: Order,
    /// How many, [`MOST`] at the most; 100 if nothing.
    pub limit: Option<usize>,
    /// How many to pass over.
    #[serde(default)]
    pub offset: usize,
}

/// What an operator decides.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Of whom: a network, or an address, which is the client that it counts as.
    pub network: String,
    /// For how long, as a span of time; `ever`: without an end.
    #[serde(rename = "for")]
    pub span: Option<String>,
    /// Why, in the operator's words.
    pub note: Option<String>,
}

impl Control {
    /// Some of the decisions in force.
    pub fn bans(&self, listing: &Listing) -> Result<Rulings, Refused> {
        let what = match listing.what.as_deref() {
            None => None,
            Some("ban") => Some(What::Ban),
            Some("allow") => Some(What::Allow),
            Some(other) => {
                let error = format!("{other:?} is nothing that is decided");
                return Err(Refused::new(Fault::Malformed, error, "ask for what=ban, what=allow, or without `what`"));
            }
        };
        let limit = listing.limit.unwrap_or(100);
        if limit > MOST {
            let error = format!("{limit} are too many at once");
            let remedy = format!("ask for limit={MOST} at the most, and for the next ones with offset={MOST}");
            return Err(Refused::new(Fault::Malformed, error, remedy));
        }
        let now = self.now();
        let mut all = self.house.ledger.decisions().all(now);
        all.retain(|held| match what {
            Some(what) => held.decision.what == what,
            None => held.decision.what != What::Lifted,
        });
        if listing.order == Order::Newest {
            // Stable: those of one moment stay in the order of their networks.
            all.sort_by_key(|held| std::cmp::Reverse(held.decision.begin));
        }
        let some = all.iter().skip(listing.offset).take(limit);
        Ok(Rulings { total: all.len() as u64, bans: some.map(|held| Ruling::of(held, now)).collect() })
    }

    /// Bans a network at an operator's word.
    pub fn ban(&self, wish: &Wish, who: &str) -> Result<Ruling, Refused> {
        let (network, span) = (network_of(&wish.network)?, span_of(wish.span.as_deref(), BAN)?);
        let decided = self.house.ban(network, span, who, wish.note.as_deref().unwrap_or_default());
        self.ruled(decided.map_err(|error| error.to_string()))
    }

    /// Allows a network at an operator's word.
    pub fn allow(&self, wish: &Wish, who: &str) -> Result<Ruling, Refused> {
        let (network, span) = (network_of(&wish.network)?, span_of(wish.span.as_deref(), ALLOWANCE)?);
        let decided = self.house.allow(network, span, who, wish.note.as_deref().unwrap_or_default());
        self.ruled(decided.map_err(|error| error.to_string()))
    }

    /// Lifts what was decided of a network and of what lies within it.
    pub fn unban(&self, network: &str, who: &str) -> Result<Lifted, Refused> {
        let network = network_of(network)?;
        let lifted = self.house.lift(network, who);
        let now = self.now();
        let of = |held: &Arc<Held>| Ruling::of(held, now);
        let still = self.covering(network, now).into_iter().filter(|held| held.decision.what == What::Ban);
        Ok(Lifted {
            network: shown(network),
            lifted: lifted.iter().map(of).collect(),
            still: still.map(|held| of(&held)).collect(),
        })
    }

    /// What is decided of networks that `network` lies in, the widest last.
    pub(super) fn covering(&self, network: IpNet, now: Timestamp) -> Vec<Arc<Held>> {
        let decisions = self.house.ledger.decisions();
        let lengths = (0..=network.prefix_len()).rev();
        let networks = lengths.filter_map(|length| IpNet::new(network.addr(), length).ok());
        let held = networks.filter_map(|network| decisions.get(network.trunc()));
        held.filter(|held| held.decision.what != What::Lifted && held.decision.holds(now)).collect()
    }

    fn ruled(&self, decided: Result<Arc<Held>, String>) -> Result<Ruling, Refused> {
        let held = decided.map_err(|words| {
            let (error, remedy) =
                words.split_once("; ").unwrap_or((&words, "`gatepost explain ADDRESS` says what holds"));
            Refused::new(Fault::Exempt, error, remedy)
        })?;
        Ok(Ruling::of(&held, self.now()))
    }
}

/// The network that an operator means: an IPv6 address without a length is the /64 that a client counts as.
pub(super) fn network_of(text: &str) -> Result<IpNet, Refused> {
    if let Ok(address) = text.trim().parse::<IpAddr>() {
        return Ok(ClientKey::of(address).network());
    }
    network::parse(text).map_err(|wrong| {
        let reason = wrong.reason.to_string();
        let (why, remedy) = reason.split_once(": ").unwrap_or(("is no network", &reason));
        Refused::new(Fault::Malformed, format!("{:?} {why}", wrong.text), remedy)
    })
}

fn span_of(text: Option<&str>, usual: Duration) -> Result<Option<Duration>, Refused> {
    let Some(text) = text else { return Ok(Some(usual)) };
    if text == FOR_EVER {
        return Ok(None);
    }
    let remedy = format!(
        "write a number and a unit, such as 30m, 12h or 7d (from 1s to {}), or `{FOR_EVER}`",
        format_span(SPAN_LIMIT)
    );
    match parse_span(text) {
        Ok(span) if span >= Duration::from_secs(1) => Ok(Some(span)),
        Ok(_) => Err(Refused::new(Fault::Malformed, format!("{text:?} is too short"), remedy)),
        Err(_) => {
            let shown: String = text.chars().take(40).collect();
            Err(Refused::new(Fault::Malformed, format!("{shown:?} is not a span of time"), remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_client_that_it_counts_as() {
        for (text, network) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            (" 2001:db8::7 ", "2001:db8::/64"),
            ("2001:db8::7/128", "2001:db8::7/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            assert_eq!(network_of(text).map(|network| network.to_string()).as_deref(), Ok(network));
        }
        let refused = network_of("10.1.2.3/8").unwrap_err();
        assert!(refused.remedy.contains("10.0.0.0/8"), "{refused}");
        assert!(network_of("mail.example.org").is_err());
    }

    #[test]
    fn a_span_is_given_or_usual_or_has_no_end() {
        let day = Duration::from_secs(86_400);
        assert_eq!(span_of(None, day), Ok(Some(day)));
        assert_eq!(span_of(Some("1h"), day), Ok(Some(day / 24)));
        assert_eq!(span_of(Some("ever"), day), Ok(None));
        for bad in ["0s", "1", "forever", ""] {
            assert!(span_of(Some(bad), day).is_err(), "{bad}");
        }
    }
}
