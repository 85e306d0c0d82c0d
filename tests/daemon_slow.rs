//! Thousands of clients that read nothing, and thousands that say a byte now and then: honest ones are served beside
//! them, and each of the slow ends by its deadline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod host;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use host::dialogue::Dialogue;
use host::gate::Gate;
use host::letter::Letter;
use host::process::raise_descriptor_limit;
use host::wait;

/// How long the gate waits for each act of a slow client.
const DEADLINE: Duration = Duration::from_secs(12);

/// Every how often a byte comes of those who say a byte now and then.
const DRIP: Duration = Duration::from_secs(1);

/// How many honest sessions there are at once.
const HONEST: u32 = 50;

/// An honest session that takes longer than this has been kept waiting. Strangers wait two seconds for their greeting.
const LONGEST: Duration = Duration::from_secs(10);

/// What each of the slow may cost of the gate's memory: a buffer each way, and itself.
const MOST_BYTES: f64 = 50_000.0;

/// What a client does to be slow, and how many do it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Way {
    /// Known: asks for more and more help, and reads nothing of it.
    Deaf,
    /// A stranger: the same before it is greeted.
    DeafInLot,
    /// A stranger: the same once it is greeted.
    DeafInDialogue,
    /// Known: a byte of mail data now and then.
    DripData,
    /// Known: a byte of a chunk now and then.
    DripChunk,
    /// Known: a byte of a command now and then.
    DripCommand,
    /// A stranger: a byte now and then, from the first moment on.
    DripInLot,
    /// A stranger: a byte of a command now and then, once it is greeted.
    DripInDialogue,
}

/// 2,000 that never read, 2,000 that say a byte now and then.
const CROWD: [(Way, u32); 8] = [
    (Way::Deaf, 1000),
    (Way::DeafInLot, 500),
    (Way::DeafInDialogue, 500),
    (Way::DripData, 500),
    (Way::DripChunk, 300),
    (Way::DripCommand, 400),
    (Way::DripInLot, 400),
    (Way::DripInDialogue, 400),
];

impl Way {
    fn is_known(self) -> bool {
        matches!(self, Self::Deaf | Self::DripData | Self::DripChunk | Self::DripCommand)
    }

    /// How such a visit may end: outcome, and the note of those that were relayed.
    fn ends(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Deaf => &[("timed-out", "the client took what it was told too slowly, or not at all")],
            Self::DripData | Self::DripChunk => &[("timed-out", "the client sent mail data too slowly")],
            Self::DripCommand => &[("timed-out", "the client sent no command in time")],
            // Who does not wait for its turn is found out before it can be slow; unless this machine is so busy that it
            // was greeted first.
            Self::DeafInLot | Self::DripInLot => &[("dropped", ""), ("timed-out", "")],
            // It has talked out of turn, and then too much.
            Self::DeafInDialogue => &[("refused", "")],
            Self::DripInDialogue => &[("timed-out", "")],
        }
    }

    /// Where the `n`th of them comes from: as many to an address as one client may have sessions.
    fn address(self, n: u32) -> Ipv4Addr {
        let network = Ipv4Addr::new(127, if self.is_known() { 10 } else { 20 }, 16 * self as u8, 1);
        Ipv4Addr::from_bits(network.to_bits() + n / 40)
    }
}

/// An MTA's double for thousands: takes everything, helps at length, and expects PROXY headers.
async fn mta(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream));
    }
}

async fn converse(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let mut addresses = vec![0; usize::from(u16::from_be_bytes([head[14], head[15]]))];
    stream.read_exact(&mut addresses).await?;
    stream.write_all(b"220 mx.test ESMTP\r\n").await?;
    let help = format!("{}214 x\r\n", format!("214-{}\r\n", "h".repeat(500)).repeat(16));
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply = match line.split_ascii_whitespace().next().unwrap_or_default() {
            "EHLO" => "250-mx.test\r\n250 CHUNKING\r\n",
            "HELP" => help.as_str(),
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                while line != ".\r\n" {
                    line.clear();
                    if stream.read_line(&mut line).await? == 0 {
                        return Ok(());
                    }
                }
                "250 taken\r\n"
            }
            "BDAT" => {
                // Nobody ever sends one to its end.
                while stream.read(&mut [0; 4096]).await? > 0 {}
                return Ok(());
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n").await,
            _ => "250 ok\r\n",
        };
        stream.write_all(reply.as_bytes()).await?;
    }
}

/// Connects; one that is deaf has no room for what it does not read.
async fn come(way: Way, n: u32, gate: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((way.address(n), 0)).into())?;
    socket.set_nonblocking(true)?;
    if matches!(way, Way::Deaf | Way::DeafInLot | Way::DeafInDialogue) {
        socket.set_recv_buffer_size(1024)?;
        socket.set_tcp_mss(536)?;
    }
    tokio::net::TcpSocket::from_std_stream(socket.into()).connect(gate).await
}

