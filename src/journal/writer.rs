//! From visits to a file: a buffer that never makes a visit wait, and one thread that writes it out.
//!
//! ```text
//!   visits ──record──▶ filling ──swap──▶ writing ──▶ stdout or a file
//!            (lock)    ≤ 8 MiB  (lock)    the thread's own
//! ```
//!
//! [`Journal::record`] serialises into the buffer under a short lock. The thread takes the buffer as a whole and writes
//! it without the lock. When it cannot keep up (a slow disk, a pipe that nobody reads), the buffer fills, and what does
//! not fit is dropped and counted: mail goes on. An error of the target is counted and said once, until it has passed.
//!
//! While there is much to write the thread lets records gather for a few milliseconds, so that a flood costs neither a
//! wake-up nor a system call for each.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::recent::Recent;
use super::{Visit, record};

/// The most bytes that wait to be written.
const CAPACITY: usize = 8 << 20;

/// From how many waiting bytes on the thread does not let more gather.
const PLENTY: usize = 256 << 10;

/// How long the thread lets records gather.
const GATHER: Duration = Duration::from_millis(5);

/// How long the end of the journal waits for a target that takes nothing.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Where the records go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Standard output: the terminal, journald, a container's log.
    Stdout,
    /// The end of a file, which is made if there is none.
    File(PathBuf),
    /// Nowhere.
    Off,
    /// They stay in memory, for [`Journal::records`]: for tests.
    Memory,
}

/// Where visits are recorded. Cheap to clone. The last clone that is dropped writes what is left, and waits for that: five
/// seconds at the most.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Inner>,
}

/// What the last handle ends.
#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    keep: Keep,
    recent: Recent,
}

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    Nothing,
    InMemory,
    Written,
}

/// What the handles and the thread share.
#[derive(Debug, Default)]
struct Shared {
    /// A lock, because records of many visits go into one buffer. Held while one is serialised, or for a swap.
    queue: Mutex<Queue>,
    /// Wakes the thread.
    work: Condvar,
    /// Tells those who flush that something was written.
    written: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    filling: Vec<u8>,
    capacity: usize,
    /// How many buffers the thread has been handed, and how many of them it is done with.
    swapped: u64,
    done: u64,
    /// The thread waits for work, and does not let it gather.
    idle: bool,
    /// Somebody waits for what is there to be written.
    hurry: bool,
    reopen: bool,
    closed: bool,
}

impl Journal {
    /// Opens a journal. Fails if the file cannot be opened, or no thread started.
    pub fn open(target: Target) -> io::Result<Self> {
        Self::remembering(target, 0)
    }

    /// The same, with the last records kept in memory besides, so many bytes of them.
    pub fn remembering(target: Target, recent: usize) -> io::Result<Self> {
        let recent = Recent::new(recent);
        let (sink, path): (Box<dyn Write + Send>, _) = match target {
            Target::Off => return Ok(Self::without_thread(Keep::Nothing, recent)),
            Target::Memory => return Ok(Self::without_thread(Keep::InMemory, recent)),
            Target::Stdout => (Box::new(io::stdout()), None),
            Target::File(path) => (Box::new(append(&path)?), Some(path)),
        };
        Self::start(sink, path, CAPACITY, recent)
    }

    fn without_thread(keep: Keep, recent: Recent) -> Self {
        let shared = Arc::new(Shared::new(CAPACITY));
        Self { inner: Arc::new(Inner { shared, thread: None, keep, recent }) }
    }

