//! Opening the file at the start: what is in it goes into the memory, and what is wrong with it is seen to.

use std::collections::BTreeMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use crate::clock::Clock;

use super::aside::set_aside;
use super::fault::{CannotOpen, CannotRead, Fault};
use super::file::{self, File, Look, Visit};
use super::writer::{Pending, Store};
use super::{Settings, Source, Table};

/// From what size on a file may be compacted.
const LARGE: u64 = 32 << 20;

/// How many times as large as its content a file is when it is compacted. Twice to three times is usual.
const LOOSE: u64 = 6;

/// What a record takes in the file besides its own bytes.
const RECORD: u64 = 16;

/// Is shown each record, and says whether it understands it.
type OnRecord<'r> = dyn FnMut(Table, &[u8], &[u8]) -> bool + 'r;

/// What was noticed when the file was opened. It is in the log already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// There was no file: this is the first start, or somebody took it away.
    Begun,
    /// The file was no good, and another was begun.
    SetAside {
        /// Where it is now.
        aside: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// How many records were read before that was found.
        saved: u64,
    },
    /// Records that nobody understands were left out, and are deleted.
    LeftOut(u64),
    /// Much of the file was free, and was given back.
    Compacted {
        /// How large it was.
        from: u64,
        /// How large it is.
        to: u64,
    },
    /// The disk is full: gatepost starts with what could be read, and writes when there is room.
    WithoutFile {
        /// What the disk says.
        reason: String,
    },
}

/// A file that was opened and read, and is locked; not yet written.
#[derive(Debug)]
pub struct Opened {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) file: Option<File>,
    /// Deletions of what was left out.
    pub(super) pending: Pending,
    /// The file lacks what the memory has.
    pub(super) rewrite: bool,
    pub(super) set_aside: u64,
    notices: Vec<Notice>,
    read: u64,
}

impl Store {
    /// Opens the file and shows each record to `on_record`, which says whether it understands it. Those that it does
    /// not are deleted. Waits for the disk: for a million records, a few seconds.
    pub fn open(
        settings: Settings,
        clock: Clock,
        mut on_record: impl FnMut(Table, &[u8], &[u8]) -> bool,
    ) -> Result<Opened, CannotOpen> {
        let mut opened = Opened {
            settings,
            clock,
            file: None,
            pending: BTreeMap::new(),
            rewrite: false,
            set_aside: 0,
            notices: Vec::new(),
            read: 0,
        };
        opened.open(&mut on_record)?;
        Ok(opened)
    }
}

impl Opened {
    /// What was noticed.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// How many records were understood.
    pub fn records(&self) -> u64 {
        self.read
    }

    /// Begins to write what changes. Fails if no thread can be started.
    pub fn start(self, source: impl Source) -> io::Result<Store> {
        Store::start(self, Box::new(source))
    }

    fn open(&mut self, on_record: &mut OnRecord<'_>) -> Result<(), CannotOpen> {
        let path = self.settings.path.clone();
        let cannot = |fault: &Fault| CannotOpen::of(&path, fault);
        match self.open_and_read(&path, on_record) {
            Ok(true) => return Ok(()),
            Ok(false) => self.notices.push(Notice::Begun),
            Err(Fault::Damaged(reason)) => self.put_away(&path, reason).map_err(|error| cannot(&error.into()))?,
            Err(fault) => return Err(cannot(&fault)),
        }
        match File::begin(&path) {
            Ok(file) => self.file = Some(file),
            Err(fault) if fault.is_full() => self.go_without(&fault),
            Err(fault) => return Err(cannot(&fault)),
        }
        Ok(())
    }

