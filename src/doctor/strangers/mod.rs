//! Whom the backend relays for: a stranger asks to have mail taken for a domain that is none of the MTA's, in the ways
//! that have opened relays before. Each transaction ends before DATA: nothing is ever sent.
//!
//! | asked | by | if it is taken |
//! | --- | --- | --- |
//! | a foreign address | nobody (`<>`), a foreign sender | an open relay |
//! | a foreign address | a sender of the MTA's own domain | one for whoever claims that domain |
//! | `<@own:a@foreign>`, `<a@[192.0.2.1]>` | nobody | an open relay |
//! | `<a%foreign@own>`, `<"a@foreign"@own>` | nobody | an open relay, unless the MTA takes any name in its domain |
//!
//! Then gatepost asks in its own name, to learn whether the MTA trusts its address.

mod answer;

use std::net::{IpAddr, Ipv4Addr};

use self::answer::{Answer, Meaning, Stage};
use super::announce::NAME;
use super::backend::Met;
use super::finding::{Findings, Topic};
use super::talk::{Said, Talk};
use super::tls;
use crate::backend::{self, Visitor};
use crate::session::{self, Scene};

/// Mail is asked to be taken for this address, where no stranger has one to offer: nobody's (RFC 5737).
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What the backend showed of how it takes a stranger.
#[derive(Debug)]
pub(super) struct Seen {
    /// The address that gatepost itself connects from.
    ours: IpAddr,
    /// Whether a stranger was greeted with 220.
    pub greeted: bool,
    /// What it said that names a stranger's address, or gatepost's own.
    pub named: Option<(Named, String)>,
    /// Whether a stranger may relay, where that could be told.
    pub stranger_relays: Option<bool>,
    /// The same of gatepost itself.
    pub gatepost_relays: Option<bool>,
}

/// Whose address the backend names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Named {
    /// The one that was announced.
    Stranger,
    /// The one that gatepost itself connects from.
    Gatepost,
}

/// The domains that the questions are about.
struct Domains {
    foreign: &'static str,
    other: &'static str,
    own: String,
}

/// Asks where clients are not announced: what gatepost may do, every client may. Tells what came of it.
pub(super) async fn examine_unannounced(gate: &session::Settings, met: &Met, out: &mut Findings) {
    let tried = Tried::everything(gate, None, &Domains::of(&gate.hostname), &mut Seen::by(met)).await;
    tell_unannounced(gate, &tried, out);
}

/// Asks as each of these, and tells what came of it.
pub(super) async fn examine(gate: &session::Settings, met: &Met, visitors: &[Visitor<'_>], out: &mut Findings) -> Seen {
    let domains = Domains::of(&gate.hostname);
    let mut seen = Seen::by(met);
    for &visitor in visitors {
        let tried = Tried::everything(gate, Some(visitor), &domains, &mut seen).await;
        tell_stranger(gate, visitor.client.ip(), &tried, out);
        // One that may is enough.
        seen.stranger_relays = match (seen.stranger_relays, tried.relays()) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (told, new) => told.or(new),
        };
    }
    let ours = Tried::once(gate, &domains, &mut seen).await;
    seen.gatepost_relays = ours.relays();
    if seen.gatepost_relays == Some(true) && seen.stranger_relays == Some(false) {
        let what = "the MTA relays for gatepost's own address, though not for those whom it announces";
        let remedy = "harmless while clients are announced; but take that address out of the MTA's trusted networks \
                      (Postfix: mynetworks) if nothing else on this host sends mail through it";
        out.note(Topic::Relay, what, remedy);
    }
    seen
}

