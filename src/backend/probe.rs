//! Asking a backend what it offers, now and then: EHLO and QUIT, announced as gatepost's own connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{Backend, Failure, Presence};
use crate::smtp::ehlo::Offer;
use crate::smtp::reply::{self, Code, Parsed};

/// The pause after the first failed probe; doubled with each further one, up to the probe interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest pause between probes of a backend that is away.
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Probes for as long as it is polled: every [`Settings::probe_interval`](super::Settings::probe_interval), and more often
/// from when the backend is found away until it answers. `hostname` is the name in EHLO.
pub async fn keep_probing(backend: Arc<Backend>, hostname: String) {
    let mut retry = FIRST_RETRY;
    loop {
        match backend.probe(&hostname).await {
            Ok(()) => {
                retry = FIRST_RETRY;
                // A visit may find out first. Nobody but the probe is sure to find out when it is over.
                let _ = timeout(backend.settings.probe_interval, backend.lost.notified()).await;
            }
            Err(failure) => {
                tracing::debug!(backend = %backend.settings.address, %failure, "probe failed");
                backend.set_presence(Presence::Away);
                sleep(retry).await;
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }
}

impl Backend {
    /// Asks once.
    pub async fn probe(&self, hostname: &str) -> Result<(), Failure> {
        let mut stream = self.dial(None).await?;
        let wait = self.settings.reply_timeout;
        let mut inbox = Vec::new();
        let greeting = next_reply(&mut stream, &mut inbox, wait).await?;
        if !greeting.is_positive() {
            self.set_presence(Presence::Away);
            return Ok(());
        }
        inbox.clear();
        let hello = format!("EHLO {hostname}\r\n");
        stream.write_all(hello.as_bytes()).await.map_err(Failure::Broken)?;
        let code = next_reply(&mut stream, &mut inbox, wait).await?;
        let offer = match reply::parse(&inbox) {
            Parsed::Complete(said) if code.is_positive() => Offer::read(&said),
            _ => Offer::default(),
        };
        self.learn(&offer);
        // The answer to QUIT is courtesy; nothing hangs on it.
        let _ = stream.write_all(b"QUIT\r\n").await;
        let _ = timeout(Duration::from_secs(1), stream.read(&mut [0; 512])).await;
        Ok(())
    }
}

/// Reads until `inbox` holds a whole reply at its front, and says its code.
pub(crate) async fn next_reply<B>(backend: &mut B, inbox: &mut Vec<u8>, wait: Duration) -> Result<Code, Failure>
where
    B: AsyncRead + AsyncWrite + Unpin,
{
    let read_on = async {
        loop {
            match reply::parse(inbox) {
                Parsed::Complete(said) => return Ok(said.code),
                Parsed::Malformed => return Err(Failure::NotSmtp),
                Parsed::Incomplete => {}
            }
            inbox.reserve(512);
            match backend.read_buf(inbox).await {
                Ok(0) => return Err(Failure::Closed),
                Ok(_) => {}
                Err(error) => return Err(Failure::Broken(error)),
            }
        }
    };
    timeout(wait, read_on).await.unwrap_or(Err(Failure::ReplyTimeout(wait)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::backend::{Announce, Settings};

    #[tokio::test]
    async fn a_backend_that_a_visit_finds_away_is_soon_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Backend::new(Settings {
            address: listener.local_addr().unwrap().to_string(),
            announce: Announce::Nothing,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(10),
            probe_interval: Duration::from_secs(3600),
        });
        let probing = tokio::spawn(keep_probing(Arc::clone(&backend), "mx.example.test".to_owned()));
        for _ in 0..2 {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            stream.write_all(b"220 mta.test\r\n").await.unwrap();
            stream.read_line(&mut String::new()).await.unwrap();
            stream.write_all(b"250 mta.test\r\n").await.unwrap();
            let mut quit = String::new();
            stream.read_line(&mut quit).await.unwrap();
            assert_eq!((quit.as_str(), backend.presence()), ("QUIT\r\n", Presence::There));
            drop(stream);
            backend.set_presence(Presence::Away);
        }
        probing.abort();
    }
}
