//! The DNSBL score: what the lists' answers about one client add up to, as postscreen adds them up.
//!
//! [`site`] reads an operator's list of sites, [`filter`] says which answers of a list count. Here the sites are grouped
//! into [`Lists`] (one question for each zone, however many sites name it), an answer is judged
//! ([`List::hear`]), and the judgements are added up ([`Lists::score`]).
//!
//! Promises: a site adds its weight once, however many addresses of the answer match it; an answer that is an error of
//! the list (127.255.255.x, or anything outside 127/8) is never a hit, even where a filter would match it; the bounds
//! [`Score::least`] and [`Score::most`] hold whatever the outstanding lists say.
//!
//! Asking the lists, and deciding which of them can be believed, is left to the module `dnsbl`.

pub mod filter;
pub mod site;

pub use filter::Filter;
pub use site::{MAX_SITES, NotASite, Site, parse_list};

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What the lists say of a client so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Score {
    /// The sum over the answers that are in.
    pub total: i32,
    /// The least that it can still become.
    pub least: i32,
    /// The most that it can still become.
    pub most: i32,
    /// How many lists have not answered yet.
    pub outstanding: u16,
    /// The listing that weighs most: an index into the sites.
    pub worst: Option<u8>,
    /// How long a pass may be remembered on the strength of these answers: the least TTL among those that, once they
    /// run out, could turn it into a failure (see [`Lists::score`]). None if no answer had a TTL.
    pub pass_ttl: Option<Duration>,
}

impl Score {
    /// Whether the total reaches `threshold`, once no outstanding answer can change that any more.
    pub const fn decided(&self, threshold: i32) -> Option<bool> {
        if self.least >= threshold {
            Some(true)
        } else if self.most < threshold {
            Some(false)
        } else {
            None
        }
    }
}

/// What one list said of one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Word {
    /// Nothing yet.
    #[default]
    Outstanding,
    /// Nothing, and nothing is expected: it was not asked, or failed to answer, or is not believed.
    LeftOut,
    /// An answer.
    Said {
        /// Which of the list's sites it hits; none if the client is not listed.
        hits: Hits,
        /// How long the answer holds, in seconds, if it says so.
        ttl: Option<u32>,
    },
}

/// A set of sites of one list, by their place in [`List::pairs`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits(u64);

impl Hits {
    /// How many sites may share a zone.
    pub const MAX: usize = 64;

    /// Whether none is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the site at `place` is in it.
    pub const fn has(self, place: usize) -> bool {
        place < Self::MAX && self.0 & (1 << place) != 0
    }
}

/// An answer that is an error of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unbelievable {
    /// 127.255.255.x: the list refuses the question; x says why.
    ErrorCode(u8),
    /// An address outside 127/8: whoever answers there now is not the list (a parked domain, a captive resolver).
    Outside,
}

/// A site's part in its list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// The site's index.
    pub site: u8,
    /// Which answers count; all if there is none.
    pub filter: Option<Filter>,
    /// What a hit adds.
    pub weight: i32,
}

/// One zone, and all the sites that name it: asked once.
#[derive(Clone, PartialEq, Eq)]
pub struct List {
    /// The zone that is asked. May hold a paid key: never shown.
    pub zone: String,
    /// The name that is shown.
    pub display: String,
    /// The sites.
    pub pairs: Vec<Pair>,
}

impl List {
    /// Which sites are hit by an answer with these `addresses`; none if there are no addresses. One address that is an
    /// error of the list spoils the whole answer: mail is not refused on the word of a list in doubt.
    pub fn hear(&self, addresses: &[Ipv4Addr]) -> Result<Hits, Unbelievable> {
        for address in addresses {
            match address.octets() {
                [127, 255, 255, code] => return Err(Unbelievable::ErrorCode(code)),
                [127, ..] => {}
                _ => return Err(Unbelievable::Outside),
            }
        }
        let matches = |pair: &Pair| match &pair.filter {
            None => !addresses.is_empty(),
            Some(filter) => addresses.iter().any(|&address| filter.matches(address)),
        };
        let hits = self.pairs.iter().take(Hits::MAX).enumerate().filter(|(_, pair)| matches(pair));
        Ok(Hits(hits.fold(0, |set, (place, _)| set | 1 << place)))
    }

