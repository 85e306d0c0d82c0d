//! HAProxy in TCP mode, two threads: a frontend that makes strangers wait and rejects those who speak, and one that passes on
//! to the sink what comes, with a PROXY header as gatepost sends it.

use std::fs;
use std::net::SocketAddr;

use super::{CONNECTIONS, Contender, NAME, Setting, WAIT};
use crate::host::haproxy::{Haproxy, Place};

pub(super) struct Proxy(Haproxy);

impl Proxy {
    pub(super) fn start(setting: &Setting<'_>) -> Self {
        Self(Haproxy::start(|at| configuration(at, setting)))
    }
}

fn configuration(at: &Place<'_>, setting: &Setting<'_>) -> String {
    let (dir, sink) = (at.dir.display(), setting.sink.proxied);
    let splice = if setting.splice { "option splice-request\n  option splice-response" } else { "" };
    let tls = setting.tls.map_or_else(String::new, |certificates| {
        // It wants both in one file.
        let bundle = at.dir.join("bundle.pem");
        let [chain, key] = [certificates.chain(NAME), certificates.key(NAME)];
        let both = [chain, key].map(|file| fs::read_to_string(file).expect("a certificate or key"));
        fs::write(&bundle, both.concat()).expect("our own directory");
        format!("ssl crt {} ssl-min-ver TLSv1.3", bundle.display())
    });
    // It would ask for two descriptors a connection, which those that wait do not need.
    format!(
        "global
  stats socket {dir}/stats level admin
  nbthread 2
  maxconn {CONNECTIONS}
  no strict-limits
defaults
  mode tcp
  maxconn {CONNECTIONS}
  timeout connect 10s
  timeout client {WAIT}s
  timeout server {WAIT}s
  {splice}
frontend screen
  bind {}
  tcp-request inspect-delay {WAIT}s
  tcp-request content accept if {{ src 127.10.0.0/16 }}
  tcp-request content reject if {{ req.len gt 0 }}
  tcp-request content accept if WAIT_END
  default_backend sink
frontend plain
  bind {} {tls}
  default_backend sink
backend sink
  server one {sink} send-proxy
",
        at.address, at.second
    )
}

impl Contender for Proxy {
    fn strangers(&self) -> SocketAddr {
        self.0.address()
    }

    fn known(&self) -> SocketAddr {
        self.0.second()
    }

    fn pid(&self) -> Option<i32> {
        Some(self.0.pid())
    }

    /// It closes without a word.
    fn farewells(&self) -> &'static [&'static str] {
        &["closed", "reset"]
    }
}
