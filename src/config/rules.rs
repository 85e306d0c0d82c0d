//! `[tests]`: what each test leads to, by scene, by the file, by the gate.

use std::net::IpAddr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::inspection::{Inspection, Wrong};
use super::table::Table;
use super::values::{boolean, choice, expected, span, text};
use crate::screen::helo::{BadPattern, Bots, Names};
use crate::screen::{Action, PerTest, Rule, Test};
use crate::session::Scene;
use crate::smtp::path::{Name, name};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a file says of one test.
#[derive(Debug, Default)]
struct RuleEntry {
    action: Option<Spanned<Action>>,
    ttl: Option<Spanned<Duration>>,
}

/// What a file says of the tests, in one place.
#[derive(Debug, Default)]
pub(super) struct TestsEntry {
    rules: PerTest<RuleEntry>,
    bots: Option<Spanned<Vec<Spanned<String>>>>,
    own: Option<Spanned<Vec<Spanned<Own>>>>,
}

/// One of our own names or addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Own {
    Name(String),
    Address(IpAddr),
}

/// What decides over a gate's rules besides the file.
pub(super) struct Circumstances {
    /// What the gate is for.
    pub(super) scene: Scene,
    /// Whether AUTH is offered, so that trying it cannot be held against anyone.
    pub(super) auth: bool,
    /// Whether there are lists to ask.
    pub(super) lists: bool,
    /// Whether TLS comes first, so that speaking first is right.
    pub(super) tls_first: bool,
}

