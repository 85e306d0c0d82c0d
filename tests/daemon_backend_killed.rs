//! The backend breaks off, at every point of a session and in every way: it closes, it resets, it falls silent. Whatever
//! it did, the client hears a temporary failure or nothing more, and never a 250 that the backend did not give.
//!
//! The table is played with a double; `tests/peers_trouble.rs` kills a real Postfix in the middle of messages and
//! chunks, and counts what is delivered in the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod daemon;
mod host;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use serde_json::json;

use daemon::{assert_says, from};
use host::backend::{Backend, Talk};
use host::dialogue::Dialogue;
use host::gate::Gate;
use host::wait::{self, PATIENCE};

/// Where the backend breaks off: the last thing that it heard, or said the first half of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    BeforeGreeting,
    InGreeting,
    AtEhlo,
    InEhloReply,
    AtMail,
    AtRcpt,
    InRcptReply,
    AtData,
    InData,
    AtFinalDot,
    InFinalReply,
    InChunk,
    AtChunk,
    InLastChunk,
    AtLastChunk,
    AtAuth,
    InAuth,
    AtQuit,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Close,
    Reset,
    Silence,
}

use Point::*;

const POINTS: [Point; 18] = [
    BeforeGreeting,
    InGreeting,
    AtEhlo,
    InEhloReply,
    AtMail,
    AtRcpt,
    InRcptReply,
    AtData,
    InData,
    AtFinalDot,
    InFinalReply,
    InChunk,
    AtChunk,
    InLastChunk,
    AtLastChunk,
    AtAuth,
    InAuth,
    AtQuit,
];

/// A message, or half of one.
const HALF: &str = "Subject: half\r\n\r\nof it\r\n";

type Row = (Point, Way);

/// The backend's side: polite until it is at its point.
struct Double<'a> {
    talk: &'a mut Talk,
    row: Option<Row>,
}

/// The conversation is over.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Double<'_> {
    /// Breaks off, if this is the point.
    fn point(&mut self, here: Point) -> Result<(), Over> {
        match self.row {
            Some((point, way)) if point == here => {
                match way {
                    Way::Close => {}
                    Way::Reset => self.talk.reset()?,
                    Way::Silence => self.talk.ignore(PATIENCE)?,
                }
                Err(Over)
            }
            _ => Ok(()),
        }
    }

    /// Says `reply`, or half of it if this is the point `inside`.
    fn say(&mut self, reply: &str, inside: Option<Point>) -> Result<(), Over> {
        if let (Some(inside), Some((point, _))) = (inside, self.row)
            && inside == point
        {
            self.talk.send(&reply.as_bytes()[..reply.len() / 2])?;
            self.point(inside)?;
        }
        Ok(self.talk.say(reply)?)
    }

    fn converse(&mut self) -> Result<(), Over> {
        self.point(BeforeGreeting)?;
        self.say("220 mx.test ESMTP", Some(InGreeting))?;
        while let Some(line) = self.talk.line()? {
            let word = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match word.as_str() {
                "EHLO" => {
                    self.point(AtEhlo)?;
                    self.say(
                        "250-mx.test\r\n250-SIZE 1000000\r\n250-CHUNKING\r\n250 AUTH PLAIN LOGIN",
                        Some(InEhloReply),
                    )?;
                }
                "MAIL" => {
                    self.point(AtMail)?;
                    self.say("250 2.1.0 ok", None)?;
                }
                "RCPT" => {
                    self.point(AtRcpt)?;
                    self.say("250 2.1.5 ok", Some(InRcptReply))?;
                }
                "DATA" => {
                    self.point(AtData)?;
                    self.say("354 go on", None)?;
                    if matches!(self.row, Some((InData, _))) {
                        self.talk.exactly(HALF.len() / 2)?;
                        self.point(InData)?;
                    }
                    self.talk.message()?;
                    self.point(AtFinalDot)?;
                    self.say("250 2.0.0 taken", Some(InFinalReply))?;
                }
                "BDAT" => self.chunk(&line)?,
                "AUTH" => {
                    self.point(AtAuth)?;
                    self.say("334 VXNlcm5hbWU6", None)?;
                    self.talk.line()?;
                    self.point(InAuth)?;
                    self.say("235 2.7.0 ok", None)?;
                }
                "QUIT" => {
                    self.point(AtQuit)?;
                    self.say("221 2.0.0 bye", None)?;
                    return Ok(());
                }
                _ => self.say("250 2.0.0 ok", None)?,
            }
        }
        Ok(())
    }

    fn chunk(&mut self, line: &str) -> Result<(), Over> {
        let size = line.split(' ').nth(1).and_then(|size| size.parse().ok()).unwrap_or(0);
        let (inside, behind) = if line.ends_with("LAST") { (InLastChunk, AtLastChunk) } else { (InChunk, AtChunk) };
        if matches!(self.row, Some((point, _)) if point == inside) {
            self.talk.exactly(size / 2)?;
            self.point(inside)?;
        }
        self.talk.exactly(size)?;
        self.point(behind)?;
        self.say("250 2.0.0 taken", None)
    }
}

