//! What is counted of bans.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::register;
use crate::policy::ban::Reason;

/// What is counted of bans, over all gates.
#[derive(Clone, Debug)]
pub struct Bans {
    banned: IntCounterVec,
    turned_away: IntCounter,
}

#[allow(clippy::expect_used, reason = "names and labels are constants; a test makes them all")]
impl Bans {
    pub(super) fn new(registry: &Registry) -> Self {
        let banned = Opts::new("bans_total", "Bans that came into force, by reason.");
        let turned_away =
            Opts::new("banned_connections_total", "Connections of banned clients, turned away at the door.");
        let bans = Self {
            banned: IntCounterVec::new(banned, &["reason"]).expect("a valid counter"),
            turned_away: IntCounter::with_opts(turned_away).expect("a valid counter"),
        };
        for reason in Reason::ALL {
            bans.banned.with_label_values(&[reason.name()]);
        }
        register(registry, bans.banned.clone());
        register(registry, bans.turned_away.clone());
        bans
    }
}

impl Bans {
    /// A ban came into force.
    pub fn banned(&self, reason: Reason) {
        self.banned.with_label_values(&[reason.name()]).inc();
    }

    /// A banned client was turned away.
    pub fn turn_away(&self) {
        self.turned_away.inc();
    }

    /// How many were.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.get()
    }
}
