//! Strangers in the lot, and those who are turned away at the door: over loopback, in a lane.

use std::net::IpAddr;

use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

use super::client::{Client, soon};
use super::mta::{Act, EHLO, Mta, PROXY, honest};
use super::*;
use crate::dns::double::{Double, Reply};
use crate::dnsbl;
use crate::policy::access::Access;
use crate::screen::Score;
use crate::screen::score::parse_list;

const SHORT: Duration = Duration::from_millis(150);

fn greet(settings: &mut Settings, minimum: Duration, maximum: Duration) {
    screened(settings, |screen| {
        screen.greet.minimum = minimum;
        screen.greet.maximum = maximum;
    });
}

fn tease(settings: &mut Settings) {
    screened(settings, |screen| screen.greet.teaser = Some("mx.example.com wait".into()));
}

fn lists(double: &Double, sites: &str) -> Dnsbl {
    Dnsbl::open(dnsbl::Settings {
        sites: parse_list(sites).unwrap(),
        nameservers: vec![double.address],
        timeout: PATIENCE,
        cache_entries: 1000,
        self_test: Duration::ZERO,
        breaker_failures: 3,
        breaker_pause: LONG,
        alarm_percent: 0,
        alarm_sample: 10,
    })
    .unwrap()
}

/// Connects from `ip`, which is one of loopback's.
async fn connect_from(ip: &str, to: SocketAddr) -> Client<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(ip.parse().unwrap(), 0)).unwrap();
    Client::on(socket.connect(to).await.unwrap())
}

#[tokio::test]
async fn who_talks_first_is_dropped_and_can_read_why() {
    let heavy = "x".repeat(40_000);
    for (words, class) in
        [("E", "smtp"), ("EHLO a.example\r\n", "smtp"), ("\r\n", ""), ("GET / HTTP/1.1\r\n\r\n", "http"), (&heavy, "")]
    {
        let post = Post::new(settings(nobody()));
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        client.say(words).await;
        let said = soon(client.rest()).await;
        drop(client);
        let record = post.the_record().await;
        let id = record["visit"].as_str().unwrap();
        let expected = format!(
            "521 5.5.1 Protocol error: you spoke before it was your turn; visit {id}; see https://example.com/blocked\r\n"
        );
        assert_eq!(said, expected, "{class}");
        assert_eq!(record["outcome"], "dropped");
        assert_eq!(record["stage"], "pregreet");
        assert_eq!(record["tests"][0]["test"], "pregreet");
        assert!(record["tests"][0]["detail"].as_str().unwrap().contains(class), "{record}");
        open.close(&post).await;
    }
}

/// It has its time to read, and then the socket is closed, read or not.
#[tokio::test]
async fn who_was_turned_away_and_stays_is_let_go_of() {
    let post = Post::new(settings(nobody()));
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    client.say("EHLO client.example.net\r\n").await;
    let record = post.the_record().await;
    assert_eq!(record["outcome"], "dropped", "its place is free at once");
    let begin = Instant::now();
    open.close(&post).await;
    assert!(begin.elapsed() > Duration::from_secs(1), "the lane has waited for it");
    // The socket's error tells of a reset that came behind the reply; not every system keeps the reply from it.
    assert!(client.stream.take_error().unwrap().is_none(), "reset with its words unread");
    assert!(soon(client.rest()).await.starts_with("521 "));
}

