//! Rows 1 and 2: strangers that wait and say nothing. What each costs in memory, and what it costs to let more of them in while
//! there are many already.

use std::time::{Duration, Instant};

use super::super::contenders::{Candidate, Contender, Kind, Setting};
use super::super::load::{Load, Order};
use super::{Figure, Row, Surroundings, Target, Unit, Values, quiet};
use crate::host::wait;

pub(super) const ROW: Row = Row {
    figures: &[
        Figure {
            row: 1,
            id: "parked.memory",
            label: "memory per parked client",
            unit: Unit::Bytes,
            more: false,
            targets: &[Target::AtMost(900.0)],
        },
        Figure {
            row: 2,
            id: "parked.processor.some",
            label: "CPU to park 1,000 more, many there",
            unit: Unit::Milliseconds,
            more: false,
            targets: &[Target::AtMost(14.0)],
        },
        Figure {
            row: 2,
            id: "parked.processor.many",
            label: "the same, half again as many there",
            unit: Unit::Milliseconds,
            more: false,
            targets: &[Target::AtMost(14.0)],
        },
        Figure {
            row: 2,
            id: "parked.processor.growth",
            label: "the latter by the former: is it flat",
            unit: Unit::Times,
            more: false,
            targets: &[Target::AtMost(1.25)],
        },
        Figure {
            row: 2,
            id: "parked.processor.silent",
            label: "the former, where nobody is teased",
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
    let mut car_park = CarPark::before(&*contender)?;
    let ([few, some, many], more) = (around.scale.parked, around.scale.more);
    car_park.fill(few)?;
    let memory_of_few = contender.memory()?;
    car_park.fill(some)?;
    let among_some = car_park.fill(some + more)?;
    car_park.fill(many)?;
    let memory_of_many = contender.memory()?;
    let among_many = car_park.fill(many + more)?;
    let each = f64::from(more) / 1000.0;
    let mut values = vec![
        ("parked.memory", (memory_of_many - memory_of_few) / f64::from(many - few)),
        ("parked.processor.some", among_some * 1e3 / each),
        ("parked.processor.many", among_many * 1e3 / each),
        ("parked.processor.growth", among_many / among_some),
    ];
    if candidate.kind == Kind::Gatepost {
        drop(car_park);
        drop(contender);
        let contender = candidate.start(&Setting { teaser: false, ..around.setting(0) })?;
        let mut car_park = CarPark::before(&*contender)?;
        car_park.fill(some)?;
        values.push(("parked.processor.silent", car_park.fill(some + more)? * 1e3 / each));
    }
    Ok(values)
}

/// Strangers that wait.
pub struct CarPark<'a> {
    contender: &'a dyn Contender,
    load: Load,
    /// How many descriptors there were before.
    open: usize,
}

impl<'a> CarPark<'a> {
    /// Nobody waits yet.
    pub fn before(contender: &'a dyn Contender) -> Result<Self, String> {
        // What it opened for its own sake at the start is closed again then.
        quiet(contender, None)?;
        Ok(Self { open: settled(contender)?, contender, load: Surroundings::load()? })
    }

    /// Until there are so many, all of them accepted and waiting. What the contender used for that, in seconds.
    pub fn fill(&mut self, count: u32) -> Result<f64, String> {
        let before = quiet(self.contender, None)?;
        let order = Order::Park { target: self.contender.strangers(), count };
        self.load.perform(&order)?.sound(count)?;
        let wanted = self.open + count as usize;
        let accepted = wait::within(wait::PATIENCE, || {
            let open = self.contender.descriptors().ok()?;
            (open >= wanted).then_some(())
        });
        accepted.ok_or_else(|| format!("not all of {count} were accepted in {:?}", wait::PATIENCE))?;
        let used = quiet(self.contender, None)?.since(&before);
        self.load.perform(&Order::Look)?.sound(count)?;
        Ok(used)
    }
}

/// How many descriptors a contender has open once they are no longer fewer and fewer: bots that it has turned away may have
/// theirs for a while, and whoever parks must not be taken for one of them.
fn settled(contender: &dyn Contender) -> Result<usize, String> {
    const STAYS: Duration = Duration::from_millis(600);
    let (mut open, mut since) = (contender.descriptors()?, Instant::now());
    let settled = wait::within(wait::PATIENCE, || {
        let now = contender.descriptors().ok()?;
        if now != open {
            (open, since) = (now, Instant::now());
        }
        (since.elapsed() >= STAYS).then_some(now)
    });
    settled.ok_or_else(|| format!("it still opens and closes descriptors after {:?}", wait::PATIENCE))
}
