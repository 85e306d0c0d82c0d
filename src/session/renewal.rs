//! Renewal: where TLS with a client begins in the middle of a relay, the backend is connected to anew.
//!
//! Nothing said in the clear is believed under TLS. gatepost forgets what it was told itself; that the MTA does, nobody
//! can see to but by speaking to one that was told nothing. (Not every MTA can be made to forget: OpenSMTPD answers a
//! second EHLO with 503.) And the MTA is to know what was agreed on: a PROXY header says so, and that comes first.
//!
//! ```text
//!  connected ── renew ──► QUIT, closed ──► dialled, announced with the TLS facts ──┬─ 220 ─► connected
//!                                                                                  └─ anything else, or too late ─► gone
//! ```
//!
//! The connection before is given up first, so that a client never counts twice with an MTA that limits its connections.
//! A client can begin TLS once: it costs the MTA two connections at most.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::Guest;
use super::connection::Agreed;
use super::handoff::{self, Trouble};
use crate::backend::Connection;
use crate::relay::{NoBackend, Renewal, Wire};

/// A guest's connection to the backend, which can be had anew.
pub(super) struct Renewable<'v> {
    /// None once it has been given up.
    connection: Option<Connection>,
    guest: &'v Guest,
    /// What the lists made of it, if they said something.
    score: Option<i32>,
    /// What was agreed on with it, by then.
    agreed: Agreed,
    /// Where it is put why there is no other connection.
    trouble: &'v OnceLock<Trouble>,
}

impl<'v> Renewable<'v> {
    pub(super) fn new(
        connection: Connection,
        guest: &'v Guest,
        score: Option<i32>,
        agreed: Agreed,
        trouble: &'v OnceLock<Trouble>,
    ) -> Self {
        Self { connection: Some(connection), guest, score, agreed, trouble }
    }

    async fn dial(&mut self) -> Result<Connection, Trouble> {
        if let Some(before) = self.connection.take() {
            take_leave(before).await;
        }
        // Without the name that it gave in HELO or EHLO: that was in the clear.
        let visitor = self.guest.visitor(self.agreed.get(), self.score);
        handoff::anew(self.guest, visitor).await
    }
}

impl Wire for Renewable<'_> {
    fn tcp(&self) -> Option<&TcpStream> {
        self.connection.as_ref()?.tcp()
    }

    async fn renew(&mut self) -> Result<Renewal, NoBackend> {
        // Boxed: few connections come this far, and all would carry it.
        match Box::pin(self.dial()).await {
            Ok(connection) => {
                self.connection = Some(connection);
                Ok(Renewal::Anew)
            }
            Err(trouble) => {
                // There is one renewal on a connection at most.
                let _ = self.trouble.set(trouble);
                Err(NoBackend)
            }
        }
    }
}

/// Says QUIT and closes. A courtesy, so that the MTA need not log a client that broke off; nothing is waited for.
async fn take_leave(mut connection: Connection) {
    poll_fn(|cx| {
        let mut connection = Pin::new(&mut connection);
        if let Poll::Ready(Ok(_)) = connection.as_mut().poll_write(cx, b"QUIT\r\n") {
            let _ = connection.poll_shutdown(cx);
        }
        Poll::Ready(())
    })
    .await;
}

impl AsyncRead for Renewable<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().connection {
            Some(connection) => Pin::new(connection).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Renewable<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().connection {
            Some(connection) => Pin::new(connection).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().connection {
            Some(connection) => Pin::new(connection).poll_write_vectored(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().connection {
            Some(connection) => Pin::new(connection).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().connection {
            Some(connection) => Pin::new(connection).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
