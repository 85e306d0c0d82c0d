//! Where a message ends, by gatepost and by the real MTAs behind it: every ending that somebody has been known to take
//! for one, straight to each MTA and through the gate, by DATA, by DATA under TLS that ends at the gate, and by BDAT.
//! Client, gate and MTA believe in the same number of messages, and nobody in one that was not sent.
//!
//! `docs/end-of-data.md` has what this sees.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, loudly and at once"
)]

mod end_of_data;
mod host;
mod peers;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use memchr::memmem;

use end_of_data::mtas::{Mta, PEERS};
use end_of_data::rows::{self, Answer, Play, Row};
use end_of_data::table;
use end_of_data::visit::{self, Heard, Way};
use host::certificates::Certificates;
use host::gate::Gate;
use host::peers::{Peer, present};
use host::sink::Transaction;
use host::wait;
use peers::File;

/// How many sessions at once with each MTA, and with one that has to be heard out.
const SESSIONS: [usize; 2] = [4, 16];

/// How a row is played: with a gate in between or without, and which letter stands for that.
const WAYS: [(bool, Way, char); 6] = [
    (false, Way::Data, 'a'),
    (false, Way::Bdat, 'b'),
    (true, Way::Data, 'c'),
    (true, Way::Tls, 'd'),
    (true, Way::Bdat, 'e'),
    (true, Way::BdatInTwo, 'f'),
];

/// Which of them is BDAT without a gate.
const DIRECT_BDAT: usize = 1;

/// One session, played.
struct Cell {
    row: usize,
    way: usize,
    play: Play,
    heard: Heard,
}

/// What was believed of one session.
struct Belief {
    /// By the client; nothing if it was told something that it could not expect.
    client: Option<usize>,
    /// By the gate, if there was one.
    gate: Option<usize>,
    /// By the MTA.
    mta: Vec<Transaction>,
}

#[test]
fn every_reader_agrees_where_a_message_ends() {
    if !present(&[&PEERS[..], &[Peer::OpenSsl]].concat()) {
        return;
    }
    let certificates = Certificates::make();
    let rows = rows::all();
    let began = Instant::now();
    let mtas = Mta::all();
    println!("all MTAs after {:.1?}", began.elapsed());
    let columns: Vec<(Vec<String>, Vec<String>)> = thread::scope(|scope| {
        let (rows, certificates) = (&rows, &certificates);
        let columns: Vec<_> = mtas.iter().map(|mta| scope.spawn(move || column(mta, rows, certificates))).collect();
        columns.into_iter().map(|column| column.join().expect("a column")).collect()
    });

    let names: Vec<&str> = mtas.iter().map(|mta| mta.name).collect();
    let mut text = format!("| in the mail data | {} |\n|---{}|\n", names.join(" | "), "|---".repeat(names.len()));
    for (at, row) in rows.iter().enumerate() {
        let cells: Vec<&str> = columns.iter().map(|(cells, _)| cells[at].as_str()).collect();
        text.push_str(&format!("| {} | {} |\n", row.name, cells.join(" | ")));
    }
    println!("{text}");
    let faults: Vec<&String> = columns.iter().flat_map(|(_, faults)| faults).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    table::assert_written(&text);
}

