//! Words: command lines, commands, names, AUTH, replies, EHLO, PROXY headers.

use std::hint::black_box;

use gatepost::proxy_header::{self, Extras, Header, Parsed, Tls, Version, Visit};
use gatepost::smtp::auth::Exchange;
use gatepost::smtp::command::Command;
use gatepost::smtp::ehlo::{Keywords, Offer};
use gatepost::smtp::line::{self, COMMAND_LIMIT};
use gatepost::smtp::path::{self, Name};
use gatepost::smtp::reply::{self, Reply};

use super::Look;

/// The commands of a usual transaction, and others that carry something.
const COMMANDS: [(&str, &[u8]); 8] = [
    ("EHLO", b"EHLO mail-sender-17.example.org"),
    ("STARTTLS", b"STARTTLS"),
    ("MAIL", b"MAIL FROM:<bounce+2026-11-22-user=example.org@list.example.net> SIZE=48211 BODY=8BITMIME"),
    ("RCPT", b"RCPT TO:<user@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;user@example.org"),
    ("DATA", b"DATA"),
    ("BDAT", b"BDAT 86400 LAST"),
    ("AUTH", b"AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm"),
    ("no command", b"GET / HTTP/1.1"),
];

const GREETING: &[u8] = b"220 mx.example.org ESMTP\r\n";

/// What Postfix offers.
pub const OFFER: &[u8] =
    b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-VRFY\r\n250-ETRN\r\n250-STARTTLS\r\n\
    250-AUTH PLAIN LOGIN\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n";

pub fn all(look: &mut impl Look) {
    lines(look);
    commands(look);
    auth(look);
    replies(look);
    proxy_headers(look);
}

fn lines(look: &mut impl Look) {
    let long = [b"MAIL FROM:<a@b> ENVID=", "x".repeat(1900).as_bytes(), b"\r\n"].concat();
    for (name, line) in [("command", &b"RCPT TO:<user@example.org>\r\n"[..]), ("long", &long)] {
        look.at("line::scan", name, line.len(), || line::scan(black_box(line), COMMAND_LIMIT));
    }
}

fn commands(look: &mut impl Look) {
    for (name, line) in COMMANDS {
        look.at("Command::parse", name, line.len(), || Command::parse(black_box(line)));
    }
    let name = b"mail-sender-17.example.org";
    assert!(matches!(path::name(name), Name::Domain(_)));
    look.at("path::name", "domain", name.len(), || path::name(black_box(name)));
}

/// Exchanges from the command to the last line of the client's.
fn auth(look: &mut impl Look) {
    let exchanges = [
        ("PLAIN", "AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm", &[][..]),
        ("LOGIN", "AUTH LOGIN", &["aGFua3M=", "ODg4ODg4"]),
        ("CRAM-MD5", "AUTH CRAM-MD5", &["dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"]),
    ];
    for (name, command, lines) in exchanges {
        let bytes = command.len() + lines.iter().map(|line| line.len()).sum::<usize>();
        let go = || {
            let Command::Auth(start) = Command::parse(black_box(command.as_bytes())) else { panic!("no AUTH") };
            let mut exchange = Exchange::begin(start);
            for line in lines {
                exchange.challenge(black_box(b"VXNlcm5hbWU6"));
                exchange.client_line(black_box(line.as_bytes()));
            }
            exchange.into_account().unwrap()
        };
        look.at("auth::Exchange", name, bytes, go);
    }
}

fn replies(look: &mut impl Look) {
    for (name, raw) in [("greeting", GREETING), ("EHLO", OFFER)] {
        look.at("reply::parse", name, raw.len(), || complete(black_box(raw)).code);
    }
    look.at("ehlo::Offer", "read", OFFER.len(), || Offer::read(&complete(black_box(OFFER))));
    let (offer, mut out) = (Offer::read(&complete(OFFER)), Vec::new());
    offer.write(&mut out, b"mx.example.org", offer.keywords);
    let written = out.len();
    let write = || {
        out.clear();
        offer.write(black_box(&mut out), b"mx.example.org", offer.keywords);
    };
    look.at("ehlo::Offer", "write", written, write);
    assert!(offer.keywords != Keywords::NONE);
}

fn complete(raw: &[u8]) -> Reply<'_> {
    match reply::parse(raw) {
        reply::Parsed::Complete(reply) => reply,
        _ => panic!("not a whole reply"),
    }
}

fn proxy_headers(look: &mut impl Look) {
    let proxied = |source: &str, destination: &str| Header::Proxied {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    };
    let v4 = proxied("192.0.2.77:56324", "198.51.100.25:25");
    let v6 = proxied("[2001:db8:1234:5678::77]:56324", "[2001:db8::25]:25");
    let nothing = Extras::default();
    let tls = Tls { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384", certificate: false };
    let extras = Extras { tls: Some(tls), visit: Some(Visit { id: *b"7K2MQ-9XV4T", score: Some(3) }) };
    for (name, version, header, extras) in [
        ("v1, IPv4", Version::V1, &v4, &nothing),
        ("v1, IPv6", Version::V1, &v6, &nothing),
        ("v2, IPv4", Version::V2, &v4, &nothing),
        ("v2, IPv6", Version::V2, &v6, &nothing),
        ("v2, TLVs", Version::V2, &v4, &extras),
    ] {
        let mut raw = Vec::new();
        proxy_header::write_with(&mut raw, version, header, extras);
        assert!(matches!(proxy_header::parse(&raw), Parsed::Complete { length, .. } if length == raw.len()));
        look.at("proxy_header::parse", name, raw.len(), || proxy_header::parse(black_box(&raw)));
        let mut out = Vec::with_capacity(raw.len());
        let write = || {
            out.clear();
            proxy_header::write_with(&mut out, version, black_box(header), extras);
        };
        look.at("proxy_header::write", name, raw.len(), write);
    }
}
