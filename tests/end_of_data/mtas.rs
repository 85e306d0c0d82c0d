//! The MTAs of the matrix, each as lenient as it can be set, and what they deliver.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::host::exim::{self, Exim};
use crate::host::opensmtpd::OpenSmtpd;
use crate::host::peers::Peer;
use crate::host::postfix::{self, Postfix};
use crate::host::scripted::Scripted;
use crate::host::sink::{Sink, Transaction};
use crate::host::{aiosmtpd, smtp_server, wait};

use super::sockets;

/// The programs that are needed.
pub const PEERS: [Peer; 5] = [Peer::Postfix, Peer::Exim, Peer::OpenSmtpd, Peer::Aiosmtpd, Peer::SmtpServer];

/// One MTA, and where its mail goes.
pub struct Mta {
    /// Its name, for the table.
    pub name: &'static str,
    /// Whether it offers CHUNKING.
    pub chunking: bool,
    /// How it is told of a gate's clients: a gate's `announce`.
    pub announce: &'static str,
    /// Whether it hangs up on a client that does not wait for its replies. It then has not offered PIPELINING.
    pub wants_patience: bool,
    /// Whether it takes a dot out of a line only where there are two, and loses the CRLF in front of an end of data that
    /// does not come in one piece.
    pub careless: bool,
    host: Host,
}

enum Host {
    Postfix(Postfix, Sink),
    Exim(Exim, Sink),
    OpenSmtpd(OpenSmtpd, Sink),
    Scripted(Scripted),
}

impl Mta {
    /// Starts all of them, in the order of the table.
    pub fn all() -> Vec<Self> {
        let starts: [fn() -> Self; 5] = [Self::postfix, Self::exim, Self::opensmtpd, Self::aiosmtpd, Self::smtp_server];
        std::thread::scope(|scope| {
            let starting: Vec<_> = starts.into_iter().map(|start| scope.spawn(start)).collect();
            starting.into_iter().map(|started| started.join().expect("an MTA that starts")).collect()
        })
    }

    fn postfix() -> Self {
        let sink = Sink::start();
        // As it is by default before 3.9. Long lines stay whole.
        let lenient = ["smtpd_forbid_bare_newline = no", "smtp_line_length_limit = 0"];
        let options =
            postfix::Options { main_cf: &lenient, in_memory: true, ..postfix::Options::delivering_to(sink.address()) };
        Self {
            name: "Postfix",
            chunking: true,
            announce: "proxy-v2",
            wants_patience: false,
            careless: false,
            host: Host::Postfix(Postfix::start(&options), sink),
        }
    }

    fn exim() -> Self {
        let sink = Sink::start();
        // Else it hangs up on who says DATA and goes on.
        let lenient = ["smtp_enforce_sync = false"];
        let options = exim::Options { main: &lenient, in_memory: true, ..exim::Options::delivering_to(sink.address()) };
        Self {
            name: "Exim",
            chunking: true,
            announce: "proxy-v2",
            wants_patience: false,
            careless: false,
            host: Host::Exim(Exim::start(&options), sink),
        }
    }

    fn opensmtpd() -> Self {
        let sink = Sink::start();
        let started = OpenSmtpd::start(sink.address());
        Self {
            name: "OpenSMTPD",
            chunking: false,
            announce: "proxy-v2",
            wants_patience: true,
            careless: false,
            host: Host::OpenSmtpd(started, sink),
        }
    }

    fn aiosmtpd() -> Self {
        Self {
            name: "aiosmtpd",
            chunking: false,
            announce: "proxy-v2",
            wants_patience: false,
            careless: false,
            host: Host::Scripted(aiosmtpd::start()),
        }
    }

    fn smtp_server() -> Self {
        Self {
            name: "smtp-server",
            chunking: false,
            announce: "proxy-v1",
            wants_patience: false,
            careless: true,
            host: Host::Scripted(smtp_server::start()),
        }
    }

    /// The port for anybody.
    pub fn plain(&self) -> SocketAddr {
        match &self.host {
            Host::Postfix(host, _) => host.plain(),
            Host::Exim(host, _) => host.plain(),
            Host::OpenSmtpd(host, _) => host.plain(),
            Host::Scripted(host) => host.plain(),
        }
    }

    /// The port for a gate.
    pub fn proxied(&self) -> SocketAddr {
        match &self.host {
            Host::Postfix(host, _) => host.proxied(),
            Host::Exim(host, _) => host.proxied(),
            Host::OpenSmtpd(host, _) => host.proxied(),
            Host::Scripted(host) => host.proxied(),
        }
    }

    /// Waits until nobody is with it and nothing is in its queue, and returns all that it has delivered.
    #[track_caller]
    pub fn delivered(&self) -> Vec<Transaction> {
        wait::until(&format!("{} to have no more visitors", self.name), || {
            let busy = [self.plain(), self.proxied()].into_iter().any(sockets::has_visitors);
            (!busy).then_some(())
        });
        let (queue, sink) = match &self.host {
            Host::Postfix(host, sink) => (host.queue(), sink),
            Host::Exim(host, sink) => (host.queue(), sink),
            Host::OpenSmtpd(host, sink) => (host.queue(), sink),
            Host::Scripted(host) => return host.kept(),
        };
        // Of Postfix' folders, these are for messages.
        let folders = ["incoming", "active", "deferred", "hold", "corrupt", "queue", ""];
        wait::until(&format!("{} to deliver all it has", self.name), || {
            let folders = folders.iter().filter(|name| !name.is_empty() || matches!(self.host, Host::Exim(..)));
            folders.map(|name| queue.join(name)).all(|folder| !has_files(&folder)).then_some(())
        });
        sink.kept()
    }
}

/// Whether there is a file in `folder` or below, if there is a folder.
fn has_files(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => has_files(&entry.path()),
        // One that has gone in between is none.
        kind => kind.is_ok_and(|kind| kind.is_file()),
    })
}
