//! What there is to measure of a server, under the names that Prometheus is told, and the address where it is.
//!
//! The parts count by themselves; nothing happens until somebody asks. What is asked of the database is the same for all servers (`whatsnext_jobs`,
//! `whatsnext_project_…`, `whatsnext_live_clients`, `whatsnext_leases`): take the greatest, never the sum. It is kept for [`KEPT`], so that asking again and
//! again does not load the database, and given up after [`PATIENCE`].

use std::{
    fmt::Display,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use poem::{
    Request, Response,
    http::{Method, StatusCode, header},
};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    access::{TrustedProxies, verifier},
    api, http,
    measure::Gauge,
    postgres,
    queue::{
        Sweeps, jobs,
        projects::{self, Overview},
    },
    redis,
    telemetry::{
        metrics::{MEDIA_TYPE, Process, Text, describe},
        otlp::Collector,
    },
};

/// How long what the database said is kept.
const KEPT: Duration = Duration::from_secs(5);

/// How long it may take to say it.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many projects are told of one by one: those that have the most to do.
const PROJECTS: i64 = 100;

/// All statuses of jobs, so that those that no job has are told as 0.
const STATUSES: [&str; 7] = ["PENDING", "QUEUED", "RUNNING", "COMPLETED", "FAILED", "BLOCKED", "CANCELLED"];

const MICROSECONDS: f64 = 1e6;

/// What is asked: the parts of one server.
pub(super) struct Metrics {
    state: api::State,
    projects: projects::Store,
    sweeps: Arc<Sweeps>,
    connections: Gauge,
    collector: Option<Arc<Collector>>,
    process: Process,
    /// When the database was asked last, and what it said.
    seen: Mutex<Option<(Instant, Option<Overview>)>>,
    /// Texts are made one at a time, whoever asks.
    turn: Mutex<()>,
}

impl Metrics {
    pub(super) fn of(state: api::State, sweeps: Arc<Sweeps>, connections: Gauge, collector: Option<Arc<Collector>>) -> Self {
        let projects = projects::Store::new(state.database.clone(), state.jobs.bells().clone());
        let (process, seen, turn) = (Process::default(), Mutex::default(), Mutex::default());
        Self { state, projects, sweeps, connections, collector, process, seen, turn }
    }

    async fn text(&self) -> String {
        let _turn = self.turn.lock().await;
        let mut text = Text::default();
        self.requests(&mut text);
        self.admission(&mut text);
        of_redis(&mut text, &self.state.redis.stats());
        of_postgres(&mut text, &self.state.database.stats());
        of_jobs(&mut text, &self.state.jobs.stats());
        self.sweeps(&mut text);
        of_queue(&mut text, self.overview().await.as_ref());
        self.spans(&mut text);
        self.audit(&mut text);
        describe(&self.process, &mut text);
        text.into_string()
    }

    fn requests(&self, text: &mut Text) {
        let counts = self.state.traffic.counts();
        let mut requests = text.counter(
            "whatsnext_http_requests_total",
            "Requests that were answered; route \"\" for those that match none, or were refused before that was looked at.",
        );
        for count in &counts {
            let route = count.route.path();
            for (status, number) in &count.statuses {
                let status = if *status == 0 { "other".to_owned() } else { status.to_string() };
                requests.sample(&[("route", &route), ("method", &count.method), ("status", &status)], number);
            }
        }
        let mut times = text.histogram("whatsnext_http_request_duration_seconds", "From a request's head to its answer.");
        for count in &counts {
            times.distribution(&[("route", &count.route.path()), ("method", &count.method)], &count.times, MICROSECONDS);
        }
        text.counter("whatsnext_http_requests_abandoned_total", "Requests whose client went away before they were answered.")
            .sample(&[], self.state.traffic.clients_gone());
        text.counter(
            "whatsnext_http_certificates_refused_total",
            "Clients that were turned away since they showed no certificate that is good (tls_client_ca_file).",
        )
        .sample(&[], self.state.traffic.clients_uncertified());
        text.gauge("whatsnext_http_connections", "Connections that are open.").sample(&[], self.connections.get());
    }

