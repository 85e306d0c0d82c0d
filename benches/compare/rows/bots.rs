//! Row 3: bots that speak before they are greeted, as fast as they are turned away.

use super::super::contenders::{Candidate, Kind};
use super::super::load::{BOTS, Crowd, Script};
use super::{Figure, Row, Surroundings, Target, Unit, Values, crowd};

pub(super) const ROW: Row = Row {
    figures: &[
        Figure {
            row: 3,
            id: "bots.rate",
            label: "talk-first bots turned away",
            unit: Unit::PerSecond,
            more: true,
            targets: &[Target::Against(Kind::Haproxy, 1.0)],
        },
        Figure {
            row: 3,
            id: "bots.processor",
            label: "CPU per 1,000 of them",
            unit: Unit::Milliseconds,
            more: false,
            targets: &[Target::Against(Kind::Haproxy, 1.0)],
        },
        Figure {
            row: 3,
            id: "bots.processor.screen",
            label: "of that, the screen alone",
            unit: Unit::Milliseconds,
            more: false,
            targets: &[],
        },
    ],
    contenders: &[Kind::Gatepost, Kind::Postscreen, Kind::Haproxy, Kind::Nginx],
    measure,
};

fn measure(around: &Surroundings, candidate: &Candidate) -> Result<Values, String> {
    let contender = candidate.start(&around.setting(0))?;
    let bots = Crowd {
        target: contender.strangers(),
        script: Script::Bot,
        count: around.scale.warm,
        at_once: around.scale.at_once,
        net: BOTS,
        first: 0,
        // Each is somebody else, as far as addresses go.
        clients: 65_000,
        rate: None,
        authority: None,
    };
    let measured = crowd(&around.scale, &*contender, bots, |before, bots, report| {
        contender.met(bots, report)?;
        contender.judge_bots(before, bots)
    })?;
    let each = f64::from(measured.count) / 1e6;
    let mut values = vec![("bots.rate", measured.rate()), ("bots.processor", measured.processor / each)];
    values.extend(measured.screen.map(|used| ("bots.processor.screen", used / each)));
    Ok(values)
}
