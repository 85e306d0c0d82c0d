//! A backend, dialled and probed over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::*;
use crate::smtp::ehlo::Keyword;
use crate::smtp::reply::{self, Parsed};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn settings(address: SocketAddr, announce: Announce) -> Settings {
    Settings {
        address: address.to_string(),
        hostname: "mx.example.com".into(),
        announce,
        tls: None,
        connect_timeout: PATIENCE,
        reply_timeout: PATIENCE,
        probe_interval: Duration::from_secs(3600),
    }
}

/// A listener, and the backend that it plays.
async fn pair(announce: Announce) -> (TcpListener, Arc<Backend>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::new(settings(listener.local_addr().unwrap(), announce));
    (listener, backend)
}

async fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("nobody comes").unwrap();
    BufReader::new(stream)
}

async fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    timeout(PATIENCE, stream.read_line(&mut line)).await.expect("nothing is said").unwrap();
    line
}

/// Plays one probe: the replies to the connection and to EHLO; nothing is said where there is none.
async fn answer(listener: &TcpListener, greeting: &str, ehlo: &str) {
    let mut stream = accept(listener).await;
    assert!(line(&mut stream).await.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "));
    stream.write_all(greeting.as_bytes()).await.unwrap();
    if !ehlo.is_empty() {
        assert_eq!(line(&mut stream).await, "EHLO mx.example.com\r\n");
        stream.write_all(ehlo.as_bytes()).await.unwrap();
        assert_eq!(line(&mut stream).await, "QUIT\r\n");
    }
}

fn visitor() -> Visitor<'static> {
    Visitor::new("[::ffff:192.0.2.7]:40000".parse().unwrap(), "198.51.100.25:25".parse().unwrap())
}

#[tokio::test]
async fn whoever_comes_is_announced_before_anything_else() {
    let v1 = Announce::Proxy(Version::V1);
    let v2 = Announce::Proxy(Version::V2);
    let local: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let proxied: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\x00\x02\x07\xc6\x33\x64\x19\x9c\x40\x00\x19";
    for (announce, visitor, header) in [
        (v1, Some(visitor()), &b"PROXY TCP4 192.0.2.7 198.51.100.25 40000 25\r\n"[..]),
        (v2, None, local),
        (v2, Some(visitor()), proxied),
        (Announce::Nothing, Some(visitor()), b""),
    ] {
        let (listener, backend) = pair(announce).await;
        let dialled = backend.dial(visitor).await.unwrap();
        drop(dialled);
        let mut heard = Vec::new();
        accept(&listener).await.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.escape_ascii().to_string(), header.escape_ascii().to_string());
        assert_eq!(backend.presence(), Presence::Unknown, "it has not greeted");
    }
}

#[tokio::test]
async fn a_probe_learns_what_is_offered() {
    let (listener, backend) = pair(Announce::Proxy(Version::V1)).await;
    let ehlo = "250-mta.example.com\r\n250-SIZE 1000\r\n250-XCLIENT ADDR\r\n250 STARTTLS\r\n";
    let (probed, ()) = tokio::join!(backend.probe("mx.example.com"), answer(&listener, "220 hi\r\n", ehlo));
    probed.unwrap();
    assert_eq!(backend.presence(), Presence::There);
    let offer = backend.offer().unwrap();
    assert!(offer.keywords.has(Keyword::StartTls) && offer.keywords.has(Keyword::Size));
    assert_eq!(offer.parameter(Keyword::Size), Some(&b"1000"[..]));
}

