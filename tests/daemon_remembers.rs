//! What gatepost remembers, and what becomes of its process and its file: a stop, `kill -9`, damage, a full disk.
//!
//! Two gates share what is remembered: a mail exchanger, where strangers earn a standing, and a submission port, where
//! guesses of passwords earn a ban. `GATEPOST_KILLS=100` for more kills than a few, `GATEPOST_SEED` for other moments.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::geteuid;
use tempfile::TempDir;

use daemon::{address, from};
use host::backend::{Act, Backend, Manners};
use host::dialogue::Dialogue;
use host::gate::{Gate, Place, program};
use host::peers::skip;
use host::ports::free_address;
use host::process::{Process, public_dir};
use host::wait::{self, PATIENCE};

/// The most that `kill -9` may take.
const PROMISE: Duration = Duration::from_secs(1);

/// EX_UNAVAILABLE.
const UNAVAILABLE: i32 = 69;

/// What a client finds at the door.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Met {
    /// The MTA's own greeting, at once.
    Known,
    /// A teaser, and a wait.
    Stranger,
    /// Nothing: closed without a word.
    Shut,
}

/// A client's connection, with errors for the test to judge: the gate may be killed at any moment.
struct Visit {
    reader: BufReader<TcpStream>,
}

impl Visit {
    fn begin(client: Ipv4Addr, server: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((client, 0)).into())?;
        socket.connect_timeout(&server.into(), PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_tcp_nodelay(true)?;
        Ok(Self { reader: BufReader::new(socket.into()) })
    }

    /// The next line; none at the end.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        Ok((self.reader.read_line(&mut line)? > 0).then_some(line))
    }

    /// Reads a whole reply, which has to have this code.
    fn reply(&mut self, code: &str) -> io::Result<()> {
        loop {
            let line = self.line()?.ok_or(ErrorKind::UnexpectedEof)?;
            if !line.starts_with(code) {
                return Err(io::Error::other(line));
            }
            if line.as_bytes().get(3) == Some(&b' ') {
                return Ok(());
            }
        }
    }

    fn say(&mut self, command: &str, code: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.reply(code)
    }
}

/// What `client` finds at the door.
fn meet(client: Ipv4Addr, server: SocketAddr) -> Met {
    let line = Visit::begin(client, server).and_then(|mut visit| visit.line());
    match line {
        Ok(Some(line)) if line.starts_with("220-") => Met::Stranger,
        Ok(Some(line)) if line == "220 mx.test ESMTP\r\n" => Met::Known,
        Ok(None) => Met::Shut,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Met::Shut,
        other => panic!("{client} at {server}: {other:?}"),
    }
}

/// Passes every test, as a stranger does.
fn pass(client: Ipv4Addr, mx: SocketAddr) -> io::Result<()> {
    let mut visit = Visit::begin(client, mx)?;
    visit.reply("220")?;
    visit.say("EHLO client.test", "250")?;
    visit.say("MAIL FROM:<anna@client.test>", "250")?;
    visit.say("RCPT TO:<bert@example.org>", "250")?;
    visit.say("QUIT", "221")
}

/// Guesses a password so many times in one connection.
fn guess(client: Ipv4Addr, submission: SocketAddr, times: usize) -> io::Result<()> {
    let mut visit = Visit::begin(client, submission)?;
    visit.reply("220")?;
    visit.say("EHLO client.test", "250")?;
    // Each for an account of its own, `\0u<client>\0x`: nobody is to be banned for another's guess.
    let login = BASE64_STANDARD.encode(format!("\0u{client}\0x"));
    (0..times).try_for_each(|_| visit.say(&format!("AUTH PLAIN {login}"), "535"))
}

/// An MTA that knows no password.
fn mta() -> Backend {
    let mut manners = Manners::default().behind_proxy().but("AUTH", Act::Say("535 5.7.8 no"));
    manners.keywords.push("AUTH PLAIN".to_owned());
    manners.start()
}

