//! A visit as one line of JSON, in the schema of `docs/journal.md`.
//!
//! Written by hand, straight into the buffer that goes to the disk: tens of thousands of bots a second are dismissed, and
//! each leaves one of these. No field costs an allocation. What cannot be there (a name before HELO) is left out.

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;

use crate::addr;
use crate::tls::Facts;

use super::text::{self, DETAIL_CAP, HELO_CAP, PATH_CAP};
use super::{Visit, action_name};

/// The schema's version. It changes when a key goes or changes its meaning, not when one is added.
const VERSION: u32 = 1;

/// The most forward-paths that a record names.
const TO_CAP: usize = 5;

/// The most findings that a record names: each test once, and room for what was seen twice.
const FINDINGS_CAP: usize = 16;

/// The most lists that a record names.
const LISTS_CAP: usize = 32;

/// The most characters of a name of the operator's: a gate, a list.
const NAME_CAP: usize = 100;

/// No record is longer, in bytes: that follows from the caps.
pub(super) const LONGEST: usize = 48 << 10;

/// Writes the record of `visit`, with its line feed, at the end of `out`.
pub(super) fn write(out: &mut Vec<u8>, visit: &Visit) {
    let mut line = Line { out };
    line.put(format_args!("{{\"v\":{VERSION},\"ts\":\""));
    line.moment(visit.begin.millis());
    line.raw("\",\"visit\":\"");
    line.out.extend_from_slice(&visit.id.symbols());
    line.raw("\"");
    line.text("gate", visit.gate.as_bytes(), NAME_CAP, false);
    line.put(format_args!(",\"client\":\"{}\"", addr::canonical(visit.client.ip())));
    line.number("port", visit.client.port());
    line.socket("local", visit.local);
    if let Some(proxy) = visit.proxy {
        line.socket("proxy", proxy);
    }
    line.word("recognition", visit.recognition.name());
    line.word("stage", visit.stage.name());
    line.word("outcome", visit.outcome.name());
    if let Some(action) = visit.action() {
        line.word("action", action_name(action));
    }
    line.findings(visit);
    if let Some(score) = visit.score {
        line.number("score", score.total);
    }
    line.list("lists", visit.lists.iter().take(LISTS_CAP).map(|name| name.as_bytes()), NAME_CAP, false);
    if let Some(helo) = &visit.helo {
        line.text("helo", helo, HELO_CAP, true);
    }
    if let Some(from) = &visit.from {
        line.text("from", from, PATH_CAP, true);
    }
    line.list("to", visit.to.iter().take(TO_CAP).map(|path| &**path), PATH_CAP, true);
    if let Some(tls) = &visit.tls {
        line.tls(tls);
    }
    line.number("backend", visit.backend);
    line.number("accepted", visit.accepted);
    line.number("auth_ok", visit.auth.0);
    line.number("auth_failed", visit.auth.1);
    line.number("bytes_in", visit.bytes.0);
    line.number("bytes_out", visit.bytes.1);
    line.number("duration_ms", visit.duration.as_millis());
    if let Some(note) = &visit.note {
        line.text("note", note.as_bytes(), DETAIL_CAP, false);
    }
    line.raw("}\n");
}

/// The line that is being written.
struct Line<'a> {
    out: &'a mut Vec<u8>,
}

