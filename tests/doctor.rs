//! `gatepost doctor` before doubles: each thing that an MTA can do wrong, and what is said of it. No double ever sees DATA.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use gatepost::config::Config;
use gatepost::doctor::{self, Fault, Finding, Level, Report};

use host::backend::{Act, Backend, Manners};
use host::ports::free_address;

const RELAY_DENIED: Act = Act::Say("554 5.7.1 Relay access denied");

/// A name server that knows of nothing; for as long as the test program runs.
fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback port");
    let address = socket.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if length > 12 {
                // RFC 1035, 4.1.1: an answer; NXDOMAIN; no records, not even those that the question came with.
                question[2] |= 0x80;
                question[3] = 0x83;
                question[6..12].fill(0);
                let _ = socket.send_to(&question[..length], from);
            }
        }
    });
    address
}

/// Examines a gate before `backend`, with these lines of its own.
fn examine(backend: SocketAddr, gate: &str) -> Report {
    let file = format!(
        "hostname = \"mx.gate.test\"\n[[gate]]\nlisten = \"{}\"\nbackend = \"{backend}\"\n{gate}\n\
         [dnsbl]\nsites = \"bl.test\"\nnameservers = \"{}\"\n[timeouts]\nreplay = \"1s\"\n",
        free_address(),
        name_server(),
    );
    let (config, _) = Config::parse(&file, "gatepost.toml").unwrap_or_else(|report| panic!("{report}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(doctor::examine(&config));
    println!("{}", report.text(false));
    report
}

/// The finding that says this. Panics if there is none, or not at this level.
#[track_caller]
fn find<'a>(report: &'a Report, level: &str, words: &str) -> &'a Finding {
    let found = report.findings().find(|finding| finding.level.name() == level && finding.what.contains(words));
    found.unwrap_or_else(|| panic!("no {level} says {words:?}:\n{}", report.text(false)))
}

/// Panics if mail was sent, or only begun.
#[track_caller]
fn assert_no_mail(backend: &Backend) {
    for seen in backend.seen() {
        let begun =
            |command: &String| ["DATA", "BDAT"].iter().any(|verb| command.to_ascii_uppercase().starts_with(verb));
        assert!(seen.messages.is_empty() && !seen.commands.iter().any(begun), "{:?}", seen.commands);
    }
}

/// An MTA that reads PROXY headers and relays for nobody.
fn proper() -> Manners {
    Manners::default().behind_proxy().but("RCPT", RELAY_DENIED)
}

#[test]
fn an_mta_that_is_right_is_asked_in_every_way() {
    let backend = proper().start();
    let report = examine(backend.address(), "");
    assert_eq!(report.fault(), None);
    find(&report, "ok", "the MTA reads the PROXY header: it greets with one, and waits for it without");
    find(&report, "ok", "a stranger (192.0.2.1) may not relay: 554 5.7.1 Relay access denied");
    let seen = backend.seen();
    let said: Vec<&str> = seen.iter().flat_map(|seen| &seen.commands).map(String::as_str).collect();
    for command in [
        "EHLO [192.0.2.1]",
        "MAIL FROM:<>",
        "MAIL FROM:<doctor-probe@example.com>",
        "MAIL FROM:<doctor-probe@gate.test>",
        "RCPT TO:<doctor-probe@example.org>",
        "RCPT TO:<@gate.test:doctor-probe@example.org>",
        "RCPT TO:<doctor-probe@[192.0.2.1]>",
        "RCPT TO:<doctor-probe%example.org@gate.test>",
        "RCPT TO:<\"doctor-probe@example.org\"@gate.test>",
    ] {
        assert!(said.contains(&command), "{command} was not said: {said:?}");
    }
    let announced = seen.iter().filter_map(|seen| seen.proxy.as_ref()).map(|proxy| format!("{proxy:?}"));
    assert_eq!(announced.filter(|proxy| proxy.contains("192.0.2.1:")).count(), 2, "two connections as a stranger");
    assert_no_mail(&backend);
}

