//! The file, whole and damaged, and the thread that writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use redb::{Database, TableDefinition};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::time::Timestamp;

use super::*;

const LONG: Duration = Duration::from_secs(60);
const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

type Records = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A memory as simple as can be: what it holds, and which keys changed.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    records: Records,
    dirty: BTreeSet<(Table, Vec<u8>)>,
    drained: usize,
    asked_for_all: usize,
    panics: bool,
}

impl Memory {
    fn of(records: Records) -> Self {
        Self(Arc::new(Mutex::new(Held { records, ..Held::default() })))
    }

    fn set(&self, table: Table, key: &[u8], value: &[u8]) {
        let mut held = self.0.lock();
        held.records.insert((table, key.to_vec()), value.to_vec());
        held.dirty.insert((table, key.to_vec()));
    }

    fn remove(&self, table: Table, key: &[u8]) {
        let mut held = self.0.lock();
        held.records.remove(&(table, key.to_vec()));
        held.dirty.insert((table, key.to_vec()));
    }

    /// `many` records of a size that is usual.
    fn fill(&self, many: u32) {
        for n in 0..many {
            self.set(Table::ALL[n as usize % 5], &n.wrapping_mul(2_654_435_761).to_be_bytes(), &[n as u8; 40]);
        }
    }

    fn records(&self) -> Records {
        self.0.lock().records.clone()
    }
}

impl Source for Memory {
    fn drain(&mut self, out: &mut Vec<Change>, most: usize) {
        let mut held = self.0.lock();
        assert!(!std::mem::take(&mut held.panics), "a fault of the memory's");
        for _ in 0..most {
            let Some((table, key)) = held.dirty.pop_first() else { return };
            let value = held.records.get(&(table, key.clone())).map(|value| value.as_slice().into());
            held.drained += 1;
            out.push(Change { table, key: key.into(), value });
        }
    }

    fn all(&mut self) {
        let mut held = self.0.lock();
        held.asked_for_all += 1;
        held.dirty = held.records.keys().cloned().collect();
    }
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    (folder, path)
}

fn try_open(path: &Path) -> Result<(Opened, Records), CannotOpen> {
    let mut records = Records::new();
    let opened = Store::open(Settings::at(path), Clock::held(NOW), |table, key, value| {
        records.insert((table, key.to_vec()), value.to_vec());
        true
    })?;
    Ok((opened, records))
}

fn open(path: &Path) -> (Opened, Records) {
    try_open(path).unwrap()
}

/// Makes a file with `many` records, closed in good order.
fn made(path: &Path, many: u32) -> Records {
    let memory = Memory::default();
    let store = open(path).0.start(memory.clone()).unwrap();
    memory.fill(many);
    assert!(store.stop(LONG));
    memory.records()
}

/// What was set aside.
fn aside(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|entry| entry.to_string_lossy().contains(".damaged-")).collect()
}

#[test]
fn what_is_flushed_or_stopped_is_there_the_next_time() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let (opened, records) = open(&path);
    assert_eq!(opened.notices(), [Notice::Begun]);
    assert_eq!(records, Records::new());
    let store = opened.start(memory.clone()).unwrap();
    memory.set(Table::Standings, b"one", b"1");
    memory.set(Table::Decisions, b"one", b"2");
    assert!(store.flush(LONG));
    let mut flushed = Records::new();
    drop(store);
    memory.remove(Table::Standings, b"one");

    let (opened, records) = open(&path);
    assert_eq!(opened.notices(), []);
    flushed.insert((Table::Standings, b"one".to_vec()), b"1".to_vec());
    flushed.insert((Table::Decisions, b"one".to_vec()), b"2".to_vec());
    assert_eq!(records, flushed);
    let store = opened.start(memory.clone()).unwrap();
    assert!(store.stop(LONG));
    assert_eq!(open(&path).1, memory.records(), "what was removed is no more");
}

#[test]
fn what_changes_is_written_by_itself() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.set(Table::Tallies, b"key", b"value");
    while store.state().written == 0 {
        std::thread::yield_now();
    }
    let state = store.state();
    assert_eq!((state.commits, state.last_commit, state.failing), (1, Some(NOW), None));
    assert!(state.bytes > 0);
}