impl TestsEntry {
    /// Reads the keys of `[tests]` or `[gate.tests]`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let mut entry = Self::default();
        for test in Test::ALL {
            match test {
                Test::HeloName | Test::HeloSyntax => {}
                _ => entry.rules[test] = read_rule(table, test, test.name()),
            }
        }
        table.section("helo", |helo| {
            entry.rules[Test::HeloName] = read_rule(helo, Test::HeloName, "names");
            entry.rules[Test::HeloSyntax] = read_rule(helo, Test::HeloSyntax, "syntax");
            entry.bots = helo.list("bots", pattern);
            entry.own = helo.list("own", own);
        });
        entry
    }

    /// The rules of a gate: its own entry goes before the file's (`above`), and that before the scene's defaults.
    ///
    /// The file's `[tests]` turn nothing on that the scene leaves off: what is meant for port 25 would hurt the people
    /// on 587. For that it takes the gate's own entry.
    pub(super) fn rules(&self, above: &Self, given: &Circumstances, inspection: &Inspection) -> PerTest<Rule> {
        let mut rules = default_rules(given.scene);
        for test in Test::ALL {
            let (default, own, file) = (rules[test], &self.rules[test], &above.rules[test]);
            let file_action = file.action.as_ref().filter(|_| default.action != Action::Off);
            let action = own.action.as_ref().or(file_action).map_or(default.action, |action| *action.get_ref());
            let ttl = own.ttl.as_ref().or(file.ttl.as_ref()).map_or(default.ttl, |ttl| *ttl.get_ref());
            let action = if able(test, given) { action } else { Action::Off };
            rules[test] = Rule { action, ttl };
            self.judge(test, rules[test], given, inspection);
        }
        rules
    }

    /// Which names give a client away at a gate.
    pub(super) fn names(&self, above: &Self, hostname: &str, addresses: Vec<IpAddr>, inspection: &Inspection) -> Names {
        let mut names = Names { own: vec![hostname.to_owned()], own_addresses: addresses, ..Names::default() };
        for own in [&above.own, &self.own].into_iter().flatten().flat_map(Spanned::get_ref) {
            match own.get_ref() {
                Own::Name(name) if !names.own.contains(name) => names.own.push(name.clone()),
                Own::Address(ip) if !names.own_addresses.contains(ip) => names.own_addresses.push(*ip),
                _ => {}
            }
        }
        let entries = [&above.bots, &self.bots].into_iter().flatten();
        let patterns = entries.clone().flat_map(Spanned::get_ref).map(|pattern| pattern.get_ref().clone()).collect();
        match Bots::shipped().with(patterns) {
            Ok(bots) => names.bots = bots,
            Err(reason) => {
                let span = entries.clone().next_back().map(Spanned::span).unwrap_or_default();
                inspection.error(span, bad_pattern(&reason));
            }
        }
        names
    }

    /// Warns of what the file's own entry says in vain, given what became of it at all gates.
    pub(super) fn judge_file(&self, gates: &[(Scene, PerTest<Rule>)], inspection: &Inspection) {
        if gates.is_empty() {
            return;
        }
        for test in Test::ALL {
            let everywhere_off = gates.iter().all(|(_, rules)| rules[test].action == Action::Off);
            let entry = &self.rules[test];
            match (&entry.action, &entry.ttl) {
                (Some(action), _) if everywhere_off && *action.get_ref() != Action::Off => {
                    let left_off = gates.iter().any(|&(scene, _)| default_rules(scene)[test].action == Action::Off);
                    let remedy = match test {
                        _ if left_off => {
                            "a submission gate leaves this test off; to make it there all the same, say so in that gate's [gate.tests]"
                        }
                        Test::Dnsbl => "name some lists in [dnsbl] sites, or take this out",
                        _ => "AUTH is offered at every gate: take this out",
                    };
                    warn_of_no_effect(inspection, action.span(), test, remedy);
                }
                (_, Some(ttl)) if everywhere_off => {
                    warn_of_no_effect(inspection, ttl.span(), test, "no gate makes the test: take the ttl out");
                }
                _ => {}
            }
        }
        self.judge_names(|test| gates.iter().any(|(_, rules)| rules[test].action != Action::Off), inspection);
    }

    fn judge(&self, test: Test, rule: Rule, given: &Circumstances, inspection: &Inspection) {
        let entry = &self.rules[test];
        if let Some(action) = &entry.action {
            let asked = *action.get_ref();
            if given.scene != Scene::Mx && test == Test::HeloSyntax && asked > Action::Observe {
                let cause = "nobody is punished for the syntax of an EHLO name on a submission gate";
                let remedy = "write \"observe\" or \"off\": mail programs call themselves `localhost`, `[192.168.1.2]` or \
                              `My Computer` and mean no harm";
                inspection.error(action.span(), Wrong::new(cause, remedy));
            }
            if asked != Action::Off && rule.action == Action::Off {
                let remedy = match test {
                    Test::Dnsbl => "name some lists in [dnsbl] sites, or take this out",
                    Test::Pregreet => "TLS comes first at this gate, and with it the client's word: take this out",
                    _ => "AUTH is offered at this gate, so that trying it says nothing: take this out",
                };
                warn_of_no_effect(inspection, action.span(), test, remedy);
            }
        }
        if let Some(ttl) = entry.ttl.as_ref().filter(|_| rule.action == Action::Off) {
            warn_of_no_effect(inspection, ttl.span(), test, "the test is off: take the ttl out, or give it an action");
        }
    }

    /// Warns of names that no test looks for.
    fn judge_names(&self, made: impl Fn(Test) -> bool, inspection: &Inspection) {
        if made(Test::HeloName) {
            return;
        }
        let spans = [self.bots.as_ref().map(Spanned::span), self.own.as_ref().map(Spanned::span)];
        for span in spans.into_iter().flatten() {
            warn_of_no_effect(
                inspection,
                span,
                Test::HeloName,
                "`helo.names` is off: take the names out, or turn it on",
            );
        }
    }

    /// Warns of names in a gate's own entry that its rules do not look for.
    pub(super) fn judge_gate(&self, rules: &PerTest<Rule>, inspection: &Inspection) {
        self.judge_names(|test| rules[test].action != Action::Off, inspection);
    }
}

/// What a gate does unless the file says otherwise.
fn default_rules(scene: Scene) -> PerTest<Rule> {
    PerTest::new(Test::ALL.map(|test| Rule { action: default_action(scene, test), ttl: default_ttl(test) }))
}

