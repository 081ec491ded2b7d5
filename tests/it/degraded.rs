//! Redis stopped, slow, cut off, read-only, full, or empty: no 5xx, each server with its share, keys from PostgreSQL.

use std::time::{Duration, Instant};

use serde_json::json;
use whatsnext::access::{Grants, Key, Role};

use crate::support::{
    Api, Json, Load, Process, Proxy, RedisServer, TestDatabase, admitted, each_with, eventually, fleet, is_of_all, is_shared, make_key,
    make_key_with, send, until_they_know_each_other, within,
};

/// How long a server may take to be itself again once Redis is.
const BACK: Duration = Duration::from_secs(5);

/// More than the budget of 50 ms, for a machine with other things to do, and far less than a time-out.
const SOON: Duration = Duration::from_millis(500);

/// A Redis of the test's own, and three servers that share it, perhaps through a proxy.
struct Three {
    database: TestDatabase,
    redis: RedisServer,
    fleet: Vec<Process>,
}

impl Three {
    async fn start() -> Self {
        Self::start_with(RedisServer::start(&[]).await, None).await
    }

    async fn start_through_a_proxy() -> (Self, Proxy) {
        let redis = RedisServer::start(&[]).await;
        let proxy = Proxy::to(&redis).await;
        (Self::start_with(redis, Some(&proxy)).await, proxy)
    }

    async fn start_with(redis: RedisServer, proxy: Option<&Proxy>) -> Self {
        let database = TestDatabase::new().await;
        let url = proxy.map_or_else(|| redis.url(), Proxy::redis_url);
        let fleet = fleet(&database, 3, &[("REDIS_URL", &url), ("RATE_LIMIT_PER_MINUTE", "30000")]).await;
        until_they_know_each_other(&redis, &database, 3).await;
        Self { database, redis, fleet }
    }

    /// A reader's key with this limit that each server has seen, and each server with it.
    async fn key(&self, limit: u32) -> (Key, Vec<Api>) {
        let key = make_key_with(&self.database, Grants::All(Role::Reader), |new| new.rate_limit = Some(limit)).await;
        let apis = each_with(&self.fleet, &key);
        for api in &apis {
            within(BACK, "limits are shared", async || is_shared(api).await).await;
        }
        (key, apis)
    }
}

/// How a request went, and how long it took.
async fn timed(api: &Api) -> (Json, Duration) {
    let start = Instant::now();
    let answer = api.get("/projects").await;
    assert!(matches!(answer.status, 200 | 429), "{} {}", answer.status, answer.text);
    (answer, start.elapsed())
}

/// Each server goes on by itself, and the first request to notice waits no longer than it may.
async fn until_alone(apis: &[Api], policy: &str) {
    for api in apis {
        within(BACK, "the server goes on by itself", async || {
            let (answer, took) = timed(api).await;
            assert!(took < SOON, "{took:?}");
            answer.header("ratelimit-policy") == policy
        })
        .await;
    }
}

/// All of them share limits again, soon.
async fn until_shared(apis: &[Api]) {
    let start = Instant::now();
    for api in apis {
        within(BACK, "limits are shared again", async || is_shared(api).await).await;
    }
    assert!(start.elapsed() < BACK, "{:?}", start.elapsed());
}

/// A middle one of these times.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_redis_costs_its_budget_once_and_keys_hold_without_it() {
    let (three, proxy) = Three::start_through_a_proxy().await;
    let (_, apis) = three.key(30).await;
    let (other, strangers) = three.key(30_000).await;
    let unseen = make_key(&three.database, Grants::All(Role::Reader)).await;
    let admin = make_key_with(&three.database, Grants::All(Role::Admin), |new| new.rate_limit = Some(0)).await;

    proxy.slow_down(Duration::from_secs(5));
    until_alone(&apis, "\"degraded\";q=10;w=60").await;
    until_alone(&strangers, "\"degraded\";q=10000;w=60").await;
    let mut times = Vec::new();
    for n in 0..60 {
        times.push(timed(&strangers[n % 3]).await.1);
    }
    assert!(median(times.clone()) < Duration::from_millis(25), "nobody waits any more: {times:?}");
    assert!(admitted(&send(&apis, 150).await) <= 30, "the fleet admits no more than the limit");

    // A key that was never seen is let in, and one that is revoked is not, a second later at most.
    for api in each_with(&three.fleet, &unseen) {
        api.get("/projects").await.expect(200);
    }
    let admin = three.fleet[0].api.with_key(admin.expose());
    admin.post(&format!("/keys/{}/revoke", other.id()), json!({})).await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for api in &strangers {
        api.get("/projects").await.problem(401);
    }

    proxy.slow_down(Duration::ZERO);
    until_shared(&each_with(&three.fleet, &unseen)).await;
    // What was changed meanwhile was taken there before anybody went back.
    for api in &strangers {
        api.get("/projects").await.problem(401);
    }
}

