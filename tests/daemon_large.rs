//! A large message through a slow backend: the client is slowed down, and the gate holds no more than a fixed buffer.
//!
//! `GATEPOST_MEGABYTES` and `GATEPOST_MEGABYTES_PER_SECOND` make it larger and slower than a test can be that runs often:
//!
//! ```sh
//! GATEPOST_MEGABYTES=200 GATEPOST_MEGABYTES_PER_SECOND=1 cargo test --test daemon_large -- --nocapture
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use host::gate::{Gate, Place};
use host::proxy;
use host::secure::{Secure, connect};

/// Allowed: handed off at once.
const KNOWN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What the gate may grow by.
const MOST: u64 = 2 << 20;

const LINE: &[u8] = b"TWFpbCBpcyBtb3N0bHkgYmFzZTY0IGxpbmVzLCA3NiBieXRlcyBlYWNoIG9mIHRoZW0sIGFuZCBD\r\n";

/// How much is written, and at most read, at once.
const PIECE: usize = 64 * 1024;

/// How large a message, and how many bytes of it the backend reads in a second.
fn measures() -> (usize, usize) {
    let megabytes = |name: &str, usual: usize| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("a number of megabytes")) << 20
    };
    let size = megabytes("GATEPOST_MEGABYTES", 40);
    (size - size % LINE.len(), megabytes("GATEPOST_MEGABYTES_PER_SECOND", 4))
}

/// What a message of whole lines is from the `at`th byte on.
fn text(at: usize) -> impl Iterator<Item = u8> {
    LINE.iter().copied().cycle().skip(at % LINE.len())
}

/// An MTA that reads mail data at `rate`, and holds it against what was sent. MAIL says how much there will be.
fn slow_backend(rate: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Those who break off, such as probes, do so as they like.
            thread::spawn(move || converse(stream, rate));
        }
    });
    address
}

fn converse(mut writer: TcpStream, rate: usize) -> io::Result<()> {
    writer.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(PIECE, writer.try_clone()?);
    proxy::read(&mut reader)?;
    writer.write_all(b"220 slow.test ESMTP\r\n")?;
    let (mut line, mut size, mut taken) = (String::new(), 0, 0);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let reply = match words.as_slice() {
            ["EHLO", ..] => "250-slow.test\r\n250-SIZE\r\n250 CHUNKING",
            ["MAIL", .., announced] => {
                size = announced.trim_start_matches("SIZE=").parse().expect("a size");
                taken = 0;
                "250 ok"
            }
            ["DATA"] => {
                writer.write_all(b"354 go on\r\n")?;
                take(&mut reader, 0, size, rate)?;
                line.clear();
                reader.read_line(&mut line)?;
                assert_eq!(line, ".\r\n", "the message is as long as it was");
                "250 taken"
            }
            ["BDAT", count, ..] => {
                let count = count.parse().expect("a size");
                take(&mut reader, taken, count, rate)?;
                taken += count;
                "250 taken"
            }
            ["QUIT"] => return writer.write_all(b"221 bye\r\n"),
            _ => "250 ok",
        };
        writer.write_all(format!("{reply}\r\n").as_bytes())?;
    }
}

