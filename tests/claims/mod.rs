//! What is claimed of the parsers, whatever they are given: one function for each, that panics where it does not hold.
//!
//! `tests/properties.rs` and the fuzz targets both call these, so that the shipped code holds none of it.

use std::fmt::Debug;

mod auth;
mod command;
mod data;
mod ehlo;
mod line;
mod proxy_header;
mod relay;
mod reply;
pub mod stage;

pub use auth::auth;
pub use command::command;
pub use data::data;
pub use ehlo::ehlo;
pub use line::line;
pub use proxy_header::proxy_header;
pub use relay::{relay, relay_ending_tls};
pub use reply::reply;

/// However the input is cut: the answer for a part of it is "incomplete" up to some point, and from there on the answer
/// for all of it.
fn chunking_never_matters<'a, T: PartialEq + Debug>(
    input: &'a [u8],
    parse: impl Fn(&'a [u8]) -> T,
    is_incomplete: impl Fn(&T) -> bool,
) {
    let whole = parse(input);
    let mut decided = false;
    for cut in cuts(input) {
        let part = parse(input.split_at(cut).0);
        if !decided && is_incomplete(&part) {
            continue;
        }
        decided = true;
        assert_eq!(part, whole, "cut at {cut}");
    }
}

/// Where to cut: everywhere in short input, and around line ends and at even distances in long input.
fn cuts(input: &[u8]) -> impl Iterator<Item = usize> {
    let step = input.len() / 256 + 1;
    let near_end = |at: usize| {
        let around = input.get(at.saturating_sub(2)..at.saturating_add(2)).unwrap_or_default();
        around.contains(&b'\n')
    };
    (0..=input.len()).filter(move |&at| at.is_multiple_of(step) || near_end(at))
}
