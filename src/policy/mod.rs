//! Policies: who is let in before any test, how many at once, and who is shut out for what it did. Pure.

pub mod access;
pub mod ban;
pub mod guard;
pub mod network;
pub mod quota;
pub mod record;
