//! Handoff and what follows it: a stranger in memory, the backend over loopback.

use serde_json::Value;
use tokio::io::{DuplexStream, duplex};

use super::client::{Client, soon};
use super::mta::{Act, EHLO, Mta, PROXY, honest};
use super::*;
use crate::session::attend::stranger_visit;

const HELLO: &str = "EHLO Client.example.NET";
const MAIL: &str = "MAIL From:<a@example.net>  size=1000 BODY=8BITMIME";
const RCPT: &str = "RCPT TO:<b@example.com> NOTIFY=NEVER";

/// A gate with a known backend that does what `script` says.
async fn post(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> (Post, Mta) {
    let mta = Mta::start(script).await;
    let post = Post::new(settings(mta.address));
    post.gate.backend.learn(&offer(EHLO));
    (post, mta)
}

/// A stranger's visit from the greeting on, with `talk` at the other end.
async fn visit<F: Future>(post: &Post, talk: impl FnOnce(Client<DuplexStream>) -> F) -> (F::Output, Value) {
    let (ours, theirs) = duplex(64 * 1024);
    let client = async {
        let mut client = Client::on(theirs);
        assert_eq!(client.reply().await, "220 mx.example.com ESMTP");
        talk(client).await
    };
    let ((), said) = soon(async { tokio::join!(stranger_visit(&post.house, post.stranger(), ours), client) }).await;
    let record = post.records().pop().unwrap();
    post.departed(post.records().len()).await;
    (said, record)
}

/// Says hello and MAIL, which gatepost answers, and then RCPT: the answer to that.
async fn as_far_as_rcpt(client: &mut Client<DuplexStream>) -> String {
    assert!(client.ask(HELLO).await.starts_with("250-mx.example.com"));
    assert!(client.ask(MAIL).await.starts_with("250 "));
    client.ask(RCPT).await
}

#[tokio::test]
async fn the_backend_hears_what_the_client_said() {
    let (post, mta) = post(honest).await;
    let (said, record) = visit(&post, |mut client| async move {
        let mut said = vec![as_far_as_rcpt(&mut client).await];
        for line in ["RCPT TO:<c@example.com>", "DATA", "Subject: x\r\n\r\nhello\r\n.", "QUIT"] {
            said.push(client.ask(line).await);
        }
        said
    })
    .await;
    assert_eq!(
        said,
        [
            "250 2.0.0 fine with the backend",
            "250 2.0.0 fine with the backend",
            "354 go on",
            "250 2.0.0 queued by the backend",
            "221 2.0.0 the backend says bye"
        ]
    );
    let proxy = "PROXY TCP4 192.0.2.7 198.51.100.25 40000 25";
    let heard = [proxy, HELLO, MAIL, RCPT, "RCPT TO:<c@example.com>", "DATA", "Subject: x", "", "hello", ".", "QUIT"];
    assert_eq!(mta.heard(), [heard]);
    assert_eq!((&record["outcome"], &record["stage"]), (&"relayed".into(), &"relay".into()));
    assert_eq!((&record["backend"], &record["accepted"]), (&true.into(), &1.into()));
    assert_eq!((&record["helo"], &record["from"]), (&"Client.example.NET".into(), &"a@example.net".into()));
    assert!(post.is_known(), "{:?}", post.due("192.0.2.7"));
}

#[tokio::test]
async fn helo_stays_helo() {
    let (post, mta) = post(honest).await;
    let ((), _) = visit(&post, |mut client| async move {
        assert_eq!(client.ask("HELO client.example.net").await, "250 mx.example.com");
        client.ask("MAIL FROM:<>").await;
        assert_eq!(client.ask("RCPT TO:<b@example.com>").await, "250 2.0.0 fine with the backend");
        client.ask("QUIT").await;
    })
    .await;
    let heard = mta.heard().remove(0);
    assert_eq!(heard[1..], ["HELO client.example.net", "MAIL FROM:<>", "RCPT TO:<b@example.com>", "QUIT"]);
    let offer = post.gate.backend.offer().unwrap();
    assert!(offer.keywords.has(crate::smtp::ehlo::Keyword::StartTls), "a HELO teaches nothing of keywords");
}

#[tokio::test]
async fn a_client_that_closes_its_half_behind_rcpt_still_hears_the_backend() {
    let (post, mta) = post(honest).await;
    let (said, record) = visit(&post, |mut client| async move {
        client.ask(HELLO).await;
        client.ask(MAIL).await;
        client.say(format!("{RCPT}\r\n")).await;
        client.half_close().await;
        client.rest().await
    })
    .await;
    assert_eq!(said, "250 2.0.0 fine with the backend\r\n");
    assert_eq!(record["outcome"], "relayed");
    assert_eq!(mta.heard()[0].last().unwrap(), RCPT);
}

#[tokio::test]
async fn a_client_that_pipelines_after_the_handoff_is_not_disturbed() {
    let (post, _mta) = post(honest).await;
    let ((), record) = visit(&post, |mut client| async move {
        as_far_as_rcpt(&mut client).await;
        client.say("RCPT TO:<c@example.com>\r\nRSET\r\nQUIT\r\n").await;
        assert_eq!(client.rest().await.lines().count(), 3);
    })
    .await;
    assert_eq!(record.get("tests"), None, "{record}");
}

#[tokio::test]
async fn a_refusal_of_the_backend_is_the_answer_and_the_client_can_go_on() {
    for (verb, refusal) in [
        ("EHLO", "550 5.7.1 not with that name\r\n"),
        ("MAIL", "451 4.7.1 come back\r\n"),
        ("MAIL", "550-5.1.8 your sender\r\n550 5.1.8 has no domain\r\n"),
    ] {
        let (post, mta) = post(move |line| if line.starts_with(verb) { Act::Say(refusal) } else { honest(line) }).await;
        let expected = refusal.trim_end().replace("\r\n", "\n");
        let mta = &mta;
        let ((), record) = visit(&post, |mut client| async move {
            assert_eq!(as_far_as_rcpt(&mut client).await, expected);
            // What is true of one recipient is true of the next: never a 503, which would be for good.
            assert_eq!(client.ask("RCPT TO:<c@example.com>").await, expected);
            assert!(client.ask("DATA").await.starts_with("554 "));
            // It may do better.
            mta.rewrite(honest);
            assert!(client.ask("RSET").await.starts_with("250 "));
            assert!(client.ask("RCPT TO:<c@example.com>").await.starts_with("503 "));
            assert!(client.ask("MAIL FROM:<other@example.net>").await.starts_with("250 "));
            assert_eq!(client.ask("RCPT TO:<c@example.com>").await, "250 2.0.0 fine with the backend");
            client.ask("QUIT").await;
        })
        .await;
        assert_eq!(mta.heard().len(), 2, "{verb}: one connection for each transaction");
        assert_eq!(record["outcome"], "relayed");
        assert!(post.is_known());
    }
}

#[tokio::test]
async fn a_transaction_can_follow_a_refused_one_without_rset() {
    let (post, mta) = post(|line| match line {
        MAIL => Act::Say("452 4.2.2 not now\r\n"),
        _ => honest(line),
    })
    .await;
    let ((), record) = visit(&post, |mut client| async move {
        assert_eq!(as_far_as_rcpt(&mut client).await, "452 4.2.2 not now");
        assert!(client.ask("MAIL FROM:<other@example.net>").await.starts_with("250 "));
        assert_eq!(client.ask("RCPT TO:<c@example.com>").await, "250 2.0.0 fine with the backend");
    })
    .await;
    assert_eq!(mta.heard().len(), 2);
    assert_eq!(record["outcome"], "relayed");
}

#[tokio::test]
async fn a_client_that_leaves_after_a_refusal_has_passed_all_the_same() {
    let (post, _mta) = post(|line| if line.starts_with("MAIL") { Act::Say("550 no\r\n") } else { honest(line) }).await;
    let ((), record) = visit(&post, |mut client| async move {
        as_far_as_rcpt(&mut client).await;
        assert!(client.ask("QUIT").await.starts_with("221 "));
    })
    .await;
    assert_eq!((&record["outcome"], &record["backend"]), (&"hung-up".into(), &true.into()));
    assert!(post.is_known());
}

#[tokio::test]
async fn a_backend_that_refuses_service_says_so_itself() {
    for greeting in ["421 4.3.2 too busy\r\n", "554 5.3.2 no service\r\n"] {
        let (post, _mta) = post(move |_| Act::Leave(greeting)).await;
        let ((), record) = visit(&post, |mut client| async move {
            assert_eq!(as_far_as_rcpt(&mut client).await, greeting.trim_end());
            assert_eq!(client.rest().await, "");
        })
        .await;
        assert_eq!((&record["outcome"], &record["backend"]), (&"backend-failed".into(), &true.into()));
        assert!(post.is_known(), "it has passed, whatever the backend does");
    }
}

/// Whatever goes wrong behind gatepost is 421 in front of it, with the visit's id; and the client has passed.
#[tokio::test]
async fn trouble_with_the_backend_is_421_and_does_not_cost_the_client_its_pass() {
    type Trouble = (&'static str, fn(&str) -> Act, &'static str);
    let rows: [Trouble; 10] = [
        ("it closes at once", |_| Act::Leave(""), "closed where a reply was due"),
        ("it greets with garbage", |_| Act::Say("SSH-2.0-OpenSSH_9.9\r\n"), "no SMTP reply"),
        ("it greets with half a line", |_| Act::Leave("220 mta"), "closed where a reply was due"),
        ("it greets with 250", |_| Act::Say("250 hello\r\n"), "no SMTP reply"),
        ("it closes at EHLO", |line| if line == HELLO { Act::Leave("") } else { honest(line) }, "closed"),
        ("it says garbage to EHLO", |line| if line == HELLO { Act::Say("huh?\r\n") } else { honest(line) }, "no SMTP"),
        ("it says 354 to EHLO", |line| if line == HELLO { Act::Say("354 go on\r\n") } else { honest(line) }, "no SMTP"),
        ("it closes at MAIL", |line| if line == MAIL { Act::Leave("") } else { honest(line) }, "closed"),
        (
            "it talks ahead",
            |line| if line == PROXY { Act::Say("220 hi\r\n250 ahead\r\n") } else { honest(line) },
            "no SMTP",
        ),
        (
            "its keywords have changed",
            |line| if line == HELLO { Act::Say("250-mta\r\n250 SIZE\r\n") } else { honest(line) },
            "no longer offers",
        ),
    ];
    for (what, script, note) in rows {
        println!("{what}");
        let (post, _mta) = post(script).await;
        let (reply, record) = visit(&post, |mut client| async move {
            let reply = as_far_as_rcpt(&mut client).await;
            assert_eq!(client.rest().await, "");
            reply
        })
        .await;
        let id = record["visit"].as_str().unwrap();
        assert!(reply.starts_with("421 4.3.2 mx.example.com Service not available") && reply.contains(id), "{reply}");
        assert_eq!((&record["outcome"], &record["stage"]), (&"backend-failed".into(), &"handoff".into()), "{what}");
        assert!(record["note"].as_str().unwrap().contains(note), "{what}: {record}");
        assert_eq!(record["backend"], true, "{what}");
        assert!(post.is_known(), "{what}");
    }
}

#[tokio::test]
async fn a_backend_that_is_away_is_421_too() {
    let post = Post::new(settings(nobody()));
    post.gate.backend.learn(&offer(EHLO));
    let ((), record) = visit(&post, |mut client| async move {
        assert!(as_far_as_rcpt(&mut client).await.starts_with("421 4.3.2 "));
    })
    .await;
    assert_eq!((&record["outcome"], &record["backend"]), (&"backend-failed".into(), &false.into()));
    assert!(record["note"].as_str().unwrap().contains("cannot connect"), "{record}");
    assert_eq!(post.gate.backend.presence(), crate::backend::Presence::Away);
    assert!(post.is_known());
}

#[tokio::test]
async fn a_backend_that_says_nothing_is_waited_for_as_long_as_the_gate_says() {
    for silent in [PROXY, HELLO, MAIL] {
        let mta = Mta::start(move |line| if line == silent { Act::Silence } else { honest(line) }).await;
        let mut settings = settings(mta.address);
        Arc::make_mut(&mut settings.backend).reply_timeout = Duration::from_millis(200);
        let post = Post::new(settings);
        post.gate.backend.learn(&offer(EHLO));
        let begin = Instant::now();
        let ((), record) = visit(&post, |mut client| async move {
            assert!(as_far_as_rcpt(&mut client).await.starts_with("421 "), "{silent:?}");
        })
        .await;
        assert!(begin.elapsed() >= Duration::from_millis(200));
        assert!(record["note"].as_str().unwrap().contains("no reply within"), "{record}");
    }
}

/// A keyword that was used counts, be it in MAIL, in the command that is handed over, or as that command.
#[tokio::test]
async fn what_the_client_used_and_the_backend_lost_is_421_and_the_next_is_told_the_truth() {
    for (lines, left) in [
        (&["EHLO a.example.net", "MAIL FROM:<> SMTPUTF8", "RCPT TO:<b@example.com>"][..], "250-mta\r\n250 DSN\r\n"),
        (&["EHLO a.example.net", "MAIL FROM:<>", "RCPT TO:<b@example.com> NOTIFY=NEVER"], "250-mta\r\n250 SIZE\r\n"),
        (&["EHLO a.example.net", "STARTTLS"], "250-mta\r\n250 SIZE\r\n"),
    ] {
        let (post, mta) = post(move |line| if line.starts_with("EHLO") { Act::Say(left) } else { honest(line) }).await;
        let ((), record) = visit(&post, |mut client| async move {
            for line in lines {
                let reply = client.ask(line).await;
                let code = if Some(line) == lines.last() { "421 4.3.2 " } else { "250" };
                assert!(reply.starts_with(code), "{line}: {reply}");
            }
        })
        .await;
        assert!(record["note"].as_str().unwrap().contains("no longer offers"), "{record}");
        let learned = post.gate.backend.offer().unwrap();
        assert_eq!(*learned, offer(left));
        assert_eq!(mta.heard()[0].len(), 2, "nothing was replayed behind EHLO: {:?}", mta.heard());
    }
}

#[tokio::test]
async fn the_next_connection_of_one_who_passed_goes_straight_through() {
    let (post, mta) = post(honest).await;
    let open = post.open();
    // The test's own client comes from 127.0.0.1: let that one pass.
    let (ours, theirs) = duplex(4096);
    let mut stranger = post.stranger();
    stranger.guest.client = "127.0.0.1:9".parse().unwrap();
    let talk = async {
        let mut client = Client::on(theirs);
        client.reply().await;
        as_far_as_rcpt(&mut client).await;
        // It is known from the verdict on, not from the end of its visit.
        let mut next = Client::connect(open.address).await;
        assert_eq!(next.reply().await, "220 mta.example.com ESMTP");
        assert!(next.ask("AUTH PLAIN AGEAYg==").await.starts_with("503 5.5.1 AUTH is not available"));
        next.ask("QUIT").await;
        client.ask("QUIT").await;
    };
    soon(async { tokio::join!(stranger_visit(&post.house, stranger, ours), talk) }).await;
    let records = post.departed(2).await;
    let remembered = records.iter().find(|record| record["recognition"] == "remembered").unwrap();
    assert_eq!(remembered["tests"][0]["test"], "auth-not-offered", "{remembered}");
    assert_eq!(mta.heard().len(), 2);
    assert_eq!(post.due("127.0.0.1"), [Test::AuthNotOffered], "the attempt has taken that pass back, and no other");
    open.close(&post).await;
}

/// AUTH behind the handoff of the same visit: what the visit had just been remembered for is taken back.
#[tokio::test]
async fn what_is_seen_in_the_relay_counts() {
    let (post, mta) = post(honest).await;
    let ((), record) = visit(&post, |mut client| async move {
        as_far_as_rcpt(&mut client).await;
        assert!(client.ask("AUTH LOGIN").await.starts_with("503 "));
        client.ask("QUIT").await;
    })
    .await;
    assert!(!mta.heard()[0].iter().any(|line| line.starts_with("AUTH")));
    assert_eq!(record["tests"][0]["test"], "auth-not-offered");
    assert_eq!(post.due("192.0.2.7"), [Test::AuthNotOffered]);
}

#[tokio::test]
async fn tls_is_between_client_and_backend() {
    let (post, mta) = post(|line| if line == "STARTTLS" { Act::Say("220 go\r\n") } else { honest(line) }).await;
    let (said, record) = visit(&post, |mut client| async move {
        client.ask(HELLO).await;
        let said = client.ask("STARTTLS").await;
        client.half_close().await;
        said
    })
    .await;
    assert_eq!(said, "220 go");
    assert_eq!(mta.heard()[0][1..], [HELLO, "STARTTLS"]);
    assert_eq!(record["outcome"], "relayed");
}

#[tokio::test]
async fn those_who_are_relayed_are_told_of_the_end() {
    let (post, mta) = post(honest).await;
    let house = Arc::clone(&post.house);
    let ((), record) = visit(&post, |mut client| async move {
        as_far_as_rcpt(&mut client).await;
        client.ask("RSET").await;
        house.draining.cancel();
        assert!(client.rest().await.starts_with("421 4.3.2 "));
    })
    .await;
    assert_eq!(record["outcome"], "shutdown");
    assert_eq!(mta.heard().len(), 1);
}

/// A real socket that is reset in each state of the visit: one record, and nothing left.
#[tokio::test]
async fn a_reset_ends_a_visit_in_every_state() {
    for lines in [&[][..], &[HELLO], &[HELLO, MAIL], &[HELLO, MAIL, RCPT], &[HELLO, MAIL, RCPT, "DATA"]] {
        let (_, mta) = post(honest).await;
        let mut settings = settings(mta.address);
        screened(&mut settings, |screen| screen.greet.minimum = Duration::from_millis(1));
        let post = Post::new(settings);
        post.gate.backend.learn(&offer(EHLO));
        let open = post.open();
        let mut client = Client::connect(open.address).await;
        soon(client.reply()).await;
        for line in lines {
            soon(client.ask(line)).await;
        }
        client.reset();
        let record = post.the_record().await;
        let expected = if lines.len() > 2 { "relayed" } else { "hung-up" };
        assert_eq!(record["outcome"], expected, "{lines:?}");
        open.close(&post).await;
    }
}
