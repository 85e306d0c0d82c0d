//! The fast sink: a mail server of one thread that says yes to everything and keeps nothing, a process of its own.
//!
//! It has three ports: *plain* greets at once, *proxied* waits for a PROXY header (version 1) first, and *guide* is the HTTP
//! service that tells nginx where to go ([ngx_mail_auth_http_module]): to *plain*. What a client declares by `SIZE=` has to
//! arrive, byte for byte in number, or the message is refused. It ends with its standard input.
//!
//! [ngx_mail_auth_http_module]: https://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html

mod dialogue;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, Stdio};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use super::process;
use crate::host::process::raise_descriptor_limit;
use dialogue::{Dialogue, Entrance};

/// How many bytes are taken at once.
const GULP: usize = 256 * 1024;

/// Where its ports are.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// Greets at once.
    pub plain: SocketAddr,
    /// Greets after a PROXY header.
    pub proxied: SocketAddr,
    /// Speaks HTTP.
    pub guide: SocketAddr,
}

/// A running sink; it ends when this is dropped.
pub struct Sink {
    child: Child,
    input: Option<ChildStdin>,
    /// Where it is.
    pub ports: Ports,
}

impl Sink {
    /// Starts one; it listens when this returns.
    pub fn start() -> io::Result<Self> {
        let mut child = process::ourselves("sink")?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let ports = process::read_line(&mut io::BufReader::new(output))?;
        Ok(Self { child, input, ports })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// The process itself: serves until standard input ends.
pub fn run() -> io::Result<()> {
    process::end_with_input();
    raise_descriptor_limit();
    let poll = Poll::new()?;
    let entrances = [Entrance::Plain, Entrance::Proxied, Entrance::Guide];
    let mut listeners = entrances.iter().map(|_| listen()).collect::<io::Result<Vec<_>>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let &[plain, proxied, guide] = addresses.as_slice() else { return Err(io::Error::other("three ports")) };
    for (at, listener) in listeners.iter_mut().enumerate() {
        poll.registry().register(listener, Token(at), Interest::READABLE)?;
    }
    process::write_line(&Ports { plain, proxied, guide })?;
    let mut server = Server { poll, guests: Slab::new(), gulp: vec![0; GULP], plain };
    let mut events = Events::with_capacity(1024);
    loop {
        if let Err(error) = server.poll.poll(&mut events, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            let Token(at) = event.token();
            match at.checked_sub(listeners.len()) {
                None => server.accept(&listeners[at], entrances[at])?,
                Some(guest) => server.serve(guest, event.is_read_closed()),
            }
        }
    }
}

fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

struct Guest {
    stream: TcpStream,
    dialogue: Dialogue,
}

struct Server {
    poll: Poll,
    guests: Slab<Guest>,
    gulp: Vec<u8>,
    plain: SocketAddr,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener, entrance: Entrance) -> io::Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let (dialogue, greeting) = Dialogue::begin(entrance);
            if stream.write_all(greeting).is_err() {
                continue;
            }
            let entry = self.guests.vacant_entry();
            // The listeners' tokens are 0 to 2.
            self.poll.registry().register(&mut stream, Token(entry.key() + 3), Interest::READABLE)?;
            entry.insert(Guest { stream, dialogue });
        }
    }

    /// Takes all that is there. Events tell of news alone, so what is read short is at its end, unless it was closed too.
    fn serve(&mut self, at: usize, closed: bool) {
        let Some(guest) = self.guests.get_mut(at) else { return };
        let stays = loop {
            let length = match guest.stream.read(&mut self.gulp) {
                Ok(0) => break false,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(_) => break false,
            };
            let mut reply = Vec::new();
            let stays = guest.dialogue.hear(&self.gulp[..length], self.plain, &mut reply);
            // Replies are short: where one does not fit, somebody does not read his replies.
            if !(reply.is_empty() || guest.stream.write_all(&reply).is_ok()) || !stays {
                break false;
            }
            if length < self.gulp.len() && !closed {
                break true;
            }
        };
        if !stays {
            self.guests.remove(at);
        }
    }
}
