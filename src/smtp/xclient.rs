//! XCLIENT (Postfix, `XCLIENT_README`): telling an MTA whom a connection is really from. Written, never read: from a
//! client it is not believed.
//!
//! ```text
//!  XCLIENT HELO=client.example PROTO=ESMTP DESTADDR=198.51.100.25 DESTPORT=25 PORT=40000 NAME=a.example ADDR=192.0.2.7
//! ```
//!
//! Promises: only attributes that the MTA has announced are said; each line is at most [`LINE_LIMIT`] octets; values are
//! xtext (RFC 3461 §4), so nothing in them can end a value or a line; ADDR and NAME stand together in the last line, since
//! with ADDR the MTA forgets that it trusts us.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use super::path::{is_blank, trim_blanks};
use super::reply::Reply;

/// The longest command line, CRLF included (RFC 5321 §4.5.3.1.4).
pub const LINE_LIMIT: usize = 512;

/// The longest host name.
const NAME_LIMIT: usize = 255;

const LABEL_LIMIT: usize = 63;

const VERB: &str = "XCLIENT";

/// What can be told of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// Its verified host name.
    Name,
    /// Its address.
    Addr,
    /// Its port.
    Port,
    /// SMTP or ESMTP.
    Proto,
    /// The name it gave in HELO or EHLO.
    Helo,
    /// The address that it connected to.
    DestAddr,
    /// The port that it connected to.
    DestPort,
}

impl Attribute {
    const ALL: [Self; 7] =
        [Self::Name, Self::Addr, Self::Port, Self::Proto, Self::Helo, Self::DestAddr, Self::DestPort];

    const fn name(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::Addr => "ADDR",
            Self::Port => "PORT",
            Self::Proto => "PROTO",
            Self::Helo => "HELO",
            Self::DestAddr => "DESTADDR",
            Self::DestPort => "DESTPORT",
        }
    }
}

/// The attributes that an MTA announces. LOGIN, which it may announce too, is never told: whoever logs in does so at the
/// MTA itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes(u8);

impl Attributes {
    /// Reads a reply to EHLO; none if XCLIENT is not in it.
    pub fn announced(hello: &Reply<'_>) -> Self {
        let words = |line| <[u8]>::split(line, |&byte| is_blank(byte)).filter(|word| !word.is_empty());
        let mut found = Self::default();
        for line in hello.lines().skip(1).map(trim_blanks) {
            let mut words = words(line);
            if words.next().is_some_and(|keyword| keyword.eq_ignore_ascii_case(VERB.as_bytes())) {
                let of = |word: &[u8]| Attribute::ALL.into_iter().find(|one| one.name().as_bytes() == word);
                found = words.filter_map(|word| of(&word.to_ascii_uppercase())).fold(found, Self::with);
            }
        }
        found
    }

    /// With `attribute`.
    pub const fn with(self, attribute: Attribute) -> Self {
        Self(self.0 | 1 << attribute as u8)
    }

    /// Whether `attribute` is among them.
    pub const fn has(self, attribute: Attribute) -> bool {
        self.0 & 1 << attribute as u8 != 0
    }
}

/// The host name of a client, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostName {
    /// Its address has this name, and the name has its address.
    Verified(Box<str>),
    /// It has none, or none that leads back to it.
    Unavailable,
    /// Nobody could tell just now.
    Temporary,
}

impl HostName {
    /// The name `text`, a dot at its end or not, if that is one: labels of letters, digits, underscores and inner hyphens,
    /// not all of them numbers.
    pub fn verified(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            let inner = !label.starts_with('-') && !label.ends_with('-');
            !label.is_empty() && label.len() <= LABEL_LIMIT && inner && label.bytes().all(fine)
        };
        let number = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let sound = name.len() <= NAME_LIMIT && !number && name.split('.').all(label);
        sound.then(|| Self::Verified(name.into()))
    }

    fn value(&self) -> String {
        match self {
            Self::Verified(name) => xtext(name.as_bytes()),
            Self::Unavailable => "[UNAVAILABLE]".to_owned(),
            Self::Temporary => "[TEMPUNAVAIL]".to_owned(),
        }
    }
}

/// What a client said first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello<'a> {
    /// Whether that was EHLO rather than HELO.
    pub extended: bool,
    /// The name it gave, as it wrote it.
    pub name: &'a [u8],
}

/// Whom a connection is from.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its address and port.
    pub source: SocketAddr,
    /// The address and port that it connected to.
    pub destination: SocketAddr,
    /// Its host name.
    pub name: &'a HostName,
    /// What it has said, if it has.
    pub hello: Option<Hello<'a>>,
}

