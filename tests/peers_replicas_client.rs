//! In front of Exchange and IceWarp, which read no PROXY header and know no XCLIENT: they see each client's own address on
//! their sockets (`announce = "transparent"`, between hosts of their own), or it is in a field on top of each message
//! (`announce = "header"`). `host::replica` speaks their words behind the gate, version by version.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;
mod peers;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;

use host::client::{Call, Client, Encryption, Outcome};
use host::dialogue::{Dialogue, stuffed};
use host::gate::{Gate, Place};
use host::letter::Letter;
use host::network::{
    Family, GATE_V4, GATE_V6, INNER, INNER_V4, INNER_V6, Inside, MTA_NAME, Network, client, gate, mta,
};
use host::peers::{Peer, present};
use host::replica::{Dialect, Heard, NOBODY, Options, PASSWORD, Replica, USER};
use host::secure::{Secure, clear, connect};
use host::wait;
use peers::replicas::{
    ELSEWHERE, assert_all_arrived, assert_nothing_private, certificates, for_each_dialect, keywords,
};
use peers::{ALLOWED, transparent, visits};

/// The programs that send here.
const SENDERS: [Client; 3] = [Client::Swaks, Client::Curl, Client::Smtplib];

/// What they need.
const PEERS: [Peer; 3] = [Peer::Swaks, Peer::Curl, Peer::Python];

/// A replica behind a gate that connects from clients' addresses; each is a host.
struct Street<'a> {
    network: &'a Network,
    dialect: Dialect,
    /// One for each family.
    replicas: [Replica; 2],
    gate: Inside<'a, Gate>,
}

impl<'a> Street<'a> {
    /// With the gate's lines about `[[gate]]`; `port` is that of the gate and of the replica.
    #[track_caller]
    fn with(
        network: &'a Network,
        dialect: Dialect,
        options: Options,
        port: u16,
        lines: impl Fn(&Path) -> String + Sync,
    ) -> Self {
        network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
        network.make_gate_the_default_gateway();
        let replicas = Family::BOTH.map(|family| {
            let listener = network.mta.run(|| TcpListener::bind(mta(family, port)).expect("a port of its own"));
            Replica::on(listener, dialect, options)
        });
        let gate = transparent::gate(network, |at| {
            format!(
                "hostname = 'mx.gate.test'\nadmin = '{}'\n[greet]\nwait_min = '200ms'\nwait_max = '2s'\n\
                 [[gate]]\nlisten = ['{GATE_V4}:{port}', '[{GATE_V6}]:{port}']\nbackend = '{MTA_NAME}:{port}'\n\
                 announce = 'transparent'\n{}\n",
                at.admin,
                lines(at.dir),
            )
        });
        // Strangers are shown what the MTA offers, once that is known.
        wait::until("the MTA to be known", || gate.complaints().contains("the backend answers").then_some(()));
        Self { network, dialect, replicas, gate }
    }

    /// What both replicas heard.
    fn heard(&self) -> Vec<Heard> {
        self.replicas.iter().flat_map(Replica::heard).collect()
    }

    /// Sends from inside the clients' host.
    fn send(&self, program: Client, call: &Call, letter: &Letter) -> Outcome {
        self.network.clients.run(|| program.send(call, letter))
    }

    /// Panics unless each of these came to a replica once and unchanged, over a socket that bore its client's address.
    #[track_caller]
    fn assert_came_from(&self, sent: &[(IpAddr, Letter)]) {
        let heard = self.heard();
        let messages = || heard.iter().flat_map(|heard| &heard.messages);
        assert_eq!(messages().count(), sent.len(), "{}: as many as were sent", self.dialect.name);
        for (client, letter) in sent {
            letter.assert_arrived_once(messages().map(|message| &message.bytes[..]), 0);
            let its = |heard: &&Heard| heard.messages.iter().any(|message| letter.is(&message.bytes, 0));
            let peer = heard.iter().find(its).expect("it came").peer.ip();
            assert_eq!(peer, *client, "{}", self.dialect.name);
        }
        // The gate for itself only asks what is offered, and whoever else came is a client.
        for heard in &heard {
            let begun = heard.commands.iter().any(|line| line.starts_with("MAIL") || line.starts_with("AUTH"));
            let probe = [INNER_V4, INNER_V6].contains(&heard.peer.ip());
            assert!(!(probe && begun), "{heard:?}");
            assert!(probe || clients().any(|client| client == heard.peer.ip()), "{heard:?}");
        }
    }
}

/// Every client's address.
fn clients() -> impl Iterator<Item = IpAddr> {
    Family::BOTH.into_iter().flat_map(|family| (1..=host::network::CLIENTS).map(move |n| client(family, n)))
}

