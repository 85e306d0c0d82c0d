//! Policies: who is let in before any test, and how many at once. Pure.

pub mod access;
pub mod network;
pub mod quota;
pub mod ranges;
