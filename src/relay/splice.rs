//! Where nothing is left to watch, the kernel moves the bytes: splice(2), through a pipe for each direction.
//!
//! A pipe is held only while there are bytes in it, so that idle connections cost no descriptors. What one side closes
//! is closed at the other; what is counted is what the other side took.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::flow::Flow;
use super::pipe::{CHUNK, InPipe};
use super::waits;

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

/// Moves bytes both ways until both sides have closed, or nothing has moved for `idle`. The two flows hold no bytes;
/// what they know of ends and counts is kept up to date.
pub(super) async fn splice(
    client: &TcpStream,
    backend: &TcpStream,
    up: &mut Flow,
    down: &mut Flow,
    idle: Duration,
) -> Done {
    let mut up = Direction { from: client, to: backend, flow: up, pipe: InPipe::default() };
    let mut down = Direction { from: backend, to: client, flow: down, pipe: InPipe::default() };
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
        if up.pipe.is_unfit() || down.pipe.is_unfit() {
            // The other direction takes nothing more; it has to bring over what its pipe holds.
            up.pipe.close();
            down.pipe.close();
            if up.pipe.held() == 0 && down.pipe.held() == 0 {
                return Poll::Ready(Done::Unfit);
            }
        }
        let moved = up.flow.written + down.flow.written + (up.pipe.held() + down.pipe.held()) as u64;
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
    pipe: InPipe,
}

impl Direction<'_> {
    /// Ready when the one side has closed and the other has been told.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.pipe.held() > 0 {
                self.flow.written += ready!(self.pipe.poll_drain(cx, self.to))? as u64;
                continue;
            }
            if self.flow.eof {
                if !self.flow.shut {
                    // One that is closed already needs not be told.
                    let _ = rustix::net::shutdown(self.to, Shutdown::Write);
                    self.flow.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            if self.pipe.is_unfit() {
                return Poll::Pending;
            }
            self.flow.eof = ready!(self.pipe.poll_fill(cx, self.from, CHUNK))? == 0;
        }
    }
}
