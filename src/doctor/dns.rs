//! The DNS: the host's own names, the name servers, and the lists, each asked for its test addresses (RFC 5782 §5).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf;
use tokio::time::{Instant, timeout};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::finding::{Findings, Topic};
use crate::dns;
use crate::dnsbl::{self, Dnsbl, Failure, Finding};
use crate::journal::text::escape;

/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer that takes longer holds strangers up.
const SLOW: Duration = Duration::from_secs(1);

/// How many of the name servers for clients' names are looked at.
const SERVERS: usize = 4;

/// Resolvers that anybody may ask, and from which most lists take no questions.
const PUBLIC: [&str; 22] = [
    "1.0.0.1",
    "1.1.1.1",
    "4.2.2.1",
    "4.2.2.2",
    "8.8.4.4",
    "8.8.8.8",
    "9.9.9.9",
    "9.9.9.10",
    "64.6.64.6",
    "64.6.65.6",
    "94.140.14.14",
    "94.140.15.15",
    "149.112.112.10",
    "149.112.112.112",
    "185.228.168.9",
    "208.67.220.220",
    "208.67.222.222",
    "2001:4860:4860::8844",
    "2001:4860:4860::8888",
    "2606:4700:4700::1001",
    "2606:4700:4700::1111",
    "2620:fe::fe",
];

/// The name servers that are asked: the file's, or the system's.
pub(super) fn name_servers(lists: Option<&dnsbl::Settings>) -> Vec<SocketAddr> {
    match lists {
        Some(lists) if !lists.nameservers.is_empty() => lists.nameservers.clone(),
        _ => {
            let system = tracing::dispatcher::with_default(&Dispatch::none(), system_conf::read_system_conf);
            let port = |server: &NameServerConfig| server.connections.first().map_or(53, |connection| connection.port);
            let servers = system.map(|(system, _)| {
                system.name_servers().iter().map(|server| SocketAddr::new(server.ip, port(server))).collect()
            });
            servers.unwrap_or_default()
        }
    }
}

