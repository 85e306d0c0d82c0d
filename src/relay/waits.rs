//! Deadlines: who is being waited for, since when, and until when.
//!
//! A wait covers a whole act: the bytes of half a command do not prolong the wait for the command. It begins when the act
//! before it is complete, and anew when nobody had to be waited for in between. While a side's bytes cannot be passed
//! on, that side is not waited for: the one that does not take them is.

use std::time::Duration;

use tokio::time::Instant;

use super::Timeouts;
use super::ending::Wait;

/// What can be waited for at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Now {
    /// What the client is waited for, and which of its acts that is.
    pub(super) client: Option<(Wait, u64)>,
    /// What the backend is waited for, and which of its acts that is.
    pub(super) backend: Option<(Wait, u64)>,
    /// How many bytes the client has taken, if more are waiting for it to.
    pub(super) client_write: Option<(Wait, u64)>,
    /// How many bytes the backend has taken, if more are waiting for it to.
    pub(super) backend_write: Option<(Wait, u64)>,
}

/// Since when each is waited for.
#[derive(Debug, Default)]
pub(super) struct Waits {
    running: [Option<(Wait, u64, Instant)>; 4],
}

impl Waits {
    /// Brings the waits up to date, and says which ends first, and when.
    pub(super) fn update(&mut self, now: Now, at: Instant, timeouts: &Timeouts) -> Option<(Instant, Wait)> {
        let wanted = [now.client, now.backend, now.client_write, now.backend_write];
        for (running, wanted) in self.running.iter_mut().zip(wanted) {
            if running.map(|(wait, act, _)| (wait, act)) != wanted {
                *running = wanted.map(|(wait, act)| (wait, act, until(at, length(wait, timeouts))));
            }
        }
        self.running.iter().flatten().map(|&(wait, _, until)| (until, wait)).min_by_key(|&(until, _)| until)
    }
}

/// How long `wait` may take.
pub(super) fn length(wait: Wait, timeouts: &Timeouts) -> Duration {
    match wait {
        Wait::Command => timeouts.command,
        Wait::Data => timeouts.data,
        Wait::Reply => timeouts.reply,
        Wait::EndOfData => timeouts.end_of_data,
        Wait::ClientWrite | Wait::BackendWrite => timeouts.write,
        // Behind TLS, any of these may be what keeps both sides silent.
        Wait::Idle => timeouts.command.max(timeouts.data).max(timeouts.reply).max(timeouts.end_of_data),
    }
}

/// `length` from `at`; a time that cannot be told is a year.
pub(super) fn until(at: Instant, length: Duration) -> Instant {
    at.checked_add(length).unwrap_or(at + Duration::from_secs(365 * 24 * 60 * 60))
}
