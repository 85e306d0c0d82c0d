//! The backend, met as the gate meets it: its name, the connection, TLS with it, the greeting, what it offers, and what
//! of that clients are shown.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::announce;
use super::finding::{Findings, Topic};
use super::talk::{Said, Surplus, Talk};
use super::tls;
use crate::backend::{Announce, Begins, Failure};
use crate::journal::text::escape;
use crate::session::{self, Scene, Tls};
use crate::smtp::ehlo::{Keyword, Keywords, Offer};
use crate::{addr, relay};

/// How long a backend that takes a PROXY header for commands has for its complaints about them.
const COMPLAINTS: Duration = Duration::from_millis(500);

/// A backend that was met.
pub(super) struct Met {
    /// What it offers.
    pub offer: Offer,
    /// That, in its own words: its reply to EHLO.
    pub hello: Said,
    /// The address that gatepost connects from.
    pub local: SocketAddr,
    /// Its address.
    pub peer: SocketAddr,
    /// How long the greeting took from the first packet on.
    pub greeted: Duration,
}

/// Meets it. Nothing if the gate could not do with what was found, and there is no use in asking on.
pub(super) async fn meet(gate: &session::Settings, out: &mut Findings) -> Option<Met> {
    let settings = &gate.backend;
    resolve(gate, out).await?;
    let begin = Instant::now();
    let mut talk = match Talk::begin(settings, None).await {
        Ok(talk) => talk,
        Err(failure) => {
            tell_failure(gate, &failure, out).await;
            return None;
        }
    };
    let connected = begin.elapsed();
    let greeting = match talk.hear().await {
        Ok(greeting) => greeting,
        Err(failure) => {
            tell_failure(gate, &failure, out).await;
            return None;
        }
    };
    let greeted = begin.elapsed();
    let (local, peer) = talk.ends()?;
    out.fine(
        Topic::Backend,
        format!(
            "{peer} takes the connection from {} after {} ms, and greets after {} ms: {}",
            local.ip(),
            connected.as_millis(),
            greeted.as_millis(),
            greeting.shown()
        ),
    );
    if greeting.code.number() != 220 {
        refuses(gate, &greeting, out).await;
        return None;
    }
    if matches!(settings.announce, Announce::Proxy(_))
        && let more @ (Surplus::More(_) | Surplus::End) = talk.surplus(COMPLAINTS).await
    {
        announce::tell_unread_header(gate, &more, out).await;
        return None;
    }
    tls::with_backend(gate, &talk, out);
    let hello = match talk.say(&format!("EHLO {}", gate.hostname)).await {
        Ok(hello) => hello,
        Err(failure) => {
            let what = format!("it takes the connection, but no EHLO: {failure}");
            out.away(Topic::Backend, what, "see the MTA's log; clients that pass get 421 until it does");
            return None;
        }
    };
    if !hello.code.is_positive() {
        let said = format!("EHLO is answered with {}", hello.shown());
        if announce::tell_another_way(gate, &said, out).await {
            return None;
        }
        let what = format!("it refuses EHLO {}: {}", gate.hostname, hello.shown());
        let remedy =
            "let the MTA take gatepost's own `hostname` in EHLO; without EHLO clients are offered no extensions";
        out.warn(Topic::Backend, what, remedy);
    }
    let offer = Offer::read(&hello.reply());
    tell_offer(gate, &hello, &offer, out);
    talk.leave().await;
    tell_path(gate, peer, &offer, out).await;
    Some(Met { offer, hello, local, peer, greeted })
}

async fn resolve(gate: &session::Settings, out: &mut Findings) -> Option<()> {
    let settings = &gate.backend;
    let begin = Instant::now();
    match timeout(settings.connect_timeout, lookup_host(&settings.address)).await {
        Ok(Ok(addresses)) => {
            let found: Vec<String> = addresses.map(|address| address.to_string()).take(8).collect();
            if found.len() > 1 {
                let what = format!(
                    "{} leads to {} (looked up in {} ms): they are tried in this order",
                    settings.address,
                    found.join(", "),
                    begin.elapsed().as_millis()
                );
                out.note(Topic::Backend, what, "write the address itself if only one of them is meant");
            }
            Some(())
        }
        Ok(Err(error)) => {
            let what = format!("{} cannot be looked up: {error}", settings.address);
            out.away(Topic::Backend, what, "see to the name in `backend`, or write an address there");
            None
        }
        Err(_) => {
            let what = format!("{} is not found in {:?}", settings.address, settings.connect_timeout);
            out.away(Topic::Backend, what, "see to the resolver of this host, or write an address in `backend`");
            None
        }
    }
}

