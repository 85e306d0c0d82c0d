//! The guard: watches over AUTH in a relay, counts what fails, and has clients banned for it.
//!
//! Here: which attempts may go to the backend at all and how many at once, and how long the reply to one that failed is held
//! back. What a failure is held against, and what follows, is in [`trial`](super::trial).
//!
//! Nothing is counted of allow-listed clients.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use super::attempts::{Permit, Waiting};
use super::rulings::{Ruling, Settings};
use super::trial::Trial;
use super::{Guest, House};
use crate::addr::ClientKey;
use crate::journal::Recognition;
use crate::relay::ending::{AuthOutcome, Event, Tally};
use crate::relay::{Aftermath, Attempt, Finished, Warden};
use crate::screen::{Action, Evidence, Screen, Test};

/// What a visit sees of its relay while that runs.
pub(super) struct Guard<'v> {
    house: &'v Arc<House>,
    guest: &'v Guest,
    screen: Option<&'v mut Screen>,
    /// What would be lost with a relay that is cut off.
    so_far: &'v mut Tally,
    /// Whether the client is banned for what it did here: it is to be told, and not put out before it is.
    sentenced: &'v AtomicBool,
    permit: Option<Permit>,
    /// An attempt of this session has to wait for others of its client.
    waiting: Option<Waiting>,
    delayed: Option<Delayed<'v>>,
}

/// A reply that is held back.
struct Delayed<'v> {
    house: &'v House,
    /// There is need of the place.
    stress: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.house.rulings.delayed.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<'v> Guard<'v> {
    pub(super) fn new(
        house: &'v Arc<House>,
        guest: &'v Guest,
        screen: Option<&'v mut Screen>,
        so_far: &'v mut Tally,
        sentenced: &'v AtomicBool,
    ) -> Self {
        Self { house, guest, screen, so_far, sentenced, permit: None, waiting: None, delayed: None }
    }

    /// Holds the reply back, if there is a place for it.
    fn delay(&mut self, settings: &Settings) -> Aftermath {
        let delayed = &self.house.rulings.delayed;
        let take = |count: u32| (count < settings.delayed).then_some(count + 1);
        let wanted = !settings.delay.is_zero() && !self.house.stress.is_on();
        if !wanted || delayed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Aftermath::default();
        }
        self.delayed = Some(Delayed { house: self.house, stress: Box::pin(self.house.stress.begun()) });
        Aftermath { delay: Some(settings.delay), over: false }
    }
}

impl Warden for Guard<'_> {
    fn offers_auth(&self) -> bool {
        self.guest.may_auth()
    }

    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Attempt> {
        self.delayed = None;
        if is_above_it(self.guest) {
            return Poll::Ready(Attempt::Go);
        }
        let settings = self.house.rulings.settings();
        let client = ClientKey::of(self.guest.client.ip());
        let permit = ready!(self.house.rulings.attempts.poll_begin(client, settings.parallel, &mut self.waiting, cx));
        // What it had to wait for may have been the attempt that got it banned.
        let ruling = self.house.ruling(&self.guest.gate, self.guest.client.ip(), self.house.clock.now());
        if matches!(ruling, Ruling::Banned(_)) {
            return Poll::Ready(Attempt::Refuse);
        }
        self.permit = Some(permit);
        Poll::Ready(Attempt::Go)
    }

    fn finished(&mut self, finished: Finished) -> Aftermath {
        let permit = self.permit.take();
        if is_above_it(self.guest) {
            return Aftermath::default();
        }
        let Finished { outcome, account, .. } = finished;
        match outcome {
            AuthOutcome::Undecided => Aftermath::default(),
            AuthOutcome::Succeeded => {
                Trial::of(self.house, self.guest, account).logged_in();
                Aftermath::default()
            }
            // Who does not wait for the verdict has had the guess judged all the same.
            AuthOutcome::Failed | AuthOutcome::Abandoned => {
                let banned = Trial::of(self.house, self.guest, account).failed(permit);
                self.sentenced.store(banned, Ordering::Relaxed);
                if banned { Aftermath { delay: None, over: true } } else { self.delay(&self.house.rulings.settings()) }
            }
        }
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.delayed {
            Some(delayed) => delayed.stress.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }

    fn released(&mut self) {
        self.delayed = None;
    }

    fn event(&mut self, event: Event) {
        count(self.so_far, event);
        // A client that tries AUTH where none is offered is found out here too, if it was let through before.
        if event == Event::AuthNotOffered {
            tried_auth(self.house, self.guest);
            if let Some(screen) = &mut self.screen {
                screen.observe(Evidence::TriedAuth);
            }
        }
    }
}

/// Takes down what would be lost with a relay that is cut off.
fn count(tally: &mut Tally, event: Event) {
    match event {
        Event::MessageAccepted => tally.messages += 1,
        Event::AuthFinished { outcome: AuthOutcome::Succeeded, .. } => tally.auth_successes += 1,
        Event::AuthFinished { outcome: AuthOutcome::Failed, .. } => tally.auth_failures += 1,
        _ => {}
    }
}

/// Whether nothing is held against it.
fn is_above_it(guest: &Guest) -> bool {
    matches!(guest.recognition, Recognition::Allowed | Recognition::Proxy)
}

/// A client tried AUTH where it is not offered to it.
pub(super) fn tried_auth(house: &Arc<House>, guest: &Guest) {
    let gate = &guest.gate.settings;
    let is_made = gate.screen.rules[Test::AuthNotOffered].action != Action::Off;
    // Where AUTH is offered to others, there is no test of that name, and it is not for this client to try.
    if (is_made || gate.relay.auth) && !is_above_it(guest) {
        Trial::of(house, guest, None).tried();
    }
}
