//! `proxy_from`: the load balancers whose PROXY headers a gate believes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;

use super::inspection::{Inspection, Wrong};
use super::limits::TimeoutsEntry;
use super::table::Table;
use super::values;
use crate::session::Proxies;

/// What the file says of the load balancers in front of a gate.
#[derive(Debug)]
pub(super) struct ProxiesEntry {
    from: Option<Spanned<Vec<Spanned<IpNet>>>>,
}

impl ProxiesEntry {
    /// Reads `proxy_from`.
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let from = table.list("proxy_from", values::network);
        if let Some(empty) = from.as_ref().filter(|_| table.items("proxy_from") == 0) {
            let remedy =
                "name the load balancers' addresses, or take it out if clients connect to this gate themselves";
            table.inspection().error(empty.span(), Wrong::new("`proxy_from` names nobody who could connect", remedy));
        }
        Self { from }
    }

    /// Whether there are any.
    pub(super) fn is_there(&self) -> bool {
        self.from.is_some()
    }

    /// Reports networks that would let strangers say who they are; `listen` is where the gate can be reached.
    pub(super) fn judge(&self, listen: &[Spanned<SocketAddr>], inspection: &Inspection) {
        let Some(from) = &self.from else { return };
        let networks: Vec<IpNet> = from.get_ref().iter().map(|network| *network.get_ref()).collect();
        // Two halves are the whole too.
        if let Some(all) = IpNet::aggregate(&networks).into_iter().find(|network| network.prefix_len() == 0) {
            let cause = format!("{all} is everybody: whoever connects could claim any address, an allowed one too");
            let remedy = "name the load balancers' own addresses, such as proxy_from = [\"10.0.0.5\", \"10.0.0.6\"]";
            inspection.error(from.span(), Wrong::new(cause, remedy));
            return;
        }
        let is_public = |socket: &Spanned<SocketAddr>| {
            let ip = socket.get_ref().ip();
            ip.is_unspecified() || !is_private(IpNet::from(ip))
        };
        if !listen.iter().any(is_public) {
            return;
        }
        for network in from.get_ref() {
            let one_host = network.get_ref().prefix_len() == network.get_ref().max_prefix_len();
            if !one_host && !is_private(*network.get_ref()) {
                let cause = format!("whoever is in {} can claim any address here, from outside", network.get_ref());
                let remedy = "name the load balancers' own addresses, or listen only where nobody else can connect";
                inspection.warning(network.span(), Wrong::new(cause, remedy));
            }
        }
    }

    /// Who announces the clients of a gate, if anybody does. Warns of a wait that is set in vain.
    pub(super) fn proxies(
        &self,
        own: &TimeoutsEntry,
        above: &TimeoutsEntry,
        inspection: &Inspection,
    ) -> Option<Arc<Proxies>> {
        let Some(from) = &self.from else {
            own.judge_proxy(inspection);
            return None;
        };
        let from = from.get_ref().iter().map(|network| *network.get_ref()).collect();
        Some(Arc::new(Proxies { from, patience: own.proxy(above) }))
    }
}

/// Whether all of a network is where the internet does not reach.
fn is_private(network: IpNet) -> bool {
    const V4: [(Ipv4Addr, u8); 6] = [
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
    ];
    const V6: [(Ipv6Addr, u8); 3] = [
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        (Ipv6Addr::LOCALHOST, 128),
    ];
    let v4 = V4.iter().map(|&(ip, length)| IpNet::from(Ipv4Net::new_assert(ip, length)));
    let v6 = V6.iter().map(|&(ip, length)| IpNet::from(Ipv6Net::new_assert(ip, length)));
    v4.chain(v6).any(|private| private.contains(&network))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn private_is_what_lies_within_a_private_network() {
        for (network, expected) in [
            ("10.0.0.0/8", true),
            ("10.1.2.3/32", true),
            ("8.0.0.0/6", false),
            ("172.16.0.0/12", true),
            ("172.0.0.0/8", false),
            ("192.168.7.0/24", true),
            ("192.0.2.0/24", false),
            ("127.0.0.1/32", true),
            ("fd00::/8", true),
            ("fe80::/64", true),
            ("::1/128", true),
            ("::/8", false),
            ("2001:db8::/32", false),
        ] {
            assert_eq!(is_private(network.parse().unwrap()), expected, "{network}");
        }
    }

    #[test]
    fn an_ip_is_public_or_not() {
        let public = |ip: &str| !is_private(IpNet::from(ip.parse::<IpAddr>().unwrap()));
        assert!(public("198.51.100.25") && public("2001:db8::25"));
        assert!(!public("127.0.0.1") && !public("10.0.0.25") && !public("::1"));
    }
}
