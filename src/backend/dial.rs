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
//!
//! Announcing by XCLIENT comes behind all of this, and has a file of its own (`introduce`).

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::transparent::{self, Family, Unshown};
use super::{Announce, Backend, Begins, Connection, Tls, Visitor, next_reply};
use crate::addr;
use crate::proxy_header::{self, Extras, Header, Version};
use crate::smtp::ehlo::{Keyword, Offer};
use crate::smtp::reply::{self, Code, Parsed, Reply};
use crate::smtp::xclient::HostName;
use crate::tls::ConnectFailure;

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
    /// It cannot be connected to from the client's address.
    #[error(transparent)]
    Unshown(#[from] Unshown),
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
    /// TLS is required, and it does not offer it, or refuses to begin.
    #[error("it does not begin TLS, which is required of it")]
    NoTls,
    /// It said more in the clear behind its 220 to STARTTLS.
    #[error("it said more in the clear behind its 220 to STARTTLS")]
    BehindStartTls,
    /// XCLIENT is how clients are announced, and it does not offer that, or not with ADDR.
    #[error("it does not offer XCLIENT with ADDR to gatepost")]
    NoXclient,
    /// It does not take XCLIENT from us, or not as we say it.
    #[error("it answers XCLIENT with {0}")]
    Xclient(Code),
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

impl Failure {
    /// Whether it says nothing of the backend: we are out of descriptors, memory or ports, or this client is one that
    /// it cannot be shown.
    pub fn is_ours(&self) -> bool {
        use rustix::io::Errno;
        let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL, Errno::ADDRINUSE];
        match self {
            Self::Resolve(error) | Self::Connect(error) => {
                ours.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
            }
            Self::Unshown(_) => true,
            _ => false,
        }
    }
}

impl Backend {
    /// Connects, announces `visitor` (gatepost itself if there is none: a probe), and begins TLS as the settings say. Of a
    /// visitor that is announced by XCLIENT, nobody knows the host name.
    pub async fn dial(&self, visitor: Option<Visitor<'_>>) -> Result<Dialled, Failure> {
        self.dial_named(visitor, std::future::ready(HostName::Unavailable)).await
    }

    /// The same for a visitor whose host `name` is being looked up. That is asked for only where it is made use of, and
    /// waited for beside the connecting.
    pub async fn dial_named(
        &self,
        visitor: Option<Visitor<'_>>,
        name: impl Future<Output = HostName>,
    ) -> Result<Dialled, Failure> {
        match self.settings.announce {
            // Boxed: few backends are told in this way, and each visit would carry it.
            Announce::Xclient => Box::pin(self.dial_and_introduce(visitor, name)).await,
            Announce::Proxy(_) | Announce::Transparent | Announce::Header | Announce::Nothing => {
                self.reach(visitor).await.inspect_err(|failure| self.failed_to_reach(failure, self.source(visitor)))
            }
        }
    }

    /// Connects, with the PROXY header and with TLS as the settings say.
    pub(super) async fn reach(&self, visitor: Option<Visitor<'_>>) -> Result<Dialled, Failure> {
        match (&self.settings.tls, self.connect(visitor).await?) {
            (None, stream) => Ok(Dialled { connection: Connection::Plain(stream), inbox: Vec::new() }),
            // Boxed: most backends are on the same machine and have none.
            (Some(tls), stream) => match (Box::pin(self.secure(tls, stream)).await, tls.begins) {
                (Err(Failure::Handshake(failure)), Begins::IfOffered) => {
                    tracing::debug!(backend = %self.settings.address, %failure, "no TLS; going on in the clear");
                    let plain = self.connect(visitor).await?;
                    Ok(Dialled { connection: Connection::Plain(plain), inbox: Vec::new() })
                }
                (secured, _) => secured,
            },
        }
    }

    /// The address to connect from, where it is not for the kernel to choose.
    fn source(&self, visitor: Option<Visitor<'_>>) -> Option<IpAddr> {
        let visitor = visitor.filter(|_| self.settings.announce == Announce::Transparent);
        visitor.map(|visitor| addr::canonical(visitor.client.ip()))
    }

    /// Draws conclusions from a failure to connect from `source`.
    pub(super) fn failed_to_reach(&self, failure: &Failure, source: Option<IpAddr>) {
        match (failure, source) {
            // Is it away, or do its answers go astray? The prober finds out.
            (silence, Some(client)) if silence.is_silence() => self.doubt_way_back(client),
            (Failure::Unshown(Unshown::Family(family)), _) => self.complain_of(*family),
            (failure, _) if !failure.is_ours() => self.lost_to(failure),
            _ => {}
        }
    }

