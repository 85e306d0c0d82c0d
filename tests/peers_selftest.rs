//! The hosts of `tests/host` work without a gate between them.
//!
//! What a later test says about the gate is worth as much as these: each mail program delivers to each MTA, each letter
//! arrives once and byte for byte, and what a test reads in an MTA's log is really said there.

mod host;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use host::backend::{Act, Manners};
use host::certificates::Certificates;
use host::client::{Call, Client, Encryption, swaks};
use host::dialogue::{Dialogue, stuffed};
use host::exim::{self, Exim};
use host::gate::sum_of_samples;
use host::haproxy::{self, Haproxy};
use host::letter::Letter;
use host::network::{self, Family, Network};
use host::nginx::Nginx;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use host::proxy;
use host::rbldnsd::{Rbldnsd, Zone};
use host::sink::{Sink, Transaction};

const CLIENTS: [Peer; 5] = [Peer::Swaks, Peer::Curl, Peer::Msmtp, Peer::Python, Peer::Nodemailer];

/// A client that exists only in PROXY headers.
const STRANGER: &str = "192.0.2.77:4711";

fn data(kept: &[Transaction]) -> impl Iterator<Item = &[u8]> {
    kept.iter().map(|transaction| &transaction.data[..])
}

fn postfix() -> (Sink, Postfix) {
    let sink = Sink::start();
    let postfix = Postfix::start(&postfix::Options::delivering_to(sink.address()));
    (sink, postfix)
}

fn exim() -> (Sink, Exim) {
    let sink = Sink::start();
    let exim = Exim::start(&exim::Options::delivering_to(sink.address()));
    (sink, exim)
}

/// Every client sends every odd letter to `server`; all arrive at `sink`, one MTA later.
fn deliver_everything(server: SocketAddr, sink: &Sink) {
    let mut letters = Vec::new();
    for client in Client::ALL {
        for letter in Letter::awkward().into_iter().chain([Letter::odd_header()]) {
            let outcome = client.send(&Call::to(server), &letter);
            assert!(outcome.accepted, "{client:?}:\n{}", outcome.transcript);
            letters.push((client, letter));
        }
    }
    let kept = sink.wait_for(letters.len());
    assert_eq!(kept.len(), letters.len());
    for (client, letter) in &letters {
        eprintln!("{client:?}");
        letter.assert_arrived_once(data(&kept), 1);
    }
    assert!(kept.iter().all(|one| one.to == ["<alice@example.test>"]), "the envelopes are the ones sent");
}

#[test]
fn every_client_delivers_to_postfix_once_and_unchanged() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix]].concat()) {
        return;
    }
    let (sink, postfix) = postfix();
    deliver_everything(postfix.plain(), &sink);
}

#[test]
fn every_client_delivers_to_exim_once_and_unchanged() {
    if !present(&[&CLIENTS[..], &[Peer::Exim]].concat()) {
        return;
    }
    let (sink, exim) = exim();
    deliver_everything(exim.plain(), &sink);
}

#[test]
fn clients_come_from_the_address_they_are_told() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim]].concat()) {
        return;
    }
    let (sink, postfix) = postfix();
    for (at, client) in (10..).zip(Client::ALL) {
        let source = Ipv4Addr::new(127, 0, 0, at);
        client.send(&Call::to(postfix.plain()).from(source), &Letter::short()).assert_accepted();
        postfix.wait_for_log(&["client=unknown", &format!("[{source}]")]);
    }
    let source = Ipv4Addr::new(127, 0, 0, 30);
    exim::send(&Call::to(postfix.plain()).from(source), &Letter::short()).assert_accepted();
    postfix.wait_for_log(&["client=unknown", &format!("[{source}]")]);
    sink.wait_for(Client::ALL.len() + 1);
}

