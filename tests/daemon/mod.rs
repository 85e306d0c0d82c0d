//! What the tests of the whole daemon have in common: a file for a mail exchanger, and what they read in a record.
//!
//! A test program says `mod host; mod daemon;`.

#![allow(dead_code, unreachable_pub, reason = "each test program takes the part of this module that it needs")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails, loudly and at once")]

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;

use crate::host::backend::{Backend, Manners, Seen};
use crate::host::gate::{Gate, Place};

/// The name that gatepost gives itself.
pub const HOSTNAME: &str = "mx.example.test";

/// The file of a mail exchanger. Nobody is allowed or denied unless the test says so, and strangers wait a short while.
#[derive(Clone, Debug)]
pub struct Mx {
    backend: SocketAddr,
    top: Vec<String>,
    gate: Vec<String>,
    greet: (&'static str, &'static str),
    allow: Vec<&'static str>,
    access: Vec<String>,
    sections: String,
}

impl Mx {
    /// Before `backend`, which has to expect PROXY headers.
    pub fn before(backend: &Backend) -> Self {
        Self {
            backend: backend.address(),
            top: Vec::new(),
            gate: Vec::new(),
            greet: ("300ms", "600ms"),
            allow: Vec::new(),
            access: Vec::new(),
            sections: String::new(),
        }
    }

    /// A line for the top of the file.
    pub fn top(mut self, line: &str) -> Self {
        self.top.push(line.to_owned());
        self
    }

    /// A line for the gate.
    pub fn gate(mut self, line: &str) -> Self {
        self.gate.push(line.to_owned());
        self
    }

    /// How long strangers wait: at least, at most.
    pub fn waiting(mut self, least: &'static str, most: &'static str) -> Self {
        self.greet = (least, most);
        self
    }

    /// A network that is let in untested.
    pub fn allowing(mut self, network: &'static str) -> Self {
        self.allow.push(network);
        self
    }

    /// A further line for the access list.
    pub fn access(mut self, line: &str) -> Self {
        self.access.push(line.to_owned());
        self
    }

    /// Whole sections, at the end.
    pub fn section(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self.sections.push('\n');
        self
    }

    /// The file, for a gate that listens at `listen`.
    pub fn text(&self, listen: &[SocketAddr], admin: SocketAddr) -> String {
        let Self { backend, top, gate, greet: (least, most), allow, access, sections } = self;
        let listen: Vec<String> = listen.iter().map(SocketAddr::to_string).collect();
        format!(
            "hostname = \"{HOSTNAME}\"\nadmin = \"{admin}\"\nlanes = 2\n{}\n[[gate]]\nlisten = {listen:?}\n\
             backend = \"{backend}\"\n{}\n[greet]\nwait_min = \"{least}\"\nwait_max = \"{most}\"\n\
             [access]\nallow = {allow:?}\n{}\n{sections}",
            top.join("\n"),
            gate.join("\n"),
            access.join("\n"),
        )
    }

    /// The file for the place that a gate was given.
    pub fn at(&self, place: &Place<'_>) -> String {
        self.text(&[place.smtp], place.admin)
    }

    /// The file again, for a gate that runs already.
    pub fn again(&self, gate: &Gate) -> String {
        self.text(&[gate.smtp()], gate.admin())
    }

    /// A running gate.
    #[track_caller]
    pub fn start(&self) -> Gate {
        Gate::start(|place| self.at(place))
    }
}

/// A polite MTA that expects PROXY headers.
pub fn backend() -> Backend {
    Manners::default().behind_proxy().start()
}

/// What clients brought to the backend: without the connections that gatepost made for itself.
pub fn visits(backend: &Backend) -> Vec<Seen> {
    let is_visit = |seen: &Seen| seen.proxy.is_some_and(|announced| announced.addresses.is_some());
    backend.seen().into_iter().filter(is_visit).collect()
}

/// The `n`th of many loopback addresses; 127.0.0.1 is not among them.
pub fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + n)
}

/// Whether a record is that of a visit from `client`.
pub fn from(client: Ipv4Addr) -> impl Fn(&Value) -> bool {
    let client = client.to_string();
    move |record| record["client"] == client.as_str()
}

/// The names of the tests that a record says were failed.
pub fn failed(record: &Value) -> Vec<&str> {
    let tests = record["tests"].as_array().map(Vec::as_slice).unwrap_or_default();
    tests.iter().filter_map(|finding| finding["test"].as_str()).collect()
}

/// Panics unless `record` says each of `expected`.
#[track_caller]
pub fn assert_says(record: &Value, expected: &[(&str, Value)]) {
    for (key, value) in expected {
        assert_eq!(&record[*key], value, "`{key}` of {record}");
    }
}
