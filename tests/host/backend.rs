//! An MTA's double: greets, answers, stalls and breaks off as told, and remembers who came and what they said.
//!
//! [`Backend::start`] takes the conversation as a function, run once for each connection. [`Manners`] is the usual one:
//! a polite MTA with exceptions.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::proxy::{self, Announced};
use super::sink::read_data;
use super::wait::{self, PATIENCE};

/// The double. It stops accepting when it is dropped.
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    stopping: AtomicBool,
}

/// What one connection brought.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The other end, before any PROXY header.
    pub peer: Option<SocketAddr>,
    /// The PROXY header, if one was read.
    pub proxy: Option<Announced>,
    /// Every byte read after it.
    pub bytes: Vec<u8>,
    /// The command lines among them, without line ends.
    pub commands: Vec<String>,
    /// The messages among them, dots removed.
    pub messages: Vec<Vec<u8>>,
    /// True when the conversation is over.
    pub ended: bool,
}

/// The double's side of one connection.
pub struct Talk {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    shared: Arc<Shared>,
    connection: usize,
}

impl Backend {
    /// Runs `conversation` on each connection, in a thread of its own. An error in it ends that connection only.
    pub fn start(conversation: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), conversation)
    }

    /// The same where another has been before: an MTA that comes back.
    pub fn start_at(
        address: SocketAddr,
        conversation: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a loopback port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || serve(&listener, &theirs, &Arc::new(conversation)));
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.seen().len()
    }

    /// What the connections brought so far, in the order of their arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// Waits until `count` conversations are over and returns all.
    #[track_caller]
    pub fn wait_for_ends(&self, count: usize) -> Vec<Seen> {
        wait::until("conversations to end", || {
            let seen = self.seen();
            (seen.iter().filter(|one| one.ended).count() >= count).then_some(seen)
        })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve<C>(listener: &TcpListener, shared: &Arc<Shared>, conversation: &Arc<C>)
where
    C: Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static,
{
    for stream in listener.incoming().flatten() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let connection = {
            let mut seen = shared.seen();
            seen.push(Seen { peer: stream.peer_addr().ok(), ..Seen::default() });
            seen.len() - 1
        };
        let (shared, conversation) = (Arc::clone(shared), Arc::clone(conversation));
        thread::spawn(move || -> io::Result<()> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut talk = Talk { writer: stream.try_clone()?, reader: BufReader::new(stream), shared, connection };
            let outcome = conversation(&mut talk);
            talk.note(|seen| seen.ended = true);
            outcome
        });
    }
}

impl Talk {
    /// Which connection this is, counted from 0.
    pub fn connection(&self) -> usize {
        self.connection
    }

    /// Reads the PROXY header that must come first.
    pub fn proxy(&mut self) -> io::Result<Announced> {
        let announced = proxy::read(&mut self.reader)?;
        self.note(|seen| seen.proxy = Some(announced));
        Ok(announced)
    }

    /// Sends a line, or several with `\r\n` between them; the last CRLF is added.
    pub fn say(&mut self, reply: &str) -> io::Result<()> {
        self.send(format!("{reply}\r\n").as_bytes())
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// The next line, without its line end; nothing at the end of the connection.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        self.note(|seen| seen.bytes.extend_from_slice(&line));
        if line.is_empty() {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
        self.note(|seen| seen.commands.push(line.clone()));
        Ok(Some(line))
    }

    /// Mail data up to its end.
    pub fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut kept = Recording { inner: &mut self.reader, bytes: Vec::new() };
        let message = read_data(&mut kept);
        let bytes = kept.bytes;
        self.note(|seen| {
            seen.bytes.extend_from_slice(&bytes);
            seen.messages.extend(message.as_ref().ok().cloned());
        });
        message
    }

    /// Exactly `count` bytes, as after `BDAT`.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        io::Read::read_exact(&mut self.reader, &mut bytes)?;
        self.note(|seen| seen.bytes.extend_from_slice(&bytes));
        Ok(bytes)
    }

    /// Reads on, silently, until the client leaves or `limit` is over without a byte.
    pub fn ignore(&mut self, limit: Duration) -> io::Result<()> {
        self.writer.set_read_timeout(Some(limit))?;
        loop {
            match self.reader.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(piece) => {
                    let piece = piece.to_vec();
                    self.reader.consume(piece.len());
                    self.note(|seen| seen.bytes.extend_from_slice(&piece));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends nothing more, and goes on reading.
    pub fn finish_sending(&mut self) -> io::Result<()> {
        self.writer.shutdown(Shutdown::Write)
    }

    /// Leaves by RST.
    pub fn reset(&mut self) -> io::Result<()> {
        // Takes effect when the conversation returns and both handles are closed.
        SockRef::from(&self.writer).set_linger(Some(Duration::ZERO))
    }

    fn note(&mut self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.shared.seen()[self.connection]);
    }
}

/// A reader that keeps a copy of what went through it.
struct Recording<'a, R> {
    inner: &'a mut R,
    bytes: Vec<u8>,
}

