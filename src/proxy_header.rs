//! The PROXY protocol, versions 1 and 2 (HAProxy, `doc/proxy-protocol.txt`): read and written.
//!
//! A header is believed to the letter or not at all: ports and IPv4 octets are plain decimal numbers without leading
//! zeros, lengths must add up, TLVs (which say nothing that gatepost asks for, and are skipped) must be whole. Whose
//! header is believed in the first place is for the gate to decide.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nom::branch::alt;
use nom::bytes::streaming::{tag, take_while, take_while_m_n};
use nom::character::streaming::{char, satisfy};
use nom::combinator::{all_consuming, map_opt, peek};
use nom::multi::{fold, length_data, many0_count};
use nom::number::{complete, streaming};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

/// The longest v1 header, CRLF included.
pub const V1_LIMIT: usize = 107;

/// The most that we read of a v2 header behind its first 16 bytes: addresses and TLVs.
pub const V2_PAYLOAD_LIMIT: usize = 4096;

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2 in the upper half, the command in the lower.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

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

/// TLS with the client, as a v2 header tells of it (§2.2.6, PP2_TYPE_SSL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tls {
    /// Its version: `TLSv1.3`.
    pub version: &'static str,
    /// Its cipher suite.
    pub cipher: &'static str,
    /// Whether the client showed a certificate. It is told as one that was not verified.
    pub certificate: bool,
}

/// gatepost's own TLV: which of its visits the connection is, and what the lists made of the client.
///
/// Type 0xE0, the first of those that are anybody's (§2.2.8, PP2_TYPE_MIN_CUSTOM). Its value is 12 or 16 bytes:
///
/// | bytes | |
/// | --- | --- |
/// | 0 | the layout: 1 |
/// | 1–11 | the visit's id as it is written: `7K2MQ-9XV4T` |
/// | 12–15 | the score, signed, most significant byte first; not there if there is none |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visit {
    /// Its id, in ASCII.
    pub id: [u8; 11],
    /// The score of the DNS lists, if any of them said something.
    pub score: Option<i32>,
}

/// What a v2 header can tell besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extras {
    /// TLS with the client.
    pub tls: Option<Tls>,
    /// The visit.
    pub visit: Option<Visit>,
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
///
/// Bytes that cannot become a header are known as soon as they come, except that an IPv6 address in v1 and the TLVs in
/// v2 are looked at as a whole.
pub fn parse(input: &[u8]) -> Parsed {
    if begins_as(input, V1_SIGNATURE) {
        parse_v1(input)
    } else if begins_as(input, V2_SIGNATURE) {
        parse_v2(input)
    } else {
        Parsed::Invalid(Invalid::Signature)
    }
}

/// Writes a header that tells a backend of a client (or [`Header::Local`]; in v1 that is `UNKNOWN`).
///
/// Where the two addresses are of different families, the IPv4 one is written as IPv4-mapped IPv6.
pub fn write(out: &mut Vec<u8>, version: Version, header: &Header) {
    write_with(out, version, header, &Extras::default());
}

/// The same, and in v2 what else is known; v1 has no words for that.
pub fn write_with(out: &mut Vec<u8>, version: Version, header: &Header, extras: &Extras) {
    match version {
        Version::V1 => write_v1(out, header),
        Version::V2 => write_v2(out, header, extras),
    }
}

/// Whether `input` and `signature` agree as far as both go.
fn begins_as(input: &[u8], signature: &[u8]) -> bool {
    input.iter().zip(signature).all(|(a, b)| a == b)
}

