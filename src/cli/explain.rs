//! `gatepost explain ADDRESS`: what would happen to a client that came now, and why.
//!
//! Asks the lists now, past everything that a running gatepost remembers, and puts the answers before the same screen. What
//! the client did on earlier visits, and what it would say on this one, is not known here.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::{self, ClientKey};
use crate::clock::Clock;
use crate::config::Config;
use crate::dnsbl::{self, Dnsbl, Finding};
use crate::policy::access::Access;
use crate::screen::{Action, Evidence, Score, Screen, Standing, Test, Verdict};
use crate::session;

/// The explanation, in lines for a person.
pub(super) async fn explain(address: IpAddr, config: &Config) -> Result<String, dnsbl::Error> {
    let client = addr::canonical(address);
    let mut out = String::new();
    let _ = writeln!(out, "{client} (counted as {})", ClientKey::of(client).network());
    let tested = config.gates.iter().any(|gate| gate.access.look_up(client) == Access::Test);
    let lists = match &config.dnsbl {
        Some(settings) if tested => Some(Dnsbl::open(settings.clone())?.examine(client).await),
        _ => None,
    };
    if let Some(findings) = &lists {
        tell_lists(&mut out, findings);
    }
    for gate in &config.gates {
        tell_gate(&mut out, gate, client, lists.as_deref());
    }
    Ok(out)
}

fn tell_lists(out: &mut String, findings: &[Finding]) {
    let _ = writeln!(out, "\nDNS lists, asked now:");
    let width = findings.iter().map(|finding| finding.display.chars().count()).max().unwrap_or(0);
    for finding in findings {
        let answers: Vec<String> = finding.answers.iter().map(ToString::to_string).collect();
        let said = match &finding.error {
            Some(error) => format!("no answer that counts: {error}"),
            None if let Some(doubt) = &finding.doubt => format!("not believed: {doubt}"),
            None if finding.counted => format!("listed ({}): {:+}", answers.join(", "), finding.weight),
            None if answers.is_empty() => "not listed".to_owned(),
            None => format!("answers {}, which its filter does not count", answers.join(", ")),
        };
        let _ = writeln!(out, "  {:<width$}  {said}  [{} ms]", finding.display, finding.took.as_millis());
    }
}

fn tell_gate(out: &mut String, gate: &session::Settings, client: IpAddr, lists: Option<&[Finding]>) {
    let _ = writeln!(out, "\ngate {} (backend {}):", gate.name, gate.backend.address);
    match gate.access.look_up(client) {
        Access::Allow => {
            let _ = writeln!(out, "  on the access list, allowed: handed to the backend at once, untested");
        }
        Access::Deny => {
            let _ = writeln!(out, "  on the access list, denied: 521 and closed at once");
        }
        Access::Test => tell_tests(out, gate, lists),
    }
}

fn tell_tests(out: &mut String, gate: &session::Settings, lists: Option<&[Finding]>) {
    let now = Clock::system().now();
    let mut screen = Screen::open(Arc::clone(&gate.screen), Standing::stranger(), now);
    if screen.due().is_empty() {
        let _ = writeln!(out, "  no test is on: handed to the backend at once");
        return;
    }
    let score = score(lists.unwrap_or_default());
    let thresholds = &gate.screen.thresholds;
    if screen.due().has(Test::Dnsbl) && lists.is_some() {
        screen.observe(Evidence::Listed(score));
        let _ = writeln!(out, "  DNSBL score {}, refused from {} on", score.total, thresholds.block);
    }
    let greet = &gate.screen.greet;
    let _ = match screen.verdict() {
        Verdict::Drop(test) => writeln!(out, "  dropped with 521, for it fails {}", test.name()),
        Verdict::Enforce(test) => {
            writeln!(out, "  every recipient is refused with 550, for it fails {}", test.name())
        }
        Verdict::Pass if !screen.needs_dialogue() && !screen.wait().minimum => {
            writeln!(out, "  the lists vouch for it: handed to the backend without a wait")
        }
        Verdict::Pass => {
            if screen.failed().is_empty() {
                let _ = writeln!(out, "  nothing is held against it so far");
            } else {
                let failed: Vec<&str> = screen.failed().iter().map(Test::name).collect();
                let _ = writeln!(out, "  it fails {}, which is only observed here", failed.join(", "));
            }
            if screen.due().has(Test::Pregreet) {
                writeln!(out, "  as a stranger it waits {:?} for the greeting", greet.minimum)
            } else {
                Ok(())
            }
        }
    };
    if screen.verdict() == Verdict::Pass {
        let rest: Vec<String> = screen
            .due()
            .iter()
            .filter(|&test| test != Test::Dnsbl)
            .map(|test| format!("{} ({})", test.name(), action(gate.screen.action(test))))
            .collect();
        if !rest.is_empty() {
            let _ = writeln!(out, "  then it has to pass, by what it does: {}", rest.join(", "));
        }
    }
    if gate.screen.observe {
        let _ = writeln!(out, "  observe = true: whatever it fails is journalled, and nothing more");
    }
}

fn action(action: Action) -> &'static str {
    crate::journal::action_name(action)
}

/// The sum of what counts.
fn score(findings: &[Finding]) -> Score {
    let total = findings.iter().filter(|finding| finding.counted).map(|finding| finding.weight).sum();
    Score { total, least: total, most: total, ..Score::default() }
}