#[tokio::test]
async fn the_first_byte_is_enough_however_the_rest_comes() {
    let mut settings = settings(nobody());
    tease(&mut settings);
    let post = Post::new(settings);
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    assert_eq!(soon(client.line()).await, "220-mx.example.com wait");
    for byte in b"EHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\n" {
        client.say([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(soon(client.rest()).await.starts_with("521 5.5.1 "));
    drop(client);
    post.the_record().await;
    open.close(&post).await;
}

#[tokio::test]
async fn who_leaves_in_the_wait_costs_the_backend_nothing() {
    let mta = Mta::start(honest).await;
    for how in ["closes", "closes its half", "resets"] {
        let post = Post::new(settings(mta.address));
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        until("the stranger to be parked", || post.house.sessions.open() == 1).await;
        match how {
            "closes" => drop(client),
            "resets" => client.reset(),
            _ => {
                client.half_close().await;
                assert_eq!(soon(client.rest()).await, "");
            }
        }
        let record = post.the_record().await;
        assert_eq!(record["outcome"], "hung-up", "{how}");
        assert_eq!(record["stage"], "pregreet", "{how}");
        assert!(post.due("127.0.0.1").contains(&Test::Pregreet), "{how}: it has not waited to the end");
        open.close(&post).await;
    }
    assert!(mta.heard().is_empty());
}

#[tokio::test]
async fn who_waits_is_greeted_and_no_earlier() {
    let mta = Mta::start(honest).await;
    let mut settings = settings(mta.address);
    greet(&mut settings, SHORT, LONG);
    let post = Post::new(settings);
    let open = post.open();
    let begin = Instant::now();
    let mut client = Client::connect(open.address).await;
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    assert!(begin.elapsed() >= SHORT, "{:?}", begin.elapsed());
    assert!(mta.heard().is_empty(), "it has to show first how it speaks");
    assert!(soon(client.ask("QUIT")).await.starts_with("221 "));
    drop(client);
    assert_eq!(post.the_record().await["outcome"], "hung-up");
    assert!(!post.due("127.0.0.1").contains(&Test::Pregreet));
    open.close(&post).await;
}

#[tokio::test]
async fn where_only_early_tests_are_due_the_greeting_is_the_backends() {
    for (teaser, greeting, expected) in [
        (false, "220 mta ESMTP\r\n", "220 mta ESMTP"),
        (true, "220 mta ESMTP\r\n", "220-mx.example.com wait\n220 mta ESMTP"),
        (true, "220-mta\r\n220 ESMTP\r\n", "220-mx.example.com wait\n220-mta\n220 ESMTP"),
        (false, "554 not you\r\n", "554 not you"),
    ] {
        let mta = Mta::start(move |line| match line {
            PROXY => Act::Say(greeting),
            _ => honest(line),
        })
        .await;
        let mut settings = settings(mta.address);
        only_early(&mut settings);
        greet(&mut settings, SHORT, LONG);
        if teaser {
            tease(&mut settings);
        }
        let post = Post::new(settings);
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        assert_eq!(soon(client.reply()).await, expected);
        if !greeting.starts_with("554") {
            assert!(soon(client.ask("QUIT")).await.starts_with("221 2.0.0 the backend says bye"));
        }
        drop(client);
        let record = post.the_record().await;
        assert_eq!(record["outcome"], "relayed", "{record}");
        assert_eq!(record["backend"], true);
        open.close(&post).await;
    }
}

#[tokio::test]
async fn a_greeting_that_was_begun_is_finished_though_the_backend_is_not_there() {
    let unwilling = Mta::start(|_| Act::Say("554 not today\r\n")).await;
    for (address, backend) in [(nobody(), false), (unwilling.address, true)] {
        let mut settings = settings(address);
        only_early(&mut settings);
        tease(&mut settings);
        greet(&mut settings, SHORT, LONG);
        let post = Post::new(settings);
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        assert_eq!(soon(client.reply()).await, "220-mx.example.com wait\n220 mx.example.com ESMTP");
        let reply = soon(client.ask("EHLO client.example.net")).await;
        assert!(reply.starts_with("421 4.3.2 mx.example.com Service not available"), "{reply}");
        assert_eq!(soon(client.rest()).await, "");
        drop(client);
        let record = post.the_record().await;
        assert_eq!(record["outcome"], "backend-failed");
        assert_eq!(record["stage"], "handoff");
        assert_eq!(record["backend"], backend);
        assert!(record["note"].as_str().unwrap().contains("backend"), "{record}");
        assert!(post.due("127.0.0.1").is_empty(), "what it has passed it has passed");
        open.close(&post).await;
    }
}

#[tokio::test]
async fn one_whose_greeting_was_finished_in_vain_is_told_of_the_end_too() {
    let mut settings = settings(nobody());
    only_early(&mut settings);
    tease(&mut settings);
    greet(&mut settings, SHORT, LONG);
    let post = Post::new(settings);
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    assert_eq!(soon(client.reply()).await, "220-mx.example.com wait\n220 mx.example.com ESMTP");
    // It says nothing, and there is no waiting for it.
    post.house.draining.cancel();
    assert!(soon(client.rest()).await.starts_with("421 4.3.2 "));
    drop(client);
    post.the_record().await;
    open.close(&post).await;
}

#[tokio::test]
async fn without_a_teaser_the_greeting_of_a_backend_that_is_away_is_421() {
    let mut settings = settings(nobody());
    only_early(&mut settings);
    greet(&mut settings, Duration::ZERO, LONG);
    let post = Post::new(settings);
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    assert!(soon(client.rest()).await.starts_with("421 4.3.2 mx.example.com Service not available"));
    drop(client);
    assert_eq!(post.the_record().await["outcome"], "backend-failed");
    open.close(&post).await;
}

#[tokio::test]
async fn under_enforce_one_who_talks_first_gets_no_greeting_and_no_mail_through() {
    let mta = Mta::start(honest).await;
    let mut settings = settings(mta.address);
    act(&mut settings, &[Test::Pregreet], Action::Enforce);
    let post = Post::new(settings);
    post.gate.backend.learn(&offer(EHLO));
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    assert!(soon(client.ask("EHLO client.example.net")).await.starts_with("250-mx.example.com"));
    assert!(soon(client.ask("MAIL FROM:<a@example.net>")).await.starts_with("250 "));
    assert!(soon(client.ask("RCPT TO:<b@example.com>")).await.starts_with("550 5.5.1 "));
    drop(client);
    let record = post.the_record().await;
    assert_eq!(record["outcome"], "refused");
    assert_eq!(record["from"], "a@example.net");
    assert!(mta.heard().is_empty());
    open.close(&post).await;
}

#[tokio::test]
async fn under_observe_what_was_said_early_is_still_there() {
    let mta = Mta::start(honest).await;
    let mut settings = settings(mta.address);
    act(&mut settings, &[Test::Pregreet], Action::Observe);
    let post = Post::new(settings);
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    client.say("EHLO client.example.net\r\n").await;
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    assert!(soon(client.reply()).await.starts_with("250 mx.example.com"));
    assert!(soon(client.ask("MAIL FROM:<a@example.net>")).await.starts_with("250 "));
    assert_eq!(soon(client.ask("RCPT TO:<b@example.com>")).await, "250 2.0.0 fine with the backend");
    drop(client);
    let record = post.the_record().await;
    assert_eq!(record["outcome"], "relayed");
    assert_eq!(record["tests"][0]["action"], "observe");
    assert_eq!(post.due("127.0.0.1"), [Test::Pregreet]);
    open.close(&post).await;
}

#[tokio::test]
async fn under_observe_all_at_once_and_closed_is_answered_to_its_end() {
    let mut settings = settings(nobody());
    screened(&mut settings, |screen| screen.observe = true);
    let post = Post::new(settings);
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    client.say("EHLO client.example.net\r\nNOOP\r\nQUIT\r\n").await;
    client.half_close().await;
    let said = soon(client.rest()).await;
    let codes: Vec<&str> = said.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "221"]);
    let record = post.the_record().await;
    assert_eq!(record["tests"].as_array().unwrap().len(), 2, "{record}");
    open.close(&post).await;
}

#[tokio::test]
async fn passwords_that_are_said_too_early_are_not_journalled() {
    for words in [
        "AUTH PLAIN c2VjcmV0\r\n",
        " \tauth plain c2VjcmV0\r\n",
        "\r\nAUTH PLAIN c2VjcmV0\r\n",
        "EHLO a\r\nAUTH PLAIN c2VjcmV0\r\n",
        "EHLO a\nAUTH PLAIN c2VjcmV0",
        "EHLO a\rAUTH PLAIN c2VjcmV0\r\n",
        "EHLO a\0AUTH PLAIN c2VjcmV0\r\n",
        "PASS c2VjcmV0\r\n",
    ] {
        let post = Post::new(settings(nobody()));
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        client.say(words).await;
        soon(client.rest()).await;
        drop(client);
        let record = post.the_record().await.to_string();
        assert!(!record.contains("c2VjcmV0"), "{words:?}: {record}");
        open.close(&post).await;
    }
}

#[tokio::test]
async fn a_listing_ends_the_wait_unless_talking_first_would_be_worse() {
    let double = Double::start(|_| Reply::Addresses(vec![[127, 0, 0, 2]], 300)).await;
    let mta = Mta::start(honest).await;

    // Both enforce: nothing can change any more.
    let mut both = settings(mta.address);
    act(&mut both, &[Test::Pregreet], Action::Enforce);
    let post = Post::with_lists(both, Some(lists(&double, "bad.test*3")));
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    for (command, code) in [("HELO client.example.net", "250"), ("MAIL FROM:<a@example.net>", "250")] {
        assert!(soon(client.ask(command)).await.starts_with(code));
    }
    let refused = soon(client.ask("RCPT TO:<b@example.com>")).await;
    assert!(
        refused.starts_with("550 5.7.1 Service unavailable; client [127.0.0.1] blocked using bad.test; visit "),
        "{refused}"
    );
    drop(client);
    let record = post.the_record().await;
    assert_eq!((&record["outcome"], &record["score"]), (&"refused".into(), &3.into()), "{record}");
    assert_eq!(record["lists"], Value::from(vec!["bad.test"]));
    open.close(&post).await;

    // Pregreet would drop it: that is waited for.
    let mut worse = settings(mta.address);
    greet(&mut worse, SHORT, LONG);
    let post = Post::with_lists(worse, Some(lists(&double, "bad.test*3")));
    let open = post.open();
    let begin = Instant::now();
    let mut client = Client::connect(open.address).await;
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    assert!(begin.elapsed() >= SHORT);
    drop(client);
    post.the_record().await;
    open.close(&post).await;

    // The listing drops: at once.
    let mut drop_it = settings(mta.address);
    act(&mut drop_it, &[Test::Dnsbl], Action::Drop);
    let post = Post::with_lists(drop_it, Some(lists(&double, "bad.test*3")));
    for _ in 0..2 {
        // The second time the lists' answer is known before anybody waits.
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        assert!(
            soon(client.rest()).await.starts_with("521 5.7.1 Service unavailable; client [127.0.0.1] blocked using")
        );
        drop(client);
        drop(open);
    }
    post.departed(2).await;
    assert!(mta.heard().is_empty(), "who fails never touches the backend");
}

#[tokio::test]
async fn a_good_word_of_the_lists_ends_the_wait_at_once_and_is_remembered() {
    let double = Double::start(|_| Reply::Addresses(vec![[127, 0, 0, 2]], 300)).await;
    let mta = Mta::start(honest).await;
    let post = Post::with_lists(settings(mta.address), Some(lists(&double, "good.test*-5")));
    let open = post.open();
    for count in 1..=2 {
        let mut client = Client::connect(open.address).await;
        assert_eq!(soon(client.reply()).await, "220 mta.example.com ESMTP", "no wait, and no dialogue with gatepost");
        assert!(soon(client.ask("QUIT")).await.starts_with("221 "));
        drop(client);
        let records = post.departed(count).await;
        let recognition = ["stranger", "remembered"][count - 1];
        assert_eq!(records[count - 1]["recognition"], recognition);
    }
    open.close(&post).await;
}

#[tokio::test]
async fn lists_that_answer_early_do_not_shorten_the_least_wait() {
    let double = Double::start(|_| Reply::NotListed(60)).await;
    let mut settings = settings(nobody());
    greet(&mut settings, SHORT, LONG);
    let post = Post::with_lists(settings, Some(lists(&double, "bad.test*3")));
    let open = post.open();
    let begin = Instant::now();
    let mut client = Client::connect(open.address).await;
    double.until("bad.test", 1).await;
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    assert!(begin.elapsed() >= SHORT);
    drop(client);
    post.the_record().await;
    open.close(&post).await;
}

#[tokio::test]
async fn lists_that_answer_between_the_waits_end_the_second() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let double = Double::start(move |_| Reply::Held(Arc::clone(&held), Box::new(Reply::NotListed(60)))).await;
    let mut settings = settings(nobody());
    greet(&mut settings, Duration::from_millis(20), LONG);
    let post = Post::with_lists(settings, Some(lists(&double, "bad.test*3")));
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    let early = tokio::time::timeout(SHORT, client.reply()).await;
    assert!(early.is_err(), "the lists could still turn it away: {early:?}");
    gate.add_permits(1);
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    drop(client);
    post.the_record().await;
    let due = post.due("127.0.0.1");
    assert!(!due.contains(&Test::Dnsbl) && !due.contains(&Test::Pregreet), "{due:?}");
    open.close(&post).await;
}

