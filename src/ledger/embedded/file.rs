//! The file itself: a redb database with a table for each kind of record, and one that says whose it is.
//!
//! Each commit is in two phases, so that after `kill -9` the last commit is known to be whole: what does not fit its
//! checksums is damage, never a commit that was under way. redb could record which pages are taken as well, and open
//! faster after a kill; but that doubles what a commit costs, and each page is looked at when a file is opened anyway.
//!
//! A new file is made under another name and moved to its place when it is whole, so what is found there without an end,
//! or with nothing in it, is damaged too.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
    WriteTransaction,
};

use super::aside::sync_folder;
use super::fault::{Fault, fault, guarded};
use super::{FORMAT, Table};

/// The most memory for pages. Writing needs few of them, and reading comes to each but once.
const CACHE: usize = 32 << 20;

/// Whose file it is.
const SIGN: TableDefinition<'static, &str, u32> = TableDefinition::new("gatepost");
const FORMAT_KEY: &str = "format";

/// Is shown each record.
pub(super) type Visit<'v> = dyn FnMut(Table, &[u8], &[u8]) + 'v;

/// A table that is open for writing.
type Records<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

const fn records(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Whether each page's checksum is looked at when a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// All of them; this needs a little room on the disk.
    AtAll,
    /// Only as they are needed.
    AsNeeded,
}

/// A file that is open, and locked against other processes.
#[derive(Debug)]
pub(super) struct File {
    database: Database,
    path: PathBuf,
    identity: (u64, u64),
    /// How long it was after the last commit.
    length: u64,
}

impl File {
    /// Opens the file at `path`; none if there is nothing.
    pub(super) fn open(path: &Path, look: Look) -> Result<Option<Self>, Fault> {
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return folder_of(path).map(|()| None),
            found => found?,
        };
        if !found.is_file() {
            return Err(Fault::NotAFile);
        }
        if found.len() == 0 {
            return Err(Fault::Damaged("it is empty".to_owned()));
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let this = guarded(|| {
            let database = builder(look).create_with_backend(FileBackend::new(file).map_err(fault)?).map_err(fault)?;
            format_of(&database)?;
            let length = fs::metadata(path)?.len();
            Ok(Self { database, path: path.to_owned(), identity: (found.dev(), found.ino()), length })
        })?;
        if found.mode() & 0o077 != 0 {
            // It tells whose mail came from where. Whoever may open it but not change its mode is told nothing.
            _ = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
        }
        Ok(Some(this))
    }

    /// Makes a new file at `path`, where nothing is.
    pub(super) fn begin(path: &Path) -> Result<Self, Fault> {
        let new = beside(path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new)?;
        let made = file.metadata()?;
        let this = guarded(|| {
            let backend = FileBackend::new(file).map_err(fault)?;
            let database = builder(Look::AsNeeded).create_with_backend(backend).map_err(fault)?;
            let transaction = begin_write(&database)?;
            transaction.open_table(SIGN).map_err(fault)?.insert(FORMAT_KEY, FORMAT).map_err(fault)?;
            transaction.commit().map_err(fault)?;
            let length = fs::metadata(&new)?.len();
            Ok(Self { database, path: path.to_owned(), identity: (made.dev(), made.ino()), length })
        });
        let this = this.inspect_err(|_| _ = fs::remove_file(&new))?;
        fs::rename(&new, path)?;
        sync_folder(path);
        Ok(this)
    }

    /// Shows every record to `visit`.
    pub(super) fn each(&self, visit: &mut Visit<'_>) -> Result<(), Fault> {
        guarded(|| each(&self.database, visit))
    }

