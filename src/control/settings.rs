//! Where operators reach a running gatepost, and what they have to show.

use std::path::{Path, PathBuf};

use super::Token;

/// The socket under systemd, and where the command line looks for one unless somebody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/gatepost/gatepost.sock";

/// The socket's name in a folder that the service manager provides.
const NAME: &str = "gatepost.sock";

/// Where the socket is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Socket {
    /// In the folder that the service manager provides, if it does.
    #[default]
    Provided,
    /// There.
    At(PathBuf),
    /// There is none.
    Off,
}

/// What the file says of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Where the socket is.
    pub socket: Socket,
    /// The group, by name or number, that may use it; that of the process if nothing.
    pub group: Option<String>,
    /// What has to be shown to change anything over TCP; nobody can if nothing.
    pub token: Option<Token>,
}

impl Socket {
    /// Where gatepost opens it; `provided` is the value of RUNTIME_DIRECTORY: folders, parted by colons.
    pub fn to_open(&self, provided: Option<&str>) -> Option<PathBuf> {
        match self {
            Self::At(path) => Some(path.clone()),
            Self::Off => None,
            Self::Provided => {
                let folder = provided?.split(':').next().filter(|folder| folder.starts_with('/'))?;
                Some(Path::new(folder).join(NAME))
            }
        }
    }

    /// Where whoever wants to speak with gatepost looks for it.
    pub fn to_ask(&self) -> Option<PathBuf> {
        match self {
            Self::At(path) => Some(path.clone()),
            Self::Off => None,
            Self::Provided => Some(PathBuf::from(DEFAULT_SOCKET)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_where_the_file_says_or_where_the_service_manager_does() {
        let at = |text: &str| Some(PathBuf::from(text));
        let given = Socket::At("/tmp/s".into());
        assert_eq!((given.to_open(Some("/run/x")), given.to_ask()), (at("/tmp/s"), at("/tmp/s")));
        assert_eq!((Socket::Off.to_open(Some("/run/x")), Socket::Off.to_ask()), (None, None));
        let provided = Socket::Provided;
        assert_eq!(provided.to_open(Some("/run/gatepost:/run/other")), at(DEFAULT_SOCKET));
        assert_eq!((provided.to_open(None), provided.to_open(Some(""))), (None, None));
        assert_eq!(provided.to_ask(), at(DEFAULT_SOCKET));
    }
}