#[test]
fn a_key_that_changes_often_is_written_once() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let mut settings = Settings::at(&path);
    settings.interval = LONG;
    let store = Store::open(settings, Clock::held(NOW), |_, _, _| true).unwrap().start(memory.clone()).unwrap();
    assert!(store.flush(LONG));
    for n in 0..1000_u32 {
        memory.set(Table::Tallies, b"key", &n.to_be_bytes());
    }
    assert!(store.flush(LONG));
    assert_eq!((store.state().written, store.state().commits), (1, 1));
}

#[test]
fn more_than_a_transaction_takes_is_written_in_several() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.fill(120_000);
    assert!(store.flush(LONG));
    assert!(store.state().commits >= 3, "{:?}", store.state());
    drop(store);
    assert!(open(&path).1 == memory.records());
}

#[test]
fn only_its_owner_may_read_the_file() {
    let (_folder, path) = folder();
    made(&path, 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&path));
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_file_that_another_has_open_is_left_to_it() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.fill(10);
    assert!(store.flush(LONG));
    let error = try_open(&path).unwrap_err();
    assert!(matches!(error, CannotOpen::Locked(_)), "{error}");
    assert!(error.to_string().contains("does another gatepost run here?"), "{error}");
    let error = read(&path, |_, _, _| ()).unwrap_err();
    assert!(matches!(error, CannotRead::Open(CannotOpen::Locked(_))), "{error}");
    assert!(aside(&path).is_empty());
    memory.fill(20);
    assert!(store.stop(LONG));
    assert_eq!(open(&path).1, memory.records());
}

/// A redb file with `format` as its sign.
fn signed(path: &Path, format: Option<u32>) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    if let Some(format) = format {
        let sign: TableDefinition<'_, &str, u32> = TableDefinition::new("gatepost");
        transaction.open_table(sign).unwrap().insert("format", format).unwrap();
    }
    let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("standings");
    transaction.open_table(table).unwrap().insert(&b"key"[..], &b"value"[..]).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_newer_format_is_left_as_it_is() {
    let (_folder, path) = folder();
    signed(&path, Some(FORMAT + 1));
    let error = try_open(&path).unwrap_err();
    assert!(matches!(error, CannotOpen::Newer { found, .. } if found == FORMAT + 1), "{error}");
    assert!(error.to_string().contains("Run the newer gatepost again"), "{error}");
    assert!(aside(&path).is_empty());
    assert!(matches!(read(&path, |_, _, _| ()), Err(CannotRead::Open(CannotOpen::Newer { .. }))));
}

#[test]
fn the_format_of_today_is_read() {
    let (_folder, path) = folder();
    signed(&path, Some(FORMAT));
    assert_eq!(open(&path).1, Records::from([((Table::Standings, b"key".to_vec()), b"value".to_vec())]));
}

#[test]
fn what_is_no_ledger_is_set_aside_as_it_was() {
    let zeros = [0; 100_000];
    let long = b"no redb file at all ".repeat(5000);
    for bytes in [&b""[..], b"x", b"redb\x1a\x0a\xa9\x0d\x0a", &zeros, &long] {
        let (_folder, path) = folder();
        fs::write(&path, bytes).unwrap();
        let error = read(&path, |_, _, _| ()).unwrap_err();
        assert!(matches!(error, CannotRead::Damaged { .. }), "{error}");
        let records = made(&path, 10);
        let aside = aside(&path);
        assert_eq!(aside.len(), 1);
        assert_eq!(fs::read(&aside[0]).unwrap(), bytes);
        assert_eq!(open(&path).1, records);
    }
}

#[test]
fn a_redb_file_of_another_program_is_set_aside() {
    for format in [None, Some(0)] {
        let (_folder, path) = folder();
        signed(&path, format);
        let (opened, records) = open(&path);
        assert!(matches!(opened.notices(), [Notice::SetAside { saved: 0, .. }]), "{:?}", opened.notices());
        assert_eq!(records, Records::new());
    }
}

