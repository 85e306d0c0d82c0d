//! One file of networks: noticing that it changed, reading it, and what is wrong with it.

use std::fmt;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::policy::network::{self, BadLine};

/// The largest file, and the most networks in one.
const MOST_BYTES: u64 = 64 << 20;
const MOST_NETWORKS: usize = 1_000_000;

/// How many bad lines are told one by one.
const TOLD: usize = 20;

/// What is wrong with a file.
#[derive(Debug)]
pub enum Trouble {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is no file: a folder, a pipe.
    NotAFile,
    /// It is too large.
    TooLarge,
    /// It has too many networks.
    TooMany,
    /// Lines of it are no networks.
    BadLines {
        /// The first of them.
        first: Vec<BadLine>,
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => {
                write!(f, "it cannot be read: {reason}; see to whoever fetches it, and to its permissions")
            }
            Self::NotAFile => f.write_str("it is no file; name a file with one network a line"),
            Self::TooLarge => write!(f, "it is larger than {} MiB; split it", MOST_BYTES >> 20),
            Self::TooMany => write!(f, "it has more than {MOST_NETWORKS} networks; split it"),
            Self::BadLines { first, count } => {
                write!(f, "{count} lines of it are no networks; ")?;
                for (at, bad) in first.iter().enumerate() {
                    write!(f, "{}{bad}", if at > 0 { "; " } else { "" })?;
                }
                let more = count - first.len().min(*count);
                if more > 0 { write!(f, "; and {more} more") } else { Ok(()) }
            }
        }
    }
}

/// Reads a file: its networks, and what is wrong with it. Where lines are wrong, the others are there all the same.
pub fn read(path: &Path) -> (Vec<IpNet>, Option<Trouble>) {
    match text(path) {
        Ok((text, _)) => parse(&text),
        Err(trouble) => (Vec::new(), Some(trouble)),
    }
}

/// What is in a file, and what it was like when it had been read.
fn text(path: &Path) -> Result<(String, Stamp), Trouble> {
    // Opening a pipe would wait for somebody to write.
    if !fs::metadata(path).map_err(Trouble::Unreadable)?.is_file() {
        return Err(Trouble::NotAFile);
    }
    let file = fs::File::open(path).map_err(Trouble::Unreadable)?;
    let mut bytes = Vec::new();
    (&file).take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(Trouble::Unreadable)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Trouble::TooLarge);
    }
    let stamp = Stamp::of(&file.metadata().map_err(Trouble::Unreadable)?);
    // Comments may be in any character set.
    let text = String::from_utf8(bytes).unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned());
    Ok((text, stamp))
}

fn parse(text: &str) -> (Vec<IpNet>, Option<Trouble>) {
    let (mut networks, mut first, mut count) = (Vec::new(), Vec::new(), 0);
    for entry in network::lines(text) {
        match entry {
            Ok(_) if networks.len() == MOST_NETWORKS => return (networks, Some(Trouble::TooMany)),
            Ok(network) => networks.push(network),
            Err(bad) => {
                count += 1;
                if first.len() < TOLD {
                    first.push(bad);
                }
            }
        }
    }
    (networks, (count > 0).then_some(Trouble::BadLines { first, count }))
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino(), size: file.size(), modified: (file.mtime(), file.mtime_nsec()) }
    }
}

/// What came of looking at a file.
#[derive(Debug)]
pub(super) enum Took {
    /// It is as it was, or not yet at rest.
    Nothing,
    /// It was read, and its networks are new.
    New,
    /// It cannot be used; its networks are as before. Told once for each change.
    Trouble(Trouble),
    /// Part of it can be used, and there was nothing before.
    Part(Trouble),
}

/// A file that is looked at again and again.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    networks: Vec<IpNet>,
    /// It has been in force.
    begun: bool,
    /// What it was when it was last looked at, and when it was last read. Nothing where it could not be looked at.
    seen: Option<Stamp>,
    read: Option<Stamp>,
    /// It was told that it is not there.
    away: bool,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, networks: Vec::new(), begun: false, seen: None, read: None, away: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Looks at it once; reads it if it changed since it was read, and has been at rest since it was looked at last.
    pub(super) fn look(&mut self) -> Took {
        let stamp = match fs::metadata(&self.path) {
            Ok(file) => Stamp::of(&file),
            Err(reason) => return self.is_away(Trouble::Unreadable(reason)),
        };
        let at_rest = self.seen.replace(stamp) == Some(stamp) || !self.begun;
        if self.read == Some(stamp) || !at_rest {
            return Took::Nothing;
        }
        match text(&self.path) {
            Ok((_, after)) if after != stamp && self.begun => Took::Nothing,
            Ok((text, after)) => {
                (self.read, self.away) = (Some(after), false);
                self.take(parse(&text))
            }
            Err(trouble @ Trouble::Unreadable(_)) => self.is_away(trouble),
            Err(trouble) => {
                (self.read, self.away) = (Some(stamp), false);
                Took::Trouble(trouble)
            }
        }
    }

    fn take(&mut self, (networks, trouble): (Vec<IpNet>, Option<Trouble>)) -> Took {
        let begun = self.begun;
        match trouble {
            Some(trouble) if begun || networks.is_empty() => return Took::Trouble(trouble),
            _ => (self.networks, self.begun) = (networks, true),
        }
        trouble.map_or(Took::New, Took::Part)
    }

    fn is_away(&mut self, trouble: Trouble) -> Took {
        (self.seen, self.read) = (None, None);
        if std::mem::replace(&mut self.away, true) { Took::Nothing } else { Took::Trouble(trouble) }
    }
}