#[test]
fn clients_report_a_refusal() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim]].concat()) {
        return;
    }
    let ((_sink, postfix), (_other_sink, exim)) = (postfix(), exim());
    let letter = Letter::short().to(&[postfix::REFUSED]);
    for server in [postfix.plain(), exim.plain()] {
        for client in Client::ALL {
            client.send(&Call::to(server), &letter).assert_refused("550");
        }
        exim::send(&Call::to(server), &letter).assert_refused("550 5.1.1");
    }
}

#[test]
fn mtas_relay_for_loopback_and_for_nobody_else() {
    if !present(&[Peer::Swaks, Peer::Postfix, Peer::Exim]) {
        return;
    }
    let ((sink, postfix), (other_sink, exim)) = (postfix(), exim());
    let abroad = Letter::short().to(&["somebody@example.net"]);
    for server in [postfix.plain(), exim.plain()] {
        let call = Call::to(server);
        Client::Swaks.send(&call, &abroad).assert_accepted();
        Client::Swaks.send(&call.from(Ipv4Addr::new(127, 0, 0, 2)), &abroad).assert_refused("5.7.1");
    }
    assert_eq!((sink.wait_for(1).len(), other_sink.wait_for(1).len()), (1, 1));
}

#[test]
fn clients_speak_tls_where_it_is_offered() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim, Peer::OpenSsl]].concat()) {
        return;
    }
    let certificates = Certificates::make();
    let sink = Sink::start();
    let options = postfix::Options {
        certificates: Some(&certificates),
        main_cf: &["smtpd_tls_loglevel = 1"],
        ..postfix::Options::delivering_to(sink.address())
    };
    let postfix = Postfix::start(&options);
    let calls =
        [Call::to(postfix.plain()).over(Encryption::StartTls), Call::to(postfix.wrapped()).over(Encryption::Implicit)];
    for call in &calls {
        for client in Client::ALL {
            client.send(call, &Letter::short()).assert_accepted();
        }
        exim::send(call, &Letter::short()).assert_accepted();
    }
    let letters = calls.len() * (Client::ALL.len() + 1);
    sink.wait_for(letters);
    let handshakes = postfix.log().matches("TLS connection established").count();
    assert_eq!(handshakes, letters, "{}", postfix.log());
}

#[test]
fn both_mtas_believe_a_proxy_header_of_either_version() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    let ((sink, postfix), (other_sink, exim)) = (postfix(), exim());
    for header in [proxy::v1, proxy::v2] {
        for server in [postfix.proxied(), exim.proxied()] {
            let mut dialogue = Dialogue::with(server);
            dialogue.send(header(STRANGER.parse().expect("an address"), server)).expect("220");
            dialogue.deliver(&Letter::short());
        }
    }
    sink.wait_for(2);
    other_sink.wait_for(2);
    assert_eq!(postfix.log().matches(": client=unknown[192.0.2.77]").count(), 2, "{}", postfix.log());
    assert_eq!(
        exim.log().matches(" <= bob@example.org H=(client.test) [192.0.2.77]:4711 ").count(),
        2,
        "{}",
        exim.log()
    );
}

#[test]
fn who_comes_through_a_proxy_header_is_not_trusted_as_loopback() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    let ((_sink, postfix), (_other_sink, exim)) = (postfix(), exim());
    for server in [postfix.proxied(), exim.proxied()] {
        let mut dialogue = Dialogue::with(server);
        dialogue.send(proxy::v2(STRANGER.parse().expect("an address"), server)).expect("220");
        dialogue.say("EHLO client.test").expect("250");
        dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
        assert!(
            dialogue
                .say("RCPT TO:<somebody@example.net>")
                .line()
                .is_ok_and(|line| { line.is_some_and(|line| line.starts_with('5')) })
        );
    }
}