impl Domains {
    /// The MTA's own domain is guessed from the gate's name; the foreign ones are those of RFC 2606 that it is not.
    fn of(hostname: &str) -> Self {
        let own = match hostname.split_once('.') {
            Some((_, parent)) if parent.contains('.') => parent,
            _ => hostname,
        };
        let own = own.trim_end_matches('.').to_ascii_lowercase();
        let is_ours = |domain: &&str| own == *domain || own.ends_with(&format!(".{domain}"));
        let mut foreign = ["example.org", "example.com", "example.net"].into_iter().filter(|domain| !is_ours(domain));
        let (first, second) = (foreign.next(), foreign.next());
        Self { foreign: first.unwrap_or("example.org"), other: second.unwrap_or("example.net"), own }
    }
}

/// How an attempt was meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Taken is taken.
    Plain,
    /// Taken may also mean that any name is, in the MTA's own domain.
    Rewritten,
    /// A name that nobody has, in the MTA's own domain.
    Control,
}

/// One transaction up to RCPT.
struct Attempt {
    way: Way,
    from: String,
    to: String,
}

/// What was asked, and what the answers were.
#[derive(Default)]
struct Tried(Vec<(Attempt, Answer)>);

impl Tried {
    /// All ways, in two connections: MTAs count errors.
    async fn everything(
        gate: &session::Settings,
        visitor: Option<Visitor<'_>>,
        domains: &Domains,
        seen: &mut Seen,
    ) -> Self {
        let Domains { foreign, other, own } = domains;
        let attempt = |way, from: String, to: String| Attempt { way, from, to };
        let foreigner = format!("doctor-probe@{foreign}");
        let senders = [String::new(), format!("doctor-probe@{other}"), format!("doctor-probe@{own}")];
        let by_sender = senders.map(|from| attempt(Way::Plain, from, foreigner.clone()));
        let mut tried = Self::default();
        tried.converse(gate, visitor, by_sender.into(), seen).await;
        if tried.relays() == Some(true) || tried.is_refused_altogether() {
            return tried;
        }
        let nobody = visitor.map(|visitor| visitor.client.ip()).filter(IpAddr::is_ipv4).unwrap_or(NOBODY.into());
        let to = |way, to: String| attempt(way, String::new(), to);
        let by_recipient = vec![
            to(Way::Plain, format!("@{own}:{foreigner}")),
            to(Way::Plain, format!("doctor-probe@[{nobody}]")),
            to(Way::Rewritten, format!("doctor-probe%{foreign}@{own}")),
            to(Way::Rewritten, format!("\"{foreigner}\"@{own}")),
            to(Way::Control, format!("doctor-probe-no-such-user@{own}")),
        ];
        tried.converse(gate, visitor, by_recipient, seen).await;
        tried
    }

    /// gatepost's own question.
    async fn once(gate: &session::Settings, domains: &Domains, seen: &mut Seen) -> Self {
        let to = format!("doctor-probe@{}", domains.foreign);
        let mut tried = Self::default();
        tried.converse(gate, None, vec![Attempt { way: Way::Plain, from: String::new(), to }], seen).await;
        tried
    }

    /// In the clear as the gate does it, or under the MTA's own TLS where the MTA insists, as clients would.
    async fn converse(
        &mut self,
        gate: &session::Settings,
        visitor: Option<Visitor<'_>>,
        attempts: Vec<Attempt>,
        seen: &mut Seen,
    ) {
        let first = self.0.len();
        let rest = self.try_all(gate, &gate.backend, visitor, attempts, seen).await;
        let insists = self.0.get(first).is_some_and(|(_, answer)| answer.meaning == Meaning::TlsFirst);
        if insists
            && gate.backend.tls.is_none()
            && let Some(settings) = tls::with_its_tls(gate)
        {
            let again = self.0.split_off(first).into_iter().map(|(attempt, _)| attempt).chain(rest).collect();
            self.try_all(gate, &settings, visitor, again, seen).await;
        }
    }

