//! nginx before a gate: its TCP part (`stream`), which passes bytes on behind a PROXY header, and its SMTP part (`mail`),
//! which speaks with the client itself until RCPT, asks by HTTP where to go, and begins anew there.
//!
//! As an unpacked package it has to be told where its parts are, and where its files may be.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use super::peers::{self, Peer};
use super::ports::{self, IN_USE, TRIES};
use super::process::{Process, public_dir};
use super::wait;

/// Where the TCP part connects from. The SMTP part cannot be told: it comes from 127.0.0.1.
pub const ADDRESS: &str = "127.0.0.51";

/// What the SMTP part says of itself in HELO and EHLO, to clients and to the gate.
pub const NAME: &str = "balancer.example.org";

/// A running nginx.
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    second: SocketAddr,
    _dir: TempDir,
}

/// Processes and connections.
#[derive(Clone, Copy, Debug)]
pub struct Workers {
    /// How many serve, below one that does not. None: a single process.
    pub count: usize,
    /// How many connections each may have, to clients and to others.
    pub connections: usize,
}

/// For a test.
const ALONE: Workers = Workers { count: 0, connections: 256 };

impl Nginx {
    /// The TCP part, before `gate`.
    #[track_caller]
    pub fn stream(gate: SocketAddr) -> Self {
        Self::start(
            ALONE,
            |address, _| {
                format!("server {{ listen {address}; proxy_pass {gate}; proxy_bind {ADDRESS}; proxy_protocol on; }}")
            },
            |_, _| String::new(),
        )
    }

    /// The SMTP part, before `gate`.
    #[track_caller]
    pub fn mail(gate: SocketAddr) -> Self {
        let guide = guide(gate);
        Self::mail_servers(ALONE, guide, |address, _| {
            format!("server {{ listen {address}; protocol smtp; smtp_auth none; proxy_protocol on; xclient off; }}")
        })
    }

    /// The SMTP part, with servers that `servers` writes for two addresses; `guide` is the HTTP service that is asked.
    #[track_caller]
    pub fn mail_servers(
        workers: Workers,
        guide: SocketAddr,
        servers: impl Fn(SocketAddr, SocketAddr) -> String,
    ) -> Self {
        let module = peers::tree("libnginx-mod-mail").join("usr/lib/nginx/modules/ngx_mail_module.so");
        Self::start(
            workers,
            |_, _| String::new(),
            |address, second| {
                let servers = servers(address, second);
                format!(
                    "load_module {};\nmail {{ server_name {NAME}; auth_http {guide}/;\n{servers} }}\n",
                    module.display()
                )
            },
        )
    }

    #[track_caller]
    fn start(
        workers: Workers,
        stream: impl Fn(SocketAddr, SocketAddr) -> String,
        mail: impl Fn(SocketAddr, SocketAddr) -> String,
    ) -> Self {
        for _ in 0..TRIES {
            let [address, second, ready] = std::array::from_fn(|_| ports::free_address());
            let dir = public_dir();
            let file = dir.path().join("nginx.conf");
            let (stream, mail) = (stream(address, second), mail(address, second));
            fs::write(&file, configuration(workers, dir.path(), ready, &stream, &mail)).expect("nginx.conf");
            let mut command = Command::new(Peer::Nginx.program());
            command.arg("-p").arg(dir.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
            let mut process = Process::start("nginx", &command, dir.path());
            let up = wait::until("nginx", || match process.ended() {
                Some(_) => Some(false),
                None => is_ready(ready).then_some(true),
            });
            if up {
                return Self { process, address, second, _dir: dir };
            }
            let said = process.stderr() + &process.stdout();
            assert!(said.contains(IN_USE), "nginx ended\n{said}");
        }
        panic!("no free port for nginx in {TRIES} tries")
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its second address, if the configuration used it.
    pub fn second(&self) -> SocketAddr {
        self.second
    }

    /// The process id as a number, for `/proc`; the first of them if there are several.
    pub fn pid(&self) -> i32 {
        self.process.number()
    }
}

/// In the foreground. That it is ready is said at a port of its own: a look at the other would be a visit.
fn configuration(workers: Workers, dir: &Path, ready: SocketAddr, stream: &str, mail: &str) -> String {
    let module = peers::tree("libnginx-mod-stream").join("usr/lib/nginx/modules/ngx_stream_module.so");
    let (main, mail) = mail.split_once('\n').unwrap_or_default();
    let Workers { count, connections } = workers;
    let processes = if count == 0 {
        "master_process off;\nerror_log stderr info;".to_owned()
    } else {
        format!("worker_processes {count};\nworker_rlimit_nofile {connections};")
    };
    format!(
        "daemon off;\n{processes}\npid {}/nginx.pid;\nload_module {};\n{main}\n\
         events {{ worker_connections {connections}; }}\n\
         stream {{ server {{ listen {ready}; return ready; }}\n{stream} }}\n{mail}\n",
        dir.display(),
        module.display()
    )
}

fn is_ready(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said).is_ok() && said == "ready"
}

/// An HTTP server that sends every client to `gate` (ngx_mail_auth_http_module). It ends with the test program.
fn guide(gate: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let Ok(half) = stream.try_clone() else { continue };
            let asked = BufReader::new(half).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
            let (ip, port) = (gate.ip(), gate.port());
            if asked > 0 {
                let _ = write!(
                    stream,
                    "HTTP/1.0 200 OK\r\nAuth-Status: OK\r\nAuth-Server: {ip}\r\nAuth-Port: {port}\r\n\r\n"
                );
            }
        }
    });
    address
}
