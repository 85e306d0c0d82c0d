//! What a relay runs on: sockets, and streams in memory.

use std::future::{Future, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

use super::Tls;

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

    /// Becomes a TLS connection in place, as the server of it; said only where TLS [is offered](Tls::is_offered). All that
    /// was written has been flushed, and no byte has been read that the handshake could need. It keeps its own deadline.
    fn start_tls(&mut self) -> impl Future<Output = Result<(), NoTls>> + Send {
        ready(Err(NoTls))
    }
}

/// No TLS came about. Why, only the connection knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoTls;

impl Wire for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }

    fn give_up(&mut self) {
        // One that is torn already has thrown it away.
        let _ = self.set_zero_linger();
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

    fn start_tls(&mut self) -> impl Future<Output = Result<(), NoTls>> + Send {
        (**self).start_tls()
    }
}
