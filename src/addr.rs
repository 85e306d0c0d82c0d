//! Addresses as gatepost counts them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The address that counts: an IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) is the IPv4 client that it stands for.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// The unit in which a client is remembered and counted: an IPv4 address as itself, an IPv6 address as its /64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ClientKey {
    /// One IPv4 address.
    V4(u32),
    /// The upper 64 bits of an IPv6 address.
    V6(u64),
}

impl ClientKey {
    /// The key of `ip`, after [`canonical`].
    pub fn of(ip: IpAddr) -> Self {
        match canonical(ip) {
            IpAddr::V4(v4) => Self::V4(u32::from(v4)),
            IpAddr::V6(v6) => Self::V6((u128::from(v6) >> 64) as u64),
        }
    }

    /// The network that the key stands for: a /32 or a /64.
    pub fn network(self) -> IpNet {
        match self {
            Self::V4(bits) => Ipv4Net::from(Ipv4Addr::from(bits)).into(),
            Self::V6(bits) => Ipv6Net::new_assert(Ipv6Addr::from(u128::from(bits) << 64), 64).into(),
        }
    }
}

impl ClientKey {
    /// The key as one word of fixed form: `4` or `6`, and its bits in hexadecimal.
    pub fn word(self) -> String {
        match self {
            Self::V4(bits) => format!("4{bits:08x}"),
            Self::V6(bits) => format!("6{bits:016x}"),
        }
    }

    /// What [`Self::word`] wrote.
    pub fn of_word(word: &str) -> Option<Self> {
        let hex = |digits: &str, length| {
            let sound = digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            sound.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        match word.split_at_checked(1)? {
            ("4", digits) => Some(Self::V4(u32::try_from(hex(digits, 8)?).ok()?)),
            ("6", digits) => Some(Self::V6(hex(digits, 16)?)),
            _ => None,
        }
    }

    /// The wider network that automatic action may reach at most: an IPv4 /24, an IPv6 /48.
    pub fn neighbourhood(self) -> IpNet {
        match self {
            Self::V4(bits) => Ipv4Net::new_assert(Ipv4Addr::from(bits & 0xffff_ff00), 24).into(),
            Self::V6(bits) => {
                Ipv6Net::new_assert(Ipv6Addr::from(u128::from(bits & 0xffff_ffff_ffff_0000) << 64), 48).into()
            }
        }
    }
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(bits) => Ipv4Addr::from(*bits).fmt(f),
            Self::V6(_) => self.network().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_the_networks_that_they_stand_for() {
        for (ip, printed, network) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1/32"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2::/64"),
            ("::1", "::/64", "::/64"),
            ("::192.0.2.1", "::/64", "::/64"),
        ] {
            let key = ClientKey::of(ip.parse().unwrap());
            assert_eq!(key.to_string(), printed, "{ip}");
            assert_eq!(key.network(), network.parse().unwrap(), "{ip}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_the_address(v4: Ipv4Addr) {
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            prop_assert_eq!(canonical(mapped), IpAddr::V4(v4));
            prop_assert_eq!(ClientKey::of(mapped), ClientKey::of(v4.into()));
            prop_assert_eq!(ClientKey::of(mapped), ClientKey::V4(v4.into()));
        }

        #[test]
        fn a_key_is_read_as_it_was_written_and_is_in_its_neighbourhood(ip: IpAddr, text: String) {
            let key = ClientKey::of(ip);
            prop_assert_eq!(ClientKey::of_word(&key.word()), Some(key));
            prop_assert!(key.neighbourhood().contains(&key.network()));
            let _ = ClientKey::of_word(&text);
        }

        #[test]
        fn a_client_is_in_its_network(ip: IpAddr) {
            let key = ClientKey::of(ip);
            prop_assert!(key.network().contains(&canonical(ip)));
            prop_assert_eq!(ClientKey::of(key.network().addr()), key);
        }

        #[test]
        fn ipv6_clients_are_one_by_their_upper_half(upper: u64, a: u64, b: u64) {
            // The lowest network is left out: it holds the mapped addresses, each a client of its own.
            prop_assume!(upper != 0);
            let key = |lower: u64| ClientKey::of(Ipv6Addr::from(u128::from(upper) << 64 | u128::from(lower)).into());
            prop_assert_eq!(key(a), key(b));
            prop_assert_ne!(key(a), ClientKey::V6(upper ^ 1));
        }
    }
}