    async fn connect(&self, visitor: Option<Visitor<'_>>) -> Result<TcpStream, Failure> {
        let wait = self.settings.connect_timeout;
        let header = self.header(visitor);
        match timeout(wait, connect(&self.settings.address, self.source(visitor), &header)).await {
            Ok(Ok(stream)) if header.is_empty() => self.announce(stream, visitor).await,
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::ConnectTimeout(wait)),
        }
    }

    async fn secure(&self, tls: &Tls, mut stream: TcpStream) -> Result<Dialled, Failure> {
        let wait = self.settings.reply_timeout;
        let mut inbox = Vec::new();
        if tls.begins != Begins::First {
            let greeting = next_reply(&mut stream, &mut inbox, wait).await?;
            // More behind it could not be told from what is said under TLS.
            alone(&inbox)?;
            if greeting.number() != 220 {
                // It will not be spoken to at all: that is for its own words to tell.
                return Ok(Dialled { connection: Connection::Plain(stream), inbox });
            }
            if !start_tls(&self.settings.hostname, &mut stream, wait).await? {
                return match tls.begins {
                    Begins::IfOffered => Ok(Dialled { connection: Connection::Plain(stream), inbox }),
                    Begins::First | Begins::StartTls => Err(Failure::NoTls),
                };
            }
        }
        let secured = tls.connector.connect(stream, wait).await?;
        Ok(Dialled { connection: Connection::Tls(Box::new(secured)), inbox })
    }

    /// The PROXY header that a connection for `visitor` begins with, if it is known before there is one.
    fn header(&self, visitor: Option<Visitor<'_>>) -> Vec<u8> {
        let mut header = Vec::new();
        if let (Announce::Proxy(version), Some(_)) = (self.settings.announce, visitor) {
            header.reserve(128);
            write_header(&mut header, version, visitor);
        }
        header
    }

    async fn announce(&self, mut stream: TcpStream, visitor: Option<Visitor<'_>>) -> Result<TcpStream, Failure> {
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        if let Announce::Proxy(version) = self.settings.announce {
            let mut header = Vec::with_capacity(128);
            write_header(&mut header, version, visitor.or_else(|| ourselves(&stream, version)));
            // A fresh connection takes a hundred bytes at once; a backend that reads nothing at all runs into the
            // deadline of its greeting.
            stream.write_all(&header).await.map_err(Failure::Announce)?;
        }
        Ok(stream)
    }
}

/// The reply in `inbox`, which has to be all that is there: what follows answers what nobody asked.
pub(super) fn alone(inbox: &[u8]) -> Result<Reply<'_>, Failure> {
    match reply::parse(inbox) {
        Parsed::Complete(said) if said.raw.len() == inbox.len() => Ok(said),
        _ => Err(Failure::NotSmtp),
    }
}

/// Says EHLO and STARTTLS. Whether a handshake is to follow.
async fn start_tls(hostname: &str, stream: &mut TcpStream, wait: Duration) -> Result<bool, Failure> {
    let mut inbox = Vec::new();
    let hello = format!("EHLO {hostname}\r\n");
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

/// Says a line, in one write, and waits for its reply.
pub(super) async fn ask<B>(stream: &mut B, inbox: &mut Vec<u8>, line: &[u8], wait: Duration) -> Result<Code, Failure>
where
    B: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(line).await.map_err(Failure::Broken)?;
    stream.flush().await.map_err(Failure::Broken)?;
    next_reply(stream, inbox, wait).await
}

/// Tries each address that `address` leads to, if there is a `source` each of its family. What is connected has been told
/// `header`.
async fn connect(address: &str, source: Option<IpAddr>, header: &[u8]) -> Result<TcpStream, Failure> {
    let mut failure = Failure::Resolve(io::ErrorKind::NotFound.into());
    let mut addresses = lookup_host(address).await.map_err(Failure::Resolve)?.peekable();
    if let Some(client) = source.filter(|_| addresses.peek().is_some()) {
        failure = Unshown::Family(Family::of(client)).into();
    }
    for address in addresses {
        let connected = match source {
            None if header.is_empty() => TcpStream::connect(address).await.map_err(Failure::Connect),
            None => connect_saying(address, header).await,
            Some(client) if client.is_ipv4() == address.is_ipv4() => transparent::connect(client, address).await,
            Some(_) => continue,
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects, and says `header` without waiting first: where the other end is on this machine, the connection is there as soon
/// as it was asked for.
async fn connect_saying(address: SocketAddr, header: &[u8]) -> Result<TcpStream, Failure> {
    let mut socket = mio::net::TcpStream::connect(address).map_err(Failure::Connect)?;
    socket.set_nodelay(true).map_err(Failure::Connect)?;
    let said = match socket.write(header) {
        Ok(count) => count,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => 0,
        Err(error) => return Err(Failure::Connect(error)),
    };
    let mut stream = TcpStream::from_std(socket.into()).map_err(Failure::Connect)?;
    if said == 0 {
        stream.writable().await.map_err(Failure::Connect)?;
        if let Some(error) = stream.take_error().map_err(Failure::Connect)? {
            return Err(Failure::Connect(error));
        }
    }
    let rest = header.get(said..).unwrap_or_default();
    stream.write_all(rest).await.map_err(Failure::Announce)?;
    Ok(stream)
}

/// A probe in version 1 gives the connection's own addresses: its `UNKNOWN`, which is meant for that, Postfix refuses.
/// In version 2 there is a header that says just this, and all understand it.
fn ourselves(stream: &TcpStream, version: Version) -> Option<Visitor<'static>> {
    match version {
        Version::V1 => Some(Visitor::new(stream.local_addr().ok()?, stream.peer_addr().ok()?)),
        Version::V2 => None,
    }
}

fn write_header(out: &mut Vec<u8>, version: Version, visitor: Option<Visitor<'_>>) {
    let header = match visitor {
        Some(Visitor { client, local, .. }) => Header::Proxied {
            source: (addr::canonical(client.ip()), client.port()).into(),
            destination: (addr::canonical(local.ip()), local.port()).into(),
        },
        None => Header::Local,
    };
    let extras = visitor.map(|Visitor { tls, visit, .. }| Extras { tls, visit }).unwrap_or_default();
    proxy_header::write_with(out, version, &header, &extras);
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
            hostname: "mx.example.com".into(),
            announce: Announce::Proxy(version),
            tls: None,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(10),
            probe_interval: Duration::from_secs(300),
        });
        let ours = backend.dial(None).await.unwrap();
        let from = ours.connection.tcp().unwrap().local_addr().unwrap();
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
