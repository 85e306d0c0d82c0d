//! What is decided at run time, by whom, and whom it concerns.

use std::net::IpAddr;

use super::*;
use crate::ledger::decisions::Decided;
use crate::ledger::shared::{Mirror, Overdue};
use crate::policy::ban::{Decision, Reason, What};
use crate::policy::guard::Sentence;
use crate::session::Afar;
use crate::session::attend::{put_out, stay};
use crate::session::rulings::Ruling;

const CLIENT: &str = "192.0.2.7";

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

fn ban(begin: Timestamp, seconds: u64) -> Decision {
    Decision {
        what: What::Ban,
        reason: Reason::Failures,
        count: 5,
        level: 1,
        begin,
        until: Some(begin.plus(Duration::from_secs(seconds))),
        who: "mx2".into(),
        evidence: "".into(),
    }
}

fn sentence(seconds: u64) -> Sentence {
    let until = u32::try_from(later(seconds).seconds()).unwrap();
    Sentence { reason: Reason::Failures, count: 5, level: 1, until }
}

fn post() -> Post {
    Post::new(settings(nobody()))
}

/// A post at whose gate nothing is done but observing.
fn observing() -> Post {
    let mut settings = settings(nobody());
    screened(&mut settings, |screen| screen.observe = true);
    Post::new(settings)
}

impl Post {
    fn is_banned(&self, client: &str) -> bool {
        let client: IpAddr = client.parse().unwrap();
        matches!(self.house.ruling(&self.gate, client, self.house.clock.now()), Ruling::Banned(_))
    }

    fn gates_are_known(&self) {
        self.house.set_gates(&[Arc::clone(&self.gate)], Vec::new());
    }

    /// Other hosts, as the shared store tells of them.
    fn afar(&self) -> Afar {
        let afar = Afar::default();
        afar.reaches(&self.house);
        afar
    }

    fn ban(&self, network: &str) {
        self.house.ban(network.parse().unwrap(), Some(HOUR), "anna", "").unwrap();
    }
}

#[test]
fn an_operators_word_counts_though_another_clock_is_ahead() {
    let (post, network) = (post(), format!("{CLIENT}/32").parse().unwrap());
    post.afar().decision(network, ban(later(3000), 600));
    assert!(post.is_banned(CLIENT));
    assert_eq!(post.house.lift(network, "anna").len(), 1);
    assert!(!post.is_banned(CLIENT), "it was unbanned");
    // What it does from now on counts again.
    post.house.overdue(Overdue::Client(crate::addr::ClientKey::of(CLIENT.parse().unwrap()), sentence(600)));
    assert!(post.is_banned(CLIENT));
    // Two words of one moment: the second.
    assert!(post.house.allow(network, None, "anna", "").is_ok());
    assert!(!post.is_banned(CLIENT));
    post.ban("192.0.2.7/32");
    assert!(post.is_banned(CLIENT));
}

#[test]
fn what_is_over_is_not_taken_from_afar() {
    let (post, network) = (post(), format!("{CLIENT}/32").parse().unwrap());
    post.afar().decision(network, ban(NOW, 0));
    assert!(post.house.ledger.decisions().get(network).is_none());
    post.afar().decision(network, ban(NOW, 1));
    assert!(post.is_banned(CLIENT));
}

#[test]
fn whoever_is_allowed_at_run_time_is_not_banned_for_what_it_did_before() {
    let post = post();
    post.house.allow("192.0.2.0/28".parse().unwrap(), None, "anna", "").unwrap();
    post.house.overdue(Overdue::Client(crate::addr::ClientKey::of(CLIENT.parse().unwrap()), sentence(600)));
    assert!(post.house.ledger.decisions().get(format!("{CLIENT}/32").parse().unwrap()).is_none());
}

#[test]
fn where_all_is_only_observed_nobody_is_banned_for_what_others_count() {
    let (post, other) = (observing(), post());
    for (post, is_banned) in [(&post, false), (&other, true)] {
        post.gates_are_known();
        let client = crate::addr::ClientKey::of(CLIENT.parse().unwrap());
        post.house.overdue(Overdue::Client(client, sentence(600)));
        assert_eq!(post.house.ledger.decisions().get(client.network()).is_some(), is_banned);
    }
}

#[test]
fn an_operators_ban_counts_while_observing_though_another_lasts_longer() {
    let post = observing();
    let longer = post.house.rule("192.0.2.0/24".parse().unwrap(), ban(NOW, 90_000));
    assert!(matches!(longer, Decided::InForce(_)));
    assert!(!post.is_banned(CLIENT));
    post.ban("192.0.2.7/32");
    assert!(post.is_banned(CLIENT) && !post.is_banned("192.0.2.8"));
}

#[tokio::test]
async fn those_are_put_out_who_are_banned_and_not_their_neighbours() {
    let post = post();
    let guest = post.guest("[2001:db8::7]:4000");
    let mut inside = stay(&post.house, &guest);
    let mut leaving = Box::pin(put_out(&post.house, &guest, &mut inside, None));
    let mut is_over = async || timeout(Duration::from_millis(20), &mut leaving).await.is_ok();
    assert!(!is_over().await);
    post.ban("2001:db8::8/128");
    assert!(!is_over().await, "another of its /64");
    post.ban("2001:db8::7/128");
    assert!(is_over().await);
}

#[tokio::test]
async fn nobody_is_put_out_where_all_is_only_observed() {
    let post = observing();
    let guest = post.guest("192.0.2.7:4000");
    let mut inside = stay(&post.house, &guest);
    let mut leaving = Box::pin(put_out(&post.house, &guest, &mut inside, None));
    assert!(timeout(Duration::from_millis(20), &mut leaving).await.is_err());
    post.house.rule("192.0.2.7/32".parse().unwrap(), ban(NOW, 600));
    assert!(timeout(Duration::from_millis(20), &mut leaving).await.is_err());
    post.ban("192.0.2.7/32");
    timeout(PATIENCE, leaving).await.expect("an operator's ban counts");
}

#[tokio::test]
async fn whoever_was_banned_between_the_door_and_the_session_is_put_out_of_it() {
    let post = post();
    let (guest, _screen) = post.arriving();
    post.ban("192.0.2.7/32");
    let mut inside = stay(&post.house, &guest);
    timeout(PATIENCE, put_out(&post.house, &guest, &mut inside, None)).await.expect("it is put out");
}
