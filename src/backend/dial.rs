//! Connecting to a backend, and announcing the client to it as the very first bytes.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Announce, Backend, Presence, Visitor};
use crate::addr;
use crate::proxy_header::{self, Header, Version};

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
}

impl Backend {
    /// Connects and announces `visitor`; gatepost itself if there is none (a probe). Nothing has been read yet.
    pub async fn dial(&self, visitor: Option<Visitor>) -> Result<TcpStream, Failure> {
        let wait = self.settings.connect_timeout;
        let connected = match timeout(wait, TcpStream::connect(&self.settings.address)).await {
            Ok(Ok(stream)) => self.announce(stream, visitor).await,
            Ok(Err(error)) => Err(Failure::Connect(error)),
            Err(_) => Err(Failure::ConnectTimeout(wait)),
        };
        if connected.is_err() {
            self.set_presence(Presence::Away);
        }
        connected
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
