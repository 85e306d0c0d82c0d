//! What a client sees of a certificate chain: whose it is, until when, and whether it leads anywhere.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::journal::text::escape;
use crate::time::Timestamp;
use crate::tls;

/// Less time than this is left to renew a certificate in: renewal, where it goes by itself, was due before.
pub(super) const SOON: Duration = Duration::from_secs(21 * 24 * 60 * 60);

/// RSA keys below this are refused by many.
const RSA_BITS: usize = 2048;

/// The most that is read of a file.
const FILE_LIMIT: u64 = 1 << 20;

/// A chain as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    /// The names that it is for, lower case.
    pub names: Vec<String>,
    /// From when on it is good…
    pub not_before: Timestamp,
    /// …and until when.
    pub not_after: Timestamp,
    /// How many certificates there are.
    pub length: usize,
    /// Whether the first vouches for itself.
    pub self_signed: bool,
    /// Whether each is vouched for by the next.
    pub in_order: bool,
    /// The size of its key, if that is RSA.
    pub rsa_bits: Option<usize>,
}

impl Chain {
    /// Reads it from a PEM file.
    pub(super) fn from_file(file: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        fs::File::open(file).ok()?.take(FILE_LIMIT).read_to_end(&mut bytes).ok()?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok).collect();
        Self::read(&chain)
    }

    /// Reads it as it was shown in a handshake. Nothing if the first certificate cannot be read.
    pub(super) fn read(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let parsed: Vec<X509Certificate<'_>> =
            chain.iter().map_while(|der| Some(X509Certificate::from_der(der).ok()?.1)).collect();
        let leaf = parsed.first()?;
        let moment = |seconds: i64| Timestamp::from_seconds(u64::try_from(seconds).unwrap_or(0));
        let follows = |(one, next): (&X509Certificate<'_>, &X509Certificate<'_>)| one.issuer() == next.subject();
        Some(Self {
            names: tls::names(leaf).unwrap_or_default(),
            not_before: moment(leaf.validity().not_before.timestamp()),
            not_after: moment(leaf.validity().not_after.timestamp()),
            length: chain.len(),
            self_signed: leaf.issuer() == leaf.subject(),
            in_order: parsed.iter().zip(parsed.iter().skip(1)).all(follows) && parsed.len() == chain.len(),
            rsa_bits: match leaf.public_key().parsed() {
                Ok(PublicKey::RSA(key)) => Some(key.key_size()),
                _ => None,
            },
        })
    }

    /// Whether it is for `name`. A wildcard stands for one label (RFC 9525 §6.3).
    pub(super) fn is_for(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(domain) => parent == Some(domain),
            None => *own == name,
        })
    }

    /// Whether its key is smaller than many accept.
    pub(super) fn is_weak(&self) -> bool {
        self.rsa_bits.is_some_and(|bits| bits < RSA_BITS)
    }

    /// Whose it is and until when, safe to show.
    pub(super) fn shown(&self, now: Timestamp) -> String {
        let names: Vec<String> = self.names.iter().take(8).map(|name| escape(name.as_bytes(), 100)).collect();
        let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
        let day = day(self.not_after);
        if self.not_after < now {
            return format!("for {names}; it has expired on {day}");
        }
        let days = self.not_after.since(now).as_secs() / (24 * 60 * 60);
        format!("for {names}; good until {day} ({days} days)")
    }
}

/// A day, for people.
pub(super) fn day(at: Timestamp) -> String {
    let seconds = i64::try_from(at.seconds()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "a day far away".to_owned(), |at| at.strftime("%F").to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    #[test]
    fn a_chain_is_seen_as_clients_see_it() {
        let mut authority = params("authority.test");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let leaf = params("*.Example.org").signed_by(&KeyPair::generate().unwrap(), &authority).unwrap();
        let (leaf, authority) = (leaf.der().clone(), authority.der().clone());

        let whole = Chain::read(&[leaf.clone(), authority.clone()]).unwrap();
        assert!(whole.in_order && !whole.self_signed && !whole.is_weak(), "{whole:?}");
        assert_eq!((whole.length, &whole.names[..]), (2, &["*.example.org".to_owned()][..]));
        assert!(whole.is_for("MX.example.org."));
        assert!(!whole.is_for("example.org") && !whole.is_for("a.mx.example.org"));

        let turned = Chain::read(&[authority.clone(), leaf.clone()]).unwrap();
        assert!(!turned.in_order && turned.self_signed, "{turned:?}");
        let broken = Chain::read(&[leaf, CertificateDer::from(b"x".to_vec())]).unwrap();
        assert!(!broken.in_order, "{broken:?}");
        assert_eq!(Chain::read(&[]), None);
        assert_eq!(Chain::read(&[CertificateDer::from(b"x".to_vec())]), None);
    }

    #[test]
    fn its_end_is_told_in_days() {
        let chain = Chain {
            names: vec!["mx.test".to_owned(), "\u{1b}".to_owned()],
            not_before: Timestamp::default(),
            not_after: Timestamp::from_seconds(1_800_000_000),
            length: 1,
            self_signed: false,
            in_order: true,
            rsa_bits: Some(1024),
        };
        assert!(chain.is_weak());
        let now = Timestamp::from_seconds(1_800_000_000 - 2 * 86_400);
        assert_eq!(chain.shown(now), "for mx.test, \\x1B; good until 2027-01-15 (2 days)");
        let later = Timestamp::from_seconds(1_800_000_001);
        assert_eq!(chain.shown(later), "for mx.test, \\x1B; it has expired on 2027-01-15");
    }
}
