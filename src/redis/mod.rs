//! Redis: what servers share besides the database. It may be away; nothing here waits for it longer than [`BUDGET`].
//!
//! Requests send what they ask over one connection that all of them share, pipelined ([`Redis::attempt`]). The first that fails or gets no answer in
//! time opens the *breaker*: from then on attempts are refused at once, and one task looks whether Redis is back ([`Redis::watch`]). So a Redis that is
//! slow or away costs its budget once, and then nothing.
//!
//! Time counts only while Redis answers nobody. As long as answers come in it is the server that has much to do, and going on without Redis
//! would make its limits inexact at the very moment when they matter.

mod watch;

use std::{
    pin::pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_redis::{Config, CreatePoolError, Pool, PoolConfig, PoolError, Runtime, Timeouts};
use redis::{
    Client, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};

use crate::config::Settings;

/// How long a request waits while Redis answers nobody.
pub const BUDGET: Duration = Duration::from_millis(50);

/// In how many parts it is waited: a server that gets no processor for a while sees one of them pass, not all.
const TICKS: u32 = 10;

/// A connection that everybody shares.
pub type Connection = ConnectionManager;

/// The settings do not describe a Redis server. The URL is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The pool cannot be made.
    #[error("redis_url is not of the form redis://[user:password@]host:port/number (or rediss://, redis+unix://)")]
    Url(#[source] CreatePoolError),
    /// The shared connection cannot be made.
    #[error("redis_url is not of the form redis://[user:password@]host:port/number (or rediss://, redis+unix://)")]
    Client(#[source] RedisError),
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
}

/// Redis is away, or too slow, or does not do what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis is away")]
pub struct Away;

/// The way to Redis; cheap to clone.
#[derive(Clone)]
pub struct Redis {
    pool: Pool,
    timeout: Duration,
    client: Client,
    shared: Arc<Shared>,
    prefix: Arc<str>,
}

struct Shared {
    connection: RwLock<ConnectionManager>,
    /// Whether the breaker is open.
    is_away: AtomicBool,
    start: Instant,
    /// When Redis last answered anybody, in microseconds since the start.
    last_answer: AtomicU64,
    /// How many servers were alive when Redis last told; at least one.
    servers: AtomicUsize,
}

/// What one request asks of Redis.
pub struct Attempt {
    connection: ConnectionManager,
    redis: Redis,
}

impl Redis {
    /// Makes the pool and the shared connection. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the settings do not describe a Redis server.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let timeout = Duration::from_millis(settings.redis_timeout_milliseconds);
        let url = settings.redis_url.expose_secret();
        let mut config = Config::from_url(url);
        let timeouts = Timeouts { wait: Some(timeout), create: Some(timeout), recycle: Some(timeout) };
        config.pool = Some(PoolConfig { max_size: settings.redis_pool_size, timeouts, ..PoolConfig::default() });
        let pool = config.create_pool(Some(Runtime::Tokio1)).map_err(SetupError::Url)?;
        let client = Client::open(url).map_err(SetupError::Client)?;
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), manager(timeout)).map_err(SetupError::Client)?;
        let shared = Shared {
            connection: RwLock::new(connection),
            is_away: AtomicBool::new(false),
            start: Instant::now(),
            last_answer: AtomicU64::new(0),
            servers: AtomicUsize::new(1),
        };
        Ok(Self { pool, timeout, client, shared: Arc::new(shared), prefix: settings.redis_key_prefix.as_str().into() })
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

    /// Whether Redis answers.
    ///
    /// # Errors
    ///
    /// Any [`Error`] if it does not.
    pub async fn ping(&self) -> Result<(), Error> {
        let mut connection = self.pool.get().await?;
        tokio::time::timeout(self.timeout, redis::cmd("PING").query_async::<()>(&mut *connection)).await??;
        Ok(())
    }

    /// A way to ask something, unless Redis is known to be away.
    ///
    /// # Errors
    ///
    /// [`Away`].
    pub fn attempt(&self) -> Result<Attempt, Away> {
        if self.shared.is_away.load(Ordering::Acquire) {
            return Err(Away);
        }
        Ok(Attempt { connection: self.connection(), redis: self.clone() })
    }

    /// Whether Redis is known to be away.
    pub fn is_away(&self) -> bool {
        self.shared.is_away.load(Ordering::Acquire)
    }

    /// How many servers there were when Redis last told.
    pub fn servers(&self) -> usize {
        self.shared.servers.load(Ordering::Relaxed)
    }

    fn connection(&self) -> ConnectionManager {
        self.shared.connection.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn open_breaker(&self, error: &(dyn std::error::Error + 'static)) {
        if !self.shared.is_away.swap(true, Ordering::AcqRel) {
            tracing::warn!(error, "Redis is away: each server goes on with its share of the limits");
        }
    }
}

impl Shared {
    fn note_answer(&self) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_answer.fetch_max(now, Ordering::Relaxed);
    }

    /// When Redis last answered anybody.
    fn last_answer(&self) -> u64 {
        self.last_answer.load(Ordering::Relaxed)
    }
}

impl Attempt {
    /// The shared connection.
    pub fn connection(&self) -> Connection {
        self.connection.clone()
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
        let began = Instant::now();
        let mut asked = pin!(asked);
        let (mut last, mut quiet) = (self.redis.shared.last_answer(), 0);
        loop {
            match timeout(BUDGET / TICKS, &mut asked).await {
                Ok(Ok(answer)) => {
                    self.redis.shared.note_answer();
                    return Ok(answer);
                }
                Ok(Err(error)) => self.redis.open_breaker(&error),
                Err(elapsed) => {
                    let now = self.redis.shared.last_answer();
                    quiet = if now == last { quiet + 1 } else { 0 };
                    last = now;
                    if quiet < TICKS && began.elapsed() < self.redis.timeout {
                        continue;
                    }
                    self.redis.open_breaker(&elapsed);
                }
            }
            return Err(Away);
        }
    }
}

/// The name of a subject's key under a prefix ([`Redis::key`]).
pub fn key(prefix: &str, subject: &str, name: &str) -> String {
    format!("{prefix}:{{{subject}}}:{name}")
}

fn manager(timeout: Duration) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(timeout))
        // Who waits has a time-out of their own.
        .set_response_timeout(Some(10 * timeout))
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(10))
}
