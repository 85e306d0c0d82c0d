//! TLS with the backend: when it begins, whom it trusts, and what a backend, or somebody before it, can do about it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepost::backend::{Announce, Backend, Begins, Connection, Failure, Settings, Tls};
use gatepost::tls::{self, ClientCertificate, Connector, Keyring, Pair, Trust};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a backend has to show, and a file with who vouches for it.
struct Identity {
    dir: TempDir,
    keyring: Arc<Keyring>,
}

impl Identity {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["mta.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pair = Pair { chain: dir.path().join("mta.pem"), key: dir.path().join("mta.key") };
        fs::write(&pair.chain, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        let settings = tls::Settings {
            certificates: vec![pair],
            client_certificate: ClientCertificate::Off,
            handshake_timeout: Duration::from_secs(10),
        };
        let keyring = Arc::new(Keyring::load(settings).unwrap());
        Self { dir, keyring }
    }

    fn ca(&self) -> Option<PathBuf> {
        Some(self.dir.path().join("mta.pem"))
    }
}

fn trust(name: &str, verify: bool, ca: Option<PathBuf>) -> Connector {
    Connector::load(Trust { name: name.to_owned(), verify, ca }).unwrap()
}

/// A backend that does `act` with each connection.
async fn backend<A, F>(begins: Begins, connector: Connector, act: A) -> Arc<Backend>
where
    A: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act(stream));
        }
    });
    let wait = Duration::from_secs(10);
    Backend::new(Settings {
        address,
        hostname: "gate.test".to_owned(),
        announce: Announce::Nothing,
        tls: Some(Tls { begins, connector: Arc::new(connector) }),
        connect_timeout: wait,
        reply_timeout: wait,
        probe_interval: wait,
    })
}

