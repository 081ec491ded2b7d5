//! Redis: what servers share besides the database. It may be away; nothing here waits for it longer than [`BUDGET`].
//!
//! It is one server, a cluster, or a master that sentinels know ([`SetupError::Form`] lists the forms of its URL).
//!
//! Requests send what they ask over one connection that all of them share, pipelined ([`Redis::attempt`]). The first that fails or gets no answer in
//! time opens the *breaker*: from then on attempts are refused at once, and one task looks whether Redis is back ([`Redis::watch`]). So a Redis that is
//! slow or away costs its budget once, and then nothing. Any error opens it, so also those by which Redis says that it cannot serve now: `READONLY`,
//! `LOADING`, `MASTERDOWN`, `CLUSTERDOWN`, and slots that moved more often than it makes sense to follow.
//!
//! Time counts only while Redis answers nobody. As long as answers come in it is the server that has much to do, and going on without Redis
//! would make its limits inexact at the very moment when they matter. In a cluster it is the subject's node that has to answer, not any.
//!
//! A cluster is there only if each of its nodes takes writes, since limits that hold for some keys and not for others are none. The cluster itself
//! sees it the same way, unless it is told otherwise (`cluster-require-full-coverage no`).
//!
//! What a failover loses: Redis confirms a write before its replicas have it. Windows may be emptier on the new master than they were, so that the
//! windows around the failover hold up to their limit once more; and a copy of a key's record may be older, until [`Redis::came_back`] has it
//! copied again. (A cluster fails over by itself, unseen if it is quick: there it takes until the next regular copy, a few seconds.)

mod connection;
mod url;
mod watch;
mod way;

use std::{
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_redis::{CreatePoolError, PoolError};
use redis::RedisError;
use secrecy::ExposeSecret;
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use crate::config::Settings;
use connection::Link;
use way::{Address, Way};

pub use connection::Connection;

/// How long a request waits while Redis answers nobody.
pub const BUDGET: Duration = Duration::from_millis(50);

/// The settings do not describe a Redis server. The URL is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// It has none of the forms.
    #[error(
        "redis_url has none of the forms redis://[user:password@]host:port/number (or rediss://, redis+unix://), \
         redis+cluster://[user:password@]host:port,host:port (or rediss+cluster://), \
         redis+sentinel://[user:password@]host:port,host:port/master-name/number[?sentinel_password=…] (or rediss+sentinel://)"
    )]
    Form,
    /// The pool cannot be made.
    #[error("redis_url cannot be used: it is like redis://[user:password@]host:port/number, but something in it is wrong")]
    Pool(#[source] CreatePoolError),
    /// No connection can be made.
    #[error("redis_url cannot be used: it has the right form, but something in it is wrong")]
    Client(#[from] RedisError),
    /// Keys of one subject would be in different slots of a cluster.
    #[error("redis_key_prefix must not contain {{ or }}: braces say which keys a cluster keeps together")]
    Prefix,
}

/// An error of Redis or on the way to it. Its text is for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be had.
    #[error("no connection to Redis")]
    Connection(#[from] PoolError),
    /// A command failed.
    #[error("a Redis command failed")]
    Command(#[from] RedisError),
    /// No answer in time.
    #[error("Redis did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// It is known to be away.
    #[error(transparent)]
    Away(#[from] Away),
    /// No sentinel knows a server that is the master.
    #[error("no sentinel names a server that is the master")]
    NoMaster,
    /// Keys in some slots cannot be reached.
    #[error("the cluster does not serve all slots")]
    Slots,
}

/// Redis is away, or too slow, or does not do what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away")]
pub struct Away;

/// The way to Redis; cheap to clone.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    timeout: Duration,
    prefix: Arc<str>,
}

struct Shared {
    way: Way,
    current: RwLock<Current>,
    /// Whether the breaker is open.
    is_away: AtomicBool,
    /// Told when there is a new connection.
    came_back: Notify,
    /// How many servers were alive when Redis last told; at least one.
    servers: AtomicUsize,
}

/// What is used now.
struct Current {
    link: Option<Link>,
    /// Where the master is that it leads to, if that may change.
    master: Option<Address>,
}

/// What one request asks of Redis.
pub struct Attempt {
    link: Link,
    node: usize,
    redis: Redis,
}

impl Redis {
    /// Makes ready to connect. Connects to nothing yet; a cluster, and a master that sentinels know, are away until [`Redis::connect`].
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the settings do not describe a Redis server.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        if settings.redis_key_prefix.contains(['{', '}']) {
            return Err(SetupError::Prefix);
        }
        let timeout = Duration::from_millis(settings.redis_timeout_milliseconds);
        let way = Way::to(settings.redis_url.expose_secret(), settings.redis_pool_size, timeout)?;
        let link = way.lazy_link(timeout)?;
        let shared = Shared {
            way,
            current: RwLock::new(Current { link, master: None }),
            is_away: AtomicBool::new(false),
            came_back: Notify::new(),
            servers: AtomicUsize::new(1),
        };
        Ok(Self { shared: Arc::new(shared), timeout, prefix: settings.redis_key_prefix.as_str().into() })
    }

    /// The name of a key that belongs to a subject. The braces around the subject are the hash tag that keeps all of its keys in one slot of a cluster.
    ///
    /// A subject is any text that is not empty and does not begin with `}`.
    pub fn key(&self, subject: &str, name: &str) -> String {
        key(&self.prefix, subject, name)
    }

    /// What the names of all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether Redis answers: over a connection of its own where it is one server, otherwise over the one that all requests share.
    ///
    /// # Errors
    ///
    /// Any [`Error`] if it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        let ping = redis::cmd("PING");
        if let Way::Single { pool, .. } = &self.shared.way {
            let mut connection = pool.get().await?;
            timeout(self.timeout, ping.query_async::<()>(&mut *connection)).await??;
        } else {
            // In a cluster all nodes that take writes are asked.
            let mut connection = self.link().ok_or(Away)?.connection;
            timeout(self.timeout, ping.query_async::<()>(&mut connection)).await??;
        }
        Ok(())
    }

    /// A way to ask something about a subject, unless Redis is known to be away.
    ///
    /// # Errors
    ///
    /// [`Away`].
    pub fn attempt(&self, subject: &str) -> Result<Attempt, Away> {
        let link = self.link().ok_or(Away)?;
        let node = link.nodes.with(subject.split('}').next().unwrap_or(subject));
        Ok(Attempt { link, node, redis: self.clone() })
    }

    /// Whether Redis is known to be away.
    pub fn is_away(&self) -> bool {
        self.shared.is_away.load(Ordering::Acquire)
    }

    /// How many servers there were when Redis last told.
    pub fn servers(&self) -> usize {
        self.shared.servers.load(Ordering::Relaxed)
    }

    /// Waits until there is a new connection: what is behind it may not have what was written before. One at a time may wait.
    pub async fn came_back(&self) {
        self.shared.came_back.notified().await;
    }

    /// What requests use, unless Redis is known to be away.
    fn link(&self) -> Option<Link> {
        if self.is_away() {
            return None;
        }
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).link.clone()
    }

    /// `failed` is the connection over which something failed, if there was one. Of one that is no longer used nothing follows.
    fn open_breaker(&self, failed: Option<&Link>, error: &(dyn std::error::Error + 'static)) {
        let current = self.shared.current.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(failed), Some(link)) = (failed, &current.link)
            && !Arc::ptr_eq(&failed.nodes, &link.nodes)
        {
            return;
        }
        if !self.shared.is_away.swap(true, Ordering::AcqRel) {
            tracing::warn!(error, "Redis is away: each server goes on with its share of the limits");
        }
    }
}

