//! Exim: as the MTA behind a gate ([`Exim`]), and as a sender in front of one that uses BDAT ([`send`]).
//!
//! Each instance has its own configuration, spool and log, and three SMTP ports: *plain*, *proxied* (takes only
//! connections that begin with a PROXY header) and *wrapped* (the same, with TLS behind that header and before the
//! greeting, for instances with certificates). Like [`super::postfix`] it passes on what it accepts with one Received
//! field on top and otherwise unchanged, relays for example.test and for 127.0.0.1, and asks no DNS. Bounces vanish.
//!
//! The program comes from an unpacked package and is not set-uid. Started by root with `-C`, the daemon gives up root
//! for Exim's own user, whose name is compiled in; `deliver_drop_privilege` makes that user enough for deliveries too.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::client::{Call, Encryption, Outcome, run_reading};
use super::letter::Letter;
use super::peers::Peer;
use super::ports::{self, IN_USE, TRIES};
use super::postfix::{REFUSED, SIZE_LIMIT, UNWANTED, greets};
use super::process::{Process, lossy, public_dir, public_dir_in_memory};
use super::wait;

/// What may differ between instances.
pub struct Options<'a> {
    /// Where accepted mail goes on to, by SMTP.
    pub next_hop: SocketAddr,
    /// Lines to add to the main section.
    pub main: &'a [&'a str],
    /// Offers AUTH, by PLAIN and LOGIN, to whoever has this name and password, and relays for him.
    pub login: Option<(&'a str, &'a str)>,
    /// Offers STARTTLS, and TLS on the wrapped port, with the certificate of mx.test.
    pub certificates: Option<&'a Certificates>,
    /// Keeps its queue in memory.
    pub in_memory: bool,
}

impl Options<'_> {
    /// Nothing special.
    pub fn delivering_to(next_hop: SocketAddr) -> Self {
        Self { next_hop, main: &[], login: None, certificates: None, in_memory: false }
    }
}

/// A running Exim daemon.
pub struct Exim {
    process: Process,
    plain: SocketAddr,
    proxied: SocketAddr,
    wrapped: SocketAddr,
    dir: TempDir,
}

impl Exim {
    /// Starts an instance; it greets on its plain port when this returns.
    #[track_caller]
    pub fn start(options: &Options<'_>) -> Self {
        for _ in 0..TRIES {
            let ports @ [plain, proxied, wrapped] = std::array::from_fn(|_| ports::free_address());
            let dir = if options.in_memory { public_dir_in_memory() } else { public_dir() };
            lay_out(dir.path(), &configuration(ports, options));
            if let Some(certificates) = options.certificates {
                lend(certificates, dir.path());
            }
            let mut command = exim(dir.path());
            command.arg("-bdf");
            let process = Process::start("exim", &command, dir.path());
            let mut exim = Self { process, plain, proxied, wrapped, dir };
            if wait::until("Exim to greet", || exim.is_up()) {
                return exim;
            }
            let said = exim.log() + &exim.process.stderr();
            assert!(said.contains(IN_USE), "Exim ended\n{said}");
        }
        panic!("no free ports for Exim in {TRIES} tries")
    }

    /// The port for anybody.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// The port that requires a PROXY header.
    pub fn proxied(&self) -> SocketAddr {
        self.proxied
    }

    /// The port that requires a PROXY header, and TLS behind it.
    pub fn wrapped(&self) -> SocketAddr {
        self.wrapped
    }

    /// Its main log and its panic log so far.
    pub fn log(&self) -> String {
        log(self.dir.path())
    }

