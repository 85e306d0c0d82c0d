//! A place for a pipe, through which the kernel moves bytes from one socket to another, unseen: splice(2).
//!
//! A pipe is held only while there are bytes in it, so that idle connections cost no descriptors.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How much a large pipe holds; 64 KiB otherwise. It takes a quarter less of CPU.
#[cfg(target_os = "linux")]
const LARGE: usize = 256 * 1024;

/// How many large ones there may be: what waits in a pipe is memory of the kernel's, however many clients send much to a
/// backend that takes little.
#[cfg(target_os = "linux")]
const MOST_LARGE: usize = 64;

static LARGE_ONES: AtomicUsize = AtomicUsize::new(0);

/// The most that is asked for at once.
pub(super) const CHUNK: usize = 1024 * 1024;

/// How many empty pipes a thread keeps for later.
const STOCK: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    large: bool,
}

/// Bytes on their way from one socket to another, in a pipe if there are any.
#[derive(Debug, Default)]
pub(super) struct InPipe {
    pipe: Option<Pipe>,
    held: usize,
    unfit: bool,
}

impl InPipe {
    /// How many bytes are in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Whether it takes nothing more: the kernel cannot do it, or has no pipe.
    pub(super) fn is_unfit(&self) -> bool {
        self.unfit
    }

    /// It is to take nothing more.
    pub(super) fn close(&mut self) {
        self.unfit = true;
    }

    /// Throws away what is in it.
    pub(super) fn discard(&mut self) {
        (self.pipe, self.held) = (None, 0);
    }

    /// Takes up to `most` bytes in, where it is empty; none if that side has closed. `Pending` also where it turns out to be
    /// [unfit](Self::is_unfit).
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: usize) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let Some(pipe) = self.pipe.take().or_else(Pipe::take) else {
                self.unfit = true;
                return Poll::Pending;
            };
            // Into an empty pipe, "would block" can only mean that the socket has nothing.
            let taken = from.try_io(Interest::READABLE, || move_bytes(from, &pipe.write, most.min(CHUNK)));
            match taken {
                Ok(count) => {
                    (self.pipe, self.held) = (Some(pipe), count);
                    self.give_back();
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pipe = Some(pipe);
                    self.give_back();
                }
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    self.unfit = true;
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Brings some of what is in it to the other side; how many bytes. Not to be called where it is empty.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let Some(pipe) = &self.pipe else { return Poll::Ready(Err(io::ErrorKind::WriteZero.into())) };
            match to.try_io(Interest::WRITABLE, || move_bytes(&pipe.read, to, self.held)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.held = self.held.saturating_sub(count);
                    self.give_back();
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Keeps the pipe for whoever needs one next, if it is empty.
    fn give_back(&mut self) {
        if self.held == 0
            && let Some(pipe) = self.pipe.take()
        {
            // Without a thread's stock (the thread is ending) it is simply closed.
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
        SPARE.with_borrow_mut(Vec::pop).or_else(Self::make)
    }

    #[cfg(target_os = "linux")]
    fn make() -> Option<Self> {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let pipe = Self { read, write, large: LARGE_ONES.fetch_add(1, Ordering::Relaxed) < MOST_LARGE };
        if pipe.large {
            // Whoever may not have a large one has the usual one.
            let _ = fcntl_setpipe_size(&pipe.write, LARGE);
        } else {
            LARGE_ONES.fetch_sub(1, Ordering::Relaxed);
        }
        Some(pipe)
    }

    #[cfg(not(target_os = "linux"))]
    fn make() -> Option<Self> {
        None
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.large {
            LARGE_ONES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(target_os = "linux")]
fn move_bytes(from: impl rustix::fd::AsFd, to: impl rustix::fd::AsFd, count: usize) -> io::Result<usize> {
    use rustix::pipe::{SpliceFlags, splice};

    Ok(splice(from, None, to, None, count, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}

#[cfg(not(target_os = "linux"))]
fn move_bytes(_: impl rustix::fd::AsFd, _: impl rustix::fd::AsFd, _: usize) -> io::Result<usize> {
    Err(Errno::INVAL.into())
}
