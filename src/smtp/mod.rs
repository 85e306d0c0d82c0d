//! What SMTP says: bytes to values and back (RFC 5321 and its extensions). No I/O, no clock, no opinion.
//!
//! Incomplete input is an ordinary outcome. Nothing is tidied: a bare LF, a bare CR, a NUL or an 8-bit byte is a fact
//! that the caller hears of.

pub mod auth;
pub mod command;
pub mod data;
pub mod ehlo;
pub mod line;
pub mod path;
pub mod reply;
pub mod xclient;
