//! A DNSBL: rbldnsd with zones of our own.

use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::peers::Peer;
use super::ports::{self, IN_USE, TRIES};
use super::process::{Process, public_dir};
use super::wait;

/// One zone in rbldnsd's own words.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its domain, such as `bl.test`.
    pub name: &'static str,
    /// rbldnsd's set type: `ip4set`, `ip6trie`, `dnset`, `generic`, …
    pub kind: &'static str,
    /// The content of the zone file.
    pub text: String,
}

/// A running server.
pub struct Rbldnsd {
    process: Process,
    zones: Vec<Zone>,
    address: SocketAddr,
    dir: TempDir,
}

impl Rbldnsd {
    /// Starts a server for `zones`; it answers when this returns.
    #[track_caller]
    pub fn start(zones: &[Zone]) -> Self {
        let dir = public_dir();
        for (at, zone) in zones.iter().enumerate() {
            fs::write(dir.path().join(file_of(at)), &zone.text).expect("a zone file");
        }
        for _ in 0..TRIES {
            let address = ports::free_address();
            let mut command = Command::new(Peer::Rbldnsd.program());
            // In the foreground, no checks by the clock: a zone changes only when `replace` says so.
            command.arg("-n").args(["-c", "0", "-t", "1s"]).arg("-w").arg(dir.path());
            command.arg("-b").arg(format!("{}/{}", address.ip(), address.port()));
            command.args(
                zones.iter().enumerate().map(|(at, zone)| format!("{}:{}:{}", zone.name, zone.kind, file_of(at))),
            );
            let mut process = Process::start("rbldnsd", &command, dir.path());
            let up = wait::until("rbldnsd", || match process.ended() {
                Some(_) => Some(false),
                None => ask(address, zones.first().map_or("test", |zone| zone.name), Duration::from_millis(50))
                    .map(|_| true),
            });
            if up {
                return Self { process, zones: zones.to_vec(), address, dir };
            }
            assert!(process.stderr().contains(IN_USE), "rbldnsd ended\n{}", process.stderr());
        }
        panic!("no free port for rbldnsd in {TRIES} tries")
    }

    /// Where it answers, over UDP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts another content into a zone and has it read; waits until the server has done so.
    #[track_caller]
    pub fn replace(&self, zone: &str, text: &str) {
        let at = self.zones.iter().position(|known| known.name == zone).expect("a zone of this server");
        let before = self.reloads();
        let path = self.dir.path().join(file_of(at));
        // It reads a file again when size or modification time differ, and the latter counts in whole seconds.
        let later = fs::metadata(&path).and_then(|file| file.modified()).expect("a zone file") + Duration::from_secs(2);
        fs::write(&path, text).expect("a zone file");
        File::options().write(true).open(&path).and_then(|file| file.set_modified(later)).expect("our own file");
        self.process.signal(Signal::HUP);
        wait::until("rbldnsd to read its zones again", || (self.reloads() > before).then_some(()));
    }

    /// Ends it: to whoever asks, nobody is there.
    pub fn stop(mut self) {
        self.process.stop(wait::PATIENCE);
    }

    /// Stops it where it stands, as a hanging machine would: questions vanish. To be thawed before it is dropped.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// The address records for `name`; none if there is no such name. Panics if there is no answer.
    #[track_caller]
    pub fn lookup(&self, name: &str) -> Vec<[u8; 4]> {
        wait::until("an answer from rbldnsd", || ask(self.address, name, Duration::from_secs(1)))
    }

    fn reloads(&self) -> usize {
        let said = self.process.stdout() + &self.process.stderr();
        said.matches("zones reloaded").count()
    }
}

/// Asks once for the A records of `name`; nothing if no answer comes in time.
fn ask(server: SocketAddr, name: &str, limit: Duration) -> Option<Vec<[u8; 4]>> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(limit)).ok()?;
    // RFC 1035, 4.1: id 1, recursion desired, one question.
    let mut question = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).ok()?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send(&question).ok()?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).ok()?;
    let answer = &answer[..length];
    let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
    let mut rest = answer.get(question.len()..)?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        // rbldnsd points back at the question for the name: 2 bytes, then type, class, TTL and length.
        let (record, after) = rest.split_at_checked(12)?;
        let (value, after) = after.split_at_checked(usize::from(u16::from_be_bytes([record[10], record[11]])))?;
        addresses.extend(<[u8; 4]>::try_from(value));
        rest = after;
    }
    Some(addresses)
}

fn file_of(zone: usize) -> String {
    format!("zone{zone}")
}
