//! An MTA's double that speaks like one that cannot be run here, word for word ([`Dialect`]), and keeps what it hears: who
//! came, every command line, every message byte for byte, every attempt to log in.
//!
//! It trusts everybody: the verbs and parameters that its model keeps for servers of its own organisation it answers to
//! whoever says them. So what leaks through a gate is seen here, and would have worked.
//!
//! It has one user, [`USER`], with one password: those of the example in RFC 2195, whose challenge it always uses, so
//! that it knows the one right answer to CRAM-MD5 from the document. DIGEST-MD5, NTLM and GSSAPI it goes through in
//! their order and their bytes, and then believes the name; it does not compute what they prove.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use jiff::Zoned;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use super::sink::read_data;
use super::wait::{self, PATIENCE};

/// Who may log in.
pub const USER: &str = "tim";

/// The user's password.
pub const PASSWORD: &str = "tanstaaftanstaaf";

/// Whose mail is taken from everybody.
pub const DOMAIN: &str = "@example.test";

/// A recipient there who does not exist.
pub const NOBODY: &str = "nobody@example.test";

/// The challenge and the answer to it in RFC 2195, 2.
const CRAM: (&str, &str) = ("<1896.697170952@postoffice.reston.mci.net>", "tim b913a602c7eda7a495b4e6e7334d3890");

/// How an MTA speaks. In the texts, `{host}`, `{date}`, `{peer}`, `{name}` (of the EHLO), `{from}`, `{to}` (in angle
/// brackets), `{bytes}`, `{id}` and `{verb}` stand for what they say.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// For tables.
    pub name: &'static str,
    pub host: &'static str,
    pub greeting: &'static str,
    /// The first line of the reply to EHLO, without its code.
    pub hello: &'static str,
    /// The reply to HELO.
    pub helo: &'static str,
    /// What is offered in the clear.
    pub clear: &'static [&'static str],
    /// What is offered under TLS.
    pub secure: &'static [&'static str],
    pub replies: Replies,
    /// Verbs of its own, with what they are answered.
    pub private: &'static [(&'static str, &'static str)],
    /// MAIL and RCPT parameters of its own.
    pub parameters: &'static [&'static str],
    /// How long its model holds back the refusal of a login.
    pub tarpit: Duration,
    /// Whether it holds back the refusal of a recipient as well.
    pub tarpits_recipients: bool,
}

/// The replies of a dialect, with their codes.
#[derive(Clone, Copy, Debug)]
pub struct Replies {
    pub starttls: &'static str,
    pub reset: &'static str,
    pub noop: &'static str,
    pub bye: &'static str,
    pub sender: &'static str,
    pub recipient: &'static str,
    /// To DATA.
    pub go_on: &'static str,
    /// To a chunk that is not the last.
    pub chunk: &'static str,
    /// To a message.
    pub taken: &'static str,
    pub unknown_user: &'static str,
    pub no_relay: &'static str,
    /// To a message with a bare LF in it; such a message is taken if there is none.
    pub bare_lf: Option<&'static str>,
    pub good_login: &'static str,
    pub bad_login: &'static str,
    pub cancelled: &'static str,
    pub unknown_mechanism: &'static str,
    pub login_first: &'static str,
    pub hello_first: &'static str,
    pub sender_first: &'static str,
    pub sender_twice: &'static str,
    pub recipient_first: &'static str,
    pub bad_argument: &'static str,
    pub unknown_command: &'static str,
}

/// How one replica behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long refusals are held back: short, or [`Dialect::tarpit`].
    pub tarpit: Duration,
    /// Whether mail is taken only from those who have logged in, as at a submission port.
    pub login_first: bool,
    /// A reply to give at a command that begins so (in capitals), in place of its own; 421 closes.
    pub instead: Option<(&'static str, &'static str)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { tarpit: Duration::from_millis(200), login_first: false, instead: None }
    }
}

/// The double. It stops accepting when it is dropped.
pub struct Replica {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What one connection brought.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The other end.
    pub peer: SocketAddr,
    /// Every command line, without its line end; lines of an AUTH exchange are in `attempts`.
    pub commands: Vec<String>,
    /// The messages that were taken.
    pub messages: Vec<Message>,
    /// The attempts to log in.
    pub attempts: Vec<Attempt>,
    /// Whether TLS was begun.
    pub secure: bool,
    /// True when the connection is over.
    pub ended: bool,
}

/// A message that was taken.
#[derive(Clone, Debug)]
pub struct Message {
    /// What followed `MAIL FROM:`, parameters included.
    pub from: String,
    /// What followed each `RCPT TO:`.
    pub to: Vec<String>,
    /// The message, dots removed.
    pub bytes: Vec<u8>,
    /// Whether it came by BDAT.
    pub chunked: bool,
}