/// The file: two guesses are a ban.
fn file(at: &Place<'_>, backend: &Backend, ledger: &Path) -> String {
    let (admin, mx, submission, backend) = (at.admin, at.smtp, at.second, backend.address());
    format!(
        "hostname = \"mx.example.test\"\nadmin = \"{admin}\"\nlanes = 2\n\
         [[gate]]\nlisten = \"{mx}\"\nbackend = \"{backend}\"\n\
         [[gate]]\nscene = \"submission\"\nlisten = \"{submission}\"\nbackend = \"{backend}\"\n\
         [greet]\nwait_min = \"100ms\"\nwait_max = \"200ms\"\n[access]\nallow = []\n\
         [auth]\nfailures = \"2/10m\"\n[bans]\nfirst = \"1d\"\n[limits]\nsessions_per_prefix = 10_000\n\
         [ledger]\npath = \"{}\"\n",
        ledger.display()
    )
}

/// A gate whose file is in its own folder.
fn gate(backend: &Backend) -> (Gate, PathBuf) {
    let gate = Gate::start(|at| file(at, backend, &at.dir.join("ledger.redb")));
    let ledger = gate.dir().join("ledger.redb");
    (gate, ledger)
}

/// Who has been here before, and what they are to find from then on.
struct Acquaintances {
    known: Ipv4Addr,
    banned: Ipv4Addr,
    suspect: Ipv4Addr,
}

impl Acquaintances {
    /// One passes, one is banned, and one guesses once.
    fn make(gate: &Gate, first: u32) -> Self {
        let these = Self { known: address(first), banned: address(first + 1), suspect: address(first + 2) };
        pass(these.known, gate.smtp()).unwrap();
        guess(these.banned, gate.second(), 2).unwrap();
        guess(these.suspect, gate.second(), 1).unwrap();
        these.assert_remembered(gate);
        these
    }

    #[track_caller]
    fn assert_remembered(&self, gate: &Gate) {
        let met = [self.known, self.banned, self.suspect].map(|client| meet(client, gate.smtp()));
        assert_eq!(met, [Met::Known, Met::Shut, Met::Stranger]);
        assert_eq!(meet(self.banned, gate.second()), Met::Shut, "at every gate");
    }
}

#[test]
fn standings_bans_and_counts_survive_a_stop_and_kill_9_a_second_later() {
    let backend = mta();
    let (mut gate, _) = gate(&backend);
    let before_stop = Acquaintances::make(&gate, 0);
    gate.leave();
    gate.restart();
    before_stop.assert_remembered(&gate);
    gate.wait_for_record(|record| from(before_stop.known)(record) && record["recognition"] == "remembered");

    let before_kill = Acquaintances::make(&gate, 10);
    // It is about what is older than a second; there is nothing to be seen that could be waited for.
    thread::sleep(PROMISE);
    gate.kill();
    gate.restart();
    for these in [before_stop, before_kill] {
        these.assert_remembered(&gate);
        // The guess of before counts with that of now.
        guess(these.suspect, gate.second(), 1).unwrap();
        assert_eq!(meet(these.suspect, gate.smtp()), Met::Shut);
        let banned = format!("network={}/32", these.suspect);
        wait::until("the ban to be told", || {
            let complaints = gate.complaints();
            complaints.lines().any(|line| line.contains(&banned) && line.contains("count=2")).then_some(())
        });
    }
}

/// Strangers and guessers without end, and what they have earned.
struct Load {
    mx: SocketAddr,
    submission: SocketAddr,
    over: AtomicBool,
    next: AtomicU32,
    earned: Mutex<Vec<Earned>>,
}

/// What a client is to find, and since when.
#[derive(Clone, Copy)]
struct Earned {
    client: Ipv4Addr,
    met: Met,
    at: Instant,
}

impl Load {
    /// One after another, of which every fourth guesses, until it is over.
    fn run(&self) {
        while !self.over.load(Ordering::SeqCst) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let client = address(n);
            let (done, met) = match n % 4 {
                0 => (guess(client, self.submission, 2), Met::Shut),
                _ => (pass(client, self.mx), Met::Known),
            };
            match done {
                Ok(()) => {
                    let earned = Earned { client, met, at: Instant::now() };
                    self.earned.lock().unwrap_or_else(PoisonError::into_inner).push(earned);
                }
                Err(error) => assert!(self.over.load(Ordering::SeqCst), "{client} {met:?}: {error}"),
            }
        }
    }

    /// Has so many work at it until `after` is over, and kills the gate among them. What was earned, and when that was.
    fn kill(self, gate: &mut Gate, crowd: usize, after: Duration) -> (Vec<Earned>, Instant, u32) {
        let killed = thread::scope(|scope| {
            let crowd: Vec<_> = (0..crowd).map(|_| scope.spawn(|| self.run())).collect();
            thread::sleep(after);
            self.over.store(true, Ordering::SeqCst);
            let killed = Instant::now();
            gate.kill();
            crowd.into_iter().for_each(|client| client.join().expect("a client"));
            killed
        });
        let earned = self.earned.into_inner().unwrap_or_else(PoisonError::into_inner);
        (earned, killed, self.next.into_inner())
    }
}

