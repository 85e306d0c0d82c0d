//! PROXY headers, written and read without the crate's own code, so that the two can be held against each other.
//!
//! The format is HAProxy's `proxy-protocol.txt`: version 1 is a line of text, version 2 a binary header.

use std::io::{self, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 1 line for a TCP connection. Both addresses must be of one family.
pub fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
        .into_bytes()
}

/// A version 2 header for a TCP connection. Both addresses must be of one family.
pub fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (family, addresses) = match (source, destination) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => (0x11, [from.ip().octets(), to.ip().octets()].concat()),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => (0x21, [from.ip().octets(), to.ip().octets()].concat()),
        _ => panic!("a PROXY header has one family, not {source} and {destination}"),
    };
    let mut header = SIGNATURE.to_vec();
    header.extend([0x21, family]);
    header.extend((addresses.len() as u16 + 4).to_be_bytes());
    header.extend(addresses);
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

/// A version 2 header that speaks for the sender itself, as health checks do.
pub fn v2_local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0][..]].concat()
}

/// What a header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// 1 or 2.
    pub version: u8,
    /// Source and destination; none for `UNKNOWN` and for `LOCAL`.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// What gatepost's own TLV (0xE0) says of the visit, if there is one.
    pub visit: Option<Visit>,
}

/// A visit, as the TLV tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Its id, in ASCII.
    pub id: [u8; 11],
    /// The lists' score.
    pub score: Option<i32>,
}

/// Reads one header, and not one byte more, from the front of a stream.
pub fn read(stream: &mut impl Read) -> io::Result<Announced> {
    let mut front = [0; 12];
    stream.read_exact(&mut front)?;
    if &front == SIGNATURE { read_v2(stream) } else { read_v1(stream, &front) }
}

fn read_v1(stream: &mut impl Read, front: &[u8]) -> io::Result<Announced> {
    let mut line = front.to_vec();
    while !line.ends_with(b"\r\n") {
        // 107 bytes is the longest line the document allows.
        if line.len() >= 107 {
            return Err(bad("no end of line"));
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    let line = String::from_utf8(line).map_err(|_| bad("not text"))?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    let addresses = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4" | "TCP6", from, to, from_port, to_port] => {
            Some((socket(from, from_port)?, socket(to, to_port)?))
        }
        _ => return Err(bad("not a PROXY line")),
    };
    Ok(Announced { version: 1, addresses, visit: None })
}

fn read_v2(stream: &mut impl Read) -> io::Result<Announced> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
    stream.read_exact(&mut body)?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let mut tlvs: &[u8] = &[];
    let addresses = match (head[0], head[1]) {
        (0x20, _) => None,
        (0x21, 0x11) if body.len() >= 12 => {
            let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&body[at..at + 4]).expect("four bytes"));
            tlvs = &body[12..];
            Some(((ip(0), port(8)).into(), (ip(4), port(10)).into()))
        }
        (0x21, 0x21) if body.len() >= 36 => {
            let ip = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&body[at..at + 16]).expect("sixteen bytes"));
            tlvs = &body[36..];
            Some(((ip(0), port(32)).into(), (ip(16), port(34)).into()))
        }
        _ => return Err(bad("an unknown kind of version 2 header")),
    };
    let mut visit = None;
    while let [kind, high, low, rest @ ..] = tlvs {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = rest.split_at_checked(length).ok_or_else(|| bad("a TLV that is cut short"))?;
        if *kind == 0xe0 {
            visit = Some(read_visit(value)?);
        }
        tlvs = behind;
    }
    if !tlvs.is_empty() {
        return Err(bad("half a TLV"));
    }
    Ok(Announced { version: 2, addresses, visit })
}

fn read_visit(value: &[u8]) -> io::Result<Visit> {
    let id = |id: &[u8]| <[u8; 11]>::try_from(id).expect("eleven bytes");
    match value.len() {
        12 if value[0] == 1 => Ok(Visit { id: id(&value[1..]), score: None }),
        16 if value[0] == 1 => {
            let score = <[u8; 4]>::try_from(&value[12..]).expect("four bytes");
            Ok(Visit { id: id(&value[1..12]), score: Some(i32::from_be_bytes(score)) })
        }
        _ => Err(bad("another layout of the TLV")),
    }
}

fn socket(ip: &str, port: &str) -> io::Result<SocketAddr> {
    let ip = ip.parse().map_err(|_| bad("not an address"))?;
    let port = port.parse().map_err(|_| bad("not a port"))?;
    Ok(SocketAddr::new(ip, port))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("PROXY header: {what}"))
}
