//! What a relay does, one dialogue a rule.
//!
//! A dialogue is text: `C:` what the client sends, `B:` what the backend sends (lines in a row come in one piece),
//! `toB:` and `toC:` all that each of them has got since it was last looked at, `C.` and `B.` one of them closes its
//! side, `drain`, and `end` with the way it ends; `may go`, `may not` and `may wait` are what becomes of AUTH from there on. A
//! line ends in CRLF unless it ends in `+`; `\n`, `\r`, `\0` and `\x..`
//! are what they are in Rust. Every dialogue is played as it stands, byte for byte, and with each piece cut once at
//! every place.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a claim that does not hold panics"
)]

use std::time::Duration;

use gatepost::relay::ending::{AuthOutcome, Event};
use gatepost::relay::{Aftermath, Attempt, BareNewline, Limits, Opening, Settings, Timeouts, Tls, Trace};
use gatepost::smtp::ehlo::{Keyword, Keywords};
use gatepost::smtp::reply::Code;
use gatepost::time::Timestamp;

use self::claims::stage::Stage;

pub mod claims;

fn settings() -> Settings {
    let long = Duration::from_secs(300);
    Settings {
        auth: true,
        bare_newline: BareNewline::Normalize,
        max_errors: 2,
        limits: Limits::default(),
        timeouts: Timeouts { command: long, data: long, reply: long, end_of_data: long, write: long },
    }
}

fn known() -> Opening {
    Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Chunking).with(Keyword::StartTls), transaction: false }
}

fn inside() -> Opening {
    Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Chunking).with(Keyword::StartTls), transaction: true }
}

/// How the pieces of a dialogue come.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Not,
    EveryByte,
    At(usize),
}

#[derive(PartialEq, Eq, Debug)]
enum Act {
    Client(Vec<u8>),
    Backend(Vec<u8>),
    ToBackend(Vec<u8>),
    ToClient(Vec<u8>),
    ClientCloses,
    BackendCloses,
    Drain,
    May(Option<Attempt>),
    End(String),
}

fn unescape(text: &str) -> Vec<u8> {
    let (text, ending) = text.strip_suffix('+').map_or((text, &b"\r\n"[..]), |text| (text, b""));
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, byte == b'\\') {
            (_, true) => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'0') => 0,
                Some(b'x') => {
                    let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).unwrap()
                }
                other => panic!("what is \\{other:?}?"),
            },
            (byte, _) => byte,
        });
    }
    out.extend_from_slice(ending);
    out
}

fn read(script: &str) -> Vec<Act> {
    let mut acts: Vec<Act> = Vec::new();
    for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
        let (who, what) = line.split_once(' ').unwrap_or((line, ""));
        match (who, acts.last_mut()) {
            ("C:", Some(Act::Client(said)))
            | ("B:", Some(Act::Backend(said)))
            | ("toB:", Some(Act::ToBackend(said)))
            | ("toC:", Some(Act::ToClient(said))) => said.extend(unescape(what)),
            ("C:", _) => acts.push(Act::Client(unescape(what))),
            ("B:", _) => acts.push(Act::Backend(unescape(what))),
            ("toB:", _) => acts.push(Act::ToBackend(unescape(what))),
            ("toC:", _) => acts.push(Act::ToClient(unescape(what))),
            ("C.", _) => acts.push(Act::ClientCloses),
            ("B.", _) => acts.push(Act::BackendCloses),
            ("drain", _) => acts.push(Act::Drain),
            ("may", _) => acts.push(Act::May(match what {
                "go" => Some(Attempt::Go),
                "not" => Some(Attempt::Refuse),
                "wait" => None,
                _ => panic!("may {what}?"),
            })),
            ("end", _) => acts.push(Act::End(what.to_owned())),
            _ => panic!("what is {line:?}?"),
        }
    }
    acts
}

fn pieces(bytes: &[u8], cut: Cut) -> Vec<&[u8]> {
    match cut {
        Cut::Not => vec![bytes],
        Cut::EveryByte => bytes.chunks(1).collect(),
        Cut::At(at) => {
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            vec![head, tail]
        }
    }
}

fn perform(script: &str, settings: &Settings, opening: Opening, cut: Cut) -> Stage {
    perform_with_tls(script, settings, opening, Tls::EndToEnd, cut)
}

fn perform_with_tls(script: &str, settings: &Settings, opening: Opening, tls: Tls, cut: Cut) -> Stage {
    perform_on(Stage::with_tls(settings, opening, tls), script, cut)
}

fn perform_on(mut stage: Stage, script: &str, cut: Cut) -> Stage {
    let acts = read(script);
    let script = || format!("{cut:?} of {script}");
    let (mut to_backend, mut to_client) = (0, 0);
    for act in &acts {
        match act {
            Act::Client(said) => pieces(said, cut).into_iter().for_each(|piece| stage.client_says(piece)),
            Act::Backend(said) => pieces(said, cut).into_iter().for_each(|piece| stage.backend_says(piece)),
            Act::ClientCloses => stage.client_closes(),
            Act::BackendCloses => stage.backend_closes(),
            Act::Drain => stage.drain(),
            Act::May(leave) => stage.may(*leave),
            Act::ToBackend(expected) => {
                let got = &stage.to_backend[to_backend..];
                assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{}", script());
                to_backend = stage.to_backend.len();
            }
            Act::ToClient(expected) => {
                let got = &stage.to_client[to_client..];
                assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{}", script());
                to_client = stage.to_client.len();
            }
            Act::End(end) => assert_eq!(format!("{:?}", stage.end), *end, "{}", script()),
        }
    }
    assert_eq!(stage.to_backend[to_backend..].escape_ascii().to_string(), "", "to the backend, unsaid in {}", script());
    assert_eq!(stage.to_client[to_client..].escape_ascii().to_string(), "", "to the client, unsaid in {}", script());
    stage
}

/// Plays it in every way, and returns how it came out in one piece.
fn play(settings: &Settings, opening: Opening, script: &str) -> Stage {
    play_with_tls(settings, opening, Tls::EndToEnd, script)
}

fn play_with_tls(settings: &Settings, opening: Opening, tls: Tls, script: &str) -> Stage {
    play_on(|| Stage::with_tls(settings, opening, tls), script)
}

/// The same with a header field on top of each message, in a dialogue that has come as far as HELO or EHLO, or not.
fn play_traced(opening: Opening, tls: Tls, hello: Option<(bool, &[u8])>, script: &str) -> Stage {
    let now = || Timestamp::from_seconds(1_795_325_533);
    let stage = || {
        let trace = Trace::new([192, 0, 2, 7].into(), "mx.test", "7K2MQ-9XV4T", now);
        let trace = match hello {
            Some((extended, name)) => trace.greeted(extended, name),
            None => trace,
        };
        Stage::traced(&settings(), opening, tls, Some(trace))
    };
    play_on(stage, script)
}

fn play_on(stage: impl Fn() -> Stage, script: &str) -> Stage {
    let acts = read(script);
    let longest = acts.iter().map(|act| if let Act::Client(b) | Act::Backend(b) = act { b.len() } else { 0 }).max();
    let whole = perform_on(stage(), script, Cut::Not);
    for cut in (1..longest.unwrap_or(0)).map(Cut::At).chain([Cut::EveryByte]) {
        let again = perform_on(stage(), script, cut);
        assert_eq!(
            (again.end, again.tally(), &again.events, again.let_go, &again.finished),
            (whole.end, whole.tally(), &whole.events, whole.let_go, &whole.finished),
            "{cut:?} of {script}"
        );
    }
    whole
}

/// Plays it in one piece only: where what comes together matters.
fn play_whole(settings: &Settings, opening: Opening, script: &str) -> Stage {
    perform(script, settings, opening, Cut::Not)
}

#[test]
fn a_header_field_goes_before_the_first_byte_of_each_message() {
    let stage = play_traced(
        Opening::Greeting,
        Tls::EndToEnd,
        None,
        r"
        B: 220 mx.example
        toC: 220 mx.example
        C: EHLO client.example
        toB: EHLO client.example
        B: 250-mx.example hello
        B: 250-CHUNKING
        B: 250-BINARYMIME
        B: 250-STARTTLS
        B: 250 PIPELINING
        toC: 250-mx.example hello
        toC: 250-STARTTLS
        toC: 250 PIPELINING
        C: MAIL FROM:<a@example.org>
        C: RCPT TO:<b@example.org>
        C: DATA
        toB: MAIL FROM:<a@example.org>
        toB: RCPT TO:<b@example.org>
        toB: DATA
        B: 250 ok
        B: 250 ok
        B: 354 go on
        toC: 250 ok
        toC: 250 ok
        toC: 354 go on
        toB: Received: from client.example ([192.0.2.7]) by mx.test (gatepost) with ESMTP
        toB: \x09id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000
        C: .
        toB: .
        B: 250 taken
        toC: 250 taken
        C: MAIL FROM:<a@example.org>
        C: RCPT TO:<b@example.org>
        C: DATA
        toB: MAIL FROM:<a@example.org>
        toB: RCPT TO:<b@example.org>
        toB: DATA
        B: 250 ok
        B: 550 5.1.1 unknown
        B: 554 no recipients
        toC: 250 ok
        toC: 550 5.1.1 unknown
        toC: 554 no recipients
        C: EHLO other.example
        toB: EHLO other.example
        B: 501 no
        toC: 501 no
        C: DATA
        toB: DATA
        B: 354 go on
        toC: 354 go on
        toB: Received: from client.example ([192.0.2.7]) by mx.test (gatepost) with ESMTP
        toB: \x09id 7K2MQ-9XV4T-2; Sun, 22 Nov 2026 05:32:13 +0000
        C: ..dots
        C: .
        toB: ..dots
        toB: .
        B: 250 taken
        toC: 250 taken
        ",
    );
    let tally = stage.tally();
    assert_eq!((tally.messages, tally.mail_data.bytes), (2, 14), "what the client has sent");
    assert_eq!(tally.header_fields, 2 * 128 + 2);
}

