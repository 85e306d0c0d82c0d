//! DNS lists: which to ask, what their answers are worth, and whether they can be believed.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::screen::{Score, Site};

/// How the lists are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The lists.
    pub sites: Vec<Site>,
    /// Name servers with port; the machine's own (`/etc/resolv.conf`) if empty.
    pub nameservers: Vec<SocketAddr>,
    /// How long one question may take, all retries together.
    pub timeout: Duration,
    /// How many clients' answers are remembered.
    pub cache_entries: usize,
    /// Every how often each list is asked for 127.0.0.2 and 127.0.0.1; never if zero.
    pub self_test: Duration,
    /// After how many failures in a row a list is left alone…
    pub breaker_failures: u32,
    /// …and for how long.
    pub breaker_pause: Duration,
    /// The share of distinct clients, in percent, from which on a list that lists so many is taken out; over at least
    /// [`Settings::alarm_sample`] clients. Lists of negative weight are exempt.
    pub alarm_percent: u8,
    /// How many clients have to be asked about before the alarm can sound.
    pub alarm_sample: u32,
}

/// Who is to be told when more is known.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// Where to.
    pub to: UnboundedSender<Answer>,
    /// Comes back in the answer.
    pub ticket: u64,
}

/// More is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The waiter's.
    pub ticket: u64,
    /// What is known now.
    pub score: Score,
}

/// The lists, asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Dnsbl {
    settings: Arc<Settings>,
}

/// Why the lists cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The resolver could not be set up.
    #[error("cannot set up the DNS resolver: {0}")]
    Resolver(String),
}

impl Dnsbl {
    /// Sets the resolver up; within a tokio runtime. Nothing is asked yet, except by the self-test.
    pub fn open(_settings: Settings) -> Result<Self, Error> {
        todo!()
    }

    /// What the lists say of `client`: what is known at once, and, while anything is outstanding, an [`Answer`] to the
    /// waiter each time more is. Parallel asks about one client share one set of questions.
    pub fn ask(&self, _client: IpAddr, _waiter: Waiter) -> Score {
        todo!()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