/// What a client is to hear of `dialect` in the first line of the reply to EHLO.
fn hello(dialect: &Dialect, client: IpAddr) -> String {
    let text = dialect.hello.replace("{host}", dialect.host).replace("{name}", "client.test");
    format!("250-{}", text.replace("{peer}", &client.to_string()))
}

/// Who cannot speak IPv6 here: swaks without one more of Perl's libraries.
fn speaks(program: Client, family: Family) -> bool {
    family == Family::V4 || program != Client::Swaks
}

#[test]
fn every_replica_has_each_client_s_own_address_on_its_socket() {
    if !present(&[&PEERS[..], &[Peer::Ip, Peer::Nft]].concat()) {
        return;
    }
    for_each_dialect(|dialect| {
        let network = Network::start();
        let street = Street::with(&network, dialect, Options::default(), 25, |_| "tls.starttls = 'off'".to_owned());
        let mut sent = Vec::new();
        for family in Family::BOTH {
            let server = gate(family, 25);
            let programs = SENDERS.into_iter().filter(|&program| speaks(program, family));
            for (program, n) in programs.zip(2..) {
                let ip = client(family, n);
                // First as a stranger (of IPv6, one network is one), then known.
                for letter in [Letter::short(), Letter::short()] {
                    street.send(program, &Call::to(server).from(ip), &letter).assert_accepted();
                    sent.push((ip, letter));
                }
            }
            let ip = client(family, 1);
            let first = if family == Family::V4 { "stranger" } else { "remembered" };
            for as_what in [first, "remembered", "remembered"] {
                let mut dialogue = network.clients.run(|| Dialogue::from(ip, server));
                let greeting = dialogue.expect("220");
                let reply = dialogue.say("EHLO client.test").expect("250");
                assert_nothing_private(&dialect, &reply);
                assert!(!keywords(&reply).contains(&"STARTTLS"), "{reply}");
                if as_what == "remembered" {
                    assert!(greeting.starts_with(&format!("220 {} ", dialect.host)), "{greeting}");
                    assert_eq!(reply.lines().next(), Some(hello(&dialect, ip).as_str()), "unchanged");
                }
                let letter = Letter::saying(b".\r\n..\r\nGr\xc3\xbc\xc3\x9fe\r\n");
                dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
                dialogue.say(&format!("RCPT TO:<{NOBODY}>")).expect("550");
                // Not for any trust that the gate's own address has; IceWarp names whom it refuses.
                let refusal = dialect.replies.no_relay.replace("{to}", &format!("<{ELSEWHERE}>"));
                let refusal = refusal.replace("{peer}", &ip.to_string());
                assert_eq!(dialogue.say(&format!("RCPT TO:<{ELSEWHERE}>")).expect("550").trim_end(), refusal);
                dialogue.say("RCPT TO:<alice@example.test>").expect("250");
                dialogue.say("DATA").expect("354");
                dialogue.send(stuffed(&letter.bytes)).expect("250");
                dialogue.say("XPROXYTO DESTINATIONS=EX2 SID=08D0").expect("500");
                dialogue.say("QUIT").expect("221");
                sent.push((ip, letter));
            }
            let seen = visits(&street.gate, ip, 3);
            let as_what: Vec<_> = seen.iter().filter_map(|record| record["recognition"].as_str()).collect();
            assert_eq!(as_what, [first, "remembered", "remembered"], "{seen:#?}");
        }
        street.assert_came_from(&sent);
        assert!(
            street.replicas.iter().all(|replica| !replica.commands().iter().any(|line| line.starts_with("XPROXY")))
        );
    });
}

