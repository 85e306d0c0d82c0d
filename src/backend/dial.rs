//! Connecting to a backend, announcing the client to it as the very first bytes, and TLS with it.
//!
//! ```text
//!  connect ─► PROXY header ─┬─ no TLS ──────────────────────────────────────────────────────► Dialled
//!                           ├─ TLS first ─► handshake ───────────────────────────────────────►
//!                           └─ greeting ─► EHLO ─► STARTTLS ─► 220 ─► handshake ─────────────► (greeting in the inbox)
//!                                           └─ not offered, refused ─► required? Failure : in the clear ►
//! ```
//!
//! What the backend says in the clear behind its 220 to STARTTLS could be taken for what it says under TLS: that is a
//! failure. After TLS has begun it has forgotten our EHLO; whoever uses the connection says its own.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Announce, Backend, Begins, Connection, Presence, Tls, Visitor, next_reply};
use crate::addr;
use crate::proxy_header::{self, Header, Version};
use crate::smtp::ehlo::{Keyword, Offer};
use crate::smtp::reply::{self, Code, Parsed};
use crate::tls::ConnectFailure;

/// Why a backend cannot be spoken to. Always the backend's trouble or ours, never the client's: it gets a 4xx.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No connection in time.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The client could not be announced.
    #[error("cannot announce the client: {0}")]
    Announce(#[source] io::Error),
    /// No reply in time.
    #[error("no reply within {0:?}")]
    ReplyTimeout(Duration),
    /// Connected, and then gone.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// Closed where a reply was due.
    #[error("closed where a reply was due")]
    Closed,
    /// Something that is no SMTP reply.
    #[error("what it says is no SMTP reply")]
    NotSmtp,
    /// TLS is required, and it does not offer it, or refuses to begin.
    #[error("it does not begin TLS, which is required of it")]
    NoTls,
    /// It said more in the clear behind its 220 to STARTTLS.
    #[error("it said more in the clear behind its 220 to STARTTLS")]
    BehindStartTls,
    /// The handshake.
    #[error(transparent)]
    Handshake(#[from] ConnectFailure),
}

/// A connection to a backend that knows who the client is.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub connection: Connection,
    /// What it has said that is still to be made use of: its greeting, where STARTTLS had to be said behind that.
    pub inbox: Vec<u8>,
}

impl Backend {
    /// Connects, announces `visitor` (gatepost itself if there is none: a probe), and begins TLS as the settings say.
    pub async fn dial(&self, visitor: Option<Visitor>) -> Result<Dialled, Failure> {
        let dialled = match (&self.settings.tls, self.connect(visitor).await) {
            (_, Err(failure)) => Err(failure),
            (None, Ok(stream)) => Ok(Dialled { connection: Connection::Plain(stream), inbox: Vec::new() }),
            // Boxed: most backends are on the same machine and have none.
            (Some(tls), Ok(stream)) => match (Box::pin(self.secure(tls, stream)).await, tls.begins) {
                (Err(Failure::Handshake(failure)), Begins::IfOffered) => {
                    tracing::debug!(backend = %self.settings.address, %failure, "no TLS; going on in the clear");
                    let plain = self.connect(visitor).await;
                    plain.map(|stream| Dialled { connection: Connection::Plain(stream), inbox: Vec::new() })
                }
                (secured, _) => secured,
            },
        };
        if dialled.is_err() {
            self.set_presence(Presence::Away);
        }
        dialled
    }

    async fn connect(&self, visitor: Option<Visitor>) -> Result<TcpStream, Failure> {
        let wait = self.settings.connect_timeout;
        match timeout(wait, TcpStream::connect(&self.settings.address)).await {
            Ok(Ok(stream)) => self.announce(stream, visitor).await,
            Ok(Err(error)) => Err(Failure::Connect(error)),
            Err(_) => Err(Failure::ConnectTimeout(wait)),
        }
    }

    async fn secure(&self, tls: &Tls, mut stream: TcpStream) -> Result<Dialled, Failure> {
        let wait = self.settings.reply_timeout;
        let mut inbox = Vec::new();
        if tls.begins != Begins::First {
            let greeting = next_reply(&mut stream, &mut inbox, wait).await?;
            let alone = matches!(reply::parse(&inbox), Parsed::Complete(said) if said.raw.len() == inbox.len());
            if !alone {
                // More behind it answers what nobody asked, and could not be told from what is said under TLS.
                return Err(Failure::NotSmtp);
            }
            if greeting.number() != 220 {
                // It will not be spoken to at all: that is for its own words to tell.
                return Ok(Dialled { connection: Connection::Plain(stream), inbox });
            }
            if !start_tls(tls, &mut stream, wait).await? {
                return match tls.begins {
                    Begins::IfOffered => Ok(Dialled { connection: Connection::Plain(stream), inbox }),
                    Begins::First | Begins::StartTls => Err(Failure::NoTls),
                };
            }
        }
        let secured = tls.connector.connect(stream, wait).await?;
        Ok(Dialled { connection: Connection::Tls(Box::new(secured)), inbox })
    }

    async fn announce(&self, mut stream: TcpStream, visitor: Option<Visitor>) -> Result<TcpStream, Failure> {
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        if let Announce::Proxy(version) = self.settings.announce {
            let mut header = Vec::with_capacity(128);
            write_header(&mut header, version, visitor);
            // A fresh connection takes a hundred bytes at once; a backend that reads nothing at all runs into the
            // deadline of its greeting.
            stream.write_all(&header).await.map_err(Failure::Announce)?;
        }
        Ok(stream)
    }
}

/// Says EHLO and STARTTLS. Whether a handshake is to follow.
async fn start_tls(tls: &Tls, stream: &mut TcpStream, wait: Duration) -> Result<bool, Failure> {
    let mut inbox = Vec::new();
    let hello = format!("EHLO {}\r\n", tls.hostname);
    ask(stream, &mut inbox, hello.as_bytes(), wait).await?;
    let Parsed::Complete(said) = reply::parse(&inbox) else { return Err(Failure::NotSmtp) };
    if said.raw.len() != inbox.len() {
        return Err(Failure::NotSmtp);
    }
    if !said.code.is_positive() || !Offer::read(&said).keywords.has(Keyword::StartTls) {
        return Ok(false);
    }
    inbox.clear();
    let code = ask(stream, &mut inbox, b"STARTTLS\r\n", wait).await?;
    match reply::parse(&inbox) {
        Parsed::Complete(said) if said.raw.len() == inbox.len() => Ok(code.number() == 220),
        _ => Err(Failure::BehindStartTls),
    }
}

async fn ask(stream: &mut TcpStream, inbox: &mut Vec<u8>, line: &[u8], wait: Duration) -> Result<Code, Failure> {
    stream.write_all(line).await.map_err(Failure::Broken)?;
    next_reply(stream, inbox, wait).await
}

fn write_header(out: &mut Vec<u8>, version: Version, visitor: Option<Visitor>) {
    let header = match visitor {
        Some(Visitor { client, local, .. }) => Header::Proxied {
            source: (addr::canonical(client.ip()), client.port()).into(),
            destination: (addr::canonical(local.ip()), local.port()).into(),
        },
        None => Header::Local,
    };
    proxy_header::write_with_tls(out, version, &header, visitor.and_then(|visitor| visitor.tls).as_ref());
}