/// Numbers that look like chance, and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn number(variable: &str, usual: u64) -> u64 {
    env::var(variable).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn nothing_older_than_a_second_is_lost_to_kill_9_at_any_moment_under_load() {
    /// How many of those of earlier rounds are asked for after each.
    const SAMPLE: u64 = 50;
    let kills = number("GATEPOST_KILLS", 12);
    let mut dice = Dice(number("GATEPOST_SEED", 42));
    let backend = mta();
    let (mut gate, _) = gate(&backend);
    let (mut next, mut old, mut young, mut young_kept) = (0, Vec::<Earned>::new(), 0, 0);
    for kill in 1..=kills {
        // Most a while after the start, so that something is old enough; some at once.
        let after = if kill % 4 == 0 { dice.below(600) } else { 1000 + dice.below(900) };
        let load = Load {
            mx: gate.smtp(),
            submission: gate.second(),
            over: AtomicBool::new(false),
            next: AtomicU32::new(next),
            earned: Mutex::default(),
        };
        let (earned, killed, last) = load.kill(&mut gate, 24, Duration::from_millis(after));
        next = last;
        gate.restart();
        let complaints = gate.complaints();
        assert!(!complaints.contains("ERROR"), "the file opens, and nothing is wrong with it:\n{complaints}");
        let find = |one: &Earned| meet(one.client, gate.smtp()) == one.met;
        for _ in 0..SAMPLE.min(old.len() as u64) {
            let one = old[dice.below(old.len() as u64) as usize];
            assert!(
                find(&one),
                "kill {kill} after {after} ms: {} was {:?} before an earlier kill",
                one.client,
                one.met
            );
        }
        for one in earned {
            let age = killed.saturating_duration_since(one.at);
            if age >= PROMISE {
                assert!(find(&one), "kill {kill} after {after} ms: {} {:?} for {age:?} is lost", one.client, one.met);
                old.push(one);
            } else {
                young += 1;
                young_kept += usize::from(find(&one));
            }
        }
    }
    let banned = old.iter().filter(|one| one.met == Met::Shut).count();
    for one in &old {
        assert_eq!(meet(one.client, gate.smtp()), one.met, "{} after the last kill", one.client);
    }
    println!(
        "{kills} kills: {} standings and {banned} bans that were older than a second, none lost; of {young} younger ones \
         {young_kept} were kept",
        old.len() - banned
    );
    assert!(banned > 0 && old.len() > banned, "something has to be at stake");
}

/// The lines of the log that have all of `words`.
fn said(gate: &Gate, words: &[&str]) -> Vec<String> {
    let complaints = gate.complaints();
    complaints.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

/// What was set aside in `folder`.
fn aside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut aside: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().contains(".damaged-")).collect();
    aside.sort();
    aside
}

#[test]
fn a_file_that_is_damaged_or_foreign_is_set_aside_and_nobody_waits_for_that() {
    let backend = mta();
    let (mut gate, ledger) = gate(&backend);
    let mut dice = Dice(7);
    let noise: Vec<u8> = (0..65_536).map(|_| dice.below(256) as u8).collect();
    let foreign = b"# notes\nTelephone the provider about the reverse name.\n".to_vec();
    for (nth, damage) in [None, Some(noise.clone()), Some(foreign)].into_iter().enumerate() {
        let these = Acquaintances::make(&gate, 10 * nth as u32);
        gate.leave();
        let bytes = damage.unwrap_or_else(|| {
            // Its own bytes, but for one in the middle of each page.
            let mut bytes = fs::read(&ledger).unwrap();
            bytes.chunks_mut(4096).skip(1).for_each(|page| page[page.len() / 2] ^= 0x55);
            bytes.iter_mut().skip(64).take(1024).for_each(|byte| *byte ^= 0xff);
            bytes
        });
        fs::write(&ledger, &bytes).unwrap();
        gate.restart();
        let told = said(&gate, &["ERROR", "the ledger's file is damaged", "it was set aside"]);
        assert_eq!(told.len(), 1, "{}", gate.complaints());
        let aside = aside(gate.dir());
        assert_eq!(aside.len(), nth + 1, "{aside:?}");
        // The last one: of two in one second, the name of the first is the beginning of the other's.
        let here = aside.iter().rfind(|path| told[0].contains(&*path.to_string_lossy()));
        let here = here.unwrap_or_else(|| panic!("it says where: {}", told[0]));
        assert!(fs::read(here).unwrap() == bytes, "as it was found");
        println!("{}", told[0]);
        // It goes on, and what was in the file is forgotten, for once.
        assert_eq!(meet(these.known, gate.smtp()), Met::Stranger);
        assert_eq!(meet(these.banned, gate.smtp()), Met::Stranger);
    }
    // And the new file is as good as the first one.
    let these = Acquaintances::make(&gate, 100);
    gate.leave();
    gate.restart();
    these.assert_remembered(&gate);
    assert_eq!(aside(gate.dir()).len(), 3);
}

