//! The backend: reaching the MTA, telling it who the client is, knowing what it offers.

use std::net::SocketAddr;
use std::time::Duration;

use crate::proxy_header::Version;

/// How the backend learns of the client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announce {
    /// By a PROXY header.
    Proxy(Version),
    /// Not at all: to the backend, gatepost is the client. Only where the operator accepts that in the file.
    Nothing,
}

/// Where the backend is and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `host:port`; a name is looked up anew for each connection.
    pub address: String,
    /// How it learns of the client.
    pub announce: Announce,
    /// How long connecting may take, name look-up included.
    pub connect_timeout: Duration,
    /// How long the backend may take for its greeting, and for each reply of the replay.
    pub reply_timeout: Duration,
    /// Every how often its EHLO keywords are asked for.
    pub probe_interval: Duration,
}

/// One client's connection, as the backend is to hear of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visitor {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port that it connected to.
    pub local: SocketAddr,
}
