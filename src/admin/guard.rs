//! Connections to the admin address, bounded: how many, how long, how much each may send.
//!
//! The bounds lie under HTTP, in the socket: whatever state a request is in, the next read or write past a bound fails,
//! and the connection ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// How many connections at once.
pub const CONNECTIONS: usize = 16;

/// How long a connection may last, from accept to the last byte of its answer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes that are read of a connection: line, headers, and a body that nobody wants.
pub const REQUEST_LIMIT: usize = 16 << 10;

/// A listener whose connections are bounded.
#[derive(Debug)]
pub(super) struct Guarded {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl Guarded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    /// Accepts when a place is free: until then, whoever comes waits in the kernel.
    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Closed by nobody; if it were, connections would be unbounded in number and still bounded in time.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let connection = Connection { stream, deadline: Box::pin(sleep(DEADLINE)), left: REQUEST_LIMIT, _place: place };
        (connection, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A bounded connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// How many bytes may still be read.
    left: usize,
    /// Given back when the connection ends.
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Whatever is waited for, it is waited for until the deadline.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.deadline.as_mut().poll(cx).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let room = buf.remaining().min(self.left);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let n = part.filled().len();
        buf.advance(n);
        self.left -= n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
