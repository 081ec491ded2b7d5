//! The server put together: [`App::build`] from settings, [`App::run`] on a listener that was bound outside, until it is told to stop.

mod metrics;
mod reload;

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access::{self, TrustedProxies, address::NotANetwork},
    api::{self, Cors, Draining, Gate, NotCors, Traffic},
    config::{self, Settings},
    http::{self, Tls},
    measure::{Gauge, Span, Spans},
    postgres::{self, Database, migrate},
    queue::{
        Policy, Sweeper, Sweeps, Wire, clients,
        jobs::{self, Claims},
        projects,
    },
    redis::{self, Redis},
    telemetry::{
        audit::{Audit, Category, Event, Kind, Outcome},
        otlp::{Collector, NotAnEndpoint},
    },
};
use metrics::Metrics;

pub use reload::{Reload, Reloaded};

/// Why a server cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The settings do not describe a database.
    #[error(transparent)]
    Database(#[from] postgres::SetupError),
    /// The settings do not describe a Redis server.
    #[error(transparent)]
    Redis(#[from] redis::SetupError),
    /// A network that is none.
    #[error("trusted_proxies: {0}")]
    Proxies(#[from] NotANetwork),
    /// Origins that are none, or too many.
    #[error(transparent)]
    Cors(#[from] NotCors),
    /// No place for spans.
    #[error(transparent)]
    Otlp(#[from] NotAnEndpoint),
    /// HTTPS cannot be spoken.
    #[error(transparent)]
    Tls(#[from] http::TlsError),
}

/// What an operator should know of these settings before they are used, each as one sentence.
pub fn warnings(settings: &Settings) -> Vec<String> {
    config::warnings(settings).into_iter().chain(postgres::warning(settings)).chain(redis::warning(settings)).collect()
}

/// One server.
pub struct App {
    settings: Settings,
    state: api::State,
    tls: Option<Arc<Tls>>,
    proxies: TrustedProxies,
    /// To the bells of other servers.
    wire: Wire,
    /// Whether nobody is to wait for jobs any more.
    closing: CancellationToken,
    /// Where it is asked for metrics.
    metrics: Option<TcpListener>,
    /// Where spans go.
    traces: Option<Traces>,
}

/// Spans on their way to a collector.
struct Traces {
    collector: Collector,
    spans: mpsc::Receiver<Span>,
}

/// How long it takes at most, usually, to tell other servers of jobs that were put back.
const LAST_BELLS: Duration = Duration::from_millis(20);

/// How long the last spans may take.
const LAST_SPANS: Duration = Duration::from_secs(2);

impl App {
    /// Puts a server together. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`BuildError`] if the settings do not describe the stores.
    pub fn build(settings: Settings) -> Result<Self, BuildError> {
        let tls = Tls::new(&settings)?.map(Arc::new);
        let proxies = settings.trusted_proxies.parse()?;
        let database = Database::new(&settings)?;
        let redis = Redis::new(&settings)?;
        let gate = Gate::new(&settings, database.clone(), redis.clone())?;
        let (bells, wire) = Wire::new(redis.clone());
        let (spans, traces) = traces(&settings)?;
        let traffic = Traffic::new(spans);
        let (draining, tasks) = (Draining::default(), TaskTracker::new());
        let jobs = jobs::Store::new(database.clone(), policy(&settings), bells);
        let closing = CancellationToken::new();
        let claims = Claims::new(jobs.clone(), tasks.clone(), closing.clone());
        let cors = Cors::new(&settings)?;
        let state = api::State { database, redis, gate, cors, audit: Audit::default(), jobs, claims, draining, tasks, traffic };
        Ok(Self { settings, state, tls, proxies, wire, closing, metrics: None, traces })
    }

    /// The same, which tells its metrics to whoever asks here.
    #[must_use]
    pub fn with_metrics(self, listener: Option<TcpListener>) -> Self {
        Self { metrics: listener, ..self }
    }

    /// The server's certificate, if it speaks HTTPS.
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// The same with an audit log.
    #[must_use]
    pub fn audited_by(mut self, audit: Audit) -> Self {
        self.state.audit = audit;
        self
    }

    /// What of it takes new settings while it runs: the certificate, which stores, with which passwords, and the keys of the configuration.
    pub fn reload(&self) -> Reload {
        let api::State { database, redis, gate, audit, .. } = self.state.clone();
        let (take_over, tls) = (gate.clone(), self.tls.clone());
        Reload::default()
            .with("the certificate", &[], move |_| {
                let taken = tls.as_ref().map_or(Ok(()), |tls| tls.reload().map(drop));
                std::future::ready(taken.map_err(Into::into))
            })
            .with("the database", postgres::RELOADED, move |settings| {
                let database = database.clone();
                async move { Ok(database.reload(&settings).await?) }
            })
            .with("Redis", redis::RELOADED, move |settings| {
                let (redis, gate) = (redis.clone(), take_over.clone());
                async move { Ok(redis.reload(&settings, || gate.take_over()).await?) }
            })
            .with("api_keys", &["api_keys"], move |settings| {
                if let Some(keys) = gate.set_configured(&settings.api_keys) {
                    tracing::info!(keys, "api_keys were changed: from now on there are so many of them");
                    let event = Event::new("change_api_keys", Category::Iam, Kind::Change, Outcome::Success);
                    audit.record(&Event { configured_keys: Some(keys), ..event });
                }
                std::future::ready(Ok(()))
            })
    }

    /// Whether the database has the schema that this server was made for.
    ///
    /// # Errors
    ///
    /// [`migrate::SchemaError`] if not, with what to run.
    pub async fn verify_schema(&self) -> Result<(), migrate::SchemaError> {
        migrate::verify(&self.state.database).await
    }

    /// Whether there is any key that was made.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn has_keys(&self) -> Result<bool, access::Error> {
        self.state.gate.keys().store.has_keys().await
    }

    /// The OpenAPI document.
    pub fn document(&self) -> serde_json::Value {
        api::document(&self.settings, &self.state)
    }

    /// Serves until `stop` is cancelled, then finishes what is in flight: requests, and jobs on their way back into the queue.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let Self { settings, state, tls, proxies, wire, closing, metrics, traces } = self;
        let (collector, spans) = traces.map(|Traces { collector, spans }| (Arc::new(collector), spans)).unzip();
        let connections = Gauge::default();
        let limits = http::Limits {
            connections: settings.max_connections,
            for_each_address: settings.max_connections_per_address,
            exempt: proxies,
            head_timeout: Duration::from_secs(settings.header_timeout_seconds),
            write_timeout: Duration::from_secs(settings.write_timeout_seconds),
            drain_timeout: settings.shutdown_timeout() - for_put_backs(&settings),
            announced_by: state.gate.announcers(),
            open: connections.clone(),
        };
        // So that the first request need not wait for it, and finds the keys known.
        tokio::join!(state.redis.connect(), state.gate.learn());
        let refuse = CancellationToken::new();
        let drain = async {
            stop.cancelled().await;
            state.draining.begin();
            sleep(Duration::from_secs(settings.drain_delay_seconds)).await;
            refuse.cancel();
            // Not before: who waits is answered when balancers know, and asks another server then.
            closing.cancel();
        };
        let served = async {
            http::serve(listener, api::service(&settings, &state), limits, tls.clone(), refuse.clone()).await;
            state.tasks.close();
            state.tasks.wait().await;
            // What was put back last is told to other servers.
            sleep(LAST_BELLS).await;
        };
        let too_late = async {
            refuse.cancelled().await;
            sleep(settings.shutdown_timeout()).await;
        };
        let sweeps = Arc::new(Sweeps::default());
        let sweeper = Sweeper {
            jobs: state.jobs.clone(),
            clients: clients::Store::new(state.database.clone(), state.jobs.bells().clone()),
            projects: projects::Store::new(state.database.clone(), state.jobs.bells().clone()),
            client_timeout_seconds: settings.client_timeout_seconds,
            sweeps: sweeps.clone(),
            retention: Some(settings.retention_days).filter(|days| *days > 0.0).map(|days| Duration::from_secs_f64(days * 86_400.0)),
        };
        let measured = async {
            match metrics {
                Some(listener) => {
                    http::serve(
                        listener,
                        Metrics::of(state.clone(), sweeps, connections, collector.clone()),
                        metrics::limits(),
                        None,
                        CancellationToken::new(),
                    )
                    .await
                }
                None => pending().await,
            }
        };
        let over = CancellationToken::new();
        let exported = collector.clone().zip(spans).map(|(collector, spans)| {
            let over = over.clone();
            tokio::spawn(async move { collector.receive(spans, over).await })
        });
        tokio::join!(drain, async {
            tokio::select! {
                () = state.redis.watch(|| state.gate.take_over()) => {}
                () = state.gate.tend() => {}
                () = state.audit.tend() => {}
                () = sweeper.run() => {}
                () = wire.run() => {}
                () = measured => {}
                () = watch(tls.as_ref()) => {}
                () = served => {}
                () = too_late => tracing::error!("jobs could not be put back before the server had to stop: they stay QUEUED"),
            }
        });
        state.database.close();
        over.cancel();
        if let Some(exported) = exported {
            timeout(LAST_SPANS, exported).await.ok();
        }
    }
}

/// Where spans are handed over, and what becomes of them, if that is wanted.
fn traces(settings: &Settings) -> Result<(Option<Spans>, Option<Traces>), NotAnEndpoint> {
    if settings.otlp_endpoint.is_empty() {
        return Ok((None, None));
    }
    let collector = Collector::at(&settings.otlp_endpoint)?;
    let (sender, spans) = Spans::new();
    Ok((Some(sender), Some(Traces { collector, spans })))
}

/// Looks after the certificate, if there is one.
async fn watch(tls: Option<&Arc<Tls>>) {
    match tls {
        Some(tls) => tls.watch().await,
        None => pending().await,
    }
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        max_attempts: settings.max_attempts,
        backoff_seconds: settings.backoff_seconds,
        fetch_lease_seconds: Some(settings.fetch_job_lease_seconds).filter(|seconds| *seconds > 0),
    }
}

/// Of the time to shut down, what is kept for putting back jobs whose requests were cut at the end of it.
fn for_put_backs(settings: &Settings) -> Duration {
    (settings.shutdown_timeout() / 4).min(Duration::from_secs(3))
}
