//! One direction of a relay: what has been read, what of it may go on, and what is to go with it.
//!
//! ```text
//!   read ──► [ passed │ unseen ]        written in order: out, then passed
//!                │ seal
//!                ▼
//!   own bytes ► [ out ]
//! ```
//!
//! Bytes that go on unchanged are written from where they were read to. They are copied (*sealed*) only where something
//! else has to follow them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffer::{Buffer, SIZE};
use super::pipe::InPipe;
use super::{TRACE_LIMIT, Wire};

/// Room that one step may need in `out` beyond what is sealed: the longest of gatepost's own replies, commands and header
/// fields.
const STEP: usize = TRACE_LIMIT;

/// The least room worth reading into, where there is as much.
const READ: usize = SIZE / 4;

/// One direction.
pub(super) struct Flow {
    input: Buffer,
    /// How many bytes at the front of `input` go on unchanged.
    passed: usize,
    out: Buffer,
    /// Bytes that go on unseen, while nothing else is held.
    pipe: InPipe,
    /// How large the input may become.
    limit: usize,
    /// Whether more comes at once than the usual room takes.
    wide: bool,
    /// Whether what was written may still be held by the side that it was written to, as TLS does.
    unflushed: bool,
    /// Whether the side that is read has closed.
    pub(super) eof: bool,
    /// Whether the side that is written has been told of that.
    pub(super) shut: bool,
    /// How many bytes have been written.
    pub(super) written: u64,
}

impl Flow {
    /// A direction in which up to `limit` bytes are held that nobody has made sense of yet; `unread` are there already.
    pub(super) fn new(unread: &[u8], limit: usize) -> Self {
        let mut input = Buffer::default();
        input.append(unread);
        Self {
            input,
            passed: 0,
            out: Buffer::default(),
            pipe: InPipe::default(),
            limit,
            wide: false,
            unflushed: false,
            eof: false,
            shut: false,
            written: 0,
        }
    }

    /// What has been read and not been dealt with.
    pub(super) fn unseen(&self) -> &[u8] {
        self.input.bytes().get(self.passed..).unwrap_or_default()
    }

    /// Whether anything waits to be written, or to leave where it was written to.
    pub(super) fn is_blocked(&self) -> bool {
        self.has_more() || self.unflushed || self.has_unseen()
    }

    fn has_more(&self) -> bool {
        self.passed > 0 || !self.out.is_empty()
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.input.is_empty() && self.out.is_empty() && !self.has_unseen()
    }

    /// Whether there are bytes that go on unseen. They are to be [brought](Self::poll_bring) before anything else.
    pub(super) fn has_unseen(&self) -> bool {
        self.pipe.held() > 0
    }

    /// Whether bytes that go on unseen can be [taken](Self::poll_take), now or as soon as those before have gone on.
    pub(super) fn takes_unseen(&self) -> bool {
        self.input.is_empty() && self.out.is_empty() && !self.unflushed && !self.pipe.is_unfit()
    }

    /// Whether one more step's bytes can be taken. False until some have been written; never for ever.
    pub(super) fn has_room(&self) -> bool {
        !self.is_blocked() || self.out.len() + self.passed + STEP <= SIZE
    }

    /// The next `count` unseen bytes go on unchanged.
    pub(super) fn pass(&mut self, count: usize) {
        self.passed = (self.passed + count).min(self.input.len());
    }

    /// The next `take` unseen bytes go on as `with`.
    pub(super) fn replace(&mut self, take: usize, with: &[u8]) {
        self.seal();
        self.input.consume(take);
        self.out.append(with);
    }

    /// Puts all that goes on into `out`, so that something can follow it.
    fn seal(&mut self) {
        if self.passed > 0 {
            self.out.append(self.input.bytes().get(..self.passed).unwrap_or_default());
            self.input.consume(self.passed);
            self.passed = 0;
        }
    }

