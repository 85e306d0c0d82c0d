//! Whose turn it is to answer: one entry for each command that has not been answered, oldest first.
//!
//! Replies come in the order of their commands (RFC 2920 §3.2). gatepost's own answer to a command waits here for its
//! turn behind the backend's answers to those before it.

use super::own::Own;

/// How many commands may be unanswered before no more are read.
pub(super) const LIMIT: usize = 128;

/// The answer that a command waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// The backend's greeting, which no command asked for.
    Greeting,
    Helo,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    EndOfData,
    Chunk,
    LastChunk,
    Auth,
    StartTls,
    /// Our own 220 to STARTTLS.
    BeginTls,
    Rset,
    Quit,
    /// A command whose answer changes nothing.
    Other,
    /// gatepost's own answer.
    Own(Own),
}

/// The row of unanswered commands: a ring of fixed size, so that no client can make it grow.
#[derive(Debug)]
pub(super) struct Outstanding {
    ring: [Due; LIMIT],
    first: usize,
    count: usize,
}

impl Outstanding {
    pub(super) const fn new() -> Self {
        Self { ring: [Due::Other; LIMIT], first: 0, count: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == LIMIT
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds the youngest. The caller has seen that there is room; without it, nothing is added.
    pub(super) fn push(&mut self, due: Due) {
        debug_assert!(!self.is_full(), "commands are read only while there is room for their answers");
        if !self.is_full()
            && let Some(slot) = self.ring.get_mut((self.first + self.count) % LIMIT)
        {
            *slot = due;
            self.count += 1;
        }
    }

    pub(super) fn first(&self) -> Option<Due> {
        if self.is_empty() { None } else { self.ring.get(self.first).copied() }
    }

    /// Removes the oldest.
    pub(super) fn pop(&mut self) -> Option<Due> {
        let due = self.first()?;
        self.first = (self.first + 1) % LIMIT;
        self.count -= 1;
        Some(due)
    }

    pub(super) fn contains(&self, due: Due) -> bool {
        (0..self.count).any(|at| self.ring.get((self.first + at) % LIMIT) == Some(&due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_round_and_round() {
        let mut row = Outstanding::new();
        for round in 0..5 {
            assert!(row.is_empty() && row.pop().is_none() && row.first().is_none());
            for n in 0..LIMIT {
                assert!(!row.is_full());
                row.push(if n % 3 == round % 3 { Due::Rcpt } else { Due::Own(Own::UnknownCommand) });
            }
            assert!(row.is_full() && row.contains(Due::Rcpt) && !row.contains(Due::Mail));
            for n in 0..LIMIT - round {
                let due = if n % 3 == round % 3 { Due::Rcpt } else { Due::Own(Own::UnknownCommand) };
                assert_eq!(row.first(), Some(due));
                assert_eq!(row.pop(), Some(due));
            }
            assert_eq!(row.len(), round);
            while row.pop().is_some() {}
        }
    }
}