#[test]
fn a_refused_letter_goes_no_further_and_comes_back_to_nobody() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    let refusing = Manners::default().but("RCPT", Act::Say("550 5.7.1 not here")).start();
    exim::send(&Call::to(refusing.address()), &Letter::short()).assert_refused("550 5.7.1 not here");
    let postfix = Postfix::start(&postfix::Options::delivering_to(refusing.address()));
    let exim = Exim::start(&exim::Options::delivering_to(refusing.address()));
    for server in [postfix.plain(), exim.plain()] {
        let mut dialogue = Dialogue::with(server);
        dialogue.expect("220");
        dialogue.deliver(&Letter::short());
    }
    postfix.wait_for_log(&["to=<bob@example.org>", "relay=none", "status=sent"]);
    exim.wait_for_log(&["=> :blackhole: <bob@example.org>"]);
    let seen = refusing.wait_for_ends(3);
    assert!(seen.iter().all(|one| one.commands.iter().any(|line| line.starts_with("MAIL FROM:<bob@"))));
    assert_eq!(seen.len(), 3, "a connection for each letter, none for a bounce");
}

#[test]
fn postfix_believes_xclient_on_its_own_port_for_it() {
    if !present(&[Peer::Postfix, Peer::Swaks]) {
        return;
    }
    let (sink, postfix) = postfix();
    let announced = ["--xclient-addr", "192.0.2.78", "--xclient-name", "[UNAVAILABLE]"];
    swaks(&Call::to(postfix.xclient()), &Letter::short(), &announced).assert_accepted();
    postfix.wait_for_log(&["client=unknown[192.0.2.78]"]);
    sink.wait_for(1);
}

#[test]
fn exim_as_a_client_uses_bdat_where_it_is_announced() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    let (sink, postfix) = postfix();
    let letters = Letter::awkward();
    for letter in &letters {
        let outcome = exim::send(&Call::to(postfix.plain()), letter);
        outcome.assert_accepted();
        assert!(exim::used_chunking(&outcome.transcript), "{}", outcome.transcript);
    }
    let kept = sink.wait_for(letters.len());
    for letter in &letters {
        // Exim's own Received field and Postfix'.
        letter.assert_arrived_once(data(&kept), 2);
    }
    postfix.wait_for_log(&["disconnect from", "bdat=1"]);

    let plain = Sink::start();
    let outcome = exim::send(&Call::to(plain.address()), &Letter::short());
    outcome.assert_accepted();
    assert!(!exim::used_chunking(&outcome.transcript), "{}", outcome.transcript);
    let chunking = Sink::announcing_chunking(true);
    exim::send(&Call::to(chunking.address()), &Letter::short()).assert_accepted();
    assert!(chunking.wait_for(1)[0].chunked && !plain.wait_for(1)[0].chunked);
}

#[test]
fn smtp_source_delivers_a_thousand_messages_to_postfix() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let (sink, postfix) = postfix();
    postfix::smtp_source(postfix.plain(), 20, 1000, 4000).assert_accepted();
    assert_eq!(sink.wait_for(1000).len(), 1000);
}

#[test]
fn rbldnsd_answers_and_reads_its_zones_again() {
    if !present(&[Peer::Rbldnsd]) {
        return;
    }
    let zone = Zone { name: "bl.test", kind: "ip4set", text: ":127.0.0.4:listed\n192.0.2.1\n".to_owned() };
    let rbldnsd = Rbldnsd::start(&[zone]);
    assert_eq!(rbldnsd.lookup("1.2.0.192.bl.test"), [[127, 0, 0, 4]]);
    assert!(rbldnsd.lookup("2.2.0.192.bl.test").is_empty());
    // As long as the first content, so that only the time of the change tells.
    rbldnsd.replace("bl.test", ":127.0.0.4:listed\n192.0.2.2\n");
    assert!(rbldnsd.lookup("1.2.0.192.bl.test").is_empty());
    assert_eq!(rbldnsd.lookup("2.2.0.192.bl.test"), [[127, 0, 0, 4]]);
}

#[test]
fn a_frozen_postfix_says_nothing_and_goes_on_when_thawed_until_it_is_stopped() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let (_sink, postfix) = postfix();
    postfix.freeze();
    let mut dialogue = Dialogue::with(postfix.plain());
    dialogue.expect_silence(Duration::from_millis(100));
    postfix.thaw();
    dialogue.expect("220");
    let port = postfix.plain();
    postfix.stop();
    assert!(Dialogue::try_from(Ipv4Addr::LOCALHOST, port).is_err(), "nobody is there");
}