/// Is slow in its way until the gate has had enough; `placed` counts those who are.
async fn be_slow(way: Way, n: u32, gate: SocketAddr, placed: Arc<AtomicU32>) -> io::Result<()> {
    let mut stream = BufReader::new(come(way, n, gate).await?);
    match way {
        Way::Deaf => stream.write_all(&b"HELP\r\n".repeat(60)).await?,
        Way::DeafInLot => stream.write_all(b"HELP\r\n").await?,
        Way::DeafInDialogue => {
            hear(&mut stream, "220 ").await?;
            stream.write_all(&b"HELP\r\n".repeat(60)).await?;
        }
        Way::DripData | Way::DripChunk => {
            hear(&mut stream, "220 ").await?;
            for (line, reply) in [("EHLO x", "250 "), ("MAIL FROM:<>", "250 "), ("RCPT TO:<a@x>", "250 ")] {
                stream.write_all(format!("{line}\r\n").as_bytes()).await?;
                hear(&mut stream, reply).await?;
            }
            if way == Way::DripData {
                stream.write_all(b"DATA\r\n").await?;
                hear(&mut stream, "354 ").await?;
            } else {
                stream.write_all(b"BDAT 1000000 LAST\r\n").await?;
            }
        }
        Way::DripCommand | Way::DripInDialogue => hear(&mut stream, "220 ").await?,
        Way::DripInLot => {}
    }
    placed.fetch_add(1, Ordering::SeqCst);
    if matches!(way, Way::Deaf | Way::DeafInLot | Way::DeafInDialogue) {
        // A deaf client finds out nothing. The test ends it.
        return std::future::pending().await;
    }
    loop {
        stream.write_all(b"x").await?;
        tokio::select! {
            () = tokio::time::sleep(DRIP) => {}
            // It hears that it is too late, and goes.
            said = stream.fill_buf() => {
                let heard = said?.len();
                if heard == 0 || way != Way::DripInLot {
                    return Ok(());
                }
                stream.consume(heard);
            }
        }
    }
}

/// Reads lines up to one that begins with `start`.
async fn hear(stream: &mut BufReader<TcpStream>, start: &str) -> io::Result<()> {
    let mut line = String::new();
    while !line.starts_with(start) {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// How long honest sessions take that come at once, half of them of allowed clients, and half of strangers: of each half
/// the middle one, and the longest.
fn honest(gate: &Gate, round: u8) -> [(Duration, Duration); 2] {
    let smtp = gate.smtp();
    let session = |n: u32| {
        let network = if n.is_multiple_of(2) { 10 } else { 20 };
        let source = Ipv4Addr::new(127, network, 250, round * 100 + n as u8);
        let begun = Instant::now();
        let mut client = Dialogue::from(source, smtp);
        client.expect("220");
        client.deliver(&Letter::short());
        client.expect_close();
        begun.elapsed()
    };
    let took: Vec<Duration> = thread::scope(|scope| {
        let each: Vec<_> = (0..HONEST).map(|n| scope.spawn(move || session(n))).collect();
        each.into_iter().map(|one| one.join().expect("an honest session comes to its end")).collect()
    });
    [0, 1].map(|kind| {
        let mut took: Vec<Duration> = took.iter().skip(kind).step_by(2).copied().collect();
        took.sort();
        (took[took.len() / 2], took[took.len() - 1])
    })
}

fn sessions(gate: &Gate) -> f64 {
    gate.metric("gatepost_sessions", &[]).unwrap_or_default()
}

fn descriptors(gate: &Gate) -> usize {
    fs::read_dir(format!("/proc/{}/fd", gate.pid())).expect("our own child").count()
}

fn resident(gate: &Gate) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gate.pid())).expect("our own child");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn configuration(smtp: SocketAddr, admin: SocketAddr, backend: SocketAddr) -> String {
    let deadline = DEADLINE.as_secs();
    format!(
        "hostname = 'mx.example.test'\nadmin = '{admin}'\nlanes = 2\n\
         [[gate]]\nlisten = '{smtp}'\nbackend = '{backend}'\n\
         [greet]\nwait_min = '2s'\nwait_max = '2s'\n[access]\nallow = '127.10.0.0/16'\n\
         [timeouts]\ncommand = '{deadline}s'\ndata = '{deadline}s'\nwrite = '{deadline}s'\n\
         [limits]\ncommand_time = '{deadline}s'\ndialogue_time = '{deadline}s'\n\
         sessions_per_stranger = 50\nsessions_per_prefix = 10_000\n"
    )
}

/// A gate before the double, with these further keys of `[limits]`; the double is gone with the runtime.
fn start(limits: &str) -> (Runtime, Gate) {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let backend = listener.local_addr().unwrap();
    runtime.spawn(mta(listener));
    let gate = Gate::start(|at| configuration(at.smtp, at.admin, backend) + limits);
    (runtime, gate)
}

/// Comes from an address that is allowed, and is greeted.
fn known(gate: &Gate) -> Dialogue {
    let mut client = Dialogue::from(Ipv4Addr::new(127, 10, 250, 1), gate.smtp());
    client.expect("220");
    client.say("EHLO client.test").expect("250");
    client
}

