//! The integration tests: everything with I/O, on real PostgreSQL and Redis.

#![expect(clippy::unwrap_used, reason = "these are tests")]

mod addresses;
mod admission;
mod audit;
mod bounds;
mod claims;
mod classes;
mod contract;
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
mod leases;
mod lifecycle;
mod limits;
mod model;
mod order;
mod permissions;
mod schema;
mod secrets;
mod stores;
mod support;
mod tls;
mod tokens;
mod topology;
