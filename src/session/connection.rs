//! The client's connection: in the clear, or under TLS that ends here; made the latter in place.
//!
//! ```text
//!  Plain ── start_tls ──┬─ the handshake succeeds ─► Tls
//!                       └─ it fails ───────────────► Gone (closed; an end to read from, an error to write to)
//! ```

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Gate;
use crate::journal::Outcome;
use crate::relay::{self, NoTls, Wire};
use crate::tls::{self, Facts, HandshakeFailure, Keyring, TlsStream};

/// Where TLS with the clients of a gate ends.
#[derive(Clone, Debug, Default)]
pub enum Tls {
    /// At the backend: STARTTLS is passed through, once a client has passed.
    #[default]
    EndToEnd,
    /// There is none: STARTTLS is withheld.
    Off,
    /// Here.
    Here(Arc<Here>),
}

/// TLS that ends here.
#[derive(Debug)]
pub struct Here {
    /// The certificates.
    pub keyring: Keyring,
    /// Whether it comes first, before any word of SMTP (RFC 8314 §3), rather than after STARTTLS.
    pub first: bool,
    /// Whether AUTH has to wait for it.
    pub before_auth: bool,
}

impl Tls {
    /// Whether TLS comes before any word of SMTP.
    pub fn is_first(&self) -> bool {
        matches!(self, Self::Here(here) if here.first)
    }

    /// The certificates, where TLS ends here.
    pub fn keyring(&self) -> Option<&Keyring> {
        match self {
            Self::Here(here) => Some(&here.keyring),
            Self::EndToEnd | Self::Off => None,
        }
    }
}

/// What was agreed on in the handshake with the client, once there was one: for whoever is to know of it while the
/// connection is in other hands.
pub(super) type Agreed = Arc<OnceLock<Facts>>;

/// The client's connection.
pub(super) struct Connection<C> {
    stream: Stream<C>,
    gate: Arc<Gate>,
    facts: Agreed,
    failure: Option<HandshakeFailure>,
}

enum Stream<C> {
    Plain(C),
    /// Boxed: few connections have it, and all would carry it.
    Tls(Box<TlsStream<C>>),
    Gone,
}

impl<C: Wire> Connection<C> {
    /// A connection in the clear to `gate`.
    pub(super) fn new(stream: C, gate: &Arc<Gate>) -> Self {
        Self { stream: Stream::Plain(stream), gate: Arc::clone(gate), facts: Agreed::default(), failure: None }
    }

    /// What was agreed on in the handshake, if there was one.
    pub(super) fn facts(&self) -> Option<&Facts> {
        self.facts.get()
    }

    /// The same, for those who will ask later.
    pub(super) fn agreed(&self) -> Agreed {
        Arc::clone(&self.facts)
    }

    /// Why there is no TLS, if that was tried and failed.
    pub(super) fn failure(&self) -> Option<HandshakeFailure> {
        self.failure
    }
}

/// What a failed handshake means for the visit.
pub(super) fn outcome(failure: HandshakeFailure) -> Outcome {
    match failure {
        HandshakeFailure::Timeout => Outcome::TimedOut,
        HandshakeFailure::Closed => Outcome::HungUp,
        _ => Outcome::ProtocolFault,
    }
}

impl<C: Wire> Wire for Connection<C> {
    fn tcp(&self) -> Option<&TcpStream> {
        match &self.stream {
            Stream::Plain(stream) => stream.tcp(),
            Stream::Tls(_) | Stream::Gone => None,
        }
    }

    fn tls(&self) -> relay::Tls {
        match (&self.gate.settings.tls, &self.stream) {
            (_, Stream::Tls(_)) => relay::Tls::Begun,
            (Tls::EndToEnd, _) => relay::Tls::EndToEnd,
            (Tls::Off, _) => relay::Tls::Off,
            (Tls::Here(here), _) => relay::Tls::Offered { before_auth: here.before_auth },
        }
    }

    fn give_up(&mut self) {
        match &mut self.stream {
            Stream::Plain(stream) => stream.give_up(),
            Stream::Tls(stream) => stream.get_mut().0.give_up(),
            Stream::Gone => {}
        }
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.poll_write_last(cx, bytes),
            Stream::Tls(_) | Stream::Gone => Pin::new(self).poll_write(cx, bytes),
        }
    }

    fn closes_well(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.closes_well(),
            // Its own goodbye has to be said first.
            Stream::Tls(_) => false,
            Stream::Gone => true,
        }
    }

    async fn start_tls(&mut self) -> Result<(), NoTls> {
        let gate = Arc::clone(&self.gate);
        let Tls::Here(here) = &gate.settings.tls else { return Err(NoTls::Failed) };
        let Stream::Plain(plain) = std::mem::replace(&mut self.stream, Stream::Gone) else { return Err(NoTls::Failed) };
        // Boxed: a handshake's state is large, and soon over.
        let accepted = Box::pin(tls::accept(&here.keyring, plain)).await;
        gate.metrics.tls_handshake(accepted.as_ref().err().copied());
        match accepted {
            Ok(stream) => {
                // There is one handshake on a connection at most.
                let _ = self.facts.set(Facts::of(&stream));
                self.stream = Stream::Tls(Box::new(stream));
                Ok(())
            }
            Err(failure) => {
                self.failure = Some(failure);
                Err(NoTls::Failed)
            }
        }
    }
}

impl<C: Wire> AsyncRead for Connection<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // Closed without TLS's own goodbye, as many do. SMTP says itself where everything ends, so that nothing
                // can be cut short unseen.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                other => other,
            },
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl<C: Wire> AsyncWrite for Connection<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Gone => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl<C> fmt::Debug for Connection<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("facts", &self.facts.get()).finish_non_exhaustive()
    }
}