    /// Writes changes in one transaction, which is on the disk when this returns. With `anew`, nothing else is left.
    /// `write` is called with a pen that takes the changes.
    pub(super) fn commit<T>(
        &mut self,
        anew: bool,
        write: impl FnOnce(&mut Pen<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let done = guarded(|| {
            let transaction = begin_write(&self.database)?;
            if anew {
                for table in Table::ALL {
                    transaction.delete_table(records(table)).map_err(fault)?;
                }
            }
            let done = write(&mut Pen { transaction: &transaction, open: None })?;
            transaction.commit().map_err(fault)?;
            Ok(done)
        })?;
        self.length = fs::metadata(&self.path).map_or(self.length, |found| found.len());
        Ok(done)
    }

    /// Moves what is in the file to its front, and gives the rest back.
    pub(super) fn compact(&mut self) -> Result<(), Fault> {
        guarded(|| self.database.compact().map_err(fault))?;
        self.length = fs::metadata(&self.path)?.len();
        Ok(())
    }

    /// Whether it is still at its place, and nobody cut it short. redb would write on, and not know.
    pub(super) fn is_there(&self) -> Result<(), Fault> {
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) != self.identity => Err(Fault::Gone),
            Ok(found) if found.len() < self.length => Err(Fault::Damaged("it was cut short".to_owned())),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Fault::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// How large it is.
    pub(super) fn bytes(&self) -> u64 {
        self.length
    }

    /// Closes it, whatever state it is in.
    pub(super) fn close(self) {
        _ = guarded(|| self.database.close().map_err(fault));
    }
}

/// Writes into a transaction.
pub(super) struct Pen<'t> {
    transaction: &'t WriteTransaction,
    /// The table of the last change: they come in order, mostly.
    open: Option<(Table, Records<'t>)>,
}

impl Pen<'_> {
    /// The record is this from now on, or no more.
    pub(super) fn put(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) -> Result<(), Fault> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != table) {
            // Only one handle of a table may be open.
            self.open = None;
            self.open = Some((table, self.transaction.open_table(records(table)).map_err(fault)?));
        }
        let Some((_, open)) = &mut self.open else { return Ok(()) };
        match value {
            Some(value) => open.insert(key, value).map(drop).map_err(fault),
            None => open.remove(key).map(drop).map_err(fault),
        }
    }
}

/// Shows every record of the file at `path`, without a change to it, and without need of room on its disk.
pub(super) fn read(path: &Path, visit: &mut Visit<'_>) -> Result<(), Fault> {
    if !fs::metadata(path)?.is_file() {
        return Err(Fault::NotAFile);
    }
    guarded(|| match Builder::new().set_cache_size(CACHE).open_read_only(path) {
        Ok(database) => {
            format_of(&database)?;
            each(&database, visit)
        }
        // It was not closed, and redb wants to write before it reads.
        Err(redb::DatabaseError::RepairAborted) => {
            let database = builder(Look::AtAll).create_with_backend(copy_of(path)?).map_err(fault)?;
            format_of(&database)?;
            each(&database, visit)
        }
        Err(error) => Err(fault(error)),
    })
}

/// The file, in memory.
fn copy_of(path: &Path) -> Result<InMemoryBackend, Fault> {
    let bytes = fs::read(path)?;
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, &bytes)?;
    Ok(copy)
}

fn builder(look: Look) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(look == Look::AtAll);
    builder
}

fn begin_write(database: &Database) -> Result<WriteTransaction, Fault> {
    let mut transaction = database.begin_write().map_err(fault)?;
    transaction.set_durability(Durability::Immediate).map_err(fault)?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

/// Finds out whose file it is, and whether we understand it.
fn format_of(database: &impl ReadableDatabase) -> Result<(), Fault> {
    let foreign = || Fault::Damaged("it is a redb file of another program".to_owned());
    let transaction = database.begin_read().map_err(fault)?;
    let sign = match transaction.open_table(SIGN) {
        Err(TableError::TableDoesNotExist(_)) => return Err(foreign()),
        sign => sign.map_err(fault)?,
    };
    let format = sign.get(FORMAT_KEY).map_err(fault)?.map(|format| format.value());
    match format {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(Fault::Newer(newer)),
        // Formats before this one were never written; when there are, this is where they are brought forward.
        _ => Err(foreign()),
    }
}

fn each(database: &impl ReadableDatabase, visit: &mut Visit<'_>) -> Result<(), Fault> {
    let transaction = database.begin_read().map_err(fault)?;
    for table in Table::ALL {
        let open = match transaction.open_table(records(table)) {
            Err(TableError::TableDoesNotExist(_)) => continue,
            open => open.map_err(fault)?,
        };
        for record in open.iter().map_err(fault)? {
            let (key, value) = record.map_err(fault)?;
            visit(table, key.value(), value.value());
        }
    }
    Ok(())
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// That a file is not there tells nothing of its folder.
fn folder_of(path: &Path) -> Result<(), Fault> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::metadata(folder)?;
    Ok(())
}