/// Takes `count` bytes of the message, from the `from`th on, no faster than `rate`.
fn take(reader: &mut impl Read, from: usize, count: usize, rate: usize) -> io::Result<()> {
    let expected: Vec<u8> = text(0).take(PIECE + LINE.len()).collect();
    let (mut piece, mut taken) = (vec![0; PIECE], 0);
    let begun = Instant::now();
    while taken < count {
        let most = PIECE.min(count - taken);
        let read = reader.read(&mut piece[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let at = (from + taken) % LINE.len();
        assert!(piece[..read] == expected[at..at + read], "byte for byte, at {}", from + taken);
        taken += read;
        let due = Duration::from_secs_f64(taken as f64 / rate as f64);
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok(())
}

fn configuration(at: &Place<'_>, backend: SocketAddr) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
    fs::write(at.dir.join("mx.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(at.dir.join("mx.key"), key.serialize_pem()).unwrap();
    let (smtp, admin) = (at.smtp, at.admin);
    // The waits for mail data and for the backend are far shorter than the message takes.
    format!(
        "hostname = 'mx.test'\nadmin = '{admin}'\n[access]\nallow = ['{KNOWN}']\n\
         [timeouts]\ndata = '3s'\nwrite = '3s'\n\
         [[gate]]\nlisten = '{smtp}'\nbackend = '{backend}'\n\
         [gate.tls]\nstarttls = 'here'\ncertificates = [{{ chain = 'mx.pem', key = 'mx.key' }}]\n"
    )
}

/// A client's side, in the clear or under TLS.
enum Client {
    Plain(BufReader<TcpStream>),
    Tls(Box<Secure>),
}

impl Client {
    fn come(gate: &Gate, tls: bool) -> Self {
        let mut client = match tls {
            true => Self::Tls(Box::new(Secure::after_starttls(KNOWN, gate.smtp(), "mx.test"))),
            false => {
                let mut client = Self::Plain(BufReader::new(connect(KNOWN, gate.smtp())));
                client.expect("220");
                client
            }
        };
        client.ask("EHLO client.test", "250");
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(stream) => stream.get_mut().write_all(bytes).expect("sent"),
            Self::Tls(secure) => secure.send(bytes),
        }
    }

    fn expect(&mut self, start: &str) {
        let Self::Plain(stream) = self else {
            let Self::Tls(secure) = self else { return };
            secure.expect(start);
            return;
        };
        let mut line = String::new();
        while line.as_bytes().get(3) != Some(&b' ') {
            line.clear();
            stream.read_line(&mut line).unwrap_or_else(|error| panic!("{error} instead of {start}"));
            assert!(line.starts_with(start), "{line:?} instead of {start}");
        }
    }

    fn ask(&mut self, line: &str, start: &str) {
        self.send(format!("{line}\r\n").as_bytes());
        self.expect(start);
    }

    /// Sends `count` bytes of the message, from the `from`th on, as fast as they are taken.
    fn pour(&mut self, from: usize, count: usize) {
        let source: Vec<u8> = text(0).take(PIECE + LINE.len()).collect();
        let mut sent = 0;
        while sent < count {
            let at = (from + sent) % LINE.len();
            let most = PIECE.min(count - sent);
            self.send(&source[at..at + most]);
            sent += most;
        }
    }

    fn deliver(&mut self, size: usize, chunked: bool) {
        self.ask(&format!("MAIL FROM:<bob@example.org> SIZE={size}"), "250");
        self.ask("RCPT TO:<alice@example.test>", "250");
        if chunked {
            let half = size / 2;
            for (from, count, last) in [(0, half, ""), (half, size - half, " LAST")] {
                self.send(format!("BDAT {count}{last}\r\n").as_bytes());
                self.pour(from, count);
                self.expect("250");
            }
        } else {
            self.ask("DATA", "354");
            self.pour(0, size);
            self.ask(".", "250");
        }
        self.ask("QUIT", "221");
    }
}

/// What of the gate is in memory, in bytes.
fn resident(status: &Path) -> u64 {
    let text = fs::read_to_string(status).expect("our own child");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// The size of the gate before, at most meanwhile, and after.
fn weigh(gate: &Gate, act: impl FnOnce() + Send) -> [u64; 3] {
    let status = Path::new("/proc").join(gate.pid().to_string()).join("status");
    let before = resident(&status);
    let over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        scope.spawn(|| {
            act();
            over.store(true, Ordering::SeqCst);
        });
        let mut most = before;
        while !over.load(Ordering::SeqCst) {
            most = most.max(resident(&status));
            thread::sleep(Duration::from_millis(20));
        }
        most
    });
    [before, most, resident(&status)]
}

#[test]
fn a_large_message_through_a_slow_backend_costs_a_fixed_buffer() {
    let (size, rate) = measures();
    let backend = slow_backend(rate);
    let ways = [(false, false), (false, true), (true, false), (true, true)];
    let grown = thread::scope(|scope| {
        let each = ways.map(|(tls, chunked)| {
            scope.spawn(move || {
                // What is needed once, such as the first handshake's tables, is there before.
                let gate = Gate::start(|at| configuration(at, backend));
                Client::come(&gate, tls).deliver(LINE.len() * 10, chunked);
                let begun = Instant::now();
                let [before, most, after] = weigh(&gate, || Client::come(&gate, tls).deliver(size, chunked));
                let took = begun.elapsed();
                let way = if chunked { "BDAT" } else { "DATA" };
                let under = if tls { "under TLS" } else { "in the clear" };
                println!(
                    "{} MB by {way} {under} in {:.1} s: the gate has {} kB before, {} at most, {} after (+{} kB)",
                    (size + PIECE) >> 20,
                    took.as_secs_f32(),
                    before >> 10,
                    most >> 10,
                    after >> 10,
                    (most - before) >> 10,
                );
                let least = Duration::from_secs_f64(size as f64 / rate as f64 * 0.9);
                assert!(took >= least, "the backend set the pace: {took:?}");
                let record = gate.wait_for_record(|record| {
                    record["accepted"] == 1 && record["bytes_in"].as_u64() > Some(size as u64)
                });
                assert_eq!(record["outcome"], "relayed", "{record}");
                most - before
            })
        });
        each.map(|one| one.join().expect("a delivery"))
    });
    for (grown, way) in grown.into_iter().zip(ways) {
        assert!(grown < MOST, "(TLS, BDAT) = {way:?}: the gate has grown by {grown} bytes");
    }
}