fn default_action(scene: Scene, test: Test) -> Action {
    match (scene, test) {
        (_, Test::NotSmtp) => Action::Drop,
        (Scene::Submission | Scene::Submissions, _) => Action::Off,
        (Scene::Mx, Test::Pregreet | Test::HeloName) => Action::Drop,
        (Scene::Mx, Test::BareNewline) => Action::Observe,
        (Scene::Mx, Test::Dnsbl | Test::HeloSyntax | Test::Pipelining | Test::AuthNotOffered) => Action::Enforce,
    }
}

fn default_ttl(test: Test) -> Duration {
    match test {
        Test::Dnsbl => Duration::from_secs(60 * 60),
        Test::Pregreet => DAY,
        Test::HeloName | Test::HeloSyntax => DAY * 7,
        Test::Pipelining | Test::NotSmtp | Test::BareNewline | Test::AuthNotOffered => DAY * 30,
    }
}

/// Whether a test can be made at all.
fn able(test: Test, given: &Circumstances) -> bool {
    match test {
        Test::Dnsbl => given.lists,
        Test::AuthNotOffered => !given.auth,
        Test::Pregreet => !given.tls_first,
        _ => true,
    }
}

fn read_rule(table: &mut Table<'_>, test: Test, key: &'static str) -> RuleEntry {
    let inspection = table.inspection();
    table.short_or_section(key, action, |rule, short| {
        let action = rule.value("action", action).or(short);
        if test != Test::Dnsbl {
            return RuleEntry { action, ttl: rule.value("ttl", span(Duration::from_secs(1)..=DAY * 3650)) };
        }
        if let Some(ttl) = rule.value("ttl", |value| text(value).map(str::to_owned)) {
            let remedy = "the lists' own TTLs decide: see `min_ttl` and `max_ttl` in [dnsbl]";
            warn_of_no_effect(inspection, ttl.span(), test, remedy);
        }
        RuleEntry { action, ttl: None }
    })
}

fn action(value: &DeValue<'_>) -> Result<Action, Wrong> {
    const WORDS: &[(&str, Action)] =
        &[("off", Action::Off), ("observe", Action::Observe), ("enforce", Action::Enforce), ("drop", Action::Drop)];
    const ELSEWHERE: &[(&str, &str)] = &[
        ("ignore", "observe"),
        ("log", "observe"),
        ("none", "off"),
        ("no", "off"),
        ("reject", "enforce"),
        ("refuse", "enforce"),
        ("block", "enforce"),
        ("deny", "drop"),
        ("close", "drop"),
    ];
    match boolean(value) {
        Ok(false) => Err(expected("an action", value, "write \"off\"")),
        Ok(true) => Err(expected("an action", value, "write \"observe\", \"enforce\" or \"drop\"")),
        Err(_) => choice(WORDS, ELSEWHERE)(value),
    }
}

fn pattern(value: &DeValue<'_>) -> Result<String, Wrong> {
    let pattern = text(value)?;
    Bots::check(pattern).map(|()| pattern.to_owned()).map_err(|wrong| bad_pattern(&wrong))
}

/// What is wrong with patterns; they tell the remedy behind the last colon.
fn bad_pattern(wrong: &BadPattern) -> Wrong {
    let text = wrong.to_string();
    let (cause, remedy) = text.rsplit_once(": ").unwrap_or((&text, "mend or shorten the patterns"));
    Wrong::new(cause, remedy)
}

fn own(value: &DeValue<'_>) -> Result<Own, Wrong> {
    let text = text(value)?;
    match name(text.as_bytes()) {
        Name::BareAddress(ip) | Name::Literal(ip) => Ok(Own::Address(ip)),
        Name::Domain(name) => Ok(Own::Name(name.to_ascii_lowercase())),
        Name::SingleLabel(name) => {
            let remedy = format!("write the full name, such as \"{name}.example.org\"");
            Err(Wrong::new(format!("{text:?} could be anybody's name"), remedy))
        }
        _ => {
            let remedy = "write a name or an address of this host: \"mail.example.org\", \"192.0.2.25\"";
            Err(Wrong::new(format!("{text:?} is neither a name nor an address"), remedy))
        }
    }
}

fn warn_of_no_effect(inspection: &Inspection, span: std::ops::Range<usize>, test: Test, remedy: &str) {
    inspection.warning(span, Wrong::new(format!("this has no effect on the test {}", test.name()), remedy));
}
