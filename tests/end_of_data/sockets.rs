//! What the kernel knows of TCP connections over IPv4: `/proc/net/tcp`.

use std::fs;
use std::net::SocketAddr;

/// Whether the socket at `local` whose other end is `remote` has nothing more to be read, or is not there.
pub fn all_read(local: SocketAddr, remote: SocketAddr) -> bool {
    let (local, remote) = (written(local), written(remote));
    !rows().any(|row| row.local == local && row.remote == remote && row.unread)
}

/// Whether a server at `address` has a connection that it has not closed yet.
pub fn has_visitors(address: SocketAddr) -> bool {
    let address = written(address);
    rows().any(|row| row.local == address && row.open)
}

struct Row {
    local: String,
    remote: String,
    /// The other side may have closed; this one has not.
    open: bool,
    unread: bool,
}

fn rows() -> impl Iterator<Item = Row> {
    let text = fs::read_to_string("/proc/net/tcp").expect("a Linux system");
    let rows: Vec<Row> = text.lines().skip(1).filter_map(row).collect();
    rows.into_iter()
}

fn row(line: &str) -> Option<Row> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (words.next()?.to_owned(), words.next()?.to_owned());
    // ESTABLISHED, SYN_RECV, CLOSE_WAIT.
    let open = matches!(words.next()?, "01" | "03" | "08");
    let (_, unread) = words.next()?.split_once(':')?;
    Some(Row { local, remote, open, unread: unread != "00000000" })
}

/// As the kernel writes it: the address as a number in the machine's own order.
fn written(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}
