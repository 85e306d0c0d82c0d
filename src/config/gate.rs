//! `[[gate]]`: where gatepost listens, for whom, and which MTA is behind.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::access::AccessEntry;
use super::auth::{self, AuthEntry};
use super::inspection::{Inspection, Wrong};
use super::limits::{GreetEntry, LimitsEntry, TimeoutsEntry};
use super::lists::DnsblEntry;
use super::proxies::ProxiesEntry;
use super::rules::{Circumstances, TestsEntry};
use super::table::Table;
use super::tls::{BackendTlsEntry, TlsEntry};
use super::transparent;
use super::values::{boolean, choice, domain, host_and_port, reply_text, socket, span, text};
use crate::backend::{self, Announce};
use crate::proxy_header::Version;
use crate::relay::{self, BareNewline};
use crate::screen::{self, Action, PerTest, Rule, Test};
use crate::session::{self, Scene};

/// As long as a contact can be, so that a refusal stays within one reply line (RFC 5321 §4.5.3.1.5).
const CONTACT_LIMIT: usize = 200;

/// What can stand at the top of the file and in a gate: the gate's goes before.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hostname: Option<Spanned<String>>,
    /// Whether there is a host name, even one that could not be read.
    named: bool,
    observe: Option<bool>,
    contact: Option<String>,
    access: Option<AccessEntry>,
    tests: TestsEntry,
    greet: GreetEntry,
    limits: LimitsEntry,
    timeouts: TimeoutsEntry,
}

impl Shared {
    /// Reads these keys and sections.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Self {
        Self {
            hostname: table.value("hostname", domain),
            named: table.has("hostname"),
            observe: table.value("observe", boolean).map(Spanned::into_inner),
            contact: table.value("contact", reply_text(CONTACT_LIMIT)).map(Spanned::into_inner),
            access: table.section("access", |access| AccessEntry::read(access, folder)),
            tests: table.section("tests", TestsEntry::read),
            greet: table.section("greet", GreetEntry::read),
            limits: table.section("limits", LimitsEntry::read),
            timeouts: table.section("timeouts", TimeoutsEntry::read),
        }
    }

    /// Warns of a wait for PROXY headers where none of the `gates` takes any.
    pub(super) fn judge_proxy(&self, gates: &[GateEntry], inspection: &Inspection) {
        if !gates.is_empty() && !gates.iter().any(|gate| gate.proxies.is_there()) {
            self.timeouts.judge_proxy(inspection);
        }
    }

    /// Warns of what the file's own sections say in vain at all `gates`.
    pub(super) fn judge(&self, gates: &[session::Settings], inspection: &Inspection) {
        let rules: Vec<(Scene, PerTest<Rule>)> = gates.iter().map(|gate| (gate.scene, gate.screen.rules)).collect();
        let made = |test| made_anywhere(gates, test);
        if !gates.is_empty() {
            self.tests.judge_file(&rules, inspection);
            self.greet.judge(made(Test::Pregreet), made(Test::Dnsbl), inspection);
        }
    }
}

/// What `[[gate]]` says.
#[derive(Debug)]
pub(super) struct GateEntry {
    span: std::ops::Range<usize>,
    named: Option<Spanned<String>>,
    scene: Scene,
    /// Where it listens, each with its place.
    pub(super) listen: Vec<Spanned<SocketAddr>>,
    proxies: ProxiesEntry,
    /// Its backend.
    pub(super) backend: Option<Spanned<String>>,
    announce: Announce,
    /// Where a trace header is asked for.
    traced: Option<std::ops::Range<usize>>,
    backend_tls: BackendTlsEntry,
    offer_auth: bool,
    bare_newline: BareNewline,
    tls: TlsEntry,
    probe_interval: Duration,
    auth_from: Option<Vec<Spanned<IpNet>>>,
    shared: Shared,
}

impl GateEntry {
    /// Reads the keys of `[[gate]]`.
    pub(super) fn read(table: &mut Table<'_>, folder: &Path) -> Self {
        let inspection = table.inspection();
        let span = table.span().unwrap_or_default();
        let named = table.value("name", gate_name);
        let scene = table.value("scene", scene).map_or(Scene::Mx, Spanned::into_inner);
        let listen = table.list("listen", socket(25));
        let proxies = ProxiesEntry::read(table);
        let backend = table.value("backend", host_and_port);
        let backend_tls = BackendTlsEntry::read(table, folder);
        let announce = table.value("announce", announce);
        let accepted = table.value("accept_unknown_client", boolean);
        let offer_auth = table.value("offer_auth", boolean).map(Spanned::into_inner);
        let bare_newline = table.value("bare_lf_in_data", bare_newline).map(Spanned::into_inner);
        let tls = table.section("tls", |tls| TlsEntry::read(tls, folder));
        let probe_interval = table.value("probe_interval", self::span(seconds(10)..=seconds(24 * 60 * 60)));
        let auth_from = table.section("auth", auth::read_networks);
        let shared = Shared::read(table, folder);

        require(table, "listen", "[\"0.0.0.0:25\", \"[::]:25\"]");
        require(table, "backend", "\"127.0.0.1:2525\"");
        if let Some(empty) = listen.as_ref().filter(|_| table.items("listen") == 0) {
            let wrong = Wrong::new("the gate listens nowhere", "write listen = [\"0.0.0.0:25\", \"[::]:25\"]");
            inspection.error(empty.span(), wrong);
        }
        let listen = listen.map(Spanned::into_inner).unwrap_or_default();
        judge_announce(announce.as_ref(), accepted.as_ref(), &listen, inspection);
        transparent::judge(announce.as_ref(), &listen, backend.as_ref(), inspection);
        proxies.judge(&listen, inspection);
        Self {
            span,
            named,
            scene,
            listen,
            proxies,
            backend,
            backend_tls,
            traced: announce.as_ref().filter(|one| *one.get_ref() == Announce::Header).map(Spanned::span),
            announce: announce.map_or(Announce::Proxy(Version::V2), Spanned::into_inner),
            offer_auth: offer_auth.unwrap_or(scene != Scene::Mx),
            bare_newline: bare_newline.unwrap_or(BareNewline::Normalize),
            tls,
            probe_interval: probe_interval.map_or(seconds(5 * 60), Spanned::into_inner),
            auth_from,
            shared,
        }
    }

