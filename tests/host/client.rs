//! The programs that people and web servers send with: swaks, curl, msmtp, Python's smtplib and nodemailer.
//!
//! Each sends a [`Letter`] byte for byte (the options below switch off what a program would add), says whether the
//! server took it, and keeps what it said on the way. [`super::exim::send`] and [`super::postfix::Postfix`] stand for
//! MTAs that send.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use super::dialogue::stuffed;
use super::letter::Letter;
use super::peers::{self, Peer};

/// A program and its way of speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// swaks, one command at a time.
    Swaks,
    /// swaks with PIPELINING where it is announced.
    SwaksPipelined,
    /// curl, which pipelines nothing and says EHLO with the name in its URL.
    Curl,
    /// msmtp, which pipelines MAIL, RCPT and DATA where PIPELINING is announced.
    Msmtp,
    /// Python's smtplib, `sendmail`.
    Smtplib,
    /// nodemailer, which web applications in JavaScript send with.
    Nodemailer,
}

/// When TLS begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Never.
    #[default]
    None,
    /// After STARTTLS, and the letter only then.
    StartTls,
    /// Before the greeting.
    Implicit,
}

/// Where to send, and how. Certificates are verified only where it is said who may vouch for them.
#[derive(Clone, Debug)]
pub struct Call {
    /// The server.
    pub server: SocketAddr,
    /// The loopback address to come from; to the server, each is another client.
    pub source: IpAddr,
    /// When TLS begins.
    pub tls: Encryption,
    /// User and password for AUTH.
    pub login: Option<(String, String)>,
    /// The mechanism of AUTH.
    pub mechanism: &'static str,
    /// A PEM file with who may vouch for the server's certificate, which has to be for its address.
    pub authority: Option<PathBuf>,
    /// The files of a certificate and its key, to be shown if the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What became of an attempt.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// True if the program reported success: the server confirmed the message for all recipients.
    pub accepted: bool,
    /// Standard output and standard error of the program.
    pub transcript: String,
}

impl Call {
    /// In clear, without AUTH, from 127.0.0.1.
    pub fn to(server: SocketAddr) -> Self {
        Self {
            server,
            source: Ipv4Addr::LOCALHOST.into(),
            tls: Encryption::None,
            login: None,
            mechanism: "PLAIN",
            authority: None,
            identity: None,
        }
    }

    /// The same from another loopback address.
    pub fn from(mut self, source: impl Into<IpAddr>) -> Self {
        self.source = source.into();
        self
    }

    /// The same with TLS.
    pub fn over(mut self, tls: Encryption) -> Self {
        self.tls = tls;
        self
    }

    /// The same, trusting only certificates that the one in this PEM file stands behind.
    pub fn verifying(mut self, authority: PathBuf) -> Self {
        self.authority = Some(authority);
        self
    }

    /// The same with a certificate and its key to show.
    pub fn showing(mut self, chain: PathBuf, key: PathBuf) -> Self {
        self.identity = Some((chain, key));
        self
    }

    /// The same with AUTH, by PLAIN where the program lets us choose.
    pub fn with_login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// The same by another mechanism.
    pub fn by(mut self, mechanism: &'static str) -> Self {
        self.mechanism = mechanism;
        self
    }
}

impl Outcome {
    /// Panics with the transcript unless the letter was taken.
    #[track_caller]
    pub fn assert_accepted(&self) {
        assert!(self.accepted, "not accepted:\n{}", self.transcript);
    }

    /// Panics with the transcript unless the letter was refused and `words` were among what was said.
    #[track_caller]
    pub fn assert_refused(&self, words: &str) {
        assert!(!self.accepted, "accepted, but should not have been:\n{}", self.transcript);
        assert!(self.transcript.contains(words), "not refused with {words:?}:\n{}", self.transcript);
    }
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Swaks, Self::SwaksPipelined, Self::Curl, Self::Msmtp, Self::Smtplib, Self::Nodemailer];

    /// The program it needs.
    pub fn peer(self) -> Peer {
        match self {
            Self::Swaks | Self::SwaksPipelined => Peer::Swaks,
            Self::Curl => Peer::Curl,
            Self::Msmtp => Peer::Msmtp,
            Self::Smtplib => Peer::Python,
            Self::Nodemailer => Peer::Nodemailer,
        }
    }

    /// Sends one letter and waits for the end of the program.
    pub fn send(self, call: &Call, letter: &Letter) -> Outcome {
        match self {
            Self::Swaks => swaks(call, letter, &[]),
            Self::SwaksPipelined => swaks(call, letter, &["--pipeline"]),
            Self::Curl => with_file(&letter.bytes, |file| curl(call, letter, file)),
            Self::Msmtp => with_file(&letter.bytes, |file| msmtp(call, letter, file)),
            Self::Smtplib => with_file(&letter.bytes, |file| smtplib(call, letter, file)),
            Self::Nodemailer => with_file(&letter.bytes, |file| nodemailer(call, letter, file)),
        }
    }
}

