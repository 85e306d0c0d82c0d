//! `kill -9` at random moments: the ledger's file always opens, and has whatever changed more than a second ago.
//!
//! The test runs itself as a child that remembers as fast as it can and says when it did. It kills the child, opens the
//! file and compares. The next child goes on with the same file. `GATEPOST_KILLS=100` for more kills than a few.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{HashMap, HashSet};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use gatepost::clock::Clock;
use gatepost::ledger::embedded::{Change, Settings, Source, Store, Table};

/// Which file the child is to write; without it, no child.
const CHILD: &str = "GATEPOST_STORE_KILL_CHILD";

/// How many records there are; they are written again and again.
const RECORDS: u64 = 2000;

/// The most that may be lost.
const PROMISE: Duration = Duration::from_secs(1);

/// What changed, in the order in which it did: record `n % RECORDS` holds `n`.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<(HashMap<u64, u64>, HashSet<u64>)>>);

impl Source for Memory {
    fn drain(&mut self, out: &mut Vec<Change>, most: usize) {
        let (records, dirty) = &mut *self.0.lock();
        let some: Vec<u64> = dirty.iter().copied().take(most).collect();
        for key in some {
            dirty.remove(&key);
            let value = records[&key].to_be_bytes();
            out.push(Change { table: table(key), key: key.to_be_bytes().into(), value: Some(value.into()) });
        }
    }

    fn all(&mut self) {
        let (records, dirty) = &mut *self.0.lock();
        dirty.extend(records.keys());
    }
}

fn table(key: u64) -> Table {
    Table::ALL[(key % 5) as usize]
}

/// What is in the file, and the highest number of all.
fn read(path: &Path) -> (HashMap<u64, u64>, u64) {
    let mut records = HashMap::new();
    let opened = Store::open(Settings::at(path), Clock::system(), |of, key, value| {
        let (key, value) = (key.try_into().unwrap(), value.try_into().unwrap());
        let (key, value) = (u64::from_be_bytes(key), u64::from_be_bytes(value));
        assert_eq!((of, value % RECORDS), (table(key), key));
        records.insert(key, value);
        true
    });
    let opened = opened.expect("the file always opens");
    assert_eq!(opened.records(), records.len() as u64);
    assert!(opened.notices().iter().all(|notice| format!("{notice:?}") == "Begun"), "{:?}", opened.notices());
    let highest = records.values().copied().max().unwrap_or(0);
    (records, highest)
}

/// What a killed process does until it is: it is this test, which is no test without its variable.
#[test]
fn the_child_that_is_killed() {
    let Some(path) = env::var_os(CHILD) else { return };
    let path = Path::new(&path);
    let (records, highest) = read(path);
    let memory = Memory(Arc::new(Mutex::new((records, HashSet::new()))));
    let opened = Store::open(Settings::at(path), Clock::system(), |_, _, _| true).unwrap();
    let store = opened.start(memory.clone()).unwrap();
    let mut out = std::io::stdout();
    for n in highest + 1.. {
        {
            let (records, dirty) = &mut *memory.0.lock();
            records.insert(n % RECORDS, n);
            dirty.insert(n % RECORDS);
        }
        if n % 50 == 0 {
            let failing = store.state().failing;
            writeln!(out, "remembered {n} {failing:?}").unwrap();
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The child, and what it said, with the moment at which that was heard: a little after it was true.
struct Victim {
    child: Child,
    heard: mpsc::Receiver<(Instant, u64)>,
}

impl Victim {
    fn start(path: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["the_child_that_is_killed", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(CHILD, path).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, heard) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Some(said) = line.split("remembered ").nth(1) else { continue };
                let (n, failing) = said.split_once(' ').unwrap();
                assert_eq!(failing, "None");
                _ = tell.send((Instant::now(), n.parse().unwrap()));
            }
        });
        Self { child, heard }
    }

    /// Kills it `after` it began to remember. Answers with the last number that it had remembered a second before.
    fn kill(mut self, after: Duration) -> u64 {
        let first = self.heard.recv_timeout(Duration::from_secs(60)).expect("the child remembers");
        thread::sleep(after);
        let killed = Instant::now();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let old = |heard: &(Instant, u64)| killed.duration_since(heard.0) >= PROMISE;
        let heard = std::iter::once(first).chain(self.heard.iter()).take_while(old);
        heard.map(|(_, n)| n).last().unwrap_or(0)
    }
}

#[test]
fn nothing_older_than_a_second_is_lost_and_the_file_always_opens() {
    if env::var_os(CHILD).is_some() {
        return;
    }
    let kills: u64 = env::var("GATEPOST_KILLS").map_or(20, |kills| kills.parse().expect("GATEPOST_KILLS is a number"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let mut last = 0;
    let mut seed = env::var("GATEPOST_SEED").map_or(42, |seed| seed.parse().expect("GATEPOST_SEED is a number"));
    for kill in 0..kills {
        seed = u64::wrapping_mul(seed, 6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_millis(if kill % 4 == 3 { seed >> 33 & 255 } else { 1000 + (seed >> 33) % 500 });
        let old = Victim::start(&path).kill(after).max(last);
        let (records, highest) = read(&path);
        for n in old.saturating_sub(RECORDS - 1).max(1)..=old {
            let found = records.get(&(n % RECORDS)).copied().unwrap_or(0);
            assert!(
                found >= n,
                "kill {kill} after {after:?}: {n} was remembered more than a second ago, {found} is there"
            );
        }
        assert!(highest >= last, "what was there before is there still");
        last = highest;
    }
    println!("{kills} kills, the last number is {last}");
}
