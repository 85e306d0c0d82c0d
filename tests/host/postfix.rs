//! Postfix: as the MTA behind a gate, and as an honest sender in front of one.
//!
//! Each instance has its own configuration, queue and log in a directory of its own, and five SMTP ports: *plain*,
//! *proxied* (takes only connections that begin with a PROXY header), *xclient* (believes XCLIENT from loopback),
//! *wrapped* (TLS before the greeting, for instances with certificates) and *proxied and wrapped* (both in this order).
//! Whatever it accepts goes on by SMTP to [`Options::next_hop`], usually a [`super::sink::Sink`], with one Received
//! field on top and otherwise unchanged: header rewriting, header dropping and content filters are off. No DNS is asked.
//! What goes back to the usual sender, bob@example.org, vanishes: a bounce must not be counted as a letter.
//!
//! Like any careful Postfix it relays for example.test alone, and for anybody at 127.0.0.1 (`mynetworks`): a gate that
//! does not tell it who the client is makes it an open relay, and a test can see that.
//!
//! The programs come from an unpacked package ([`peers::tree`]), so their directories and libraries have to be named.
//! `mail` and `news`, users of every Debian system, stand in for `postfix` and `postdrop`, which need not exist.

use std::fmt::Write;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::certificates::Certificates;
use super::client::{Outcome, run};
use super::peers::{self, Peer};
use super::ports::{self, TRIES};
use super::process::{Process, lossy, public_dir, public_dir_in_memory};
use super::wait;

/// A recipient that every instance refuses with 550 5.1.1.
pub const REFUSED: &str = "reject@example.test";

/// A sender that every instance refuses with 5.7.1, and at MAIL already.
pub const UNWANTED: &str = "unwanted@example.com";

/// The largest message an instance takes, in bytes; its SIZE keyword.
pub const SIZE_LIMIT: usize = 1_000_000;

/// What may differ between instances.
pub struct Options<'a> {
    /// Where accepted mail goes on to, by SMTP.
    pub next_hop: SocketAddr,
    /// Lines to add to main.cf; they win over the usual ones.
    pub main_cf: &'a [&'a str],
    /// Lines to add to master.cf: further services.
    pub master_cf: &'a [&'a str],
    /// Offers STARTTLS, and TLS on the wrapped port, with the certificate of mx.test.
    pub certificates: Option<&'a Certificates>,
    /// Keeps its queue in memory.
    pub in_memory: bool,
}

impl Options<'_> {
    /// Nothing special.
    pub fn delivering_to(next_hop: SocketAddr) -> Self {
        Self { next_hop, main_cf: &[], master_cf: &[], certificates: None, in_memory: false }
    }
}

/// A running Postfix.
pub struct Postfix {
    process: Process,
    plain: SocketAddr,
    proxied: SocketAddr,
    xclient: SocketAddr,
    wrapped: SocketAddr,
    proxied_and_wrapped: SocketAddr,
    dir: TempDir,
}

impl Postfix {
    /// Starts an instance; it greets on its plain port when this returns.
    #[track_caller]
    pub fn start(options: &Options<'_>) -> Self {
        for _ in 0..TRIES {
            let ports @ [plain, proxied, xclient, wrapped, proxied_and_wrapped] =
                std::array::from_fn(|_| ports::free_address());
            let dir = if options.in_memory { public_dir_in_memory() } else { public_dir() };
            lay_out(dir.path());
            fs::write(dir.path().join("conf/main.cf"), main_cf(dir.path(), options)).expect("main.cf");
            let services = master_cf(ports) + &options.master_cf.join("\n") + "\n";
            fs::write(dir.path().join("conf/master.cf"), services).expect("master.cf");
            let process = master(dir.path());
            let mut postfix = Self { process, plain, proxied, xclient, wrapped, proxied_and_wrapped, dir };
            if wait::until("Postfix to greet", || postfix.is_up()) {
                return postfix;
            }
            // A master(8) that cannot bind ends before its log is open, and so without a word.
            assert!(postfix.log().is_empty(), "Postfix ended\n{}", postfix.log());
        }
        panic!("Postfix ended at once, {TRIES} times: are its ports taken, or is main.cf or master.cf wrong?")
    }

    /// The port for anybody.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// The port that requires a PROXY header.
    pub fn proxied(&self) -> SocketAddr {
        self.proxied
    }

    /// The port that believes XCLIENT.
    pub fn xclient(&self) -> SocketAddr {
        self.xclient
    }

    /// The port where TLS comes first.
    pub fn wrapped(&self) -> SocketAddr {
        self.wrapped
    }

