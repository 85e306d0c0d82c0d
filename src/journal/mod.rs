//! The journal: one JSON record for each visit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::screen::{Action, Score, Test};
use crate::time::Timestamp;

/// Names a visit: in the journal, in every refusal, and to `explain`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VisitId(pub u64);

/// How gatepost knew the client when it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recognition {
    /// On the access list: allowed.
    Allowed,
    /// On the access list: denied.
    Denied,
    /// Every test still counts as passed.
    Remembered,
    /// None of the above: tested.
    Stranger,
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
