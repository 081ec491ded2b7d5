//! How a connection is made: to one server, to a cluster, or to the master that sentinels know.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisError, TlsCertificates, Value,
    aio::MultiplexedConnection,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    cmd, from_redis_value_ref,
};
use tokio::time::timeout;

use super::{
    Error, SetupError,
    connection::{Connection, Link, Nodes},
    url::{Master, Place, place},
};

/// Where a server listens.
pub(super) type Address = (String, u16);

/// The way to Redis.
pub(super) enum Way {
    /// One server.
    One(Client),
    /// A cluster, and the nodes of it that are known.
    Cluster(Box<ClusterClient>, Vec<Client>),
    /// A master that moves.
    Sentinel(Sentinels),
}

/// The authorities that servers with TLS must have a certificate of, in PEM form; those of the system if there are none.
#[derive(Clone, Default)]
pub(super) struct Authorities(pub(super) Option<Vec<u8>>);

/// Those who know which server is the master.
pub(super) struct Sentinels {
    authorities: Authorities,
    sentinels: Vec<Client>,
    name: String,
    master: Master,
}

impl Way {
    /// The way to what a URL describes. Making a connection takes at most `time`.
    pub(super) fn to(url: &str, authorities: Authorities, time: Duration) -> Result<Self, SetupError> {
        match place(url).ok_or(SetupError::Form(None))? {
            Place::One => Ok(Self::One(authorities.open(url)?)),
            Place::Cluster(nodes) => {
                // Nodes that are gone may be met twice: among those of the URL, and among those of which the others tell.
                let clients = nodes.iter().map(|node| authorities.open(node.as_str())).collect::<Result<_, _>>()?;
                let mut builder = ClusterClientBuilder::new(nodes).connection_timeout(time / 4).response_timeout(time);
                if let Some(certificates) = authorities.certificates() {
                    builder = builder.certs(certificates);
                }
                // Enough to follow a slot that moves. Whoever asks does not wait for long.
                Ok(Self::Cluster(builder.retries(3).min_retry_wait(2).max_retry_wait(20).build().map_err(wrong)?.into(), clients))
            }
            Place::Sentinel { sentinels, name, master } => {
                // So that what is wrong with it is told now.
                authorities.open(master.at("localhost", 1))?;
                let sentinels = sentinels.into_iter().map(|url| authorities.open(url)).collect::<Result<_, _>>()?;
                Ok(Self::Sentinel(Sentinels { authorities, sentinels, name, master }))
            }
        }
    }

    /// A new connection that all requests can share, and where it leads if that may change.
    pub(super) async fn connect(&self, time: Duration) -> Result<(Link, Option<Address>), Error> {
        let to_one = |connection| Link { connection: Connection::One(connection), nodes: Nodes::one().into() };
        match self {
            Self::One(client) => Ok((to_one(connection(client, time).await?), None)),
            Self::Cluster(client, _) => {
                let mut connection = client.get_async_connection().await?;
                let nodes = nodes(&mut connection).await?.into();
                Ok((Link { connection: Connection::Cluster(connection), nodes }, None))
            }
            Self::Sentinel(sentinels) => {
                let (connection, address) = sentinels.connect(time).await?;
                Ok((to_one(connection), Some(address)))
            }
        }
    }

    /// Any server that takes part: which one does not matter to messages.
    pub(super) async fn any(&self, time: Duration) -> Result<Client, Error> {
        match self {
            Self::One(client) => Ok(client.clone()),
            Self::Cluster(_, nodes) => {
                for node in nodes {
                    if connection(node, time / 4).await.is_ok() {
                        return Ok(node.clone());
                    }
                }
                Err(Error::Slots)
            }
            Self::Sentinel(sentinels) => {
                let ((host, port), _) = sentinels.address(time).await?;
                Ok(sentinels.authorities.client(sentinels.master.at(&host, port))?)
            }
        }
    }
}

impl Sentinels {
    /// Where the master is by what most of those say that answer, and whether those are more than half of all.
    pub(super) async fn address(&self, time: Duration) -> Result<(Address, bool), Error> {
        // Half of the time, so that the other half is left for the master.
        let mut asked: FuturesUnordered<_> = self.sentinels.iter().map(|sentinel| self.ask(sentinel, time / 2)).collect();
        let mut votes: HashMap<Address, usize> = HashMap::new();
        while let Some(answer) = asked.next().await {
            let Some(address) = answer else { continue };
            let count = votes.entry(address.clone()).or_default();
            *count += 1;
            if *count > self.sentinels.len() / 2 {
                return Ok((address, true));
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| (address, false)).ok_or(Error::NoMaster)
    }

    /// Over a new connection, since an old one tells late that it is dead.
    async fn ask(&self, sentinel: &Client, time: Duration) -> Option<Address> {
        let ask = async {
            let mut connection = connection(sentinel, time).await?;
            cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name).query_async::<Option<Address>>(&mut connection).await
        };
        match timeout(time, ask).await {
            Ok(Ok(address)) => address,
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::debug!(error, "a sentinel does not say where the master is");
                None
            }
            Err(_) => None,
        }
    }

    async fn connect(&self, time: Duration) -> Result<(MultiplexedConnection, Address), Error> {
        let ((host, port), _) = self.address(time).await?;
        let client = self.authorities.client(self.master.at(&host, port))?;
        let mut connection = connection(&client, time).await?;
        // A replica may have been told to take writes.
        let role: Vec<Value> = cmd("ROLE").query_async(&mut connection).await?;
        match role.first().map(from_redis_value_ref::<String>) {
            Some(Ok(role)) if role == "master" => Ok((connection, (host, port))),
            _ => Err(Error::NoMaster),
        }
    }
}

impl Authorities {
    fn open(&self, url: impl IntoConnectionInfo) -> Result<Client, SetupError> {
        self.client(url).map_err(wrong)
    }

    fn client(&self, url: impl IntoConnectionInfo) -> Result<Client, RedisError> {
        let server = url.into_connection_info()?;
        match self.certificates() {
            Some(certificates) if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) => Client::build_with_tls(server, certificates),
            _ => Client::open(server),
        }
    }

    fn certificates(&self) -> Option<TlsCertificates> {
        self.0.clone().map(|root| TlsCertificates { client_tls: None, root_cert: Some(root) })
    }
}

fn wrong(error: RedisError) -> SetupError {
    SetupError::Form(Some(error))
}

/// A connection to one server. How long to wait for an answer is the business of whoever asks.
async fn connection(client: &Client, time: Duration) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(time)).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// The nodes that take a cluster's writes.
async fn nodes(connection: &mut ClusterConnection) -> Result<Nodes, Error> {
    let answer: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
    let mut numbers = HashMap::new();
    let mut ranges = Vec::new();
    for range in &answer {
        let [first, last, node, ..] = range.as_slice() else { return Err(Error::Slots) };
        let (first, last) = (from_redis_value_ref(first).map_err(RedisError::from)?, from_redis_value_ref(last).map_err(RedisError::from)?);
        // It is told in the same way for each of its ranges.
        let count = numbers.len();
        ranges.push((first, last, *numbers.entry(format!("{node:?}")).or_insert(count)));
    }
    Nodes::of_cluster(&ranges).ok_or(Error::Slots)
}