#[test]
fn who_asks_for_too_much_is_told_and_sent_away() {
    let (_runtime, gate) = start("recipients = 100\nidle_commands = 5\nmessage_commands = 200\n");
    let mut client = known(&gate);
    client.say("MAIL FROM:<bob@example.org>").expect("250");
    for n in 0..100 {
        client.say(&format!("RCPT TO:<r{n}@example.test>")).expect("250");
    }
    client.say("RCPT TO:<r100@example.test>").expect_line("452 4.5.3 Too many recipients");
    client.say("DATA").expect("354");
    client.say("text").say(".").expect("250");
    // The rest comes in another transaction.
    client.say("MAIL FROM:<bob@example.org>").expect("250");
    client.say("RCPT TO:<r100@example.test>").expect("250");
    for _ in 0..5 {
        client.say("NOOP").expect("250");
    }
    client.say("NOOP").expect_line("421 4.7.0 Too many commands that send no message");
    client.expect_close();

    let mut client = known(&gate);
    for _ in 0..199 {
        client.say("MAIL FROM:<bob@example.org>").expect("250");
    }
    client.say("MAIL FROM:<bob@example.org>").expect_line("421 4.7.0 Too many commands for one message");
    client.expect_close();

    wait::until("both to be gone", || {
        (gate.metric("gatepost_outcomes_total", &[("outcome", "limited")]) == Some(2.0)).then_some(())
    });
    for record in gate.stop() {
        assert_eq!(record["outcome"], "limited", "{record}");
        assert_eq!(record["note"], "too many commands from one message to the next", "{record}");
    }
}

#[test]
fn honest_clients_are_served_beside_four_thousand_slow_ones_and_those_end_by_their_deadlines() {
    // The test holds as many sockets as the gate does.
    assert!(raise_descriptor_limit() >= 8000, "the hard limit of descriptors is below 8000");
    let (runtime, gate) = start("");
    let alone = honest(&gate, 0);
    wait::until("the honest to be gone", || (sessions(&gate) == 0.0).then_some(()));
    let (descriptors_before, memory_before) = (descriptors(&gate), resident(&gate));

    let begun = Instant::now();
    let placed = Arc::new(AtomicU32::new(0));
    let mut crowd = JoinSet::new();
    let all: u32 = CROWD.iter().map(|(_, count)| count).sum();
    for (way, count) in CROWD {
        for n in 0..count {
            crowd.spawn_on(be_slow(way, n, gate.smtp(), Arc::clone(&placed)), runtime.handle());
        }
    }
    wait::until("all of them to be there", || (placed.load(Ordering::SeqCst) == all).then_some(()));
    let came = begun.elapsed();
    let inside = sessions(&gate);
    let (memory, held) = (resident(&gate), descriptors(&gate));
    let among = honest(&gate, 1);
    let still = sessions(&gate);
    wait::within(DEADLINE * 3, || (sessions(&gate) == 0.0).then_some(())).expect("all of them to be gone");
    let over = begun.elapsed();
    // A lane keeps sixteen empty pipes for the next chunk.
    let lanes = thread::available_parallelism().map_or(1, usize::from);
    let most = descriptors_before + lanes * 32;
    wait::until("their descriptors to be free", || (descriptors(&gate) <= most).then_some(()));
    let each = (memory.saturating_sub(memory_before) << 10) as f64 / inside;
    println!(
        "{all} slow clients came in {came:.1?} and were gone after {over:.1?}; {inside} were inside when all had come, \
         {still} when the honest were done; the gate had {held} descriptors, and {} bytes of memory for each of those \
         inside; {HONEST} honest sessions at once, allowed and strangers, take {alone:.1?} alone and {among:.1?} among them \
         (middle, longest)",
        each as u64,
    );
    drop(crowd);

    // What became of each, by where it came from.
    let records = gate.stop();
    let (mut ends, mut longest) = (BTreeMap::<Way, BTreeMap<(String, String), u32>>::new(), 0);
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    for record in &records {
        let client: Ipv4Addr = word(&record["client"]).parse().unwrap();
        let way = CROWD.into_iter().find(|&(way, count)| (0..count).step_by(40).any(|n| way.address(n) == client));
        let end = (word(&record["outcome"]), word(&record["note"]));
        match way {
            Some((way, _)) => {
                *ends.entry(way).or_default().entry(end).or_default() += 1;
                longest = longest.max(record["duration_ms"].as_u64().unwrap());
            }
            None => assert_eq!((end.0.as_str(), &record["accepted"]), ("relayed", &serde_json::json!(1)), "{record}"),
        }
    }
    println!("the longest slow visit took {longest} ms; {ends:#?}");
    assert_eq!(records.len(), (all + 2 * HONEST) as usize);
    for (way, count) in CROWD {
        let expected = |(outcome, note): &(String, String)| way.ends().contains(&(outcome.as_str(), note.as_str()));
        assert!(ends[&way].keys().all(expected) && ends[&way].values().sum::<u32>() == count, "{way:?}");
    }
    assert!(longest < (DEADLINE * 2).as_millis() as u64, "one of the slow stayed {longest} ms");
    assert!(among.iter().all(|&(_, longest)| longest < LONGEST), "{among:?}");
    assert!(each < MOST_BYTES, "{each} bytes for each of the slow");
}
