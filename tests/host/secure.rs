//! A client's double under TLS, by rustls: says the bytes it is told, and tells what it was shown. Certificates are not
//! verified: what they say is for the test to look at.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::wait::PATIENCE;

/// A TLS connection from the client's side.
pub struct Secure {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

/// Connects from an address of this host; in the clear.
#[track_caller]
pub fn connect(source: impl Into<IpAddr>, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(source.into(), 0).into()).expect("an address of this host");
    socket.connect_timeout(&server.into(), PATIENCE).expect("a server");
    let stream: TcpStream = socket.into();
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

impl Secure {
    /// TLS first.
    #[track_caller]
    pub fn first(source: impl Into<IpAddr>, server: SocketAddr, name: &str) -> Self {
        Self::over(connect(source, server), name)
    }

    /// Greeting, EHLO, STARTTLS, and the handshake.
    #[track_caller]
    pub fn after_starttls(source: impl Into<IpAddr>, server: SocketAddr, name: &str) -> Self {
        let mut plain = connect(source, server);
        clear(&mut plain, "", "220");
        assert!(clear(&mut plain, "EHLO client.test", "250").contains("STARTTLS"));
        clear(&mut plain, "STARTTLS", "220");
        Self::over(plain, name)
    }

    /// The handshake on a connection.
    #[track_caller]
    pub fn over(plain: TcpStream, name: &str) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut stream = StreamOwned::new(connection, plain);
        stream.flush().expect("a handshake");
        Self { stream: BufReader::new(stream) }
    }

    /// The bare stream, for a test that reads and writes by itself. Nothing must have been read of it before.
    pub fn into_stream(self) -> StreamOwned<ClientConnection, TcpStream> {
        self.stream.into_inner()
    }

    /// The certificate that the server showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.stream.get_ref().conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }

    /// Sends a line, and reads the reply, whose lines must begin with `start`.
    #[track_caller]
    pub fn ask(&mut self, line: &str, start: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.expect(start)
    }

    /// Sends bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).and_then(|()| self.stream.get_mut().flush()).expect("sent");
    }

    /// Reads a reply.
    #[track_caller]
    pub fn expect(&mut self, start: &str) -> String {
        read_reply(&mut self.stream, start)
    }

    /// Delivers a message, from MAIL to the reply at its end.
    #[track_caller]
    pub fn deliver(&mut self, text: &str) {
        self.ask("MAIL FROM:<bob@example.org>", "250");
        self.ask("RCPT TO:<alice@example.test>", "250");
        self.ask("DATA", "354");
        self.ask(&format!("{text}\r\n."), "250");
    }
}

/// Says a line in the clear (none if it is empty), and reads the reply.
#[track_caller]
pub fn clear(plain: &mut TcpStream, line: &str, start: &str) -> String {
    if !line.is_empty() {
        plain.write_all(format!("{line}\r\n").as_bytes()).expect("sent");
    }
    // One byte at a time, so that nothing behind the reply is taken.
    read_reply(&mut BufReader::with_capacity(1, plain), start)
}

#[track_caller]
fn read_reply(from: &mut impl BufRead, start: &str) -> String {
    let mut reply = String::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).unwrap_or_else(|error| panic!("{error} instead of {start}, behind {reply:?}"));
        assert!(line.starts_with(start), "{line:?} instead of {start}");
        reply.push_str(&line);
        if line.as_bytes().get(3) != Some(&b'-') {
            return reply;
        }
    }
}

#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
