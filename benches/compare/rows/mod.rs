//! The rows of the table: one kind of work each, and what gatepost must reach in it.

mod bots;
mod large;
mod latency;
mod messages;
pub mod parked;
mod sessions;
mod slow_list;

use std::cell::OnceCell;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::contenders::{Candidate, Contender, Counts, Kind, Setting};
pub use super::figures::plan::{Figure, Target, Unit};
use super::load::{Crowd, KNOWN, Load, Order, Report, Script};
use super::sink::Sink;
use super::usage::Usage;
use crate::host::certificates::Certificates;

/// What was measured: figures by their id.
pub type Values = Vec<(&'static str, f64)>;

/// One kind of work, which fills one row of the table, or two.
pub struct Row {
    /// What is measured in one go.
    pub figures: &'static [Figure],
    /// Who can do that work.
    pub contenders: &'static [Kind],
    /// Does it once.
    pub measure: fn(&Surroundings, &Candidate) -> Result<Values, String>,
}

/// All of them.
pub const ROWS: [&Row; 11] = [
    &parked::ROW,
    &bots::ROW,
    &sessions::ROW,
    &messages::ROW,
    &large::PLAIN,
    &large::CHUNK,
    &large::OPAQUE,
    &large::TLS,
    &latency::ADDED,
    &latency::TAIL,
    &slow_list::ROW,
];

/// How much is done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Scale {
    /// How many strangers wait: at first, later, and last.
    pub parked: [u32; 3],
    /// How many more come then.
    pub more: u32,
    /// How long a measured crowd takes, about.
    pub seconds: f64,
    /// How many sessions come before those that are measured.
    pub warm: u32,
    /// How many sessions there are at once.
    pub at_once: u32,
    /// How many clients are known.
    pub known: u32,
    /// How many bytes a large message has.
    pub large: usize,
    /// How many sessions a latency is taken of.
    pub probes: u32,
    /// How many bots come in a second of a storm.
    pub storm: f64,
}

impl Scale {
    /// Figures to go by.
    pub const FULL: Self = Self {
        parked: [2000, 10_000, 15_000],
        more: 1000,
        seconds: 3.0,
        warm: 500,
        at_once: 64,
        known: 1000,
        large: 10 << 20,
        probes: 1000,
        storm: 3000.0,
    };
    /// Enough to see a gross loss.
    pub const QUICK: Self =
        Self { parked: [400, 1000, 2000], more: 500, seconds: 0.7, warm: 200, known: 200, probes: 200, ..Self::FULL };
    /// Enough to see that everything works.
    pub const TINY: Self = Self {
        parked: [20, 30, 40],
        more: 10,
        seconds: 0.0,
        warm: 20,
        at_once: 8,
        known: 10,
        large: 1 << 20,
        probes: 20,
        storm: 300.0,
    };
}

/// What all measurements have.
pub struct Surroundings {
    /// Where mail goes.
    pub sink: Sink,
    /// How much is done.
    pub scale: Scale,
    certificates: OnceCell<Certificates>,
}

impl Surroundings {
    /// Starts what is needed by all.
    pub fn start(scale: Scale) -> Result<Self, String> {
        let sink = Sink::start().map_err(|error| format!("the sink: {error}"))?;
        Ok(Self { sink, scale, certificates: OnceCell::new() })
    }

    /// The usual one.
    pub fn setting(&self, known: u32) -> Setting<'_> {
        Setting { sink: self.sink.ports, known, tls: None, splice: false, teaser: true, list: None }
    }

    /// Made when they are needed.
    fn certificates(&self) -> &Certificates {
        self.certificates.get_or_init(Certificates::make)
    }

    fn load() -> Result<Load, String> {
        Load::start().map_err(|error| format!("a load: {error}"))
    }
}

/// A crowd of the usual size and its report; and what the contender used meanwhile, with that of its screen alone.
pub struct Measured {
    count: u32,
    report: Report,
    processor: f64,
    screen: Option<f64>,
}

impl Measured {
    /// How many a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.count) / self.report.seconds
    }
}

/// Lets a small crowd come first, and then one that takes about as long as it is to. `judge` says whether all went well.
fn crowd(
    scale: &Scale,
    contender: &dyn Contender,
    crowd: Crowd,
    judge: impl Fn(&Counts, u32, &Report) -> Result<(), String>,
) -> Result<Measured, String> {
    // The count that is in it is that of the small one.
    let warm = crowd.count;
    let mut load = Surroundings::load()?;
    let mut perform = |count: u32, first: u32| {
        let counts = contender.counts();
        let before = quiet(contender, None)?;
        let screen = contender.screen().map(|name| contender.usage(Some(name))).transpose()?;
        let report = load.perform(&Order::Crowd(Crowd { count, first, ..crowd.clone() }))?.sound(count)?;
        let processor = quiet(contender, None)?.since(&before);
        let after = contender.screen().map(|name| contender.usage(Some(name))).transpose()?;
        let screen = screen.zip(after).map(|(before, after)| after.since(&before));
        judge(&counts, count, &report)?;
        Ok::<_, String>(Measured { count, report, processor, screen })
    };
    let rate = perform(warm, 0)?.rate();
    let count = (rate * scale.seconds).clamp(f64::from(warm), 500_000.0);
    perform(count as u32, warm)
}

/// A crowd of known clients: how many a second, and what a thousand of them cost.
fn of_known(
    around: &Surroundings,
    candidate: &Candidate,
    script: Script,
    ids: [&'static str; 2],
) -> Result<Values, String> {
    let contender = candidate.start(&around.setting(around.scale.known))?;
    let measured = known_clients(around, &*contender, script, around.scale.at_once)?;
    let [rate, processor] = ids;
    let mut values = vec![(rate, measured.rate())];
    if contender.pid().is_some() {
        values.push((processor, measured.processor * 1e6 / f64::from(measured.count)));
    }
    Ok(values)
}

/// A crowd of clients that the contender knows, so many of them at once.
pub fn known_clients(
    around: &Surroundings,
    contender: &dyn Contender,
    script: Script,
    at_once: u32,
) -> Result<Measured, String> {
    let clients = Crowd {
        target: contender.known(),
        script,
        // Enough that for most of the time there are as many at once.
        count: around.scale.warm.max(2 * at_once),
        at_once,
        net: KNOWN,
        first: 0,
        clients: around.scale.known,
        rate: None,
        authority: None,
    };
    let judge = |before: &_, count, _: &_| contender.judge_known(before, count);
    crowd(&around.scale, contender, clients, judge)
}

/// Waits until a contender has nothing left to do, and says what it has used until then.
fn quiet(contender: &dyn Contender, only: Option<&str>) -> Result<Usage, String> {
    const STEP: Duration = Duration::from_millis(30);
    const LONGEST: Duration = Duration::from_secs(5);
    let (began, mut last) = (Instant::now(), contender.usage(only)?);
    if contender.pid().is_none() {
        return Ok(last);
    }
    loop {
        thread::sleep(STEP);
        let now = contender.usage(only)?;
        // Somebody who does nothing uses a little all the same.
        if now.since(&last) < STEP.as_secs_f64() / 50.0 || began.elapsed() > LONGEST {
            return Ok(now);
        }
        last = now;
    }
}
