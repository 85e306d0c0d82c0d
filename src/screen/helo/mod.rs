//! What the name in HELO or EHLO says of a client.
//!
//! [`examine`] finds at most one fault for each of the two tests: [`Test::HeloName`] (a known bot's name, or ours) and
//! [`Test::HeloSyntax`] (a name that RFC 5321 does not allow). A name can fail both, and an operator may have turned
//! either one off, so the one fault never hides the other.
//!
//! No name is ever a fault for what DNS says of it. Looser than the letter on purpose, because honest senders do it:
//!
//! | name | why it is no fault |
//! | --- | --- |
//! | `localhost.localdomain`, `mail.local` | valid domains of misconfigured but honest hosts |
//! | a literal of a private network or of loopback | what a host behind NAT knows of itself |
//! | a literal out of the client's own /24 or /48 | a site that leaves by another of its addresses |
//! | a literal of the other IP version | a dual-stack host that leaves by its other address |
//! | any literal, if the client's own address is private | who it really is, we do not see |
//!
//! Strict on purpose: an underscore makes a name invalid, as it does for Exim by default; and `WIN-0A1B2C3D4E5`, the
//! name that Windows invents for itself, is a single label like any other, a bot only where it is listed by name.
//!
//! Left to others: parsing ([`crate::smtp::path::name`]), what a fault leads to, and names that change within a visit.

mod bots;

pub use bots::{BadPattern, Bots, Pattern, SHIPPED};

use std::fmt;
use std::net::IpAddr;

use crate::addr::canonical;
use crate::smtp::path::{self, Name};

use super::test::Test;

/// Which names give a client away.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Names {
    /// Names of known bots: the shipped ones ([`Bots::shipped`]) and the operator's.
    pub bots: Bots,
    /// Our own names: a client that gives one of them lies. A single label (`mail`) is nobody's own and is passed over.
    pub own: Vec<String>,
    /// Our own addresses, likewise, bare or as a literal. Private and loopback ones only tell which clients are
    /// ourselves: an honest host behind another NAT may well have the same.
    pub own_addresses: Vec<IpAddr>,
}

/// What is wrong with a name, gravest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// It is on the list of known bots.
    KnownBot(Pattern),
    /// It is one of our own names.
    OurName,
    /// It is one of our own addresses, bare or as a literal.
    OurAddress,
    /// There is none.
    Missing,
    /// A literal that is the address of somebody else.
    ForeignLiteral,
    /// It begins with `[` and is no address literal.
    BadLiteral,
    /// An address without brackets.
    BareAddress,
    /// No domain: characters, labels or lengths that RFC 5321 does not allow.
    Invalid,
    /// A name without a dot.
    SingleLabel,
}

impl Fault {
    /// The test that it fails.
    pub const fn test(self) -> Test {
        match self {
            Self::KnownBot(_) | Self::OurName | Self::OurAddress => Test::HeloName,
            Self::Missing
            | Self::ForeignLiteral
            | Self::BadLiteral
            | Self::BareAddress
            | Self::Invalid
            | Self::SingleLabel => Test::HeloSyntax,
        }
    }

    /// The name in the journal and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KnownBot(_) => "known-bot",
            Self::OurName => "our-name",
            Self::OurAddress => "our-address",
            Self::Missing => "missing",
            Self::ForeignLiteral => "foreign-literal",
            Self::BadLiteral => "bad-literal",
            Self::BareAddress => "bare-address",
            Self::Invalid => "invalid",
            Self::SingleLabel => "single-label",
        }
    }
}

/// As it is said to the client: what is wrong, in words that its administrator can act on.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KnownBot(_) => "a name that only bots give",
            Self::OurName => "that is our own name",
            Self::OurAddress => "that is our own address",
            Self::Missing => "no name given",
            Self::ForeignLiteral => "that is not your address",
            Self::BadLiteral => "an address literal is [192.0.2.1] or [IPv6:2001:db8::1]",
            Self::BareAddress => "an address needs brackets",
            Self::Invalid => "a host name has letters, digits, hyphens and dots",
            Self::SingleLabel => "need a fully-qualified host name",
        })
    }
}

/// What is wrong with one name: at most one fault for each test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    name: Option<Fault>,
    syntax: Option<Fault>,
}

impl Faults {
    /// The faults, gravest first.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        self.name.into_iter().chain(self.syntax)
    }

    /// The gravest of them, for a journal that shows one.
    pub fn gravest(self) -> Option<Fault> {
        self.name.or(self.syntax)
    }

    /// Whether there is nothing wrong.
    pub const fn is_empty(self) -> bool {
        self.name.is_none() && self.syntax.is_none()
    }
}

