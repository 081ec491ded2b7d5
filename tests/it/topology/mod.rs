//! Redis as a cluster, and as a master that sentinels replace.

mod cluster;
mod sentinel;
mod tls;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redis::cmd;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use whatsnext::{
    access::{Grants, Key, Role},
    redis::Redis,
};

use crate::support::{
    Api, Load, PASSWORD, Process, RedisServer, TestDatabase, admitted, each_with, fleet, is_of_all, is_shared, make_key_with, program,
    send, within,
};
use cluster::Cluster;

/// How long Redis may take for anything on a slow machine before the test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long after that the service may take.
const BACK: Duration = Duration::from_secs(5);

/// Three servers on this Redis.
async fn three(database: &TestDatabase, url: &str) -> Vec<Process> {
    let fleet = fleet(database, 3, &[("REDIS_URL", url), ("RATE_LIMIT_PER_MINUTE", "100000")]).await;
    for process in &fleet {
        within(BACK, "Redis is up", async || process.api.get("/readyz").await.expect(200)["status"] == "ready").await;
    }
    fleet
}

/// Each server with each key.
fn all_with(fleet: &[Process], keys: &[Key]) -> Vec<Api> {
    keys.iter().flat_map(|key| each_with(fleet, key)).collect()
}

/// All of them share limits again, soon.
async fn until_shared(apis: &[Api]) {
    let start = Instant::now();
    for api in apis {
        within(BACK, "limits are shared again", async || is_shared(api).await).await;
    }
    assert!(start.elapsed() < BACK, "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_holds_limits_and_revocations_on_each_of_its_nodes() {
    let (database, cluster) = (TestDatabase::new().await, Cluster::start().await);
    let admin = make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(0)).await;
    let fleet = three(&database, &cluster.url()).await;

    for node in 0..3 {
        let mut rounds = 0;
        let count = loop {
            // A server with too much to do may lose sight of Redis, and says so: then the limit is another one.
            let key = cluster.keys(&database, 100).await.remove(node);
            let answers = send(&each_with(&fleet, &key), 300).await;
            rounds += 1;
            if answers.iter().all(is_of_all) || rounds == 5 {
                break admitted(&answers);
            }
        };
        assert!((99..=100).contains(&count), "node {node}: expected 99 or 100 of a limit of 100 to be admitted, got {count}");
    }

    let admin = fleet[0].api.with_key(admin.expose());
    for key in cluster.keys(&database, 100_000).await {
        let apis = each_with(&fleet, &key);
        until_shared(&apis).await;
        admin.post(&format!("/keys/{}/revoke", key.id()), json!({})).await.expect(200);
        for api in &apis {
            api.get("/projects").await.problem(401);
        }
    }
    for key in cluster.keys(&database, 100_000).await {
        let apis = each_with(&fleet, &key);
        until_shared(&apis).await;
        let mut command = program(&database);
        command.args(["keys", "revoke", &key.id().to_string()]).env("REDIS_URL", cluster.url());
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for api in &apis {
            api.get("/projects").await.problem(401);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_may_move_under_load() {
    let (database, cluster) = (TestDatabase::new().await, Cluster::start().await);
    let (readers, limited) = (cluster.keys(&database, 100_000).await, cluster.keys(&database, 60).await);
    let fleet = three(&database, &cluster.url()).await;
    let apis = all_with(&fleet, &readers);
    until_shared(&apis).await;
    assert_eq!(admitted(&send(&each_with(&fleet, &limited[0]), 120).await), 60, "the limit is used up");
    let load = Load::on(apis.iter().cloned());
    cluster.move_slot(&readers[0], 0, 1).await;
    cluster.move_slot(&limited[0], 0, 2).await;
    until_shared(&apis).await;
    cluster.move_slot(&readers[0], 1, 2).await;
    until_shared(&apis).await;
    load.stop().await;
    let again = send(&each_with(&fleet, &limited[0]), 30).await;
    assert!(again.iter().all(is_of_all));
    assert_eq!(admitted(&again), 0, "the window moved with the slot");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_node_of_the_cluster_the_servers_go_on_by_themselves() {
    let (database, mut cluster) = (TestDatabase::new().await, Cluster::start().await);
    let readers = cluster.keys(&database, 100_000).await;
    let fleet = three(&database, &cluster.url()).await;
    let apis = all_with(&fleet, &readers);
    until_shared(&apis).await;

    // A node is lost. Nothing is shared while it is away, since nobody can say what its keys have used.
    let load = Load::on(apis.iter().cloned());
    cluster.0[1].kill();
    for api in &apis {
        within(PATIENCE, "the servers go on by themselves", async || !is_shared(api).await).await;
    }
    let health = fleet[0].api.get("/readyz").await.expect(200);
    assert_eq!((&health["status"], &health["redis"]), (&json!("degraded"), &json!("down")));
    cluster.0[1].restart().await;
    cluster.until_it_is_whole().await;
    until_shared(&apis).await;
    load.stop().await;

    // A node that hangs costs its budget and not more, however many answers come from the others.
    let (of_others, hanging) = (Load::on(apis[..3].iter().cloned()), &apis[6]);
    until_shared(std::slice::from_ref(hanging)).await;
    cluster.0[2].signal(Signal::SIGSTOP);
    let start = Instant::now();
    assert!(!is_shared(hanging).await);
    let waited = start.elapsed();
    cluster.0[2].signal(Signal::SIGCONT);
    // The budget is 50 ms; the rest is for a machine with other things to do. Without a clock for each node it would be a second.
    assert!(waited < Duration::from_millis(500), "{waited:?}");
    cluster.until_it_is_whole().await;
    until_shared(&apis).await;
    of_others.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_takes_the_place_of_a_master_of_the_cluster() {
    let (database, mut cluster) = (TestDatabase::new().await, Cluster::start_with_replica().await);
    let readers = cluster.keys(&database, 100_000).await;
    let fleet = three(&database, &cluster.url()).await;
    let apis = all_with(&fleet, &readers);
    until_shared(&apis).await;
    let load = Load::on(apis.iter().cloned());
    cluster.0[1].kill();
    within(PATIENCE, "the replica is the master", async || {
        let survivors = [0, 2, 3].map(|node| cluster.0[node].ask::<String>(&["CLUSTER", "INFO"]));
        let states = futures_util::future::join_all(survivors).await;
        cluster.0[3].ask::<String>(&["INFO", "replication"]).await.is_ok_and(|info| info.contains("role:master"))
            && states.iter().all(|state| state.as_ref().is_ok_and(|state| state.contains("cluster_state:ok")))
    })
    .await;
    until_shared(&apis).await;
    within(BACK, "Redis is up", async || fleet[2].api.get("/readyz").await.expect(200)["status"] == "ready").await;
    // The one that was the master comes back as a replica, and nobody notices.
    cluster.0[1].restart().await;
    cluster.until_it_is_whole().await;
    until_shared(&apis).await;
    load.stop().await;
}

/// Two changes of `redis_url`, and what was admitted meanwhile is still on its way to the first when the second was tried.
#[tokio::test]
async fn a_redis_that_was_given_up_meanwhile_is_not_gone_back_to() {
    let database = TestDatabase::new().await;
    let servers = [RedisServer::start(&[]).await, RedisServer::start(&[]).await];
    let settings = |url: &str| database.settings(&[("redis_url", url), ("redis_timeout_milliseconds", "20000")]);
    let redis = Redis::new(&settings("redis://127.0.0.1:1")).unwrap();
    let (taken, begun) = ([(); 2].map(|()| CancellationToken::new()), [(); 2].map(|()| CancellationToken::new()));
    let change = |n: usize| {
        let (redis, taken, begun) = (redis.clone(), taken[n].clone(), begun[n].clone());
        let settings = settings(&format!("redis://:{}@{}/", PASSWORD.1, servers[n].address()));
        let take_over = move || {
            begun.cancel();
            let taken = taken.clone();
            async move { taken.cancelled().await }
        };
        tokio::spawn(async move { redis.reload(&settings, take_over).await })
    };
    let first = change(0);
    begun[0].cancelled().await;
    let second = change(1);
    begun[1].cancelled().await;
    taken[0].cancel();
    first.await.unwrap().unwrap();
    assert!(redis.attempt("k").is_err(), "nothing has been taken to the second yet");
    taken[1].cancel();
    second.await.unwrap().unwrap();
    let attempt = redis.attempt("k").expect("it is used now");
    let mut connection = attempt.connection();
    let port: (String, String) = attempt.answer(cmd("CONFIG").arg("GET").arg("port").query_async(&mut connection)).await.unwrap();
    assert_eq!(port.1, servers[1].port.to_string(), "the one of the second change is used");
}
