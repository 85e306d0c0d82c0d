//! How many sessions at once, per client and in all.

use std::net::IpAddr;
use std::sync::Arc;

/// The limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Sessions at once of one client (an IPv4 /32, an IPv6 /64); allow-listed clients are exempt.
    pub per_client: u32,
    /// Sessions at once in all.
    pub total: u32,
}

/// Counts the sessions that are open. Shared by reference.
#[derive(Debug)]
pub struct Sessions {}

/// A counted session; uncounted when dropped.
#[derive(Debug)]
pub struct Place {}

/// Why a session is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The client has too many open.
    Client,
    /// All places are taken.
    Total,
}

impl Sessions {
    /// Nobody is there.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {})
    }

    /// Takes a place for `client`, under `limits`; `exempt` clients are counted in all but not per client.
    pub fn enter(self: &Arc<Self>, _client: IpAddr, _limits: Settings, _exempt: bool) -> Result<Place, Full> {
        todo!()
    }

    /// How many sessions are open.
    pub fn open(&self) -> u32 {
        todo!()
    }
}
