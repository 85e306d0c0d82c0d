//! Who watches over AUTH in a relay between two connections: asked before, told after, exactly once each, whoever leaves
//! when; replies that are held back, on a paused clock.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a claim that does not hold panics"
)]

use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gatepost::relay::ending::{AuthOutcome, End, Event, ProtocolFault, Wait};
use gatepost::relay::{
    Aftermath, Attempt, BareNewline, Ending, Finished, Limits, Opening, Settings, Sides, Timeouts, Warden, Wire, run,
};
use gatepost::smtp::ehlo::{Keyword, Keywords};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const COMMAND: Duration = Duration::from_secs(300);
const REPLY: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

const GUESS: &str = "AUTH PLAIN AGEAYg==\r\n";
const WRONG: &str = "535 5.7.8 no\r\n";

fn settings() -> Settings {
    let timeouts = Timeouts { command: COMMAND, data: COMMAND, reply: REPLY, end_of_data: REPLY, write: REPLY };
    Settings { auth: true, bare_newline: BareNewline::Normalize, max_errors: 3, limits: Limits::default(), timeouts }
}

/// What the warden is to say, and what it has been told.
#[derive(Default)]
struct Book {
    withholds: bool,
    /// What becomes of an attempt; none: it waits.
    leave: Option<Attempt>,
    aftermath: Aftermath,
    released: bool,
    waker: Option<Waker>,
    let_go: usize,
    finished: Vec<Finished>,
    events: Vec<Event>,
}

#[derive(Clone, Default)]
struct Guard(Arc<Mutex<Book>>);

impl Guard {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut Book)) {
        let mut book = self.book();
        change(&mut book);
        if let Some(waker) = book.waker.take() {
            waker.wake();
        }
    }

    /// What each attempt came to, and the code of the reply; as many as were let go.
    fn finished(&self) -> Vec<(AuthOutcome, Option<u16>)> {
        let book = self.book();
        assert_eq!(book.let_go, book.finished.len());
        book.finished.iter().map(|finished| (finished.outcome, finished.code.map(|code| code.number()))).collect()
    }
}