    /// Makes the attempts in one connection, until one is taken or nothing more is heard. Returns those not made.
    async fn try_all(
        &mut self,
        gate: &session::Settings,
        settings: &backend::Settings,
        visitor: Option<Visitor<'_>>,
        attempts: Vec<Attempt>,
        seen: &mut Seen,
    ) -> Vec<Attempt> {
        let mut attempts = attempts.into_iter();
        let mut talk = match open(gate, settings, visitor, seen).await {
            Ok(talk) => talk,
            Err(answer) => {
                self.0.extend(attempts.next().map(|attempt| (attempt, answer)));
                return attempts.collect();
            }
        };
        for attempt in attempts.by_ref() {
            let answer = transact(&mut talk, &attempt, visitor, seen).await;
            let (meaning, way) = (answer.meaning, attempt.way);
            self.0.push((attempt, answer));
            match meaning {
                Meaning::Broken | Meaning::TlsFirst => break,
                Meaning::Taken if way == Way::Plain => break,
                _ => {}
            }
        }
        talk.leave().await;
        attempts.collect()
    }

    /// Whether mail is relayed, if that can be told.
    fn relays(&self) -> Option<bool> {
        if self.taken().is_some() {
            return Some(true);
        }
        self.denied().map(|_| false)
    }

    /// The attempt that shows an open relay, and the answer.
    fn taken(&self) -> Option<&(Attempt, Answer)> {
        let any_name = self.0.iter().any(|(attempt, answer)| {
            attempt.way == Way::Control && matches!(answer.meaning, Meaning::Taken | Meaning::Broken | Meaning::Later)
        });
        let controlled = self.0.iter().any(|(attempt, _)| attempt.way == Way::Control);
        self.0.iter().find(|(attempt, answer)| {
            answer.meaning == Meaning::Taken
                && match attempt.way {
                    Way::Plain => true,
                    Way::Rewritten => controlled && !any_name,
                    Way::Control => false,
                }
        })
    }

    /// The clearest refusal to relay.
    fn denied(&self) -> Option<&(Attempt, Answer)> {
        self.0.iter().find(|(attempt, answer)| attempt.way == Way::Plain && answer.meaning == Meaning::Denied)
    }

    /// Whether there is no use in asking in other ways.
    fn is_refused_altogether(&self) -> bool {
        let hopeless = |meaning| matches!(meaning, Meaning::Broken | Meaning::Client | Meaning::TlsFirst);
        self.0.iter().all(|(_, answer)| hopeless(answer.meaning))
    }

    /// Why nothing can be told: each obstacle once, with what was said.
    fn obstacles(&self) -> String {
        let mut told: Vec<String> = Vec::new();
        for (_, answer) in &self.0 {
            let said = format!("{} ({})", answer.meaning.obstacle(), answer.said);
            if !told.contains(&said) && told.len() < 3 {
                told.push(said);
            }
        }
        told.join("; ")
    }
}

/// Connects, and says EHLO: first by a name that must not be mistaken for an address, in order to see what the MTA
/// calls us; then by the stranger's own address literal, which no MTA has to look up.
async fn open(
    gate: &session::Settings,
    settings: &backend::Settings,
    visitor: Option<Visitor<'_>>,
    seen: &mut Seen,
) -> Result<Talk, Answer> {
    let mut talk = Talk::begin(settings, visitor).await.map_err(|failure| Answer::broken(&failure))?;
    let greeting = talk.hear().await.map_err(|failure| Answer::broken(&failure))?;
    if greeting.code.number() != 220 {
        return Err(Answer::of(Stage::Opening, &greeting));
    }
    seen.greeted |= visitor.is_some();
    let names = match visitor {
        None => vec![gate.hostname.clone()],
        Some(visitor) => vec![NAME.to_owned(), literal(visitor.client.ip())],
    };
    let mut last = greeting;
    for (at, name) in names.iter().enumerate() {
        let hello = talk.say(&format!("EHLO {name}")).await.map_err(|failure| Answer::broken(&failure))?;
        if at == 0
            && let Some(visitor) = visitor
        {
            seen.look(visitor, &hello);
        }
        last = hello;
    }
    if last.code.is_positive() { Ok(talk) } else { Err(Answer::of(Stage::Opening, &last)) }
}

