use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::*;
use crate::time::Timestamp;

/// 2030: within the time that rcgen's certificates are good for, and those of the tests with it.
const NOW: Timestamp = Timestamp::from_seconds(1_900_000_000);

/// A folder of certificates, each of which is its own authority.
struct Folder {
    dir: TempDir,
    roots: RootCertStore,
}

impl Folder {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), roots: RootCertStore::empty() }
    }

    /// Writes a certificate for `names`, good in `years`.
    fn write(&mut self, file: &str, names: &[&str], years: (i32, i32)) -> (Pair, CertificateDer<'static>) {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let pair = self.pair(file);
        fs::write(&pair.chain, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        let der = certificate.der().clone();
        self.roots.add(der.clone()).unwrap();
        (pair, der)
    }

    fn pair(&self, file: &str) -> Pair {
        Pair { chain: self.path(&format!("{file}.pem")), key: self.path(&format!("{file}.key")) }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn client(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth()
    }
}

fn settings(certificates: Vec<Pair>) -> Settings {
    Settings { certificates, client_certificate: ClientCertificate::Off, handshake_timeout: Duration::from_secs(30) }
}

fn keyring(certificates: Vec<Pair>) -> Keyring {
    Keyring::load(settings(certificates)).unwrap()
}

type Joined = (
    Result<tokio_rustls::client::TlsStream<DuplexStream>, std::io::Error>,
    Result<TlsStream<DuplexStream>, HandshakeFailure>,
);

async fn join(keyring: &Keyring, client: ClientConfig, name: &str) -> Joined {
    let (near, far) = duplex(1 << 16);
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    tokio::join!(connector.connect(name, near), accept(keyring, far))
}

/// What a client that asks for `name` is shown, and takes if it can verify it.
async fn shown(keyring: &Keyring, folder: &Folder, name: &str) -> Option<CertificateDer<'static>> {
    let (client, _) = join(keyring, folder.client(), name).await;
    let chain = client.ok()?.get_ref().1.peer_certificates()?.first()?.clone().into_owned();
    Some(chain)
}

#[tokio::test]
async fn the_certificate_is_that_of_the_name_that_is_asked_for() {
    let mut folder = Folder::new();
    let (first, mx) = folder.write("mx", &["mx.example.org", "smtp.example.org"], (2020, 2040));
    let (second, wild) = folder.write("wild", &["*.example.net"], (2020, 2040));
    let (third, exact) = folder.write("exact", &["mail.example.com"], (2020, 2040));
    let keyring = keyring(vec![first, second, third]);
    assert_eq!(shown(&keyring, &folder, "mx.example.org").await, Some(mx.clone()));
    assert_eq!(shown(&keyring, &folder, "SMTP.Example.ORG").await, Some(mx.clone()));
    assert_eq!(shown(&keyring, &folder, "any.example.net").await, Some(wild));
    assert_eq!(shown(&keyring, &folder, "mail.example.com").await, Some(exact));
    for other in ["example.net", "a.b.example.net", "nobody.example", "127.0.0.1"] {
        // The first, which is not theirs.
        assert_eq!(shown(&keyring, &folder, other).await, None, "{other}");
    }
    let mut trusting = folder.client();
    trusting.enable_sni = false;
    let (client, _) = join(&keyring, trusting, "mx.example.org").await;
    assert_eq!(client.unwrap().get_ref().1.peer_certificates().unwrap()[0], mx);
}

#[tokio::test]
async fn what_was_agreed_on_is_told_and_is_post_quantum() {
    let mut folder = Folder::new();
    let (pair, _) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let keyring = keyring(vec![pair]);
    let (client, server) = join(&keyring, folder.client(), "mx.example.org").await;
    let facts = Facts::of(&server.unwrap());
    assert_eq!(facts.version, "TLSv1.3");
    assert!(facts.cipher.starts_with("TLS_"), "{facts:?}");
    assert_eq!(facts.group, "X25519MLKEM768");
    assert_eq!(facts.sni.as_deref(), Some("mx.example.org"));
    assert!(!facts.certificate);
    let group = client.unwrap().get_ref().1.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);

    let mut old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(folder.roots.clone())
        .with_no_client_auth();
    old.resumption = Resumption::disabled();
    let (_, server) = join(&keyring, old, "mx.example.org").await;
    let facts = Facts::of(&server.unwrap());
    assert_eq!(facts.version, "TLSv1.2");
    assert!(facts.cipher.starts_with("TLS_ECDHE_"), "{facts:?}");
}

