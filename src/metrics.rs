//! Metrics: Prometheus, prefix `gatepost_`, base units, closed label sets.
