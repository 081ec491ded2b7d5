//! What is told of a job, and for how long.

use serde_json::{Value, json};

use super::World;
use crate::support::eventually;

#[tokio::test]
async fn a_job_says_what_it_waits_for() {
    let world = World::new().await;
    let explain = async |job: i64| world.api.get(&format!("/jobs/{job}/explain")).await.expect(200);
    let kinds = |explanation: &Value| -> Vec<String> {
        explanation["waits_for"].as_array().unwrap().iter().map(|wait| wait["kind"].as_str().unwrap().to_owned()).collect()
    };
    let huge = world.task("huge", 1000, 0).await;
    let urgent = world.job_with("urgent", json!({"priority": 5})).await;
    let ready = world.job("ready").await;
    let child = world.job_with("child", json!({"depends": {ready.to_string(): "", urgent.to_string(): ""}})).await;
    let all = json!({"task_id": huge, "not_before": "2999-01-01T00:00:00Z", "depends": {ready.to_string(): ""}});
    let everything = world.job_with("everything", all).await;

    let told = explain(ready).await;
    assert_eq!((&told["ahead"], &told["waits_for"], &told["attempt"]), (&json!(1), &json!([]), &Value::Null));
    assert_eq!(told["summary"], "It is ready; 1 jobs of the project are more urgent.");
    let told = explain(child).await;
    assert_eq!((kinds(&told), &told["waits_for"][0]["jobs"]), (vec!["jobs".to_owned()], &json!([urgent, ready])));
    let told = explain(everything).await;
    assert_eq!(kinds(&told), ["jobs", "time", "client"]);
    assert!(told["summary"].as_str().unwrap().contains("It needs 1000 CPUs and 0 accelerators, which none of the 1 clients"), "{told}");

    world.claim(json!({"client_id": "node"})).await;
    let told = explain(urgent).await;
    assert_eq!((&told["summary"], &told["attempt"]["client_id"]), (&json!("Client node has it, in attempt 1."), &json!("node")));
    world.say(urgent, 1, "fail", json!({"retryable": false})).await.expect(200);
    assert_eq!(explain(urgent).await["summary"], "It is FAILED.");
    let told = explain(child).await;
    assert!(told["summary"].as_str().unwrap().contains("of which 1 will not as they are"), "{told}");
    let archived = json!({"name": "p", "description": "", "status": "ARCHIVED"});
    world.api.put(&format!("/projects/{}", world.project), archived).await.expect(200);
    assert_eq!(kinds(&explain(ready).await), ["project"]);
    world.api.get("/jobs/99999/explain").await.problem(404);
    world.end().await;
}

#[tokio::test]
async fn finished_jobs_are_forgotten_after_their_time_if_nothing_needs_them() {
    // A tenth of a second.
    let world = World::with(&[("retention_days", "0.0000011574")]).await;
    let there = async |job: i64| world.api.get(&format!("/jobs/{job}")).await.status == 200;
    let (done, needed, failed) = (world.job("done").await, world.job("needed").await, world.job("failed").await);
    let waits = world.job_with("waits", json!({"depends": {needed.to_string(): ""}})).await;
    let blocked = world.job_with("blocked", json!({"depends": {failed.to_string(): ""}})).await;
    for (job, status) in [(done, "COMPLETED"), (needed, "COMPLETED"), (failed, "FAILED")] {
        world.api.set_status(job, status).await;
    }
    eventually("what nothing depends on is forgotten", || async { !there(done).await }).await;
    assert!(there(needed).await && there(failed).await && there(waits).await && there(blocked).await);
    world.api.set_status(waits, "COMPLETED").await;
    world.api.set_status(blocked, "CANCELLED").await;
    eventually("the rest is forgotten when nothing needs it", || async {
        let mut left = 0;
        for job in [needed, failed, waits, blocked] {
            left += usize::from(there(job).await);
        }
        left == 0
    })
    .await;
    world.end().await;
}
