//! What the end of a visit costs: its record, and what is counted of it.

#![allow(missing_docs, reason = "criterion's macros write the functions that this is about")]

use criterion::{criterion_group, criterion_main};

mod parts;

criterion_group!(benches, parts::departure::all);
criterion_main!(benches);
