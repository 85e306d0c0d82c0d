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
    _process: Process,
    address: SocketAddr,
    _dir: TempDir,
}

impl Nginx {
    /// The TCP part, before `gate`.
    #[track_caller]
    pub fn stream(gate: SocketAddr) -> Self {
        Self::start(
            |address| {
                format!("server {{ listen {address}; proxy_pass {gate}; proxy_bind {ADDRESS}; proxy_protocol on; }}")
            },
            |_| String::new(),
        )
    }

    /// The SMTP part, before `gate`.
    #[track_caller]
    pub fn mail(gate: SocketAddr) -> Self {
        let guide = guide(gate);
        let module = peers::tree("libnginx-mod-mail").join("usr/lib/nginx/modules/ngx_mail_module.so");
        Self::start(
            |_| String::new(),
            |address| {
                format!(
                    "load_module {};\nmail {{ server_name {NAME}; auth_http {guide}/;\n\
                     server {{ listen {address}; protocol smtp; smtp_auth none; proxy_protocol on; xclient off; }} }}\n",
                    module.display()
                )
            },
        )
    }

    #[track_caller]
    fn start(stream: impl Fn(SocketAddr) -> String, mail: impl Fn(SocketAddr) -> String) -> Self {
        for _ in 0..TRIES {
            let (address, ready, dir) = (ports::free_address(), ports::free_address(), public_dir());
            let file = dir.path().join("nginx.conf");
            fs::write(&file, configuration(dir.path(), ready, &stream(address), &mail(address))).expect("nginx.conf");
            let mut command = Command::new(Peer::Nginx.program());
            command.arg("-p").arg(dir.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
            let mut process = Process::start("nginx", &command, dir.path());
            let up = wait::until("nginx", || match process.ended() {
                Some(_) => Some(false),
                None => is_ready(ready).then_some(true),
            });
            if up {
                return Self { _process: process, address, _dir: dir };
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
}

/// One process in the foreground. That it is ready is said at a port of its own: a look at the other would be a visit.
fn configuration(dir: &Path, ready: SocketAddr, stream: &str, mail: &str) -> String {
    let module = peers::tree("libnginx-mod-stream").join("usr/lib/nginx/modules/ngx_stream_module.so");
    let (main, mail) = mail.split_once('\n').unwrap_or_default();
    format!(
        "daemon off;\nmaster_process off;\npid {}/nginx.pid;\nerror_log stderr info;\nload_module {};\n{main}\n\
         events {{ worker_connections 256; }}\nstream {{ server {{ listen {ready}; return ready; }}\n{stream} }}\n{mail}\n",
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