#[test]
fn whoever_logs_in_does_so_from_an_address_of_their_own() {
    if !present(&[&PEERS[..], &[Peer::Ip, Peer::Nft]].concat()) {
        return;
    }
    const PORT: u16 = 587;
    for_each_dialect(|dialect| {
        let network = Network::start();
        let options = Options { login_first: true, ..Options::default() };
        let street = Street::with(&network, dialect, options, PORT, |dir| {
            format!("scene = 'submission'\nbackend_tls = 'starttls'\n{}", certificates(dir))
        });
        let (mut sent, mut failed) = (Vec::new(), Vec::new());
        let letter = || Letter::short().to(&[ELSEWHERE]);
        for family in Family::BOTH {
            let server = gate(family, PORT);
            // The first of them as a stranger.
            for _ in 0..2 {
                let (ip, letter) = (client(family, 1), letter());
                let mut secure = network.clients.run(|| {
                    let mut plain = connect(ip, server);
                    clear(&mut plain, "", "220");
                    assert_nothing_private(&dialect, &clear(&mut plain, "EHLO client.test", "250"));
                    clear(&mut plain, "STARTTLS", "220");
                    Secure::over(plain, "mx.gate.test")
                });
                assert_nothing_private(&dialect, &secure.ask("EHLO client.test", "250"));
                secure.ask("AUTH LOGIN", "334");
                secure.ask("dGlt", "334");
                secure.ask("dGFuc3RhYWZ0YW5zdGFhZg==", "235");
                secure.ask("MAIL FROM:<bob@example.org>", "250");
                secure.ask(&format!("RCPT TO:<{ELSEWHERE}>"), "250");
                secure.ask("DATA", "354");
                secure.send(&stuffed(&letter.bytes));
                secure.expect("250");
                // The MTA knows by now who this is, and says so of itself.
                let reply = secure.ask("EHLO client.test", "250");
                assert_eq!(reply.lines().next(), Some(hello(&dialect, ip).as_str()));
                secure.ask("QUIT", "221");
                sent.push((ip, letter));
            }
            for (program, n) in SENDERS.into_iter().filter(|&program| speaks(program, family)).zip(2..) {
                let ip = client(family, n);
                let call = Call::to(server).from(ip).over(Encryption::StartTls).by("LOGIN");
                for _ in 0..2 {
                    let letter = letter();
                    street.send(program, &call.clone().with_login(USER, PASSWORD), &letter).assert_accepted();
                    sent.push((ip, letter));
                }
                assert!(!street.send(program, &call.with_login(USER, "wrong"), &letter()).accepted);
                failed.push(ip);
            }
        }
        street.assert_came_from(&sent);
        // What it counts failures by is each client's own, and so is what it locks out.
        let heard = street.heard();
        let wrong = |heard: &&Heard| heard.attempts.iter().any(|attempt| attempt.succeeded == Some(false));
        let mut by: Vec<IpAddr> = heard.iter().filter(wrong).map(|heard| heard.peer.ip()).collect();
        by.sort();
        by.dedup();
        failed.sort();
        assert_eq!(by, failed, "{}", dialect.name);
        assert!(heard.iter().all(|heard| heard.secure || heard.attempts.is_empty()), "passwords under TLS only");
    });
}

/// A gate for mail and one to log in at, both with TLS that ends there; messages carry a field that names the client.
fn naming(at: &Place<'_>, mx: &Replica, submission: &Replica) -> String {
    let tls = certificates(at.dir);
    let common = "announce = 'header'\naccept_unknown_client = true\nbackend_tls = 'starttls'";
    format!(
        "hostname = 'mx.gate.test'\nadmin = '{}'\n[access]\nallow = '{ALLOWED}'\n\
         [greet]\nwait_min = '200ms'\nwait_max = '6s'\n\
         [[gate]]\nlisten = '{}'\nbackend = '{}'\n{common}\n{tls}\n\
         [[gate]]\nscene = 'submission'\nlisten = '{}'\nbackend = '{}'\n{common}\n{tls}\n",
        at.admin,
        at.smtp,
        mx.address(),
        at.second,
        submission.address(),
    )
}

/// The gate of [`naming`], and what is behind its two ports.
fn naming_gate(dialect: Dialect) -> (Gate, Replica, Replica) {
    let (mx, submission) =
        (Replica::start(dialect), Replica::with(dialect, Options { login_first: true, ..Options::default() }));
    let gate = Gate::start(|at| naming(at, &mx, &submission));
    mx.wait_for_probe();
    submission.wait_for_probe();
    (gate, mx, submission)
}

/// The field on top of a message, in one line.
fn top_field(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message).replace("\r\n\t", " ").replace("\r\n ", " ");
    text.lines().next().unwrap_or_default().to_owned()
}

/// Panics unless the letter is at `replica` once, with one field more on top, and that says who sent it and how.
#[track_caller]
fn assert_named(gate: &Gate, replica: &Replica, letter: &Letter, client: IpAddr, protocol: &str, nth: usize) {
    let messages = replica.messages();
    letter.assert_arrived_once(messages.iter().map(|message| &message.bytes[..]), 1);
    let message = messages.iter().find(|message| letter.names(&message.bytes)).expect("it arrived");
    assert!(!message.chunked);
    let field = top_field(&message.bytes);
    let (before, rest) = field.split_once(" id ").unwrap_or_else(|| panic!("{field}"));
    let whom = format!("Received: from client.test ([{client}]) by mx.gate.test (gatepost) with {protocol}");
    assert_eq!(before, whom);
    let (id, date) = rest.split_once("; ").unwrap_or_else(|| panic!("{field}"));
    assert!(date.ends_with(" +0000"), "{field}");
    let visit = id.strip_suffix(&format!("-{nth}")).filter(|_| nth > 1).unwrap_or(id);
    let record = gate.wait_for_record(|record| record["visit"] == visit);
    assert_eq!(record["client"], client.to_string(), "{record:#}");
}

