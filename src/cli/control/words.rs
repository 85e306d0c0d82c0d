//! Answers in words, for people at a terminal.
//!
//! What comes from the wire is escaped already where it is kept; what is unfit for a terminal all the same is shown as `?`.

use std::fmt::Write;

use serde_json::Value;

use crate::control::answer::{Counts, Explanation, Lifted, Ruling, Rulings, Status};
use crate::time::format_span;

/// The most that is shown of a text in a table.
const CELL: usize = 60;

pub(super) fn status(status: &Status) -> String {
    let mut out = String::new();
    let ready = if status.ready { "takes mail".to_owned() } else { status.hindrances.join(", ") };
    let _ = writeln!(out, "gatepost {} (pid {}), up {}: {ready}", status.version, status.pid, span(status.uptime));
    let stress = if status.stress { "; STRESS: strangers are hurried" } else { "" };
    let _ =
        writeln!(out, "sessions  {} open, {} of them wait for their greeting{stress}", status.sessions, status.parked);
    let mut rows =
        vec![["gate", "listens at", "backend", "is", "parked", "dialogue", "relay"].map(str::to_owned).to_vec()];
    for gate in &status.gates {
        let counts = [gate.parked, gate.dialogue, gate.relay].map(|count| count.to_string());
        let mut row = vec![gate.name.clone(), gate.listen.join(" "), gate.backend.clone(), gate.presence.clone()];
        row.extend(counts);
        rows.push(row);
    }
    let _ = writeln!(out, "decided   {} bans, {} allowances", status.decisions.ban, status.decisions.allow);
    let entries: Vec<String> = status.ledger.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let _ = writeln!(out, "remembers {}", entries.join(", "));
    if status.journal_lost > 0 {
        let _ = writeln!(out, "journal   {} records were LOST", status.journal_lost);
    }
    for (part, told) in &status.parts {
        let _ = writeln!(out, "{part:<9} {}", value(told));
    }
    out.push('\n');
    out.push_str(&table(&rows));
    out
}

pub(super) fn rulings(rulings: &Rulings) -> String {
    if rulings.bans.is_empty() {
        return format!("{}\n", if rulings.total == 0 { "nobody" } else { "no more" });
    }
    let mut rows =
        vec![["network", "what", "reason", "left", "level", "knocks", "who", "evidence"].map(str::to_owned).to_vec()];
    for ruling in &rulings.bans {
        rows.push(vec![
            ruling.network.clone(),
            ruling.what.clone(),
            ruling.reason.clone(),
            left(ruling),
            ruling.level.to_string(),
            ruling.knocks.to_string(),
            ruling.who.clone(),
            ruling.evidence.clone(),
        ]);
    }
    let mut out = table(&rows);
    if rulings.total > rulings.bans.len() as u64 {
        let _ = writeln!(out, "{} of {}; see --limit and --offset", rulings.bans.len(), rulings.total);
    }
    out
}

pub(super) fn ruled(ruling: &Ruling) -> String {
    let does = if ruling.what == "ban" { "is banned" } else { "is allowed" };
    let until = match &ruling.until {
        Some(until) => format!("until {until}"),
        None => "for ever".to_owned(),
    };
    format!("{} {does} {until}, from its next connection on\n", ruling.network)
}

pub(super) fn lifted(lifted: &Lifted) -> String {
    let mut out = String::new();
    if lifted.lifted.is_empty() {
        let _ = writeln!(out, "nothing was decided of {}; what was counted of it is forgotten", lifted.network);
    }
    for ruling in &lifted.lifted {
        let _ =
            writeln!(out, "lifted: the {} of {} ({}, by {})", ruling.what, ruling.network, ruling.reason, ruling.who);
    }
    for ruling in &lifted.still {
        let _ = writeln!(
            out,
            "{} is STILL BANNED with {} ({}, by {}, {}); to lift that too: gatepost unban {}",
            lifted.network,
            ruling.network,
            ruling.reason,
            ruling.who,
            ends(ruling),
            ruling.network
        );
    }
    out
}

