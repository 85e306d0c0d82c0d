//! `[gate.tls]`: where TLS with clients ends, and what they are shown.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{boolean, choice, span, text};
use crate::clock::Clock;
use crate::session::{Here, Scene, Tls};
use crate::tls::{Certificate, ClientCertificate, Keyring, Pair, Settings};

/// What becomes of STARTTLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StartTls {
    EndToEnd,
    Here,
    Off,
}

/// What `[gate.tls]` says.
#[derive(Debug)]
pub(super) struct TlsEntry {
    span: Option<Range<usize>>,
    starttls: Option<Spanned<StartTls>>,
    implicit: Option<Spanned<bool>>,
    /// Whether there is a list of certificates, even one that could not be read.
    given: bool,
    certificates: Vec<PairEntry>,
    client_certificate: Option<Spanned<ClientCertificate>>,
    auth_requires_tls: Option<Spanned<bool>>,
    handshake_time: Option<Spanned<Duration>>,
}

#[derive(Debug)]
struct PairEntry {
    span: Range<usize>,
    chain: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
}

impl TlsEntry {
    /// Reads the keys of `[gate.tls]`; files are looked for below `folder`.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Self {
        let path = |value: &DeValue<'_>| text(value).map(|text| folder.join(text));
        let times = Duration::from_secs(1)..=Duration::from_secs(5 * 60);
        Self {
            span: table.span(),
            starttls: table.value("starttls", starttls),
            implicit: table.value("implicit", boolean),
            certificates: table.sections("certificates", |pair| PairEntry {
                span: pair.span().unwrap_or_default(),
                chain: pair.value("chain", path),
                key: pair.value("key", path),
            }),
            given: table.has("certificates"),
            client_certificate: table.value("client_certificate", client_certificate),
            auth_requires_tls: table.value("auth_requires_tls", boolean),
            handshake_time: table.value("handshake_time", span(times)),
        }
    }

    /// What it comes to at a gate of `scene` in the table at `gate`.
    pub(super) fn tls(&self, scene: Scene, gate: Range<usize>, inspection: &Inspection) -> Tls {
        let first = self.is_first(scene);
        let default = if self.given { StartTls::Here } else { StartTls::EndToEnd };
        let starttls = self.starttls.as_ref().map_or(default, |starttls| *starttls.get_ref());
        self.judge(first, starttls, gate, inspection);
        let before_auth = self.auth_requires_tls.as_ref().map_or(scene != Scene::Mx, |required| *required.get_ref());
        match starttls {
            _ if first => self.here(true, before_auth, inspection),
            StartTls::Here => self.here(false, before_auth, inspection),
            StartTls::EndToEnd => Tls::EndToEnd,
            StartTls::Off => Tls::Off,
        }
    }

    /// Whether TLS comes before any word of SMTP.
    pub(super) fn is_first(&self, scene: Scene) -> bool {
        self.implicit.as_ref().map_or(scene == Scene::Submissions, |implicit| *implicit.get_ref())
    }

    fn judge(&self, first: bool, starttls: StartTls, gate: Range<usize>, inspection: &Inspection) {
        if first && let Some(starttls) = &self.starttls {
            let remedy = "take it out; or set implicit = false, and listen on port 587";
            inspection
                .warning(starttls.span(), Wrong::new("this has no effect: TLS comes before STARTTLS could", remedy));
        }
        let here = first || starttls == StartTls::Here;
        if here && !self.given {
            let wish = self.implicit.as_ref().filter(|_| first).map(Spanned::span);
            let wish = wish.or_else(|| self.starttls.as_ref().filter(|_| !first).map(Spanned::span));
            let place = wish.or_else(|| self.span.clone()).unwrap_or(gate);
            let remedy = "add certificates = [{ chain = \"/etc/gatepost/fullchain.pem\", key = \"/etc/gatepost/privkey.pem\" }] \
                          to [gate.tls]";
            inspection.error(place, Wrong::new("TLS is to end here, and there is no certificate", remedy));
        }
        if here && self.given && self.certificates.is_empty() {
            let place = self.span.clone().unwrap_or_default();
            inspection.error(place, Wrong::new("the list of certificates is empty", "name a chain and its key"));
        }
        if here {
            return;
        }
        let idle = |span: Range<usize>| {
            let remedy = "set starttls = \"here\", or take it out";
            inspection.warning(span, Wrong::new("this has no effect: TLS does not end here", remedy));
        };
        self.certificates.iter().for_each(|pair| idle(pair.span.clone()));
        self.client_certificate.iter().for_each(|value| idle(value.span()));
        self.auth_requires_tls.iter().filter(|value| *value.get_ref()).for_each(|value| idle(value.span()));
        self.handshake_time.iter().for_each(|value| idle(value.span()));
    }

    /// TLS that ends here; nothing of it where a file is wrong, which has been noted then.
    fn here(&self, first: bool, before_auth: bool, inspection: &Inspection) -> Tls {
        let now = Clock::system().now();
        let mut certificates = Vec::with_capacity(self.certificates.len());
        for entry in &self.certificates {
            let Some(pair) = entry.pair(inspection) else { continue };
            if let Err(problem) = Certificate::read(&pair, now) {
                let of = |file: &&Spanned<PathBuf>| *file.get_ref() == problem.file;
                let place = entry.key.iter().chain(&entry.chain).find(of).map_or(entry.span.clone(), Spanned::span);
                let cause = format!("{}: {}", problem.file.display(), problem.cause);
                inspection.error(place, Wrong::new(cause, problem.remedy));
            }
            certificates.push(pair);
        }
        let settings = Settings {
            certificates,
            client_certificate: self
                .client_certificate
                .as_ref()
                .map_or(ClientCertificate::Off, |asked| *asked.get_ref()),
            handshake_timeout: self.handshake_time.as_ref().map_or(Duration::from_secs(30), |time| *time.get_ref()),
        };
        // What is wrong with the files has its place by now.
        match Keyring::load(settings, now) {
            Ok(keyring) => Tls::Here(Arc::new(Here { keyring, first, before_auth })),
            Err(_) => Tls::Off,
        }
    }
}

impl PairEntry {
    fn pair(&self, inspection: &Inspection) -> Option<Pair> {
        if let (Some(chain), Some(key)) = (&self.chain, &self.key) {
            return Some(Pair { chain: chain.get_ref().clone(), key: key.get_ref().clone() });
        }
        let remedy = "write { chain = \"/etc/gatepost/fullchain.pem\", key = \"/etc/gatepost/privkey.pem\" }";
        inspection.error(self.span.clone(), Wrong::new("a certificate needs `chain` and `key`", remedy));
        None
    }
}

fn starttls(value: &DeValue<'_>) -> Result<StartTls, Wrong> {
    const WORDS: &[(&str, StartTls)] =
        &[("end-to-end", StartTls::EndToEnd), ("here", StartTls::Here), ("off", StartTls::Off)];
    const ELSEWHERE: &[(&str, &str)] =
        &[("may", "here"), ("on", "here"), ("pass", "end-to-end"), ("passthrough", "end-to-end"), ("none", "off")];
    choice(WORDS, ELSEWHERE)(value)
}

fn client_certificate(value: &DeValue<'_>) -> Result<ClientCertificate, Wrong> {
    const WORDS: &[(&str, ClientCertificate)] = &[("off", ClientCertificate::Off), ("ask", ClientCertificate::Ask)];
    choice(WORDS, &[("request", "ask"), ("optional", "ask"), ("none", "off")])(value)
}
