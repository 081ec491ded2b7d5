//! Looking whether Redis is there, and who else is.

use std::{
    sync::{Arc, LazyLock, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;
use redis::{RedisError, Script, cmd};
use tokio::time::{sleep, timeout};

use super::{Address, BUDGET, Connection, Error, Line, Redis, connection::Link, way::Way};

/// How often a server says that it is alive.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often Redis is looked for while it is away.
const SEARCH: Duration = Duration::from_millis(250);

/// How long a server counts as alive after it last said so.
const ALIVE: Duration = Duration::from_secs(5);

/// How long a server stays by itself after it has found a Redis that has forgotten: until the others have found it too, and brought what they know.
const SETTLE: Duration = Duration::from_secs(1);

/// How long Redis remembers who has been there.
const REMEMBER: Duration = Duration::from_secs(24 * 60 * 60);

/// The subject to which the list of servers belongs.
const SERVERS: &str = "servers";

static PRESENCE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("presence.lua")));

/// A connection that works.
pub(super) struct Found {
    link: Link,
    master: Option<Address>,
    /// Whether a node does not know this server: it is new, or has forgotten what it knew.
    pub(super) has_forgotten: bool,
}

impl Found {
    /// For all requests.
    pub(super) fn into_line(self) -> Line {
        Line::Up(self.link, self.master)
    }
}

impl Redis {
    /// Says again and again that this server is alive, counts the others, and finds Redis again when it was away, or when the sentinels have made
    /// another server the master. Never ends.
    ///
    /// `take_over` takes to Redis what happened without it ([`Redis::early_attempt`]); until it has, requests go on without. Where Redis has forgotten
    /// what it knew, all servers do so before any goes back: what one has admitted by itself must count before another admits anything anew.
    pub async fn watch<F: Future<Output = ()>>(&self, take_over: impl Fn() -> F) {
        loop {
            match self.attempt(SERVERS) {
                Ok(attempt) => {
                    let mut connection = attempt.connection();
                    if let Ok(servers) = attempt.answer(self.present(&mut connection)).await {
                        self.shared.servers.store(servers.max(1), Ordering::Relaxed);
                        if self.has_another_master().await {
                            self.go_back(&take_over).await;
                        }
                    }
                }
                Err(_) => self.go_back(&take_over).await,
            }
            sleep(if self.link(false).is_some() { INTERVAL } else { SEARCH }).await;
        }
    }

    /// Makes a connection that requests use from now on, if Redis does over it what they ask, in their time.
    pub async fn connect(&self) {
        match self.find(&self.way()).await {
            Ok(found) => self.set(found.into_line()),
            Err(error) => self.open_breaker(None, &error),
        }
    }

    /// As [`Redis::connect`], after Redis was away.
    async fn go_back<F: Future<Output = ()>>(&self, take_over: impl Fn() -> F) {
        let way = self.way();
        match self.find(&way).await {
            // Unless another way is to be used by now.
            Ok(found) if Arc::ptr_eq(&way, &self.way()) => self.adopt(found, take_over).await,
            Ok(_) => {}
            Err(error) => self.open_breaker(None, &error),
        }
    }

    /// Uses what was found, after what happened without it was taken there.
    pub(super) async fn adopt<F: Future<Output = ()>>(&self, Found { link, master, has_forgotten }: Found, take_over: impl Fn() -> F) {
        self.set(Line::Found(link.clone()));
        // The database, which it may need as well, must not hold this up. The others count this server again, too.
        let take_over = || async {
            let mut connection = link.connection.clone();
            timeout(self.timeout, async { tokio::join!(self.present(&mut connection), take_over()) }).await
        };
        let mut is_taken = take_over().await.is_ok();
        if has_forgotten {
            sleep(SETTLE).await;
            is_taken &= take_over().await.is_ok();
        }
        if !is_taken {
            tracing::warn!("what happened while Redis was away could not be taken there in time");
        }
        let mut line = self.shared.line.write().unwrap_or_else(PoisonError::into_inner);
        // Unless it has failed again, or another one was found meanwhile.
        if matches!(&*line, Line::Found(found) if Arc::ptr_eq(&found.nodes, &link.nodes)) {
            *line = Line::Up(link, master);
            self.shared.counts.is_back();
            tracing::info!("Redis is back");
        }
    }

    pub(super) fn set(&self, line: Line) {
        *self.shared.line.write().unwrap_or_else(PoisonError::into_inner) = line;
    }

    pub(super) async fn find(&self, way: &Way) -> Result<Found, Error> {
        let (link, master, has_forgotten) = timeout(self.timeout, async {
            let (link, master) = way.connect(self.timeout).await?;
            // Once to have all connections made, and once more in the time that requests have.
            let has_forgotten = self.write_everywhere(&link).await?.contains(&None);
            Ok::<_, Error>((link, master, has_forgotten))
        })
        .await??;
        timeout(BUDGET, self.write_everywhere(&link)).await??;
        Ok(Found { link, master, has_forgotten })
    }

    /// Writes down at each node that this server has been there; returns what the nodes knew of that.
    async fn write_everywhere(&self, link: &Link) -> Result<Vec<Option<String>>, RedisError> {
        let remember = u64::try_from(REMEMBER.as_millis()).unwrap_or(u64::MAX);
        try_join_all(link.nodes.tags().into_iter().map(|tag| {
            let (key, mut connection) = (self.key(&tag, &format!("seen:{}", self.shared.server)), link.connection.clone());
            async move { cmd("SET").arg(key).arg(1).arg("PX").arg(remember).arg("GET").query_async(&mut connection).await }
        }))
        .await
    }

    /// Whether more than half of the sentinels name another master than the one in use, which may be cut off from them and not know yet that it no
    /// longer is the master.
    async fn has_another_master(&self) -> bool {
        let way = self.way();
        let Way::Sentinel(sentinels) = &*way else { return false };
        let Ok((address, true)) = sentinels.address(self.timeout).await else { return false };
        let line = self.shared.line.read().unwrap_or_else(PoisonError::into_inner);
        matches!(&*line, Line::Up(_, Some(master)) if *master != address)
    }

    /// Says that this server is alive; returns how many are.
    async fn present(&self, connection: &mut Connection) -> Result<usize, RedisError> {
        let alive = u64::try_from(ALIVE.as_millis()).unwrap_or(u64::MAX);
        PRESENCE.key(self.key(SERVERS, "alive")).arg(self.shared.server.to_string()).arg(alive).invoke_async(connection).await
    }
}
