//! AUTH exchanges (RFC 4954): how one starts, and what a client's line in it is. Secrets never leave this module.

use std::fmt;

/// How an exchange begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Start<'a> {
    /// The mechanism's name, as written.
    pub mechanism: &'a [u8],
    /// The initial response, base64, `=` for an empty one.
    pub initial: Option<&'a [u8]>,
}

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("mechanism", &self.mechanism.escape_ascii().to_string())
            .field("initial", &self.initial.map(|_| "…"))
            .finish()
    }
}