#[tokio::test]
async fn lists_that_do_not_answer_are_waited_for_to_the_end_and_no_longer() {
    let double = Double::start(|_| Reply::Silence).await;
    let mut settings = settings(nobody());
    greet(&mut settings, Duration::from_millis(20), SHORT);
    let post = Post::with_lists(settings, Some(lists(&double, "bad.test*3")));
    let open = post.open();
    let begin = Instant::now();
    let mut client = Client::connect(open.address).await;
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    assert!(begin.elapsed() >= SHORT);
    drop(client);
    post.the_record().await;
    assert!(post.due("127.0.0.1").contains(&Test::Dnsbl), "half an answer passes nobody for more than this visit");
    open.close(&post).await;
}

/// A client that has talked and closed its half stays, where that is only observed, and must cost nothing meanwhile.
#[tokio::test]
async fn one_who_is_kept_waiting_half_closed_does_not_keep_the_lane_busy() {
    let double = Double::start(|_| Reply::Silence).await;
    let mut settings = settings(nobody());
    act(&mut settings, &[Test::Pregreet], Action::Observe);
    greet(&mut settings, SHORT, Duration::from_millis(600));
    let post = Post::with_lists(settings, Some(lists(&double, "bad.test*3")));
    let open = post.open();
    let mut client = Client::connect(open.address).await;
    client.say("HELO client.example.net\r\n").await;
    client.half_close().await;
    until("it to be heard", || post.house.metrics.text().contains("class=\"smtp\",gate=\"mx\"} 1")).await;
    let before = on_cpu();
    assert_eq!(soon(client.reply()).await, "220 mx.example.com ESMTP");
    let spent = on_cpu() - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} of 600 ms on the processor");
    drop(client);
    post.the_record().await;
    open.close(&post).await;
}

