//! TLS: the gate's certificates as clients see them, TLS with the backend, and the backend's own where clients get to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ProtocolVersion;

use super::backend::Met;
use super::certificate::{Chain, SOON, day};
use super::finding::{Findings, Topic};
use super::talk::Talk;
use crate::backend::{self, Begins, Connection};
use crate::clock::Clock;
use crate::session::{self, Scene, Tls};
use crate::smtp::ehlo::{Keyword, Offer};
use crate::tls::{Connector, Trust, cipher};

/// The certificates that the gate shows its clients. That they can be read and fit their keys is known: the file would not
/// have been taken otherwise.
pub(super) fn with_clients(gate: &session::Settings, out: &mut Findings) {
    let Tls::Here(here) = &gate.tls else { return };
    let now = Clock::system().now();
    let pairs = &here.keyring.settings().certificates;
    let mut named = false;
    for pair in pairs {
        let file = pair.chain.display();
        let Some(chain) = Chain::from_file(&pair.chain) else {
            out.away(
                Topic::Tls,
                format!("{file} cannot be read any more"),
                "see to the file; `gatepost check` tells more",
            );
            continue;
        };
        named |= chain.is_for(&gate.hostname);
        let before = out.0.len();
        let what = format!("{file} is {}", chain.shown(now));
        if chain.not_after < now {
            let remedy = "renew it: mail programs refuse it, and so do mail servers that verify certificates";
            out.wrong(Topic::Tls, what.clone(), remedy);
        } else if chain.not_before > now {
            let what = format!("{file} is not good yet: from {} on", day(chain.not_before));
            out.wrong(Topic::Tls, what, "see to the clock of this machine; until then, clients that verify refuse it");
        } else if chain.not_after.since(now) < SOON {
            out.warn(Topic::Tls, what.clone(), "renew it, and see why that has not happened by itself");
        }
        judge_chain(&file.to_string(), &chain, out);
        judge_key(&pair.key, out);
        if out.0.len() == before {
            out.fine(Topic::Tls, what);
        }
    }
    if !named {
        let what = format!("no certificate is for {}, the name that gatepost greets with", gate.hostname);
        let remedy = "have one made for that name too; clients that verify certificates go elsewhere, or complain";
        out.warn(Topic::Tls, what, remedy);
    }
    if gate.scene != Scene::Mx && !here.before_auth {
        let what = "AUTH is offered without TLS: passwords go over the network in the clear";
        out.warn(Topic::Tls, what, "take auth_requires_tls = false out of [gate.tls]");
    }
}

fn judge_chain(file: &str, chain: &Chain, out: &mut Findings) {
    if chain.self_signed && chain.length == 1 {
        let remedy = "fine for mail between servers; mail programs want one that an authority vouches for (ACME)";
        out.note(Topic::Tls, format!("{file} vouches for itself"), remedy);
    } else if chain.length == 1 {
        let what = format!("{file} holds one certificate, and not those that lead to its authority");
        out.warn(Topic::Tls, what, "name the file with the whole chain (fullchain.pem), not cert.pem");
    } else if !chain.in_order {
        let what = format!("in {file}, not every certificate is vouched for by the next");
        out.warn(
            Topic::Tls,
            what,
            "put the host's certificate first, behind it the one that vouches for it, and so on",
        );
    }
    if chain.is_weak() {
        let what = format!("{file} has an RSA key of {} bits", chain.rsa_bits.unwrap_or_default());
        out.warn(Topic::Tls, what, "have one made with an RSA key of 2048 bits or more, or an ECDSA key");
    }
}

fn judge_key(file: &Path, out: &mut Findings) {
    let Ok(about) = fs::metadata(file) else { return };
    if about.permissions().mode() & 0o004 != 0 {
        let what = format!("everybody on this host may read the private key {}", file.display());
        out.warn(Topic::Tls, what, "chmod o= it, and let the group that gatepost runs as read it");
    }
}

/// What was agreed on with the backend, where the gate speaks TLS with it.
pub(super) fn with_backend(gate: &session::Settings, talk: &Talk, out: &mut Findings) {
    let Some(tls) = &gate.backend.tls else { return };
    let Some((agreed, chain)) = agreed(talk) else {
        let what = "no TLS with the backend: it offers no STARTTLS, or the handshake failed";
        out.warn(Topic::Tls, what, "have the MTA offer STARTTLS, or set backend_tls = \"none\"");
        return;
    };
    let trust = tls.connector.trust();
    let verified = match (tls.begins, trust.verify) {
        (Begins::IfOffered, _) | (_, false) => "not verified",
        (_, true) => "verified",
    };
    let shown = chain.as_ref().map_or_else(|| "unreadable".to_owned(), |chain| chain.shown(Clock::system().now()));
    out.fine(Topic::Tls, format!("with the backend: {agreed}; its certificate, {verified}, is {shown}"));
    if let Some(chain) = chain.filter(|_| trust.verify) {
        judge_end(&chain, "the backend's certificate", out);
    }
}

