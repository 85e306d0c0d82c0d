//! gatepost stands at the mail port in front of any MTA. It makes every stranger wait, watches how it behaves, asks the
//! lists about it, remembers what it learned, and then either sends it away or hands the connection to the real MTA.
//!
//! # The way of a connection
//!
//! **arrival → recall → pregreet → dialogue → (verdict) → handoff → relay → departure.** [`session`] has one file a
//! stage; start reading there.
//!
//! # Our own words
//!
//! - *gate*: one or more listening addresses with one set of rules and one backend.
//! - *backend*: the MTA behind a gate.
//! - *client*: whoever connects; an IPv4 client counts as its /32, an IPv6 client as its /64 ([`addr::ClientKey`]).
//! - *stranger*: a client that has not passed every test lately; *known*: one that has, or that is allow-listed.
//! - *evidence*: something that was seen ([`screen::Evidence`]); *verdict*: what we do about all of it
//!   ([`screen::Verdict`]).
//! - *standing*: which tests a client has passed and until when ([`screen::Standing`]).
//! - *ledger*: where standings are kept ([`ledger`]).
//! - *handoff*: connecting a client that passed to the backend, with the dialogue so far replayed.
//! - *visit*: one connection from arrival to departure, with an id that every refusal carries.
//!
//! # The modules
//!
//! Arrows point down; `tests/layering.rs` holds them to it.
//!
//! | layer | modules | what they know |
//! | --- | --- | --- |
//! | words | [`smtp`], [`proxy_header`], [`addr`], [`time`] | bytes and values; no I/O, no clock |
//! | decisions | [`screen`], [`policy`] | pure; `now` is an argument |
//! | hands | [`clock`], [`listener`], [`ledger`], [`dns`], [`dnsbl`], [`tls`], [`backend`], [`relay`], [`firewall`], [`lists`] | one kind of I/O each |
//! | whole | [`session`], [`journal`], [`metrics`], [`config`], [`control`], [`server`], [`admin`], [`demo`], [`doctor`], [`cli`] | everything below |

pub mod addr;
pub mod proxy_header;
pub mod smtp;
pub mod time;

pub mod policy;
pub mod screen;

pub mod backend;
pub mod clock;
pub mod dns;
pub mod dnsbl;
pub mod firewall;
pub mod ledger;
pub mod listener;
pub mod lists;
pub mod relay;
pub mod tls;

pub mod admin;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod journal;
pub mod metrics;
pub mod server;
pub mod session;
