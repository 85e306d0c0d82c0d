//! How real MTAs hear who the client is, other than by a PROXY header alone: XCLIENT with Postfix, gatepost's own TLV with
//! Postfix and Exim, and the header field for those that can be told in no other way.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;
mod peers;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use host::backend::{Act, Backend, Manners};
use host::certificates::Certificates;
use host::client::{Call, Client, Encryption, swaks};
use host::dialogue::{Dialogue, stuffed};
use host::dns::NameServer;
use host::exim::{self, Exim};
use host::gate::Gate;
use host::letter::Letter;
use host::peers::{Peer, present};
use host::postfix::{self, Postfix};
use host::sink::Sink;
use host::wait;
use peers::{CLIENTS, File, assert_record, data, visits};

/// A client with a name of its own, that leads back to it.
const NAMED: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 1);

/// One without.
const NAMELESS: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 2);

/// One that Postfix refuses, as soon as it hears of it or at RCPT; and one that is let in untested.
const UNWELCOME: Ipv4Addr = Ipv4Addr::new(127, 0, 7, 9);
const ALLOWED: Ipv4Addr = Ipv4Addr::new(127, 9, 7, 9);

fn name_server() -> NameServer {
    NameServer::of(&[("client.named.test", NAMED.into()), ("six.named.test", Ipv6Addr::LOCALHOST.into())])
}

fn started(sink: &Sink, main_cf: &[&str]) -> Postfix {
    Postfix::start(&postfix::Options { main_cf, ..postfix::Options::delivering_to(sink.address()) })
}

/// A gate before `backend` that tells it of clients by XCLIENT.
fn gate(backend: SocketAddr, names: &NameServer, more: &str) -> Gate {
    let top = format!("dns.nameservers = \"{}\"", names.address());
    let gate = format!("announce = \"xclient\"\n{more}");
    File { top: &top, gate: &gate, ..File::default() }.before(backend)
}

/// Up to RCPT as a stranger; what that is answered.
fn up_to_rcpt(client: &mut Dialogue) -> String {
    client.expect("220");
    client.say("EHLO client.test").expect("250");
    client.say("MAIL FROM:<bob@example.org>").expect("250");
    client.say("RCPT TO:<alice@example.test>").expect("")
}

#[test]
fn postfix_hears_by_xclient_who_the_client_is() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let (sink, names) = (Sink::start(), name_server());
    let postfix = started(&sink, &["smtpd_client_port_logging = yes"]);
    let gate = gate(postfix.xclient(), &names, "");
    let mut letters = Vec::new();
    for (client, name) in [(NAMED, "client.named.test"), (NAMELESS, "unknown"), (ALLOWED, "unknown")] {
        // The first time as a stranger (but for the one that is allowed), the second as one who is known.
        for time in 1..=2 {
            let letter = Letter::short();
            let mut visit = Dialogue::from(client, gate.smtp());
            visit.expect("220");
            visit.deliver(&letter);
            let port = visit.local_address().port();
            postfix.wait_for_log(&[&format!(": client={name}[{client}]:{port}")]);
            letters.push(letter);
            let record = &visits(&gate, client, time)[time - 1];
            assert_record(record, &[("outcome", json!("relayed")), ("accepted", json!(1))]);
        }
        // Not 127.0.0.1, whom it would relay for.
        let mut visit = Dialogue::from(client, gate.smtp());
        visit.expect("220");
        visit.say("EHLO client.test").expect("250");
        visit.say("MAIL FROM:<bob@example.org>").expect("250");
        visit.say("RCPT TO:<carol@elsewhere.test>").expect("554 5.7.1");
    }
    let kept = sink.wait_for(letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
    let tops: Vec<String> = data(&kept).map(|mail| String::from_utf8_lossy(mail).into_owned()).collect();
    assert!(tops[0].starts_with("Received: from client.test (client.named.test [127.0.7.1])"), "{}", tops[0]);
    assert!(!gate.complaints().contains("XCLIENT"), "{}", gate.complaints());
}

#[test]
fn a_client_without_a_name_is_refused_where_postfix_asks_for_one_and_nobody_else_is() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let (sink, names) = (Sink::start(), name_server());
    let asks = "smtpd_recipient_restrictions = reject_unknown_client_hostname, permit";
    let postfix = started(&sink, &[asks]);
    let gate = gate(postfix.xclient(), &names, "");
    let answer = up_to_rcpt(&mut Dialogue::from(NAMED, gate.smtp()));
    assert!(answer.starts_with("250"), "{answer}");
    let answer = up_to_rcpt(&mut Dialogue::from(NAMELESS, gate.smtp()));
    assert!(answer.starts_with("450 4.7.25") && answer.contains("127.0.7.2"), "{answer}");
}

