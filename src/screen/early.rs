//! What the first bytes of a client that speaks before the greeting look like.
//!
//! They are peeked at, once, and may have been cut anywhere: [`Early::of`] answers for a prefix of what the client is
//! about to say. The rules for short ones:
//!
//! - A prefix counts as the first protocol, in the order of [`Early::ALL`], that can begin like that: `E` is SMTP, `H` is
//!   SMTP (HELO before HEAD), `P` and `PRO` are HTTP (POST, PROPFIND before PROXY), `PROX` is a PROXY header.
//! - What begins with bytes that many things begin with has to show its mark first: an SMB message its `\xff` or `\xfe`
//!   behind the length, a PROXY v2 header its fifth byte (a bare `CRLF CRLF` is what port scanners send), RDP both bytes
//!   of its TPKT header. Until then it is garbage.
//! - Nothing at all is garbage too.
//!
//! It decides nothing and is believed in nothing: a client that says `PROXY …` here gets no other address for it.

use super::not_smtp::{begins_request, begins_verb, is_request, is_verb};

/// What the first bytes of a client that speaks before the greeting look like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Early {
    /// A verb of SMTP, in any case: a bot in a hurry.
    Smtp,
    /// A TLS handshake: a client that takes this port for 465, or a scanner.
    Tls,
    /// An HTTP request, HTTP/2's preface included.
    Http,
    /// An SSH identification string (RFC 4253 §4.2).
    Ssh,
    /// A SOCKS4 or SOCKS5 request (RFC 1928): somebody looks for open proxies.
    Socks,
    /// A PROXY header, v1 or v2, from somebody who is not trusted to send one: often a load balancer of our own.
    ProxyHeader,
    /// An RDP connection request: X.224 in TPKT (\[MS-RDPBCGR\] §2.2.1.1).
    Rdp,
    /// An SMB message of any version behind its length (\[MS-SMB2\] §2.1).
    Smb,
    /// Anything else.
    Garbage,
}

impl Early {
    /// All of them, in the order in which a short prefix is tried.
    pub const ALL: [Self; 9] = [
        Self::Smtp,
        Self::Tls,
        Self::Http,
        Self::Ssh,
        Self::Socks,
        Self::ProxyHeader,
        Self::Rdp,
        Self::Smb,
        Self::Garbage,
    ];

    /// The name in the journal and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::Socks => "socks",
            Self::ProxyHeader => "proxy-header",
            Self::Rdp => "rdp",
            Self::Smb => "smb",
            Self::Garbage => "garbage",
        }
    }

    /// What `first`, the bytes that a client has sent so far, look like.
    pub fn of(first: &[u8]) -> Self {
        if first.is_empty() {
            return Self::Garbage;
        }
        Self::ALL.into_iter().find(|early| early.fits(first)).unwrap_or(Self::Garbage)
    }

    /// Whether the protocol can begin like `first`, which is not empty.
    fn fits(self, first: &[u8]) -> bool {
        match self {
            Self::Smtp => is_smtp(first),
            Self::Tls => matches!(first, [0x16] | [0x16, 3] | [0x16, 3, 0..=4, ..]),
            Self::Http => is_http(first),
            Self::Ssh => agree(first, b"SSH-"),
            Self::Socks => is_socks(first),
            Self::ProxyHeader => agree(first, b"PROXY ") || (first.len() > 4 && agree(first, PROXY_V2)),
            Self::Rdp => is_rdp(first),
            Self::Smb => is_smb(first),
            Self::Garbage => true,
        }
    }
}

/// How a PROXY v2 header begins.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Whether one of the two is the beginning of the other.
fn agree(first: &[u8], signature: &[u8]) -> bool {
    first.starts_with(signature) || signature.starts_with(first)
}

/// A first word that is a verb, or that may become one.
fn is_smtp(first: &[u8]) -> bool {
    match first.iter().position(|b| !b.is_ascii_alphabetic()) {
        Some(end) => match first.split_at_checked(end) {
            Some((word, rest)) => is_verb(word) && matches!(rest.first(), Some(b' ' | b'\t' | b'\r' | b'\n' | b':')),
            None => false,
        },
        None => begins_verb(first),
    }
}

/// A request line, or one that has not ended yet.
fn is_http(first: &[u8]) -> bool {
    match first.iter().position(|&b| b == b'\n') {
        Some(end) => first.get(..end).is_some_and(is_request),
        None => begins_request(first),
    }
}

/// SOCKS4: version, CONNECT or BIND, port, address. SOCKS5: version, how many methods, and those, behind which a client
/// has to wait.
fn is_socks(first: &[u8]) -> bool {
    match first {
        [4 | 5] | [4, 1 | 2, ..] => true,
        [5, count, methods @ ..] => *count > 0 && methods.len() <= usize::from(*count),
        _ => false,
    }
}

/// TPKT version 3, two bytes of length, the X.224 header's length, and CR (0xe0).
fn is_rdp(first: &[u8]) -> bool {
    match first {
        [3, 0, _, _, _, code, ..] => *code == 0xe0,
        [3, 0, ..] => true,
        _ => false,
    }
}

