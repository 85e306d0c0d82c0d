//! Behind a load balancer: whom a PROXY header introduces, and what becomes of those on whose connection none comes. The
//! load balancer is at 127.0.0.1.

use tokio::net::TcpStream;

use super::client::{Client, soon};
use super::mta::{Mta, honest};
use super::*;
use crate::backend::Presence;
use crate::policy::access::Access;
use crate::proxy_header::{self, Header, V1_LIMIT, V2_PAYLOAD_LIMIT};
use crate::session::Proxies;
use crate::session::pregreet::{Introduced, Lot};

const CLIENT: &str = "192.0.2.7:40000";
const DESTINATION: &str = "198.51.100.25:25";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A gate behind a load balancer.
fn behind(backend: SocketAddr) -> Settings {
    let mut settings = settings(backend);
    let from = vec!["127.0.0.1/32".parse().unwrap()];
    settings.proxies = Some(Arc::new(Proxies { from, patience: PATIENCE }));
    settings
}

fn patient(settings: &mut Settings, patience: Duration) {
    let proxies = Proxies { patience, ..settings.proxies.as_deref().unwrap().clone() };
    settings.proxies = Some(Arc::new(proxies));
}

fn access(settings: &mut Settings, network: &str, access: Access) {
    settings.access = Arc::new(AccessList::new(vec![(network.parse().unwrap(), access)]));
}

/// What a load balancer says of a client at `source`.
fn header(version: Version, source: &str) -> Vec<u8> {
    let (source, destination) = (source.parse().unwrap(), DESTINATION.parse().unwrap());
    let mut bytes = Vec::new();
    proxy_header::write(&mut bytes, version, &Header::Proxied { source, destination });
    bytes
}

/// The same in version 2, with `payload` bytes behind the first 16, all but the addresses one TLV.
fn padded(payload: usize) -> Vec<u8> {
    let mut bytes = header(Version::V2, CLIENT);
    let value = payload - 12 - 3;
    bytes[14..16].copy_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
    bytes.push(0x04);
    bytes.extend(u16::try_from(value).unwrap().to_be_bytes());
    bytes.resize(16 + payload, 0);
    bytes
}

