//! What it costs to read a command line, a command, an AUTH exchange, a reply and a PROXY header, and to write the last two.

#![allow(missing_docs, reason = "criterion's macros write the functions that this is about")]

use criterion::{criterion_group, criterion_main};

mod parts;

criterion_group!(benches, parts::words::all);
criterion_main!(benches);
