//! The socket in the file system, by which operators of this host reach gatepost.
//!
//! Whoever may open it may do everything: the file's mode is the permission. It is made under another name and given its
//! mode and group before it gets its own, so that it is never there with wrong ones. One that a process left behind which
//! was killed is replaced; one at which somebody listens is not, nor is anything that is no socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

use crate::control::who;

/// Owner and group may use it.
const MODE: u32 = 0o660;

/// How long whoever listens there already has to take a connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CannotOpen {
    /// Another process listens there.
    #[error(
        "{0} is in use: another gatepost runs; stop it first, or give this one another path in `socket` of [control]"
    )]
    InUse(PathBuf),
    /// There is something else.
    #[error("{0} is there and is no socket; move it away, or choose another path in `socket` of [control]")]
    Taken(PathBuf),
    /// There is no such group.
    #[error("there is no group {0:?} on this host; make it (groupadd --system {0}), or correct `group` in [control]")]
    NoGroup(String),
    /// The group cannot be given.
    #[error(
        "cannot give {path} to the group {group:?}: {error}; the user that gatepost runs as has to be in it \
         (SupplementaryGroups= in its unit)"
    )]
    NotInGroup {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: String,
        /// Why.
        error: io::Error,
    },
    /// The system does not let us.
    #[error("cannot open {path}: {error}; its folder has to be there and writable, see `socket` in [control]")]
    System {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The open socket. Its file is taken away when this is dropped, if it is still the same.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Which file it is: device and number.
    file: Option<(u64, u64)>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the socket at `path`, for the members of `group` too, if one is given.
pub async fn open(path: &Path, group: Option<&str>) -> Result<(UnixListener, Socket), CannotOpen> {
    let system = |error| CannotOpen::System { path: path.to_owned(), error };
    let gid = group.map(|name| who::group(name).ok_or_else(|| CannotOpen::NoGroup(name.to_owned()))).transpose()?;
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(CannotOpen::Taken(path.to_owned())),
        Ok(_) if is_listening(path).await => return Err(CannotOpen::InUse(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(error)),
    }
    let mut first = path.as_os_str().to_owned();
    first.push(format!(".{}", std::process::id()));
    let first = PathBuf::from(first);
    let _ = fs::remove_file(&first);
    let listener = UnixListener::bind(&first).map_err(system)?;
    let opened = || {
        if let (Some(gid), Some(group)) = (gid, group) {
            chown(&first, None, Some(gid)).map_err(|error| CannotOpen::NotInGroup {
                path: path.to_owned(),
                group: group.to_owned(),
                error,
            })?;
        }
        fs::set_permissions(&first, Permissions::from_mode(MODE)).map_err(system)?;
        fs::rename(&first, path).map_err(system)
    };
    if let Err(error) = opened() {
        let _ = fs::remove_file(&first);
        return Err(error);
    }
    Ok((listener, Socket { path: path.to_owned(), file: identity(path) }))
}

/// Whether anybody listens there. Who is too busy to take a connection does.
async fn is_listening(path: &Path) -> bool {
    match tokio::time::timeout(PATIENCE, UnixStream::connect(path)).await {
        Ok(Err(error)) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
        Ok(Ok(_)) | Err(_) => true,
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, socket) = open(&path, Some("root")).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert!(matches!(open(&path, None).await, Err(CannotOpen::InUse(_))));
        drop((listener, socket));
        assert!(!path.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    #[tokio::test]
    async fn what_was_left_behind_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as after a kill");
        let (_listener, socket) = open(&path, None).await.unwrap();
        // Somebody has put another one there meanwhile.
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(open(&file, None).await, Err(CannotOpen::Taken(_))));
        assert!(matches!(open(&dir.path().join("no/s"), None).await, Err(CannotOpen::System { .. })));
        assert!(matches!(open(&dir.path().join("t"), Some("no such group")).await, Err(CannotOpen::NoGroup(_))));
    }
}
