//! The ledger, by how many clients are in it: what one recall and one remember cost, also while a writer asks for what
//! changes; and what else is looked up at the door: bans, and what is counted of a client.

#![allow(missing_docs, reason = "criterion's macros write the functions that this is about")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use gatepost::ledger::embedded::Source;
use gatepost::ledger::{Kept, Ledger};

mod parts;

const MOST: u32 = 1_000_000;
const SIZES: [u32; 4] = [1000, 10_000, 100_000, MOST];
const TALLIES: u32 = 250_000;
const BANS: u32 = 100_000;

/// A thread that takes what has changed, as the one that writes the file does.
struct Drain {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Drain {
    fn begin(ledger: &Arc<Ledger>) -> Self {
        let (mut kept, over) = (Kept::of(Arc::clone(ledger)), Arc::new(AtomicBool::new(false)));
        let done = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let (mut changes, mut taken) = (Vec::new(), 0);
            while !done.load(Ordering::Relaxed) {
                // Twice a second, a transaction's worth at the most.
                for _ in 0..12 {
                    changes.clear();
                    kept.drain(&mut changes, 4096);
                    taken += changes.len() as u64;
                    if changes.len() < 4096 {
                        break;
                    }
                }
                thread::park_timeout(Duration::from_millis(500));
            }
            taken
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            println!("{} changes were asked for meanwhile", thread.join().unwrap_or_default());
        }
    }
}

fn ledger(criterion: &mut Criterion) {
    for entries in SIZES {
        parts::ledger::standings(criterion, &format!("ledger, {entries} clients"), &parts::ledger::full(entries));
    }
    let ledger = Arc::new(parts::ledger::full(MOST));
    let _drain = Drain::begin(&ledger);
    parts::ledger::standings(criterion, &format!("ledger, {MOST} clients, changes asked for"), &ledger);
}

fn door(criterion: &mut Criterion) {
    parts::ledger::door(criterion, BANS);
    parts::ledger::tallies(criterion, TALLIES);
}

criterion_group!(benches, ledger, door);
criterion_main!(benches);
