//! The client's stream, as every stage reads and writes it: replies whole and within a time, commands without a buffer that
//! waits for them, and a goodbye that can be read. What is said is for the stages.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::Guest;
use crate::relay::Wire;

/// How long a client that was turned away has for reading why, before the connection is torn down.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How much a client that was turned away may still say.
pub(super) const LAST_WORDS: usize = 65_536;

/// Writes within the time that the gate allows for it.
pub(super) async fn say<C: Wire>(guest: &Guest, client: &mut C, bytes: &[u8]) -> io::Result<()> {
    let wait = guest.gate.settings.relay.timeouts.write;
    let said = async {
        client.write_all(bytes).await?;
        // TLS may hold what it has taken.
        client.flush().await
    };
    match timeout(wait, said).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Says that nothing more will come, and gives the client time to read what did: closing with unread bytes resets the
/// connection, and the last reply would be lost with it.
pub(super) async fn see_off<C: Wire>(mut client: C) {
    let farewell = async {
        let _ = client.shutdown().await;
        let mut heard = Vec::new();
        let mut said = 0;
        while let Ok(n) = read_some(&mut client, &mut heard).await {
            said += n;
            if n == 0 || said > LAST_WORDS {
                break;
            }
            heard.clear();
        }
    };
    let _ = timeout(LINGER, farewell).await;
}

/// Reads what there is, once there is something, and adds it to `inbox`; no buffer is held while waiting for it.
pub(super) async fn read_some<C: AsyncRead + Unpin>(client: &mut C, inbox: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut scratch = [const { MaybeUninit::uninit() }; 2048];
        let mut read = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut *client).poll_read(cx, &mut read))?;
        inbox.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
    .await
}
