//! Those who were turned away before they were let in, and have still to read why.
//!
//! All that is of interest of them is that they close, and that need not be known at once: they are looked at twice, and the
//! poll never hears of them. So a bot that has its answer costs no wake-up any more.

use std::collections::VecDeque;
use std::time::Duration;

use mio::net::TcpStream;
use tokio::time::Instant;

use super::{AT_ONCE, Drained, LINGER, drain};

/// When they are looked at first: by then most have read what they were told, and have closed.
const FIRST_LOOK: Duration = Duration::from_millis(250);

/// Sockets that are still open for the sake of those at their other ends.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// In the order of their time, as all wait for the same span.
    soon: VecDeque<Leaver>,
    late: VecDeque<Leaver>,
}

#[derive(Debug)]
struct Leaver {
    socket: TcpStream,
    due: Instant,
    said: usize,
}

impl Leaving {
    pub(super) fn is_empty(&self) -> bool {
        self.soon.is_empty() && self.late.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.soon.len() + self.late.len()
    }

    /// Keeps a socket on which everything has been said.
    pub(super) fn add(&mut self, socket: TcpStream, now: Instant) {
        self.soon.push_back(Leaver { socket, due: now + FIRST_LOOK, said: 0 });
    }

    /// Closes the one that has been kept for longest. False if there is none.
    pub(super) fn close_oldest(&mut self) -> bool {
        self.late.pop_front().or_else(|| self.soon.pop_front()).is_some()
    }

    /// When [`Self::expire`] is to be called next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.soon.front(), self.late.front()].into_iter().flatten().map(|leaver| leaver.due).min()
    }

    /// Closes whoever has closed, or had its time: a few of both, and true if there may be more.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let is_due = |leaver: &mut Leaver| leaver.due <= now;
        for _ in 0..AT_ONCE {
            if let Some(mut leaver) = self.soon.pop_front_if(is_due) {
                if drain(&mut leaver.socket, &mut leaver.said) == Drained::Waiting {
                    leaver.due = now + LINGER.saturating_sub(FIRST_LOOK);
                    self.late.push_back(leaver);
                }
            } else if let Some(mut leaver) = self.late.pop_front_if(is_due) {
                // What it has said since would have the reply reset, if it were not read.
                let _ = drain(&mut leaver.socket, &mut leaver.said);
            } else {
                self.give_back();
                return false;
            }
        }
        true
    }

    /// Gives memory back: after a flood, and not after each handful.
    fn give_back(&mut self) {
        for queue in [&mut self.soon, &mut self.late] {
            if queue.is_empty() && queue.capacity() > 1024 {
                queue.shrink_to(64);
            }
        }
    }
}
