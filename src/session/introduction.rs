//! Introduction: behind a load balancer, the PROXY header that says who the client is. It comes before everything else,
//! exactly once, and from the load balancer alone.
//!
//! ```text
//!  accepted ─┬─ from elsewhere ───────────────────────────────► Fault (Untrusted)
//!            └─ from a trusted network ─► Awaited ─┬─ TCP over IP ────────► Client: recall, as if it had connected here
//!                         (peeked at, not taken)   ├─ LOCAL, UNKNOWN, the
//!                                                  │  connection itself ──► Itself: never as a client
//!                                                  └─ none, broken, late ─► Fault: one reply, closed
//! ```
//!
//! A header is taken once it is whole, and not one byte more: what stands behind it is the client's own, for the pregreet
//! test or the TLS handshake. Until then nothing is taken, so that whoever waits for it needs no buffer. Deadlines are the
//! lot's.

use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use mio::net::TcpStream;

use crate::addr;
use crate::journal::Outcome;
use crate::metrics;
use crate::proxy_header::{self, Header, Invalid, Parsed, V2_PAYLOAD_LIMIT};

/// The longest header that is read: version 2, with its first 16 bytes.
const LONGEST: usize = 16 + V2_PAYLOAD_LIMIT;

/// The load balancers in front of a gate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxies {
    /// The networks that they are in; connections from anywhere else are refused.
    pub from: Vec<IpNet>,
    /// How long they have for the whole header.
    pub patience: Duration,
}

impl Proxies {
    /// Whether a header from `ip` is believed.
    pub(super) fn are_at(&self, ip: IpAddr) -> bool {
        let ip = addr::canonical(ip);
        self.from.iter().any(|network| network.contains(&ip))
    }
}

/// Who was introduced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Introduction {
    /// Nobody yet.
    Awaited,
    /// A client: where it came from, and where it went.
    Client { source: SocketAddr, destination: SocketAddr },
    /// The load balancer speaks for itself, for its own machine, or does not know for whom.
    Itself,
    /// Nobody, and nobody will be.
    Fault(Fault),
}

/// Why nobody was introduced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// From a network that is not trusted.
    Untrusted,
    /// Other bytes, or none in time.
    Missing,
    /// It has the signature, and what follows is wrong.
    Malformed,
    /// Longer than a header is, or than we read.
    TooLong,
    /// It began, and was not whole in time.
    Late,
    /// The connection was closed before it was whole.
    Closed,
}

/// Looks for the header at the front of what `socket` has received from `proxy`, and takes it off if it is whole.
pub(super) fn hear(socket: &TcpStream, proxy: SocketAddr) -> Introduction {
    let mut room = [0; LONGEST];
    let peeked = match peek(socket, &mut room) {
        Ok([]) => return Introduction::Fault(Fault::Closed),
        Ok(peeked) => peeked,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Introduction::Awaited,
        Err(_) => return Introduction::Fault(Fault::Closed),
    };
    let (header, length) = match proxy_header::parse(peeked) {
        Parsed::Complete { header, length, .. } => (header, length),
        Parsed::Incomplete => return Introduction::Awaited,
        Parsed::Invalid(invalid) => return Introduction::Fault(invalid.into()),
    };
    if take(socket, length).is_err() {
        return Introduction::Fault(Fault::Closed);
    }
    introduced(&header, proxy)
}

/// Whether nothing at all has come.
pub(super) fn is_silent(socket: &TcpStream) -> bool {
    !peek(socket, &mut [0]).is_ok_and(|peeked| !peeked.is_empty())
}

fn introduced(header: &Header, proxy: SocketAddr) -> Introduction {
    let canonical = |address: SocketAddr| SocketAddr::new(addr::canonical(address.ip()), address.port());
    match *header {
        Header::Local | Header::Unknown => Introduction::Itself,
        Header::Proxied { source, .. } if !is_a_host(source.ip()) => Introduction::Fault(Fault::Malformed),
        // HAProxy's checks in version 1, which has no word for them: it announces the very connection that it speaks on.
        Header::Proxied { source, .. } if canonical(source) == canonical(proxy) => Introduction::Itself,
        // Somebody on its own machine. That is not ours, and not the MTA's, which would take the address for its own.
        Header::Proxied { source, .. } if is_loopback(source.ip()) && !is_loopback(proxy.ip()) => Introduction::Itself,
        Header::Proxied { source, destination } => {
            Introduction::Client { source: canonical(source), destination: canonical(destination) }
        }
    }
}

