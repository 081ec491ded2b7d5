//! What the tests stand on: a database of its own for each, servers in this process or as processes, and a client.
//!
//! The stores are real. `deploy/test.sh` starts them and says where they are; `whatsnext dev --stores-only` does for tests run by hand.

mod audit;
mod client;
mod database;
mod fleet;
pub(crate) mod h2;
mod https;
mod keys;
mod postgres;
mod proxy;
mod redis;
mod server;
mod tls;

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};

pub(crate) use self::{
    postgres::PostgresServer,
    redis::{PASSWORD, RedisServer, tls_arguments},
};
pub(crate) use audit::audit_lines;
pub(crate) use client::{Api, Json, id};
pub(crate) use database::{TestDatabase, waiting_for_locks};
pub(crate) use fleet::{
    Load, admitted, admitted_until, each_with, end_subscriptions, fleet, is_of_all, is_shared, send, until_they_know_each_other, within,
};
pub(crate) use h2::{Frame, H2};
pub(crate) use https::{Connection, Https, Identity};
pub(crate) use keys::{make_key, make_key_with};
pub(crate) use proxy::Proxy;
pub(crate) use server::{Process, Server, free_port, program};
pub(crate) use tls::{Authority, Pair, Tls, connect};

/// Where the real stores are.
pub(crate) fn store_url(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run deploy/test.sh, which starts PostgreSQL and Redis for the tests"))
}

/// Looks again and again until it is so, for at most ten seconds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so().await {
        assert!(Instant::now() < deadline, "expected within ten seconds: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