impl Client<'_> {
    /// The command lines, CRLF included, that tell an MTA which has `announced` these attributes. There is one at least,
    /// if ADDR is announced, and that is said in the last.
    pub fn commands(&self, announced: Attributes) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = VERB.to_owned();
        let whole = |line: &str| line.len() + "\r\n".len() <= LINE_LIMIT;
        for part in [self.hello(announced), self.destination(announced), self.source(announced)] {
            // Only a HELO name can be as long as that. The EHLO that follows says it in any case.
            if part.is_empty() || !whole(&format!("{VERB}{part}")) {
                continue;
            }
            if !whole(&format!("{line}{part}")) {
                lines.push(std::mem::replace(&mut line, VERB.to_owned()) + "\r\n");
            }
            line.push_str(&part);
        }
        if line.len() > VERB.len() {
            lines.push(line + "\r\n");
        }
        lines
    }

    fn hello(&self, announced: Attributes) -> String {
        let mut part = String::new();
        let Some(Hello { extended, name }) = self.hello else { return part };
        let placeholder = name.eq_ignore_ascii_case(b"[UNAVAILABLE]") || name.eq_ignore_ascii_case(b"[TEMPUNAVAIL]");
        if (1..=NAME_LIMIT).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic) && !placeholder {
            add(&mut part, announced, Attribute::Helo, &xtext(name));
        }
        add(&mut part, announced, Attribute::Proto, if extended { "ESMTP" } else { "SMTP" });
        part
    }

    fn destination(&self, announced: Attributes) -> String {
        let mut part = String::new();
        add(&mut part, announced, Attribute::DestAddr, &address(self.destination.ip()));
        add(&mut part, announced, Attribute::DestPort, &self.destination.port().to_string());
        part
    }

    fn source(&self, announced: Attributes) -> String {
        let mut part = String::new();
        add(&mut part, announced, Attribute::Port, &self.source.port().to_string());
        add(&mut part, announced, Attribute::Name, &self.name.value());
        add(&mut part, announced, Attribute::Addr, &address(self.source.ip()));
        part
    }
}

fn add(part: &mut String, announced: Attributes, attribute: Attribute, value: &str) {
    if announced.has(attribute) {
        let _ = write!(part, " {}={value}", attribute.name());
    }
}

fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("IPV6:{ip}"),
    }
}

