//! The screen: what a client's behaviour amounts to. Pure: values and `now` in, values out; no sockets, no clock, no log.
//!
//! What was seen is [`Evidence`], what it means for a test is whether the test is still [due](Screen::due) or failed, and
//! what we do about all of it is a [`Verdict`]. The action (off, observe, enforce, drop) is applied in one function for
//! all tests.
//!
//! `Screen::open(settings, standing, now)`, `.observe(evidence, now)`, `.close(now)` is the whole of it, driven by the
//! daemon's stages and by whoever wants to know what would have happened.

pub mod early;
pub mod evidence;
pub mod helo;
pub mod not_smtp;
pub mod score;
pub mod standing;
pub mod test;

use std::sync::Arc;
use std::time::Duration;

use crate::time::Timestamp;

pub use evidence::{Early, Evidence};
pub use score::{Score, Site};
pub use standing::Standing;
pub use test::{Action, PerTest, Rule, Test, Tests};

/// Everything an operator can say of the screen, for one gate.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Turns every action into [`Action::Observe`].
    pub observe: bool,
    /// What each test leads to, and how long a pass of it counts.
    pub rules: PerTest<Rule>,
    /// How strangers are made to wait.
    pub greet: Greet,
    /// When a DNSBL score counts.
    pub thresholds: Thresholds,
    /// Which names give a client away.
    pub names: helo::Names,
}

/// How strangers are made to wait for the greeting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greet {
    /// The least a stranger waits while [`Test::Pregreet`] is due.
    pub minimum: Duration,
    /// The most it waits, for the lists to answer.
    pub maximum: Duration,
    /// The most that it waits, for either, while the house is under stress.
    pub stress: Duration,
    /// The text of the line `220-` that is sent at once; none is sent if there is none.
    pub teaser: Option<String>,
}

impl Greet {
    /// The least and the most that a stranger waits who comes under `stress`, or not.
    pub fn waits(&self, stress: bool) -> (Duration, Duration) {
        let most = if stress { self.stress } else { Duration::MAX };
        (self.minimum.min(most), self.maximum.min(most))
    }
}

/// When a DNSBL score counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thresholds {
    /// From this score on a client fails [`Test::Dnsbl`]; 1 or more.
    pub block: i32,
    /// At this score and below, a client that has failed nothing passes every test, and need not wait; below 0.
    pub allow: Option<i32>,
    /// The least and the most that a pass is remembered, whatever the TTLs of the answers.
    pub ttl: (Duration, Duration),
}

impl Settings {
    /// The tests that a client of this `standing` has to pass: those that are not off, and whose last pass no longer counts.
    pub fn due(&self, standing: &Standing, now: Timestamp) -> Tests {
        let mut due = Tests::NONE;
        for test in Test::ALL {
            if self.action(test) != Action::Off && !standing.holds(test, now) {
                due.insert(test);
            }
        }
        due
    }

    /// What a failure of `test` leads to, the global `observe` applied.
    pub fn action(&self, test: Test) -> Action {
        match self.rules[test].action {
            Action::Off => Action::Off,
            _ if self.observe => Action::Observe,
            action => action,
        }
    }
}

/// What we do about all that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing counts against it: hand it off.
    Pass,
    /// This test failed: refuse every recipient.
    Enforce(Test),
    /// This test failed: one reply, and close.
    Drop(Test),
}

impl Verdict {
    fn severity(self) -> Action {
        match self {
            Self::Pass => Action::Observe,
            Self::Enforce(_) => Action::Enforce,
            Self::Drop(_) => Action::Drop,
        }
    }
}

/// What the greet wait still waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// [`Greet::minimum`] to pass: speaking early could still change the verdict.
    pub minimum: bool,
    /// The lists to answer: what is outstanding could still change the verdict.
    pub lists: bool,
}

impl Wait {
    /// Whether it is over.
    pub fn is_over(self) -> bool {
        !self.minimum && !self.lists
    }
}

/// What a screening has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conclusion {
    /// What to do.
    pub verdict: Verdict,
    /// What to remember. Unchanged tests keep what they had.
    pub standing: Standing,
    /// The tests whose earlier passes are taken back.
    pub failed: Tests,
}

/// One client being screened.
///
/// ```text
///            open ──► due tests ──observe──► failed, or still due ──close──► Conclusion
///                         │                        │
///                         └── none due: known      └── Drop: the moment it is seen
/// ```
#[derive(Clone, Debug)]
pub struct Screen {
    settings: Arc<Settings>,
    standing: Standing,
    due: Tests,
    failed: Tests,
    score: Score,
    waited: bool,
    verdict: Verdict,
    seen: Vec<Evidence>,
}

impl Screen {
    /// Begins: due are the tests that [`Settings::due`] says.
    pub fn open(settings: Arc<Settings>, standing: Standing, now: Timestamp) -> Self {
        let due = settings.due(&standing, now);
        Self {
            settings,
            standing,
            due,
            failed: Tests::NONE,
            score: Score::default(),
            waited: false,
            verdict: Verdict::Pass,
            seen: Vec::new(),
        }
    }