/// It greets, and not with 220.
async fn refuses(gate: &session::Settings, greeting: &Said, out: &mut Findings) {
    if announce::tell_another_way(gate, &greeting.shown(), out).await {
        return;
    }
    let what = format!("it refuses service: {}", greeting.shown());
    out.away(Topic::Backend, what, "see the MTA's log for why; clients that pass get 421 meanwhile");
}

/// There is no conversation: because of how the client is announced, or for another reason.
async fn tell_failure(gate: &session::Settings, failure: &Failure, out: &mut Findings) {
    let reached = !matches!(
        failure,
        Failure::Resolve(_) | Failure::Connect(_) | Failure::ConnectTimeout(_) | Failure::Handshake(_)
    );
    if announce::tell_failure(gate, failure, out).await {
        return;
    }
    let said = failure.to_string();
    if reached && announce::tell_another_way(gate, &said, out).await {
        return;
    }
    let address = &gate.backend.address;
    let what = format!("{address}: {}", escape(said.as_bytes(), 300));
    match failure {
        Failure::NoTls => {
            let remedy = "have the MTA offer STARTTLS, or set `backend_tls` to what it does offer";
            out.wrong(Topic::Tls, what, remedy);
        }
        Failure::Handshake(_) => {
            let remedy = "name the host that its certificate is for in `backend_name`, and who vouches for it in \
                          `backend_ca`; or see to `backend_tls`: \"implicit\" is for ports where TLS comes first";
            out.wrong(Topic::Tls, what, remedy);
        }
        _ => out.away(Topic::Backend, what, remedy(failure)),
    }
}

fn remedy(failure: &Failure) -> &'static str {
    match failure {
        Failure::Connect(_) => "does the MTA run, and listen there? `ss -ltnp` shows who listens where",
        Failure::ConnectTimeout(_) => "is the host up, and does a firewall on the way let gatepost through?",
        Failure::ReplyTimeout(_) | Failure::Closed | Failure::Broken(_) => {
            "see the MTA's log: it takes the connection and says nothing. It may expect TLS first (`backend_tls`), or \
             another way of announcing clients (`announce`), or be overloaded"
        }
        Failure::NotSmtp => "does an MTA listen there? If TLS comes first at this port, set backend_tls = \"implicit\"",
        _ => "see the MTA's log, and `backend` and `announce` in the file",
    }
}

/// What it offers, and what of that clients get to see.
fn tell_offer(gate: &session::Settings, hello: &Said, offer: &Offer, out: &mut Findings) {
    let shown = shown(gate, offer.clone());
    let mut passed = Vec::new();
    for keyword in Keyword::ALL.into_iter().filter(|&keyword| shown.keywords.has(keyword)) {
        let parameter = offer.parameter(keyword).unwrap_or_default();
        passed.push(format!("{} {}", keyword.name(), escape(parameter, 80)).trim_end().to_owned());
    }
    let passed = if passed.is_empty() { "nothing".to_owned() } else { passed.join(", ") };
    let took = hello.took.as_millis();
    out.fine(Topic::Backend, format!("clients are offered: {passed} (EHLO is answered in {took} ms)"));
    let withheld = withheld(gate, hello, &shown);
    if !withheld.is_empty() {
        out.note(Topic::Backend, format!("withheld from clients: {}", withheld.join(", ")), "");
    }
    if gate.scene != Scene::Mx && gate.relay.auth && !offer.keywords.has(Keyword::Auth) {
        // With STARTTLS passed through, it may be offered under TLS only: that is looked at there.
        let later = matches!(gate.tls, Tls::EndToEnd) && offer.keywords.has(Keyword::StartTls);
        if !later {
            let remedy = "Postfix: smtpd_sasl_auth_enable = yes, and not smtpd_tls_auth_only = yes where TLS ends at \
                          gatepost and `backend_tls` is \"none\"; Exim: an authenticator, and auth_advertise_hosts";
            out.wrong(Topic::Backend, "no AUTH is offered: nobody can submit mail", remedy);
        }
    }
}

/// What of `offer` a client of the gate gets to see, once it has begun TLS if that is to be had here.
fn shown(gate: &session::Settings, offer: Offer) -> Offer {
    let tls = match &gate.tls {
        Tls::EndToEnd => relay::Tls::EndToEnd,
        Tls::Off => relay::Tls::Off,
        Tls::Here(here) if here.first => relay::Tls::Begun,
        Tls::Here(_) => relay::Tls::Offered { before_auth: false },
    };
    let keep = if gate.relay.auth { Keywords::ALL } else { Keywords::ALL.without(Keyword::Auth) };
    tls.shown(offer).only(keep).only(gate.backend.announce.usable())
}

