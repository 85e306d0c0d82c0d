//! Row 5: known clients that deliver a small message each.

use super::super::contenders::{Candidate, Kind};
use super::super::load::Script;
use super::{Figure, Row, Surroundings, Target, Unit, Values, of_known};

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
    of_known(around, candidate, Script::Message(SIZE), ["messages.rate", "messages.processor"])
}
