//! The access list: networks that are allowed, denied or tested. First match wins, as in postscreen.
//!
//! | entries, in order | client | what is said |
//! | --- | --- | --- |
//! | `192.0.2.1` allow, `192.0.2.0/24` deny | 192.0.2.1 | allow |
//! | `192.0.2.0/24` deny, `192.0.2.1` allow | 192.0.2.1 | deny: the first one matches |
//! | `192.0.2.1` test, `192.0.2.0/24` deny | 192.0.2.1 | test, whatever follows |
//! | none matches | any | test |
//!
//! An IPv4 client that comes as IPv4-mapped IPv6 is the IPv4 client, and so are entries within `::ffff:0:0/96`. Wider
//! IPv6 networks, `::/0` too, say nothing of IPv4 clients.

use std::net::IpAddr;

use ipnet::IpNet;

use super::network;
use crate::addr;

/// What the list says of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Every test counts as passed: handed off at once.
    Allow,
    /// Turned away at accept.
    Deny,
    /// Tested like any stranger, whatever a later entry says.
    Test,
}

/// An ordered list of networks.
///
/// Made once, asked on every accept: the networks are flattened into the ranges between which the answer changes, so
/// that a look-up is one binary search. Two lists are equal if they say the same of every client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessList {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl AccessList {
    /// The list of `entries`, in order.
    pub fn new(entries: Vec<(IpNet, Access)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (rank, (net, access)) in entries.into_iter().enumerate() {
            match network::canonical(net) {
                IpNet::V4(net) => {
                    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    v4.push(Span { first, last, rank, access });
                }
                IpNet::V6(net) => {
                    let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                    v6.push(Span { first, last, rank, access });
                }
            }
        }
        Self {
            v4: Ranges::flatten(v4, |last| last.checked_add(1)),
            v6: Ranges::flatten(v6, |last| last.checked_add(1)),
        }
    }

    /// What the first matching entry says of `client`; [`Access::Test`] if none matches.
    pub fn look_up(&self, client: IpAddr) -> Access {
        match addr::canonical(client) {
            IpAddr::V4(v4) => self.v4.at(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.at(v6.to_bits()),
        }
    }
}

/// The addresses of one network, and its place in the list.
struct Span<T> {
    first: T,
    last: T,
    rank: usize,
    access: Access,
}

/// Where the answer changes, in order: from each address on, up to the next one, the list says that.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ranges<T> {
    /// The answers apart from the addresses, so that a search touches little memory.
    from: Vec<T>,
    says: Vec<Access>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self { from: Vec::new(), says: Vec::new() }
    }
}

