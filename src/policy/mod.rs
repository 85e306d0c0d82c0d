//! Policies: who is let in before any test, how many at once, how often, and who is shut out for what it did. Pure.

pub mod access;
pub mod ban;
pub mod class;
mod counts;
pub mod gcra;
pub mod guard;
pub mod network;
mod prefixes;
pub mod quota;
pub mod ranges;
pub mod rates;
pub mod record;
pub mod stress;
