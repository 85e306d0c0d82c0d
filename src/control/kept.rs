//! What a gatepost that does not run has kept in its file, out and in.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::answer::Imported;
use super::state::{Lines, line_of};
use crate::clock::Clock;
use crate::ledger::embedded::{self, CannotOpen, CannotRead, Place};
use crate::ledger::{self, Kept, Ledger};
use crate::policy::guard::Rules;

/// The file under systemd, where nothing else is said.
const USUAL: &str = "/var/lib/gatepost/ledger.redb";

/// How long the last write may take.
const LAST_WRITE: Duration = Duration::from_secs(60);

/// Where the file is, from outside the service.
pub fn place(place: &Place) -> Option<PathBuf> {
    match place {
        Place::At(path) => Some(path.clone()),
        Place::Given => Some(PathBuf::from(USUAL)).filter(|path| path.exists()),
        Place::Memory => None,
    }
}

/// Shows all that is in the file, line by line; failures are counted by `rules`. How many entries there are.
pub fn export(path: &Path, rules: &Rules, clock: &Clock, mut show: impl FnMut(&str)) -> Result<u64, CannotRead> {
    let now = clock.now();
    embedded::read(path, |table, key, line| {
        if let (Ok(key), Ok(line)) = (std::str::from_utf8(key), std::str::from_utf8(line)) {
            show(&line_of(table.into(), key, line, rules, now));
        }
    })
}

/// Why nothing could be brought in.
#[derive(Debug, thiserror::Error)]
pub enum CannotImport {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] CannotOpen),
    /// What was to be brought in could not be read.
    #[error("cannot read it: {0}")]
    Source(io::Error),
    /// The file cannot be written.
    #[error("cannot write {0}; is the disk full?")]
    Write(PathBuf),
    /// The system does not let us.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Brings lines into the file, merged with what is there; `next` gives some of their bytes, and nothing at the end.
pub fn import(
    path: &Path,
    settings: ledger::Settings,
    clock: &Clock,
    mut next: impl FnMut() -> Option<io::Result<tokio_util::bytes::Bytes>>,
) -> Result<Imported, CannotImport> {
    let (ledger, now) = (Arc::new(Ledger::open(settings)), clock.now());
    let opened = Kept::open(&ledger, embedded::Settings::at(path), clock)?;
    let store = opened.start(Kept::of(Arc::clone(&ledger))).map_err(CannotImport::Thread)?;
    let decide = |network, decision| drop(ledger.decisions().decide(network, decision));
    let mut lines = Lines::into(&ledger, decide, now);
    while let Some(bytes) = next() {
        lines.feed(&bytes.map_err(CannotImport::Source)?);
    }
    let imported = lines.end();
    if store.stop(LAST_WRITE) { Ok(imported) } else { Err(CannotImport::Write(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::ClientKey;
    use crate::ledger::Kind;
    use crate::policy::record::Record;
    use crate::screen::{Standing, Test};
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

    #[test]
    fn what_is_brought_into_the_file_comes_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, clock, rules) = (dir.path().join("ledger"), Clock::held(NOW), Rules::default());
        let line = |n: u32, seconds: u64| {
            let mut standing = Standing::stranger();
            standing.pass(Test::Pregreet, NOW.plus(Duration::from_secs(seconds)));
            line_of(Kind::Standing, &ClientKey::V4(n).word(), &standing.line(), &rules, NOW)
        };
        let bring = |lines: &[String]| {
            let mut text = Some(Ok(lines.join("\n").into_bytes().into()));
            import(&path, ledger::Settings::default(), &clock, || text.take()).unwrap()
        };
        let told = bring(&[line(1, 60), line(2, 60), "rubbish".into()]);
        assert_eq!((told.taken, told.refused), (2, 1));
        assert_eq!(bring(&[line(2, 30), line(3, 99)]).taken, 2);
        let mut lines = Vec::new();
        assert_eq!(export(&path, &rules, &clock, |line| lines.push(line.to_owned())).unwrap(), 3);
        lines.sort();
        assert_eq!(lines, [line(1, 60), line(2, 60), line(3, 99)]);
        assert!(export(&dir.path().join("none"), &rules, &clock, |_| {}).is_err());
    }
}
