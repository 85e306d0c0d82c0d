//! What the sink says to what it hears, without sockets.

use std::io::Write;
use std::net::SocketAddr;

use memchr::{memchr, memmem};

/// Which port a client came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// SMTP, greeted at once.
    Plain,
    /// SMTP behind a PROXY header.
    Proxied,
    /// HTTP.
    Guide,
}

const GREETING: &[u8] = b"220 sink.test ESMTP\r\n";
const KEYWORDS: &[u8] =
    b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 100000000\r\n250-STARTTLS\r\n250-8BITMIME\r\n250 CHUNKING\r\n";
const END: &[u8] = b"\r\n.\r\n";

/// Longer lines are nobody's.
const LONGEST: usize = 8192;

enum State {
    Header,
    Commands,
    /// Mail data; the last bytes before what comes, in which its end may have begun.
    Data(Vec<u8>),
    /// A chunk: how much is to come, and whether it is the last.
    Chunk(u64, bool),
    /// Behind STARTTLS, what stands for TLS: eight bytes that say how much comes, and that much.
    Opaque,
    OpaqueBody(u64),
    Guide,
}

/// One client's.
pub struct Dialogue {
    state: State,
    /// The beginning of a line that is not whole.
    partial: Vec<u8>,
    /// What MAIL declared.
    declared: Option<u64>,
    received: u64,
    /// Whether the message has a field more than its sender gave it, as MTAs put on top.
    traced: bool,
}

impl Dialogue {
    /// With what is said first.
    pub fn begin(entrance: Entrance) -> (Self, &'static [u8]) {
        let (state, greeting): (_, &[u8]) = match entrance {
            Entrance::Plain => (State::Commands, GREETING),
            Entrance::Proxied => (State::Header, b""),
            Entrance::Guide => (State::Guide, b""),
        };
        (Self { state, partial: Vec::new(), declared: None, received: 0, traced: false }, greeting)
    }

    /// Puts what is to be said behind `reply`. False: and then the connection is to be closed.
    pub fn hear(&mut self, mut bytes: &[u8], plain: SocketAddr, reply: &mut Vec<u8>) -> bool {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Data(tail) => {
                    if self.received == 0 {
                        self.traced = bytes.starts_with(b"Received: ");
                    }
                    let Some(end) = end_of_data(tail, bytes) else {
                        self.received += bytes.len() as u64;
                        return true;
                    };
                    self.received += end as u64;
                    bytes = &bytes[end..];
                    // The dot and its CRLF are no part of the message.
                    let message = self.received - 3;
                    self.conclude(message, reply);
                }
                State::Chunk(left, _) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    (*left, self.received) = (*left - taken as u64, self.received + taken as u64);
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.end_of_chunk(reply);
                    }
                }
                State::OpaqueBody(left) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    if *left == 0 {
                        reply.extend(b"done");
                        self.state = State::Opaque;
                    }
                    return true;
                }
                State::Opaque => {
                    let taken = bytes.len().min(8 - self.partial.len());
                    self.partial.extend(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    if let Ok(length) = <[u8; 8]>::try_from(self.partial.as_slice()) {
                        self.partial.clear();
                        self.state = State::OpaqueBody(u64::from_be_bytes(length));
                    }
                }
                State::Header | State::Commands | State::Guide => {
                    let Some(end) = memchr(b'\n', bytes) else {
                        self.partial.extend(bytes);
                        return self.partial.len() <= LONGEST;
                    };
                    let (line, rest) = bytes.split_at(end + 1);
                    bytes = rest;
                    self.partial.extend(line);
                    let line = std::mem::take(&mut self.partial);
                    if !self.obey(&line, plain, reply) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn obey(&mut self, line: &[u8], plain: SocketAddr, reply: &mut Vec<u8>) -> bool {
        match self.state {
            State::Header => {
                self.state = State::Commands;
                reply.extend(GREETING);
                return line.starts_with(b"PROXY ");
            }
            State::Guide => {
                if line != b"\r\n" {
                    return true;
                }
                // A Vec takes all.
                let _ = write!(
                    reply,
                    "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {}\r\nAuth-Port: {}\r\n\r\n",
                    plain.ip(),
                    plain.port()
                );
                return false;
            }
            _ => {}
        }
        match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_slice() {
            b"EHLO" => reply.extend(KEYWORDS),
            b"MAIL" => {
                (self.declared, self.received, self.traced) = (size(line), 0, false);
                reply.extend(b"250 2.1.0 ok\r\n");
            }
            b"DATA" => {
                // A dot at once ends an empty message.
                (self.state, self.received) = (State::Data(b"\r\n".to_vec()), 0);
                reply.extend(b"354 go on\r\n");
            }
            b"BDAT" => {
                let mut words = line[4..].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
                let length = words.next().and_then(number);
                let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"LAST"));
                let Some(length) = length else {
                    reply.extend(b"501 5.5.4 how much?\r\n");
                    return false;
                };
                self.state = State::Chunk(length, last);
                if length == 0 {
                    self.end_of_chunk(reply);
                }
            }
            b"STAR" => {
                self.state = State::Opaque;
                reply.extend(b"220 2.0.0 go on\r\n");
            }
            b"QUIT" => {
                reply.extend(b"221 2.0.0 bye\r\n");
                return false;
            }
            b"HELO" | b"RCPT" | b"RSET" | b"NOOP" => reply.extend(b"250 2.0.0 ok\r\n"),
            _ => reply.extend(b"500 5.5.2 what?\r\n"),
        }
        true
    }

    fn end_of_chunk(&mut self, reply: &mut Vec<u8>) {
        match self.state {
            State::Chunk(_, true) => self.conclude(self.received, reply),
            _ => {
                reply.extend(b"250 2.0.0 more\r\n");
                self.state = State::Commands;
            }
        }
    }

    fn conclude(&mut self, message: u64, reply: &mut Vec<u8>) {
        self.state = State::Commands;
        if self.traced || self.declared.is_none_or(|declared| declared == message) {
            reply.extend(b"250 2.0.0 taken\r\n");
        } else {
            // As for a line, a Vec takes all.
            let _ = write!(reply, "554 5.6.0 {message} bytes came, not {}\r\n", self.declared.unwrap_or_default());
        }
    }
}

