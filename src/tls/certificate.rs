//! One certificate chain and its key: read from their files, and checked before anybody is shown them.
//!
//! A certificate that is not good now can be shown all the same: hardly a server that sends mail minds, while without
//! any nobody would be served. That it is so is told ([`Certificate::out_of_date`]), and whoever asked decides.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Pair, provider};
use crate::time::Timestamp;

/// The most that is read of a file: a chain takes a few KiB.
const FILE_LIMIT: u64 = 1 << 20;

/// What is wrong with a file, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {cause}; {remedy}", file.display())]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub cause: String,
    /// What would be right.
    pub remedy: String,
}

impl Problem {
    fn new(file: &Path, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), cause: cause.into(), remedy: remedy.into() }
    }
}

/// A certificate that can be shown.
#[derive(Debug)]
pub struct Certificate {
    /// The names that it is for, lower case; a wildcard as `*.example.org`.
    names: Vec<String>,
    /// When it begins.
    not_before: Timestamp,
    /// When it ends.
    not_after: Timestamp,
    /// Where it was read from.
    pair: Pair,
    pub(super) key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads `pair`, whenever it is good.
    pub fn read(pair: &Pair) -> Result<Self, Problem> {
        let chain = read_chain(&pair.chain)?;
        let Leaf { names, not_before, not_after } = read_leaf(&pair.chain, &chain)?;
        let key = read_key(&pair.key)?;
        let key = Arc::new(match_up(pair, chain, key, &provider())?);
        Ok(Self { names, not_before, not_after, pair: pair.clone(), key })
    }

    /// The first of its names.
    pub fn name(&self) -> &str {
        self.names.first().map_or("(no name)", String::as_str)
    }

    /// When it ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Where it was read from.
    pub(super) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Why it is not good at `now`; nothing if it is.
    pub fn out_of_date(&self, now: Timestamp) -> Option<Problem> {
        let (cause, remedy) = if self.not_after < now {
            (
                format!("the certificate has expired: it was good until {}", moment(self.not_after)),
                "renew it; clients that verify certificates refuse an expired one",
            )
        } else if self.not_before > now {
            (
                format!("the certificate is not good before {}", moment(self.not_before)),
                "see to the clock of this machine; clients that verify certificates refuse it until then",
            )
        } else {
            return None;
        };
        Some(Problem::new(&self.pair.chain, cause, remedy))
    }

    /// Whether it is for `name`, which is in lower case. A wildcard stands for one label (RFC 9525 §6.3).
    pub(super) fn is_for(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(domain) => parent == Some(domain),
            None => own == name,
        })
    }
}

fn read_file(file: &Path) -> Result<Vec<u8>, Problem> {
    let read = fs::File::open(file).and_then(|opened| {
        let mut bytes = Vec::new();
        opened.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match read {
        Ok(bytes) if bytes.len() as u64 > FILE_LIMIT => {
            Err(Problem::new(file, "the file is larger than 1 MiB", "name a PEM file"))
        }
        Ok(bytes) if bytes.trim_ascii().is_empty() => {
            Err(Problem::new(file, "the file is empty", "write the file anew, whole, and then rename it into place"))
        }
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(Problem::new(file, format!("cannot be read: {error}"), remedy(&error))),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "see to its path, and to where it links to",
        io::ErrorKind::PermissionDenied => {
            "let the user that gatepost runs as read it, and enter the folders above it: chgrp gatepost, chmod 640"
        }
        _ => "name a file that can be read",
    }
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let bytes = read_file(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if chain.is_empty() => {
            let remedy = "name the PEM file that begins with -----BEGIN CERTIFICATE----- (fullchain.pem)";
            Err(Problem::new(file, "there is no certificate in it", remedy))
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(Problem::new(file, format!("broken PEM: {error}"), "fetch the file anew")),
    }
}

/// What is said in the first certificate of a chain.
struct Leaf {
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
}

fn read_leaf(file: &Path, chain: &[CertificateDer<'static>]) -> Result<Leaf, Problem> {
    let der = chain.first().map(|der| der.as_ref()).unwrap_or_default();
    let broken = |error: &dyn std::fmt::Display| {
        Problem::new(file, format!("the first certificate in it cannot be read: {error}"), "fetch the file anew")
    };
    let (_, leaf) = X509Certificate::from_der(der).map_err(|error| broken(&error))?;
    let validity = leaf.validity();
    let timestamp = |seconds: i64| Timestamp::from_seconds(u64::try_from(seconds).unwrap_or(0));
    Ok(Leaf {
        names: names(&leaf).map_err(|error| broken(&error))?,
        not_before: timestamp(validity.not_before.timestamp()),
        not_after: timestamp(validity.not_after.timestamp()),
    })
}

/// A point in time, for people.
fn moment(at: Timestamp) -> String {
    let seconds = i64::try_from(at.seconds()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "a day far away".to_owned(), |at| at.to_string())
}

/// The DNS names of a certificate; its common name where it has none, as old ones do.
pub(crate) fn names(leaf: &X509Certificate<'_>) -> Result<Vec<String>, x509_parser::error::X509Error> {
    let lower = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    let alternatives = leaf.subject_alternative_name()?;
    let mut names: Vec<String> = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(lower(name)),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        names.extend(leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(lower));
    }
    Ok(names)
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, Problem> {
    let bytes = read_file(file)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if memchr::memmem::find(&bytes, b"BEGIN ENCRYPTED PRIVATE KEY").is_some() => {
            let remedy = "take the passphrase off: openssl pkey -in old.pem -out key.pem";
            Problem::new(file, "the private key in it is encrypted", remedy)
        }
        pem::Error::NoItemsFound => {
            let remedy = "name the PEM file that begins with -----BEGIN PRIVATE KEY----- (privkey.pem)";
            Problem::new(file, "there is no private key in it", remedy)
        }
        // The error's text shows no bytes of the file but those of a malformed BEGIN or END line.
        _ => Problem::new(file, "broken PEM", "fetch the file anew"),
    })
}

fn match_up(
    pair: &Pair,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Problem> {
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Problem::new(
            &pair.key,
            format!("the key does not belong to the certificate in {}", pair.chain.display()),
            "name the key that the certificate was made for; the certificate has to come first in its file",
        ),
        error => {
            Problem::new(&pair.key, format!("the key cannot be used: {error}"), "use an RSA, ECDSA or Ed25519 key")
        }
    })
}
