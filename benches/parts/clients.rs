//! Clients that a ledger is filled with.

use std::time::Duration;

use gatepost::addr::ClientKey;
use gatepost::screen::{Standing, Test};
use gatepost::time::Timestamp;

pub const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

/// Addresses in an order that no cache line likes.
pub fn client(n: u32) -> ClientKey {
    ClientKey::V4(n.wrapping_mul(2_654_435_761))
}

pub fn passed() -> Standing {
    let mut standing = Standing::stranger();
    standing.pass(Test::Pregreet, NOW.plus(Duration::from_secs(86_400)));
    standing
}