#[test]
fn what_postfix_has_against_a_client_the_client_hears() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let (sink, names) = (Sink::start(), name_server());
    let table = format!(
        "check_client_access inline:{{ {{ {UNWELCOME} = 554 5.7.1 you of all }}, {{ {ALLOWED} = 554 5.7.1 you of all }} }}"
    );
    // Refused when it is announced, and when it names a recipient.
    for (restriction, at_once) in [("smtpd_client_restrictions", true), ("smtpd_recipient_restrictions", false)] {
        let postfix = started(&sink, &[&format!("{restriction} = {table}")]);
        let gate = gate(postfix.xclient(), &names, "");
        let answer = up_to_rcpt(&mut Dialogue::from(UNWELCOME, gate.smtp()));
        assert!(answer.starts_with("554 5.7.1") && answer.contains("you of all"), "{answer}");
        let mut known = Dialogue::from(ALLOWED, gate.smtp());
        let answer = if at_once { known.expect("") } else { up_to_rcpt(&mut known) };
        assert!(answer.starts_with("554 5.7.1") && answer.contains("you of all"), "{answer}");
        postfix.wait_for_log(&["NOQUEUE: reject: ", &format!("[{ALLOWED}]")]);
        let answer = up_to_rcpt(&mut Dialogue::from(NAMELESS, gate.smtp()));
        assert!(answer.starts_with("250"), "{answer}");
        assert_eq!(gate.get("/ready").0, 200, "the backend is well");
    }
}

#[test]
fn postfix_hears_by_xclient_under_tls_and_of_ipv6() {
    if !present(&[Peer::Postfix, Peer::OpenSsl]) {
        return;
    }
    let (sink, names, certificates) = (Sink::start(), name_server(), Certificates::make());
    let main_cf = ["inet_protocols = all", "smtpd_tls_loglevel = 1"];
    let postfix = Postfix::start(&postfix::Options {
        main_cf: &main_cf,
        certificates: Some(&certificates),
        ..postfix::Options::delivering_to(sink.address())
    });
    let gate = Gate::start(|at| {
        let six = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.smtp.port());
        format!(
            "hostname = \"mx.gate.test\"\nadmin = \"{}\"\ndns.nameservers = \"{}\"\n[[gate]]\nlisten = [\"{}\", \"{six}\"]\n\
             backend = \"{}\"\nannounce = \"xclient\"\nbackend_tls = \"starttls-required\"\nbackend_verify = false\n\
             [greet]\nwait_min = \"300ms\"\n[access]\nallow = \"127.9.0.0/16\"\n",
            at.admin,
            names.address(),
            at.smtp,
            postfix.xclient(),
        )
    });
    let mut letters = Vec::new();
    let clients: [(IpAddr, &str, &str); 2] =
        [(NAMED.into(), "client.named.test", "127.0.7.1"), (Ipv6Addr::LOCALHOST.into(), "six.named.test", "::1")];
    for (client, name, shown) in clients {
        let server = if client.is_ipv4() { gate.smtp() } else { SocketAddr::new(client, gate.smtp().port()) };
        for _ in 0..2 {
            let mut visit = Dialogue::from(client, server);
            visit.expect("220");
            letters.push(Letter::short());
            visit.deliver(letters.last().expect("the one just made"));
        }
        postfix.wait_for_log(&[&format!(": client={name}[{shown}]")]);
    }
    postfix.wait_for_log(&["TLS connection established from ", "[127.0.0.1]"]);
    let kept = sink.wait_for(letters.len());
    letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 1));
}

