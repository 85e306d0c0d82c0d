//! Row 11: strangers wait, and the DNS list that is asked about each of them takes eight seconds to answer. Nobody may go
//! unasked for that, and it must not cost memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use super::super::contenders::{Candidate, Contender, Kind, Setting};
use super::parked::CarPark;
use super::{Figure, Row, Surroundings, Target, Unit, Values, quiet};
use crate::host::dns::NameServer;

/// How long the list takes: less than both contenders are ready to wait for.
const DELAY: Duration = Duration::from_secs(8);

/// Every how often memory is looked at.
const LOOK: Duration = Duration::from_millis(500);

pub(super) const ROW: Row = Row {
    figures: &[
        Figure {
            row: 11,
            id: "list.skipped",
            label: "look-ups that a slow list is not asked",
            unit: Unit::Count,
            more: false,
            targets: &[Target::AtMost(0.0)],
        },
        Figure {
            row: 11,
            id: "list.processes",
            label: "processes meanwhile",
            unit: Unit::Count,
            more: false,
            targets: &[],
        },
        Figure {
            row: 11,
            id: "list.memory",
            label: "memory of all of it meanwhile",
            unit: Unit::Bytes,
            more: false,
            targets: &[],
        },
        Figure {
            row: 11,
            id: "list.memory.growth",
            label: "that, by what it is without the list",
            unit: Unit::Times,
            more: false,
            targets: &[Target::AtMost(1.1)],
        },
    ],
    contenders: &[Kind::Gatepost, Kind::Postscreen],
    measure,
};

fn measure(around: &Surroundings, candidate: &Candidate) -> Result<Values, String> {
    let parked = around.scale.parked[0];
    let without = {
        let contender = candidate.start(&around.setting(0))?;
        CarPark::before(&*contender)?.fill(parked)?;
        contender.memory()?
    };
    let list = NameServer::slow(address(), DELAY);
    let contender = candidate.start(&Setting { list: Some(list.address()), ..around.setting(0) })?;
    quiet(&*contender, None)?;
    let mut car_park = CarPark::before(&*contender)?;
    car_park.fill(parked)?;
    let all = parked as usize;
    let (mut memory, mut processes) = (0.0_f64, 0);
    // Until all have been asked for, and the first are answered: the most that it takes is in between.
    let began = Instant::now();
    while began.elapsed() < DELAY || (list.asked() < all && began.elapsed() < 3 * DELAY) {
        memory = memory.max(contender.memory()?);
        processes = processes.max(contender.processes()?);
        thread::sleep(LOOK);
    }
    let asked = list.asked();
    contender.judge_list(asked as u32)?;
    Ok(vec![
        ("list.skipped", (all - asked.min(all)) as f64),
        ("list.processes", processes as f64),
        ("list.memory", memory),
        ("list.memory.growth", memory / without),
    ])
}

/// A loopback address that is ours alone, as far as one can tell, with the port that every resolver asks.
fn address() -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((IpAddr::V4(Ipv4Addr::new(127, 53, high, low)), 53))
}
