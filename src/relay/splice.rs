//! Where nothing is left to watch, the kernel moves the bytes: splice(2), through a pipe for each direction.
//!
//! A pipe is held only while there are bytes in it, so that idle connections cost no descriptors. What one side closes
//! is closed at the other; what is counted is what the other side took.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::flow::Flow;
use super::waits;

/// How much is asked for at once; a pipe of the usual size takes 64 KiB.
const CHUNK: usize = 64 * 1024;

/// How many empty pipes a thread keeps for later.
const STOCK: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// How it came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    /// Both sides closed, or one of them reset.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// The kernel cannot do it, or has no pipe. Nothing is held, all that was read has been written.
    Unfit,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Moves bytes both ways until both sides have closed, or nothing has moved for `idle`. The two flows hold no bytes;
/// what they know of ends and counts is kept up to date.
pub(super) async fn splice(
    client: &TcpStream,
    backend: &TcpStream,
    up: &mut Flow,
    down: &mut Flow,
    idle: Duration,
) -> Done {
    let mut up = Direction { from: client, to: backend, flow: up, pipe: None, held: 0, unfit: false };
    let mut down = Direction { from: backend, to: client, flow: down, pipe: None, held: 0, unfit: false };
    let mut sleep = std::pin::pin!(sleep_until(waits::until(Instant::now(), idle)));
    let mut last = (Instant::now(), 0);
    poll_fn(|cx| {
        let (upward, downward) = (up.poll(cx), down.poll(cx));
        if let (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) = (&upward, &downward) {
            return Poll::Ready(Done::Closed);
        }
        if upward.is_ready() && downward.is_ready() {
            return Poll::Ready(Done::Closed);
        }
        if up.unfit || down.unfit {
            // The other direction takes nothing more; it has to bring over what its pipe holds.
            (up.unfit, down.unfit) = (true, true);
            if up.held == 0 && down.held == 0 {
                return Poll::Ready(Done::Unfit);
            }
        }
        let moved = up.flow.written + down.flow.written + (up.held + down.held) as u64;
        if moved != last.1 {
            last = (Instant::now(), moved);
        }
        let until = waits::until(last.0, idle);
        loop {
            if until <= Instant::now() {
                return Poll::Ready(Done::Idle);
            }
            if sleep.is_elapsed() {
                sleep.as_mut().reset(until);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

struct Direction<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    flow: &'a mut Flow,
    pipe: Option<Pipe>,
    /// How many bytes are in the pipe.
    held: usize,
    /// No more bytes are to be taken in.
    unfit: bool,
}

impl Direction<'_> {
    /// Ready when the one side has closed and the other has been told.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.held > 0 {
                ready!(self.poll_out(cx))?;
                continue;
            }
            self.give_back();
            if self.flow.eof {
                if !self.flow.shut {
                    // One that is closed already needs not be told.
                    let _ = rustix::net::shutdown(self.to, Shutdown::Write);
                    self.flow.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            if self.unfit {
                return Poll::Pending;
            }
            ready!(self.poll_in(cx))?;
        }
    }

    /// Fills the empty pipe: into an empty one, "would block" can only mean that the socket has nothing.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.from.poll_read_ready(cx))?;
        let Some(pipe) = self.pipe.take().or_else(Pipe::take) else {
            self.unfit = true;
            return Poll::Ready(Ok(()));
        };
        let taken = self.from.try_io(Interest::READABLE, || move_bytes(self.from, &pipe.write, CHUNK));
        self.pipe = Some(pipe);
        match taken {
            Ok(0) => self.flow.eof = true,
            Ok(count) => self.held = count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => self.unfit = true,
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.to.poll_write_ready(cx))?;
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(())) };
        match self.to.try_io(Interest::WRITABLE, || move_bytes(&pipe.read, self.to, self.held)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                self.held = self.held.saturating_sub(count);
                self.flow.written += count as u64;
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Keeps the pipe, which is empty, for whoever needs one next.
    fn give_back(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < STOCK {
                    spare.push(pipe);
                }
            });
        }
    }
}

impl Pipe {
    fn take() -> Option<Self> {
        SPARE.with_borrow_mut(Vec::pop).or_else(|| {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            Some(Self { read, write })
        })
    }
}

fn move_bytes(from: impl rustix::fd::AsFd, to: impl rustix::fd::AsFd, count: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(rustix::pipe::splice(from, None, to, None, count, flags)?)
}
