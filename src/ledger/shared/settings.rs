//! How the shared store is reached, and how long it is waited for.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

/// Where a server or a sentinel is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A name or an address, and a port.
    Tcp(String, u16),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What stands behind the addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One server. Where more than one address is given, the first that answers is taken.
    Single,
    /// Sentinels, which know who the master is.
    Sentinel {
        /// The name that they know it by.
        master: String,
    },
    /// Nodes of a cluster, which know the others.
    Cluster,
}

/// A password. It is not printed, and wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `secret`.
    pub fn new(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// How TLS is spoken with the servers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// The authority that their certificates are from, in PEM; those that the machine trusts if nothing.
    pub authority: Option<Vec<u8>>,
}

/// How the shared store is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What stands behind the addresses.
    pub kind: Kind,
    /// The servers, or the sentinels.
    pub servers: Vec<Address>,
    /// The user (of the store's access list); the store's default user if nothing.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Whether TLS is spoken, with servers and sentinels alike.
    pub tls: Option<Tls>,
    /// The number of the database; a cluster has only 0.
    pub database: u32,
    /// What all keys and the channel begin with.
    pub prefix: String,
    /// The name of this host, for the others.
    pub node: String,
    /// How long somebody waits for a verb before he decides alone.
    pub deadline: Duration,
    /// How many changes wait for the store at most.
    pub queue: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kind: Kind::Single,
            servers: vec![Address::Tcp("127.0.0.1".to_owned(), 6379)],
            user: None,
            password: None,
            tls: None,
            database: 0,
            prefix: "gatepost".to_owned(),
            node: "gatepost".to_owned(),
            deadline: Duration::from_millis(50),
            queue: 100_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let settings = Settings { password: Some(Secret::new("sesame".to_owned())), ..Settings::default() };
        let printed = format!("{settings:?}");
        assert!(printed.contains("[secret]") && !printed.contains("sesame"), "{printed}");
    }

    #[test]
    fn addresses_are_shown_as_they_are_written() {
        for (address, shown) in [
            (Address::Tcp("10.0.0.1".into(), 6379), "10.0.0.1:6379"),
            (Address::Tcp("2001:db8::1".into(), 6379), "[2001:db8::1]:6379"),
            (Address::Unix("/run/valkey.sock".into()), "unix:/run/valkey.sock"),
        ] {
            assert_eq!(address.to_string(), shown);
        }
    }
}
