//! What workers may do.

use serde_json::json;
use whatsnext::access::{Grants, Role};

use crate::support::{Process, TestDatabase, make_key};

/// A key that may only work reports by sending back the job that it read, and can change nothing else.
#[tokio::test]
async fn a_worker_may_change_a_jobs_status_and_nothing_else() {
    let database = TestDatabase::new().await;
    let admin = make_key(&database, Grants::All(Role::Admin)).await;
    let worker = make_key(&database, Grants::All(Role::Worker)).await;
    let process = Process::start_with(&database, &[("DISABLE_AUTH", "false")]).await;
    let (admin, worker) = (process.api.with_key(admin.expose()), process.api.with_key(worker.expose()));
    let (project, task) = admin.project_with_task("p").await;
    let parent = admin.job(project, task, "parent", &[]).await;
    let body = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {"lr": 1.10, "e": 1e3}, "depends": {parent.to_string(): ""},
                      "not_before": "2026-01-01T00:00:00.123456Z"});
    let job = admin.post("/jobs", body).await.expect(201)["id"].as_i64().unwrap();
    worker.set_status(parent, "COMPLETED").await;
    let claimed = worker.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    assert_eq!(claimed["job"]["id"], job);
    worker.set_status(job, "RUNNING").await;
    let read = worker.get(&format!("/jobs/{job}")).await.expect(200);
    let changes = [("name", json!("other")), ("priority", json!(1)), ("parameters", json!({"lr": 1.2})), ("depends", json!({}))];
    for (field, value) in changes {
        let mut changed = read.clone();
        changed["status"] = json!("COMPLETED");
        changed[field] = value;
        assert!(worker.put(&format!("/jobs/{job}"), changed).await.problem(403).contains("submit"), "{field}");
    }
    assert_eq!(worker.get(&format!("/jobs/{job}")).await.expect(200), read, "nothing was changed");
    // A client keeps as much of a time as its language does: here no more than milliseconds.
    let mut put_back = read.clone();
    assert_eq!(read["not_before"], "2026-01-01T00:00:00.123456+00:00");
    for (time, status) in [("2026-01-01T00:00:00.124Z", 403), ("2026-01-01T00:00:00.123Z", 200)] {
        (put_back["status"], put_back["not_before"]) = (json!("PENDING"), json!(time));
        assert_eq!(worker.put(&format!("/jobs/{job}"), put_back.clone()).await.status, status, "{time}");
    }
    assert_eq!(worker.set_status(job, "COMPLETED").await["status"], "COMPLETED");
    worker.post("/jobs", json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}})).await.problem(403);
    worker.delete(&format!("/jobs/{job}")).await.problem(403);
}
