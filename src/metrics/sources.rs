//! Figures that others keep: asked for when somebody scrapes.
//!
//! Whoever keeps a figure hands over a closure that tells it, and at a reload another one in its place. A closure is
//! called on the thread that scrapes: it must not wait.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::remembered::{self, Remembered};
use super::shared;
use crate::firewall;
use crate::ledger::shared::State;
use crate::lists::ListState;

/// What a list has answered so far, and whether it is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneState {
    /// The list's display name: its zone may hold a key. Lists that share one are counted together.
    pub zone: String,
    /// Whether it is asked: not taken out by the breaker, the self-test, or the alarm.
    pub up: bool,
    /// Results, by words of a closed enum, and how many of each since the start.
    pub results: Vec<(&'static str, u64)>,
}

/// When a certificate ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateState {
    /// The gate that shows it.
    pub gate: Arc<str>,
    /// The first name that it is for: from a file of the operator's.
    pub name: String,
    /// When it ends, in seconds since 1970.
    pub not_after: u64,
}

/// What tells a figure.
type Ask<T> = Arc<dyn Fn() -> T + Send + Sync>;

/// Whom to ask. Nothing is told of a figure that nobody keeps.
#[derive(Default)]
pub struct Sources {
    zones: Mutex<Option<Ask<Vec<ZoneState>>>>,
    certificates: Mutex<Option<Ask<Vec<CertificateState>>>>,
    ledger_entries: Mutex<Option<Ask<u64>>>,
    journal_lost: Mutex<Option<Ask<u64>>>,
    stress: Mutex<Option<Ask<bool>>>,
    firewall: Mutex<Option<Ask<firewall::Counts>>>,
    lists: Mutex<Option<Ask<Vec<ListState>>>>,
    shared: Mutex<Option<Ask<State>>>,
    remembered: Mutex<Option<Ask<Remembered>>>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// Who knows of the DNS lists.
    pub fn set_zones(&self, ask: impl Fn() -> Vec<ZoneState> + Send + Sync + 'static) {
        *self.zones.lock() = Some(Arc::new(ask));
    }

    /// Who knows of the gates' certificates.
    pub fn set_certificates(&self, ask: impl Fn() -> Vec<CertificateState> + Send + Sync + 'static) {
        *self.certificates.lock() = Some(Arc::new(ask));
    }

    /// Who knows how many clients are remembered.
    pub fn set_ledger_entries(&self, ask: impl Fn() -> u64 + Send + Sync + 'static) {
        *self.ledger_entries.lock() = Some(Arc::new(ask));
    }

    /// Who knows whether the house is under stress.
    pub fn set_stress(&self, ask: impl Fn() -> bool + Send + Sync + 'static) {
        *self.stress.lock() = Some(Arc::new(ask));
    }

    /// Who knows how many journal records were lost.
    pub fn set_journal_lost(&self, ask: impl Fn() -> u64 + Send + Sync + 'static) {
        *self.journal_lost.lock() = Some(Arc::new(ask));
    }

    /// Who knows what the outside was told of bans.
    pub fn set_firewall(&self, ask: impl Fn() -> firewall::Counts + Send + Sync + 'static) {
        *self.firewall.lock() = Some(Arc::new(ask));
    }

    /// Who knows of the lists from outside.
    pub fn set_lists(&self, ask: impl Fn() -> Vec<ListState> + Send + Sync + 'static) {
        *self.lists.lock() = Some(Arc::new(ask));
    }

    /// Who knows how much is remembered and decided.
    pub fn set_remembered(&self, ask: impl Fn() -> Remembered + Send + Sync + 'static) {
        *self.remembered.lock() = Some(Arc::new(ask));
    }

    /// Who knows how it stands with the shared store.
    pub fn set_shared(&self, ask: impl Fn() -> State + Send + Sync + 'static) {
        *self.shared.lock() = Some(Arc::new(ask));
    }
}

/// Asks, with no lock held.
fn ask<T>(source: &Mutex<Option<Ask<T>>>) -> Option<T> {
    let ask = source.lock().clone();
    ask.map(|ask| ask())
}

/// The collector that asks the sources.
pub(super) struct Asked(pub(super) Arc<Sources>);

/// The metrics, empty: made anew for each scrape, so that what was told last time does not linger.
struct Told {
    queries: IntCounterVec,
    up: IntGaugeVec,
    not_after: IntGaugeVec,
    entries: IntGauge,
    lost: IntCounter,
    stress: IntGauge,
    elements: IntGauge,
    failures: IntCounterVec,
    runs: IntCounterVec,
    listed: IntGaugeVec,
    list_failures: IntCounterVec,
}

