//! The DNSBL score: postscreen's site syntax, which answers count, and what they add up to.

use std::time::Duration;

/// One entry of `sites`, in postscreen's syntax: `domain[=filter][*weight]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// The zone that is asked. May hold a paid key: never shown, see [`Site::display`].
    pub zone: String,
    /// Which answers count; all of 127/8 but 127.255.255.x if there is none.
    pub filter: Option<Filter>,
    /// What a hit adds to the score; negative for allow lists.
    pub weight: i32,
    /// The name that replies, logs and metrics use.
    pub display: String,
}

/// Which answers of a list count: for each of the four octets, the numbers that match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// For each octet, inclusive ranges.
    octets: [Vec<(u8, u8)>; 4],
}

/// Why a text is not a list of sites.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct NotASite {
    /// The entry.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl Site {
    /// Reads one entry: `domain[=d.d.d.d][*weight]`. The display name is the zone until a reply map says otherwise.
    pub fn parse(_text: &str) -> Result<Self, NotASite> {
        todo!()
    }
}

/// What the lists say of a client so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Score {
    /// The sum over the answers that are in.
    pub total: i32,
    /// The least that it can still become.
    pub least: i32,
    /// The most that it can still become.
    pub most: i32,
    /// How many lists have not answered yet.
    pub outstanding: u16,
    /// The listing that weighs most: an index into [`Settings::sites`].
    pub worst: Option<u16>,
    /// How long a pass may be remembered on the strength of these answers (the least of their TTLs).
    pub pass_ttl: Option<Duration>,
}
