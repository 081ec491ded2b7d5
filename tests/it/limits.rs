//! The limiter on a real Redis: against its model, by the clock, and what it leaves behind.

mod clock;
mod lasting;
mod model;
mod records;

use std::time::Duration;

use redis::{Client, aio::MultiplexedConnection, cmd};
use uuid::Uuid;
use whatsnext::limits::{Admission, Limits, Standing, Window};

use crate::support::store_url;

const WINDOW_LUA: &str = include_str!("../../src/limits/window.lua");

/// A part of Redis that is the test's own: what is under its prefix goes with it.
struct Private {
    limits: Limits,
    prefix: String,
    client: Client,
}

impl Private {
    fn new() -> Self {
        let prefix = format!("test-{}", Uuid::now_v7().simple());
        let client = Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap();
        Self { limits: Limits::new(&prefix), prefix, client }
    }

    async fn connect(&self) -> MultiplexedConnection {
        self.client.get_multiplexed_async_connection().await.unwrap()
    }

    /// The keys that are there.
    fn keys(&self) -> Vec<String> {
        let mut connection = self.client.get_connection().unwrap();
        let (mut cursor, mut found) = (0_u64, Vec::new());
        loop {
            let pattern = format!("{}:*", self.prefix);
            let (next, keys): (u64, Vec<String>) =
                cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000).query(&mut connection).unwrap();
            found.extend(keys);
            if next == 0 {
                return found;
            }
            cursor = next;
        }
    }
}

impl Drop for Private {
    /// Every window that a test leaves behind must end by itself; records are the test's own.
    fn drop(&mut self) {
        let mut connection = self.client.get_connection().unwrap();
        let keys = self.keys();
        let immortal: Vec<&String> =
            keys.iter().filter(|key| key.contains(":w:") && cmd("PTTL").arg(*key).query::<i64>(&mut connection).unwrap() == -1).collect();
        let immortal = format!("{immortal:?}");
        if !keys.is_empty() {
            cmd("DEL").arg(&keys).exec(&mut connection).unwrap();
        }
        assert!(immortal == "[]" || std::thread::panicking(), "expected every window to have a time to live: {immortal}");
    }
}

fn window(limit: u32, length_ms: u64) -> Window {
    Window { name: "api", limit, length: Duration::from_millis(length_ms), weight: 1, own_limit: false }
}

/// The standings, if it was admitted.
#[track_caller]
fn admitted(admission: Admission) -> Vec<Option<Standing>> {
    match admission {
        Admission::Admitted { standings } => standings,
        other => panic!("expected an admission, got {other:?}"),
    }
}

/// The standings and when to come again, if it was refused.
#[track_caller]
fn refused(admission: Admission) -> (Vec<Option<Standing>>, Option<u64>) {
    match admission {
        Admission::Refused { standings, retry_after_ms } => (standings, retry_after_ms),
        other => panic!("expected a refusal, got {other:?}"),
    }
}