fn literal(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }
}

/// MAIL, RCPT and RSET. Never DATA.
async fn transact(talk: &mut Talk, attempt: &Attempt, visitor: Option<Visitor<'_>>, seen: &mut Seen) -> Answer {
    let heard = async {
        let mail = talk.say(&format!("MAIL FROM:<{}>", attempt.from)).await?;
        if !mail.code.is_positive() {
            return Ok(Answer::of(Stage::Mail, &mail));
        }
        let rcpt = talk.say(&format!("RCPT TO:<{}>", attempt.to)).await?;
        if visitor.is_some() {
            seen.look_for_ours(&rcpt);
        }
        // One that hangs up now has answered all the same.
        let _ = talk.say("RSET").await;
        Ok(Answer::of(Stage::Rcpt, &rcpt))
    };
    heard.await.unwrap_or_else(|failure: backend::Failure| Answer::broken(&failure))
}

impl Seen {
    fn by(met: &Met) -> Self {
        let ours = met.local.ip().to_canonical();
        Self { ours, greeted: false, named: None, stranger_relays: None, gatepost_relays: None }
    }

    /// Notes whose address a reply names.
    fn look(&mut self, visitor: Visitor<'_>, said: &Said) {
        if addresses(&said.words()).contains(&visitor.client.ip()) {
            self.named = Some((Named::Stranger, said.shown()));
        } else {
            self.look_for_ours(said);
        }
    }

    /// The same where the stranger's address stands in what was said before: an echo tells nothing.
    fn look_for_ours(&mut self, said: &Said) {
        if self.named.is_none() && addresses(&said.words()).contains(&self.ours) {
            self.named = Some((Named::Gatepost, said.shown()));
        }
    }
}

/// The addresses in a text.
fn addresses(words: &str) -> Vec<IpAddr> {
    let words = words.replace("ipv6:", " ");
    let parts = words.split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':'));
    parts.filter_map(|part| part.trim_end_matches('.').parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()).collect()
}

fn tell_stranger(gate: &session::Settings, stranger: IpAddr, tried: &Tried, out: &mut Findings) {
    let way = if gate.scene == Scene::Mx { "" } else { " without AUTH" };
    if let Some((attempt, answer)) = tried.taken() {
        let what = format!(
            "OPEN RELAY: the MTA takes mail{way} from a stranger ({stranger}), MAIL FROM:<{}>, for RCPT TO:<{}>: {}",
            attempt.from, attempt.to, answer.said
        );
        let remedy = "stop this gate until it is mended. Postfix: smtpd_relay_restrictions = permit_mynetworks, \
                      permit_sasl_authenticated, reject_unauth_destination; Exim: relay_from_hosts, and \"deny message = \
                      relay not permitted\" at the end of acl_smtp_rcpt. If the MTA does so for gatepost alone, it does \
                      not believe the announced address: see `announce` in the file";
        return out.wrong(Topic::Relay, what, remedy);
    }
    match tried.denied() {
        Some((_, answer)) => {
            let what = format!("a stranger ({stranger}) may not relay{way}: {}", answer.said);
            out.fine(Topic::Relay, what);
        }
        None if stranger.is_ipv6() && tried.is_refused_altogether() => {
            let what = format!("a client by IPv6 (announced as {stranger}) is not served: {}", tried.obstacles());
            let remedy = "if the MTA knows no IPv6, as the gate does, clients by IPv6 get 421: Postfix: inet_protocols = all; \
                          Exim: disable_ipv6 = false; or take the IPv6 address out of `listen`";
            out.warn(Topic::Announce, what, remedy);
        }
        None => tell_unclear(&format!("a stranger ({stranger})"), tried, out),
    }
}