#[test]
fn a_header_field_tells_of_the_replay_of_tls_and_of_auth() {
    play_traced(
        inside(),
        Tls::EndToEnd,
        Some((false, b"old.example")),
        r"
        C: RCPT TO:<b@example.org>
        C: DATA
        toB: RCPT TO:<b@example.org>
        toB: DATA
        B: 250 ok
        B: 354 go on
        toC: 250 ok
        toC: 354 go on
        toB: Received: from old.example ([192.0.2.7]) by mx.test (gatepost) with SMTP id
        toB: \x097K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000
        C.
        end Some(ClientReset)
        ",
    );
    play_traced(
        known(),
        Tls::Offered { before_auth: false },
        Some((true, b"before.example")),
        r"
        C: STARTTLS
        toC: 220 2.0.0 Ready to start TLS
        C: EHLO after.example
        toB: EHLO after.example
        B: 250-mx.example
        B: 250 AUTH PLAIN
        toC: 250-mx.example
        toC: 250 AUTH PLAIN
        C: AUTH PLAIN AGEAYg==
        toB: AUTH PLAIN AGEAYg==
        B: 235 welcome
        toC: 235 welcome
        C: DATA
        toB: DATA
        B: 354 go on
        toC: 354 go on
        toB: Received: from after.example ([192.0.2.7]) by mx.test (gatepost) with ESMTPSA
        toB: \x09id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000
        ",
    );
}

/// What begins with a blank, or with a byte that goes on as one, would be read as a part of the field.
#[test]
fn no_message_continues_the_header_field() {
    for (sent, seen, between) in [
        (r"\x20from evil", r"\x20from evil", true),
        (r"\x09by evil", r"\x09by evil", true),
        (r"\0evil", r"\x20evil", true),
        (r"\revil", r"\x20evil", true),
        (r"", r"", false),
        (r"Subject: x", r"Subject: x", false),
    ] {
        let empty = if between { "toB:" } else { "" };
        let stage = play_traced(
            inside(),
            Tls::EndToEnd,
            Some((true, b"client.example")),
            &format!(
                r"
                C: RCPT TO:<b@example.org>
                C: DATA
                toB: RCPT TO:<b@example.org>
                toB: DATA
                B: 250 ok
                B: 354 go on
                toC: 250 ok
                toC: 354 go on
                toB: Received: from client.example ([192.0.2.7]) by mx.test (gatepost) with ESMTP
                toB: \x09id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000
                C: {sent}
                C: .
                {empty}
                toB: {seen}
                toB: .
                B: 250 taken
                toC: 250 taken"
            ),
        );
        assert_eq!(stage.tally().header_fields, 128 + 2 * u64::from(between), "{sent:?}");
    }
}

/// What the client writes there itself has no say in it, even if it is there before the 354.
#[test]
fn a_field_that_pretends_to_be_ours_stands_below_it() {
    play_traced(
        inside(),
        Tls::EndToEnd,
        Some((true, b"client.example")),
        r"
        C: DATA
        C: Received: from bank.example ([198.51.100.1]) by mx.test (gatepost) with ESMTPSA
        C: \x09id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000
        C:
        C: .
        toB: DATA
        B: 354 go on
        toC: 354 go on
        toB: Received: from client.example ([192.0.2.7]) by mx.test (gatepost) with ESMTP
        toB: \x09id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000
        toB: Received: from bank.example ([198.51.100.1]) by mx.test (gatepost) with ESMTPSA
        toB: \x09id 7K2MQ-9XV4T; Sun, 22 Nov 2026 05:32:13 +0000
        toB:
        toB: .
        ",
    );
}

#[test]
fn a_chunk_has_no_place_for_a_header_field() {
    play_traced(
        inside(),
        Tls::EndToEnd,
        Some((true, b"client.example")),
        r"
        C: BDAT 5 LAST
        C: hello+
        toC: 503 5.5.1 CHUNKING was not offered
        end Some(ProtocolFault(Chunk))
        ",
    );
}

#[test]
fn a_whole_visit_in_the_backends_own_words() {
    let stage = play(
        &settings(),
        Opening::Greeting,
        r"
        B: 220-mx.example
        B: 220 ESMTP
        toC: 220-mx.example
        toC: 220 ESMTP
        C: EHLO client.example
        toB: EHLO client.example
        B: 250-mx.example hello
        B: 250-PIPELINING
        B: 250-X-SECRET
        B: 250-XCLIENT NAME
        B: 250-AUTH PLAIN
        B: 250 SIZE 1000
        toC: 250-mx.example hello
        toC: 250-PIPELINING
        toC: 250-AUTH PLAIN
        toC: 250 SIZE 1000
        C: MAIL FROM:<a@example.org> SIZE=5
        C: RCPT TO:<b@example.org>
        C: RCPT TO:<c@example.org>
        C: DATA
        toB: MAIL FROM:<a@example.org> SIZE=5
        toB: RCPT TO:<b@example.org>
        toB: RCPT TO:<c@example.org>
        toB: DATA
        B: 250 ok
        B: 250 ok
        B: 550 5.1.1 unknown
        B: 354 go on
        toC: 250 ok
        toC: 250 ok
        toC: 550 5.1.1 unknown
        toC: 354 go on
        C: Subject: x
        C:
        C: ..
        C: .
        C: QUIT
        toB: Subject: x
        toB:
        toB: ..
        toB: .
        toB: QUIT
        B: 250 queued
        B: 221 bye
        toC: 250 queued
        toC: 221 bye
        end Some(Quit)",
    );
    let tally = stage.tally();
    assert_eq!((tally.messages, tally.recipients_accepted, tally.recipients_refused), (1, 1, 1));
    assert_eq!(tally.last_refusal.map(|refusal| refusal.code.number()), Some(550));
    assert_eq!(tally.mail_data.bytes, 21);
    assert_eq!(stage.events[2], Event::MessageAccepted);
}

#[test]
fn greetings() {
    // A client that speaks first is heard afterwards.
    play(
        &settings(),
        Opening::Greeting,
        r"
        C: HELO a
        toB: +
        B: 220 hi
        toC: 220 hi
        toB: HELO a
        B: 250 mx
        toC: 250 mx
        C: BDAT 1
        toC: 503 5.5.1 CHUNKING was not offered
        end Some(ProtocolFault(Chunk))",
    );
    // Endings are made CRLF.
    play(
        &settings(),
        Opening::Greeting,
        r"
        B: 220-a\n220 b\n+
        toC: 220-a
        toC: 220 b",
    );
    play(
        &settings(),
        Opening::Greeting,
        r"
        B: 554 go away
        toC: 554 go away
        end Some(BackendRefused(Code(554)))",
    );
    play(
        &settings(),
        Opening::Greeting,
        r"
        B: 250 hi
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(Unexpected(Code(250))))",
    );
    play(
        &settings(),
        Opening::Greeting,
        r"
        B.
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendEof)",
    );
    play(
        &settings(),
        Opening::Greeting,
        r"
        B: SSH-2.0-x
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(Malformed))",
    );
}

#[test]
fn withheld_auth_reaches_no_backend() {
    let settings = Settings { auth: false, ..settings() };
    let stage = play(
        &settings,
        Opening::Greeting,
        r"
        B: 220 hi
        toC: 220 hi
        C: EHLO a
        toB: EHLO a
        B: 250-mx
        B: 250-AUTH PLAIN LOGIN
        B: 250 STARTTLS
        toC: 250-mx
        toC: 250 STARTTLS
        C: AUTH PLAIN AGEAYg==
        toC: 503 5.5.1 AUTH is not available here
        C: NOOP
        C: AUTH LOGIN
        C: NOOP
        toB: NOOP
        toB: NOOP
        B: 250 1
        B: 250 2
        toC: 250 1
        toC: 503 5.5.1 AUTH is not available here
        toC: 250 2",
    );
    assert_eq!(stage.events, [Event::AuthNotOffered; 2]);
    assert_eq!(stage.tally().auth_not_offered, 2);
}