/// How many of `bytes` belong to the mail data with its end, if that is in them. `tail` keeps what went before.
fn end_of_data(tail: &mut Vec<u8>, bytes: &[u8]) -> Option<usize> {
    let before = tail.len();
    tail.extend(&bytes[..bytes.len().min(END.len() - 1)]);
    let end = match memmem::find(tail, END) {
        Some(at) => Some(at + END.len() - before),
        None => memmem::find(bytes, END).map(|at| at + END.len()),
    };
    if bytes.len() >= END.len() - 1 {
        *tail = bytes[bytes.len() - (END.len() - 1)..].to_vec();
    } else {
        tail.drain(..tail.len().saturating_sub(END.len() - 1));
    }
    end
}

/// The SIZE parameter of MAIL.
fn size(line: &[u8]) -> Option<u64> {
    line.split(u8::is_ascii_whitespace).find_map(|word| number(word.strip_prefix(b"SIZE=")?))
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 25);

    /// All that is said to `heard`, cut into pieces of `size`, and whether the connection stays.
    fn said(entrance: Entrance, heard: &[u8], size: usize) -> (String, bool) {
        let (mut dialogue, greeting) = Dialogue::begin(entrance);
        let mut reply = greeting.to_vec();
        let stays = heard.chunks(size).all(|piece| dialogue.hear(piece, PLAIN, &mut reply));
        (String::from_utf8(reply).unwrap(), stays)
    }

    #[test]
    fn it_does_not_matter_how_a_session_is_cut() {
        let heard =
            b"PROXY TCP4 127.0.0.1 127.0.0.2 1 2\r\nEHLO a\r\nMAIL FROM:<a@b> SIZE=9\r\nRCPT TO:<c@d>\r\nDATA\r\n\
                      a\r\n.b\r\nc\r\n.\r\nMAIL FROM:<a@b> SIZE=5\r\nBDAT 3\r\nxyzBDAT 2 LAST\r\nxyQUIT\r\n";
        let (whole, stays) = said(Entrance::Proxied, heard, heard.len());
        assert!(!stays);
        let codes: Vec<&str> = whole.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
        assert_eq!(codes, ["220", "250", "250", "250", "354", "554", "250", "250", "250", "221"], "{whole}");
        for size in 1..40 {
            assert_eq!(said(Entrance::Proxied, heard, size), (whole.clone(), false), "cut to {size}");
        }
    }

    #[test]
    fn what_an_mta_puts_on_top_does_not_count() {
        let heard = b"MAIL FROM:<> SIZE=1\r\nDATA\r\nReceived: x\r\na\r\n.\r\n";
        assert!(said(Entrance::Plain, heard, heard.len()).0.ends_with("taken\r\n"));
    }

    #[test]
    fn a_message_is_as_long_as_it_was_declared() {
        let send = |size: usize, data: &str| {
            said(Entrance::Plain, format!("MAIL FROM:<> SIZE={size}\r\nDATA\r\n{data}.\r\n").as_bytes(), 7).0
        };
        assert!(send(3, "a\r\n").ends_with("taken\r\n"));
        assert!(send(0, "").ends_with("taken\r\n"));
        assert!(send(4, "a\r\n").contains("\r\n554 "));
    }

    #[test]
    fn who_was_to_announce_and_does_not_is_sent_away() {
        assert!(!said(Entrance::Proxied, b"EHLO a\r\n", 100).1);
    }

    #[test]
    fn nginx_is_told_where_to_go() {
        let (answer, stays) = said(Entrance::Guide, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", 5);
        assert!(answer.contains("Auth-Server: 127.0.0.1\r\nAuth-Port: 25\r\n") && !stays);
    }

    #[test]
    fn behind_starttls_only_lengths_count() {
        let mut heard = b"STARTTLS\r\n".to_vec();
        heard.extend(3_u64.to_be_bytes());
        heard.extend(b"\r\n.");
        assert!(said(Entrance::Plain, &heard, 1).0.ends_with("go on\r\ndone"));
    }
}
