//! A client double: says what it is told to, and hears whole replies.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// A client on any stream.
pub(super) struct Client<S> {
    pub stream: S,
    heard: Vec<u8>,
}

impl Client<TcpStream> {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::on(stream)
    }

    /// Ends the connection by a reset.
    pub(super) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn on(stream: S) -> Self {
        Self { stream, heard: Vec::new() }
    }

    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Says that it will say nothing more.
    pub(super) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// One line of a reply; empty if the connection has ended.
    pub(super) async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.heard.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                let line = String::from_utf8(line).unwrap();
                assert!(line.ends_with("\r\n"), "{line:?}");
                return line.trim_end().to_owned();
            }
            if self.stream.read_buf(&mut self.heard).await.unwrap() == 0 {
                assert!(self.heard.is_empty(), "half a line: {}", self.heard.escape_ascii());
                return String::new();
            }
        }
    }

    /// A whole reply, its lines divided by LF; empty if the connection has ended.
    pub(super) async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let line = self.line().await;
            let more = line.as_bytes().get(3) == Some(&b'-');
            reply += &line;
            if !more {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// Gives a command, and hears the reply.
    pub(super) async fn ask(&mut self, command: &str) -> String {
        self.say(format!("{command}\r\n")).await;
        self.reply().await
    }

    /// Everything up to the end of the connection, which has to come in order and not by a reset.
    pub(super) async fn rest(&mut self) -> String {
        self.stream.read_to_end(&mut self.heard).await.expect("reset before all was read");
        String::from_utf8(std::mem::take(&mut self.heard)).unwrap()
    }
}

/// No test waits for ever.
pub(super) async fn soon<T>(act: impl Future<Output = T>) -> T {
    timeout(PATIENCE, act).await.expect("nothing happens")
}