/// How long this thread has been on the processor.
fn on_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn those_who_wait_and_those_in_the_queue_are_told_of_the_end() {
    let post = Post::new(settings(nobody()));
    let open = post.open();
    let mut parked = Client::connect(open.address).await;
    until("the stranger to be parked", || post.house.sessions.open() == 1).await;
    // Into the queue of the listening socket: the lane gets no turn before it is told to stop.
    let queue: Vec<_> = (0..5).map(|_| std::net::TcpStream::connect(open.address).unwrap()).collect();
    post.house.draining.cancel();
    assert!(soon(parked.rest()).await.starts_with("421 4.3.2 mx.example.com Service is shutting down"));
    drop(parked);
    for stream in queue {
        stream.set_nonblocking(true).unwrap();
        let mut client = Client::on(tokio::net::TcpStream::from_std(stream).unwrap());
        assert!(soon(client.rest()).await.starts_with("421 4.3.2 mx.example.com Service is shutting down"));
    }
    let records = post.departed(6).await;
    assert!(records.iter().all(|record| record["outcome"] == "shutdown"));
    open.close(&post).await;
}

#[tokio::test]
async fn limits_turn_away_at_the_door() {
    let mut settings = settings(nobody());
    settings.limits = quota::Settings::plain(1, 2);
    let post = Post::new(settings);
    let open = post.open();
    let first = Client::connect(open.address).await;
    until("the stranger to be parked", || post.house.sessions.open() == 1).await;
    let said = soon(Client::connect(open.address).await.rest()).await;
    assert!(said.starts_with("421 4.7.0 mx.example.com Too many connections from your address"), "{said}");
    let second = connect_from("127.0.0.2", open.address).await;
    until("the stranger to be parked", || post.house.sessions.open() == 2).await;
    let said = soon(connect_from("127.0.0.3", open.address).await.rest()).await;
    assert!(said.starts_with("421 4.3.2 mx.example.com All screening ports are busy"), "{said}");
    drop((first, second));
    let records = post.departed(4).await;
    let outcomes: Vec<&str> = records.iter().map(|record| record["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["limited", "limited", "hung-up", "hung-up"]);
    assert!(records[..2].iter().all(|record| record["stage"] == "recall"));
    open.close(&post).await;
}

#[tokio::test]
async fn the_access_list_goes_before_everything() {
    let mta = Mta::start(honest).await;
    let mut settings = settings(mta.address);
    let entry = |ip: &str, access| (ipnet::IpNet::from(ip.parse::<IpAddr>().unwrap()), access);
    settings.access =
        Arc::new(AccessList::new(vec![entry("127.0.0.2", Access::Deny), entry("127.0.0.3", Access::Allow)]));
    settings.limits = quota::Settings::plain(1, 100);
    let post = Post::new(settings);
    let open = post.open();
    let mut denied = connect_from("127.0.0.2", open.address).await;
    denied.say("EHLO client.example.net\r\n").await;
    let said = soon(denied.rest()).await;
    assert!(said.starts_with("521 5.7.1 Service unavailable; client [127.0.0.2] is denied by local policy"), "{said}");
    drop(denied);
    for _ in 0..2 {
        let mut allowed = connect_from("127.0.0.3", open.address).await;
        assert_eq!(soon(allowed.reply()).await, "220 mta.example.com ESMTP");
        assert!(soon(allowed.ask("QUIT")).await.starts_with("221 "));
    }
    let records = post.departed(3).await;
    assert_eq!((&records[0]["recognition"], &records[0]["outcome"]), (&"denied".into(), &"dropped".into()));
    assert!(records[1..].iter().all(|record| record["recognition"] == "allowed"));
    open.close(&post).await;
}

/// Under stress, in a lot that is driven by hand.
#[tokio::test(start_paused = true)]
async fn under_stress_who_comes_waits_for_less_long() {
    let double = Double::start(|_| Reply::Silence).await;
    let mut settings = settings(nobody());
    greet(&mut settings, Duration::from_secs(3), Duration::from_secs(5));
    screened(&mut settings, |screen| screen.greet.stress = Duration::from_secs(1));
    let post = Post::with_lists(settings, Some(lists(&double, "bad.test*3")));
    let (mut lot, _poll, _answers) = post.lot();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let clients: Vec<_> =
        (0..2).map(|_| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    let begin = Instant::now();
    let after = |seconds| begin + Duration::from_secs(seconds);
    // Of two places that strangers may have, the second makes it stress.
    post.house.stress.set_places(2, 0);
    for client in &clients {
        let (guest, screen) = post.arriving();
        client.set_nonblocking(true).unwrap();
        lot.park(mio::net::TcpStream::from_std(client.try_clone().unwrap()), guest, screen);
    }
    assert!(post.house.stress.is_on());
    assert_eq!(lot.next_deadline(), Some(after(1)));
    tokio::time::advance(Duration::from_secs(1)).await;
    lot.expire_all(after(1));
    assert_eq!(post.house.tasks.len(), 1, "the second is through, though no list has answered");
    assert_eq!(lot.next_deadline(), Some(after(3)), "the first waits on as it began");
    lot.drain();
}

/// The wait to the moment, in a lot that is driven by hand.
#[tokio::test(start_paused = true)]
async fn the_wait_has_two_phases() {
    let double = Double::start(|_| Reply::Silence).await;
    let mut settings = settings(nobody());
    greet(&mut settings, Duration::from_secs(3), Duration::from_secs(5));
    let post = Post::with_lists(settings, Some(lists(&double, "bad.test*3")));
    let (mut lot, _poll, _answers) = post.lot();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let clients: Vec<_> =
        (0..3).map(|_| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    let begin = Instant::now();
    let after = |seconds| begin + Duration::from_secs(seconds);
    for client in &clients {
        let (guest, screen) = post.arriving();
        client.set_nonblocking(true).unwrap();
        lot.park(mio::net::TcpStream::from_std(client.try_clone().unwrap()), guest, screen);
    }
    assert_eq!(lot.next_deadline(), Some(after(3)));
    let clean = |round: u64, place: u64| Answer { ticket: place << 32 | round, score: Score::default() };

    lot.answered(clean(1, 0));
    lot.answered(clean(1, 1));
    lot.expire_all(after(2));
    assert_eq!(post.house.tasks.len(), 0, "the least wait is not over");
    tokio::time::advance(Duration::from_secs(3)).await;
    lot.expire_all(after(3));
    assert_eq!(post.house.tasks.len(), 1, "the first is through, the others wait for the lists");
    assert_eq!(lot.next_deadline(), Some(after(5)));
    lot.answered(clean(2, 1));
    assert_eq!(post.house.tasks.len(), 2, "the second is through with its answer");
    lot.answered(clean(2, 1));
    lot.answered(clean(9, 2));
    lot.answered(clean(3, 7));
    assert_eq!(post.house.tasks.len(), 2, "answers for those who have left, and for nobody, do nothing");
    tokio::time::advance(Duration::from_secs(2)).await;
    lot.expire_all(after(5));
    assert!(lot.is_empty());
    assert_eq!((post.house.tasks.len(), lot.next_deadline()), (3, None));
}
