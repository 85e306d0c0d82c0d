//! Whether the backend believes who the client is said to be. Each way of telling has its own signs; where there are none,
//! that is what is said, and how to find out.
//!
//! | sign | what it tells |
//! | --- | --- |
//! | a reply names the stranger's address | believed |
//! | a reply names gatepost's address | not believed |
//! | gatepost may do what the stranger may not | believed |
//! | (PROXY) nobody is greeted without a header | headers are read here |
//! | (PROXY) a greeting, and complaints behind it | headers are taken for commands: no client gets through |
//! | (XCLIENT) 220 | the session has begun anew, as the stranger's |
//! | (transparent) a connection from the stranger's address | the stranger is at the other end of the MTA's socket |

mod proxy;
mod transparent;
mod unannounced;
mod xclient;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::backend::Met;
use super::dns;
use super::finding::{Findings, Topic};
use super::strangers::{Named, Seen};
use super::talk::Surplus;
use crate::addr;
use crate::backend::{self, Announce, Failure, Visitor};
use crate::proxy_header::Version;
use crate::session;
use crate::smtp::xclient::Hello;

/// The name in a stranger's first EHLO: an MTA may echo it, so it must not hold an address.
pub(super) const NAME: &str = "doctor.gatepost.invalid";

/// Whom a stranger may be: addresses for documentation (RFC 5737, RFC 3849), which nobody has and nobody trusts. There
/// are several, for the networks of some who learn or test.
const STRANGERS_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 1)];
const STRANGERS_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)];

/// Where the stranger would have connected to, where the gate listens everywhere.
const HERE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 25);
const HERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x25);

/// What the replies say, whatever the way in which the stranger was announced.
enum Belief {
    Believed(String),
    NotBelieved(String),
    Unknown,
}

/// Whether the backend is told of each client before it hears a word of it.
pub(super) const fn is_told(announce: Announce) -> bool {
    match announce {
        Announce::Proxy(_) | Announce::Transparent | Announce::Xclient => true,
        Announce::Header | Announce::Nothing => false,
    }
}

/// Those strangers that can be announced, one of each family that the gate serves. If there is none, that is told, and
/// no client would get through.
pub(super) async fn introduce(gate: &session::Settings, met: &Met, out: &mut Findings) -> Vec<Visitor<'static>> {
    let visitors = visitors(&gate.listen, |ip| dns::is_ours(ip) || ip == addr::canonical(met.peer.ip()));
    match gate.backend.announce {
        Announce::Proxy(_) => visitors,
        Announce::Transparent => transparent::introduce(gate, visitors, out).await,
        Announce::Xclient => xclient::introduce(gate, met, visitors, out).await,
        Announce::Header | Announce::Nothing => Vec::new(),
    }
}

/// Tells whether the backend believed that the stranger was one. A new way of announcing goes here: with signs of its
/// own, or by what the replies alone say.
pub(super) async fn examine(gate: &session::Settings, met: &Met, stranger: IpAddr, seen: &Seen, out: &mut Findings) {
    match gate.backend.announce {
        Announce::Proxy(_) => proxy::examine(gate, met, stranger, seen, out).await,
        Announce::Transparent => transparent::examine(stranger, seen, out),
        Announce::Xclient => xclient::examine(stranger, seen, out),
        Announce::Header | Announce::Nothing => {}
    }
}

/// Tells what the backend does not know where clients are not announced.
pub(super) fn tell_unannounced(gate: &session::Settings, met: &Met, out: &mut Findings) {
    unannounced::tell(gate, met, out);
}

/// A stranger of each family that the gate serves; at an address that is not `taken`.
fn visitors(listen: &[SocketAddr], taken: impl Fn(IpAddr) -> bool) -> Vec<Visitor<'static>> {
    let visitor = |of_family: fn(&&SocketAddr) -> bool, clients: &[IpAddr], here: IpAddr| {
        let local = listen.iter().find(of_family)?;
        let client = clients.iter().find(|&&ip| !taken(ip)).or_else(|| clients.first())?;
        let ip = if local.ip().is_unspecified() { here } else { local.ip() };
        let hello = Some(Hello { extended: true, name: NAME.as_bytes() });
        Some(Visitor { hello, ..Visitor::new((*client, 40_000).into(), (ip, local.port()).into()) })
    };
    let v4 = visitor(|listen| listen.is_ipv4(), &STRANGERS_V4.map(IpAddr::from), HERE_V4.into());
    let v6 = visitor(|listen| listen.is_ipv6(), &STRANGERS_V6.map(IpAddr::from), HERE_V6.into());
    v4.into_iter().chain(v6).collect()
}