#[test]
fn postfix_hears_it_again_behind_starttls_at_the_gate() {
    if !present(&[Peer::Postfix, Peer::Swaks, Peer::OpenSsl]) {
        return;
    }
    let (sink, names, certificates) = (Sink::start(), name_server(), Certificates::make());
    let postfix = started(&sink, &[]);
    let (chain, key) = (certificates.chain("mx.test"), certificates.key("mx.test"));
    let (chain, key) = (chain.display(), key.display());
    let tls = format!("[gate.tls]\nstarttls = \"here\"\ncertificates = [{{ chain = \"{chain}\", key = \"{key}\" }}]");
    let gate = gate(postfix.xclient(), &names, &tls);
    // Known: it spoke with the MTA in the clear before, over a connection that heard of it too.
    let letter = Letter::short();
    let call = Call::to(gate.smtp()).from(ALLOWED).over(Encryption::StartTls).verifying(certificates.authority());
    Client::Swaks.send(&call, &letter).assert_accepted();
    letter.assert_arrived_once(data(&sink.wait_for(1)), 1);
    let record = &visits(&gate, ALLOWED, 1)[0];
    assert_record(record, &[("outcome", json!("relayed")), ("accepted", json!(1)), ("note", json!(null))]);
    postfix.wait_for_log(&[&format!(": client=unknown[{ALLOWED}]")]);
    assert!(!gate.complaints().contains("XCLIENT"), "{}", gate.complaints());
}

#[test]
fn an_mta_that_does_not_trust_gatepost_with_xclient_is_told_of_nobody() {
    let names = name_server();
    let trusted = Arc::new(AtomicBool::new(true));
    let trusts = Arc::clone(&trusted);
    let backend = Backend::start(move |talk| {
        talk.say("220 mx.test")?;
        while let Some(line) = talk.line()? {
            match line.get(..4) {
                Some("EHLO") if trusts.load(Ordering::SeqCst) => {
                    talk.say("250-mx.test\r\n250 XCLIENT NAME ADDR PORT")?;
                }
                Some("EHLO") => talk.say("250-mx.test\r\n250 SIZE 9")?,
                Some("QUIT") => return talk.say("221 bye"),
                _ => talk.say("250 ok")?,
            }
        }
        Ok(())
    });
    let gate = gate(backend.address(), &names, "");
    // A gate is ready before its first probe is over, which would find the backend well after this.
    wait::until("the first probe", || gate.complaints().contains("the backend answers").then_some(()));
    trusted.store(false, Ordering::SeqCst);
    let mut client = Dialogue::from(ALLOWED, gate.smtp());
    client.expect("421");
    client.expect_close();
    let record = &visits(&gate, ALLOWED, 1)[0];
    assert_record(record, &[("outcome", json!("backend-failed"))]);
    assert!(record["note"].as_str().expect("a note").contains("does not offer XCLIENT"), "{record}");
    wait::until("a word of what to do", || {
        gate.complaints()
            .contains("is gatepost's address in the backend's smtpd_authorized_xclient_hosts?")
            .then_some(())
    });
    wait::until("not to be ready", || (gate.get("/ready").0 == 503).then_some(()));
    for command in backend.seen().iter().flat_map(|seen| &seen.commands) {
        assert!(["EHLO mx.gate.test", "QUIT"].contains(&command.as_str()), "{command}");
    }
}

#[test]
fn what_goes_wrong_with_xclient_is_421_and_what_is_said_of_the_client_its_own() {
    let names = name_server();
    let rows: [(Act, &str); 5] = [
        (Act::Say("501 5.5.4 what?"), "421"),
        (Act::Close, "421"),
        (Act::Say("220 one\r\n250 two"), "421"),
        (Act::Say("550 5.7.0 insufficient authorization"), "421"),
        (Act::SayAndClose("550 5.7.1 not you"), "550 5.7.1 not you"),
    ];
    for (act, heard) in rows {
        let offers = Manners { keywords: vec!["XCLIENT NAME ADDR PORT".into()], ..Manners::default() };
        let backend = offers.but("XCLIENT", act.clone()).start();
        let gate = gate(backend.address(), &names, "");
        // Neither is greeted by the backend; one after its own greeting was given.
        let mut known = Dialogue::from(ALLOWED, gate.smtp());
        let said = known.expect("");
        assert!(said.starts_with(heard), "{act:?}: {said}");
        let said = up_to_rcpt(&mut Dialogue::from(NAMED, gate.smtp()));
        assert!(said.starts_with(heard), "{act:?}: {said}");
        for seen in backend.seen() {
            let mail = seen.commands.iter().any(|command| command.starts_with("MAIL"));
            assert!(!mail, "{act:?}: {:?}", seen.commands);
        }
        let said = backend.seen().into_iter().flat_map(|seen| seen.commands);
        let xclient: Vec<String> = said.filter(|command| command.starts_with("XCLIENT")).collect();
        assert!(
            xclient.iter().any(|command| command.ends_with("NAME=client.named.test ADDR=127.0.7.1")),
            "{xclient:?}"
        );
    }
}