/// What the parameter of HELO or EHLO says of `client`.
///
/// Case and one trailing dot make no difference; blanks around the name are not part of it.
pub fn examine(name: &[u8], client: IpAddr, names: &Names) -> Faults {
    let name = name.trim_ascii();
    let client = canonical(client);
    let parsed = path::name(name);
    Faults { name: identity(name, &parsed, client, names), syntax: syntax(&parsed, client) }
}

/// The fault of a name that is a known bot's or ours.
fn identity(name: &[u8], parsed: &Name<'_>, client: IpAddr, names: &Names) -> Option<Fault> {
    if let Some(pattern) = names.bots.find(name) {
        return Some(Fault::KnownBot(pattern));
    }
    // Our own health checks and a content filter that sends mail back to us call themselves what they are.
    if client.is_loopback() || names.own_addresses.iter().any(|&own| canonical(own) == client) {
        return None;
    }
    if names.own.iter().any(|own| own_name(own.as_bytes(), name)) {
        return Some(Fault::OurName);
    }
    match *parsed {
        Name::BareAddress(said) | Name::Literal(said) => {
            let said = canonical(said);
            let ours = !is_shared(said) && names.own_addresses.iter().any(|&own| canonical(own) == said);
            ours.then_some(Fault::OurAddress)
        }
        _ => None,
    }
}

/// The fault of a name that RFC 5321 §4.1.1.1 does not allow.
fn syntax(parsed: &Name<'_>, client: IpAddr) -> Option<Fault> {
    match *parsed {
        Name::Domain(_) => None,
        Name::SingleLabel(_) => Some(Fault::SingleLabel),
        Name::BareAddress(_) => Some(Fault::BareAddress),
        Name::Literal(said) => is_foreign(canonical(said), client).then_some(Fault::ForeignLiteral),
        Name::BadLiteral(_) => Some(Fault::BadLiteral),
        Name::Invalid(_) => Some(Fault::Invalid),
        Name::Missing => Some(Fault::Missing),
    }
}

/// Whether `name` is our name `own`, and a name that only we can have.
fn own_name(own: &[u8], name: &[u8]) -> bool {
    let own = without_final_dot(own);
    own.contains(&b'.') && own.eq_ignore_ascii_case(without_final_dot(name))
}

/// The name without the dot that makes it absolute.
fn without_final_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

/// Whether a client at `client` cannot honestly call itself `said`; the module's table says what is tolerated.
fn is_foreign(said: IpAddr, client: IpAddr) -> bool {
    if is_shared(said) || is_shared(client) {
        return false;
    }
    match (said, client) {
        (IpAddr::V4(said), IpAddr::V4(client)) => (said.to_bits() ^ client.to_bits()) >> 8 != 0,
        (IpAddr::V6(said), IpAddr::V6(client)) => (said.to_bits() ^ client.to_bits()) >> 80 != 0,
        _ => false,
    }
}