/// The lists, and the name servers that they are asked through.
pub(super) async fn lists(settings: &dnsbl::Settings, out: &mut Findings) {
    let servers = name_servers(Some(settings));
    let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let shown = if shown.is_empty() { "none at all".to_owned() } else { shown.join(", ") };
    let public = servers.iter().find(|server| is_public(server.ip()));
    if let Some(server) = public {
        let what = format!("{} is a public resolver: most lists answer it with errors, or not at all", server.ip());
        let remedy =
            "run a resolver of your own on this host (unbound, knot-resolver), and name it in `dnsbl.nameservers`";
        out.warn(Topic::Resolver, what, remedy);
    }
    // However seldom the file has the lists tested: now is the time.
    let tested = dnsbl::Settings { self_test: Duration::from_secs(24 * 60 * 60), ..settings.clone() };
    let dnsbl = match Dnsbl::open(tested) {
        Ok(dnsbl) => dnsbl,
        Err(error) => {
            out.away(Topic::Resolver, error.to_string(), "see `dnsbl.nameservers`, or /etc/resolv.conf");
            return;
        }
    };
    let asked = dnsbl.examine(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
    // Each list has its self-test first: a handful of questions, each with its own time-out.
    let Ok(findings) = timeout(settings.timeout * 8 + PATIENCE, asked).await else {
        out.away(Topic::Resolver, format!("no end of questions to {shown}"), "see to the name servers");
        return;
    };
    let unheard = |finding: &Finding| matches!(finding.error, Some(Failure::Timeout | Failure::Network));
    if !findings.is_empty() && findings.iter().all(unheard) {
        let what = format!("no list answers through {shown}: is that a name server, and does it run?");
        out.away(
            Topic::Resolver,
            what,
            "see to `dnsbl.nameservers`, or /etc/resolv.conf; meanwhile lists count for nothing",
        );
        return;
    }
    let quickest = findings.iter().map(|finding| finding.took).min().unwrap_or_default();
    out.fine(Topic::Resolver, format!("{shown} answers, within {} ms at the best", quickest.as_millis()));
    for finding in &findings {
        tell_list(finding, out);
    }
}

fn tell_list(finding: &Finding, out: &mut Findings) {
    let list = &finding.display;
    let trouble = match (&finding.error, &finding.doubt) {
        (Some(failure), _) => Some(failure.to_string()),
        (None, Some(reason)) => Some(reason.to_string()),
        (None, None) => None,
    };
    match trouble {
        Some(trouble) => {
            let (what, remedy) = trouble.rsplit_once("; ").unwrap_or((&trouble, "see to its name, or remove it"));
            out.warn(Topic::Lists, format!("{list} counts for nothing: {what}"), remedy);
        }
        None if finding.took > SLOW => {
            let what = format!("{list} is well, but slow: {} ms", finding.took.as_millis());
            out.warn(Topic::Lists, what, "strangers wait for it; run a resolver of your own, or remove the list");
        }
        None => out.fine(Topic::Lists, format!("{list} is well: {} ms", finding.took.as_millis())),
    }
}

fn is_public(ip: IpAddr) -> bool {
    PUBLIC.iter().any(|public| public.parse() == Ok(ip))
}

/// The name servers by which clients' host names are found, for an MTA that is told them: each is asked for one.
pub(super) async fn names(settings: &dns::names::Settings, out: &mut Findings) {
    const REMEDY: &str = "see to `dns.nameservers`, or /etc/resolv.conf; meanwhile the MTA is told that nobody knows the \
                          client's name, and may put clients off for that";
    let servers = if settings.nameservers.is_empty() { name_servers(None) } else { settings.nameservers.clone() };
    let mut answers = Vec::new();
    let mut silent = Vec::new();
    for &server in servers.iter().take(SERVERS) {
        let begin = Instant::now();
        match ask_for_a_name(server).await {
            true => answers.push((server.to_string(), begin.elapsed())),
            false => silent.push(server.to_string()),
        }
    }
    let Some(slowest) = answers.iter().map(|(_, took)| *took).max() else {
        let silent = if silent.is_empty() { "there is none".to_owned() } else { silent.join(", ") };
        return out.away(Topic::Resolver, format!("no name server finds the names of clients: {silent}"), REMEDY);
    };
    if !silent.is_empty() {
        let what = format!("{} does not answer, and is asked for the names of clients", silent.join(", "));
        out.warn(Topic::Resolver, what, REMEDY);
    }
    let shown: Vec<&str> = answers.iter().map(|(server, _)| server.as_str()).collect();
    let what = format!("{} finds the names of clients, within {} ms", shown.join(", "), slowest.as_millis());
    if slowest > SLOW {
        out.warn(Topic::Resolver, what, "clients wait for it once they have passed; run a resolver of your own");
    } else {
        out.fine(Topic::Resolver, what);
    }
}

/// Whether this name server answers where a client's name is asked for. Nobody has the address (RFC 5737), and resolvers
/// know that by themselves (RFC 6303): that there is no name is the answer.
async fn ask_for_a_name(server: SocketAddr) -> bool {
    let Some(resolver) = resolver(&[server]) else { return false };
    let nobody = Name::from(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    look_up(&resolver, &nobody.to_ascii(), RecordType::PTR).await.is_some()
}

/// The gate's name: whether the DNS has it, and whether it is this host's. Senders find us by MX, so all of it is only
/// worth a note.
pub(super) async fn host_name(hostname: &str, servers: &[SocketAddr], out: &mut Findings) {
    let remedy =
        "`hostname` should be the name that the MX records lead to, and the PTR record of its address the same name";
    let Some(resolver) = resolver(servers) else {
        out.note(
            Topic::Name,
            format!("{hostname} cannot be looked up: there is no name server"),
            "see /etc/resolv.conf",
        );
        return;
    };
    let begin = Instant::now();
    let (v4, v6) =
        tokio::join!(look_up(&resolver, hostname, RecordType::A), look_up(&resolver, hostname, RecordType::AAAA),);
    let answered = v4.is_some() || v6.is_some();
    let addresses: Vec<IpAddr> = v4.iter().chain(&v6).flatten().filter_map(address).take(8).collect();
    if !answered {
        let what = format!("no name server knows whether there is a {hostname}");
        return out.note(Topic::Name, what, "see to `dnsbl.nameservers`, or /etc/resolv.conf");
    }
    if addresses.is_empty() {
        return out.note(Topic::Name, format!("the DNS has no address for {hostname}"), remedy);
    }
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut what = format!("{hostname} is {} (asked in {} ms)", shown.join(", "), begin.elapsed().as_millis());
    if !addresses.iter().any(|&ip| is_ours(ip)) {
        what.push_str(", none of which this host has");
        return out.note(Topic::Name, what, "fine behind NAT or a load balancer; otherwise see `hostname`");
    }
    let mut unnamed = Vec::new();
    for &ip in addresses.iter().filter(|ip| !ip.is_loopback()) {
        let names = look_up(&resolver, Name::from(ip).to_ascii().as_str(), RecordType::PTR).await;
        let names: Vec<String> = names.iter().flatten().filter_map(pointer).collect();
        if !names.iter().any(|name| name.eq_ignore_ascii_case(hostname)) {
            let names: Vec<String> = names.iter().take(4).map(|name| escape(name.as_bytes(), 100)).collect();
            unnamed.push(format!(
                "{ip} is called {}",
                if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
            ));
        }
    }
    if unnamed.is_empty() {
        out.fine(Topic::Name, what);
    } else {
        let remedy =
            "matters if mail leaves by this address too: have its PTR record say the name that is used in EHLO";
        out.note(Topic::Name, format!("{what}, and {}", unnamed.join(", ")), remedy);
    }
}

fn resolver(servers: &[SocketAddr]) -> Option<TokioResolver> {
    if servers.is_empty() {
        return None;
    }
    let servers = servers.iter().map(|server| {
        let mut udp = ConnectionConfig::udp();
        udp.port = server.port();
        let mut tcp = ConnectionConfig::tcp();
        tcp.port = server.port();
        NameServerConfig::new(server.ip(), true, vec![udp, tcp])
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().ok()
}

/// The records of a name; nothing if there is no answer that counts.
async fn look_up(resolver: &TokioResolver, name: &str, kind: RecordType) -> Option<Vec<RData>> {
    let mut name = Name::from_str(name).ok()?;
    // No search list is to be tried.
    name.set_fqdn(true);
    let asked = resolver.lookup(name, kind).with_subscriber(Dispatch::none());
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Some(answer.answers().iter().map(|record| record.data.clone()).collect()),
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(_)))) => Some(Vec::new()),
        _ => None,
    }
}