#[test]
fn a_table_of_another_kind_is_damage() {
    let (_folder, path) = folder();
    made(&path, 10);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("networks");
    transaction.delete_table(table).unwrap();
    let table: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("networks");
    transaction.open_table(table).unwrap().insert(1, &b"value"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);

    let (opened, records) = open(&path);
    assert!(matches!(opened.notices(), [Notice::SetAside { saved: 4, .. }]), "{:?}", opened.notices());
    let memory = Memory::of(records.clone());
    assert!(opened.start(memory.clone()).unwrap().stop(LONG));
    assert_eq!(open(&path).1, records, "what could be read of it is in the new file");
    assert_eq!(memory.0.lock().asked_for_all, 1);
}

#[test]
fn a_file_that_ends_too_soon_is_set_aside() {
    let (_folder, path) = folder();
    made(&path, 5000);
    let whole = fs::read(&path).unwrap();
    for end in [1, 63, 64, 100, 320, 4095, 4096, 5000, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        let (_folder, path) = folder();
        fs::write(&path, &whole[..end]).unwrap();
        let (opened, records) = open(&path);
        assert!(matches!(opened.notices(), [Notice::SetAside { .. }]), "{end}: {:?}", opened.notices());
        assert_eq!(records, Records::new());
        assert_eq!(fs::read(&aside(&path)[0]).unwrap().len(), end);
    }
}

/// Opens the file with one bit changed. True if it was set aside. It never holds anything that was not written.
fn survives(whole: &[u8], at: usize, bit: u8, records: &Records) -> bool {
    let (_folder, path) = folder();
    fs::write(&path, whole).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[whole[at] ^ 1 << bit], at as u64).unwrap();
    drop(file);
    match try_open(&path) {
        Ok((opened, found)) => {
            let set_aside = matches!(opened.notices(), [Notice::SetAside { .. }]);
            assert!(set_aside || found == *records, "bit {bit} of byte {at}: {} records", found.len());
            let memory = Memory::of(found);
            let store = opened.start(memory.clone()).unwrap();
            memory.set(Table::Accounts, b"new", b"value");
            assert!(store.stop(LONG), "bit {bit} of byte {at}");
            assert!(try_open(&path).unwrap().1 == memory.records(), "bit {bit} of byte {at}");
            set_aside
        }
        Err(error) => panic!("bit {bit} of byte {at}: {error}"),
    }
}

#[test]
fn a_bit_that_flips_in_the_header_is_no_harm() {
    let (_folder, path) = folder();
    let records = made(&path, 200);
    let whole = fs::read(&path).unwrap();
    let set_aside = (0..320).filter(|at| survives(&whole, *at, (at % 8) as u8, &records)).count();
    assert!(set_aside > 9, "the magic number at the least; {set_aside}");
}

#[test]
fn a_bit_that_flips_anywhere_is_no_harm() {
    let (_folder, path) = folder();
    let records = made(&path, 5000);
    let whole = fs::read(&path).unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut set_aside = 0;
    for _ in 0..200 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (seed >> 33) as usize % whole.len();
        set_aside += u32::from(survives(&whole, at, (seed >> 30) as u8 & 7, &records));
    }
    assert!(set_aside > 20, "most of the file is in use: {set_aside}");
}

#[test]
fn records_that_nobody_understands_are_left_out_and_deleted() {
    let (_folder, path) = folder();
    let mut records = made(&path, 100);
    let understood = |key: &[u8]| key[0] < 128;
    let opened = Store::open(Settings::at(&path), Clock::held(NOW), |_, key, _| {
        assert!(key[0] < 200, "a reader's panic is no more than that");
        understood(key)
    });
    let opened = opened.unwrap();
    records.retain(|(_, key), _| understood(key));
    assert_eq!(opened.notices(), [Notice::LeftOut(100 - records.len() as u64)]);
    assert_eq!(opened.records(), records.len() as u64);
    assert!(opened.start(Memory::default()).unwrap().stop(LONG));
    assert_eq!(open(&path).1, records);
}

