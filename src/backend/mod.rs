//! The backend: reaching the MTA, telling it who the client is, knowing what it offers.
//!
//! [`Backend`] is one MTA as every visit shares it: how to [`dial`](Backend::dial) it, what it offered last
//! ([`Backend::offer`]), and whether it was there when somebody last tried.

mod connection;
mod dial;
mod introduce;
mod probe;
#[cfg(test)]
mod tests;
mod transparent;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use crate::proxy_header::{self, Version};
use crate::smtp::ehlo::{Keyword, Keywords, Offer};
use crate::smtp::xclient::Hello;
use crate::tls::Connector;

pub use connection::Connection;
pub use dial::{Dialled, Failure};
pub use probe::keep_probing;
pub(crate) use probe::next_reply;
pub use transparent::{Family, NotPermitted, Unshown, permitted};

/// How the backend learns of the client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announce {
    /// By a PROXY header.
    Proxy(Version),
    /// By connecting from the client's own address (`IP_TRANSPARENT`).
    Transparent,
    /// By XCLIENT, which it has to offer to gatepost's address.
    Xclient,
    /// Not by its address, but by a `Received:` field on top of each message. Like `Nothing` in all else.
    Header,
    /// Not at all: to the backend, gatepost is the client. Only where the operator accepts that in the file.
    Nothing,
}

impl Announce {
    /// What of a backend's offer is of use to clients: a chunk is exactly as long as it says, so there is no place for a
    /// header field in messages that come by BDAT.
    pub const fn usable(self) -> Keywords {
        match self {
            Self::Header => Keywords::ALL.without(Keyword::Chunking).without(Keyword::BinaryMime),
            Self::Proxy(_) | Self::Transparent | Self::Xclient | Self::Nothing => Keywords::ALL,
        }
    }
}

/// TLS with the backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// When it begins.
    pub begins: Begins,
    /// What is asked of the backend.
    pub connector: Arc<Connector>,
}

/// When TLS with the backend begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begins {
    /// Before any word of SMTP.
    First,
    /// After STARTTLS, without which the backend will not do.
    StartTls,
    /// After STARTTLS, if that is offered and succeeds; or else not at all. Keeps out those who only listen.
    IfOffered,
}

/// Where the backend is and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `host:port`; a name is looked up anew for each connection.
    pub address: String,
    /// gatepost's own name: what it says in EHLO where it speaks for itself.
    pub hostname: String,
    /// How it learns of the client.
    pub announce: Announce,
    /// TLS with it; none if nothing.
    pub tls: Option<Tls>,
    /// How long connecting may take, name look-up included.
    pub connect_timeout: Duration,
    /// How long the backend may take for its greeting, and for each reply of the replay.
    pub reply_timeout: Duration,
    /// Every how often its EHLO keywords are asked for.
    pub probe_interval: Duration,
}

/// One client's connection, as the backend is to hear of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visitor<'a> {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port that it connected to.
    pub local: SocketAddr,
    /// What was agreed on with it, where TLS had begun before the backend was dialled.
    pub tls: Option<proxy_header::Tls>,
    /// The visit, for the backend's own records.
    pub visit: Option<proxy_header::Visit>,
    /// What it has said, if gatepost has spoken with it.
    pub hello: Option<Hello<'a>>,
}

impl Visitor<'_> {
    /// A client of which nothing is known but the two addresses.
    pub const fn new(client: SocketAddr, local: SocketAddr) -> Self {
        Self { client, local, tls: None, visit: None, hello: None }
    }
}

/// Whether a backend was there when it was last spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Presence {
    /// Nobody has tried yet.
    Unknown,
    /// It answered.
    There,
    /// It could not be reached, or did not greet.
    Away,
}

/// One MTA, shared by all visits. Its offer is learned by probing and from live sessions.
#[derive(Debug)]
pub struct Backend {
    settings: Settings,
    offer: ArcSwapOption<Offer>,
    presence: AtomicU8,
    /// Whether the log has been told that XCLIENT does not work with it, since a probe last went well.
    complained: AtomicBool,
    /// Tells the prober that somebody found the backend away.
    lost: Notify,
    way_back: transparent::WayBack,
}

impl Backend {
    /// A backend that nobody has spoken to yet.
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            offer: ArcSwapOption::empty(),
            presence: AtomicU8::new(Presence::Unknown as u8),
            complained: AtomicBool::new(false),
            lost: Notify::new(),
            way_back: transparent::WayBack::default(),
        })
    }

    /// How it is spoken to.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it offered when it last answered EHLO; nothing if it never has.
    pub fn offer(&self) -> Option<Arc<Offer>> {
        self.offer.load_full()
    }

    /// Keeps what it offers now, as far as clients can make use of it.
    pub fn learn(&self, offer: &Offer) {
        self.set_presence(Presence::There);
        let offer = offer.clone().only(self.settings.announce.usable());
        if self.offer.load().as_deref() != Some(&offer) {
            self.offer.store(Some(Arc::new(offer)));
        }
    }

    /// Whether it was there when it was last spoken to.
    pub fn presence(&self) -> Presence {
        match self.presence.load(Ordering::Relaxed) {
            p if p == Presence::There as u8 => Presence::There,
            p if p == Presence::Away as u8 => Presence::Away,
            _ => Presence::Unknown,
        }
    }

    /// Notes whether it is there; says so in the log when that changes, and has it probed soon if it is lost.
    pub fn set_presence(&self, presence: Presence) {
        self.note(presence, None);
    }

    /// Notes that it is away, and why.
    pub(crate) fn lost_to(&self, failure: &Failure) {
        self.note(Presence::Away, Some(failure));
    }

    fn note(&self, presence: Presence, failure: Option<&Failure>) {
        let before = self.presence.swap(presence as u8, Ordering::Relaxed);
        if before == presence as u8 {
            return;
        }
        if presence == Presence::Away {
            self.lost.notify_one();
        }
        match presence {
            Presence::There => tracing::info!(backend = %self.settings.address, "the backend answers"),
            Presence::Away => {
                tracing::warn!(
                    backend = %self.settings.address,
                    failure = failure.map(tracing::field::display),
                    "the backend does not answer: clients that pass get 421 until it does; is it running, does it \
                     listen at this address, and does it expect the way in which clients are announced?"
                );
            }
            Presence::Unknown => {}
        }
    }
}
