//! All findings, and how they are shown: to a person, grouped and marked, or to a program, as one JSON document.

use std::fmt::Write;

use serde_json::{Value, json};

use super::finding::{Fault, Finding, Findings, Level};

/// What an examination came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// In the order of the file; what concerns the whole host comes last.
    pub sections: Vec<Section>,
}

/// What was found at one gate, or of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// The gate's name; none for what concerns them all.
    pub gate: Option<String>,
    /// What it is, for a person.
    pub title: String,
    /// What was found.
    pub findings: Findings,
}

impl Report {
    /// All findings.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.sections.iter().flat_map(|section| &section.findings.0)
    }

    /// The worst that is to be mended; none if there is no problem.
    pub fn fault(&self) -> Option<Fault> {
        let faults = self.findings().filter_map(|finding| match finding.level {
            Level::Problem(fault) => Some(fault),
            Level::Fine | Level::Note | Level::Warning => None,
        });
        faults.max()
    }

    /// For a person; in colours if wanted.
    pub fn text(&self, coloured: bool) -> String {
        let mut out = String::new();
        for section in &self.sections {
            let _ = writeln!(out, "{}", section.title);
            for finding in &section.findings.0 {
                let mark = mark(finding.level, coloured);
                let _ = writeln!(out, "  {mark} {}: {}", finding.topic.name(), finding.what);
                if !finding.remedy.is_empty() {
                    let _ = writeln!(out, "          → {}", finding.remedy);
                }
            }
            out.push('\n');
        }
        let _ = writeln!(out, "{}", self.tally());
        out
    }

    /// For a program: `sections` as they are shown, and `problems`, `warnings` and `notes` counted. The document has
    /// one line.
    pub fn json(&self) -> Value {
        let section = |section: &Section| {
            let findings: Vec<Value> = section.findings.0.iter().map(finding).collect();
            json!({ "gate": section.gate, "title": section.title, "findings": findings })
        };
        json!({
            "problems": self.count("problem"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "sections": self.sections.iter().map(section).collect::<Vec<_>>(),
        })
    }

    fn count(&self, level: &str) -> usize {
        self.findings().filter(|finding| finding.level.name() == level).count()
    }

    fn tally(&self) -> String {
        let counted = |word: &str| match self.count(word) {
            1 => format!("1 {word}"),
            count => format!("{count} {word}s"),
        };
        match (self.count("problem"), self.count("warning")) {
            (0, 0) => "Nothing is wrong.".to_owned(),
            (0, _) => format!("No problem; {}.", counted("warning")),
            (_, 0) => format!("{}.", counted("problem")),
            _ => format!("{}, {}.", counted("problem"), counted("warning")),
        }
    }
}

fn finding(finding: &Finding) -> Value {
    json!({
        "level": finding.level.name(),
        "topic": finding.topic.name(),
        "what": finding.what,
        "remedy": finding.remedy,
    })
}

/// The level's word, as wide as the widest.
fn mark(level: Level, coloured: bool) -> String {
    let word = format!("{:<7}", level.name());
    let colour = match level {
        Level::Fine => "32",
        Level::Note => "36",
        Level::Warning => "33",
        Level::Problem(_) => "1;31",
    };
    if coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Topic;

    fn report(add: impl FnOnce(&mut Findings)) -> Report {
        let mut findings = Findings::default();
        add(&mut findings);
        let section = Section { gate: Some("mx".to_owned()), title: "gate mx".to_owned(), findings };
        Report { sections: vec![section] }
    }

    #[test]
    fn a_person_sees_a_mark_and_a_remedy() {
        let report = report(|found| {
            found.fine(Topic::Backend, "it is there");
            found.warn(Topic::Tls, "it ends soon", "renew it");
            found.wrong(Topic::Relay, "open", "close it");
        });
        let text = "gate mx\n  ok      backend: it is there\n  warning tls: it ends soon\n          → renew it\n  \
                    problem relay: open\n          → close it\n\n1 problem, 1 warning.\n";
        assert_eq!(report.text(false), text);
        assert!(report.text(true).contains("\x1b[1;31mproblem\x1b[0m relay"));
        assert!(!report.text(false).contains('\x1b'));
    }

    #[test]
    fn a_program_reads_one_document() {
        let report = report(|found| found.away(Topic::Backend, "gone \u{1b}", "start it"));
        let expected = json!({
            "problems": 1, "warnings": 0, "notes": 0,
            "sections": [{ "gate": "mx", "title": "gate mx", "findings": [
                { "level": "problem", "topic": "backend", "what": "gone \u{1b}", "remedy": "start it" },
            ]}],
        });
        assert_eq!(report.json(), expected);
        assert!(!report.json().to_string().contains(['\n', '\x1b']));
    }

    #[test]
    fn the_worst_fault_counts() {
        assert_eq!(report(|found| found.warn(Topic::Tls, "", "")).fault(), None);
        assert_eq!(report(|found| found.away(Topic::Tls, "", "")).fault(), Some(Fault::Away));
        let both = report(|found| {
            found.wrong(Topic::Relay, "", "");
            found.away(Topic::Backend, "", "");
        });
        assert_eq!(both.fault(), Some(Fault::Setup));
        assert_eq!(report(|_| ()).text(false), "gate mx\n\nNothing is wrong.\n");
    }
}
