//! Looking whether Redis is there, and who else is.

use std::{
    sync::{LazyLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;
use redis::{RedisError, Script, cmd};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{Address, Away, BUDGET, Connection, Current, Error, Redis, connection::Link, way::Way};

/// How often a server says that it is alive.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often Redis is looked for while it is away.
const SEARCH: Duration = Duration::from_millis(250);

/// How long a server counts as alive after it last said so.
const ALIVE: Duration = Duration::from_secs(5);

static PRESENCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("presence.lua")));

impl Redis {
    /// Says again and again that this server is alive, counts the others, and finds Redis again when it was away, or when the sentinels have made
    /// another server the master. Never ends.
    pub async fn watch(&self) {
        let server = Uuid::new_v4().to_string();
        let key = format!("{}:servers", self.prefix);
        loop {
            // The whole name, since it has no hash tag.
            match self.attempt(&key) {
                Ok(attempt) => {
                    let mut connection = attempt.connection();
                    if let Ok(servers) = attempt.answer(present(&key, &server, &mut connection)).await {
                        self.shared.servers.store(servers.max(1), Ordering::Relaxed);
                        self.follow_master().await;
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
            Ok((link, master)) => {
                let mut current = self.shared.current.write().unwrap_or_else(PoisonError::into_inner);
                for node in 0..link.nodes.count() {
                    link.nodes.note_answer(node);
                }
                *current = Current { link: Some(link), master };
                if self.shared.is_away.swap(false, Ordering::AcqRel) {
                    tracing::info!("Redis is back");
                }
                self.shared.came_back.notify_one();
            }
            Err(error) => self.open_breaker(None, &error),
        }
    }

    async fn try_connect(&self) -> Result<(Link, Option<Address>), Error> {
        let (link, master) = timeout(self.timeout, async {
            let (link, master) = self.shared.way.connect(self.timeout).await?;
            // Once to have all connections made, and once more in the time that requests have.
            self.write_everywhere(&link).await?;
            Ok::<_, Error>((link, master))
        })
        .await??;
        timeout(BUDGET, self.write_everywhere(&link)).await??;
        Ok((link, master))
    }

    /// Whether each node takes writes.
    async fn write_everywhere(&self, link: &Link) -> Result<(), RedisError> {
        let writes = link.nodes.tags().into_iter().map(|tag| {
            let (key, mut connection) = (self.key(&tag, "looked_for"), link.connection.clone());
            async move { cmd("SET").arg(key).arg(1).arg("PX").arg(1000).query_async::<()>(&mut connection).await }
        });
        try_join_all(writes).await.map(drop)
    }

    /// Goes where more than half of the sentinels say that the master is. The one before may be cut off from them and not know yet that it is no longer the master.
    async fn follow_master(&self) {
        let Way::Sentinel(sentinels) = &self.shared.way else { return };
        let Ok((address, true)) = sentinels.address(self.timeout).await else { return };
        let is_another = self.shared.current.read().unwrap_or_else(PoisonError::into_inner).master.as_ref() != Some(&address);
        if is_another {
            self.connect().await;
        }
    }
}

/// Says that this server is alive; returns how many are.
async fn present(key: &str, server: &str, connection: &mut Connection) -> Result<usize, RedisError> {
    let alive = u64::try_from(ALIVE.as_millis()).unwrap_or(u64::MAX);
    PRESENCE.key(key).arg(server).arg(alive).invoke_async(connection).await
}