/// An attempt to log in.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// In capitals.
    pub mechanism: String,
    /// The client's lines, the initial response included, as they came.
    pub lines: Vec<String>,
    /// Whether it succeeded; nothing if it was cancelled.
    pub succeeded: Option<bool>,
}

struct Shared {
    dialect: Dialect,
    options: Options,
    tls: Arc<ServerConfig>,
    heard: Mutex<Vec<Heard>>,
}

impl Replica {
    /// On a loopback port, with the usual behaviour.
    pub fn start(dialect: Dialect) -> Self {
        Self::with(dialect, Options::default())
    }

    /// On a loopback port.
    pub fn with(dialect: Dialect, options: Options) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port"), dialect, options)
    }

    /// On a listener that is there already: one that was bound in a network of its own, say.
    pub fn on(listener: TcpListener, dialect: Dialect, options: Options) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { dialect, options, tls: identity(dialect.host), heard: Mutex::default() });
        let (accepting, theirs) = (listener.try_clone().expect("a second handle"), Arc::clone(&shared));
        thread::spawn(move || {
            for stream in accepting.incoming() {
                let Ok(stream) = stream else { return };
                let shared = Arc::clone(&theirs);
                thread::spawn(move || Session::serve(&shared, stream));
            }
        });
        Self { listener, address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What all connections brought so far, in the order of their arrival.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard().clone()
    }

    /// Every message that was taken so far.
    pub fn messages(&self) -> Vec<Message> {
        self.heard().into_iter().flat_map(|heard| heard.messages).collect()
    }

    /// Every attempt to log in so far.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.heard().into_iter().flat_map(|heard| heard.attempts).collect()
    }

    /// Every command line so far.
    pub fn commands(&self) -> Vec<String> {
        self.heard().into_iter().flat_map(|heard| heard.commands).collect()
    }

    /// Waits until it has been asked what it offers, by a gate that wants to know before clients come.
    #[track_caller]
    pub fn wait_for_probe(&self) {
        let asked = |heard: &Heard| heard.ended && heard.commands.iter().any(|line| line.starts_with("EHLO"));
        wait::until("a gate's first probe", || self.heard().iter().any(asked).then_some(()));
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // Wakes the accepting thread, whichever network it is in.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A certificate that nobody vouches for, as Exchange makes itself one when it is installed.
fn identity(host: &str) -> Arc<ServerConfig> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec![host.to_owned()]).and_then(|params| params.self_signed(&key));
    let chain = vec![certificate.expect("a certificate").der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth();
    Arc::new(config.with_single_cert(chain, key).expect("a key that belongs to its certificate"))
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// One connection.
struct Session<'a> {
    shared: &'a Shared,
    connection: usize,
    peer: SocketAddr,
    tcp: TcpStream,
    wire: BufReader<Box<dyn Stream>>,
    secure: bool,
    name: Option<String>,
    from: Option<String>,
    to: Vec<String>,
    chunks: Vec<u8>,
    authenticated: bool,
}

/// Whether the conversation goes on.
#[derive(PartialEq, Eq)]
enum Then {
    Listen,
    Close,
}