pub(super) fn explanation(explanation: &Explanation) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "remembered of {} (as {}):", explanation.address, explanation.client);
    match &explanation.decision {
        Some(ruling) => decision(&mut out, ruling),
        None => out.push_str("  no ban and no allowance\n"),
    }
    for ruling in explanation.decisions.iter().filter(|ruling| Some(*ruling) != explanation.decision.as_ref()) {
        let _ = writeln!(out, "  besides: {} of {} ({}, {})", ruling.what, ruling.network, ruling.reason, ends(ruling));
    }
    for gate in explanation.access.iter().filter(|gate| gate.access != "test") {
        let _ = writeln!(out, "  access list of gate {}: {}", gate.gate, gate.access);
    }
    if let Some(list) = &explanation.list {
        let _ = writeln!(out, "  on the imported list {}: shut out", plain(list));
    }
    match &explanation.tally {
        Some(counts) => tally(&mut out, counts),
        None => out.push_str("  no failures are counted\n"),
    }
    if explanation.standing.is_empty() {
        out.push_str("  it has passed no test: a stranger\n");
    }
    for passed in &explanation.standing {
        let holds = if passed.holds { "passed, until" } else { "passed once; that ended at" };
        let _ = writeln!(out, "  {}: {holds} {}", passed.test, passed.until);
    }
    if !explanation.visits.is_empty() {
        out.push_str("  last visits:\n");
    }
    for visit in &explanation.visits {
        let _ = writeln!(out, "    {}", line(visit));
    }
    out.push('\n');
    out
}

fn decision(out: &mut String, ruling: &Ruling) {
    let what = match ruling.what.as_str() {
        "ban" => "BANNED",
        _ => "allowed",
    };
    let _ = writeln!(out, "  {what} with {}: {}, {}", ruling.network, ruling.reason, ends(ruling));
    let level = if ruling.level > 0 { format!(", ban number {}", ruling.level) } else { String::new() };
    let times = if ruling.count > 0 { format!(", counted {}", ruling.count) } else { String::new() };
    let _ = writeln!(out, "    since {}, by {}{times}{level}, {} knocks", ruling.begin, ruling.who, ruling.knocks);
    if !ruling.evidence.is_empty() {
        let _ = writeln!(out, "    evidence: {}", plain(&ruling.evidence));
    }
    let _ = writeln!(out, "    to lift it: gatepost unban {}", ruling.network);
}

fn tally(out: &mut String, counts: &Counts) {
    let last = counts.last_failure.as_ref().map(|at| format!(" (the last at {at})")).unwrap_or_default();
    let _ = writeln!(
        out,
        "  failed AUTH: {} of late{last}, {} over days, for {} accounts; AUTH where it is not offered: {}",
        counts.failures, counts.slow, counts.accounts, counts.not_offered
    );
    if let Some(until) = counts.banned_until.as_ref().filter(|_| counts.level > 0) {
        let _ = writeln!(out, "  on the ladder of bans: step {}, the last one until {until}", counts.level);
    }
    if let Some(until) = &counts.known_until {
        let _ = writeln!(out, "  somebody has logged in from it: more patience until {until}");
    }
    let _ = writeln!(out, "  all of this is forgotten at {}", counts.forgotten);
}

/// A visit's record in words.
pub(super) fn visit(record: &Value) -> String {
    let text = |key: &str| record.get(key).map(value).unwrap_or_default();
    let mut out = String::new();
    let _ = writeln!(out, "visit {} at {} (gate {})", text("visit"), text("ts"), text("gate"));
    let proxy = if record.get("proxy").is_some() { format!(", announced by {}", text("proxy")) } else { String::new() };
    let _ = writeln!(out, "  client    {} port {}, to {}{proxy}", text("client"), text("port"), text("local"));
    let _ = writeln!(out, "  was       {}", text("recognition"));
    let acted = if record.get("action").is_some() { format!(" ({})", text("action")) } else { String::new() };
    let stays = record.get("duration_ms").and_then(Value::as_u64).unwrap_or(0);
    let _ = writeln!(out, "  ended     {}{acted} at stage {}, after {stays} ms", text("outcome"), text("stage"));
    for finding in record.get("tests").and_then(Value::as_array).into_iter().flatten() {
        let of = |key: &str| finding.get(key).map(value).unwrap_or_default();
        let _ = writeln!(out, "  failed    {} ({}): {}", of("test"), of("action"), of("detail"));
    }
    for (key, name) in [
        ("score", "score"),
        ("lists", "lists"),
        ("helo", "HELO"),
        ("from", "from"),
        ("to", "to"),
        ("tls", "TLS"),
        ("accepted", "messages"),
        ("auth_failed", "AUTH fails"),
        ("note", "note"),
    ] {
        let told = record.get(key).filter(|told| told.as_u64() != Some(0));
        if let Some(told) = told {
            let _ = writeln!(out, "  {name:<9} {}", value(told));
        }
    }
    let met =
        if record.get("backend") == Some(&Value::Bool(true)) { "it was connected to" } else { "it was never touched" };
    let _ = writeln!(out, "  MTA       {met}");
    let _ = writeln!(out, "  more      gatepost explain {}", text("client"));
    out
}

