//! Rows 9 and 10: how long known clients wait for their greeting. What the contender adds when little happens, and how bad it
//! gets while bots storm in, and while many strangers wait.

use super::super::contenders::{Candidate, Contender, Kind};
use super::super::figures::percentile;
use super::super::load::{BOTS, Crowd, Load, Order, Report, Script};
use super::parked::CarPark;
use super::{Figure, Row, Surroundings, Target, Unit, Values, quiet};

/// How many sessions are probed in a second.
const RATE: f64 = 200.0;

/// What of that has to come about, or it was no such storm.
const STORM_SHARE: f64 = 0.8;

const fn figure(row: u8, id: &'static str, label: &'static str, targets: &'static [Target]) -> Figure {
    Figure { row, id, label, unit: Unit::Milliseconds, more: false, targets }
}

pub(super) const ADDED: Row = Row {
    figures: &[figure(9, "latency.added", "added to the greeting, p50", &[Target::AtMost(0.10)])],
    // nginx greets by itself.
    contenders: &[Kind::Gatepost, Kind::Postscreen, Kind::Haproxy],
    measure: added,
};

pub(super) const TAIL: Row = Row {
    figures: &[
        figure(10, "latency.quiet", "greeting, p99, quiet", &[Target::AtMost(0.5)]),
        figure(10, "latency.storm", "greeting, p99, a storm of bots", &[Target::AtMost(1.3)]),
        figure(10, "latency.parked", "greeting, p99, among many parked", &[Target::AtMost(2.1)]),
    ],
    contenders: &[Kind::Gatepost, Kind::Postscreen, Kind::Haproxy, Kind::Nginx],
    measure: tail,
};

fn added(around: &Surroundings, candidate: &Candidate) -> Result<Values, String> {
    let contender = candidate.start(&around.setting(around.scale.known))?;
    let mut load = Surroundings::load()?;
    probe(around, &mut load, &*contender, 0.1)?;
    // Direct before and after, so that a machine that becomes slower in between is slower for both.
    let direct = Candidate { name: String::new(), kind: Kind::Direct, program: None }.start(&around.setting(0))?;
    let mut without = probe(around, &mut load, &*direct, 0.5)?.latencies;
    let with = probe(around, &mut load, &*contender, 1.0)?.latencies;
    without.extend(probe(around, &mut load, &*direct, 0.5)?.latencies);
    let median = |latencies: &[f64]| percentile(latencies, 0.5).ok_or("nothing was probed");
    Ok(vec![("latency.added", median(&with)? - median(&without)?)])
}

fn tail(around: &Surroundings, candidate: &Candidate) -> Result<Values, String> {
    let contender = candidate.start(&around.setting(around.scale.known))?;
    let mut load = Surroundings::load()?;
    probe(around, &mut load, &*contender, 0.1)?;
    let mut values = vec![("latency.quiet", p99(&probe(around, &mut load, &*contender, 1.0)?)?)];
    values.push(("latency.storm", p99(&stormed(around, &mut load, &*contender)?)?));
    quiet(&*contender, None)?;
    let mut parked = CarPark::before(&*contender)?;
    parked.fill(around.scale.parked[1])?;
    values.push(("latency.parked", p99(&probe(around, &mut load, &*contender, 1.0)?)?));
    Ok(values)
}

fn p99(report: &Report) -> Result<f64, String> {
    percentile(&report.latencies, 0.99).ok_or_else(|| "nothing was probed".to_owned())
}

/// A part of the usual number of sessions.
fn probe(around: &Surroundings, load: &mut Load, contender: &dyn Contender, part: f64) -> Result<Report, String> {
    let count = (f64::from(around.scale.probes) * part).ceil() as u32;
    let before = contender.counts();
    let order = Order::Probe { target: contender.known(), count, rate: RATE, clients: around.scale.known };
    let report = load.perform(&order)?.sound(count)?;
    contender.judge_known(&before, count)?;
    Ok(report)
}

/// The same while bots come.
fn stormed(around: &Surroundings, load: &mut Load, contender: &dyn Contender) -> Result<Report, String> {
    let mut storm = Surroundings::load()?;
    let wanted = around.scale.storm;
    // It outlasts the probe.
    let bots = ((f64::from(around.scale.probes) / RATE + 0.5) * wanted) as u32;
    storm.begin(&Order::Crowd(Crowd {
        target: contender.strangers(),
        script: Script::Bot,
        count: bots,
        at_once: 4000,
        net: BOTS,
        first: 0,
        clients: 65_000,
        rate: Some(wanted),
        authority: None,
    }))?;
    let probed = probe(around, load, contender, 1.0);
    let report = storm.end()?.sound(bots)?;
    contender.met(bots, &report)?;
    let rate = f64::from(bots) / report.seconds;
    if rate < wanted * STORM_SHARE {
        return Err(format!("only {rate:.0} bots a second were turned away"));
    }
    probed
}
