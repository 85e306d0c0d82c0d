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
use host::gate::Gate;
use host::ports::free_address;

const RELAY_DENIED: Act = Act::Say("554 5.7.1 Relay access denied");

/// A name server that knows of nothing; for as long as the test program runs.
fn name_server() -> SocketAddr {
    name_server_saying(3)
}

/// One that gives each question this response code.
fn name_server_saying(code: u8) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback port");
    let address = socket.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            if length > 12 {
                // RFC 1035, 4.1.1: an answer; no records, not even those that the question came with.
                question[2] |= 0x80;
                question[3] = 0x80 | code;
                question[6..12].fill(0);
                let _ = socket.send_to(&question[..length], from);
            }
        }
    });
    address
}

/// Examines a gate before `backend`, with these lines of its own.
fn examine(backend: SocketAddr, gate: &str) -> Report {
    examine_at(free_address(), backend, gate)
}

/// The same for a gate that listens there.
fn examine_at(listen: SocketAddr, backend: SocketAddr, gate: &str) -> Report {
    let file = format!(
        "hostname = \"mx.gate.test\"\n[[gate]]\nlisten = \"{listen}\"\nbackend = \"{backend}\"\n{gate}\n\
         [dnsbl]\nsites = \"bl.test\"\nnameservers = \"{}\"\n[timeouts]\nreplay = \"1s\"\n",
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

/// The lines of a gate that tells by XCLIENT, and asks `names` for names.
fn by_xclient(names: SocketAddr) -> String {
    format!("announce = \"xclient\"\n[dns]\nnameservers = \"{names}\"")
}

/// An MTA that offers XCLIENT, takes it, and relays for nobody.
fn believing() -> Manners {
    let keywords = ["SIZE 5", "XCLIENT NAME ADDR PORT HELO"].map(str::to_owned).to_vec();
    Manners { keywords, ..Manners::default() }.but("RCPT", RELAY_DENIED)
}

const ANEW: Act = Act::Say("220 mx.test ESMTP");

#[test]
fn an_mta_that_takes_xclient_is_asked_as_a_stranger_by_it() {
    let backend = believing().but("XCLIENT", ANEW).start();
    let report = examine(backend.address(), &by_xclient(name_server()));
    assert_eq!(report.fault(), None);
    for words in [
        "the MTA offers gatepost XCLIENT NAME ADDR PORT HELO",
        "the MTA takes XCLIENT: it begins anew for 192.0.2.1, with 220",
        "a stranger (192.0.2.1) may not relay: 554 5.7.1 Relay access denied",
        "finds the names of clients",
    ] {
        find(&report, "ok", words);
    }
    find(&report, "note", "XCLIENT (it is for gatepost)");
    let as_stranger = "XCLIENT HELO=doctor.gatepost.invalid PORT=40000 NAME=[UNAVAILABLE] ADDR=192.0.2.1";
    for seen in backend.seen() {
        let told = seen.commands.iter().position(|said| said == as_stranger);
        let asked = seen.commands.iter().position(|said| said == "MAIL FROM:<doctor-probe@gate.test>");
        assert!(asked.is_none() || told.is_some_and(|told| Some(told) < asked), "{:?}", seen.commands);
    }
    assert_no_mail(&backend);
}

#[test]
fn an_mta_that_does_not_take_xclient_from_gatepost_is_found() {
    let keywords = |line: &str| Manners { keywords: vec![line.to_owned()], ..Manners::default() };
    for (manners, level, says, remedy) in [
        (
            keywords("SIZE 5"),
            "problem",
            "does not offer XCLIENT to 127.0.0.1: clients that pass get 421",
            "smtpd_authorized_xclient_hosts = 127.0.0.1",
        ),
        (keywords("XCLIENT NAME PORT"), "problem", "offers XCLIENT NAME PORT, without ADDR", "see `announce`"),
        (
            believing().but("XCLIENT", Act::Say("550 5.7.0 Error: insufficient authorization")),
            "problem",
            "refuses it for 192.0.2.1: 550 5.7.0 Error: insufficient authorization",
            "smtpd_authorized_xclient_hosts = 127.0.0.1",
        ),
        (
            believing().but("XCLIENT", Act::Say("501 5.5.4 Bad XCLIENT attribute value")),
            "problem",
            "refuses it for 192.0.2.1: 501 5.5.4",
            "smtpd_authorized_xclient_hosts",
        ),
        // Not a matter of trust: it is this client that it will not have.
        (
            believing().but("XCLIENT", Act::Say("554 5.7.1 you of all")),
            "warning",
            "the client itself is refused (554 5.7.1 you of all)",
            "try it by hand",
        ),
        (
            believing()
                .but("XCLIENT", ANEW)
                .but("EHLO DOCTOR", Act::Say("250-mx.test Hello [127.0.0.1]\r\n250 SIZE 5")),
            "problem",
            "takes gatepost for the client, although 192.0.2.1 was announced: it names gatepost's address",
            "smtpd_authorized_xclient_hosts",
        ),
        (proper(), "problem", "the MTA expects a PROXY header: as it is, no reply", "set announce = \"proxy-v2\""),
    ] {
        let backend = manners.start();
        let report = examine(backend.address(), &by_xclient(name_server()));
        let found = find(&report, level, says);
        assert!(found.remedy.contains(remedy), "{found:?}");
        assert_eq!(report.fault(), (level == "problem").then_some(Fault::Setup), "{says}");
        assert!(!report.text(false).contains("the MTA takes XCLIENT"), "{}", report.text(false));
        assert_no_mail(&backend);
    }
}

#[test]
fn xclient_is_recommended_where_it_is_offered_and_nothing_better_is_in_use() {
    for way in ["none", "header"] {
        let backend = believing().start();
        let report = examine(backend.address(), &format!("announce = \"{way}\""));
        assert!(find(&report, "note", "all are gatepost").remedy.contains("announce = \"xclient\""), "{way}");
        let backend = Manners::default().but("RCPT", RELAY_DENIED).start();
        let report = examine(backend.address(), &format!("announce = \"{way}\""));
        assert!(!find(&report, "note", "all are gatepost").remedy.contains("xclient"), "{way}");
    }
    // It takes the header for a command.
    let backend = believing().but("PROXY", Act::Say("500 5.5.2 what?")).start();
    let report = examine(backend.address(), "announce = \"proxy-v1\"");
    let found = find(&report, "problem", "does not expect a PROXY header: it greets, then");
    assert!(
        found.remedy.ends_with("set announce = \"xclient\": the MTA offers XCLIENT to gatepost there"),
        "{found:?}"
    );
    // It is in use: no word of another way.
    let manners = believing();
    let backend = Manners { proxy: true, ..manners }.start();
    let report = examine(backend.address(), "");
    assert!(!report.findings().any(|found| found.remedy.contains("xclient")), "{}", report.text(false));
}

#[test]
fn name_servers_for_the_names_of_clients_are_asked() {
    let backend = believing().but("XCLIENT", ANEW).start();
    let (well, broken) = (name_server(), name_server_saying(2));
    let report = examine(backend.address(), &by_xclient(broken));
    let found = find(&report, "problem", &format!("no name server finds the names of clients: {broken}"));
    assert!(found.remedy.contains("dns.nameservers"), "{}", found.remedy);
    assert_eq!(report.fault(), Some(Fault::Away));
    let both = by_xclient(well).replace("nameservers = ", &format!("nameservers = [\"{broken}\", ")) + "]";
    let report = examine(backend.address(), &both);
    find(&report, "warning", &format!("{broken} does not answer"));
    find(&report, "ok", &format!("{well} finds the names of clients"));
    // Where nobody is told names, nobody is asked for them.
    let report = examine(proper().start().address(), &format!("[dns]\nnameservers = \"{broken}\""));
    assert!(!report.text(false).contains("names of clients"), "{}", report.text(false));
}

#[test]
fn an_mta_that_is_told_by_a_field_is_asked_as_gatepost() {
    let open = Manners::default().start();
    let report = examine(open.address(), "announce = \"header\"");
    find(&report, "problem", "OPEN RELAY: the MTA takes gatepost for every client");
    find(&report, "note", "by a field in the message alone");
    assert_eq!(report.fault(), Some(Fault::Setup));
    assert_no_mail(&open);
    let keywords = ["SIZE 5", "STARTTLS", "CHUNKING", "BINARYMIME"].map(str::to_owned).to_vec();
    let manners = Manners { keywords, ..Manners::default() }.but("RCPT", RELAY_DENIED).but("STARTTLS", Act::Close);
    let closed = manners.start();
    let report = examine(closed.address(), "announce = \"header\"");
    find(&report, "ok", "gatepost's address, which is every client's here, may not relay");
    find(&report, "ok", "clients are offered: SIZE 5, STARTTLS (");
    let withheld = &find(&report, "note", "withheld from clients").what;
    assert!(withheld.contains("CHUNKING (a chunk has no place") && withheld.contains("BINARYMIME ("), "{withheld}");
    let found = find(&report, "warning", "messages that come under TLS carry no field");
    assert!(found.remedy.contains("[gate.tls]"), "{}", found.remedy);
    let report = examine(closed.address(), "announce = \"header\"\n[gate.tls]\nstarttls = \"off\"");
    assert!(!report.text(false).contains("carry no field"), "{}", report.text(false));
    assert!(closed.seen().iter().all(|seen| !seen.commands.iter().any(|said| said.contains("192.0.2.1:"))));
    assert_no_mail(&closed);
}

#[test]
fn a_gatepost_behind_a_load_balancer_is_known_by_its_words() {
    let backend = proper().start();
    for (networks, said) in [
        // One that does not know us, and one that takes us for its load balancer and would wait for our header.
        (
            "['10.0.0.5', '2001:db8::/48']",
            "421 4.3.5 mx.gate.test This port takes connections from its load balancer only",
        ),
        ("'127.0.0.1'", "220 mx.gate.test"),
    ] {
        let from = format!("proxy_from = {networks}");
        let gate = Gate::start(|at| {
            let mta = backend.address();
            let (smtp, admin) = (at.smtp, at.admin);
            format!(
                "hostname = 'mx.gate.test'\nadmin = '{admin}'\n[[gate]]\nlisten = '{smtp}'\nbackend = '{mta}'\n{from}\n"
            )
        });
        // Without `admin` in the file that it reads, doctor has to go by what is said.
        let report = examine_at(gate.smtp(), backend.address(), &from);
        let found = find(&report, "note", &format!("it says: {said}"));
        assert!(found.what.contains("is in use, by"), "{found:?}");
        let shown = networks.replace(['[', ']', '\''], "");
        let found = find(&report, "note", &format!("connections are taken from {shown} only"));
        assert!(found.remedy.contains("firewall"), "{found:?}");
        assert_eq!(report.fault(), None);
        gate.stop();
    }
    // Whoever else says 421 is not taken for one.
    let other = Manners::default().but("GREETING", Act::SayAndClose("421 4.3.2 mx.gate.test busy")).start();
    let report = examine_at(other.address(), backend.address(), "proxy_from = '10.0.0.5'");
    find(&report, "problem", "is in use, and gatepost does not run: it says: 421 4.3.2 mx.gate.test busy");
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