#[tokio::test]
async fn a_probe_that_fails_says_how_and_forgets_nothing() {
    let rows: [(&str, &str, &str); 5] = [
        ("", "", "closed where a reply was due"),
        ("hello\r\n", "", "no SMTP reply"),
        ("421 too busy\r\n", "", "421"),
        ("554 go away\r\n", "", "554"),
        ("220 hi\r\n", "421 too many of you\r\n", "421"),
    ];
    for (greeting, ehlo, says) in rows {
        let (listener, backend) = pair(Announce::Proxy(Version::V1)).await;
        let Parsed::Complete(said) = reply::parse(b"250-mta\r\n250 STARTTLS\r\n") else { panic!() };
        let known = Offer::read(&said);
        backend.learn(&known);
        let play = async {
            let mut stream = accept(&listener).await;
            line(&mut stream).await;
            stream.write_all(greeting.as_bytes()).await.unwrap();
            if !ehlo.is_empty() {
                line(&mut stream).await;
                stream.write_all(ehlo.as_bytes()).await.unwrap();
            }
        };
        let (probed, ()) = tokio::join!(backend.probe("mx.example.com"), play);
        let failure = probed.expect_err(greeting).to_string();
        assert!(failure.contains(says), "{greeting:?}: {failure}");
        assert_eq!(backend.offer().as_deref(), Some(&known), "{greeting:?}");
    }
}

#[tokio::test]
async fn a_backend_without_extensions_offers_none() {
    let (listener, backend) = pair(Announce::Proxy(Version::V1)).await;
    let play = answer(&listener, "220 old\r\n", "502 what is EHLO?\r\n");
    let (probed, ()) = tokio::join!(backend.probe("mx.example.com"), play);
    probed.unwrap();
    assert_eq!(backend.offer().as_deref(), Some(&Offer::default()));
    assert_eq!(backend.presence(), Presence::There);
}

#[tokio::test]
async fn who_is_not_there_is_away() {
    let (listener, backend) = pair(Announce::Proxy(Version::V1)).await;
    drop(listener);
    assert!(matches!(backend.dial(None).await, Err(Failure::Connect(_))));
    assert_eq!(backend.presence(), Presence::Away);
}

/// A listener whose queue is full leaves a SYN without an answer.
#[tokio::test]
async fn a_dial_has_a_deadline() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut full = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        full.push(stream);
    }
    let wait = Duration::from_millis(100);
    let backend = Backend::new(Settings { connect_timeout: wait, ..settings(address, Announce::Nothing) });
    let begin = Instant::now();
    let dialled = backend.dial(None).await;
    assert!(matches!(dialled, Err(Failure::ConnectTimeout(w)) if w == wait), "{dialled:?}");
    assert!(begin.elapsed() >= wait);
    assert_eq!(backend.presence(), Presence::Away);
}

/// A backend that is starting up refuses for a while; and one that a visit finds away is looked after at once, not when
/// the next probe would have been due.
#[tokio::test]
async fn one_that_is_away_is_asked_again_soon() {
    let (listener, backend) = pair(Announce::Proxy(Version::V1)).await;
    let probing = tokio::spawn(keep_probing(Arc::clone(&backend), "mx.example.com".into()));
    answer(&listener, "421 starting\r\n", "").await;
    answer(&listener, "220 hi\r\n", "250 mta\r\n").await;
    timeout(PATIENCE, async {
        while backend.presence() != Presence::There {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    backend.set_presence(Presence::Away);
    answer(&listener, "220 hi\r\n", "250 mta\r\n").await;
    probing.abort();
}

/// A probe that goes well says nothing of what a visit has found meanwhile.
#[tokio::test]
async fn one_that_is_lost_while_it_is_asked_is_asked_again_soon() {
    let (listener, backend) = pair(Announce::Proxy(Version::V1)).await;
    let probing = tokio::spawn(keep_probing(Arc::clone(&backend), "mx.example.com".into()));
    let mut stream = accept(&listener).await;
    line(&mut stream).await;
    stream.write_all(b"220 hi\r\n").await.unwrap();
    line(&mut stream).await;
    backend.set_presence(Presence::Away);
    stream.write_all(b"250 mta\r\n").await.unwrap();
    line(&mut stream).await;
    drop(stream);
    answer(&listener, "220 hi\r\n", "250 mta\r\n").await;
    probing.abort();
}
