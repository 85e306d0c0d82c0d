//! The thread that writes: a round each interval, and one whenever somebody flushes or stops.
//!
//! ```text
//!            drained, committed              disk takes nothing
//!   ┌──────▶ well ─────────────────────────────▶ failing ◀───┐ each interval: open the file anew,
//!   │          ▲      kept changes, or the whole     │       │ try again
//!   │ nothing  └──────── memory, committed ──────────┴───────┘
//!   └─ to do
//! ```
//!
//! redb says no to everything after an error of the disk until it is opened anew, so that is what a try begins with.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use crate::clock::Clock;

use super::aside::set_aside;
use super::fault::{Fault, guarded, guarded_source};
use super::file::{File, Look};
use super::opening::{Opened, say_set_aside};
use super::{Change, Failing, Settings, Source, State, Table};

/// Changes by record: later ones take the place of earlier ones, and they are written in order.
pub(super) type Pending = BTreeMap<(Table, Box<[u8]>), Option<Box<[u8]>>>;

/// The most changes that are asked for at once.
const BATCH: usize = 4096;

/// The most changes of a transaction: a fraction of a second's work.
const TRANSACTION: usize = 50_000;

/// How often trouble that goes on is said.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// How many times as long as a try that failed the pause after it is, at the least.
const PAUSE: u32 = 4;

/// How often a file is set aside while gatepost runs. Whatever damages files one after another is not mended so.
const ASIDE_AGAIN: Duration = Duration::from_secs(60 * 60);

/// How long a store that is dropped waits for its last round.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The file, and the thread that writes it. Dropped, it writes what is left, and waits for that: five seconds at the
/// most.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    orders: Mutex<Orders>,
    /// Wakes the thread.
    work: Condvar,
    /// Tells those who wait for a round that one is over.
    over: Condvar,
    /// A lock, because metrics are read while the thread writes them. Held for a copy.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct Orders {
    /// How many rounds were begun and ended.
    begun: u64,
    ended: u64,
    /// Whether the last one left nothing unwritten.
    clean: bool,
    /// Somebody waits for a round.
    hurry: bool,
    stop: bool,
    /// The thread is at its end.
    gone: bool,
}

