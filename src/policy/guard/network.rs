//! What is counted of a network: which of its clients were banned.

use super::window::Few;
use super::{Rules, Sentence};
use crate::addr::ClientKey;
use crate::policy::ban::{Reason, Step};
use crate::policy::record::{Reader, Record, Writer};

/// What is counted of an IPv4 /24 or an IPv6 /48.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Network {
    /// Its clients that were banned.
    pub offenders: Few<ClientKey>,
    /// Where it stands on the ladder of bans.
    pub step: Step,
    /// When nothing of this means anything any more.
    pub ends: u32,
}

impl Network {
    /// How many different clients are told apart.
    pub const OFFENDERS: usize = 16;

    /// One of its clients was banned. `dice` is any number.
    pub fn offend(&mut self, client: ClientKey, rules: &Rules, now: u32, dice: u32) -> Option<Sentence> {
        let count = self.offenders.add(client, Self::OFFENDERS, rules.neighbours.within, now);
        let due = rules.neighbours.is_reached(count, 1) && self.step.until <= now;
        let sentence = due.then(|| {
            self.step = rules.ladder.climb(self.step, now, dice);
            self.offenders = Few::default();
            Sentence { reason: Reason::Neighbours, count, level: self.step.level, until: self.step.until }
        });
        self.ends = self.offenders.ends(rules.neighbours.within).max(rules.ladder.forgotten(self.step));
        sentence
    }
}

impl Record for Network {
    fn line(&self) -> String {
        let line = Writer::new().word(self.step.level).word(self.step.until).word(self.ends);
        line.word(self.offenders.since).list(self.offenders.ones.iter().map(|client| client.word())).end()
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = Reader::new(line)?;
        let step = Step { level: words.next()?, until: words.next()? };
        let ends = words.next()?;
        let offenders = Few { since: words.next()?, ones: words.list(ClientKey::of_word)? };
        (offenders.ones.len() <= Self::OFFENDERS).then_some(Self { offenders, step, ends })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Limit;
    use super::*;
    use crate::policy::ban::Ladder;

    const NOW: u32 = 1_700_000_000;

    #[test]
    fn five_different_neighbours_ban_their_network_if_that_is_switched_on() {
        let neighbours = Limit { count: 5, within: Duration::from_secs(3600) };
        let rules = Rules { neighbours, ladder: Ladder { jitter: 0, ..Ladder::default() }, ..Rules::default() };
        let mut network = Network::default();
        for n in [1, 2, 2, 1, 3, 4] {
            assert_eq!(network.offend(ClientKey::V4(n), &rules, NOW, 0), None);
            assert_eq!(Network::read(&network.line()), Some(network.clone()));
        }
        let sentence = network.offend(ClientKey::V4(5), &rules, NOW, 0);
        assert_eq!(sentence, Some(Sentence { reason: Reason::Neighbours, count: 5, level: 1, until: NOW + 600 }));
        assert_eq!(network.offend(ClientKey::V4(6), &rules, NOW, 0), None, "it is banned");
        let mut network = Network::default();
        assert!((0..100).all(|n| network.offend(ClientKey::V4(n), &Rules::default(), NOW, 0).is_none()));
        assert_eq!(Network::read(&network.line()), Some(network));
    }
}
