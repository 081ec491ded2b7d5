//! Redis: one pool of connections. What it is used for comes with admission; until then a server only asks whether it is there.

use std::time::Duration;

use deadpool_redis::{Config, CreatePoolError, Pool, PoolConfig, PoolError, Runtime, Timeouts};
use secrecy::ExposeSecret;

use crate::config::Settings;

/// The settings do not describe a Redis server. The URL is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("redis_url is not of the form redis://[user:password@]host:port/number (or rediss://, redis+unix://)")]
pub struct SetupError(#[source] CreatePoolError);

/// An error of Redis or on the way to it. Its text is for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be had.
    #[error("no connection to Redis")]
    Connection(#[from] PoolError),
    /// A command failed.
    #[error("a Redis command failed")]
    Command(#[from] redis::RedisError),
    /// No answer in time.
    #[error("Redis did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// The way to Redis; cheap to clone.
#[derive(Clone)]
pub struct Redis {
    pool: Pool,
    timeout: Duration,
}

impl Redis {
    /// Makes the pool. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`SetupError`] if the settings do not describe a Redis server.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let timeout = Duration::from_millis(settings.redis_timeout_milliseconds);
        let mut config = Config::from_url(settings.redis_url.expose_secret());
        let timeouts = Timeouts { wait: Some(timeout), create: Some(timeout), recycle: Some(timeout) };
        config.pool = Some(PoolConfig { max_size: settings.redis_pool_size, timeouts, ..PoolConfig::default() });
        let pool = config.create_pool(Some(Runtime::Tokio1)).map_err(SetupError)?;
        Ok(Self { pool, timeout })
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
}
