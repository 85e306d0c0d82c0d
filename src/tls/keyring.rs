//! A gate's certificates: which one a client is shown, and how they are swapped when the files change.
//!
//! ```text
//!               ┌─ the files are as they were ──────────────► Unchanged
//!  look again ──┼─ they have changed, and all are good ─────► Swapped: in force with the next handshake
//!               ├─ they have changed, and one has expired, ─► Kept: told once; the one before it stays in force, and
//!               │  which the one before it has not            the others are swapped
//!               └─ they have changed, and one is broken ────► Broken: told once; those before stay in force
//! ```
//!
//! Where one is broken it is all or nothing: a certificate whose key has not been written yet is never shown. One that has
//! expired, or is not good yet, can be shown where there is no better: mail servers mostly take it, and without TLS, or
//! without gatepost, people would be worse off. It never takes the place of a good one, not when the files are looked at
//! again and not when the whole configuration is ([`Keyring::keep_what_is_good`]).

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::anyone::Anyone;
use super::certificate::{Certificate, Problem};
use super::{ClientCertificate, Settings, provider};
use crate::time::Timestamp;

/// All that is wrong with the files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// What came of looking at the files again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reload {
    /// They are as they were when somebody last looked.
    Unchanged,
    /// They have changed, and what they hold now is in force.
    Swapped,
    /// They have changed, and these certificates are not good now, as those before were: they stay in force. The others are
    /// as the files have them now.
    Kept(Problems),
    /// They have changed and cannot be used; what was in force stays so.
    Broken(Problems),
}

/// When a certificate ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// The first name that it is for.
    pub name: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// A gate's certificates, shared by all its visits.
pub struct Keyring {
    settings: Settings,
    config: Arc<ServerConfig>,
    ring: Arc<Ring>,
    /// The files as they were when somebody last looked. The lock makes one of two who look at once wait.
    looked: Mutex<Vec<Stamp>>,
}

impl Keyring {
    /// Reads the files, none of which may be broken. Whether they are good now is for [`out_of_date`](Self::out_of_date) to
    /// tell.
    pub fn load(settings: Settings) -> Result<Self, Problems> {
        let looked = stamps(&settings);
        let ring = Arc::new(Ring(ArcSwap::from_pointee(read(&settings)?)));
        let config = configure(&settings, Arc::clone(&ring)).map_err(|error| {
            let file = settings.certificates.first().map(|pair| pair.chain.clone()).unwrap_or_default();
            let remedy = "this machine gives no randomness, or the program is built without what TLS needs".to_owned();
            Problems(vec![Problem { file, cause: format!("TLS cannot be set up: {error}"), remedy }])
        })?;
        Ok(Self { settings, config: Arc::new(config), ring, looked: Mutex::new(looked) })
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Looks whether the files have changed, and takes what they hold now, but for what is worse than what is in force.
    /// Reads files: not for a thread on which sessions wait.
    pub fn reload_if_changed(&self, now: Timestamp) -> Reload {
        let mut looked = self.looked.lock();
        let stamps = stamps(&self.settings);
        if *looked == stamps {
            return Reload::Unchanged;
        }
        *looked = stamps;
        match read(&self.settings) {
            Ok(mut certificates) => {
                let kept = keep_good(&mut certificates, &self.ring.0.load(), now);
                self.ring.0.store(Arc::new(certificates));
                if kept.is_empty() { Reload::Swapped } else { Reload::Kept(Problems(kept)) }
            }
            Err(problems) => Reload::Broken(problems),
        }
    }

    /// Where a certificate of these is not good at `now`, and the one that `before` holds of the same files is, that one is
    /// taken over. Why those in the files are not good is returned.
    pub fn keep_what_is_good(&self, before: &Self, now: Timestamp) -> Vec<Problem> {
        // Not while the files are looked at: one of the two would undo the other.
        let _looking = self.looked.lock();
        let mut certificates = Vec::clone(&self.ring.0.load());
        let kept = keep_good(&mut certificates, &before.ring.0.load(), now);
        if !kept.is_empty() {
            self.ring.0.store(Arc::new(certificates));
        }
        kept
    }

    /// Which of those in force are not good at `now`, and why.
    pub fn out_of_date(&self, now: Timestamp) -> Vec<Problem> {
        self.ring.0.load().iter().filter_map(|certificate| certificate.out_of_date(now)).collect()
    }

    /// When each certificate ends.
    pub fn expiries(&self) -> Vec<Expiry> {
        let of = |certificate: &Arc<Certificate>| Expiry {
            name: certificate.name().to_owned(),
            not_after: certificate.not_after(),
        };
        self.ring.0.load().iter().map(of).collect()
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// Without the keys.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn read(settings: &Settings) -> Result<Vec<Arc<Certificate>>, Problems> {
    let mut problems = Vec::new();
    let mut certificates = Vec::with_capacity(settings.certificates.len());
    for pair in &settings.certificates {
        match Certificate::read(pair) {
            Ok(certificate) => certificates.push(Arc::new(certificate)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(certificates) } else { Err(Problems(problems)) }
}

/// Puts those `before` that are good at `now` in the place of those that were read from the same files and are not: why
/// they are not.
fn keep_good(read: &mut [Arc<Certificate>], before: &[Arc<Certificate>], now: Timestamp) -> Vec<Problem> {
    let mut kept = Vec::new();
    for certificate in read {
        let Some(problem) = certificate.out_of_date(now) else { continue };
        let good = |old: &&Arc<Certificate>| old.pair() == certificate.pair() && old.out_of_date(now).is_none();
        if let Some(old) = before.iter().find(good) {
            *certificate = Arc::clone(old);
            kept.push(problem);
        }
    }
    kept
}

fn configure(settings: &Settings, ring: Arc<Ring>) -> Result<ServerConfig, rustls::Error> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match settings.client_certificate {
        ClientCertificate::Off => builder.with_no_client_auth(),
        ClientCertificate::Ask => builder.with_client_cert_verifier(Arc::new(Anyone(provider))),
    };
    let mut config = builder.with_cert_resolver(ring);
    // Those that are offered here are all good, and a client with another order had its reasons: slow AES, mostly. But a
    // server that leaves the choice to clients is marked down by those who judge mail servers from outside.
    config.ignore_client_order = true;
    // Tickets keep a session at the client; of those that we would have to keep, clients could make us keep many.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// What rustls asks which certificate to show.
#[derive(Debug)]
struct Ring(ArcSwap<Vec<Arc<Certificate>>>);

impl ResolvesServerCert for Ring {
    /// Among those for the name that the client asks for, or else among all, the first whose kind of key it takes; the
    /// first, if it takes none: then it is for the handshake to fail.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.0.load();
        let takes =
            |certificate: &&Arc<Certificate>| certificate.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let asked = hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let named = || certificates.iter().filter(|one| asked.as_ref().is_some_and(|name| one.is_for(name)));
        let chosen = named()
            .find(takes)
            .or_else(|| named().next())
            .or_else(|| certificates.iter().find(takes))
            .or_else(|| certificates.first());
        chosen.map(|certificate| Arc::clone(&certificate.key))
    }
}

/// What tells a file from another one at the same path, and from itself before it was written to or given to somebody
/// else; none if there is no file.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamps(settings: &Settings) -> Vec<Stamp> {
    let files = settings.certificates.iter().flat_map(|pair| [&pair.chain, &pair.key]);
    files.map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Stamp {
    let about = fs::metadata(file).ok()?;
    Some((about.dev(), about.ino(), about.size(), about.ctime(), about.ctime_nsec()))
}