    /// Whether a hit can make a client's score worse.
    pub fn blocks(&self) -> bool {
        self.pairs.iter().any(|pair| pair.weight > 0)
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("List").field("display", &self.display).field("pairs", &self.pairs).finish_non_exhaustive()
    }
}

/// The sites, grouped by zone, in the order in which the zones first appear.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lists(Vec<List>);

impl Lists {
    /// Groups `sites`. Those beyond [`MAX_SITES`], and beyond [`Hits::MAX`] for one zone, are left out;
    /// [`parse_list`] refuses them.
    pub fn of(sites: &[Site]) -> Self {
        let mut lists: Vec<List> = Vec::new();
        for (index, site) in (0..=u8::MAX).zip(sites) {
            let pair = Pair { site: index, filter: site.filter.clone(), weight: site.weight };
            match lists.iter_mut().find(|list| list.zone == site.zone) {
                Some(list) if list.pairs.len() >= Hits::MAX => {}
                Some(list) => list.pairs.push(pair),
                None => {
                    lists.push(List { zone: site.zone.clone(), display: site.display.clone(), pairs: vec![pair] });
                }
            }
        }
        Self(lists)
    }

    /// The lists.
    pub fn as_slice(&self) -> &[List] {
        &self.0
    }

    /// Adds up what the lists said: `words` in the lists' order; a missing one is outstanding.
    ///
    /// Two TTLs are kept, as postscreen does. What speaks against the client (a hit that adds, a miss of an allow list)
    /// is in one, what speaks for it (a miss of a deny list, a hit that subtracts) in the other; [`Score::pass_ttl`] is
    /// the former if the total is above zero, else the latter.
    pub fn score(&self, words: impl IntoIterator<Item = Word>) -> Score {
        let mut sum = Sum::default();
        let words = words.into_iter().chain(std::iter::repeat(Word::Outstanding));
        for (list, word) in self.0.iter().zip(words) {
            match word {
                Word::LeftOut => {}
                Word::Outstanding => sum.await_list(list),
                Word::Said { hits, ttl } => sum.add(list, hits, ttl),
            }
        }
        sum.score()
    }
}

/// A score in the making; wide enough that [`MAX_SITES`] weights cannot overflow it.
#[derive(Default)]
struct Sum {
    total: i64,
    down: i64,
    up: i64,
    outstanding: u16,
    worst: Option<(i32, u8)>,
    against: Option<u32>,
    in_favour: Option<u32>,
}

impl Sum {
    fn await_list(&mut self, list: &List) {
        self.outstanding = self.outstanding.saturating_add(1);
        for pair in &list.pairs {
            self.down += i64::from(pair.weight.min(0));
            self.up += i64::from(pair.weight.max(0));
        }
    }

    fn add(&mut self, list: &List, hits: Hits, ttl: Option<u32>) {
        for (place, pair) in list.pairs.iter().enumerate() {
            let hit = hits.has(place);
            if hit {
                self.total += i64::from(pair.weight);
                if pair.weight > self.worst.map_or(0, |(weight, _)| weight) {
                    self.worst = Some((pair.weight, pair.site));
                }
            }
            if let (Some(ttl), true) = (ttl, pair.weight != 0) {
                let least = if hit == (pair.weight > 0) { &mut self.against } else { &mut self.in_favour };
                *least = Some(least.map_or(ttl, |least| least.min(ttl)));
            }
        }
    }

    fn score(self) -> Score {
        let ttl = if self.total > 0 { self.against } else { self.in_favour };
        Score {
            total: narrow(self.total),
            least: narrow(self.total + self.down),
            most: narrow(self.total + self.up),
            outstanding: self.outstanding,
            worst: self.worst.map(|(_, site)| site),
            pass_ttl: ttl.map(|seconds| Duration::from_secs(u64::from(seconds))),
        }
    }
}

