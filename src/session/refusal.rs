//! What gatepost says when it turns somebody away: what and why, the visit's id, and whom to ask.
//!
//! | what | refused at RCPT | dropped |
//! | --- | --- | --- |
//! | a failed test | 550 | 521 |
//! | the access list | – | 521 |
//! | a ban | – | 421 or 521, where a banned client is told at all |
//! | a load balancer that does not say who the client is, or is not ours | – | 421 |
//! | our own limits, our own or the backend's trouble | – | 421 |

use std::fmt::Write;

use super::Guest;
use crate::policy::gcra::Wait;
use crate::screen::{Evidence, Screen, Test};
use crate::smtp::reply::{self, Code, Enhanced};

/// 521: this host does not accept your mail (RFC 7504).
const DROPPED: u16 = 521;
const REFUSED: u16 = 550;
const CLOSING: u16 = 421;

/// System incorrectly configured (RFC 3463 §3.4).
const MISCONFIGURED: Enhanced = Enhanced(4, 3, 5);

/// Whether the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// This recipient is refused.
    Enforce,
    /// This is the last that the client hears.
    Drop,
}

/// The reply to a client that has failed `test`.
pub(super) fn failed(guest: &Guest, screen: &Screen, test: Test, manner: Manner) -> Vec<u8> {
    let code = match manner {
        Manner::Enforce => REFUSED,
        Manner::Drop => DROPPED,
    };
    let client = guest.client.ip();
    let (enhanced, text) = match test {
        Test::Pregreet => (Enhanced(5, 5, 1), "Protocol error: you spoke before it was your turn".to_owned()),
        Test::Pipelining => (Enhanced(5, 5, 1), "Protocol error: you did not wait for the reply".to_owned()),
        Test::BareNewline => (Enhanced(5, 5, 1), "Protocol error: lines end in CR LF".to_owned()),
        Test::NotSmtp => (Enhanced(5, 7, 0), "This is a mail server; what you speak is not SMTP".to_owned()),
        Test::AuthNotOffered => (Enhanced(5, 7, 1), "AUTH is not offered here; use the submission port".to_owned()),
        Test::Dnsbl => {
            let list = screen.score().worst.and_then(|index| list_name(guest, index)).unwrap_or("a DNS list");
            (Enhanced(5, 7, 1), format!("Service unavailable; client [{client}] blocked using {list}"))
        }
        Test::HeloName => (Enhanced(5, 7, 1), format!("Helo command rejected: {}", named(screen, test))),
        Test::HeloSyntax => (Enhanced(5, 5, 2), format!("Helo command rejected: {}", named(screen, test))),
    };
    write(guest, code, enhanced, text)
}

/// The display name of the list at `index`.
pub(super) fn list_name(guest: &Guest, index: u8) -> Option<&str> {
    let dnsbl = guest.gate.dnsbl.as_ref()?;
    dnsbl.settings().sites.get(usize::from(index)).map(|site| site.display.as_str())
}

fn named(screen: &Screen, test: Test) -> String {
    let seen = screen.seen().iter().find(|seen| seen.test() == test);
    match seen {
        Some(Evidence::Named(fault)) => fault.to_string(),
        _ => "a name that we do not accept".to_owned(),
    }
}

/// The access list says no.
pub(super) fn denied(guest: &Guest) -> Vec<u8> {
    let text = format!("Service unavailable; client [{}] is denied by local policy", guest.client.ip());
    write(guest, DROPPED, Enhanced(5, 7, 1), text)
}

/// The client is banned.
pub(super) fn banned(guest: &Guest, permanent: bool) -> Vec<u8> {
    let (code, enhanced) = if permanent { (DROPPED, Enhanced(5, 7, 1)) } else { (CLOSING, Enhanced(4, 7, 1)) };
    let text = format!("Service unavailable; client [{}] is banned for what it did before", guest.client.ip());
    write(guest, code, enhanced, text)
}

/// The client has too many sessions open.
pub(super) fn too_many(guest: &Guest) -> Vec<u8> {
    write(guest, CLOSING, Enhanced(4, 7, 0), "Too many connections from your address, try again later".to_owned())
}

/// The network that the client is in has too many sessions open.
pub(super) fn too_many_near(guest: &Guest) -> Vec<u8> {
    write(guest, CLOSING, Enhanced(4, 7, 0), "Too many connections from your network, try again later".to_owned())
}

/// The client comes too often.
pub(super) fn too_often(guest: &Guest, wait: Wait) -> Vec<u8> {
    let text = format!("Too many connections from your address in a short time, try again in {} s", wait.seconds());
    write(guest, CLOSING, Enhanced(4, 7, 0), text)
}

/// All places are taken.
pub(super) fn full(guest: &Guest) -> Vec<u8> {
    write(guest, CLOSING, Enhanced(4, 3, 2), "All screening ports are busy, try again later".to_owned())
}

/// The backend is away, or we are in trouble ourselves.
pub(super) fn unavailable(guest: &Guest) -> Vec<u8> {
    write(guest, CLOSING, Enhanced(4, 3, 2), "Service not available, try again later".to_owned())
}

/// The gate is behind a load balancer, and this connection does not come from it.
pub(super) fn untrusted(guest: &Guest) -> Vec<u8> {
    write(guest, CLOSING, MISCONFIGURED, "This port takes connections from its load balancer only".to_owned())
}

/// The load balancer has not said who the client is. Whoever runs it may read this, or a client that is not to blame.
pub(super) fn unannounced(guest: &Guest) -> Vec<u8> {
    let text = "Your proxy did not say who the client is: it has to send a PROXY header with the client's address";
    write(guest, CLOSING, MISCONFIGURED, text.to_owned())
}

/// gatepost is stopping.
pub(super) fn stopping(guest: &Guest) -> Vec<u8> {
    write(guest, CLOSING, Enhanced(4, 3, 2), "Service is shutting down, try again later".to_owned())
}

/// Too slow.
pub(super) fn too_slow(guest: &Guest) -> Vec<u8> {
    write(guest, CLOSING, Enhanced(4, 4, 2), "Timeout exceeded".to_owned())
}

/// Over a limit of the dialogue; `what` is the rest of the sentence “Too many …”.
pub(super) fn limited(guest: &Guest, what: &str) -> Vec<u8> {
    write(guest, CLOSING, Enhanced(4, 7, 0), format!("{what}, closing"))
}

fn write(guest: &Guest, code: u16, enhanced: Enhanced, mut text: String) -> Vec<u8> {
    let gate = &guest.gate.settings;
    if code == CLOSING {
        // RFC 5321 §4.2.3: 421 <domain> …
        text.insert_str(0, &format!("{} ", gate.hostname));
    }
    let _ = write!(text, "; visit {}", guest.id);
    if let Some(contact) = &gate.contact {
        let _ = write!(text, "; {contact}");
    }
    let mut out = Vec::with_capacity(text.len() + 16);
    if let Some(code) = Code::new(code) {
        reply::write(&mut out, code, Some(enhanced), &text);
    }
    out
}