impl Session<'_> {
    fn serve(shared: &Shared, tcp: TcpStream) {
        let Ok(peer) = tcp.peer_addr() else { return };
        let connection = {
            let mut heard = shared.heard();
            let (commands, messages, attempts) = Default::default();
            heard.push(Heard { peer, commands, messages, attempts, secure: false, ended: false });
            heard.len() - 1
        };
        let talk = || -> io::Result<()> {
            tcp.set_nodelay(true)?;
            tcp.set_read_timeout(Some(PATIENCE))?;
            let mut session = Session {
                shared,
                connection,
                peer,
                wire: BufReader::new(Box::new(tcp.try_clone()?)),
                tcp,
                secure: false,
                name: None,
                from: None,
                to: Vec::new(),
                chunks: Vec::new(),
                authenticated: false,
            };
            session.say(shared.dialect.greeting)?;
            while let Some(line) = session.line()? {
                session.note(|heard| heard.commands.push(line.clone()));
                if session.command(&line)? == Then::Close {
                    break;
                }
            }
            Ok(())
        };
        // How it ended is for the gate to tell; what came until then was noted.
        let _ = talk();
        shared.heard()[connection].ended = true;
    }

    fn command(&mut self, line: &str) -> io::Result<Then> {
        let Dialect { replies, private, .. } = self.shared.dialect;
        let upper = line.to_ascii_uppercase();
        if let Some((_, reply)) = self.shared.options.instead.filter(|(start, _)| upper.starts_with(start)) {
            self.say(reply)?;
            return Ok(if reply.starts_with("421") { Then::Close } else { Then::Listen });
        }
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.hello(rest)?,
            "HELO" => {
                self.begin(rest);
                self.say(self.shared.dialect.helo)?;
            }
            "STARTTLS" if !self.secure => self.start_tls()?,
            "AUTH" => self.auth(rest)?,
            "MAIL" => self.mail(rest)?,
            "RCPT" => self.rcpt(rest)?,
            "DATA" if self.to.is_empty() => self.out_of_order()?,
            "DATA" => {
                self.say(replies.go_on)?;
                let message = read_data(&mut self.wire)?;
                self.take(message, false)?;
            }
            "BDAT" => self.chunk(rest)?,
            "RSET" => {
                self.forget();
                self.say(replies.reset)?;
            }
            "NOOP" => self.say(replies.noop)?,
            "QUIT" => {
                self.say(replies.bye)?;
                return Ok(Then::Close);
            }
            verb => {
                let known = private.iter().find(|(private, _)| *private == verb);
                let reply = known.map_or(replies.unknown_command, |(_, reply)| reply);
                self.say(&reply.replace("{verb}", verb))?;
            }
        }
        Ok(Then::Listen)
    }

    fn begin(&mut self, name: &str) {
        self.name = Some(name.to_owned());
        self.forget();
    }

    fn forget(&mut self) {
        self.from = None;
        self.to.clear();
        self.chunks.clear();
    }

    fn offered(&self) -> &'static [&'static str] {
        if self.secure { self.shared.dialect.secure } else { self.shared.dialect.clear }
    }

    fn hello(&mut self, name: &str) -> io::Result<()> {
        self.begin(name);
        let offered = self.offered();
        let mut reply = format!("250-{}", self.shared.dialect.hello);
        for (at, keyword) in offered.iter().enumerate() {
            let more = if at + 1 < offered.len() { '-' } else { ' ' };
            reply.push_str(&format!("\r\n250{more}{keyword}"));
        }
        self.say(&reply)
    }

    fn start_tls(&mut self) -> io::Result<()> {
        self.say(self.shared.dialect.replies.starttls)?;
        assert!(self.wire.buffer().is_empty(), "bytes in the clear behind STARTTLS");
        let connection = ServerConnection::new(Arc::clone(&self.shared.tls)).expect("a server");
        self.wire = BufReader::new(Box::new(StreamOwned::new(connection, self.tcp.try_clone()?)));
        self.secure = true;
        self.name = None;
        self.forget();
        self.note(|heard| heard.secure = true);
        Ok(())
    }

    fn mail(&mut self, rest: &str) -> io::Result<()> {
        let replies = self.shared.dialect.replies;
        let reply = match rest.split_once(':') {
            _ if self.name.is_none() => replies.hello_first,
            _ if self.shared.options.login_first && !self.authenticated => replies.login_first,
            _ if self.from.is_some() => replies.sender_twice,
            Some((_, from)) if self.understands(from) => {
                self.from = Some(from.trim().to_owned());
                replies.sender
            }
            _ => replies.bad_argument,
        };
        let from = angled(self.from.as_deref().unwrap_or_default());
        self.say(&reply.replace("{from}", &from))
    }

    fn rcpt(&mut self, rest: &str) -> io::Result<()> {
        let Dialect { replies, tarpits_recipients, .. } = self.shared.dialect;
        let argument = rest.split_once(':').map(|(_, to)| to.trim()).unwrap_or_default();
        let to = angled(argument);
        let mailbox = to.trim_matches(['<', '>']).to_ascii_lowercase();
        let reply = if self.from.is_none() {
            replies.sender_first
        } else if mailbox.is_empty() || !self.understands(argument) {
            replies.bad_argument
        } else if mailbox == NOBODY {
            replies.unknown_user
        } else if !mailbox.ends_with(DOMAIN) && !self.authenticated {
            replies.no_relay
        } else {
            self.to.push(argument.to_owned());
            replies.recipient
        };
        if tarpits_recipients && [replies.unknown_user, replies.no_relay].contains(&reply) {
            thread::sleep(self.shared.options.tarpit);
        }
        self.say(&reply.replace("{to}", &to))
    }

    /// Whether it knows every parameter behind the path.
    fn understands(&self, argument: &str) -> bool {
        const USUAL: &[&str] = &["SIZE", "BODY", "RET", "ENVID", "SMTPUTF8", "AUTH", "NOTIFY", "ORCPT"];
        argument.trim().split(' ').skip(1).all(|parameter| {
            let keyword = parameter.split('=').next().unwrap_or_default().to_ascii_uppercase();
            USUAL.iter().chain(self.shared.dialect.parameters).any(|known| *known == keyword)
        })
    }

    fn out_of_order(&mut self) -> io::Result<()> {
        let replies = self.shared.dialect.replies;
        self.say(if self.from.is_none() { replies.sender_first } else { replies.recipient_first })
    }

    fn chunk(&mut self, rest: &str) -> io::Result<()> {
        let mut words = rest.split_ascii_whitespace();
        let size = words.next().and_then(|size| size.parse::<u64>().ok()).unwrap_or_default();
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let mut chunk = Vec::new();
        // The chunk follows whatever the answer will be (RFC 3030, 2).
        if (&mut self.wire).take(size).read_to_end(&mut chunk)? as u64 != size {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if self.to.is_empty() {
            return self.out_of_order();
        }
        self.chunks.extend_from_slice(&chunk);
        if last {
            let message = std::mem::take(&mut self.chunks);
            return self.take(message, true);
        }
        self.say(&self.shared.dialect.replies.chunk.replace("{bytes}", &size.to_string()))
    }

    fn take(&mut self, bytes: Vec<u8>, chunked: bool) -> io::Result<()> {
        let replies = self.shared.dialect.replies;
        let (from, to) = (self.from.take().unwrap_or_default(), std::mem::take(&mut self.to));
        let bare = bytes
            .iter()
            .zip([&b'\0'].into_iter().chain(&bytes))
            .any(|(&byte, &before)| byte == b'\n' && before != b'\r');
        if let (true, Some(reply)) = (bare, replies.bare_lf) {
            return self.say(reply);
        }
        let size = bytes.len().to_string();
        self.note(|heard| heard.messages.push(Message { from, to, bytes, chunked }));
        let id = format!("{:012x}", self.connection);
        self.say(&replies.taken.replace("{bytes}", &size).replace("{id}", &id))
    }

    fn auth(&mut self, rest: &str) -> io::Result<()> {
        let replies = self.shared.dialect.replies;
        let mut words = rest.split_ascii_whitespace();
        let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
        let mechanisms = self.offered().iter().filter_map(|line| line.strip_prefix("AUTH"));
        if !mechanisms.flat_map(|line| line.split([' ', '='])).any(|offered| offered == mechanism) {
            return self.say(replies.unknown_mechanism);
        }
        let mut exchange = Exchange { session: self, lines: words.next().map(str::to_owned).into_iter().collect() };
        let succeeded = exchange.run(&mechanism)?;
        let attempt = Attempt { mechanism, lines: exchange.lines, succeeded };
        self.note(|heard| heard.attempts.push(attempt));
        match succeeded {
            None => self.say(replies.cancelled),
            Some(true) => {
                self.authenticated = true;
                self.say(replies.good_login)
            }
            Some(false) => {
                thread::sleep(self.shared.options.tarpit);
                self.say(replies.bad_login)
            }
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        self.wire.read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line);
        Ok((!line.is_empty()).then(|| text.strip_suffix("\r\n").unwrap_or(&text).to_owned()))
    }

    /// Says a reply, with what its texts stand for; the last CRLF is added.
    fn say(&mut self, reply: &str) -> io::Result<()> {
        let date = Zoned::now().strftime("%a, %-d %b %Y %H:%M:%S %z").to_string();
        let text = reply
            .replace("{host}", self.shared.dialect.host)
            .replace("{date}", &date)
            .replace("{peer}", &self.peer.ip().to_string())
            .replace("{name}", self.name.as_deref().unwrap_or_default());
        let wire = self.wire.get_mut();
        wire.write_all(format!("{text}\r\n").as_bytes())?;
        wire.flush()
    }

    fn note(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.shared.heard()[self.connection]);
    }
}