    /// Waits for a line of the log that has all of `words`, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, words: &[&str]) -> String {
        wait::until(&format!("{words:?} in Exim's log"), || {
            let log = self.log();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
    }

    /// Where it keeps what it has not delivered yet.
    pub fn queue(&self) -> PathBuf {
        self.dir.path().join("spool/input")
    }

    /// Ends this instance now; its ports then refuse connections.
    pub fn stop(mut self) {
        self.process.stop(wait::PATIENCE);
        let port = self.plain;
        drop(self);
        // Its children hold the listening socket too, each to its own end.
        wait::until("the port to be closed", || TcpStream::connect(port).err());
    }

    /// `Some(false)` if it has ended, `Some(true)` if it greets.
    fn is_up(&mut self) -> Option<bool> {
        if self.process.ended().is_some() {
            return Some(false);
        }
        greets(self.plain).then_some(true)
    }
}

/// Sends one letter through `call` and waits for the end of the attempt. Exim uses PIPELINING and, where it is
/// announced, BDAT; the transcript is its main log, in which `K` marks a delivery by BDAT ([`used_chunking`]).
///
/// The letter has one more Received field at the far end than there are MTAs behind the call: Exim's own.
pub fn send(call: &Call, letter: &Letter) -> Outcome {
    let dir = public_dir();
    lay_out(dir.path(), &sender_configuration(call));
    let body = dir.path().join("letter");
    fs::write(&body, &letter.bytes).expect("a file for the letter");
    let mut command = exim(dir.path());
    // Deliver before returning; a line with a dot alone does not end the message.
    command.args(["-odi", "-oi", "-f", &letter.from]).args(&letter.to);
    let handed_in = run_reading(command, fs::File::open(body).expect("the file just written").into());
    let log = log(dir.path());
    let delivered = letter
        .to
        .iter()
        .all(|to| log.lines().any(|line| line.contains(&format!(" => {to} ")) || line.contains(&format!(" -> {to} "))));
    let accepted = handed_in.accepted && delivered && log.contains(" Completed");
    Outcome { accepted, transcript: handed_in.transcript + &log }
}

/// Whether the log of a delivery says that it was made by BDAT.
pub fn used_chunking(log: &str) -> bool {
    log.lines().any(|line| line.contains(" => ") && line.contains(" K "))
}

fn exim(dir: &Path) -> Command {
    let mut command = Command::new("env");
    command.args(["-i", "PATH=/usr/bin:/bin"]).arg(Peer::Exim.program()).arg("-C").arg(dir.join("exim.conf"));
    command
}

/// The user and the group that Exim runs as.
fn ids() -> (u32, u32) {
    let owner = fs::read_to_string("/etc/passwd").expect("every system has this file");
    let ids = owner.lines().find_map(|line| match line.split(':').collect::<Vec<_>>()[..] {
        ["Debian-exim", _, user, group, ..] => Some((user.parse().ok()?, group.parse().ok()?)),
        _ => None,
    });
    ids.expect("the user that Exim runs as")
}

/// Copies the certificate and the key of mx.test to where Exim, which is not root, can read them.
fn lend(certificates: &Certificates, dir: &Path) {
    let (user, group) = ids();
    for (from, to) in [(certificates.chain("mx.test"), "mx.pem"), (certificates.key("mx.test"), "mx.key")] {
        let to = dir.join(to);
        fs::copy(from, &to).expect("a copy for Exim");
        chown(&to, Some(user), Some(group)).expect("root may give it away");
    }
}

fn lay_out(dir: &Path, configuration: &dyn Fn(&Path) -> String) {
    let (user, group) = ids();
    for name in ["spool", "log"] {
        let path = dir.join(name);
        fs::create_dir(&path).expect("a directory for Exim");
        chown(&path, Some(user), Some(group)).expect("root may give it away");
    }
    fs::write(dir.join("exim.conf"), configuration(dir)).expect("exim.conf");
}

fn log(dir: &Path) -> String {
    lossy(&dir.join("log/mainlog")) + &lossy(&dir.join("log/paniclog"))
}

/// What servers and senders have in common.
fn common(dir: &Path) -> String {
    format!(
        "exim_path = {}
spool_directory = {dir}/spool
log_file_path = {dir}/log/%slog
log_selector = +all -arguments
primary_hostname = mx.test
keep_environment =
add_environment = PATH=/usr/bin:/bin
deliver_drop_privilege
host_lookup =
host_lookup_order =
rfc1413_hosts =
delay_warning =
return_path_remove = false
envelope_to_remove = false
delivery_date_remove = false
",
        Peer::Exim.program().display(),
        dir = dir.display(),
    )
}

fn configuration(ports: [SocketAddr; 3], options: &Options<'_>) -> impl Fn(&Path) -> String {
    let [plain, proxied, wrapped] = ports;
    let (hop, extra) = (options.next_hop, options.main.join("\n"));
    let (secure, port) = (options.certificates.is_some(), wrapped.port());
    let tls = move |dir: &Path| match secure {
        false => "tls_advertise_hosts =".to_owned(),
        true => format!(
            "tls_advertise_hosts = *\ntls_certificate = {0}/mx.pem\ntls_privatekey = {0}/mx.key\n\
             tls_on_connect_ports = {port}",
            dir.display()
        ),
    };
    let authenticators = options.login.map(authenticators).unwrap_or_default();
    move |dir| {
        format!(
            "{}{}
local_interfaces = 127.0.0.1
daemon_smtp_ports = {} : {proxied} : {wrapped}
hosts_proxy = ${{if inlist{{$received_port}}{{{proxied}:{wrapped}}}{{127.0.0.1}}}}
chunking_advertise_hosts = *
pipelining_advertise_hosts = *
smtp_accept_max = 0
daemon_startup_retries = 0
smtp_accept_queue_per_connection = 0
message_size_limit = {SIZE_LIMIT}
domainlist ours = example.test
acl_smtp_mail = mail
acl_smtp_rcpt = rcpt
auth_advertise_hosts = *
{extra}
{authenticators}begin acl
mail:
  deny
    senders = {UNWANTED}
    message = 5.7.1 not from you
  accept
rcpt:
  deny
    recipients = {REFUSED}
    message = 5.1.1 no such user here
  accept
    domains = +ours
  accept
    authenticated = *
  accept
    hosts = 127.0.0.1
  deny
    message = 5.7.1 relaying denied
begin routers
bounces:
  driver = redirect
  senders = :
  data = :blackhole:
onward:
  driver = manualroute
  route_list = * {}::{}
  transport = onward
  self = send
begin transports
onward:
  driver = smtp
  hosts_try_chunking =
  message_linelength_limit = {SIZE_LIMIT}
begin retry
* * F,1h,1m
",
            common(dir),
            tls(dir),
            plain.port(),
            hop.ip(),
            hop.port(),
            proxied = proxied.port(),
            wrapped = wrapped.port(),
        )
    }
}

/// Without any, Exim does not offer AUTH at all.
fn authenticators((user, password): (&str, &str)) -> String {
    let right = |name, word| format!("${{if and{{{{eq{{{name}}}{{{user}}}}}{{eq{{{word}}}{{{password}}}}}}}}}");
    format!(
        "begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = {}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = {}
  server_set_id = $auth1
",
        right("$auth2", "$auth3"),
        right("$auth1", "$auth2"),
    )
}

fn sender_configuration(call: &Call) -> impl Fn(&Path) -> String {
    let begins = match call.tls {
        Encryption::None => "  hosts_avoid_tls = *\n",
        Encryption::StartTls => "  hosts_require_tls = *\n",
        Encryption::Implicit => "  protocol = smtps\n",
    };
    // By name: Exim does not look for addresses in certificates.
    let trusts = match &call.authority {
        None => "  tls_verify_hosts =\n  tls_try_verify_hosts =\n".to_owned(),
        Some(authority) => format!(
            "  tls_verify_hosts = *\n  tls_verify_certificates = {}\n  tls_verify_cert_hostnames = *\n",
            authority.display()
        ),
    };
    let shows = call.identity.as_ref().map_or_else(String::new, |(chain, key)| {
        format!("  tls_certificate = {}\n  tls_privatekey = {}\n", chain.display(), key.display())
    });
    let tls = format!("{begins}{trusts}{shows}");
    let interface = match call.source {
        source if source == Ipv4Addr::LOCALHOST => String::new(),
        other => format!("  interface = {other}\n"),
    };
    let server = call.server;
    move |dir| {
        format!(
            "{}tls_advertise_hosts =
begin routers
bounces:
  driver = redirect
  senders = :
  data = :blackhole:
onward:
  driver = manualroute
  route_list = * {}::{}
  transport = onward
  self = send
begin transports
onward:
  driver = smtp
  helo_data = client.test
  hosts_try_chunking = *
{tls}{interface}begin retry
* * F,1h,1m
",
            common(dir),
            server.ip(),
            server.port(),
        )
    }
}
