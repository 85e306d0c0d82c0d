//! `gatepost doctor` between real programs: what it says of a Postfix, an Exim and an rbldnsd that are right, and of those
//! that are not. Whatever it finds, it sends no mail: no MTA sees DATA, and nothing arrives behind any of them.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on fails, loudly and at once")]

mod host;
mod peers;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use rustix::process::geteuid;
use serde_json::Value;

use host::certificates::Certificates;
use host::dns::NameServer;
use host::exim::{self, Exim};
use host::gate::{Gate, program};
use host::network::{Family, GATE_V4, GATE_V6, INNER, MTA_NAME, MTA_V4, Network, mta};
use host::peers::{Peer, present};
use host::ports::free_address;
use host::postfix::{self, Postfix};
use host::process::public_dir;
use host::rbldnsd::{Rbldnsd, Zone};
use host::sink::Sink;

/// What doctor said.
struct Visit {
    status: i32,
    text: String,
}

/// A list as RFC 5782 wants it, and the name of the host.
fn zones() -> [Zone; 2] {
    let list = "127.0.0.2 :2:listed\n".to_owned();
    let name = "mx A 127.0.0.1\n".to_owned();
    [Zone { name: "bl.test", kind: "ip4set", text: list }, Zone { name: "example.org", kind: "generic", text: name }]
}

/// The file of a gate before `backend`, with `gate` lines and whole `sections`.
fn file(backend: SocketAddr, dns: &Rbldnsd, gate: &str, sections: &str) -> String {
    format!(
        "hostname = \"mx.example.org\"\n[[gate]]\nlisten = \"{}\"\nbackend = \"{backend}\"\n{gate}\n{sections}\n\
         [dnsbl]\nsites = \"bl.test\"\nnameservers = \"{}\"\n[timeouts]\nreplay = \"10s\"\n",
        free_address(),
        dns.address(),
    )
}

/// Has it examined, by a run of the program.
fn doctor(text: &str) -> Visit {
    let dir = public_dir();
    let file = dir.path().join("gatepost.toml");
    fs::write(&file, text).expect("a file");
    examine(&file)
}

/// Several at once: most of each is waiting.
fn doctors<const N: usize>(texts: [String; N]) -> [Visit; N] {
    thread::scope(|scope| texts.map(|text| scope.spawn(move || doctor(&text))).map(|run| run.join().expect("a visit")))
}

fn examine(file: &Path) -> Visit {
    let mut run = program();
    run.args(["doctor", "-c"]).arg(file);
    visit(&mut run)
}

fn visit(run: &mut Command) -> Visit {
    let Output { status, stdout, stderr } = run.output().expect("gatepost runs");
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    println!("{text}");
    Visit { status: status.code().unwrap_or(-1), text }
}

impl Visit {
    /// Panics unless it left with `status` and said all of `words`, each within one line.
    #[track_caller]
    fn assert(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{}", self.text);
        for word in words {
            assert!(self.text.contains(word), "{word:?} is not in\n{}", self.text);
        }
    }

    /// Panics if it said this.
    #[track_caller]
    fn assert_not(&self, words: &str) {
        assert!(!self.text.contains(words), "{words:?} is in\n{}", self.text);
    }
}

/// Several cases at once, each with hosts of its own.
fn side_by_side<T: Send, const N: usize>(cases: [T; N], run: impl Fn(T) + Sync) {
    let run = &run;
    thread::scope(|scope| cases.map(|case| drop(scope.spawn(move || run(case)))));
}

/// Panics if mail was sent, or only begun. Postfix sums up each connection in its log: `data=1` if there was one.
#[track_caller]
fn assert_no_mail(sink: &Sink, log: &str) {
    assert!(sink.kept().is_empty(), "mail was sent\n{log}");
    assert!(!log.contains(" data=") && !log.contains(" bdat=") && !log.contains(" <= "), "{log}");
}