fn local() -> Vec<u8> {
    [V2_SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

fn counted(post: &Post, result: &str) -> bool {
    post.house.metrics.text().contains(&format!("proxy_headers_total{{gate=\"mx\",result=\"{result}\"}} 1"))
}

async fn parked(post: &Post) {
    until("the connection to be taken in", || post.house.sessions.open() == 1).await;
}

#[tokio::test]
async fn who_is_announced_is_the_client() {
    for version in [Version::V1, Version::V2] {
        let mta = Mta::start(honest).await;
        let mut settings = behind(mta.address);
        access(&mut settings, "192.0.2.0/24", Access::Allow);
        let post = Post::new(settings);
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        let proxy = client.stream.local_addr().unwrap();
        client.say(header(version, CLIENT)).await;
        assert_eq!(soon(client.reply()).await, "220 mta.example.com ESMTP", "allowed, and so handed off at once");
        assert!(soon(client.ask("QUIT")).await.starts_with("221 "));
        let record = post.the_record().await;
        for (key, value) in [
            ("client", "192.0.2.7"),
            ("local", DESTINATION),
            ("proxy", &proxy.to_string()),
            ("recognition", "allowed"),
            ("outcome", "relayed"),
        ] {
            assert_eq!(record[key], value, "{record}");
        }
        assert_eq!(record["port"], 40_000);
        assert_eq!(mta.heard()[0][0], "PROXY TCP4 192.0.2.7 198.51.100.25 40000 25");
        assert!(counted(&post, "client"));
        open.close(&post).await;
    }
}

#[tokio::test]
async fn what_is_glued_to_a_header_is_the_clients_at_every_cut() {
    let tls = proxy_header::Tls { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", certificate: false };
    let announced = Header::Proxied { source: CLIENT.parse().unwrap(), destination: DESTINATION.parse().unwrap() };
    let mut with_tlvs = Vec::new();
    let extras = proxy_header::Extras { tls: Some(tls), ..Default::default() };
    proxy_header::write_with(&mut with_tlvs, Version::V2, &announced, &extras);
    for header in [header(Version::V1, CLIENT), with_tlvs] {
        let post = Post::new(behind(nobody()));
        let open = post.open();
        let all = [&header[..], b"EHLO client.example.net\r\n"].concat();
        for cut in 1..=all.len() {
            let (first, rest) = all.split_at(cut);
            let mut client = Client::connect(open.address).await;
            client.say(first).await;
            // It is read before more comes.
            until("the first part to be seen", || post.house.sessions.open() == 1 || cut > header.len()).await;
            client.say(rest).await;
            let said = soon(client.rest()).await;
            assert!(said.starts_with("521 5.5.1 Protocol error: you spoke before"), "{cut}: {said}");
            drop(client);
            until("the visit to end", || post.house.journal.records().len() == cut).await;
        }
        for record in post.departed(all.len()).await {
            assert_eq!(record["client"], "192.0.2.7", "{record}");
            assert!(record["tests"][0]["detail"].as_str().unwrap().starts_with("spoke early: smtp, "), "{record}");
        }
        open.close(&post).await;
    }
}

/// Not a byte of a known client is lost or taken for something else, however it comes.
#[tokio::test]
async fn behind_the_header_everything_reaches_the_backend() {
    let mta = Mta::start(honest).await;
    let mut settings = behind(mta.address);
    access(&mut settings, "192.0.2.0/24", Access::Allow);
    let post = Post::new(settings);
    let open = post.open();
    for header in [header(Version::V1, CLIENT), header(Version::V2, CLIENT), padded(V2_PAYLOAD_LIMIT)] {
        let mut client = Client::connect(open.address).await;
        client.say([&header[..], b"NOOP\r\nQUIT\r\n"].concat()).await;
        assert!(soon(client.rest()).await.ends_with("221 2.0.0 the backend says bye\r\n"));
    }
    post.departed(3).await;
    assert!(mta.heard().iter().all(|heard| heard[1..] == ["NOOP", "QUIT"]), "{:?}", mta.heard());
    open.close(&post).await;
}

#[tokio::test]
async fn a_second_header_is_evidence() {
    for version in [Version::V1, Version::V2] {
        let post = Post::new(behind(nobody()));
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        client.say([header(version, CLIENT), header(version, "10.0.0.1:25")].concat()).await;
        assert!(soon(client.rest()).await.starts_with("521 5.5.1 "));
        drop(client);
        let record = post.the_record().await;
        assert_eq!(record["client"], "192.0.2.7");
        assert!(record["tests"][0]["detail"].as_str().unwrap().starts_with("spoke early: proxy-header, "), "{record}");
        open.close(&post).await;
    }
}

#[tokio::test]
async fn without_a_right_header_there_is_one_reply_and_no_backend() {
    let mta = Mta::start(honest).await;
    let endless = [b"PROXY TCP4 ".as_slice(), &vec![b'1'; 100_000]].concat();
    let unended = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_LIMIT]].concat();
    let lying = b"PROXY TCP4 192.0.2.7 198.51.100.25 40000 99999\r\n".to_vec();
    let nobodys = header(Version::V1, "0.0.0.0:25");
    let mut short = header(Version::V2, CLIENT);
    short[15] = 4;
    let mut flood = vec![0; 60_000];
    flood[..16].copy_from_slice(&[V2_SIGNATURE, &[0x21, 0x11, 0x10, 0x01]].concat());
    for (bytes, result) in [
        (b"EHLO client.example.net\r\n".to_vec(), "missing"),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), "missing"),
        (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), "missing"),
        (endless, "malformed"),
        (unended, "too-long"),
        (lying, "malformed"),
        (nobodys, "malformed"),
        (short, "malformed"),
        (flood, "too-long"),
    ] {
        let mut settings = behind(mta.address);
        // What the load balancer may do itself is of no account.
        access(&mut settings, "127.0.0.0/8", Access::Allow);
        let post = Post::new(settings);
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        // It may be closed before all of it is said.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &bytes).await;
        let said = soon(client.line()).await;
        assert!(said.starts_with("421 4.3.5 mx.example.com Your proxy did not say who the client is"), "{said}");
        drop(client);
        let record = post.the_record().await;
        for (key, value) in
            [("client", "127.0.0.1"), ("recognition", "proxy"), ("stage", "arrival"), ("outcome", "protocol-fault")]
        {
            assert_eq!(record[key], value, "{record}");
        }
        assert!(record.get("proxy").is_none() && record["note"].as_str().unwrap().contains("PROXY header"), "{record}");
        assert!(counted(&post, result), "{result}: {}", post.house.metrics.text());
        open.close(&post).await;
    }
    assert!(mta.heard().is_empty());
}

