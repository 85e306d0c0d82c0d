//! TLS that ends at the gate, as a visit sees it: its deadline, handshakes that never become any, words in clear where a
//! handshake belongs, and being told to leave in the middle of one.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Client;
use super::mta::EHLO;
use super::*;
use crate::session::attend::stranger_visit;
use crate::session::{Here, Tls};
use crate::tls::{self, ClientCertificate, Keyring, Pair};

/// How long a handshake may take here.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The start of a handshake: a record that promises more than comes.
const HALF: &[u8] = &[0x16, 3, 1, 0, 200, 1, 0];

/// TLS for mx.example.com that begins after STARTTLS, or comes first; and the certificate that is shown.
pub(super) fn here(first: bool) -> (Tls, CertificateDer<'static>) {
    let folder = TempDir::new().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["mx.example.com".to_owned()]).unwrap().self_signed(&key).unwrap();
    let pair = Pair { chain: folder.path().join("mx.pem"), key: folder.path().join("mx.key") };
    fs::write(&pair.chain, certificate.pem()).unwrap();
    fs::write(&pair.key, key.serialize_pem()).unwrap();
    let shown = tls::Settings {
        certificates: vec![pair],
        client_certificate: ClientCertificate::Off,
        handshake_timeout: HANDSHAKE,
    };
    let keyring = Keyring::load(shown).unwrap();
    (Tls::Here(Arc::new(Here { keyring, first, before_auth: true })), certificate.der().clone())
}

/// A gate with that, and the certificate.
fn post(first: bool) -> (Post, CertificateDer<'static>) {
    let (tls, certificate) = here(first);
    let post = Post::new(Settings { tls, ..settings(nobody()) });
    post.gate.backend.learn(&offer(EHLO));
    (post, certificate)
}

/// A visit, with `talk` at the other end of the line in clear: what came of the talk, and the visit's record.
async fn visit<F: Future>(post: &Post, talk: impl FnOnce(Client<DuplexStream>) -> F) -> (F::Output, Value) {
    let (ours, theirs) = duplex(1 << 16);
    let ((), said) = tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk(Client::on(theirs)));
    (said, post.the_record().await)
}

/// Up to where the handshake belongs.
async fn to_handshake(client: &mut Client<DuplexStream>, first: bool) {
    if first {
        return;
    }
    assert!(client.reply().await.starts_with("220"));
    assert!(client.ask("EHLO client.example.net").await.contains("STARTTLS"));
    assert!(client.ask("STARTTLS").await.starts_with("220 "));
}

/// Begins TLS.
pub(super) async fn secured(
    client: Client<DuplexStream>,
    certificate: CertificateDer<'static>,
) -> Client<TlsStream<DuplexStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("mx.example.com").unwrap();
    Client::on(TlsConnector::from(Arc::new(config)).connect(name, client.stream).await.unwrap())
}

fn handshakes(post: &Post, result: &str) -> u64 {
    let sample = format!("gatepost_tls_handshakes_total{{gate=\"mx\",result=\"{result}\"}} ");
    let text = post.house.metrics.text();
    text.lines().find_map(|line| line.strip_prefix(&sample)).expect("a sample").parse().unwrap()
}

fn stage(first: bool) -> &'static str {
    if first { "arrival" } else { "dialogue" }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_costs_its_deadline_and_a_line() {
    for first in [false, true] {
        for half in [&b""[..], HALF] {
            let (post, _) = post(first);
            let (took, record) = visit(&post, |mut client| async move {
                to_handshake(&mut client, first).await;
                let began = Instant::now();
                client.say(half).await;
                assert_eq!(client.rest().await, "", "nothing in clear behind the 220");
                began.elapsed()
            })
            .await;
            assert_eq!(took, HANDSHAKE);
            assert_eq!(record["outcome"], "timed-out", "{record}");
            assert_eq!(record["stage"], stage(first), "{record}");
            assert_eq!(record["note"], "the TLS handshake took too long", "{record}");
            assert_eq!(handshakes(&post, "timeout"), 1);
        }
    }
}

