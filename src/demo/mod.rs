//! `gatepost demo`: a sink MTA, a DNS list and a gate on loopback; bots and honest clients visit; what happened to each is
//! told in a table. No file, no root, nothing to install.

mod list;
mod sink;
mod table;
mod visitor;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::clock::Clock;
use crate::config::Config;
use crate::journal::{Journal, Target};
use crate::server::{CannotStart, Server};

use self::sink::{Mailbox, Sink};
use self::visitor::{Fate, Visitor};

/// How long the demo's strangers wait: long enough for a person to notice, and for every bot to lose patience.
const WAIT: Duration = Duration::from_millis(1500);

/// Why the demo cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum CannotShow {
    /// No loopback socket to be had.
    #[error("no socket on 127.0.0.0/8: {0}")]
    Socket(#[from] io::Error),
    /// The gate does not start.
    #[error(transparent)]
    Gate(#[from] CannotStart),
    /// A defect in the demo itself.
    #[error("the demo's own configuration is wrong: {0}")]
    Config(String),
}

/// How one visit went.
struct Story {
    visitor: Visitor,
    reply: String,
    took: Duration,
    /// The tests that it failed, by name.
    failed: Vec<String>,
    met_mta: bool,
    as_it_should: bool,
}

/// Shows the demo, and stays up until Ctrl-C unless it is to be shown only `once`. Whether every visit ended as it should.
pub async fn run(once: bool) -> Result<bool, CannotShow> {
    let sink = Sink::open().await?;
    let list = list::open(visitor::LISTED).await?;
    let text = configuration(sink.address, list);
    let (config, _) = Config::parse(&text, "demo").map_err(|problems| CannotShow::Config(problems.render(false)))?;
    let journal = Journal::open(Target::Memory)?;
    let server = Server::start(config, journal.clone(), Clock::system()).await?;
    let Some((_, gate)) = server.addresses().next() else {
        return Err(CannotShow::Config("no gate".to_owned()));
    };
    let admin = serve_admin(&server).await?;
    for backend in server.backends() {
        // Strangers are to be offered what the MTA offers, so it has to have been asked.
        let _ = backend.probe("gatepost.demo.test").await;
    }

    println!(
        "gatepost demo: a gate at {gate}, an MTA behind it, and visitors on their way. Strangers wait {WAIT:?}.\n"
    );
    let mut stories = round(visitor::FIRST, gate).await;
    stories.extend(round(visitor::SECOND, gate).await);
    settle(&server).await;
    judge(&mut stories, &journal.records(), &sink.mailbox());
    print!("{}", table::of(&stories));
    let fine = stories.iter().all(|story| story.as_it_should);
    println!("{}", summary(&stories, &sink.mailbox()));

    if !once {
        println!(
            "\nIt stays up. Try it:  telnet {} {}   (or: nc {} {})",
            gate.ip(),
            gate.port(),
            gate.ip(),
            gate.port()
        );
        println!("  metrics  http://{admin}/metrics");
        println!("  MTA      {} (expects a PROXY header)", sink.address);
        println!("\nFrom 127.0.0.1 you are a stranger. Ctrl-C ends it.");
        let _ = tokio::signal::ctrl_c().await;
        println!();
    }
    server.stop(Duration::from_secs(2)).await;
    Ok(fine)
}

async fn serve_admin(server: &Server) -> io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    server.serve_admin(listener);
    Ok(address)
}

/// The demo's file. What is not said in it is as in any other.
fn configuration(sink: SocketAddr, list: SocketAddr) -> String {
    let allowed = visitor::ALLOWED;
    let zone = list::ZONE;
    format!(
        r#"
hostname = "mx.demo.test"

[[gate]]
scene = "mx"
listen = ["127.0.0.1:0"]
backend = "{sink}"
announce = "proxy-v2"

[access]
allow = ["{allowed}"]

[dnsbl]
sites = ["{zone}=127.0.0.2*3"]
threshold = 3
nameservers = ["{list}"]

[greet]
wait_min = "{wait}ms"
wait_max = "4s"

[journal]
to = "off"
"#,
        wait = WAIT.as_millis()
    )
}

/// All of them visit at the same time; their stories are in the order of the list.
async fn round(visitors: &'static [Visitor], gate: SocketAddr) -> Vec<Story> {
    let visits: Vec<_> = visitors
        .iter()
        .map(|visitor| {
            tokio::spawn(async move {
                let begin = Instant::now();
                let (reply, played) = visitor.visit(gate).await;
                Story {
                    visitor: *visitor,
                    reply,
                    took: begin.elapsed(),
                    failed: Vec::new(),
                    met_mta: false,
                    as_it_should: played,
                }
            })
        })
        .collect();
    let mut stories = Vec::with_capacity(visits.len());
    for visit in visits {
        if let Ok(story) = visit.await {
            stories.push(story);
        }
    }
    stories
}

/// Waits until every visit has departed, and so is in the journal.
async fn settle(server: &Server) {
    for _ in 0..100 {
        if server.house().sessions.open() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Adds what the journal and the MTA know, and whether that is as it should be.
fn judge(stories: &mut [Story], records: &[String], mailbox: &Mailbox) {
    for story in stories {
        let from = IpAddr::V4(story.visitor.from);
        story.failed = records.iter().filter_map(|line| failed_tests(line, from)).flatten().collect();
        story.met_mta = mailbox.connections.contains(&from);
        story.as_it_should &= match story.visitor.should {
            Fate::Delivered => story.failed.is_empty() && mailbox.messages.iter().any(|(who, _)| *who == from),
            Fate::TurnedAway(test) => !story.met_mta && story.failed.iter().any(|failed| failed == test),
        };
    }
}

/// The tests that the record in `line` says were failed, if it is one of `from`.
fn failed_tests(line: &str, from: IpAddr) -> Option<Vec<String>> {
    let record: Value = serde_json::from_str(line).ok()?;
    if record.get("client")?.as_str()? != from.to_string() {
        return None;
    }
    let tests = record.get("tests")?.as_array()?;
    Some(tests.iter().filter_map(|test| Some(test.get("test")?.as_str()?.to_owned())).collect())
}

fn summary(stories: &[Story], mailbox: &Mailbox) -> String {
    let turned_away = stories.iter().filter(|story| story.visitor.should != Fate::Delivered && !story.met_mta).count();
    let wrong = stories.iter().filter(|story| !story.as_it_should).count();
    let verdict = match wrong {
        0 => "Every visit ended as it should.".to_owned(),
        n => format!("{n} of {} visits did NOT end as they should.", stories.len()),
    };
    format!(
        "\nThe MTA was spared {turned_away} of {} connections, and took {} messages, each from the client's own address.\n{verdict}",
        stories.len(),
        mailbox.messages.len(),
    )
}
