//! What was seen.

use super::early::Early;
use super::score::Score;

/// Something that was seen of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// It spoke before the greeting had ended.
    SpokeEarly(Early),
    /// What the lists say so far.
    Dnsbl(Score),
}