#[test]
fn a_file_that_is_removed_is_written_anew() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.fill(100);
    assert!(store.flush(LONG));
    fs::remove_file(&path).unwrap();
    assert!(!store.flush(LONG) || path.exists());
    assert!(store.flush(LONG));
    assert_eq!(store.state().failing, None);
    drop(store);
    assert_eq!(open(&path).1, memory.records());
}

#[test]
fn a_file_that_is_cut_short_under_way_is_set_aside_and_written_anew() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.fill(1000);
    assert!(store.flush(LONG));
    fs::File::options().write(true).open(&path).unwrap().set_len(10_000).unwrap();
    while store.state().set_aside == 0 {
        std::thread::yield_now();
    }
    assert!(store.flush(LONG), "{:?}", store.state());
    assert_eq!((store.state().failing, store.state().set_aside), (None, 1));
    assert!(store.stop(LONG));
    assert_eq!(aside(&path).len(), 1);
    let (opened, records) = open(&path);
    assert_eq!(opened.notices(), []);
    assert_eq!(records, memory.records());
}

#[test]
fn a_fault_of_the_memory_loses_nothing() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.fill(100);
    memory.0.lock().panics = true;
    while store.state().failures == 0 {
        std::thread::yield_now();
    }
    assert!(store.stop(LONG));
    assert_eq!(open(&path).1, memory.records());
    assert_eq!(memory.0.lock().asked_for_all, 1);
}