impl<R: BufRead> io::Read for Recording<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.bytes.extend_from_slice(&into[..read]);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Recording<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is consumed was shown by `fill_buf` just before, so it is in the buffer still.
        if let Ok(shown) = self.inner.fill_buf() {
            self.bytes.extend_from_slice(&shown[..amount.min(shown.len())]);
        }
        self.inner.consume(amount);
    }
}

/// A polite MTA with exceptions.
#[derive(Clone, Debug)]
pub struct Manners {
    /// Whether a PROXY header comes first.
    pub proxy: bool,
    /// The greeting, without its CRLF.
    pub greeting: String,
    /// The keywords after EHLO.
    pub keywords: Vec<String>,
    /// What to do at a command that begins so (in capitals; the first that fits), instead of accepting it. `GREETING`
    /// stands for the moment before the greeting, `MESSAGE` for the end of the mail data.
    pub exceptions: Vec<(&'static str, Act)>,
}

/// What a double does instead of accepting.
#[derive(Clone, Debug)]
pub enum Act {
    /// Gives this reply and goes on.
    Say(&'static str),
    /// Gives this reply and closes.
    SayAndClose(&'static str),
    /// Closes at once.
    Close,
    /// Resets the connection.
    Reset,
    /// Says nothing more, until the client leaves.
    Hang,
}

impl Default for Manners {
    fn default() -> Self {
        let keywords = ["PIPELINING", "SIZE 10485760", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8"];
        Self {
            proxy: false,
            greeting: "220 mx.test ESMTP".to_owned(),
            keywords: keywords.map(str::to_owned).to_vec(),
            exceptions: Vec::new(),
        }
    }
}

impl Manners {
    /// The same with one exception more.
    pub fn but(mut self, at: &'static str, act: Act) -> Self {
        self.exceptions.push((at, act));
        self
    }

    /// The same behind a PROXY header.
    pub fn behind_proxy(mut self) -> Self {
        self.proxy = true;
        self
    }

    /// A backend with these manners.
    pub fn start(self) -> Backend {
        Backend::start(move |talk| self.converse(talk))
    }

    /// The same where another has been before.
    pub fn start_at(self, address: SocketAddr) -> Backend {
        Backend::start_at(address, move |talk| self.converse(talk))
    }

    /// One conversation with these manners.
    pub fn converse(&self, talk: &mut Talk) -> io::Result<()> {
        if self.proxy {
            talk.proxy()?;
        }
        if self.answer(talk, "GREETING", &self.greeting)? == Then::End {
            return Ok(());
        }
        let mut chunks = Vec::new();
        while let Some(line) = talk.line()? {
            let command = line.to_ascii_uppercase();
            let verb = command.split([' ', ':']).next().unwrap_or_default();
            let usual = match verb {
                "EHLO" => self.hello(),
                "DATA" => "354 go on".to_owned(),
                "QUIT" => "221 2.0.0 bye".to_owned(),
                _ => "250 2.0.0 ok".to_owned(),
            };
            if verb == "BDAT" {
                // The chunk follows whatever the answer will be (RFC 3030, 2).
                let mut words = command.split_ascii_whitespace().skip(1);
                let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
                chunks.extend(talk.exactly(size)?);
                if words.next() == Some("LAST") {
                    let message = std::mem::take(&mut chunks);
                    talk.note(|seen| seen.messages.push(message));
                }
            }
            match self.answer(talk, &command, &usual)? {
                Then::End => return Ok(()),
                Then::Accepted if verb == "QUIT" => return Ok(()),
                Then::Accepted if verb == "DATA" => {
                    talk.message()?;
                    if self.answer(talk, "MESSAGE", "250 2.0.0 taken")? == Then::End {
                        return Ok(());
                    }
                }
                Then::Accepted | Then::Refused => {}
            }
        }
        Ok(())
    }

    fn hello(&self) -> String {
        let mut lines: Vec<String> = self.keywords.iter().map(|keyword| format!("250-{keyword}")).collect();
        lines.insert(0, "250-mx.test".to_owned());
        if let Some(last) = lines.last_mut() {
            last.replace_range(3..4, " ");
        }
        lines.join("\r\n")
    }

    fn answer(&self, talk: &mut Talk, at: &str, usual: &str) -> io::Result<Then> {
        match self.exceptions.iter().find(|(start, _)| at.starts_with(start)).map(|(_, act)| act) {
            None => talk.say(usual).map(|()| Then::Accepted),
            Some(Act::Say(reply)) => {
                talk.say(reply)?;
                // An exception may also be another way of accepting, such as an unusual text after 354.
                let same = reply.get(..3) == usual.get(..3);
                Ok(if same { Then::Accepted } else { Then::Refused })
            }
            Some(Act::SayAndClose(reply)) => talk.say(reply).map(|()| Then::End),
            Some(Act::Close) => Ok(Then::End),
            Some(Act::Reset) => talk.reset().map(|()| Then::End),
            Some(Act::Hang) => talk.ignore(PATIENCE).map(|()| Then::End),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Then {
    Accepted,
    Refused,
    End,
}