    fn start(sink: Box<dyn Write + Send>, path: Option<PathBuf>, capacity: usize, recent: Recent) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(capacity));
        let mut writer = Writer { shared: Arc::clone(&shared), sink, path, torn: false, failing: false };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || writer.run())?;
        Ok(Self { inner: Arc::new(Inner { shared, thread: Some(thread), keep: Keep::Written, recent }) })
    }

    /// Records a visit. Never waits for anything but the buffer's lock; where there is no room, the record is dropped and
    /// [counted](Self::lost).
    pub fn record(&self, visit: &Visit) {
        let recent = &self.inner.recent;
        if recent.is_kept() {
            recent.keep(visit, |line| self.add(line.len(), |filling| filling.extend_from_slice(line)));
        } else {
            self.add(record::LONGEST, |filling| record::write(filling, visit));
        }
    }

    /// The last records that were made.
    pub fn recent(&self) -> &Recent {
        &self.inner.recent
    }

    /// Puts something of at most `length` bytes into the buffer.
    fn add(&self, length: usize, put: impl FnOnce(&mut Vec<u8>)) {
        if self.inner.keep == Keep::Nothing {
            return;
        }
        let shared = &self.inner.shared;
        let mut queue = shared.queue.lock();
        let before = queue.filling.len();
        if before + length <= queue.capacity {
            put(&mut queue.filling);
        } else {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        let plenty = before < PLENTY && queue.filling.len() >= PLENTY;
        if queue.idle || plenty {
            queue.idle = false;
            drop(queue);
            shared.work.notify_one();
        }
    }

    /// Opens the file anew, so that one that was renamed is let go (logrotate). Does not wait. If it cannot be opened, the
    /// old one stays in use and the log says so. No effect on other targets.
    pub fn reopen(&self) {
        let mut queue = self.inner.shared.queue.lock();
        queue.reopen = true;
        queue.hurry = true;
        drop(queue);
        self.inner.shared.work.notify_one();
    }

    /// Waits until everything that was recorded before has been written, `within` at the most; says whether it was.
    /// Blocks the thread: not for tasks.
    pub fn flush(&self, within: Duration) -> bool {
        self.inner.keep != Keep::Written || self.inner.shared.flush(within)
    }

    /// How many records were dropped: for want of room, or because the target did not take them.
    pub fn lost(&self) -> u64 {
        self.inner.shared.lost.load(Ordering::Relaxed)
    }

    /// The records of a [`Target::Memory`], oldest first, one line of JSON each; none of other targets.
    pub fn records(&self) -> Vec<String> {
        if self.inner.keep != Keep::InMemory {
            return Vec::new();
        }
        String::from_utf8_lossy(&self.inner.shared.queue.lock().filling).lines().map(str::to_owned).collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.queue.lock().closed = true;
        // A pipe that nobody reads must not keep the process: then the thread is left to itself, and what it holds goes
        // with the process.
        if self.shared.flush(LAST_WAIT) {
            self.shared.work.notify_one();
            let _ = thread.join();
        } else {
            tracing::error!("the journal's target takes nothing: its last records are lost");
        }
    }
}

impl Shared {
    fn new(capacity: usize) -> Self {
        Self { queue: Mutex::new(Queue { capacity, ..Queue::default() }), ..Self::default() }
    }

    fn flush(&self, within: Duration) -> bool {
        let mut queue = self.queue.lock();
        // What is in the buffer now is in the next one that the thread is handed.
        let wanted = queue.swapped + u64::from(!queue.filling.is_empty());
        queue.hurry = true;
        self.work.notify_one();
        let waits = |queue: &mut Queue| queue.done < wanted;
        !self.written.wait_while_for(&mut queue, waits, within).timed_out()
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    sink: Box<dyn Write + Send>,
    /// The file's path, to open it anew.
    path: Option<PathBuf>,
    /// The last write ended within a line.
    torn: bool,
    /// The last write failed, and that has been said.
    failing: bool,
}

impl Writer {
    fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut writing = Vec::new();
        let mut queue = shared.queue.lock();
        loop {
            Self::wait(&shared, &mut queue);
            let (reopen, closed) = (std::mem::take(&mut queue.reopen), queue.closed);
            queue.hurry = false;
            std::mem::swap(&mut queue.filling, &mut writing);
            let handed = !writing.is_empty();
            queue.swapped += u64::from(handed);
            if !handed && closed {
                return;
            }
            MutexGuard::unlocked(&mut queue, || {
                self.write(&writing);
                // After what was recorded before the signal: that belongs to the old file.
                if reopen {
                    self.reopen();
                }
                writing.clear();
                // What a burst took is given back.
                writing.shrink_to(PLENTY);
            });
            queue.done += u64::from(handed);
            shared.written.notify_all();
        }
    }

