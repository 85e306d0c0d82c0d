//! What a configuration comes to, for its author to read back.

use std::fmt::Write;

use ipnet::IpNet;

use super::Config;
use super::gate::scene_word;
use super::transparent;
use crate::backend::Announce;
use crate::firewall;
use crate::ledger::embedded::Place;
use crate::proxy_header::Version;
use crate::screen::{Action, Site, Test};
use crate::session::{self, Proxies, Tls};

/// One line for each gate, one for the lists and for whoever is told of bans, and one that cannot be overlooked where nothing is enforced.
pub(super) fn write(config: &Config) -> String {
    let mut out = String::new();
    for gate in &config.gates {
        out.push_str(&gate_line(gate));
    }
    for gate in config.gates.iter().filter(|gate| gate.backend.announce == Announce::Transparent) {
        _ = writeln!(out, "routes of gate {}: {}", gate.name, transparent::needs(&gate.backend.address));
    }
    if let Some(dnsbl) = &config.dnsbl {
        let lists: Vec<String> = dnsbl.sites.iter().map(site).collect();
        let thresholds = config.gates.first().map(|gate| gate.screen.thresholds);
        let block = thresholds.map(|at| format!("; failed from {}", at.block)).unwrap_or_default();
        let allow = thresholds.and_then(|at| at.allow).map(|at| format!("; passed at {at}")).unwrap_or_default();
        _ = writeln!(out, "lists: {}{block}{allow}", lists.join(", "));
    }
    if !config.lists.files.is_empty() {
        let files: Vec<String> = config.lists.files.iter().map(|file| file.display().to_string()).collect();
        _ = writeln!(out, "lists from outside: {}", files.join(", "));
    }
    let told = told(&config.firewall);
    if !told.is_empty() {
        _ = writeln!(out, "bans are told to: {}", told.join(", "));
    }
    _ = writeln!(out, "ledger: {}", kept(&config.kept));
    if let Some(admin) = config.admin {
        _ = writeln!(out, "admin: http://{admin}/metrics");
    }
    for gate in config.gates.iter().filter(|gate| gate.screen.observe) {
        _ = writeln!(out, "OBSERVE: gate {} journals failed tests and turns nobody away for them", gate.name);
    }
    out
}

fn gate_line(gate: &session::Settings) -> String {
    let listen: Vec<String> = gate.listen.iter().map(ToString::to_string).collect();
    let announce = match gate.backend.announce {
        Announce::Proxy(Version::V1) => "told of the client by PROXY v1",
        Announce::Proxy(Version::V2) => "told of the client by PROXY v2",
        Announce::Transparent => "sees each client's own address",
        Announce::Xclient => "told of the client by XCLIENT",
        Announce::Header => "NOT told of the client but by a header field in each message",
        Announce::Nothing => "NOT told of the client",
    };
    let tests: Vec<String> = Test::ALL
        .into_iter()
        .filter(|&test| gate.screen.rules[test].action != Action::Off)
        .map(|test| format!("{} {}", test.name(), word(gate.screen.rules[test].action)))
        .collect();
    let tls = match &gate.tls {
        Tls::EndToEnd => "STARTTLS passed through",
        Tls::Off => "no TLS",
        Tls::Here(here) if here.first => "TLS first",
        Tls::Here(here) if here.before_auth => "STARTTLS ends here, before AUTH",
        Tls::Here(_) => "STARTTLS ends here",
    };
    let tests = if tests.is_empty() { "none".to_owned() } else { tests.join(", ") };
    let proxies = gate.proxies.as_deref().map(believed).unwrap_or_default();
    format!(
        "gate {} ({}): {}{proxies} -> {} ({announce}), {tls}, AUTH {}; tests: {tests}\n",
        gate.name,
        scene_word(gate.scene),
        listen.join(" "),
        gate.backend.address,
        if gate.relay.auth { "offered" } else { "withheld" },
    )
}

/// Whom bans are told.
fn told(firewall: &firewall::Settings) -> Vec<String> {
    let nftables = firewall.nftables.as_ref().map(|nftables| {
        let ports: Vec<String> = nftables.ports.iter().map(u16::to_string).collect();
        format!("nftables (table {}, ports {})", nftables.table, ports.join(" "))
    });
    let file = firewall.file.as_ref().map(|file| file.path.display().to_string());
    let command = firewall.command.as_ref().map(|command| command.words.join(" "));
    [nftables, file, command].into_iter().flatten().collect()
}

/// Where what is remembered is kept. Whether systemd gives a folder is seen at the start.
fn kept(place: &Place) -> String {
    match place {
        Place::At(path) => format!("kept in {}", path.display()),
        Place::Given => {
            "kept in ledger.redb, in the folder that systemd gives; without one, in memory alone".to_owned()
        }
        Place::Memory => "in memory alone: a restart forgets all clients".to_owned(),
    }
}

/// Whose PROXY headers are believed.
fn believed(proxies: &Proxies) -> String {
    let from: Vec<String> = proxies.from.iter().map(shown).collect();
    format!(", believes PROXY headers from {} and takes nobody else,", from.join(", "))
}

/// A host without its prefix length.
fn shown(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}

fn site(site: &Site) -> String {
    if site.weight == 1 { site.display.clone() } else { format!("{}*{}", site.display, site.weight) }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Off => "off",
        Action::Observe => "observe",
        Action::Enforce => "enforce",
        Action::Drop => "drop",
    }
}