#[test]
fn the_mta_is_told_of_the_visit_and_of_the_lists() {
    let lists = NameServer::of(&[("1.7.0.127.bl.test", Ipv4Addr::new(127, 0, 0, 2).into())]);
    let backend = Manners::default().behind_proxy().start();
    let sections = format!(
        "[dnsbl]\nsites = \"bl.test*2, other.test*2\"\nthreshold = 3\nself_test = false\nnameservers = \"{}\"\n",
        lists.address()
    );
    let gate = File { sections: &sections, ..File::default() }.before(backend.address());
    for (client, score) in [(NAMED, json!(2)), (NAMELESS, json!(null)), (ALLOWED, json!(null))] {
        let mut visit = Dialogue::from(client, gate.smtp());
        visit.expect("220");
        visit.deliver(&Letter::short());
        let record = &visits(&gate, client, 1)[0];
        assert_eq!(record["score"], score, "{record}");
        let told = backend
            .seen()
            .into_iter()
            .filter_map(|seen| seen.proxy)
            .find(|header| header.addresses.is_some_and(|(source, _)| source.ip() == client));
        let told = told.and_then(|header| header.visit).expect("the TLV");
        assert_eq!(json!(String::from_utf8_lossy(&told.id)), record["visit"]);
        assert_eq!(json!(told.score), score);
    }
}

/// That the TLV disturbs neither: every other test of this kind has it too, and looks at more.
#[test]
fn postfix_and_exim_pass_over_the_tlv() {
    if !present(&[Peer::Postfix, Peer::Exim]) {
        return;
    }
    for chain in [peers::Chain::postfix(File::default()), peers::Chain::exim(File::default())] {
        let letter = Letter::short();
        let mut visit = Dialogue::from(NAMED, chain.gate.smtp());
        visit.expect("220");
        visit.deliver(&letter);
        letter.assert_arrived_once(data(&chain.sink.wait_for(1)), 1);
        assert_eq!(chain.mta.taken_from(NAMED.into()), 1, "{}", chain.mta.log());
    }
}

/// What a gate needs whose backend hears of clients by a header field.
const HEADER: &str = "announce = \"header\"\naccept_unknown_client = true\ntls.starttls = \"off\"\n";

/// The second field on top of a message, which is gatepost's.
fn second_field(mail: &[u8]) -> String {
    let mail = String::from_utf8_lossy(mail).replace("\r\n\t", " ").replace("\r\n ", " ");
    mail.lines().nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_header_field_on_top_is_all_that_is_added() {
    if !present(&[&CLIENTS[..], &[Peer::Postfix, Peer::Exim]].concat()) {
        return;
    }
    for with_exim in [false, true] {
        let sink = Sink::start();
        let (postfix, exim);
        let backend = if with_exim {
            exim = Exim::start(&exim::Options::delivering_to(sink.address()));
            exim.plain()
        } else {
            postfix = Postfix::start(&postfix::Options::delivering_to(sink.address()));
            postfix.plain()
        };
        let gate = File { gate: HEADER, ..File::default() }.before(backend);
        let mut letters = Vec::new();
        for (at, client) in (1..).zip(Client::ALL) {
            let call = Call::to(gate.smtp()).from(Ipv4Addr::new(127, 0, 8, at));
            let mut sent = Letter::awkward();
            sent.iter().for_each(|letter| client.send(&call, letter).assert_accepted());
            letters.append(&mut sent);
        }
        // This one would use BDAT if it could.
        let call = Call::to(gate.smtp()).from(Ipv4Addr::new(127, 0, 8, 100));
        let by_exim = Letter::short();
        let sent = exim::send(&call, &by_exim);
        sent.assert_accepted();
        assert!(!exim::used_chunking(&sent.transcript), "{}", sent.transcript);

        let kept = sink.wait_for(letters.len() + 1);
        letters.iter().for_each(|letter| letter.assert_arrived_once(data(&kept), 2));
        by_exim.assert_arrived_once(data(&kept), 3);
        for mail in data(&kept) {
            let field = second_field(mail);
            let begins = field.starts_with("Received: from ") && field.contains(" ([127.0.8.");
            assert!(begins && field.contains("]) by mx.gate.test (gatepost) with ESMTP id "), "{field}");
        }
    }
}

#[test]
fn several_messages_of_a_visit_each_get_their_field_however_they_are_cut() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    let sink = Sink::start();
    let postfix = Postfix::start(&postfix::Options::delivering_to(sink.address()));
    let gate = File { gate: HEADER, ..File::default() }.before(postfix.plain());
    let mut client = Dialogue::from(ALLOWED, gate.smtp());
    client.expect("220");
    let offer = client.say("EHLO one(\x1b[1m.test").expect("250");
    assert!(offer.contains("PIPELINING") && !offer.contains("CHUNKING"), "{offer}");
    let letters = [Letter::short(), Letter::saying(b".dots\r\n.\r\nand more\r\n"), Letter::short()];
    let envelope = "MAIL FROM:<bob@example.org>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n";
    for (letter, cut) in letters.iter().zip([1, 7, usize::MAX]) {
        client.send(envelope);
        client.expect("250");
        client.expect("250");
        client.expect("354");
        for piece in stuffed(&letter.bytes).chunks(cut) {
            client.send(piece);
        }
        client.expect("250");
    }
    client.say("QUIT").expect("221");
    let id = visits(&gate, ALLOWED, 1)[0]["visit"].as_str().expect("an id").to_owned();
    let kept = sink.wait_for(letters.len());
    for (n, letter) in (1..).zip(&letters) {
        letter.assert_arrived_once(data(&kept), 2);
        let mail = data(&kept).find(|mail| letter.names(mail)).expect("it arrived");
        let id = if n == 1 { id.clone() } else { format!("{id}-{n}") };
        let field = second_field(mail);
        let wanted =
            format!("Received: from one??[1m.test ([{ALLOWED}]) by mx.gate.test (gatepost) with ESMTP id {id}; ");
        assert!(field.starts_with(&wanted), "{field}");
    }
}

