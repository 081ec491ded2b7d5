//! A cluster, and sentinels with their master, over TLS.

use futures_util::future::join_all;
use whatsnext::access::{Grants, Role};

use super::{BACK, PATIENCE, cluster::Cluster};
use crate::support::{
    Authority, PASSWORD, Process, RedisServer, TestDatabase, fleet, free_port, is_shared, make_key, tls_arguments, within,
};

const NAME: &str = "queue-master";

/// Limits are shared by this URL, and not with a Redis whose authority is another one.
async fn is_used(url: &str, authority: &Authority) {
    let database = TestDatabase::new().await;
    let key = make_key(&database, Grants::All(Role::Reader)).await;
    let trusted = authority.file();
    let trusting = fleet(&database, 1, &[("REDIS_URL", url), ("REDIS_CA_FILE", &trusted), ("RATE_LIMIT_PER_MINUTE", "1000")]).await;
    let api = trusting[0].api.with_key(key.expose());
    within(BACK, "Redis is up", async || trusting[0].api.get("/readyz").await.expect(200)["status"] == "ready").await;
    within(BACK, "limits are shared", async || is_shared(&api).await).await;

    let other = Authority::new().file();
    let wary = Process::start_with(&database, &[("REDIS_URL", url), ("REDIS_CA_FILE", &other)]).await;
    assert_eq!(wary.api.get("/readyz").await.expect(200)["redis"], "down", "a certificate that nobody vouches for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_reached_over_tls() {
    let authority = Authority::new();
    let pair = authority.issue(&["127.0.0.1"]);
    let (_cluster, url) = Cluster::start_with_tls(&authority, &pair).await;
    is_used(&url, &authority).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_their_master_are_reached_over_tls() {
    let authority = Authority::new();
    let pair = authority.issue(&["127.0.0.1"]);
    let port = free_port();
    let _master = RedisServer::start_with_tls(&authority, &pair, port).await;
    let ports = [(); 3].map(|()| free_port());
    let sentinels = join_all(ports.map(|own| {
        let arguments = tls_arguments(&authority, &pair, own);
        let tls: Vec<String> = arguments.chunks(2).map(|pair| format!("{} {}", pair[0].trim_start_matches('-'), pair[1])).collect();
        let watch = format!("sentinel monitor {NAME} 127.0.0.1 {port} 2\nsentinel auth-pass {NAME} {}", PASSWORD.0);
        async move { RedisServer::start_sentinel(&format!("{watch}\n{}", tls.join("\n"))).await }
    }))
    .await;
    within(PATIENCE, "the sentinels see the master", async || {
        let known = join_all(sentinels.iter().map(|sentinel| sentinel.ask::<String>(&["SENTINEL", "CKQUORUM", NAME]))).await;
        known.iter().all(Result::is_ok)
    })
    .await;
    let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    is_used(&format!("rediss+sentinel://:{0}@{hosts}/{NAME}/0?sentinel_password={0}", PASSWORD.1), &authority).await;
}
