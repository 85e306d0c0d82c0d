//! Loopback ports for programs that must be told theirs beforehand.
//!
//! A port is found by binding port 0 and letting go, so another program can take it before ours binds it. That is rare
//! and cannot be excluded; whoever starts a program on such a port tries again with fresh ones ([`TRIES`]) when the
//! program ends because the address is in use.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// How often a program is started again because its port was taken in between.
pub const TRIES: usize = 5;

/// The words in a program's own log that call for another try.
pub const IN_USE: &str = "in use";

/// Ports already given out by this process: two hosts of one test never get the same, even if neither has bound yet.
static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A loopback address whose port was free a moment ago, for TCP and UDP.
pub fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// A port of 127.0.0.1 that was free a moment ago, for TCP and UDP.
pub fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get_or_insert_default().insert(port) {
            return port;
        }
    }
}
