//! What PUT changes of how often a job is tried, and of when.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use whatsnext::access::{Grants, Role};

use super::World;
use crate::support::{Server, TestDatabase, id, make_key};

const FAR: &str = "2999-01-01T00:00:00.123456+00:00";

impl World {
    /// Sends a job back as it was read, with these fields changed, and returns it as it is then.
    async fn edit(&self, job: i64, changes: Value) -> Value {
        let mut body = self.api.get(&format!("/jobs/{job}")).await.expect(200);
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.api.put(&format!("/jobs/{job}"), body).await.expect(200)["data"].take()
    }
}

#[tokio::test]
async fn how_often_a_job_is_tried_can_be_changed_and_stays_if_it_is_not_said() {
    let world = World::with(&[("max_attempts", "3")]).await;
    let job = world.job_with("j", json!({"max_attempts": 1})).await;
    let tries = |job: &Value| (job["max_attempts"].clone(), job["backoff_seconds"].clone());
    assert_eq!(tries(&world.edit(job, json!({"max_attempts": 2, "backoff_seconds": 7})).await), (json!(2), json!(7)));
    assert_eq!(tries(&world.edit(job, json!({"max_attempts": null, "backoff_seconds": null})).await), (json!(2), json!(7)));
    // As the published client sends it.
    let mut bare = world.api.get(&format!("/jobs/{job}")).await.expect(200);
    for field in ["max_attempts", "backoff_seconds", "not_before"] {
        bare.as_object_mut().unwrap().remove(field);
    }
    assert_eq!(tries(&world.api.put(&format!("/jobs/{job}"), bare).await.expect(200)["data"]), (json!(2), json!(7)));
    let wrong = world.api.get(&format!("/jobs/{job}")).await.expect(200);
    for (field, value) in [("max_attempts", json!(0)), ("backoff_seconds", json!(-1)), ("not_before", json!("tomorrow"))] {
        let mut wrong = wrong.clone();
        wrong[field] = value;
        assert!(world.api.put(&format!("/jobs/{job}"), wrong).await.problem(422).contains(field));
    }

    // It holds for an attempt that is under way.
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job]);
    world.edit(job, json!({"backoff_seconds": 0})).await;
    assert_eq!(world.say(job, 1, "fail", json!({})).await.expect(200)["job_status"], "PENDING");
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job]);
    assert_eq!(world.say(job, 2, "fail", json!({})).await.expect(200)["job_status"], "FAILED", "the second of two");
    world.end().await;
}

#[tokio::test]
async fn what_waits_can_be_put_off_and_be_given_out_sooner() {
    let world = World::new().await;
    let job = world.job("j").await;
    let claim = async || world.claim_ids(json!({"client_id": "node"})).await;
    assert_eq!(world.edit(job, json!({"not_before": FAR})).await["not_before"], FAR);
    assert_eq!(claim().await, [0; 0], "it is put off");
    assert_eq!(world.edit(job, json!({"priority": 3})).await["not_before"], FAR);
    assert_eq!(claim().await, [0; 0], "and stays that");
    // Asked to run now, and sent back as it was read.
    world.api.post(&format!("/jobs/{job}/retry"), json!({})).await.expect(200);
    // By a client that keeps milliseconds.
    assert_eq!(world.edit(job, json!({"priority": 4, "not_before": "2999-01-01T00:00:00.123Z"})).await["not_before"], FAR);
    assert_eq!(claim().await, [job]);
    // What does not wait has no time to wait for.
    assert_eq!(world.edit(job, json!({"status": "RUNNING", "not_before": "2998-01-01T00:00:00Z"})).await["not_before"], FAR);
    let again = world.edit(job, json!({"status": "PENDING", "not_before": "2998-01-01T00:00:00Z"})).await;
    assert_eq!((&again["status"], &again["not_before"]), (&json!("PENDING"), &json!("2998-01-01T00:00:00.000000+00:00")));
    assert_eq!(claim().await, [0; 0]);
    world.edit(job, json!({"not_before": "2001-01-01T00:00:00Z"})).await;
    assert_eq!(claim().await, [job]);
    world.end().await;
}

/// Who makes jobs ready looks each second, and hears of a time that comes sooner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_given_a_job_in_the_moment_that_it_was_changed_to() {
    let world = World::new().await;
    let mut late = Vec::new();
    for (n, ahead) in [0, 100, 0, 100, 0, 100, 0, 100, 100].into_iter().map(Duration::from_millis).enumerate() {
        let job = world.job_with("j", json!({"not_before": FAR})).await;
        let waits = world.waiting(&world.api).await;
        let (due, time): (_, DateTime<Utc>) = (Instant::now() + ahead, Utc::now() + ahead);
        world.edit(job, json!({"not_before": time.to_rfc3339()})).await;
        let (at, claimed) = waits.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], job, "{n}");
        late.push(at.saturating_duration_since(due));
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    late.sort_unstable();
    assert!(late[6] < Duration::from_millis(250), "expected most jobs within 250 ms of their time: {late:?}");
    world.end().await;
}

/// They are no part of a report.
#[tokio::test]
async fn who_may_only_report_changes_neither() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("disable_auth", "false")]).await;
    let (admin, worker) = (make_key(&database, Grants::All(Role::Admin)).await, make_key(&database, Grants::All(Role::Worker)).await);
    let (admin, worker) = (server.api.with_key(admin.expose()), server.api.with_key(worker.expose()));
    let (project, task) = admin.project_with_task("p").await;
    let job = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}, "max_attempts": 2, "not_before": FAR});
    let job = id(&admin.post("/jobs", job).await.expect(201));
    let read = worker.get(&format!("/jobs/{job}")).await.expect(200);
    for (field, value) in [("max_attempts", json!(3)), ("backoff_seconds", json!(0)), ("not_before", json!("2001-01-01T00:00:00Z"))] {
        let mut changed = read.clone();
        changed[field] = value;
        assert!(worker.put(&format!("/jobs/{job}"), changed).await.problem(403).contains("submit"), "{field}");
    }
    assert_eq!(worker.get(&format!("/jobs/{job}")).await.expect(200), read, "nothing was changed");
    assert_eq!(worker.set_status(job, "RUNNING").await["status"], "RUNNING", "as it was read, with another status");
    server.stop().await;
}
