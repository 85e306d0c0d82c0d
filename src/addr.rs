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

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(bits) => Ipv4Addr::from(*bits).fmt(f),
            Self::V6(_) => self.network().fmt(f),
        }
    }
}
