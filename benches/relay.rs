//! What it costs to follow a dialogue: the machine alone, by the line, by pieces of a driver's size, and whole messages.

#![allow(missing_docs, reason = "criterion's macros write the functions that this is about")]

use criterion::{criterion_group, criterion_main};

mod parts;

criterion_group!(benches, parts::relay::all);
criterion_main!(benches);
