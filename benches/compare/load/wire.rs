//! What a session goes over: TCP, or TLS on it.

use std::io::{self, Read, Write};
use std::net::TcpStream as StdStream;
use std::path::Path;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// The name that certificates are for.
const NAME: &str = "mx.test";

/// Makes wires of sockets.
pub(super) struct Wires(Option<Arc<ClientConfig>>);

impl Wires {
    /// Plain ones; or TLS 1.3 with certificates of this authority, a whole handshake each.
    pub(super) fn new(authority: Option<&Path>) -> io::Result<Self> {
        let Some(authority) = authority else { return Ok(Self(None)) };
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).map_err(io::Error::other)?).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let mut config = versions.map_err(io::Error::other)?.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Some(Arc::new(config))))
    }

    pub(super) fn wire(&self, stream: StdStream) -> io::Result<Wire> {
        let stream = TcpStream::from_std(stream);
        let Some(config) = &self.0 else { return Ok(Wire::Plain(stream)) };
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Wire::Tls(Box::new(StreamOwned::new(tls, stream))))
    }
}

pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    pub(super) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut(),
        }
    }

    /// Whether there may be more behind a read that was short.
    pub(super) fn is_deep(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => match stream.read(into) {
                // Whether the end is announced is nothing that is measured here.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                told => told,
            },
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