    /// False if there is no file.
    fn open_and_read(&mut self, path: &Path, on_record: &mut OnRecord<'_>) -> Result<bool, Fault> {
        let file = match File::open(path, Look::AtAll) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(false),
            // To open it for writing needs room on the disk; to read it does not.
            Err(fault) if fault.is_full() => {
                self.read(on_record, |visit| file::read(path, visit))?;
                self.go_without(&fault);
                return Ok(true);
            }
            Err(fault) => return Err(fault),
        };
        let content = self.read(on_record, |visit| file.each(visit))?;
        self.file = self.compact(file, content)?;
        Ok(true)
    }

    /// How many bytes the records come to.
    fn read(
        &mut self,
        on_record: &mut OnRecord<'_>,
        each: impl FnOnce(&mut Visit<'_>) -> Result<(), Fault>,
    ) -> Result<u64, Fault> {
        let (mut content, mut left_out) = (0, 0);
        each(&mut |table, key, value| {
            content += RECORD + key.len() as u64 + value.len() as u64;
            // A record that makes its reader panic is not understood either, and no reason to doubt the file.
            if panic::catch_unwind(AssertUnwindSafe(|| on_record(table, key, value))).unwrap_or(false) {
                self.read += 1;
            } else {
                left_out += 1;
                self.pending.insert((table, key.into()), None);
            }
        })?;
        if left_out > 0 {
            tracing::error!(
                records = left_out,
                path = %self.settings.path.display(),
                "records of the ledger's file are not understood: they are left out, and deleted from it"
            );
            self.notices.push(Notice::LeftOut(left_out));
        }
        Ok(content)
    }

    /// None if the disk did not take it. All was read by then, so that is no reason not to start: redb takes nothing any
    /// more after an error, and the writer opens the file anew.
    fn compact(&mut self, mut file: File, content: u64) -> Result<Option<File>, Fault> {
        let from = file.bytes();
        if from <= LARGE || from / LOOSE <= content {
            return Ok(Some(file));
        }
        match file.compact() {
            Ok(()) => {}
            Err(fault @ Fault::Io(_)) => {
                let reason = fault.reason();
                tracing::warn!(reason, path = %self.settings.path.display(), "the ledger's file cannot be made smaller");
                self.go_without(&fault);
                file.close();
                return Ok(None);
            }
            Err(fault) => return Err(fault),
        }
        let to = file.bytes();
        tracing::info!(from, to, "the ledger's file was mostly free space, which was given back");
        self.notices.push(Notice::Compacted { from, to });
        Ok(Some(file))
    }

    fn put_away(&mut self, path: &Path, reason: String) -> io::Result<()> {
        let aside = set_aside(path, self.clock.now())?;
        say_set_aside(path, &aside, &reason);
        self.set_aside += 1;
        // What was read of it is in the memory now, and in no file.
        self.rewrite = self.read > 0;
        self.pending.clear();
        self.notices.push(Notice::SetAside { aside, reason, saved: self.read });
        Ok(())
    }

    fn go_without(&mut self, fault: &Fault) {
        self.notices.push(Notice::WithoutFile { reason: fault.reason() });
    }
}

pub(super) fn say_set_aside(path: &Path, aside: &Path, reason: &str) {
    tracing::error!(
        reason,
        path = %path.display(),
        aside = %aside.display(),
        "the ledger's file is damaged, or none of gatepost's: it was set aside, and another is begun. See whether the \
         disk is well; to have back what was remembered, stop gatepost and put a copy in its place"
    );
}

/// Shows each record of the file at `path` to `on_record` while no gatepost has it open. Answers with how many there
/// are.
pub fn read(path: &Path, mut on_record: impl FnMut(Table, &[u8], &[u8])) -> Result<u64, CannotRead> {
    let mut records = 0;
    let done = file::read(path, &mut |table, key, value| {
        records += 1;
        on_record(table, key, value);
    });
    match done {
        Ok(()) => Ok(records),
        Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Err(CannotRead::Missing(path.to_owned())),
        Err(Fault::Damaged(reason)) => Err(CannotRead::Damaged { path: path.to_owned(), reason }),
        Err(fault) => Err(CannotOpen::of(path, &fault).into()),
    }
}