#[tokio::test]
async fn who_leaves_before_it_has_said_who_the_client_is() {
    for begun in [&b""[..], b"PROXY TCP4 192.0.2.7", V2_SIGNATURE] {
        for how in ["closes", "closes its half", "resets"] {
            let post = Post::new(behind(nobody()));
            let open = post.open();
            let mut client = Client::connect(open.address).await;
            parked(&post).await;
            client.say(begun).await;
            match how {
                "closes" => drop(client),
                "resets" => client.reset(),
                _ => client.half_close().await,
            }
            let record = post.the_record().await;
            assert_eq!((&record["outcome"], &record["stage"]), (&"hung-up".into(), &"arrival".into()), "{how}");
            assert!(counted(&post, "closed"), "{how}");
            open.close(&post).await;
        }
    }
}

/// Header and FIN in one go: a client that has nothing to say, but is one.
#[tokio::test]
async fn a_client_that_is_announced_half_closed_is_a_client() {
    for begun in [true, false] {
        let post = Post::new(behind(nobody()));
        let open = post.open();
        let header = header(Version::V2, CLIENT);
        let (first, rest) = header.split_at(if begun { 20 } else { 0 });
        let mut client = Client::connect(open.address).await;
        client.say(first).await;
        if begun {
            parked(&post).await;
        }
        client.say(rest).await;
        client.half_close().await;
        let record = post.the_record().await;
        assert_eq!((&record["client"], &record["outcome"]), (&"192.0.2.7".into(), &"hung-up".into()));
        assert_eq!(record["stage"], "pregreet");
        open.close(&post).await;
    }
}

#[tokio::test]
async fn from_elsewhere_nobody_is_heard() {
    let mta = Mta::start(honest).await;
    let mut settings = behind(mta.address);
    access(&mut settings, "0.0.0.0/0", Access::Allow);
    let post = Post::new(settings);
    let open = post.open();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stranger = Client::on(socket.connect(open.address).await.unwrap());
    stranger.say(header(Version::V1, CLIENT)).await;
    let said = soon(stranger.rest()).await;
    assert!(
        said.starts_with("421 4.3.5 mx.example.com This port takes connections from its load balancer only"),
        "{said}"
    );
    drop(stranger);
    let record = post.the_record().await;
    for (key, value) in
        [("client", "127.0.0.2"), ("recognition", "denied"), ("stage", "arrival"), ("outcome", "dropped")]
    {
        assert_eq!(record[key], value, "{record}");
    }
    assert!(counted(&post, "untrusted"));
    assert!(mta.heard().is_empty());
    open.close(&post).await;
}

