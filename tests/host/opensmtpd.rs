//! OpenSMTPD, to stand behind a gate.
//!
//! Its paths and the names of its users are compiled in, so each instance has a root directory of its own: the program
//! and its libraries are copied there, with a list of users that the rest of the system knows nothing of. It is started
//! with chroot(8), and drops its rights from there as ever.
//!
//! Two SMTP ports, *plain* and *proxied* (takes only connections that begin with a PROXY header); it relays for
//! example.test alone, to [`Options::next_hop`], with one Received field on top, and a Date and a Message-ID where there
//! are none. It does not offer CHUNKING or PIPELINING. No DNS is asked: there is no resolver in its root directory.
//!
//! [`Options::next_hop`]: super::postfix::Options::next_hop

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::peers::Peer;
use super::ports::{self, IN_USE, TRIES};
use super::postfix::{SIZE_LIMIT, greets};
use super::process::{Process, public_dir_in_memory};
use super::wait;

/// A running OpenSMTPD.
pub struct OpenSmtpd {
    process: Process,
    plain: SocketAddr,
    proxied: SocketAddr,
    dir: TempDir,
}

impl OpenSmtpd {
    /// Starts an instance that delivers to `next_hop`; it greets on its plain port when this returns.
    #[track_caller]
    pub fn start(next_hop: SocketAddr) -> Self {
        for _ in 0..TRIES {
            let [plain, proxied] = std::array::from_fn(|_| ports::free_address());
            let dir = public_dir_in_memory();
            lay_out(dir.path(), &configuration(plain, proxied, next_hop));
            let mut command = Command::new("chroot");
            command.arg(dir.path()).args(["/smtpd", "-d", "-f", "/etc/smtpd.conf"]);
            let process = Process::start("opensmtpd", &command, dir.path());
            let mut started = Self { process, plain, proxied, dir };
            if wait::until("OpenSMTPD to greet", || started.is_up()) {
                return started;
            }
            let said = started.process.stderr();
            assert!(said.contains(IN_USE), "OpenSMTPD ended\n{said}");
        }
        panic!("no free ports for OpenSMTPD in {TRIES} tries")
    }

    /// The port for anybody.
    pub fn plain(&self) -> SocketAddr {
        self.plain
    }

    /// The port that requires a PROXY header.
    pub fn proxied(&self) -> SocketAddr {
        self.proxied
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Where it keeps what it has not delivered yet.
    pub fn queue(&self) -> PathBuf {
        self.dir.path().join(SPOOL)
    }

    /// `Some(false)` if it has ended, `Some(true)` if it greets.
    fn is_up(&mut self) -> Option<bool> {
        if self.process.ended().is_some() {
            return Some(false);
        }
        // It opens its ports before it is ready to say anything at them.
        (TcpStream::connect(self.plain).is_ok() && greets(self.plain)).then_some(true)
    }
}

const SPOOL: &str = "var/spool/smtpd";

fn lay_out(root: &Path, configuration: &str) {
    for folder in ["etc", "dev", "tmp", "var/run", "var/lib/opensmtpd/empty", SPOOL] {
        fs::create_dir_all(root.join(folder)).expect("a directory for OpenSMTPD");
    }
    fs::set_permissions(root.join(SPOOL), Permissions::from_mode(0o711)).expect("its permissions");
    // Numbers that every Debian system has in use for mail and news.
    let home = "/var/lib/opensmtpd/empty:/bin/false";
    let users = format!("root:x:0:0::/:/bin/false\nopensmtpd:x:8:8::{home}\nopensmtpq:x:9:9::{home}\n");
    fs::write(root.join("etc/passwd"), users).expect("its users");
    fs::write(root.join("etc/group"), "root:x:0:\nopensmtpd:x:8:\nopensmtpq:x:9:\n").expect("its groups");
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").expect("its hosts");
    fs::write(root.join("etc/smtpd.conf"), configuration).expect("smtpd.conf");
    fs::write(root.join("dev/null"), "").expect("something to open");
    let program = Peer::OpenSmtpd.program();
    fs::copy(&program, root.join("smtpd")).expect("the program");
    for library in libraries(&program) {
        let copy = root.join(library.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(copy.parent().expect("a file is in a folder")).expect("a folder for its libraries");
        fs::copy(&library, copy).expect("a library");
    }
}

/// The shared libraries of a program, and what loads them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let told = Command::new("ldd").arg(program).output().expect("ldd is in libc-bin");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(!told.contains("not found"), "{told}");
    told.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn configuration(plain: SocketAddr, proxied: SocketAddr, hop: SocketAddr) -> String {
    format!(
        "smtp max-message-size \"{SIZE_LIMIT}\"
listen on {} port {} hostname mx.test
listen on {} port {} hostname mx.test proxy-v2
action onward relay host smtp://{hop}
match from any for domain \"example.test\" action onward
",
        plain.ip(),
        plain.port(),
        proxied.ip(),
        proxied.port(),
    )
}