impl Attempt {
    /// The shared connection.
    pub fn connection(&self) -> Connection {
        self.link.connection.clone()
    }

    /// Waits for an answer, for as long as a request may. If there is none, or it is an error, nobody asks again until Redis is back.
    ///
    /// # Errors
    ///
    /// [`Away`].
    pub async fn answer<T, E>(self, asked: impl Future<Output = Result<T, E>>) -> Result<T, Away>
    where
        E: std::error::Error + 'static,
    {
        let Self { link, node, redis } = self;
        let began = Instant::now();
        let mut asked = pin!(asked);
        loop {
            let deadline = link.nodes.quiet_since(node, began) + BUDGET;
            match timeout_at(deadline.min(began + redis.timeout), &mut asked).await {
                Ok(Ok(answer)) => {
                    link.nodes.note_answer(node);
                    return Ok(answer);
                }
                Ok(Err(error)) => redis.open_breaker(Some(&link), &error),
                Err(_)
                    if link.nodes.quiet_since(node, began) + BUDGET > deadline && began.elapsed() < redis.timeout && !redis.is_away() =>
                {
                    continue;
                }
                Err(elapsed) => redis.open_breaker(Some(&link), &elapsed),
            }
            return Err(Away);
        }
    }
}

/// The name of a subject's key under a prefix ([`Redis::key`]).
pub fn key(prefix: &str, subject: &str, name: &str) -> String {
    format!("{prefix}:{{{subject}}}:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn redis(url: &str, prefix: &str) -> Result<Redis, SetupError> {
        let flags = [("redis_url", url), ("redis_key_prefix", prefix)];
        let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Redis::new(&load(&Sources { flags, ..Sources::default() }).expect("the settings load").settings)
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_refused_without_its_password() {
        for (url, prefix) in [
            ("redis+cluster://u:canary@h1,h2/3", "wn"),
            ("redis+cluster://u:canary@h1:99999", "wn"),
            ("redis+sentinel://u:canary@h1", "wn"),
            ("redis+sentinel://u:canary@h1/m/x", "wn"),
            ("http://u:canary@h1", "wn"),
            ("redis://h/x", "wn"),
            ("redis://h", "w{n}"),
        ] {
            let error: &dyn std::error::Error = &redis(url, prefix).err().expect("it is refused");
            let told = format!("{error} {:?}", error.source());
            assert!(told.starts_with("redis_") && !told.contains("canary"), "{told}");
        }
        for url in ["redis://h", "redis+cluster://h1,h2:7000", "rediss+sentinel://u:p@h1,h2/m/3?sentinel_password=q"] {
            assert!(redis(url, "wn").is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_of_a_cluster_that_is_not_connected() {
        for url in ["redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/m"] {
            let redis = redis(url, "wn").expect("it is of the form");
            assert!(redis.attempt("k").is_err() && !redis.is_away() && redis.ping().await.is_err());
            redis.connect().await;
            assert!(redis.is_away());
        }
    }
}
