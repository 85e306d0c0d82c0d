//! Chunks between two sockets: the kernel moves them, nothing of them is changed, and what stands around them is watched.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a claim that does not hold panics"
)]
#![cfg(target_os = "linux")]

use std::fs;
use std::future::pending;
use std::net::Ipv4Addr;
use std::time::Duration;

use gatepost::relay::ending::{End, Event, Wait};
use gatepost::relay::{BareNewline, Ending, Limits, Opening, Settings, Sides, Timeouts, run};
use gatepost::smtp::ehlo::{Keyword, Keywords};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

fn settings(data: Duration, write: Duration) -> Settings {
    Settings {
        auth: false,
        bare_newline: BareNewline::Normalize,
        max_errors: 3,
        limits: Limits::default(),
        timeouts: Timeouts { command: LONG, data, reply: LONG, end_of_data: LONG, write },
    }
}

struct Running {
    client: TcpStream,
    backend: TcpStream,
    relay: JoinHandle<Ending>,
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

async fn start(settings: Settings) -> Running {
    let ((client, at_client), (at_backend, backend)) = (sockets().await, sockets().await);
    let sides = Sides { client: at_client, client_bytes: Vec::new(), backend: at_backend, backend_bytes: Vec::new() };
    let opening = Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Chunking), transaction: true };
    let relay = tokio::spawn(async move { run(sides, opening, &settings, pending(), |_: Event| {}).await });
    Running { client, backend, relay }
}

/// Bytes of every value, in an order that no shift maps onto itself.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// How many ends of pipes this process has.
fn pipes() -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let names = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("pipe:")).count()
}

#[tokio::test]
async fn they_arrive_as_they_were_sent_however_they_are_cut() {
    let before = pipes();
    let sizes = [1, 31 << 10, 32 << 10, (32 << 10) + 1, 700_000, 5_000_000];
    let (mut said, mut replies) = (Vec::new(), 0);
    for (n, size) in sizes.into_iter().enumerate() {
        let last = if n + 1 == sizes.len() { " LAST" } else { "" };
        said.extend(format!("BDAT {size}{last}\r\n").into_bytes());
        said.extend(bytes(size));
        said.extend(b"NOOP\r\n");
        replies += 2;
    }
    for most in [usize::MAX, 200_000, 9000] {
        let Running { client, mut backend, relay } = start(settings(LONG, LONG)).await;
        let (from_gate, mut to_gate) = client.into_split();
        let pieces: Vec<Vec<u8>> = said.chunks(most.min(said.len())).map(<[u8]>::to_vec).collect();
        let speak = tokio::spawn(async move {
            for piece in pieces {
                to_gate.write_all(&piece).await.unwrap();
            }
            to_gate
        });
        let mut heard = vec![0; said.len()];
        backend.read_exact(&mut heard).await.unwrap();
        assert!(heard == said, "cut at {most}: something was changed");
        backend.write_all("250 ok\r\n".repeat(replies).as_bytes()).await.unwrap();
        let mut lines = BufReader::new(from_gate).lines();
        for _ in 0..replies {
            assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("250 ok"));
        }
        drop((speak.await.unwrap(), lines));
        let ending = relay.await.unwrap();
        assert_eq!((ending.end, ending.tally.to_backend), (End::ClientEof, said.len() as u64), "cut at {most}");
    }
    // Empty ones are kept for the next.
    assert!(pipes() > before, "the kernel was not asked");
}

#[tokio::test]
async fn what_follows_one_is_looked_at() {
    let Running { mut client, mut backend, relay } = start(settings(LONG, LONG)).await;
    let chunk = [&b"BDAT 100000 LAST\r\n"[..], &bytes(100_000)].concat();
    client.write_all(&[&chunk[..], b"XEXCH50 1 2\r\nRSET\r\n"].concat()).await.unwrap();
    let mut heard = vec![0; chunk.len() + 6];
    backend.read_exact(&mut heard).await.unwrap();
    assert!(heard == [&chunk[..], b"RSET\r\n"].concat(), "the command that is not known has gone on");
    backend.write_all(b"250 taken\r\n250 reset\r\n").await.unwrap();
    let mut lines = BufReader::new(&mut client).lines();
    for code in ["250 taken", "500 ", "250 reset"] {
        let line = lines.next_line().await.unwrap().unwrap();
        assert!(line.starts_with(code), "{line} instead of {code}");
    }
    drop((client, backend));
    relay.await.unwrap();
}

#[tokio::test]
async fn one_that_is_broken_off_is_never_completed() {
    let Running { mut client, mut backend, relay } = start(settings(LONG, LONG)).await;
    let part = [&b"BDAT 1000000 LAST\r\n"[..], &bytes(300_000)].concat();
    client.write_all(&part).await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    backend.read_to_end(&mut heard).await.unwrap();
    assert!(heard == part, "{} bytes of {}", heard.len(), part.len());
    assert_eq!(relay.await.unwrap().end, End::ClientReset);
}

#[tokio::test]
async fn a_client_that_stalls_in_one_runs_out_of_time() {
    let Running { mut client, mut backend, relay } = start(settings(SHORT, LONG)).await;
    let part = [&b"BDAT 1000000 LAST\r\n"[..], &bytes(100_000)].concat();
    client.write_all(&part).await.unwrap();
    let mut heard = Vec::new();
    backend.read_to_end(&mut heard).await.unwrap();
    assert!(heard == part, "{} bytes of {}", heard.len(), part.len());
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("421 "), "{told}");
    let end = relay.await.unwrap().end;
    assert!(matches!(end, End::TimedOut(Wait::Data | Wait::DataRate)), "{end:?}");
}

#[tokio::test]
async fn a_backend_that_takes_nothing_runs_out_of_time() {
    let Running { mut client, backend, relay } = start(settings(LONG, SHORT)).await;
    let speak = tokio::spawn(async move {
        // Until nobody takes any more of it.
        let _ = client.write_all(&[&b"BDAT 900000000 LAST\r\n"[..], &bytes(64 << 20)].concat()).await;
        client
    });
    assert_eq!(relay.await.unwrap().end, End::TimedOut(Wait::BackendWrite));
    drop((backend, speak.await.unwrap()));
}

#[tokio::test]
async fn a_backend_that_breaks_off_in_one_is_told_to_the_client() {
    let Running { client, backend, relay } = start(settings(LONG, LONG)).await;
    let (mut from_gate, mut to_gate) = client.into_split();
    let speak = tokio::spawn(async move {
        let _ = to_gate.write_all(&[&b"BDAT 90000000 LAST\r\n"[..], &bytes(16 << 20)].concat()).await;
    });
    let mut backend = BufReader::new(backend);
    let mut line = String::new();
    backend.read_line(&mut line).await.unwrap();
    drop(backend);
    let mut told = Vec::new();
    // It may be torn when more was said than is read.
    let _ = from_gate.read_to_end(&mut told).await;
    assert!(told.starts_with(b"421 "), "{}", String::from_utf8_lossy(&told));
    assert_eq!(relay.await.unwrap().end, End::BackendEof);
    speak.await.unwrap();
}
