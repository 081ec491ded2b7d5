//! WhatsNext, a job queue that labs, private clouds and research clusters run for themselves.
//!
//! People submit jobs over HTTP; machines with free CPUs and GPUs ask what is next and run them. A server holds no state that another one needs:
//! everything is in PostgreSQL, and what servers share besides is in Redis.
//!
//! | module | what |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`app`] | one server put together, and how it runs and stops |
//! | [`http`] | connections: accepting, TLS, time-outs, draining |
//! | [`api`] | the HTTP API: reads requests, calls the queue, writes answers, describes itself |
//! | [`queue`] | the queue: projects, tasks, jobs, clients, and what waits for what |
//! | [`access`] | who may do what: keys, permissions, where a request comes from |
//! | [`limits`] | how much may come in: exact sliding windows that all servers share |
//! | [`postgres`], [`redis`] | the stores: pools, prepared statements, transactions, migrations; clusters, sentinels, a breaker |
//! | [`telemetry`] | logs, the audit log, metrics, traces |
//! | [`coalesce`] | what many ask at the same time is asked for all of them |
//! | [`measure`] | what the parts count: atomics |
//! | [`config`] | settings: plain data |
//!
//! # The import rule
//!
//! Imports go down only: `main → cli → app → api → http → {queue, access, limits} → {postgres, redis} → {config, measure, coalesce}`. Features on one layer do not import each
//! other, nor do those inside `queue` import each other's stores. Only `api`, `http` and `app` know poem; only `postgres` knows tokio-postgres; only
//! `redis`, `limits/store.rs` and `access/live.rs` know redis. `tests/architecture.rs` enforces it.
//!
//! # Invariants
//!
//! - A change is one statement or one transaction; what follows from it for other jobs happens in the same one ([`queue::jobs::graph`]).
//! - A claimed job has a client that received it, or goes back ([`queue::jobs::Handover`]).
//! - Of an attempt that is over nothing changes any more, and no job is offered again before its lease has ended ([`queue::jobs::attempts`]).
//! - A 5xx says nothing of the inside; the log says it, under the request's id ([`api::Error`]).

pub mod access;
pub mod api;
pub mod app;
pub mod cli;
pub mod coalesce;
pub mod config;
pub mod http;
pub mod limits;
pub mod measure;
pub mod postgres;
pub mod queue;
pub mod redis;
pub mod telemetry;
