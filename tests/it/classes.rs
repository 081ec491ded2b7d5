//! What is counted apart: heartbeats and reports can be kept out by nothing else that a key does.

use serde_json::json;
use whatsnext::access::{Grants, Role};

use crate::support::{Process, TestDatabase, make_key, make_key_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_its_limit_still_keeps_its_jobs() {
    let database = TestDatabase::new().await;
    let settings = [("DISABLE_AUTH", "false"), ("REPORT_LIMIT_PER_MINUTE", "5")];
    let servers = [Process::start_with(&database, &settings).await, Process::start_with(&database, &settings).await];
    let admin = servers[0].api.with_key(make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(0)).await.expose());
    let (project, task) = admin.project_with_task("p").await;
    let job = admin.job(project, task, "j", &[]).await;
    let key = make_key_with(&database, Grants::All(Role::Worker), |new| new.rate_limit = Some(3)).await;
    let [first, second] = [servers[0].api.with_key(key.expose()), servers[1].api.with_key(key.expose())];

    first.post("/clients/register", json!({"id": "node", "name": "n", "entity": "e", "available_cpu": 1})).await.expect(201);
    let claims = format!("/projects/{project}/claims");
    let claimed = first.post(&claims, json!({"client_id": "node", "wait_seconds": 5})).await;
    assert_eq!(claimed.header("ratelimit-policy"), "\"default\";q=3;w=60");
    assert_eq!(claimed.expect(200)["jobs"][0]["job"]["id"], job);
    // However long it waits, it counts once.
    let waited = second.post(&claims, json!({"client_id": "node", "wait_seconds": 3})).await;
    assert!(waited.header("ratelimit").starts_with("\"default\";r=0;"), "{:?}", waited.headers);
    waited.expect(200);
    for api in [&first, &second] {
        api.get(&format!("/jobs/{job}")).await.problem(429);
    }

    let beat = |n: usize| {
        let api = if n % 2 == 0 { &first } else { &second };
        api.post("/clients/node/heartbeat", json!({}))
    };
    let said = first.post(&format!("/jobs/{job}/attempts/1/start"), json!({})).await;
    assert_eq!(said.header("ratelimit-policy"), "\"report\";q=5;w=60");
    said.expect(200);
    for n in 0..3 {
        let alive = beat(n).await.expect(200);
        assert_eq!(alive["attempts"][0]["job_id"], job, "{alive}");
    }
    second.post(&format!("/jobs/{job}/attempts/1/complete"), json!({})).await.expect(200);
    assert!(beat(0).await.problem(429).starts_with("Rate limit exceeded."), "reports have their limit too");
    // And it is the key's, not everybody's.
    let other = servers[0].api.with_key(make_key(&database, Grants::All(Role::Worker)).await.expose());
    other.post("/clients/node/heartbeat", json!({})).await.expect(200);
}
