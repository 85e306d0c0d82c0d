//! The demo's MTA: takes every message from whoever gatepost announces, counts, and throws it away.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

use crate::proxy_header::{self, Header, Parsed};

/// A running sink.
#[derive(Debug)]
pub(super) struct Sink {
    pub address: SocketAddr,
    mailbox: Arc<Mutex<Mailbox>>,
}

/// What a sink has seen.
#[derive(Clone, Default, Debug)]
pub(super) struct Mailbox {
    /// Connections that announced a client: whom.
    pub connections: Vec<IpAddr>,
    /// Messages: from whom, and how many bytes.
    pub messages: Vec<(IpAddr, usize)>,
}

impl Sink {
    /// Listens at a loopback port that the kernel chooses, and serves for as long as the runtime runs.
    pub(super) async fn open() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mailbox = Arc::new(Mutex::new(Mailbox::default()));
        let shared = Arc::clone(&mailbox);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let mailbox = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A visitor that breaks off is none of the sink's business.
                    let _ = serve(connection, &mailbox).await;
                });
            }
        });
        Ok(Self { address, mailbox })
    }

    /// What it has seen so far.
    pub(super) fn mailbox(&self) -> Mailbox {
        self.mailbox.lock().map(|mailbox| mailbox.clone()).unwrap_or_default()
    }
}

async fn serve(connection: TcpStream, mailbox: &Mutex<Mailbox>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut stream = BufStream::new(connection);
    let client = announced(&mut stream).await?;
    let note = |add: &dyn Fn(&mut Mailbox)| {
        if let Ok(mut mailbox) = mailbox.lock() {
            add(&mut mailbox);
        }
    };
    if let Some(client) = client {
        note(&|mailbox| mailbox.connections.push(client));
    }
    say(&mut stream, "220 sink.demo.test ESMTP (the demo's own MTA)").await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut stream).take(4096).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = line.trim_ascii().to_ascii_uppercase();
        let verb = text.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        match verb {
            b"EHLO" => {
                say(&mut stream, "250-sink.demo.test\r\n250-PIPELINING\r\n250-SIZE 10485760\r\n250 8BITMIME").await?
            }
            b"HELO" => say(&mut stream, "250 sink.demo.test").await?,
            b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => say(&mut stream, "250 2.0.0 Ok").await?,
            b"DATA" => {
                say(&mut stream, "354 End data with <CR><LF>.<CR><LF>").await?;
                let size = swallow(&mut stream).await?;
                if let Some(client) = client {
                    note(&|mailbox| mailbox.messages.push((client, size)));
                }
                say(&mut stream, "250 2.0.0 Ok: into the sink").await?;
            }
            b"QUIT" => {
                say(&mut stream, "221 2.0.0 Bye").await?;
                return Ok(());
            }
            _ => say(&mut stream, "502 5.5.2 Not in this demo").await?,
        }
    }
}

/// The client that the PROXY header announces; nobody for gatepost's own probe.
async fn announced(stream: &mut BufStream<TcpStream>) -> io::Result<Option<IpAddr>> {
    // The header comes in one segment here, and a sink for a demo needs no more than that.
    match proxy_header::parse(stream.fill_buf().await?) {
        Parsed::Complete { header, length, .. } => {
            stream.consume(length);
            Ok(match header {
                Header::Proxied { source, .. } => Some(source.ip()),
                Header::Local | Header::Unknown => None,
            })
        }
        Parsed::Incomplete | Parsed::Invalid(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn swallow(stream: &mut BufStream<TcpStream>) -> io::Result<usize> {
    let mut size = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == b".\r\n" {
            return Ok(size);
        }
        size += line.len();
    }
}

async fn say(stream: &mut BufStream<TcpStream>, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.write_all(b"\r\n").await?;
    stream.flush().await
}
