//! Clients that go: forgotten while they claim, or silent.

use std::time::Duration;

use serde_json::{Value, json};

use super::World;
use crate::support::{eventually, waiting_for_locks, within};

/// A client that is forgotten while it claims leaves nothing to who registers its id anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_claims_while_it_is_forgotten_is_nobodys() {
    let world = World::new().await;
    let (mut database, watcher) = (world.database.connect().await, world.database.connect().await);
    let job = world.job("j").await;
    let holds = database.transaction().await.unwrap();
    holds.execute("select from clients where id = 'node' for update", &[]).await.unwrap();
    let claim = tokio::spawn({
        let (api, path) = (world.api.clone(), format!("/projects/{}/claims", world.project));
        async move { api.post(&path, json!({"client_id": "node", "lease_seconds": 60})).await.expect(200) }
    });
    eventually("the claim waits for the client", || async { waiting_for_locks(&watcher).await == 1 }).await;
    let end = tokio::spawn({
        let api = world.api.clone();
        async move { api.delete("/clients/node").await.status }
    });
    eventually("the end waits behind it", || async { waiting_for_locks(&watcher).await == 2 }).await;
    holds.rollback().await.unwrap();
    assert_eq!(claim.await.unwrap()["jobs"][0]["job"]["id"], job, "the claim came first");
    assert_eq!(end.await.unwrap(), 204);
    let attempt = world.attempt(job, 1).await;
    assert_eq!((&attempt["status"], &attempt["client_id"]), (&json!("CLAIMED"), &Value::Null), "it is nobody's");
    world.client("node", 1, 0).await;
    let beaten = world.api.post("/clients/node/heartbeat", json!({})).await.expect(200);
    assert_eq!(beaten["attempts"], json!([]), "who has the id now has nothing to do with it");
    world.api.delete("/clients/node").await;
    assert_eq!(world.api.delete("/clients/node").await.status, 404);
    world.end().await;
}

#[tokio::test]
async fn a_client_that_falls_silent_is_inactive_until_it_is_heard_of() {
    let world = World::with(&[("client_timeout_seconds", "2")]).await;
    world.client("other", 1, 0).await;
    let is_active = async |client: &str| world.api.get(&format!("/clients/{client}")).await.expect(200)["is_active"] == 1;
    assert!(is_active("node").await);
    eventually("it is inactive", || async {
        world.api.post("/clients/other/heartbeat", json!({})).await.expect(200);
        !is_active("node").await
    })
    .await;
    assert!(is_active("other").await, "this one was heard of");
    world.api.post("/clients/node/heartbeat", json!({})).await.expect(200);
    assert!(is_active("node").await, "it is back");
    world.end().await;
}

/// Who says nothing but that its attempts go on is there all the same.
#[tokio::test]
async fn a_client_that_beats_for_its_attempts_only_stays_active() {
    let world = World::with(&[("client_timeout_seconds", "8")]).await;
    world.client("silent", 1, 0).await;
    let job = world.job("j").await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 600})).await, [job]);
    let database = world.database.connect().await;
    database.execute("update clients set last_heartbeat = now() - interval '3 seconds'", &[]).await.unwrap();
    let is_active = async |client: &str| world.api.get(&format!("/clients/{client}")).await.expect(200)["is_active"] == 1;
    within(Duration::from_secs(20), "the one that says nothing is inactive", async || {
        world.say(job, 1, "heartbeat", json!({})).await.expect(200);
        assert!(is_active("node").await, "expected the one that beats to be active all the time");
        !is_active("silent").await
    })
    .await;
    let heard = "select last_heartbeat > now() - interval '6 seconds' from clients where id = 'node'";
    assert!(database.query_one(heard, &[]).await.unwrap().get::<_, bool>(0), "expected that it was noted when it was heard of");
    world.end().await;
}