#[test]
fn under_load_each_message_has_one_field_and_nothing_is_lost() {
    if !present(&[Peer::Postfix]) {
        return;
    }
    const MESSAGES: usize = 500;
    let sink = Sink::start();
    let postfix = Postfix::start(&postfix::Options::delivering_to(sink.address()));
    postfix::smtp_source(postfix.plain(), 1, 1, 4000).assert_accepted();
    let body = |mail: &[u8], fields: usize| {
        let text = String::from_utf8_lossy(mail).replace("\r\n\t", " ").replace("\r\n ", " ");
        let rest: Vec<&str> = text.split("\r\n").skip(fields).collect();
        // These differ from message to message.
        let same = |line: &&&str| !line.starts_with("Message-Id:") && !line.starts_with("Date:");
        rest.iter().filter(same).copied().collect::<Vec<_>>().join("\n")
    };
    let model = body(data(&sink.wait_for(1)).next().expect("the first"), 1);
    let top = "access.allow = \"127.0.0.0/8\"";
    let gate = Gate::start(|at| {
        format!(
            "hostname = \"mx.gate.test\"\nadmin = \"{}\"\n{top}\n[[gate]]\nlisten = \"{}\"\nbackend = \"{}\"\n{HEADER}",
            at.admin,
            at.smtp,
            postfix.plain()
        )
    });
    postfix::smtp_source(gate.smtp(), 20, MESSAGES, 4000).assert_accepted();
    let kept = sink.wait_for(MESSAGES + 1);
    let mut fields = Vec::new();
    for mail in data(&kept).skip(1) {
        assert_eq!(body(mail, 2), model);
        fields.push(second_field(mail));
    }
    fields.sort();
    fields.dedup();
    assert_eq!(fields.len(), MESSAGES, "each has an id of its own");
}

/// The look-up has its deadline, and the client comes without a name.
#[test]
fn where_the_name_server_is_away_mail_comes_all_the_same() {
    if !present(&[Peer::Postfix, Peer::Swaks]) {
        return;
    }
    let sink = Sink::start();
    let postfix = started(&sink, &[]);
    // Nobody listens there.
    let gate = File { top: "dns.nameservers = \"127.0.0.1:9\"", gate: "announce = \"xclient\"", ..File::default() }
        .before(postfix.xclient());
    let letter = Letter::short();
    swaks(&Call::to(gate.smtp()).from(NAMED), &letter, &[]).assert_accepted();
    postfix.wait_for_log(&[": client=unknown[127.0.7.1]"]);
    letter.assert_arrived_once(data(&sink.wait_for(1)), 1);
}
