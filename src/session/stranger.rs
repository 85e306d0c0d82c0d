//! A stranger: a guest that is tested, and what it has said and heard before its greeting is complete.

use super::Guest;
use crate::screen::{Early, Evidence, Screen, Test, Verdict};

/// How much of what was said too early is shown in the journal.
const SHOWN: usize = 100;

/// A stranger who waits.
#[derive(Debug)]
pub(super) struct Stranger {
    pub guest: Guest,
    pub screen: Screen,
    /// Whether it came under stress, and so waits for less long.
    pub hurried: bool,
    /// Whether the greeting has been begun with a line `220-`.
    pub teased: bool,
    /// What it said too early, fit to be shown.
    pub said: Option<Box<str>>,
}

impl Stranger {
    /// It has spoken; `peeked` is what.
    pub(super) fn spoke(&mut self, peeked: &[u8]) -> Option<Verdict> {
        // Where TLS comes first, it is the client's turn.
        if !self.screen.due().has(Test::Pregreet) || self.guest.gate.settings.tls.is_first() {
            return None;
        }
        let early = Early::of(peeked);
        self.guest.gate.metrics.spoke_early(early);
        let verdict = self.screen.observe(Evidence::SpokeEarly(early));
        let after = self.guest.arrived.elapsed().as_secs_f32();
        self.said = Some(format!("{} bytes after {after:.2} s: {}", peeked.len(), shown(peeked)).into());
        verdict
    }
}

/// The first line of what was said, escaped and capped. What follows it may be an AUTH exchange: it is never shown,
/// whatever ends the line, nor are the parameters of a command that has a password in them.
fn shown(peeked: &[u8]) -> String {
    let first = peeked.split(|byte| matches!(byte, b'\r' | b'\n' | 0)).next().unwrap_or_default();
    let first = first.get(..SHOWN).unwrap_or(first);
    let secret = |five: &[u8]| {
        let [verb @ .., blank] = five else { return false };
        (verb.eq_ignore_ascii_case(b"AUTH") || verb.eq_ignore_ascii_case(b"PASS")) && matches!(blank, b' ' | b'\t')
    };
    match first.windows(5).position(secret).and_then(|at| first.get(..at + 4)) {
        Some(before) => format!("{} …", before.escape_ascii()),
        None => first.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_that_waits_takes_little_room() {
        assert!(size_of::<Stranger>() <= 288, "{}", size_of::<Stranger>());
    }
}
