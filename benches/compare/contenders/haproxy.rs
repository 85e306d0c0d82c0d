//! HAProxy in TCP mode, two threads: a frontend that makes strangers wait and rejects those who speak, and one that passes on
//! to the sink what comes, with a PROXY header as gatepost sends it.

use std::net::SocketAddr;

use super::super::load::Report;
use super::{CONNECTIONS, Contender, Counts, Setting, WAIT};
use crate::host::haproxy::{Haproxy, Place};

pub(super) struct Proxy(Haproxy);

impl Proxy {
    pub(super) fn start(setting: &Setting) -> Self {
        Self(Haproxy::start(|at| configuration(at, setting)))
    }
}

fn configuration(at: &Place<'_>, setting: &Setting) -> String {
    let (dir, sink) = (at.dir.display(), setting.sink.proxied);
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
frontend screen
  bind {}
  tcp-request inspect-delay {WAIT}s
  tcp-request content accept if {{ src 127.10.0.0/16 }}
  tcp-request content reject if {{ req.len gt 0 }}
  tcp-request content accept if WAIT_END
  default_backend sink
frontend plain
  bind {}
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
    fn judge_bots(&self, _: &Counts, bots: u32, report: &Report) -> Result<(), String> {
        let closed: u64 = ["closed", "reset"].iter().filter_map(|how| report.endings.get(*how)).sum();
        (closed == u64::from(bots)).then_some(()).ok_or_else(|| format!("bots met {:?}", report.endings))
    }
}
