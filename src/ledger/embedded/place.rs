//! Where the file is: what the configuration says, or what systemd gives.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the file is called in a folder that systemd gives.
const NAME: &str = "ledger.redb";

/// Where systemd says which folder it gives.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// What the configuration says of the file's place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Place {
    /// Nothing: in the folder that systemd gives (`StateDirectory=`), or, without one, nowhere.
    #[default]
    Given,
    /// This file.
    At(PathBuf),
    /// Nowhere, and it was said so.
    Memory,
}

impl Place {
    /// The file, with the environment looked at. That there is none is a warning, unless it was said so.
    pub fn find(&self) -> Option<PathBuf> {
        let found = self.path(env::var_os(STATE_DIRECTORY).as_deref());
        if found.is_none() && *self == Self::Given {
            tracing::warn!(
                "what is remembered is kept in memory alone, and a restart forgets it: set `path` in [ledger], or let \
                 systemd give a folder: StateDirectory=gatepost in the unit"
            );
        }
        found
    }

    /// The file; none if memory is all there is. `state_directory` is the environment's `STATE_DIRECTORY`, in which
    /// systemd writes several folders with colons between them.
    pub fn path(&self, state_directory: Option<&OsStr>) -> Option<PathBuf> {
        match self {
            Self::At(path) => Some(path.clone()),
            Self::Memory => None,
            Self::Given => {
                let first = state_directory?.to_str()?.split(':').next()?;
                Some(Path::new(first)).filter(|folder| folder.is_absolute()).map(|folder| folder.join(NAME))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_before_the_folder_that_systemd_gives() {
        let at = |path: &str| Some(PathBuf::from(path));
        let given = Some("/var/lib/gatepost");
        for (place, environment, path) in [
            (Place::Given, given, at("/var/lib/gatepost/ledger.redb")),
            (Place::Given, Some("/var/lib/gatepost:/var/lib/other"), at("/var/lib/gatepost/ledger.redb")),
            (Place::Given, None, None),
            (Place::Given, Some(""), None),
            (Place::Given, Some("relative"), None),
            (Place::At("/srv/ledger".into()), given, at("/srv/ledger")),
            (Place::At("/srv/ledger".into()), None, at("/srv/ledger")),
            (Place::Memory, given, None),
            (Place::Memory, None, None),
        ] {
            assert_eq!(place.path(environment.map(OsStr::new)), path, "{place:?} {environment:?}");
        }
    }
}
