//! Row 4: known clients that connect, are greeted by the mail server behind, say EHLO, and leave.

use super::super::contenders::{Candidate, Kind};
use super::super::load::{Crowd, KNOWN, Script};
use super::{Figure, Row, Surroundings, Target, Unit, Values, crowd};

pub(super) const ROW: Row = Row {
    figures: &[
        Figure {
            row: 4,
            id: "sessions.rate",
            label: "sessions through to the backend",
            unit: Unit::PerSecond,
            more: true,
            targets: &[Target::Against(Kind::Haproxy, 1.1)],
        },
        Figure {
            row: 4,
            id: "sessions.processor",
            label: "CPU per 1,000 of them",
            unit: Unit::Milliseconds,
            more: false,
            targets: &[Target::Against(Kind::Haproxy, 1.0)],
        },
    ],
    // nginx would answer all of that itself.
    contenders: &[Kind::Gatepost, Kind::Postscreen, Kind::Haproxy, Kind::Direct],
    measure,
};

fn measure(around: &Surroundings, candidate: &Candidate) -> Result<Values, String> {
    let contender = candidate.start(&around.setting(around.scale.known))?;
    let visits = Crowd {
        target: contender.known(),
        script: Script::Visit,
        count: around.scale.warm,
        at_once: around.scale.at_once,
        net: KNOWN,
        first: 0,
        clients: around.scale.known,
        rate: None,
        authority: None,
    };
    let judge = |before: &_, count, _: &_| contender.judge_known(before, count);
    let measured = crowd(&around.scale, &*contender, visits, judge)?;
    let mut values = vec![("sessions.rate", measured.rate())];
    if contender.pid().is_some() {
        values.push(("sessions.processor", measured.processor * 1e6 / f64::from(measured.count)));
    }
    Ok(values)
}
