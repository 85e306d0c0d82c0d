//! The benchmark `compare` in its parts that need no clock: what is made of values, and what loads and sink say.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "the benchmark uses all of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

#[path = "../benches/compare/sink/dialogue.rs"]
mod dialogue;
#[path = "../benches/compare/figures/mod.rs"]
mod figures;
#[path = "../benches/compare/load/script.rs"]
mod script;
#[path = "../benches/compare/usage.rs"]
mod usage;
