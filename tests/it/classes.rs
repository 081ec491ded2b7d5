//! What is counted apart: heartbeats and reports can be kept out by nothing else that a key does.

use serde_json::json;
use whatsnext::access::{Grants, Role};

use crate::support::{Process, TestDatabase, eventually, make_key, make_key_with};

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
        let api = [&first, &second][n % 2];
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
    admin.post(&format!("/keys/{}/limit/reset", key.id()), json!({})).await.expect(200);
    eventually("a server that remembered the refusal asks again", || async { beat(0).await.status == 200 }).await;
    first.get(&format!("/jobs/{job}")).await.expect(200);
    // And it is the key's, not everybody's.
    let other = servers[0].api.with_key(make_key(&database, Grants::All(Role::Worker)).await.expose());
    other.post("/clients/register", json!({"id": "other", "name": "n", "entity": "e"})).await.expect(201);
    other.post("/clients/other/heartbeat", json!({})).await.expect(200);
}

/// A client's id is no secret: who knows it must not be able to claim or speak for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_the_client_of_somebody_else() {
    let database = TestDatabase::new().await;
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false")]).await;
    let admin = server.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let (project, task) = admin.project_with_task("p").await;
    let job = admin.job(project, task, "j", &[]).await;
    let user = admin.post("/users", json!({"name": "lab", "grants": {"all": "worker"}})).await.expect(201)["id"].as_i64().unwrap();
    let owners = make_key(&database, Grants::All(Role::Worker)).await;
    let (owner, other) = (server.api.with_key(owners.expose()), make_key(&database, Grants::All(Role::Maintainer)).await);
    let other = server.api.with_key(other.expose());
    let [first, second] = [
        make_key_with(&database, Grants::All(Role::Worker), |new| new.user_id = Some(user)).await,
        make_key_with(&database, Grants::All(Role::Worker), |new| new.user_id = Some(user)).await,
    ];
    let [first, second] = [server.api.with_key(first.expose()), server.api.with_key(second.expose())];
    let register = |name: &str| json!({"id": name, "name": name, "entity": "e", "available_cpu": 4});
    owner.post("/clients/register", register("node")).await.expect(201);
    first.post("/clients/register", register("shared")).await.expect(201);
    admin.post("/clients/register", register("anybodys")).await.expect(201);

    let claims = format!("/projects/{project}/claims");
    let claim = |client: &str| json!({"client_id": client});
    for answer in [
        other.post("/clients/register", register("node")).await,
        other.post(&claims, claim("node")).await,
        other.post("/clients/node/heartbeat", json!({})).await,
        other.post("/clients/node/deactivate", json!({})).await,
        other.put("/clients/node", json!({"available_cpu": 999})).await,
        other.delete("/clients/node").await,
        other.post("/clients/shared/heartbeat", json!({})).await,
    ] {
        let detail = answer.problem(403);
        assert!(detail.contains("was registered with another key") && detail.contains("have an administrator delete it"), "{detail}");
    }
    assert_eq!(admin.get("/clients/node").await.expect(200)["available_cpu"], 4, "nothing changed");
    // The same user with another key, and the key that succeeds the one that registered it.
    second.post("/clients/shared/heartbeat", json!({})).await.expect(200);
    let rotate = format!("/keys/{}/rotate", owners.id());
    let rotated = admin.post(&rotate, json!({"grace_seconds": 3600})).await.expect(201);
    let successor = server.api.with_key(rotated["key"].as_str().unwrap());
    assert_eq!(successor.post(&claims, claim("node")).await.expect(200)["jobs"][0]["job"]["id"], job);
    owner.post("/clients/node/heartbeat", json!({})).await.expect(200);
    for (what, body) in [("start", json!({})), ("heartbeat", json!({})), ("complete", json!({"result": "forged"}))] {
        let refused = other.post(&format!("/jobs/{job}/attempts/1/{what}"), body).await;
        assert!(refused.problem(403).contains("was registered with another key"), "{what}");
    }
    successor.post(&format!("/jobs/{job}/attempts/1/start"), json!({})).await.expect(200);
    let complete = format!("/jobs/{job}/attempts/1/complete");
    let completed = successor.post(&complete, json!({})).await.expect(200);
    // Whose it is comes first, also where nothing can be changed any more.
    assert!(other.post(&complete, json!({})).await.problem(403).contains("was registered with another key"));
    assert_eq!(owner.post(&complete, json!({})).await.expect(200), completed, "it is said again");
    owner.post(&format!("/jobs/{job}/attempts/1/start"), json!({})).await.problem(409);
    other.post(&format!("/jobs/{job}/attempts/2/start"), json!({})).await.problem(404);
    // Those that are nobody's are everybody's, and admins speak for all.
    other.post("/clients/anybodys/heartbeat", json!({})).await.expect(200);
    other.post("/clients/register", register("anybodys")).await.expect(201);
    owner.post("/clients/anybodys/heartbeat", json!({})).await.expect(200);
    admin.delete("/clients/node").await;
    other.post("/clients/register", register("node")).await.expect(201);
}
