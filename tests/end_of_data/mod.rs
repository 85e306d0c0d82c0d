//! The parts of the end-of-data matrix (`tests/peers_end_of_data.rs`).

#![allow(unreachable_pub, reason = "each file here takes the part of the others that it needs")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

pub mod mtas;
pub mod rows;
pub mod sockets;
pub mod table;
pub mod visit;
