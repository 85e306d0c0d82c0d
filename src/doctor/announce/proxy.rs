//! The PROXY header: an MTA that reads one waits for it, and so does not greet without it.

use std::net::IpAddr;
use std::time::Duration;

use super::{Belief, tell_not_believed};
use crate::backend::{self, Announce};
use crate::doctor::backend::Met;
use crate::doctor::finding::{Findings, Topic};
use crate::doctor::strangers::Seen;
use crate::doctor::talk::{Said, Surplus, Talk};
use crate::session;

/// How long a greeting is waited for where none should come. MTAs wait longer than this for a header.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long an MTA has to complain of what it was sent.
const COMPLAINTS: Duration = Duration::from_millis(300);

/// Tells whether the header was believed.
pub(super) async fn examine(gate: &session::Settings, met: &Met, stranger: IpAddr, seen: &Seen, out: &mut Findings) {
    match Belief::of(seen) {
        Belief::Believed(why) => out.fine(Topic::Announce, format!("the MTA believes the PROXY header: {why}")),
        Belief::NotBelieved(why) => {
            let remedy = "let the MTA believe PROXY headers that come from gatepost's address (Exim: hosts_proxy; others: \
                          their list of trusted proxies)";
            tell_not_believed(stranger, &why, remedy, out);
        }
        Belief::Unknown => by_waiting(gate, met, stranger, out).await,
    }
}

/// Where the replies say nothing: whether anybody is greeted who brings no header.
async fn by_waiting(gate: &session::Settings, met: &Met, stranger: IpAddr, out: &mut Findings) {
    // A slow MTA greets late in any case.
    if greets(gate, Announce::Nothing, PATIENCE.max(met.greeted * 3)).await.is_some() {
        let what = "cannot tell whether the MTA believes the PROXY header: it greets with one and without one";
        out.warn(Topic::Announce, what, see_the_log(met, stranger));
    } else {
        let what = "the MTA reads the PROXY header: it greets with one, and waits for it without";
        out.fine(Topic::Announce, what);
    }
}

/// How an administrator finds out for himself.
fn see_the_log(met: &Met, stranger: IpAddr) -> String {
    format!(
        "see the MTA's log for the last minute: it must say {stranger} for one connection (Postfix: connect from \
         unknown[{stranger}]), and not gatepost's own address for all of them (its port is {})",
        met.peer.port()
    )
}

/// What the backend says to EHLO if it greets gatepost announced so, within that time and without complaining.
pub(super) async fn greets(gate: &session::Settings, announce: Announce, within: Duration) -> Option<Said> {
    let reply_timeout = gate.backend.reply_timeout.min(within);
    let settings = backend::Settings { announce, reply_timeout, ..backend::Settings::clone(&gate.backend) };
    let mut talk = Talk::begin(&settings, None).await.ok()?;
    let greeting = talk.hear().await.ok()?;
    if greeting.code.number() != 220 || talk.surplus(COMPLAINTS).await != Surplus::Nothing {
        return None;
    }
    // Exim greets in the end whoever brought no header, only to refuse everything.
    let hello = talk.say(&format!("EHLO {}", gate.hostname)).await;
    talk.leave().await;
    hello.ok().filter(|hello| hello.code.is_positive())
}