    /// Waits until there is something to do, and then a little for more to gather.
    fn wait(shared: &Shared, queue: &mut MutexGuard<'_, Queue>) {
        while queue.filling.is_empty() && !queue.reopen && !queue.closed {
            queue.idle = true;
            shared.work.wait(queue);
        }
        queue.idle = false;
        let gathers = |queue: &mut Queue| !queue.hurry && !queue.closed && queue.filling.len() < PLENTY;
        shared.work.wait_while_for(queue, gathers, GATHER);
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let result =
            self.mend(bytes).and_then(|()| write_all(&mut self.sink, &mut rest)).and_then(|()| self.sink.flush());
        let written = bytes.strip_suffix(rest).unwrap_or_default();
        self.torn = written.last().map_or(self.torn, |&last| last != b'\n');
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::warn!("the journal is written again");
            }
            Ok(()) => {}
            Err(error) => {
                let lost = memchr::memchr_iter(b'\n', rest).count() as u64;
                self.shared.lost.fetch_add(lost, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, lost, "the journal cannot be written: records are lost");
                }
            }
        }
    }

    /// Ends a torn line, so that it does not swallow the first one of `next`.
    fn mend(&mut self, next: &[u8]) -> io::Result<()> {
        if self.torn && !next.is_empty() {
            write_all(&mut self.sink, &mut b"\n".as_slice())?;
            self.torn = false;
        }
        Ok(())
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append(path) {
            Ok(file) => (self.sink, self.torn) = (Box::new(file), false),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the journal cannot be opened anew; the old file stays in use");
            }
        }
    }
}