#[tokio::test]
async fn a_client_is_asked_for_a_certificate_and_may_have_none() {
    let mut folder = Folder::new();
    let (pair, der) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let mut asking = settings(vec![pair]);
    asking.client_certificate = ClientCertificate::Ask;
    let keyring = Keyring::load(asking).unwrap();
    let (_, server) = join(&keyring, folder.client(), "mx.example.org").await;
    assert!(!Facts::of(&server.unwrap()).certificate);
    let showing = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(folder.roots.clone())
        .with_client_auth_cert(vec![der], key)
        .unwrap();
    let (_, server) = join(&keyring, showing, "mx.example.org").await;
    assert!(Facts::of(&server.unwrap()).certificate);
}

#[tokio::test]
async fn sessions_are_resumed_by_tickets() {
    let mut folder = Folder::new();
    let (pair, _) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let keyring = keyring(vec![pair]);
    let config = Arc::new(folder.client());
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (near, far) = duplex(1 << 16);
        let connector = TlsConnector::from(Arc::clone(&config));
        let name = ServerName::try_from("mx.example.org").unwrap();
        let (client, server) = tokio::join!(connector.connect(name, near), accept(&keyring, far));
        let (mut client, mut server) = (client.unwrap(), server.unwrap());
        // The ticket comes with the first bytes.
        server.write_all(b"220\r\n").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut [0; 5]).await.unwrap();
        kinds.push(client.get_ref().1.handshake_kind().unwrap());
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

/// The same path is not the same authority.
#[test]
fn who_trusts_others_than_before_is_another() {
    let mut folder = Folder::new();
    let (mx, _) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let (other, _) = folder.write("other", &["mx.example.org"], (2020, 2040));
    let trust = |verify| Trust { name: "mx.example.org".to_owned(), verify, ca: Some(mx.chain.clone()) };
    let [before, again] = [true, true].map(|verify| Connector::load(trust(verify)).unwrap());
    assert_eq!(before, again);
    assert_ne!(before, Connector::load(trust(false)).unwrap());
    fs::copy(&other.chain, &mx.chain).unwrap();
    assert_ne!(before, Connector::load(trust(true)).unwrap());
}

#[tokio::test]
async fn a_new_certificate_is_in_force_and_nobody_inside_notices() {
    let mut folder = Folder::new();
    let (pair, old) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let keyring = keyring(vec![pair]);
    assert_eq!(keyring.reload_if_changed(NOW), Reload::Unchanged);
    let (client, server) = join(&keyring, folder.client(), "mx.example.org").await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());

    let (_, new) = folder.write("mx", &["mx.example.org"], (2021, 2041));
    assert_eq!(keyring.reload_if_changed(NOW), Reload::Swapped);
    assert_eq!(keyring.reload_if_changed(NOW), Reload::Unchanged);
    assert_ne!(old, new);
    assert_eq!(shown(&keyring, &folder, "mx.example.org").await, Some(new));
    assert_eq!(keyring.expiries()[0].name, "mx.example.org");
    assert_eq!(keyring.expiries()[0].not_after, Timestamp::from_seconds(2_240_611_200));

    client.write_all(b"NOOP\r\n").await.unwrap();
    client.flush().await.unwrap();
    let mut said = [0; 6];
    server.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"NOOP\r\n");
}

