//! What is counted of each gate.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::register;
use crate::journal::{Outcome, Recognition, Visit, action_name};
use crate::screen::{Action, Early, Test};
use crate::tls::HandshakeFailure;

/// Where a session is, as far as it costs something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Waits for its greeting.
    Parked,
    /// Speaks with gatepost.
    Dialogue,
    /// Speaks with the backend.
    Relay,
}

/// Why a backend could not be had, or was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendFailure {
    /// Its name could not be looked up.
    Resolve,
    /// No connection came about.
    Connect,
    /// It did not answer in time.
    Timeout,
    /// It turned the connection, or the EHLO, away.
    Refused,
    /// It said something that is not SMTP, or not what the dialogue so far had promised.
    Protocol,
    /// It closed or reset the connection.
    Closed,
    /// TLS with it did not come about.
    Tls,
}

/// Why a connection could not be accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcceptError {
    /// The client was gone already.
    Connection,
    /// No descriptors or memory.
    Resources,
    /// The listening socket itself failed.
    Listener,
}

/// What came of a connection to a gate behind a load balancer, as far as its PROXY header goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// It announced a client.
    Client,
    /// It announced nobody: the load balancer speaks for itself.
    Itself,
    /// The connection came from a network that is not trusted to announce anybody.
    Untrusted,
    /// None came: other bytes, or none at all in time.
    Missing,
    /// It was broken.
    Malformed,
    /// It was longer than a header is, or than we read.
    TooLong,
    /// It was not whole in time.
    Late,
    /// The connection was closed before it was whole.
    Closed,
}

/// The limit that a connection was turned away for at the door.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Sessions at once of one client.
    Client,
    /// Sessions at once of one prefix.
    Prefix,
    /// New sessions of one client over time.
    Rate,
    /// Sessions at once in all.
    Total,
    /// Those of them that are kept free for others.
    Reserved,
}

