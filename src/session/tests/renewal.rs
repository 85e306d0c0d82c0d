//! TLS that begins at the gate in the middle of a relay: the MTA is another one then, or there is none. The client is in
//! memory, the MTA is played over loopback.

use memchr::memmem;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use super::client::{Client, soon};
use super::tls::{here, secured};
use super::*;
use crate::proxy_header::{self, Header};
use crate::session::attend::stranger_visit;

/// The PP2_TYPE_SSL of a v2 header.
const SSL: u8 = 0x20;

/// A gate whose clients are relayed at once, and can begin TLS there.
struct Scene {
    post: Post,
    mta: TcpListener,
    certificate: CertificateDer<'static>,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut backend::Settings)) -> Self {
        let mta = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = settings(mta.local_addr().unwrap());
        only_early(&mut settings);
        let (tls, certificate) = here(false);
        settings.tls = tls;
        let backend = Arc::make_mut(&mut settings.backend);
        backend.announce = Announce::Proxy(Version::V2);
        change(backend);
        Self { post: Post::new(settings), mta, certificate }
    }

    /// A visit with `talk` at both other ends of it, and its record.
    async fn visit<F: Future>(self, talk: impl FnOnce(Client<DuplexStream>, TcpListener) -> F) -> (Post, Value) {
        let Self { post, mta, .. } = self;
        let (ours, theirs) = duplex(1 << 16);
        soon(async { tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk(Client::on(theirs), mta)) })
            .await;
        let record = post.the_record().await;
        (post, record)
    }
}