/// Writes `rest`, which is afterwards what was not written.
fn write_all(sink: &mut dyn Write, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match sink.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => *rest = rest.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Opens a file to write at its end. Only its owner and group can read it: it holds addresses of people.
fn append(path: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::tests::dropped;
    use super::super::{VisitId, VisitIds};
    use super::*;

    const WHILE: Duration = Duration::from_secs(20);

    fn visit(n: u64) -> Visit {
        Visit { id: VisitId(n), ..dropped() }
    }

    fn ids(text: &str) -> Vec<u64> {
        let id =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["visit"].as_str().unwrap().to_owned();
        text.lines().map(|line| id(line).parse::<VisitId>().unwrap().0).collect()
    }

    /// Takes each write when told what to do with it; what it has taken can be looked at.
    struct Slow {
        orders: mpsc::Receiver<io::Result<usize>>,
        taken: Taken,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = self.orders.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.taken.lock().extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    type Taken = Arc<Mutex<Vec<u8>>>;

    fn slow(capacity: usize) -> (Journal, mpsc::Sender<io::Result<usize>>, Taken) {
        let (order, orders) = mpsc::channel();
        let taken = Taken::default();
        let sink = Slow { orders, taken: Arc::clone(&taken) };
        (Journal::start(Box::new(sink), None, capacity, Recent::new(0)).unwrap(), order, taken)
    }

    fn text(taken: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(taken.lock().clone()).unwrap()
    }

    #[test]
    fn records_reach_the_file_and_the_end_writes_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("visits.jsonl");
        std::fs::write(&path, "").unwrap();
        let journal = Journal::open(Target::File(path.clone())).unwrap();
        journal.record(&visit(1));
        assert!(journal.flush(WHILE));
        assert_eq!(ids(&std::fs::read_to_string(&path).unwrap()), [1]);
        let other = journal.clone();
        journal.record(&visit(2));
        drop(journal);
        other.record(&visit(3));
        drop(other);
        assert_eq!(ids(&std::fs::read_to_string(&path).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn a_file_is_opened_anew_after_it_was_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("visits.jsonl"), dir.path().join("visits.jsonl.1"));
        let journal = Journal::open(Target::File(path.clone())).unwrap();
        journal.record(&visit(1));
        std::fs::rename(&path, &old).unwrap();
        journal.record(&visit(2));
        journal.reopen();
        assert!(journal.flush(WHILE));
        journal.record(&visit(3));
        drop(journal);
        let (old, new) = (std::fs::read_to_string(&old).unwrap(), std::fs::read_to_string(&path).unwrap());
        assert_eq!(ids(&(old.clone() + &new)), [1, 2, 3]);
        assert_eq!(ids(&old), [1, 2]);
    }

    #[test]
    fn a_file_that_cannot_be_opened_anew_stays_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("visits.jsonl"), dir.path().join("visits.jsonl.1"));
        let journal = Journal::open(Target::File(path.clone())).unwrap();
        std::fs::rename(&path, &old).unwrap();
        std::fs::create_dir(&path).unwrap();
        journal.reopen();
        journal.record(&visit(1));
        drop(journal);
        assert_eq!(ids(&std::fs::read_to_string(&old).unwrap()), [1]);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        assert!(Journal::open(Target::File("/nonexistent/visits.jsonl".into())).is_err());
    }

    #[test]
    fn memory_gives_its_records_back_and_off_has_none() {
        let journal = Journal::open(Target::Memory).unwrap();
        journal.record(&visit(1));
        journal.clone().record(&visit(2));
        assert!(journal.flush(Duration::ZERO));
        assert_eq!(ids(&journal.records().join("\n")), [1, 2]);
        let off = Journal::open(Target::Off).unwrap();
        off.record(&visit(1));
        off.reopen();
        assert!(off.flush(Duration::ZERO) && off.records().is_empty() && off.lost() == 0);
    }

    #[test]
    fn a_target_that_takes_nothing_costs_records_and_no_waiting() {
        let (journal, order, taken) = slow(64 << 10);
        for n in 0..10_000 {
            journal.record(&visit(n));
        }
        assert!(!journal.flush(Duration::from_millis(1)), "nothing was taken yet");
        let lost = journal.lost();
        assert!(lost > 9_000, "{lost}");
        assert!(journal.inner.shared.queue.lock().filling.len() <= 64 << 10);
        drop(order);
        assert!(journal.flush(WHILE));
        let kept = ids(&text(&taken));
        assert_eq!(kept.len() as u64 + lost, 10_000);
        assert_eq!(journal.lost(), lost);
    }

    #[test]
    fn an_error_of_the_target_is_counted_and_passes() {
        let (journal, order, taken) = slow(CAPACITY);
        journal.record(&visit(1));
        order.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        assert!(journal.flush(WHILE));
        assert_eq!(journal.lost(), 1);
        // The next line breaks off in the middle.
        journal.record(&visit(2));
        order.send(Ok(20)).unwrap();
        order.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        assert!(journal.flush(WHILE));
        assert_eq!(journal.lost(), 2);
        // Once more, right behind the line feed that ends it.
        journal.record(&visit(3));
        order.send(Ok(1)).unwrap();
        order.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        assert!(journal.flush(WHILE));
        drop(order);
        journal.record(&visit(4));
        assert!(journal.flush(WHILE));
        let text = text(&taken);
        let (torn, whole) = text.split_once('\n').unwrap();
        assert_eq!(torn.len(), 20);
        assert_eq!(ids(whole), [4]);
        assert_eq!(journal.lost(), 3);
    }

    #[test]
    fn an_interrupted_write_goes_on() {
        let (journal, order, taken) = slow(CAPACITY);
        order.send(Err(io::ErrorKind::Interrupted.into())).unwrap();
        drop(order);
        journal.record(&visit(1));
        assert!(journal.flush(WHILE));
        assert_eq!((ids(&text(&taken)), journal.lost()), (vec![1], 0));
    }

    #[test]
    fn many_threads_write_whole_lines_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("visits.jsonl");
        let journal = Journal::open(Target::File(path.clone())).unwrap();
        let given = Arc::new(VisitIds::seeded(1));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (journal, given) = (journal.clone(), Arc::clone(&given));
                std::thread::spawn(move || (0..1000).for_each(|_| journal.record(&visit(given.next().0))))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(journal.lost(), 0);
        drop(journal);
        let mut ids = ids(&std::fs::read_to_string(&path).unwrap());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4000);
    }

    #[test]
    fn a_burst_does_not_keep_its_memory() {
        let (journal, order, _taken) = slow(CAPACITY);
        for n in 0..10_000 {
            journal.record(&visit(n));
        }
        drop(order);
        for n in 0..2 {
            assert!(journal.flush(WHILE));
            journal.record(&visit(n));
        }
        assert!(journal.flush(WHILE));
        assert!(journal.inner.shared.queue.lock().filling.capacity() <= PLENTY);
    }
}
