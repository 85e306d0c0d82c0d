//! Known clients that come, say EHLO, and leave: how many a second, by how many there are at once.

use super::super::contenders::{Candidate, Kind};
use super::super::figures::growth::SESSIONS;
use super::super::load::Script;
use super::super::rows::{Surroundings, known_clients};
use super::{Points, Sizes, Work};

pub(super) const WORK: Work =
    Work { name: "sessions", contenders: &[Kind::Gatepost, Kind::Postscreen, Kind::Haproxy, Kind::Direct], measure };

fn measure(around: &Surroundings, candidate: &Candidate, sizes: &Sizes) -> Result<Points, String> {
    let contender = candidate.start(&around.setting(around.scale.known))?;
    let rate = |at_once: &u32| {
        let measured = known_clients(around, &*contender, Script::Visit, *at_once)?;
        Ok((&SESSIONS, *at_once, measured.rate()))
    };
    sizes.at_once.iter().map(rate).collect()
}