#[test]
fn the_sink_keeps_bytes_as_they_came() {
    let sink = Sink::start();
    let mut dialogue = Dialogue::with(sink.address());
    dialogue.expect("220");
    dialogue.say("EHLO client.test").expect("250");
    let tricky = b"a\n.\r\nb\r\n.\nc\r\r\n..d\0\xff\r\n\n.\r\n";
    dialogue.send(b"MAIL FROM:<> SIZE=5\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n");
    for start in ["250", "250", "250", "354"] {
        dialogue.expect(start);
    }
    // `..d` and the lone dot before a bare LF begin lines after CRLF, so each loses its first dot; the dots after a
    // bare LF stay, and end nothing.
    dialogue.send(tricky).send(b".\r\n").expect("250");
    dialogue.say("QUIT").expect("221");
    dialogue.expect_close();
    let kept = sink.wait_for(1);
    assert_eq!(
        kept[0].data.escape_ascii().to_string(),
        b"a\n.\r\nb\r\n\nc\r\r\n.d\0\xff\r\n\n.\r\n".escape_ascii().to_string()
    );
    assert_eq!((kept[0].from.as_str(), kept[0].to.len()), ("<> SIZE=5", 2));
    assert_eq!(sink.connections(), 1);
}

#[test]
fn a_letter_that_lost_a_byte_is_noticed() {
    let letter = Letter::short();
    let arrived = [b"Received: from x\r\n\tby y\r\n", &letter.bytes[..]].concat();
    assert!(letter.is(&arrived, 1));
    assert!(!letter.is(&arrived, 0) && !letter.is(&arrived, 2));
    assert!(!letter.is(&arrived[..arrived.len() - 1], 1));
    assert!(!letter.is(&[&arrived[..], b"\r\n"].concat(), 1));
    assert!(letter.names(&arrived) && !Letter::short().names(&arrived));
}

#[test]
fn the_double_answers_as_told_and_remembers() {
    let backend = Manners::default().behind_proxy().but("RCPT TO:<NO", Act::Say("450 4.7.0 later")).start();
    let stranger: SocketAddr = STRANGER.parse().expect("an address");
    let letter = Letter::awkward().swap_remove(3);
    let mut dialogue = Dialogue::with(backend.address());
    dialogue.send(proxy::v2(stranger, backend.address())).expect("220");
    assert!(dialogue.say("EHLO client.test").expect("250").ends_with("250 SMTPUTF8\n"));
    dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
    dialogue.say("RCPT TO:<no@example.test>").expect("450 4.7.0");
    dialogue.say("RCPT TO:<yes@example.test>").expect("250");
    dialogue.say("DATA").expect("354");
    dialogue.send(stuffed(&letter.bytes)).expect("250");
    dialogue.send("BDAT 5\r\nab\r\nc").expect("250");
    dialogue.send("BDAT 0 LAST\r\n").expect("250");
    dialogue.say("QUIT").expect("221");
    dialogue.expect_close();
    let seen = backend.wait_for_ends(1);
    assert_eq!(seen[0].proxy.and_then(|header| header.addresses), Some((stranger, backend.address())));
    assert_eq!(seen[0].messages, [letter.bytes, b"ab\r\nc".to_vec()]);
    assert_eq!(seen[0].commands.len(), 8);
    assert!(seen[0].bytes.starts_with(b"EHLO client.test\r\n") && seen[0].bytes.ends_with(b"QUIT\r\n"));
}

