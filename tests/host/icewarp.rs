//! What IceWarp (Merak, before) says, for [`replica`](super::replica).
//!
//! Greetings are those that scanners have met from version 9 to 14, with and without platform; the AUTH dialogue and its
//! twenty seconds are those of a published log; the 5xx replies are those of IceWarp's own tables of them, one of which
//! (2011) has 501 5.7.0 where others have 535 5.7.8.
//!
//! Not from a transcript but from what is generally known of IceWarp: the list of keywords (`CHECKPOINT` and `ATRN` among
//! them) and the texts of its 250 and 354 replies. A test that needs one of these to the letter shows that it reaches the
//! client as it was said, not that IceWarp says it.

use std::time::Duration;

use super::replica::{Dialect, Replies};

const REPLIES: Replies = Replies {
    starttls: "220 2.0.0 Ready to start TLS",
    reset: "250 2.0.0 Reset state",
    noop: "250 2.0.0 Noop",
    bye: "221 2.0.0 {host} closing connection",
    sender: "250 2.1.0 {from}... Sender ok",
    recipient: "250 2.1.5 {to}... Recipient ok",
    go_on: "354 Enter mail, end with \".\" on a line by itself",
    chunk: "250 2.6.0 {bytes} bytes received",
    taken: "250 2.6.0 {bytes} bytes received in 00:00:01; Message id {id} accepted for delivery",
    unknown_user: "550 5.1.1 {to} User unknown; rejecting",
    no_relay: "550 5.7.1 {to} we do not relay [{peer}]",
    bare_lf: None,
    good_login: "235 2.0.0 Authentication successful",
    bad_login: "535 5.7.8 Authentication credentials invalid",
    cancelled: "501 5.0.0 Authentication canceled",
    unknown_mechanism: "504 5.5.4 Unrecognized authentication type",
    login_first: "501 5.7.1 Permission denied",
    hello_first: "503 5.5.1 Incorrect command sequence",
    sender_first: "503 5.5.1 Incorrect command sequence",
    sender_twice: "503 5.5.1 Sender already specified",
    recipient_first: "503 5.5.1 Incorrect command sequence",
    bad_argument: "501 5.5.4 Syntax error in parameters scanning",
    unknown_command: "500 5.5.1 Command unrecognized \"{verb}\"",
};

/// Version 14.
pub const V14: Dialect = Dialect {
    name: "IceWarp 14",
    host: "mx.example.test",
    greeting: "220 {host} ESMTP IceWarp 14.0.0.9 UBUNTU2004 x64; {date}",
    hello: "{host} Hello {name} [{peer}], pleased to meet you.",
    helo: "250 {host} Hello {name} [{peer}], pleased to meet you.",
    clear: &[
        "ENHANCEDSTATUSCODES",
        "SIZE 52428800",
        "EXPN",
        "ETRN",
        "ATRN",
        "DSN",
        "CHECKPOINT",
        "8BITMIME",
        "AUTH PLAIN LOGIN CRAM-MD5 DIGEST-MD5",
        "STARTTLS",
        "HELP",
    ],
    secure: &[
        "ENHANCEDSTATUSCODES",
        "SIZE 52428800",
        "EXPN",
        "ETRN",
        "ATRN",
        "DSN",
        "CHECKPOINT",
        "8BITMIME",
        "AUTH PLAIN LOGIN CRAM-MD5 DIGEST-MD5",
        "HELP",
    ],
    replies: REPLIES,
    private: &[("ATRN", "250 2.0.0 OK now reversing the connection"), ("TURN", "250 2.0.0 OK")],
    // CHECKPOINT's (RFC 1845).
    parameters: &["TRANSID"],
    tarpit: Duration::from_secs(20),
    tarpits_recipients: false,
};

/// Version 10: no platform in the greeting, the old keyword line beside the new one, and a code of its own for a wrong
/// password.
pub const V10: Dialect = Dialect {
    name: "IceWarp 10",
    greeting: "220 {host} ESMTP IceWarp 10.0.7; {date}",
    clear: &[
        "ENHANCEDSTATUSCODES",
        "SIZE",
        "EXPN",
        "ETRN",
        "ATRN",
        "DSN",
        "CHECKPOINT",
        "8BITMIME",
        "AUTH=LOGIN PLAIN",
        "AUTH CRAM-MD5 PLAIN LOGIN DIGEST-MD5",
        "STARTTLS",
        "HELP",
    ],
    secure: &[
        "ENHANCEDSTATUSCODES",
        "SIZE",
        "EXPN",
        "ETRN",
        "ATRN",
        "DSN",
        "CHECKPOINT",
        "8BITMIME",
        "AUTH=LOGIN PLAIN",
        "AUTH CRAM-MD5 PLAIN LOGIN DIGEST-MD5",
        "HELP",
    ],
    replies: Replies { bad_login: "501 5.7.0 Authentication failed", ..REPLIES },
    ..V14
};

/// All of them.
pub const ALL: [Dialect; 2] = [V14, V10];
