//! The relay: follows the dialogue between a client that passed and the backend, as long as there is something to watch.
//!
//! It stands between two parsers. Where client, gatepost and backend disagree about the position in the dialogue, mail
//! is forged or lost; so it passes on only what all of them read the same way, and ends the connection where they might
//! not. It never answers for the backend what only the backend can answer.
//!
//! | file | what it is about |
//! | --- | --- |
//! | [`machine`] | the protocol: bytes in from either side, bytes out to either side, no I/O and no clock |
//! | `own`, `outstanding` | what gatepost says itself; whose turn it is to answer |
//! | [`ending`] | what a relay tells of itself: events, tallies, how it ended |
//! | `tls` | where TLS with the client ends, and what it may be offered because of that |
//! | `warden` | who is asked before an AUTH reaches the backend, and told what came of it |
//! | `limits` | how much one client may ask for |
//! | `trace` | the header field on top of each message, for an MTA that is not told of the client otherwise |
//! | `driver`, `flow`, `buffer`, `waits` | the machine between two sockets: reading, writing, back-pressure, deadlines |
//! | `splice`, `pipe` | what is left when nothing is to be watched: the kernel moves the bytes |

mod buffer;
mod driver;
pub mod ending;
mod flow;
mod limits;
pub mod machine;
mod outstanding;
mod own;
mod pipe;
mod splice;
mod tls;
mod trace;
mod waits;
mod warden;
mod wire;

use std::time::Duration;

use crate::smtp::ehlo::Keywords;

pub use self::driver::{Ending, Sides, run, run_traced};
pub use self::limits::Limits;
pub use self::tls::Tls;
pub use self::trace::{LIMIT as TRACE_LIMIT, Trace};
pub use self::warden::{Aftermath, Attempt, Finished, Warden};
pub use self::wire::{NoBackend, NoTls, Renewal, Wire, start_tls};
pub use crate::smtp::data::BareNewline;

/// How a dialogue is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether the backend's AUTH is offered to clients. If not, the keyword is withheld and the command answered 503. Where
    /// it is offered to some only, see [`Warden::offers_auth`].
    pub auth: bool,
    /// What becomes of a bare LF in mail data.
    pub bare_newline: BareNewline,
    /// Commands that gatepost itself refuses (unknown, malformed) before it answers 421.
    pub max_errors: u32,
    /// How much a client may ask for, and how slow it may be.
    pub limits: Limits,
    /// The waits.
    pub timeouts: Timeouts,
}

/// The waits of the relay, each over the whole act (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the client's next command.
    pub command: Duration,
    /// For mail data: what a client has in hand when it begins, and at most; see [`Limits::min_rate`].
    pub data: Duration,
    /// For the backend's reply to a command.
    pub reply: Duration,
    /// For the backend's reply to the end of data.
    pub end_of_data: Duration,
    /// For either side to take bytes: what it has in hand when it begins to lag, and at most; see [`Limits::min_rate`].
    pub write: Duration,
}

/// Where a dialogue stands when the relay takes over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// Nothing has been said: the backend's greeting is the first thing to come, and goes to the client.
    Greeting,
    /// The replay has brought the backend to where the client is.
    Dialogue {
        /// What the client was told in its last EHLO reply; none after HELO.
        offered: Keywords,
        /// Whether a MAIL has been accepted.
        transaction: bool,
    },
}