impl Store {
    pub(super) fn start(opened: Opened, source: Box<dyn Source>) -> io::Result<Self> {
        let bytes = opened.file.as_ref().map_or(0, File::bytes);
        let state = State { bytes, set_aside: opened.set_aside, rewrite: opened.rewrite, ..State::default() };
        let shared = Arc::new(Shared {
            orders: Mutex::default(),
            work: Condvar::new(),
            over: Condvar::new(),
            state: Mutex::new(state),
        });
        let writer = Writer {
            settings: opened.settings,
            clock: opened.clock,
            file: opened.file,
            source,
            pending: opened.pending,
            batch: Vec::new(),
            rewrite: opened.rewrite,
            said: None,
            set_aside: None,
            shared: shared.clone(),
        };
        let thread = thread::Builder::new().name("ledger".to_owned()).spawn(move || writer.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Writes what changed until now, and waits for that. False if it took too long, or could not be written.
    pub fn flush(&self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut orders = self.shared.orders.lock();
        // A round that is under way may have asked for changes before the last of them.
        let round = orders.begun + 1;
        while orders.ended < round && !orders.gone {
            orders.hurry = true;
            self.shared.work.notify_one();
            let left = until.saturating_duration_since(Instant::now());
            if self.shared.over.wait_for(&mut orders, left).timed_out() {
                break;
            }
        }
        orders.ended >= round && orders.clean
    }

    /// Writes what changed until now, and closes the file. False if it took too long, or could not be written; then
    /// what was not is lost with the memory.
    pub fn stop(mut self, timeout: Duration) -> bool {
        self.end(timeout)
    }

    /// How the file does.
    pub fn state(&self) -> State {
        self.shared.state.lock().clone()
    }

    fn end(&mut self, timeout: Duration) -> bool {
        let Some(thread) = self.thread.take() else { return true };
        let until = Instant::now() + timeout;
        let mut orders = self.shared.orders.lock();
        orders.stop = true;
        self.shared.work.notify_one();
        while !orders.gone {
            let left = until.saturating_duration_since(Instant::now());
            if self.shared.over.wait_for(&mut orders, left).timed_out() {
                break;
            }
        }
        let (gone, clean) = (orders.gone, orders.clean);
        drop(orders);
        if gone {
            _ = thread.join();
        }
        if !(gone && clean) {
            tracing::error!("the ledger's file takes nothing: the last changes of what is remembered are lost");
        }
        gone && clean
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.end(LAST_WAIT);
    }
}

struct Writer {
    settings: Settings,
    clock: Clock,
    /// None after an error of the disk.
    file: Option<File>,
    source: Box<dyn Source>,
    /// What was drained and is not on the disk.
    pending: Pending,
    batch: Vec<Change>,
    /// The file lacks what the memory has: all of it is to be written.
    rewrite: bool,
    /// When the trouble that goes on was last said.
    said: Option<Instant>,
    /// When a file was last set aside.
    set_aside: Option<Instant>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        let mut next = Instant::now();
        loop {
            next = (next + self.settings.interval).max(Instant::now());
            let stop = self.wait(next);
            let began = Instant::now();
            // Whatever panics is told, like all else that keeps the file from being written.
            let clean = guarded_source(|| self.round()).unwrap_or_else(|fault| {
                self.failed(fault);
                false
            });
            if self.file.is_none() {
                // To open a large file anew takes a while; it is not to take all of a processor while the disk is full.
                next = Instant::now() + began.elapsed() * PAUSE;
            }
            let mut orders = self.shared.orders.lock();
            orders.ended = orders.begun;
            orders.clean = clean;
            self.shared.over.notify_all();
            if stop {
                break;
            }
        }
        if let Some(file) = self.file.take() {
            file.close();
        }
        self.shared.orders.lock().gone = true;
        self.shared.over.notify_all();
    }

    /// Waits for the next round. True if it is the last.
    fn wait(&self, until: Instant) -> bool {
        let mut orders = self.shared.orders.lock();
        while !orders.stop && !orders.hurry {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.work.wait_for(&mut orders, left).timed_out() {
                break;
            }
        }
        orders.hurry = false;
        orders.begun += 1;
        orders.stop
    }

    /// True if nothing is left unwritten.
    fn round(&mut self) -> bool {
        // What a transaction has no room for is for the next; but a flood does not make a round without an end.
        for _ in 0..self.settings.most_pending / TRANSACTION + 1 {
            match self.write() {
                Ok(more) => {
                    self.well();
                    if !more {
                        return true;
                    }
                }
                Err(fault) => {
                    self.failed(fault);
                    return false;
                }
            }
        }
        false
    }

    /// One transaction. True if there is more to write.
    fn write(&mut self) -> Result<bool, Fault> {
        let more = self.gather()?;
        self.ready()?;
        let began = Instant::now();
        let written = if self.rewrite { self.write_all()? } else { self.write_pending()? };
        let mut state = self.shared.state.lock();
        state.pending = 0;
        state.rewrite = false;
        if written > 0 {
            state.written += written;
            state.commits += 1;
            state.last_commit = Some(self.clock.now());
            state.last_took = began.elapsed();
            state.bytes = self.file.as_ref().map_or(0, File::bytes);
        }
        Ok(more)
    }

    /// Asks for what changed. While the disk is well, as much as fits a transaction; or else all of it, so that the
    /// marks of what changed do not grow elsewhere. True if there may be more.
    fn gather(&mut self) -> Result<bool, Fault> {
        let room = if self.file.is_some() { TRANSACTION } else { usize::MAX };
        let mut drained = 0;
        while drained < room && drained <= self.settings.most_pending {
            self.batch.clear();
            self.drain()?;
            drained += self.batch.len();
            let last = self.batch.len() < BATCH;
            for change in self.batch.drain(..).filter(|_| !self.rewrite) {
                self.pending.insert((change.table, change.key), change.value);
            }
            if self.pending.len() > self.settings.most_pending {
                self.pending.clear();
                self.rewrite = true;
            }
            if last {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn drain(&mut self) -> Result<(), Fault> {
        let Self { source, batch, .. } = self;
        guarded_source(|| source.drain(batch, BATCH))
    }

    /// Sees to it that there is a file.
    fn ready(&mut self) -> Result<(), Fault> {
        if let Some(file) = &self.file {
            return file.is_there();
        }
        let file = match File::open(&self.settings.path, Look::AsNeeded)? {
            Some(file) => file,
            None => {
                self.rewrite = true;
                File::begin(&self.settings.path)?
            }
        };
        self.file = Some(file);
        Ok(())
    }

    fn write_pending(&mut self) -> Result<u64, Fault> {
        let Self { file: Some(file), pending, .. } = self else { return Ok(0) };
        if pending.is_empty() {
            return Ok(0);
        }
        file.commit(false, |pen| {
            pending.iter().try_for_each(|((table, key), value)| pen.put(*table, key, value.as_deref()))
        })?;
        let written = self.pending.len() as u64;
        self.pending.clear();
        Ok(written)
    }

    /// Writes the whole memory in one transaction, so that the file is never without what it had.
    fn write_all(&mut self) -> Result<u64, Fault> {
        let Self { file: Some(file), source, batch, .. } = self else { return Ok(0) };
        guarded_source(|| source.all())?;
        let written = file.commit(true, |pen| {
            let mut written = 0;
            loop {
                batch.clear();
                guarded_source(|| source.drain(batch, BATCH))?;
                batch.sort_unstable_by(|one, other| (one.table, &one.key).cmp(&(other.table, &other.key)));
                for change in &*batch {
                    pen.put(change.table, &change.key, change.value.as_deref())?;
                }
                written += batch.len() as u64;
                if batch.len() < BATCH {
                    return Ok(written);
                }
            }
        })?;
        self.pending.clear();
        self.rewrite = false;
        Ok(written)
    }

    fn well(&mut self) {
        let failed = self.shared.state.lock().failing.take();
        if failed.is_some() {
            self.said = None;
            tracing::info!(path = %self.settings.path.display(), "the ledger's file is written again");
        }
    }

    fn failed(&mut self, fault: Fault) {
        match &fault {
            Fault::Source(_) => self.rewrite = true,
            Fault::Gone => {
                self.close();
                self.rewrite = true;
            }
            _ => self.close(),
        }
        let fault = if let Fault::Damaged(reason) = fault { self.put_away(reason) } else { fault };
        let reason = fault.reason();
        let mut state = self.shared.state.lock();
        let since = state.failing.as_ref().map_or_else(|| self.clock.now(), |failing| failing.since);
        state.failing = Some(Failing { since, reason: reason.clone() });
        state.failures += 1;
        state.pending = self.pending.len();
        state.rewrite = self.rewrite;
        drop(state);
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::error!(
                reason,
                path = %self.settings.path.display(),
                "the ledger's file cannot be written: what is remembered stays in memory, and is written when that works \
                 again; is there room on the disk?"
            );
        }
    }

    fn close(&mut self) {
        if let Some(file) = self.file.take() {
            file.close();
        }
    }

    /// A file that is damaged under way is set aside as one at the start is. The memory has all that was in it.
    fn put_away(&mut self, reason: String) -> Fault {
        if self.set_aside.is_some_and(|last| last.elapsed() < ASIDE_AGAIN) {
            return Fault::Damaged(reason);
        }
        let aside = guarded(|| Ok(set_aside(&self.settings.path, self.clock.now())?));
        let Ok(aside) = aside else { return Fault::Damaged(reason) };
        say_set_aside(&self.settings.path, &aside, &reason);
        self.set_aside = Some(Instant::now());
        self.rewrite = true;
        self.shared.state.lock().set_aside += 1;
        Fault::Damaged(format!("{reason}; it was set aside"))
    }
}