#[tokio::test]
async fn a_broken_new_file_keeps_the_old_and_is_told_once() {
    let mut folder = Folder::new();
    let (pair, old) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let (other, _) = folder.write("other", &["other.example.org"], (2020, 2040));
    let good = fs::read(&pair.chain).unwrap();
    let keyring = keyring(vec![pair.clone()]);
    for (broken, cause) in [
        (&b""[..], "the file is empty"),
        (b"not PEM", "there is no certificate in it"),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "broken PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        (&fs::read(&other.chain).unwrap(), "does not belong to the certificate"),
    ] {
        replace(&pair.chain, broken);
        let Reload::Broken(Problems(problems)) = keyring.reload_if_changed(NOW) else { panic!("{cause}") };
        assert!(problems[0].cause.contains(cause), "{problems:?}");
        assert_eq!(keyring.reload_if_changed(NOW), Reload::Unchanged, "told once");
        assert_eq!(shown(&keyring, &folder, "mx.example.org").await, Some(old.clone()), "{cause}");
    }
    fs::remove_file(&pair.chain).unwrap();
    assert!(matches!(keyring.reload_if_changed(NOW), Reload::Broken(_)));
    replace(&pair.chain, &good);
    assert_eq!(keyring.reload_if_changed(NOW), Reload::Swapped);
}

/// Puts a new file in the place of an old one, as those who renew certificates do.
fn replace(file: &Path, bytes: &[u8]) {
    let new = file.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(&new, file).unwrap();
}