    /// The tests that have been neither passed lately nor failed now.
    pub fn due(&self) -> Tests {
        self.due.minus(self.failed)
    }

    /// The tests that have been failed.
    pub fn failed(&self) -> Tests {
        self.failed
    }

    /// Whether any test is due that needs a dialogue with gatepost.
    pub fn needs_dialogue(&self) -> bool {
        let deep = self.due.iter().any(|test| !test.is_early());
        !self.is_vouched_for() && (deep || self.verdict != Verdict::Pass)
    }

    /// What it failed them by: the first evidence in each.
    pub fn seen(&self) -> &[Evidence] {
        &self.seen
    }

    /// The settings it is screened by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the lists have said.
    pub fn score(&self) -> Score {
        self.score
    }

    /// What would be done now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes something in that was seen. The answer is the verdict where it is to be carried out at once: a drop.
    ///
    /// Evidence counts against a test that is on even where an earlier pass still counted: it takes the pass back.
    pub fn observe(&mut self, evidence: Evidence) -> Option<Verdict> {
        if let Evidence::Listed(score) = evidence {
            self.score = score;
            if score.least < self.settings.thresholds.block {
                return None;
            }
        }
        self.fail(evidence)
    }

    /// [`Greet::minimum`] has passed.
    pub fn waited(&mut self) {
        self.waited = true;
    }

    /// What the greet wait still waits for. Nothing that cannot change the verdict is waited for.
    pub fn wait(&self) -> Wait {
        if self.is_vouched_for() {
            return Wait { minimum: false, lists: false };
        }
        let block = self.settings.thresholds.block;
        let undecided = self.score.outstanding > 0 && self.score.least < block && self.score.most >= block;
        Wait {
            minimum: !self.waited && self.could_change(Test::Pregreet),
            lists: undecided && self.could_change(Test::Dnsbl),
        }
    }

    /// Ends the greet wait: answers that are still outstanding count for nothing, those that came count as they are.
    pub fn stop_waiting(&mut self) -> Option<Verdict> {
        self.waited = true;
        if self.score.total >= self.settings.thresholds.block { self.fail(Evidence::Listed(self.score)) } else { None }
    }

    /// Ends at the point of decision: what was due and has not failed is passed, and remembered for its time.
    pub fn close(&self, now: Timestamp) -> Conclusion {
        self.conclude(now, true)
    }

    /// Ends before the point of decision: the client has left. Only what was seen to its end is passed.
    pub fn abandon(&self, now: Timestamp) -> Conclusion {
        self.conclude(now, false)
    }

    fn conclude(&self, now: Timestamp, decided: bool) -> Conclusion {
        let vouched = self.is_vouched_for();
        let mut standing = self.standing;
        for test in self.failed.iter() {
            standing.fail(test);
        }
        for test in self.due().iter() {
            let ttl = match test {
                _ if vouched => self.list_ttl(),
                Test::Pregreet if !self.waited => continue,
                // A pass on half the answers holds for this visit only.
                Test::Dnsbl if self.score.outstanding > 0 => continue,
                Test::Dnsbl => self.list_ttl(),
                _ if !decided && !test.is_early() => continue,
                _ => self.settings.rules[test].ttl,
            };
            standing.pass(test, now.plus(ttl));
        }
        Conclusion { verdict: self.verdict, standing, failed: self.failed }
    }

    /// Whether the lists vouch for the client, it has failed nothing, and nothing outstanding can turn that round.
    fn is_vouched_for(&self) -> bool {
        let Thresholds { block, allow, .. } = self.settings.thresholds;
        self.failed.is_empty()
            && self.due.has(Test::Dnsbl)
            && allow.is_some_and(|allow| self.score.total <= allow && self.score.most < block)
    }

    fn list_ttl(&self) -> Duration {
        let (least, most) = self.settings.thresholds.ttl;
        self.score.pass_ttl.unwrap_or(least).clamp(least, most.max(least))
    }

    /// Whether the outcome of `test`, which is still open, could change the verdict.
    fn could_change(&self, test: Test) -> bool {
        let nothing_yet = self.verdict == Verdict::Pass;
        self.due().has(test) && (nothing_yet || self.settings.action(test) > self.verdict.severity())
    }

    /// The one place where an action is applied.
    fn fail(&mut self, evidence: Evidence) -> Option<Verdict> {
        let test = evidence.test();
        let action = self.settings.action(test);
        if action != Action::Off && !self.failed.has(test) {
            self.failed.insert(test);
            self.seen.push(evidence);
        }
        match action {
            Action::Off | Action::Observe => None,
            Action::Enforce => {
                if self.verdict == Verdict::Pass {
                    self.verdict = Verdict::Enforce(test);
                }
                None
            }
            Action::Drop => {
                if !matches!(self.verdict, Verdict::Drop(_)) {
                    self.verdict = Verdict::Drop(test);
                }
                Some(self.verdict)
            }
        }
    }
}