/// The wait to the moment, in a lot that is driven by hand: on the clock that a test holds, and without a task.
#[tokio::test(start_paused = true)]
async fn a_header_has_its_time_and_no_more() {
    let mut settings = behind(nobody());
    patient(&mut settings, Duration::from_secs(5));
    let post = Post::new(settings);
    let poll = mio::Poll::new().unwrap();
    let (to, _answers) = mpsc::unbounded_channel();
    let mut lot = Lot::new(Arc::clone(&post.house), poll.registry().try_clone().unwrap(), to);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut connect = || {
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut guest = post.guest("127.0.0.1:1");
        guest.recognition = Recognition::Proxy;
        let taken = lot.await_header(mio::net::TcpStream::from_std(theirs), guest);
        assert!(taken.is_none(), "nothing has come");
        ours
    };
    let clients = [connect(), connect(), connect()];
    // What the poll would tell.
    let [_, mut begun, mut whole] = clients;
    let begin = Instant::now();
    assert_eq!(lot.next_deadline(), Some(begin + Duration::from_secs(5)));
    let bytes = header(Version::V2, CLIENT);
    std::io::Write::write_all(&mut begun, &bytes[..27]).unwrap();
    assert!(lot.readable(mio::Token(1), false).is_none());
    tokio::time::advance(Duration::from_millis(4999)).await;
    lot.expire_all(Instant::now());
    assert!(post.records().is_empty());
    std::io::Write::write_all(&mut whole, &bytes).unwrap();
    let Some(Introduced::Client { arrival, .. }) = lot.readable(mio::Token(2), false) else { panic!("it is whole") };
    assert_eq!(arrival.client, CLIENT.parse().unwrap());
    tokio::time::advance(Duration::from_millis(1)).await;
    lot.expire_all(Instant::now());
    let outcomes: Vec<_> = post.records().iter().map(|record| record["outcome"].clone()).collect();
    assert_eq!(outcomes, ["protocol-fault", "timed-out"], "nothing came, and not all came");
    assert!(counted(&post, "missing") && counted(&post, "late"));
    assert_eq!(post.house.tasks.len(), 0);
    // They have time to read why, counted from then.
    assert_eq!(lot.next_deadline(), Some(Instant::now() + Duration::from_secs(2)));
    tokio::time::advance(Duration::from_secs(2)).await;
    lot.expire_all(Instant::now());
    assert!(lot.is_empty());
}

#[tokio::test]
async fn limits_are_the_clients_and_not_the_load_balancers() {
    let mut settings = behind(nobody());
    settings.limits = quota::Settings::plain(1, 4);
    let post = Post::new(settings);
    let open = post.open();
    let connect = async |source: &str| {
        let mut client = Client::connect(open.address).await;
        client.say(header(Version::V1, source)).await;
        client
    };
    let first = connect("192.0.2.1:1").await;
    parked(&post).await;
    let said = soon(connect("192.0.2.1:2").await.rest()).await;
    assert!(said.starts_with("421 4.7.0 mx.example.com Too many connections from your address"), "{said}");
    let second = connect("192.0.2.2:1").await;
    until("the other client to be parked", || post.house.sessions.open() == 2).await;
    // Those whose header has not come count in all, and not as one client, though all are from one address.
    let silent = [Client::connect(open.address).await, Client::connect(open.address).await];
    until("both to be taken in", || post.house.sessions.open() == 4).await;
    let said = soon(connect("192.0.2.3:1").await.rest()).await;
    assert!(said.starts_with("421 4.3.2 mx.example.com All screening ports are busy"), "{said}");
    drop((first, second, silent));
    let records = post.departed(6).await;
    assert_eq!(records[0]["client"], "192.0.2.1");
    assert_eq!((&records[1]["recognition"], &records[1]["stage"]), (&"proxy".into(), &"arrival".into()));
    open.close(&post).await;
}

#[tokio::test]
async fn a_stop_is_told_to_those_whose_header_has_not_come() {
    let post = Post::new(behind(nobody()));
    let open = post.open();
    let mut silent = Client::connect(open.address).await;
    parked(&post).await;
    let queued = std::net::TcpStream::connect(open.address).unwrap();
    post.house.draining.cancel();
    queued.set_nonblocking(true).unwrap();
    for client in [&mut silent, &mut Client::on(TcpStream::from_std(queued).unwrap())] {
        assert!(soon(client.rest()).await.starts_with("421 4.3.2 mx.example.com Service is shutting down"));
    }
    drop(silent);
    let records = post.departed(2).await;
    assert!(records.iter().all(|record| record["outcome"] == "shutdown" && record["recognition"] == "proxy"));
    open.close(&post).await;
}