fn tell_unannounced(gate: &session::Settings, tried: &Tried, out: &mut Findings) {
    if let Some((attempt, answer)) = tried.taken() {
        let what = format!(
            "OPEN RELAY: the MTA takes gatepost for every client, and relays for it: MAIL FROM:<{}>, RCPT TO:<{}>: {}",
            attempt.from, attempt.to, answer.said
        );
        let remedy = "stop this gate until it is mended. Set announce = \"proxy-v2\" and have the MTA expect it (Postfix: \
                      smtpd_upstream_proxy_protocol = haproxy; Exim: hosts_proxy), or another way that it knows; or take gatepost's address out of what \
                      the MTA trusts (Postfix: mynetworks; Exim: relay_from_hosts)";
        return out.wrong(Topic::Relay, what, remedy);
    }
    match tried.denied() {
        Some((_, answer)) => {
            let way = if gate.scene == Scene::Mx { "" } else { " without AUTH" };
            let what = format!("gatepost's address, which is every client's here, may not relay{way}: {}", answer.said);
            out.fine(Topic::Relay, what);
        }
        None => tell_unclear("gatepost, which is every client here,", tried, out),
    }
}

fn tell_unclear(who: &str, tried: &Tried, out: &mut Findings) {
    let what = format!("cannot tell whether {who} may relay: {}", tried.obstacles());
    let remedy = "try it by hand from a host outside: MAIL FROM:<>, RCPT TO an address of another provider; it has to be \
                  refused. If it was put off, try again in ten minutes";
    out.warn(Topic::Relay, what, remedy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_ours_and_others() {
        for (hostname, own, foreign, other) in [
            ("mx.gate.test", "gate.test", "example.org", "example.com"),
            ("mx.example.org", "example.org", "example.com", "example.net"),
            ("example.com", "example.com", "example.org", "example.net"),
            ("a.mx.Example.com.", "mx.example.com", "example.org", "example.net"),
            ("localhost", "localhost", "example.org", "example.com"),
        ] {
            let domains = Domains::of(hostname);
            assert_eq!((domains.own.as_str(), domains.foreign, domains.other), (own, foreign, other), "{hostname}");
        }
    }

    #[test]
    fn addresses_are_found_in_what_is_said() {
        for (words, expected) in [
            ("250-mx hello client [192.0.2.1]", vec!["192.0.2.1"]),
            ("250 hello [ipv6:2001:db8::1], at 12:30:01.", vec!["2001:db8::1"]),
            ("250 192.0.2.1.", vec!["192.0.2.1"]),
            ("250 ::ffff:192.0.2.1", vec!["192.0.2.1"]),
            ("250 192.0.2.11 mx1.example.test 1.2.3", vec!["192.0.2.11"]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(addresses(words), expected, "{words}");
        }
    }

    fn tried(answers: &[(Way, Meaning)]) -> Tried {
        let of = |&(way, meaning)| {
            (Attempt { way, from: String::new(), to: String::new() }, Answer { meaning, said: String::new() })
        };
        Tried(answers.iter().map(of).collect())
    }

    #[test]
    fn what_the_answers_come_to() {
        use Meaning::{Broken, Client, Denied, Later, Sender, Taken};
        use Way::{Control, Plain, Rewritten};
        for (answers, expected) in [
            (&[(Plain, Denied), (Plain, Taken)][..], Some(true)),
            (&[(Plain, Denied), (Plain, Sender)], Some(false)),
            (&[(Plain, Sender), (Plain, Later), (Plain, Client)], None),
            // Any name is taken in its domain: so is one with a % in it.
            (&[(Plain, Denied), (Rewritten, Taken), (Control, Taken)], Some(false)),
            (&[(Plain, Denied), (Rewritten, Taken), (Control, Denied)], Some(true)),
            (&[(Plain, Denied), (Rewritten, Taken), (Control, Broken)], Some(false)),
            (&[(Plain, Denied), (Rewritten, Taken)], Some(false)),
            (&[(Plain, Later), (Rewritten, Denied)], None),
            (&[], None),
        ] {
            assert_eq!(tried(answers).relays(), expected, "{answers:?}");
        }
    }
}
