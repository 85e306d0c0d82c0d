//! The gate's ports, and the admin interface: free, held by a running gatepost, or by somebody else.
//!
//! A port is tried as the gate would bind it, but for listening: nobody who connects meanwhile is let down.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::finding::{Findings, Topic};
use crate::addr;
use crate::journal::text::escape;
use crate::proxy_header::{self, Header, Version};
use crate::session;

/// How long whoever holds a port has for its first words.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that is read of them.
const WORDS: u64 = 512;

/// What stands before a visit's id in gatepost's refusals.
const VISIT: &[u8] = b"; visit ";

/// How many networks of load balancers are shown.
const SHOWN: usize = 8;

/// The most that is read of what an admin interface says.
const METRICS: u64 = 1 << 20;

/// The gate's addresses. `stands` says that gatepost runs and answers at the file's admin address.
pub(super) async fn gate(gate: &session::Settings, stands: bool, out: &mut Findings) {
    if let Some(proxies) = &gate.proxies {
        let from: Vec<String> = proxies.from.iter().take(SHOWN).map(network).collect();
        let more = if proxies.from.len() > SHOWN { ", …" } else { "" };
        let what = format!(
            "connections are taken from {}{more} only, and whoever they announce is the client",
            from.join(", ")
        );
        let remedy =
            "let a firewall keep everybody but the load balancers away: who connects from there can claim any address";
        out.note(Topic::Listen, what, remedy);
    }
    for &address in &gate.listen {
        match bind(address) {
            Ok(()) => out.fine(Topic::Listen, format!("{address} is free")),
            Err(error) => match error.kind() {
                io::ErrorKind::AddrInUse if stands => {
                    out.fine(
                        Topic::Listen,
                        format!("{address} is in use, and gatepost runs: reached by its admin address"),
                    );
                }
                io::ErrorKind::AddrInUse => held(gate, address, out).await,
                io::ErrorKind::PermissionDenied => {
                    let what =
                        format!("{address} cannot be tried: only root, or who has CAP_NET_BIND_SERVICE, may bind it");
                    let remedy = "run doctor as root; the unit in deploy/gatepost.service has that capability";
                    out.note(Topic::Listen, what, remedy);
                }
                io::ErrorKind::AddrNotAvailable => {
                    let what = format!("{address}: this host does not have that address");
                    out.wrong(Topic::Listen, what, "see `ip address`, and `listen` in the file");
                }
                _ => {
                    let what = format!("{address} cannot be listened at: {error}");
                    out.away(Topic::Listen, what, "see `listen` in the file");
                }
            },
        }
    }
}

/// Somebody else has it, or a gatepost without an admin address.
async fn held(gate: &session::Settings, address: SocketAddr, out: &mut Findings) {
    let words = greeting(gate, address).await;
    let said = match &words {
        Some(words) => format!("it says: {}", escape(words.trim_ascii(), 160)),
        None => "it says nothing".to_owned(),
    };
    let name = words.as_deref().unwrap_or_default();
    if refuses_as_gatepost(name) {
        let what = format!("{address} is in use, by a gatepost; {said}");
        let remedy = if gate.proxies.is_some() {
            "fine: from here nobody is let in at a gate behind a load balancer; with `admin` in the file, doctor can tell \
             more"
        } else {
            "if that is not this gate, find out which by `ss -ltnp`; with `admin` in the file, doctor can tell more"
        };
        return out.note(Topic::Listen, what, remedy);
    }
    let ours = [format!("220-{}", gate.hostname), format!("220 {}", gate.hostname)];
    if ours.iter().any(|front| name.starts_with(front.as_bytes())) {
        let what = format!("{address} is in use, by what greets as {}; {said}", gate.hostname);
        let remedy = "fine if that is gatepost; with `admin` in the file, doctor can tell. Otherwise move the MTA to the \
                      port that `backend` names";
        out.note(Topic::Listen, what, remedy);
        return;
    }
    let what = format!("{address} is in use, and gatepost does not run: {said}");
    let remedy = "find out who that is with `ss -ltnp`, and move the MTA to the port that `backend` names";
    out.away(Topic::Listen, what, remedy);
}

/// Binds as the gate would, and lets go.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

/// The first words of whoever listens there. Nothing is said to him: it may be a gatepost, to which we would speak early.
/// But one that takes us for a load balancer waits for a header: for one of the kind that a check has.
async fn greeting(gate: &session::Settings, address: SocketAddr) -> Option<Vec<u8>> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(reachable(address))).await.ok()?.ok()?;
    let own = addr::canonical(stream.local_addr().ok()?.ip());
    if gate.proxies.as_ref().is_some_and(|proxies| proxies.from.iter().any(|network| network.contains(&own))) {
        let mut header = Vec::new();
        proxy_header::write(&mut header, Version::V2, &Header::Local);
        stream.write_all(&header).await.ok()?;
    }
    let mut words = Vec::new();
    // More than a line is not needed, and a server waits for us behind it.
    while !words.contains(&b'\n') && (words.len() as u64) < WORDS {
        match timeout(PATIENCE, stream.read_buf(&mut words)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    (!words.is_empty()).then(|| words.split(|&byte| byte == b'\n').next().unwrap_or_default().to_vec())
}

/// Whether these are words by which gatepost turns somebody away, whatever its name is: each such reply names the visit.
fn refuses_as_gatepost(words: &[u8]) -> bool {
    let refused = words.starts_with(b"421 ") || words.starts_with(b"521 ");
    refused && words.windows(VISIT.len()).any(|part| part == VISIT)
}

/// A network, or a host without its prefix length.
fn network(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}

/// Everywhere is also here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip, address.port()).into()
}

/// The admin address. Whether gatepost answers there.
pub(super) async fn admin(address: SocketAddr, out: &mut Findings) -> bool {
    match bind(address) {
        Ok(()) => {
            out.fine(Topic::Admin, format!("{address} is free: gatepost does not run by this file"));
            return false;
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => {
            out.wrong(Topic::Admin, format!("{address}: {error}"), "see `admin` in the file");
            return false;
        }
    }
    match ask(address, "/metrics").await {
        Some(metrics) if metrics.contains("\ngatepost_build_info{") => {
            match ask(address, "/ready").await {
                Some(ready) if ready.starts_with("HTTP/1.1 200") => {
                    out.fine(Topic::Admin, format!("gatepost runs, and is ready ({address})"));
                }
                ready => {
                    let body =
                        ready.as_deref().and_then(|ready| ready.split_once("\r\n\r\n")).map_or("", |(_, body)| body);
                    let what =
                        format!("gatepost runs ({address}), and is not ready: {}", escape(body.trim().as_bytes(), 240));
                    out.away(Topic::Admin, what, "see what it waits for, and its log");
                }
            }
            true
        }
        _ => {
            let what = format!("{address} is in use by something that is not gatepost");
            out.away(Topic::Admin, what, "find out by `ss -ltnp` who that is, and choose another port for `admin`");
            false
        }
    }
}

async fn ask(address: SocketAddr, path: &str) -> Option<String> {
    let address = reachable(address);
    let asked = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        read_all(stream).await
    };
    timeout(PATIENCE, asked).await.ok()?
}

async fn read_all(stream: impl AsyncRead + Unpin) -> Option<String> {
    let mut answer = Vec::new();
    stream.take(METRICS).read_to_end(&mut answer).await.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