/// The next connection to the MTA, and the header that it begins with.
async fn introduced(mta: &TcpListener) -> (Client<TcpStream>, Vec<u8>) {
    let (mut stream, _) = mta.accept().await.unwrap();
    let mut header = Vec::new();
    loop {
        header.push(stream.read_u8().await.unwrap());
        match proxy_header::parse(&header) {
            proxy_header::Parsed::Complete { header: Header::Proxied { source, destination }, .. } => {
                assert_eq!(source, "192.0.2.7:40000".parse().unwrap());
                assert_eq!(destination, "198.51.100.25:25".parse().unwrap());
                return (Client::on(stream), header);
            }
            proxy_header::Parsed::Incomplete => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What the TLVs behind the addresses of IPv4 say, by their kind.
fn told(header: &[u8], kind: u8) -> Option<Vec<u8>> {
    let mut rest = &header[16 + 12..];
    while let [this, high, low, behind @ ..] = rest {
        let (value, next) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        if *this == kind {
            return Some(value.to_vec());
        }
        rest = next;
    }
    None
}

/// Greets and answers EHLO, in the clear, up to where the handshake belongs. What it is told of TLS there.
async fn to_handshake(client: &mut Client<DuplexStream>, mta: &TcpListener) -> (Client<TcpStream>, Option<Vec<u8>>) {
    let (mut before, header) = introduced(mta).await;
    before.say("220 mta.example.com before\r\n").await;
    assert_eq!(client.reply().await, "220 mta.example.com before");
    client.say("EHLO in.the.clear\r\n").await;
    assert_eq!(before.line().await, "EHLO in.the.clear");
    before.say("250-mta.example.com\r\n250 CHUNKING\r\n").await;
    assert_eq!(client.reply().await, "250-mta.example.com\n250-CHUNKING\n250 STARTTLS");
    assert!(client.ask("STARTTLS").await.starts_with("220 "));
    (before, told(&header, SSL))
}

/// The same, and the handshake; the connection before has been given up in good order.
async fn under_tls(
    mut client: Client<DuplexStream>,
    mta: &TcpListener,
    certificate: CertificateDer<'static>,
) -> Client<TlsStream<DuplexStream>> {
    let (mut before, told) = to_handshake(&mut client, mta).await;
    assert_eq!(told, None, "there was none to tell of");
    let client = secured(client, certificate).await;
    assert_eq!(before.rest().await, "QUIT\r\n");
    client
}

fn failures(post: &Post, kind: &str) -> u64 {
    let sample = format!("gatepost_backend_failures_total{{gate=\"mx\",kind=\"{kind}\"}} ");
    let text = post.house.metrics.text();
    text.lines().find_map(|line| line.strip_prefix(&sample)).unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[tokio::test]
async fn the_mta_is_told_of_tls_over_a_connection_of_its_own() {
    let scene = Scene::new(|_| {}).await;
    let certificate = scene.certificate.clone();
    let (post, record) = scene
        .visit(|client, mta| async move {
            let mut client = under_tls(client, &mta, certificate).await;
            let (mut behind, header) = introduced(&mta).await;
            let told = told(&header, SSL).expect("a word of TLS");
            for word in ["TLSv1.3", "TLS_AES_256_GCM_SHA384"] {
                assert!(memmem::find(&told, word.as_bytes()).is_some(), "{}", told.escape_ascii());
            }
            // The client has had a greeting, and has another dialogue before it.
            behind.say("220-mta.example.com behind\r\n220 and more\r\n").await;
            client.say("EHLO under.tls\r\n").await;
            assert_eq!(behind.line().await, "EHLO under.tls");
            behind.say("250-mta.example.com\r\n250 SIZE 7\r\n").await;
            assert_eq!(client.reply().await, "250-mta.example.com\n250 SIZE 7");
            client.say("QUIT\r\n").await;
            assert_eq!(behind.line().await, "QUIT");
            behind.say("221 bye\r\n").await;
            assert_eq!(client.reply().await, "221 bye");
            assert_eq!(behind.rest().await, "");
        })
        .await;
    assert_eq!((&record["outcome"], &record["backend"]), (&"relayed".into(), &true.into()), "{record}");
    assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
    assert_eq!(record.get("note"), None, "{record}");
    let text = post.house.metrics.text();
    assert!(text.contains("gatepost_backend_connections_total{gate=\"mx\"} 1\n"), "one visit: {text}");
}

/// Instead of greeting it is not there; or it says this, and closes or says nothing more.
#[tokio::test]
async fn without_another_backend_the_client_hears_421_and_the_backend_is_to_blame() {
    for (says, kind, note) in [
        (None, "connect", "after STARTTLS: the backend: cannot connect: "),
        (Some(("421 too many of you\r\n", true)), "refused", "after STARTTLS: the backend greets with 421"),
        (Some(("554 go away\r\n", true)), "refused", "after STARTTLS: the backend greets with 554"),
        (Some(("250 fine\r\n", true)), "refused", "after STARTTLS: the backend greets with 250"),
        (Some(("220 mta\r\n250 and more\r\n", false)), "protocol", "after STARTTLS: the backend: what it says is no"),
        (Some(("hello?\r\n", false)), "protocol", "after STARTTLS: the backend: what it says is no SMTP reply"),
        (Some(("220-mta\r\n", true)), "closed", "after STARTTLS: the backend: closed where a reply was due"),
        (Some(("220-mta\r\n", false)), "timeout", "after STARTTLS: the backend: no reply within 300ms"),
    ] {
        let scene = Scene::new(|backend| backend.reply_timeout = Duration::from_millis(300)).await;
        let certificate = scene.certificate.clone();
        let (post, record) = scene
            .visit(|mut client, mta| async move {
                let (mut before, _) = to_handshake(&mut client, &mta).await;
                let mta = says.map(|_| mta);
                let mut client = secured(client, certificate).await;
                assert_eq!(before.rest().await, "QUIT\r\n");
                let mut behind = None;
                if let (Some(mta), Some((words, closes))) = (&mta, says) {
                    let (mut connection, _) = introduced(mta).await;
                    connection.say(words).await;
                    behind = (!closes).then_some(connection);
                }
                assert_eq!(client.reply().await, "421 4.3.0 Service not available, try again later", "{says:?}");
                assert_eq!(client.line().await, "");
                drop(behind);
            })
            .await;
        let found = (&record["outcome"], &record["stage"], &record["tls"]["version"]);
        assert_eq!(found, (&"backend-failed".into(), &"relay".into(), &"TLSv1.3".into()), "{record}");
        let found = record["note"].as_str().unwrap();
        assert!(found.starts_with(note), "{found}");
        assert_eq!(failures(&post, kind), 1, "{says:?}");
    }
}

#[tokio::test]
async fn whoever_is_to_leave_or_cut_off_does_not_wait_for_another_backend() {
    for cut in [false, true] {
        let scene = Scene::new(|_| {}).await;
        let certificate = scene.certificate.clone();
        let (draining, cutting) = (scene.post.house.draining.clone(), scene.post.house.cut.clone());
        let (_, record) = scene
            .visit(|client, mta| async move {
                let mut client = under_tls(client, &mta, certificate).await;
                // It does not greet.
                let (mut behind, _) = introduced(&mta).await;
                if cut {
                    cutting.cancel();
                } else {
                    draining.cancel();
                    assert_eq!(client.reply().await, "421 4.3.2 Going down, try again later");
                }
                assert_eq!(behind.rest().await, "");
            })
            .await;
        assert_eq!(record["outcome"], "shutdown", "{record}");
        assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
        assert_eq!(record.get("note").is_some(), cut, "{record}");
    }
}

/// A stranger that was relayed in the clear, and begins TLS only then, is no other than one who is known: nothing of what
/// was replayed is left.
#[tokio::test]
async fn what_was_replayed_is_forgotten_too() {
    let mta = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (tls, certificate) = here(false);
    let post = Post::new(Settings { tls, ..settings(mta.local_addr().unwrap()) });
    post.gate.backend.learn(&offer("250-mta.example.com\r\n250 SIZE 7\r\n"));
    let (ours, theirs) = duplex(1 << 16);
    let talk = async {
        let mut client = Client::on(theirs);
        assert!(client.reply().await.starts_with("220 mx.example.com "));
        client.ask("EHLO in.the.clear").await;
        client.ask("MAIL FROM:<a@example.net>").await;
        client.say("RCPT TO:<b@example.com>\r\n").await;
        let (mut before, _) = introduced(&mta).await;
        before.say("220 mta.example.com\r\n").await;
        for (line, answer) in [
            ("EHLO in.the.clear", "250-mta.example.com\r\n250 SIZE 7\r\n"),
            ("MAIL FROM:<a@example.net>", "250 fine\r\n"),
            ("RCPT TO:<b@example.com>", "450 not now\r\n"),
        ] {
            assert_eq!(before.line().await, line);
            before.say(answer).await;
        }
        assert_eq!(client.reply().await, "450 not now");
        client.say("RSET\r\n").await;
        assert_eq!(before.line().await, "RSET");
        before.say("250 fine\r\n").await;
        assert_eq!(client.reply().await, "250 fine");
        assert!(client.ask("STARTTLS").await.starts_with("220 "));
        let mut client = secured(client, certificate).await;
        assert_eq!(before.rest().await, "QUIT\r\n");
        let (mut behind, _) = introduced(&mta).await;
        behind.say("220 mta.example.com\r\n").await;
        assert!(client.ask("RCPT TO:<b@example.com>").await.starts_with("503 5.5.1 EHLO first"));
        client.say("QUIT\r\n").await;
        assert_eq!(behind.line().await, "QUIT");
        behind.say("221 bye\r\n").await;
        assert_eq!(client.reply().await, "221 bye");
    };
    soon(async { tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk) }).await;
    assert_eq!(post.the_record().await["outcome"], "relayed");
}
