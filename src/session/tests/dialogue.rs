//! gatepost's own dialogue with strangers: what it says to what, however the bytes are cut, and when it has had enough.

use serde_json::Value;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::time::advance;

use super::client::Client;
use super::mta::EHLO;
use super::*;
use crate::session::attend::stranger_visit;
use crate::session::departure::Report;
use crate::session::dialogue::{Decision, Dialogue};

const HELLO: &str = "EHLO client.example.net";
const MAIL: &str = "MAIL FROM:<a@example.net>";
const RCPT: &str = "RCPT TO:<b@example.com>";

/// How the bytes of a line come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pace {
    Whole,
    /// In two pieces, cut behind so many bytes.
    Cut(usize),
    Bytes,
}

/// A script: what the client says, and the codes of the replies.
struct Row {
    name: &'static str,
    lines: &'static [(&'static str, u16)],
    outcome: &'static str,
    findings: &'static [&'static str],
}

/// Every line that has no ending gets CRLF.
fn bytes_of(line: &str) -> Vec<u8> {
    let ending = if line.ends_with('\n') { "" } else { "\r\n" };
    format!("{line}{ending}").into_bytes()
}

async fn send(client: &mut Client<DuplexStream>, line: &str, pace: Pace) {
    let bytes = bytes_of(line);
    let pieces: Vec<&[u8]> = match pace {
        Pace::Whole => vec![&bytes],
        Pace::Cut(at) => {
            let (front, back) = bytes.split_at(at.min(bytes.len()));
            vec![front, back]
        }
        Pace::Bytes => bytes.chunks(1).collect(),
    };
    for piece in pieces {
        client.say(piece).await;
        // So that gatepost sees the piece by itself.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
}

/// A gate whose backend is away now, and whose offer is known.
fn post(settings: Settings) -> Post {
    let post = Post::new(settings);
    post.gate.backend.learn(&offer(EHLO));
    post
}

/// Runs a script to its end and beyond: the replies, and the visit's record.
async fn run(post: &Post, stranger: Stranger, lines: &[(&str, u16)], pace: Pace) -> (Vec<String>, Value) {
    let (ours, theirs) = duplex(64 * 1024);
    let visit = stranger_visit(&post.house, stranger, ours);
    let talk = async {
        let mut client = Client::on(theirs);
        let mut replies = vec![client.reply().await];
        for &(line, code) in lines {
            send(&mut client, line, pace).await;
            let reply = client.reply().await;
            assert!(reply.starts_with(&code.to_string()), "{line:?} {pace:?}: {reply:?} instead of {code}");
            replies.push(reply);
        }
        client.half_close().await;
        assert_eq!(client.rest().await, "", "said without being asked");
        replies
    };
    let ((), replies) = tokio::join!(visit, talk);
    (replies, post.the_record().await)
}

fn findings(record: &Value) -> Vec<&str> {
    let all = record.get("tests").and_then(Value::as_array);
    all.into_iter().flatten().map(|finding| finding["test"].as_str().unwrap()).collect()
}

/// None of these depends on which bytes come together.
const ROWS: &[Row] = &[
    Row { name: "it says hello and leaves", lines: &[(HELLO, 250), ("QUIT", 221)], outcome: "hung-up", findings: &[] },
    Row {
        name: "HELO too",
        lines: &[("helo Client.Example.NET", 250), ("quit", 221)],
        outcome: "hung-up",
        findings: &[],
    },
    Row { name: "it leaves without QUIT", lines: &[(HELLO, 250), (MAIL, 250)], outcome: "hung-up", findings: &[] },
    Row { name: "it says nothing", lines: &[], outcome: "hung-up", findings: &[] },
    Row {
        name: "commands that gatepost answers itself",
        lines: &[
            ("NOOP", 250),
            ("NOOP with words", 250),
            ("RSET", 250),
            ("VRFY postmaster", 252),
            ("HELP", 214),
            ("HELP MAIL", 214),
            ("EXPN list", 502),
            ("ETRN example.com", 502),
            ("XCLIENT ADDR=192.0.2.1", 502),
            ("XFORWARD ADDR=192.0.2.1", 502),
            ("FOO bar", 500),
            ("RSET now", 501),
            ("QUIT", 221),
        ],
        outcome: "hung-up",
        findings: &[],
    },
    Row {
        name: "commands out of order",
        lines: &[
            (MAIL, 503),
            (RCPT, 503),
            ("DATA", 503),
            (HELLO, 250),
            (RCPT, 503),
            ("DATA", 503),
            (MAIL, 250),
            (MAIL, 503),
            ("DATA", 554),
            ("STARTTLS", 503),
        ],
        outcome: "hung-up",
        findings: &[],
    },
    Row {
        name: "RSET and hello end a transaction, a hello that is refused does not",
        lines: &[
            (HELLO, 250),
            (MAIL, 250),
            ("RSET", 250),
            (RCPT, 503),
            (MAIL, 250),
            (HELLO, 250),
            (RCPT, 503),
            (MAIL, 250),
            (MAIL, 503),
        ],
        outcome: "hung-up",
        findings: &[],
    },
    Row { name: "a chunk", lines: &[(HELLO, 250), ("BDAT 10", 503)], outcome: "protocol-fault", findings: &[] },
    Row {
        name: "a chunk in a transaction",
        lines: &[(HELLO, 250), (MAIL, 250), ("BDAT 10 LAST", 503)],
        outcome: "protocol-fault",
        findings: &[],
    },
    Row {
        name: "a chunk of no size",
        lines: &[(HELLO, 250), ("BDAT ten", 503)],
        outcome: "protocol-fault",
        findings: &[],
    },
    Row {
        name: "MAIL and RCPT parameters of what was offered",
        lines: &[
            (HELLO, 250),
            ("MAIL FROM:<> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=x SMTPUTF8", 250),
            ("RSET", 250),
            ("MAIL FROM:<> BODY=BINARYMIME", 555),
            ("MAIL FROM:<> AUTH=<>", 555),
            ("MAIL FROM:<> BY=120;R", 555),
            ("MAIL FROM:<> FOO=bar", 555),
            ("MAIL FROM:<> SIZE=1 FOO", 555),
            (RCPT, 503),
            ("HELO client.example.net", 250),
            ("MAIL FROM:<> RET=HDRS", 555),
            ("MAIL FROM:<> SIZE=1000 BODY=8BITMIME", 250),
            ("RCPT TO:<b@example.com> NOTIFY=NEVER", 555),
            (HELLO, 250),
            ("MAIL FROM:<>", 250),
            ("RCPT TO:<b@example.com> XRDST=x", 555),
            ("RCPT TO:<b@example.com> NOTIFY=NEVER FOO", 555),
        ],
        outcome: "hung-up",
        findings: &[],
    },
    Row {
        name: "malformed commands",
        lines: &[
            (HELLO, 250),
            ("MAIL FROM:<a", 501),
            ("MAIL", 501),
            (MAIL, 250),
            ("RCPT TO:<", 501),
            ("DATA now", 501),
            ("STARTTLS now", 501),
        ],
        outcome: "hung-up",
        findings: &[],
    },
    Row {
        name: "AUTH where it is withheld",
        lines: &[(HELLO, 250), ("AUTH PLAIN AGEAYg==", 503), ("AUTH", 503), (MAIL, 250), (RCPT, 550), ("QUIT", 221)],
        outcome: "refused",
        findings: &["auth-not-offered"],
    },
    Row {
        name: "STARTTLS by one who has failed",
        lines: &[("EHLO localhost", 250), ("STARTTLS", 454), (MAIL, 250), (RCPT, 550)],
        outcome: "refused",
        findings: &["helo-syntax"],
    },
    Row { name: "STARTTLS before hello", lines: &[("STARTTLS", 502)], outcome: "hung-up", findings: &[] },
    Row {
        name: "STARTTLS after HELO",
        lines: &[("HELO client.example.net", 250), ("STARTTLS", 502)],
        outcome: "hung-up",
        findings: &[],
    },
    Row { name: "a bot's name", lines: &[("EHLO ylmf-pc", 521)], outcome: "dropped", findings: &["helo-name"] },
    Row { name: "our name", lines: &[("HELO MX.example.com", 521)], outcome: "dropped", findings: &["helo-name"] },
    Row {
        name: "no name",
        lines: &[("EHLO", 501), ("HELO client.example.net", 250), (MAIL, 250), (RCPT, 550)],
        outcome: "refused",
        findings: &["helo-syntax"],
    },
    Row {
        name: "a single label",
        lines: &[
            ("EHLO localhost", 250),
            (MAIL, 250),
            (RCPT, 550),
            (RCPT, 550),
            ("DATA", 554),
            ("RSET", 250),
            (RCPT, 503),
        ],
        outcome: "refused",
        findings: &["helo-syntax"],
    },
    Row { name: "HTTP", lines: &[("GET / HTTP/1.1", 521)], outcome: "dropped", findings: &["not-smtp"] },
    Row { name: "a header", lines: &[("Subject: hello", 521)], outcome: "dropped", findings: &["not-smtp"] },
    Row {
        name: "TLS",
        lines: &[("\u{16}\u{3}\u{1}\0\u{7f}\n", 521)],
        outcome: "dropped",
        findings: &["bare-newline", "not-smtp"],
    },
    Row { name: "bare LF", lines: &[("NOOP\n", 250), (HELLO, 250)], outcome: "hung-up", findings: &["bare-newline"] },
    Row { name: "NUL", lines: &[("NOOP \0", 521)], outcome: "dropped", findings: &["not-smtp"] },
    Row {
        name: "bare CR",
        lines: &[("NO\rOP", 500), ("NOOP\r\r\n", 500), ("EHLO a.example\rb", 500), (MAIL, 503)],
        outcome: "hung-up",
        findings: &["bare-newline"],
    },
];

#[tokio::test(start_paused = true)]
async fn every_command_has_its_reply() {
    for row in ROWS {
        println!("{}", row.name);
        let post = post(settings(nobody()));
        let (replies, record) = run(&post, post.stranger(), row.lines, Pace::Whole).await;
        assert_eq!(replies[0], "220 mx.example.com ESMTP");
        assert_eq!(record["outcome"], row.outcome, "{}: {record}", row.name);
        assert_eq!(record["stage"], "dialogue", "{}", row.name);
        assert_eq!(record["backend"], false, "{}", row.name);
        assert_eq!(findings(&record), row.findings, "{}: {record}", row.name);
        let id = record["visit"].as_str().unwrap();
        for reply in replies.iter().filter(|reply| ["550", "521", "421"].iter().any(|code| reply.starts_with(code))) {
            assert!(reply.contains(&format!("visit {id}; see https://example.com/blocked")), "{}: {reply}", row.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn however_the_bytes_are_cut() {
    for row in ROWS {
        let longest = row.lines.iter().map(|(line, _)| bytes_of(line).len()).max().unwrap_or(0);
        for pace in (1..longest).map(Pace::Cut).chain([Pace::Bytes]) {
            let post = post(settings(nobody()));
            let (_, record) = run(&post, post.stranger(), row.lines, pace).await;
            assert_eq!(record["outcome"], row.outcome, "{} {pace:?}", row.name);
            assert_eq!(findings(&record), row.findings, "{} {pace:?}", row.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_text_are_refused_even_where_that_is_not_tested() {
    let mut settings = settings(nobody());
    act(&mut settings, &[Test::NotSmtp], Action::Off);
    let post = post(settings);
    let lines = [("EHLO a.example\0b", 500), ("MAIL FROM:<\0@example.net>", 500), ("NOOP\rNOOP", 500)];
    run(&post, post.stranger(), &lines, Pace::Whole).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_may_close_its_half_behind_every_line_and_in_the_middle_of_one() {
    for row in ROWS {
        for count in 0..row.lines.len() {
            let post = post(settings(nobody()));
            let (lines, rest) = row.lines.split_at(count);
            let (_, record) = run(&post, post.stranger(), lines, Pace::Whole).await;
            let expected =
                if findings(&record).iter().all(|test| *test == "bare-newline") { "hung-up" } else { "refused" };
            assert_eq!(record["outcome"], expected, "{}: {count} lines", row.name);

            let post = self::post(settings(nobody()));
            let (ours, theirs) = duplex(4096);
            let talk = async {
                let mut client = Client::on(theirs);
                client.line().await;
                client.say(&bytes_of(rest[0].0)[..1]).await;
                client.half_close().await;
                assert_eq!(client.rest().await, "", "half a command is none");
            };
            tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk);
            assert_eq!(post.the_record().await["outcome"], "hung-up");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_offered_what_the_backend_offers_cut_to_what_is_understood() {
    let post = post(settings(nobody()));
    let (replies, _) = run(&post, post.stranger(), &[(HELLO, 250)], Pace::Whole).await;
    let expected = "250-mx.example.com\n250-SIZE 1000000\n250-STARTTLS\n250-ENHANCEDSTATUSCODES\n250-8BITMIME\n250-DSN\n\
        250-SMTPUTF8\n250 CHUNKING";
    assert_eq!(replies[1], expected);
}

#[tokio::test(start_paused = true)]
async fn auth_is_offered_where_the_gate_says_so() {
    let mut settings = settings(nobody());
    Arc::make_mut(&mut settings.relay).auth = true;
    let post = post(settings);
    let lines = [("AUTH PLAIN AGEAYg==", 503), (HELLO, 250)];
    let (replies, record) = run(&post, post.stranger(), &lines, Pace::Whole).await;
    assert!(replies[2].contains("250-AUTH PLAIN LOGIN"), "{}", replies[2]);
    assert_eq!(findings(&record), [""; 0], "out of turn it is an error, and no evidence");
}

#[tokio::test(start_paused = true)]
async fn starttls_that_the_backend_does_not_have_is_not_offered() {
    let post = Post::new(settings(nobody()));
    post.gate.backend.learn(&offer("250-mta\r\n250 SIZE\r\n"));
    let (replies, _) = run(&post, post.stranger(), &[(HELLO, 250), ("STARTTLS", 502)], Pace::Whole).await;
    assert_eq!(replies[1], "250-mx.example.com\n250 SIZE");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_promised_for_a_backend_that_was_never_seen() {
    let post = Post::new(settings(nobody()));
    let (replies, _) = run(&post, post.stranger(), &[(HELLO, 250)], Pace::Whole).await;
    assert_eq!(replies[1], "250 mx.example.com", "nobody has asked it yet");

    let post = Post::new(settings(nobody()));
    post.gate.backend.set_presence(crate::backend::Presence::Away);
    let (replies, record) = run(&post, post.stranger(), &[(HELLO, 421)], Pace::Whole).await;
    assert!(replies[1].starts_with("421 4.3.2 mx.example.com Service not available"), "{}", replies[1]);
    assert_eq!(record["outcome"], "backend-failed");
}

#[tokio::test(start_paused = true)]
async fn what_a_refused_client_wanted_is_journalled() {
    let post = post(settings(nobody()));
    let lines = [
        ("EHLO localhost", 250),
        ("MAIL FROM:<first@example.net>", 250),
        ("RCPT TO:<1@example.com>", 550),
        ("RCPT TO:<2@example.com>", 550),
        ("RSET", 250),
        ("MAIL FROM:<second@example.net>", 250),
        ("RCPT TO:<3@example.com>", 550),
        ("RCPT TO:<4@example.com>", 550),
        ("RCPT TO:<5@example.com>", 550),
        ("RCPT TO:<6@example.com>", 550),
        ("QUIT", 221),
    ];
    let (replies, record) = run(&post, post.stranger(), &lines, Pace::Whole).await;
    assert!(
        replies[3].starts_with("550 5.5.2 Helo command rejected: need a fully-qualified host name"),
        "{}",
        replies[3]
    );
    assert_eq!(record["outcome"], "refused");
    assert_eq!(record["action"], "enforce");
    assert_eq!(record["helo"], "localhost");
    assert_eq!(record["from"], "first@example.net");
    let to: Vec<String> = (1..=5).map(|n| format!("{n}@example.com")).collect();
    assert_eq!(record["to"], Value::from(to));
}

#[tokio::test(start_paused = true)]
async fn tests_that_were_passed_are_remembered_though_others_were_failed() {
    let post = post(settings(nobody()));
    let lines = [("EHLO localhost", 250), (MAIL, 250), (RCPT, 550)];
    run(&post, post.stranger(), &lines, Pace::Whole).await;
    assert_eq!(post.due("192.0.2.7"), [Test::HeloSyntax]);

    let post = self::post(settings(nobody()));
    run(&post, post.stranger(), &[(HELLO, 250), (MAIL, 250)], Pace::Whole).await;
    let deep: Vec<Test> = Test::ALL.into_iter().filter(|test| !test.is_early()).collect();
    assert_eq!(post.due("192.0.2.7"), deep, "it left before the point of decision");
}

/// Bytes that come together where each has to wait.
#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_a_reply_is_refused_at_rcpt() {
    for (first, replies) in [
        ("EHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\n", vec![250, 250]),
        ("EHLO client.example.net\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n", vec![250, 250, 550]),
        ("NOOP\r\nN", vec![250]),
    ] {
        let post = post(settings(nobody()));
        let (ours, theirs) = duplex(1024);
        let talk = async {
            let mut client = Client::on(theirs);
            client.line().await;
            client.say(first).await;
            for code in replies {
                let reply = client.reply().await;
                assert!(reply.starts_with(&code.to_string()), "{reply}");
            }
            let rest = if first.ends_with('\n') { "" } else { "OOP\r\n" };
            client.say(rest).await;
            if !rest.is_empty() {
                client.reply().await;
            }
            client.ask("RSET").await;
            client.ask(HELLO).await;
            client.ask(MAIL).await;
            assert!(client.ask(RCPT).await.starts_with("550 5.5.1 Protocol error"), "{first:?}");
        };
        tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk);
        let record = post.the_record().await;
        assert_eq!(record["outcome"], "refused");
        assert_eq!(findings(&record), ["pipelining"]);
    }
}

#[tokio::test(start_paused = true)]
async fn quit_is_not_waited_for_and_its_company_is_no_evidence() {
    let post = post(settings(nobody()));
    let (_, record) = run(&post, post.stranger(), &[(HELLO, 250), ("QUIT\r\nNOOP\r\n", 221)], Pace::Whole).await;
    assert_eq!(findings(&record), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn who_pipelines_is_dropped_where_that_is_the_action() {
    let mut settings = settings(nobody());
    act(&mut settings, &[Test::Pipelining], Action::Drop);
    let post = post(settings);
    let (replies, record) =
        run(&post, post.stranger(), &[("EHLO a.example\r\nMAIL FROM:<>\r\n", 521)], Pace::Whole).await;
    assert!(replies[1].contains("you did not wait for the reply"), "{}", replies[1]);
    assert_eq!(record["outcome"], "dropped");
}

#[tokio::test(start_paused = true)]
async fn limits_end_it_with_421() {
    let limited = |change: fn(&mut DialogueLimits)| {
        let mut settings = settings(nobody());
        change(&mut settings.dialogue);
        post(settings)
    };
    let too_long = &"x".repeat(600);
    let just_fits = &format!("NOOP {}", "x".repeat(512 - 7));
    for (what, post, lines) in [
        (
            "Too many commands",
            limited(|l| l.commands = 4),
            vec![("NOOP", 250), ("NOOP", 250), ("NOOP", 250), ("NOOP", 421)],
        ),
        ("Too many errors", limited(|l| l.errors = 3), vec![("FOO", 500), ("NOOP", 250), ("FOO", 500), ("FOO", 421)]),
        ("Line too long", limited(|l| l.line = 512), vec![(just_fits, 250), (too_long, 421)]),
    ] {
        let (replies, record) = run(&post, post.stranger(), &lines, Pace::Whole).await;
        let last = replies.last().unwrap();
        assert!(last.starts_with(&format!("421 4.7.0 mx.example.com {what}, closing; visit ")), "{last}");
        assert_eq!(record["outcome"], "limited", "{what}");
    }
}

/// A client that was refused is told in the same way, and counts as refused however it ends.
#[tokio::test(start_paused = true)]
async fn limits_and_deadlines_are_the_same_for_one_who_has_failed() {
    for (last, says) in [(&*"x".repeat(3000), "Line too long"), ("FOO", "Too many errors"), ("", "Timeout exceeded")] {
        let mut settings = settings(nobody());
        settings.dialogue.errors = 2;
        let post = post(settings);
        let (ours, theirs) = duplex(4096);
        let talk = async {
            let mut client = Client::on(theirs);
            client.line().await;
            client.ask("EHLO localhost").await;
            client.ask(MAIL).await;
            assert!(client.ask(RCPT).await.starts_with("550 "));
            if !last.is_empty() {
                client.say(bytes_of(last)).await;
            }
            let reply = client.reply().await;
            assert!(reply.starts_with("421 ") && reply.contains(says), "{says}: {reply:?}");
        };
        tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk);
        assert_eq!(post.the_record().await["outcome"], "refused", "{says}");
    }
}

/// What a client does, with how long a pause before each act; then it waits for the end.
async fn timed(settings: Settings, acts: &[(u64, &str)]) -> (u64, String, Value) {
    timed_at(&post(settings), acts).await
}

async fn timed_at(post: &Post, acts: &[(u64, &str)]) -> (u64, String, Value) {
    let (ours, theirs) = duplex(4096);
    let begin = Instant::now();
    let talk = async {
        let mut client = Client::on(theirs);
        client.line().await;
        for &(pause, words) in acts {
            // The other side's future is woken by its own timers meanwhile.
            tokio::time::sleep(Duration::from_secs(pause)).await;
            client.say(words).await;
        }
        let rest = client.rest().await;
        (begin.elapsed().as_secs(), rest)
    };
    let ((), (ended, rest)) = tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk);
    let last = rest.lines().last().unwrap_or_default().to_owned();
    (ended, last, post.the_record().await)
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_told_at_the_moment_of_each_deadline() {
    for (name, acts, at) in [
        ("it says nothing", &[][..], 300),
        ("half a command does not prolong the wait", &[(100, "NO"), (150, "O")], 300),
        ("each command has its own wait", &[(250, "NOOP\r\n")], 550),
        ("but all together have an end", &[(250, "NOOP\r\n"), (250, "NOOP\r\n"), (50, "NO")], 600),
    ] {
        let (ended, last, record) = timed(settings(nobody()), acts).await;
        assert!(last.starts_with("421 4.4.2 mx.example.com Timeout exceeded; visit "), "{name}: {last}");
        assert_eq!(ended, at, "{name}");
        assert_eq!(record["outcome"], "timed-out", "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn under_stress_a_command_line_has_less_time() {
    for (acts, at) in [(&[][..], 10), (&[(9, "NOOP\r\n"), (9, "NO")], 19)] {
        let post = post(settings(nobody()));
        post.house.stress.set_places(1, 1);
        let (ended, last, record) = timed_at(&post, acts).await;
        assert!(last.starts_with("421 4.4.2 mx.example.com Timeout exceeded; visit "), "{last}");
        assert_eq!((ended, record["outcome"].as_str()), (at, Some("timed-out")));
        assert!(!post.house.stress.is_on(), "it has left, and with it the stress");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_left_after_the_write_timeout() {
    let post = post(settings(nobody()));
    let (ours, theirs) = duplex(64);
    let begin = Instant::now();
    let talk = async {
        let mut client = Client::on(theirs);
        client.line().await;
        client.say("EHLO client.example.net\r\n").await;
        // It stays connected.
        client
    };
    let ((), _client) = tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk);
    // The time to write, and the time to read the last words.
    assert_eq!(begin.elapsed(), Duration::from_secs(180 + 2));
    assert_eq!(post.the_record().await["outcome"], "timed-out");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_talking_does_not_keep_the_visit_open() {
    let post = post(settings(nobody()));
    let (ours, mut theirs) = duplex(1024);
    let begin = Instant::now();
    let talk = async {
        let (mut read, mut write) = tokio::io::split(&mut theirs);
        let flood =
            async { while tokio::io::AsyncWriteExt::write_all(&mut write, b"GET / HTTP/1.1\r\n").await.is_ok() {} };
        let mut heard = Vec::new();
        let ((), read) = tokio::join!(flood, read.read_to_end(&mut heard));
        read.unwrap();
        String::from_utf8(heard).unwrap()
    };
    let ((), heard) = tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk);
    assert!(heard.lines().last().unwrap().starts_with("521 "), "{heard}");
    assert_eq!(begin.elapsed(), Duration::ZERO, "64 KiB are enough of last words");
    post.the_record().await;
}

#[tokio::test(start_paused = true)]
async fn those_in_a_dialogue_are_told_of_the_end() {
    let post = post(settings(nobody()));
    let (ours, theirs) = duplex(1024);
    let talk = async {
        let mut client = Client::on(theirs);
        client.line().await;
        client.ask(HELLO).await;
        advance(Duration::from_secs(10)).await;
        post.house.draining.cancel();
        assert!(client.reply().await.starts_with("421 4.3.2 mx.example.com Service is shutting down"));
    };
    tokio::join!(stranger_visit(&post.house, post.stranger(), ours), talk);
    assert_eq!(post.the_record().await["outcome"], "shutdown");
}

/// Runs a dialogue without what comes after it.
async fn decide(post: &Post, lines: &[(&str, u16)], last: &str, pace: Pace) -> (Decision, Report, Vec<u8>) {
    let Stranger { mut guest, screen, .. } = post.stranger();
    (guest.place, guest.presence) = (None, None);
    let (mut ours, theirs) = duplex(4096);
    let report = Report { screen: Some(screen), ..Report::default() };
    let mut dialogue = Dialogue::new(&post.house, &guest, report, &mut ours);
    let talk = async {
        let mut client = Client::on(theirs);
        client.line().await;
        for &(line, code) in lines {
            send(&mut client, line, pace).await;
            assert!(client.reply().await.starts_with(&code.to_string()), "{line:?}");
        }
        send(&mut client, last, pace).await;
        client
    };
    let listen = async {
        let mut decision = dialogue.greet().await;
        while decision == Decision::Listen {
            decision = dialogue.listen().await;
        }
        decision
    };
    let (decision, _client) = tokio::join!(listen, talk);
    let (report, inbox) = dialogue.leave();
    (decision, report, inbox)
}

#[tokio::test(start_paused = true)]
async fn the_command_of_the_decision_is_left_for_the_backend() {
    let mut offering_auth = settings(nobody());
    Arc::make_mut(&mut offering_auth.relay).auth = true;
    let starttls = &[(HELLO, 250)][..];
    let transaction = &[(HELLO, 250), (MAIL, 250)][..];
    for (settings, lines, last) in [
        (settings(nobody()), transaction, "RCPT TO:<b@example.com> NOTIFY=NEVER"),
        (settings(nobody()), starttls, "STARTTLS"),
        (offering_auth, starttls, "auth plain AGEAYg=="),
    ] {
        for pace in (1..last.len() + 2).map(Pace::Cut).chain([Pace::Whole, Pace::Bytes]) {
            let post = post(settings.clone());
            let (decision, report, inbox) = decide(&post, lines, last, pace).await;
            assert_eq!(decision, Decision::HandOff, "{last}");
            assert_eq!(inbox, bytes_of(last));
            assert!(report.screen.unwrap().failed().is_empty());
        }
    }
}