/// An AUTH exchange.
struct Exchange<'a, 'b> {
    session: &'a mut Session<'b>,
    /// What the client has said in it.
    lines: Vec<String>,
}

impl Exchange<'_, '_> {
    /// Whether it succeeded; nothing if the client gave up.
    fn run(&mut self, mechanism: &str) -> io::Result<Option<bool>> {
        let right = |line: &str, answer: &str| decoded(line) == answer.as_bytes();
        Ok(match mechanism {
            "PLAIN" => {
                let Some(answer) = self.first("")? else { return Ok(None) };
                Some(
                    [format!("\0{USER}\0{PASSWORD}"), format!("{USER}\0{USER}\0{PASSWORD}")]
                        .iter()
                        .any(|known| right(&answer, known)),
                )
            }
            "LOGIN" => {
                let Some(user) = self.first("VXNlcm5hbWU6")? else { return Ok(None) };
                let Some(password) = self.ask("UGFzc3dvcmQ6")? else { return Ok(None) };
                Some(right(&user, USER) && right(&password, PASSWORD))
            }
            "CRAM-MD5" => {
                let Some(answer) = self.ask(&BASE64_STANDARD.encode(CRAM.0))? else { return Ok(None) };
                Some(right(&answer, CRAM.1))
            }
            "DIGEST-MD5" => {
                let challenge =
                    "realm=\"example.test\",nonce=\"OA6MG9tEQGm2hh\",qop=\"auth\",algorithm=md5-sess,charset=utf-8";
                let Some(answer) = self.ask(&BASE64_STANDARD.encode(challenge))? else { return Ok(None) };
                let known = String::from_utf8_lossy(&decoded(&answer)).contains(&format!("username=\"{USER}\""));
                if known && self.ask(&BASE64_STANDARD.encode("rspauth=ea40f60335c427b5527b84dbabcdfffd"))?.is_none() {
                    return Ok(None);
                }
                Some(known)
            }
            // NTLM, and NTLM in what GSSAPI's clients send if they have no ticket ([MS-SMTPNTLM]).
            mechanism => {
                if self.first(&format!("{mechanism} supported"))?.is_none() {
                    return Ok(None);
                }
                let Some(answer) = self.ask(&BASE64_STANDARD.encode(ntlm_challenge()))? else { return Ok(None) };
                Some(ntlm_user(&decoded(&answer)).is_some_and(|user| user == USER))
            }
        })
    }