/// A parameter goes on if its keyword was told, and only then: to Exchange, XSHADOW and its kin are orders of a server that
/// it trusts.
#[test]
fn parameters_that_were_not_offered_reach_no_backend() {
    const UNKNOWN: &str = "555 5.5.4 MAIL or RCPT parameter not offered here";
    const SYNTAX: &str = "501 5.5.4 Syntax error in the path or a parameter";
    let settings = Settings { max_errors: 20, ..settings() };
    let every = Opening::Dialogue { offered: Keywords::ALL, transaction: false };
    let without = |keyword| Opening::Dialogue { offered: Keywords::ALL.without(keyword), transaction: false };
    for (keyword, line) in [
        (Keyword::BinaryMime, "MAIL FROM:<a@b> BODY=BINARYMIME"),
        (Keyword::SmtpUtf8, "MAIL FROM:<a@b> SMTPUTF8"),
        (Keyword::Dsn, "MAIL FROM:<a@b> RET=HDRS ENVID=x+3Dy"),
        (Keyword::Dsn, "RCPT TO:<a@b> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a=c@b"),
        (Keyword::Auth, "MAIL FROM:<a@b> AUTH=<>"),
        (Keyword::RequireTls, "MAIL FROM:<a@b> REQUIRETLS"),
        (Keyword::MtPriority, "MAIL FROM:<a@b> MT-PRIORITY=3"),
        (Keyword::DeliverBy, "MAIL FROM:<a@b> BY=120;R"),
        (Keyword::FutureRelease, "MAIL FROM:<a@b> HOLDFOR=60"),
    ] {
        play(&settings, every, &format!("C: {line}\n toB: {line}\n B: 250 ok\n toC: 250 ok"));
        let stage = play(&settings, without(keyword), &format!("C: {line}\n toC: {UNKNOWN}\n toB: +"));
        assert_eq!(stage.tally().errors, 1, "{line}");
    }
    // They bind nobody, and are written after HELO too.
    let nothing = Opening::Dialogue { offered: Keywords::NONE, transaction: false };
    for line in ["MAIL FROM:<a@b> SIZE=1000", "MAIL FROM:<a@b> BODY=8BITMIME", "MAIL FROM:<a@b> body=7bit"] {
        play(&settings, nothing, &format!("C: {line}\n toB: {line}\n B: 250 ok\n toC: 250 ok"));
    }
    for (line, answer) in [
        ("MAIL FROM:<a@b> XSHADOW=1a2b", UNKNOWN),
        ("MAIL FROM:<a@b> SIZE=9 XMESSAGECONTEXT=ADRC-2.1.0.0", UNKNOWN),
        ("MAIL FROM:<a@b> XOORG=example.org SIZE=9", UNKNOWN),
        ("MAIL FROM:<a@b> XORIG", UNKNOWN),
        ("RCPT TO:<a@b> XRDST=x", UNKNOWN),
        ("RCPT TO:<a@b> NOTIFY=NEVER XLONGADDR", UNKNOWN),
        ("MAIL FROM:<a@b> BODY=9BIT", UNKNOWN),
        ("MAIL FROM:<a@b> XSHADOW=", SYNTAX),
        ("MAIL FROM:<a@b> X_SHADOW=1", SYNTAX),
        ("MAIL FROM:<a@b>XSHADOW=1", SYNTAX),
        ("MAIL FROM:<a b> XSHADOW=1", SYNTAX),
        ("RCPT TO:<a@b> > XRDST=x", SYNTAX),
        ("MAIL foo", SYNTAX),
    ] {
        // In its turn, and nothing but that line is lost.
        play(
            &settings,
            every,
            &format!(
                "C: NOOP\n C: {line}\n C: RSET\n toB: NOOP\n toB: RSET\n B: 250 1\n toC: 250 1\n toC: {answer}\n \
                 B: 250 2\n toC: 250 2"
            ),
        );
    }
}

/// What programs write and MTAs take goes on as it is: there is one way to read it.
#[test]
fn sloppy_envelopes_go_on() {
    let nothing = Opening::Dialogue { offered: Keywords::NONE, transaction: false };
    for line in [
        "MAIL FROM: <a@b>",
        "mail from:a@b",
        "MAIL FROM:\\x09<a@b>\\x20",
        "MAIL FROM:<>\\x20",
        "MAIL  FROM:<a@b>  SIZE=1  BODY=7BIT\\x20",
        "RCPT TO:<a@b>\\x20",
        "RCPT TO: a@b",
        "RCPT TO:postmaster",
        "RCPT TO:<\"a b\"@c>",
        "RCPT TO:<@x,@y:a@b>",
        "RCPT TO:<a'b+c=d/e!f%g@h>",
    ] {
        play(&settings(), nothing, &format!("C: {line}\n toB: {line}\n B: 250 ok\n toC: 250 ok"));
    }
}

#[test]
fn auth_exchanges() {
    let stage = play(
        &settings(),
        known(),
        r"
        C: AUTH LOGIN
        C: anVzdA==
        C: c2VjcmV0
        C: MAIL FROM:<a@b>
        toB: AUTH LOGIN
        B: 334 VXNlcm5hbWU6
        toC: 334 VXNlcm5hbWU6
        toB: anVzdA==
        B: 334 UGFzc3dvcmQ6
        toC: 334 UGFzc3dvcmQ6
        toB: c2VjcmV0
        B: 535 5.7.8 no
        toC: 535 5.7.8 no
        toB: MAIL FROM:<a@b>
        B: 250 ok
        toC: 250 ok
        C: AUTH PLAIN
        toB: AUTH PLAIN
        B: 334
        toC: 334
        C: *\n+
        toB: *
        B: 535 cancelled
        toC: 535 cancelled
        C: AUTH PLAIN AGEAYg==
        toB: AUTH PLAIN AGEAYg==
        B: 454 later
        toC: 454 later
        C: AUTH PLAIN AGEAYg==
        toB: AUTH PLAIN AGEAYg==
        B: 501 5.7.0 Authentication failed
        toC: 501 5.7.0 Authentication failed
        C: AUTH PLAIN AGEAYg==
        toB: AUTH PLAIN AGEAYg==
        B: 501 5.5.4 syntax
        toC: 501 5.5.4 syntax
        C: AUTH PLAIN AGEAYg==
        toB: AUTH PLAIN AGEAYg==
        B: 235 yes
        toC: 235 yes",
    );
    let outcomes: Vec<_> = stage
        .events
        .iter()
        .map(|event| match event {
            Event::AuthFinished { code, outcome } => (code.number(), *outcome),
            other => panic!("{other:?}"),
        })
        .collect();
    use AuthOutcome::{Failed, Succeeded, Undecided};
    assert_eq!(
        outcomes,
        [(535, Failed), (535, Undecided), (454, Undecided), (501, Failed), (501, Undecided), (235, Succeeded)]
    );
    assert_eq!((stage.tally().auth_failures, stage.tally().auth_successes), (2, 1));
    // An answer that the backend never asked for is a command, and not one that is passed on.
    play(
        &settings(),
        known(),
        r"
        C: AUTH PLAIN
        C: AGEAYg==
        toB: AUTH PLAIN
        B: 504 no
        toC: 504 no
        toC: 500 5.5.1 Command not recognised
        toB: +",
    );
    for line in [r"AG\rEAYg==", r"AG\0EAYg=="] {
        play(
            &settings(),
            known(),
            &format!(
                r"
            C: AUTH PLAIN
            toB: AUTH PLAIN
            B: 334
            toC: 334
            C: {line}
            toC: 501 5.5.2 CR or NUL inside an AUTH exchange
            end Some(ProtocolFault(AuthLine))"
            ),
        );
    }
    play(
        &settings(),
        known(),
        r"
        C: AUTH PLAIN
        C.
        toB: AUTH PLAIN
        B: 334
        toC: 334
        end Some(ClientReset)",
    );
    play(
        &settings(),
        known(),
        r"
        C: AUTH PLAIN
        toB: AUTH PLAIN
        B: 354 what
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(Unexpected(Code(354))))",
    );
    // An empty line is a line.
    play(
        &settings(),
        known(),
        r"
        C: AUTH PLAIN
        toB: AUTH PLAIN
        B: 334
        toC: 334
        C: \n+
        toB:
        B: 501 no
        toC: 501 no",
    );
}

/// What each attempt came to: outcome, reply code, account, and whether it was complete.
fn finished(stage: &Stage) -> Vec<(AuthOutcome, u16, Option<String>, bool)> {
    let name = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
    let each = stage.finished.iter().map(|finished| {
        let account = finished.account.as_ref().map(|account| name(account.name()));
        (finished.outcome, finished.code.map_or(0, Code::number), account, finished.complete)
    });
    each.collect()
}

fn attempts(failures: u32, lines: u32) -> Settings {
    Settings { limits: Limits { auth_failures: failures, auth_lines: lines, ..Limits::default() }, ..settings() }
}