macro_rules! words {
    ($($kind:ident { $($variant:ident => $word:literal),* $(,)? })*) => { $(
        impl $kind {
            const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    )* };
}

words! {
    State { Parked => "parked", Dialogue => "dialogue", Relay => "relay" }
    BackendFailure {
        Resolve => "resolve", Connect => "connect", Timeout => "timeout", Refused => "refused",
        Protocol => "protocol", Closed => "closed", Tls => "tls",
    }
    AcceptError { Connection => "connection", Resources => "resources", Listener => "listener" }
    Header {
        Client => "client", Itself => "itself", Untrusted => "untrusted", Missing => "missing",
        Malformed => "malformed", TooLong => "too-long", Late => "late", Closed => "closed",
    }
    Limit {
        Client => "client", Prefix => "prefix", Rate => "rate", Total => "total", Reserved => "reserved",
    }
}

/// The actions that a finding can have led to.
const ACTIONS: [Action; 3] = [Action::Observe, Action::Enforce, Action::Drop];

/// The metrics that have a series for each gate.
pub(super) struct Families {
    visits: IntCounterVec,
    outcomes: IntCounterVec,
    findings: IntCounterVec,
    pregreet: IntCounterVec,
    connections: IntCounterVec,
    saved: IntCounterVec,
    failures: IntCounterVec,
    sessions: IntGaugeVec,
    parked: HistogramVec,
    handoff: HistogramVec,
    accepted: IntCounterVec,
    auth: IntCounterVec,
    bytes: IntCounterVec,
    accept_errors: IntCounterVec,
    handshakes: IntCounterVec,
    headers: IntCounterVec,
    limited: IntCounterVec,
}

/// The counters of one gate. Each verb is an atomic addition.
#[derive(Debug)]
pub struct Gate {
    visits: Each<Recognition, IntCounter, { Recognition::ALL.len() }>,
    outcomes: Each<Outcome, IntCounter, { Outcome::ALL.len() }>,
    findings: Each<Test, Each<Action, IntCounter, 3>, { Test::COUNT }>,
    pregreet: Each<Early, IntCounter, { Early::ALL.len() }>,
    connections: IntCounter,
    saved: IntCounter,
    failures: Each<BackendFailure, IntCounter, 7>,
    sessions: Each<State, IntGauge, 3>,
    parked: Histogram,
    handoff: Histogram,
    accepted: IntCounter,
    auth_ok: IntCounter,
    auth_failed: IntCounter,
    bytes_in: IntCounter,
    bytes_out: IntCounter,
    accept_errors: Each<AcceptError, IntCounter, 3>,
    handshakes: IntCounter,
    handshakes_failed: Each<HandshakeFailure, IntCounter, { HandshakeFailure::ALL.len() }>,
    headers: Each<Header, IntCounter, { Header::ALL.len() }>,
    limited: Each<Limit, IntCounter, { Limit::ALL.len() }>,
}

/// One metric for each word of a closed enum. A handful, looked at one after the other.
#[derive(Debug)]
struct Each<K, M, const N: usize>([(K, M); N]);

impl<K: Copy + PartialEq, M, const N: usize> Each<K, M, N> {
    fn new(words: [K; N], metric: impl Fn(K) -> M) -> Self {
        Self(words.map(|word| (word, metric(word))))
    }

    fn of(&self, word: K) -> Option<&M> {
        self.0.iter().find(|(other, _)| *other == word).map(|(_, metric)| metric)
    }
}

impl<K: Copy + PartialEq, const N: usize> Each<K, IntCounter, N> {
    fn count(&self, word: K) {
        if let Some(counter) = self.of(word) {
            counter.inc();
        }
    }
}

impl Gate {
    /// Counts all that the end of a visit has to tell.
    pub(super) fn departed(&self, visit: &Visit) {
        self.visits.count(visit.recognition);
        self.outcomes.count(visit.outcome);
        for finding in &visit.findings {
            if let Some(actions) = self.findings.of(finding.test) {
                actions.count(finding.action);
            }
        }
        self.connections.inc_by(u64::from(visit.backend));
        self.saved.inc_by(u64::from(visit.spared_the_backend()));
        self.accepted.inc_by(u64::from(visit.accepted));
        let ((auth_ok, auth_failed), (bytes_in, bytes_out)) = (visit.auth, visit.bytes);
        self.auth_ok.inc_by(u64::from(auth_ok));
        self.auth_failed.inc_by(u64::from(auth_failed));
        self.bytes_in.inc_by(bytes_in);
        self.bytes_out.inc_by(bytes_out);
    }

    /// A session is there, in `state`, until what is returned is dropped.
    pub fn present(self: &Arc<Self>, state: State) -> Presence {
        self.add(state, 1);
        Presence { gate: Arc::clone(self), state }
    }

    /// How many sessions are there in `state`.
    pub fn sessions(&self, state: State) -> u64 {
        self.sessions.of(state).map_or(0, |gauge| u64::try_from(gauge.get()).unwrap_or(0))
    }

    /// A client spoke before its greeting.
    pub fn spoke_early(&self, early: Early) {
        self.pregreet.count(early);
    }

    /// A stranger was made to wait for so long, until it was greeted, sent away, or gone.
    pub fn parked(&self, wait: Duration) {
        self.parked.observe(wait.as_secs_f64());
    }

    /// A handoff took so long, from the decision to the reply that the client gets.
    pub fn handed_off(&self, latency: Duration) {
        self.handoff.observe(latency.as_secs_f64());
    }

    /// The backend could not be had, or was lost.
    pub fn backend_failed(&self, failure: BackendFailure) {
        self.failures.count(failure);
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self, error: AcceptError) {
        self.accept_errors.count(error);
    }

    /// A TLS handshake with a client is over; why it failed, if it did.
    pub fn tls_handshake(&self, failure: Option<HandshakeFailure>) {
        match failure {
            None => self.handshakes.inc(),
            Some(failure) => self.handshakes_failed.count(failure),
        }
    }

    /// A PROXY header that had to come came, or did not.
    pub fn proxy_header(&self, header: Header) {
        self.headers.count(header);
    }

    /// A connection was turned away at the door for a limit.
    pub fn limited(&self, limit: Limit) {
        self.limited.count(limit);
    }

    fn add(&self, state: State, n: i64) {
        if let Some(gauge) = self.sessions.of(state) {
            gauge.add(n);
        }
    }
}

/// A session that is counted where it is; nowhere when dropped.
#[derive(Debug)]
#[must_use = "a session is not counted any more when this is dropped"]
pub struct Presence {
    gate: Arc<Gate>,
    state: State,
}

impl Presence {
    /// The session is in `state` now.
    pub fn moves_to(&mut self, state: State) {
        self.gate.add(self.state, -1);
        self.state = state;
        self.gate.add(state, 1);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.gate.add(self.state, -1);
    }
}

/// Waits for a greeting: six seconds is what strangers are made to wait, and lists may take longer.
const PARKED: &[f64] = &[0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 30.0];

/// From a backend on the same machine to one that asks DNS before it greets.
const HANDOFF: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[allow(clippy::expect_used, reason = "names and labels are constants; a test makes them all")]
impl Families {
    pub(super) fn register(registry: &Registry) -> Self {
        let counter = |name, help, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid counter");
            register(registry, family.clone());
            family
        };
        let histogram = |name, help, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let family = HistogramVec::new(opts, &["gate"]).expect("a valid histogram");
            register(registry, family.clone());
            family
        };
        let sessions = Opts::new("sessions", "Sessions that are open, by where they are.");
        let sessions = IntGaugeVec::new(sessions, &["gate", "state"]).expect("a valid gauge");
        register(registry, sessions.clone());
        Self {
            visits: counter(
                "visits_total",
                "Visits that have ended, by how the client was known when it came.",
                &["gate", "recognition"],
            ),
            outcomes: counter("outcomes_total", "Visits that have ended, by how.", &["gate", "outcome"]),
            findings: counter(
                "findings_total",
                "Failed tests of visits that have ended, by what they led to.",
                &["gate", "test", "action"],
            ),
            pregreet: counter(
                "pregreet_total",
                "Clients that spoke before their greeting, by what they spoke.",
                &["gate", "class"],
            ),
            connections: counter(
                "backend_connections_total",
                "Visits that have ended for which the backend was connected to.",
                &["gate"],
            ),
            saved: counter(
                "backend_connections_saved_total",
                "Visits that have ended and never touched the backend, because of a verdict.",
                &["gate"],
            ),
            failures: counter("backend_failures_total", "Backend connections that failed, by how.", &["gate", "kind"]),
            sessions,
            parked: histogram("parked_duration_seconds", "How long strangers were made to wait.", PARKED),
            handoff: histogram("handoff_duration_seconds", "How long handoffs to the backend took.", HANDOFF),
            accepted: counter("messages_accepted_total", "Messages that the backend accepted.", &["gate"]),
            auth: counter("auth_total", "AUTH exchanges that the backend answered.", &["gate", "result"]),
            bytes: counter(
                "bytes_total",
                "Bytes relayed: in from clients to the backend, out from the backend to clients.",
                &["gate", "direction"],
            ),
            accept_errors: counter(
                "accept_errors_total",
                "Connections that could not be accepted, by whose fault.",
                &["gate", "kind"],
            ),
            handshakes: counter(
                "tls_handshakes_total",
                "TLS handshakes with clients, by what came of them.",
                &["gate", "result"],
            ),
            headers: counter(
                "proxy_headers_total",
                "Connections to gates behind a load balancer, by what came of their PROXY headers.",
                &["gate", "result"],
            ),
            limited: counter(
                "limit_refusals_total",
                "Connections that were turned away at the door, by the limit that they were over.",
                &["gate", "limit"],
            ),
        }
    }

    /// The counters of the gate `name`: all series are there from now on.
    pub(super) fn gate(&self, name: &str) -> Gate {
        let of = |family: &IntCounterVec| family.with_label_values(&[name]);
        let with = |family: &IntCounterVec, word: &str| family.with_label_values(&[name, word]);
        Gate {
            visits: Each::new(Recognition::ALL, |known| with(&self.visits, known.name())),
            outcomes: Each::new(Outcome::ALL, |outcome| with(&self.outcomes, outcome.name())),
            findings: Each::new(Test::ALL, |test| {
                Each::new(ACTIONS, |action| self.findings.with_label_values(&[name, test.name(), action_name(action)]))
            }),
            pregreet: Each::new(Early::ALL, |early| with(&self.pregreet, Early::name(early))),
            connections: of(&self.connections),
            saved: of(&self.saved),
            failures: Each::new(BackendFailure::ALL, |kind| with(&self.failures, kind.name())),
            sessions: Each::new(State::ALL, |state| self.sessions.with_label_values(&[name, state.name()])),
            parked: self.parked.with_label_values(&[name]),
            handoff: self.handoff.with_label_values(&[name]),
            accepted: of(&self.accepted),
            auth_ok: with(&self.auth, "ok"),
            auth_failed: with(&self.auth, "failed"),
            bytes_in: with(&self.bytes, "in"),
            bytes_out: with(&self.bytes, "out"),
            accept_errors: Each::new(AcceptError::ALL, |kind| with(&self.accept_errors, kind.name())),
            handshakes: with(&self.handshakes, "ok"),
            handshakes_failed: Each::new(HandshakeFailure::ALL, |kind| with(&self.handshakes, kind.name())),
            headers: Each::new(Header::ALL, |header| with(&self.headers, header.name())),
            limited: Each::new(Limit::ALL, |limit| with(&self.limited, limit.name())),
        }
    }
}
