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

/// Binds `count` sockets to `address`, among which the kernel spreads the clients. Port 0 is one port for all of them.
pub fn open(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, CannotListen> {
    try_open(address, count).map_err(|error| CannotListen { address, error })
}

fn try_open(mut address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    if count > 1 {
        // Sockets that share a port also share it with another process that asks for that: two gateposts would each get
        // half of the mail. Binding without sharing first finds out; and finds the port, if the kernel is to choose it.
        address = bind(address, false)?.local_addr()?;
    }
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let listener = bind(address, count > 1)?;
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
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
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_share_one_port_and_a_stranger_is_noticed() {
        let any = "127.0.0.1:0".parse().unwrap();
        let ours = open(any, 2).unwrap();
        let address = ours[0].local_addr().unwrap();
        assert_eq!(ours[1].local_addr().unwrap(), address);
        for count in [1, 2] {
            let taken = open(address, count).unwrap_err();
            assert_eq!(taken.error.kind(), io::ErrorKind::AddrInUse);
            assert!(taken.to_string().contains("another program listens there"), "{taken}");
        }
    }

    #[test]
    fn both_families_on_one_port() {
        let v4 = open("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let port = v4[0].local_addr().unwrap().port();
        let v6 = SocketAddr::new("::1".parse().unwrap(), port);
        match open(v6, 1) {
            Ok(_) => {}
            Err(error) => assert_ne!(error.error.kind(), io::ErrorKind::AddrInUse, "{error}"),
        }
    }
}
