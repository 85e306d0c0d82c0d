//! Honest hosts for whole-daemon tests: real MTAs, real mail programs, a real DNSBL server, and doubles for the rest.
//!
//! An integration test says `mod host;` and takes what it needs. Everything here starts on loopback ports chosen by the
//! kernel, in a directory of its own, is ready when `start` returns, and is gone when it is dropped. Waiting is always
//! for something that can be seen, under a deadline ([`wait::until`]).
//!
//! | file | what it is |
//! | --- | --- |
//! | [`gate`] | the built `gatepost` itself, its journal and metrics |
//! | [`postfix`], [`exim`] | MTAs to stand behind the gate, or to send through it |
//! | [`opensmtpd`], [`aiosmtpd`], [`smtp_server`] | more MTAs to stand behind the gate |
//! | [`scripted`] | what the last two have in common |
//! | [`sink`] | where those MTAs deliver to: keeps every message byte for byte |
//! | [`client`] | swaks, curl, msmtp, smtplib, nodemailer |
//! | [`letter`] | what they send, and how it is recognised at the far end |
//! | [`backend`] | an MTA's double that answers, stalls and breaks off as told |
//! | [`exchange`], [`icewarp`] | what Microsoft Exchange and IceWarp say, version by version |
//! | [`replica`] | an MTA's double that speaks like one of those, and keeps all that it hears |
//! | [`dialogue`] | a client's double for hand-written transcripts |
//! | [`secure`] | a client's double under TLS |
//! | [`proxy`] | PROXY headers, written and read independently of the crate's own code |
//! | [`haproxy`], [`nginx`] | load balancers, to stand before the gate |
//! | [`rbldnsd`] | a DNSBL |
//! | [`valkey`] | a shared store: a server, a cluster, a master with its replica and sentinel |
//! | [`network`] | three hosts, each a network namespace, to put any of these into |
//! | [`dns`] | a name server for the names of clients |
//! | [`certificates`] | a small certification authority |
//! | [`peers`] | which of the programs are here, and what a test does without one |
//! | [`process`], [`ports`], [`wait`] | what the above are made of |

#![allow(dead_code, unreachable_pub, reason = "each test program takes the part of this module that it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a host that cannot go on fails the test, loudly and at once"
)]

pub mod aiosmtpd;
pub mod backend;
pub mod certificates;
pub mod client;
pub mod dialogue;
pub mod dns;
pub mod exchange;
pub mod exim;
pub mod gate;
pub mod haproxy;
pub mod icewarp;
pub mod letter;
pub mod network;
pub mod nginx;
pub mod opensmtpd;
pub mod peers;
pub mod ports;
pub mod postfix;
pub mod process;
pub mod proxy;
pub mod rbldnsd;
pub mod replica;
pub mod scripted;
pub mod secure;
pub mod sink;
pub mod smtp_server;
pub mod valkey;
pub mod wait;