/// swaks with more options: `--pipeline`, `--xclient`, `--proxy-version`, `--quit-after`, …
pub fn swaks(call: &Call, letter: &Letter, options: &[&str]) -> Outcome {
    // Left to itself, swaks replaces words and adds an empty line; told not to, it sends the data as it is, with the
    // dots stuffed by us, and adds only the CRLF after the last dot.
    let mut wire = stuffed(&letter.bytes);
    wire.truncate(wire.len() - 2);
    with_file(&wire, |file| {
        let mut command = Command::new(Peer::Swaks.program());
        command.args(["--server", &call.server.ip().to_string(), "--port", &call.server.port().to_string()]);
        command.args(["--local-interface", &call.source.to_string(), "--helo", "client.test"]);
        command.args(["--from", &letter.from, "--to", &letter.to.join(",")]);
        command.arg("--no-data-fixup").arg("--data").arg(format!("@{}", file.display()));
        match call.tls {
            Encryption::None => {}
            Encryption::StartTls => {
                command.arg("--tls");
            }
            Encryption::Implicit => {
                command.arg("--tls-on-connect");
            }
        }
        if let Some(authority) = &call.authority {
            command.arg("--tls-verify").arg("--tls-ca-path").arg(authority);
        }
        if let Some((chain, key)) = &call.identity {
            command.arg("--tls-cert").arg(chain).arg("--tls-key").arg(key);
        }
        if let Some((user, password)) = &call.login {
            command.args(["--auth", call.mechanism, "--auth-user", user, "--auth-password", password]);
        }
        command.args(options);
        run(command)
    })
}

fn curl(call: &Call, letter: &Letter, file: &Path) -> Outcome {
    let mut command = Command::new(Peer::Curl.program());
    let scheme = if call.tls == Encryption::Implicit { "smtps" } else { "smtp" };
    // The path of the URL is the EHLO name.
    command.args(["--verbose", "--silent", "--show-error", &format!("{scheme}://{}/client.test", call.server)]);
    command.args(["--interface", &call.source.to_string(), "--mail-from", &letter.from]);
    command.args(letter.to.iter().flat_map(|to| ["--mail-rcpt", to]));
    command.arg("--upload-file").arg(file);
    match &call.authority {
        None => command.arg("--insecure"),
        Some(authority) => command.arg("--cacert").arg(authority),
    };
    if let Some((chain, key)) = &call.identity {
        command.arg("--cert").arg(chain).arg("--key").arg(key);
    }
    if call.tls == Encryption::StartTls {
        command.arg("--ssl-reqd");
    }
    if let Some((user, password)) = &call.login {
        let mechanism = format!("AUTH={}", call.mechanism);
        command.args(["--login-options", &mechanism, "--user", &format!("{user}:{password}")]);
    }
    run(command)
}

fn msmtp(call: &Call, letter: &Letter, file: &Path) -> Outcome {
    let mut command = Command::new(Peer::Msmtp.program());
    let on = |yes: bool| if yes { "on" } else { "off" };
    command.args([format!("--host={}", call.server.ip()), format!("--port={}", call.server.port())]);
    command.args([format!("--source-ip={}", call.source), format!("--from={}", letter.from)]);
    command.args([
        "--debug",
        "--domain=client.test",
        "--set-date-header=off",
        "--set-from-header=off",
        "--remove-bcc-headers=off",
    ]);
    command.arg(format!("--tls={}", on(call.tls != Encryption::None)));
    command.arg(format!("--tls-starttls={}", on(call.tls == Encryption::StartTls)));
    match &call.authority {
        None => command.arg("--tls-certcheck=off"),
        Some(authority) => command.arg(format!("--tls-trust-file={}", authority.display())),
    };
    if let Some((chain, key)) = &call.identity {
        command.arg(format!("--tls-cert-file={}", chain.display()));
        command.arg(format!("--tls-key-file={}", key.display()));
    }
    match &call.login {
        None => command.arg("--auth=off"),
        Some((user, password)) => command.args([
            format!("--auth={}", call.mechanism.to_ascii_lowercase()),
            format!("--user={user}"),
            format!("--passwordeval=echo '{password}'"),
        ]),
    };
    command.arg("--").args(&letter.to);
    run_reading(command, File::open(file).expect("the file just written").into())
}