#[test]
fn each_attempt_is_finished_once() {
    use AuthOutcome::{Failed, Succeeded, Undecided};
    // Each command's exchange, what comes of it, and which account it tried. `\0a\0b`; `a`, `b`.
    let rows: &[(&str, AuthOutcome, u16, Option<&str>, bool)] = &[
        ("PLAIN AGEAYg==|535 5.7.8 no", Failed, 535, Some("a"), true),
        (r"PLAIN AGEAYg==|535-5.7.8 no\r\n535 5.7.8 really", Failed, 535, Some("a"), true),
        ("PLAIN AGEAYg==|235 yes", Succeeded, 235, Some("a"), true),
        ("PLAIN AGEAYg==|501 5.7.0 no", Failed, 501, Some("a"), true),
        ("PLAIN AGEAYg==|501 5.5.4 what", Undecided, 501, Some("a"), true),
        ("PLAIN AGEAYg==|454 4.7.0 later", Undecided, 454, Some("a"), true),
        ("PLAIN AGEAYg==|503 5.5.1 already", Undecided, 503, Some("a"), true),
        ("PLAIN AGEAYg==|504 5.5.4 unknown", Undecided, 504, Some("a"), true),
        ("PLAIN AGEAYg==|530 5.7.0 TLS", Undecided, 530, Some("a"), true),
        ("PLAIN AGEAYg==|534 5.7.9 weak", Undecided, 534, Some("a"), true),
        ("PLAIN AGEAYg==|538 5.7.11 TLS", Undecided, 538, Some("a"), true),
        ("PLAIN|334 |AGEAYg==|535 no", Failed, 535, Some("a"), true),
        ("PLAIN|334 |*|501 cancelled", Undecided, 501, None, false),
        ("PLAIN|334 |*|535 cancelled", Undecided, 535, None, false),
        ("PLAIN|504 no", Undecided, 504, None, false),
        ("LOGIN|334 VXNlcm5hbWU6|YQ==|334 UGFzc3dvcmQ6|Yg==|535 no", Failed, 535, Some("a"), true),
        ("LOGIN|334 ?|YQ==|334 ?|*|501 cancelled", Undecided, 501, Some("a"), false),
        ("LOGIN YQ==|334 UGFzc3dvcmQ6|Yg==|535 no", Failed, 535, Some("a"), true),
        // Refused by a challenge (RFC 7628 §3.2.3): what the client says then changes nothing.
        ("XOAUTH2 dXNlcj1hAWF1dGg9eAEB|334 eyJzIjo0MDB9||535 no", Failed, 535, Some("a"), true),
        ("XOAUTH2 dXNlcj1hAWF1dGg9eAEB|334 eyJzIjo0MDB9|*|501 cancelled", Failed, 501, Some("a"), true),
        ("XOAUTH2 dXNlcj1hAWF1dGg9eAEB|334 eyJzIjo0MDB9|AQ==|501 5.5.2 what", Failed, 501, Some("a"), true),
        ("OAUTHBEARER bixhPWEsAWF1dGg9eAEB|334 eyJzIjo0MDB9|*|535 no", Failed, 535, Some("a"), true),
        ("XOAUTH2 dXNlcj1hAWF1dGg9eAEB|334 eyJzIjo0MDB9||454 later", Undecided, 454, Some("a"), true),
        ("XOAUTH2 dXNlcj1hAWF1dGg9eAEB|535 no", Failed, 535, Some("a"), true),
        // n,,n=a,r=x; c=biws; e=invalid-proof or v=x.
        ("SCRAM-SHA-1 biwsbj1hLHI9eA==|334 cj14eQ==|Yz1iaXdz|535 no", Failed, 535, Some("a"), true),
        ("SCRAM-SHA-1 biwsbj1hLHI9eA==|334 cj14eQ==|*|501 no", Undecided, 501, Some("a"), false),
        (
            "SCRAM-SHA-1 biwsbj1hLHI9eA==|334 cj14eQ==|Yz1iaXdz|334 ZT1pbnZhbGlkLXByb29m|*|501 no",
            Failed,
            501,
            Some("a"),
            true,
        ),
        ("SCRAM-SHA-1 biwsbj1hLHI9eA==|334 cj14eQ==|Yz1iaXdz|334 dj14||235 yes", Succeeded, 235, Some("a"), true),
        ("SCRAM-SHA-1 biwsbj1hLHI9eA==|334 cj14eQ==|Yz1iaXdz|334 dj14|*|501 no", Undecided, 501, Some("a"), true),
        ("GSSAPI YIIB|334 YIIB|*|501 no", Undecided, 501, None, true),
        // What an MTA makes of it, nobody knows; so it counts like any other.
        ("PLAIN AGEAYg== b|535 no", Failed, 535, Some("a"), true),
        ("|501 syntax", Undecided, 501, None, false),
    ];
    for &(exchange, outcome, code, account, complete) in rows {
        let mut script = String::new();
        for (nth, line) in exchange.split('|').enumerate() {
            let (says, hears) = if nth % 2 == 0 { ("C:", "toB:") } else { ("B:", "toC:") };
            let line = if nth == 0 { format!("AUTH {line}") } else { line.to_owned() };
            script += &format!("{says} {line}\n{hears} {line}\n");
        }
        // A second one counts as the first did, and a 535 to something else does not count.
        script += "C: RSET\n toB: RSET\n B: 535 5.7.8 no\n toC: 535 5.7.8 no\n";
        script += "C: AUTH PLAIN AGEAYg==\n toB: AUTH PLAIN AGEAYg==\n B: 535 no\n toC: 535 no\n";
        let stage = play(&settings(), known(), &script);
        let expected = (outcome, code, account.map(str::to_owned), complete);
        assert_eq!(finished(&stage), [expected, (Failed, 535, Some("a".to_owned()), true)], "{exchange}");
        assert_eq!(stage.let_go, 2, "{exchange}");
        assert_eq!(stage.tally().auth_failures, 1 + u32::from(outcome == Failed), "{exchange}");
    }
}

#[test]
fn an_attempt_waits_until_it_is_let_go() {
    // One at a time, in its turn, and nothing behind it is read before its answer.
    let stage = play(
        &settings(),
        known(),
        r"
        may wait
        C: NOOP
        C: AUTH PLAIN AGEAYg==\n+
        C: AUTH LOGIN
        C: YQ==
        C: Yg==
        C: AUTH PLAIN AGMAYg==
        C: QUIT
        toB: NOOP
        B: 250 ok
        toC: 250 ok
        may go
        may wait
        toB: AUTH PLAIN AGEAYg==
        B: 535 no
        toC: 535 no
        toB: +
        may go
        may wait
        toB: AUTH LOGIN
        B: 334
        toC: 334
        toB: YQ==
        B: 334
        toC: 334
        toB: Yg==
        B: 535 no
        toC: 535 no
        may not
        toC: 421 4.7.0 No AUTH attempts from here for now
        end Some(ProtocolFault(AuthRefused))",
    );
    assert_eq!((stage.let_go, stage.finished.len()), (2, 2));
    // Refused behind commands that are not answered, in its turn.
    let stage = play(
        &settings(),
        known(),
        r"
        may not
        C: NOOP
        C: AUTH PLAIN AGEAYg==
        C: RSET
        toB: NOOP
        B: 250 ok
        toC: 250 ok
        toC: 421 4.7.0 No AUTH attempts from here for now
        end Some(ProtocolFault(AuthRefused))",
    );
    assert_eq!((stage.let_go, stage.finished.len(), stage.tally().auth_failures), (0, 0, 0));
    // Who waits may be told to leave, may leave, and may lose the backend.
    for (script, end) in [
        ("drain\n toC: 421 4.3.2 Going down, try again later", "Shutdown"),
        ("C.", "ClientEof"),
        ("B.\n toC: 421 4.3.0 Service not available, try again later", "BackendEof"),
        ("B: 421 4.4.2 too late\n toC: 421 4.4.2 too late", "BackendRefused(Code(421))"),
    ] {
        let script = format!("may wait\n C: AUTH PLAIN AGEAYg==\n {script}\n end Some({end})\n may go\n toB: +");
        let stage = play(&settings(), known(), &script);
        assert_eq!((stage.let_go, stage.finished.len()), (0, 0), "{script}");
    }
}

#[test]
fn what_is_no_auth_command_is_no_attempt() {
    let stage = play(
        &settings(),
        known(),
        r"
        may wait
        C: MAIL FROM:<a@b>
        C: RCPT TO:<c@d>
        C: BDAT 21
        C: AUTH PLAIN AGEAYg==
        C: BDAT 21 LAST
        C: AUTH PLAIN AGEAYg==
        toB: MAIL FROM:<a@b>
        toB: RCPT TO:<c@d>
        toB: BDAT 21
        toB: AUTH PLAIN AGEAYg==
        toB: BDAT 21 LAST
        toB: AUTH PLAIN AGEAYg==
        B: 250 ok
        B: 250 ok
        B: 250 ok
        B: 535 5.7.8 no
        toC: 250 ok
        toC: 250 ok
        toC: 250 ok
        toC: 535 5.7.8 no
        C: MAIL FROM:<a@b> AUTH=<>
        toC: 555 5.5.4 MAIL or RCPT parameter not offered here
        C: DATA
        toB: DATA
        B: 354 ok
        toC: 354 ok
        C: AUTH PLAIN AGEAYg==
        C: .
        toB: AUTH PLAIN AGEAYg==
        toB: .
        B: 535 5.7.8 no
        toC: 535 5.7.8 no",
    );
    assert_eq!((stage.let_go, stage.finished.len(), stage.tally().auth_failures), (0, 0, 0));
    for line in ["AUTHX PLAIN AGEAYg==", "AUTH=PLAIN AGEAYg==", "X-EXPS LOGIN YQ==", r"\x0bAUTH PLAIN AGEAYg=="] {
        let script = format!("C: {line}\n toC: 500 5.5.1 Command not recognised\n toB: +");
        assert_eq!(play(&settings(), known(), &script).let_go, 0, "{line}");
    }
    for line in [r"\x20AUTH PLAIN AGEAYg==", r"auth\x09plain\x09AGEAYg==", r"Auth  Plain  AGEAYg==\x20"] {
        let script = format!("may wait\n C: {line}\n toB: +\n may go\n toB: {line}\n B: 535 no\n toC: 535 no");
        let stage = play(&settings(), known(), &script);
        assert_eq!(finished(&stage), [(AuthOutcome::Failed, 535, Some("a".to_owned()), true)], "{line}");
    }
}

#[test]
fn so_many_attempts_may_fail_and_no_more() {
    const LAST: &str = "421 4.7.0 Too many failed AUTH attempts";
    let fails = "C: AUTH PLAIN AGEAYg==\n toB: AUTH PLAIN AGEAYg==\n B: 535 no\n toC: 535 no\n";
    let undecided = "C: AUTH PLAIN AGEAYg==\n toB: AUTH PLAIN AGEAYg==\n B: 454 later\n toC: 454 later\n";
    for (limit, script) in
        [(1, fails.to_owned()), (3, format!("{fails}{undecided}{fails}{undecided}{undecided}{fails}"))]
    {
        let stage = play(
            &attempts(limit, 16),
            known(),
            &format!("{script}toC: {LAST}\n end Some(ProtocolFault(AuthFailures))\n C: AUTH PLAIN AGEAYg==\n toB: +"),
        );
        assert_eq!(stage.tally().auth_failures, limit);
    }
    // What waits behind the last one is never read.
    play(
        &attempts(1, 16),
        known(),
        &format!(
            "C: AUTH PLAIN AGEAYg==\n C: AUTH PLAIN AGIAYg==\n toB: AUTH PLAIN AGEAYg==\n B: 535 no\n toC: 535 no\n \
             toC: {LAST}\n toB: +"
        ),
    );
    // No limit.
    let stage = play(&attempts(0, 16), known(), &fails.repeat(9));
    assert_eq!((stage.end, stage.tally().auth_failures), (None, 9));
    // Somebody else has counted.
    let over = || {
        let mut stage = Stage::new(&settings(), known());
        stage.aftermath = Aftermath { over: true, ..Aftermath::default() };
        stage
    };
    play_on(over, &format!("{fails} toC: {LAST}\n end Some(ProtocolFault(AuthFailures))"));
}

