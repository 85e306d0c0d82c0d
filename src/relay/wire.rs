//! What a relay runs on: sockets, and streams in memory.

use std::future::{self, Future};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Tls;

/// How long a handshake may still take once everybody is told to leave. An honest one is over by then, so that the client
/// can be told so under TLS; of any other nobody waits for the end.
const LAST_HANDSHAKE: Duration = Duration::from_secs(2);

/// One side's connection.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// The socket, if bytes go over it as they are: then the kernel can move them.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }

    /// Where TLS ends on this side. Asked of the client's side only.
    fn tls(&self) -> Tls {
        Tls::EndToEnd
    }

    /// Closing is to throw away at once what the other end has not taken, rather than let the kernel offer it for minutes.
    fn give_up(&mut self) {}

    /// Writes some of the last bytes that will be written: only the end of that direction follows, and may share a packet with
    /// them.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    /// Whether closing, now, sends what was written and then the end. If not, it may reset the connection, and a reset can
    /// destroy what was written on its way: the kernel resets what is closed with bytes unread.
    fn closes_well(&self) -> bool {
        false
    }

    /// Becomes another connection to the same backend, one on which nothing has been said: its greeting has come and been
    /// taken, and EHLO is due. Asked of the backend's side only, and only once TLS with the client has begun here: what was
    /// said in the clear is to be known to nobody. It keeps its own deadlines; dropped half way, it leaves a connection that
    /// has ended.
    fn renew(&mut self) -> impl Future<Output = Result<Renewal, NoBackend>> + Send {
        future::ready(Ok(Renewal::Kept))
    }

    /// Becomes a TLS connection in place, as the server of it; said only where TLS [is offered](Tls::is_offered). All that
    /// was written has been flushed, and no byte has been read that the handshake could need. It keeps its own deadline.
    fn start_tls(&mut self) -> impl Future<Output = Result<(), NoTls>> + Send {
        future::ready(Err(NoTls::Failed))
    }
}

/// Why no TLS came about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoTls {
    /// The handshake failed. Why, only the connection knows.
    Failed,
    /// It was broken off: everybody is to leave.
    Shutdown,
}

/// What a backend's side has become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// Another connection. What came over the one before is void.
    Anew,
    /// What it was. It is the client's EHLO that has the backend forget.
    Kept,
}

/// No other connection to the backend came about, and the one before is gone. Why, only the backend's side knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoBackend;

/// Has `client` become a TLS connection. Once `leaving` is ready, there are two seconds left for it.
pub async fn start_tls<C: Wire>(client: &mut C, leaving: impl Future<Output = ()>) -> Result<(), NoTls> {
    let too_late = async {
        leaving.await;
        sleep(LAST_HANDSHAKE).await;
    };
    tokio::select! {
        biased;
        begun = client.start_tls() => begun,
        () = too_late => Err(NoTls::Shutdown),
    }
}

impl Wire for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }

    fn give_up(&mut self) {
        // One that is torn already has thrown it away.
        let _ = self.set_zero_linger();
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            let held = SendFlags::NOSIGNAL | SendFlags::MORE;
            match self.try_io(Interest::WRITABLE, || Ok(send(&*self, bytes, held)?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn closes_well(&self) -> bool {
        let mut first = [0; 1];
        match recv(self, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, unread)) => unread == 0,
            Err(error) => error == Errno::AGAIN,
        }
    }
}

impl Wire for DuplexStream {}

impl<W: Wire> Wire for &mut W {
    fn tcp(&self) -> Option<&TcpStream> {
        (**self).tcp()
    }

    fn tls(&self) -> Tls {
        (**self).tls()
    }

    fn give_up(&mut self) {
        (**self).give_up();
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        (**self).poll_write_last(cx, bytes)
    }

    fn closes_well(&self) -> bool {
        (**self).closes_well()
    }

    fn renew(&mut self) -> impl Future<Output = Result<Renewal, NoBackend>> + Send {
        (**self).renew()
    }

    fn start_tls(&mut self) -> impl Future<Output = Result<(), NoTls>> + Send {
        (**self).start_tls()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_closed_with_bytes_unread_is_reset() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        for (said, ends) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (ours, _) = listener.accept().await.unwrap();
            if said {
                client.write_all(b"NOOP\r\n").await.unwrap();
            }
            if ends {
                client.shutdown().await.unwrap();
            }
            assert_eq!(ours.closes_well(), !said, "said {said}, ends {ends}");
        }
    }
}