/// A NetBIOS session message: zero, three bytes of length, and the protocol's mark.
fn is_smb(first: &[u8]) -> bool {
    match first {
        [0, _, _, _, 0xff | 0xfe, mark @ ..] => agree(mark, b"SMB"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn openings() {
        for (first, early) in [
            (&b"EHLO ylmf-pc\r\n"[..], Early::Smtp),
            (b"ehlo x\r\nMAIL FROM:<a@b>\r\n", Early::Smtp),
            (b"HELO dmx1.bfi0.com\r\n", Early::Smtp),
            (b"QUIT\r\n", Early::Smtp),
            (b"HELP\r\n", Early::Smtp),
            (b"EHLO\r\n", Early::Smtp),
            (b"StartTLS\n", Early::Smtp),
            (b"HELO: x\r\n", Early::Smtp),
            (b"RSET\tx", Early::Smtp),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Early::Tls),
            (b"\x16\x03\x03\x00", Early::Tls),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Early::Http),
            (b"GET / HTTP/1.0\r\n\r\n", Early::Http),
            (b"GET /\r\n", Early::Http),
            (b"POST /x HTTP/1.1\r\n", Early::Http),
            (b"OPTIONS / RTSP/1.0\r\n\r\n", Early::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Early::Http),
            (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", Early::Http),
            (b"HEAD / HTTP/1.1\r\n", Early::Http),
            (b"GET /very/long", Early::Http),
            (b"SSH-2.0-Go\r\n", Early::Ssh),
            (b"\x04\x01\x00\x50\x01\x02\x03\x04\x00", Early::Socks),
            (b"\x04\x02\x00\x19", Early::Socks),
            (b"\x05\x01\x00", Early::Socks),
            (b"\x05\x02\x00\x02", Early::Socks),
            (b"\x05\x03\x00", Early::Socks),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\r\n", Early::ProxyHeader),
            (b"PROXY UNKNOWN\r\n", Early::ProxyHeader),
            (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", Early::ProxyHeader),
            (b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", Early::Rdp),
            (b"\x03\x00\x00\x2f\x2a\xe0\x00\x00\x00\x00\x00Cookie: mstshash=hello\r\n", Early::Rdp),
            (b"\x00\x00\x00\x45\xffSMB\x72\x00", Early::Smb),
            (b"\x00\x00\x00\x66\xfeSMB\x40\x00", Early::Smb),
            (b"\r\n\r\n", Early::Garbage),
            (b"\r\n", Early::Garbage),
            (b"hello\r\n", Early::Garbage),
            (b"HELLO\r\n", Early::Garbage),
            (b"EHLO/1", Early::Garbage),
            (b"EHLOX\r\n", Early::Garbage),
            (b"HTTP/1.1 200 OK\r\n", Early::Garbage),
            (b"\x15\x03\x01\x00\x02", Early::Garbage),
            (b"\x16\x02\x00", Early::Garbage),
            (b"\x16\x03\x05", Early::Garbage),
            (b"\x04\x03\x00\x50", Early::Garbage),
            (b"\x05\x00", Early::Garbage),
            (b"\x05\x01\x00\x05\x01", Early::Garbage),
            (b"\x03\x00\x00\x13\x0e\xd0", Early::Garbage),
            (b"\x00\x06\x01\x00\x00\x01", Early::Garbage),
            (b"\x00\x00\x00\x45\xffSMX", Early::Garbage),
            (b"\x00\x00\x00\x00", Early::Garbage),
            (b"\xff\xfd\x03", Early::Garbage),
            (b"", Early::Garbage),
        ] {
            assert_eq!(Early::of(first), early, "{}", first.escape_ascii());
        }
    }

    #[test]
    fn short_prefixes() {
        for (first, early) in [
            (&b"E"[..], Early::Smtp),
            (b"e", Early::Smtp),
            (b"H", Early::Smtp),
            (b"HE", Early::Smtp),
            (b"HEA", Early::Http),
            (b"D", Early::Smtp),
            (b"DE", Early::Http),
            (b"S", Early::Smtp),
            (b"SS", Early::Ssh),
            (b"G", Early::Http),
            (b"g", Early::Garbage),
            (b"P", Early::Http),
            (b"PRI", Early::Http),
            (b"PRO", Early::Http),
            (b"PROX", Early::ProxyHeader),
            (b"GET", Early::Http),
            (b"GETX", Early::Garbage),
            (b"\x16", Early::Tls),
            (b"\x16\x03", Early::Tls),
            (b"\x04", Early::Socks),
            (b"\x05", Early::Socks),
            (b"\r", Early::Garbage),
            (b"\r\n\r\n\0", Early::ProxyHeader),
            (b"\x03", Early::Garbage),
            (b"\x03\0", Early::Rdp),
            (b"\0", Early::Garbage),
            (b"\0\0\0\x45\xff", Early::Smb),
            (b"Z", Early::Garbage),
        ] {
            assert_eq!(Early::of(first), early, "{}", first.escape_ascii());
        }
    }

    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<_> = Early::ALL.into_iter().map(Early::name).collect();
        assert_eq!(names.len(), Early::ALL.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_classified(first in any::<Vec<u8>>()) {
            let _ = Early::of(&first);
        }

        #[test]
        fn verbs_count_in_any_case(first in "(ehlo|HELO|Mail|quit)[ \r\n:][ -~]{0,30}") {
            prop_assert_eq!(Early::of(first.as_bytes()), Early::Smtp);
            prop_assert_eq!(Early::of(first.to_ascii_uppercase().as_bytes()), Early::Smtp);
        }

        #[test]
        fn how_much_of_a_command_has_come_makes_no_difference(cut in 1_usize..40) {
            let all = b"EHLO mx.example.com\r\nMAIL FROM:<a@b>\r\n";
            prop_assert_eq!(Early::of(&all[..cut.min(all.len())]), Early::Smtp);
        }

        #[test]
        fn how_much_of_a_request_has_come_makes_no_difference(cut in 1_usize..40) {
            let all = b"GET /index.html HTTP/1.1\r\nHost: x\r\n\r\n";
            prop_assert_eq!(Early::of(&all[..cut.min(all.len())]), Early::Http);
        }
    }
}
