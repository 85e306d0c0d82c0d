//! The screen's decisions: standing, evidence, settings, now → verdict, new standing. Each row is a sentence of the README.

use std::sync::Arc;
use std::time::Duration;

use gatepost::screen::helo::Names;
use gatepost::screen::{
    Action, Early, Evidence, Greet, PerTest, Rule, Score, Screen, Settings, Standing, Test, Thresholds, Verdict,
};
use gatepost::smtp::command::Verb;
use gatepost::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The defaults of an mx gate.
fn mx() -> Settings {
    let rule = |action, ttl| Rule { action, ttl };
    Settings {
        observe: false,
        rules: PerTest::new([
            rule(Action::Drop, DAY),
            rule(Action::Enforce, HOUR),
            rule(Action::Drop, 30 * DAY),
            rule(Action::Enforce, 30 * DAY),
            rule(Action::Enforce, 30 * DAY),
            rule(Action::Drop, 30 * DAY),
            rule(Action::Observe, 30 * DAY),
            rule(Action::Enforce, 30 * DAY),
        ]),
        greet: Greet {
            minimum: Duration::from_secs(3),
            maximum: Duration::from_secs(6),
            stress: Duration::from_secs(2),
            teaser: None,
        },
        thresholds: Thresholds { block: 3, allow: Some(-2), ttl: (Duration::from_secs(60), HOUR) },
        names: Names::default(),
    }
}

fn score(total: i32, least: i32, most: i32, outstanding: u16) -> Evidence {
    Evidence::Listed(Score { total, least, most, outstanding, worst: None, pass_ttl: Some(10 * HOUR / 20) })
}

fn open(settings: Settings, standing: Standing) -> Screen {
    Screen::open(Arc::new(settings), standing, NOW)
}

fn passed(tests: &[Test], until: Timestamp) -> Standing {
    let mut standing = Standing::stranger();
    for &test in tests {
        standing.pass(test, until);
    }
    standing
}

#[test]
fn a_stranger_is_tested_in_everything_that_is_not_off() {
    let mut settings = mx();
    settings.rules[Test::BareNewline].action = Action::Off;
    let screen = open(settings, Standing::stranger());
    let due: Vec<Test> = screen.due().iter().collect();
    assert_eq!(due.len(), 7);
    assert!(!due.contains(&Test::BareNewline));
    assert!(screen.needs_dialogue());
}

#[test]
fn a_client_that_passed_every_test_lately_is_known() {
    let screen = open(mx(), passed(&Test::ALL, NOW.plus(Duration::from_secs(1))));
    assert!(screen.due().is_empty());
    let screen = open(mx(), passed(&Test::ALL, NOW));
    assert_eq!(screen.due().iter().count(), Test::COUNT, "a pass ends with its second");
}

#[test]
fn a_client_whose_early_tests_alone_have_expired_needs_no_dialogue() {
    let deep: Vec<Test> = Test::ALL.into_iter().filter(|test| !test.is_early()).collect();
    let mut screen = open(mx(), passed(&deep, NOW.plus(DAY)));
    assert!(!screen.needs_dialogue());
    assert!(screen.wait().minimum);
    screen.observe(score(0, 0, 0, 0));
    screen.waited();
    assert!(screen.wait().is_over());
    let conclusion = screen.close(NOW);
    assert_eq!(conclusion.verdict, Verdict::Pass);
    assert!(conclusion.standing.holds(Test::Pregreet, NOW.plus(DAY - Duration::from_secs(1))));
}

#[test]
fn evidence_leads_to_what_the_operator_says_and_to_nothing_while_he_observes() {
    let evidence = [
        (Evidence::SpokeEarly(Early::Smtp), Test::Pregreet),
        (score(3, 3, 3, 0), Test::Dnsbl),
        (Evidence::Pipelined(Verb::Ehlo), Test::Pipelining),
        (Evidence::BareNewline, Test::BareNewline),
        (Evidence::TriedAuth, Test::AuthNotOffered),
    ];
    for (seen, test) in evidence {
        for (action, observe, at_once, at_the_end) in [
            (Action::Drop, false, Some(Verdict::Drop(test)), Verdict::Drop(test)),
            (Action::Enforce, false, None, Verdict::Enforce(test)),
            (Action::Observe, false, None, Verdict::Pass),
            (Action::Off, false, None, Verdict::Pass),
            (Action::Drop, true, None, Verdict::Pass),
            (Action::Enforce, true, None, Verdict::Pass),
        ] {
            let mut settings = mx();
            settings.observe = observe;
            settings.rules[test].action = action;
            let mut screen = open(settings, passed(&[test], NOW.plus(DAY)));
            assert_eq!(screen.observe(seen), at_once, "{seen:?} {action:?} observe={observe}");
            let conclusion = screen.close(NOW);
            assert_eq!(conclusion.verdict, at_the_end, "{seen:?} {action:?} observe={observe}");
            let noted = screen.seen() == [seen];
            assert_eq!(noted, action != Action::Off, "what is seen is journalled unless the test is off");
            assert_eq!(conclusion.standing.holds(test, NOW), action == Action::Off, "a failure takes an old pass back");
        }
    }
}

