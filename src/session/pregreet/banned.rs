//! Banned clients: what one meets at the door, and what becomes of those who wait in the lot when they are banned.
//!
//! Such a connection is no visit: it is counted, and leaves no record. What it costs is the accept, the look-up, and where
//! the operator wants it one line or a place to be held in.

use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Token};
use tokio::time::Instant;

use super::{Guest, Key, Lot, Place, Report, Who, departure, drain, heard};
use crate::journal::{Outcome, Stage};
use crate::session::rulings::Ruling;

/// How long silence is held at most.
const HOLD: Duration = Duration::from_secs(60);

impl Lot {
    /// A banned client has come, and is told so.
    pub(in crate::session) fn tell_banned(&mut self, socket: TcpStream, guest: &Guest, reply: &[u8]) {
        self.let_leave(socket, heard(guest, reply));
    }

    /// A banned client has come, and is held in silence, if there are not `most` of them yet.
    pub(in crate::session) fn hold_banned(&mut self, socket: TcpStream, most: usize) {
        if self.held < most {
            self.hold(socket);
        }
    }

    fn hold(&mut self, socket: TcpStream) {
        self.round = self.round.wrapping_add(1);
        let entry = self.places.vacant_entry();
        let index = entry.key();
        let place = entry.insert(Place { socket, round: self.round, who: Who::Held { said: 0 } });
        self.held += 1;
        let key = Key { place: u32::try_from(index).unwrap_or(u32::MAX), round: place.round };
        let token = Token(index);
        if self.registry.register(&mut place.socket, token, Interest::READABLE).is_err() {
            self.vacate(index);
            return;
        }
        // What it has said already will not be told of again.
        if let Who::Held { said } = &mut place.who
            && drain(&mut place.socket, said) == super::Drained::Over
        {
            self.vacate(index);
            return;
        }
        self.deadlines.push(Instant::now(), HOLD, key);
    }

    /// Somebody was banned: whoever of them waits here is put out, without a word, as at the door.
    pub(in crate::session) fn put_out_banned(&mut self) {
        let now = self.house.clock.now();
        let is_banned = |place: &Place| match &place.who {
            Who::Waiting(stranger) => {
                let guest = &stranger.guest;
                matches!(self.house.ruling(&guest.gate, guest.client.ip(), now), Ruling::Banned(_))
            }
            Who::Unannounced(_) | Who::Leaving { .. } | Who::Held { .. } => false,
        };
        let banned: Vec<usize> =
            self.places.iter().filter(|(_, place)| is_banned(place)).map(|(index, _)| index).collect();
        for index in banned {
            let Some(Place { who: Who::Waiting(stranger), .. }) = self.vacate(index) else { continue };
            Self::waited(&stranger);
            let report = Report { screen: Some(stranger.screen), said: stranger.said, ..Report::default() };
            departure::depart(&self.house, stranger.guest, Stage::Pregreet, Outcome::Banned, report);
        }
    }
}
