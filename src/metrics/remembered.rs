//! What is remembered and decided, as metrics.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts};

use crate::ledger::Kind;
use crate::ledger::embedded::State;
use crate::policy::ban::What;

/// How much is remembered and decided.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remembered {
    /// Entries of each kind.
    pub entries: Vec<(Kind, u64)>,
    /// Networks that are banned, and networks that are allowed, at run time.
    pub decisions: Vec<(What, u64)>,
    /// Replies to failed AUTH that are held back now.
    pub delayed: u64,
    /// How the ledger's file does, if there is one.
    pub file: Option<State>,
}

/// The families that tell of it.
#[allow(clippy::expect_used, reason = "names and labels are constants; a test makes them all")]
pub(super) fn families(told: &Remembered) -> Vec<MetricFamily> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let gauge = |name, help, value| {
        let gauge = IntGauge::with_opts(Opts::new(name, help)).expect("a valid gauge");
        gauge.set(number(value));
        gauge.collect()
    };
    let counter = |name, help, value| {
        let counter = IntCounter::with_opts(Opts::new(name, help)).expect("a valid counter");
        counter.inc_by(value);
        counter.collect()
    };
    let entries = Opts::new("ledger_records", "What is remembered, by what it is about.");
    let entries = IntGaugeVec::new(entries, &["kind"]).expect("a valid gauge");
    for (kind, count) in &told.entries {
        entries.with_label_values(&[kind.name()]).set(number(*count));
    }
    let decisions = Opts::new("decisions", "Networks that are banned, or allowed, at run time.");
    let decisions = IntGaugeVec::new(decisions, &["what"]).expect("a valid gauge");
    for (what, count) in &told.decisions {
        decisions.with_label_values(&[what.name()]).set(number(*count));
    }
    let mut families = vec![
        entries.collect(),
        decisions.collect(),
        gauge("auth_delayed", "Replies to failed AUTH that are held back now.", told.delayed),
    ];
    if let Some(file) = &told.file {
        let failing = u64::from(file.failing.is_some());
        let last = file.last_commit.map_or(0, |at| at.seconds());
        families.extend([
            gauge("ledger_file_failing", "Whether the ledger's file cannot be written at present.", failing),
            gauge(
                "ledger_file_pending",
                "Changes that wait to be written to the ledger's file again.",
                file.pending as u64,
            ),
            gauge("ledger_file_bytes", "How large the ledger's file is.", file.bytes),
            gauge(
                "ledger_file_last_commit_timestamp_seconds",
                "When the ledger's file was last written, in seconds since 1970-01-01 00:00 UTC.",
                last,
            ),
            counter("ledger_file_records_total", "Records that were written to the ledger's file.", file.written),
            counter("ledger_file_failures_total", "Attempts to write the ledger's file that failed.", file.failures),
        ]);
    }
    families.concat()
}
