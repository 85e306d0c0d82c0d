//! Clients that are banned or allowed at run time: at the door, in the lot, and what is said of them.

use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::*;
use crate::ledger::decisions::Decided;
use crate::policy::access::Access;
use crate::policy::ban::{Decision, Reason, What};
use crate::session::rulings::{self, Answer, NotBanned};

/// A client, as clients in these tests go.
const BOT: &str = "127.0.0.66";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> ipnet::IpNet {
    crate::policy::network::parse(text).unwrap()
}

fn post() -> Post {
    Post::new(settings(nobody()))
}

/// What recall makes of the client at `ip`.
fn met(post: &Post, client: &str) -> &'static str {
    match recall(&post.house, &post.gate, ip(client)) {
        Recall::Known(Recognition::Allowed, ..) => "allowed",
        Recall::Known(..) => "known",
        Recall::Stranger(..) => "stranger",
        Recall::Denied => "denied",
        Recall::Banned(_) => "banned",
        Recall::Full(..) => "full",
    }
}

fn automatic(now: Timestamp) -> Decision {
    Decision {
        what: What::Ban,
        reason: Reason::Failures,
        count: 5,
        level: 1,
        begin: now,
        until: Some(now.plus(HOUR)),
        who: "mx".into(),
        evidence: "5 failed AUTH exchanges within 10m".into(),
    }
}

fn answer(post: &Post, answer: Answer, held: usize) {
    post.house.rulings.set(rulings::Settings { answer, held, ..rulings::Settings::default() });
}

async fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip(BOT), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// All that is said until the other side closes; a reset is an end too.
async fn heard(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it is not closed");
    String::from_utf8(said).unwrap()
}

#[test]
fn a_ban_holds_at_the_next_connection_and_so_does_its_end() {
    let post = post();
    assert_eq!(met(&post, BOT), "stranger");
    post.house.ban(net("127.0.0.0/25"), Some(HOUR), "anna", "a test").unwrap();
    assert_eq!((met(&post, BOT), met(&post, "127.0.0.200")), ("banned", "stranger"));
    post.house.clock.set(NOW.plus(HOUR));
    assert_eq!(met(&post, BOT), "stranger");
    post.house.ban(net(BOT), None, "anna", "").unwrap();
    post.house.clock.set(NOW.plus(LONG * 10_000));
    assert_eq!(met(&post, BOT), "banned");
    assert_eq!(post.house.lift(net("127.0.0.0/8"), "anna").len(), 1);
    assert_eq!(met(&post, BOT), "stranger");
    assert_eq!(post.house.lift(net("127.0.0.0/8"), "anna").len(), 0, "there is nothing more");
}

#[test]
fn an_allowance_beats_bans_and_what_the_file_denies() {
    let mut settings = settings(nobody());
    settings.access = Arc::new(AccessList::new(vec![(net("127.0.0.66"), Access::Deny)]));
    let post = Post::new(settings);
    assert_eq!(met(&post, BOT), "denied");
    post.house.ban(net(BOT), None, "anna", "").unwrap();
    assert_eq!(met(&post, BOT), "denied");
    post.house.allow(net("127.0.0.64/26"), Some(HOUR), "anna", "").unwrap();
    assert_eq!(met(&post, BOT), "allowed");
    post.house.clock.set(NOW.plus(HOUR));
    assert_eq!(met(&post, BOT), "denied");
}

#[test]
fn nothing_bans_whom_nothing_bans() {
    let post = post();
    post.house.set_gates(&[Arc::clone(&post.gate)], vec![net("127.0.0.64/26"), net("10.0.0.1")]);
    let exempt = post.house.ban(net(BOT), None, "anna", "").unwrap_err();
    assert_eq!(exempt, NotBanned::Exempt(net(BOT)));
    assert!(exempt.to_string().contains("allow-listed"), "{exempt}");
    // A wider one can be said, and the exempt are let in all the same.
    post.house.ban(net("127.0.0.0/24"), None, "anna", "").unwrap();
    assert_eq!((met(&post, BOT), met(&post, "127.0.0.1")), ("stranger", "banned"));
}

#[test]
fn a_gate_that_observes_keeps_out_whom_its_operator_bans_and_no_others() {
    let mut settings = settings(nobody());
    screened(&mut settings, |screen| screen.observe = true);
    let post = Post::new(settings);
    assert!(matches!(post.house.rule(net(BOT), automatic(NOW)), Decided::InForce(_)));
    assert_eq!(met(&post, BOT), "stranger");
    post.house.ban(net(BOT), Some(HOUR), "anna", "").unwrap();
    assert_eq!(met(&post, BOT), "banned");
}

