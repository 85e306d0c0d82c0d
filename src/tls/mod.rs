//! TLS: with clients, the certificates of a gate, and the handshake; and towards a backend.
//!
//! A [`Keyring`] holds a gate's certificates and shows each client the one for the name that it asks for. The files are
//! looked at again and again: a new certificate is in force with the next handshake, a broken new file changes nothing,
//! and nobody who is inside notices either. [`accept`] makes a connection a TLS connection, within a deadline, and says
//! in a closed set of words why it could not.
//!
//! TLS 1.2 and 1.3, by rustls with aws-lc-rs; the post-quantum key exchange X25519MLKEM768 goes before all others. No
//! ALPN: SMTP has none. There is no process-wide provider or configuration.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `certificate` | one chain and its key, read from files and checked |
//! | `keyring` | a gate's certificates: choosing, and swapping when the files change |
//! | `handshake` | a handshake, its deadline, and what came of it |
//! | `connect` | TLS towards a backend: whom to trust, and the handshake |
//! | `anyone` | taking any certificate, of whomever it is |

mod anyone;
mod certificate;
mod connect;
mod handshake;
mod keyring;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub(crate) use certificate::names;
pub use certificate::{Certificate, Problem};
pub use connect::{ConnectFailure, Connector, Trust};
pub(crate) use handshake::cipher;
pub use handshake::{Facts, HandshakeFailure, accept};
pub use keyring::{Expiry, Keyring, Problems, Reload};
pub use tokio_rustls::server::TlsStream;

/// What a gate shows its clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The certificates; the first is for clients that ask for no name, or for one that none is for.
    pub certificates: Vec<Pair>,
    /// Whether clients are asked for a certificate of their own.
    pub client_certificate: ClientCertificate,
    /// How long a handshake may take, from its first byte to its last.
    pub handshake_timeout: Duration,
}

/// A certificate chain and the key that belongs to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// PEM: the certificate, and behind it those that lead to its root.
    pub chain: PathBuf,
    /// PEM: the private key, not encrypted.
    pub key: PathBuf,
}

/// Whether clients are asked for a certificate of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificate {
    /// No.
    Off,
    /// They are asked. Any will do, and so will none: nothing is granted for it.
    Ask,
}

/// What all TLS here is made with.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
