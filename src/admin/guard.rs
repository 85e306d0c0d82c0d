//! Connections to the admin address and the socket, bounded: how many, how long, how much each may send.
//!
//! The bounds lie under HTTP, in the connection: whatever state a request is in, the next read or write past a bound fails,
//! and the connection ends. Whoever has shown that he may bring in what was remembered is given [wider](Bounds::widen)
//! ones.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

/// How many connections at once, at the address; and as many at the socket.
pub const CONNECTIONS: usize = 16;

/// How long a connection may last, from accept to the last byte of its answer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The most bytes that are read of a connection: line, headers, and a body.
pub const REQUEST_LIMIT: usize = 16 << 10;

/// Where a connection comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Over TCP, from there.
    Address(SocketAddr),
    /// Over the socket, from a process of this user; nobody knows which if nothing.
    Socket(Option<u32>),
}

/// What a connection may still do.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Until when it may last. A lock, because the one that serves it and the one that reads may be different tasks.
    until: Mutex<Instant>,
    /// How many bytes may still be read.
    left: AtomicUsize,
}

impl Bounds {
    fn usual() -> Arc<Self> {
        Arc::new(Self { until: Mutex::new(Instant::now() + DEADLINE), left: AtomicUsize::new(REQUEST_LIMIT) })
    }

    /// So much more is allowed.
    pub(super) fn widen(&self, bytes: usize, span: Duration) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
        *self.until.lock() += span;
    }
}

/// Who has connected, and what its connection may still do.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) origin: Origin,
    pub(super) bounds: Arc<Bounds>,
}

impl Caller {
    fn of(origin: Origin) -> Self {
        Self { origin, bounds: Bounds::usual() }
    }
}

/// A listener that knows where its connections come from.
pub(super) trait Listens: Listener {
    fn origin(connection: &Self::Io, address: &Self::Addr) -> Origin;

    fn own(address: Self::Addr) -> Origin;
}

impl Listens for TcpListener {
    fn origin(_: &TcpStream, address: &SocketAddr) -> Origin {
        Origin::Address(*address)
    }

    fn own(address: SocketAddr) -> Origin {
        Origin::Address(address)
    }
}

impl Listens for UnixListener {
    fn origin(connection: &UnixStream, _: &tokio::net::unix::SocketAddr) -> Origin {
        // Of when it connected: the kernel knows, and nobody can say otherwise.
        Origin::Socket(connection.peer_cred().ok().map(|peer| peer.uid()))
    }

    fn own(_: tokio::net::unix::SocketAddr) -> Origin {
        Origin::Socket(None)
    }
}

/// A listener whose connections are bounded.
#[derive(Debug)]
pub(super) struct Guarded<L> {
    listener: L,
    free: Arc<Semaphore>,
}

impl<L> Guarded<L> {
    pub(super) fn new(listener: L) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl<L: Listens> Listener for Guarded<L> {
    type Io = Connection<L::Io>;
    type Addr = Caller;

    /// Accepts when a place is free: until then, whoever comes waits in the kernel.
    async fn accept(&mut self) -> (Connection<L::Io>, Caller) {
        // Closed by nobody; if it were, connections would be unbounded in number and still bounded in time.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let caller = Caller::of(L::origin(&stream, &address));
        let until = *caller.bounds.until.lock();
        let bounds = Arc::clone(&caller.bounds);
        (Connection { stream, deadline: Box::pin(sleep_until(until)), bounds, _place: place }, caller)
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller::of(L::own(self.listener.local_addr()?)))
    }
}

impl<L: Listens> Connected<IncomingStream<'_, Guarded<L>>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Guarded<L>>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A bounded connection.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
    bounds: Arc<Bounds>,
    /// Given back when the connection ends.
    _place: Option<OwnedSemaphorePermit>,
}

impl<S> Connection<S> {
    /// Whatever is waited for, it is waited for until the deadline.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.deadline.as_mut().poll(cx).is_ready() {
            let until = *self.bounds.until.lock();
            if until <= self.deadline.deadline() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.deadline.as_mut().reset(until);
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        let left = self.bounds.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let room = buf.remaining().min(left);
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let n = part.filled().len();
        buf.advance(n);
        self.bounds.left.fetch_sub(n, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
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
