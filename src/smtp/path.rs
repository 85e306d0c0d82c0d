//! Paths, domains and address literals (RFC 5321 §4.1.2, §4.1.3; RFC 6531).

use std::net::IpAddr;

/// A reverse-path or forward-path as a client wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path<'a> {
    /// What stands between the angle brackets (or in their place, where a sloppy client left them out), source route
    /// included. Empty for the null reverse-path `<>`.
    pub mailbox: &'a [u8],
}

/// What a client gave as its name in HELO or EHLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name<'a> {
    /// A syntactically valid domain of two labels or more, a trailing dot allowed.
    Domain(&'a str),
    /// One label, such as `localhost` or `WIN-0A1B2C3D4E5`.
    SingleLabel(&'a str),
    /// An address without brackets.
    BareAddress(IpAddr),
    /// A well-formed address literal: `[192.0.2.1]`, `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
    /// Begins with `[` and is not an address literal that we can read.
    BadLiteral(&'a [u8]),
    /// Anything else: underscores, spaces, 8-bit, empty labels, too long…
    Invalid(&'a [u8]),
    /// Nothing at all.
    Missing,
}

/// Reads the parameter of HELO or EHLO. Trailing blanks are not part of the name; a second word makes it invalid.
pub fn name(_text: &[u8]) -> Name<'_> {
    todo!()
}