#[test]
fn an_exchange_has_so_many_lines_and_no_more() {
    let open = "C: AUTH XYZ\n toB: AUTH XYZ\n B: 334 more\n toC: 334 more\n";
    let round = "C: YQ==\n toB: YQ==\n B: 334 more\n toC: 334 more\n";
    let stage = play(
        &attempts(3, 4),
        known(),
        &format!(
            "{open}{}C: YQ==\n C: RSET\n toC: 421 4.7.0 Too many lines in an AUTH exchange\n \
             end Some(ProtocolFault(AuthLines))\n toB: +",
            round.repeat(4)
        ),
    );
    assert_eq!(finished(&stage), [(AuthOutcome::Abandoned, 0, None, true)]);
    // Each exchange has its own.
    let over = "C: *\n toB: *\n B: 501 no\n toC: 501 no\n";
    let rounds = round.repeat(3);
    let stage = play(&attempts(3, 4), known(), &format!("{open}{rounds}{over}{open}{rounds}{over}"));
    assert_eq!((stage.end, stage.let_go), (None, 2));
}

#[test]
fn who_does_not_wait_for_the_verdict_has_been_heard() {
    use AuthOutcome::{Abandoned, Undecided};
    let refused =
        "C: AUTH XOAUTH2 dXNlcj1hAWF1dGg9eAEB\n toB: AUTH XOAUTH2 dXNlcj1hAWF1dGg9eAEB\n B: 334 e30=\n toC: 334 e30=\n";
    let asked = "C: AUTH LOGIN\n toB: AUTH LOGIN\n B: 334\n toC: 334\n";
    let named = "C: YQ==\n toB: YQ==\n B: 334\n toC: 334\n";
    let away = "B.\n toC: 421 4.3.0 Service not available, try again later\n";
    let sent = "C: AUTH PLAIN AGEAYg==\n toB: AUTH PLAIN AGEAYg==\n";
    for (script, outcome, account, complete) in [
        (format!("{refused} C."), Abandoned, Some("a"), true),
        (format!("{asked} C."), Undecided, None, false),
        (format!("{asked}{named} C."), Undecided, Some("a"), false),
        (format!("{asked}{named} {away}"), Undecided, Some("a"), false),
        (format!("{sent} {away}"), Undecided, Some("a"), true),
    ] {
        let stage = play(&settings(), known(), &script);
        assert_eq!(finished(&stage), [(outcome, 0, account.map(str::to_owned), complete)], "{script}");
        assert_eq!(stage.tally().auth_failures, 0);
    }
    // Who only says no more is answered, and counted.
    let stage = play(&settings(), known(), &format!("{sent} C.\n B: 535 no\n toC: 535 no\n end Some(ClientEof)"));
    assert_eq!(finished(&stage), [(AuthOutcome::Failed, 535, Some("a".to_owned()), true)]);
    let stage =
        play(&settings(), known(), &format!("{sent} B: 421 no\n toC: 421 no\n end Some(BackendRefused(Code(421)))"));
    assert_eq!(finished(&stage), [(Undecided, 421, Some("a".to_owned()), true)]);
}

#[test]
fn auth_can_be_withheld_from_one_client() {
    let withheld = || {
        let mut stage = Stage::new(&settings(), Opening::Greeting);
        stage.withhold_auth();
        stage
    };
    let stage = play_on(
        withheld,
        r"
        B: 220 hi
        toC: 220 hi
        C: EHLO a
        toB: EHLO a
        B: 250-mx
        B: 250-AUTH PLAIN LOGIN
        B: 250-AUTH=LOGIN
        B: 250 SIZE
        toC: 250-mx
        toC: 250 SIZE
        C: AUTH PLAIN AGEAYg==
        toC: 503 5.5.1 AUTH is not available here
        C: MAIL FROM:<a@b> AUTH=<>
        toC: 555 5.5.4 MAIL or RCPT parameter not offered here
        toB: +",
    );
    assert_eq!(stage.events, [Event::AuthNotOffered]);
    assert_eq!(stage.let_go, 0);
    // Whatever was said before.
    let offered = Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Auth), transaction: false };
    let withheld = || {
        let mut stage = Stage::new(&settings(), offered);
        stage.withhold_auth();
        stage
    };
    play_on(withheld, "C: MAIL FROM:<a@b> AUTH=<>\n toC: 555 5.5.4 MAIL or RCPT parameter not offered here\n toB: +");
}

fn few() -> Settings {
    let limits = Limits { recipients: 2, idle_commands: 3, message_commands: 9, ..Limits::default() };
    Settings { limits, ..settings() }
}

#[test]
fn recipients_beyond_the_limit_are_put_off_and_the_message_goes_to_the_others() {
    play(
        &few(),
        inside(),
        r"
        C: RCPT TO:<1@example.org>
        C: RCPT TO:<2@example.org>
        C: RCPT TO:<3@example.org>
        C: DATA
        toB: RCPT TO:<1@example.org>
        toB: RCPT TO:<2@example.org>
        toB: DATA
        B: 250 1
        B: 550 2
        toC: 250 1
        toC: 550 2
        toC: 452 4.5.3 Too many recipients
        B: 354 go
        toC: 354 go
        C: .
        C: MAIL FROM:<>
        C: RCPT TO:<4@example.org>
        C: RCPT TO:<5@example.org>
        toB: .
        toB: MAIL FROM:<>
        toB: RCPT TO:<4@example.org>
        toB: RCPT TO:<5@example.org>
        B: 250 3
        B: 250 4
        B: 250 5
        B: 250 6
        toC: 250 3
        toC: 250 4
        toC: 250 5
        toC: 250 6
        C: MAIL FROM:<>
        C: RCPT TO:<6@example.org>
        toB: MAIL FROM:<>
        B: 503 nested
        toC: 503 nested
        toC: 452 4.5.3 Too many recipients",
    );
}

#[test]
fn each_way_to_begin_a_transaction_brings_its_own_recipients() {
    for begin in ["RSET", "EHLO client.example", "BDAT 0 LAST"] {
        play(
            &few(),
            inside(),
            &format!(
                r"
        C: RCPT TO:<1@example.org>
        C: RCPT TO:<2@example.org>
        toB: RCPT TO:<1@example.org>
        toB: RCPT TO:<2@example.org>
        B: 250 1
        B: 250 2
        toC: 250 1
        toC: 250 2
        C: {begin}
        toB: {begin}
        B: 250 ok
        toC: 250 ok
        C: RCPT TO:<3@example.org>
        toB: RCPT TO:<3@example.org>
        B: 250 3
        toC: 250 3"
            ),
        );
    }
}

#[test]
fn a_client_that_will_not_stop_naming_recipients() {
    let lots = Settings { max_errors: 1, ..few() };
    play(
        &lots,
        inside(),
        r"
        C: RCPT TO:<1@example.org>
        C: RCPT TO:<2@example.org>
        C: RCPT TO:<3@example.org>
        C: RCPT TO:<4@example.org>
        C: RCPT TO:<5@example.org>
        C: RCPT TO:<6@example.org>
        toB: RCPT TO:<1@example.org>
        toB: RCPT TO:<2@example.org>
        B: 250 1
        B: 250 2
        toC: 250 1
        toC: 250 2
        toC: 452 4.5.3 Too many recipients
        toC: 452 4.5.3 Too many recipients
        toC: 452 4.5.3 Too many recipients
        toC: 421 4.7.0 Too many errors
        end Some(ProtocolFault(TooManyErrors))",
    );
}

#[test]
fn commands_that_bring_no_message_on_its_way() {
    play(
        &few(),
        known(),
        r"
        C: NOOP
        C: VRFY a
        C: RSET
        C: HELP
        C: QUIT
        toB: NOOP
        toB: VRFY a
        toB: RSET
        B: 250 1
        B: 250 2
        B: 250 3
        toC: 250 1
        toC: 250 2
        toC: 250 3
        toC: 421 4.7.0 Too many commands that send no message
        end Some(ProtocolFault(TooManyCommands))",
    );
    // AUTH that no MTA judges is such a command, too; the one too many is not even asked for.
    let attempt = "C: AUTH PLAIN\n toB: AUTH PLAIN\n B: 454 later\n toC: 454 later\n";
    let last = "C: AUTH PLAIN\n toC: 421 4.7.0 Too many commands that send no message\n";
    let stage = play(
        &few(),
        known(),
        &format!("{}{last} end Some(ProtocolFault(TooManyCommands))\n toB: +", attempt.repeat(3)),
    );
    assert_eq!(stage.let_go, 3);
    // A message that is taken wipes the slate; one that is not does not.
    for (reply, last) in
        [("250 taken", "toB: NOOP"), ("550 no", "toC: 421 4.7.0 Too many commands that send no message")]
    {
        play(
            &few(),
            inside(),
            &format!(
                r"
        C: NOOP
        C: NOOP
        C: NOOP
        C: BDAT 1 LAST
        C: x+
        toB: NOOP
        toB: NOOP
        toB: NOOP
        toB: BDAT 1 LAST
        toB: x+
        B: 250 1
        B: 250 2
        B: 250 3
        B: {reply}
        toC: 250 1
        toC: 250 2
        toC: 250 3
        toC: {reply}
        C: NOOP
        {last}"
            ),
        );
    }
}

#[test]
fn commands_without_end() {
    play(
        &few(),
        known(),
        r"
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        C: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        toB: MAIL FROM:<>
        B: 250 1
        B: 503 2
        B: 503 3
        B: 503 4
        B: 503 5
        B: 503 6
        B: 503 7
        B: 503 8
        B: 503 9
        toC: 250 1
        toC: 503 2
        toC: 503 3
        toC: 503 4
        toC: 503 5
        toC: 503 6
        toC: 503 7
        toC: 503 8
        toC: 503 9
        C: BDAT 4
        C: NOOP
        toC: 421 4.7.0 Too many commands for one message
        end Some(ProtocolFault(TooManyCommands))",
    );
}

