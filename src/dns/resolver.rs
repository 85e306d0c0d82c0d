//! Asks name servers: hickory, held to one question and one deadline.
//!
//! Promises: a lookup is over within its time-out, whatever happens; each costs one datagram, and one question over TCP
//! if the answer was cut short, because lists are paid by the question; nothing is looked up in a hosts file or with a
//! search list, and nothing is remembered here. Questions under way at the same time for the same name are one.
//!
//! hickory would send a datagram again, up to three times within a lookup, and it logs names at every level, up to
//! errors. A zone may hold a paid key, so what hickory does is done where no subscriber listens: the lookups here
//! ([`Resolver::ask`]) and the tasks that it starts ([`Quiet`]).

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverOpts};
use hickory_resolver::net::runtime::{RuntimeProvider, Spawn, TokioHandle, TokioRuntimeProvider};
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{ConnectionProvider, NameServerPool, PoolContext, TlsConfig, system_conf};
use tokio::time::timeout;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::Failure;

/// How many questions may be under way on one TCP connection; hickory's own 32 are few when answers are cut short often.
const TCP_QUESTIONS: usize = 256;

/// What a name has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer<T> {
    /// None if the name does not exist, or has none.
    pub(crate) records: Vec<T>,
    /// For how many seconds they (or the lack of them) hold, if the answer says so.
    pub(crate) ttl: Option<u32>,
}

/// Asks name servers.
pub(crate) struct Resolver {
    pool: NameServerPool<OneDatagram>,
    timeout: Duration,
}

impl Resolver {
    /// For these name servers, or the machine's own if there are none.
    pub(crate) fn new(nameservers: &[SocketAddr], timeout: Duration) -> Result<Self, NetError> {
        let servers: Vec<(IpAddr, u16)> = if nameservers.is_empty() {
            let (system, _) = system_conf::read_system_conf()?;
            let port = |server: &NameServerConfig| server.connections.first().map_or(53, |connection| connection.port);
            system.name_servers().iter().map(|server| (server.ip, port(server))).collect()
        } else {
            nameservers.iter().map(|server| (server.ip(), server.port())).collect()
        };
        if servers.is_empty() {
            return Err(NetError::NoConnections);
        }
        let servers = servers.into_iter().map(|(ip, port)| {
            let mut udp = ConnectionConfig::udp();
            udp.port = port;
            let mut tcp = ConnectionConfig::tcp();
            tcp.port = port;
            // "Not listed" is the usual answer: it is believed, not asked again elsewhere.
            NameServerConfig::new(ip, true, vec![udp, tcp])
        });
        let mut options = ResolverOpts::default();
        // A little less than ours, so that hickory sees the time-out and turns to another name server next time.
        options.timeout = timeout - timeout / 20;
        options.attempts = 0;
        options.num_concurrent_reqs = 1;
        options.max_active_requests = TCP_QUESTIONS;
        let setting = Arc::new(PoolContext::new(options, TlsConfig::new()?));
        Ok(Self { pool: NameServerPool::from_config(servers, setting, OneDatagram::default()), timeout })
    }

    /// The IPv4 addresses of `name`, which is asked for as it stands.
    pub(crate) async fn addresses(&self, name: Name) -> Result<Answer<Ipv4Addr>, Failure> {
        let address = |record: &RData| if let RData::A(address) = record { Some(address.0) } else { None };
        self.ask(Query::query(name, RecordType::A), address).await
    }

    /// What `pick` takes out of the answer to `query`.
    pub(crate) async fn ask<T>(&self, query: Query, pick: impl Fn(&RData) -> Option<T>) -> Result<Answer<T>, Failure> {
        let ask = async { self.pool.lookup(query, DnsRequestOptions::default()).first_answer().await };
        match timeout(self.timeout, ask.with_subscriber(Dispatch::none())).await {
            Ok(answer) => read(answer, pick),
            Err(_) => Err(Failure::Timeout),
        }
    }
}

/// Reads what hickory brings.
fn read<T>(answer: Result<DnsResponse, NetError>, pick: impl Fn(&RData) -> Option<T>) -> Result<Answer<T>, Failure> {
    match answer {
        Ok(message) if matches!(message.response_code, ResponseCode::NoError | ResponseCode::NXDomain) => {
            let records = message.answers.iter().filter_map(|record| Some((pick(&record.data)?, record.ttl)));
            let (records, ttls): (Vec<_>, Vec<_>) = records.unzip();
            let ttl = ttls.into_iter().min().or_else(|| message.negative_ttl());
            Ok(Answer { records, ttl })
        }
        Ok(_) => Err(Failure::Malformed),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            Ok(Answer { records: Vec::new(), ttl: none.negative_ttl })
        }
        Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail))) => Err(Failure::ServFail),
        Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused))) => Err(Failure::Refused),
        Err(NetError::Timeout) => Err(Failure::Timeout),
        Err(NetError::Io(_) | NetError::NoConnections | NetError::Busy) => Err(Failure::Network),
        Err(_) => Err(Failure::Malformed),
    }
}

/// Connects to name servers as hickory does, but for the datagrams that it would send again.
#[derive(Clone, Default)]
struct OneDatagram(Quiet);

impl ConnectionProvider for OneDatagram {
    type Conn = DnsExchange<Quiet>;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Self::Conn, NetError>> + Send>>;
    type RuntimeProvider = Quiet;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        setting: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        if config.protocol != ProtocolConfig::Udp {
            return self.0.new_connection(ip, config, setting);
        }
        let exchange = UdpClientStream::builder(SocketAddr::new(ip, config.port), self.0.clone())
            .with_timeout(Some(setting.options.timeout))
            .with_max_retries(0)
            .exchange();
        Ok(Box::pin(std::future::ready(Ok(exchange))))
    }

    fn runtime_provider(&self) -> &Self::RuntimeProvider {
        &self.0
    }
}

/// The tokio runtime, where the tasks that hickory starts have no subscriber.
#[derive(Clone, Default)]
struct Quiet(TokioRuntimeProvider);

impl RuntimeProvider for Quiet {
    type Handle = QuietHandle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        QuietHandle(self.0.create_handle())
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        self.0.connect_tcp(server, local, timeout)
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        self.0.bind_udp(local, server)
    }
}

/// Starts tasks for [`Quiet`].
#[derive(Clone)]
struct QuietHandle(TokioHandle);

impl Spawn for QuietHandle {
    fn spawn_bg(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn_bg(task.with_subscriber(Dispatch::none()));
    }
}