fn postfix(sink: &Sink, main_cf: &[&str], certificates: Option<&Certificates>) -> Postfix {
    Postfix::start(&postfix::Options { main_cf, certificates, ..postfix::Options::delivering_to(sink.address()) })
}

#[test]
fn a_postfix_that_is_right_is_told_so() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &["mynetworks ="], None);
    let announced = |version| file(postfix.proxied(), &dns, &format!("announce = \"{version}\""), "");
    for visit in doctors(["proxy-v1", "proxy-v2"].map(announced)) {
        visit.assert(
            0,
            &[
                "220 mx.test ESMTP Postfix",
                "the MTA reads the PROXY header: it greets with one, and waits for it without",
                "a stranger (192.0.2.1) may not relay: 554 5.7.1",
                "clients are offered: SIZE 1000000",
                "bl.test is well",
                "mx.example.org is 127.0.0.1",
                "Nothing is wrong.",
            ],
        );
        visit.assert_not("warning");
    }
    postfix.wait_for_log(&["disconnect from unknown[192.0.2.1]", "rcpt=0/"]);
    assert_no_mail(&sink, &postfix.log());
}

#[test]
fn an_open_relay_to_the_gates_own_address_is_found() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &[], None);
    let unannounced = "announce = \"none\"\naccept_unknown_client = true";
    let visit = doctor(&file(postfix.plain(), &dns, unannounced, ""));
    visit.assert(
        78,
        &["problem relay: OPEN RELAY: the MTA takes gatepost for every client", "mynetworks", "250 2.1.5 Ok"],
    );
    // Announced, the same MTA is fine, and its trust in gatepost's address worth a note.
    let visit = doctor(&file(postfix.proxied(), &dns, "", ""));
    visit.assert(
        0,
        &[
            "believes the PROXY header: it relays for gatepost itself, and not for that address",
            "note    relay: the MTA relays for gatepost's own address",
        ],
    );
    assert_no_mail(&sink, &postfix.log());
}

#[test]
fn an_mta_that_knows_no_ipv6_is_found() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &[], None);
    let text = file(postfix.proxied(), &dns, "", "")
        .replace("listen = ", "listen = [\"[::1]:0\", ")
        .replace("\nbackend", "]\nbackend");
    doctor(&text).assert(0, &["warning announce: a client by IPv6 (announced as 2001:db8::1) is not served"]);
    assert_no_mail(&sink, &postfix.log());
}

#[test]
fn an_open_relay_to_everybody_is_found() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    side_by_side(
        [
            ("mynetworks = 0.0.0.0/0", "MAIL FROM:<>"),
            // For whoever says that he is one of us.
            (
                "smtpd_relay_restrictions = check_sender_access inline:{ { example.org = permit } }, reject_unauth_destination",
                "MAIL FROM:<doctor-probe@example.org>",
            ),
        ],
        |(main_cf, from)| {
            let postfix = postfix(&sink, &[main_cf], None);
            let visit = doctor(&file(postfix.proxied(), &dns, "", ""));
            visit.assert(78, &["problem relay: OPEN RELAY: the MTA takes mail from a stranger (192.0.2.1)", from]);
            assert_no_mail(&sink, &postfix.log());
        },
    );
}