#[test]
fn commands_that_go_nowhere() {
    let lots = Settings { max_errors: 9, ..settings() };
    play(
        &lots,
        known(),
        r"
        C: XCLIENT ADDR=192.0.2.1
        C: NOOP
        C: XFORWARD NAME=a
        C: FOO
        C:
        C: \x16\x03\x01
        C: RSET
        C: NO\rOP
        C: NO\0OP
        toB: NOOP
        toB: RSET
        toC: 500 5.5.1 Command not recognised
        B: 250 1
        toC: 250 1
        toC: 500 5.5.1 Command not recognised
        toC: 500 5.5.1 Command not recognised
        toC: 500 5.5.1 Command not recognised
        toC: 500 5.5.1 Command not recognised
        B: 250 2
        toC: 250 2
        toC: 500 5.5.2 CR or NUL inside a command
        toC: 500 5.5.2 CR or NUL inside a command",
    );
    let stage = play(
        &settings(),
        known(),
        r"
        C: A
        C: B
        C: C
        C: NOOP
        toC: 500 5.5.1 Command not recognised
        toC: 500 5.5.1 Command not recognised
        toC: 421 4.7.0 Too many errors
        end Some(ProtocolFault(TooManyErrors))",
    );
    assert_eq!(stage.tally().errors, 3);
    let stage = play(
        &settings(),
        known(),
        r"
        C: NOOP\nMAIL FROM:<a@b>\n+
        toB: NOOP
        toB: MAIL FROM:<a@b>",
    );
    assert_eq!(stage.tally().bare_lf_commands, 2);
    // Malformed, but its verb is known: the backend's own answer.
    play(
        &settings(),
        known(),
        r"
        C: MAIL
        toB: MAIL
        B: 501 syntax
        toC: 501 syntax",
    );
    let long = "x".repeat(2047);
    play(
        &settings(),
        known(),
        &format!(
            "
        C: NOOP
        C: NOOP {long}
        toB: NOOP
        B: 250 ok
        toC: 250 ok
        toC: 500 5.5.2 Line too long
        end Some(ProtocolFault(LineTooLong))"
        ),
    );
    play_whole(
        &settings(),
        known(),
        &format!(
            "
        C: AUTH PLAIN {long}{long}
        toB: AUTH PLAIN {long}{long}"
        ),
    );
}

/// Wherever it says so: what an MTA would believe of a proxy that it trusts is no client's to say.
#[test]
fn what_a_client_says_of_itself_goes_nowhere() {
    const NO: &str = "toC: 500 5.5.1 Command not recognised";
    for line in [
        "XCLIENT ADDR=192.0.2.1 LOGIN=admin",
        "xclient name=localhost",
        "XFORWARD NAME=localhost ADDR=192.0.2.1",
        "PROXY TCP4 192.0.2.1 198.51.100.25 4711 25",
    ] {
        play(&settings(), Opening::Greeting, &format!("C: {line}\n toB: +\n B: 220 hi\n toC: 220 hi\n {NO}\n toB: +"));
        play(&settings(), known(), &format!("C: {line}\n C: NOOP\n {NO}\n toB: NOOP"));
        play(
            &settings(),
            inside(),
            &format!("C: {line}\n C: RCPT TO:<b@example.org>\n {NO}\n toB: RCPT TO:<b@example.org>"),
        );
        let script = format!("C: STARTTLS\n toC: 220 2.0.0 Ready to start TLS\n C: {line}\n {NO}\n toB: +");
        play_with_tls(&settings(), offered_here(false), HERE, &script);
    }
    // A PROXY header of version 2 is lines, one of which is a command.
    play(
        &Settings { max_errors: 9, ..settings() },
        known(),
        r"
        C: \r\n\r\n\0\r\nQUIT\n!\x11\0\x0cabcdefghijkl+
        toC: 500 5.5.1 Command not recognised
        toC: 500 5.5.1 Command not recognised
        toC: 500 5.5.2 CR or NUL inside a command
        toB: QUIT
        B: 221 bye
        toC: 221 bye
        end Some(Quit)",
    );
}

#[test]
fn no_more_than_a_row_of_commands_waits_for_answers() {
    let limits = Limits { idle_commands: 1000, ..Limits::default() };
    let mut stage = Stage::new(&Settings { limits, ..settings() }, known());
    stage.client_says(&b"NOOP\r\n".repeat(1000));
    assert_eq!(stage.to_backend.len(), 128 * 6);
    stage.backend_says(b"250 ok\r\n");
    assert_eq!(stage.to_backend.len(), 129 * 6);
}

#[test]
fn mail_data_only_after_354() {
    for (reply, ending) in [("250 ok", "Unexpected(Code(250))"), ("334 x", "Unexpected(Code(334))"), ("x", "Malformed")]
    {
        play(
            &settings(),
            inside(),
            &format!(
                "
            C: DATA
            toB: DATA
            B: {reply}
            toC: 421 4.3.0 Service not available, try again later
            end Some(BackendFault({ending}))"
            ),
        );
    }
    play(
        &settings(),
        inside(),
        r"
        C: DATA
        toB: DATA
        B: 554 no valid recipients
        toC: 554 no valid recipients
        C: RSET
        toB: RSET",
    );
    // Was it sent as a message, or as commands? That cannot be known.
    play(
        &settings(),
        inside(),
        r"
        C: DATA
        C: MAIL FROM:<forged@example.org>
        toB: DATA
        B: 554 no
        toC: 554 no
        toC: 421 4.5.0 Input behind DATA, which was refused
        end Some(ProtocolFault(BehindData))",
    );
    play(
        &settings(),
        inside(),
        r"
        C: DATA
        C: a
        C: .
        C: NOOP
        toB: DATA
        B: 354 ok
        toC: 354 ok
        toB: a
        toB: .
        toB: NOOP
        B: 250 queued
        B: 250 noop
        toC: 250 queued
        toC: 250 noop",
    );
    play(
        &settings(),
        inside(),
        r"
        C: DATA
        toB: DATA
        B: 354 ok
        toC: 354 ok
        C: half
        C.
        toB: half
        end Some(ClientReset)",
    );
}

#[test]
fn smuggled_messages_stay_inside_the_one_they_came_in() {
    for hidden in [
        r"\n.\n",
        r"\n.\r\n",
        r"\r\n.\n",
        r"\r\n.\r",
        r"\r.\r",
        r"\r.\r\n",
        r"\r\n.\0\r\n",
        r"\r\n.\r\r\n",
        r"\r\n\0.\r\n",
    ] {
        let script = format!(
            r"
            C: DATA
            C: a{hidden}MAIL FROM:<forged@example.org>
            C: .
            toB: DATA
            B: 354 ok
            toC: 354 ok"
        );
        let acts = read(&script);
        for cut in (0..60).map(Cut::At).chain([Cut::EveryByte]) {
            let mut stage = Stage::new(&settings(), inside());
            for act in &acts {
                match act {
                    Act::Client(said) => pieces(said, cut).into_iter().for_each(|piece| stage.client_says(piece)),
                    Act::Backend(said) => stage.backend_says(said),
                    _ => {}
                }
            }
            stage.backend_says(b"250 queued\r\n");
            assert_eq!(stage.tally().messages, 1, "{hidden}");
            let data = &stage.to_backend[b"DATA\r\n".len()..];
            let lines: Vec<_> = data.split(|&b| b == b'\n' || b == b'\r').collect();
            assert_eq!(lines.iter().filter(|line| **line == b".").count(), 1, "{hidden}: {}", data.escape_ascii());
            assert!(data.ends_with(b"\r\n.\r\n"), "{hidden}");
        }
    }
    let refuse = Settings { bare_newline: BareNewline::Refuse, ..settings() };
    let stage = play_whole(
        &refuse,
        inside(),
        r"
        C: DATA
        toB: DATA
        B: 354 ok
        toC: 354 ok
        C: a
        C: b\nc
        C: .
        toB: a
        toB: b+
        toC: 550 5.5.2 Bare LF in mail data
        end Some(ProtocolFault(BareLf))",
    );
    assert_eq!(stage.tally().mail_data.bare_lf, 1);
}

#[test]
fn a_dot_at_the_very_beginning_goes_on_with_what_follows_it() {
    let begun = || {
        let mut stage = Stage::new(&settings(), inside());
        stage.client_says(b"DATA\r\n");
        stage.backend_says(b"354 ok\r\n");
        stage.to_backend.clear();
        stage
    };
    for (said, goes_on) in [
        (&b"..\r\n.\r\n"[..], &b"..\r\n.\r\n"[..]),
        (b"..\r\nMAI", b"..\r\nMAI"),
        (b".\nMAIL ", b"..\r\nMAIL "),
        (b".\n\r\n.\r\n", b"..\r\n\r\n.\r\n"),
        (b".x\r\n.\r\n", b".x\r\n.\r\n"),
        (b".\r\r\n.\r\n", b".. \r\n.\r\n"),
    ] {
        let mut stage = begun();
        let (last, before) = said.split_last().expect("a byte");
        before.iter().for_each(|&byte| stage.client_says(&[byte]));
        assert_eq!(stage.to_backend, b"", "{}", said.escape_ascii());
        stage.client_says(&[*last]);
        assert_eq!(stage.to_backend.escape_ascii().to_string(), goes_on.escape_ascii().to_string());
    }
    // Nothing but the end is an end, and a dot further on waits for nobody.
    let mut stage = begun();
    b".\r\n".iter().for_each(|&byte| stage.client_says(&[byte]));
    stage.backend_says(b"250 queued\r\n");
    assert_eq!((stage.to_backend.as_slice(), stage.tally().messages), (&b".\r\n"[..], 1));
    let mut stage = begun();
    b"a\r\n.".iter().for_each(|&byte| stage.client_says(&[byte]));
    assert_eq!(stage.to_backend, b"a\r\n.");
}