#[test]
fn what_mtas_say_of_relaying_is_told_apart() {
    let but = |at, reply| Manners::default().behind_proxy().but(at, Act::Say(reply));
    let taken = || Manners::default().behind_proxy();
    let percent = "RCPT TO:<DOCTOR-PROBE%";
    let rows = [
        (taken(), "problem", "OPEN RELAY"),
        (taken().but(percent, Act::Say("250 ok")).but("RCPT", RELAY_DENIED), "problem", "probe%example.org@gate.test"),
        (
            // Any name is taken in its own domain, even such a one.
            taken()
                .but(percent, Act::Say("250 ok"))
                .but("RCPT TO:<DOCTOR-PROBE-NO", Act::Say("250 ok"))
                .but("RCPT", RELAY_DENIED),
            "ok",
            "may not relay",
        ),
        (taken().but("RCPT TO:<@", Act::Say("250 ok")).but("RCPT", RELAY_DENIED), "problem", "RCPT TO:<@gate.test:"),
        (
            but("RCPT", "450 4.7.1 Greylisted, come again"),
            "warning",
            "it was put off (450 4.7.1 Greylisted, come again)",
        ),
        (but("RCPT", "550 5.1.8 Sender address rejected: Domain not found"), "warning", "the sender is refused"),
        (but("RCPT", "556 5.1.10 nullMX"), "warning", "the recipient's domain takes no mail"),
        (but("MAIL", "530 5.7.0 Must issue a STARTTLS command first"), "warning", "TLS has to come first"),
        (but("MAIL", "530 5.7.0 Authentication required"), "ok", "may not relay: 530 5.7.0"),
        (taken().but("RCPT", Act::SayAndClose("421 4.7.0 too many errors")), "warning", "it was put off (421"),
        (taken().but("RCPT", Act::Close), "warning", "the conversation broke"),
    ];
    // Side by side: each waits for a greeting that must not come.
    thread::scope(|scope| {
        for (manners, level, says) in rows {
            scope.spawn(move || {
                let backend = manners.start();
                let report = examine(backend.address(), "");
                find(&report, level, says);
                assert_eq!(report.fault(), (level == "problem").then_some(Fault::Setup));
                assert_no_mail(&backend);
            });
        }
    });
}

#[test]
fn an_mta_that_names_the_client_says_whether_it_believes() {
    let naming =
        |hello| Manners::default().behind_proxy().but("EHLO", Act::Say(hello)).but("RCPT", RELAY_DENIED).start();
    let backend = naming("250-mx.test Hello doctor [192.0.2.1]\r\n250 SIZE 5");
    let report = examine(backend.address(), "");
    find(&report, "ok", "believes the PROXY header: it names that address");
    assert_no_mail(&backend);
    let backend = naming("250-mx.test Hello doctor [127.0.0.1]\r\n250 SIZE 5");
    let report = examine(backend.address(), "");
    let found = find(&report, "problem", "takes gatepost for the client, although 192.0.2.1 was announced");
    assert_eq!(found.level, Level::Problem(Fault::Setup));
    assert!(found.remedy.contains("trusted proxies"), "{}", found.remedy);
    assert_no_mail(&backend);
}

#[test]
fn an_mta_that_shows_nothing_cannot_be_told() {
    // It swallows a header, and greets with one and without one.
    let backend = Backend::start(|talk| {
        talk.say("220 mx.test")?;
        while let Some(line) = talk.line()? {
            match line.split([' ', ':']).next().unwrap_or_default() {
                "PROXY" => {}
                "RCPT" => talk.say("554 5.7.1 Relay access denied")?,
                "QUIT" => return talk.say("221 bye"),
                _ => talk.say("250 ok")?,
            }
        }
        Ok(())
    });
    let report = examine(backend.address(), "announce = \"proxy-v1\"");
    let found = find(&report, "warning", "cannot tell whether the MTA believes the PROXY header");
    assert!(found.remedy.contains("log") && found.remedy.contains("192.0.2.1"), "{}", found.remedy);
    assert_eq!(report.fault(), None);
}

#[test]
fn an_mta_that_takes_the_header_for_a_command_is_found() {
    for answer in [Some("500 5.5.2 what?"), None] {
        let backend = Backend::start(move |talk| {
            talk.say("220 mx.test")?;
            while let Some(line) = talk.line()? {
                match (line.starts_with("PROXY"), answer) {
                    (true, Some(answer)) => talk.say(answer)?,
                    (true, None) => return Ok(()),
                    (false, _) => talk.say("250 ok")?,
                }
            }
            Ok(())
        });
        let report = examine(backend.address(), "announce = \"proxy-v1\"");
        find(&report, "problem", "does not expect a PROXY header: it greets, then");
        assert_eq!(report.fault(), Some(Fault::Setup));
        assert_no_mail(&backend);
    }
}

#[test]
fn an_mta_that_complains_late_is_found_too() {
    let backend = Backend::start(|talk| {
        talk.say("220 mx.test")?;
        // What is in the way of the EHLO was a header.
        let mut late = None;
        while let Some(line) = talk.line()? {
            match late.take() {
                _ if line.starts_with("PROXY") => late = Some("502 5.5.2 what?"),
                Some(late) => talk.say(late)?,
                None => talk.say("250 ok")?,
            }
        }
        Ok(())
    });
    let report = examine(backend.address(), "announce = \"proxy-v1\"");
    find(&report, "problem", "does not expect a PROXY header: with one, EHLO is answered with 502");
}

