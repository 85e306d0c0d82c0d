//! Metrics: Prometheus, prefix `gatepost_`, base units, closed label sets.
//!
//! A label's value is the name of a gate or of a list, both from the operator's file, or a word of one of our closed
//! enums: never an address, an account, or anything from the wire. Every combination is made when its gate is first
//! named, so that counting is an addition and nothing else, and a series is there before its first event.
//!
//! [`Metrics::departed`] counts all that the end of a visit has to tell; what happens before that is counted by the
//! [`Gate`]'s own verbs. Figures that others keep (lists, ledger, journal) are asked for when somebody scrapes:
//! [`Sources`]. No type of the library shows.

pub mod bans;
mod gate;
pub mod remembered;
mod shared;
mod sources;

pub use gate::{AcceptError, BackendFailure, Gate, Header, Limit, Presence, State};
pub use sources::{CertificateState, Sources, ZoneState};

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};

use crate::journal::Visit;
use crate::time::Timestamp;

use gate::Families;

/// The most gates that are counted apart. A file has a handful; more can only come of many reloads, each with new names.
const GATES: usize = 256;

/// The gate under which further ones are counted.
const OTHER: &str = "other";

/// All that is counted. Shared by reference.
pub struct Metrics {
    /// Ours, with the prefix.
    registry: Registry,
    /// The process's, whose names have none.
    process: Registry,
    families: Families,
    /// The gates so far. Read for each visit, so without a lock; replaced as a whole when one is added.
    gates: ArcSwap<HashMap<Arc<str>, Arc<Gate>>>,
    /// Held while one is added, so that none is added twice.
    adding: Mutex<()>,
    sources: Arc<Sources>,
    bans: bans::Bans,
    reload_successful: IntGauge,
    reload_time: IntGauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").field("gates", &self.gates.load().keys()).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing has been counted.
    #[allow(clippy::expect_used, reason = "the prefix is a constant")]
    pub fn new() -> Self {
        let registry = Registry::new_custom(Some("gatepost".into()), None).expect("a valid prefix");
        let process = Registry::new();
        #[cfg(target_os = "linux")]
        register(&process, prometheus::process_collector::ProcessCollector::for_self());
        let families = Families::register(&registry);
        let sources = Arc::<Sources>::default();
        register(&registry, sources::Asked(Arc::clone(&sources)));
        let bans = bans::Bans::new(&registry);
        let build = Opts::new("build_info", "Version of gatepost; always 1.")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("revision", option_env!("GATEPOST_REVISION").unwrap_or("unknown"));
        gauge(&registry, build).set(1);
        let reload_successful = gauge(
            &registry,
            Opts::new("config_last_reload_successful", "Whether the configuration that was read last is in force."),
        );
        let reload_time = gauge(
            &registry,
            Opts::new(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in force was read, in seconds since 1970-01-01 00:00 UTC.",
            ),
        );
        Self {
            registry,
            process,
            families,
            gates: ArcSwap::default(),
            adding: Mutex::new(()),
            sources,
            bans,
            reload_successful,
            reload_time,
        }
    }

    /// The counters of the gate `name`, made at its first mention. Keep it: that saves the look-up. Beyond 256 names,
    /// the counters of a gate `other`.
    pub fn gate(&self, name: &str) -> Arc<Gate> {
        if let Some(gate) = self.gates.load().get(name) {
            return Arc::clone(gate);
        }
        let _adding = self.adding.lock();
        let gates = self.gates.load_full();
        let name = if gates.len() < GATES || gates.contains_key(name) { name } else { OTHER };
        if let Some(gate) = gates.get(name) {
            return Arc::clone(gate);
        }
        let gate = Arc::new(self.families.gate(name));
        let mut more = HashMap::clone(&gates);
        more.insert(name.into(), Arc::clone(&gate));
        self.gates.store(Arc::new(more));
        gate
    }

    /// Counts all that the end of a visit has to tell. To be called once for each.
    pub fn departed(&self, visit: &Visit) {
        match self.gates.load().get(&visit.gate) {
            Some(gate) => gate.departed(visit),
            None => self.gate(&visit.gate).departed(visit),
        }
    }