fn smtplib(call: &Call, letter: &Letter, file: &Path) -> Outcome {
    const SCRIPT: &str = r#"
import json, smtplib, ssl, sys
call = json.loads(sys.argv[1])
open_connection = smtplib.SMTP
extra = {}
if call["authority"]:
    context = ssl.create_default_context(cafile=call["authority"])
else:
    context = ssl._create_unverified_context()
if call["identity"]:
    context.load_cert_chain(*call["identity"])
if call["tls"] == "Implicit":
    open_connection = smtplib.SMTP_SSL
    extra["context"] = context
with open_connection(call["host"], call["port"], local_hostname="client.test", timeout=30,
                     source_address=(call["source"], 0), **extra) as server:
    server.set_debuglevel(1)
    if call["tls"] == "StartTls":
        server.starttls(context=context)
    if call["login"]:
        server.ehlo()
        assert call["mechanism"] in server.esmtp_features["auth"].split()
        server.esmtp_features["auth"] = call["mechanism"]
        server.login(*call["login"])
    refused = server.sendmail(call["from"], call["to"], open(call["file"], "rb").read())
sys.exit(bool(refused))
"#;
    let mut command = Command::new(Peer::Python.program());
    command.args(["-c", SCRIPT, &described(call, letter, file)]);
    run(command)
}

fn nodemailer(call: &Call, letter: &Letter, file: &Path) -> Outcome {
    const SCRIPT: &str = r#"
const call = JSON.parse(process.argv[1]), { readFileSync } = require("fs");
const tls = { rejectUnauthorized: Boolean(call.authority), ca: call.authority && readFileSync(call.authority) };
if (call.identity) [tls.cert, tls.key] = call.identity.map((name) => readFileSync(name));
const transport = require("nodemailer").createTransport({
    host: call.host, port: call.port, localAddress: call.source, name: "client.test", tls,
    secure: call.tls == "Implicit", ignoreTLS: call.tls == "None", requireTLS: call.tls == "StartTls",
    auth: call.login && { user: call.login[0], pass: call.login[1] }, authMethod: call.mechanism,
    logger: true, debug: true,
});
transport.sendMail({ envelope: { from: call.from, to: call.to }, raw: readFileSync(call.file) })
    .then((sent) => process.exit(sent.rejected.length), (error) => { console.error(error); process.exit(1); });
"#;
    let mut command = Command::new(Peer::Nodemailer.program());
    command.env("NODE_PATH", peers::modules()).args(["-e", SCRIPT, &described(call, letter, file)]);
    run(command)
}

/// A call in JSON, for those who speak through a script.
fn described(call: &Call, letter: &Letter, file: &Path) -> String {
    let call = serde_json::json!({
        "host": call.server.ip(),
        "port": call.server.port(),
        "source": call.source,
        "tls": format!("{:?}", call.tls),
        "login": call.login,
        "mechanism": call.mechanism,
        "from": letter.from,
        "to": letter.to,
        "authority": call.authority,
        "identity": call.identity,
        "file": file,
    });
    call.to_string()
}

/// Runs a program to its end with no input.
pub fn run(command: Command) -> Outcome {
    run_reading(command, Stdio::null())
}

/// Runs a program to its end, for a minute at most (`timeout` then ends it, and that is no success).
pub fn run_reading(command: Command, input: Stdio) -> Outcome {
    let mut limited = Command::new("timeout");
    limited.arg("60").arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(variable, value)| Some((variable, value?))));
    let mut said = tempfile::tempfile().expect("a file for what the program says");
    let both = || Stdio::from(said.try_clone().expect("a second handle"));
    let status = limited.stdin(input).stdout(both()).stderr(both()).status().expect("timeout is in coreutils");
    let mut transcript = Vec::new();
    said.rewind().and_then(|()| said.read_to_end(&mut transcript)).expect("what the program said");
    let mut transcript = String::from_utf8_lossy(&transcript).into_owned();
    if !status.success() {
        transcript.push_str(&format!("\n{:?}: {status}\n", command.get_program()));
    }
    Outcome { accepted: status.success(), transcript }
}

fn with_file(message: &[u8], send: impl FnOnce(&Path) -> Outcome) -> Outcome {
    let file = NamedTempFile::with_prefix("gatepost-letter-").expect("a file for the letter");
    fs::write(file.path(), message).expect("a file for the letter");
    send(file.path())
}
