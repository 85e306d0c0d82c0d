//! `[gate.tls]`: where TLS with clients ends, and what they are shown; and TLS with the backend.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{boolean, choice, span, text};
use crate::backend::{self, Begins};
use crate::clock::Clock;
use crate::session::{Here, Scene, Tls};
use crate::tls::{Certificate, ClientCertificate, Connector, Keyring, Pair, Problem, Settings, Trust};

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
            let place = |problem: &Problem| {
                let of = |file: &&Spanned<PathBuf>| *file.get_ref() == problem.file;
                entry.key.iter().chain(&entry.chain).find(of).map_or(entry.span.clone(), Spanned::span)
            };
            let wrong =
                |problem: Problem| Wrong::new(format!("{}: {}", problem.file.display(), problem.cause), problem.remedy);
            match Certificate::read(&pair).map(|certificate| certificate.out_of_date(now)) {
                Ok(None) => {}
                // No reason to have no mail at all.
                Ok(Some(problem)) => inspection.warning(place(&problem), wrong(problem)),
                Err(problem) => inspection.error(place(&problem), wrong(problem)),
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
        match Keyring::load(settings) {
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

/// What `[[gate]]` says of TLS with its backend.
#[derive(Debug)]
pub(super) struct BackendTlsEntry {
    begins: Option<Spanned<Option<Begins>>>,
    verify: Option<Spanned<bool>>,
    name: Option<Spanned<String>>,
    ca: Option<Spanned<PathBuf>>,
}

impl BackendTlsEntry {
    /// Reads the keys; files are looked for below `folder`.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Self {
        Self {
            begins: table.value("backend_tls", begins),
            verify: table.value("backend_verify", boolean),
            name: table.value("backend_name", |value| text(value).map(str::to_owned)),
            ca: table.value("backend_ca", |value| text(value).map(|text| folder.join(text))),
        }
    }

    /// What it comes to for the backend at `address`.
    pub(super) fn tls(&self, address: Option<&Spanned<String>>, inspection: &Inspection) -> Option<backend::Tls> {
        let begins = self.begins.as_ref().and_then(|begins| *begins.get_ref());
        // TLS that anybody can prevent, by taking the word out of the EHLO reply, has no use for a certificate.
        let verifies = !matches!(begins, None | Some(Begins::IfOffered));
        let verify = verifies && self.verify.as_ref().is_none_or(|verify| *verify.get_ref());
        let idle = |span: Range<usize>, why: &str| {
            inspection
                .warning(span, Wrong::new(format!("this has no effect: {why}"), "take it out, or see `backend_tls`"));
        };
        match begins {
            None => {
                self.verify.iter().for_each(|value| idle(value.span(), "there is no TLS with the backend"));
                self.name.iter().for_each(|value| idle(value.span(), "there is no TLS with the backend"));
                self.ca.iter().for_each(|value| idle(value.span(), "there is no TLS with the backend"));
            }
            Some(Begins::IfOffered) => {
                let why =
                    "where TLS may be left out, nobody has to be trusted; write backend_tls = \"starttls-required\"";
                self.verify.iter().filter(|value| *value.get_ref()).for_each(|value| idle(value.span(), why));
                self.ca.iter().for_each(|value| idle(value.span(), why));
            }
            Some(_) if !verify => {
                self.ca.iter().for_each(|value| idle(value.span(), "the backend's certificate is not verified"));
            }
            Some(_) => {}
        }
        let begins = begins?;
        let host = address.map(|address| address.get_ref().rsplit_once(':').map_or("", |(host, _)| host));
        let host = host.unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = self.name.as_ref().map_or(host, |name| name.get_ref()).to_owned();
        let trust = Trust { name, verify, ca: self.ca.as_ref().map(|ca| ca.get_ref().clone()) };
        match Connector::load(trust) {
            Ok(connector) => Some(backend::Tls { begins, connector: Arc::new(connector) }),
            Err(problem) => {
                let of_name = self.name.as_ref().filter(|_| problem.file.as_os_str().is_empty()).map(Spanned::span);
                let of_file = self.ca.as_ref().map(Spanned::span);
                let place = of_name.or(of_file).or_else(|| self.begins.as_ref().map(Spanned::span)).unwrap_or_default();
                let file = problem.file.display().to_string();
                let cause = if file.is_empty() { problem.cause } else { format!("{file}: {}", problem.cause) };
                inspection.error(place, Wrong::new(cause, problem.remedy));
                None
            }
        }
    }
}

fn begins(value: &DeValue<'_>) -> Result<Option<Begins>, Wrong> {
    const WORDS: &[(&str, Option<Begins>)] = &[
        ("none", None),
        ("starttls", Some(Begins::IfOffered)),
        ("starttls-required", Some(Begins::StartTls)),
        ("implicit", Some(Begins::First)),
    ];
    const ELSEWHERE: &[(&str, &str)] =
        &[("off", "none"), ("may", "starttls"), ("encrypt", "starttls-required"), ("smtps", "implicit")];
    choice(WORDS, ELSEWHERE)(value)
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
