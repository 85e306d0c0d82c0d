//! Many clients on one machine: each has a loopback address of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// The address of the `n`th client of 127.`net`.0.0/16.
pub(super) fn address(net: u8, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, net, 0, 0).to_bits() | (n + 1) & 0xffff)
}

/// A socket of that client, bound, and not connected yet. `kind` is `Type::STREAM`, or the same for one that does not block.
pub(super) fn socket(kind: Type, net: u8, n: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.bind(&SocketAddr::from((address(net, n), 0)).into())?;
    Ok(socket)
}
