//! What a relay runs on: sockets, and streams in memory.

use std::future::{Future, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
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

    /// Becomes a TLS connection in place, as the server of it; said only where TLS [is offered](Tls::is_offered). All that
    /// was written has been flushed, and no byte has been read that the handshake could need. It keeps its own deadline.
    fn start_tls(&mut self) -> impl Future<Output = Result<(), NoTls>> + Send {
        ready(Err(NoTls::Failed))
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
