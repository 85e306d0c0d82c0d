//! nginx' mail proxy, two workers: one server that delays its greeting and refuses those who speak before it, and one that
//! does not. It answers EHLO itself, and connects on at RCPT.

use std::net::SocketAddr;

use super::super::load::Report;
use super::{CONNECTIONS, Contender, Counts, Setting, WAIT};
use crate::host::nginx::{Nginx, Workers};

pub(super) struct Proxy(Nginx);

impl Proxy {
    pub(super) fn start(setting: &Setting) -> Self {
        let workers = Workers { count: 2, connections: CONNECTIONS };
        let keywords = "smtp_auth none; xclient off; smtp_capabilities PIPELINING \"SIZE 100000000\" 8BITMIME";
        Self(Nginx::mail_servers(workers, setting.sink.guide, |strangers, known| {
            format!(
                "timeout {WAIT}s; {keywords};\n\
                 server {{ listen {strangers} backlog=4096; protocol smtp; smtp_greeting_delay {WAIT}s; }}\n\
                 server {{ listen {known} backlog=4096; protocol smtp; }}"
            )
        }))
    }
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

    fn judge_bots(&self, _: &Counts, bots: u32, report: &Report) -> Result<(), String> {
        let refused: u64 = report.endings.iter().filter(|(how, _)| how.starts_with('5')).map(|(_, count)| count).sum();
        (refused == u64::from(bots)).then_some(()).ok_or_else(|| format!("bots met {:?}", report.endings))
    }
}