/// A backend that looks up, by the client that is announced, what it has to do.
fn double(rows: HashMap<IpAddr, Row>) -> Backend {
    Backend::start(move |talk| {
        let announced = talk.proxy()?;
        let row = announced.addresses.and_then(|(client, _)| rows.get(&client.ip()).copied());
        // How it ended is in the row.
        let _ = Double { talk, row }.converse();
        Ok(())
    })
}

/// What the client says, one piece after each reply that is well, up to the point.
fn script((point, way): Row) -> Vec<String> {
    let start = ["EHLO client.test", "MAIL FROM:<bob@example.org>", "RCPT TO:<alice@example.test>"];
    let mut pieces: Vec<String> = start.map(|line| format!("{line}\r\n")).to_vec();
    let size = HALF.len();
    let rest: &[String] = match point {
        InChunk | AtChunk | InLastChunk | AtLastChunk => {
            &[format!("BDAT {size}\r\n{HALF}"), format!("BDAT {size} LAST\r\n{HALF}"), "QUIT\r\n".to_owned()]
        }
        AtAuth | InAuth => {
            pieces.truncate(1);
            &["AUTH LOGIN\r\n".to_owned(), "dGlt\r\n".to_owned(), "QUIT\r\n".to_owned()]
        }
        // Without the end: whoever breaks off in the middle of it is not waited for. Only silence is not noticed before.
        InData if way != Way::Silence => &["DATA\r\n".to_owned(), HALF.to_owned()],
        _ => &["DATA\r\n".to_owned(), format!("{HALF}.\r\n"), "QUIT\r\n".to_owned()],
    };
    pieces.extend(rest.iter().cloned());
    pieces
}

/// The most that a client may hear before the failure: how many replies the backend gave, its greeting included.
fn replies_before(point: Point) -> usize {
    match point {
        BeforeGreeting | InGreeting => 0,
        AtEhlo | InEhloReply => 1,
        AtMail | AtAuth => 2,
        AtRcpt | InRcptReply | InAuth => 3,
        AtData | InChunk | AtChunk => 4,
        InData | AtFinalDot | InFinalReply | InLastChunk | AtLastChunk => 5,
        AtQuit => 6,
    }
}