#[test]
fn each_problem_names_its_file_its_cause_and_a_remedy() {
    let mut folder = Folder::new();
    let (good, _) = folder.write("good", &["mx.example.org"], (2020, 2040));
    let (expired, _) = folder.write("expired", &["mx.example.org"], (2020, 2021));
    let encrypted = folder.path("encrypted.key");
    fs::write(&encrypted, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .unwrap();
    let with = |chain: &Path, key: &Path| Pair { chain: chain.to_owned(), key: key.to_owned() };
    for (pair, file, cause) in [
        (with(&folder.path("none.pem"), &good.key), folder.path("none.pem"), "cannot be read"),
        (with(&good.chain, &folder.path("none.key")), folder.path("none.key"), "cannot be read"),
        (with(&good.key, &good.key), good.key.clone(), "no certificate"),
        (with(&good.chain, &good.chain), good.chain.clone(), "no private key"),
        (with(&good.chain, &encrypted), encrypted.clone(), "encrypted"),
        (with(&good.chain, &expired.key), expired.key.clone(), "does not belong"),
        (with(folder.dir.path(), &good.key), folder.dir.path().to_owned(), "cannot be read"),
    ] {
        let problem = Certificate::read(&pair).unwrap_err();
        assert_eq!(problem.file, file, "{problem}");
        assert!(problem.cause.contains(cause), "{problem}");
        assert!(!problem.remedy.is_empty());
    }
    let broken = [with(&good.chain, &expired.key), with(&expired.chain, &good.key)];
    let all = Keyring::load(settings([&broken[..], &[expired, good]].concat())).unwrap_err();
    assert_eq!(all.0.len(), 2, "{all}");
}

#[tokio::test]
async fn what_is_out_of_date_is_shown_and_told() {
    let mut folder = Folder::new();
    let (good, _) = folder.write("good", &["good.example.org"], (2020, 2040));
    let (expired, _) = folder.write("expired", &["expired.example.org"], (2020, 2021));
    let (early, _) = folder.write("early", &["early.example.org"], (2035, 2040));
    let keyring = keyring(vec![good, expired.clone(), early.clone()]);
    let told = keyring.out_of_date(NOW);
    let causes: Vec<_> = told.iter().map(|problem| (&problem.file, problem.cause.as_str())).collect();
    assert_eq!(
        causes,
        [
            (&expired.chain, "the certificate has expired: it was good until 2021-01-01T00:00:00Z"),
            (&early.chain, "the certificate is not good before 2035-01-01T00:00:00Z"),
        ]
    );
    assert!(told.iter().all(|problem| !problem.remedy.is_empty()));
    // Whoever does not verify, as mail servers do not, is served.
    let mut careless = folder.client();
    careless.dangerous().set_certificate_verifier(Arc::new(super::anyone::Anyone(provider())));
    let (client, server) = join(&keyring, careless, "expired.example.org").await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn what_is_out_of_date_does_not_take_the_place_of_what_is_good() {
    let mut folder = Folder::new();
    let (pair, old) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let (other, _) = folder.write("other", &["other.example.org"], (2020, 2040));
    let keyring = keyring(vec![pair.clone(), other.clone()]);
    for years in [(2020, 2021), (2035, 2040)] {
        folder.write("mx", &["mx.example.org"], years);
        let (_, new) = folder.write("other", &["other.example.org"], (2020, 2041));
        let Reload::Kept(Problems(kept)) = keyring.reload_if_changed(NOW) else { panic!("{years:?}") };
        assert_eq!(kept.iter().map(|problem| &problem.file).collect::<Vec<_>>(), [&pair.chain]);
        assert_eq!(keyring.reload_if_changed(NOW), Reload::Unchanged, "told once");
        assert_eq!(shown(&keyring, &folder, "mx.example.org").await, Some(old.clone()));
        assert_eq!(shown(&keyring, &folder, "other.example.org").await, Some(new), "the other is as it is now");
        // Nor when the whole configuration is read again.
        let again = Keyring::load(settings(vec![other.clone(), pair.clone()])).unwrap();
        assert_eq!(again.keep_what_is_good(&keyring, NOW), kept);
        assert_eq!(again.keep_what_is_good(&keyring, NOW), []);
        assert_eq!(again.out_of_date(NOW), []);
        assert_eq!(shown(&again, &folder, "mx.example.org").await, Some(old.clone()));
    }
    // What is in force has ended too: whatever comes is not worse.
    let late = Timestamp::from_seconds(2_300_000_000);
    folder.write("mx", &["mx.example.org"], (2020, 2030));
    assert_eq!(keyring.reload_if_changed(late), Reload::Swapped);
    assert_eq!(keyring.expiries()[0].not_after, Timestamp::from_seconds(1_893_456_000));
    let again = Keyring::load(settings(vec![pair])).unwrap();
    assert_eq!(again.keep_what_is_good(&keyring, late), []);
    folder.write("mx", &["mx.example.org"], (2020, 2050));
    assert_eq!(keyring.reload_if_changed(late), Reload::Swapped);
}

#[tokio::test(start_paused = true)]
async fn a_half_handshake_costs_a_deadline() {
    let mut folder = Folder::new();
    let (pair, _) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let keyring = keyring(vec![pair]);
    for half in [&b""[..], &[0x16, 3, 1, 0, 200, 1]] {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(half).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(accept(&keyring, far).await.unwrap_err(), HandshakeFailure::Timeout);
        assert_eq!(began.elapsed(), Duration::from_secs(30));
    }
}

#[tokio::test]
async fn a_failure_is_told_in_a_word() {
    let mut folder = Folder::new();
    let (pair, _) = folder.write("mx", &["mx.example.org"], (2020, 2040));
    let keyring = keyring(vec![pair]);
    for (said, failure) in [
        (&b"EHLO client.example\r\n"[..], HandshakeFailure::NotTls),
        (b"GET / HTTP/1.1\r\n\r\n", HandshakeFailure::NotTls),
        (&[0xff; 64], HandshakeFailure::NotTls),
        (&[0x16, 3, 1, 0, 200, 1], HandshakeFailure::Closed),
        (b"", HandshakeFailure::Closed),
        (&[0x15, 3, 3, 0, 2, 2, 42], HandshakeFailure::Refused),
    ] {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(said).await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!(accept(&keyring, far).await.unwrap_err(), failure, "{}", said.escape_ascii());
    }
    let stranger = Folder::new();
    let (client, server) = join(&keyring, stranger.client(), "mx.example.org").await;
    assert!(client.is_err());
    // In TLS 1.3 the client's refusal comes behind the end of the handshake.
    if let Err(failure) = server {
        assert_eq!(failure, HandshakeFailure::Refused);
    }
}