async fn hear(stream: &mut (impl AsyncRead + Unpin), line: &str) {
    let mut heard = vec![0; line.len() + 2];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), format!("{line}\r\n"));
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), lines: &str) {
    stream.write_all(lines.replace('\n', "\r\n").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// Greets, offers STARTTLS, and answers it with `reply`.
async fn up_to_starttls(stream: &mut TcpStream, reply: &str) {
    say(stream, "220 mta.test\n").await;
    hear(stream, "EHLO gate.test").await;
    say(stream, "250-mta.test\n250 STARTTLS\n").await;
    hear(stream, "STARTTLS").await;
    say(stream, reply).await;
}

#[tokio::test]
async fn starttls_is_said_behind_the_greeting_which_is_kept() {
    let identity = Identity::new();
    let keyring = Arc::clone(&identity.keyring);
    for begins in [Begins::StartTls, Begins::IfOffered] {
        let keyring = Arc::clone(&keyring);
        let backend = backend(begins, trust("mta.test", true, identity.ca()), move |mut stream| {
            let keyring = Arc::clone(&keyring);
            async move {
                up_to_starttls(&mut stream, "220 go on\n").await;
                let mut stream = tls::accept(&keyring, stream).await.unwrap();
                hear(&mut stream, "EHLO gate.test").await;
                say(&mut stream, "250-mta.test\n250 SIZE 77\n").await;
                hear(&mut stream, "QUIT").await;
            }
        })
        .await;
        backend.probe("gate.test").await.unwrap();
        let offer = backend.offer().expect("an offer");
        assert_eq!(
            offer.parameter(gatepost::smtp::ehlo::Keyword::Size),
            Some(&b"77"[..]),
            "that which was made under TLS"
        );
        let dialled = backend.dial(None).await.unwrap();
        assert!(matches!(dialled.connection, Connection::Tls(_)));
        assert_eq!(dialled.inbox, b"220 mta.test\r\n");
    }
}

#[tokio::test]
async fn tls_can_come_first() {
    let identity = Identity::new();
    let keyring = Arc::clone(&identity.keyring);
    let backend = backend(Begins::First, trust("mta.test", true, identity.ca()), move |stream| {
        let keyring = Arc::clone(&keyring);
        async move {
            let mut stream = tls::accept(&keyring, stream).await.unwrap();
            say(&mut stream, "220 mta.test\n").await;
            hear(&mut stream, "EHLO gate.test").await;
            say(&mut stream, "250 mta.test\n").await;
        }
    })
    .await;
    backend.probe("gate.test").await.unwrap();
    assert!(backend.dial(None).await.unwrap().inbox.is_empty());
}

#[tokio::test]
async fn where_starttls_is_not_to_be_had_it_depends_on_whether_it_is_required() {
    for refusing in [false, true] {
        for begins in [Begins::StartTls, Begins::IfOffered] {
            let backend = backend(begins, trust("mta.test", false, None), move |mut stream| async move {
                if refusing {
                    up_to_starttls(&mut stream, "454 not now\n").await;
                } else {
                    say(&mut stream, "220 mta.test\n").await;
                    hear(&mut stream, "EHLO gate.test").await;
                    say(&mut stream, "250 mta.test\n").await;
                }
                let _ = stream.read(&mut [0; 64]).await;
            })
            .await;
            match (begins, backend.dial(None).await) {
                (Begins::IfOffered, Ok(dialled)) => {
                    assert!(dialled.connection.tcp().is_some());
                    assert_eq!(dialled.inbox, b"220 mta.test\r\n");
                }
                (Begins::StartTls, Err(Failure::NoTls)) => {}
                (_, other) => panic!("{begins:?}: {other:?}"),
            }
        }
    }
}

/// Whatever stands behind the 220 in the clear would be read as if it had been said under TLS (CVE-2021-38371 and kin).
#[tokio::test]
async fn nothing_in_the_clear_behind_the_220_is_believed() {
    for begins in [Begins::StartTls, Begins::IfOffered] {
        let backend = backend(begins, trust("mta.test", false, None), |mut stream| async move {
            up_to_starttls(&mut stream, "220 go on\n250-forged\n250 SIZE 1\n").await;
            let _ = stream.read(&mut [0; 64]).await;
        })
        .await;
        let failure = backend.dial(None).await.unwrap_err();
        assert!(matches!(failure, Failure::BehindStartTls), "{failure}");
    }
    // Nor behind the greeting, or the reply to EHLO.
    for more in ["220 mta.test\n250 forged\n", "220 mta.test\n"] {
        let backend = backend(Begins::StartTls, trust("mta.test", false, None), move |mut stream| async move {
            say(&mut stream, more).await;
            let _ = stream.read(&mut [0; 64]).await;
            say(&mut stream, "250 STARTTLS\n220 forged\n").await;
            let _ = stream.read(&mut [0; 64]).await;
        })
        .await;
        let failure = backend.dial(None).await.unwrap_err();
        assert!(matches!(failure, Failure::NotSmtp), "{failure}");
    }
    // Even if all goes well after it: it would be there to be read as if it had been said under TLS.
    let identity = Identity::new();
    let keyring = Arc::clone(&identity.keyring);
    let backend = backend(Begins::StartTls, trust("mta.test", true, identity.ca()), move |mut stream| {
        let keyring = Arc::clone(&keyring);
        async move {
            for said in ["220 mta.test\n250-forged\n250 SIZE 1\n", "250-mta.test\n250 STARTTLS\n", "220 go on\n"] {
                say(&mut stream, said).await;
                if said.ends_with("go on\n") || stream.read(&mut [0; 64]).await.is_ok_and(|count| count == 0) {
                    break;
                }
            }
            if let Ok(mut stream) = tls::accept(&keyring, stream).await {
                let _ = stream.read(&mut [0; 64]).await;
            }
        }
    })
    .await;
    let failure = backend.dial(None).await.unwrap_err();
    assert!(matches!(failure, Failure::NotSmtp), "{failure}");
}

#[tokio::test]
async fn the_certificate_is_verified_where_that_is_asked() {
    let (identity, other) = (Identity::new(), Identity::new());
    for (connector, trusted) in [
        (trust("mta.test", true, identity.ca()), true),
        (trust("elsewhere.test", true, identity.ca()), false),
        (trust("mta.test", true, other.ca()), false),
        (trust("elsewhere.test", false, None), true),
    ] {
        let about = format!("{connector:?}");
        let keyring = Arc::clone(&identity.keyring);
        let backend = backend(Begins::First, connector, move |stream| {
            let keyring = Arc::clone(&keyring);
            async move {
                if let Ok(mut stream) = tls::accept(&keyring, stream).await {
                    let _ = stream.read(&mut [0; 64]).await;
                }
            }
        })
        .await;
        match backend.dial(None).await {
            Ok(_) => assert!(trusted, "{about}"),
            Err(Failure::Handshake(_)) => assert!(!trusted, "{about}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn where_tls_may_be_left_out_a_failed_handshake_is_no_obstacle() {
    for (begins, goes_on) in [(Begins::IfOffered, true), (Begins::StartTls, false)] {
        let backend = backend(begins, trust("mta.test", false, None), |mut stream| async move {
            up_to_starttls(&mut stream, "220 go on\n").await;
            let _ = stream.read(&mut [0; 64]).await;
            say(&mut stream, "this is no TLS\n").await;
        })
        .await;
        match backend.dial(None).await {
            Ok(dialled) => assert!(goes_on && dialled.connection.tcp().is_some() && dialled.inbox.is_empty()),
            Err(failure) => assert!(!goes_on && matches!(failure, Failure::Handshake(_)), "{failure}"),
        }
    }
}
