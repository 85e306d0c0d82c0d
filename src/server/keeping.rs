//! What is kept and looked after beside the gates: what was remembered, what was decided, and whom nothing bans.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{CannotStart, Server};
use crate::addr;
use crate::clock::Clock;
use crate::ledger::{Kept, Ledger, embedded};
use crate::session::Gate;

/// Every how often what was decided is looked through for what has ended.
const SWEEP: Duration = Duration::from_secs(1);

/// Every how many sweeps the log is told of those who knocked: once a minute.
const KNOCKS: u64 = 60;

/// Every how many sweeps the firewall is told again: once a day.
const RETELL: u64 = 24 * 60 * 60;

/// How long the names of backends may take to be looked up, all together.
const LOOK_UP: Duration = Duration::from_secs(2);

impl Server {
    /// What is to be done once in a while: decisions that have ended are taken out, and the log is told of those who knocked.
    pub(super) fn keep_house(&mut self) {
        let house = Arc::downgrade(&self.house);
        let keep = tokio::spawn(async move {
            let mut rounds = 0_u64;
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(house) = house.upgrade() else { return };
                house.sweep_rulings();
                rounds += 1;
                if rounds.is_multiple_of(KNOCKS) {
                    house.sum_up_knocks();
                }
                if rounds.is_multiple_of(RETELL) {
                    house.restore_firewall();
                }
            }
        });
        if let Some(before) = self.keeper.replace(keep.abort_handle()) {
            before.abort();
        }
    }
}

/// Takes in what was kept in the file, and keeps there what changes from now on.
pub(super) fn keep(
    ledger: &Arc<Ledger>,
    path: Option<PathBuf>,
    clock: &Clock,
) -> Result<Option<embedded::Store>, CannotStart> {
    let Some(path) = path else { return Ok(None) };
    let opened = Kept::open(ledger, embedded::Settings::at(&path), clock)?;
    tracing::info!(file = %path.display(), records = opened.records(), "what was remembered is known again");
    Ok(Some(opened.start(Kept::of(Arc::clone(ledger)))?))
}

/// Who is never banned: those whom any gate allows, its load balancers, and the backends.
pub(super) async fn exempt(gates: &[Arc<Gate>]) -> Vec<IpNet> {
    let mut networks: Vec<IpNet> = gates.iter().flat_map(|gate| gate.settings.access.allowed()).collect();
    let proxies = gates.iter().filter_map(|gate| gate.settings.proxies.as_ref());
    networks.extend(proxies.flat_map(|proxies| proxies.from.iter().copied()));
    let backends: BTreeSet<&str> = gates.iter().map(|gate| gate.settings.backend.address.as_str()).collect();
    let look_up = async {
        let mut found = Vec::new();
        for backend in backends {
            if let Ok(addresses) = tokio::net::lookup_host(backend).await {
                found.extend(addresses.map(|address| IpNet::from(addr::canonical(address.ip()))));
            }
        }
        found
    };
    // One that cannot be looked up cannot connect to us by that name either.
    networks.extend(tokio::time::timeout(LOOK_UP, look_up).await.unwrap_or_default());
    IpNet::aggregate(&networks)
}
