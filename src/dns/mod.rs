//! The DNS: name servers asked, within a deadline, and what they said kept for a while.
//!
//! - `resolver`: asks name servers;
//! - `cache`: what was learned of addresses, one shard of it;
//! - [`names`]: the host names of clients.
//!
//! What the answers mean, for a list or for the name of a client, is left to those who ask.

pub(crate) mod cache;
#[cfg(test)]
pub(crate) mod double;
pub mod names;
pub(crate) mod resolver;

pub use names::Names;

/// Why a question has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Nothing came in time.
    Timeout,
    /// The name server could not resolve it (SERVFAIL).
    ServFail,
    /// The name server would not (REFUSED).
    Refused,
    /// The name server could not be reached.
    Network,
    /// Anything else: another response code, a message that cannot be read.
    Malformed,
}