/// The column of one MTA, and what is wrong in it.
fn column(mta: &Mta, rows: &[Row], certificates: &Certificates) -> (Vec<String>, Vec<String>) {
    let (chain, key) = (certificates.chain("mx.test"), certificates.key("mx.test"));
    let tls = format!(
        "announce = \"{}\"\n[gate.tls]\nstarttls = \"here\"\ncertificates = [{{ chain = \"{}\", key = \"{}\" }}]",
        mta.announce,
        chain.display(),
        key.display(),
    );
    let gate = File { gate: &tls, ..File::default() }.before(mta.proxied());
    let began = Instant::now();
    let cells = play_all(mta, &gate, rows);
    let played = began.elapsed();
    let beliefs = beliefs(mta, &gate, &cells);
    println!("{}: {} sessions in {played:.1?}, all delivered after {:.1?}", mta.name, cells.len(), began.elapsed());

    let mut faults = Vec::new();
    for (cell, belief) in cells.iter().zip(&beliefs) {
        let (through_the_gate, way, _) = WAYS[cell.way];
        let mut wrong: Vec<String> = Vec::new();
        if through_the_gate {
            wrong.extend(wrong_with(cell, belief));
            wrong.extend((cell.heard.chunking != mta.chunking).then(|| "CHUNKING".to_owned()));
            let wanted = if way.is_chunked() {
                // What it makes of the same in one chunk without a gate.
                let direct = cells.iter().position(|other| (other.row, other.way) == (cell.row, DIRECT_BDAT));
                let [theirs, ours] = [DIRECT_BDAT, cell.way].map(|way| name(cell.row, way));
                direct.and_then(|at| first(&beliefs[at].mta)).map(|data| renamed(data, &theirs, &ours))
            } else {
                rows[cell.row].content(&name(cell.row, cell.way), mta.careless)
            };
            wrong.extend(wrong_content(mta, wanted.as_deref(), first(&belief.mta)));
        }
        let what = (mta.name, &rows[cell.row].name, way);
        faults.extend(wrong.into_iter().map(|wrong| format!("{what:?}: {wrong}; heard {:?}", cell.heard.codes)));
    }
    let texts = (0..rows.len()).map(|row| {
        let found = |way: usize| {
            let at = cells.iter().position(|cell| (cell.row, cell.way) == (row, way));
            at.map(|at| beliefs[at].told())
        };
        told(mta, std::array::from_fn(found))
    });
    (texts.collect(), faults)
}

/// The four characters that name a cell in addresses.
fn name(row: usize, way: usize) -> String {
    format!("{row:03}{}", WAYS[way].2)
}