#[test]
fn a_drop_outweighs_a_refusal_and_the_first_refusal_is_the_reason() {
    let mut screen = open(mx(), Standing::stranger());
    assert_eq!(screen.observe(score(5, 5, 5, 0)), None);
    assert_eq!(screen.observe(Evidence::TriedAuth), None);
    assert_eq!(screen.verdict(), Verdict::Enforce(Test::Dnsbl));
    assert_eq!(screen.observe(Evidence::SpokeEarly(Early::Tls)), Some(Verdict::Drop(Test::Pregreet)));
    assert_eq!(screen.verdict(), Verdict::Drop(Test::Pregreet));
}

#[test]
fn the_wait_ends_as_soon_as_no_answer_can_change_the_verdict() {
    let rows: [(&str, Evidence, bool, bool); 7] = [
        ("nothing is in yet", score(0, -2, 5, 3), true, true),
        ("clean, and nothing outstanding", score(0, 0, 0, 0), true, false),
        ("clean, and what is outstanding cannot reach the threshold", score(0, -1, 2, 1), true, false),
        (
            "listed beyond what is outstanding could take back: but speaking early would still be a drop",
            score(6, 4, 6, 1),
            true,
            false,
        ),
        ("listed, and an allow list could still take it back", score(3, 1, 3, 1), true, true),
        ("vouched for, and nothing outstanding can turn it round", score(-2, -2, 0, 1), false, false),
        ("vouched for, but a block list could still turn it round", score(-2, -2, 4, 1), true, true),
    ];
    for (name, seen, minimum, lists) in rows {
        let mut screen = open(mx(), Standing::stranger());
        screen.observe(seen);
        let wait = screen.wait();
        assert_eq!((wait.minimum, wait.lists), (minimum, lists), "{name}");
        screen.waited();
        assert!(!screen.wait().minimum, "{name}");
    }
}

#[test]
fn a_refusal_that_nothing_can_worsen_is_not_waited_for() {
    let mut settings = mx();
    settings.rules[Test::Pregreet].action = Action::Enforce;
    let mut screen = open(settings, Standing::stranger());
    screen.observe(score(5, 5, 5, 0));
    assert!(screen.wait().is_over());
}

#[test]
fn at_the_end_of_the_wait_the_answers_that_came_count_and_only_whole_ones_are_remembered() {
    let mut screen = open(mx(), Standing::stranger());
    screen.observe(score(3, 1, 3, 1));
    assert_eq!(screen.verdict(), Verdict::Pass);
    screen.stop_waiting();
    assert_eq!(screen.verdict(), Verdict::Enforce(Test::Dnsbl));

    let mut screen = open(mx(), Standing::stranger());
    screen.observe(score(1, 1, 4, 1));
    screen.stop_waiting();
    let conclusion = screen.close(NOW);
    assert_eq!(conclusion.verdict, Verdict::Pass);
    assert!(!conclusion.standing.holds(Test::Dnsbl, NOW), "half an answer is not remembered");
    assert!(conclusion.standing.holds(Test::Pregreet, NOW));
}

#[test]
fn a_client_that_the_lists_vouch_for_passes_everything_for_as_long_as_they_say() {
    let mut screen = open(mx(), Standing::stranger());
    screen.observe(score(-2, -2, -2, 0));
    assert!(!screen.needs_dialogue());
    let conclusion = screen.close(NOW);
    for test in Test::ALL {
        assert!(conclusion.standing.holds(test, NOW.plus(HOUR / 2 - Duration::from_secs(1))), "{test:?}");
        assert!(!conclusion.standing.holds(test, NOW.plus(HOUR)), "{test:?}");
    }
    let mut failed = open(mx(), Standing::stranger());
    failed.observe(Evidence::BareNewline);
    failed.observe(score(-2, -2, -2, 0));
    assert!(failed.needs_dialogue(), "who has failed something is not vouched for");
}

#[test]
fn a_pass_of_the_lists_is_clamped_and_the_others_have_their_own_time() {
    for (ttl, held) in [(Some(Duration::from_secs(1)), 60), (Some(90 * DAY), 3600), (None, 60)] {
        let mut screen = open(mx(), Standing::stranger());
        screen.observe(Evidence::Listed(Score { pass_ttl: ttl, ..Score::default() }));
        screen.waited();
        let standing = screen.close(NOW).standing;
        assert_eq!(standing.until(Test::Dnsbl), NOW.plus(Duration::from_secs(held)));
        assert_eq!(standing.until(Test::Pregreet), NOW.plus(DAY));
        assert_eq!(standing.until(Test::Pipelining), NOW.plus(30 * DAY));
    }
}

#[test]
fn who_leaves_early_has_passed_only_what_was_seen_to_its_end() {
    let mut screen = open(mx(), Standing::stranger());
    assert_eq!(screen.abandon(NOW).standing.expires(), NOW.plus(Duration::from_secs(60)), "the lists: none was asked");
    screen.observe(score(0, 0, 3, 1));
    assert_eq!(screen.abandon(NOW).standing, Standing::stranger());
    screen.observe(score(0, 0, 0, 0));
    screen.waited();
    let standing = screen.abandon(NOW).standing;
    for test in Test::ALL {
        assert_eq!(standing.holds(test, NOW), test.is_early(), "{test:?}");
    }
}

#[test]
fn a_standing_keeps_the_longer_pass() {
    let mut standing = passed(&[Test::Pregreet], NOW.plus(DAY));
    standing.pass(Test::Pregreet, NOW.plus(HOUR));
    assert_eq!(standing.until(Test::Pregreet), NOW.plus(DAY));
    assert_eq!(standing.expires(), NOW.plus(DAY));
    standing.fail(Test::Pregreet);
    assert!(!standing.holds(Test::Pregreet, NOW));
}