fn address(record: &RData) -> Option<IpAddr> {
    match record {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn pointer(record: &RData) -> Option<String> {
    match record {
        RData::PTR(name) => Some(name.0.to_ascii().trim_end_matches('.').to_owned()),
        _ => None,
    }
}

/// Whether this host has the address: only then can it be bound.
pub(super) fn is_ours(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_resolvers_are_known() {
        assert!(PUBLIC.iter().all(|ip| ip.parse().is_ok_and(is_public)));
        assert!(!is_public("127.0.0.53".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_with_a_list_is_parted_from_its_remedy() {
        let of = |error, doubt| {
            let mut out = Findings::default();
            let finding = Finding {
                display: "bl.test".to_owned(),
                weight: 1,
                answers: Vec::new(),
                counted: false,
                took: Duration::from_millis(3),
                error,
                doubt,
            };
            tell_list(&finding, &mut out);
            out.0.pop().unwrap()
        };
        assert_eq!(of(None, None).what, "bl.test is well: 3 ms");
        for failure in Failure::ALL {
            let found = of(Some(failure), None);
            assert!(found.what.starts_with("bl.test counts for nothing: ") && found.remedy.len() > 10, "{found:?}");
        }
        let closed = of(None, Some(dnsbl::Reason::TestNotListed));
        assert!(closed.what.contains("127.0.0.2") && closed.remedy.contains("remove it"), "{closed:?}");
    }
}
