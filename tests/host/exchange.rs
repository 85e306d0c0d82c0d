//! What Microsoft Exchange says, from Exchange 2003 to the Subscription Edition, for [`replica`](super::replica).
//!
//! Greetings and the replies of an ordinary delivery are those of published sessions: Microsoft's own page on testing SMTP
//! with Telnet (2016 and later), its page on a server in maintenance (2013), and protocol logs of administrators. The NTLM
//! exchange is that of `[MS-SMTPNTLM]`.
//!
//! Not from a transcript but from what is generally known of Exchange: the lists of keywords in the reply to EHLO, the reply
//! to a chunk, the replies to the private verbs, and that `5.6.11` is what it says when it receives a bare LF. A test that
//! needs one of these to the letter shows that it reaches the client as it was said, not that Exchange says it.
//!
//! What matters to a gate in front of it: every version has verbs and keywords for talking to its like (`X-EXPS`,
//! `X-ANONYMOUSTLS`, `XEXCH50`, `XRDST`, `XSHADOW`, `XPROXY`, …), refusals are held back for some seconds, unless a
//! client is on the right list by its address, and in mail data a bare LF is no line end.

use std::time::Duration;

use super::replica::{Dialect, Replies};

/// What a receive connector holds back its refusals for (`TarpitInterval`, `AuthTarpitInterval`).
const TARPIT: Duration = Duration::from_secs(5);

/// Verbs between servers of one organisation, which take whoever says them for one of their own.
const PRIVATE: &[(&str, &str)] = &[
    ("X-ANONYMOUSTLS", "220 2.0.0 SMTP server ready"),
    ("X-EXPS", "334 GSSAPI supported"),
    ("XEXCH50", "354 Send binary data"),
    ("X-LINK2STATE", "200 LAST CHUNK={00000001} MULTI (5)"),
    ("XSHADOW", "250 2.0.0 XSHADOW OK"),
    ("XSHADOWREQUEST", "250 2.0.0 XSHADOWREQUEST OK"),
    ("XQDISCARD", "250 2.0.0 OK, discarded"),
    ("XPROXY", "250 2.0.0 XPROXY accepted"),
    ("XPROXYFROM", "250 2.0.0 XPROXYFROM accepted"),
    ("XPROXYTO", "250 2.0.0 XPROXYTO accepted"),
    ("XSESSIONPARAMS", "250 2.0.0 XSESSIONPARAMS accepted"),
    ("TURN", "250 2.0.0 OK"),
    ("ATRN", "250 2.0.0 OK"),
];

/// MAIL and RCPT parameters between such servers.
const PARAMETERS: &[&str] =
    &["XSHADOW", "XMESSAGECONTEXT", "XORIG", "XOORG", "XATTRDIRECT", "XATTRORGID", "XRDST", "XLONGADDR", "XFROMHEADER"];

const REPLIES: Replies = Replies {
    starttls: "220 2.0.0 SMTP server ready",
    reset: "250 2.0.0 Resetting",
    noop: "250 2.0.0 OK",
    bye: "221 2.0.0 Service closing transmission channel",
    sender: "250 2.1.0 Sender OK",
    recipient: "250 2.1.5 Recipient OK",
    go_on: "354 Start mail input; end with <CRLF>.<CRLF>",
    chunk: "250 2.6.0 CHUNK received OK, {bytes} octets",
    taken: "250 2.6.0 <{id}@{host}> [InternalId=5111011082268, Hostname={host}] {bytes} bytes in 0.087, 1.523 KB/sec \
            Queued mail for delivery",
    unknown_user: "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
    no_relay: "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
    bare_lf: Some("550 5.6.11 SMTPSEND.BareLinefeedsAreIllegal; message contains bare linefeeds"),
    good_login: "235 2.7.0 Authentication successful",
    bad_login: "535 5.7.3 Authentication unsuccessful",
    cancelled: "501 5.5.4 Authentication canceled",
    unknown_mechanism: "504 5.7.4 Unrecognized authentication type",
    login_first: "530 5.7.57 Client not authenticated to send mail",
    hello_first: "503 5.5.2 Send hello first",
    sender_first: "503 5.5.2 Need mail command",
    sender_twice: "503 5.5.2 Sender already specified",
    recipient_first: "503 5.5.2 Need rcpt command",
    bad_argument: "501 5.5.4 Invalid arguments",
    unknown_command: "500 5.3.3 Unrecognized command '{verb}'",
};

