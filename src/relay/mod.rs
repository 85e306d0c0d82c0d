//! The relay: follows the dialogue between a client that passed and the backend, as long as there is something to watch.

use std::time::Duration;

use crate::smtp::ehlo::Keywords;

/// How a dialogue is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether the backend's AUTH is offered to clients. If not, the keyword is withheld and the command answered 503.
    pub auth: bool,
    /// What becomes of a bare LF in mail data.
    pub bare_newline: BareNewline,
    /// Commands that gatepost itself refuses (unknown, malformed) before it answers 421.
    pub max_errors: u32,
    /// The waits.
    pub timeouts: Timeouts,
}

/// What becomes of a bare LF in mail data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BareNewline {
    /// It becomes CRLF. It never ends a message.
    Normalize,
    /// The message is refused.
    Refuse,
}

/// The waits of the relay, each over the whole act (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// For the client's next command.
    pub command: Duration,
    /// For the next bytes of mail data.
    pub data: Duration,
    /// For the backend's reply to a command.
    pub reply: Duration,
    /// For the backend's reply to the end of data.
    pub end_of_data: Duration,
    /// For either side to take bytes.
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