/// Whether a connection can come from `ip` at all.
fn is_a_host(ip: IpAddr) -> bool {
    let ip = addr::canonical(ip);
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || is_broadcast)
}

fn is_loopback(ip: IpAddr) -> bool {
    addr::canonical(ip).is_loopback()
}

fn peek<'a>(socket: &TcpStream, room: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let count = loop {
        match socket.peek(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            peeked => break peeked?,
        }
    };
    Ok(room.get(..count).unwrap_or_default())
}

/// Takes `length` bytes that have come.
fn take(mut socket: &TcpStream, length: usize) -> io::Result<()> {
    let mut taken = [0; LONGEST];
    socket.read_exact(taken.get_mut(..length).unwrap_or_default())
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Signature => Self::Missing,
            Invalid::Malformed => Self::Malformed,
            Invalid::TooLong => Self::TooLong,
        }
    }
}

impl Fault {
    /// What it counts as.
    pub(super) fn kind(self) -> metrics::Header {
        match self {
            Self::Untrusted => metrics::Header::Untrusted,
            Self::Missing => metrics::Header::Missing,
            Self::Malformed => metrics::Header::Malformed,
            Self::TooLong => metrics::Header::TooLong,
            Self::Late => metrics::Header::Late,
            Self::Closed => metrics::Header::Closed,
        }
    }

    /// What it means for the visit.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Untrusted => Outcome::Dropped,
            Self::Missing | Self::Malformed | Self::TooLong => Outcome::ProtocolFault,
            Self::Late => Outcome::TimedOut,
            Self::Closed => Outcome::HungUp,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untrusted => "not from a network that `proxy_from` names",
            Self::Missing => "no PROXY header",
            Self::Malformed => "a broken PROXY header",
            Self::TooLong => "a PROXY header that is too long",
            Self::Late => "the PROXY header was not whole in time",
            Self::Closed => "closed before the PROXY header was whole",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(source: &str) -> Introduction {
        let destination = "[::ffff:198.51.100.25]:25".parse().unwrap();
        introduced(&Header::Proxied { source: source.parse().unwrap(), destination }, "10.0.0.5:33000".parse().unwrap())
    }

    #[test]
    fn headers_are_believed_from_these_networks_and_no_other() {
        let from = ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/64"].map(|network| network.parse().unwrap()).to_vec();
        let proxies = Proxies { from, patience: Duration::from_secs(5) };
        for (ip, expected) in [
            ("10.255.255.255", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::ffff", true),
            ("2001:db8:0:1::", false),
            ("::1", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(proxies.are_at(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn a_client_is_a_host_and_has_one_address() {
        let (source, destination) = ("192.0.2.7:40000".parse().unwrap(), "198.51.100.25:25".parse().unwrap());
        assert_eq!(proxied("[::ffff:192.0.2.7]:40000"), Introduction::Client { source, destination });
        for nobody in ["0.0.0.0:1", "[::]:1", "255.255.255.255:1", "224.0.0.1:1", "[ff02::1]:1", "[::ffff:0.0.0.0]:1"] {
            assert_eq!(proxied(nobody), Introduction::Fault(Fault::Malformed), "{nobody}");
        }
        for header in [Header::Local, Header::Unknown] {
            assert_eq!(introduced(&header, "10.0.0.5:33000".parse().unwrap()), Introduction::Itself);
        }
        for itself in ["10.0.0.5:33000", "[::ffff:10.0.0.5]:33000"] {
            assert_eq!(proxied(itself), Introduction::Itself);
        }
        assert!(matches!(proxied("10.0.0.5:33001"), Introduction::Client { .. }), "somebody on the same machine");
    }

    #[test]
    fn the_loopback_of_another_machine_is_nobody_that_an_mta_may_trust() {
        for local in ["127.0.0.1:33001", "127.9.9.9:1", "[::1]:33001", "[::ffff:127.0.0.1]:33001"] {
            assert_eq!(proxied(local), Introduction::Itself, "{local}");
        }
        let here =
            Header::Proxied { source: "127.0.0.1:1".parse().unwrap(), destination: "127.0.0.1:25".parse().unwrap() };
        for proxy in ["127.0.0.5:33000", "[::1]:33000"] {
            let introduced = introduced(&here, proxy.parse().unwrap());
            assert!(matches!(introduced, Introduction::Client { .. }), "{proxy} is on this machine");
        }
    }
}