    fn admission(&self, text: &mut Text) {
        let mut admissions = text.counter("whatsnext_admissions_total", "Requests that asked to come in, by what became of that.");
        for api::admission::Count { class, outcome, count } in self.state.gate.counts() {
            admissions.sample(&[("class", &class), ("outcome", &outcome)], count);
        }
        let verifier::Stats { runs, remembered, believed, busy } = self.state.gate.verifier().stats();
        text.counter("whatsnext_argon2_runs_total", "Keys that were compared with a hash, which takes 15 ms of a processor.")
            .sample(&[], runs);
        text.counter("whatsnext_keys_remembered_total", "Keys that this server knew to be right.").sample(&[], remembered);
        text.counter("whatsnext_keys_believed_total", "Keys that another server had verified.").sample(&[], believed);
        text.counter("whatsnext_argon2_refused_total", "Keys that were not looked at because too many were waiting.").sample(&[], busy);
    }

    fn sweeps(&self, text: &mut Text) {
        let mut sweeps = text.counter(
            "whatsnext_sweeps_total",
            "What every server does now and then: ending leases, making jobs ready when their time comes, noticing silent clients, tidying up.",
        );
        sweeps.sample(&[("outcome", &"ok")], self.sweeps.done.get()).sample(&[("outcome", &"failed")], self.sweeps.failed.get());
    }

    fn spans(&self, text: &mut Text) {
        let Some(collector) = &self.collector else { return };
        let mut spans = text.counter("whatsnext_spans_total", "Spans, by what became of them.");
        spans.sample(&[("outcome", &"exported")], collector.received.get()).sample(&[("outcome", &"failed")], collector.lost.get());
        spans.sample(&[("outcome", &"dropped")], self.state.traffic.spans_dropped());
    }

    fn audit(&self, text: &mut Text) {
        let mut lines = text.counter("whatsnext_audit_lines_total", "Lines of the audit log, by what became of them.");
        lines.sample(&[("outcome", &"written")], self.state.audit.written()).sample(&[("outcome", &"lost")], self.state.audit.lost());
    }

    /// What the database says, or said a moment ago; nothing while it cannot say it.
    async fn overview(&self) -> Option<Overview> {
        let mut seen = self.seen.lock().await;
        match &*seen {
            Some((since, overview)) if since.elapsed() < KEPT => overview.clone(),
            _ => {
                let asked = timeout(PATIENCE, self.projects.overview(PROJECTS)).await;
                let overview = asked.ok().and_then(Result::ok);
                *seen = Some((Instant::now(), overview.clone()));
                overview
            }
        }
    }
}

fn of_redis(text: &mut Text, stats: &redis::Stats) {
    text.gauge("whatsnext_redis_up", "1 if requests use Redis, 0 while the breaker is open.").sample(&[], u8::from(stats.is_used));
    text.counter("whatsnext_redis_outages_total", "How often Redis went away.").sample(&[], stats.outages);
    text.counter("whatsnext_degraded_seconds_total", "How long requests went on without Redis.").sample(&[], stats.away.as_secs_f64());
    text.histogram("whatsnext_redis_duration_seconds", "How long Redis took to answer requests.").distribution(
        &[],
        &stats.answers,
        MICROSECONDS,
    );
    text.gauge("whatsnext_servers", "Servers that share this Redis, as it last told.").sample(&[], stats.servers);
}

fn of_postgres(text: &mut Text, stats: &postgres::Stats) {
    let state: [(&dyn Display, usize); 2] = [(&"in_use", stats.in_use), (&"idle", stats.idle)];
    let mut pool = text.gauge("whatsnext_postgresql_connections", "Connections to PostgreSQL.");
    for (state, count) in state {
        pool.sample(&[("state", state)], count);
    }
    text.gauge("whatsnext_postgresql_connections_max", "How many connections to PostgreSQL there may be.").sample(&[], stats.pool_size);
    text.gauge("whatsnext_postgresql_waiting", "Requests that wait for a connection to PostgreSQL.").sample(&[], stats.waiting);
    text.histogram("whatsnext_postgresql_duration_seconds", "How long statements and commits took, waiting for locks included.")
        .distribution(&[], &stats.statements, MICROSECONDS);
    let mut refused = text.counter("whatsnext_postgresql_unavailable_total", "How often no connection to PostgreSQL was to be had.");
    refused.sample(&[("reason", &"busy")], stats.busy).sample(&[("reason", &"unreachable")], stats.unreachable);
    text.counter("whatsnext_postgresql_reruns_total", "Transactions that lost a deadlock and were run again.").sample(&[], stats.reruns);
    text.counter("whatsnext_postgresql_abandoned_total", "Statements that were cancelled because nobody waited for them any more.")
        .sample(&[], stats.abandoned);
}