#[test]
fn an_operator_has_the_last_word_whatever_the_clocks_say() {
    let post = post();
    let ahead = NOW.plus(HOUR * 24);
    post.house.rule(net(BOT), automatic(ahead));
    assert_eq!(met(&post, BOT), "banned");
    assert_eq!(post.house.lift(net(BOT), "anna").len(), 1);
    assert_eq!(met(&post, BOT), "stranger");
    post.house.ban(net(BOT), Some(HOUR * 48), "anna", "").unwrap();
    assert_eq!(met(&post, BOT), "banned");
    post.house.allow(net(BOT), Some(HOUR * 48), "anna", "").unwrap();
    assert_eq!(met(&post, BOT), "allowed");
}

#[test]
fn an_unban_forgets_what_led_to_the_ban() {
    use crate::addr::ClientKey;
    use crate::ledger::store::Store;
    use crate::policy::guard::Strike;

    let post = post();
    let (client, rules) = (ClientKey::of(ip(BOT)), &post.house.rulings.settings().rules);
    let second = u32::try_from(NOW.seconds()).unwrap();
    for _ in 0..4 {
        let _done = post.house.ledger.strike(client, Strike::Failed(None), rules, second, 0);
    }
    assert!(post.house.ledger.is_bad(client, rules, NOW));
    post.house.lift(net(BOT), "anna");
    assert!(!post.house.ledger.is_bad(client, rules, NOW));
}

#[tokio::test]
async fn a_banned_client_is_closed_without_a_word_and_leaves_no_record() {
    let post = post();
    let open = post.open();
    post.house.ban(net(BOT), Some(HOUR), "anna", "").unwrap();
    for _ in 0..3 {
        assert_eq!(heard(&mut connect(open.address).await).await, "");
    }
    assert_eq!(post.house.rulings.metrics.turned_away(), 3);
    assert_eq!(post.house.ledger.decisions().get(net(BOT)).unwrap().knocks(), 3);
    assert_eq!(post.records().len(), 0);
    post.house.sum_up_knocks();
    open.close(&post).await;
}

#[tokio::test]
async fn it_is_told_in_one_line_where_that_is_wanted() {
    let post = post();
    let open = post.open();
    post.house.ban(net(BOT), Some(HOUR), "anna", "").unwrap();
    for (kind, start) in [(Answer::Temporary, "421 4.7.1 mx.example.com "), (Answer::Permanent, "521 5.7.1 ")] {
        answer(&post, kind, 1);
        let mut client = connect(open.address).await;
        // It talks at once, and can read the answer all the same.
        client.write_all(b"EHLO ylmf-pc\r\n").await.unwrap();
        let said = heard(&mut client).await;
        assert!(said.starts_with(start) && said.ends_with("\r\n") && said.lines().count() == 1, "{said}");
    }
    assert_eq!(post.records().len(), 0);
    open.close(&post).await;
}

#[tokio::test]
async fn so_many_are_held_in_silence_and_no_more() {
    let post = post();
    let open = post.open();
    post.house.ban(net(BOT), Some(HOUR), "anna", "").unwrap();
    answer(&post, Answer::Hold, 2);
    let mut first = connect(open.address).await;
    let mut second = connect(open.address).await;
    // In the order in which they came: the third is one too many.
    assert_eq!(heard(&mut connect(open.address).await).await, "");
    first.write_all(b"EHLO ylmf-pc\r\n").await.unwrap();
    let mut byte = [0];
    let silence = timeout(Duration::from_millis(50), first.read(&mut byte)).await;
    assert!(silence.is_err(), "{silence:?}");
    // One that goes makes room.
    drop(second);
    second = loop {
        let mut next = connect(open.address).await;
        match timeout(Duration::from_millis(50), next.read(&mut byte)).await {
            Err(_) => break next,
            Ok(closed) => assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}"),
        }
    };
    open.close(&post).await;
    assert_eq!((heard(&mut first).await, heard(&mut second).await), (String::new(), String::new()));
}

#[tokio::test]
async fn a_stranger_that_waits_is_put_out_when_it_is_banned() {
    let mut settings = settings(nobody());
    screened(&mut settings, |screen| screen.greet.teaser = Some("mx.example.com wait".into()));
    let post = Post::new(settings);
    let open = post.open();
    let mut waiting = connect(open.address).await;
    let mut teaser = [0; 4];
    timeout(PATIENCE, waiting.read_exact(&mut teaser)).await.unwrap().unwrap();
    assert_eq!(&teaser, b"220-");
    post.house.ban(net(BOT), Some(HOUR), "anna", "").unwrap();
    let rest = heard(&mut waiting).await;
    assert!(!rest.contains("\r\n5") && !rest.contains("\r\n4"), "no reply: {rest}");
    let record = post.the_record().await;
    assert_eq!((&record["outcome"], &record["stage"]), (&Value::from("banned"), &Value::from("pregreet")));
    open.close(&post).await;
}
