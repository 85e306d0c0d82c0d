//! Lists of networks that others keep: files of one network a line, such as Spamhaus DROP, which somebody fetches now and
//! then.
//!
//! It promises: a file that changes is in force a few seconds later, without a restart or a signal; one that is missing,
//! half written or wrong changes nothing, and the log says why; a look-up never waits, and costs one binary search however
//! many lists there are. It leaves to others what follows from being on a list.
//!
//! A file is taken when it has been the same for one round, so that one that is being written is not read half. At the
//! start, when there is nothing to go on with, whatever can be read of it is taken.

mod file;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::file::{File, Took};
pub use self::file::{Trouble, read};
use crate::policy::ranges::FirstMatch;

/// The most files. A look-up tells them apart by a small number.
pub const MOST: usize = 256;

/// Which files there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The files, in the order in which they are asked.
    pub files: Vec<PathBuf>,
    /// How often they are looked at.
    pub every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { files: Vec::new(), every: Duration::from_secs(2) }
    }
}

/// What a list is called: its file's name, or its whole path where two have the same name.
pub type ListName = Arc<str>;

/// The figures of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListState {
    /// Its name.
    pub list: ListName,
    /// How many networks of it are in force.
    pub entries: u64,
    /// How often its file could not be used, since the start.
    pub failures: u64,
}

/// The lists, kept up to date while somebody has them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lists {
    shared: Arc<Shared>,
    _life: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    /// Which list, by its number, says something of an address first. Replaced as a whole.
    listed: ArcSwap<FirstMatch<Option<u16>>>,
    lists: Vec<List>,
}

#[derive(Debug)]
struct List {
    name: ListName,
    entries: AtomicU64,
    failures: AtomicU64,
}

impl Lists {
    /// Reads the files, and goes on looking at them. Within a tokio runtime.
    pub async fn open(settings: Settings) -> Self {
        let lists = names(&settings.files).into_iter().map(|name| List {
            name,
            entries: AtomicU64::default(),
            failures: AtomicU64::default(),
        });
        let shared = Arc::new(Shared { listed: ArcSwap::default(), lists: lists.collect() });
        let life = CancellationToken::new();
        if !settings.files.is_empty() {
            let files = settings.files.into_iter().map(File::new).collect();
            let files = look(files, Arc::clone(&shared)).await;
            let watch = watch(files, Arc::clone(&shared), settings.every);
            let ended = life.clone();
            tokio::spawn(async move { ended.run_until_cancelled(watch).await });
        }
        Self { shared, _life: Arc::new(life.drop_guard()) }
    }

    /// No lists.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let shared = Arc::new(Shared { listed: ArcSwap::default(), lists: Vec::new() });
        Self { shared, _life: Arc::new(CancellationToken::new().drop_guard()) }
    }

    /// The first list that `client` is on.
    pub fn look_up(&self, client: IpAddr) -> Option<ListName> {
        let number = self.shared.listed.load().look_up(client)?;
        self.shared.lists.get(usize::from(number)).map(|list| Arc::clone(&list.name))
    }

    /// The figures of each list.
    pub fn states(&self) -> Vec<ListState> {
        let state = |list: &List| ListState {
            list: Arc::clone(&list.name),
            entries: list.entries.load(Ordering::Relaxed),
            failures: list.failures.load(Ordering::Relaxed),
        };
        self.shared.lists.iter().map(state).collect()
    }
}

async fn watch(mut files: Vec<File>, shared: Arc<Shared>, every: Duration) {
    loop {
        sleep(every).await;
        files = look(files, Arc::clone(&shared)).await;
        if files.is_empty() {
            // Only if the work panicked: what is in force stays.
            return;
        }
    }
}

/// Looks at each file once, and puts in force what changed. Away from the runtime: a disk may be slow, and a file large.
async fn look(mut files: Vec<File>, shared: Arc<Shared>) -> Vec<File> {
    let work = move || {
        let mut changed = false;
        for (file, list) in files.iter_mut().zip(&shared.lists) {
            match file.look() {
                Took::Nothing => {}
                Took::New => {
                    changed = true;
                    list.entries.store(file.networks().len() as u64, Ordering::Relaxed);
                    tracing::info!(list = %list.name, entries = file.networks().len(), "a list was read");
                }
                Took::Trouble(trouble) => {
                    list.failures.fetch_add(1, Ordering::Relaxed);
                    let entries = list.entries.load(Ordering::Relaxed);
                    tracing::warn!(
                        list = %list.name, path = %file.path().display(), entries,
                        "a list cannot be used as it is, and what was read of it before stays in force: {trouble}"
                    );
                }
                Took::Part(trouble) => {
                    changed = true;
                    list.failures.fetch_add(1, Ordering::Relaxed);
                    let entries = file.networks().len();
                    list.entries.store(entries as u64, Ordering::Relaxed);
                    tracing::warn!(
                        list = %list.name, path = %file.path().display(), entries,
                        "a list has mistakes, and what can be read of it is in force: {trouble}"
                    );
                }
            }
        }
        if changed {
            let entries = (0..)
                .zip(&files)
                .flat_map(|(number, file)| file.networks().iter().map(move |network| (*network, Some(number))));
            shared.listed.store(Arc::new(FirstMatch::new(entries)));
        }
        files
    };
    spawn_blocking(work).await.unwrap_or_default()
}

/// A name for each file.
fn names(files: &[PathBuf]) -> Vec<ListName> {
    let short = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = |path: &PathBuf| {
        let same = files.iter().filter(|other| short(other) == short(path)).count();
        if same == 1 { short(path).into() } else { path.to_string_lossy().as_ref().into() }
    };
    files.iter().map(name).collect()
}

#[cfg(test)]
mod tests;
