//! Those who are turned away at the door, and have still to read why: in a lot that is driven by hand.

use std::io::Write;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::journal::{Outcome, Stage};
use crate::session::pregreet::Lot;

/// As many as there may be.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// A lot that is driven by hand, and those who are turned away in it: the clients' ends of their connections.
struct Exit {
    post: Post,
    lot: Lot,
    listener: std::net::TcpListener,
    /// What the lot's sockets are registered with.
    _poll: mio::Poll,
}

impl Exit {
    fn new() -> Self {
        let poll = mio::Poll::new().unwrap();
        let (to, _) = mpsc::unbounded_channel();
        let post = Post::new(settings(nobody()));
        let lot = Lot::new(Arc::clone(&post.house), poll.registry().try_clone().unwrap(), to);
        Self { post, lot, listener: std::net::TcpListener::bind("127.0.0.1:0").unwrap(), _poll: poll }
    }

    fn connect(&mut self) -> (std::net::TcpStream, mio::net::TcpStream) {
        let client = std::net::TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (ours, _) = self.listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (client, mio::net::TcpStream::from_std(ours))
    }

    fn turn_away(&mut self) -> std::net::TcpStream {
        let (client, ours) = self.connect();
        let end = (Stage::Recall, Outcome::Dropped);
        let guest = self.post.guest("192.0.2.7:40000");
        self.lot.turn_away(ours, guest, b"521 no\r\n", end);
        client
    }

    /// A bot that has spoken by the time that it is looked at.
    async fn bot(&mut self) -> std::net::TcpStream {
        let (mut client, ours) = self.connect();
        client.write_all(b"EHLO client.example.net\r\n").unwrap();
        let (guest, screen) = self.post.arriving();
        self.lot.arrive(ours, guest, screen);
        tokio::time::advance(Duration::from_millis(2)).await;
        self.lot.expire_all(Instant::now());
        client
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_turned_away_and_talks_on_is_not_heard_to_its_end() {
    let mut exit = Exit::new();
    let mut client = exit.turn_away();
    let mut silent = exit.turn_away();
    client.write_all(&[b'x'; 65_537]).unwrap();
    silent.write_all(&[b'x'; 65_536]).unwrap();
    tokio::time::advance(Duration::from_millis(250)).await;
    exit.lot.expire_all(Instant::now());
    assert_eq!(exit.lot.lingering(), 1, "who has said too much is gone");
    client.set_nonblocking(true).unwrap();
    let still_open = |client: &mut std::net::TcpStream| client.write_all(b"x").is_ok();
    assert!(still_open(&mut silent));
    tokio::time::advance(Duration::from_secs(2)).await;
    exit.lot.expire_all(Instant::now());
    assert!(exit.lot.is_empty());
    // All of it was read, so nothing was reset: both hear why.
    for client in [&mut client, &mut silent] {
        client.set_nonblocking(false).unwrap();
        let mut told = String::new();
        std::io::Read::read_to_string(client, &mut told).unwrap();
        assert_eq!(told, "521 no\r\n");
    }
}

/// Who has read it and is gone does not keep a descriptor until the end of the time.
#[tokio::test(start_paused = true)]
async fn who_was_turned_away_and_closes_is_forgotten_soon() {
    let mut exit = Exit::new();
    drop(exit.turn_away());
    let _stays = exit.turn_away();
    assert_eq!(exit.lot.next_deadline(), Some(Instant::now() + Duration::from_millis(250)));
    tokio::time::advance(Duration::from_millis(250)).await;
    exit.lot.expire_all(Instant::now());
    assert_eq!(exit.lot.lingering(), 1);
    assert_eq!(exit.lot.next_deadline(), Some(Instant::now() + Duration::from_millis(1750)));
}

/// Each holds a descriptor that somebody else may need.
#[tokio::test(start_paused = true)]
async fn no_more_than_so_many_who_were_turned_away_may_stay() {
    allow_descriptors();
    let mut exit = Exit::new();
    let mut clients: Vec<_> = (0..2049).map(|_| exit.turn_away()).collect();
    // Closed, it answers what is said with a reset; open, it takes as much as there is room for.
    let mut is_closed = |index: usize| {
        let client: &mut std::net::TcpStream = &mut clients[index];
        client.set_nonblocking(true).unwrap();
        std::io::copy(&mut std::io::repeat(b'x'), client).unwrap_err().kind() != std::io::ErrorKind::WouldBlock
    };
    assert!(is_closed(0), "the one that has had the longest time");
    assert!(!is_closed(1) && !is_closed(2048));
    assert_eq!(exit.lot.lingering(), 2048);
    tokio::time::advance(Duration::from_millis(250)).await;
    exit.lot.expire_all(Instant::now());
    tokio::time::advance(Duration::from_secs(2)).await;
    exit.lot.expire_all(Instant::now());
    assert!(exit.lot.is_empty());
}

/// However many are due together, the other visits of the lane wait for a few of them alone.
#[tokio::test(start_paused = true)]
async fn not_all_are_seen_to_in_one_go() {
    let mut exit = Exit::new();
    for _ in 0..40 {
        drop(exit.turn_away());
    }
    tokio::time::advance(Duration::from_millis(250)).await;
    for left in [24, 8] {
        assert!(exit.lot.expire(Instant::now()), "there are more");
        assert_eq!(exit.lot.lingering(), left);
    }
    assert!(!exit.lot.expire(Instant::now()));
    assert!(exit.lot.is_empty());
}

/// In a flood nobody is waited for, and all hear why.
#[tokio::test(start_paused = true)]
async fn of_many_bots_none_is_waited_for() {
    allow_descriptors();
    let mut exit = Exit::new();
    let mut before: Vec<_> = (0..1023).map(|_| exit.turn_away()).collect();
    before.push(exit.bot().await);
    assert_eq!(exit.lot.lingering(), 1024, "so many are");
    let mut bot = exit.bot().await;
    assert_eq!(exit.lot.lingering(), 1024);
    let mut told = String::new();
    std::io::Read::read_to_string(&mut bot, &mut told).unwrap();
    assert!(told.starts_with("521 5.5.1 ") && told.ends_with("\r\n"), "{told}");
    // Those who may have said something that nobody has read are waited for all the same.
    let _other = exit.turn_away();
    assert_eq!(exit.lot.lingering(), 1025);
}
