//! Where addresses of one file collide: two listeners on one port, or a backend that is gatepost itself.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::gate::GateEntry;
use super::inspection::{Inspection, Wrong};

/// Reports every collision among the gates and the admin address.
pub(super) fn judge(gates: &[GateEntry], admin: Option<&Spanned<SocketAddr>>, inspection: &Inspection) {
    judge_names(gates, inspection);
    let listeners: Vec<&Spanned<SocketAddr>> = gates.iter().flat_map(|gate| &gate.listen).chain(admin).collect();
    for (index, listener) in listeners.iter().enumerate() {
        let taken = |earlier: &&&Spanned<SocketAddr>| collide(*earlier.get_ref(), *listener.get_ref());
        if let Some(first) = listeners.iter().take(index).find(taken) {
            let cause = format!("{} is listened on already", listener.get_ref());
            let wrong = Wrong::new(cause, "give each a port of its own, or take one of the two out");
            inspection.error_with(listener.span(), wrong, first.span(), "here");
        }
    }
    for backend in gates.iter().filter_map(|gate| gate.backend.as_ref()) {
        if let Some(listener) = listeners.iter().find(|listener| reaches(backend.get_ref(), listener.get_ref())) {
            let cause = format!("{:?} is gatepost itself: mail would go round in circles", backend.get_ref());
            let remedy = "have the mail server listen on another port, such as 127.0.0.1:2525, and name that";
            inspection.error_with(backend.span(), Wrong::new(cause, remedy), listener.span(), "gatepost listens here");
        }
    }
}

fn judge_names(gates: &[GateEntry], inspection: &Inspection) {
    let mut first: HashMap<&str, &GateEntry> = HashMap::new();
    for gate in gates {
        if let Some(earlier) = first.get(gate.name()) {
            let wrong = Wrong::new(
                format!("two gates are called {:?}", gate.name()),
                "add a `name` of its own, such as name = \"mx-2\"",
            );
            inspection.error_with(gate.name_span(), wrong, earlier.name_span(), "the first one");
        }
        first.entry(gate.name()).or_insert(gate);
    }
}

/// Whether two listeners get in each other's way. IPv6 listeners take no IPv4 clients, so that families are apart; port
/// 0 is a different one each time.
fn collide(left: SocketAddr, right: SocketAddr) -> bool {
    let (a, b) = (left.ip(), right.ip());
    let same_address = a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()));
    left.port() != 0 && left.port() == right.port() && same_address
}

/// Whether connecting to `backend` from this machine reaches `listener`.
fn reaches(backend: &str, listener: &SocketAddr) -> bool {
    let here = |ip: IpAddr| ip.is_loopback() && listener.ip().is_unspecified() && ip.is_ipv4() == listener.is_ipv4();
    if let Ok(backend) = backend.parse::<SocketAddr>() {
        return backend.port() == listener.port() && (backend.ip() == listener.ip() || here(backend.ip()));
    }
    let local = listener.ip().is_loopback() || listener.ip().is_unspecified();
    let named = backend.rsplit_once(':').filter(|(host, _)| host.eq_ignore_ascii_case("localhost"));
    named.is_some_and(|(_, port)| local && port.parse() == Ok(listener.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn listeners_collide_within_a_family_and_port() {
        let table = [
            ("0.0.0.0:25", "0.0.0.0:25", true),
            ("0.0.0.0:25", "192.0.2.1:25", true),
            ("192.0.2.2:25", "192.0.2.1:25", false),
            ("0.0.0.0:25", "[::]:25", false),
            ("[::]:25", "[2001:db8::1]:25", true),
            ("0.0.0.0:25", "0.0.0.0:587", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ];
        for (left, right, expected) in table {
            assert_eq!(collide(socket(left), socket(right)), expected, "{left} {right}");
            assert_eq!(collide(socket(right), socket(left)), expected, "{right} {left}");
        }
    }

    #[test]
    fn backends_that_are_gatepost() {
        let table = [
            ("127.0.0.1:25", "0.0.0.0:25", true),
            ("127.0.0.1:25", "127.0.0.1:25", true),
            ("127.0.0.1:25", "[::]:25", false),
            ("[::1]:25", "[::]:25", true),
            ("127.0.0.1:2525", "0.0.0.0:25", false),
            ("192.0.2.1:25", "0.0.0.0:25", false),
            ("localhost:25", "0.0.0.0:25", true),
            ("localhost:25", "192.0.2.1:25", false),
            ("mail.example.org:25", "0.0.0.0:25", false),
        ];
        for (backend, listener, expected) in table {
            assert_eq!(reaches(backend, &socket(listener)), expected, "{backend} {listener}");
        }
    }
}