#[test]
fn an_mta_that_is_out_of_step_is_not_believed() {
    // Each reply comes twice: the second to MAIL would be taken for that to RCPT, and so for an open relay.
    let backend = Backend::start(|talk| {
        talk.proxy()?;
        talk.say("220 mx.test")?;
        while let Some(line) = talk.line()? {
            match line.split([' ', ':']).next().unwrap_or_default() {
                "MAIL" => talk.say("250 ok\r\n250 ok")?,
                "RCPT" => talk.say("554 5.7.1 Relay access denied")?,
                _ => talk.say("250 ok")?,
            }
        }
        Ok(())
    });
    let report = examine(backend.address(), "");
    find(&report, "warning", "cannot tell whether a stranger (192.0.2.1) may relay: the conversation broke");
    assert_eq!(report.fault(), None);
}

#[test]
fn an_mta_that_is_not_to_be_had_is_told_with_its_words() {
    let manners = |at, act| Manners::default().behind_proxy().but(at, act).start();
    for (backend, says) in [
        (manners("GREETING", Act::Say("554 5.3.2 no service today")), "it refuses service: 554 5.3.2 no service today"),
        (manners("GREETING", Act::Close), "closed where a reply was due"),
        (manners("GREETING", Act::Hang), "no reply within 1s"),
        (manners("GREETING", Act::Say("HTTP/1.1 400 Bad Request")), "what it says is no SMTP reply"),
        (manners("EHLO", Act::Close), "no EHLO: closed where a reply was due"),
    ] {
        let report = examine(backend.address(), "");
        let found = find(&report, "problem", says);
        assert!(!found.remedy.is_empty());
        assert_eq!(report.fault(), Some(Fault::Away), "{says}");
    }
    let nobody = examine(free_address(), "");
    assert!(find(&nobody, "problem", "cannot connect").remedy.contains("ss -ltnp"));
    assert_eq!(nobody.fault(), Some(Fault::Away));
}

#[test]
fn keywords_that_are_withheld_are_told_with_the_reason() {
    let keywords =
        ["SIZE 5", "XCLIENT NAME ADDR", "X-EXPS", "STARTTLS", "AUTH PLAIN", "CHUNKING"].map(str::to_owned).to_vec();
    let backend = Manners { keywords, ..proper() }.start();
    let report = examine(backend.address(), "[gate.tls]\nstarttls = \"off\"");
    find(&report, "ok", "clients are offered: SIZE 5, CHUNKING (");
    let withheld = &find(&report, "note", "withheld from clients").what;
    for word in ["XCLIENT (gatepost could not", "X-EXPS (", "STARTTLS (`starttls` is", "AUTH (`offer_auth` is false"] {
        assert!(withheld.contains(word), "{word} is not in {withheld}");
    }
}

#[test]
fn an_mta_that_is_told_nothing_is_asked_as_gatepost() {
    let open = Manners::default().start();
    let report = examine(open.address(), "announce = \"none\"");
    find(&report, "problem", "OPEN RELAY: the MTA takes gatepost for every client");
    find(&report, "note", "is not told who the client is");
    assert_eq!(report.fault(), Some(Fault::Setup));
    assert_no_mail(&open);
    let closed = Manners::default().but("RCPT", RELAY_DENIED).start();
    let report = examine(closed.address(), "announce = \"none\"");
    find(&report, "ok", "gatepost's address, which is every client's here, may not relay");
    assert_eq!(report.fault(), None);
    assert_no_mail(&closed);
}

#[test]
fn what_an_mta_says_cannot_write_to_the_terminal() {
    let backend = Manners { greeting: "220 \u{1b}[2J\u{202e}mx".to_owned(), ..Manners::default().behind_proxy() }
        .but("EHLO", Act::Say("250-mx\u{7}\r\n250-\u{1b}]0;x\u{7}\r\n250 SIZE \u{9b}1"))
        .but("RCPT", Act::Say("554 5.7.1 \u{1b}[31mno relay\u{8}"))
        .start();
    let report = examine(backend.address(), "");
    let text = report.text(false);
    let tame = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
    assert!(text.chars().all(tame), "{text:?}");
    find(&report, "ok", "220 \\x1B[2J\\u{202E}mx");
    find(&report, "ok", "\\x1B[31mno relay\\x08");
    assert_no_mail(&backend);
}

#[test]
fn a_port_that_is_open_towards_the_network_too_is_found() {
    // The address that this host would go out by; nothing is sent for that.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    let Some(own) = socket.connect("192.0.2.1:9").ok().and_then(|()| socket.local_addr().ok()) else {
        println!("this host has no address but loopback");
        return;
    };
    let manners = proper();
    let everywhere = Backend::start_at(([0, 0, 0, 0], 0).into(), move |talk| manners.converse(talk));
    let port = everywhere.address().port();
    let report = examine(([127, 0, 0, 1], port).into(), "");
    let found = find(&report, "warning", &format!("the backend's port is open at {}:{port} as well", own.ip()));
    assert!(found.remedy.contains(&format!("127.0.0.1:{port} only")), "{}", found.remedy);
}
