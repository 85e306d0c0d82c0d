//! What can go wrong with the file, told apart by what is to be done about it.

use std::any::Any;
use std::fmt::Display;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use super::FORMAT;

/// The most characters of a reason that are shown.
const REASON: usize = 300;

/// Linux's number for an error of the device itself.
const EIO: i32 = 5;

/// Why the file could not be opened, read or written.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not what was written: set it aside.
    Damaged(String),
    /// Another process has it.
    Locked,
    /// A newer gatepost wrote it.
    Newer(u32),
    /// A folder, a device, a pipe.
    NotAFile,
    /// It is no longer at its place.
    Gone,
    /// The system does not let us, or has no room.
    Io(io::Error),
    /// Not the file: whoever knows what changed.
    Source(String),
}

impl Fault {
    /// True if there is no room left, of one kind or another.
    pub(super) fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge))
    }

    /// What an operator is told.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Damaged(reason) => reason.clone(),
            Self::Locked => "another process has it open".to_owned(),
            Self::Newer(found) => format!("it has format {found}; this gatepost knows {FORMAT}"),
            Self::NotAFile => "it is not a file".to_owned(),
            Self::Gone => "it was moved or removed".to_owned(),
            Self::Io(error) => tidy(error),
            Self::Source(reason) => format!("fault of gatepost: {reason}"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        // A sector that cannot be read is damage, and so is an end that comes too soon.
        let damage = matches!(error.kind(), InvalidData | UnexpectedEof) || error.raw_os_error() == Some(EIO);
        if damage { Self::Damaged(tidy(error)) } else { Self::Io(error) }
    }
}

/// All of redb's errors come here by way of its one.
pub(super) fn fault(error: impl Into<redb::Error>) -> Fault {
    match error.into() {
        redb::Error::Io(error) => error.into(),
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Fault::Locked,
        redb::Error::PreviousIo => Fault::Io(io::Error::other("an earlier error of the disk")),
        other => Fault::Damaged(tidy(other)),
    }
}

/// Does `act`; that it panics is damage too. redb trusts what it reads in some places.
pub(super) fn guarded<T>(act: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    panic::catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|thrown| Err(Fault::Damaged(words_of(&*thrown))))
}

/// Does what is not the file's: asks the source.
pub(super) fn guarded_source<T>(act: impl FnOnce() -> T) -> Result<T, Fault> {
    panic::catch_unwind(AssertUnwindSafe(act)).map_err(|thrown| Fault::Source(words_of(&*thrown)))
}

fn words_of(thrown: &(dyn Any + Send)) -> String {
    let words = thrown.downcast_ref::<&str>().copied().or_else(|| thrown.downcast_ref::<String>().map(String::as_str));
    tidy(format_args!("panicked: {}", words.unwrap_or("without a word")))
}

/// One line, of bounded length, without control characters: some of it may come from the file.
fn tidy(reason: impl Display) -> String {
    reason.to_string().chars().take(REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Why gatepost cannot start with its file.
#[derive(Debug, thiserror::Error)]
pub enum CannotOpen {
    /// Another process has it.
    #[error(
        "another process has the ledger's file {0} open: does another gatepost run here? Stop it (`fuser -v {0}` names \
         it), or give this one a `path` of its own in [ledger]"
    )]
    Locked(PathBuf),
    /// A newer gatepost wrote it.
    #[error(
        "the ledger's file {path} has format {found}, and this gatepost knows {FORMAT}: it was written by a newer one, \
         and is left as it is. Run the newer gatepost again, or move the file away to begin with nothing remembered"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A folder, a device, a pipe.
    #[error("the ledger's file {0} is not a file: let `path` in [ledger] name one, or take away what is there")]
    NotAFile(PathBuf),
    /// The system does not let us.
    #[error("cannot open the ledger's file {path}: {reason}; {remedy}")]
    Denied {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
        /// What helps.
        remedy: String,
    },
}

impl CannotOpen {
    /// What stops the start, of what can be wrong with the file at `path`.
    pub(super) fn of(path: &Path, fault: &Fault) -> Self {
        let path = path.to_owned();
        match fault {
            Fault::Locked => Self::Locked(path),
            Fault::Newer(found) => Self::Newer { path, found: *found },
            Fault::NotAFile => Self::NotAFile(path),
            other => Self::Denied { remedy: remedy(&path, other), reason: other.reason(), path },
        }
    }
}

fn remedy(path: &Path, fault: &Fault) -> String {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let folder = path.parent().unwrap_or(Path::new("/")).display();
    let user = rustix::process::geteuid().as_raw();
    let kind = if let Fault::Io(error) = fault { error.kind() } else { io::ErrorKind::Other };
    match kind {
        NotFound | NotADirectory => format!(
            "make the folder {folder} and give it to the user that gatepost runs as (uid {user}), or let systemd do it: \
             StateDirectory=gatepost in the unit"
        ),
        PermissionDenied => format!(
            "gatepost runs as uid {user}, which needs leave to read and write the file and its folder {folder}: give both \
             to it, or let systemd do it: StateDirectory=gatepost in the unit"
        ),
        ReadOnlyFilesystem => format!(
            "{folder} can only be read: mount it for writing, or, under ProtectSystem=strict, let systemd open it: \
             StateDirectory=gatepost in the unit"
        ),
        _ => "mend that, or name another file with `path` in [ledger]; path = \"memory\" does without".to_owned(),
    }
}

/// Why a file cannot be read while no gatepost runs.
#[derive(Debug, thiserror::Error)]
pub enum CannotRead {
    /// As at a start.
    #[error(transparent)]
    Open(#[from] CannotOpen),
    /// There is none.
    #[error("there is no ledger's file {0}: see `path` in [ledger]")]
    Missing(PathBuf),
    /// It is damaged, or something else. It is left where it is.
    #[error("{path} is damaged, or no ledger of gatepost: {reason}; gatepost sets it aside when it starts")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}