#[test]
fn a_second_gatepost_with_the_same_file_does_not_start_and_the_first_goes_on() {
    let backend = mta();
    let (mut gate, ledger) = gate(&backend);
    let these = Acquaintances::make(&gate, 0);
    let dir = public_dir();
    let [smtp, second, admin] = std::array::from_fn(|_| free_address());
    let text = file(&Place { smtp, second, admin, dir: dir.path() }, &backend, &ledger);
    let other = dir.path().join("gatepost.toml");
    fs::write(&other, text).unwrap();
    let mut command = program();
    command.args(["run", "-c"]).arg(&other);
    let mut process = Process::start("gatepost", &command, dir.path());
    let status = wait::until("the second one to give up", || process.ended());
    let told = process.stderr();
    assert_eq!(status.code(), Some(UNAVAILABLE), "{told}");
    assert!(told.contains(&format!("another process has the ledger's file {} open", ledger.display())), "{told}");
    assert!(told.contains("`path` of its own in [ledger]"), "{told}");
    these.assert_remembered(&gate);
    gate.leave();
    gate.restart();
    these.assert_remembered(&gate);
}

/// A file system of a few megabytes, until it is dropped.
struct Small(TempDir);

impl Small {
    /// None if we may not mount one.
    fn mount() -> Option<Self> {
        if !geteuid().is_root() {
            skip("not root");
            return None;
        }
        let small = Self(public_dir());
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs"]).arg(small.0.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(small);
        }
        skip("mount says no");
        None
    }

    /// Leaves no room for anything.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.path().join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        for piece in [&[0; 4096][..], &[0; 1]] {
            while file.write_all(piece).is_ok() {}
        }
        ballast
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_of_served_on_and_made_up_for() {
    let Some(small) = Small::mount() else { return };
    let backend = mta();
    let ledger = small.0.path().join("ledger.redb");
    let mut gate = Gate::start(|at| file(at, &backend, &ledger));
    let before = Acquaintances::make(&gate, 0);
    gate.leave();
    gate.restart();
    let ballast = small.fill();
    // More than fits into the room that is free inside the file.
    for n in 0..200 {
        guess(address(1000 + n), gate.second(), 2).unwrap();
    }
    let meanwhile = Acquaintances::make(&gate, 10);
    let told = wait::until("the trouble to be told", || {
        said(&gate, &["ERROR", "the ledger's file cannot be written"]).first().cloned()
    });
    println!("{told}");
    assert!(told.contains("No space left on device"), "{told}");
    before.assert_remembered(&gate);
    meanwhile.assert_remembered(&gate);

    fs::remove_file(ballast).unwrap();
    wait::until("the file to be written again", || {
        (!said(&gate, &["INFO", "the ledger's file is written again"]).is_empty()).then_some(())
    });
    gate.kill();
    gate.restart();
    before.assert_remembered(&gate);
    meanwhile.assert_remembered(&gate);
    assert!((0..200).all(|n| meet(address(1000 + n), gate.smtp()) == Met::Shut));
    assert!(said(&gate, &["ERROR"]).is_empty(), "{}", gate.complaints());

    // A start on a full disk.
    gate.leave();
    let _ballast = small.fill();
    gate.restart();
    before.assert_remembered(&gate);
    meanwhile.assert_remembered(&gate);
    Dialogue::from(meanwhile.known, gate.smtp()).expect("220");
}