    /// Its name: the one it was given, or its scene's.
    pub(super) fn name(&self) -> &str {
        self.named.as_ref().map_or(scene_word(self.scene), |name| name.get_ref())
    }

    /// Where problems with its name belong.
    pub(super) fn name_span(&self) -> std::ops::Range<usize> {
        self.named.as_ref().map_or_else(|| self.span.clone(), Spanned::span)
    }

    /// Everything that a visit to this gate needs to know, where `above` holds what the file says for all gates.
    pub(super) fn settings(
        &self,
        above: &Shared,
        dnsbl: &DnsblEntry,
        auth: &AuthEntry,
        inspection: &Inspection,
    ) -> session::Settings {
        let own = &self.shared;
        let hostname = own.hostname.as_ref().or(above.hostname.as_ref()).map(|name| name.get_ref().clone());
        let hostname = hostname.unwrap_or_default();
        let limits = (&own.limits, &above.limits);
        let (connect_timeout, reply_timeout) = own.timeouts.backend(&above.timeouts, inspection);
        let tls = self.tls.tls(self.scene, self.span.clone(), inspection);
        if let (Some(header), session::Tls::EndToEnd) = (&self.traced, &tls) {
            let cause = "messages that are sent under TLS will carry no header: TLS is passed through to the backend";
            let remedy = "let TLS end here, with certificates in [gate.tls], or set its starttls = \"off\"";
            inspection.warning(header.clone(), Wrong::new(cause, remedy));
        }
        session::Settings {
            auth_from: auth.networks(self.auth_from.as_deref(), self.offer_auth, inspection),
            name: self.name().to_owned(),
            scene: self.scene,
            listen: self.listen.iter().map(|socket| *socket.get_ref()).collect(),
            proxies: self.proxies.proxies(&own.timeouts, &above.timeouts, inspection),
            contact: own.contact.clone().or_else(|| above.contact.clone()),
            screen: Arc::new(self.screen(above, dnsbl, &hostname, inspection)),
            access: Arc::new(AccessEntry::list(own.access.as_ref(), above.access.as_ref(), self.proxies.is_there())),
            limits: limits.0.quota(limits.1, self.scene, inspection),
            tls,
            backend: Arc::new(backend::Settings {
                address: self.backend.as_ref().map(|address| address.get_ref().clone()).unwrap_or_default(),
                hostname: hostname.clone(),
                announce: self.announce,
                tls: self.backend_tls.tls(self.backend.as_ref(), inspection),
                connect_timeout,
                reply_timeout,
                probe_interval: self.probe_interval,
            }),
            relay: Arc::new(relay::Settings {
                auth: self.offer_auth,
                bare_newline: self.bare_newline,
                max_errors: limits.0.errors(limits.1),
                limits: relay::Limits { auth_failures: auth.session_failures(), ..limits.0.relay(limits.1) },
                timeouts: own.timeouts.relay(&above.timeouts),
            }),
            dialogue: limits.0.dialogue(limits.1, inspection),
            hostname,
        }
    }

    fn screen(&self, above: &Shared, dnsbl: &DnsblEntry, hostname: &str, inspection: &Inspection) -> screen::Settings {
        let own = &self.shared;
        let given = Circumstances {
            scene: self.scene,
            auth: self.offer_auth,
            lists: dnsbl.settings.is_some(),
            tls_first: self.tls.is_first(self.scene),
        };
        let rules = own.tests.rules(&above.tests, &given, inspection);
        own.tests.judge_gate(&rules, inspection);
        let made = |test: Test| rules[test].action != Action::Off;
        own.greet.judge(made(Test::Pregreet), made(Test::Dnsbl), inspection);
        screen::Settings {
            observe: own.observe.or(above.observe).unwrap_or(false),
            rules,
            greet: own.greet.greet(&above.greet, hostname, inspection),
            thresholds: dnsbl.thresholds,
            names: own.tests.names(&above.tests, hostname, self.own_addresses(), inspection),
        }
    }