/// Each byte comes in time for a deadline that began anew with it.
#[tokio::test(start_paused = true)]
async fn a_handshake_byte_by_byte_has_no_more_time() {
    for first in [false, true] {
        let (post, _) = post(first);
        let (took, record) = visit(&post, |mut client| async move {
            to_handshake(&mut client, first).await;
            let began = Instant::now();
            let mut hello = HALF.iter().chain(std::iter::repeat(&0));
            while client.stream.write_all(&[*hello.next().unwrap()]).await.is_ok() {
                tokio::time::sleep(HANDSHAKE / 10).await;
            }
            began.elapsed()
        })
        .await;
        assert_eq!(took, HANDSHAKE);
        assert_eq!(record["outcome"], "timed-out", "{record}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_in_the_middle_is_noticed_at_once() {
    for first in [false, true] {
        for half in [&b""[..], HALF] {
            let (post, _) = post(first);
            let (took, record) = visit(&post, |mut client| async move {
                to_handshake(&mut client, first).await;
                let began = Instant::now();
                client.say(half).await;
                client.half_close().await;
                assert_eq!(client.rest().await, "");
                began.elapsed()
            })
            .await;
            assert_eq!(took, Duration::ZERO);
            assert_eq!((&record["outcome"], &record["stage"]), (&"hung-up".into(), &stage(first).into()), "{record}");
            assert_eq!(handshakes(&post, "closed"), 1);
        }
    }
}

/// A client that takes port 465 for port 25, one that does not wait for the 220 to its STARTTLS, and worse.
#[tokio::test(start_paused = true)]
async fn words_in_clear_where_a_handshake_belongs_are_not_taken_for_any() {
    for first in [false, true] {
        for words in
            ["EHLO client.example.net\r\n", "MAIL FROM:<a@example.net>\r\n", "GET / HTTP/1.1\r\n\r\n", "\0\0\0"]
        {
            let (post, _) = post(first);
            let (alert, record) = visit(&post, |mut client| async move {
                to_handshake(&mut client, first).await;
                client.say(words).await;
                client.half_close().await;
                let mut alert = Vec::new();
                client.stream.read_to_end(&mut alert).await.unwrap();
                alert
            })
            .await;
            // An alert, if the record was whole enough for one; never a reply.
            assert!(alert.is_empty() || alert.starts_with(&[0x15, 3]), "{}", alert.escape_ascii());
            let (outcome, stage) = (&record["outcome"], &record["stage"]);
            assert_eq!((outcome, stage), (&"protocol-fault".into(), &self::stage(first).into()), "{record}");
            assert_eq!(record.get("from"), None, "{record}");
            assert_eq!(handshakes(&post, "not-tls"), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_honest_handshake_is_let_finish_when_all_are_to_leave() {
    for first in [false, true] {
        let (post, certificate) = post(first);
        let draining = post.house.draining.clone();
        let (said, record) = visit(&post, |mut client| async move {
            to_handshake(&mut client, first).await;
            draining.cancel();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut client = secured(client, certificate).await;
            // Where it comes first, the greeting has still to be said.
            let said = client.reply().await;
            if first { client.reply().await } else { said }
        })
        .await;
        assert!(said.starts_with("421 "), "{said}");
        assert_eq!(record["outcome"], "shutdown", "{record}");
        assert_eq!(record["tls"]["version"], "TLSv1.3", "{record}");
        assert_eq!(handshakes(&post, "ok"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_half_handshake_when_all_are_to_leave() {
    for first in [false, true] {
        let (post, _) = post(first);
        let draining = post.house.draining.clone();
        let (took, record) = visit(&post, |mut client| async move {
            to_handshake(&mut client, first).await;
            client.say(HALF).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            draining.cancel();
            let began = Instant::now();
            assert_eq!(client.rest().await, "");
            began.elapsed()
        })
        .await;
        assert_eq!(took, Duration::from_secs(2));
        assert_eq!((&record["outcome"], &record["stage"]), (&"shutdown".into(), &stage(first).into()), "{record}");
    }
}