#[test]
fn an_mta_that_expects_no_header_is_found() {
    if !present(&[Peer::Postfix, Peer::Exim, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &[], None);
    let exim = Exim::start(&exim::Options::delivering_to(sink.address()));
    let plain = |(mta, version): (SocketAddr, &str)| file(mta, &dns, &format!("announce = \"{version}\""), "");
    let ways = [postfix.plain(), exim.plain()].map(|mta| [(mta, "proxy-v1"), (mta, "proxy-v2")]);
    for visit in ways.into_iter().flat_map(|ways| doctors(ways.map(plain))) {
        visit.assert(
            78,
            &["problem announce: the MTA does not expect a PROXY header", "smtpd_upstream_proxy_protocol=haproxy"],
        );
    }
    // And the other way round: it waits for a header that never comes.
    let unannounced = "announce = \"none\"\naccept_unknown_client = true";
    let proxied = |mta| file(mta, &dns, unannounced, "").replace("replay = \"10s\"", "replay = \"2s\"");
    for visit in doctors([postfix.proxied(), exim.proxied()].map(proxied)) {
        visit.assert(78, &["the MTA expects a PROXY header: as it is", "set announce = \"proxy-v2\""]);
    }
    assert_no_mail(&sink, &(postfix.log() + &exim.log()));
}

#[test]
fn exim_names_the_address_that_it_was_told() {
    if !present(&[Peer::Exim, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let exim = Exim::start(&exim::Options::delivering_to(sink.address()));
    let visit = doctor(&file(exim.proxied(), &dns, "", ""));
    visit.assert(
        0,
        &[
            "the MTA believes the PROXY header: it names that address: 250 mx.test Hello doctor.gatepost.invalid [192.0.2.1]",
            "a stranger (192.0.2.1) may not relay: 550 5.7.1 relaying denied",
        ],
    );
    assert_no_mail(&sink, &exim.log());
}

#[test]
fn a_postfix_that_may_be_told_by_xclient_believes_it_and_another_does_not_offer_it() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns, names) = (Sink::start(), Rbldnsd::start(&zones()), NameServer::of(&[]));
    let postfix = postfix(&sink, &[], None);
    let nameservers = format!("[dns]\nnameservers = \"{}\"", names.address());
    let told = |mta| file(mta, &dns, "announce = \"xclient\"", &nameservers);
    let both =
        told(postfix.xclient()).replace("listen = ", "listen = [\"[::1]:0\", ").replace("\nbackend", "]\nbackend");
    let untold = file(postfix.xclient(), &dns, "announce = \"none\"\naccept_unknown_client = true", "");
    let proxied = told(postfix.proxied()).replace("replay = \"10s\"", "replay = \"2s\"");
    let texts = [told(postfix.xclient()), both, told(postfix.plain()), untold, proxied];
    let [right, both, refused, untold, proxied] = doctors(texts);
    right.assert(
        0,
        &[
            "the MTA offers gatepost XCLIENT NAME ADDR PROTO HELO",
            "the MTA believes XCLIENT: it relays for gatepost itself, and not for that address",
            "a stranger (192.0.2.1) may not relay: 554 5.7.1",
            &format!("{} finds the names of clients", names.address()),
            "note    relay: the MTA relays for gatepost's own address",
        ],
    );
    right.assert_not("warning");
    both.assert(0, &["warning announce: a client by IPv6 (announced as 2001:db8::1) is not served"]);
    refused.assert(
        78,
        &[
            "problem announce: the MTA does not offer XCLIENT to 127.0.0.1",
            "smtpd_authorized_xclient_hosts = 127.0.0.1",
        ],
    );
    untold.assert(78, &["OPEN RELAY", "set announce = \"xclient\": the MTA offers XCLIENT to gatepost"]);
    proxied.assert(78, &["the MTA expects a PROXY header: as it is, no reply", "set announce = \"proxy-v2\""]);
    postfix.wait_for_log(&["disconnect from unknown[192.0.2.1]", "rcpt=0/"]);
    assert_no_mail(&sink, &postfix.log());
}

/// A Postfix on another host that is told nothing: it sees who connects.
#[test]
fn the_way_back_from_an_mta_that_sees_clients_own_addresses_is_tried() {
    if !present(&[Peer::Ip, Peer::Nft, Peer::Postfix]) {
        return;
    }
    let network = Network::start();
    let sink = network.mta.keep(Sink::start);
    let services = Family::BOTH.map(|family| format!("{} inet n - n - - smtpd", mta(family, 25)));
    let mail_server = network.mta.keep(|| {
        Postfix::start(&postfix::Options {
            main_cf: &["inet_protocols = all", "mynetworks = 127.0.0.1/32, 192.0.2.0/24"],
            master_cf: &services.each_ref().map(String::as_str),
            ..postfix::Options::delivering_to(sink.address())
        })
    });
    let dir = public_dir();
    let run = |name: &str, backend: &str, capability: &str| {
        let path = dir.path().join(name);
        let text = format!(
            "hostname = \"mx.gate.test\"\n[[gate]]\nlisten = [\"{GATE_V4}:25\", \"[{GATE_V6}]:25\"]\n\
             backend = \"{backend}\"\nannounce = \"transparent\"\n[timeouts]\nconnect = \"1s\"\n"
        );
        fs::write(&path, text).expect("a file");
        let mut run = Command::new("setpriv");
        run.arg(format!("--bounding-set=-all,+net_bind_service,+dac_override{capability}"));
        run.arg(program().get_program()).args(["doctor", "-c"]).arg(path);
        visit(&mut network.gate.command(&run))
    };
    let may = ",+net_raw";
    // This host has 192.0.2.1 and 198.51.100.1 itself, so that neither would be a stranger's.
    let away = [
        "problem announce: the MTA answers gatepost itself, but not a connection from 203.0.113.1 (no connection within 1s)",
        "deploy/transparent-routes.sh",
    ];
    run("no-way-back", &format!("{MTA_V4}:25"), may).assert(78, &away);
    network.gate.deploy("transparent-routes.sh", &["gate", INNER]);
    network.make_gate_the_default_gateway();
    let both = format!("{}:25", MTA_NAME);
    thread::scope(|scope| {
        scope.spawn(|| {
            let right = run("right", &both, may);
            right.assert(
                0,
                &[
                    "a connection from 203.0.113.1 stands: the MTA sees clients' own addresses",
                    "a stranger (203.0.113.1) may not relay: 554 5.7.1",
                    "a stranger (2001:db8::1) may not relay: 554 5.7.1",
                ],
            );
            right.assert_not("not served");
        });
        scope.spawn(|| {
            let one = run("one-family", &format!("{MTA_V4}:25"), may);
            one.assert(
                0,
                &[
                    "warning announce: clients by IPv6 get 421",
                    "the MTA sees clients' own addresses: it relays for gatepost itself, and not for that address",
                ],
            );
        });
        scope.spawn(|| {
            if geteuid().is_root() {
                let powerless = run("powerless", &both, "");
                powerless.assert(0, &["warning announce: cannot try how strangers are taken", "CAP_NET_RAW"]);
                powerless.assert_not("may not relay");
            }
        });
    });
    for stranger in ["203.0.113.1", "2001:db8::1"] {
        mail_server.wait_for_log(&[&format!("disconnect from unknown[{stranger}]"), "rcpt=0/"]);
    }
    let log = mail_server.log();
    assert!(!log.contains(" data="), "{log}");
    assert!(sink.kept().is_empty(), "mail was sent\n{log}");
}

#[test]
fn lists_that_are_well_and_lists_that_are_not() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &[], None);
    let text = file(postfix.proxied(), &dns, "", "");
    // Nobody answers there: that takes its time.
    let nobody = thread::spawn({
        let text = text.replace(&dns.address().to_string(), &free_address().to_string());
        move || doctor(&text)
    });
    for (zone, says) in [
        ("127.0.0.3 :2:listed\n", "bl.test counts for nothing: it does not list 127.0.0.2"),
        ("127.0.0.1 :2:x\n127.0.0.2 :2:x\n", "bl.test counts for nothing: it lists 127.0.0.1"),
        ("127.0.0.0/8 :127.255.255.254:x\n", "use your own resolver or the list's key"),
    ] {
        dns.replace("bl.test", zone);
        doctor(&text).assert(0, &["warning lists: bl.test", says, "No problem; 1 warning."]);
    }
    let nobody = nobody.join().expect("a visit");
    nobody.assert(69, &["problem resolver: no list answers through 127.0.0.1"]);
}