    /// The initial response, or the answer to `challenge`.
    fn first(&mut self, challenge: &str) -> io::Result<Option<String>> {
        match self.lines.first() {
            Some(initial) => Ok(Some(initial.clone())),
            None => self.ask(challenge),
        }
    }

    /// The answer to `challenge`; nothing if it is `*`.
    fn ask(&mut self, challenge: &str) -> io::Result<Option<String>> {
        self.session.say(&format!("334 {challenge}"))?;
        let Some(line) = self.session.line()? else { return Err(ErrorKind::UnexpectedEof.into()) };
        self.lines.push(line.clone());
        Ok((line != "*").then_some(line))
    }
}

fn decoded(line: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(line).unwrap_or_default()
}

/// The path in the argument of MAIL or RCPT, with its brackets.
fn angled(argument: &str) -> String {
    let path = argument.trim().split(' ').next().unwrap_or_default();
    if path.starts_with('<') { path.to_owned() } else { format!("<{path}>") }
}

/// A CHALLENGE_MESSAGE ([MS-NLMP] 2.2.1.2) of a server called EX1.
fn ntlm_challenge() -> Vec<u8> {
    let name: Vec<u8> = "EX1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = name.len() as u16;
    // MsvAvNbDomainName, MsvAvEOL.
    let info = [&2_u16.to_le_bytes()[..], &length.to_le_bytes(), &name, &[0; 4]].concat();
    let field = |length: usize, at: u32| {
        [&(length as u16).to_le_bytes()[..], &(length as u16).to_le_bytes(), &at.to_le_bytes()].concat()
    };
    const HEADER: u32 = 48;
    // NEGOTIATE_UNICODE, REQUEST_TARGET, NTLM, ALWAYS_SIGN, TARGET_TYPE_SERVER, EXTENDED_SESSIONSECURITY, TARGET_INFO.
    const FLAGS: u32 = 0x008a_8205;
    [
        &b"NTLMSSP\0"[..],
        &2_u32.to_le_bytes(),
        &field(name.len(), HEADER),
        &FLAGS.to_le_bytes(),
        b"\x01\x23\x45\x67\x89\xab\xcd\xef",
        &[0; 8],
        &field(info.len(), HEADER + u32::from(length)),
        &name,
        &info,
    ]
    .concat()
}

/// The user's name in an AUTHENTICATE_MESSAGE ([MS-NLMP] 2.2.1.3).
fn ntlm_user(message: &[u8]) -> Option<String> {
    message.strip_prefix(b"NTLMSSP\0\x03\0\0\0")?;
    let length = u16::from_le_bytes(message.get(36..38)?.try_into().ok()?);
    let at = u32::from_le_bytes(message.get(40..44)?.try_into().ok()?) as usize;
    let name = message.get(at..at + usize::from(length))?;
    let units: Vec<u16> = name.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    String::from_utf16(&units).ok()
}
