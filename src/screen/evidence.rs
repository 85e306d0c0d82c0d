//! What was seen.

use super::score::Score;

/// What the first bytes of a client that speaks before the greeting look like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Early {
    Smtp,
    Tls,
    Http,
    Ssh,
    Socks,
    ProxyHeader,
    Garbage,
}

/// Something that was seen of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// It spoke before the greeting had ended.
    SpokeEarly(Early),
    /// What the lists say so far.
    Dnsbl(Score),
}
