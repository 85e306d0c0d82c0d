//! The relay between two connections: deadlines on a paused clock, back-pressure, half-closed and torn connections.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a claim that does not hold panics"
)]

use std::future::pending;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use gatepost::relay::ending::{BackendFault, End, Event, ProtocolFault, Wait};
use gatepost::relay::{
    BareNewline, Ending, Limits, NoBackend, NoTls, Opening, Renewal, Settings, Sides, Timeouts, Tls, Wire, run,
};
use gatepost::smtp::ehlo::{Keyword, Keywords};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const COMMAND: Duration = Duration::from_secs(300);
const DATA: Duration = Duration::from_secs(180);
const REPLY: Duration = Duration::from_secs(60);
const END_OF_DATA: Duration = Duration::from_secs(600);
const WRITE: Duration = Duration::from_secs(30);

fn settings() -> Settings {
    Settings {
        auth: true,
        bare_newline: BareNewline::Normalize,
        max_errors: 3,
        limits: Limits::default(),
        timeouts: Timeouts { command: COMMAND, data: DATA, reply: REPLY, end_of_data: END_OF_DATA, write: WRITE },
    }
}

fn known() -> Opening {
    Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Chunking).with(Keyword::StartTls), transaction: false }
}

/// A relay under way, seen from both ends.
struct Running<S> {
    client: S,
    backend: S,
    relay: JoinHandle<Ending>,
    events: Arc<Mutex<Vec<Event>>>,
    stop: Option<oneshot::Sender<()>>,
}

fn start<S: Wire + 'static>(opening: Opening, near: (S, S), far: (S, S), unread: &[u8]) -> Running<S> {
    start_with(settings(), opening, near, far, unread)
}

fn start_with<S: Wire + 'static>(
    settings: Settings,
    opening: Opening,
    near: (S, S),
    far: (S, S),
    unread: &[u8],
) -> Running<S> {
    let sides = Sides { client: near.1, client_bytes: unread.to_vec(), backend: far.0, backend_bytes: Vec::new() };
    let events = Arc::new(Mutex::new(Vec::new()));
    let (stop, stopped) = oneshot::channel::<()>();
    let told = Arc::clone(&events);
    let relay = tokio::spawn(async move {
        let shutdown = async {
            if stopped.await.is_err() {
                pending::<()>().await;
            }
        };
        run(sides, opening, &settings, shutdown, |event| told.lock().unwrap().push(event)).await
    });
    Running { client: near.0, backend: far.1, relay, events, stop: Some(stop) }
}

