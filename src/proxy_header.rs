//! The PROXY protocol, versions 1 and 2 (HAProxy, `doc/proxy-protocol.txt`): read and written.

use std::net::SocketAddr;

/// What a PROXY header says of the connection behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Header {
    /// v2 `LOCAL`: the proxy speaks for itself (a health check). The connection's own addresses hold.
    Local,
    /// v1 `UNKNOWN`, or v2 `UNSPEC` / a family that is not TCP over IP: relayed, but nothing is known of the client.
    Unknown,
    /// A client's connection: where it came from and where it went.
    Proxied {
        /// The client's address and port.
        source: SocketAddr,
        /// The address and port that the client connected to.
        destination: SocketAddr,
    },
}

/// Which version of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What stands at the front of `input`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A whole header, and how many bytes it took.
    Complete {
        /// What it says.
        header: Header,
        /// In which version it was said.
        version: Version,
        /// Its length in bytes, TLVs included.
        length: usize,
    },
    /// The beginning of a header: read on.
    Incomplete,
    /// No header, or a broken one. On a gate that expects one, the connection ends.
    Invalid(Invalid),
}

/// Why bytes are not a PROXY header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    /// Neither signature.
    #[error("neither a v1 nor a v2 PROXY signature")]
    Signature,
    /// A v1 line of more than 107 bytes, or a v2 header longer than we read.
    #[error("PROXY header too long")]
    TooLong,
    /// The signature is right and what follows is not.
    #[error("malformed PROXY header")]
    Malformed,
}

/// Reads the header at the front of `input`. Chunking never matters: more bytes turn `Incomplete` into something else,
/// and never change another answer.
pub fn parse(_input: &[u8]) -> Parsed {
    todo!()
}

/// Writes a header that tells a backend of a client (or [`Header::Local`]; in v1 that is `UNKNOWN`).
///
/// Where the two addresses are of different families, the IPv4 one is written as IPv4-mapped IPv6.
pub fn write(_out: &mut Vec<u8>, _version: Version, _header: &Header) {
    todo!()
}
