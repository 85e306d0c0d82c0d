//! The cache of Postfix's postscreen, as `postmap -s` writes it: an address, and when what it has passed ends.
//!
//! ```text
//! 192.0.2.7<TAB>1700086400;1700003600;1702592000;1702592000;1702592000
//!                pregreet; dnsbl;     pipelining; non-smtp;  bare-newline     0: never passed, 1: off when it was written
//! ```
//!
//! # Which of our tests that stands for
//!
//! Five of ours are postscreen's. The other three it does not have: the HELO name's two, and AUTH that is not offered. A client
//! that postscreen lets through without a wait should not wait here, and whoever came through all of postscreen's dialogue
//! has said HELO there and has not been seen to try AUTH. So these three count as passed for as long as what it has
//! passed longest of the dialogue (pipelining, non-smtp, bare-newline): the dialogue is where they would be seen. Where
//! postscreen made none of these (they are off, as in its own defaults), all that it knows is the greeting, and the three
//! count for as long as that does: else every client would wait anew for tests that postscreen never asked for. What such a
//! client does against them is still seen at its next visit, as it is of every client that is known.
//!
//! A test that was off is held to be passed for as long as the client's last pass: its operator did not want it made.

use std::net::IpAddr;

use crate::addr::ClientKey;
use crate::screen::{Standing, Test};
use crate::time::Timestamp;

/// The tests of postscreen, in the order of its records.
const TESTS: [Test; 5] = [Test::Pregreet, Test::Dnsbl, Test::Pipelining, Test::NotSmtp, Test::BareNewline];

/// Those of them that take a dialogue.
const DEEP: [Test; 3] = [Test::Pipelining, Test::NotSmtp, Test::BareNewline];

/// Those that postscreen does not have.
const OURS: [Test; 3] = [Test::HeloName, Test::HeloSyntax, Test::AuthNotOffered];

/// Reads a line of a cache: a client and what it has passed; nothing if there is no client in it.
pub fn read(line: &str) -> Result<Option<(ClientKey, Standing)>, String> {
    let line = line.trim();
    let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    // What it notes of itself among the clients begins so: _LAST_CACHE_CLEANUP_COMPLETED_.
    if line.is_empty() || key.starts_with('_') {
        return Ok(None);
    }
    let shown: String = key.chars().take(60).collect();
    let address: IpAddr = key.parse().map_err(|_| format!("{shown:?} is no address"))?;
    let stamps: Vec<u64> = value.trim().split(';').map_while(|stamp| stamp.parse().ok()).collect();
    // Before Postfix 2.10 or so there were fewer, and there may be more one day.
    if stamps.len() < TESTS.len() || stamps.len() != value.trim().split(';').count() {
        return Err(format!("what stands behind {shown} is no record of postscreen's: five numbers, parted by `;`"));
    }
    Ok(Some((ClientKey::of(address), standing(&stamps))))
}

fn standing(stamps: &[u64]) -> Standing {
    let made = |test| {
        let stamp = TESTS.into_iter().zip(stamps).find(|(known, _)| *known == test).map(|(_, stamp)| *stamp);
        stamp.filter(|stamp| *stamp != OFF)
    };
    let last = TESTS.into_iter().filter_map(made).max().unwrap_or(NEVER);
    let deep = DEEP.into_iter().filter_map(made).max();
    let greeting = made(Test::Pregreet).unwrap_or(last);
    // Whoever has never come through a dialogue that was asked for has not shown how it speaks.
    let ours = if deep == Some(NEVER) { NEVER } else { deep.unwrap_or(greeting) };
    let mut standing = Standing::stranger();
    for test in TESTS {
        standing.pass(test, Timestamp::from_seconds(made(test).unwrap_or(last)));
    }
    for test in OURS {
        standing.pass(test, Timestamp::from_seconds(ours));
    }
    standing
}

/// It never passed.
const NEVER: u64 = 0;

/// The test was off.
const OFF: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// Until when each test counts, in the order of [`Test::ALL`].
    fn until(value: &str) -> [u64; 8] {
        let (client, standing) = read(&format!("192.0.2.7\t{value}")).unwrap().unwrap();
        assert_eq!(client, ClientKey::of("192.0.2.7".parse().unwrap()));
        Test::ALL.map(|test| standing.until(test).seconds())
    }

    #[test]
    fn passes_are_kept_and_ours_are_those_of_the_dialogue() {
        //                                pregreet dnsbl name syntax pipelining not-smtp newline auth
        for (value, expected) in [
            ("100;90;300;310;320", [100, 90, 320, 320, 300, 310, 320, 320]),
            ("100;90;1;1;1", [100, 90, 100, 100, 100, 100, 100, 100]),
            ("100;1;300;1;1", [100, 300, 300, 300, 300, 300, 300, 300]),
            ("100;90;0;0;0", [100, 90, 0, 0, 0, 0, 0, 0]),
            ("0;0;0;0;0", [0; 8]),
            ("1;1;1;1;1", [0; 8]),
            ("100;90;300;310;320;999", [100, 90, 320, 320, 300, 310, 320, 320]),
        ] {
            assert_eq!(until(value), expected, "{value}");
        }
    }

    #[test]
    fn other_lines_are_passed_over_or_refused() {
        for line in ["", "  ", "_LAST_CACHE_CLEANUP_COMPLETED_\t1700000000", "_last_cache_cleanup_completed_ 0"] {
            assert_eq!(read(line), Ok(None), "{line}");
        }
        assert!(read("2001:db8::25 1;2;3;4;5").unwrap().is_some());
        for line in
            ["mail.example 1;2;3;4;5", "192.0.2.7", "192.0.2.7 1;2;3;4", "192.0.2.7 1;2;x;4;5", "192.0.2.7 -1;2;3;4;5"]
        {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
