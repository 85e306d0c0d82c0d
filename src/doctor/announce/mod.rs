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

mod proxy;

use super::backend::Met;
use super::finding::{Findings, Topic};
use super::strangers::{Named, Seen};
use super::talk::Surplus;
use crate::backend::{self, Announce};
use crate::proxy_header::Version;
use crate::session;

/// What the replies say, whatever the way in which the stranger was announced.
enum Belief {
    Believed(String),
    NotBelieved(String),
    Unknown,
}

/// Tells whether the backend believed that the stranger was one. A new way of announcing goes here: with signs of its
/// own, or by what the replies alone say.
pub(super) async fn examine(gate: &session::Settings, met: &Met, seen: &Seen, out: &mut Findings) {
    match gate.backend.announce {
        Announce::Proxy(_) => proxy::examine(gate, met, seen, out).await,
        Announce::Transparent | Announce::Xclient | Announce::Header | Announce::Nothing => {
            let what = "the MTA is not told who the client is: in its log, its limits and its rules, all are gatepost";
            let remedy = "set announce = \"proxy-v2\" if the MTA can take PROXY headers (Postfix and Exim can)";
            out.note(Topic::Announce, what, remedy);
        }
    }
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

/// How an administrator finds out for himself.
fn see_the_log(met: &Met) -> String {
    format!(
        "see the MTA's log for the last minute: it must say 192.0.2.1 for one connection (Postfix: connect from \
         unknown[192.0.2.1]), and not gatepost's own address for all of them (its port is {})",
        met.peer.port()
    )
}

/// The backend complains of the header: it takes it for commands.
pub(super) fn tell_unread_header(gate: &session::Settings, surplus: &Surplus, out: &mut Findings) {
    let said = match surplus {
        Surplus::More(line) => format!("then says, unasked: {line}"),
        Surplus::End | Surplus::Nothing => "then hangs up".to_owned(),
    };
    let what = format!("the MTA does not expect a PROXY header: it greets, {said}. No client would get through");
    out.wrong(Topic::Announce, what, expect_header(&gate.backend));
}

/// How to make an MTA expect a header.
fn expect_header(settings: &backend::Settings) -> String {
    format!(
        "Postfix: -o smtpd_upstream_proxy_protocol=haproxy for the service that listens at {address}, in master.cf; Exim: \
         hosts_proxy. Is {address} the port that was made for gatepost, and was the MTA reloaded?",
        address = settings.address
    )
}

/// Where the backend does not greet as it should: whether it would if the client were announced in another way. If so,
/// tells that, and that is all there is to tell. `said` is what it does when gatepost dials.
pub(super) async fn tell_another_way(gate: &session::Settings, said: &str, out: &mut Findings) -> bool {
    let settings = &gate.backend;
    for other in [Announce::Nothing, Announce::Proxy(Version::V2), Announce::Proxy(Version::V1)] {
        if other == settings.announce || !proxy::greets(gate, other, proxy::PATIENCE).await {
            continue;
        }
        match (settings.announce, other) {
            (Announce::Proxy(_), Announce::Nothing) => {
                let what = format!("the MTA does not expect a PROXY header: with one, {said}; without one, it greets");
                out.wrong(Topic::Announce, what, expect_header(settings));
            }
            (_, Announce::Proxy(version)) => {
                let word = if version == Version::V1 { "proxy-v1" } else { "proxy-v2" };
                let what =
                    format!("the MTA expects a PROXY header of another kind: as it is, {said}; by {word}, it greets");
                out.wrong(Topic::Announce, what, format!("set announce = \"{word}\""));
            }
            (_, _) => {
                let what = format!("the MTA takes only clients that are not announced: as it is, {said}");
                out.wrong(Topic::Announce, what, "see `announce`, and what the MTA supports");
            }
        }
        return true;
    }
    false
}