fn judge_end(chain: &Chain, whose: &str, out: &mut Findings) {
    let now = Clock::system().now();
    if chain.not_after < now || chain.not_before > now {
        out.warn(Topic::Tls, format!("{whose} is not good now: {}", chain.shown(now)), "renew it on the MTA's host");
    } else if chain.not_after.since(now) < SOON {
        out.warn(Topic::Tls, format!("{whose} ends soon: {}", chain.shown(now)), "renew it on the MTA's host");
    }
}

/// The version and the cipher, and the other side's chain.
fn agreed(talk: &Talk) -> Option<(String, Option<Chain>)> {
    let Connection::Tls(stream) = &talk.connection else { return None };
    let (_, session) = stream.get_ref();
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let cipher = session.negotiated_cipher_suite().map_or("unknown", |suite| cipher(suite.suite()));
    Some((format!("{version}, {cipher}"), session.peer_certificates().and_then(Chain::read)))
}

/// The backend's own STARTTLS, where clients get to it: its certificate is the one that they see, and its AUTH the one
/// that they use.
pub(super) async fn through(gate: &session::Settings, met: &Met, out: &mut Findings) {
    if !matches!(gate.tls, Tls::EndToEnd) {
        return;
    }
    if gate.scene != Scene::Mx && gate.relay.auth && met.offer.keywords.has(Keyword::Auth) {
        let what = "the MTA offers AUTH before TLS: passwords may go over the network in the clear";
        let remedy = "Postfix: smtpd_tls_auth_only = yes; Exim: auth_advertise_hosts = ${if def:tls_in_cipher{*}}; or \
                      let TLS end at gatepost, with certificates in [gate.tls]";
        out.warn(Topic::Tls, what, remedy);
    }
    if gate.backend.tls.is_some() {
        let what = "clients are offered no TLS: the backend's is used up between gatepost and it";
        out.note(Topic::Tls, what, "name certificates in [gate.tls], so that TLS with clients ends here");
        return;
    }
    if !met.offer.keywords.has(Keyword::StartTls) {
        let what = "clients are offered no TLS, neither by gatepost nor by the MTA";
        let remedy = "name certificates in [gate.tls], or have the MTA offer STARTTLS";
        match gate.scene {
            Scene::Mx => out.note(Topic::Tls, what, remedy),
            Scene::Submission | Scene::Submissions => out.warn(Topic::Tls, what, remedy),
        }
        return;
    }
    let Some(mut talk) = under_its_tls(gate).await else {
        let what = "the MTA offers STARTTLS, and the handshake fails";
        out.wrong(Topic::Tls, what, "see the MTA's log, and its certificate and key: clients meet the same");
        return;
    };
    if let Some((agreed, Some(chain))) = agreed(&talk) {
        let shown = chain.shown(Clock::system().now());
        out.fine(Topic::Tls, format!("clients begin TLS with the MTA itself: {agreed}; its certificate is {shown}"));
        judge_end(&chain, "the MTA's certificate", out);
    }
    if gate.scene != Scene::Mx && gate.relay.auth && !met.offer.keywords.has(Keyword::Auth) {
        let offered = talk.say(&format!("EHLO {}", gate.hostname)).await;
        match offered.map(|hello| Offer::read(&hello.reply())) {
            Ok(offer) if offer.keywords.has(Keyword::Auth) => {
                out.fine(Topic::Backend, "AUTH is offered under TLS, and under TLS only");
            }
            Ok(_) => {
                let remedy = "Postfix: smtpd_sasl_auth_enable = yes; Exim: an authenticator, and auth_advertise_hosts";
                out.wrong(Topic::Backend, "no AUTH is offered, nor under TLS: nobody can submit mail", remedy);
            }
            Err(_) => {}
        }
    }
    talk.leave().await;
}

/// A conversation for gatepost itself under the MTA's TLS, greeted. Whose its certificate is does not matter here.
pub(super) async fn under_its_tls(gate: &session::Settings) -> Option<Talk> {
    let settings = with_its_tls(gate)?;
    let mut talk = Talk::begin(&settings, None).await.ok()?;
    talk.hear().await.ok()?;
    matches!(talk.connection, Connection::Tls(_)).then_some(talk)
}

/// How the backend is spoken to, with STARTTLS where it offers that.
pub(super) fn with_its_tls(gate: &session::Settings) -> Option<backend::Settings> {
    let trust = Trust { name: gate.hostname.clone(), verify: false, ca: None };
    let connector = Arc::new(Connector::load(trust).ok()?);
    let tls = backend::Tls { begins: Begins::IfOffered, connector };
    Some(backend::Settings { tls: Some(tls), ..backend::Settings::clone(&gate.backend) })
}