#[test]
fn the_double_leaves_in_every_way() {
    let rows = [
        ("250 then close", Act::SayAndClose("421 4.3.0 bye"), Some("421")),
        ("close", Act::Close, None),
        ("reset", Act::Reset, None),
    ];
    for (row, act, reply) in rows {
        let reset = matches!(act, Act::Reset);
        let backend = Manners::default().but("MAIL", act).start();
        let mut dialogue = Dialogue::with(backend.address());
        dialogue.expect("220");
        dialogue.say("MAIL FROM:<>");
        if let Some(start) = reply {
            dialogue.expect(start);
        }
        assert_eq!(dialogue.line().is_err(), reset, "{row}");
    }
    let backend = Manners::default().but("GREETING", Act::Hang).start();
    let mut dialogue = Dialogue::with(backend.address());
    dialogue.expect_silence(Duration::from_millis(50));
    dialogue.say("EHLO early").finish_sending();
    assert_eq!(backend.wait_for_ends(1)[0].bytes, b"EHLO early\r\n");
}

#[test]
fn a_dialogue_can_end_by_reset() {
    let backend = host::backend::Backend::start(|talk| {
        talk.say("220 mx.test")?;
        let ended = talk.line();
        assert!(ended.is_err(), "a reset is an error, not an end");
        ended.map(drop)
    });
    let mut dialogue = Dialogue::from(Ipv4Addr::new(127, 0, 0, 9), backend.address());
    dialogue.expect("220");
    let ours = dialogue.local_address();
    dialogue.reset();
    assert_eq!(backend.wait_for_ends(1)[0].peer, Some(ours));
}

#[test]
fn proxy_headers_are_read_as_they_were_written() {
    let pairs = [("192.0.2.1:1", "127.0.0.1:65535"), ("[2001:db8::1]:25", "[::1]:2525")];
    for (from, to) in pairs.map(|(from, to)| (from.parse().expect("an address"), to.parse().expect("an address"))) {
        for (version, header) in [(1, proxy::v1(from, to)), (2, proxy::v2(from, to))] {
            let wire = [&header[..], b"EHLO x\r\n"].concat();
            let mut rest = &wire[..];
            let read = proxy::read(&mut rest).expect("a sound header");
            assert_eq!(read, proxy::Announced { version, addresses: Some((from, to)), visit: None });
            assert_eq!(rest, b"EHLO x\r\n");
        }
    }
    assert_eq!(proxy::read(&mut &proxy::v2_local()[..]).expect("a sound header").addresses, None);
    assert!(proxy::read(&mut &b"EHLO a.long.name.test\r\n"[..]).is_err());
}

#[test]
fn load_balancers_announce_the_client_and_their_checks_as_later_tests_have_it() {
    if !present(&[Peer::Haproxy, Peer::Nginx]) {
        return;
    }
    let client = Ipv4Addr::new(127, 0, 0, 45);
    let backend = Manners::default().behind_proxy().start();
    let (v1, v2) =
        (Haproxy::before(backend.address(), "send-proxy"), Haproxy::before(backend.address(), "send-proxy-v2"));
    let (stream, mail) = (Nginx::stream(backend.address()), Nginx::mail(backend.address()));
    for (count, (balancer, version)) in
        (1..).zip([(v1.address(), 1), (v2.address(), 2), (stream.address(), 1), (mail.address(), 1)])
    {
        let mut dialogue = Dialogue::from(client, balancer);
        dialogue.expect("220");
        dialogue.deliver(&Letter::short());
        let seen = backend.wait_for_ends(count);
        let announced = seen.last().and_then(|seen| seen.proxy).expect("a header");
        let addresses = announced.addresses.map(|(source, destination)| (source, destination.ip()));
        assert_eq!((announced.version, addresses), (version, Some((dialogue.local_address(), balancer.ip()))));
    }
    for (words, version) in [("send-proxy", 1), ("send-proxy-v2", 2)] {
        let backend = Manners::default().behind_proxy().start();
        let haproxy = Haproxy::before(backend.address(), &format!("{words} check inter 100ms"));
        haproxy.wait_for("UP");
        let checks = backend.wait_for_ends(1);
        let announced = checks[0].proxy.expect("a header");
        // Version 1 has no word for a check: it announces the connection itself.
        let itself = checks[0].peer.filter(|_| version == 1);
        assert_eq!((announced.version, announced.addresses.map(|(source, _)| source)), (version, itself));
        assert!(checks[0].peer.is_some_and(|peer| peer.ip().to_string() == haproxy::ADDRESS));
        assert!(checks[0].commands.iter().any(|command| command == "EHLO balancer.test"), "{:?}", checks[0].commands);
    }
}