/// Each keyword that is not passed on, and why.
fn withheld(gate: &session::Settings, hello: &Said, shown: &Offer) -> Vec<String> {
    let mut withheld = Vec::new();
    for line in hello.reply().lines().skip(1) {
        let name = line.split(|&byte| byte == b' ' || byte == b'=').next().unwrap_or_default();
        let why = match Keyword::from_name(name) {
            None if name.eq_ignore_ascii_case(b"XCLIENT") && gate.backend.announce == Announce::Xclient => {
                "it is for gatepost"
            }
            None => "gatepost could not follow what it permits",
            Some(Keyword::StartTls) if gate.tls.keyring().is_some() => "TLS ends here",
            Some(keyword) if shown.keywords.has(keyword) => continue,
            Some(Keyword::Auth) if !gate.relay.auth => "`offer_auth` is false here",
            Some(Keyword::Auth) => "its mechanisms are bound to a TLS channel that ends here",
            Some(keyword) if !gate.backend.announce.usable().has(keyword) => {
                "a chunk has no place for the field that says who the client is"
            }
            Some(_) if matches!(gate.tls, Tls::Off) => "`starttls` is \"off\"",
            Some(_) => "TLS ends here",
        };
        withheld.push(format!("{} ({why})", escape(name, 40)));
        if withheld.len() == 16 {
            withheld.push("…".to_owned());
            break;
        }
    }
    withheld
}

/// Who else is on the way to it, or can take that way.
async fn tell_path(gate: &session::Settings, peer: SocketAddr, offer: &Offer, out: &mut Findings) {
    let settings = &gate.backend;
    if addr::canonical(peer.ip()).is_loopback() {
        return tell_side_door(gate, peer, out).await;
    }
    let what =
        format!("{peer} is on the network: whoever reaches it goes around gatepost{}", claims(settings.announce));
    let remedy = match settings.announce {
        Announce::Transparent => {
            "let a firewall admit to that port only what comes from gatepost's host: clients' addresses are on it, so by \
             interface or by link-layer address"
        }
        _ => "let a firewall on the MTA's host admit gatepost alone to that port",
    };
    out.note(Topic::Backend, what, remedy);
    if settings.tls.is_none() && matches!(gate.tls, Tls::EndToEnd) && offer.keywords.has(Keyword::StartTls) {
        return;
    }
    match &settings.tls {
        None => {
            let offered = if offer.keywords.has(Keyword::StartTls) { "; the MTA offers STARTTLS" } else { "" };
            let what = format!("mail and passwords go to {peer} in the clear (`backend_tls` is \"none\"){offered}");
            out.note(Topic::Tls, what, "set backend_tls = \"starttls-required\" if that network is not your own");
        }
        Some(tls) if tls.begins == Begins::IfOffered => {
            let what = "TLS with the backend can be prevented by anybody on the way (`backend_tls` is \"starttls\")";
            out.note(Topic::Tls, what, "set backend_tls = \"starttls-required\" if that network is not your own");
        }
        Some(_) => {}
    }
}

/// Whether the backend's port, meant for this host alone, is open towards the network too.
async fn tell_side_door(gate: &session::Settings, peer: SocketAddr, out: &mut Findings) {
    let announce = gate.backend.announce;
    if announce == Announce::Nothing {
        return;
    }
    for own in [own_address("192.0.2.1:9"), own_address("[2001:db8::1]:9")].into_iter().flatten() {
        let door = SocketAddr::new(own, peer.port());
        if gate.listen.iter().any(|listen| crate::listener::overlap(*listen, door)) {
            continue;
        }
        if let Ok(Ok(_)) = timeout(Duration::from_secs(1), TcpStream::connect(door)).await {
            let what = format!(
                "the backend's port is open at {door} as well: whoever reaches it goes around gatepost{}",
                claims(announce)
            );
            let remedy = format!("have the MTA listen at {peer} only, or keep the network out by a firewall");
            if matches!(announce, Announce::Proxy(_)) {
                out.warn(Topic::Backend, what, remedy);
            } else {
                out.note(Topic::Backend, what, remedy);
            }
        }
    }
}

/// What whoever reaches the backend may do besides. XCLIENT is believed from addresses that the MTA names, a header from
/// anybody.
fn claims(announce: Announce) -> &'static str {
    match announce {
        Announce::Proxy(_) => ", and may claim any address there",
        Announce::Transparent | Announce::Xclient | Announce::Header | Announce::Nothing => "",
    }
}

/// This host's address towards `there`. Nothing is sent: the kernel is only asked for the way.
fn own_address(there: &str) -> Option<IpAddr> {
    let any = if there.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(there).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}