/// Plays one row, and checks all that the client hears.
fn play(gate: &Gate, client: Ipv4Addr, known: bool, (point, way): Row) {
    let row = format!("{point:?}, {way:?}, {}", if known { "known" } else { "stranger" });
    let mut dialogue = Dialogue::from(client, gate.smtp());
    let mut heard = Vec::new();
    let mut pieces = script((point, way)).into_iter();
    while let Some(text) = reply(&mut dialogue) {
        let last = !text.starts_with(['2', '3']);
        heard.push(text);
        if last {
            dialogue.expect_close();
            break;
        }
        if let Some(piece) = pieces.next() {
            dialogue.send(piece);
        }
    }
    let shown = || format!("{row}\n{}", dialogue.transcript());
    let failure = heard.last().filter(|text| !text.starts_with(['2', '3'])).cloned();
    assert!(failure.as_deref().is_none_or(|text| text.starts_with("421 ")), "{}", shown());
    let good = heard.len() - usize::from(failure.is_some());
    // A stranger has been answered by the gate, up to the point of decision; what the backend does before, it hears then.
    let gates_own = match point {
        AtAuth | InAuth => 2,
        _ => 3,
    };
    let most = if known { replies_before(point) } else { replies_before(point).max(gates_own) };
    assert_eq!(good, most, "{}", shown());
    // Only a client that has asked to leave may be left without a word.
    assert!(failure.is_some() || point == AtQuit, "{}", shown());

    let accepted = u32::from(point == AtQuit);
    let record = gate.wait_for_record(from(client));
    assert_says(&record, &[("accepted", json!(accepted)), ("auth_ok", json!(0)), ("auth_failed", json!(0))]);
    let outcome = if point == AtQuit && way != Way::Silence { "relayed" } else { "backend-failed" };
    assert_says(&record, &[("outcome", json!(outcome)), ("backend", json!(true))]);
    assert_eq!(record["note"].is_string(), outcome == "backend-failed", "{row}: {record}");
}

/// The next reply, all its lines; nothing at the end.
fn reply(dialogue: &mut Dialogue) -> Option<String> {
    let mut text = String::new();
    loop {
        let line = dialogue.line().unwrap_or_else(|error| panic!("{error}\n{}", dialogue.transcript()))?;
        text.push_str(&line);
        text.push('\n');
        if line.as_bytes().get(3) != Some(&b'-') {
            return Some(text);
        }
    }
}

#[test]
fn wherever_the_backend_breaks_off_nothing_is_confirmed_for_it() {
    let rows: Vec<Row> =
        [Way::Close, Way::Reset, Way::Silence].into_iter().flat_map(|way| POINTS.map(|point| (point, way))).collect();
    // 127.9 is let in untested, 127.8 is not.
    let clients: Vec<(Ipv4Addr, bool, Row)> = [(9, true), (8, false)]
        .into_iter()
        .flat_map(|(net, known)| {
            let at = move |n| Ipv4Addr::new(127, net, 0, u8::try_from(n).expect("fewer than 256 rows"));
            rows.iter().enumerate().map(move |(n, &row)| (at(n + 1), known, row))
        })
        .collect();
    let backend = double(clients.iter().map(|&(client, _, row)| (client.into(), row)).collect());
    let address = backend.address();
    let gate = Gate::start(|at| {
        format!(
            "hostname = 'mx.gate.test'\nadmin = '{}'\n[[gate]]\nscene = 'submission'\nlisten = '{}'\n\
             backend = '{address}'\n[access]\nallow = '127.9.0.0/16'\n\
             [timeouts]\nreplay = '1s'\nreply = '1s'\nend_of_data = '1s'\n[gate.tls]\nstarttls = 'off'\n",
            at.admin, at.smtp
        )
    });
    wait::until("the first probe", || (!backend.wait_for_ends(1).is_empty()).then_some(()));
    thread::scope(|scope| {
        let gate = &gate;
        let runs: Vec<_> =
            clients.iter().map(|&(client, known, row)| scope.spawn(move || play(gate, client, known, row))).collect();
        let failed = runs.into_iter().filter_map(|run| run.join().err()).count();
        assert_eq!(failed, 0, "rows that failed, of {}", clients.len());
    });
    // Every row was really played: the backend saw each client once, and took what the table says that it took.
    let seen = daemon::visits(&backend);
    assert_eq!(seen.len(), clients.len());
    let quits = clients.iter().filter(|(.., (point, _))| *point == AtQuit).count();
    let accepted = gate.metric("gatepost_messages_accepted_total", &[]);
    assert_eq!(accepted.map(|count| count as usize), Some(quits));
    // And whoever comes again is served.
    let mut again = Dialogue::from(Ipv4Addr::new(127, 7, 0, 1), gate.smtp());
    again.expect("220");
    again.deliver(&host::letter::Letter::short());
}
