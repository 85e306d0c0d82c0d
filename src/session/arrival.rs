//! Arrival: a connection is accepted, and we know who it is from.
//!
//! An accept that fails has one of three fates: it was the client's doing (go on), we are short of something (say so,
//! and pause), or the listening socket itself is broken (say so, and pause for longer).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mio::net::{TcpListener, TcpStream};

use super::Gate;
use crate::addr;

/// One listening address of a gate, in one lane.
#[derive(Debug)]
pub struct Door {
    /// The gate behind it; a reload swaps it, for those who come after.
    pub gate: Arc<ArcSwap<Gate>>,
    /// The socket.
    pub listener: TcpListener,
    /// Where it listens.
    pub local: SocketAddr,
}

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Arrival {
    pub socket: TcpStream,
    pub client: SocketAddr,
    pub local: SocketAddr,
    /// The load balancer that announced the client, if one did.
    pub proxy: Option<SocketAddr>,
}

/// What became of an attempt to accept.
#[derive(Debug)]
pub(super) enum Accepted {
    /// Somebody came.
    Client(Arrival),
    /// Nobody is waiting.
    Nobody,
    /// Somebody came and went: go on.
    Gone,
    /// Nothing can be accepted for this long.
    Pause(Duration, io::Error),
}

impl Door {
    /// Accepts one connection, without waiting.
    pub(super) fn accept(&self) -> Accepted {
        self.accepted(self.listener.accept())
    }

    /// What came of accepting one.
    pub(super) fn accepted(&self, accepted: io::Result<(TcpStream, SocketAddr)>) -> Accepted {
        match accepted {
            Ok((socket, client)) => self.arrive(socket, client),
            Err(error) => fate(error),
        }
    }

    fn arrive(&self, socket: TcpStream, client: SocketAddr) -> Accepted {
        // A socket bound to one address tells us nothing new; on 0.0.0.0 or :: the client chose the address.
        let local =
            if self.local.ip().is_unspecified() { socket.local_addr().unwrap_or(self.local) } else { self.local };
        let canonical = |address: SocketAddr| SocketAddr::new(addr::canonical(address.ip()), address.port());
        Accepted::Client(Arrival { socket, client: canonical(client), local: canonical(local), proxy: None })
    }
}

fn fate(error: io::Error) -> Accepted {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
        PermissionDenied, TimedOut, WouldBlock,
    };
    match error.kind() {
        WouldBlock => Accepted::Nobody,
        // Errors of the connection rather than of the listener (accept(2), “Error handling”); a firewall may forbid one.
        ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted | HostUnreachable
        | NetworkUnreachable | PermissionDenied | TimedOut => Accepted::Gone,
        _ if is_shortage(&error) => Accepted::Pause(Duration::from_millis(100), error),
        _ => Accepted::Pause(Duration::from_secs(1), error),
    }
}

/// Out of descriptors, in this process or in all, or of memory: passes by itself.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| shortages.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn every_accept_error_has_a_fate() {
        let of = |errno: Errno| fate(io::Error::from_raw_os_error(errno.raw_os_error()));
        for theirs in [Errno::CONNABORTED, Errno::CONNRESET, Errno::INTR, Errno::PERM, Errno::HOSTUNREACH] {
            assert!(matches!(of(theirs), Accepted::Gone), "{theirs}");
        }
        for shortage in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            let Accepted::Pause(pause, _) = of(shortage) else { panic!("{shortage}") };
            assert_eq!(pause, Duration::from_millis(100));
        }
        for ours in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK] {
            let Accepted::Pause(pause, _) = of(ours) else { panic!("{ours}") };
            assert_eq!(pause, Duration::from_secs(1));
        }
        assert!(matches!(of(Errno::AGAIN), Accepted::Nobody));
    }
}
