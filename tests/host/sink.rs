//! Where the MTAs under test deliver to: an SMTP server that keeps every transaction, byte for byte.
//!
//! It accepts everything, ends a message only at CRLF "." CRLF, removes exactly one leading dot a line, and keeps bare
//! LF, bare CR, NUL and 8-bit bytes as they came. It announces CHUNKING only when asked to, so that by default all
//! messages arrive by DATA.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::wait::PATIENCE;

/// One mail transaction that was ended by the client and answered with 250.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// The whole EHLO or HELO command.
    pub hello: String,
    /// The argument of MAIL FROM, with its parameters.
    pub from: String,
    /// The arguments of RCPT TO, with their parameters.
    pub to: Vec<String>,
    /// The message, dots removed, without the end-of-data line.
    pub data: Vec<u8>,
    /// True if it came by BDAT.
    pub chunked: bool,
}

/// The server. It ends with its value; connections end with their clients.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    chunking: bool,
    connections: AtomicUsize,
    stopping: AtomicBool,
    kept: Mutex<Vec<Transaction>>,
    arrived: Condvar,
}

impl Sink {
    /// A sink without CHUNKING.
    pub fn start() -> Self {
        Self::announcing_chunking(false)
    }

    /// A sink with or without CHUNKING.
    pub fn announcing_chunking(chunking: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            chunking,
            connections: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            kept: Mutex::default(),
            arrived: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || theirs.serve(&listener));
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// All transactions so far, in the order of their ends.
    pub fn kept(&self) -> Vec<Transaction> {
        self.shared.kept().clone()
    }

    /// Waits until `count` transactions are there and returns all; panics when patience is at its end.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Transaction> {
        let end = Instant::now() + PATIENCE;
        let mut kept = self.shared.kept();
        while kept.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} messages arrived within {PATIENCE:?}", kept.len());
            (kept, _) = self.shared.arrived.wait_timeout(kept, left).unwrap_or_else(PoisonError::into_inner);
        }
        kept.clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Vec<Transaction>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let connection = self.connections.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(&self);
            // An MTA may break off at any time; what was complete has been kept.
            thread::spawn(move || Visit::new(shared, connection, stream)?.talk());
        }
    }
}

struct Visit {
    shared: Arc<Shared>,
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    current: Transaction,
}

impl Visit {
    fn new(shared: Arc<Shared>, connection: usize, stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let current = Transaction {
            connection,
            hello: String::new(),
            from: String::new(),
            to: Vec::new(),
            data: Vec::new(),
            chunked: false,
        };
        Ok(Self { shared, writer: stream.try_clone()?, reader: BufReader::new(stream), current })
    }

    fn talk(mut self) -> io::Result<()> {
        self.say("220 sink.test ESMTP")?;
        loop {
            let mut line = Vec::new();
            if self.reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    self.current.hello = line;
                    let chunking = if self.shared.chunking { "250-CHUNKING\r\n" } else { "" };
                    self.say(&format!("250-sink.test\r\n250-PIPELINING\r\n{chunking}250-SMTPUTF8\r\n250 8BITMIME"))?;
                }
                "HELO" => {
                    self.current.hello = line;
                    self.say("250 sink.test")?;
                }
                "MAIL" => {
                    self.forget_transaction();
                    self.current.from = argument(&line);
                    self.say("250 2.1.0 ok")?;
                }
                "RCPT" => {
                    self.current.to.push(argument(&line));
                    self.say("250 2.1.5 ok")?;
                }
                "DATA" => {
                    self.say("354 go on")?;
                    self.current.data = read_data(&mut self.reader)?;
                    self.keep()?;
                }
                "BDAT" => self.chunk(&line)?,
                "RSET" => {
                    self.forget_transaction();
                    self.say("250 2.0.0 ok")?;
                }
                "QUIT" => return self.say("221 2.0.0 bye"),
                "NOOP" => self.say("250 2.0.0 ok")?,
                _ => self.say("500 5.5.1 what?")?,
            }
        }
    }

    fn chunk(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let read = (&mut self.reader).take(size).read_to_end(&mut self.current.data)?;
        if read as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.current.chunked = true;
        if last { self.keep() } else { self.say("250 2.0.0 chunk taken") }
    }

    /// Keeps the transaction first and confirms it then, so that whoever saw the 250 finds it here.
    fn keep(&mut self) -> io::Result<()> {
        let done = self.current.clone();
        self.forget_transaction();
        self.shared.kept().push(done);
        self.shared.arrived.notify_all();
        self.say("250 2.0.0 kept")
    }

    fn forget_transaction(&mut self) {
        self.current.from.clear();
        self.current.to.clear();
        self.current.data.clear();
        self.current.chunked = false;
    }

    fn say(&mut self, reply: &str) -> io::Result<()> {
        self.writer.write_all(format!("{reply}\r\n").as_bytes())
    }
}

/// Reads mail data to CRLF "." CRLF and takes the stuffed dots out.
pub fn read_data(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    // The CRLF of the DATA command is the one before the first line.
    let mut after_crlf = true;
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if after_crlf && line == b".\r\n" {
            return Ok(data);
        }
        let stuffed = after_crlf && line.starts_with(b".");
        after_crlf = line.ends_with(b"\r\n");
        data.extend_from_slice(&line[usize::from(stuffed)..]);
    }
}

fn argument(line: &str) -> String {
    line.split_once(':').map(|(_, argument)| argument.trim().to_owned()).unwrap_or_default()
}