impl Line<'_> {
    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // A Vec takes everything.
        let _ = self.out.write_fmt(text);
    }

    fn key(&mut self, key: &str) {
        self.raw(",\"");
        self.raw(key);
        self.raw("\":");
    }

    /// A number, or true or false.
    fn number(&mut self, key: &str, value: impl Display) {
        self.key(key);
        self.put(format_args!("{value}"));
    }

    /// An address and a port.
    fn socket(&mut self, key: &str, socket: SocketAddr) {
        let socket = SocketAddr::new(addr::canonical(socket.ip()), socket.port());
        self.key(key);
        self.put(format_args!("\"{socket}\""));
    }

    /// One of our own words.
    fn word(&mut self, key: &str, word: &str) {
        self.key(key);
        self.raw("\"");
        self.raw(word);
        self.raw("\"");
    }

    fn text(&mut self, key: &str, bytes: &[u8], cap: usize, wire: bool) {
        self.key(key);
        self.string(bytes, cap, wire);
    }

    /// Left out if it is empty.
    fn list<'a>(&mut self, key: &str, items: impl Iterator<Item = &'a [u8]>, cap: usize, wire: bool) {
        let mut items = items.peekable();
        if items.peek().is_none() {
            return;
        }
        self.key(key);
        let mut before = "[";
        for item in items {
            self.raw(before);
            self.string(item, cap, wire);
            before = ",";
        }
        self.raw("]");
    }

    fn findings(&mut self, visit: &Visit) {
        let mut before = ",\"tests\":[";
        for finding in visit.findings.iter().take(FINDINGS_CAP) {
            self.raw(before);
            self.put(format_args!("{{\"test\":\"{}\"", finding.test.name()));
            self.word("action", action_name(finding.action));
            self.text("detail", finding.detail.as_bytes(), DETAIL_CAP, false);
            self.raw("}");
            before = ",";
        }
        if !visit.findings.is_empty() {
            self.raw("]");
        }
    }

    fn tls(&mut self, tls: &Facts) {
        self.raw(",\"tls\":{\"version\":\"");
        self.raw(tls.version);
        self.raw("\"");
        self.word("cipher", tls.cipher);
        self.word("group", tls.group);
        if let Some(sni) = &tls.sni {
            self.text("sni", sni.as_bytes(), HELO_CAP, true);
        }
        self.number("certificate", tls.certificate);
        self.raw("}");
    }

    /// A JSON string. What [`text::pieces`] gives holds no controls, so that quotes and backslashes are all there is to
    /// escape (RFC 8259 §7).
    fn string(&mut self, bytes: &[u8], cap: usize, wire: bool) {
        self.raw("\"");
        text::pieces(bytes, cap, wire, |piece| {
            let mut rest = piece.as_bytes();
            while let Some((plain, tail)) = memchr::memchr2(b'"', b'\\', rest).and_then(|at| rest.split_at_checked(at))
                && let Some((&special, tail)) = tail.split_first()
            {
                self.out.extend_from_slice(plain);
                self.out.extend_from_slice(&[b'\\', special]);
                rest = tail;
            }
            self.out.extend_from_slice(rest);
        });
        self.raw("\"");
    }

    /// RFC 3339, UTC, milliseconds.
    fn moment(&mut self, millis: u64) {
        const PRINTER: jiff::fmt::temporal::DateTimePrinter =
            jiff::fmt::temporal::DateTimePrinter::new().precision(Some(3));
        let moment = i64::try_from(millis).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        let _ = PRINTER.print_timestamp(&moment.unwrap_or(jiff::Timestamp::MAX), &mut *self.out);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::tests::{dropped, relayed};
    use super::super::{Finding, VisitId};
    use super::*;
    use crate::screen::{Action, Score, Test};
    use crate::time::Timestamp;

    fn line(visit: &Visit) -> String {
        let mut out = Vec::new();
        write(&mut out, visit);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn tls_that_ended_here() {
        let facts = Facts {
            version: "TLSv1.3",
            cipher: "TLS_AES_256_GCM_SHA384",
            group: "X25519MLKEM768",
            sni: Some("mx.example.org".into()),
            certificate: false,
        };
        let record: Value = serde_json::from_str(&line(&Visit { tls: Some(facts), ..relayed() })).unwrap();
        let tls = serde_json::json!({
            "version": "TLSv1.3",
            "cipher": "TLS_AES_256_GCM_SHA384",
            "group": "X25519MLKEM768",
            "sni": "mx.example.org",
            "certificate": false,
        });
        assert_eq!(record["tls"], tls);
    }

    #[test]
    fn a_bot_that_was_dropped() {
        assert_eq!(
            line(&dropped()),
            "{\"v\":1,\"ts\":\"2023-11-14T22:13:20.123Z\",\"visit\":\"HMASW-9NF6Y\",\"gate\":\"mx\",\
             \"client\":\"192.0.2.7\",\"port\":51234,\"local\":\"198.51.100.25:25\",\"recognition\":\"stranger\",\
             \"stage\":\"pregreet\",\"outcome\":\"dropped\",\"action\":\"drop\",\
             \"tests\":[{\"test\":\"pregreet\",\"action\":\"drop\",\"detail\":\"smtp\"}],\
             \"backend\":false,\"accepted\":0,\"auth_ok\":0,\"auth_failed\":0,\"bytes_in\":0,\"bytes_out\":0,\
             \"duration_ms\":1234}\n"
        );
    }

    #[test]
    fn the_examples_of_the_schema_are_what_is_written() {
        let schema = include_str!("../../docs/journal.md");
        assert!(schema.contains(line(&dropped()).trim_end()));
        let examples: Vec<Value> = schema
            .lines()
            .filter(|line| line.starts_with("{\"v\""))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let mut visit = relayed();
        (visit.findings, visit.score, visit.lists, visit.note) =
            (dropped().findings, Some(Score::default()), vec![Arc::from("list.example")], Some("note".into()));
        visit.proxy = Some("10.0.0.5:33000".parse().unwrap());
        let all: Value = serde_json::from_str(&line(&visit)).unwrap();
        for key in all.as_object().unwrap().keys() {
            assert!(schema.contains(&format!("`{key}`")), "{key} is not explained");
        }
        assert_eq!(examples.len(), 2);
    }

    #[test]
    fn an_honest_host_that_was_relayed() {
        let mut visit = relayed();
        visit.client = "[::ffff:192.0.2.7]:51234".parse().unwrap();
        visit.local = "[2001:db8::25]:25".parse().unwrap();
        visit.proxy = Some("[::ffff:10.0.0.5]:33000".parse().unwrap());
        visit.score = Some(Score { total: -2, ..Score::default() });
        visit.lists = vec![Arc::from("list.example")];
        visit.note = Some("the client closed first".into());
        let line = line(&visit);
        let json: Value = serde_json::from_str(&line).unwrap();
        for (key, value) in [
            ("client", Value::from("192.0.2.7")),
            ("local", Value::from("[2001:db8::25]:25")),
            ("proxy", Value::from("10.0.0.5:33000")),
            ("recognition", Value::from("remembered")),
            ("score", Value::from(-2)),
            ("lists", Value::from(vec!["list.example"])),
            ("helo", Value::from("mail.example.org")),
            ("from", Value::from("")),
            ("to", Value::from(vec!["postmaster@example.com"])),
            ("backend", Value::from(true)),
            ("accepted", Value::from(1)),
            ("auth_ok", Value::from(1)),
            ("auth_failed", Value::from(2)),
            ("bytes_in", Value::from(5000)),
            ("bytes_out", Value::from(400)),
            ("note", Value::from("the client closed first")),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
        assert!(json.get("action").is_none() && json.get("tests").is_none());
    }

    #[test]
    fn a_record_has_a_longest_length() {
        let mut visit = relayed();
        // Four bytes a character is the most that there is: an escape takes two at the most for each of its own.
        let flood = "\u{1F600}".repeat(10_000);
        let wire: Box<[u8]> = flood.as_bytes().into();
        visit.gate = flood.as_str().into();
        visit.helo = Some(wire.clone());
        visit.from = Some(wire.clone());
        visit.to = vec![wire; 1000];
        visit.lists = vec![Arc::from(flood.as_str()); 1000];
        visit.note = Some(flood.clone());
        visit.findings = vec![Finding { test: Test::AuthNotOffered, action: Action::Observe, detail: flood }; 1000];
        let line = line(&visit);
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["to"].as_array().unwrap().len(), TO_CAP);
        assert_eq!(json["tests"].as_array().unwrap().len(), FINDINGS_CAP);
        assert!(line.len() <= LONGEST && line.len() > LONGEST / 2, "{}", line.len());
    }

    #[test]
    fn the_end_of_time_is_written_too() {
        let visit = Visit { begin: Timestamp::from_millis(u64::MAX), ..dropped() };
        assert!(
            serde_json::from_str::<Value>(&line(&visit)).unwrap()["ts"].as_str().unwrap().starts_with("9999-12-30T")
        );
    }

    proptest! {
        #[test]
        fn whatever_a_peer_sends_is_one_line_of_json(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            text in ".{0,200}",
            millis in 0u64..253_402_000_000_000,
            id: u64,
        ) {
            let mut visit = relayed();
            (visit.id, visit.begin) = (VisitId(id), Timestamp::from_millis(millis));
            (visit.helo, visit.from) = (Some(bytes.clone().into()), Some(bytes.clone().into()));
            visit.to = vec![bytes.into()];
            visit.note = Some(text.clone());
            visit.findings = vec![Finding { test: Test::HeloName, action: Action::Enforce, detail: text }];
            let line = line(&visit);
            let body = line.strip_suffix('\n').unwrap();
            prop_assert!(!body.chars().any(char::is_control));
            let json: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(json["ts"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond(), millis as i64);
            prop_assert_eq!(json["to"][0].as_str(), json["from"].as_str());
        }
    }
}