#[test]
fn certificates_that_clients_would_not_take_are_found() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd, Peer::OpenSsl]) {
        return;
    }
    let (sink, dns, certificates) = (Sink::start(), Rbldnsd::start(&zones()), Certificates::make());
    let postfix = postfix(&sink, &[], Some(&certificates));
    let with = |name: &str| {
        let (chain, key) = (certificates.chain(name), certificates.key(name));
        let section = format!("[gate.tls]\ncertificates = [{{ chain = {chain:?}, key = {key:?} }}]\n");
        file(postfix.proxied(), &dns, "", &section)
    };
    let through = file(postfix.proxied(), &dns, "", "");
    let [expired, wrong, through] = doctors([with("expired"), with("other.test"), through]);
    expired.assert(78, &["problem tls: ", "it has expired on 2020-01-02", "→ renew it"]);
    wrong.assert(0, &["warning tls: no certificate is for mx.example.org", "is for other.test; good until 2049-12-31"]);
    // TLS ends here, so that of Postfix is withheld; elsewhere, its certificate is the one that clients see.
    wrong.assert(0, &["STARTTLS (TLS ends here)"]);
    through.assert(0, &["clients begin TLS with the MTA itself: TLSv1.3", "its certificate is for mx.test, smtp.test"]);
    assert_no_mail(&sink, &postfix.log());
}

