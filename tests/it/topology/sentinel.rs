//! A master that sentinels replace.

use futures_util::future::join_all;
use serde_json::json;
use whatsnext::access::{Grants, Role};

use super::{BACK, PATIENCE, three, until_shared};
use crate::support::{
    Load, PASSWORD, RedisServer, TestDatabase, each_with, is_shared, make_key, make_key_with, until_they_know_each_other, within,
};

/// What the sentinels call the master.
const NAME: &str = "queue-master";

/// A master, its replica, and three sentinels that know both.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinels: Vec<RedisServer>,
}

impl Watched {
    async fn start() -> Self {
        let master = RedisServer::start(&[]).await;
        let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
        within(PATIENCE, "the replica follows", async || says(&replica, "master_link_status:up").await).await;
        let configuration = format!(
            "sentinel monitor {NAME} 127.0.0.1 {} 2\nsentinel auth-pass {NAME} {}\nsentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 3000\n",
            master.port, PASSWORD.0
        );
        let sentinels = join_all((0..3).map(|_| RedisServer::start_sentinel(&configuration))).await;
        let watched = Self { master, replica, sentinels };
        within(PATIENCE, "the sentinels know each other and the replica", async || {
            let known = join_all(watched.sentinels.iter().map(|sentinel| async {
                let known: Vec<String> = sentinel.ask(&["SENTINEL", "MASTER", NAME]).await.unwrap_or_default();
                let is = |name: &str, value: &str| known.windows(2).any(|pair| pair[0] == name && pair[1] == value);
                is("num-other-sentinels", "2") && is("num-slaves", "1")
            }))
            .await;
            known.into_iter().all(|knows| knows)
        })
        .await;
        watched
    }

    fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(RedisServer::address).collect();
        format!("redis+sentinel://:{0}@{1}/{NAME}/0?sentinel_password={0}", PASSWORD.1, hosts.join(","))
    }

    async fn until_most_name_the_other(&self) {
        within(PATIENCE, "most sentinels name another master", async || {
            let named = join_all(self.sentinels.iter().map(async |sentinel| {
                let address: Option<(String, u16)> = sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await.ok()?;
                address.map(|(_, port)| port)
            }))
            .await;
            named.iter().filter(|port| **port == Some(self.replica.port)).count() >= 2
        })
        .await;
    }
}

/// Whether a server says this of its place among others.
async fn says(server: &RedisServer, what: &str) -> bool {
    server.ask::<String>(&["INFO", "replication"]).await.is_ok_and(|info| info.contains(what))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_may_make_another_server_the_master() {
    const LIMIT: u32 = 60;
    let (database, mut watched) = (TestDatabase::new().await, Watched::start().await);
    let admin = make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(0)).await;
    let limited = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(LIMIT)).await;
    let (reader, revoked) = (make_key(&database, Grants::All(Role::Reader)).await, make_key(&database, Grants::All(Role::Reader)).await);
    let fleet = three(&database, &watched.url()).await;
    let (readers, of_revoked) = (each_with(&fleet, &reader), each_with(&fleet, &revoked));
    until_shared(&readers).await;
    until_shared(&of_revoked).await;
    // A server that has not heard of the others yet takes a greater share.
    until_they_know_each_other(&watched.master, &database, 3).await;

    let (load, of_limited) = (Load::on(readers.iter().chain(&of_revoked).cloned()), Load::on(each_with(&fleet, &limited)));
    within(PATIENCE, "the limit is used up", async || of_limited.admitted() >= LIMIT as usize - 1).await;
    watched.master.kill();
    watched.until_most_name_the_other().await;
    until_shared(&readers).await;
    within(BACK, "Redis is up", async || fleet[1].api.get("/readyz").await.expect(200)["status"] == "ready").await;

    // Who was the master comes back, and takes writes until the sentinels tell it not to. Nobody goes there.
    watched.master.restart().await;
    load.stop().await;
    fleet[0].api.with_key(admin.expose()).post(&format!("/keys/{}/revoke", revoked.id()), json!({})).await.expect(200);
    for api in &of_revoked {
        api.get("/projects").await.problem(401);
    }
    within(PATIENCE, "it follows the new one", async || says(&watched.master, "role:slave").await).await;
    for api in &readers {
        assert!(is_shared(api).await);
    }
    // The window on the master, and what the servers admitted by themselves in the meantime.
    let admitted = of_limited.stop().await;
    assert!(admitted <= 2 * LIMIT as usize, "{admitted}");
}

/// A change of masters that somebody asks for: the one before becomes a replica and says READONLY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_may_be_told_to_step_down() {
    let (database, watched) = (TestDatabase::new().await, Watched::start().await);
    let reader = make_key(&database, Grants::All(Role::Reader)).await;
    let fleet = three(&database, &watched.url()).await;
    let apis = each_with(&fleet, &reader);
    until_shared(&apis).await;
    let load = Load::on(apis.iter().cloned());
    within(PATIENCE, "a failover begins", async || watched.sentinels[0].ask::<()>(&["SENTINEL", "FAILOVER", NAME]).await.is_ok()).await;
    watched.until_most_name_the_other().await;
    within(PATIENCE, "the one before is a replica", async || says(&watched.master, "role:slave").await).await;
    until_shared(&apis).await;
    load.stop().await;
    let window = format!("*{{{}}}:w:api", reader.id());
    assert_eq!(
        watched.replica.ask::<Vec<String>>(&["KEYS", &window]).await.expect("it answers").len(),
        1,
        "the window is at the new master"
    );
}