    /// Throws away what waits to be written: nobody will take it.
    pub(super) fn discard(&mut self) {
        self.out.consume(self.out.len());
        self.input.consume(self.passed);
        self.passed = 0;
        self.unflushed = false;
        self.pipe.discard();
    }

    /// The side that is read is another connection from here on: what has come over the one before is forgotten.
    pub(super) fn forget(&mut self) {
        self.input.consume(self.input.len());
        self.passed = 0;
        self.eof = false;
    }

    /// Reads once. `Pending` also where there is no room, or nothing more to come.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        // Beyond the usual size only for something that is too long to be made sense of in less.
        if self.wide && self.is_empty() {
            self.input.widen();
        }
        let usual = self.input.size();
        let size = if self.is_blocked() { usual } else { self.limit.max(usual) };
        let free = size.saturating_sub(self.input.len());
        if self.eof || free == 0 || self.has_unseen() {
            self.input.settle();
            return Poll::Pending;
        }
        let mut room = ReadBuf::new(self.input.room(free.min(READ)));
        let polled = Pin::new(from).poll_read(cx, &mut room);
        let count = room.filled().len();
        match polled {
            Poll::Ready(Ok(())) => {
                self.eof = count == 0;
                self.wide = count >= SIZE;
                self.input.filled(count);
                Poll::Ready(Ok(count))
            }
            other => {
                self.input.settle();
                other.map_ok(|()| 0)
            }
        }
    }

    /// Takes up to `most` bytes that are to go on unseen: the kernel keeps them. `Pending` also where some wait to go on, and
    /// where it turns out that it [cannot](Self::takes_unseen).
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>, from: &TcpStream, most: u64) -> Poll<io::Result<usize>> {
        if self.eof || self.has_unseen() {
            return Poll::Pending;
        }
        let taken = self.pipe.poll_fill(cx, from, usize::try_from(most).unwrap_or(usize::MAX));
        self.eof = matches!(taken, Poll::Ready(Ok(0)));
        taken
    }

    /// Brings what goes on unseen to the other side, once.
    pub(super) fn poll_bring(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        self.written += ready!(self.pipe.poll_drain(cx, to))? as u64;
        Poll::Ready(Ok(()))
    }

    /// Writes once, and flushes when that was all. `Pending` also where there is nothing to write.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        let passed = self.input.bytes().get(..self.passed).unwrap_or_default();
        let polled = match (self.out.is_empty(), passed.is_empty()) {
            (true, true) if self.unflushed => return self.poll_flush(cx, to),
            (true, true) => return Poll::Pending,
            (true, false) => Pin::new(&mut *to).poll_write(cx, passed),
            (false, true) => Pin::new(&mut *to).poll_write(cx, self.out.bytes()),
            (false, false) => {
                Pin::new(&mut *to).poll_write_vectored(cx, &[IoSlice::new(self.out.bytes()), IoSlice::new(passed)])
            }
        };
        self.wrote(ready!(polled)?)?;
        if !self.has_more()
            && let Poll::Ready(Err(error)) = self.poll_flush(cx, to)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }

    /// Writes once of the last that there is to write.
    pub(super) fn poll_write_last(&mut self, cx: &mut Context<'_>, to: &mut impl Wire) -> Poll<io::Result<()>> {
        let passed = self.input.bytes().get(..self.passed).unwrap_or_default();
        let bytes = if self.out.is_empty() { passed } else { self.out.bytes() };
        if bytes.is_empty() {
            return self.poll_write(cx, to);
        }
        Poll::Ready(self.wrote(ready!(to.poll_write_last(cx, bytes))?))
    }

    /// So many bytes have been written.
    fn wrote(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_out = count.min(self.out.len());
        self.out.consume(of_out);
        self.input.consume(count - of_out);
        self.passed = self.passed.saturating_sub(count - of_out);
        self.written += count as u64;
        self.unflushed = true;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        ready!(Pin::new(to).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}