    /// A configuration was read at `now` and is in force.
    pub fn reload_succeeded(&self, now: Timestamp) {
        self.reload_successful.set(1);
        self.reload_time.set(i64::try_from(now.seconds()).unwrap_or(i64::MAX));
    }

    /// A configuration was read and could not be used; the one before stays in force.
    pub fn reload_failed(&self) {
        self.reload_successful.set(0);
    }

    /// What is counted of bans.
    pub fn bans(&self) -> &bans::Bans {
        &self.bans
    }

    /// Whom to ask for the figures that others keep.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Everything, in Prometheus' text format ([`CONTENT_TYPE`]).
    pub fn text(&self) -> String {
        let mut text = String::new();
        for registry in [&self.registry, &self.process] {
            if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
                tracing::error!(%error, "metrics could not be written");
            }
        }
        text
    }
}

/// What [`Metrics::text`] is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Registers a collector whose names nobody else uses.
fn register(registry: &Registry, collector: impl Collector + 'static) {
    if let Err(error) = registry.register(Box::new(collector)) {
        tracing::error!(%error, "a metric is missing");
    }
}

#[allow(clippy::expect_used, reason = "names are constants; `every_metric_is_made` makes them all")]
fn gauge(registry: &Registry, opts: Opts) -> IntGauge {
    let gauge = IntGauge::with_opts(opts).expect("a valid name");
    register(registry, gauge.clone());
    gauge
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::tests::{dropped, relayed};
    use crate::journal::{Finding, Outcome, Recognition};
    use crate::screen::{Action, Early, Test};

    /// The value of one series.
    fn value(metrics: &Metrics, series: &str) -> f64 {
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in:\n{text}")).parse().unwrap()
    }

    /// One of everything.
    fn full() -> Metrics {
        let metrics = Metrics::new();
        metrics.gate("mx").spoke_early(Early::Smtp);
        metrics.departed(&dropped());
        metrics.departed(&relayed());
        metrics.reload_succeeded(Timestamp::from_seconds(1_700_000_000));
        metrics.sources().set_ledger_entries(|| 42);
        metrics.sources().set_journal_lost(|| 3);
        metrics.sources().set_stress(|| true);
        metrics.sources().set_certificates(|| {
            let of = |not_after| CertificateState { gate: "mx".into(), name: "mx.example".into(), not_after };
            vec![of(1_900_000_000), of(1_800_000_000)]
        });
        metrics.sources().set_zones(|| {
            let results = vec![("listed", 5), ("clear", 7)];
            vec![
                ZoneState { zone: "list.example".into(), up: true, results: results.clone() },
                ZoneState { zone: "list.example".into(), up: false, results },
                ZoneState { zone: "\"odd\"\\\n".into(), up: true, results: Vec::new() },
            ]
        });
        metrics
    }

    #[test]
    fn every_metric_is_made() {
        let text = full().text();
        for name in [
            "visits_total",
            "outcomes_total",
            "findings_total",
            "pregreet_total",
            "backend_connections_total",
            "backend_connections_saved_total",
            "backend_failures_total",
            "sessions",
            "parked_duration_seconds",
            "handoff_duration_seconds",
            "messages_accepted_total",
            "auth_total",
            "bytes_total",
            "accept_errors_total",
            "tls_handshakes_total",
            "proxy_headers_total",
            "limit_refusals_total",
            "stress",
            "tls_certificate_not_after_timestamp_seconds",
            "dnsbl_queries_total",
            "dnsbl_zone_up",
            "ledger_entries",
            "journal_lost_total",
            "config_last_reload_successful",
            "config_last_reload_success_timestamp_seconds",
            "build_info",
        ] {
            assert!(text.contains(&format!("# HELP gatepost_{name} ")), "{name}");
        }
        assert!(text.contains("\nprocess_open_fds "), "the process's own names have no prefix");
        assert!(text.lines().all(|line| {
            let name = line.strip_prefix("# HELP ").or(line.strip_prefix("# TYPE ")).unwrap_or(line);
            name.starts_with("gatepost_") || name.starts_with("process_")
        }));
        // For `promtool check metrics`.
        if let Some(path) = std::env::var_os("GATEPOST_METRICS_TO") {
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn a_departure_counts_all_that_the_visit_tells() {
        let metrics = Metrics::new();
        metrics.departed(&dropped());
        metrics.departed(&relayed());
        for (series, n) in [
            ("gatepost_visits_total{gate=\"mx\",recognition=\"stranger\"}", 1.0),
            ("gatepost_visits_total{gate=\"mx\",recognition=\"remembered\"}", 1.0),
            ("gatepost_visits_total{gate=\"mx\",recognition=\"denied\"}", 0.0),
            ("gatepost_outcomes_total{gate=\"mx\",outcome=\"dropped\"}", 1.0),
            ("gatepost_outcomes_total{gate=\"mx\",outcome=\"relayed\"}", 1.0),
            ("gatepost_findings_total{action=\"drop\",gate=\"mx\",test=\"pregreet\"}", 1.0),
            ("gatepost_findings_total{action=\"observe\",gate=\"mx\",test=\"pregreet\"}", 0.0),
            ("gatepost_backend_connections_total{gate=\"mx\"}", 1.0),
            ("gatepost_backend_connections_saved_total{gate=\"mx\"}", 1.0),
            ("gatepost_messages_accepted_total{gate=\"mx\"}", 1.0),
            ("gatepost_auth_total{gate=\"mx\",result=\"ok\"}", 1.0),
            ("gatepost_auth_total{gate=\"mx\",result=\"failed\"}", 2.0),
            ("gatepost_bytes_total{direction=\"in\",gate=\"mx\"}", 5000.0),
            ("gatepost_bytes_total{direction=\"out\",gate=\"mx\"}", 400.0),
        ] {
            assert_eq!(value(&metrics, series), n, "{series}");
        }
    }

    #[test]
    fn only_a_verdict_saves_a_backend_connection() {
        let finding = |action| vec![Finding { test: Test::Dnsbl, action, detail: String::new() }];
        let metrics = Metrics::new();
        let mut visit = dropped();
        (visit.findings, visit.outcome) = (finding(Action::Observe), Outcome::HungUp);
        metrics.departed(&visit);
        visit.findings = finding(Action::Enforce);
        visit.backend = true;
        metrics.departed(&visit);
        let saved = "gatepost_backend_connections_saved_total{gate=\"mx\"}";
        assert_eq!(value(&metrics, saved), 0.0);
        visit.backend = false;
        metrics.departed(&visit);
        visit = Visit { findings: Vec::new(), recognition: Recognition::Denied, ..dropped() };
        metrics.departed(&visit);
        assert_eq!(value(&metrics, saved), 2.0);
    }

    #[test]
    fn a_presence_is_counted_where_it_is_and_nowhere_after() {
        let metrics = Metrics::new();
        let sessions = |state| value(&metrics, &format!("gatepost_sessions{{gate=\"mx\",state=\"{state}\"}}"));
        let gate = metrics.gate("mx");
        let mut presence = gate.present(State::Parked);
        let other = gate.present(State::Relay);
        assert_eq!((sessions("parked"), sessions("dialogue"), sessions("relay")), (1.0, 0.0, 1.0));
        presence.moves_to(State::Dialogue);
        assert_eq!((sessions("parked"), sessions("dialogue"), sessions("relay")), (0.0, 1.0, 1.0));
        drop((presence, other));
        assert_eq!((sessions("parked"), sessions("dialogue"), sessions("relay")), (0.0, 0.0, 0.0));
    }

    #[test]
    fn what_happens_before_the_end_is_counted() {
        let metrics = Metrics::new();
        let gate = metrics.gate("mx");
        gate.spoke_early(Early::ProxyHeader);
        gate.parked(Duration::from_secs(6));
        gate.handed_off(Duration::from_millis(3));
        gate.backend_failed(BackendFailure::Refused);
        gate.accept_failed(AcceptError::Resources);
        gate.limited(Limit::Reserved);
        gate.proxy_header(Header::Client);
        gate.proxy_header(Header::TooLong);
        gate.tls_handshake(None);
        gate.tls_handshake(Some(crate::tls::HandshakeFailure::NotTls));
        for (series, n) in [
            ("gatepost_pregreet_total{class=\"proxy-header\",gate=\"mx\"}", 1.0),
            ("gatepost_parked_duration_seconds_sum{gate=\"mx\"}", 6.0),
            ("gatepost_handoff_duration_seconds_count{gate=\"mx\"}", 1.0),
            ("gatepost_backend_failures_total{gate=\"mx\",kind=\"refused\"}", 1.0),
            ("gatepost_accept_errors_total{gate=\"mx\",kind=\"resources\"}", 1.0),
            ("gatepost_limit_refusals_total{gate=\"mx\",limit=\"reserved\"}", 1.0),
            ("gatepost_limit_refusals_total{gate=\"mx\",limit=\"rate\"}", 0.0),
            ("gatepost_proxy_headers_total{gate=\"mx\",result=\"client\"}", 1.0),
            ("gatepost_proxy_headers_total{gate=\"mx\",result=\"too-long\"}", 1.0),
            ("gatepost_proxy_headers_total{gate=\"mx\",result=\"untrusted\"}", 0.0),
            ("gatepost_tls_handshakes_total{gate=\"mx\",result=\"ok\"}", 1.0),
            ("gatepost_tls_handshakes_total{gate=\"mx\",result=\"not-tls\"}", 1.0),
            ("gatepost_tls_handshakes_total{gate=\"mx\",result=\"timeout\"}", 0.0),
        ] {
            assert_eq!(value(&metrics, series), n, "{series}");
        }
    }

    #[test]
    fn gates_are_counted_apart_up_to_a_bound() {
        let metrics = Metrics::new();
        for n in 0..1000 {
            let visit = Visit { gate: format!("gate{n}").into(), ..dropped() };
            metrics.departed(&visit);
            metrics.departed(&visit);
        }
        assert!(metrics.gates.load().len() <= GATES + 1);
        assert_eq!(value(&metrics, "gatepost_visits_total{gate=\"gate0\",recognition=\"stranger\"}"), 2.0);
        let rest = f64::from(2 * (1000 - GATES as u32));
        assert_eq!(value(&metrics, "gatepost_visits_total{gate=\"other\",recognition=\"stranger\"}"), rest);
    }

    #[test]
    fn sources_are_asked_when_somebody_scrapes() {
        let metrics = full();
        assert_eq!(value(&metrics, "gatepost_ledger_entries"), 42.0);
        assert_eq!(value(&metrics, "gatepost_journal_lost_total"), 3.0);
        assert_eq!(value(&metrics, "gatepost_stress"), 1.0);
        let ends = "gatepost_tls_certificate_not_after_timestamp_seconds{gate=\"mx\",name=\"mx.example\"}";
        assert_eq!(value(&metrics, ends), 1_800_000_000.0, "of two for one name, the one that ends first");
        let listed = "gatepost_dnsbl_queries_total{result=\"listed\",zone=\"list.example\"}";
        assert_eq!(value(&metrics, listed), 10.0, "two sites of one display name are one zone");
        assert_eq!(value(&metrics, "gatepost_dnsbl_zone_up{zone=\"list.example\"}"), 0.0, "up if both are");
        assert_eq!(value(&metrics, listed), 10.0, "asked again, it says the same");
        metrics.sources().set_ledger_entries(|| 43);
        assert_eq!(value(&metrics, "gatepost_ledger_entries"), 43.0);
    }

    #[test]
    fn a_reload_is_seen() {
        let metrics = full();
        assert_eq!(value(&metrics, "gatepost_config_last_reload_successful"), 1.0);
        metrics.reload_failed();
        assert_eq!(value(&metrics, "gatepost_config_last_reload_successful"), 0.0);
        assert_eq!(value(&metrics, "gatepost_config_last_reload_success_timestamp_seconds"), 1_700_000_000.0);
    }
}
