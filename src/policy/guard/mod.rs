//! The AUTH guard: what failed AUTH exchanges come to, counted per client, per account and per network.
//!
//! | counted | of whom | what it leads to |
//! | --- | --- | --- |
//! | failures in a window | a client ([`Tally`]) | a ban, `auth-failures` |
//! | failures that leak away over days | a client | a ban, `auth-slow` |
//! | different accounts in a window | a client | a ban, `auth-accounts` |
//! | a name that nobody has | a client | a ban at once, `auth-honeypot` |
//! | AUTH where it is not offered | a client | a ban, `auth-not-offered` |
//! | different strangers that fail in a window | an [`Account`] | the strangers are banned, and for a while each further one with its first failure, `auth-account` |
//! | banned clients in a window | a [`Network`]: an IPv4 /24, an IPv6 /48 | a ban of the network, `neighbours`, if that is switched on |
//!
//! Whoever has logged in to an account lately is at home there, and no stranger; and a client from which anybody has logged
//! in lately has more patience of ours than others. So the owner of an account that is being guessed is never banned for it.
//!
//! Each of these is a value with one verb that takes `now` (seconds since 1970) and answers. It is kept as a line
//! ([`Record`](super::record::Record)); what it does is done by a Lua script of the same name in the shared store, number
//! for number: integers only, nothing that rounds.

mod account;
mod network;
mod tally;
mod window;

use std::time::Duration;

use super::ban::{Ladder, Reason};

pub use account::{Account, Failed};
pub use network::Network;
pub use tally::{Strike, Tally};
pub use window::{Few, Leak, Window};

/// So many in so long a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// How many lead to a ban; 0: none ever does.
    pub count: u32,
    /// Within how long.
    pub within: Duration,
}

/// The rules of the guard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Failed exchanges of a client.
    pub failures: Limit,
    /// Failed exchanges of a client over days: so many more than one in each `within` that goes by.
    pub slow: Limit,
    /// Different accounts that a client has failed for; at most [`Tally::ACCOUNTS`].
    pub accounts: Limit,
    /// Different strangers that have failed for an account; at most [`Account::STRANGERS`].
    pub strangers: Limit,
    /// For how long an account is held to be under attack after a stranger's failure.
    pub attack: Duration,
    /// AUTH of a client where it is not offered.
    pub not_offered: Limit,
    /// For how long a client is known after somebody has logged in from it, and at home in that account.
    pub known_for: Duration,
    /// How many times as much a known client may do before it is banned.
    pub patience: u32,
    /// Banned clients of a network; at most [`Network::OFFENDERS`].
    pub neighbours: Limit,
    /// How long bans last.
    pub ladder: Ladder,
}

impl Default for Rules {
    fn default() -> Self {
        const HOUR: u64 = 60 * 60;
        let limit = |count, within| Limit { count, within: Duration::from_secs(within) };
        Self {
            failures: limit(5, 10 * 60),
            slow: limit(20, 2 * HOUR),
            accounts: limit(6, HOUR),
            strangers: limit(10, HOUR),
            attack: Duration::from_secs(HOUR),
            not_offered: limit(10, HOUR),
            known_for: Duration::from_secs(30 * 24 * HOUR),
            patience: 4,
            neighbours: limit(0, 1),
            ladder: Ladder::default(),
        }
    }
}

/// A ban that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sentence {
    /// Why.
    pub reason: Reason,
    /// How many times it did that.
    pub count: u32,
    /// Which ban of the client, or the network, it is.
    pub level: u8,
    /// Until when, in seconds since 1970.
    pub until: u32,
}