fn in_memory(opening: Opening) -> Running<DuplexStream> {
    start(opening, duplex(1 << 20), duplex(1 << 20), b"")
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

async fn on_sockets(opening: Opening) -> Running<TcpStream> {
    start(opening, sockets().await, sockets().await, b"")
}

async fn expect<S: Wire>(side: &mut S, text: &str) {
    let mut got = vec![0; text.len()];
    side.read_exact(&mut got).await.unwrap_or_else(|error| panic!("{error} instead of {text:?}"));
    assert_eq!(String::from_utf8_lossy(&got), text);
}

async fn say<S: Wire>(side: &mut S, text: &str) {
    side.write_all(text.as_bytes()).await.unwrap();
}

async fn rest<S: Wire>(side: &mut S) -> String {
    let mut got = Vec::new();
    // A torn connection has an end, too.
    let _ = side.read_to_end(&mut got).await;
    String::from_utf8(got).unwrap()
}

impl<S: Wire> Running<S> {
    /// The client says it, the backend gets it and answers, the client gets that.
    async fn exchange(&mut self, command: &str, reply: &str) {
        say(&mut self.client, command).await;
        expect(&mut self.backend, command).await;
        say(&mut self.backend, reply).await;
        expect(&mut self.client, reply).await;
    }

    async fn ending(self) -> Ending {
        drop(self.client);
        self.relay.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_visit_from_greeting_to_quit() {
    let mut running = start(Opening::Greeting, duplex(64), duplex(64), b"EHLO client.example\r\n");
    say(&mut running.backend, "220 mx\r\n").await;
    expect(&mut running.client, "220 mx\r\n").await;
    expect(&mut running.backend, "EHLO client.example\r\n").await;
    say(&mut running.backend, "250-mx\r\n250-CHUNKING\r\n250 X-WHAT\r\n").await;
    expect(&mut running.client, "250-mx\r\n250 CHUNKING\r\n").await;
    running.exchange("MAIL FROM:<>\r\n", "250 ok\r\n").await;
    running.exchange("DATA\r\n", "354 ok\r\n").await;
    running.exchange("a\r\n.\r\n", "250 ok\r\n").await;
    running.exchange("QUIT\r\n", "221 bye\r\n").await;
    assert_eq!(rest(&mut running.client).await, "");
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(*running.events.lock().unwrap(), [Event::MessageAccepted]);
    let ending = running.ending().await;
    assert_eq!(ending.end, End::Quit);
    assert_eq!(ending.tally.messages, 1);
    assert_eq!(ending.tally.to_backend, 21 + 14 + 6 + 6 + 6);
    assert_eq!(ending.tally.to_client, 8 + 24 + 8 + 8 + 8 + 9 - 2);
}

/// A client that has said QUIT need not close for the connection to be over, and hears the last word all the same.
#[tokio::test]
async fn after_quit_nobody_is_waited_for() {
    let mut running = on_sockets(known()).await;
    running.exchange("QUIT\r\n", "221 bye\r\n").await;
    let ending = running.relay.await.unwrap();
    assert_eq!(ending.end, End::Quit);
    let mut more = [0; 1];
    assert_eq!(running.client.read(&mut more).await.unwrap(), 0, "an end, and no reset");
}

/// Where something may be unread, closing would reset: then the client has the usual time to close first.
#[tokio::test(start_paused = true)]
async fn after_quit_who_may_be_reset_is_waited_for() {
    for (closes_well, waits) in [(true, Duration::ZERO), (false, Duration::from_secs(2))] {
        let ((mut client, stream), (far, mut backend)) = (duplex(64), duplex(64));
        let near = Slow { closes_well, ..Slow::new(stream, Duration::ZERO) };
        let sides = Sides { client: near, client_bytes: b"QUIT\r\n".to_vec(), backend: far, backend_bytes: Vec::new() };
        let relay = tokio::spawn(async { run(sides, known(), &settings(), pending(), |_| {}).await });
        expect(&mut backend, "QUIT\r\n").await;
        let begun = Instant::now();
        say(&mut backend, "221 bye\r\n").await;
        expect(&mut client, "221 bye\r\n").await;
        assert_eq!(relay.await.unwrap().end, End::Quit);
        assert_eq!(begun.elapsed(), waits, "closes well: {closes_well}");
    }
}

/// What is said behind QUIT is read, so that it does not have the replies before it reset.
#[tokio::test]
async fn what_is_said_behind_quit_resets_nothing() {
    for together in [true, false] {
        let mut running = on_sockets(known()).await;
        say(&mut running.client, if together { "QUIT\r\nNOOP\r\n" } else { "QUIT\r\n" }).await;
        expect(&mut running.backend, "QUIT\r\n").await;
        if !together {
            // It is there when the backend answers.
            say(&mut running.client, "NOOP\r\n").await;
        }
        say(&mut running.backend, "221 bye\r\n").await;
        let mut told = String::new();
        running.client.read_to_string(&mut told).await.unwrap();
        assert_eq!(told, "221 bye\r\n");
        let ending = running.ending().await;
        assert_eq!(ending.end, End::Quit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_no_command() {
    let mut running = in_memory(known());
    let begun = Instant::now();
    tokio::time::sleep(COMMAND / 2).await;
    running.exchange("NOOP\r\n", "250 ok\r\n").await;
    // Half a command is none, however often another byte of it comes.
    for byte in ["N", "O", "O"] {
        tokio::time::sleep(COMMAND / 4).await;
        say(&mut running.client, byte).await;
    }
    expect(&mut running.client, "421 4.4.2 Timed out\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), (COMMAND / 2 + COMMAND).as_secs());
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::Command));
}

/// The ways into a message, each with what the backend answers before its bytes can come.
const MESSAGES: [(&str, Option<&str>); 2] = [("DATA\r\n", Some("354 ok\r\n")), ("BDAT 100000 LAST\r\n", None)];

async fn begin_message<S: Wire>(running: &mut Running<S>, (command, reply): (&str, Option<&str>)) {
    say(&mut running.client, command).await;
    expect(&mut running.backend, command).await;
    if let Some(reply) = reply {
        say(&mut running.backend, reply).await;
        expect(&mut running.client, reply).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_inside_a_message() {
    for way in MESSAGES {
        let mut running = in_memory(known());
        begin_message(&mut running, way).await;
        let begun = Instant::now();
        tokio::time::sleep(DATA / 2).await;
        // Worth what was waited.
        let text = "x".repeat(45_000);
        say(&mut running.client, &text).await;
        expect(&mut running.backend, &text).await;
        expect(&mut running.client, "421 4.4.2 Timed out\r\n").await;
        assert_eq!(begun.elapsed().as_secs(), (DATA / 2 + DATA).as_secs());
        assert_eq!(rest(&mut running.backend).await, "");
        assert_eq!(running.ending().await.end, End::TimedOut(Wait::Data));
    }
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_is_no_message() {
    for way in MESSAGES {
        let mut running = in_memory(known());
        begin_message(&mut running, way).await;
        let begun = Instant::now();
        let (mut read, mut write) = tokio::io::split(running.client);
        let drip = tokio::spawn(async move {
            while write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        let mut said = vec![0; 21];
        read.read_exact(&mut said).await.unwrap();
        assert_eq!(said, b"421 4.4.2 Timed out\r\n");
        assert_eq!(begun.elapsed().as_secs(), DATA.as_secs());
        assert_eq!(rest(&mut running.backend).await, "x".repeat(37));
        let ending = running.relay.await.unwrap();
        assert_eq!(ending.end, End::TimedOut(Wait::DataRate));
        drip.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_the_rate_may_take_as_long_as_it_likes() {
    let mut running = in_memory(known());
    begin_message(&mut running, MESSAGES[0]).await;
    let text = "x".repeat(5000);
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        say(&mut running.client, &text).await;
        expect(&mut running.backend, &text).await;
    }
    running.exchange("\r\n.\r\n", "250 ok\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_is_not_blamed_for_a_slow_backend() {
    let timeouts = Timeouts { data: Duration::from_secs(10), write: Duration::from_secs(600), ..settings().timeouts };
    for way in MESSAGES {
        let mut running = start_with(Settings { timeouts, ..settings() }, known(), duplex(1 << 16), duplex(1024), b"");
        begin_message(&mut running, way).await;
        let text = "x".repeat(100_000);
        let (client, backend) = (&mut running.client, &mut running.backend);
        tokio::join!(
            async {
                say(client, &text[..90_000]).await;
                tokio::time::sleep(Duration::from_secs(5)).await;
                say(client, &text[90_000..]).await;
            },
            async {
                tokio::time::sleep(Duration::from_secs(500)).await;
                expect(backend, &text).await;
            }
        );
        // Now it is the client's turn again, and there is as much time as ever.
        tokio::time::sleep(Duration::from_secs(4)).await;
        if way.1.is_some() {
            running.exchange("\r\n.\r\n", "250 ok\r\n").await;
        } else {
            say(&mut running.backend, "250 ok\r\n").await;
            expect(&mut running.client, "250 ok\r\n").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_of_an_auth_exchange_is_a_whole_act() {
    let mut running = in_memory(known());
    running.exchange("AUTH LOGIN\r\n", "334 VXNlcm5hbWU6\r\n").await;
    let begun = Instant::now();
    for _ in 0..59 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        say(&mut running.client, "a").await;
    }
    expect(&mut running.client, "421 4.4.2 Timed out\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), COMMAND.as_secs());
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::Command));
}

#[tokio::test(start_paused = true)]
async fn commands_that_lead_to_no_message_are_waited_for_an_hour_in_all() {
    let mut running = in_memory(known());
    let begun = Instant::now();
    for n in 0..13 {
        tokio::time::sleep(COMMAND - Duration::from_secs(1)).await;
        // What the backend takes for its answers is not the client's time.
        say(&mut running.client, "NOOP\r\n").await;
        expect(&mut running.backend, "NOOP\r\n").await;
        tokio::time::sleep(REPLY / 2).await;
        say(&mut running.backend, "250 ok\r\n").await;
        expect(&mut running.client, "250 ok\r\n").await;
        if n == 0 {
            running.exchange("BDAT 0 LAST\r\n", "250 a message\r\n").await;
        }
    }
    expect(&mut running.client, "421 4.4.2 Timed out\r\n").await;
    let before = COMMAND - Duration::from_secs(1) + REPLY / 2;
    assert_eq!(begun.elapsed().as_secs(), (before + Limits::default().envelope + REPLY / 2 * 12).as_secs());
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::Envelope));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_answer() {
    let mut running = in_memory(known());
    say(&mut running.client, "NOOP\r\n").await;
    expect(&mut running.backend, "NOOP\r\n").await;
    let begun = Instant::now();
    say(&mut running.backend, "250-ok\r\n").await;
    tokio::time::sleep(REPLY / 2).await;
    say(&mut running.backend, "250-ok\r\n").await;
    expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), REPLY.as_secs());
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::Reply));

    let mut running = in_memory(Opening::Greeting);
    let begun = Instant::now();
    expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), REPLY.as_secs());
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::Reply));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_answer_to_a_message() {
    let mut running = in_memory(known());
    running.exchange("DATA\r\n", "354 ok\r\n").await;
    say(&mut running.client, ".\r\n").await;
    expect(&mut running.backend, ".\r\n").await;
    let begun = Instant::now();
    expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), END_OF_DATA.as_secs());
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::EndOfData));
}

#[tokio::test(start_paused = true)]
async fn each_reply_has_its_own_time() {
    let mut running = in_memory(known());
    say(&mut running.client, "NOOP\r\nNOOP\r\nNOOP\r\n").await;
    for _ in 0..3 {
        tokio::time::sleep(REPLY - Duration::from_secs(1)).await;
        say(&mut running.backend, "250 ok\r\n").await;
        expect(&mut running.client, "250 ok\r\n").await;
    }
    drop(running.stop.take());
    running.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut running.client).await, "");
    assert_eq!(running.ending().await.end, End::ClientEof);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads() {
    let mut running = start(known(), duplex(32), duplex(1 << 16), b"");
    let begun = Instant::now();
    for _ in 0..8 {
        say(&mut running.client, "NOOP\r\n").await;
        expect(&mut running.backend, "NOOP\r\n").await;
        say(&mut running.backend, "250 ok\r\n").await;
    }
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(begun.elapsed().as_secs(), WRITE.as_secs());
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::ClientWrite));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_a_byte_now_and_then() {
    let mut running = start(known(), duplex(32), duplex(1 << 16), b"");
    for _ in 0..20 {
        say(&mut running.client, "NOOP\r\n").await;
        expect(&mut running.backend, "NOOP\r\n").await;
        say(&mut running.backend, "250 ok\r\n").await;
    }
    let mut got = Vec::new();
    while let Ok(byte) = running.client.read_u8().await {
        got.push(byte);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    // What the connection held, one at once, and one for each time that it came back for more.
    assert_eq!(got.len() as u64, 32 + 1 + WRITE.as_secs() / 5);
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::ClientWrite));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_takes_a_byte_now_and_then() {
    let mut running = start(known(), duplex(1 << 16), duplex(64), b"");
    begin_message(&mut running, MESSAGES[0]).await;
    let begun = Instant::now();
    say(&mut running.client, &"x".repeat(1000)).await;
    while running.backend.read_u8().await.is_ok() && begun.elapsed() < WRITE * 2 {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::BackendWrite));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_takes_nothing() {
    // As it comes, and as it has to be copied.
    for text in ["x", "\n"] {
        let mut running = start(known(), duplex(1 << 16), duplex(64), b"");
        running.exchange("DATA\r\n", "354 ok\r\n").await;
        let begun = Instant::now();
        // More than every buffer on the way may hold: reading stops where the bytes cannot go on.
        let more = text.repeat((1 << 16) + (1 << 15) + 256);
        let sent = tokio::time::timeout(WRITE / 2, running.client.write_all(more.as_bytes())).await;
        assert!(sent.is_err());
        expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
        assert_eq!(begun.elapsed().as_secs(), WRITE.as_secs());
        let got = rest(&mut running.backend).await;
        assert!(got.len() <= 64 && got.bytes().all(|byte| b"x\r\n".contains(&byte)));
        assert_eq!(running.ending().await.end, End::TimedOut(Wait::BackendWrite));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_backend_slows_the_client_and_nobody_loses_a_byte() {
    let mut running = start(known(), duplex(1000), duplex(100), b"");
    running.exchange("DATA\r\n", "354 ok\r\n").await;
    let message: Vec<u8> = (0..40_000).flat_map(|n| format!("line {n}\r\n").into_bytes()).chain(*b".\r\n").collect();
    let (near, expected) = (&mut running.client, message.clone());
    let far = &mut running.backend;
    let (sent, got) = tokio::join!(near.write_all(&message), async {
        let mut got = vec![0; expected.len()];
        for piece in got.chunks_mut(expected.len() / 50) {
            tokio::time::sleep(Duration::from_secs(5)).await;
            far.read_exact(piece).await.unwrap();
        }
        got
    });
    sent.unwrap();
    assert!(got == expected);
    say(&mut running.backend, "250 queued\r\n").await;
    expect(&mut running.client, "250 queued\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn when_nothing_reads_nothing_deadlocks() {
    // Both directions full at once: each side writes all it has before it reads.
    let mut running = start_with(hasty(), known(), duplex(64), duplex(64), b"");
    let commands = "NOOP\r\n".repeat(4000);
    let replies = "250 ok\r\n".repeat(4000);
    let (client, backend) = (&mut running.client, &mut running.backend);
    let (mut client_read, mut client_write) = tokio::io::split(client);
    let (mut backend_read, mut backend_write) = tokio::io::split(backend);
    let mut got = vec![0; replies.len()];
    let (wrote, _, read) = tokio::join!(
        client_write.write_all(commands.as_bytes()),
        async {
            let mut command = [0; 6];
            for _ in 0..4000 {
                backend_read.read_exact(&mut command).await.unwrap();
                backend_write.write_all(b"250 ok\r\n").await.unwrap();
            }
        },
        client_read.read_exact(&mut got)
    );
    wrote.unwrap();
    read.unwrap();
    assert!(got == replies.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_client_is_answered() {
    let mut running = in_memory(known());
    say(&mut running.client, "NOOP\r\nNOOP\r\n").await;
    running.client.shutdown().await.unwrap();
    expect(&mut running.backend, "NOOP\r\nNOOP\r\n").await;
    tokio::time::sleep(REPLY / 2).await;
    say(&mut running.backend, "250 1\r\n").await;
    say(&mut running.backend, "250 2\r\n").await;
    assert_eq!(rest(&mut running.client).await, "250 1\r\n250 2\r\n");
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(running.ending().await.end, End::ClientEof);
}

#[tokio::test(start_paused = true)]
async fn shutting_down() {
    let mut running = in_memory(known());
    running.exchange("MAIL FROM:<>\r\n", "250 ok\r\n").await;
    running.stop.take().unwrap().send(()).unwrap();
    running.exchange("DATA\r\n", "354 ok\r\n").await;
    running.exchange(".\r\n", "250 ok\r\n").await;
    expect(&mut running.client, "421 4.3.2 Going down, try again later\r\n").await;
    assert_eq!(rest(&mut running.client).await, "");
    assert_eq!(running.ending().await.end, End::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_close_is_not_waited_for_long() {
    let mut running = in_memory(known());
    say(&mut running.client, &"x".repeat(5000)).await;
    expect(&mut running.client, "500 5.5.2 Line too long\r\n").await;
    assert_eq!(rest(&mut running.client).await, "");
    let begun = Instant::now();
    // The backend does not have to wait.
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // What the client is still sending is taken, so that it gets to the point of reading.
    tokio::time::sleep(Duration::from_secs(1)).await;
    say(&mut running.client, &"x".repeat(5000)).await;
    let ending = running.relay.await.unwrap();
    assert_eq!(ending.end, End::ProtocolFault(ProtocolFault::LineTooLong));
    assert_eq!(begun.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_reply_goes_through_whole_and_an_endless_one_does_not() {
    let mut running = in_memory(known());
    let reply = format!("{}214 end\r\n", format!("214-{}\r\n", "h".repeat(900)).repeat(40));
    running.exchange("HELP\r\n", &reply).await;
    say(&mut running.client, "HELP\r\n").await;
    say(&mut running.backend, &"214-h\r\n".repeat(20_000)).await;
    expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
    assert_eq!(running.ending().await.end, End::BackendFault(BackendFault::Malformed));
}

/// Brings a connection to where TLS has begun.
async fn to_tls<S: Wire>(running: &mut Running<S>) {
    running.exchange("STARTTLS\r\n", "220 go\r\n").await;
    running.exchange("\x16\x03 hello", "\x16\x03 hello to you").await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_watched_behind_starttls() {
    let mut running = in_memory(known());
    to_tls(&mut running).await;
    running.exchange("\n.\n\r\0", "\0\0").await;
    // The end of one direction is passed on; the other goes on.
    running.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut running.backend).await, "");
    tokio::time::sleep(END_OF_DATA / 2).await;
    say(&mut running.backend, "late").await;
    expect(&mut running.client, "late").await;
    running.backend.shutdown().await.unwrap();
    assert_eq!(rest(&mut running.client).await, "");
    let ending = running.ending().await;
    assert_eq!(ending.end, End::Opaque);
    assert_eq!(ending.tally.to_backend, 10 + 8 + 5);
    assert_eq!(ending.tally.to_client, 8 + 15 + 2 + 4);

    let mut running = in_memory(known());
    to_tls(&mut running).await;
    let begun = Instant::now();
    assert_eq!(rest(&mut running.client).await, "");
    assert_eq!(begun.elapsed().as_secs(), END_OF_DATA.as_secs());
    assert_eq!(running.ending().await.end, End::TimedOut(Wait::Idle));
}

/// A side that takes its time: a client's for a handshake, a backend's for another connection.
struct Slow {
    stream: DuplexStream,
    takes: Duration,
    /// Whether there has been a handshake.
    begun: bool,
    /// The other connection, if one is to be had.
    anew: Option<DuplexStream>,
    /// What the kernel would make of closing it.
    closes_well: bool,
}

impl Slow {
    fn new(stream: DuplexStream, takes: Duration) -> Self {
        Self { stream, takes, begun: false, anew: None, closes_well: false }
    }
}

impl Wire for Slow {
    fn tls(&self) -> Tls {
        if self.begun { Tls::Begun } else { Tls::Offered { before_auth: false } }
    }

    fn closes_well(&self) -> bool {
        self.closes_well
    }

    async fn start_tls(&mut self) -> Result<(), NoTls> {
        tokio::time::sleep(self.takes).await;
        self.begun = true;
        Ok(())
    }

    async fn renew(&mut self) -> Result<Renewal, NoBackend> {
        // What it was is gone, however long it takes.
        self.stream = duplex(1).0;
        tokio::time::sleep(self.takes).await;
        self.stream = self.anew.take().ok_or(NoBackend)?;
        Ok(Renewal::Anew)
    }
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, room)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// All are told to leave while a client is in a handshake that would take so many seconds more: how it ended, after how
/// many seconds, and what the client was told behind it.
async fn stopped_in_a_handshake(more: u64) -> (End, u64, String) {
    const BEFORE: Duration = Duration::from_secs(10);
    let ((mut client, near), (far, _backend)) = (duplex(1 << 16), duplex(1 << 16));
    let near = Slow::new(near, BEFORE + Duration::from_secs(more));
    // Another backend is not waited for any more.
    let far = Slow::new(far, Duration::from_secs(100));
    let sides = Sides { client: near, client_bytes: Vec::new(), backend: far, backend_bytes: Vec::new() };
    let relay = tokio::spawn(async move {
        let begun = Instant::now();
        let ending = run(sides, known(), &settings(), tokio::time::sleep(BEFORE), |_| {}).await;
        (ending.end, (begun.elapsed() - BEFORE).as_secs())
    });
    say(&mut client, "STARTTLS\r\n").await;
    expect(&mut client, "220 2.0.0 Ready to start TLS\r\n").await;
    let said = rest(&mut client).await;
    drop(client);
    let (end, after) = relay.await.unwrap();
    (end, after, said)
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_handshake_but_lets_an_honest_one_finish() {
    let (end, after, said) = stopped_in_a_handshake(1).await;
    assert_eq!((end, after), (End::Shutdown, 1));
    assert!(said.starts_with("421 "), "{said}");
    assert_eq!(stopped_in_a_handshake(20).await, (End::Shutdown, 2, String::new()));
}

/// A relay in which TLS with the client ends here, and that gets another backend for it.
struct Renewing {
    client: DuplexStream,
    /// The backend before, and the one behind.
    before: DuplexStream,
    behind: DuplexStream,
    relay: JoinHandle<Ending>,
}

impl Renewing {
    /// The client says RSET, and the backend before answers.
    async fn reset(&mut self) {
        say(&mut self.client, "RSET\r\n").await;
        expect(&mut self.before, "RSET\r\n").await;
        say(&mut self.before, "250 done\r\n").await;
        expect(&mut self.client, "250 done\r\n").await;
    }
}

const READY: &str = "220 2.0.0 Ready to start TLS\r\n";
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A client that takes `room` bytes at once; another backend takes so long to be had, if it is to be had, and all are to
/// leave at some time.
fn renewing(room: usize, takes: Duration, had: bool, stop: impl Future<Output = ()> + Send + 'static) -> Renewing {
    let ((client, near), (far, before), (fresh, behind)) = (duplex(room), duplex(1 << 16), duplex(1 << 16));
    let near = Slow::new(near, HANDSHAKE);
    let far = Slow { anew: had.then_some(fresh), ..Slow::new(far, takes) };
    let sides = Sides { client: near, client_bytes: Vec::new(), backend: far, backend_bytes: Vec::new() };
    let limits = Limits { envelope: Duration::from_secs(500), ..Limits::default() };
    let settings = Settings { limits, ..settings() };
    let relay = tokio::spawn(async move { run(sides, known(), &settings, stop, |_| {}).await });
    Renewing { client, before, behind, relay }
}

#[tokio::test(start_paused = true)]
async fn behind_tls_there_is_a_backend_that_has_heard_nothing() {
    let mut relay = renewing(1 << 16, HANDSHAKE, true, pending());
    relay.reset().await;
    let begun = Instant::now();
    say(&mut relay.client, "STARTTLS\r\n").await;
    expect(&mut relay.client, READY).await;
    // Said while the handshake goes on, or the other backend is waited for.
    say(&mut relay.client, "MAIL FROM:<>\r\nEHLO client.example\r\n").await;
    assert_eq!(rest(&mut relay.before).await, "", "it hears nothing more");
    assert_eq!(begun.elapsed(), HANDSHAKE);
    expect(&mut relay.client, "503 5.5.1 EHLO first: TLS has begun anew\r\n").await;
    assert_eq!(begun.elapsed(), HANDSHAKE * 2);
    expect(&mut relay.behind, "EHLO client.example\r\n").await;
    say(&mut relay.behind, "250-mx\r\n250-STARTTLS\r\n250 SIZE 9\r\n").await;
    expect(&mut relay.client, "250-mx\r\n250 SIZE 9\r\n").await;
    say(&mut relay.client, "QUIT\r\n").await;
    expect(&mut relay.behind, "QUIT\r\n").await;
    say(&mut relay.behind, "221 bye\r\n").await;
    expect(&mut relay.client, "221 bye\r\n").await;
    drop(relay.client);
    let ending = relay.relay.await.unwrap();
    assert_eq!(ending.end, End::Quit);
    // What both backends took.
    assert_eq!(ending.tally.to_backend, 6 + 21 + 6);
}

/// An MTA that had lost patience: what it said then, and that it closed, is nothing to the client, which is spoken to by
/// another. It is read while the client is slow to take the 220.
#[tokio::test(start_paused = true)]
async fn what_the_backend_before_still_said_is_void() {
    for (words, closes) in [("421 too slow\r\n", true), ("250 what was that?\r\n", false), ("half a", true), ("", true)]
    {
        let mut relay = renewing(4, Duration::ZERO, true, pending());
        say(&mut relay.client, "STARTTLS\r\n").await;
        expect(&mut relay.client, "220 ").await;
        say(&mut relay.before, words).await;
        if closes {
            relay.before.shutdown().await.unwrap();
        }
        tokio::time::sleep(HANDSHAKE).await;
        expect(&mut relay.client, &READY[4..]).await;
        say(&mut relay.client, "EHLO client.example\r\n").await;
        expect(&mut relay.behind, "EHLO client.example\r\n").await;
        say(&mut relay.behind, "250 mx\r\n").await;
        expect(&mut relay.client, "250 mx\r\n").await;
        drop(relay.client);
        assert_eq!(relay.relay.await.unwrap().end, End::ClientEof, "{words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_not_charged_for_the_wait_for_another_backend() {
    // More than a command may take, and nearly all that the commands up to a message may take.
    let mut relay = renewing(1 << 16, Duration::from_secs(490), true, pending());
    relay.reset().await;
    say(&mut relay.client, "STARTTLS\r\n").await;
    expect(&mut relay.client, READY).await;
    let begun = Instant::now();
    assert!(rest(&mut relay.client).await.starts_with("421 4.4.2 "));
    assert_eq!(begun.elapsed(), HANDSHAKE + Duration::from_secs(490) + COMMAND);
    drop(relay.client);
    assert_eq!(relay.relay.await.unwrap().end, End::TimedOut(Wait::Command));
}

#[tokio::test(start_paused = true)]
async fn without_a_backend_behind_tls_the_client_is_told_at_once() {
    let mut relay = renewing(1 << 16, Duration::from_secs(20), false, pending());
    say(&mut relay.client, "STARTTLS\r\n").await;
    expect(&mut relay.client, READY).await;
    say(&mut relay.client, "EHLO client.example\r\n").await;
    let begun = Instant::now();
    assert_eq!(rest(&mut relay.client).await, "421 4.3.0 Service not available, try again later\r\n");
    assert_eq!(begun.elapsed(), HANDSHAKE + Duration::from_secs(20));
    drop(relay.client);
    assert_eq!(relay.relay.await.unwrap().end, End::NoBackend);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_another_backend() {
    for had in [true, false] {
        let stop = HANDSHAKE + Duration::from_secs(10);
        let mut relay = renewing(1 << 16, Duration::from_secs(20), had, tokio::time::sleep(stop));
        let begun = Instant::now();
        say(&mut relay.client, "STARTTLS\r\n").await;
        expect(&mut relay.client, READY).await;
        assert_eq!(rest(&mut relay.client).await, "421 4.3.2 Going down, try again later\r\n");
        assert_eq!(begun.elapsed(), stop);
        drop(relay.client);
        assert_eq!(relay.relay.await.unwrap().end, End::Shutdown);
        assert_eq!(rest(&mut relay.behind).await, "", "nothing was begun with it");
    }
}

#[tokio::test]
async fn the_kernel_moves_what_is_not_watched() {
    const SIZE: usize = 10 << 20;
    let mut running = on_sockets(known()).await;
    to_tls(&mut running).await;
    let sent: Vec<u8> = (0..SIZE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut client_read, mut client_write) = running.client.into_split();
    let (mut backend_read, mut backend_write) = running.backend.into_split();
    let (mut at_client, mut at_backend) = (Vec::new(), Vec::new());
    let both_ways = async {
        tokio::join!(
            async {
                client_write.write_all(&sent).await.unwrap();
                client_write.shutdown().await.unwrap();
            },
            async {
                backend_read.read_to_end(&mut at_backend).await.unwrap();
                // Only then the other way: that direction outlives this one.
                backend_write.write_all(&sent).await.unwrap();
                backend_write.shutdown().await.unwrap();
            },
            client_read.read_to_end(&mut at_client),
        )
    };
    let _ = tokio::time::timeout(Duration::from_secs(30), both_ways).await.expect("an end of both");
    assert!(at_backend == sent && at_client == sent);
    let ending = running.relay.await.unwrap();
    assert_eq!(ending.end, End::Opaque);
    assert_eq!(ending.tally.to_backend, (10 + 8 + SIZE) as u64);
    assert_eq!(ending.tally.to_client, (8 + 15 + SIZE) as u64);
}

/// Two ends of a connection, the first of which has next to no room for what comes.
async fn narrow_sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    near.set_nonblocking(true).unwrap();
    near.set_recv_buffer_size(1024).unwrap();
    // The smaller the segments, the less room a kernel makes for them at the other end.
    near.set_tcp_mss(536).unwrap();
    let near = TcpSocket::from_std_stream(near.into()).connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Settings under which a second of a shut window is too much, and no number of commands.
fn hasty() -> Settings {
    let timeouts = Timeouts { write: Duration::from_secs(1), ..settings().timeouts };
    let limits = Limits { idle_commands: u32::MAX, ..Limits::default() };
    Settings { timeouts, limits, ..settings() }
}

#[tokio::test]
async fn a_client_whose_window_stays_shut() {
    let near = narrow_sockets().await;
    let running = start_with(hasty(), known(), near, sockets().await, b"");
    let (mut client, mut backend) = (running.client, running.backend);
    // So much that the backend is not read either, in the end: back-pressure goes all the way.
    say(&mut client, &"HELP\r\n".repeat(1000)).await;
    let reply = format!("{}214 end\r\n", format!("214-{}\r\n", "h".repeat(900)).repeat(60));
    let mut heard = [0; 6];
    while backend.read_exact(&mut heard).await.is_ok() && backend.write_all(reply.as_bytes()).await.is_ok() {}
    let ending = running.relay.await.unwrap();
    assert_eq!(ending.end, End::TimedOut(Wait::ClientWrite));
    // What it has not taken is not kept for it.
    let left = client.read_to_end(&mut Vec::new()).await.map_err(|error| error.kind());
    assert_eq!(left, Err(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_backend_whose_window_stays_shut() {
    let (backend, towards) = narrow_sockets().await;
    let mut running = start_with(hasty(), known(), sockets().await, (towards, backend), b"");
    begin_message(&mut running, MESSAGES[0]).await;
    let (mut read, mut write) = running.client.into_split();
    let flood = tokio::spawn(async move { while write.write_all(&[b'x'; 4096]).await.is_ok() {} });
    let mut said = vec![0; 50];
    read.read_exact(&mut said).await.unwrap();
    assert!(said.starts_with(b"421 4.3.0 "), "{}", said.escape_ascii());
    assert_eq!(running.relay.await.unwrap().end, End::TimedOut(Wait::BackendWrite));
    flood.await.unwrap();
}

#[tokio::test]
async fn a_torn_client_leaves_nothing_half_done() {
    for (command, reply) in [("DATA\r\n", Some("354 ok\r\n")), ("BDAT 100 LAST\r\n", None)] {
        let mut running = on_sockets(known()).await;
        say(&mut running.client, command).await;
        expect(&mut running.backend, command).await;
        if let Some(reply) = reply {
            say(&mut running.backend, reply).await;
            expect(&mut running.client, reply).await;
        }
        say(&mut running.client, "half\r\n.").await;
        expect(&mut running.backend, "half\r\n.").await;
        running.client.set_zero_linger().unwrap();
        drop(running.client);
        assert_eq!(rest(&mut running.backend).await, "");
        assert_eq!(running.relay.await.unwrap().end, End::ClientReset);
    }
}

#[tokio::test]
async fn the_last_words_of_a_backend_are_heard() {
    let mut running = on_sockets(known()).await;
    say(&mut running.backend, "421 4.3.2 too busy\r\n").await;
    drop(running.backend);
    assert_eq!(rest(&mut running.client).await, "421 4.3.2 too busy\r\n");
    drop(running.client);
    assert!(matches!(running.relay.await.unwrap().end, End::BackendRefused(code) if code.number() == 421));
}

#[tokio::test]
async fn a_client_in_full_flow_can_read_why_it_was_turned_away() {
    let mut running = on_sockets(known()).await;
    let (mut read, mut write) = running.client.into_split();
    let flow = tokio::spawn(async move { while write.write_all(&[b'x'; 4096]).await.is_ok() {} });
    let mut got = vec![0; 25];
    read.read_exact(&mut got).await.unwrap();
    assert_eq!(got, b"500 5.5.2 Line too long\r\n");
    assert_eq!(rest(&mut running.backend).await, "");
    flow.await.unwrap();
    assert_eq!(running.relay.await.unwrap().end, End::ProtocolFault(ProtocolFault::LineTooLong));
}

#[tokio::test(start_paused = true)]
async fn a_relay_is_small() {
    let (near, far) = (duplex(1), duplex(1));
    let sides = Sides { client: near.0, client_bytes: Vec::new(), backend: far.0, backend_bytes: Vec::new() };
    let settings = settings();
    let future = run(sides, known(), &settings, pending(), |_| {});
    let size = size_of_val(&future);
    assert!(size <= 2048, "{size} bytes");
}