/// What one cell got, with the name of another.
fn renamed(data: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut renamed = data.to_vec();
    for at in memmem::find_iter(data, from) {
        renamed[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    renamed
}

/// Where its client comes from: no other does. The gate knows it, and lets it speak with the MTA from the start.
fn source(row: usize, way: usize) -> Ipv4Addr {
    let byte = |number: usize| u8::try_from(number).expect("not so many rows");
    Ipv4Addr::new(127, 9, byte(way), byte(row + 1))
}

/// All sessions with one MTA.
fn play_all(mta: &Mta, gate: &Gate, rows: &[Row]) -> Vec<Cell> {
    let (next, cells) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let (row, way) = (number / WAYS.len(), number % WAYS.len());
            let Some(sent) = rows.get(row) else { return };
            let (through_the_gate, by, _) = WAYS[way];
            let cell = name(row, way);
            let play = match by {
                Way::Data | Way::Tls => sent.by_data(&cell, mta.wants_patience, through_the_gate),
                // Without CHUNKING there is one way to be told so, and nothing to compare with.
                Way::Bdat if mta.chunking || through_the_gate => sent.by_bdat(&cell, false),
                Way::BdatInTwo if mta.chunking => sent.by_bdat(&cell, true),
                Way::Bdat | Way::BdatInTwo => None,
            };
            let Some(mut play) = play else { continue };
            if by.is_chunked() && !mta.chunking {
                // 503, and the end, so that the chunk is not taken for commands.
                play.answers = vec![Answer::Class(5)];
            }
            let server = if through_the_gate { gate.smtp() } else { mta.plain() };
            let heard = visit::play(by, source(row, way), server, &play, &cell);
            cells.lock().unwrap_or_else(PoisonError::into_inner).push(Cell { row, way, play, heard });
        }
    };
    thread::scope(|scope| {
        for _ in 0..SESSIONS[usize::from(mta.wants_patience)] {
            scope.spawn(work);
        }
    });
    cells.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What client, gate and MTA believe of each session, once all is over.
fn beliefs(mta: &Mta, gate: &Gate, cells: &[Cell]) -> Vec<Belief> {
    let through_the_gate = cells.iter().filter(|cell| WAYS[cell.way].0).count();
    let journal = wait::until("all visits in the journal", || {
        let journal = gate.journal();
        (journal.len() >= through_the_gate).then_some(journal)
    });
    let mut accepted: HashMap<String, usize> = HashMap::new();
    for record in &journal {
        let client = record["client"].as_str().expect("an address").to_owned();
        let number = usize::try_from(record["accepted"].as_u64().expect("a number")).expect("a small one");
        assert!(accepted.insert(client, number).is_none(), "one visit each: {record}");
    }
    let metric = gate.metric("gatepost_messages_accepted_total", &[]).unwrap_or_default();
    assert_eq!(metric as usize, accepted.values().sum::<usize>(), "what is counted is what is journalled");

    let mut delivered: HashMap<String, Vec<Transaction>> = HashMap::new();
    for transaction in mta.delivered() {
        let cell = transaction.from.split(['.', '@']).nth(1).unwrap_or_default().to_owned();
        delivered.entry(cell).or_default().push(transaction);
    }
    let belief = |cell: &Cell| Belief {
        client: cell.heard.accepted(&cell.play.answers),
        gate: WAYS[cell.way].0.then(|| accepted[&source(cell.row, cell.way).to_string()]),
        mta: delivered.remove(&name(cell.row, cell.way)).unwrap_or_default(),
    };
    let beliefs: Vec<Belief> = cells.iter().map(belief).collect();
    assert!(delivered.is_empty(), "{} delivered what nobody sent: {delivered:#?}", mta.name);
    beliefs
}

impl Belief {
    /// The number, if all have the same, and all numbers if not.
    fn told(&self) -> String {
        let all = [self.client, self.gate, Some(self.mta.len())];
        match self.gate {
            None => self.mta.len().to_string(),
            Some(gate) if all == [Some(gate); 3] => gate.to_string(),
            Some(_) => all.map(|number| number.map_or("?".to_owned(), |number| number.to_string())).join("/"),
        }
    }
}

/// What is wrong with what was believed of a session through the gate.
fn wrong_with(cell: &Cell, belief: &Belief) -> Vec<String> {
    let mut wrong = Vec::new();
    let delivered = belief.mta.len();
    if (belief.client, belief.gate) != (Some(delivered), Some(delivered)) {
        wrong.push(format!("they disagree, {}", belief.told()));
    }
    if belief.mta.iter().any(|one| one.from.contains("smuggled")) {
        wrong.push("smuggled".to_owned());
    }
    let messages = cell.play.answers.iter().filter(|&&answer| answer == Answer::Verdict).count();
    let refused = cell.heard.codes.iter().zip(&cell.play.answers);
    let refused = refused.filter(|&(&code, &answer)| answer == Answer::Verdict && code != 250).count();
    if delivered + refused != messages {
        wrong.push(format!("{messages} messages were sent, {delivered} delivered, {refused} refused"));
    }
    wrong
}

/// The first message of a session, if it was delivered.
fn first(delivered: &[Transaction]) -> Option<&[u8]> {
    delivered.iter().find(|one| one.from.starts_with("<first.")).map(|one| &one.data[..])
}

fn wrong_content(mta: &Mta, wanted: Option<&[u8]>, found: Option<&[u8]>) -> Option<String> {
    // Where there is no header, an MTA makes one.
    let (wanted, found) = (body(wanted?)?, body(found?)?);
    let same = wanted == found || mta.careless && wanted.strip_suffix(b"\r\n") == Some(found);
    (!same).then(|| format!("the message was\n{}\nand not\n{}", found.escape_ascii(), wanted.escape_ascii()))
}

fn body(message: &[u8]) -> Option<&[u8]> {
    memmem::find(message, b"\r\n\r\n").map(|end| &message[end + 4..])
}

/// A cell of the table.
fn told(mta: &Mta, [data, bdat, via_data, via_tls, via_bdat, via_two]: [Option<String>; 6]) -> String {
    let both = |one: Option<String>, two: Option<String>| match (one, two) {
        (Some(one), Some(two)) if one != two => Some(format!("{one} or {two}")),
        (one, two) => one.or(two),
    };
    let via_bdat = if mta.chunking { both(via_bdat, via_two) } else { via_bdat.filter(|told| told != "0") };
    let text = |told: Option<String>| told.unwrap_or_else(|| "–".to_owned());
    format!("{} {} → {} {} {}", text(data), text(bdat), text(via_data), text(via_tls), text(via_bdat))
}