#[test]
fn certificates_are_what_their_names_say() {
    if !present(&[Peer::OpenSsl]) {
        return;
    }
    let made = Certificates::make();
    let verify = |name: &str, options: &[&str]| {
        let mut openssl = std::process::Command::new(Peer::OpenSsl.program());
        openssl.arg("verify").arg("-CAfile").arg(made.authority()).args(options).arg(made.chain(name));
        host::client::run(openssl)
    };
    verify("mx.test", &["-verify_hostname", "mx.test", "-purpose", "sslserver"]).assert_accepted();
    verify("mx.test", &["-verify_ip", "127.0.0.1"]).assert_accepted();
    verify("other.test", &["-verify_hostname", "mx.test"]).assert_refused("hostname mismatch");
    verify("expired", &["-verify_hostname", "mx.test"]).assert_refused("expired");
}

#[test]
fn senders_in_parallel_do_not_disturb_one_another() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix]].concat()) {
        return;
    }
    let (sink, postfix) = postfix();
    let letters: Vec<Letter> = thread::scope(|scope| {
        let started: Vec<_> = Client::ALL
            .map(|client| {
                let server = postfix.plain();
                scope.spawn(move || {
                    let letter = Letter::short().to(&["alice@example.test", "carol@example.test"]);
                    client.send(&Call::to(server), &letter).assert_accepted();
                    letter
                })
            })
            .into_iter()
            .collect();
        started.into_iter().map(|sender| sender.join().expect("a sender that did not panic")).collect()
    });
    let kept = sink.wait_for(letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
}

#[test]
fn three_hosts_have_nothing_in_common_but_their_wires() {
    if !present(&[Peer::Ip]) {
        return;
    }
    let network = Network::start();
    for family in Family::BOTH {
        let address = network::mta(family, 25);
        let listener = network.mta.run(|| TcpListener::bind(address)).expect("a port of its own");
        let reach =
            |host: &network::Host| host.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)));
        assert!(reach(&network.clients).is_err(), "the gate passes nothing on by itself");
        assert!(TcpListener::bind(address).is_err(), "it is no address of this machine");
        let client = reach(&network.gate).expect("a wire");
        let (_, peer) = listener.accept().expect("who is there already");
        assert_eq!(peer, client.local_addr().expect("a connected socket has an address"));
        let sink = network.mta.keep(Sink::start);
        assert!(TcpStream::connect(sink.address()).is_err(), "its loopback is its own");
        assert!(network.mta.run(|| TcpStream::connect(sink.address())).is_ok());
    }
    let names = network.gate.command(Command::new("getent").args(["ahosts", network::MTA_NAME])).output();
    let names = String::from_utf8_lossy(&names.expect("getent is in libc-bin").stdout).into_owned();
    assert!(Family::BOTH.iter().all(|&family| names.contains(&network::mta(family, 25).ip().to_string())), "{names}");
}

#[test]
fn samples_are_summed_over_the_labels_not_asked_for() {
    let text = "# HELP a x\na{x=\"1\",y=\"p\"} 2\na{x=\"1\",y=\"q\"} 3\na{x=\"2\",y=\"p\"} 4\nab 9\nb 7\n";
    let rows = [
        ("a", &[][..], Some(9.0)),
        ("a", &[("x", "1")], Some(5.0)),
        ("a", &[("y", "p"), ("x", "2")], Some(4.0)),
        ("a", &[("x", "3")], None),
        ("b", &[], Some(7.0)),
        ("c", &[], None),
    ];
    for (name, labels, sum) in rows {
        assert_eq!(sum_of_samples(text, name, labels), sum, "{name} {labels:?}");
    }
}
