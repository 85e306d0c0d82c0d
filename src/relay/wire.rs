//! What a relay runs on: sockets, and streams in memory.

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

/// One side's connection.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// The socket, if bytes go over it as they are: then the kernel can move them.
    fn tcp(&self) -> Option<&TcpStream> {
        None
    }
}

impl Wire for TcpStream {
    fn tcp(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Wire for DuplexStream {}

impl<W: Wire> Wire for &mut W {
    fn tcp(&self) -> Option<&TcpStream> {
        (**self).tcp()
    }
}
