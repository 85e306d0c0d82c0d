//! The way of a connection, one file a stage.
//!
//! arrival → recall → pregreet → dialogue → (verdict) → handoff → relay → departure

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::policy::access::AccessList;
use crate::policy::quota;
use crate::{backend, relay, screen};

/// What a gate is for; decides defaults only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    /// Port 25: strangers from everywhere.
    Mx,
    /// Port 587: people's programs, STARTTLS.
    Submission,
}

/// One gate: everything that a visit needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name in the journal and the metrics.
    pub name: String,
    /// What it is for.
    pub scene: Scene,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// The name that gatepost gives itself in greetings and replies.
    pub hostname: String,
    /// What refusals ask people to do, such as `see https://example.org/blocked`; appended to each.
    pub contact: Option<String>,
    /// The tests.
    pub screen: Arc<screen::Settings>,
    /// Who is let in, and out, before any test.
    pub access: Arc<AccessList>,
    /// How many at once.
    pub limits: quota::Settings,
    /// The MTA.
    pub backend: Arc<backend::Settings>,
    /// How the dialogue is followed.
    pub relay: Arc<relay::Settings>,
    /// What gatepost's own dialogue with strangers allows.
    pub dialogue: DialogueLimits,
}

/// What gatepost's own dialogue with strangers allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DialogueLimits {
    /// Commands before 421.
    pub commands: u32,
    /// Refused or malformed commands before 421.
    pub errors: u32,
    /// The longest command line, CRLF included.
    pub line: usize,
    /// For one whole command line.
    pub command_timeout: Duration,
    /// For the dialogue as a whole.
    pub total_timeout: Duration,
}
