//! A handshake: from a connection to a TLS connection, within a deadline.

use std::io;
use std::time::Duration;

use rustls::{CipherSuite, Error, ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Keyring;

/// What the two sides have agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite, as the IANA calls it: `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// The key exchange: `X25519MLKEM768`, `X25519`, `secp256r1`, …
    pub group: &'static str,
    /// The name that the client asked for, if any.
    pub sni: Option<Box<str>>,
    /// Whether the client showed a certificate of its own.
    pub certificate: bool,
}

/// Why there is no TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeFailure {
    /// It took too long.
    #[error("the TLS handshake took too long")]
    Timeout,
    /// The client closed the connection in the middle of it.
    #[error("the client closed the connection in the middle of the TLS handshake")]
    Closed,
    /// What came is no TLS.
    #[error("what the client sent is no TLS")]
    NotTls,
    /// No version, cipher or key exchange that both sides know.
    #[error("the client and gatepost have no TLS version, cipher, key exchange or kind of signature in common")]
    Incompatible,
    /// The client broke it off with an alert: mostly because of the certificate.
    #[error("the client broke the TLS handshake off (does it accept the certificate?)")]
    Refused,
    /// The client did what TLS forbids.
    #[error("the client broke the TLS protocol")]
    Misbehaved,
    /// Anything else.
    #[error("the TLS handshake failed")]
    Other,
}

impl HandshakeFailure {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Timeout, Self::Closed, Self::NotTls, Self::Incompatible, Self::Refused, Self::Misbehaved, Self::Other];

    /// The name in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NotTls => "not-tls",
            Self::Incompatible => "incompatible",
            Self::Refused => "refused",
            Self::Misbehaved => "misbehaved",
            Self::Other => "other",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => Self::NotTls,
            Some(Error::PeerIncompatible(_)) => Self::Incompatible,
            Some(Error::AlertReceived(_)) => Self::Refused,
            Some(
                Error::PeerMisbehaved(_)
                | Error::InappropriateHandshakeMessage { .. }
                | Error::DecryptError
                | Error::InvalidCertificate(_)
                | Error::PeerSentOversizedRecord,
            ) => Self::Misbehaved,
            Some(_) => Self::Other,
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::WriteZero => Self::Closed,
                _ => Self::Other,
            },
        }
    }
}

/// Makes `stream` a TLS connection, as the server of it, within the time that the settings allow. When this fails, the
/// client has been told by an alert, as far as it can be, and the connection is closed.
pub async fn accept<C>(keyring: &Keyring, stream: C) -> Result<TlsStream<C>, HandshakeFailure>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    accept_within(keyring, stream, keyring.settings().handshake_timeout).await
}

async fn accept_within<C>(keyring: &Keyring, stream: C, within: Duration) -> Result<TlsStream<C>, HandshakeFailure>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    match timeout(within, TlsAcceptor::from(keyring.config()).accept(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(HandshakeFailure::of(&error)),
        Err(_) => Err(HandshakeFailure::Timeout),
    }
}

impl Facts {
    /// What the two sides of `stream` have agreed on.
    pub fn of<C>(stream: &TlsStream<C>) -> Self {
        let connection: &ServerConnection = stream.get_ref().1;
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "unknown",
            },
            cipher: connection.negotiated_cipher_suite().map_or("unknown", |suite| cipher(suite.suite())),
            group: connection
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("unknown"),
            sni: connection.server_name().map(Box::from),
            certificate: connection.peer_certificates().is_some_and(|chain| !chain.is_empty()),
        }
    }
}

/// The IANA's name of a suite; rustls calls those of TLS 1.3 by names of its own.
pub(crate) fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or("unknown"),
    }
}