fn parse_v1(input: &[u8]) -> Parsed {
    let window = input.get(..V1_LIMIT).unwrap_or(input);
    match v1_line(window) {
        Ok((rest, header)) => Parsed::Complete { header, version: Version::V1, length: window.len() - rest.len() },
        Err(nom::Err::Incomplete(_)) if input.len() < V1_LIMIT => Parsed::Incomplete,
        Err(nom::Err::Incomplete(_)) => Parsed::Invalid(Invalid::TooLong),
        Err(_) => Parsed::Invalid(Invalid::Malformed),
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.25 56324 25` and CRLF.
fn v1_line(input: &[u8]) -> IResult<&[u8], Header> {
    let tcp4 = preceded(tag("TCP4 "), v1_addresses(ipv4));
    let tcp6 = preceded(tag("TCP6 "), v1_addresses(ipv6));
    terminated(preceded(tag(V1_SIGNATURE), alt((tcp4, tcp6, unknown))), tag("\r\n")).parse(input)
}

/// What stands behind `UNKNOWN` is nobody's business, but a line it is.
fn unknown(input: &[u8]) -> IResult<&[u8], Header> {
    let nothing = peek(tag("\r"));
    let anything = preceded(char(' '), take_while(|byte| byte != b'\r' && byte != b'\n'));
    (tag("UNKNOWN"), alt((nothing, anything))).map(|_| Header::Unknown).parse(input)
}

/// Source, destination, source port, destination port.
fn v1_addresses<'a>(
    ip: impl Fn(&'a [u8]) -> IResult<&'a [u8], IpAddr>,
) -> impl Fn(&'a [u8]) -> IResult<&'a [u8], Header> {
    let blank = || char(' ');
    move |input| {
        let (rest, (source, destination)) = (terminated(&ip, blank()), terminated(&ip, blank())).parse(input)?;
        let (rest, (from, to)) = (terminated(port, blank()), port).parse(rest)?;
        let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
        Ok((rest, Header::Proxied { source, destination }))
    }
}

fn ipv4(input: &[u8]) -> IResult<&[u8], IpAddr> {
    let octet = || decimal::<u8>(3);
    let dot = || char('.');
    let (rest, (a, _, b, _, c, _, d)) = (octet(), dot(), octet(), dot(), octet(), dot(), octet()).parse(input)?;
    Ok((rest, Ipv4Addr::new(a, b, c, d).into()))
}

fn ipv6(input: &[u8]) -> IResult<&[u8], IpAddr> {
    // The longest form ends in dotted decimal.
    let text = take_while_m_n(2, 45, |byte: u8| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.');
    let address = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<Ipv6Addr>().ok();
    map_opt(text, address).map(IpAddr::V6).parse(input)
}

fn port(input: &[u8]) -> IResult<&[u8], u16> {
    decimal(5).parse(input)
}

/// A number of at most `digits` digits, without leading zeros: `0` ends where it begins.
fn decimal<'a, N: TryFrom<u32>>(
    digits: usize,
) -> impl Parser<&'a [u8], Output = N, Error = nom::error::Error<&'a [u8]>> {
    let zero = char('0').map(|_| 0_u32);
    let digit = satisfy(|c| c.is_ascii_digit()).map(|c| c as u32 - '0' as u32);
    let other = fold(1..=digits, digit, || 0, |sum, digit| sum * 10 + digit);
    map_opt(alt((zero, other)), |number| N::try_from(number).ok())
}

/// What the fixed part of a v2 header says of the rest.
enum Payload {
    /// `LOCAL` or `UNSPEC`: passed over, whatever it holds.
    Ignored(Header),
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// Addresses of that many bytes that tell nothing about a TCP client.
    Other(usize),
}

/// The lengths of the address blocks: two addresses and two ports each, or two socket paths.
const INET: usize = 12;
const INET6: usize = 36;
const UNIX: usize = 216;

impl Payload {
    /// How many bytes of addresses there are; TLVs follow.
    fn block(&self) -> usize {
        match self {
            Self::Ignored(_) => 0,
            Self::Tcp4 => INET,
            Self::Tcp6 => INET6,
            Self::Other(length) => *length,
        }
    }

    /// What the bytes behind the fixed part say, if they are sound.
    fn read(self, bytes: &[u8]) -> Option<Header> {
        if let Self::Ignored(header) = self {
            return Some(header);
        }
        let (block, rest) = bytes.split_at_checked(self.block())?;
        all_consuming(many0_count(tlv)).parse(rest).ok()?;
        match self {
            Self::Tcp4 => addresses(block, complete::be_u32.map(|bits| Ipv4Addr::from(bits).into())),
            Self::Tcp6 => addresses(block, complete::be_u128.map(|bits| Ipv6Addr::from(bits).into())),
            Self::Other(_) | Self::Ignored(_) => Some(Header::Unknown),
        }
    }
}

fn parse_v2(input: &[u8]) -> Parsed {
    let (rest, (payload, length)) = match v2_fixed(input) {
        Ok((rest, (payload, length))) => (rest, (payload, usize::from(length))),
        Err(nom::Err::Incomplete(_)) => return Parsed::Incomplete,
        Err(_) => return Parsed::Invalid(Invalid::Malformed),
    };
    if length > V2_PAYLOAD_LIMIT {
        return Parsed::Invalid(Invalid::TooLong);
    }
    if length < payload.block() {
        return Parsed::Invalid(Invalid::Malformed);
    }
    let Some((bytes, behind)) = rest.split_at_checked(length) else { return Parsed::Incomplete };
    match payload.read(bytes) {
        Some(header) => Parsed::Complete { header, version: Version::V2, length: input.len() - behind.len() },
        None => Parsed::Invalid(Invalid::Malformed),
    }
}

/// Signature, version and command, family and transport, length.
///
/// Values that the specification has not given out are malformed, as it demands; those that come with `LOCAL` are not
/// looked at, as it demands too.
fn v2_fixed(input: &[u8]) -> IResult<&[u8], (Payload, u16)> {
    let local = (tag(&[V2_LOCAL][..]), streaming::u8).map(|_| Payload::Ignored(Header::Local));
    let family = map_opt(streaming::u8, |byte| match (byte >> 4, byte & 0x0f) {
        (_, 3..) => None,
        (0, _) => Some(Payload::Ignored(Header::Unknown)),
        (1, 1) => Some(Payload::Tcp4),
        (1, _) => Some(Payload::Other(INET)),
        (2, 1) => Some(Payload::Tcp6),
        (2, _) => Some(Payload::Other(INET6)),
        (3, _) => Some(Payload::Other(UNIX)),
        _ => None,
    });
    let proxy = preceded(tag(&[V2_PROXY][..]), family);
    preceded(tag(V2_SIGNATURE), (alt((local, proxy)), streaming::be_u16)).parse(input)
}

/// Source, destination, source port, destination port.
fn addresses<'a>(
    block: &'a [u8],
    mut ip: impl Parser<&'a [u8], Output = IpAddr, Error = nom::error::Error<&'a [u8]>>,
) -> Option<Header> {
    let (rest, source) = ip.parse(block).ok()?;
    let (rest, destination) = ip.parse(rest).ok()?;
    let ports: IResult<_, _> = (complete::be_u16, complete::be_u16).parse(rest);
    let (_, (from, to)) = ports.ok()?;
    Some(Header::Proxied { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) })
}

/// A type, a length, and as many bytes.
fn tlv(input: &[u8]) -> IResult<&[u8], &[u8]> {
    preceded(complete::u8, length_data(complete::be_u16)).parse(input)
}

fn write_v1(out: &mut Vec<u8>, header: &Header) {
    // A Vec takes everything.
    let _ = match header {
        Header::Local | Header::Unknown => out.write_all(b"PROXY UNKNOWN\r\n"),
        Header::Proxied { source, destination } => {
            let (family, from, to) = match same_family(source.ip(), destination.ip()) {
                Pair::V4(from, to) => ("TCP4", IpAddr::V4(from), IpAddr::V4(to)),
                Pair::V6(from, to) => ("TCP6", IpAddr::V6(from), IpAddr::V6(to)),
            };
            write!(out, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
        }
    };
}

fn write_v2(out: &mut Vec<u8>, header: &Header, extras: &Extras) {
    out.extend_from_slice(V2_SIGNATURE);
    let (source, destination) = match header {
        Header::Local => return out.extend_from_slice(&[V2_LOCAL, 0, 0, 0]),
        Header::Unknown => return out.extend_from_slice(&[V2_PROXY, 0, 0, 0]),
        Header::Proxied { source, destination } => (source, destination),
    };
    let pair = same_family(source.ip(), destination.ip());
    out.extend_from_slice(match pair {
        Pair::V4(..) => &[V2_PROXY, 0x11],
        Pair::V6(..) => &[V2_PROXY, 0x21],
    });
    counted(out, |out| {
        match pair {
            Pair::V4(from, to) => out.extend([from, to].iter().flat_map(Ipv4Addr::octets)),
            Pair::V6(from, to) => out.extend([from, to].iter().flat_map(Ipv6Addr::octets)),
        }
        out.extend_from_slice(&source.port().to_be_bytes());
        out.extend_from_slice(&destination.port().to_be_bytes());
        if let Some(tls) = &extras.tls {
            write_tls(out, tls);
        }
        if let Some(visit) = &extras.visit {
            write_visit(out, visit);
        }
    });
}

/// PP2_TYPE_SSL: what the client did, whether its certificate was verified (0 if so), and TLVs of its own.
fn write_tls(out: &mut Vec<u8>, tls: &Tls) {
    const SSL: u8 = 0x20;
    const VERSION: u8 = 0x21;
    const CIPHER: u8 = 0x23;
    const CLIENT_SSL: u8 = 0x01;
    const CLIENT_CERT_CONN: u8 = 0x02;

    write_tlv(out, SSL, |out| {
        out.push(if tls.certificate { CLIENT_SSL | CLIENT_CERT_CONN } else { CLIENT_SSL });
        out.extend_from_slice(&1_u32.to_be_bytes());
        write_tlv(out, VERSION, |out| out.extend_from_slice(tls.version.as_bytes()));
        write_tlv(out, CIPHER, |out| out.extend_from_slice(tls.cipher.as_bytes()));
    });
}

fn write_visit(out: &mut Vec<u8>, visit: &Visit) {
    const VISIT: u8 = 0xe0;
    const LAYOUT: u8 = 1;

    write_tlv(out, VISIT, |out| {
        out.push(LAYOUT);
        out.extend_from_slice(&visit.id);
        out.extend(visit.score.into_iter().flat_map(i32::to_be_bytes));
    });
}

fn write_tlv(out: &mut Vec<u8>, kind: u8, value: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    counted(out, value);
}

/// Writes `value` behind its length. None of ours comes near what a length can say.
fn counted(out: &mut Vec<u8>, value: impl FnOnce(&mut Vec<u8>)) {
    let before = out.len();
    out.extend_from_slice(&[0; 2]);
    value(out);
    let length = u16::try_from(out.len() - before - 2).unwrap_or(u16::MAX);
    if let Some(place) = out.get_mut(before..before + 2) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Two addresses that one header can hold.
#[derive(Clone, Copy)]
enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn same_family(source: IpAddr, destination: IpAddr) -> Pair {
    let v6 = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination),
        _ => Pair::V6(v6(source), v6(destination)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxied(source: &str, destination: &str) -> Header {
        Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, payload].concat()
    }

    /// Every prefix is incomplete, and what follows is left alone.
    fn check_complete(raw: &[u8], expected: &Header, version: Version) {
        for cut in 0..raw.len() {
            assert_eq!(parse(&raw[..cut]), Parsed::Incomplete, "{} cut at {cut}", raw.escape_ascii());
        }
        let complete = Parsed::Complete { header: expected.clone(), version, length: raw.len() };
        assert_eq!(parse(raw), complete, "{}", raw.escape_ascii());
        assert_eq!(parse(&[raw, b"EHLO a\r\n"].concat()), complete);
    }

    /// The first `at` bytes decide, and fewer do not.
    fn check_invalid(raw: &[u8], at: usize, expected: Invalid) {
        for cut in 0..=raw.len() {
            let answer = if cut < at { Parsed::Incomplete } else { Parsed::Invalid(expected) };
            assert_eq!(parse(&raw[..cut]), answer, "{} cut at {cut}", raw.escape_ascii());
        }
    }

    #[test]
    fn v1_headers_are_read() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.25 56324 25\r\n", proxied("192.0.2.1:56324", "198.51.100.25:25")),
            ("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n", proxied("0.0.0.0:0", "255.255.255.255:65535")),
            ("PROXY TCP6 2001:db8::1 2001:DB8::2 1 25\r\n", proxied("[2001:db8::1]:1", "[2001:db8::2]:25")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 25\r\n", proxied("[::ffff:192.0.2.1]:1", "[::1]:25")),
            ("PROXY UNKNOWN\r\n", Header::Unknown),
            ("PROXY UNKNOWN ffff::1 what ever 1 2\r\n", Header::Unknown),
        ] {
            check_complete(line.as_bytes(), &expected, Version::V1);
        }
    }

    #[test]
    fn v1_headers_are_read_to_the_letter() {
        for (line, at) in [
            ("PROXY tcp4 192.0.2.1", 7),
            ("PROXY UDP4 192.0.2.1", 8),
            ("PROXY  TCP4", 7),
            ("PROXY UNKNOWNX\r\n", 14),
            ("PROXY UNKNOWN\nEHLO", 14),
            ("PROXY UNKNOWN a\nb", 16),
            ("PROXY UNKNOWN a\rb", 17),
            ("PROXY TCP4 01.2.3.4 ", 13),
            ("PROXY TCP4 256.2.3.4 ", 14),
            ("PROXY TCP4 1.2.3 ", 17),
            ("PROXY TCP4 1.2.3.4  ", 20),
            ("PROXY TCP4 0x7f.1", 13),
            ("PROXY TCP4 ::1 ", 12),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 65536 ", 32),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 025 ", 29),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 -1 ", 28),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", 31),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", 31),
            ("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX", 32),
            ("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", 19),
            ("PROXY TCP6 ::1%eth0 ::1 1 2\r\n", 15),
            ("PROXY TCP6 [::1] ::1 1 2\r\n", 12),
            ("PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n", 25),
        ] {
            check_invalid(line.as_bytes(), at, Invalid::Malformed);
        }
    }

    #[test]
    fn v1_headers_have_a_longest() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        check_complete(line(V1_LIMIT).as_bytes(), &Header::Unknown, Version::V1);
        check_invalid(line(V1_LIMIT + 1).as_bytes(), V1_LIMIT, Invalid::TooLong);
    }

    #[test]
    fn what_begins_as_neither_is_neither() {
        check_invalid(b"EHLO a\r\n", 1, Invalid::Signature);
        check_invalid(b"PROXX", 5, Invalid::Signature);
        check_invalid(b"PROXY\r\n", 6, Invalid::Signature);
        check_invalid(b"\r\n\r\nQUIT", 5, Invalid::Signature);
        check_invalid(b"\r\n\r\n\0\r\nQUIT\r\n", 12, Invalid::Signature);
    }

    #[test]
    fn v2_headers_are_read() {
        let inet = [192, 0, 2, 1, 198, 51, 100, 25, 0xdc, 0x04, 0, 25];
        let tlvs = [4, 0, 0, 0x20, 0, 2, 1, 1];
        let v4 = proxied("192.0.2.1:56324", "198.51.100.25:25");
        let mut inet6 = [0; 36];
        inet6[15] = 1;
        inet6[31] = 2;
        inet6[35] = 25;
        for (raw, expected) in [
            (v2(0x21, 0x11, &inet), v4.clone()),
            (v2(0x21, 0x11, &[&inet[..], &tlvs].concat()), v4),
            (v2(0x21, 0x21, &inet6), proxied("[::1]:0", "[::2]:25")),
            (v2(0x21, 0x12, &inet), Header::Unknown),
            (v2(0x21, 0x10, &inet), Header::Unknown),
            (v2(0x21, 0x22, &inet6), Header::Unknown),
            (v2(0x21, 0x31, &[0; 216]), Header::Unknown),
            (v2(0x21, 0x00, &[]), Header::Unknown),
            (v2(0x21, 0x00, &[1, 2, 3]), Header::Unknown),
            (v2(0x20, 0x00, &[]), Header::Local),
            (v2(0x20, 0x11, &[1, 2, 3]), Header::Local),
            (v2(0x20, 0xff, &[0; V2_PAYLOAD_LIMIT]), Header::Local),
        ] {
            check_complete(&raw, &expected, Version::V2);
        }
    }

    #[test]
    fn v2_headers_add_up() {
        let malformed = |raw: &[u8], at| check_invalid(raw, at, Invalid::Malformed);
        malformed(&v2(0x11, 0x11, &[0; 12]), 13);
        malformed(&v2(0x22, 0x11, &[0; 12]), 13);
        malformed(&v2(0x21, 0x41, &[0; 12]), 14);
        malformed(&v2(0x21, 0x13, &[0; 12]), 14);
        malformed(&v2(0x21, 0x11, &[0; 11]), 16);
        malformed(&v2(0x21, 0x12, &[0; 11]), 16);
        malformed(&v2(0x21, 0x21, &[0; 35]), 16);
        malformed(&v2(0x21, 0x31, &[0; 215]), 16);
        for tlv in [&[4][..], &[4, 0], &[4, 0, 1], &[4, 0, 2, 1], &[4, 0, 0, 9]] {
            let payload = [&[0; 12], tlv].concat();
            malformed(&v2(0x21, 0x11, &payload), 16 + payload.len());
        }
        check_invalid(&v2(0x20, 0, &[0; V2_PAYLOAD_LIMIT + 1]), 16, Invalid::TooLong);
        check_invalid(&v2(0x21, 0x11, &[0; V2_PAYLOAD_LIMIT + 1]), 16, Invalid::TooLong);
    }

    #[test]
    fn our_headers_say_who_is_who() {
        let written = |version, header| {
            let mut out = b"x".to_vec();
            write(&mut out, version, &header);
            out.split_off(1)
        };
        let mixed = || proxied("192.0.2.1:1", "[2001:db8::25]:25");
        assert_eq!(
            written(Version::V1, proxied("192.0.2.1:1", "198.51.100.25:25")),
            b"PROXY TCP4 192.0.2.1 198.51.100.25 1 25\r\n"
        );
        assert_eq!(written(Version::V1, mixed()), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::25 1 25\r\n");
        assert_eq!(written(Version::V1, Header::Local), b"PROXY UNKNOWN\r\n");
        assert_eq!(written(Version::V1, Header::Unknown), b"PROXY UNKNOWN\r\n");
        assert_eq!(written(Version::V2, Header::Local), v2(0x20, 0, &[]));
        assert_eq!(written(Version::V2, Header::Unknown), v2(0x21, 0, &[]));
        let read = Parsed::Complete {
            header: proxied("[::ffff:192.0.2.1]:1", "[2001:db8::25]:25"),
            version: Version::V2,
            length: 52,
        };
        assert_eq!(parse(&written(Version::V2, mixed())), read);
    }

    #[test]
    fn tls_with_the_client_is_told_in_v2_alone() {
        let header = Header::Proxied {
            source: "192.0.2.1:56324".parse().unwrap(),
            destination: "198.51.100.25:465".parse().unwrap(),
        };
        let tls = Tls { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384", certificate: false };
        let mut out = Vec::new();
        let extras = Extras { tls: Some(tls), visit: None };
        write_with(&mut out, Version::V2, &header, &extras);
        let told = b"\x20\0\x28\x01\0\0\0\x01\x21\0\x07TLSv1.3\x23\0\x16TLS_AES_256_GCM_SHA384";
        assert!(out.ends_with(told), "{}", out.escape_ascii());
        assert_eq!(parse(&out), Parsed::Complete { header: header.clone(), version: Version::V2, length: out.len() });
        let (mut with, mut without) = (Vec::new(), Vec::new());
        write_with(&mut with, Version::V1, &header, &extras);
        write(&mut without, Version::V1, &header);
        assert_eq!(with, without);
    }

    #[test]
    fn the_visit_is_told_in_v2_alone() {
        let header = Header::Proxied {
            source: "192.0.2.1:56324".parse().unwrap(),
            destination: "198.51.100.25:25".parse().unwrap(),
        };
        for (score, told) in [
            (None, &b"\0\x0f\xe0\0\x0c\x017K2MQ-9XV4T"[..]),
            (Some(7), b"\0\x13\xe0\0\x10\x017K2MQ-9XV4T\0\0\0\x07"),
            (Some(-2), b"\0\x13\xe0\0\x10\x017K2MQ-9XV4T\xff\xff\xff\xfe"),
        ] {
            let extras = Extras { tls: None, visit: Some(Visit { id: *b"7K2MQ-9XV4T", score }) };
            let mut out = Vec::new();
            write_with(&mut out, Version::V2, &header, &extras);
            // The address block is twelve bytes, behind the length of all.
            let length = u8::try_from(out.len() - 16).unwrap();
            assert_eq!(out.get(14..16), Some(&[0, length][..]));
            assert!(out.ends_with(told.get(2..).unwrap()), "{}", out.escape_ascii());
            assert_eq!(usize::from(length), 12 + usize::from(told[1]));
            assert_eq!(
                parse(&out),
                Parsed::Complete { header: header.clone(), version: Version::V2, length: out.len() }
            );
            let (mut with, mut without, mut local) = (Vec::new(), Vec::new(), Vec::new());
            write_with(&mut with, Version::V1, &header, &extras);
            write(&mut without, Version::V1, &header);
            assert_eq!(with, without);
            write_with(&mut local, Version::V2, &Header::Local, &extras);
            assert_eq!(local, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "a probe is no visit");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(source: (IpAddr, u16), destination: (IpAddr, u16), v1: bool) {
            let version = if v1 { Version::V1 } else { Version::V2 };
            let mut raw = Vec::new();
            write(&mut raw, version, &Header::Proxied { source: source.into(), destination: destination.into() });
            let (from, to): (IpAddr, IpAddr) = match same_family(source.0, destination.0) {
                Pair::V4(from, to) => (from.into(), to.into()),
                Pair::V6(from, to) => (from.into(), to.into()),
            };
            let header = Header::Proxied { source: (from, source.1).into(), destination: (to, destination.1).into() };
            check_complete(&raw, &header, version);
        }
    }
}
