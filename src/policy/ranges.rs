//! Networks and what is said of each, in order: the first match wins.
//!
//! Made once, asked on every accept: the networks are flattened into the ranges between which the answer changes, and an index
//! over their first bits leaves a look-up a handful of steps of a binary search, however many there are. What no network
//! matches is answered with the default.
//!
//! An IPv4 client that comes as IPv4-mapped IPv6 is the IPv4 client, and so are entries within `::ffff:0:0/96`. Wider IPv6
//! networks, `::/0` too, say nothing of IPv4 clients.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::network;
use crate::addr;

/// What the first match says. Two are equal if they say the same of every client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FirstMatch<V> {
    v4: Ranges<u32, V>,
    v6: Ranges<u128, V>,
}

impl<V: Copy + Eq + Default> FirstMatch<V> {
    /// Of `entries`, in order.
    pub fn new(entries: impl IntoIterator<Item = (IpNet, V)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (rank, (net, says)) in entries.into_iter().enumerate() {
            match network::canonical(net) {
                IpNet::V4(net) => {
                    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    v4.push(Span { first, last, rank, says });
                }
                IpNet::V6(net) => {
                    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    v6.push(Span { first, last, rank, says });
                }
            }
        }
        Self {
            v4: Ranges::flatten(v4, |last| last.checked_add(1)),
            v6: Ranges::flatten(v6, |last| last.checked_add(1)),
        }
    }

    /// What the first matching entry says of `client`; the default if none matches.
    pub fn look_up(&self, client: IpAddr) -> V {
        match addr::canonical(client) {
            IpAddr::V4(v4) => self.v4.at(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.at(v6.to_bits()),
        }
    }

    /// The networks of which `says` is said: as few and as wide as they can be.
    pub fn networks(&self, says: V) -> Vec<IpNet> {
        let v4 = self.v4.spans(says, u32::MAX, |from| from - 1).into_iter();
        let v4 = v4.flat_map(|(first, last)| Ipv4Subnets::new(first.into(), last.into(), 0)).map(IpNet::V4);
        let v6 = self.v6.spans(says, u128::MAX, |from| from - 1).into_iter();
        let v6 = v6.flat_map(|(first, last)| Ipv6Subnets::new(first.into(), last.into(), 0)).map(IpNet::V6);
        v4.chain(v6).collect()
    }

    /// How many ranges it came to.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.v4.from.len() + self.v6.from.len()
    }
}

/// The addresses of one network, and its place in the list.
struct Span<T, V> {
    first: T,
    last: T,
    rank: usize,
    says: V,
}

/// The most buckets of an index.
const BUCKETS: usize = 1 << 16;

/// Where the answer changes, in order: from each address on, up to the next one, that is said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ranges<T, V> {
    /// The answers apart from the addresses, so that a search touches little memory.
    from: Vec<T>,
    says: Vec<V>,
    /// How many of them lie in earlier buckets than each, and in all. A bucket has the addresses that are the same but for
    /// the last `shift` bits, counted from the first of all.
    index: Vec<u32>,
    shift: u32,
}

impl<T, V> Default for Ranges<T, V> {
    fn default() -> Self {
        Self { from: Vec::new(), says: Vec::new(), index: Vec::new(), shift: 0 }
    }
}

impl<T: Copy + Ord + Into<u128>, V: Copy + Eq + Default> Ranges<T, V> {
    /// Any two networks are apart, or one lies within the other; so, in order of their first addresses, those around the
    /// present address are a stack. Each level of it holds the earliest entry up to there, which is the first match.
    fn flatten(mut spans: Vec<Span<T, V>>, after: impl Fn(T) -> Option<T>) -> Self {
        spans.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)).then(a.rank.cmp(&b.rank)));
        let mut ranges = Self::default();
        let mut around: Vec<Span<T, V>> = Vec::new();
        for mut span in spans {
            ranges.leave(&mut around, Some(span.first), &after);
            if let Some(outer) = around.last().filter(|outer| outer.rank < span.rank) {
                (span.rank, span.says) = (outer.rank, outer.says);
            }
            ranges.change(span.first, span.says);
            around.push(span);
        }
        ranges.leave(&mut around, None, &after);
        ranges.make_index();
        ranges
    }

    /// Takes those off the stack that end before `next`; all of them if there is none.
    fn leave(&mut self, around: &mut Vec<Span<T, V>>, next: Option<T>, after: &impl Fn(T) -> Option<T>) {
        while let Some(inner) = around.pop_if(|inner| next.is_none_or(|next| inner.last < next)) {
            let outside = around.last().map_or(V::default(), |outer| outer.says);
            if let Some(from) = after(inner.last) {
                self.change(from, outside);
            }
        }
    }

    /// From `from` on, it is `says` that is said. A later word about the same address counts; one that changes nothing is
    /// left out.
    fn change(&mut self, from: T, says: V) {
        if self.from.last() == Some(&from) {
            self.from.pop();
            self.says.pop();
        }
        if self.says.last().copied().unwrap_or_default() != says {
            self.from.push(from);
            self.says.push(says);
        }
    }

    /// The first and the last address of each range of which `says` is said; `end` is the last of all.
    fn spans(&self, says: V, end: T, before: impl Fn(T) -> T) -> Vec<(T, T)> {
        let next = self.from.iter().skip(1).map(|&from| before(from)).chain([end]);
        let spans = self.from.iter().copied().zip(next).zip(&self.says);
        spans.filter(|(_, said)| **said == says).map(|(span, _)| span).collect()
    }

    fn make_index(&mut self) {
        let (Some(&first), Some(&last)) = (self.from.first(), self.from.last()) else { return };
        let width = u128::BITS - offset(first, last).leading_zeros();
        let bits = self.from.len().next_power_of_two().min(BUCKETS).trailing_zeros();
        self.shift = width.saturating_sub(bits);
        let bucket = |from: &T| bucket(first, *from, self.shift);
        let mut behind = 0;
        for number in 0..=bucket(&last) {
            self.index.push(u32::try_from(behind).unwrap_or(u32::MAX));
            let rest = self.from.get(behind..).unwrap_or_default();
            behind += rest.iter().take_while(|from| bucket(from) == number).count();
        }
        self.index.push(u32::try_from(behind).unwrap_or(u32::MAX));
    }

    fn at(&self, address: T) -> V {
        let Some(&first) = self.from.first().filter(|first| **first <= address) else { return V::default() };
        let number = bucket(first, address, self.shift);
        let earlier = |number: usize| self.index.get(number).map(|&behind| behind as usize);
        // Behind the last bucket, the last word counts.
        let behind = match (earlier(number), earlier(number.saturating_add(1))) {
            (Some(begin), Some(end)) => {
                let inside = self.from.get(begin..end).unwrap_or_default();
                begin + inside.partition_point(|&from| from <= address)
            }
            _ => self.from.len(),
        };
        behind.checked_sub(1).and_then(|at| self.says.get(at)).copied().unwrap_or_default()
    }
}

/// How far behind `first` an address lies.
fn offset<T: Into<u128>>(first: T, address: T) -> u128 {
    address.into().wrapping_sub(first.into())
}

fn bucket<T: Into<u128>>(first: T, address: T, shift: u32) -> usize {
    // A width of 128 bits is shifted by less, for there is a bucket for a bit at least.
    usize::try_from(offset(first, address).checked_shr(shift).unwrap_or(0)).unwrap_or(usize::MAX)
}
