//! What hosts tell one another on the channel: a word a change, with the name of the host that made it.
//!
//! Whoever may publish there is believed as far as a host is, and no further: a message is read by the same rules as a
//! line in the store, has a longest length, and what no host would decide by itself (a ban of a wide network or without
//! an end, a decision of tomorrow) is not taken.

use ipnet::IpNet;

use super::script::tests_of;
use crate::addr::ClientKey;
use crate::policy::ban::{self, AHEAD, Decision, Reason, What};
use crate::policy::guard::Tally;
use crate::policy::network;
use crate::policy::record::Record;
use crate::screen::{Standing, Tests};
use crate::time::Timestamp;

/// The longest message that is read: a tally with all that it can hold comes to two thousand bytes.
pub(super) const LONGEST: usize = 4096;

/// For how long it is remembered that something was lifted, in milliseconds: a host that was away for less hears of it.
const LIFTED_KEPT: u64 = 8 * 24 * 60 * 60 * 1000;

/// Something that another host should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum News {
    Standing(ClientKey, Standing),
    Revoked(ClientKey, Tests),
    Decision(IpNet, Decision),
    Tally(ClientKey, Tally),
    Forgotten(ClientKey),
}

/// What the messages of the host `node` begin with. The scripts write the rest: kind, key and line.
pub(super) fn head(node: &str) -> String {
    format!("1 {node}")
}

impl News {
    /// Who says it, and what. None if it cannot be made out, or is not to be believed.
    pub(super) fn read(message: &[u8], now: Timestamp) -> Option<(&str, Self)> {
        let text = std::str::from_utf8(message).ok().filter(|text| text.len() <= LONGEST)?;
        let mut words = text.splitn(5, ' ');
        if words.next()? != "1" {
            return None;
        }
        let (node, kind, key, line) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let client = || ClientKey::of_word(key);
        let news = match kind {
            "standing" => Self::Standing(client()?, Standing::read(line)?),
            "revoked" => Self::Revoked(client()?, tests_of(line)?),
            "tally" => Self::Tally(client()?, Tally::read(line)?),
            "forgotten" => Self::Forgotten(client()?),
            "decision" => {
                let (network, decision) = decision(key, line, now)?;
                Self::Decision(network, decision)
            }
            _ => return None,
        };
        Some((node, news))
    }
}

/// Reads a decision of `network`, and looks whether a host may have made it.
pub(super) fn decision(key: &str, line: &str, now: Timestamp) -> Option<(IpNet, Decision)> {
    let network = network::parse(key).ok()?;
    let decision = Decision::read(line).filter(|_| line.len() <= LONGEST)?;
    let widest = if network.addr().is_ipv4() { 24 } else { 48 };
    let is_of_people = decision.reason == Reason::Operator;
    let ends = |until: Timestamp| until.since(decision.begin) <= ban::LONGEST;
    let is_sound = (is_of_people
        || network.prefix_len() >= widest && decision.what != What::Allow && decision.until.is_some_and(ends))
        && decision.begin.since(now) <= AHEAD;
    is_sound.then_some((network, decision))
}

/// Whether nobody needs to hear of it any more.
pub(super) fn is_over(decision: &Decision, now: Timestamp) -> bool {
    match decision.what {
        What::Lifted => {
            let kept = Timestamp::from_millis(decision.begin.millis().saturating_add(LIFTED_KEPT));
            kept <= now && decision.until.is_none_or(|until| until <= now)
        }
        What::Ban | What::Allow => !decision.holds(now),
    }
}

