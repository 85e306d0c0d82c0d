//! Who watches over AUTH in a relay: asked before an attempt reaches the backend, told what came of it.
//!
//! ```text
//!  AUTH ── poll_attempt ─┬─ Go ───► the backend's exchange ── finished ──► Aftermath: at once, later, or over
//!                        ├─ Pending: the client waits, as long as its own deadline lets it
//!                        └─ Refuse ► 421, and the end
//! ```
//!
//! What an attempt is worth, and how many there may be, here or elsewhere, is the warden's to know. That each `Go` is
//! followed by one `finished`, whatever becomes of the client, the backend or the relay, is seen to here.

use std::task::{Context, Poll};
use std::time::Duration;

use super::ending::{AuthOutcome, Event};
use crate::smtp::auth::Account;
use crate::smtp::reply::Code;

/// Watches over AUTH in one relay. It is asked for leave, or for release, or for neither: never for both at once. Any `FnMut(Event)` is one that lets everything go and hears of everything.
pub trait Warden {
    /// Whether AUTH is open to this client at all. If not, the keyword is withheld and the command answered 503, as where
    /// [`Settings::auth`](super::Settings::auth) is off. Asked once, at the beginning.
    fn offers_auth(&self) -> bool {
        true
    }

    /// Asked before an AUTH command goes on to the backend, until it is ready. `Pending`: the client has to wait, and the
    /// waker is registered. A relay that ends meanwhile asks no more.
    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Attempt> {
        let _ = cx;
        Poll::Ready(Attempt::Go)
    }

    /// An exchange that was let go is over, whatever came of it; also when the relay ends, or is dropped, in the middle of
    /// it. Said once for each [`Attempt::Go`], before the backend's reply goes on to the client.
    fn finished(&mut self, finished: Finished) -> Aftermath {
        let _ = finished;
        Aftermath::default()
    }

    /// Asked while a reply is held back: ready lets it go before its time.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// A reply that was held back is no longer.
    fn released(&mut self) {}

    /// Something has happened. Of an exchange that the backend answered, [`Event::AuthFinished`] is told here too, before
    /// [`Warden::finished`].
    fn event(&mut self, event: Event);
}

impl<F: FnMut(Event)> Warden for F {
    fn event(&mut self, event: Event) {
        self(event);
    }
}

/// What becomes of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// It goes on to the backend.
    Go,
    /// It does not: the client hears 421, and it ends.
    Refuse,
}

/// An exchange that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// What it came to.
    pub outcome: AuthOutcome,
    /// The backend's last reply code; none if it said none.
    pub code: Option<Code>,
    /// The account that was tried, if its name could be read.
    pub account: Option<Account>,
    /// Whether all had gone to the backend that it needs to judge.
    pub complete: bool,
    /// Whether TLS with the client had begun here.
    pub tls: bool,
}

/// What follows from an exchange that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Aftermath {
    /// How long the backend's reply is held back. Nothing else goes on meanwhile.
    pub delay: Option<Duration>,
    /// Whether the client then hears 421, and it ends.
    pub over: bool,
}