fn of_jobs(text: &mut Text, stats: &jobs::Stats) {
    let mut reported = text.counter("whatsnext_attempts_reported_total", "Attempts that ended as their clients reported.");
    for (outcome, count) in [("completed", stats.completed), ("failed", stats.failed), ("released", stats.released)] {
        reported.sample(&[("outcome", &outcome)], count);
    }
    let mut given = text.counter("whatsnext_jobs_given_total", "Jobs that were given out, with a lease or by fetch_job.");
    given.sample(&[("way", &"claim")], stats.granted).sample(&[("way", &"fetch")], stats.fetched);
    let mut retries =
        text.counter("whatsnext_retries_total", "Jobs that are run again: after a failure, a lease that ended, or because somebody asked.");
    for (reason, count) in [("failure", stats.tried_again), ("lease", stats.returned), ("request", stats.asked_again)] {
        retries.sample(&[("reason", &reason)], count);
    }
    let mut expired = text.counter("whatsnext_leases_expired_total", "Leases that ended and were swept by this server.");
    expired.sample(&[("job", &"returned")], stats.returned).sample(&[("job", &"ended")], stats.expired);
    text.counter("whatsnext_jobs_due_total", "Jobs whose time came, swept by this server.").sample(&[], stats.due);
    text.counter("whatsnext_jobs_undelivered_total", "Jobs that were given out and went back because nobody received them.")
        .sample(&[], stats.put_back);
    text.gauge("whatsnext_claims_waiting", "Claims that are not answered yet.").sample(&[], stats.claims);
    text.counter("whatsnext_claims_woken_total", "Claims that waited until there was something that they could have.")
        .sample(&[], stats.woken);
    text.histogram("whatsnext_claims_together", "How many claims one transaction served.").distribution(&[], &stats.rounds, 1.0);
}

fn of_queue(text: &mut Text, overview: Option<&Overview>) {
    text.gauge("whatsnext_queue_up", "1 if the database said how jobs stand, 0 if it could not; then the metrics below are missing.")
        .sample(&[], u8::from(overview.is_some()));
    let Some(overview) = overview else { return };
    let mut all = text.gauge("whatsnext_jobs", "Jobs of all projects.");
    for status in STATUSES {
        all.sample(&[("status", &status)], overview.counts.get(status).unwrap_or(&0));
    }
    text.gauge("whatsnext_projects", "Projects; those with the most to do are told of one by one.").sample(&[], overview.projects);
    text.gauge("whatsnext_live_clients", "Clients that were heard of lately.").sample(&[], overview.live_clients);
    text.gauge("whatsnext_leases", "Attempts that run with a lease.").sample(&[], overview.leases);
    let mut jobs = text.gauge("whatsnext_project_jobs", "Jobs of one project.");
    for project in &overview.busiest {
        for status in STATUSES {
            let count = project.counts.get(status).unwrap_or(&0);
            jobs.sample(&[("project", &project.project_id), ("status", &status)], count);
        }
    }
    let mut oldest = text.gauge(
        "whatsnext_project_oldest_ready_seconds",
        "For how long the oldest of a project's first ready jobs has been ready; 0 if none is.",
    );
    for project in &overview.busiest {
        oldest.sample(&[("project", &project.project_id)], project.oldest_ready_seconds.unwrap_or(0.0));
    }
}

impl http::Service for Metrics {
    type Met = ();

    fn meet(&self, _: &http::Head<'_>) -> ControlFlow<http::Whole> {
        ControlFlow::Continue(())
    }

    async fn answer(&self, request: Request, (): ()) -> Response {
        let status = match (request.uri().path(), request.method()) {
            ("/metrics", &Method::GET | &Method::HEAD) => StatusCode::OK,
            ("/metrics", _) => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::NOT_FOUND,
        };
        let response = Response::builder().status(status).header(header::CONNECTION, "close");
        match status {
            StatusCode::OK => response.content_type(MEDIA_TYPE).body(self.text().await),
            StatusCode::METHOD_NOT_ALLOWED => response.header(header::ALLOW, "GET, HEAD").finish(),
            _ => response.finish(),
        }
    }
}

/// What a peer of the address for metrics may take: few connections, and little time.
pub(super) fn limits() -> http::Limits {
    http::Limits {
        connections: 8,
        for_each_address: 8,
        exempt: TrustedProxies::default(),
        head_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(1),
        announced_by: TrustedProxies::default(),
        open: Gauge::default(),
    }
}