/// The nearest `i32`.
fn narrow(wide: i64) -> i32 {
    i32::try_from(wide).unwrap_or(if wide < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn lists(text: &str) -> Lists {
        Lists::of(&parse_list(text).unwrap())
    }

    /// What the list at `index` says when its answer holds these addresses.
    fn said(lists: &Lists, index: usize, addresses: &[[u8; 4]], ttl: u32) -> Word {
        let addresses: Vec<Ipv4Addr> = addresses.iter().map(|&octets| octets.into()).collect();
        Word::Said { hits: lists.as_slice()[index].hear(&addresses).unwrap(), ttl: Some(ttl) }
    }

    #[test]
    fn a_score_is_small() {
        assert!(size_of::<Score>() <= 32, "{}", size_of::<Score>());
    }

    #[test]
    fn sites_of_one_zone_share_a_question() {
        let lists = lists("a.test=127.0.0.2*3 b.test a.test=127.0.0.[4..7]*2");
        let shape: Vec<_> = lists
            .as_slice()
            .iter()
            .map(|list| (list.zone.as_str(), list.pairs.iter().map(|p| p.site).collect()))
            .collect();
        assert_eq!(shape, [("a.test", vec![0, 2]), ("b.test", vec![1])]);
    }

    #[test]
    fn a_site_adds_its_weight_once() {
        let lists = lists("a.test=127.0.0.[2..11]*3, a.test=127.0.0.4*2, a.test=127.0.1.1*7");
        let word = said(&lists, 0, &[[127, 0, 0, 2], [127, 0, 0, 4], [127, 0, 0, 10]], 60);
        assert_eq!(lists.score([word]).total, 5);
    }

    #[test]
    fn errors_of_the_list_are_never_hits() {
        let all = lists("a.test=[0..255].[0..255].[0..255].[0..255] b.test");
        for list in all.as_slice() {
            let hear = |octets: [u8; 4]| list.hear(&[octets.into()]);
            assert_eq!(hear([127, 255, 255, 254]), Err(Unbelievable::ErrorCode(254)));
            assert_eq!(hear([127, 255, 255, 0]), Err(Unbelievable::ErrorCode(0)));
            assert_eq!(hear([203, 0, 113, 7]), Err(Unbelievable::Outside));
            assert_eq!(hear([0, 0, 0, 0]), Err(Unbelievable::Outside));
            assert!(hear([127, 255, 254, 254]).unwrap().has(0));
            assert!(hear([127, 0, 0, 1]).unwrap().has(0));
            assert_eq!(
                list.hear(&[[127, 0, 0, 2].into(), [127, 255, 255, 252].into()]),
                Err(Unbelievable::ErrorCode(252)),
                "one bad address spoils the answer"
            );
        }
    }

    #[test]
    fn bounds_follow_what_is_outstanding() {
        let lists = lists("a.test*3 b.test*2 w.test*-4");
        let none = lists.score([]);
        assert_eq!((none.total, none.least, none.most, none.outstanding), (0, -4, 5, 3));
        assert_eq!(none.decided(3), None);
        assert_eq!(none.decided(6), Some(false), "cannot be reached any more");

        let listed = lists.score([said(&lists, 0, &[[127, 0, 0, 2]], 60)]);
        assert_eq!((listed.total, listed.least, listed.most, listed.outstanding), (3, -1, 5, 2));
        assert_eq!(listed.decided(3), None, "the allow list may still speak for it");

        let miss = said(&lists, 2, &[], 60);
        let two = lists.score([said(&lists, 0, &[[127, 0, 0, 2]], 60), Word::Outstanding, miss]);
        assert_eq!((two.total, two.least, two.most), (3, 3, 5));
        assert_eq!(two.decided(3), Some(true));

        let gone = lists.score([Word::LeftOut, Word::LeftOut, miss]);
        assert_eq!((gone.total, gone.least, gone.most, gone.outstanding), (0, 0, 0, 0));
    }

    #[test]
    fn worst_is_the_largest_single_weight_that_hit() {
        let lists = lists("a.test*2 b.test*5 c.test*5 w.test*-9");
        let hit = |index| said(&lists, index, &[[127, 0, 0, 2]], 60);
        assert_eq!(lists.score([hit(0)]).worst, Some(0));
        assert_eq!(lists.score([hit(0), hit(1), hit(2), hit(3)]).worst, Some(1), "the first of equals");
        assert_eq!(lists.score([Word::LeftOut, Word::LeftOut, Word::LeftOut, hit(3)]).worst, None);
    }

    #[test]
    fn pass_ttl_is_the_minimum_of_the_side_that_won() {
        let lists = lists("a.test*3 b.test*3 w.test*-1 v.test*-1");
        let hit = |index, ttl| said(&lists, index, &[[127, 0, 0, 2]], ttl);
        let miss = |index, ttl| said(&lists, index, &[], ttl);
        let seconds = |words: [Word; 4]| lists.score(words).pass_ttl.map(|ttl| ttl.as_secs());

        // Against: a's hit (300) and w's miss (200). In favour: b's miss (50) and v's hit (40).
        assert_eq!(seconds([hit(0, 300), miss(1, 50), miss(2, 200), hit(3, 40)]), Some(200));
        // No hits that add: in favour are the misses of a (70) and b (80) and the hit of v (90).
        assert_eq!(seconds([miss(0, 70), miss(1, 80), miss(2, 10), hit(3, 90)]), Some(70));
        // Nothing in.
        assert_eq!(seconds([Word::LeftOut; 4]), None);
        // An answer without a TTL has no part in it.
        let silent = Word::Said { hits: Hits::default(), ttl: None };
        assert_eq!(seconds([silent, miss(1, 80), Word::LeftOut, Word::LeftOut]), Some(80));
    }

    #[test]
    fn weights_do_not_overflow() {
        let lists = lists("a.test*2147483647 b.test*2147483647 c.test*-2147483648 d.test*-2147483648");
        let hit = |index| said(&lists, index, &[[127, 0, 0, 2]], 60);
        assert_eq!(lists.score([hit(0), hit(1), Word::LeftOut, Word::LeftOut]).total, i32::MAX);
        assert_eq!(lists.score([]).least, i32::MIN);
    }

    #[test]
    fn debug_does_not_show_the_zone() {
        let site = Site::parse("sekrit.zen.test").unwrap().named("zen.test");
        let shown = format!("{:?} {:?}", site, Lists::of(std::slice::from_ref(&site)));
        assert!(shown.contains("zen.test") && !shown.contains("sekrit"), "{shown}");
    }

    proptest! {
        /// However the answers come in, the final total stays within the bounds that were given at each step.
        #[test]
        fn bounds_hold(answers in proptest::collection::vec((0u8..=3, 0u8..=3, any::<bool>()), 4)) {
            let lists = lists("a.test=127.0.[0..2].0*3 a.test=127.0.1.[1..2]*-2 b.test*2 c.test=127.0.3.3*-5 d.test*1");
            let words: Vec<Word> = answers
                .iter()
                .enumerate()
                .map(|(index, &(x, y, listed))| {
                    let addresses = [[127, 0, x, y]];
                    said(&lists, index, if listed { &addresses } else { &[] }, 60)
                })
                .collect();
            let last = lists.score(words.iter().copied());
            prop_assert_eq!((last.total, last.total, 0), (last.least, last.most, last.outstanding));
            for known in 0..=words.len() {
                let score = lists.score(words.iter().copied().take(known));
                prop_assert!(score.least <= last.total && last.total <= score.most);
                for threshold in -6..8 {
                    if let Some(reached) = score.decided(threshold) {
                        prop_assert_eq!(reached, last.total >= threshold);
                    }
                }
            }
        }
    }
}
