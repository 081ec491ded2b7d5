//! Looking whether Redis is there, and who else is.

use std::{
    sync::{LazyLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use redis::{RedisError, Script, aio::ConnectionManager, cmd};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{Away, BUDGET, Error, Redis, manager};

/// How often a server says that it is alive.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often Redis is looked for while it is away.
const SEARCH: Duration = Duration::from_millis(250);

/// How long a server counts as alive after it last said so.
const ALIVE: Duration = Duration::from_secs(5);

static PRESENCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("presence.lua")));

impl Redis {
    /// Says again and again that this server is alive, counts the others, and finds Redis again when it was away. Never ends.
    pub async fn watch(&self) {
        let server = Uuid::new_v4().to_string();
        loop {
            match self.attempt() {
                Ok(attempt) => {
                    let mut connection = attempt.connection();
                    if let Ok(servers) = attempt.answer(self.present(&server, &mut connection)).await {
                        self.shared.servers.store(servers.max(1), Ordering::Relaxed);
                    }
                }
                Err(Away) => self.connect().await,
            }
            sleep(if self.is_away() { SEARCH } else { INTERVAL }).await;
        }
    }

    /// Makes a new connection, since the old one may be dead, and uses it from now on if Redis does over it what requests ask, in their time.
    pub async fn connect(&self) {
        match self.try_connect().await {
            Ok(connection) => {
                *self.shared.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
                self.shared.note_answer();
                if self.shared.is_away.swap(false, Ordering::AcqRel) {
                    tracing::info!("Redis is back");
                }
            }
            Err(error) => self.open_breaker(&error),
        }
    }

    async fn try_connect(&self) -> Result<ConnectionManager, Error> {
        let mut connection =
            timeout(self.timeout, ConnectionManager::new_with_config(self.client.clone(), manager(self.timeout))).await??;
        // It is one that takes writes.
        let key = format!("{}:looked_for", self.prefix);
        timeout(BUDGET, cmd("SET").arg(key).arg(1).arg("PX").arg(1000).query_async::<()>(&mut connection)).await??;
        Ok(connection)
    }

    /// Says that this server is alive; returns how many are.
    async fn present(&self, server: &str, connection: &mut ConnectionManager) -> Result<usize, RedisError> {
        let alive = u64::try_from(ALIVE.as_millis()).unwrap_or(u64::MAX);
        PRESENCE.key(format!("{}:servers", self.prefix)).arg(server).arg(alive).invoke_async(connection).await
    }
}