#[test]
fn tls_with_the_backend_is_looked_at() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd, Peer::OpenSsl]) {
        return;
    }
    let (sink, dns, certificates) = (Sink::start(), Rbldnsd::start(&zones()), Certificates::make());
    let postfix = postfix(&sink, &[], Some(&certificates));
    let tls = |name: &str| {
        let authority = certificates.authority();
        format!("backend_tls = \"starttls-required\"\nbackend_ca = {authority:?}\nbackend_name = \"{name}\"")
    };
    let to = |name| file(postfix.proxied(), &dns, &tls(name), "");
    let [right, wrong] = doctors(["mx.test", "other.test"].map(to));
    right.assert(0, &["with the backend: TLSv1.3, TLS_", "its certificate, verified, is for mx.test"]);
    wrong.assert(78, &["problem tls: 127.0.0.1", "backend_name"]);
    assert_no_mail(&sink, &postfix.log());
}

#[test]
fn an_mta_that_insists_on_tls_is_asked_under_tls() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd, Peer::OpenSsl]) {
        return;
    }
    let (sink, dns, certificates) = (Sink::start(), Rbldnsd::start(&zones()), Certificates::make());
    side_by_side(
        [
            ("mynetworks =", 0, "a stranger (192.0.2.1) may not relay: 554 5.7.1"),
            ("mynetworks = 192.0.2.0/24", 78, "OPEN RELAY: the MTA takes mail from a stranger (192.0.2.1)"),
        ],
        |(networks, status, says)| {
            let postfix = postfix(&sink, &[networks, "smtpd_tls_security_level = encrypt"], Some(&certificates));
            doctor(&file(postfix.proxied(), &dns, "", "")).assert(status, &[says]);
            assert_no_mail(&sink, &postfix.log());
        },
    );
}