    /// The port that requires a PROXY header, and TLS behind it.
    pub fn proxied_and_wrapped(&self) -> SocketAddr {
        self.proxied_and_wrapped
    }

    /// The process id of master(8) as a number, for `/proc`.
    pub fn pid(&self) -> i32 {
        self.process.number()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        lossy(&self.dir.path().join("mail.log"))
    }

    /// Waits for a line of the log that has all of `words`, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, words: &[&str]) -> String {
        wait::until(&format!("{words:?} in Postfix' log"), || {
            let log = self.log();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        })
    }

    /// Waits until so many messages in all have been passed on and forgotten. One that has arrived may still be in the
    /// queue for a moment, and is sent again if Postfix is killed then.
    #[track_caller]
    pub fn wait_until_done(&self, messages: usize) {
        wait::until("Postfix to be done", || {
            (self.log().lines().filter(|line| line.ends_with(": removed")).count() >= messages).then_some(())
        });
    }

    /// What is in one of its maps, as `postmap -s` writes it: to be asked when nobody has it open.
    #[track_caller]
    pub fn map(&self, map: &str) -> String {
        let mut command = Command::new(peers::tree("postfix").join("usr/sbin/postmap"));
        command.env("LD_LIBRARY_PATH", libraries()).arg("-c").arg(self.dir.path().join("conf")).args(["-s", map]);
        let told = command.output().expect("postmap");
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8(told.stdout).expect("text")
    }

    /// Where it keeps what it remembers.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where it keeps what it has not delivered yet.
    pub fn queue(&self) -> PathBuf {
        self.dir.path().join("queue")
    }

    /// Asks it to try again now what it could not pass on before. To be repeated until that can be seen.
    pub fn flush(&self) {
        let mut command = Command::new(peers::tree("postfix").join("usr/sbin/postkick"));
        // What postqueue -f asks of qmgr(8): forget dead destinations, and look at all that was deferred.
        command.env("LD_LIBRARY_PATH", libraries()).arg("-c").arg(self.dir.path().join("conf"));
        command.args(["public", "qmgr", "FAD"]);
        // qmgr(8) may read the first letter and close; then the others go nowhere, and the caller asks again.
        let _ = run(command);
    }

    /// Stops every process of this instance where it stands, as a hanging machine would.
    pub fn freeze(&self) {
        self.process.signal_all(Signal::STOP);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.process.signal_all(Signal::CONT);
    }

    /// Ends this instance now; its ports then refuse connections.
    pub fn stop(mut self) {
        self.halt();
    }

    /// The same for a while: [`Postfix::start_again`] ends it. Queue and log stay.
    pub fn halt(&mut self) {
        self.process.stop(wait::PATIENCE);
        self.kill();
    }

    /// Kills every process of this instance, as a power failure would, until [`Postfix::start_again`].
    pub fn kill(&mut self) {
        // Its children hold the listening socket too, each to its own end.
        self.process.kill_all();
        wait::until("the port to be closed", || TcpStream::connect(self.plain).err());
    }

    /// Starts it anew after it was ended, on the same ports and with the queue that it left.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.process = master(self.dir.path());
        assert!(wait::until("Postfix to greet", || self.is_up()), "Postfix ended\n{}", self.log());
    }

    /// `Some(false)` if it has ended, `Some(true)` if it greets.
    fn is_up(&mut self) -> Option<bool> {
        if self.process.ended().is_some() {
            return Some(false);
        }
        greets(self.plain).then_some(true)
    }
}

/// Postfix' load generator: `messages` messages of `size` bytes over `sessions` parallel connections.
pub fn smtp_source(server: SocketAddr, sessions: usize, messages: usize, size: usize) -> Outcome {
    let mut command = Command::new(peers::tree("postfix").join("usr/sbin/smtp-source"));
    command.env("LD_LIBRARY_PATH", libraries());
    // It counts on a terminal line; `-c` is what makes it report at all.
    command.args(["-c", "-s", &sessions.to_string(), "-m", &messages.to_string(), "-l", &size.to_string()]);
    command.args(["-f", "bob@example.org", "-t", "alice@example.test", "-M", "client.test", &server.to_string()]);
    run(command)
}

/// Whether an SMTP server at `server` says `220`.
pub fn greets(server: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(server) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit above zero");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).is_ok() && line.starts_with("220 ")
}

fn libraries() -> PathBuf {
    peers::tree("postfix").join("usr/lib/postfix")
}