#[test]
fn a_place_that_cannot_be_used_is_told_with_a_remedy() {
    let (folder, _) = folder();
    let told = |path: &Path| try_open(path).unwrap_err().to_string();
    let missing = told(&folder.path().join("missing/ledger.redb"));
    assert!(missing.contains("make the folder") && missing.contains("StateDirectory=gatepost"), "{missing}");
    let directory = told(folder.path());
    assert!(directory.contains("is not a file"), "{directory}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let below = told(&file.join("ledger.redb"));
    assert!(below.contains("make the folder"), "{below}");
    assert!(matches!(read(&folder.path().join("none"), |_, _, _| ()), Err(CannotRead::Missing(_))));
}

#[test]
fn a_closed_file_is_read_without_a_change_to_it() {
    let (_folder, path) = folder();
    let records = made(&path, 1000);
    let before = fs::read(&path).unwrap();
    let mut found = Records::new();
    let many = read(&path, |table, key, value| _ = found.insert((table, key.to_vec()), value.to_vec())).unwrap();
    assert_eq!((many, found), (1000, records));
    assert!(before == fs::read(&path).unwrap());
}

#[test]
fn what_is_deleted_makes_room() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    let mut sizes = Vec::new();
    for round in 0..40_u32 {
        let keys: Vec<_> = (0..4000).map(|n| (round * 4000 + n).wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        keys.iter().for_each(|key| memory.set(Table::Standings, key, &[0; 40]));
        assert!(store.flush(LONG));
        keys.iter().for_each(|key| memory.remove(Table::Standings, key));
        assert!(store.flush(LONG));
        sizes.push(store.state().bytes);
    }
    // 160 000 records came and went, of 4000 at a time.
    assert!(sizes[39] < 4 << 20, "{sizes:?}");
}

#[test]
fn a_file_that_is_mostly_free_is_made_smaller_at_the_next_start() {
    let (_folder, path) = folder();
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    for n in 0..40_000_u32 {
        memory.set(Table::Standings, &n.to_be_bytes(), &[7; 1000]);
    }
    assert!(store.flush(LONG));
    // These are at the end of the file, which cannot be cut off without a move of them.
    for n in 0..100_u32 {
        memory.set(Table::Accounts, &n.to_be_bytes(), &[7; 1000]);
    }
    assert!(store.flush(LONG));
    for n in 0..40_000_u32 {
        memory.remove(Table::Standings, &n.to_be_bytes());
    }
    assert!(store.stop(LONG));
    let (opened, records) = open(&path);
    let [Notice::Compacted { from, to }] = opened.notices() else { panic!("{:?}", opened.notices()) };
    assert!(*from > 32 << 20 && *to < 2 << 20, "{from} {to}");
    assert_eq!(records, memory.records());
    drop(opened);
    assert_eq!(open(&path).1, memory.records());
}

/// A file system of a megabyte or so, until it is dropped.
struct Small(TempDir);

impl Small {
    /// None if we may not mount one.
    fn mount(size: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return Self::skipped("not root");
        }
        let this = Self(tempfile::tempdir().unwrap());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(this.0.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            return Self::skipped("mount says no");
        }
        Some(this)
    }

    /// As the tests of the whole daemon tell it, see `tests/host/peers.rs`.
    fn skipped(reason: &str) -> Option<Self> {
        let skipped = format!("{}: {reason}", std::thread::current().name().unwrap_or("test"));
        assert!(std::env::var_os("GATEPOST_MUST_RUN_ALL").is_none(), "every test must run, but {skipped}");
        println!("SKIPPED {skipped}");
        if let Some(list) = std::env::var_os("GATEPOST_SKIPPED") {
            let mut list = fs::File::options().create(true).append(true).open(list).unwrap();
            std::io::Write::write_all(&mut list, format!("{skipped}\n").as_bytes()).unwrap();
        }
        None
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", &format!("remount,{options}")]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// The disk is filled by another file, and emptied.
fn fill_up(folder: &Path) -> PathBuf {
    let ballast = folder.join("ballast");
    let file = fs::File::create(&ballast).unwrap();
    let mut at = 0;
    for piece in [&[0; 4096][..], &[0; 1]] {
        while file.write_all_at(piece, at).is_ok() {
            at += piece.len() as u64;
        }
    }
    ballast
}

#[test]
fn a_full_disk_is_survived_and_made_up_for() {
    let Some(small) = Small::mount("size=4m") else { return };
    let path = small.0.path().join("ledger.redb");
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.fill(100);
    assert!(store.flush(LONG));
    let ballast = fill_up(small.0.path());
    memory.fill(10_000);
    memory.remove(Table::Standings, &0_u32.to_be_bytes());
    while store.flush(LONG) {
        memory.fill(10_000);
    }
    let state = store.state();
    let failing = state.failing.expect("there is no room");
    assert!(failing.reason.contains("space"), "{failing:?}");
    assert_eq!(failing.since, NOW);
    assert!(state.pending > 0 && !state.rewrite, "{}", state.pending);
    memory.fill(20_000);
    assert!(!store.flush(LONG));
    fs::remove_file(ballast).unwrap();
    assert!(store.flush(LONG), "{:?}", store.state());
    let state = store.state();
    assert_eq!((state.failing, state.pending, state.set_aside), (None, 0, 0));
    assert!(store.stop(LONG));
    assert!(open(&path).1 == memory.records());
    assert_eq!(memory.0.lock().asked_for_all, 0);
}

#[test]
fn more_than_is_kept_while_the_disk_is_full_is_written_anew() {
    let Some(small) = Small::mount("size=4m") else { return };
    let path = small.0.path().join("ledger.redb");
    let memory = Memory::default();
    let settings = Settings { most_pending: 5000, ..Settings::at(&path) };
    let store = Store::open(settings, Clock::held(NOW), |_, _, _| true).unwrap().start(memory.clone()).unwrap();
    memory.fill(4000);
    assert!(store.flush(LONG));
    let ballast = fill_up(small.0.path());
    while !store.state().rewrite {
        memory.fill(20_000);
        memory.remove(Table::Standings, &0_u32.to_be_bytes());
        store.flush(LONG);
    }
    fs::remove_file(ballast).unwrap();
    while !store.flush(LONG) {
        std::thread::yield_now();
    }
    assert!(store.stop(LONG));
    assert!(open(&path).1 == memory.records());
    assert!(memory.0.lock().asked_for_all >= 1);
}

#[test]
fn a_start_on_a_full_disk_does_without_the_file_or_with_what_is_in_it() {
    let Some(small) = Small::mount("size=4m") else { return };
    let path = small.0.path().join("ledger.redb");
    let ballast = fill_up(small.0.path());
    let (opened, records) = open(&path);
    assert!(matches!(opened.notices(), [Notice::Begun, Notice::WithoutFile { .. }]), "{:?}", opened.notices());
    assert_eq!(records, Records::new());
    let memory = Memory::default();
    let store = opened.start(memory.clone()).unwrap();
    memory.fill(100);
    assert!(!store.flush(LONG));
    fs::remove_file(&ballast).unwrap();
    assert!(store.flush(LONG));
    assert!(store.stop(LONG));

    let ballast = fill_up(small.0.path());
    let (opened, records) = open(&path);
    assert_eq!(records, memory.records(), "{:?}", opened.notices());
    drop(opened);
    fs::remove_file(&ballast).unwrap();
    assert_eq!(open(&path).1, memory.records());
}

#[test]
fn what_a_killed_process_left_is_read_on_a_full_disk_too() {
    let Some(small) = Small::mount("size=4m") else { return };
    let path = small.0.path().join("ledger.redb");
    let memory = Memory::default();
    let (_folder, other) = folder();
    let store = open(&other).0.start(memory.clone()).unwrap();
    memory.fill(10_000);
    assert!(store.flush(LONG));
    fs::copy(&other, &path).unwrap();
    let ballast = fill_up(small.0.path());
    let before = fs::read(&path).unwrap();
    let mut found = Records::new();
    read(&path, |table, key, value| _ = found.insert((table, key.to_vec()), value.to_vec())).unwrap();
    assert!(found == memory.records());
    assert!(before == fs::read(&path).unwrap());

    let (opened, records) = open(&path);
    assert!(records == memory.records(), "{:?}", opened.notices());
    let store = opened.start(memory.clone()).unwrap();
    memory.fill(12_000);
    while store.flush(LONG) {
        memory.fill(12_000);
    }
    fs::remove_file(ballast).unwrap();
    assert!(store.flush(LONG), "{:?}", store.state());
    assert!(store.stop(LONG));
    assert!(open(&path).1 == memory.records());
}

#[test]
fn a_disk_that_can_only_be_read_is_survived_and_no_place_to_start() {
    let Some(small) = Small::mount("size=4m") else { return };
    let path = small.0.path().join("ledger.redb");
    let memory = Memory::default();
    let store = open(&path).0.start(memory.clone()).unwrap();
    memory.fill(100);
    assert!(store.stop(LONG));
    small.remount("ro");
    let error = try_open(&path).unwrap_err().to_string();
    assert!(error.contains("can only be read"), "{error}");
    assert!(aside(&path).is_empty());
    small.remount("rw");
    assert_eq!(open(&path).1, memory.records());
}

/// A step of the property below.
#[derive(Clone, Debug)]
enum Step {
    Set(Table, u8, Vec<u8>),
    Remove(Table, u8),
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let table = || prop::sample::select(&Table::ALL[..]);
    prop_oneof![
        8 => (table(), 0..40_u8, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(t, k, v)| Step::Set(t, k, v)),
        4 => (table(), 0..40_u8).prop_map(|(t, k)| Step::Remove(t, k)),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_is_what_was_remembered(steps in prop::collection::vec(step(), 0..60)) {
        let (_folder, path) = folder();
        let memory = Memory::default();
        let mut store = open(&path).0.start(memory.clone()).unwrap();
        for step in steps {
            match step {
                Step::Set(table, key, value) => memory.set(table, &[key; 3], &value),
                Step::Remove(table, key) => memory.remove(table, &[key; 3]),
                Step::Flush => prop_assert!(store.flush(LONG)),
                Step::Reopen => {
                    prop_assert!(store.stop(LONG));
                    let (opened, records) = open(&path);
                    prop_assert_eq!(records, memory.records());
                    store = opened.start(memory.clone()).unwrap();
                }
            }
        }
        prop_assert!(store.stop(LONG));
        prop_assert_eq!(open(&path).1, memory.records());
    }
}
