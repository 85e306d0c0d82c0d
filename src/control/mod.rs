//! What operators can ask of a running gatepost: how it is, who is shut out and why, and that this be changed.
//!
//! Values in, values out ([`answer`]): who asks, and by which way, is for `admin` (HTTP, on TCP and on a unix socket) and
//! `cli` to know. What follows from a decision (the log line, sessions that end, the firewall) is done where all decisions
//! are carried out, in `session`.
//!
//! Parts that have something to tell and are none of this one's business put a closure on a [`Board`].

pub mod answer;
mod bans;
mod board;
mod explain;
pub mod kept;
pub mod postscreen;
mod refused;
pub mod settings;
pub mod state;
mod status;
pub mod token;
pub mod who;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

pub use bans::{Listing, Order, Wish};
pub use board::Board;
pub use refused::{Fault, Refused};
pub use settings::Settings;
pub use token::Token;

use crate::session::{Gate, House};
use crate::time::Timestamp;

/// What tells why mail is not taken, if it is not.
type Hindrances = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// A running gatepost, as operators see it.
pub struct Control {
    house: Arc<House>,
    started: Timestamp,
    hindrances: Hindrances,
    gates: ArcSwap<Vec<Arc<Gate>>>,
    token: ArcSwapOption<Token>,
    board: Board,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Of `house`, without gates so far; `hindrances` tells why mail is not taken.
    pub fn new(house: Arc<House>, hindrances: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        Self {
            started: house.clock.now(),
            house,
            hindrances: Box::new(hindrances),
            gates: ArcSwap::default(),
            token: ArcSwapOption::empty(),
            board: Board::default(),
        }
    }

    /// The gates are these from now on.
    pub fn set_gates(&self, gates: Vec<Arc<Gate>>) {
        self.gates.store(Arc::new(gates));
    }

    /// From now on this is what has to be known to change anything over TCP; nobody can if nothing.
    pub fn set_token(&self, token: Option<Token>) {
        self.token.store(token.map(Arc::new));
    }

    /// What has to be known to change anything over TCP.
    pub fn token(&self) -> Option<Arc<Token>> {
        self.token.load_full()
    }

    /// Where other parts tell how they are: a word for the part, and what there is to tell.
    pub fn board(&self) -> &Board {
        &self.board
    }

    fn now(&self) -> Timestamp {
        self.house.clock.now()
    }
}
