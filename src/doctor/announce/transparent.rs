//! Transparent source: whether this process may connect from a stranger's address, and whether what the MTA answers to
//! that address comes back. Who is at the other end of a connection that stands, the MTA can see for itself.

use std::net::IpAddr;
use std::slice;
use std::time::Duration;

use super::{Belief, Seen, tell_not_believed};
use crate::backend::{self, Failure, Family, Unshown, Visitor, permitted};
use crate::doctor::finding::{Findings, Topic};
use crate::doctor::talk::Talk;
use crate::journal::text::escape;
use crate::session;

/// The longest that is waited for an answer: gatepost itself has had one, and a lost packet is sent again twice meanwhile.
const PATIENCE: Duration = Duration::from_secs(4);

/// Those strangers whose connections stand. What is the matter with the others is told.
pub(super) async fn introduce(
    gate: &session::Settings,
    visitors: Vec<Visitor<'static>>,
    out: &mut Findings,
) -> Vec<Visitor<'static>> {
    if let Err(error) = permitted(slice::from_ref(&*gate.backend)) {
        let what = format!("cannot try how strangers are taken: {error}");
        let remedy = "run doctor as root, or as the service runs; the unit may give gatepost more than this user has";
        out.warn(Topic::Announce, what, remedy);
        return Vec::new();
    }
    let wait = gate.backend.connect_timeout.min(PATIENCE);
    let settings = backend::Settings { connect_timeout: wait, ..backend::Settings::clone(&gate.backend) };
    let alone = visitors.len() == 1;
    let mut shown = Vec::new();
    for visitor in visitors {
        match Talk::begin(&settings, Some(visitor)).await {
            Ok(talk) => {
                talk.greet_and_leave().await;
                shown.push(visitor);
            }
            Err(Failure::Unshown(Unshown::Family(family))) => tell_family(gate, family, alone, out),
            Err(failure) => tell_failure(visitor.client.ip(), &failure, out),
        }
    }
    shown
}

/// The backend has no address of a family that the gate serves; if it is the only one, nobody gets through.
fn tell_family(gate: &session::Settings, family: Family, alone: bool, out: &mut Findings) {
    let what = format!("clients by {family} get 421: {} leads to no {family} address", gate.backend.address);
    let remedy = "give `backend` as a name that has addresses of both families (/etc/hosts will do), or take that family out \
                  of `listen`";
    if alone { out.wrong(Topic::Announce, what, remedy) } else { out.warn(Topic::Announce, what, remedy) }
}

/// gatepost's own connection stands; the stranger's does not.
fn tell_failure(stranger: IpAddr, failure: &Failure, out: &mut Findings) {
    let why = escape(failure.to_string().as_bytes(), 300);
    if failure.is_silence() {
        let what = format!(
            "the MTA answers gatepost itself, but not a connection from {stranger} ({why}): clients that pass get 421"
        );
        let remedy = "the MTA's answers to clients have to come back to this host, which has to take them for its own: \
                      deploy/transparent-routes.sh, and Transparent source in docs/operations.md. A firewall on the way \
                      must let clients' addresses through, not gatepost's alone";
        return out.wrong(Topic::Announce, what, remedy);
    }
    let what = format!("no connection from {stranger} to the MTA: {why}. Clients that pass get 421");
    let remedy = "let the MTA, and firewalls on the way, take clients' addresses that come from this host; see Transparent \
                  source in docs/operations.md";
    out.wrong(Topic::Announce, what, remedy);
}

/// Tells whom the MTA saw.
pub(super) fn examine(stranger: IpAddr, seen: &Seen, out: &mut Findings) {
    match Belief::of(seen) {
        Belief::Believed(why) => out.fine(Topic::Announce, format!("the MTA sees clients' own addresses: {why}")),
        Belief::NotBelieved(why) => {
            let remedy =
                "let nothing on the way translate the source of what leaves for the MTA (nftables: masquerade, snat)";
            tell_not_believed(stranger, &why, remedy, out);
        }
        Belief::Unknown => {
            let what = format!(
                "a connection from {stranger} stands: the MTA sees clients' own addresses, unless something on the way \
                 translates them"
            );
            out.fine(Topic::Announce, what);
        }
    }
}
