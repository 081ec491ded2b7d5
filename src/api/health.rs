//! Is it alive, is it ready? Open to everybody; says which store is away and nothing about it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use poem::{
    IntoResponse, Response,
    http::{HeaderValue, StatusCode, header},
};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    registry::{MetaMediaType, MetaResponse, MetaResponses, Registry},
    types::Type,
};
use serde::Serialize;
use tokio::{sync::Mutex, time::Instant};

use super::{Tag, error::RETRY_SECONDS, reply};
use crate::{postgres::Database, redis::Redis};

/// Whether the server takes new requests; false from the signal to stop on.
#[derive(Debug, Clone, Default)]
pub struct Draining(Arc<AtomicBool>);

impl Draining {
    /// From now on the server is not ready.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The health operations. Everybody may ask, so the stores are asked once however many ask at the same time.
#[derive(Clone)]
pub struct Api {
    database: Database,
    redis: Redis,
    draining: Draining,
    has_database: Recent,
    has_redis: Recent,
}

impl Api {
    /// Of these stores.
    pub fn new(database: Database, redis: Redis, draining: Draining) -> Self {
        Self { database, redis, draining, has_database: Recent::default(), has_redis: Recent::default() }
    }

    async fn has_database(&self) -> bool {
        let database = self.database.clone();
        self.has_database.get(async move { database.ping().await.is_ok() }).await
    }

    async fn has_redis(&self) -> bool {
        let redis = self.redis.clone();
        self.has_redis.get(async move { redis.ping().await.is_ok() }).await
    }
}

/// How long what was found is told again.
const FRESH: Duration = Duration::from_millis(100);

/// The answer to a question that is asked at most once at a time, and told again while it is fresh.
#[derive(Debug, Clone, Default)]
struct Recent(Arc<Mutex<Option<(Instant, bool)>>>);

impl Recent {
    /// Asks in a task of its own, so that whoever goes away while it is asked costs nothing either.
    async fn get(&self, ask: impl Future<Output = bool> + Send + 'static) -> bool {
        let arrived = Instant::now();
        let mut last = self.0.clone().lock_owned().await;
        if let Some((asked, found)) = *last
            && asked + FRESH > arrived
        {
            return found;
        }
        let asked = tokio::spawn(async move {
            let asked = Instant::now();
            let found = ask.await;
            *last = Some((asked, found));
            found
        });
        asked.await.unwrap_or(false)
    }
}

/// Whether the server runs.
#[derive(Debug, Serialize, Object)]
pub struct Health {
    /// `healthy`
    status: String,
}

/// Whether the database answers.
#[derive(Debug, Serialize, Object)]
pub struct DatabaseHealth {
    /// `healthy` or `unhealthy`
    status: String,
    /// `connected` or `disconnected`
    database: String,
}

/// Whether the server can do its work.
#[derive(Debug, Serialize, Object)]
pub struct Readiness {
    /// `ready`; `degraded` without Redis, where requests are still served; `draining` while the server stops; `unavailable` without PostgreSQL.
    status: String,
    /// `up` or `down`
    postgresql: String,
    /// `up` or `down`
    redis: String,
}

/// 200 if all is well, otherwise 503; the same body either way.
#[derive(Debug)]
pub struct Checked<T> {
    well: bool,
    body: T,
}

impl<T: Serialize + Send> IntoResponse for Checked<T> {
    fn into_response(self) -> Response {
        if self.well {
            return reply::json(StatusCode::OK, &self.body);
        }
        let mut response = reply::json(StatusCode::SERVICE_UNAVAILABLE, &self.body);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        response
    }
}

impl<T: Type> ApiResponse for Checked<T> {
    fn meta() -> MetaResponses {
        let response = |status, description| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content: vec![MetaMediaType { content_type: "application/json", schema: T::schema_ref() }],
            headers: Vec::new(),
        };
        MetaResponses { responses: vec![response(200, "All is well."), response(503, "Not now; the body says why.")] }
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

fn up(is_up: bool) -> String {
    if is_up { "up" } else { "down" }.to_owned()
}

#[OpenApi(tag = "Tag::Health")]
impl Api {
    /// Whether the server answers
    #[oai(path = "/", method = "get", operation_id = "get_root")]
    async fn root(&self) -> reply::Reply<Health> {
        reply::Reply(Health { status: "healthy".to_owned() })
    }

    /// Whether the server reaches its database
    #[oai(path = "/checkdb", method = "get", operation_id = "check_database")]
    async fn check_database(&self) -> Checked<DatabaseHealth> {
        let well = self.has_database().await;
        let (status, database) = if well { ("healthy", "connected") } else { ("unhealthy", "disconnected") };
        Checked { well, body: DatabaseHealth { status: status.to_owned(), database: database.to_owned() } }
    }

    /// Whether the process lives
    ///
    /// Asks no store: a server must not be restarted because its database is away.
    #[oai(path = "/livez", method = "get", operation_id = "get_liveness")]
    async fn livez(&self) -> reply::Reply<Health> {
        reply::Reply(Health { status: "healthy".to_owned() })
    }

    /// Whether to send requests here
    #[oai(path = "/readyz", method = "get", operation_id = "get_readiness")]
    async fn readyz(&self) -> Checked<Readiness> {
        let (has_database, has_redis) = futures_util::join!(self.has_database(), self.has_redis());
        let status = match (self.draining.has_begun(), has_database, has_redis) {
            (true, _, _) => "draining",
            (false, false, _) => "unavailable",
            (false, true, false) => "degraded",
            (false, true, true) => "ready",
        };
        let body = Readiness { status: status.to_owned(), postgresql: up(has_database), redis: up(has_redis) };
        Checked { well: matches!(status, "ready" | "degraded"), body }
    }
}