/// Whether many hosts have this address, each in its own network: private (RFC 1918, RFC 4193), carrier-grade NAT
/// (RFC 6598), link-local and loopback.
fn is_shared(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let carrier = v4.to_bits() >> 22 == 0b01_1001_0001;
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || carrier
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: &str = "203.0.113.25";

    fn names() -> Names {
        Names {
            bots: Bots::shipped(),
            own: vec!["mx.example.org".into(), "Mail.Example.NET.".into(), "mail".into()],
            own_addresses: ["198.51.100.7", "2001:db8:7::25", "10.0.0.5"].map(|a| a.parse().unwrap()).to_vec(),
        }
    }

    fn of(name: &[u8], client: &str) -> Vec<&'static str> {
        examine(name, client.parse().unwrap(), &names()).iter().map(Fault::name).collect()
    }

    #[test]
    fn honest_names_are_left_alone() {
        for name in [
            // large senders
            "mail-ej1-f41.google.com",
            "mail-oo1-xc2d.google.com",
            "mail-sor-f69.google.com",
            "EUR05-VI1-obe.outbound.protection.outlook.com",
            "NAM12-BN8-obe.outbound.protection.outlook.com",
            "AS8PR04CU009.outbound.protection.outlook.com",
            "o1.ptr4821.example-news.com",
            "wrqvxvnk.outbound-mail.sendgrid.net",
            "a8-31.smtp-out.amazonses.com",
            "b224-12.smtp-out.eu-central-1.amazonses.com",
            "sonic315-20.consmr.mail.ne1.yahoo.com",
            "sonic.gate.mail.ne1.yahoo.com",
            "mout.gmx.net",
            "mout.kundenserver.de",
            "mout.web.de",
            "mailout01.t-online.de",
            "fwd82.t-online.de",
            "mail-4316.protonmail.ch",
            "mail-40133.proton.ch",
            "eu-smtp-delivery-151.mimecast.com",
            "us-smtp-inbound-1.mimecast.com",
            "mx0a-00082601.pphosted.com",
            "esa4.hc324-48.eu.iphmx.com",
            "mail1.bemta32.messagelabs.com",
            "outbound-ip24b.ess.barracuda.com",
            "m15-78.126.com",
            "m31-189.vip.163.com",
            "out203-205-221-191.mail.qq.com",
            "smtp-out-n05.prod.us-west-2.postgun.com",
            "m42-5.mailgun.net",
            "mta-70-28-4.mc-mta.example.com",
            "mail132-21.atl131.mandrillapp.com",
            "pmta.mtasv.net",
            "out5-smtp.messagingengine.com",
            "fhigh-a4-smtp.messagingengine.com",
            "qs51p00im-qukt01072502.me.com",
            "smtp-relay.sendinblue.com",
            "mail.smtp2go.com",
            "relay6-d.mail.gandi.net",
            "6.mo548.mail-out.ovh.net",
            "smtpcmd15.ad.aruba.it",
            "snt004-omc1s8.hotmail.com",
            "forward501a.mail.yandex.net",
            "fallback22.i.mail.ru",
            "relay.zoho.eu",
            "lists.sourceforge.net",
            "vger.kernel.org",
            "english-breakfast.cloud9.net",
            // shapes
            "a.b",
            "x.y.z.w.example.com",
            "1und1.de",
            "163-12-1-9.static.example.net",
            "3com.example",
            "9.9.example.com",
            "xn--bcher-kva.example",
            "mail.xn--p1ai",
            "MAIL.EXAMPLE.COM",
            "mail.example.com.",
            "a-very-long-but-legal-label-of-sixty-three-octets-is-still-fine.example.com",
            "localhost.localdomain",
            "exchange.corp.local",
            "ip-172-31-4-9.eu-west-1.compute.internal",
            "srv01.fritz.box",
            "win-0a1b2c3d4e5.corp.example.com",
            "dsl-203-0-113-25.pool.example.net",
            "mail.example.org",
            "smtp.mx.example.org",
            "ylmf-pc.example.com",
            "user.example.com",
            "smtp.gmail.com",
            // literals
            "[203.0.113.25]",
            "[203.0.113.99]",
            "[192.168.1.10]",
            "[10.0.0.5]",
            "[172.17.0.2]",
            "[100.64.3.4]",
            "[169.254.10.1]",
            "[127.0.0.1]",
            "[IPv6:2001:db8::1]",
            "[IPv6:::ffff:203.0.113.25]",
            "[IPv6:fe80::1]",
        ] {
            assert_eq!(of(name.as_bytes(), CLIENT), [""; 0], "{name}");
            assert_eq!(of(format!(" {name}\t").as_bytes(), CLIENT), [""; 0], "blanks around {name}");
        }
    }

    #[test]
    fn faults_are_found() {
        for (name, faults) in [
            ("ylmf-pc", &["known-bot", "single-label"][..]),
            ("YLMF-PC.", &["known-bot", "single-label"]),
            ("User", &["known-bot", "single-label"]),
            ("nmap.scanme.org", &["known-bot"]),
            ("gmail.com", &["known-bot"]),
            ("mx.example.org", &["our-name"]),
            ("MX.Example.Org.", &["our-name"]),
            ("mail.example.net", &["our-name"]),
            ("[198.51.100.7]", &["our-address", "foreign-literal"]),
            ("[IPv6:2001:db8:7::25]", &["our-address"]),
            ("[IPv6:::ffff:198.51.100.7]", &["our-address", "foreign-literal"]),
            ("198.51.100.7", &["our-address", "bare-address"]),
            ("2001:db8:7::25", &["our-address", "bare-address"]),
            ("10.0.0.5", &["bare-address"]),
            ("203.0.113.25", &["bare-address"]),
            ("", &["missing"]),
            (" \t", &["missing"]),
            ("[203.0.112.25]", &["foreign-literal"]),
            ("[8.8.8.8]", &["foreign-literal"]),
            ("[0.0.0.0]", &["foreign-literal"]),
            ("[100.128.0.1]", &["foreign-literal"]),
            ("[100.63.255.255]", &["foreign-literal"]),
            ("[172.32.0.1]", &["foreign-literal"]),
            ("[]", &["bad-literal"]),
            ("[203.0.113.25", &["bad-literal"]),
            ("[mail.example.com]", &["bad-literal"]),
            ("[203.0.113.256]", &["bad-literal"]),
            ("localhost", &["single-label"]),
            ("mail", &["single-label"]),
            ("WIN-0A1B2C3D4E5", &["single-label"]),
            ("rudnlztc", &["single-label"]),
            ("mail_server.example.com", &["invalid"]),
            ("two words.example.com", &["invalid"]),
            ("mail..example.com", &["invalid"]),
            (".example.com", &["invalid"]),
            ("-mail-.example.com", &["invalid"]),
            ("user@example.com", &["invalid"]),
            ("<mail.example.com>", &["invalid"]),
        ] {
            assert_eq!(of(name.as_bytes(), CLIENT), faults, "{name}");
        }
        assert_eq!(of(b"b\xfccher.example", CLIENT), ["invalid"]);
        assert_eq!(of(b"mail\0.example.com", CLIENT), ["invalid"]);
    }

    #[test]
    fn who_says_it_matters() {
        for (name, client, faults) in [
            // ourselves
            ("mx.example.org", "127.0.0.1", &[][..]),
            ("mx.example.org", "::1", &[]),
            ("mx.example.org", "::ffff:127.0.0.1", &[]),
            ("mx.example.org", "198.51.100.7", &[]),
            ("mx.example.org", "10.0.0.5", &[]),
            ("[198.51.100.7]", "10.0.0.5", &[]),
            ("198.51.100.7", "198.51.100.7", &["bare-address"]),
            // a neighbour is not ourselves
            ("mx.example.org", "198.51.100.8", &["our-name"]),
            ("mx.example.org", "10.0.0.6", &["our-name"]),
            ("[198.51.100.7]", "198.51.100.8", &["our-address"]),
            // a client whose address we do not really see
            ("[8.8.8.8]", "172.17.0.1", &[]),
            // the same network, and one bit further
            ("[IPv6:2001:db8:1:ffff::1]", "2001:db8:1::9", &[]),
            ("[IPv6:2001:db8:2::1]", "2001:db8:1::9", &["foreign-literal"]),
            ("[203.0.113.1]", "::ffff:203.0.113.25", &[]),
            ("[203.0.114.1]", "::ffff:203.0.113.25", &["foreign-literal"]),
            ("[8.8.8.8]", "2001:db8:1::9", &[]),
        ] {
            assert_eq!(of(name.as_bytes(), client), faults, "{name} from {client}");
        }
    }

    #[test]
    fn each_fault_fails_the_test_that_it_belongs_to() {
        let faults = examine(b"ylmf-pc", CLIENT.parse().unwrap(), &names());
        let tests: Vec<Test> = faults.iter().map(Fault::test).collect();
        assert_eq!(tests, [Test::HeloName, Test::HeloSyntax]);
        assert_eq!(faults.gravest().map(Fault::name), Some("known-bot"));
        assert!(!faults.is_empty() && Faults::default().is_empty());
        let Some(Fault::KnownBot(pattern)) = faults.gravest() else { panic!("{faults:?}") };
        assert_eq!(names().bots.text(pattern), Some("ylmf-pc"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_examined(name in any::<Vec<u8>>(), client: IpAddr) {
            let faults = examine(&name, client, &names());
            prop_assert!(faults.iter().is_sorted());
            prop_assert!(faults.name.is_none_or(|f| f.test() == Test::HeloName));
            prop_assert!(faults.syntax.is_none_or(|f| f.test() == Test::HeloSyntax));
        }

        #[test]
        fn case_makes_no_difference(name in "[a-zA-Z0-9.:\\[\\]-]{0,20}|ylmf-pc|mx\\.example\\.org|\\[ipv6:2001:db8:7::25\\]", client: IpAddr) {
            let (lower, upper) = (name.to_ascii_lowercase(), name.to_ascii_uppercase());
            prop_assert_eq!(
                examine(lower.as_bytes(), client, &names()),
                examine(upper.as_bytes(), client, &names())
            );
        }

        #[test]
        fn a_client_may_always_call_itself_its_address(client: IpAddr) {
            let literal = match client {
                IpAddr::V4(v4) => format!("[{v4}]"),
                IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
            };
            prop_assert!(examine(literal.as_bytes(), client, &names()).is_empty(), "{}", literal);
        }
    }
}
