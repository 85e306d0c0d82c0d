//! The journal: one JSON record for each visit.
//!
//! A [`Visit`] is what there is to tell. It is written as one line of JSON, in the schema of `docs/journal.md`; a
//! [`Journal`] takes the lines to where they belong, without ever making a visit wait. [`id`] names visits; [`text`] makes
//! what peers sent safe to show. Who is told of a visit while it lasts is not the journal's business.

pub mod id;
pub mod recent;
mod record;
pub mod text;
mod writer;

pub use id::{NotAVisitId, VisitId, VisitIds};
pub use writer::{Journal, Target};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::screen::{Action, Score, Test};
use crate::time::Timestamp;
use crate::tls::Facts;

/// How gatepost knew the client when it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recognition {
    /// On the access list: allowed.
    Allowed,
    /// On the access list: denied; or from nowhere that a gate behind a load balancer takes connections from.
    Denied,
    /// Every test still counts as passed.
    Remembered,
    /// None of the above: tested.
    Stranger,
    /// The load balancer in front: it spoke for itself, or did not say who the client is.
    Proxy,
}

impl Recognition {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Allowed, Self::Denied, Self::Remembered, Self::Stranger, Self::Proxy];

    /// The name in the journal and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Remembered => "remembered",
            Self::Stranger => "stranger",
            Self::Proxy => "proxy",
        }
    }
}

/// The last stage that a visit reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Stage {
    Arrival,
    Recall,
    Pregreet,
    Dialogue,
    Handoff,
    Relay,
}

impl Stage {
    /// The name in the journal.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::Recall => "recall",
            Self::Pregreet => "pregreet",
            Self::Dialogue => "dialogue",
            Self::Handoff => "handoff",
            Self::Relay => "relay",
        }
    }
}

/// How a visit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The client spoke with the backend, and either of them ended it.
    Relayed,
    /// A failed test was enforced: every recipient was refused.
    Refused,
    /// A failed test (or the access list) ended it with one reply.
    Dropped,
    /// The client left before it was decided.
    HungUp,
    /// The client was too slow.
    TimedOut,
    /// Over one of the limits.
    Limited,
    /// The backend could not be reached, or broke off.
    BackendFailed,
    /// The position of the two sides in the dialogue could have differed, or a peer broke the protocol.
    ProtocolFault,
    /// gatepost is stopping.
    Shutdown,
    /// A load balancer has seen for itself how gatepost is, and left.
    Checked,
    /// The client was banned while it was inside.
    Banned,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Relayed,
        Self::Refused,
        Self::Dropped,
        Self::HungUp,
        Self::TimedOut,
        Self::Limited,
        Self::BackendFailed,
        Self::ProtocolFault,
        Self::Shutdown,
        Self::Checked,
        Self::Banned,
    ];

    /// The name in the journal and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::HungUp => "hung-up",
            Self::TimedOut => "timed-out",
            Self::Limited => "limited",
            Self::BackendFailed => "backend-failed",
            Self::ProtocolFault => "protocol-fault",
            Self::Shutdown => "shutdown",
            Self::Checked => "checked",
            Self::Banned => "banned",
        }
    }
}

/// A test that was failed, and what that led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The test.
    pub test: Test,
    /// What was done.
    pub action: Action,
    /// What was seen: closed words and escaped, capped text from the wire.
    pub detail: String,
}

