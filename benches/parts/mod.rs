//! The parts that are looked at one by one: what each is given to do. `benches/*.rs` say how long that takes, and
//! `tests/allocations.rs` holds how much it may allocate.
//!
//! | file | what it is about |
//! | --- | --- |
//! | [`words`] | parsers and writers |
//! | [`relay`] | the relay's machine, the end of data |
//! | [`score`] | the DNSBL score |
//! | [`ledger`] | what is remembered, and what is looked up at the door |
//! | [`clients`] | those that a ledger is filled with |
//! | [`departure`] | a visit's record, and what is counted of it |
//! | [`bench`] | criterion, and the allocations beside what it says |

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each program takes the parts that it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a part that does not do what it is for fails, loudly and at once"
)]

pub mod bench;
pub mod clients;
pub mod departure;
pub mod ledger;
pub mod relay;
pub mod score;
pub mod words;

use std::hint::black_box;

use allocation_counter::{AllocationInfo, measure};

/// Whoever looks at parts.
pub trait Look {
    /// Looks at one of them. It handles so many `bytes` in one `go` (0: it is not about bytes), and may go any number of
    /// times.
    fn at<T>(&mut self, group: &str, name: &str, bytes: usize, go: impl FnMut() -> T);
}

/// How often a part goes, so that it is counted by what it does on and on.
fn goes(bytes: usize) -> u64 {
    (4_u64 << 20).checked_div(bytes as u64).unwrap_or(u64::MAX).clamp(4, 1000)
}

/// What a part allocates in so many goes, once it has all that it keeps from one to the next.
pub fn allocated<T>(bytes: usize, mut go: impl FnMut() -> T) -> (AllocationInfo, u64) {
    let goes = goes(bytes);
    let mut all = || (0..goes).for_each(|_| drop(black_box(go())));
    all();
    (measure(all), goes)
}
