//! Rows 6 to 8: known clients that deliver large messages. Plain, where each byte may be the one that ends the message; where
//! nothing is left to be looked for; and with TLS that ends at the contender.

use super::super::contenders::{Candidate, Contender, Kind, Setting};
use super::super::load::{Crowd, KNOWN, Script};
use super::{Figure, Row, Surroundings, Target, Unit, Values, crowd};

/// How many messages are under way at once, and how many come before those that are measured.
const AT_ONCE: u32 = 8;

const fn rate(row: u8, id: &'static str, label: &'static str, targets: &'static [Target]) -> Figure {
    Figure { row, id, label, unit: Unit::MegabytesPerSecond, more: true, targets }
}

const fn cost(row: u8, id: &'static str, label: &'static str, targets: &'static [Target]) -> Figure {
    Figure { row, id, label, unit: Unit::SecondsPerGigabyte, more: false, targets }
}

const AS_HAPROXY: Target = Target::Against(Kind::Haproxy, 1.0);

pub(super) const PLAIN: Row = Row {
    figures: &[
        rate(6, "large.rate", "large messages, inspected", &[AS_HAPROXY]),
        cost(6, "large.processor", "CPU for a gigabyte of them", &[Target::AtMost(0.47)]),
    ],
    contenders: &Kind::ALL,
    measure: |around, candidate| {
        let setting = around.setting(around.scale.known);
        measure(around, candidate, &setting, Script::Message, ["large.rate", "large.processor"])
    },
};

pub(super) const CHUNK: Row = Row {
    figures: &[
        rate(7, "chunk.rate", "large messages by BDAT", &[]),
        cost(7, "chunk.processor", "CPU for a gigabyte of them", &[Target::AtMost(0.28)]),
    ],
    contenders: &[Kind::Gatepost, Kind::Haproxy, Kind::Direct],
    measure: |around, candidate| {
        let setting = Setting { splice: true, ..around.setting(around.scale.known) };
        measure(around, candidate, &setting, Script::Chunk, ["chunk.rate", "chunk.processor"])
    },
};

pub(super) const OPAQUE: Row = Row {
    figures: &[
        rate(7, "opaque.rate", "as much behind STARTTLS, end to end", &[]),
        cost(7, "opaque.processor", "CPU for a gigabyte of that", &[Target::AtMost(0.28)]),
    ],
    contenders: &[Kind::Gatepost, Kind::Haproxy, Kind::Direct],
    measure: |around, candidate| {
        let setting = Setting { splice: true, ..around.setting(around.scale.known) };
        measure(around, candidate, &setting, Script::Opaque, ["opaque.rate", "opaque.processor"])
    },
};

pub(super) const TLS: Row = Row {
    figures: &[
        rate(8, "tls.rate", "large messages, TLS 1.3 ends in front", &[AS_HAPROXY, Target::Against(Kind::Nginx, 1.0)]),
        cost(8, "tls.processor", "CPU for a gigabyte of them", &[AS_HAPROXY, Target::Against(Kind::Nginx, 1.0)]),
    ],
    contenders: &[Kind::Gatepost, Kind::Haproxy, Kind::Nginx],
    measure: |around, candidate| {
        let setting = Setting { tls: Some(around.certificates()), ..around.setting(around.scale.known) };
        measure(around, candidate, &setting, Script::Message, ["tls.rate", "tls.processor"])
    },
};

fn measure(
    around: &Surroundings,
    candidate: &Candidate,
    setting: &Setting<'_>,
    script: impl Fn(usize) -> Script,
    [rate, cost]: [&'static str; 2],
) -> Result<Values, String> {
    let contender = candidate.start(setting)?;
    let messages = Crowd {
        target: contender.known(),
        script: script(around.scale.large),
        count: AT_ONCE,
        at_once: AT_ONCE,
        net: KNOWN,
        first: 0,
        clients: around.scale.known,
        rate: None,
        authority: setting.tls.map(|certificates| certificates.authority()),
    };
    let judge = |before: &_, count, _: &_| contender.judge_known(before, count);
    let measured = crowd(&around.scale, &*contender, messages, judge)?;
    let megabytes = around.scale.large as f64 / 1e6;
    let mut values = vec![(rate, measured.rate() * megabytes)];
    if contender.pid().is_some() {
        values.push((cost, measured.processor / (f64::from(measured.count) * megabytes / 1e3)));
    }
    Ok(values)
}
