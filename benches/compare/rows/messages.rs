//! Row 5: known clients that deliver a small message each.

use super::super::contenders::{Candidate, Kind};
use super::super::load::{Crowd, KNOWN, Script};
use super::{Figure, Row, Surroundings, Target, Unit, Values, crowd};

const SIZE: usize = 4096;

pub(super) const ROW: Row = Row {
    figures: &[
        Figure {
            row: 5,
            id: "messages.rate",
            label: "4 KiB messages, one a session",
            unit: Unit::PerSecond,
            more: true,
            targets: &[Target::Against(Kind::Haproxy, 1.1)],
        },
        Figure {
            row: 5,
            id: "messages.processor",
            label: "CPU per 1,000 of them",
            unit: Unit::Milliseconds,
            more: false,
            targets: &[Target::Against(Kind::Haproxy, 1.0)],
        },
    ],
    contenders: &Kind::ALL,
    measure,
};

fn measure(around: &Surroundings, candidate: &Candidate) -> Result<Values, String> {
    let contender = candidate.start(&around.setting(around.scale.known))?;
    let messages = Crowd {
        target: contender.known(),
        script: Script::Message(SIZE),
        count: around.scale.warm,
        at_once: around.scale.at_once,
        net: KNOWN,
        first: 0,
        clients: around.scale.known,
        rate: None,
        authority: None,
    };
    let judge = |before: &_, count, _: &_| contender.judge_known(before, count);
    let measured = crowd(&around.scale, &*contender, messages, judge)?;
    let mut values = vec![("messages.rate", measured.rate())];
    if contender.pid().is_some() {
        values.push(("messages.processor", measured.processor * 1e6 / f64::from(measured.count)));
    }
    Ok(values)
}
