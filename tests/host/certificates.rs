//! A small certification authority with a handful of certificates, made by `certs/make`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::public_dir;

/// The files; they go with the value.
pub struct Certificates {
    dir: TempDir,
}

impl Certificates {
    /// Makes a new authority and its certificates.
    #[track_caller]
    pub fn make() -> Self {
        let dir = public_dir();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make");
        let made = Command::new(script).arg(dir.path()).output().expect("certs/make runs");
        assert!(made.status.success(), "certs/make: {}", String::from_utf8_lossy(&made.stderr));
        Self { dir }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The authority's own certificate: what a client has to trust.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The certificate of `name`, with its chain: `mx.test`, `other.test` or `expired`.
    pub fn chain(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.pem"))
    }

    /// The private key of `name`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.key"))
    }
}
