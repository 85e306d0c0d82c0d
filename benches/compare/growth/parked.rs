//! Strangers that wait: what all of them cost in memory, and what it costs to let more of them in.

use super::super::contenders::{Candidate, Kind};
use super::super::figures::growth::{PARKED_MEMORY, PARKED_PROCESSOR};
use super::super::rows::Surroundings;
use super::super::rows::parked::CarPark;
use super::{Points, Sizes, Work};

pub(super) const WORK: Work =
    Work { name: "parked", contenders: &[Kind::Gatepost, Kind::Postscreen, Kind::Haproxy, Kind::Nginx], measure };

fn measure(around: &Surroundings, candidate: &Candidate, sizes: &Sizes) -> Result<Points, String> {
    let contender = candidate.start(&around.setting(0))?;
    let mut car_park = CarPark::before(&*contender)?;
    let nobody = contender.memory()?;
    let mut points = Points::new();
    for (at, parked) in sizes.parked.iter().enumerate() {
        car_park.fill(*parked)?;
        points.push((&PARKED_MEMORY, *parked, (contender.memory()? - nobody) / 1e6));
        let next = sizes.parked.get(at + 1).copied().unwrap_or(u32::MAX);
        let more = sizes.more.min(next - parked);
        let used = car_park.fill(parked + more)?;
        points.push((&PARKED_PROCESSOR, *parked, used * 1e6 / f64::from(more)));
    }
    Ok(points)
}
