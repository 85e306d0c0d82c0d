//! What one answer of a list costs: judging its addresses, and adding the score up anew.

#![allow(missing_docs, reason = "criterion's macros write the functions that this is about")]

use criterion::{criterion_group, criterion_main};

mod parts;

criterion_group!(benches, parts::score::all);
criterion_main!(benches);
