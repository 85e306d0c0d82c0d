//! Asking a backend what it offers, now and then: EHLO and QUIT, announced as gatepost's own connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{Backend, Dialled, Failure};
use crate::smtp::ehlo::Offer;
use crate::smtp::reply::{self, Code, Parsed};

/// The pause after the first failed probe; doubled with each further one, up to the probe interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest pause between probes of a backend that is away.
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Probes for as long as it is polled: every so often while the backend is there, and soon after anybody found it away.
/// `hostname` is the name in EHLO.
pub async fn keep_probing(backend: Arc<Backend>, hostname: String) {
    let mut retry = FIRST_RETRY;
    loop {
        // What was found before this probe, it finds out itself; what is found while it is under way, it may be too early
        // to see.
        pin!(backend.lost.notified()).enable();
        let probed = backend.probe(&hostname).await;
        backend.settle_way_back(probed.is_ok());
        match probed {
            Ok(()) => {
                retry = FIRST_RETRY;
                // A visit that finds the backend away ends the pause: what it offers, and whether it is there at all,
                // is to be known before the next client asks.
                if timeout(backend.settings.probe_interval, backend.lost.notified()).await.is_ok() {
                    sleep(retry).await;
                }
            }
            Err(failure) => {
                tracing::debug!(backend = %backend.settings.address, %failure, "probe failed");
                if !failure.is_ours() {
                    backend.lost_to(&failure);
                }
                sleep(retry).await;
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }
}

impl Backend {
    /// Asks once. Whether the backend refuses service or is not there at all is a failure alike.
    pub async fn probe(&self, hostname: &str) -> Result<(), Failure> {
        let Dialled { connection: mut stream, mut inbox } = self.dial(None).await?;
        let wait = self.settings.reply_timeout;
        let greeting = next_reply(&mut stream, &mut inbox, wait).await?;
        if !greeting.is_positive() {
            return Err(Failure::Refused(greeting));
        }
        inbox.clear();
        let hello = format!("EHLO {hostname}\r\n");
        stream.write_all(hello.as_bytes()).await.map_err(Failure::Broken)?;
        stream.flush().await.map_err(Failure::Broken)?;
        let code = next_reply(&mut stream, &mut inbox, wait).await?;
        let offer = match reply::parse(&inbox) {
            Parsed::Complete(said) if code.is_positive() => Offer::read(&said),
            // It has no extensions; it knows no EHLO.
            _ if code.is_permanent() => Offer::default(),
            // What it offers when it is well is what was known of it before.
            _ => return Err(Failure::Refused(code)),
        };
        self.learn(&offer);
        // The answer to QUIT is courtesy; nothing hangs on it.
        let _ = stream.write_all(b"QUIT\r\n").await;
        let _ = stream.flush().await;
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
