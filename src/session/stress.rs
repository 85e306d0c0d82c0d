//! Stress: the house fills up, and whoever can make room is told.
//!
//! Looked at whenever a place was taken or given back, which costs two loads as long as nothing changes. While it is on,
//! strangers who come wait for less long, and [`Stress::begun`] tells whoever holds clients for their own good (tarpits)
//! to let them go. What it is measured by is how many sessions there may be in all when a stranger is let in; with gates
//! of different limits, by the widest.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

use crate::policy::stress::{Change, Marks};

/// Whether it is on. Shared by reference.
#[derive(Debug)]
pub struct Stress {
    /// How many sessions there may be when a stranger is let in.
    places: AtomicU32,
    on: watch::Sender<bool>,
}

impl Default for Stress {
    fn default() -> Self {
        Self::new()
    }
}

impl Stress {
    /// Off, and stays off until it is told of [places](Self::set_places).
    pub fn new() -> Self {
        Self { places: AtomicU32::new(0), on: watch::Sender::new(false) }
    }

    /// From now on there may be so many sessions when a stranger is let in.
    pub fn set_places(&self, places: u32, open: u32) {
        self.places.store(places, Ordering::Relaxed);
        self.look(open);
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        *self.on.borrow()
    }

    /// Tells of each begin and end from now on.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.on.subscribe()
    }

    /// Waits until it is on; not at all if it is.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut on = self.on.subscribe();
        async move {
            if on.wait_for(|on| *on).await.is_err() {
                // The house is gone, and nobody is in it who waits.
                std::future::pending::<()>().await;
            }
        }
    }

    /// So many sessions are open now.
    pub(super) fn look(&self, open: u32) {
        let places = self.places.load(Ordering::Relaxed);
        let marks = Marks::of(places);
        if marks.change(self.is_on(), open).is_none() {
            return;
        }
        // Of those who see it at once, one tells.
        let mut change = None;
        self.on.send_if_modified(|on| {
            change = marks.change(*on, open);
            *on = matches!(change, Some(Change::Begins)) || (*on && change.is_none());
            change.is_some()
        });
        match change {
            Some(Change::Begins) => tracing::warn!(
                open,
                places,
                "under stress: nine tenths of the sessions that strangers may have are open; they wait for less long, and are \
                 turned away before clients that are known"
            ),
            Some(Change::Ends) => tracing::info!(open, places, "no longer under stress"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Whether a future is over, without waiting for it.
    fn is_over(future: impl Future) -> bool {
        matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
    }

    #[test]
    fn it_begins_ends_and_tells() {
        let stress = Stress::new();
        stress.look(1_000_000);
        assert!(!stress.is_on(), "there is no stress in a house that nobody has measured");
        stress.set_places(10, 0);
        let mut told = stress.watch();
        let mut heard = |open| {
            stress.look(open);
            let news = told.has_changed().unwrap();
            told.mark_unchanged();
            (stress.is_on(), news)
        };
        for (open, expected) in [
            (8, (false, false)),
            (9, (true, true)),
            (10, (true, false)),
            (8, (true, false)),
            (9, (true, false)),
            (7, (false, true)),
            (8, (false, false)),
        ] {
            assert_eq!(heard(open), expected, "{open}");
        }
    }

    #[test]
    fn whoever_waits_for_it_is_woken_and_more_room_ends_it() {
        let stress = Stress::new();
        stress.set_places(10, 8);
        assert!(!is_over(stress.begun()));
        let before = stress.begun();
        stress.look(9);
        assert!(is_over(before) && is_over(stress.begun()));
        stress.set_places(100, 9);
        assert!(!stress.is_on() && !is_over(stress.begun()));
        let orphan = stress.begun();
        drop(stress);
        assert!(!is_over(orphan));
    }
}