/// No packet comes any more, in no direction, and nobody says that the connection has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_vanished_costs_its_budget_once() {
    let (three, proxy) = Three::start_through_a_proxy().await;
    let (_, apis) = three.key(30_000).await;
    let load = Load::on(apis.iter().cloned());
    proxy.fall_silent();
    until_alone(&apis, "\"degraded\";q=10000;w=60").await;
    let mut times = Vec::new();
    for n in 0..60 {
        let (answer, took) = timed(&apis[n % 3]).await;
        assert!(!is_of_all(&answer));
        times.push(took);
    }
    assert!(median(times.clone()) < Duration::from_millis(25), "nobody waits any more: {times:?}");
    let health = three.fleet[0].api.get("/readyz").await.expect(200);
    assert_eq!((&health["status"], &health["redis"]), (&json!("degraded"), &json!("down")));
    proxy.slow_down(Duration::ZERO);
    until_shared(&apis).await;

    proxy.cut();
    until_alone(&apis, "\"degraded\";q=10000;w=60").await;
    proxy.mend();
    until_shared(&apis).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_is_as_good_as_away() {
    let three = Three::start().await;
    let (_, apis) = three.key(30_000).await;
    let load = Load::on(apis.iter().cloned());
    let redis = &three.redis;

    // Scripts are sent again where they are forgotten, and nobody notices.
    redis.ask::<()>(&["SCRIPT", "FLUSH"]).await.expect("scripts are forgotten");
    for api in &apis {
        let (answer, _) = timed(api).await;
        assert!(is_of_all(&answer), "{:?}", answer.headers);
    }
    for (away, back) in [
        // READONLY; nobody is there to be the master.
        (&["REPLICAOF", "127.0.0.1", "1"][..], &["REPLICAOF", "NO", "ONE"][..]),
        // OOM.
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
        // NOREPLICAS.
        (&["CONFIG", "SET", "min-replicas-to-write", "1"], &["CONFIG", "SET", "min-replicas-to-write", "0"]),
    ] {
        redis.ask::<()>(away).await.expect("it takes no writes");
        until_alone(&apis, "\"degraded\";q=10000;w=60").await;
        redis.ask::<()>(back).await.expect("it takes writes");
        until_shared(&apis).await;
    }
    // MASTERDOWN, also for what only reads.
    redis.ask::<()>(&["CONFIG", "SET", "replica-serve-stale-data", "no"]).await.expect("it is set");
    redis.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await.expect("it serves nothing");
    until_alone(&apis, "\"degraded\";q=10000;w=60").await;
    redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await.expect("it serves again");
    until_shared(&apis).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_still_loading_is_waited_for_without_it() {
    const SLOW_START: [&str; 6] =
        ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024", "--enable-debug-command", "yes"];
    let mut three = Three::start_with(RedisServer::start(&SLOW_START).await, None).await;
    let (_, apis) = three.key(30_000).await;
    three.redis.ask::<()>(&["DEBUG", "POPULATE", "150", "key", "2048"]).await.expect("it has something to load");
    three.redis.ask::<()>(&["SAVE"]).await.expect("it is written");
    let load = Load::on(apis.iter().cloned());
    three.redis.kill();
    three.redis.start_again();
    within(BACK, "it is loading", async || three.redis.ask::<String>(&["PING"]).await.is_err_and(|error| error.code() == Some("LOADING")))
        .await;
    until_alone(&apis, "\"degraded\";q=10000;w=60").await;
    three.redis.until_it_answers().await;
    until_shared(&apis).await;
    load.stop().await;
}

/// All that Redis knew is lost: the subject's window, what the servers admit by themselves, and a new window are three, of which no more than two are had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_killed_and_comes_back_empty_gives_one_more_window_at_most() {
    const LIMIT: u32 = 90;
    let mut three = Three::start().await;
    let (_, readers) = three.key(30_000).await;
    let limited = make_key_with(&three.database, Grants::All(Role::Reader), |new| new.rate_limit = Some(LIMIT)).await;
    let apis = each_with(&three.fleet, &limited);
    let start = Instant::now();
    let (load, of_limited) = (Load::on(readers.iter().cloned()), Load::on(apis.iter().cloned()));
    within(BACK * 4, "the limit is used up", async || of_limited.admitted() >= LIMIT as usize - 1).await;
    three.redis.kill();
    until_alone(&readers, "\"degraded\";q=10000;w=60").await;
    within(BACK * 4, "the servers' own shares are used up", async || of_limited.admitted() >= 2 * LIMIT as usize - 1).await;
    three.redis.restart().await;
    // Of a key that nobody has shown before Redis knows nothing.
    let unseen = make_key(&three.database, Grants::All(Role::Reader)).await;
    for api in each_with(&three.fleet, &unseen) {
        api.get("/projects").await.expect(200);
    }
    until_shared(&readers).await;
    let after = send(&apis, 150).await;
    load.stop().await;
    let sum = of_limited.stop().await + admitted(&after);
    assert!(start.elapsed() < Duration::from_secs(55), "all of it is one window: {:?}", start.elapsed());
    assert!(sum <= 2 * LIMIT as usize, "{sum} of a limit of {LIMIT}");
    assert!(after.iter().all(|answer| is_of_all(answer) && answer.status == 429), "what was admitted without Redis counts there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nobody_comes_in_if_that_is_wanted() {
    let database = TestDatabase::new().await;
    let proxy = Proxy::to_redis().await;
    let key = make_key(&database, Grants::All(Role::Reader)).await;
    let url = proxy.redis_url();
    let environment = [("DISABLE_AUTH", "false"), ("REDIS_URL", url.as_str()), ("REDIS_FAILURE", "deny"), ("RATE_LIMIT_PER_MINUTE", "100")];
    let process = Process::start_with(&database, &environment).await;
    let api = process.api.with_key(key.expose());
    api.get("/projects").await.expect(200);
    proxy.cut();
    eventually("requests are refused", || async { api.try_get("/projects").await == Some(503) }).await;
    proxy.mend();
    eventually("requests are served", || async { api.try_get("/projects").await == Some(200) }).await;
}
