//! Transparent source: the backend is connected to *from the client's own address*, so that an MTA which takes no PROXY
//! header and no XCLIENT still sees on its socket who the client is. The source port is a new one.
//!
//! The kernel grants an address that is not ours (`IP_TRANSPARENT`, `IPV6_TRANSPARENT`) to those with the capability to
//! ask for it. That what the backend sends to that address comes back to this host, and is taken for its own, is for
//! the routes around us (`deploy/transparent-routes.sh`): if it does not come back, connections time out, and the
//! prober finds out whether that is why.
//!
//! | the client is at | the connection comes from |
//! | --- | --- |
//! | an address of the backend's family | that address, this host's own included: who is there, is on this host |
//! | an address of the other family | nowhere: [`Unshown::Family`] |
//! | loopback, and so is the backend | that address |
//! | loopback otherwise, a link-local address, no host's (`0.0.0.0`, multicast, broadcast) | nowhere: [`Unshown::Local`] |
//! | the backend's own address, which is not on this host | nowhere: [`Unshown::Itself`]; the backend drops what claims to come from itself |
//!
//! Nowhere means 421. It is never gatepost's own address instead: the backend would take gatepost for the client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::{Announce, Backend, Failure, Settings};

/// How long one complaint is enough, however many visits have the same trouble.
const ENOUGH: Duration = Duration::from_secs(60 * 60);

/// Why no connection to the backend can come from the client's address. Waiting would not help.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unshown {
    /// The backend has no address of the client's family.
    #[error("it has no {0} address, as the client has: give its name one, or do not listen on {0}")]
    Family(Family),
    /// Beyond its host or its link, the client's address means nothing.
    #[error("the client's address means nothing to another host, which could not answer it")]
    Local,
    /// The client's address is the backend's own.
    #[error("the client is at the backend's own address, and the backend would not believe what comes from there")]
    Itself,
}

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The system does not let us connect from clients' addresses.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot connect from clients' addresses, as announce = \"transparent\" asks for: {0}; that needs the capability \
     CAP_NET_RAW or CAP_NET_ADMIN: add it to AmbientCapabilities= and CapabilityBoundingSet= in the service, or \
     `setcap cap_net_bind_service,cap_net_raw+ep` the program, or be root"
)]
pub struct NotPermitted(#[source] io::Error);

/// Whether this process may connect to these backends in the way that they are announced to; tried with a socket that
/// goes nowhere.
pub fn permitted<'a>(backends: impl IntoIterator<Item = &'a Settings>) -> Result<(), NotPermitted> {
    if backends.into_iter().all(|backend| backend.announce != Announce::Transparent) {
        return Ok(());
    }
    // Both families ask for the same capability; IPv4 is there on each host.
    let scratch = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    scratch.and_then(|socket| socket.set_ip_transparent_v4(true)).map_err(NotPermitted)
}

/// Connects to `backend`, which is of the client's family, from `client`.
pub(super) async fn connect(client: IpAddr, backend: SocketAddr) -> Result<TcpStream, Failure> {
    judge(client, backend.ip())?;
    let socket = bind(client, backend.ip())?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(backend).await.map_err(Failure::Connect)?;
    // Bound to a broadcast address, which only a header of a proxy can claim, the kernel connects from one of ours.
    match stream.local_addr() {
        Ok(source) if source.ip() == client => Ok(stream),
        Ok(_) => Err(Unshown::Local.into()),
        Err(error) => Err(Failure::Connect(error)),
    }
}