impl Belief {
    fn of(seen: &Seen) -> Self {
        match (&seen.named, seen.stranger_relays, seen.gatepost_relays) {
            (Some((Named::Stranger, said)), ..) => Self::Believed(format!("it names that address: {said}")),
            (Some((Named::Gatepost, said)), ..) => Self::NotBelieved(format!("it names gatepost's address: {said}")),
            (None, Some(false), Some(true)) => {
                Self::Believed("it relays for gatepost itself, and not for that address".to_owned())
            }
            (None, ..) => Self::Unknown,
        }
    }
}

/// The backend takes gatepost for the client, although that was announced.
fn tell_not_believed(stranger: IpAddr, why: &str, remedy: &str, out: &mut Findings) {
    let what = format!("the MTA takes gatepost for the client, although {stranger} was announced: {why}");
    out.wrong(Topic::Announce, what, remedy);
}

/// The backend complains of the header: it takes it for commands.
pub(super) async fn tell_unread_header(gate: &session::Settings, surplus: &Surplus, out: &mut Findings) {
    let said = match surplus {
        Surplus::More(line) => format!("then says, unasked: {line}"),
        Surplus::End | Surplus::Nothing => "then hangs up".to_owned(),
    };
    let what = format!("the MTA does not expect a PROXY header: it greets, {said}. No client would get through");
    let plain = proxy::greets(gate, Announce::Nothing, proxy::PATIENCE).await;
    let offered = plain.is_some_and(|hello| xclient::is_offered(&hello));
    out.wrong(Topic::Announce, what, expect_header(&gate.backend, offered));
}

/// How to make an MTA expect a header. `xclient` says that it offers that.
fn expect_header(settings: &backend::Settings, xclient: bool) -> String {
    let mut remedy = format!(
        "Postfix: -o smtpd_upstream_proxy_protocol=haproxy for the service that listens at {address}, in master.cf; Exim: \
         hosts_proxy. Is {address} the port that was made for gatepost, and was the MTA reloaded?",
        address = settings.address
    );
    if xclient {
        remedy.push_str(" Or set announce = \"xclient\": the MTA offers XCLIENT to gatepost there");
    }
    remedy
}

/// There is no conversation because of how clients are announced, and it is clear what is wrong with that. Whether that
/// was told.
pub(super) async fn tell_failure(gate: &session::Settings, failure: &Failure, out: &mut Findings) -> bool {
    let missing = matches!(failure, Failure::NoXclient);
    if missing {
        xclient::tell_missing(gate, out).await;
    }
    missing
}

/// Where the backend does not greet as it should: whether it would if the client were announced in another way. If so,
/// tells that, and that is all there is to tell. `said` is what it does when gatepost dials.
pub(super) async fn tell_another_way(gate: &session::Settings, said: &str, out: &mut Findings) -> bool {
    let settings = &gate.backend;
    for other in [Announce::Nothing, Announce::Proxy(Version::V2), Announce::Proxy(Version::V1)] {
        // In all ways but with a header, gatepost itself has just dialled as it would in this.
        let same = other == settings.announce
            || other == Announce::Nothing && !matches!(settings.announce, Announce::Proxy(_));
        if same {
            continue;
        }
        let Some(hello) = proxy::greets(gate, other, proxy::PATIENCE).await else { continue };
        match (settings.announce, other) {
            (before, Announce::Proxy(version)) => {
                let word = if version == Version::V1 { "proxy-v1" } else { "proxy-v2" };
                let kind = if matches!(before, Announce::Proxy(_)) { " of another kind" } else { "" };
                let what = format!("the MTA expects a PROXY header{kind}: as it is, {said}; by {word}, it greets");
                out.wrong(Topic::Announce, what, format!("set announce = \"{word}\""));
            }
            (_, _) => {
                let what = format!("the MTA does not expect a PROXY header: with one, {said}; without one, it greets");
                out.wrong(Topic::Announce, what, expect_header(settings, xclient::is_offered(&hello)));
            }
        }
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_stranger_for_each_family() {
        let listen: Vec<SocketAddr> = ["[::]:25", "0.0.0.0:25", "127.0.0.1:2025"].map(|at| at.parse().unwrap()).into();
        let ends = |taken: &[&str]| -> Vec<String> {
            let visitors = visitors(&listen, |ip| taken.contains(&ip.to_string().as_str()));
            assert!(visitors.iter().all(|one| one.client.is_ipv4() == one.local.is_ipv4()));
            visitors.iter().map(|one| format!("{} -> {}", one.client, one.local)).collect()
        };
        assert_eq!(ends(&[]), ["192.0.2.1:40000 -> 192.0.2.25:25", "[2001:db8::1]:40000 -> [2001:db8::25]:25"]);
        let elsewhere = ends(&["192.0.2.1", "198.51.100.1", "2001:db8::1"]);
        assert!(elsewhere[0].starts_with("203.0.113.1:") && elsewhere[1].starts_with("[2001:db8:ffff::1]:"));
        // Whoever has them all: any is as good as another.
        assert!(ends(&["192.0.2.1", "198.51.100.1", "203.0.113.1"])[0].starts_with("192.0.2.1:"));
    }
}
