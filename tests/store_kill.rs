//! `kill -9` at random moments: the ledger's file always opens, and has whatever changed more than a second ago.
//!
//! The test runs itself as a child that remembers as fast as it can and says when it did. It kills the child, opens the
//! file and compares. The next child goes on with the same file. `GATEPOST_KILLS=100` for more kills than a few.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::collections::{HashMap, HashSet};
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
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
const RECORDS: u64 = 1000;

/// The most that may be lost.
const PROMISE: Duration = Duration::from_secs(1);

/// Unless a commit takes longer than the other half of it: on a machine that is busy with other tests.
fn promise(commit: Duration) -> Duration {
    PROMISE.max(PROMISE / 2 + 2 * commit)
}

/// What changed, in the order in which it did: record `n % RECORDS` holds `n`.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Kept>>);

/// What is there, and which of it has changed.
type Kept = (HashMap<u64, u64>, HashSet<u64>);

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
            let state = store.state();
            assert_eq!(state.failing, None);
            writeln!(out, "remembered {n} {}", state.last_took.as_millis()).unwrap();
            thread::sleep(Duration::from_millis(4));
        }
    }
}

/// What a child said: a number that it remembered, and how long its last commit took.
#[derive(Clone, Copy)]
struct Heard {
    /// A little after it was true.
    at: Instant,
    n: u64,
    commit: Duration,
}

/// The child, and what it said.
struct Victim {
    child: Child,
    heard: mpsc::Receiver<Heard>,
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
                let Some((n, commit)) = said.split_once(' ') else { continue };
                // The last line may have been cut short by the kill.
                let (Ok(n), Ok(commit)) = (n.parse(), commit.parse()) else { continue };
                _ = tell.send(Heard { at: Instant::now(), n, commit: Duration::from_millis(commit) });
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
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it did not end by itself: {status}");
        let heard: Vec<Heard> = std::iter::once(first).chain(self.heard.iter()).collect();
        let commit = heard.iter().map(|heard| heard.commit).max().unwrap_or_default();
        let old = |heard: &&Heard| killed.duration_since(heard.at) >= promise(commit);
        heard.iter().take_while(old).last().map_or(0, |heard| heard.n)
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