#[test]
fn a_backend_that_speaks_out_of_turn() {
    let opening = r"
        C: DATA
        toB: DATA
        B: 354 ok
        toC: 354 ok
        C: a
        toB: a";
    play(
        &settings(),
        inside(),
        &format!(
            "{opening}
        B: 421 4.3.2 going down
        toC: 421 4.3.2 going down
        end Some(BackendRefused(Code(421)))"
        ),
    );
    for early in ["250 queued", "552 too large"] {
        play(
            &settings(),
            inside(),
            &format!(
                "{opening}
            B: {early}
            toC: 421 4.3.0 Service not available, try again later
            end Some(BackendFault(Early))"
            ),
        );
    }
    play(
        &settings(),
        inside(),
        &format!(
            "{opening}
        B.
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendEof)"
        ),
    );
    // It may have taken the message: that is for the client to find out when it comes again.
    play(
        &settings(),
        inside(),
        &format!(
            "{opening}
        C: .
        toB: .
        B.
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendEof)"
        ),
    );
    play(
        &settings(),
        known(),
        r"
        B: 421 idle too long
        toC: 421 idle too long
        end Some(BackendRefused(Code(421)))",
    );
    play(
        &settings(),
        known(),
        r"
        B: 250 what
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(Unsolicited))",
    );
    play(
        &settings(),
        known(),
        r"
        C: RSET
        C: NOOP
        toB: RSET
        toB: NOOP
        B: 421 enough
        toC: 421 enough
        end Some(BackendRefused(Code(421)))",
    );
    play(
        &settings(),
        known(),
        r"
        C: NOOP
        toB: NOOP
        B: 250-half
        B.
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendEof)",
    );
    play(
        &settings(),
        known(),
        r"
        C: NOOP
        toB: NOOP
        B: 354 go ahead
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(Unexpected(Code(354))))",
    );
}

#[test]
fn chunks_are_as_long_as_they_say() {
    let stage = play(
        &settings(),
        inside(),
        r"
        C: bdat 0012
        C: .\r\nQUIT\r\n\0\n.+
        C: BDAT 0
        C: BDAT 2 last
        C: \r\n+
        C: RSET
        toB: BDAT 12
        toB: .\r\nQUIT\r\n\0\n.+
        toB: BDAT 0
        toB: BDAT 2 LAST
        toB: \r\n+
        toB: RSET
        B: 250 1
        B: 250 2
        B: 250 3
        B: 250 4
        toC: 250 1
        toC: 250 2
        toC: 250 3
        toC: 250 4",
    );
    assert_eq!(stage.tally().messages, 1);
    play(
        &settings(),
        inside(),
        r"
        C: BDAT 2 LAST
        C: ab+
        toB: BDAT 2 LAST
        toB: ab+
        B: 554 no
        toC: 554 no",
    );
    play(
        &settings(),
        inside(),
        r"
        C: BDAT 3 LAST
        C: ab+
        C.
        toB: BDAT 3 LAST
        toB: ab+
        end Some(ClientReset)",
    );
    // A backend that answers before the chunk has come may have taken it for commands.
    play(
        &settings(),
        inside(),
        r"
        C: BDAT 3
        C: ab+
        toB: BDAT 3
        toB: ab+
        B: 502 what?
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(Early))",
    );
    for size in ["x", "-1", "+1", "1 2", "", "99999999999999999999"] {
        play_whole(
            &settings(),
            inside(),
            &format!(
                "
            C: BDAT {size}
            C: QUIT
            toC: 501 5.5.4 BDAT takes a size, and possibly LAST
            end Some(ProtocolFault(Chunk))"
            ),
        );
    }
    // DATA while chunks are under way: the backend's affair, and its answer is believed.
    play(
        &settings(),
        inside(),
        r"
        C: BDAT 1
        C: aDATA
        toB: BDAT 1
        toB: aDATA
        B: 250 1
        B: 503 mixed
        toC: 250 1
        toC: 503 mixed",
    );
}

/// The client has not waited: its chunk comes, whatever became of its recipients.
#[test]
fn a_chunk_behind_refused_recipients_is_still_a_chunk() {
    for refusals in
        [["550 5.1.1 unknown", "554 5.5.1 no valid recipients"], ["452 4.5.3 later", "503 5.5.1 RCPT first"]]
    {
        let [rcpt, bdat] = refusals;
        let stage = play(
            &settings(),
            inside(),
            &format!(
                r"
        C: RCPT TO:<nobody@example.org>
        C: BDAT 57 LAST
        C: MAIL FROM:<forged@example.org>\r\nRCPT TO:<a@example.org>\r\n+
        C: NOOP
        toB: RCPT TO:<nobody@example.org>
        toB: BDAT 57 LAST
        toB: MAIL FROM:<forged@example.org>\r\nRCPT TO:<a@example.org>\r\n+
        toB: NOOP
        B: {rcpt}
        B: {bdat}
        B: 250 nothing happens
        toC: {rcpt}
        toC: {bdat}
        toC: 250 nothing happens"
            ),
        );
        assert_eq!((stage.tally().messages, stage.tally().recipients_refused), (0, 1));
    }
}

#[test]
fn a_second_last_chunk_is_the_backends_to_refuse() {
    let stage = play(
        &settings(),
        inside(),
        r"
        C: BDAT 1 LAST
        C: aBDAT 6 LAST
        C: QUIT
        C: NOOP
        toB: BDAT 1 LAST
        toB: aBDAT 6 LAST
        toB: QUIT
        toB: NOOP
        B: 250 queued
        toC: 250 queued
        B: 503 5.5.1 no transaction
        B: 250 ok
        toC: 503 5.5.1 no transaction
        toC: 250 ok",
    );
    assert_eq!(stage.tally().messages, 1);
    // Were it to count as a message although nothing was begun, that would still be the backend's word, and one reply.
    play(
        &settings(),
        inside(),
        r"
        C: BDAT 0 LAST
        C: BDAT 0 LAST
        toB: BDAT 0 LAST
        toB: BDAT 0 LAST
        B: 250 queued
        B: 503 5.5.1 no transaction
        toC: 250 queued
        toC: 503 5.5.1 no transaction",
    );
}

#[test]
fn lines_of_an_auth_exchange_have_a_longest() {
    let long = "x".repeat(12_288 - 2);
    let open = "C: AUTH PLAIN\n toB: AUTH PLAIN\n B: 334\n toC: 334\n";
    play_whole(&settings(), known(), &format!("{open} C: {long}\n toB: {long}"));
    for ending in ["x", "x+"] {
        play_whole(
            &settings(),
            known(),
            &format!(
                "{open} C: {long}{ending}\n C: RSET\n toC: 500 5.5.6 Line of an AUTH exchange too long\n \
                 end Some(ProtocolFault(AuthLine))"
            ),
        );
    }
    let command = "x".repeat(12_288 - "AUTH PLAIN ".len() - 1);
    play_whole(
        &settings(),
        known(),
        &format!("C: AUTH PLAIN {command}\n toC: 500 5.5.2 Line too long\n end Some(ProtocolFault(LineTooLong))"),
    );
}

#[test]
fn starttls_and_what_stands_behind_it() {
    let stage = play(
        &settings(),
        known(),
        r"
        C: STARTTLS
        toB: STARTTLS
        B: 220 go
        toC: 220 go
        C: \x16\x03\x01\0\n.\r+
        toB: \x16\x03\x01\0\n.\r+
        B: \x16x\0\n+
        toC: \x16x\0\n+",
    );
    assert!(stage.is_opaque());
    assert_eq!(stage.events, [Event::Opaque]);
    play_whole(
        &settings(),
        known(),
        r"
        C: NOOP
        C: STARTTLS
        C: MAIL FROM:<injected@example.org>
        toB: NOOP
        B: 250 ok
        toC: 250 ok
        toC: 554 5.5.0 Input behind STARTTLS
        end Some(ProtocolFault(BehindStartTls))",
    );
    for reply in ["220 go", "454 no"] {
        let mut stage = Stage::new(&settings(), known());
        stage.client_says(b"STARTTLS\r\n");
        stage.client_says(b"R");
        stage.backend_says(format!("{reply}\r\n").as_bytes());
        assert_eq!(stage.to_backend, b"STARTTLS\r\n");
        assert_eq!(stage.to_client, b"554 5.5.0 Input behind STARTTLS\r\n");
        assert_eq!(format!("{:?}", stage.end), "Some(ProtocolFault(BehindStartTls))");
    }
    play_whole(
        &settings(),
        known(),
        r"
        C: STARTTLS
        toB: STARTTLS
        B: 220 go
        B: 250 injected
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(BehindStartTls))",
    );
    play_whole(
        &settings(),
        known(),
        r"
        C: STARTTLS
        toB: STARTTLS
        B: 220 go
        toC: 220 go
        B: 250 injected
        end Some(BackendFault(BehindStartTls))",
    );
    play(
        &settings(),
        known(),
        r"
        C: STARTTLS
        toB: STARTTLS
        B: 454 not now
        toC: 454 not now
        C: NOOP
        toB: NOOP",
    );
    play(
        &settings(),
        known(),
        r"
        C: STARTTLS
        toB: STARTTLS
        B: 250 sure
        toC: 421 4.3.0 Service not available, try again later
        end Some(BackendFault(Unexpected(Code(250))))",
    );
    play(
        &settings(),
        inside(),
        r"
        C: STARTTLS
        toC: 503 5.5.1 STARTTLS inside a mail transaction",
    );
    play(
        &settings(),
        known(),
        r"
        C: MAIL FROM:<>
        C: STARTTLS
        toB: MAIL FROM:<>
        B: 250 ok
        toC: 250 ok
        toC: 503 5.5.1 STARTTLS inside a mail transaction",
    );
    let plain = Opening::Dialogue { offered: Keywords::NONE, transaction: false };
    play(
        &settings(),
        plain,
        r"
        C: STARTTLS
        toC: 502 5.5.1 STARTTLS was not offered",
    );
}

#[test]
fn what_an_ehlo_reply_decides_is_waited_for() {
    play(
        &settings(),
        known(),
        r"
        C: EHLO a
        C: BDAT 1
        C: x+
        toB: EHLO a
        B: 250 mx
        toC: 250 mx
        toC: 503 5.5.1 CHUNKING was not offered
        end Some(ProtocolFault(Chunk))",
    );
    play(
        &settings(),
        known(),
        r"
        C: EHLO a
        toB: EHLO a
        B: 502 what
        toC: 502 what
        C: HELO a
        toB: HELO a
        B: 250 mx
        toC: 250 mx",
    );
}