/// RFC 3461 §4: printable ASCII but `+` and `=` stands for itself.
fn xtext(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for &byte in value {
        match byte {
            b'!'..=b'~' if byte != b'+' && byte != b'=' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "+{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::smtp::command::Command;
    use crate::smtp::reply::{self, Parsed};

    const POSTFIX: &[u8] =
        b"250-mx.test\r\n250-SIZE 9\r\n250-XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT\r\n250 DSN\r\n";

    fn announced(ehlo: &[u8]) -> Attributes {
        let Parsed::Complete(said) = reply::parse(ehlo) else { panic!("no reply") };
        Attributes::announced(&said)
    }

    fn commands(client: &str, name: &HostName, hello: Option<(bool, &[u8])>, ehlo: &[u8]) -> Vec<String> {
        let hello = hello.map(|(extended, name)| Hello { extended, name });
        let (source, destination) = (client.parse().unwrap(), "198.51.100.25:25".parse().unwrap());
        Client { source, destination, name, hello }.commands(announced(ehlo))
    }

    #[test]
    fn what_is_announced_is_read() {
        let all = Attribute::ALL.into_iter().fold(Attributes::default(), Attributes::with);
        let addr = Attributes::default().with(Attribute::Addr);
        for (ehlo, read) in [
            (POSTFIX, all),
            (b"250-a\r\n250 xclient\tfoo  addr \r\n", addr),
            (b"250-a\r\n250-XCLIENT PORT\r\n250 XCLIENT ADDR\r\n", addr.with(Attribute::Port)),
            (b"250-a\r\n250 XCLIENT\r\n", Attributes::default()),
            (b"250-a\r\n250 XCLIENTS ADDR\r\n", Attributes::default()),
            (b"250-XCLIENT ADDR\r\n250 ok\r\n", Attributes::default()),
        ] {
            assert_eq!(announced(ehlo), read, "{}", ehlo.escape_ascii());
        }
    }

    #[test]
    fn a_client_is_told_of_in_the_attributes_that_were_announced() {
        let name = HostName::verified("a.client.example.").unwrap();
        let hello = Some((true, &b"client+1=x"[..]));
        let kumo = b"250-a\r\n250 XCLIENT ADDR PORT DESTADDR DESTPORT\r\n";
        for (client, name, hello, ehlo, line) in [
            (
                "192.0.2.7:40000",
                &name,
                hello,
                POSTFIX,
                "XCLIENT HELO=client+2B1+3Dx PROTO=ESMTP DESTADDR=198.51.100.25 DESTPORT=25 PORT=40000 \
                 NAME=a.client.example ADDR=192.0.2.7\r\n",
            ),
            (
                "[2001:db8::7]:40000",
                &HostName::Temporary,
                Some((false, &b"client"[..])),
                POSTFIX,
                "XCLIENT HELO=client PROTO=SMTP DESTADDR=198.51.100.25 DESTPORT=25 PORT=40000 NAME=[TEMPUNAVAIL] \
                 ADDR=IPV6:2001:db8::7\r\n",
            ),
            ("192.0.2.7:1", &name, None, kumo, "XCLIENT DESTADDR=198.51.100.25 DESTPORT=25 PORT=1 ADDR=192.0.2.7\r\n"),
            ("192.0.2.7:1", &name, hello, b"250-a\r\n250 XCLIENT ADDR\r\n", "XCLIENT ADDR=192.0.2.7\r\n"),
            (
                "192.0.2.7:1",
                &HostName::Unavailable,
                Some((true, b"[UNAVAILABLE]")),
                b"250-a\r\n250 XCLIENT NAME ADDR HELO PROTO\r\n",
                "XCLIENT PROTO=ESMTP NAME=[UNAVAILABLE] ADDR=192.0.2.7\r\n",
            ),
            (
                "192.0.2.7:1",
                &HostName::Unavailable,
                Some((true, b"\xc3\xa4\x1b[31m")),
                b"250-a\r\n250 XCLIENT NAME ADDR HELO\r\n",
                "XCLIENT NAME=[UNAVAILABLE] ADDR=192.0.2.7\r\n",
            ),
        ] {
            assert_eq!(commands(client, name, hello, ehlo), [line]);
        }
        assert!(commands("192.0.2.7:1", &name, hello, b"250-a\r\n250 XCLIENT\r\n").is_empty());
    }

    #[test]
    fn what_does_not_fit_into_one_line_takes_two() {
        let long = [&b"a"[..]; 128].join(&b'.');
        let name = HostName::verified(str::from_utf8(&long).unwrap()).unwrap();
        let lines = commands("[2001:db8::7]:1", &name, Some((true, &long)), POSTFIX);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("XCLIENT HELO=a.a.") && lines[0].ends_with(" DESTPORT=25\r\n"), "{lines:?}");
        assert!(lines[1].starts_with("XCLIENT PORT=1 NAME=a.a.") && lines[1].ends_with(" ADDR=IPV6:2001:db8::7\r\n"));
        // Each of these becomes three characters.
        let lines = commands("192.0.2.7:1", &name, Some((true, &[b'+'; 255])), POSTFIX);
        assert!(lines[0].starts_with("XCLIENT DESTADDR=") && lines.len() == 1, "{lines:?}");
    }

    #[test]
    fn a_host_name_is_one() {
        for name in ["a", "a.example", "a.example.", "7.example", "_x.a-b.example", "xn--abc.example"] {
            let kept = HostName::Verified(name.trim_end_matches('.').into());
            assert_eq!(HostName::verified(name), Some(kept), "{name}");
        }
        let long = "a.".repeat(128) + "a";
        let label = "a".repeat(64);
        for name in ["", ".", "a..b", "-a.b", "a-.b", "192.0.2.7", "a b", "a\r\nb", "a=b", "ä.example", &long, &label]
        {
            assert_eq!(HostName::verified(name), None, "{name:?}");
        }
    }

    proptest! {
        /// Whatever a client calls itself: lines of the one verb and of the length that is allowed, ADDR in the last alone.
        #[test]
        fn nothing_gets_out_of_its_value(
            source: (IpAddr, u16), name in "[a-z.]{0,300}", extended: bool, hello: Vec<u8>, long in 0..400_usize,
        ) {
            let name = HostName::verified(&name).unwrap_or(HostName::Unavailable);
            let hello = [hello, vec![b'+'; long]].concat();
            let hello = Some(Hello { extended, name: &hello });
            let client = Client { source: source.into(), destination: source.into(), name: &name, hello };
            let lines = client.commands(announced(POSTFIX));
            let (last, before) = lines.split_last().unwrap();
            prop_assert!(last.contains(" ADDR=") && last.contains(" NAME="));
            prop_assert!(before.iter().all(|line| !line.contains(" ADDR=") && !line.contains(" NAME=")));
            for line in &lines {
                prop_assert!(line.len() <= LINE_LIMIT && line.ends_with("\r\n"));
                let text = line.trim_end_matches("\r\n");
                prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                prop_assert!(matches!(Command::parse(text.as_bytes()), Command::Xclient(_)));
                let values = text.split(' ').skip(1).map(|pair| pair.split('=').count());
                prop_assert!(values.into_iter().all(|parts| parts == 2), "{}", text);
            }
        }
    }
}
