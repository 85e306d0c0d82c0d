//! nginx' mail proxy, two workers: one server that delays its greeting and refuses those who speak before it, and one that
//! does not. It answers EHLO itself, and connects on at RCPT.

use std::net::SocketAddr;

use super::{CONNECTIONS, Contender, NAME, Setting, WAIT};
use crate::host::nginx::{Nginx, Workers};

pub(super) struct Proxy(Nginx);

impl Proxy {
    pub(super) fn start(setting: &Setting<'_>) -> Self {
        let workers = Workers { count: 2, connections: CONNECTIONS };
        let keywords = "smtp_auth none; xclient off; smtp_capabilities PIPELINING \"SIZE 100000000\" 8BITMIME";
        let (ssl, files) = setting.tls.map_or_else(Default::default, |certificates| {
            let (chain, key) = (certificates.chain(NAME), certificates.key(NAME));
            let (chain, key) = (chain.display(), key.display());
            (" ssl", format!("ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;"))
        });
        Self(Nginx::mail_servers(workers, setting.sink.guide, |strangers, known| {
            format!(
                "timeout {WAIT}s; {keywords};\n\
                 server {{ listen {strangers} backlog=4096; protocol smtp; smtp_greeting_delay {WAIT}s; }}\n\
                 server {{ listen {known}{ssl} backlog=4096; protocol smtp; {files} }}"
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

    fn farewells(&self) -> &'static [&'static str] {
        &["5"]
    }
}