#[test]
fn a_submission_port_without_auth_is_found_and_one_with_it_is_fine() {
    if !present(&[Peer::Exim, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let bare = Exim::start(&exim::Options::delivering_to(sink.address()));
    let login = Some(("alice", "secret"));
    let exim = Exim::start(&exim::Options { login, ..exim::Options::delivering_to(sink.address()) });
    let submission = |mta| file(mta, &dns, "scene = \"submission\"", "");
    let texts = [submission(bare.proxied()), submission(exim.proxied()), file(exim.proxied(), &dns, "", "")];
    let [without, with, mx] = doctors(texts);
    without.assert(78, &["problem backend: no AUTH is offered: nobody can submit mail"]);
    with.assert(
        0,
        &[
            "a stranger (192.0.2.1) may not relay without AUTH",
            "warning tls: the MTA offers AUTH before TLS",
            "AUTH PLAIN LOGIN",
        ],
    );
    mx.assert(0, &["AUTH (`offer_auth` is false here)"]);
    assert_no_mail(&sink, &(bare.log() + &exim.log()));
}

#[test]
fn beside_a_running_gatepost_nothing_is_disturbed() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &[], None);
    let text = file(postfix.proxied(), &dns, "", "");
    let gate = Gate::start(|at| {
        let (before, after) = text.split_once("listen = \"").expect("a port");
        let (_, after) = after.split_once('"').expect("its end");
        format!("admin = \"{}\"\n{before}listen = \"{}\"{after}", at.admin, at.smtp)
    });
    let visit = examine(&gate.dir().join("gatepost.toml"));
    visit.assert(0, &["gatepost runs, and is ready", "is in use, and gatepost runs"]);
    assert!(gate.journal().is_empty(), "{:?}", gate.journal());
    gate.stop();
    assert_no_mail(&sink, &postfix.log());
}

#[test]
fn somebody_else_at_the_gates_port_is_found() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &[], None);
    let text = file(postfix.proxied(), &dns, "", "");
    let (before, after) = text.split_once("listen = \"").expect("a port");
    let (_, after) = after.split_once('"').expect("its end");
    let text = format!("{before}listen = \"{}\"{after}", postfix.plain());
    doctor(&text).assert(69, &["is in use, and gatepost does not run: it says: 220 mx.test ESMTP Postfix", "ss -ltnp"]);
}

#[test]
fn the_manual_shows_what_it_prints() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let manual = fs::read_to_string("docs/operations.md").expect("the manual");
    let (_, shown) = manual.split_once("```text\ngate mx ").expect("the sample");
    let shown = format!("gate mx {}", shown.split("```").next().unwrap_or_default());
    let [_, name] = zones();
    let closed = Zone { name: "bl.example", kind: "ip4set", text: "127.0.0.3 :2:x\n".to_owned() };
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&[closed, name]));
    let postfix = postfix(&sink, &["myhostname = mx.example.org"], None);
    let text = file(postfix.proxied(), &dns, "", "").replace("bl.test", "bl.example");
    let visit = doctor(&text);
    assert_eq!(without_numbers(&visit.text), without_numbers(&shown));
    assert_no_mail(&sink, &postfix.log());
}

/// Ports and times differ from run to run; reply codes do not, and are looked at elsewhere.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            _ => out.push(c),
        }
    }
    out
}

#[test]
fn a_program_reads_the_same() {
    if !present(&[Peer::Postfix, Peer::Rbldnsd]) {
        return;
    }
    let (sink, dns) = (Sink::start(), Rbldnsd::start(&zones()));
    let postfix = postfix(&sink, &[], None);
    let dir = public_dir();
    let file_name = dir.path().join("gatepost.toml");
    fs::write(&file_name, file(postfix.plain(), &dns, "", "")).expect("a file");
    let output = program().args(["doctor", "--json", "-c"]).arg(&file_name).output().expect("gatepost runs");
    assert_eq!(output.status.code(), Some(78));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(report["problems"], 1);
    let findings = report["sections"][0]["findings"].as_array().expect("a list");
    let problem = findings.iter().find(|finding| finding["level"] == "problem").expect("a problem");
    assert_eq!((&report["sections"][0]["gate"], &problem["topic"]), (&"mx".into(), &"announce".into()));
    assert!(problem["remedy"].as_str().is_some_and(|remedy| remedy.contains("haproxy")), "{problem}");
    drop(sink);
}
