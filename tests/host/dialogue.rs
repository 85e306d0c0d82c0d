//! A client's double: says exactly the bytes it is told, and holds the server to its replies.
//!
//! Every wait has a limit; every failure shows the transcript so far.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use memchr::memchr;
use socket2::{Domain, SockRef, Socket, Type};

use super::wait::PATIENCE;

/// One connection from the client's side.
pub struct Dialogue {
    stream: TcpStream,
    unread: Vec<u8>,
    transcript: String,
}

impl Dialogue {
    /// Connects from 127.0.0.1.
    #[track_caller]
    pub fn with(server: SocketAddr) -> Self {
        Self::from(Ipv4Addr::LOCALHOST, server)
    }

    /// Connects from another loopback address (127.0.0.0/8): to the server, another client.
    #[track_caller]
    pub fn from(source: impl Into<IpAddr>, server: SocketAddr) -> Self {
        let source = source.into();
        Self::try_from(source, server).unwrap_or_else(|error| panic!("{source} cannot connect to {server}: {error}"))
    }

    /// Connects, or says why not.
    pub fn try_from(source: impl Into<IpAddr>, server: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source.into(), 0).into())?;
        socket.connect_timeout(&server.into(), PATIENCE)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: socket.into(), unread: Vec::new(), transcript: String::new() })
    }

    /// Our end of the connection.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Changes how long a reply may take.
    pub fn patience(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a time limit above zero");
    }

    /// Sends a line, with CRLF.
    #[track_caller]
    pub fn say(&mut self, line: &str) -> &mut Self {
        self.send(format!("{line}\r\n"))
    }

    /// Sends these bytes in one write.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.note("C", bytes);
        self.stream.write_all(bytes).unwrap_or_else(|error| self.fail(&format!("cannot send: {error}")));
        self
    }

    /// Reads one whole reply, all its lines, and returns it; every line must begin with `start`.
    #[track_caller]
    pub fn expect(&mut self, start: &str) -> String {
        let mut reply = String::new();
        loop {
            let line = self.expect_line(start);
            reply.push_str(&line);
            reply.push('\n');
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    /// Reads one line, without its line end; it must begin with `start`.
    #[track_caller]
    pub fn expect_line(&mut self, start: &str) -> String {
        match self.line() {
            Ok(Some(line)) if line.starts_with(start) => line,
            Ok(Some(_)) => self.fail(&format!("expected {start:?}")),
            Ok(None) => self.fail(&format!("expected {start:?}, not the end of the connection")),
            Err(error) => self.fail(&format!("expected {start:?}: {error}")),
        }
    }

    /// The next line without its line end; nothing when the server has closed between lines.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = memchr(b'\n', &self.unread) {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                self.note("S", &line);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()));
            }
            if !self.fill()? {
                return if self.unread.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// EHLO, MAIL, RCPT, DATA, the message and QUIT, one command at a time, with each answered well.
    #[track_caller]
    pub fn deliver(&mut self, letter: &super::letter::Letter) {
        self.say("EHLO client.test").expect("250");
        self.say(&format!("MAIL FROM:<{}>", letter.from)).expect("250");
        for recipient in &letter.to {
            self.say(&format!("RCPT TO:<{recipient}>")).expect("250");
        }
        self.say("DATA").expect("354");
        self.send(stuffed(&letter.bytes)).expect("250");
        self.say("QUIT").expect("221");
    }

    /// Everything up to the server's close. A reset is a failure: what was on its way is lost then.
    #[track_caller]
    pub fn read_all(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.fail(&format!("expected the server to close: {error}")),
            }
        }
        let rest = std::mem::take(&mut self.unread);
        self.note("S", &rest);
        rest
    }

    /// Panics unless the server closes without another byte.
    #[track_caller]
    pub fn expect_close(&mut self) {
        let rest = self.read_all();
        assert!(rest.is_empty(), "expected nothing but the close\n{}", self.transcript);
    }

    /// Panics if a byte or a close arrives within `limit`.
    #[track_caller]
    pub fn expect_silence(&mut self, limit: Duration) {
        let usual = self.stream.read_timeout().expect("a socket knows its limit");
        self.patience(limit);
        let silent = self.unread.is_empty() && matches!(self.fill(), Err(error) if is_timeout(&error));
        self.stream.set_read_timeout(usual).expect("the limit that was there before");
        if !silent {
            let early = self.unread.clone();
            self.note("S", &early);
            self.fail(&format!("expected silence for {limit:?}"));
        }
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn finish_sending(&mut self) -> &mut Self {
        self.stream.shutdown(Shutdown::Write).expect("our half can be closed");
        self
    }

    /// Leaves by RST.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER can be set");
    }

    /// What was said so far, `C:` by us and `S:` by the server.
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 4096];
        let read = loop {
            match self.stream.read(&mut piece) {
                // A machine that stood still for a moment interrupts whatever waits with a limit.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.unread.extend_from_slice(&piece[..read]);
        Ok(read > 0)
    }

    fn note(&mut self, side: &str, bytes: &[u8]) {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.transcript.push_str(&format!("{side}: {}\n", line.escape_ascii()));
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        panic!("{what}\n{}unread: {}", self.transcript, self.unread.escape_ascii())
    }
}

/// A message ready for the wire: leading dots doubled, end-of-data line added.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + 16);
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
