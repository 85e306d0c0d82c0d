//! What the kernel knows of TCP connections over IPv4: `/proc/net/tcp`.

use std::fs;
use std::net::SocketAddr;

use memchr::memmem;

/// Whether the socket at `local` whose other end is `remote` has nothing more to be read, or is not there.
pub fn all_read(local: SocketAddr, remote: SocketAddr) -> bool {
    let socket = format!(": {} {} ", written(local), written(remote));
    let table = table();
    // Behind the addresses: the state, and how much waits to be sent and to be read.
    memmem::find(&table, socket.as_bytes()).is_none_or(|at| table[at + socket.len()..][12..].starts_with(b"00000000"))
}

/// Whether a server at `address` has a connection that it has not closed yet.
pub fn has_visitors(address: SocketAddr) -> bool {
    let socket = format!(": {} ", written(address));
    let table = table();
    // ESTABLISHED, SYN_RECV, CLOSE_WAIT.
    let is_open = |state: &[u8]| [b"01", b"03", b"08"].iter().any(|open| state.starts_with(*open));
    memmem::find_iter(&table, socket.as_bytes()).any(|at| is_open(&table[at + socket.len() + "00000000:0000 ".len()..]))
}

fn table() -> Vec<u8> {
    fs::read("/proc/net/tcp").expect("a Linux system")
}

/// As the kernel writes it: the address as a number in the machine's own order.
fn written(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}
