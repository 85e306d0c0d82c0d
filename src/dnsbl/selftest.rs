//! Asks a list what it must say: 127.0.0.2 is listed, 127.0.0.1 is not (RFC 5782, section 5).
//!
//! One task for each list. A list that is in is tested every so often, one that is out every pause of the breaker, so
//! that it does not stay out for longer than it has to; and the alarm has its list tested at once.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::time::timeout;

use super::health::Tested;
use super::state::{Failure, Reason, State};
use super::zone::Zone;
use crate::dns::resolver::Resolver;
use crate::screen::score::Word;

/// The address that every list lists.
const LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The address that no list lists.
const NOT_LISTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

/// The least time between two tests of a list.
const LEAST: Duration = Duration::from_secs(1);

/// Tests `zone` for ever.
pub(super) async fn watch(zone: &Zone, resolver: &Resolver, every: Duration, pause: Duration) {
    loop {
        zone.tested(test(zone, resolver).await);
        let wait = if zone.state().state == State::Working { every } else { every.min(pause) };
        // Woken or not, the next round is due; what is left to do is the same.
        let _ = timeout(wait.max(LEAST), zone.nudged()).await;
    }
}

/// Tests `zone` once.
async fn test(zone: &Zone, resolver: &Resolver) -> Tested {
    match expect(zone, resolver).await {
        Ok(()) => Tested::Passed,
        Err(found) => found,
    }
}

async fn expect(zone: &Zone, resolver: &Resolver) -> Result<(), Tested> {
    if lists(zone, resolver, NOT_LISTED.into()).await? {
        return Err(Tested::Failed(Reason::LoopbackListed));
    }
    // Few allow lists list a test address.
    if !zone.list().blocks() || lists(zone, resolver, LISTED.into()).await? {
        return Ok(());
    }
    // A list of IPv6 addresses has its test addresses among those that stand for IPv4 addresses.
    if lists(zone, resolver, NOT_LISTED.to_ipv6_mapped().into()).await? {
        return Err(Tested::Failed(Reason::LoopbackListed));
    }
    if lists(zone, resolver, LISTED.to_ipv6_mapped().into()).await? {
        return Ok(());
    }
    Err(Tested::Failed(Reason::TestNotListed))
}

/// Whether the list lists `address`, whatever the sites' filters make of it.
async fn lists(zone: &Zone, resolver: &Resolver, address: IpAddr) -> Result<bool, Tested> {
    let asked = zone.ask(resolver, address).await;
    match asked.word {
        Ok(Word::Said { .. }) => Ok(!asked.addresses.is_empty()),
        Ok(Word::Outstanding | Word::LeftOut) => Ok(false),
        Err(failure @ (Failure::ErrorCode(_) | Failure::Outside)) => Err(Tested::Failed(Reason::TestFailed(failure))),
        Err(failure) => Err(Tested::Unanswered(failure)),
    }
}