/// A load balancer that checks whether gatepost is well. Its address is on the allow list here, as loopback often is.
#[tokio::test]
async fn one_that_speaks_for_itself_is_greeted_at_once_and_never_reaches_the_backend() {
    for header in [local(), b"PROXY UNKNOWN\r\n".to_vec(), [V2_SIGNATURE, &[0x21, 0, 0, 0]].concat()] {
        for end in [
            "MAIL FROM:<a@example.net>",
            "RCPT TO:<b@example.com>",
            "DATA",
            "STARTTLS",
            "AUTH PLAIN AGEAYg==",
            "AUTH",
            "MAIL",
            "BDAT 5 LAST",
            "QUIT",
        ] {
            let mta = Mta::start(honest).await;
            let mut settings = behind(mta.address);
            access(&mut settings, "127.0.0.0/8", Access::Allow);
            screened(&mut settings, |screen| screen.greet.teaser = Some("wait".into()));
            Arc::make_mut(&mut settings.relay).auth = true;
            let post = Post::new(settings);
            post.gate.backend.learn(&offer(super::mta::EHLO));
            let open = post.open();
            let mut proxy = Client::connect(open.address).await;
            proxy.say(&header).await;
            assert_eq!(soon(proxy.reply()).await, "220 mx.example.com ESMTP");
            assert_eq!(soon(proxy.ask("EHLO balancer")).await, "250 mx.example.com", "no keyword that it could use");
            assert_eq!(soon(proxy.ask("HELO ylmf-pc")).await, "250 mx.example.com");
            assert_eq!(soon(proxy.ask("NOOP")).await, "250 2.0.0 Ok");
            assert_eq!(soon(proxy.ask("RSET")).await, "250 2.0.0 Ok");
            let said = soon(proxy.ask(end)).await;
            let (code, outcome) = if end == "QUIT" { ("221 ", "checked") } else { ("421 4.3.5 ", "protocol-fault") };
            assert!(said.starts_with(code), "{end}: {said}");
            assert!(end == "QUIT" || said.contains("Your proxy did not say who the client is"), "{said}");
            assert_eq!(soon(proxy.rest()).await, "");
            drop(proxy);
            let record = post.the_record().await;
            for (key, value) in
                [("recognition", "proxy"), ("stage", "dialogue"), ("outcome", outcome), ("client", "127.0.0.1")]
            {
                assert_eq!(record[key], value, "{end}: {record}");
            }
            assert!(counted(&post, "itself"));
            assert!(mta.heard().is_empty());
            open.close(&post).await;
        }
    }
}

/// As HAProxy does in version 1.
#[tokio::test]
async fn one_that_announces_its_own_connection_speaks_for_itself() {
    for version in [Version::V1, Version::V2] {
        let mta = Mta::start(honest).await;
        let mut settings = behind(mta.address);
        access(&mut settings, "127.0.0.0/8", Access::Allow);
        let post = Post::new(settings);
        post.gate.backend.set_presence(Presence::There);
        let open = post.open();
        let mut proxy = Client::connect(open.address).await;
        let own = proxy.stream.local_addr().unwrap().to_string();
        proxy.say(header(version, &own)).await;
        assert_eq!(soon(proxy.reply()).await, "220 mx.example.com ESMTP");
        assert!(soon(proxy.ask("QUIT")).await.starts_with("221 "));
        drop(proxy);
        assert_eq!(post.the_record().await["outcome"], "checked");
        assert!(mta.heard().is_empty());
        open.close(&post).await;
    }
}

#[tokio::test]
async fn while_the_backend_is_away_or_not_heard_of_a_check_hears_421() {
    for presence in [Presence::Away, Presence::Unknown] {
        let post = Post::new(behind(nobody()));
        post.gate.backend.set_presence(presence);
        let open = post.open();
        let mut proxy = Client::connect(open.address).await;
        proxy.say(local()).await;
        assert!(soon(proxy.rest()).await.starts_with("421 4.3.2 mx.example.com Service not available"), "{presence:?}");
        drop(proxy);
        assert_eq!(post.the_record().await["outcome"], "backend-failed");
        open.close(&post).await;
    }
}

#[tokio::test]
async fn a_check_that_only_connects_leaves_a_record_and_nothing_else() {
    let post = Post::new(behind(nobody()));
    post.gate.backend.set_presence(Presence::There);
    let open = post.open();
    let mut proxy = Client::connect(open.address).await;
    proxy.say(local()).await;
    drop(proxy);
    assert_eq!(post.the_record().await["outcome"], "checked");
    open.close(&post).await;
}
