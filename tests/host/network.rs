//! A network of three hosts on this machine: clients, the gate between, and the mail server, each a network namespace.
//!
//! ```text
//!  clients ─── 198.51.100.0/24 ─── gate ─── 192.0.2.0/24 ─── mta
//!   .11 …      2001:db8:c::/64      .1      2001:db8:b::/64   .25
//! ```
//!
//! The clients' host has the addresses that [`client`] counts. Nothing is routed from one side to the other unless a test
//! does it; what is in a namespace touches nothing outside. The names carry our process id; a network that a killed test
//! program left behind goes when the next one is made.
//!
//! A test works inside a host by a thread that moves there ([`Host::run`]): what is bound, connected and started in it
//! stays there. So every other host of these tests can be put into one of these:
//!
//! ```ignore
//! let network = Network::start();
//! let sink = network.mta.keep(Sink::start);
//! let listener = network.mta.run(|| TcpListener::bind((MTA_V4, 25)).unwrap());
//! let dialogue = network.clients.run(|| Dialogue::from(client(Family::V4, 1), (GATE_V4, 25).into()));
//! ```

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::peers::Peer;
use super::wait;

/// The gate's address on the clients' network.
pub const GATE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The same, IPv6.
pub const GATE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 1));
/// The gate's address on the mail server's network.
pub const INNER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The same, IPv6.
pub const INNER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1));
/// The mail server's address.
pub const MTA_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25));
/// The same, IPv6.
pub const MTA_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x25));
/// The gate's interface that leads to the mail server.
pub const INNER: &str = "inner";
/// A name by which the gate finds the mail server at both addresses.
pub const MTA_NAME: &str = "mta.gate.test";

/// How many addresses the clients have in each family.
pub const CLIENTS: u8 = 8;

/// Where iproute2 keeps the namespaces' names, and what is put in place of files of /etc in them.
const NAMES: &str = "/run/netns";
const FILES: &str = "/etc/netns";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// iproute2 sets up its folder at the first namespace, and would do so twice.
static MAKING: Mutex<()> = Mutex::new(());

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

/// The `n`th client's address, from 1 to [`CLIENTS`].
pub fn client(family: Family, n: u8) -> IpAddr {
    assert!((1..=CLIENTS).contains(&n), "there is no client {n}");
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 10 + n).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, u16::from(0x10 + n)).into(),
    }
}

/// The gate as clients of this family find it.
pub fn gate(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(if family == Family::V4 { GATE_V4 } else { GATE_V6 }, port)
}

/// The mail server, as the gate finds it.
pub fn mta(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(if family == Family::V4 { MTA_V4 } else { MTA_V6 }, port)
}

/// Three hosts and what lies between them. They are gone when it is dropped: drop before it what runs inside.
pub struct Network {
    /// Where clients are.
    pub clients: Host,
    /// Where gatepost is.
    pub gate: Host,
    /// Where the mail server is.
    pub mta: Host,
}

impl Network {
    /// Wires three new hosts. Needs [`Peer::Ip`].
    #[track_caller]
    pub fn start() -> Self {
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let host = |name: &str| Host::start(format!("gatepost-{}-{number}-{name}", process::id()));
        let network = Self { clients: host("clients"), gate: host("gate"), mta: host("mta") };
        let Self { clients, gate, mta } = &network;
        clients.wire("outer", gate, "outer");
        mta.wire(INNER, gate, INNER);
        for family in Family::BOTH {
            (1..=CLIENTS).for_each(|n| clients.address("outer", client(family, n)));
        }
        [GATE_V4, GATE_V6].into_iter().for_each(|ip| gate.address("outer", ip));
        [INNER_V4, INNER_V6].into_iter().for_each(|ip| gate.address(INNER, ip));
        [MTA_V4, MTA_V6].into_iter().for_each(|ip| mta.address(INNER, ip));
        [clients, gate, mta].into_iter().for_each(Host::wait_until_wired);
        gate.etc("hosts", &format!("127.0.0.1 localhost\n::1 localhost\n{MTA_V4} {MTA_NAME}\n{MTA_V6} {MTA_NAME}\n"));
        network
    }

    /// The gate is the mail server's default gateway.
    #[track_caller]
    pub fn make_gate_the_default_gateway(&self) {
        for gateway in [INNER_V4, INNER_V6] {
            self.mta.ip(&["route", "add", "default", "via", &gateway.to_string()]);
        }
    }
}

/// A network namespace.
pub struct Host {
    name: String,
}