/// Whether a connection from `client` to `backend` could be answered at all, as far as the addresses tell.
fn judge(client: IpAddr, backend: IpAddr) -> Result<(), Unshown> {
    let nobody = client.is_unspecified() || client.is_multicast();
    let near = match client {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    match Family::of(client) {
        family if family != Family::of(backend) => Err(Unshown::Family(family)),
        _ if nobody || near || client.is_loopback() && !backend.is_loopback() => Err(Unshown::Local),
        _ => Ok(()),
    }
}

/// A socket at the client's address and a port of the kernel's choice.
fn bind(client: IpAddr, backend: IpAddr) -> Result<Socket, Failure> {
    let socket = Socket::new(Domain::for_address((client, 0).into()), Type::STREAM, Some(Protocol::TCP))
        .map_err(Failure::Connect)?;
    // What is certainly on this host is ours without asking; and what should be, if the backend has it too.
    let ours = client.is_loopback() || client == backend;
    let bound = match client {
        _ if ours => Ok(()),
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
    .and_then(|()| socket.set_nonblocking(true))
    .and_then(|()| socket.bind(&SocketAddr::new(client, 0).into()));
    match bound {
        Ok(()) => Ok(socket),
        Err(error) if ours && error.raw_os_error() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) => {
            Err(Unshown::Itself.into())
        }
        Err(error) => Err(Failure::Connect(error)),
    }
}

impl Failure {
    /// Whether what was sent from the client's address may have been answered, and the answer gone elsewhere.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::ConnectTimeout(_) => true,
            Self::Connect(error) => error.kind() == io::ErrorKind::TimedOut,
            _ => false,
        }
    }
}

/// What is known of the way that a backend's answers to clients take, and what has been said of it.
#[derive(Debug, Default)]
pub(super) struct WayBack {
    // Shared by the visits of all lanes and the prober; held for a comparison.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A client to whose address no answer came, since the backend was last asked whether it is there.
    unanswered: Option<IpAddr>,
    /// When the routes were last complained of.
    routes: Option<Instant>,
    /// When a family was.
    family: Option<Instant>,
}

impl WayBack {
    /// Nothing came back for `client`. Whether that is news to the prober.
    fn doubt(&self, client: IpAddr) -> bool {
        self.state.lock().unanswered.replace(client).is_none()
    }

    /// The backend has just answered gatepost itself, or has not. If it is the routes, and that is to be said now: for
    /// which client there was no answer.
    fn settle(&self, answers: bool) -> Option<IpAddr> {
        let mut state = self.state.lock();
        let client = state.unanswered.take().filter(|_| answers)?;
        is_due(&mut state.routes).then_some(client)
    }
}

/// Whether it is time to complain again; notes that this is done.
fn is_due(told: &mut Option<Instant>) -> bool {
    let due = told.is_none_or(|told| told.elapsed() >= ENOUGH);
    if due {
        *told = Some(Instant::now());
    }
    due
}

impl Backend {
    /// Nothing came back for `client`: has the backend probed soon.
    pub(super) fn doubt_way_back(&self, client: IpAddr) {
        if self.way_back.doubt(client) {
            self.lost.notify_one();
        }
    }

    /// Says what has to be mended if nothing came back for a client, while the backend has just answered gatepost itself.
    pub(super) fn settle_way_back(&self, answers: bool) {
        let Some(client) = self.way_back.settle(answers) else { return };
        tracing::warn!(
            backend = %self.settings.address, %client,
            "the backend answers gatepost itself, but not connections that come from clients' addresses: those clients \
             get 421. Its answers have to come back to this host, and be taken for its own: see Transparent source in \
             docs/operations.md, and deploy/transparent-routes.sh"
        );
    }

