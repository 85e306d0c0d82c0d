//! XCLIENT: whether the MTA offers it to gatepost's address, and takes it for a stranger's.

use std::net::IpAddr;

use super::{Belief, Seen, tell_not_believed};
use crate::backend::{self, Announce, Failure, Visitor};
use crate::doctor::backend::Met;
use crate::doctor::finding::{Findings, Topic};
use crate::doctor::talk::{Said, Talk};
use crate::journal::text::escape;
use crate::session;
use crate::smtp::xclient::{Attribute, Attributes, Client, HostName};

/// How much of what is offered is shown.
const OFFER_CAP: usize = 160;

/// Whether a reply to EHLO offers it, as far as gatepost needs.
pub(super) fn is_offered(hello: &Said) -> bool {
    Attributes::announced(&hello.reply()).has(Attribute::Addr)
}

/// What a reply to EHLO offers, as the MTA writes it; safe to show.
fn offer(hello: &Said) -> Option<String> {
    let reply = hello.reply();
    let mut lines = reply.lines().skip(1).map(<[u8]>::trim_ascii);
    let line = lines.find(|line| {
        let keyword = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        keyword.eq_ignore_ascii_case(b"XCLIENT")
    })?;
    Some(escape(line, OFFER_CAP))
}

/// It is not offered, or without ADDR: no client would get through. What would help depends on what is offered in place.
pub(super) async fn tell_missing(gate: &session::Settings, out: &mut Findings) {
    let settings = backend::Settings { announce: Announce::Nothing, ..backend::Settings::clone(&gate.backend) };
    let plain = async {
        let mut talk = Talk::begin(&settings, None).await.ok()?;
        talk.hear().await.ok()?;
        let hello = talk.say(&format!("EHLO {}", gate.hostname)).await.ok()?;
        let own = talk.ends()?.0.ip().to_canonical();
        talk.leave().await;
        Some((hello, own))
    };
    let heard = plain.await;
    let own = heard.as_ref().map_or_else(|| "gatepost's address".to_owned(), |(_, own)| own.to_string());
    let what = match heard.as_ref().and_then(|(hello, _)| offer(hello)) {
        Some(offer) => format!("the MTA offers {offer}, without ADDR: it could not be told the client's address"),
        None => format!("the MTA does not offer XCLIENT to {own}: clients that pass get 421"),
    };
    out.wrong(Topic::Announce, what, authorize(&own, &gate.backend.address));
}

fn authorize(own: &str, address: &str) -> String {
    format!(
        "Postfix: smtpd_authorized_xclient_hosts = {own}, in main.cf, or by -o for the service that listens at {address}, \
         and reload it; other MTAs: their list of those who may say XCLIENT. Or tell it in another way: see `announce`"
    )
}

/// Those strangers for whom XCLIENT is taken. If it is for none, tells that.
pub(super) async fn introduce(
    gate: &session::Settings,
    met: &Met,
    visitors: Vec<Visitor<'static>>,
    out: &mut Findings,
) -> Vec<Visitor<'static>> {
    let offer = offer(&met.hello).unwrap_or_default();
    let mut taken = false;
    let mut refused = None;
    for &visitor in &visitors {
        match Talk::begin(&gate.backend, Some(visitor)).await {
            Err(Failure::Xclient(_)) => refused = refused.or(Some(visitor)),
            // That it refuses this client, or hangs up, is found out in asking for more.
            Ok(talk) => {
                talk.greet_and_leave().await;
                taken = true;
            }
            Err(_) => taken = true,
        }
    }
    match refused {
        // Those of one family alone are told of where they cannot ask for anything.
        Some(visitor) if !taken => {
            tell_refused(gate, met, visitor, out).await;
            Vec::new()
        }
        _ => {
            out.fine(Topic::Announce, format!("the MTA offers gatepost {offer}"));
            visitors
        }
    }
}

/// It is offered, and not taken. The gate keeps the code of such a reply; its words are had by asking once more.
async fn tell_refused(gate: &session::Settings, met: &Met, visitor: Visitor<'_>, out: &mut Findings) {
    let said = say(gate, visitor).await;
    let (code, words) = match &said {
        Some(said) => (said.code.number(), said.shown()),
        None => (0, "no answer".to_owned()),
    };
    let stranger = visitor.client.ip();
    let what = format!("the MTA offers XCLIENT, and refuses it for {stranger}: {words}. Clients that pass get 421");
    let remedy = match code {
        // It has no use for an address of that kind, or for another attribute.
        501 | 504 if stranger.is_ipv6() => {
            "if the MTA knows no IPv6, as the gate does: Postfix: inet_protocols = all; or take the IPv6 address out of \
             `listen`"
                .to_owned()
        }
        _ => authorize(&met.local.ip().to_canonical().to_string(), &gate.backend.address),
    };
    out.wrong(Topic::Announce, what, remedy);
}

/// Says what the gate would say for `visitor`; the first refusal.
async fn say(gate: &session::Settings, visitor: Visitor<'_>) -> Option<Said> {
    let mut talk = Talk::begin(&gate.backend, None).await.ok()?;
    talk.hear().await.ok()?;
    let hello = talk.say(&format!("EHLO {}", gate.hostname)).await.ok()?;
    let Visitor { client: source, local: destination, hello: hello_said, .. } = visitor;
    let client = Client { source, destination, name: &HostName::Unavailable, hello: hello_said };
    for line in client.commands(Attributes::announced(&hello.reply())) {
        let said = talk.say(line.trim_ascii_end()).await.ok()?;
        if said.code.number() != 220 {
            talk.leave().await;
            return Some(said);
        }
    }
    None
}

/// Tells whether XCLIENT was believed: an MTA that answers 220 begins anew, for whom it was told.
pub(super) fn examine(stranger: IpAddr, seen: &Seen, out: &mut Findings) {
    match Belief::of(seen) {
        Belief::Believed(why) => out.fine(Topic::Announce, format!("the MTA believes XCLIENT: {why}")),
        Belief::NotBelieved(why) => {
            let remedy = "see what the MTA makes of XCLIENT, and whom it believes (Postfix: smtpd_authorized_xclient_hosts); \
                          or tell it in another way: see `announce`";
            tell_not_believed(stranger, &why, remedy, out);
        }
        Belief::Unknown if seen.greeted => {
            out.fine(Topic::Announce, format!("the MTA takes XCLIENT: it begins anew for {stranger}, with 220"));
        }
        // It refuses this client: that is told where it asks for something.
        Belief::Unknown => {}
    }
}