/// A visit's record in a line.
fn line(record: &Value) -> String {
    let text = |key: &str| record.get(key).map(value).unwrap_or_default();
    let failed: Vec<String> = record
        .get("tests")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|finding| Some(plain(finding.get("test")?.as_str()?)))
        .collect();
    let failed = if failed.is_empty() { String::new() } else { format!(", failed {}", failed.join(", ")) };
    format!(
        "{} {} gate {}: {} ({}){failed}",
        text("ts"),
        text("visit"),
        text("gate"),
        text("outcome"),
        text("recognition")
    )
}

fn ends(ruling: &Ruling) -> String {
    match (&ruling.until, ruling.remaining) {
        (Some(until), Some(seconds)) => format!("until {until}, {} left", span(seconds)),
        _ => "for ever".to_owned(),
    }
}

fn left(ruling: &Ruling) -> String {
    ruling.remaining.map_or_else(|| "for ever".to_owned(), span)
}

/// Two units at the most: 3d 4h, 12m 5s.
fn span(seconds: u64) -> String {
    let units = [(86_400, 3600), (3600, 60), (60, 1)];
    let (large, small) = units.into_iter().find(|(large, _)| seconds >= *large).unwrap_or((1, 1));
    let whole = |seconds| format_span(std::time::Duration::from_secs(seconds));
    let (first, second) = (seconds / large * large, seconds % large / small * small);
    let first = match large {
        86_400 => format!("{}d", seconds / large),
        _ => whole(first),
    };
    if second == 0 { first } else { format!("{first} {}", whole(second)) }
}

/// A JSON value as a person would write it.
fn value(told: &Value) -> String {
    match told {
        Value::String(text) => plain(text),
        Value::Array(items) => items.iter().map(value).collect::<Vec<_>>().join(", "),
        Value::Object(pairs) => {
            pairs.iter().map(|(key, told)| format!("{} {}", plain(key), value(told))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Rows under a head, the columns as wide as they need to be; the last one is not filled up.
fn table(rows: &[Vec<String>]) -> String {
    let cell = |text: &str| {
        let text = plain(text);
        if text.chars().count() <= CELL { text } else { text.chars().take(CELL - 1).chain(['…']).collect() }
    };
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_have_two_units_at_the_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (725, "12m 5s"),
            (3600, "1h"),
            (7_300, "2h 1m"),
            (86_400 * 8 + 3700, "8d 1h"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn a_visit_is_told_in_words() {
        let record = json!({
            "visit": "7K2MQ-9XV4T", "ts": "2023-11-14T22:13:20.123Z", "gate": "mx", "client": "192.0.2.7", "port": 25,
            "local": "198.51.100.25:25", "recognition": "stranger", "stage": "pregreet", "outcome": "dropped",
            "action": "drop", "tests": [{"test": "pregreet", "action": "drop", "detail": "smtp\u{1b}[2J"}],
            "backend": false, "accepted": 0, "duration_ms": 1234,
        });
        let text = visit(&record);
        for words in ["visit 7K2MQ-9XV4T", "failed    pregreet (drop): smtp?[2J", "never touched", "explain 192.0.2.7"]
        {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