impl Host {
    #[track_caller]
    fn start(name: String) -> Self {
        let making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        succeed(Command::new(Peer::Ip.program()).args(["netns", "add", &name]));
        drop(making);
        let host = Self { name };
        // The kernel's own addresses too are to be there at once.
        host.sysctl("net/ipv6/conf/default/accept_dad", "0");
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    /// Runs `work` inside, by a thread of its own: its sockets, threads and programs stay there.
    #[track_caller]
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let place = File::open(Path::new(NAMES).join(&self.name)).expect("a namespace that is there");
            move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may move there");
            work()
        };
        // The thread bears the test's name, by which a test that is skipped or fails is told.
        let name = thread::current().name().unwrap_or("host").to_owned();
        thread::scope(|scope| {
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, inside).expect("a thread");
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Something that lives inside: made there, and dropped there.
    #[track_caller]
    pub fn keep<T: Send>(&self, make: impl FnOnce() -> T + Send) -> Inside<'_, T> {
        Inside { host: self, thing: Some(self.run(make)) }
    }

    /// A program that runs inside, and sees the files of /etc that are this host's own.
    pub fn command(&self, program: &Command) -> Command {
        let mut inside = Command::new(Peer::Ip.program());
        inside.args(["netns", "exec", &self.name]).arg(program.get_program()).args(program.get_args());
        inside.envs(program.get_envs().filter_map(|(variable, value)| Some((variable, value?))));
        inside
    }

    /// Runs a script of `deploy/` inside.
    #[track_caller]
    pub fn deploy(&self, script: &str, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(script);
        succeed(self.command(&Command::new(script)).args(arguments));
    }

    /// iproute2's `ip`, inside.
    #[track_caller]
    pub fn ip(&self, arguments: &[&str]) -> String {
        succeed(Command::new(Peer::Ip.program()).args(["-n", &self.name]).args(arguments))
    }

    /// Sets `/proc/sys/…`.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| fs::write(Path::new("/proc/sys").join(name), value).expect("a setting of the kernel"));
    }

    /// Gives a file of /etc other words, for programs by [`command`](Self::command).
    pub fn etc(&self, file: &str, text: &str) {
        let folder = Path::new(FILES).join(&self.name);
        fs::create_dir_all(&folder).expect("a folder for its files");
        fs::write(folder.join(file), text).expect("a file for it");
    }

    #[track_caller]
    fn wire(&self, end: &str, other: &Self, other_end: &str) {
        self.ip(&["link", "add", end, "type", "veth", "peer", "name", other_end, "netns", &other.name]);
        self.ip(&["link", "set", end, "up"]);
        other.ip(&["link", "set", other_end, "up"]);
    }

    #[track_caller]
    fn address(&self, interface: &str, ip: IpAddr) {
        let length = if ip.is_ipv4() { 24 } else { 64 };
        let mut add = vec!["address", "add"];
        let address = format!("{ip}/{length}");
        add.extend([&address, "dev", interface]);
        if ip.is_ipv6() {
            // To be there at once, not after it was looked for elsewhere.
            add.push("nodad");
        }
        self.ip(&add);
    }

    /// The kernel notices in its own time that both ends of a wire are there, and keeps addresses back until then.
    #[track_caller]
    fn wait_until_wired(&self) {
        wait::until("both ends of each wire", || {
            let links = self.ip(&["-o", "link", "show"]);
            let mut wires = links.lines().filter(|link| !link.contains(" lo: "));
            let ready = wires.all(|link| link.contains(" state UP "));
            (ready && self.ip(&["-6", "address", "show", "tentative"]).is_empty()).then_some(())
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// What lives on a host; see [`Host::keep`].
pub struct Inside<'a, T: Send> {
    host: &'a Host,
    /// Gone only while it is dropped.
    thing: Option<T>,
}

impl<T: Send> Inside<'_, T> {
    /// Uses it there, as one must to speak with it.
    #[track_caller]
    pub fn run<R: Send>(&mut self, work: impl FnOnce(&mut T) -> R + Send) -> R {
        let thing = self.thing.as_mut().expect("it is not dropped");
        self.host.run(|| work(thing))
    }
}

impl<T: Send> Deref for Inside<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("it is not dropped")
    }
}

impl<T: Send> DerefMut for Inside<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("it is not dropped")
    }
}

impl<T: Send> Drop for Inside<'_, T> {
    fn drop(&mut self) {
        let thing = self.thing.take();
        if thread::panicking() {
            // Its own thread would not know that, and keep to itself what the thing has to say.
            drop(thing);
        } else {
            self.host.run(|| drop(thing));
        }
    }
}

/// Whether namespaces may be made here at all: root in a container may be denied that.
pub fn is_permitted() -> bool {
    Command::new("unshare").args(["--net", "true"]).output().is_ok_and(|output| output.status.success())
}

/// Removes the namespaces of test programs that are no more.
fn sweep() {
    let names =
        fs::read_dir(NAMES).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names {
        let owner = name.strip_prefix("gatepost-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !PathBuf::from(format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    // Fails only where it is gone, which is what is wanted.
    let _ = Command::new(Peer::Ip.program()).args(["netns", "delete", name]).output();
    let _ = fs::remove_dir_all(Path::new(FILES).join(name));
}

/// Runs a program that has to succeed; what it printed.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{complaints}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