/// The client that `network` is, if it is one.
pub(super) fn client_of(network: IpNet) -> Option<ClientKey> {
    let client = ClientKey::of(network.addr());
    (network.prefix_len() >= client.network().prefix_len()).then_some(client)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::script::tests_word;
    use super::*;
    use crate::policy::guard::{Rules, Strike, Window};
    use crate::screen::Test;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

    fn ban() -> Decision {
        Decision {
            what: What::Ban,
            reason: Reason::Failures,
            count: 5,
            level: 1,
            begin: NOW,
            until: Some(Timestamp::from_seconds(1_700_000_600)),
            who: "mx1".into(),
            evidence: "five failures".into(),
        }
    }

    /// The message, as a script writes it.
    fn message(news: &News, node: &str) -> String {
        let (kind, key, line) = match news {
            News::Standing(client, standing) => ("standing", client.word(), standing.line()),
            News::Revoked(client, tests) => ("revoked", client.word(), tests_word(*tests)),
            News::Decision(network, decision) => ("decision", network.to_string(), decision.line()),
            News::Tally(client, tally) => ("tally", client.word(), tally.line()),
            News::Forgotten(client) => ("forgotten", client.word(), "-".to_owned()),
        };
        format!("{} {kind} {key} {line}", head(node))
    }

    fn news() -> Vec<News> {
        let client = ClientKey::V4(0xc000_0201);
        let mut standing = Standing::stranger();
        standing.pass(Test::Dnsbl, NOW);
        let mut tests = Tests::NONE;
        tests.insert(Test::Pregreet);
        let mut tally = Tally::default();
        tally.strike(Strike::Failed(Some(7)), &Rules::default(), 1_700_000_000, 0);
        vec![
            News::Standing(client, standing),
            News::Revoked(client, tests),
            News::Decision(client.network(), ban()),
            News::Tally(client, tally),
            News::Forgotten(ClientKey::V6(1)),
        ]
    }

    #[test]
    fn news_are_read_as_they_were_written() {
        for one in news() {
            let message = message(&one, "mx1.00ff");
            assert_eq!(News::read(message.as_bytes(), NOW), Some(("mx1.00ff", one)), "{message}");
        }
    }

    #[test]
    fn the_longest_tally_fits() {
        let mut tally = Tally::default();
        for window in [&mut tally.failed, &mut tally.not_offered] {
            *window = Window { times: vec![u32::MAX; Window::MOST] };
        }
        tally.accounts.ones = vec![u32::MAX; Tally::ACCOUNTS];
        let message = message(&News::Tally(ClientKey::V6(u64::MAX), tally.clone()), &"n".repeat(200));
        assert!(message.len() <= LONGEST, "{}", message.len());
        assert!(News::read(message.as_bytes(), NOW).is_some());
    }

    #[test]
    fn what_no_host_would_decide_is_not_taken() {
        let line = ban().line();
        let tomorrow = Decision { begin: NOW.plus(std::time::Duration::from_secs(86_400)), ..ban() };
        let allow = Decision { what: What::Allow, ..ban() };
        let for_ever = Decision { until: None, ..ban() };
        let for_an_age = Decision { until: Some(NOW.plus(ban::LONGEST + ban::LONGEST)), ..ban() };
        let banned = Decision { reason: Reason::Operator, ..for_ever.clone() };
        let said = Decision { reason: Reason::Operator, ..allow.clone() };
        for (network, line, is_taken) in [
            ("192.0.2.1/32", line.clone(), true),
            ("192.0.2.0/24", line.clone(), true),
            ("2001:db8::/48", line.clone(), true),
            ("192.0.0.0/16", line.clone(), false),
            ("0.0.0.0/0", line.clone(), false),
            ("2001:db8::/32", line.clone(), false),
            ("192.0.2.1/24", line.clone(), false),
            ("192.0.2.1/32", tomorrow.line(), false),
            ("192.0.2.1/32", allow.line(), false),
            ("192.0.2.1/32", for_ever.line(), false),
            ("192.0.2.1/32", for_an_age.line(), false),
            ("192.0.2.1/32", banned.line(), true),
            ("10.0.0.0/8", said.line(), true),
            ("192.0.2.1/32", format!("{line}{}", "x".repeat(5000)), false),
        ] {
            assert_eq!(decision(network, &line, NOW).is_some(), is_taken, "{network} {line}");
        }
    }

    #[test]
    fn what_was_lifted_is_remembered_for_eight_days() {
        const DAY: u64 = 86_400_000;
        let at = |days: u64| Timestamp::from_millis(NOW.millis() + days * DAY);
        let lifted = Decision { what: What::Lifted, reason: Reason::Operator, until: None, ..ban() };
        assert!(!is_over(&lifted, at(7)) && is_over(&lifted, at(8)));
        let longer = Decision { until: Some(at(9)), ..lifted };
        assert!(!is_over(&longer, at(8)) && is_over(&longer, at(9)));
        assert!(!is_over(&ban(), NOW) && is_over(&ban(), at(1)));
        assert!(!is_over(&Decision { until: None, ..ban() }, at(9000)));
    }

    #[test]
    fn a_client_is_its_network_and_what_is_narrower() {
        for (network, client) in [
            ("192.0.2.1/32", Some(ClientKey::V4(0xc000_0201))),
            ("192.0.2.0/31", None),
            ("2001:db8::/64", Some(ClientKey::V6(0x2001_0db8_0000_0000))),
            ("2001:db8::1/128", Some(ClientKey::V6(0x2001_0db8_0000_0000))),
            ("2001:db8::/63", None),
        ] {
            assert_eq!(client_of(network.parse().unwrap()), client, "{network}");
        }
    }

    proptest! {
        #[test]
        fn nothing_on_the_channel_panics(bytes: Vec<u8>, cut in 0usize..200, one in 0usize..5, with: u8) {
            let _ = News::read(&bytes, NOW);
            let mut message = message(&news()[one], "mx1").into_bytes();
            let at = cut % message.len();
            message[at] = with;
            let _ = News::read(&message, NOW);
            message.truncate(at);
            let _ = News::read(&message, NOW);
        }
    }
}
