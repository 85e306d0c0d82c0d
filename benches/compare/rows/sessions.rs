//! Row 4: known clients that connect, are greeted by the mail server behind, say EHLO, and leave.

use super::super::contenders::{Candidate, Kind};
use super::super::load::Script;
use super::{Figure, Row, Surroundings, Target, Unit, Values, of_known};

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
    of_known(around, candidate, Script::Visit, ["sessions.rate", "sessions.processor"])
}
