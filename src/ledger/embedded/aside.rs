//! Setting a file aside: out of the way, under a name that says what it is and when that was found out.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::time::Timestamp;

/// The most files of one second.
const MOST: u32 = 1000;

/// Renames the file at `path` to `<name>.damaged-<UTC>`, to a name that nothing has. Answers with its new place.
pub(super) fn set_aside(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    for nth in 1..=MOST {
        let aside = name(path, now, nth);
        if fs::symlink_metadata(&aside).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            fs::rename(path, &aside)?;
            sync_folder(path);
            return Ok(aside);
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn name(path: &Path, now: Timestamp, nth: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".damaged-{}", stamp(now)));
    if nth > 1 {
        name.push(format!("-{nth}"));
    }
    PathBuf::from(name)
}

/// `20261128T204256Z`.
fn stamp(now: Timestamp) -> String {
    let moment = i64::try_from(now.seconds()).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map(|moment| moment.strftime("%Y%m%dT%H%M%SZ").to_string()).unwrap_or_default()
}

/// Sees to it that a new name of a file is on the disk. What cannot be synced is on it a little later.
pub(super) fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_set_aside_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.redb");
        let now = Timestamp::from_seconds(1_700_000_000);
        for nth in ["", "-2", "-3"] {
            fs::write(&path, nth).unwrap();
            let aside = set_aside(&path, now).unwrap();
            assert_eq!(aside, folder.path().join(format!("ledger.redb.damaged-20231114T221320Z{nth}")));
            assert!(!path.exists());
            assert_eq!(fs::read_to_string(aside).unwrap(), nth);
        }
    }
}
