//! TLS as a client: towards a backend.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::anyone::Anyone;
use super::certificate::Problem;
use super::provider;

/// What is asked of the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trust {
    /// The name that its certificate has to be for, and that it is told: a host name or an IP address.
    pub name: String,
    /// Whether its certificate has to be one that can be trusted. If not, TLS keeps out those who only listen.
    pub verify: bool,
    /// A PEM file with those who may vouch for it; the system's if there is none.
    pub ca: Option<PathBuf>,
}

/// Makes connections TLS connections, as the client of them.
pub struct Connector {
    trust: Trust,
    name: ServerName<'static>,
    /// Who may vouch for the other side, as they were when they were read; nobody where it is not verified.
    roots: Arc<RootCertStore>,
    config: Arc<ClientConfig>,
}

/// Why there is no TLS with the other side.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// It took too long.
    #[error("the TLS handshake took longer than {0:?}")]
    Timeout(Duration),
    /// It failed: the other side closed, broke it off, or cannot be trusted.
    #[error("the TLS handshake failed: {0}")]
    Failed(#[source] io::Error),
}

impl Connector {
    /// Reads the roots that `trust` asks for.
    pub fn load(trust: Trust) -> Result<Self, Problem> {
        let wrong = |cause: String, remedy: &str| Problem {
            file: trust.ca.clone().unwrap_or_default(),
            cause,
            remedy: remedy.to_owned(),
        };
        let name = ServerName::try_from(trust.name.clone())
            .map_err(|_| wrong(format!("{:?} is no name for a certificate", trust.name), "write a host name"))?;
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(format!("TLS cannot be set up: {error}"), "see to the build of this program"))?;
        let roots = Arc::new(if trust.verify { roots(&trust)? } else { RootCertStore::empty() });
        let builder = if trust.verify {
            builder.with_root_certificates(Arc::clone(&roots))
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        };
        Ok(Self { config: Arc::new(builder.with_no_client_auth()), name, roots, trust })
    }

    /// What it asks of the other side.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Makes `stream` a TLS connection within `wait`.
    pub async fn connect<S>(&self, stream: S, wait: Duration) -> Result<TlsStream<S>, ConnectFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        match timeout(wait, connector.connect(self.name.clone(), stream)).await {
            Ok(connected) => connected.map_err(ConnectFailure::Failed),
            Err(_) => Err(ConnectFailure::Timeout(wait)),
        }
    }
}

/// Two that ask the same are the same. The file of authorities may have become another one at the same path.
impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.trust == other.trust && self.roots.roots == other.roots.roots
    }
}

impl Eq for Connector {}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trust.fmt(f)
    }
}

fn roots(trust: &Trust) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    let Some(file) = &trust.ca else {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            return Err(Problem {
                file: PathBuf::new(),
                cause: "this system has no certificates of authorities".to_owned(),
                remedy: "install the package ca-certificates, or name a file of your own".to_owned(),
            });
        }
        return Ok(roots);
    };
    let wrong = |cause: String, remedy: &str| Problem { file: file.clone(), cause, remedy: remedy.to_owned() };
    let bytes =
        fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}"), "see to its path and mode"))?;
    let given: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let given = given.map_err(|error| wrong(format!("broken PEM: {error}"), "fetch the file anew"))?;
    let (added, _) = roots.add_parsable_certificates(given);
    if added == 0 {
        return Err(wrong("there is no certificate in it".to_owned(), "name a PEM file of authorities' certificates"));
    }
    Ok(roots)
}
