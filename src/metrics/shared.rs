//! How it stands with the shared store, as metrics.

use prometheus::core::Collector;
use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use crate::ledger::shared::{BOUNDS, State};

/// The families that tell of `state`.
#[allow(clippy::expect_used, reason = "names and labels are constants; a test makes them all")]
pub(super) fn families(state: &State) -> Vec<MetricFamily> {
    let gauge = |name, help, value: u64| {
        let gauge = IntGauge::with_opts(Opts::new(name, help)).expect("a valid gauge");
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge.collect()
    };
    let counter = |name, help, value| {
        let counter = IntCounter::with_opts(Opts::new(name, help)).expect("a valid counter");
        counter.inc_by(value);
        counter.collect()
    };
    let verbs = Opts::new("shared_verbs_total", "What was asked of the shared store, by whether it answered in time.");
    let verbs = IntCounterVec::new(verbs, &["result"]).expect("a valid counter");
    verbs.with_label_values(&["answered"]).inc_by(state.answered);
    verbs.with_label_values(&["away"]).inc_by(state.away);
    let up = u64::from(state.connected);
    [
        gauge("shared_up", "Whether the shared store answers: 0 while this host goes on alone.", up),
        gauge(
            "shared_since_timestamp_seconds",
            "Since when the shared store answers, or does not, in seconds since 1970-01-01 00:00 UTC.",
            state.since.seconds(),
        ),
        gauge("shared_queue", "Changes that wait for the shared store.", state.queue),
        counter("shared_lost_total", "Changes that did not reach the shared store, or perhaps not.", state.lost),
        counter("shared_connects_total", "Connections to the shared store that came about.", state.connects),
        counter("shared_news_total", "Changes of other hosts that were heard of.", state.news),
        counter(
            "shared_foreign_total",
            "What was found in the shared store, or told, and could not be made out or is not believed.",
            state.foreign,
        ),
        verbs.collect(),
        vec![duration(state)],
    ]
    .concat()
}

/// A histogram of figures that are counted elsewhere.
fn duration(state: &State) -> MetricFamily {
    let mut sum = 0;
    let buckets = BOUNDS.iter().zip(&state.took).map(|(bound, count)| {
        sum += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1000.0);
        bucket.set_cumulative_count(sum);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(state.answered);
    histogram.set_sample_sum(state.took_in_all.as_secs_f64());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    let mut family = MetricFamily::default();
    family.set_name("shared_verb_duration_seconds".to_owned());
    family.set_help("How long the shared store took to answer.".to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn a_state_is_told() {
        let mut took = [0; BOUNDS.len() + 1];
        (took[0], took[2], took[BOUNDS.len()]) = (5, 2, 1);
        let took_in_all = Duration::from_millis(1500);
        let state = State { connected: true, queue: 7, lost: 3, answered: 8, took, took_in_all, ..State::default() };
        let text = TextEncoder::new().encode_to_string(&families(&state)).unwrap();
        for line in [
            "shared_up 1",
            "shared_queue 7",
            "shared_lost_total 3",
            "shared_verbs_total{result=\"answered\"} 8",
            "shared_verb_duration_seconds_bucket{le=\"0.001\"} 5",
            "shared_verb_duration_seconds_bucket{le=\"0.005\"} 7",
            "shared_verb_duration_seconds_bucket{le=\"0.25\"} 7",
            "shared_verb_duration_seconds_bucket{le=\"+Inf\"} 8",
            "shared_verb_duration_seconds_sum 1.5",
            "shared_verb_duration_seconds_count 8",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
        }
    }
}
