//! `gatepost doctor`: examines a whole installation as the gate would use it, and tells what an administrator can act on.
//!
//! For each gate the backend is met the gate's own way, a stranger asks it for what strangers must not have, and the ports
//! and certificates are looked at; for the host, its name, its name servers and the lists. Every finding that is not as
//! it should be comes with a remedy.
//!
//! It promises: no mail is ever sent, for no transaction goes beyond RCPT; a running gatepost is not disturbed; what the
//! other side says is escaped before it is shown; each wait has its deadline, the gate's own where there is one, and the
//! whole its own.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `finding`, `report` | what was found, and how it is shown |
//! | `talk` | one conversation with a backend |
//! | `backend` | meeting it: connection, greeting, offer |
//! | `strangers` | whom it relays for |
//! | `announce` | whether it learns, and believes, who the client is |
//! | `tls`, `certificate` | certificates and TLS, on all sides |
//! | `listen` | the gate's ports |
//! | `dns` | the host's name, the name servers, the lists |
//! | `firewall` | whether the packet filter can be told of bans |

mod announce;
mod backend;
mod certificate;
mod dns;
mod finding;
mod firewall;
mod listen;
mod report;
mod strangers;
mod talk;
mod tls;

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use self::finding::{Fault, Finding, Findings, Level, Topic};
pub use self::report::{Report, Section};
use crate::backend::Announce;
use crate::config::Config;
use crate::session;

/// The longest that one gate, or the host, may take.
const LONGEST: Duration = Duration::from_secs(3 * 60);

/// Examines all that the file speaks of, gates side by side. Within a tokio runtime.
pub async fn examine(config: &Config) -> Report {
    let mut host = Findings::default();
    let stands = match config.admin {
        Some(admin) => listen::admin(admin, &mut host).await,
        None => false,
    };
    let gates: Vec<JoinHandle<Section>> =
        config.gates.iter().map(|gate| tokio::spawn(examine_gate(gate.clone(), stands))).collect();
    bounded(&mut host, async |host| examine_host(config, host).await).await;
    let mut sections = Vec::with_capacity(gates.len() + 1);
    for (gate, settings) in gates.into_iter().zip(&config.gates) {
        let section = gate.await.unwrap_or_else(|error| {
            let mut findings = Findings::default();
            findings.away(
                Topic::Doctor,
                format!("the examination broke off: {error}"),
                "please report it: a fault of gatepost",
            );
            Section { gate: Some(settings.name.clone()), title: format!("gate {}", settings.name), findings }
        });
        sections.push(section);
    }
    sections.push(Section { gate: None, title: "this host".to_owned(), findings: host });
    Report { sections }
}

async fn examine_gate(gate: session::Settings, stands: bool) -> Section {
    let listen: Vec<String> = gate.listen.iter().map(ToString::to_string).collect();
    let title = format!("gate {} ({} -> {})", gate.name, listen.join(" "), gate.backend.address);
    let mut findings = Findings::default();
    bounded(&mut findings, async |out| {
        listen::gate(&gate, stands, out).await;
        tls::with_clients(&gate, out);
        examine_backend(&gate, out).await;
    })
    .await;
    Section { gate: Some(gate.name), title, findings }
}

async fn examine_backend(gate: &session::Settings, out: &mut Findings) {
    let Some(met) = backend::meet(gate, out).await else { return };
    tls::through(gate, &met, out).await;
    if !announce::is_told(gate.backend.announce) {
        announce::tell_unannounced(gate, &met, out);
        return strangers::examine_unannounced(gate, &met, out).await;
    }
    let visitors = announce::introduce(gate, &met, out).await;
    let Some(first) = visitors.first() else { return };
    let mut relay = Findings::default();
    let seen = strangers::examine(gate, &met, &visitors, &mut relay).await;
    announce::examine(gate, &met, first.client.ip(), &seen, out).await;
    out.append(relay);
}

async fn examine_host(config: &Config, out: &mut Findings) {
    let servers = dns::name_servers(config.dnsbl.as_ref());
    let mut heard = Findings::default();
    let lists = async {
        if let Some(lists) = &config.dnsbl {
            dns::lists(lists, &mut heard).await;
        }
    };
    let names = async {
        let mut told: Vec<&str> = Vec::new();
        for gate in &config.gates {
            if !told.contains(&gate.hostname.as_str()) {
                told.push(&gate.hostname);
                dns::host_name(&gate.hostname, &servers, out).await;
            }
        }
    };
    let mut named = Findings::default();
    let clients = async {
        // Nobody else's host name is asked for.
        if config.gates.iter().any(|gate| gate.backend.announce == Announce::Xclient) {
            dns::names(&config.dns, &mut named).await;
        }
    };
    let mut filtered = Findings::default();
    let filter = async {
        if let Some(nftables) = &config.firewall.nftables {
            firewall::nftables(nftables, &mut filtered).await;
        }
    };
    tokio::join!(lists, names, clients, filter);
    out.append(named);
    out.append(heard);
    out.append(filtered);
}

/// Runs it for as long as it may take. What was found by then counts.
async fn bounded(findings: &mut Findings, examine: impl AsyncFnOnce(&mut Findings)) {
    if timeout(LONGEST, examine(findings)).await.is_err() {
        let what = format!("this took longer than {} minutes; the rest was not looked at", LONGEST.as_secs() / 60);
        findings.away(Topic::Doctor, what, "mend what is told above, or lower the [timeouts], and try again");
    }
}
