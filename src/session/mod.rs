//! The way of a connection, one file a stage.
//!
//! arrival → recall → pregreet → dialogue → (verdict) → handoff → relay → departure
//!
//! ```text
//!  lane (one a core): accepts, and holds every stranger in the lot          a task of its own for each of the rest
//! ┌──────────────────────────────────────────────────────────────┐      ┌────────────────────────────────────────────┐
//! │ arrival ─► recall ─┬─ known ────────────────────────────────────────►  handoff ─► relay ─► departure              │
//! │                    ├─ stranger ─► pregreet ─┬─ early tests only ────►     ▲                                       │
//! │                    │                        └─ deep tests due ──────►  dialogue ─► (verdict)                      │
//! │                    └─ denied, full ─┐       └─ drop, hang-up ─┐ │      └────────────────────────────────────────────┘
//! │                                     └──► departure ◄──────────┘ │
//! └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Behind a load balancer there is a stage between arrival and recall, the introduction: its PROXY header says who the client
//! is. Where it says nobody, the load balancer speaks for itself, and gets a dialogue that leads nowhere.
//!
//! A parked stranger is a socket, a [`Guest`] and a [`screen::Screen`] in the lot: no task, no timer, no buffer of its
//! own. It becomes a task when there is something to say to it.

mod afar;
pub mod arrival;
mod attempts;
mod attend;
mod bell;
mod client;
mod connection;
mod deadlines;
mod departure;
mod dialogue;
mod greeting;
mod guard;
mod handoff;
mod inside;
mod introduction;
mod lane;
mod limits;
mod outside;
mod pregreet;
mod recall;
mod refusal;
mod renewal;
pub mod rulings;
mod seldom;
mod stranger;
mod stress;
#[cfg(test)]
mod tests;
mod trial;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Announce, Backend, Visitor};
use crate::clock::Clock;
use crate::dns::Names;
use crate::dnsbl::Dnsbl;
use crate::journal::{Journal, Recognition, VisitId, VisitIds};
use crate::ledger::Ledger;
use crate::ledger::shared::Shared;
use crate::metrics::{self, Metrics, Presence};
use crate::policy::access::{Access, AccessList};
use crate::policy::quota::{self, Place, Sessions};
use crate::relay::Trace;
use crate::smtp::xclient::HostName;
use crate::time::Timestamp;
use crate::tls::Facts;
use crate::{backend, proxy_header, relay, screen};

use rulings::Rulings;

pub use afar::Afar;
pub use arrival::Door;
pub use connection::{Here, Tls};
pub use introduction::Proxies;
pub use lane::{Lane, Order};
pub use stress::Stress;

/// What a gate is for; decides defaults only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    /// Port 25: strangers from everywhere.
    Mx,
    /// Port 587: people's programs, STARTTLS.
    Submission,
    /// Port 465: people's programs, TLS first.
    Submissions,
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
    /// The load balancers in front of it, which announce each client. If there are any, nobody else can connect.
    pub proxies: Option<Arc<Proxies>>,
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
    /// Where TLS with clients ends.
    pub tls: Tls,
    /// From which networks AUTH is open, if not from all.
    pub auth_from: Option<Arc<AccessList>>,
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
    /// The most of that for a command line that is awaited from now on, while the house is under stress.
    pub stress_command_timeout: Duration,
    /// For the dialogue as a whole.
    pub total_timeout: Duration,
}

/// A gate as visits see it: what the file says, and the backend and the lists behind it.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Its name.
    pub name: Arc<str>,
    /// What the file says.
    pub settings: Settings,
    /// The MTA.
    pub backend: Arc<Backend>,
    /// The lists, if any are asked.
    pub dnsbl: Option<Dnsbl>,
    /// Who knows the host names of clients, if the MTA is told of them.
    pub names: Option<Names>,
    /// What is counted of it.
    pub metrics: Arc<metrics::Gate>,
}

/// What all visits share.
#[derive(Debug)]
pub struct House {
    /// The wall time.
    pub clock: Clock,
    /// What is remembered of clients.
    pub ledger: Arc<Ledger>,
    /// What is decided of clients at run time.
    pub rulings: Rulings,
    /// What is shared with other hosts, if anything is.
    pub shared: Option<Shared>,
    /// The sessions that are open.
    pub sessions: Arc<Sessions>,
    /// Whether there are so many of them that strangers are hurried.
    pub stress: Stress,
    /// Where visits are written down.
    pub journal: Journal,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where visits get their ids from.
    pub ids: VisitIds,
    /// Cancelled when gatepost is to stop: nobody new is let in, and those inside are told.
    pub draining: CancellationToken,
    /// Cancelled when those who are still inside are to be cut off.
    pub cut: CancellationToken,
    /// The visits that have a task of their own, and the lanes.
    pub tasks: TaskTracker,
}

/// One client inside, from accept to departure.
#[derive(Debug)]
pub struct Guest {
    /// The visit's id.
    pub id: VisitId,
    /// The gate it came through, as it was then: a visit ends under the settings it began with.
    pub gate: Arc<Gate>,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port that it connected to.
    pub local: SocketAddr,
    /// The load balancer that announced it, if one did. Boxed: most gates have none, and every stranger waits with one of
    /// these.
    pub proxy: Option<Box<SocketAddr>>,
    /// When it came, on the runtime's clock.
    pub arrived: Instant,
    /// When it came, on the wall.
    pub begin: Timestamp,
    /// How gatepost knew it.
    pub recognition: Recognition,
    /// Its place among the sessions at once; none for those that were turned away at the door.
    pub place: Option<Place>,
    /// Counts it where it is.
    pub presence: Option<Presence>,
}

impl Guest {
    /// Whether AUTH is offered to the client at all, where it is to be had.
    pub(crate) fn may_auth(&self) -> bool {
        let gate = &self.gate.settings;
        let from_there = |networks: &Arc<AccessList>| networks.look_up(self.client.ip()) == Access::Allow;
        gate.relay.auth && gate.auth_from.as_ref().is_none_or(from_there)
    }

    /// The client as the backend is to hear of it; `tls` is what was agreed on with it by now, `score` what the lists made
    /// of it, if they said something.
    fn visitor(&self, tls: Option<&Facts>, score: Option<i32>) -> Visitor<'static> {
        let tls = tls.map(|facts| proxy_header::Tls {
            version: facts.version,
            cipher: facts.cipher,
            certificate: facts.certificate,
        });
        let visit = Some(proxy_header::Visit { id: self.id.symbols(), score });
        Visitor { client: self.client, local: self.local, tls, visit, hello: None }
    }

    /// What is told on top of each message, where that is how the backend hears of the client; `hello` is what it has said.
    fn trace(&self, clock: &Clock, hello: Option<(bool, Box<[u8]>)>) -> Option<Trace> {
        let gate = &self.gate.settings;
        if gate.backend.announce != Announce::Header {
            return None;
        }
        let clock = clock.clone();
        let trace = Trace::new(self.client.ip(), &gate.hostname, &self.id.to_string(), move || clock.now());
        Some(match hello {
            Some((extended, name)) => trace.greeted(extended, &name),
            None => trace,
        })
    }

    /// The client's host name, for a backend that is to hear of it.
    async fn host_name(&self) -> HostName {
        match &self.gate.names {
            Some(names) => names.of(self.client.ip()).await,
            None => HostName::Unavailable,
        }
    }
}