/// The Subscription Edition, and 2016 and 2019 before it.
pub const SE: Dialect = Dialect {
    name: "Exchange SE",
    host: "EX1.example.test",
    greeting: "220 {host} Microsoft ESMTP MAIL Service ready at {date}",
    hello: "{host} Hello [{peer}]",
    helo: "250 {host} Hello [{peer}]",
    clear: &[
        "SIZE 37748736",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "STARTTLS",
        "X-ANONYMOUSTLS",
        "AUTH GSSAPI NTLM",
        "X-EXPS GSSAPI NTLM",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "SMTPUTF8",
        "XRDST",
    ],
    // Passwords are asked for under TLS only (`BasicAuthRequireTLS`).
    secure: &[
        "SIZE 37748736",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "AUTH GSSAPI NTLM LOGIN",
        "X-EXPS GSSAPI NTLM",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "SMTPUTF8",
        "XRDST",
    ],
    replies: REPLIES,
    private: PRIVATE,
    parameters: PARAMETERS,
    tarpit: TARPIT,
    tarpits_recipients: true,
};

/// Exchange 2010 and 2013, as its connectors between servers show themselves: SIZE without a number, and everything.
pub const V2013: Dialect = Dialect {
    name: "Exchange 2013",
    clear: &[
        "SIZE",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "STARTTLS",
        "X-ANONYMOUSTLS",
        "AUTH NTLM LOGIN",
        "X-EXPS GSSAPI NTLM",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "XEXCH50",
        "XRDST",
        "XSHADOW",
        "XSHADOWREQUEST",
        "XPROXY",
        "XPROXYFROM",
        "XPROXYTO",
        "XSESSIONPARAMS",
        "XMESSAGECONTEXT ADRC-2.1.0.0 EPROP-1.2.0.0",
        "XORIG",
        "XOORG",
    ],
    secure: &[
        "SIZE",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "AUTH NTLM LOGIN",
        "X-EXPS EXCHANGEAUTH GSSAPI NTLM",
        "X-EXCHANGEAUTH SHA256",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "XEXCH50",
        "XRDST",
        "XSHADOWREQUEST",
        "XPROXYFROM",
        "XPROXYTO",
        "XOORG",
    ],
    replies: Replies {
        taken: "250 2.6.0 <{id}@{host}> [InternalId=47244640256] Queued mail for delivery",
        unknown_user: "550 5.1.1 User unknown",
        no_relay: "550 5.7.1 Unable to relay",
        unknown_command: "500 5.3.3 Unrecognized command",
        ..REPLIES
    },
    ..SE
};

/// Exchange 2000 and 2003, which was the SMTP service of IIS: keywords with `=`, lower case, and `OK` for one.
pub const V2003: Dialect = Dialect {
    name: "Exchange 2003",
    greeting: "220 {host} Microsoft ESMTP MAIL Service, Version: 6.0.3790.4675 ready at  {date} ",
    clear: &[
        "TURN",
        "ATRN",
        "SIZE",
        "ETRN",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "8bitmime",
        "BINARYMIME",
        "CHUNKING",
        "VRFY",
        "TLS",
        "STARTTLS",
        "X-EXPS GSSAPI NTLM LOGIN",
        "X-EXPS=LOGIN",
        "AUTH GSSAPI NTLM LOGIN",
        "AUTH=LOGIN",
        "X-LINK2STATE",
        "XEXCH50",
        "OK",
    ],
    secure: &[
        "TURN",
        "ATRN",
        "SIZE",
        "ETRN",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "8bitmime",
        "BINARYMIME",
        "CHUNKING",
        "VRFY",
        "X-EXPS GSSAPI NTLM LOGIN",
        "X-EXPS=LOGIN",
        "AUTH GSSAPI NTLM LOGIN",
        "AUTH=LOGIN",
        "X-LINK2STATE",
        "XEXCH50",
        "OK",
    ],
    replies: Replies {
        sender: "250 2.1.0 {from}....Sender OK",
        recipient: "250 2.1.5 {to} ",
        chunk: "250 2.6.0 CHUNK received OK",
        taken: "250 2.6.0  <{id}@{host}> Queued mail for delivery",
        unknown_user: "550 5.1.1 User unknown",
        no_relay: "550 5.7.1 Unable to relay for {to}",
        bare_lf: None,
        good_login: "235 2.7.0 Authentication successful.",
        bad_login: "535 5.7.3 Authentication unsuccessful.",
        starttls: "220 2.0.0 SMTP server ready",
        unknown_command: "500 5.3.3 Unrecognized command",
        ..REPLIES
    },
    ..SE
};

/// All of them.
pub const ALL: [Dialect; 3] = [SE, V2013, V2003];
