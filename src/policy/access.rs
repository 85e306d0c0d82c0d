//! The access list: networks that are allowed, denied or tested. First match wins, as in postscreen.

use std::net::IpAddr;

use ipnet::IpNet;

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
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessList {
    entries: Vec<(IpNet, Access)>,
}

impl AccessList {
    /// The list of `entries`, in order.
    pub fn new(entries: Vec<(IpNet, Access)>) -> Self {
        Self { entries }
    }

    /// What the first matching entry says of `client`; [`Access::Test`] if none matches. Must be fast with ten thousand
    /// entries: it is asked on every accept.
    pub fn look_up(&self, _client: IpAddr) -> Access {
        todo!()
    }
}
