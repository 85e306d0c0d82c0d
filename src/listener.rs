//! Listening sockets: bound so that a restart need not wait, a second gatepost is noticed, and every lane gets its share.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections the kernel keeps ready for us (it cuts this to `net.core.somaxconn`). A short queue costs a burst
/// of clients a second each, for their SYN goes unanswered.
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened at, and what would mend it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}: {error}; {}", remedy(.error))]
pub struct CannotListen {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub error: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability CAP_NET_BIND_SERVICE (AmbientCapabilities= in the service) or root"
        }
        io::ErrorKind::AddrInUse => {
            "another program listens there; find it with `ss -ltnp`, and move the MTA to the port that `backend` names"
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address; see `ip address`",
        _ => "see `listen` in the gate's section",
    }
}

/// Whether whoever listens at one of them is in the way of the other.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (everywhere || one.ip() == other.ip())
}

/// Binds `count` sockets to `address`, among which the kernel spreads the clients. Port 0 is one port for all of them.
///
/// `beside_ours` says that an address which [overlaps](overlap) is open in this process already, and may stay so.
pub fn open(address: SocketAddr, count: usize, beside_ours: bool) -> Result<Vec<TcpListener>, CannotListen> {
    try_open(address, count, beside_ours).map_err(|error| CannotListen { address, error })
}

fn try_open(mut address: SocketAddr, count: usize, beside_ours: bool) -> io::Result<Vec<TcpListener>> {
    if !beside_ours {
        // Sockets that share a port also share it with another process that asks for that: two gateposts would each get
        // half of the mail. Binding without sharing first finds out; and finds the port, if the kernel is to choose it.
        let alone: TcpListener = bind(address, false)?.into();
        address = alone.local_addr()?;
    }
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        // Shared even by one: an address that a reload adds has to find room beside it.
        let socket = bind(address, true)?;
        // Those that are accepted have it from here. Replies are written whole, so there is nothing that Nagle's algorithm
        // could gather; only delays.
        socket.set_tcp_nodelay(true)?;
        socket.listen(BACKLOG)?;
        let listener: TcpListener = socket.into();
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // So that [::] and 0.0.0.0 can stand side by side, each meaning what it says.
        socket.set_only_v6(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_share_one_port_and_a_stranger_is_noticed() {
        let any = "127.0.0.1:0".parse().unwrap();
        let ours = open(any, 2, false).unwrap();
        let address = ours[0].local_addr().unwrap();
        assert_eq!(ours[1].local_addr().unwrap(), address);
        for count in [1, 2] {
            let taken = open(address, count, false).unwrap_err();
            assert_eq!(taken.error.kind(), io::ErrorKind::AddrInUse);
            assert!(taken.to_string().contains("another program listens there"), "{taken}");
        }
    }

    #[test]
    fn all_addresses_of_a_port_beside_one_of_them() {
        let any = "127.0.0.1:0".parse().unwrap();
        let beside = || {
            let held = open(any, 1, false).unwrap();
            let one = held[0].local_addr().unwrap();
            let all = SocketAddr::from(([0, 0, 0, 0], one.port()));
            assert!(overlap(one, all));
            assert!(open(all, 1, false).is_err(), "who listens at one of them is in the way");
            open(all, 2, true).is_ok()
        };
        // A port that is ours at one address can be somebody else's at another.
        assert!((0..10).any(|_| beside()));
    }

    #[test]
    fn overlap_is_one_port_of_one_family_at_the_same_address_or_everywhere() {
        let rows = [
            ("127.0.0.1:25", "127.0.0.1:25", true),
            ("127.0.0.1:25", "0.0.0.0:25", true),
            ("0.0.0.0:25", "127.0.0.1:25", true),
            ("[::]:25", "[::1]:25", true),
            ("127.0.0.1:25", "127.0.0.2:25", false),
            ("127.0.0.1:25", "0.0.0.0:26", false),
            ("0.0.0.0:25", "[::]:25", false),
        ];
        for (one, other, expected) in rows {
            assert_eq!(overlap(one.parse().unwrap(), other.parse().unwrap()), expected, "{one} {other}");
        }
    }

    #[test]
    fn both_families_on_one_port() {
        let v4 = open("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        let port = v4[0].local_addr().unwrap().port();
        let v6 = SocketAddr::new("::1".parse().unwrap(), port);
        match open(v6, 1, false) {
            Ok(_) => {}
            Err(error) => assert_ne!(error.error.kind(), io::ErrorKind::AddrInUse, "{error}"),
        }
    }
}