impl<T: Copy + Ord> Ranges<T> {
    /// Any two networks are apart, or one lies within the other; so, in order of their first addresses, those around the
    /// present address are a stack. Each level of it holds the earliest entry up to there, which is the first match.
    fn flatten(mut spans: Vec<Span<T>>, after: impl Fn(T) -> Option<T>) -> Self {
        spans.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)).then(a.rank.cmp(&b.rank)));
        let mut ranges = Self::default();
        let mut around: Vec<Span<T>> = Vec::new();
        for mut span in spans {
            ranges.leave(&mut around, Some(span.first), &after);
            if let Some(outer) = around.last().filter(|outer| outer.rank < span.rank) {
                (span.rank, span.access) = (outer.rank, outer.access);
            }
            ranges.change(span.first, span.access);
            around.push(span);
        }
        ranges.leave(&mut around, None, &after);
        ranges
    }

    /// Takes those off the stack that end before `next`; all of them if there is none.
    fn leave(&mut self, around: &mut Vec<Span<T>>, next: Option<T>, after: &impl Fn(T) -> Option<T>) {
        while let Some(inner) = around.pop_if(|inner| next.is_none_or(|next| inner.last < next)) {
            let outside = around.last().map_or(Access::Test, |outer| outer.access);
            if let Some(from) = after(inner.last) {
                self.change(from, outside);
            }
        }
    }

    /// From `from` on, the list says `access`. A later word about the same address counts; one that changes nothing is
    /// left out.
    fn change(&mut self, from: T, access: Access) {
        if self.from.last() == Some(&from) {
            self.from.pop();
            self.says.pop();
        }
        if self.says.last().copied().unwrap_or(Access::Test) != access {
            self.from.push(from);
            self.says.push(access);
        }
    }

    fn at(&self, address: T) -> Access {
        let behind = self.from.partition_point(|&from| from <= address);
        behind.checked_sub(1).and_then(|at| self.says.get(at)).copied().unwrap_or(Access::Test)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[(&str, Access)]) -> AccessList {
        AccessList::new(entries.iter().map(|&(net, access)| (net.parse().unwrap(), access)).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_match_wins() {
        use Access::{Allow, Deny, Test};
        type Case<'a> = (&'a [(&'a str, Access)], &'a str, Access);
        let cases: &[Case<'_>] = &[
            (&[], "192.0.2.1", Test),
            (&[("192.0.2.1/32", Allow), ("192.0.2.0/24", Deny)], "192.0.2.1", Allow),
            (&[("192.0.2.1/32", Allow), ("192.0.2.0/24", Deny)], "192.0.2.2", Deny),
            (&[("192.0.2.0/24", Deny), ("192.0.2.1/32", Allow)], "192.0.2.1", Deny),
            (&[("192.0.2.1/32", Test), ("192.0.2.0/24", Deny)], "192.0.2.1", Test),
            (&[("192.0.2.0/24", Deny), ("192.0.2.0/24", Allow)], "192.0.2.9", Deny),
            (&[("192.0.2.0/24", Deny)], "192.0.1.255", Test),
            (&[("192.0.2.0/24", Deny)], "192.0.2.0", Deny),
            (&[("192.0.2.0/24", Deny)], "192.0.2.255", Deny),
            (&[("192.0.2.0/24", Deny)], "192.0.3.0", Test),
            (&[("0.0.0.0/0", Deny)], "255.255.255.255", Deny),
            (&[("0.0.0.0/0", Deny)], "2001:db8::1", Test),
            (&[("::/0", Deny)], "2001:db8::1", Deny),
            (&[("::/0", Deny)], "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Deny),
            (&[("::/0", Deny)], "192.0.2.1", Test),
            (&[("::/0", Deny)], "::ffff:192.0.2.1", Test),
            (&[("192.0.2.0/24", Deny)], "::ffff:192.0.2.1", Deny),
            (&[("::ffff:192.0.2.0/120", Deny)], "192.0.2.1", Deny),
            (&[("2001:db8::/64", Allow), ("2001:db8::/32", Deny)], "2001:db8::1", Allow),
            (&[("2001:db8::/64", Allow), ("2001:db8::/32", Deny)], "2001:db8:0:1::", Deny),
            (&[("192.0.2.77/24", Deny)], "192.0.2.1", Deny),
        ];
        for (entries, client, says) in cases {
            assert_eq!(list(entries).look_up(ip(client)), *says, "{client} in {entries:?}");
        }
    }

    #[test]
    fn lists_that_say_the_same_are_equal() {
        let halves = list(&[("192.0.2.0/25", Access::Deny), ("192.0.2.128/25", Access::Deny)]);
        assert_eq!(halves, list(&[("192.0.2.0/24", Access::Deny)]));
        assert_eq!(list(&[("192.0.2.0/25", Access::Test)]), AccessList::default());
    }

    #[test]
    fn ten_thousand_entries_are_asked_by_the_way() {
        let entries = (0..10_000u32).map(|n| {
            let bits = n.wrapping_mul(2_654_435_761);
            let access = if n % 2 == 0 { Access::Deny } else { Access::Allow };
            (IpNet::new(Ipv4Addr::from(bits).into(), 16 + (n % 17) as u8).unwrap(), access)
        });
        let list = AccessList::new(entries.collect());
        assert!(list.v4.from.len() <= 20_000);
        let begin = Instant::now();
        let denied =
            (0..100_000u32).filter(|n| list.look_up(Ipv4Addr::from(n.wrapping_mul(40_503_001)).into()) == Access::Deny);
        let denied = denied.count();
        println!("{denied} denied; {:?} a look-up, unoptimized", begin.elapsed() / 100_000);
        assert!(denied > 0);
    }

    fn access() -> impl Strategy<Value = Access> {
        prop_oneof![Just(Access::Allow), Just(Access::Deny), Just(Access::Test)]
    }

    /// Networks that are likely to lie within one another: few distinct bits, every length.
    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u32..64, 0u8..=32).prop_map(|(bits, length)| {
            IpNet::new(Ipv4Addr::from(bits.wrapping_mul(0x0404_1041)).into(), length).unwrap()
        });
        let v6 = (0u128..64, 0u8..=128).prop_map(|(bits, length)| {
            IpNet::new(Ipv6Addr::from(bits.wrapping_mul(0x0404_0000_0000_1000_0000_0000_0000_1041)).into(), length)
                .unwrap()
        });
        let mapped = (0u32..64, 80u8..=128).prop_map(|(bits, length)| {
            IpNet::new(Ipv4Addr::from(bits.wrapping_mul(0x0404_1041)).to_ipv6_mapped().into(), length).unwrap()
        });
        prop_oneof![v4, v6, mapped]
    }

    /// The definition: look at one entry after the other.
    fn scan(entries: &[(IpNet, Access)], client: IpAddr) -> Access {
        let client = client.to_canonical();
        let found = entries.iter().find(|(net, _)| network::canonical(*net).contains(&client));
        found.map_or(Access::Test, |&(_, access)| access)
    }

    proptest! {
        #[test]
        fn it_says_what_a_scan_says(entries in prop::collection::vec((net(), access()), 0..40)) {
            let list = AccessList::new(entries.clone());
            // Everything that can change happens at the edges of a network.
            for (net, _) in &entries {
                let (first, last) = (net.network(), net.broadcast());
                let around = match (first, last) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => [a.to_bits().wrapping_sub(1), a.to_bits(), b.to_bits(),
                        b.to_bits().wrapping_add(1)].map(|bits| IpAddr::from(Ipv4Addr::from(bits))),
                    (IpAddr::V6(a), IpAddr::V6(b)) => [a.to_bits().wrapping_sub(1), a.to_bits(), b.to_bits(),
                        b.to_bits().wrapping_add(1)].map(|bits| IpAddr::from(Ipv6Addr::from(bits))),
                    _ => unreachable!("a network is of one family"),
                };
                for client in around {
                    prop_assert_eq!(list.look_up(client), scan(&entries, client), "{}", client);
                }
            }
        }
    }
}
