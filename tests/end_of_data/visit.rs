//! One session of a client that says what it is told, whatever it hears, and hears out the server.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::rows::{Answer, Play, When, envelope, named};
use super::sockets;
use crate::host::secure::{Secure, clear, connect};
use crate::host::wait;

/// By which commands mail goes, and through what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// DATA, in the clear.
    Data,
    /// DATA, behind STARTTLS.
    Tls,
    /// BDAT, each message one chunk.
    Bdat,
    /// BDAT, the first message cut in two where it is odd.
    BdatInTwo,
}

/// A server that has said nothing for so long will say nothing. Far more than any takes for a message.
const SILENCE: Duration = Duration::from_secs(2);

/// What came back.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The replies' codes.
    pub codes: Vec<u16>,
    /// Whether CHUNKING was offered.
    pub chunking: bool,
}

impl Way {
    /// Whether this is by BDAT.
    pub fn is_chunked(self) -> bool {
        matches!(self, Self::Bdat | Self::BdatInTwo)
    }
}

/// From the greeting to the server's close.
#[track_caller]
pub fn play(way: Way, source: Ipv4Addr, server: SocketAddr, play: &Play, cell: &str) -> Heard {
    let mut wire = Wire::open(way, source, server);
    let chunking = wire.ask("EHLO client.test", "250").contains("CHUNKING");
    for command in String::from_utf8_lossy(&named(envelope("first").as_bytes(), cell)).lines() {
        wire.ask(command, "250");
    }
    if !way.is_chunked() {
        wire.ask("DATA", "354");
    }
    let mut codes = Vec::new();
    // Whether it has taken for commands what is none.
    let mut deceived = None;
    for (piece, when) in &play.pieces {
        match *when {
            When::AtOnce => {}
            When::Read => wire.wait_until_read(),
            When::HeardOut if deceived.is_none() => {
                let code = wire.code_within(SILENCE, cell, &codes);
                deceived = Some(code.is_some());
                codes.extend(code);
            }
            // Now each is answered, and the message behind them too.
            When::HeardOut | When::Answered(_) if deceived == Some(true) => codes.extend(wire.code(cell, &codes)),
            When::HeardOut => {}
            When::Answered(count) => {
                while codes.len() < count
                    && let Some(code) = wire.code(cell, &codes)
                {
                    codes.push(code);
                }
            }
        }
        // Who has broken off does not hear the rest.
        if wire.send(piece).is_err() {
            break;
        }
    }
    if play.hangs {
        wire.finish();
    }
    while let Some(code) = wire.code(cell, &codes) {
        codes.push(code);
    }
    Heard { codes, chunking }
}

impl Heard {
    /// How many messages the client believes were accepted; nothing if it was told anything but `answers`.
    pub fn accepted(&self, answers: &[Answer]) -> Option<usize> {
        let fits = |(&code, &answer): (&u16, &Answer)| match answer {
            Answer::Class(class) => code / 100 == class,
            Answer::Verdict => matches!(code, 250 | 400..=599),
        };
        // 421 is the last word, to whatever it is, and to all that is unanswered.
        let (codes, ended_early) = match self.codes.split_last() {
            Some((421, codes)) => (codes, true),
            _ => (&self.codes[..], false),
        };
        let pairs = || codes.iter().zip(answers);
        let all = if ended_early { codes.len() < answers.len() } else { codes.len() == answers.len() };
        let all = all && pairs().all(fits);
        all.then(|| pairs().filter(|&(&code, &answer)| answer == Answer::Verdict && code == 250).count())
    }
}

enum Wire {
    Clear(BufReader<TcpStream>),
    Tls(Box<BufReader<StreamOwned<ClientConnection, TcpStream>>>),
}

impl Wire {
    #[track_caller]
    fn open(way: Way, source: Ipv4Addr, server: SocketAddr) -> Self {
        let mut stream = connect(source, server);
        clear(&mut stream, "", "220");
        if way != Way::Tls {
            return Self::Clear(BufReader::new(stream));
        }
        assert!(clear(&mut stream, "EHLO client.test", "250").contains("STARTTLS"));
        clear(&mut stream, "STARTTLS", "220");
        Self::Tls(Box::new(BufReader::new(Secure::over(stream, "mx.test").into_stream())))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(stream) => stream.get_ref(),
            Self::Tls(stream) => stream.get_ref().get_ref(),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Clear(stream) => stream.get_mut().write_all(bytes),
            Self::Tls(stream) => stream.get_mut().write_all(bytes).and_then(|()| stream.get_mut().flush()),
        }
    }

    /// Says that nothing more will come.
    fn finish(&mut self) {
        if let Self::Tls(stream) = self {
            stream.get_mut().conn.send_close_notify();
            // Fails where the server has gone, as the shutdown does.
            let _ = stream.get_mut().flush();
        }
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    /// Until the server has taken from its socket what has been sent so far, or is gone.
    fn wait_until_read(&self) {
        let (Ok(local), Ok(peer)) = (self.socket().local_addr(), self.socket().peer_addr()) else { return };
        wait::until("the server to read", || sockets::all_read(peer, local).then_some(()));
    }

    /// One line, or nothing at the end.
    fn line(&mut self) -> std::io::Result<Option<String>> {
        let mut line = Vec::new();
        let reader: &mut dyn BufRead = match self {
            Self::Clear(stream) => stream,
            Self::Tls(stream) => stream.as_mut(),
        };
        let read = reader.read_until(b'\n', &mut line)?;
        Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
    }

    #[track_caller]
    fn ask(&mut self, command: &str, start: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes()).unwrap_or_else(|error| panic!("{command}: {error}"));
        let mut reply = String::new();
        loop {
            let line = self.line().unwrap_or_else(|error| panic!("{command}: {error}")).unwrap_or_default();
            assert!(line.starts_with(start), "{line:?} instead of {start} to {command}");
            reply.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    /// The code of the next reply, if one begins within `limit`.
    #[track_caller]
    fn code_within(&mut self, limit: Duration, cell: &str, heard: &[u16]) -> Option<u16> {
        let stream = match self {
            Self::Clear(stream) => stream,
            Self::Tls(_) => panic!("straight to a server, there is no TLS here"),
        };
        stream.get_ref().set_read_timeout(Some(limit)).expect("a time limit above zero");
        let begun = stream.fill_buf().is_ok();
        stream.get_ref().set_read_timeout(Some(wait::PATIENCE)).expect("a time limit above zero");
        if begun { self.code(cell, heard) } else { None }
    }

    /// The code of the next reply, or nothing at the end, however that comes; only silence is no end.
    #[track_caller]
    fn code(&mut self, cell: &str, heard: &[u16]) -> Option<u16> {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        loop {
            match self.line() {
                Ok(Some(line)) if line.as_bytes().get(3) == Some(&b'-') => {}
                Ok(Some(line)) => return Some(line.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)),
                Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => {
                    panic!("{cell}: the server is silent, and has said {heard:?}")
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }
}