impl Warden for Guard {
    fn offers_auth(&self) -> bool {
        !self.book().withholds
    }

    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Attempt> {
        let mut book = self.book();
        let Some(attempt) = book.leave else {
            book.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        book.let_go += usize::from(attempt == Attempt::Go);
        Poll::Ready(attempt)
    }

    fn finished(&mut self, finished: Finished) -> Aftermath {
        let mut book = self.book();
        book.finished.push(finished);
        book.aftermath
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut book = self.book();
        if book.released {
            return Poll::Ready(());
        }
        book.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn event(&mut self, event: Event) {
        self.book().events.push(event);
    }
}

/// A relay under way, seen from both ends.
struct Running<S> {
    client: S,
    backend: S,
    relay: JoinHandle<Ending>,
    guard: Guard,
    stop: Option<oneshot::Sender<()>>,
}

fn start<S: Wire + 'static>(guard: &Guard, near: (S, S), far: (S, S)) -> Running<S> {
    let sides = Sides { client: near.1, client_bytes: Vec::new(), backend: far.0, backend_bytes: Vec::new() };
    let (stop, stopped) = oneshot::channel::<()>();
    let warden = guard.clone();
    let opening = Opening::Dialogue { offered: Keywords::NONE.with(Keyword::Auth), transaction: false };
    let relay = tokio::spawn(async move {
        let shutdown = async {
            if stopped.await.is_err() {
                pending::<()>().await;
            }
        };
        run(sides, opening, &settings(), shutdown, warden).await
    });
    Running { client: near.0, backend: far.1, relay, guard: guard.clone(), stop: Some(stop) }
}

fn in_memory(change: impl FnOnce(&mut Book)) -> Running<DuplexStream> {
    let guard = Guard::default();
    guard.set(|book| book.leave = Some(Attempt::Go));
    guard.set(change);
    start(&guard, duplex(4096), duplex(4096))
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
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

/// That nothing comes to `side` for `time`.
async fn silence<S: Wire>(side: &mut S, time: Duration) {
    let mut byte = [0];
    assert!(timeout(time, side.read(&mut byte)).await.is_err(), "{byte:?}");
}

impl<S: Wire> Running<S> {
    /// The client guesses, the backend gets it.
    async fn guess(&mut self) {
        say(&mut self.client, GUESS).await;
        expect(&mut self.backend, GUESS).await;
    }

    async fn ending(self) -> End {
        drop(self.client);
        self.relay.await.unwrap().end
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_waits_for_leave_and_no_longer_than_any_command() {
    let mut running = in_memory(|book| book.leave = None);
    say(&mut running.client, GUESS).await;
    silence(&mut running.backend, COMMAND - SECOND).await;
    running.guard.set(|book| book.leave = Some(Attempt::Go));
    expect(&mut running.backend, GUESS).await;
    say(&mut running.backend, WRONG).await;
    expect(&mut running.client, WRONG).await;
    assert_eq!(running.guard.finished(), [(AuthOutcome::Failed, Some(535))]);
    // The next one waits as long as it may.
    running.guard.set(|book| book.leave = None);
    let begun = Instant::now();
    say(&mut running.client, GUESS).await;
    expect(&mut running.client, "421 4.4.2 Timed out\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), COMMAND.as_secs());
    assert_eq!(rest(&mut running.backend).await, "");
    let guard = running.guard.clone();
    assert_eq!(running.ending().await, End::TimedOut(Wait::Command));
    assert_eq!(guard.finished().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_attempt_reaches_no_backend() {
    let mut running = in_memory(|book| book.leave = Some(Attempt::Refuse));
    say(&mut running.client, GUESS).await;
    expect(&mut running.client, "421 4.7.0 No AUTH attempts from here for now\r\n").await;
    assert_eq!(rest(&mut running.client).await, "");
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(running.guard.finished(), []);
    assert_eq!(running.ending().await, End::ProtocolFault(ProtocolFault::AuthRefused));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_is_not_let_in() {
    let mut running = in_memory(|book| book.leave = None);
    say(&mut running.client, GUESS).await;
    silence(&mut running.backend, SECOND).await;
    let begun = Instant::now();
    running.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(running.ending().await, End::ClientEof);
    // Both at once: there was nobody to wait for from the beginning.
    let guard = Guard::default();
    let (mut near, far) = (duplex(4096), duplex(4096));
    say(&mut near.0, GUESS).await;
    near.0.shutdown().await.unwrap();
    let mut running = start(&guard, near, far);
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(running.ending().await, End::ClientEof);
}

#[tokio::test(start_paused = true)]
async fn where_auth_is_withheld_nobody_is_asked() {
    let mut running = in_memory(|book| book.withholds = true);
    say(&mut running.client, GUESS).await;
    expect(&mut running.client, "503 5.5.1 AUTH is not available here\r\n").await;
    assert_eq!(running.guard.book().events, [Event::AuthNotOffered]);
    assert_eq!(running.guard.finished(), []);
}

#[tokio::test(start_paused = true)]
async fn a_slow_refusal_counts_once() {
    let mut running = in_memory(|_| ());
    running.guess().await;
    silence(&mut running.client, Duration::from_secs(20)).await;
    say(&mut running.backend, WRONG).await;
    expect(&mut running.client, WRONG).await;
    assert_eq!(running.guard.finished(), [(AuthOutcome::Failed, Some(535))]);
    let account = running.guard.book().finished[0].account.clone().unwrap();
    assert_eq!(account.name(), b"a");
    // It has all the time again that there is for a command.
    silence(&mut running.client, COMMAND - SECOND).await;
    running.guess().await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_held_back_and_everything_with_it() {
    for delay in [Duration::from_secs(7), 2 * COMMAND] {
        let mut running = in_memory(|book| book.aftermath = Aftermath { delay: Some(delay), over: false });
        say(&mut running.client, &format!("{GUESS}NOOP\r\n{GUESS}")).await;
        expect(&mut running.backend, GUESS).await;
        let begun = Instant::now();
        say(&mut running.backend, WRONG).await;
        let (client, backend) = (&mut running.client, &mut running.backend);
        tokio::join!(silence(client, delay - SECOND / 2), silence(backend, delay - SECOND / 2));
        assert_eq!(running.guard.finished(), [(AuthOutcome::Failed, Some(535))], "told at once");
        running.guard.set(|book| book.aftermath = Aftermath::default());
        expect(&mut running.client, WRONG).await;
        assert_eq!(begun.elapsed().as_secs(), delay.as_secs());
        expect(&mut running.backend, "NOOP\r\n").await;
        expect(&mut running.backend, GUESS).await;
        say(&mut running.backend, &format!("250 ok\r\n{WRONG}")).await;
        expect(&mut running.client, &format!("250 ok\r\n{WRONG}")).await;
        assert_eq!(running.guard.finished().len(), 2);
        // Nobody's time has passed.
        silence(&mut running.client, COMMAND - SECOND).await;
        running.guess().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_meanwhile_is_not_taken_without_end() {
    let mut running = in_memory(|book| book.aftermath.delay = Some(60 * SECOND));
    running.guess().await;
    say(&mut running.backend, WRONG).await;
    let flood = "NOOP\r\n".repeat(20_000);
    assert!(timeout(50 * SECOND, say(&mut running.client, &flood)).await.is_err());
    expect(&mut running.client, WRONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_held_reply_goes_before_its_time_when_the_warden_says_so() {
    let mut running = in_memory(|book| book.aftermath.delay = Some(60 * SECOND));
    running.guess().await;
    let begun = Instant::now();
    say(&mut running.backend, WRONG).await;
    silence(&mut running.client, 3 * SECOND).await;
    running.guard.set(|book| book.released = true);
    expect(&mut running.client, WRONG).await;
    assert_eq!(begun.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_held_reply_goes_when_the_client_closes_or_all_are_to_leave() {
    let mut running = in_memory(|book| book.aftermath.delay = Some(60 * SECOND));
    running.guess().await;
    let begun = Instant::now();
    say(&mut running.backend, WRONG).await;
    silence(&mut running.client, 3 * SECOND).await;
    running.client.shutdown().await.unwrap();
    assert_eq!(rest(&mut running.client).await, WRONG);
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(running.guard.finished().len(), 1);
    assert_eq!(running.ending().await, End::ClientEof);

    let mut running = in_memory(|book| book.aftermath.delay = Some(60 * SECOND));
    running.guess().await;
    let begun = Instant::now();
    say(&mut running.backend, WRONG).await;
    silence(&mut running.client, 3 * SECOND).await;
    running.stop.take().unwrap().send(()).unwrap();
    let last = format!("{WRONG}421 4.3.2 Going down, try again later\r\n");
    assert_eq!(rest(&mut running.client).await, last);
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(running.ending().await, End::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_is_held_back_too() {
    const LAST: &str = "421 4.7.0 Too many failed AUTH attempts\r\n";
    let mut running = in_memory(|book| book.aftermath = Aftermath { delay: Some(7 * SECOND), over: true });
    running.guess().await;
    let begun = Instant::now();
    say(&mut running.backend, WRONG).await;
    assert_eq!(rest(&mut running.client).await, format!("{WRONG}{LAST}"));
    assert_eq!(begun.elapsed().as_secs(), 7);
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(running.ending().await, End::ProtocolFault(ProtocolFault::AuthFailures));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_given_back_whatever_ends_it() {
    // The backend is gone, with a word and without.
    for word in ["", "what?\r\n"] {
        let mut running = in_memory(|_| ());
        running.guess().await;
        say(&mut running.backend, word).await;
        drop(running.backend);
        expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
        assert_eq!(running.guard.finished(), [(AuthOutcome::Undecided, None)]);
    }
    // It says nothing.
    let mut running = in_memory(|_| ());
    running.guess().await;
    expect(&mut running.client, "421 4.3.0 Service not available, try again later\r\n").await;
    assert_eq!(running.guard.finished(), [(AuthOutcome::Undecided, None)]);
    // The client says no more, in the middle.
    let mut running = in_memory(|_| ());
    say(&mut running.client, "AUTH LOGIN\r\n").await;
    expect(&mut running.backend, "AUTH LOGIN\r\n").await;
    say(&mut running.backend, "334 \r\n").await;
    expect(&mut running.client, "334 \r\n421 4.4.2 Timed out\r\n").await;
    assert_eq!(running.guard.finished(), [(AuthOutcome::Undecided, None)]);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_dropped_gives_back_what_it_holds() {
    // In the middle of an exchange, while a reply is held back, and before anything has gone on.
    for (answered, waits, expected) in [
        (false, false, &[(AuthOutcome::Undecided, None)][..]),
        (true, false, &[(AuthOutcome::Failed, Some(535))]),
        (false, true, &[]),
    ] {
        let mut running = in_memory(|book| book.aftermath.delay = Some(60 * SECOND));
        if waits {
            running.guard.set(|book| book.leave = None);
            say(&mut running.client, GUESS).await;
        } else {
            running.guess().await;
        }
        if answered {
            say(&mut running.backend, WRONG).await;
        }
        sleep(SECOND).await;
        assert_eq!(running.guard.book().finished.len(), usize::from(answered));
        running.relay.abort();
        assert!(running.relay.await.unwrap_err().is_cancelled());
        assert_eq!(running.guard.finished(), expected);
    }
}

/// Who takes silence for a refusal, because a right guess would have been answered by now, is not spared the count.
#[tokio::test]
async fn a_client_that_tears_the_connection_has_had_its_attempt() {
    for (sent, outcome) in [(GUESS, AuthOutcome::Abandoned), ("AUTH LOGIN YQ==\r\n", AuthOutcome::Undecided)] {
        let guard = Guard::default();
        guard.set(|book| book.leave = Some(Attempt::Go));
        let mut running = start(&guard, sockets().await, sockets().await);
        say(&mut running.client, sent).await;
        expect(&mut running.backend, sent).await;
        running.client.set_zero_linger().unwrap();
        drop(running.client);
        assert_eq!(rest(&mut running.backend).await, "");
        assert_eq!(running.relay.await.unwrap().end, End::ClientReset);
        assert_eq!(guard.finished(), [(outcome, None)]);
        assert_eq!(guard.book().finished[0].account.as_ref().unwrap().name(), b"a");
    }
    // While its reply is held back, it has been counted already; it is not held on to.
    let guard = Guard::default();
    guard.set(|book| book.leave = Some(Attempt::Go));
    guard.set(|book| book.aftermath.delay = Some(3600 * SECOND));
    let mut running = start(&guard, sockets().await, sockets().await);
    running.guess().await;
    say(&mut running.backend, WRONG).await;
    while guard.book().finished.is_empty() {
        tokio::task::yield_now().await;
    }
    running.client.set_zero_linger().unwrap();
    drop(running.client);
    assert_eq!(rest(&mut running.backend).await, "");
    assert_eq!(running.relay.await.unwrap().end, End::ClientReset);
    assert_eq!(guard.finished(), [(AuthOutcome::Failed, Some(535))]);
}