    /// Says that clients come who cannot be shown to the backend.
    pub(super) fn complain_of(&self, family: Family) {
        if is_due(&mut self.way_back.state.lock().family) {
            tracing::warn!(
                backend = %self.settings.address, %family,
                "clients of a family that the backend has no address of get 421: give its name one, or do not listen \
                 on that family"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::tests::settings;
    use crate::backend::{Presence, Visitor};

    #[test]
    fn whom_a_backend_could_answer() {
        let rows = [
            ("192.0.2.7", "198.51.100.25", Ok(())),
            ("192.0.2.7", "127.0.0.1", Ok(())),
            ("2001:db8::7", "2001:db8::25", Ok(())),
            ("2001:db8::7", "::1", Ok(())),
            ("127.0.0.1", "127.0.0.1", Ok(())),
            ("127.0.0.7", "127.0.0.1", Ok(())),
            ("::1", "::1", Ok(())),
            ("198.51.100.25", "198.51.100.25", Ok(())),
            ("2001:db8::7", "198.51.100.25", Err(Unshown::Family(Family::V6))),
            ("192.0.2.7", "2001:db8::25", Err(Unshown::Family(Family::V4))),
            ("127.0.0.1", "198.51.100.25", Err(Unshown::Local)),
            ("::1", "2001:db8::25", Err(Unshown::Local)),
            ("fe80::1", "2001:db8::25", Err(Unshown::Local)),
            ("0.0.0.0", "198.51.100.25", Err(Unshown::Local)),
            ("::", "2001:db8::25", Err(Unshown::Local)),
            ("255.255.255.255", "198.51.100.25", Err(Unshown::Local)),
            ("224.0.0.1", "198.51.100.25", Err(Unshown::Local)),
            ("ff02::1", "2001:db8::25", Err(Unshown::Local)),
        ];
        for (client, backend, expected) in rows {
            assert_eq!(judge(client.parse().unwrap(), backend.parse().unwrap()), expected, "{client} {backend}");
        }
    }

    /// Not even as far as the kernel, whose error would be taken for the backend's absence.
    #[tokio::test]
    async fn for_whom_a_backend_could_not_answer_it_is_not_connected_to() {
        for client in ["127.0.0.7", "224.0.0.1", "0.0.0.0"] {
            let failure = connect(client.parse().unwrap(), "192.0.2.25:25".parse().unwrap()).await.unwrap_err();
            assert!(matches!(failure, Failure::Unshown(Unshown::Local)), "{client}: {failure}");
            assert!(failure.is_ours());
        }
    }

    #[test]
    fn what_claims_to_come_from_the_backend_itself_is_not_sent() {
        // Not an address of this machine (RFC 5737).
        let elsewhere: IpAddr = "192.0.2.25".parse().unwrap();
        assert!(matches!(bind(elsewhere, elsewhere), Err(Failure::Unshown(Unshown::Itself))));
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(bind(here, here).is_ok(), "one host can be both");
    }

    #[tokio::test(start_paused = true)]
    async fn the_routes_are_complained_of_when_the_backend_is_there_and_once_an_hour() {
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let way = WayBack::default();
        assert!(way.doubt(client));
        assert!(!way.doubt(client), "one who asks is enough");
        assert_eq!(way.settle(false), None, "it was not there at all");
        for expected in [Some(client), None] {
            assert!(way.doubt(client));
            assert_eq!(way.settle(true), expected);
        }
        assert_eq!(way.settle(true), None, "nobody doubted");
        tokio::time::advance(ENOUGH).await;
        assert!(way.doubt(client));
        assert_eq!(way.settle(true), Some(client));
    }

    #[tokio::test]
    async fn a_backend_here_sees_where_a_client_here_comes_from() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = |client: &str| Visitor::new(client.parse().unwrap(), address);
        let backend = Backend::new(settings(address, Announce::Transparent));
        for (visitor, seen) in [
            (Some(client("127.0.0.7:40000")), "127.0.0.7"),
            (Some(client("[::ffff:127.0.0.8]:40000")), "127.0.0.8"),
            (None, "127.0.0.1"),
        ] {
            let (dialled, accepted) = tokio::join!(backend.dial(visitor), listener.accept());
            dialled.unwrap();
            let (_, peer) = accepted.unwrap();
            assert_eq!(peer.ip().to_string(), seen);
            assert_ne!(peer.port(), 40000, "the client's own port is in use on the other side");
        }
        for (visitor, why) in [
            ("[2001:db8::7]:40000", Unshown::Family(Family::V6)),
            // The kernel takes it for the broadcast address of loopback, and would put 127.0.0.1 in its place.
            ("127.255.255.255:40000", Unshown::Local),
        ] {
            let failed = backend.dial(Some(client(visitor))).await;
            assert!(matches!(failed, Err(Failure::Unshown(said)) if said == why), "{failed:?}");
        }
        assert_eq!(backend.presence(), Presence::Unknown, "that says nothing of the backend");
    }
}