#[test]
fn a_field_on_top_names_the_client_and_is_all_that_is_added() {
    if !present(&PEERS) {
        return;
    }
    for_each_dialect(|dialect| {
        let (gate, mx, submission) = naming_gate(dialect);
        // That it came a long way already changes nothing.
        let mut travelled = Letter::short();
        travelled.bytes.splice(
            0..0,
            *b"Received: from far ([192.0.2.9]) by away.test with SMTP;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n",
        );
        let (mut mail, mut logins) = (Vec::new(), Vec::new());
        for (program, n) in SENDERS.into_iter().zip(1..) {
            for (tls, network, protocol) in [(Encryption::None, 1, "ESMTP"), (Encryption::StartTls, 2, "ESMTPS")] {
                // Twice: a stranger, and then remembered; and one that is let in untested.
                let stranger = Ipv4Addr::new(127, network, 0, n);
                for source in [stranger, stranger, Ipv4Addr::new(127, 9, network, n)] {
                    let letter = Letter::short();
                    program.send(&Call::to(gate.smtp()).from(source).over(tls), &letter).assert_accepted();
                    assert_named(&gate, &mx, &letter, source.into(), protocol, 1);
                    mail.push(letter);
                }
            }
            for source in [Ipv4Addr::new(127, 3, 0, n), Ipv4Addr::new(127, 9, 3, n)] {
                let letter = Letter::short().to(&[ELSEWHERE]);
                let call = Call::to(gate.second()).from(source).over(Encryption::StartTls);
                program.send(&call.with_login(USER, PASSWORD).by("LOGIN"), &letter).assert_accepted();
                assert_named(&gate, &submission, &letter, source.into(), "ESMTPSA", 1);
                logins.push(letter);
            }
        }
        let source = Ipv4Addr::new(127, 1, 0, 100);
        Client::Smtplib.send(&Call::to(gate.smtp()).from(source), &travelled).assert_accepted();
        assert_named(&gate, &mx, &travelled, source.into(), "ESMTP", 1);
        mail.push(travelled);
        assert_all_arrived(&mx, &mail, 1);
        assert_all_arrived(&submission, &logins, 1);
    });
}

#[test]
fn each_message_of_a_visit_has_a_field_and_none_can_come_by_chunks() {
    for_each_dialect(|dialect| {
        let (gate, mx, _submission) = naming_gate(dialect);
        let mut sent = Vec::new();
        for source in [Ipv4Addr::new(127, 0, 0, 7), Ipv4Addr::new(127, 9, 0, 1)] {
            let mut dialogue = Dialogue::from(source, gate.smtp());
            dialogue.expect("220");
            let reply = dialogue.say("EHLO client.test").expect("250");
            assert_nothing_private(&dialect, &reply);
            for keyword in ["CHUNKING", "BINARYMIME"] {
                assert!(!reply.contains(keyword), "{reply}");
            }
            assert!(keywords(&reply).contains(&"8BITMIME") || keywords(&reply).contains(&"8bitmime"), "{reply}");
            dialogue.say("MAIL FROM:<bob@example.org> BODY=BINARYMIME").expect("555");
            let letters = Letter::awkward();
            for letter in &letters {
                dialogue.say("MAIL FROM:<bob@example.org>").expect("250");
                dialogue.say("RCPT TO:<alice@example.test>").expect("250");
                dialogue.say("DATA").expect("354");
                dialogue.send(stuffed(&letter.bytes)).expect("250");
            }
            dialogue.say("QUIT").expect("221");
            // Where a chunk that was not asked for ends is nothing to guess at.
            let mut chunks = Dialogue::from(source, gate.smtp());
            chunks.expect("220");
            for line in ["EHLO client.test", "MAIL FROM:<bob@example.org>", "RCPT TO:<alice@example.test>"] {
                chunks.say(line).expect("250");
            }
            chunks.say("BDAT 1 LAST").expect("503");
            chunks.expect_close();
            let mut secure = Secure::after_starttls(source, gate.smtp(), "mx.gate.test");
            let reply = secure.ask("EHLO client.test", "250");
            assert!(!reply.contains("CHUNKING") && !reply.contains("BINARYMIME"), "{reply}");
            secure.ask("QUIT", "221");
            for (letter, nth) in letters.into_iter().zip(1..) {
                assert_named(&gate, &mx, &letter, source.into(), "ESMTP", nth);
                sent.push(letter);
            }
        }
        assert_all_arrived(&mx, &sent, 1);
        assert!(!mx.commands().iter().any(|line| line.starts_with("BDAT")));
    });
}
