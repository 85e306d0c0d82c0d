//! Strangers who have come just now, and those of them who speak at once: bots, which never have a place in the lot.

use std::io::Read;
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::{SendFlags, send};
use tokio::time::Instant;

use super::{AT_ONCE, Lot, PEEK};
use crate::journal::Outcome;
use crate::screen::{Action, Screen, Test, Verdict};
use crate::session::Guest;
use crate::session::refusal::{self, Manner};
use crate::session::stranger::Stranger;

/// How long a stranger has been there before anything is done about it. What a bot says as soon as it is connected comes
/// a moment after the connection.
const MOMENT: Duration = Duration::from_millis(2);

/// From how many on that linger, bots are no longer waited for that spoke at once. Nothing of theirs is unread, so that they
/// can read the reply all the same; the connection of one that talks on without having read it may be reset.
const FLOOD: usize = 1024;

impl Lot {
    /// A stranger has come. One that is to be dropped if it speaks is given a moment to do so: most bots speak as soon as
    /// they are connected, and then nobody need be asked about them, and no place be made for them.
    pub(in crate::session) fn arrive(&mut self, socket: TcpStream, guest: Guest, screen: Screen) {
        let stranger = self.stranger(guest, screen);
        let counts = stranger.screen.wait().minimum && !stranger.guest.gate.settings.tls.is_first();
        if counts && stranger.screen.settings().action(Test::Pregreet) == Action::Drop {
            self.newcomers.push_back((socket, stranger));
        } else {
            self.place(socket, stranger);
        }
    }

    /// When the first of them is to be looked at.
    pub(super) fn next_newcomer(&self) -> Option<Instant> {
        self.newcomers.front().map(|(_, stranger)| stranger.guest.arrived + MOMENT)
    }

    /// The moment of some is over: looks at a few of them, and says whether there may be more.
    pub(super) fn look_at_newcomers(&mut self, now: Instant) -> bool {
        for _ in 0..AT_ONCE {
            let came_before = |(_, stranger): &mut (_, Box<Stranger>)| stranger.guest.arrived + MOMENT <= now;
            let Some((mut socket, mut stranger)) = self.newcomers.pop_front_if(came_before) else {
                if self.newcomers.is_empty() && self.newcomers.capacity() > 1024 {
                    self.newcomers.shrink_to(64);
                }
                return false;
            };
            let mut said = [0; PEEK];
            // It is read rather than peeked at: whatever it is, nothing else will be made of it.
            match socket.read(&mut said) {
                Ok(0) => self.part(*stranger, Outcome::HungUp, None),
                Ok(n) => match stranger.spoke(said.get(..n).unwrap_or_default()) {
                    Some(Verdict::Drop(test)) => {
                        let reply = refusal::failed(&stranger.guest, &stranger.screen, test, Manner::Drop);
                        self.part(*stranger, Outcome::Dropped, None);
                        if n < said.len() && self.gone.len() >= FLOOD {
                            say_and_close(socket, &reply);
                        } else {
                            self.let_leave(socket, &reply);
                        }
                    }
                    // Not with these settings; and if it were, what it has said would be missing.
                    _ => self.part(*stranger, Outcome::ProtocolFault, None),
                },
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.place(socket, stranger),
                Err(_) => self.part(*stranger, Outcome::HungUp, None),
            }
        }
        true
    }
}

/// Says `reply`, and closes: all in one packet, and no more is heard of it.
fn say_and_close(socket: TcpStream, reply: &[u8]) {
    // One that does not take so much has never read anything.
    let _ = send(&socket, reply, SendFlags::NOSIGNAL | SendFlags::MORE);
    drop(socket);
}