#[allow(clippy::expect_used, reason = "names and labels are constants; a test makes them all")]
impl Told {
    fn new() -> Self {
        let queries = Opts::new("dnsbl_queries_total", "Questions to DNS lists, by what came of them.");
        let up = Opts::new("dnsbl_zone_up", "Whether a DNS list is asked: 0 while it is taken out.");
        let not_after = Opts::new(
            "tls_certificate_not_after_timestamp_seconds",
            "When a certificate ends, in seconds since 1970-01-01 00:00 UTC.",
        );
        let entries = Opts::new("ledger_entries", "Clients that are remembered.");
        let stress = Opts::new("stress", "Whether there are so many sessions that strangers are hurried.");
        let lost = Opts::new("journal_lost_total", "Journal records that could not be written.");
        let elements = Opts::new("firewall_elements", "Networks that the packet filter keeps out.");
        let failures = Opts::new("firewall_failures_total", "Bans that could not be told outside, by why.");
        let runs = Opts::new("ban_command_runs_total", "Runs of the ban command, by what came of them.");
        let listed = Opts::new("list_entries", "Networks of an imported list that are in force.");
        let list_failures = Opts::new("list_failures_total", "Changes of an imported list that could not be used.");
        Self {
            queries: IntCounterVec::new(queries, &["zone", "result"]).expect("a valid counter"),
            up: IntGaugeVec::new(up, &["zone"]).expect("a valid gauge"),
            not_after: IntGaugeVec::new(not_after, &["gate", "name"]).expect("a valid gauge"),
            entries: IntGauge::with_opts(entries).expect("a valid gauge"),
            stress: IntGauge::with_opts(stress).expect("a valid gauge"),
            lost: IntCounter::with_opts(lost).expect("a valid counter"),
            elements: IntGauge::with_opts(elements).expect("a valid gauge"),
            failures: IntCounterVec::new(failures, &["kind"]).expect("a valid counter"),
            runs: IntCounterVec::new(runs, &["result"]).expect("a valid counter"),
            listed: IntGaugeVec::new(listed, &["list"]).expect("a valid gauge"),
            list_failures: IntCounterVec::new(list_failures, &["list"]).expect("a valid counter"),
        }
    }

    /// Two lists with one display name are one zone, which is up if both are.
    fn zones(&self, zones: Vec<ZoneState>) -> Vec<MetricFamily> {
        let mut up = BTreeMap::<String, bool>::new();
        for ZoneState { zone, up: is_up, results } in zones {
            for (result, n) in results {
                self.queries.with_label_values(&[zone.as_str(), result]).inc_by(n);
            }
            up.entry(zone).and_modify(|up| *up &= is_up).or_insert(is_up);
        }
        for (zone, is_up) in up {
            self.up.with_label_values(&[zone]).set(i64::from(is_up));
        }
        [self.queries.collect(), self.up.collect()].concat()
    }

    /// Of two certificates of a gate for one name, the one that ends first.
    fn certificates(&self, certificates: Vec<CertificateState>) -> Vec<MetricFamily> {
        let mut ends = BTreeMap::<(Arc<str>, String), u64>::new();
        for CertificateState { gate, name, not_after } in certificates {
            ends.entry((gate, name)).and_modify(|end| *end = (*end).min(not_after)).or_insert(not_after);
        }
        for ((gate, name), end) in ends {
            let gauge = self.not_after.with_label_values(&[&*gate, name.as_str()]);
            gauge.set(i64::try_from(end).unwrap_or(i64::MAX));
        }
        self.not_after.collect()
    }

    fn firewall(&self, counts: &firewall::Counts) -> Vec<MetricFamily> {
        self.elements.set(i64::try_from(counts.elements).unwrap_or(i64::MAX));
        for (counter, counted) in [(&self.failures, &counts.failures), (&self.runs, &counts.runs)] {
            for &(word, n) in counted {
                counter.with_label_values(&[word]).inc_by(n);
            }
        }
        [self.elements.collect(), self.failures.collect(), self.runs.collect()].concat()
    }

    fn lists(&self, lists: Vec<ListState>) -> Vec<MetricFamily> {
        for ListState { list, entries, failures } in lists {
            self.listed.with_label_values(&[&*list]).set(i64::try_from(entries).unwrap_or(i64::MAX));
            self.list_failures.with_label_values(&[&*list]).inc_by(failures);
        }
        [self.listed.collect(), self.list_failures.collect()].concat()
    }
}

impl Collector for Asked {
    fn desc(&self) -> Vec<&Desc> {
        // Without descriptions the registry takes the collector as it is: what it gives differs from time to time.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let told = Told::new();
        let mut families = Vec::new();
        if let Some(zones) = ask(&self.0.zones) {
            families.extend(told.zones(zones));
        }
        if let Some(certificates) = ask(&self.0.certificates) {
            families.extend(told.certificates(certificates));
        }
        if let Some(entries) = ask(&self.0.ledger_entries) {
            told.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
            families.extend(told.entries.collect());
        }
        if let Some(stress) = ask(&self.0.stress) {
            told.stress.set(i64::from(stress));
            families.extend(told.stress.collect());
        }
        if let Some(lost) = ask(&self.0.journal_lost) {
            told.lost.inc_by(lost);
            families.extend(told.lost.collect());
        }
        // Its words are there at 0 where nobody is told.
        families.extend(told.firewall(&ask(&self.0.firewall).unwrap_or_default()));
        if let Some(lists) = ask(&self.0.lists) {
            families.extend(told.lists(lists));
        }
        if let Some(told) = ask(&self.0.remembered) {
            families.extend(remembered::families(&told));
        }
        if let Some(state) = ask(&self.0.shared) {
            families.extend(shared::families(&state));
        }
        families
    }
}