    /// The addresses that are ours for certain: those listened on by number. Loopback is everybody's.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.listen.iter().map(|socket| socket.get_ref().ip()).collect();
        addresses.retain(|ip| !ip.is_unspecified() && !ip.is_loopback());
        addresses.dedup();
        addresses
    }

    /// Whether the gate, or `above` it the file, gives it a host name, right or wrong.
    pub(super) fn has_hostname(&self, above: &Shared) -> bool {
        self.shared.named || above.named
    }
}

/// Whether any gate makes a test.
pub(super) fn made_anywhere(gates: &[session::Settings], test: Test) -> bool {
    gates.iter().any(|gate| gate.screen.rules[test].action != Action::Off)
}

/// The word for a scene in the file.
pub(super) fn scene_word(scene: Scene) -> &'static str {
    match scene {
        Scene::Mx => "mx",
        Scene::Submission => "submission",
        Scene::Submissions => "submissions",
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn gate_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?;
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter);
    if (1..=32).contains(&name.len()) && name.chars().all(plain) {
        return Ok(name.to_owned());
    }
    let remedy = "write up to 32 of a-z, 0-9, - and _: it becomes a label in metrics and logs";
    Err(Wrong::new(format!("{name:?} cannot name a gate"), remedy))
}

fn scene(value: &DeValue<'_>) -> Result<Scene, Wrong> {
    const WORDS: &[(&str, Scene)] =
        &[("mx", Scene::Mx), ("submission", Scene::Submission), ("submissions", Scene::Submissions)];
    const ELSEWHERE: &[(&str, &str)] = &[
        ("smtp", "mx"),
        ("smtpd", "mx"),
        ("inbound", "mx"),
        ("msa", "submission"),
        ("587", "submission"),
        ("smtps", "submissions"),
        ("465", "submissions"),
    ];
    choice(WORDS, ELSEWHERE)(value)
}

fn announce(value: &DeValue<'_>) -> Result<Announce, Wrong> {
    const WORDS: &[(&str, Announce)] = &[
        ("proxy-v1", Announce::Proxy(Version::V1)),
        ("proxy-v2", Announce::Proxy(Version::V2)),
        ("transparent", Announce::Transparent),
        ("xclient", Announce::Xclient),
        ("header", Announce::Header),
        ("none", Announce::Nothing),
    ];
    const ELSEWHERE: &[(&str, &str)] = &[
        ("proxy", "proxy-v2"),
        ("haproxy", "proxy-v2"),
        ("send-proxy", "proxy-v1"),
        ("send-proxy-v2", "proxy-v2"),
        ("tproxy", "transparent"),
        ("usesrc", "transparent"),
        ("clientip", "transparent"),
        ("received", "header"),
        ("trace", "header"),
        ("off", "none"),
    ];
    choice(WORDS, ELSEWHERE)(value)
}

fn bare_newline(value: &DeValue<'_>) -> Result<BareNewline, Wrong> {
    const WORDS: &[(&str, BareNewline)] = &[("normalize", BareNewline::Normalize), ("refuse", BareNewline::Refuse)];
    choice(WORDS, &[("normalise", "normalize"), ("crlf", "normalize"), ("reject", "refuse")])(value)
}

/// Reports a key that a gate cannot do without.
fn require(table: &Table<'_>, key: &'static str, example: &str) {
    if !table.has(key) {
        let wrong = Wrong::new(format!("the gate has no `{key}`"), format!("add {key} = {example}"));
        table.inspection().missing(table.span(), key, wrong);
    }
}

/// A backend that takes gatepost for the client grants strangers whatever it grants gatepost's address: relaying, as a
/// rule. So it takes the operator's word, unless only this machine can connect.
fn judge_announce(
    announce: Option<&Spanned<Announce>>,
    accepted: Option<&Spanned<bool>>,
    listen: &[Spanned<SocketAddr>],
    inspection: &Inspection,
) {
    let exposed = listen.iter().any(|socket| !socket.get_ref().ip().is_loopback());
    let accepts = accepted.is_some_and(|accepted| *accepted.get_ref());
    let silent = announce.filter(|announce| matches!(announce.get_ref(), Announce::Nothing | Announce::Header));
    match (silent, accepted) {
        (Some(silent), _) if exposed && !accepts => {
            let cause = match silent.get_ref() {
                Announce::Header => {
                    "a header tells of the client too late: the backend would still take gatepost for it, and might relay \
                     mail for everybody"
                }
                _ => "the backend would take gatepost for the client, and might relay mail for everybody",
            };
            let remedy = "set announce = \"proxy-v2\" or \"xclient\" and have the mail server expect it; or, if it trusts \
                          gatepost's address with nothing, add accept_unknown_client = true";
            inspection.error(silent.span(), Wrong::new(cause, remedy));
        }
        (None, Some(accepted)) if accepts => {
            let cause = "this has no effect: the backend is told who the client is";
            inspection.warning(accepted.span(), Wrong::new(cause, "take it out"));
        }
        _ => {}
    }
}
