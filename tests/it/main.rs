//! The integration tests: everything with I/O, on real PostgreSQL and Redis.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod addresses;
mod admission;
mod audit;
mod balancers;
mod bounds;
mod browser;
mod claims;
mod classes;
mod contract;
mod cors;
mod degraded;
mod delivery;
mod dev;
mod document;
mod graph;
mod h2;
mod history;
mod hostile;
mod https;
mod idempotency;
mod keys;
mod leases;
mod lifecycle;
mod limits;
mod metrics;
mod model;
mod order;
mod permissions;
mod pooler;
mod schema;
mod secrets;
mod settings;
mod stores;
mod supervised;
mod support;
mod tls;
mod tokens;
mod topology;
mod traces;
mod unread;