#[test]
fn leaving() {
    play(
        &settings(),
        known(),
        r"
        C: NOOP
        C: QUIT
        C: NOOP
        toB: NOOP
        toB: QUIT
        B: 250 ok
        B: 221 bye
        toC: 250 ok
        toC: 221 bye
        end Some(Quit)",
    );
    play(
        &settings(),
        known(),
        r"
        C: QUIT
        B.
        toB: QUIT
        end Some(Quit)",
    );
    play(
        &settings(),
        known(),
        r"
        C: NOOP
        C: NOO+
        C.
        toB: NOOP
        end None
        B: 250 ok
        toC: 250 ok
        end Some(ClientEof)",
    );
    play(
        &settings(),
        inside(),
        r"
        C: DATA
        C: a
        C: .
        C.
        toB: DATA
        B: 354 ok
        toC: 354 ok
        toB: a
        toB: .
        end None
        B: 250 queued
        toC: 250 queued
        end Some(ClientEof)",
    );
}

#[test]
fn draining() {
    play(
        &settings(),
        known(),
        r"
        drain
        toC: 421 4.3.2 Going down, try again later
        end Some(Shutdown)",
    );
    play(
        &settings(),
        known(),
        r"
        C: NOOP
        drain
        toB: NOOP
        end None
        B: 250 ok
        toC: 250 ok
        toC: 421 4.3.2 Going down, try again later
        end Some(Shutdown)",
    );
    play(
        &settings(),
        inside(),
        r"
        drain
        C: DATA
        toB: DATA
        B: 354 ok
        toC: 354 ok
        C: a
        C: .
        toB: a
        toB: .
        end None
        B: 250 queued
        toC: 250 queued
        toC: 421 4.3.2 Going down, try again later
        end Some(Shutdown)",
    );
}

/// STARTTLS is offered here, and AUTH does not wait for it.
const HERE: Tls = Tls::Offered { before_auth: false };

/// What the client was told before: STARTTLS of the gate's own.
fn offered_here(transaction: bool) -> Opening {
    Opening::Dialogue { offered: Keywords::NONE.with(Keyword::StartTls), transaction }
}

#[test]
fn tls_that_ends_here_is_offered_begun_and_forgets_all_before() {
    let stage = play_with_tls(
        &settings(),
        Opening::Greeting,
        HERE,
        r"
        B: 220 hi
        toC: 220 hi
        C: EHLO client.example
        toB: EHLO client.example
        B: 250-mx
        B: 250-CHUNKING
        B: 250-STARTTLS
        B: 250-REQUIRETLS
        B: 250 AUTH PLAIN SCRAM-SHA-256-PLUS
        toC: 250-mx
        toC: 250-CHUNKING
        toC: 250-AUTH PLAIN
        toC: 250 STARTTLS
        C: STARTTLS
        toB: +
        toC: 220 2.0.0 Ready to start TLS
        C: MAIL FROM:<a@example.org>
        toC: 503 5.5.1 EHLO first: TLS has begun anew
        C: NOOP
        toB: NOOP
        B: 250 ok
        toC: 250 ok
        C: EHLO client.example
        toB: EHLO client.example
        B: 250-mx
        B: 250-STARTTLS
        B: 250 AUTH PLAIN SCRAM-SHA-256-PLUS
        toC: 250-mx
        toC: 250 AUTH PLAIN
        C: STARTTLS
        toC: 503 5.5.1 TLS has begun already
        C: BDAT 2
        toC: 503 5.5.1 CHUNKING was not offered
        end Some(ProtocolFault(Chunk))",
    );
    assert!(stage.tls.is_some() && !stage.is_opaque());
}

#[test]
fn tls_that_ends_here_is_offered_even_if_the_backend_has_none() {
    for (tls, ehlo) in [
        (HERE, "toC: 250-mx\n toC: 250-SIZE 9\n toC: 250 STARTTLS"),
        (Tls::Begun, "toC: 250-mx\n toC: 250 SIZE 9"),
        (Tls::Off, "toC: 250-mx\n toC: 250 SIZE 9"),
    ] {
        let script = format!("C: EHLO a\n toB: EHLO a\n B: 250-mx\n B: 250 SIZE 9\n {ehlo}");
        play_with_tls(&settings(), known(), tls, &script);
    }
    for tls in [HERE, Tls::Off] {
        let script =
            "C: HELO a\n toB: HELO a\n B: 250 mx\n toC: 250 mx\n C: STARTTLS\n toC: 502 5.5.1 STARTTLS was not offered";
        play_with_tls(&settings(), known(), tls, script);
    }
}

#[test]
fn nothing_behind_starttls_is_read_under_tls() {
    let stage = perform_with_tls(
        r"
        C: STARTTLS
        C: RSET
        toC: 554 5.5.0 Input behind STARTTLS
        end Some(ProtocolFault(BehindStartTls))",
        &settings(),
        offered_here(false),
        HERE,
        Cut::Not,
    );
    assert!(stage.tls.is_none() && stage.to_backend.is_empty());
    // While those before it are unanswered, it is not its turn, and what comes meanwhile is behind it.
    let stage = play_with_tls(
        &settings(),
        offered_here(false),
        HERE,
        r"
        C: NOOP
        C: STARTTLS
        toB: NOOP
        C: RSET
        B: 250 ok
        toC: 250 ok
        toC: 554 5.5.0 Input behind STARTTLS
        end Some(ProtocolFault(BehindStartTls))",
    );
    assert!(stage.tls.is_none());
    let stage = play_with_tls(
        &settings(),
        offered_here(false),
        HERE,
        r"
        C: NOOP
        C: STARTTLS
        toB: NOOP
        B: 250 ok
        toC: 250 ok
        toC: 220 2.0.0 Ready to start TLS",
    );
    assert!(stage.tls.is_some());
}

#[test]
fn what_the_backend_says_behind_our_220_is_said_under_tls() {
    let stage = perform_with_tls(
        r"
        C: NOOP
        C: STARTTLS
        toB: NOOP
        B: 250 ok
        B: 421 going down
        toC: 250 ok
        toC: 220 2.0.0 Ready to start TLS
        toC: 421 going down
        end Some(BackendRefused(Code(421)))",
        &settings(),
        offered_here(false),
        HERE,
        Cut::Not,
    );
    let (_, at) = stage.tls.expect("TLS has begun");
    assert!(stage.to_client[..at].ends_with(b"Ready to start TLS\r\n"));
}

#[test]
fn starttls_here_has_its_places() {
    play_with_tls(
        &settings(),
        offered_here(true),
        HERE,
        "C: STARTTLS\n toC: 503 5.5.1 STARTTLS inside a mail transaction",
    );
    play_with_tls(
        &settings(),
        offered_here(false),
        HERE,
        r"
        C: AUTH PLAIN AGEAYg==
        toB: AUTH PLAIN AGEAYg==
        B: 235 ok
        toC: 235 ok
        C: STARTTLS
        toC: 503 5.5.1 STARTTLS after AUTH",
    );
    // Inside an exchange it is a line of that, for the backend to refuse.
    play_with_tls(
        &settings(),
        offered_here(false),
        HERE,
        r"
        C: AUTH LOGIN
        toB: AUTH LOGIN
        B: 334 VXNlcm5hbWU6
        toC: 334 VXNlcm5hbWU6
        C: STARTTLS
        toB: STARTTLS
        B: 501 no
        toC: 501 no
        C: STARTTLS
        toC: 220 2.0.0 Ready to start TLS",
    );
    play_with_tls(
        &settings(),
        offered_here(false),
        HERE,
        "C: STARTTLS now\n toC: 501 5.5.4 STARTTLS takes no parameter",
    );
}

#[test]
fn auth_can_wait_for_tls() {
    let stage = play_with_tls(
        &settings(),
        Opening::Greeting,
        Tls::Offered { before_auth: true },
        r"
        B: 220 hi
        toC: 220 hi
        C: EHLO a
        toB: EHLO a
        B: 250-mx
        B: 250 AUTH PLAIN
        toC: 250-mx
        toC: 250 STARTTLS
        C: AUTH PLAIN AGEAYg==
        toC: 538 5.7.11 STARTTLS first: AUTH needs TLS here
        C: STARTTLS
        toC: 220 2.0.0 Ready to start TLS
        C: EHLO a
        toB: EHLO a
        B: 250-mx
        B: 250 AUTH PLAIN
        toC: 250-mx
        toC: 250 AUTH PLAIN
        C: AUTH PLAIN AGEAYg==
        toB: AUTH PLAIN AGEAYg==
        B: 235 ok
        toC: 235 ok",
    );
    assert_eq!(stage.tally().auth_not_offered, 0, "it is offered, in its place");
}

#[test]
fn mail_data_without_ehlo_under_tls_is_never_read_as_commands() {
    for data in ["DATA", "BDAT 9 LAST"] {
        let script = format!(
            "C: STARTTLS\n toC: 220 2.0.0 Ready to start TLS\n C: {data}\n C: EHLO a\n \
             toC: 503 5.5.1 EHLO first: TLS has begun anew\n end Some(ProtocolFault(NoHello))"
        );
        let stage = perform_with_tls(&script, &settings(), offered_here(false), HERE, Cut::Not);
        assert!(stage.to_backend.is_empty());
    }
}

#[test]
fn tls_that_ends_here_does_not_outlast_a_drain() {
    play_with_tls(
        &settings(),
        offered_here(false),
        HERE,
        r"
        C: STARTTLS
        toC: 220 2.0.0 Ready to start TLS
        drain
        toC: 421 4.3.2 Going down, try again later
        end Some(Shutdown)",
    );
}
