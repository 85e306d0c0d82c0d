//! Connections to the store: one server, the master that sentinels name, or a cluster.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, TlsCertificates,
    TlsMode, Value,
};
use tokio::sync::mpsc;

use super::news::LONGEST;
use super::settings::{Address, Kind, Settings};

/// How long a connection may take to come about, and an answer that nobody waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// A connection for commands. Clones share it.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(link) => link.req_packed_command(cmd),
            Self::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(link) => link.req_packed_commands(pipeline, offset, count),
            Self::Cluster(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(link) => link.get_db(),
            Self::Cluster(link) => link.get_db(),
        }
    }
}

/// A node that holds keys of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Master {
    /// The only one.
    Only,
    /// One of a cluster.
    At(String, u16),
}

impl Link {
    /// The nodes that hold keys.
    pub(super) async fn masters(&mut self) -> RedisResult<Vec<Master>> {
        if let Self::One(_) = self {
            return Ok(vec![Master::Only]);
        }
        let slots: Vec<Vec<Value>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(self).await?;
        let mut masters = Vec::new();
        for range in slots {
            // First slot, last slot, the master, its replicas; a node is an address, a port, and more.
            if let Some(Value::Array(node)) = range.into_iter().nth(2)
                && let [host, port, ..] = node.as_slice()
            {
                let master = Master::At(redis::from_redis_value(host.clone())?, redis::from_redis_value(port.clone())?);
                if !masters.contains(&master) {
                    masters.push(master);
                }
            }
        }
        Ok(masters)
    }

    /// Asks one node.
    pub(super) async fn ask<T: redis::FromRedisValue>(&mut self, master: &Master, command: Cmd) -> RedisResult<T> {
        match (self, master) {
            (Self::Cluster(link), Master::At(host, port)) => {
                let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                let value = link.route_command(command, RoutingInfo::SingleNode(node)).await?;
                Ok(redis::from_redis_value(value)?)
            }
            (link, _) => command.query_async(link).await,
        }
    }
}

/// Both connections of a host.
pub(super) struct Connected {
    /// For commands.
    pub(super) link: Link,
    /// For what other hosts tell: it has subscribed.
    pub(super) news: MultiplexedConnection,
}

/// Connects, and subscribes to `channel`. What is told there goes to `told`; when it is full, that connection ends.
pub(super) async fn connect(
    settings: &Settings,
    channel: &str,
    told: mpsc::Sender<PushInfo>,
) -> RedisResult<Connected> {
    match &settings.kind {
        Kind::Single => {
            let (client, link) = first(settings).await?;
            Ok(Connected { link: Link::One(link), news: subscribe(&client, channel, told).await? })
        }
        Kind::Sentinel { master } => {
            let client = ask_sentinels(settings, master).await?;
            let link = client.get_multiplexed_async_connection_with_config(&patient()).await?;
            Ok(Connected { link: Link::One(link), news: subscribe(&client, channel, told).await? })
        }
        Kind::Cluster => {
            let link = cluster(settings).await?;
            // What is published at one node is told at all of them.
            let (client, probe) = first(settings).await?;
            drop(probe);
            Ok(Connected { link: Link::Cluster(link), news: subscribe(&client, channel, told).await? })
        }
    }
}

fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE))
}

/// The first of the servers that answers.
async fn first(settings: &Settings) -> RedisResult<(Client, MultiplexedConnection)> {
    let mut failed = RedisError::from((ErrorKind::InvalidClientConfig, "no servers are named"));
    for address in &settings.servers {
        let client = client(settings, address)?;
        match client.get_multiplexed_async_connection_with_config(&patient()).await {
            Ok(link) => return Ok((client, link)),
            Err(reason) => failed = reason,
        }
    }
    Err(failed)
}

async fn subscribe(client: &Client, channel: &str, told: mpsc::Sender<PushInfo>) -> RedisResult<MultiplexedConnection> {
    // Whoever cannot keep up must not fill our memory: the end of the channel ends the connection, and all is read anew.
    let told = parking_lot::Mutex::new(Some(told));
    let push = move |mut push: PushInfo| {
        // What is too long to be read takes no room either.
        if let Some(Value::BulkString(message)) = push.data.get_mut(1)
            && message.len() > LONGEST
        {
            *message = Vec::new();
        }
        let mut told = told.lock();
        if push.kind == PushKind::Disconnection || told.as_ref().is_some_and(|told| told.try_send(push).is_err()) {
            *told = None;
        }
        if told.is_some() { Ok(()) } else { Err(()) }
    };
    let mut news = client.get_multiplexed_async_connection_with_config(&patient().set_push_sender(push)).await?;
    news.subscribe(channel).await?;
    Ok(news)
}

fn client(settings: &Settings, address: &Address) -> RedisResult<Client> {
    let connection = info(settings, address)?;
    match certificates(settings) {
        Some(certificates) => Client::build_with_tls(connection, certificates),
        None => Client::open(connection),
    }
}

fn info(settings: &Settings, address: &Address) -> RedisResult<ConnectionInfo> {
    Ok(address_of(settings, address).into_connection_info()?.set_redis_settings(login(settings)))
}

fn login(settings: &Settings) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
    if settings.kind != Kind::Cluster {
        login = login.set_db(settings.database.into());
    }
    if let Some(user) = &settings.user {
        login = login.set_username(user);
    }
    match &settings.password {
        Some(password) => login.set_password(password.reveal()),
        None => login,
    }
}

fn address_of(settings: &Settings, address: &Address) -> ConnectionAddr {
    match (address, &settings.tls) {
        (Address::Unix(path), _) => ConnectionAddr::Unix(path.clone()),
        (Address::Tcp(host, port), None) => ConnectionAddr::Tcp(host.clone(), *port),
        (Address::Tcp(host, port), Some(_)) => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
    }
}

fn certificates(settings: &Settings) -> Option<TlsCertificates> {
    settings.tls.as_ref().map(|tls| TlsCertificates { client_tls: None, root_cert: tls.authority.clone() })
}

async fn ask_sentinels(settings: &Settings, master: &str) -> RedisResult<Client> {
    let plain = Settings { tls: None, ..settings.clone() };
    let sentinels = settings.servers.iter().map(|address| address_of(&plain, address));
    let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)?
        .set_client_to_redis_protocol(ProtocolVersion::RESP3)
        .set_client_to_redis_db(settings.database.into());
    if let Some(user) = &settings.user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &settings.password {
        builder = builder.set_client_to_redis_password(password.reveal());
    }
    if let Some(certificates) = certificates(settings) {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates);
    }
    builder.build()?.async_get_client().await
}

async fn cluster(settings: &Settings) -> RedisResult<ClusterConnection> {
    let nodes = settings.servers.iter().map(|address| info(settings, address)).collect::<RedisResult<Vec<_>>>()?;
    let mut builder = ClusterClientBuilder::new(nodes)
        .use_protocol(ProtocolVersion::RESP3)
        .connection_timeout(PATIENCE)
        .response_timeout(PATIENCE)
        .overall_response_timeout(Some(PATIENCE))
        .retries(3);
    if let Some(certificates) = certificates(settings) {
        builder = builder.tls(TlsMode::Secure).certs(certificates);
    }
    builder.build()?.get_async_connection().await
}
