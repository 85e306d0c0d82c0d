//! Policies: who is let in before any test, how many at once, and how often. Pure.

pub mod access;
pub mod class;
mod counts;
pub mod gcra;
pub mod network;
mod prefixes;
pub mod quota;
pub mod rates;
pub mod stress;