/// What there is to tell of one connection. Text from the wire is raw here; the journal escapes and caps it.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Its id.
    pub id: VisitId,
    /// The gate's name.
    pub gate: Arc<str>,
    /// The client.
    pub client: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// The load balancer that announced it, if one did.
    pub proxy: Option<SocketAddr>,
    /// When it came.
    pub begin: Timestamp,
    /// How long it stayed.
    pub duration: Duration,
    /// How gatepost knew it.
    pub recognition: Recognition,
    /// The last stage.
    pub stage: Stage,
    /// How it ended.
    pub outcome: Outcome,
    /// The failed tests.
    pub findings: Vec<Finding>,
    /// What the lists said.
    pub score: Option<Score>,
    /// Display names of the lists with a hit.
    pub lists: Vec<Arc<str>>,
    /// The name in the last HELO or EHLO.
    pub helo: Option<Box<[u8]>>,
    /// The first reverse-path.
    pub from: Option<Box<[u8]>>,
    /// The first forward-paths.
    pub to: Vec<Box<[u8]>>,
    /// What was agreed on with it, where TLS ended here.
    pub tls: Option<Facts>,
    /// Whether the backend was connected to.
    pub backend: bool,
    /// Messages that the backend accepted.
    pub accepted: u32,
    /// AUTH exchanges that the backend accepted, and refused.
    pub auth: (u32, u32),
    /// Bytes from the client to the backend, and from the backend to the client.
    pub bytes: (u64, u64),
    /// What went wrong, in words, if something did.
    pub note: Option<String>,
}

impl Visit {
    /// The strongest action that took effect: that of a failed test, or the drop of a client on the deny list. None if
    /// there was nothing to act on.
    pub fn action(&self) -> Option<Action> {
        let is_denied = self.recognition == Recognition::Denied && self.outcome == Outcome::Dropped;
        let denied = is_denied.then_some(Action::Drop);
        self.findings.iter().map(|finding| finding.action).chain(denied).max()
    }

    /// Whether a verdict kept this client from the backend: it failed a test that is enforced, or is on the deny list.
    pub fn spared_the_backend(&self) -> bool {
        !self.backend && self.action() >= Some(Action::Enforce)
    }
}

/// The name of an action in the journal and the metrics.
pub const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Off => "off",
        Action::Observe => "observe",
        Action::Enforce => "enforce",
        Action::Drop => "drop",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A visit of a bot that spoke early and was sent away.
    pub(crate) fn dropped() -> Visit {
        Visit {
            id: VisitId(0x2_3456_789a_bcde),
            gate: Arc::from("mx"),
            client: "192.0.2.7:51234".parse().unwrap(),
            local: "198.51.100.25:25".parse().unwrap(),
            proxy: None,
            begin: Timestamp::from_millis(1_700_000_000_123),
            duration: Duration::from_millis(1234),
            recognition: Recognition::Stranger,
            stage: Stage::Pregreet,
            outcome: Outcome::Dropped,
            findings: vec![Finding { test: Test::Pregreet, action: Action::Drop, detail: "smtp".into() }],
            score: None,
            lists: Vec::new(),
            helo: None,
            from: None,
            to: Vec::new(),
            tls: None,
            backend: false,
            accepted: 0,
            auth: (0, 0),
            bytes: (0, 0),
            note: None,
        }
    }

    /// A visit of an honest host that delivered a message.
    pub(crate) fn relayed() -> Visit {
        Visit {
            recognition: Recognition::Remembered,
            stage: Stage::Relay,
            outcome: Outcome::Relayed,
            findings: Vec::new(),
            helo: Some(Box::from(&b"mail.example.org"[..])),
            from: Some(Box::default()),
            to: vec![Box::from(&b"postmaster@example.com"[..])],
            backend: true,
            accepted: 1,
            auth: (1, 2),
            bytes: (5000, 400),
            ..dropped()
        }
    }

    #[test]
    fn the_strongest_action_counts() {
        let finding = |test, action| Finding { test, action, detail: String::new() };
        let mut visit = relayed();
        assert_eq!(visit.action(), None);
        visit.findings.push(finding(Test::Dnsbl, Action::Enforce));
        visit.findings.push(finding(Test::BareNewline, Action::Observe));
        assert_eq!(visit.action(), Some(Action::Enforce));
        assert!(!visit.spared_the_backend(), "it was connected to");
        visit.backend = false;
        assert!(visit.spared_the_backend());
        visit.findings.remove(0);
        assert!(!visit.spared_the_backend(), "nothing was done about it");
        visit.recognition = Recognition::Denied;
        assert_eq!(visit.action(), Some(Action::Observe), "it was let in all the same");
        visit.outcome = Outcome::Dropped;
        assert_eq!(visit.action(), Some(Action::Drop));
        assert!(visit.spared_the_backend());
    }
}
