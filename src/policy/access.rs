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

use super::ranges::FirstMatch;

/// What the list says of a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Every test counts as passed: handed off at once.
    Allow,
    /// Turned away at accept.
    Deny,
    /// Tested like any stranger, whatever a later entry says.
    #[default]
    Test,
}

/// An ordered list of networks. Two lists are equal if they say the same of every client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessList(FirstMatch<Access>);

impl AccessList {
    /// The list of `entries`, in order.
    pub fn new(entries: Vec<(IpNet, Access)>) -> Self {
        Self(FirstMatch::new(entries))
    }

    /// The networks that are allowed.
    pub fn allowed(&self) -> Vec<IpNet> {
        self.0.networks(Access::Allow)
    }

    /// What the first matching entry says of `client`; [`Access::Test`] if none matches.
    pub fn look_up(&self, client: IpAddr) -> Access {
        self.0.look_up(client)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::time::Instant;

    use proptest::prelude::*;

    use super::super::network;
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
        assert!(list.0.len() <= 20_000);
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

    #[test]
    fn the_allowed_are_told_as_networks() {
        let net = |text: &str| network::parse(text).unwrap();
        let list = AccessList::new(vec![
            (net("192.0.2.64/26"), Access::Deny),
            (net("192.0.2.0/24"), Access::Allow),
            (net("2001:db8::/32"), Access::Allow),
            (net("255.255.255.255"), Access::Allow),
        ]);
        let allowed = ["192.0.2.0/26", "192.0.2.128/25", "255.255.255.255/32", "2001:db8::/32"].map(net);
        assert_eq!(list.allowed(), allowed);
        assert_eq!(AccessList::default().allowed(), []);
        assert_eq!(AccessList::new(vec![(net("::/0"), Access::Allow)]).allowed(), [net("::/0")]);
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