/// Starts master(8) in the foreground, as the leader of the process group that it signals when it ends.
fn master(dir: &Path) -> Process {
    let mut command = Command::new("env");
    command.args(["-i", "PATH=/usr/bin:/bin", &format!("LD_LIBRARY_PATH={}", libraries().display())]);
    command.arg(format!("MAIL_CONFIG={}/conf", dir.display())).arg(Peer::Postfix.program()).arg("-d");
    Process::start("postfix", &command, dir)
}

/// The directories with the owners that `postfix check` would give them.
fn lay_out(dir: &Path) {
    let (mail, news) = (id_of("/etc/passwd", "mail"), id_of("/etc/group", "news"));
    let make = |name: &str, owner: u32, group: Option<u32>, mode: u32| {
        let path = dir.join(name);
        fs::create_dir_all(&path).expect("a directory for Postfix");
        chown(&path, Some(owner), group).expect("root may give it away");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its permissions");
    };
    make("conf", 0, None, 0o755);
    make("queue", 0, None, 0o755);
    make("queue/pid", 0, None, 0o755);
    make("data", mail, None, 0o700);
    make("queue/maildrop", mail, Some(news), 0o730);
    make("queue/public", mail, Some(news), 0o710);
    for name in "active bounce corrupt defer deferred flush hold incoming private saved trace".split(' ') {
        make(&format!("queue/{name}"), mail, None, 0o700);
    }
}

fn main_cf(dir: &Path, options: &Options<'_>) -> String {
    let (dir, tree) = (dir.display(), peers::tree("postfix"));
    let (tree, hop) = (tree.display(), options.next_hop);
    let hop = format!("smtp:[{}]:{}", hop.ip(), hop.port());
    let mut text = format!(
        "compatibility_level = 3.6
daemon_directory = {tree}/usr/lib/postfix/sbin
command_directory = {tree}/usr/sbin
shlib_directory = {tree}/usr/lib/postfix
import_environment = MAIL_CONFIG LANG=C LD_LIBRARY_PATH={tree}/usr/lib/postfix
queue_directory = {dir}/queue
data_directory = {dir}/data
maillog_file = {dir}/mail.log
maillog_file_prefixes = {dir}
mail_owner = mail
setgid_group = news
default_privs = nobody
inet_protocols = ipv4
inet_interfaces = 127.0.0.1
myhostname = mx.test
mydestination =
mynetworks = 127.0.0.1/32
alias_maps =
alias_database =
local_recipient_maps =
relay_domains = example.test
relay_transport = {hop}
default_transport = {hop}
transport_maps = inline:{{ {{ bob@example.org = discard: }} }}
notify_classes =
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_peername_lookup = no
local_header_rewrite_clients =
message_drop_headers =
smtp_connection_cache_on_demand = no
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{ {REFUSED} = 550 5.1.1 no such user here }} }}, permit
smtpd_sender_restrictions = check_sender_access inline:{{ {{ {UNWANTED} = 554 5.7.1 not from you }} }}
smtpd_delay_reject = no
smtpd_client_connection_count_limit = 0
smtpd_discard_ehlo_keywords =
message_size_limit = {SIZE_LIMIT}
in_flow_delay = 0
"
    );
    if let Some(certificates) = options.certificates {
        let (chain, key) = (certificates.chain("mx.test"), certificates.key("mx.test"));
        writeln!(text, "smtpd_tls_security_level = may\nsmtpd_tls_received_header = no").expect("a string grows");
        writeln!(text, "smtpd_tls_chain_files = {}, {}", key.display(), chain.display()).expect("a string grows");
    }
    // The last of several lines for one parameter counts.
    text + &options.main_cf.join("\n") + "\n"
}

fn master_cf([plain, proxied, xclient, wrapped, proxied_and_wrapped]: [SocketAddr; 5]) -> String {
    format!(
        "{plain} inet n - n - - smtpd
{proxied} inet n - n - - smtpd
  -o smtpd_upstream_proxy_protocol=haproxy
{xclient} inet n - n - - smtpd
  -o smtpd_authorized_xclient_hosts=127.0.0.1
{wrapped} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
{proxied_and_wrapped} inet n - n - - smtpd
  -o smtpd_upstream_proxy_protocol=haproxy
  -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
discard unix - - n - - discard
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"
    )
}

/// The number of a user or group in a file of `name:password:number:…` lines.
fn id_of(file: &str, name: &str) -> u32 {
    let lines = fs::read_to_string(file).expect("every Debian system has this file");
    let found = lines.lines().find_map(|line| match line.split(':').collect::<Vec<_>>()[..] {
        [found, _, id, ..] if found == name => id.parse().ok(),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no {name} in {file}"))
}
