//! Connecting to a backend, and announcing the client to it as the very first bytes.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{Announce, Backend, Presence, Visitor};
use crate::addr;
use crate::proxy_header::{self, Header, Version};
use crate::smtp::reply::Code;

/// Why a backend cannot be spoken to. Always the backend's trouble or ours, never the client's: it gets a 4xx.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its name leads to no address.
    #[error("cannot look up its name: {0}")]
    Resolve(#[source] io::Error),
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
    /// It will not speak with us now.
    #[error("it refuses with {0}")]
    Refused(Code),
    /// Something that is no SMTP reply.
    #[error("what it says is no SMTP reply")]
    NotSmtp,
}

impl Failure {
    /// Whether it says nothing of the backend: we are out of descriptors, memory or ports.
    pub fn is_ours(&self) -> bool {
        use rustix::io::Errno;
        let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        match self {
            Self::Resolve(error) | Self::Connect(error) => {
                ours.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
            }
            _ => false,
        }
    }
}

impl Backend {
    /// Connects and announces `visitor`; gatepost itself if there is none (a probe). Nothing has been read yet.
    pub async fn dial(&self, visitor: Option<Visitor>) -> Result<TcpStream, Failure> {
        let wait = self.settings.connect_timeout;
        let connected = match timeout(wait, connect(&self.settings.address)).await {
            Ok(Ok(stream)) => self.announce(stream, visitor).await,
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::ConnectTimeout(wait)),
        };
        if connected.as_ref().is_err_and(|failure| !failure.is_ours()) {
            self.set_presence(Presence::Away);
        }
        connected
    }

    async fn announce(&self, mut stream: TcpStream, visitor: Option<Visitor>) -> Result<TcpStream, Failure> {
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        if let Announce::Proxy(version) = self.settings.announce {
            let mut header = Vec::with_capacity(108);
            write_header(&mut header, version, visitor.or_else(|| ourselves(&stream, version)));
            // A fresh connection takes a hundred bytes at once; a backend that reads nothing at all runs into the
            // deadline of its greeting.
            stream.write_all(&header).await.map_err(Failure::Announce)?;
        }
        Ok(stream)
    }
}

/// Tries each address that `address` leads to.
async fn connect(address: &str) -> Result<TcpStream, Failure> {
    let mut failure = Failure::Resolve(io::ErrorKind::NotFound.into());
    for address in lookup_host(address).await.map_err(Failure::Resolve)? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Failure::Connect(error),
        }
    }
    Err(failure)
}

/// A probe in version 1 gives the connection's own addresses: its `UNKNOWN`, which is meant for that, Postfix refuses.
/// In version 2 there is a header that says just this, and all understand it.
fn ourselves(stream: &TcpStream, version: Version) -> Option<Visitor> {
    match version {
        Version::V1 => Some(Visitor { client: stream.local_addr().ok()?, local: stream.peer_addr().ok()? }),
        Version::V2 => None,
    }
}

fn write_header(out: &mut Vec<u8>, version: Version, visitor: Option<Visitor>) {
    let header = match visitor {
        Some(Visitor { client, local }) => Header::Proxied {
            source: (addr::canonical(client.ip()), client.port()).into(),
            destination: (addr::canonical(local.ip()), local.port()).into(),
        },
        None => Header::Local,
    };
    proxy_header::write(out, version, &header);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::backend::Settings;

    /// What a backend reads that is dialled for nobody.
    async fn announced(version: Version) -> (Vec<u8>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Backend::new(Settings {
            address: address.to_string(),
            announce: Announce::Proxy(version),
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(10),
            probe_interval: Duration::from_secs(300),
        });
        let ours = backend.dial(None).await.unwrap();
        let from = ours.local_addr().unwrap();
        drop(ours);
        let mut read = Vec::new();
        listener.accept().await.unwrap().0.read_to_end(&mut read).await.unwrap();
        (read, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), address.port()))
    }

    #[tokio::test]
    async fn a_probe_is_announced_in_words_that_every_backend_understands() {
        let (read, own_addresses) = announced(Version::V1).await;
        assert_eq!(String::from_utf8_lossy(&read), own_addresses);
        let (read, _) = announced(Version::V2).await;
        assert_eq!(read, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    }
}
