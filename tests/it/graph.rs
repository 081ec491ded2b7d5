//! What waits for what, over the API.

mod gate;
mod storm;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Api, Server, TestDatabase, waiting_for_locks};

#[tokio::test]
async fn a_job_is_given_out_when_all_that_it_depends_on_has_completed() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let a = api.job(project, task, "a", &[]).await;
    let b = api.job(project, task, "b", &[]).await;
    let child = api.job(project, task, "child", &[a, b]).await;

    let job = api.get(&format!("/jobs/{child}")).await.expect(200);
    assert_eq!(job["depends"], json!({a.to_string(): "a", b.to_string(): "b"}));
    assert_eq!(fetch(api, project).await, Some(a));
    assert_eq!(fetch(api, project).await, Some(b));
    assert_eq!(fetch(api, project).await, None);
    api.set_status(a, "COMPLETED").await;
    assert_eq!(fetch(api, project).await, None);
    let standing = api.get(&format!("/jobs/{child}/dependencies")).await.expect(200);
    assert_eq!((&standing["all_completed"], &standing["has_failed"]), (&json!(false), &json!(false)));
    assert_eq!(standing["dependencies"][0], json!({"job_id": a, "job_name": "a", "status": "COMPLETED"}));
    api.set_status(b, "COMPLETED").await;
    assert_eq!(fetch(api, project).await, Some(child));
    assert_eq!(api.get(&format!("/jobs/{child}/dependencies")).await.expect(200)["all_completed"], true);
    database.assert_graph_is_true().await;
    server.stop().await;
}

#[tokio::test]
async fn a_failure_blocks_all_below_and_a_retry_frees_what_nothing_else_blocks() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    // a ← c ← e, b ← d ← e, and c ← f
    let a = api.job(project, task, "a", &[]).await;
    let b = api.job(project, task, "b", &[]).await;
    let c = api.job(project, task, "c", &[a]).await;
    let d = api.job(project, task, "d", &[b]).await;
    let e = api.job(project, task, "e", &[c, d]).await;
    let f = api.job(project, task, "f", &[c]).await;

    api.set_status(a, "FAILED").await;
    assert_eq!(statuses(api, &[c, d, e, f]).await, ["BLOCKED", "PENDING", "BLOCKED", "BLOCKED"]);
    api.set_status(b, "CANCELLED").await;
    assert_eq!(statuses(api, &[c, d, e, f]).await, ["BLOCKED", "BLOCKED", "BLOCKED", "BLOCKED"]);
    let born_blocked = api.job(project, task, "g", &[f]).await;
    assert_eq!(api.status(born_blocked).await, "BLOCKED");

    api.set_status(a, "PENDING").await;
    assert_eq!(statuses(api, &[c, d, e, f, born_blocked]).await, ["PENDING", "BLOCKED", "BLOCKED", "PENDING", "PENDING"]);
    assert_eq!(api.set_status(e, "PENDING").await["status"], "BLOCKED", "d still blocks it: PENDING means to wait");
    api.set_status(b, "COMPLETED").await;
    assert_eq!(statuses(api, &[d, e]).await, ["PENDING", "PENDING"]);
    database.assert_graph_is_true().await;
    server.stop().await;
}

#[tokio::test]
async fn a_job_that_others_wait_for_is_not_deleted() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let other_task = api.post("/tasks", json!({"name": "other", "project_id": project})).await.expect(201)["id"].as_i64().unwrap();
    let parent = api.job(project, task, "parent", &[]).await;
    let child = api.job(project, other_task, "child", &[parent]).await;

    let refused = api.delete(&format!("/jobs/{parent}")).await.problem(409);
    assert_eq!(
        refused,
        format!("Job {child} (\"child\") still waits for job {parent}: delete that job first, or take the dependency from it.")
    );
    api.delete(&format!("/projects/{project}/jobs/{parent}")).await.problem(409);
    assert!(api.delete(&format!("/tasks/{task}")).await.problem(409).contains("a job of task"));
    api.set_status(parent, "FAILED").await;
    api.delete(&format!("/jobs/{parent}")).await.problem(409);

    // Once the child runs it waits no more, and once the parent has completed there is nothing to wait for.
    api.set_status(child, "RUNNING").await;
    api.delete(&format!("/jobs/{parent}")).await.expect(204);
    assert_eq!(api.get(&format!("/jobs/{child}")).await.expect(200)["depends"], json!({}));
    database.assert_graph_is_true().await;
    let done = api.job(project, task, "done", &[]).await;
    let waiting = api.job(project, other_task, "waiting", &[done]).await;
    api.set_status(done, "COMPLETED").await;
    api.delete(&format!("/tasks/{task}")).await.expect(204);
    assert_eq!(fetch(api, project).await, Some(waiting));
    database.assert_graph_is_true().await;
    server.stop().await;
}

#[tokio::test]
async fn a_report_is_not_lost_because_a_finished_parent_was_deleted_meanwhile() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let parent = api.job(project, task, "parent", &[]).await;
    let child = api.job(project, task, "child", &[parent]).await;
    api.set_status(parent, "COMPLETED").await;
    assert_eq!(fetch(api, project).await, Some(child));

    let mut read_before = api.get(&format!("/jobs/{child}")).await.expect(200);
    api.delete(&format!("/jobs/{parent}")).await.expect(204);
    read_before["status"] = json!("COMPLETED");
    let reported = api.put(&format!("/jobs/{child}"), read_before.clone()).await.expect(200);
    assert_eq!((&reported["data"]["status"], &reported["data"]["depends"]), (&json!("COMPLETED"), &json!({})));

    // A job that has yet to run is another matter: there the dependency would be silently dropped.
    api.set_status(child, "PENDING").await;
    api.put(&format!("/jobs/{child}"), read_before).await.problem(400);
    database.assert_graph_is_true().await;
    server.stop().await;
}

#[tokio::test]
async fn circles_are_refused_and_change_nothing() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let a = api.job(project, task, "a", &[]).await;
    let b = api.job(project, task, "b", &[a]).await;
    let c = api.job(project, task, "c", &[b]).await;

    for (job, parent) in [(a, a), (a, b), (a, c), (b, c)] {
        let before = api.get(&format!("/jobs/{job}")).await.expect(200);
        let mut body = before.clone();
        body["depends"][parent.to_string()] = json!("x");
        body["name"] = json!("changed");
        assert!(api.put(&format!("/jobs/{job}"), body).await.problem(400).contains("circular"), "{job} on {parent}");
        assert_eq!(api.get(&format!("/jobs/{job}")).await.expect(200), before);
    }
    let mut body = api.get(&format!("/jobs/{c}")).await.expect(200);
    body["depends"] = json!({a.to_string(): "a"});
    assert_eq!(api.put(&format!("/jobs/{c}"), body).await.expect(200)["data"]["depends"], json!({a.to_string(): "a"}));
    database.assert_graph_is_true().await;
    server.stop().await;
}

#[tokio::test]
async fn clearing_a_queue_leaves_nothing_that_waits_for_what_is_gone() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let failed = api.job(project, task, "failed", &[]).await;
    let pending = api.job(project, task, "pending", &[]).await;
    let forced = api.job(project, task, "forced", &[pending]).await;
    api.set_status(forced, "RUNNING").await;
    api.set_status(failed, "FAILED").await;
    let only_failed = api.job(project, task, "only failed above", &[failed]).await;
    let both = api.job(project, task, "both above", &[failed, pending]).await;
    let below = api.job(project, task, "below", &[both]).await;

    assert_eq!(api.delete(&format!("/projects/{project}/queue")).await.expect(200), json!({"deleted": 3}));
    for gone in [pending, both, below] {
        api.get(&format!("/jobs/{gone}")).await.problem(404);
    }
    assert_eq!(statuses(api, &[failed, forced, only_failed]).await, ["FAILED", "RUNNING", "BLOCKED"]);
    assert_eq!(api.get(&format!("/jobs/{forced}")).await.expect(200)["depends"], json!({}));
    assert_eq!(api.delete(&format!("/projects/{project}/queue")).await.expect(200), json!({"deleted": 0}));
    database.assert_graph_is_true().await;
    server.stop().await;
}

/// Jobs that are added and claimed while the queue is cleared: what somebody has been given is not deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_a_queue_takes_no_job_that_was_claimed() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, task) = server.api.project_with_task("p").await;
    let api = || server.api.clone();
    let submitter = tokio::spawn({
        let api = api();
        async move {
            for n in 0..400 {
                api.job(project, task, &format!("j{n}"), &[]).await;
            }
        }
    });
    let clearer = tokio::spawn({
        let api = api();
        async move {
            for _ in 0..200 {
                api.delete(&format!("/projects/{project}/queue")).await.expect(200);
            }
        }
    });
    let claimers = [(), (), ()].map(|()| {
        let api = api();
        tokio::spawn(async move {
            let mut claimed = Vec::new();
            for _ in 0..200 {
                claimed.extend(fetch(&api, project).await);
            }
            claimed
        })
    });
    let claimed = futures_util::future::try_join_all(claimers).await.unwrap().concat();
    futures_util::future::try_join(submitter, clearer).await.unwrap();
    for job in &claimed {
        assert_eq!(server.api.status(*job).await, "QUEUED", "a claimed job stays");
    }
    assert!(!claimed.is_empty(), "some jobs were claimed");
    database.assert_graph_is_true().await;
    server.stop().await;
}

/// A job that is just being moved to a task is seen by who deletes the task.
#[tokio::test]
async fn deleting_a_task_sees_the_jobs_that_are_being_moved_to_it() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let doomed = api.post("/tasks", json!({"name": "doomed", "project_id": project})).await.expect(201)["id"].as_i64().unwrap();
    let job = api.job(project, task, "moving", &[]).await;
    let child = api.job(project, task, "child", &[job]).await;

    let mut client = database.connect().await;
    let moving = client.transaction().await.unwrap();
    moving.execute("update jobs set task_id = $2 where id = $1", &[&job, &doomed]).await.unwrap();
    let deleting = tokio::spawn({
        let api = api.clone();
        async move { api.delete(&format!("/tasks/{doomed}")).await }
    });
    let watcher = database.connect().await;
    crate::support::eventually("the deletion waits for the move", || async { waiting_for_locks(&watcher).await == 1 }).await;
    moving.commit().await.unwrap();
    assert!(deleting.await.unwrap().problem(409).contains(&format!("Job {child} ")));
    api.get(&format!("/jobs/{job}")).await.expect(200);
    database.assert_graph_is_true().await;
    server.stop().await;
}

/// A task that is made while its project goes would keep jobs, and these their attempts, that nobody knows of.
#[tokio::test]
async fn whoever_makes_a_task_in_a_project_that_is_being_deleted_waits_and_finds_none() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let job = api.job(project, task, "j", &[]).await;
    let (mut client, watcher) = (database.connect().await, database.connect().await);
    let holds = client.transaction().await.unwrap();
    holds.execute("select from jobs where id = $1 for update", &[&job]).await.unwrap();
    let deletes = tokio::spawn({
        let api = api.clone();
        async move { api.delete(&format!("/projects/{project}")).await.status }
    });
    crate::support::eventually("the deletion waits for the job", || async { waiting_for_locks(&watcher).await == 1 }).await;
    let makes = tokio::spawn({
        let api = api.clone();
        async move { api.post("/tasks", json!({"name": "late", "project_id": project})).await }
    });
    crate::support::eventually("the task waits for the deletion", || async { waiting_for_locks(&watcher).await == 2 }).await;
    holds.rollback().await.unwrap();
    assert_eq!(deletes.await.unwrap(), 204);
    assert!((400..405).contains(&makes.await.unwrap().status), "there is no such project any more");
    let tasks: i64 = watcher.query_one("select count(*) from tasks", &[]).await.unwrap().get(0);
    assert_eq!(tasks, 0);
    server.stop().await;
}

/// What was counted of projects that are gone is not kept.
#[tokio::test]
async fn nothing_is_left_of_what_was_counted_in_a_project_that_was_deleted() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, task) = server.api.project_with_task("p").await;
    let job = server.api.job(project, task, "j", &[]).await;
    server.api.set_status(job, "COMPLETED").await;
    server.api.delete(&format!("/projects/{project}")).await.expect(204);
    let watcher = database.connect().await;
    let counted = async || watcher.query_one("select count(*) from job_counts", &[]).await.unwrap().get::<_, i64>(0) == 0;
    crate::support::within(Duration::from_secs(30), "the counts are gone", counted).await;
    server.stop().await;
}

#[tokio::test]
async fn ten_thousand_parents_and_ten_thousand_children() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let path = format!("/projects/{project}/jobs/batch");
    let many = |depends: Value| json!({"jobs": (0..10_000).map(|n| json!({"name": format!("j{n}"), "task_id": task, "parameters": {}, "depends": depends})).collect::<Vec<_>>()});
    let ids = |added: Value| added["job_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect::<Vec<_>>();

    let parents = ids(api.post(&path, many(json!({}))).await.expect(201));
    let middle = api.job(project, task, "middle", &parents).await;
    let children = ids(api.post(&path, many(json!({middle.to_string(): "middle"}))).await.expect(201));
    let unmet =
        async |id: i64| -> i32 { database.connect().await.query_one("select unmet from jobs where id = $1", &[&id]).await.unwrap().get(0) };
    assert_eq!(unmet(middle).await, 10_000);
    api.set_status(parents[0], "COMPLETED").await;
    assert_eq!(unmet(middle).await, 9_999);
    api.set_status(middle, "COMPLETED").await;
    assert_eq!(unmet(children[9_999]).await, 0);
    api.set_status(middle, "FAILED").await;
    assert_eq!(statuses(api, &[children[0], children[9_999]]).await, ["BLOCKED", "BLOCKED"]);
    database.assert_graph_is_true().await;
    server.stop().await;
}

/// Two transactions that want each other's rows: PostgreSQL ends one of them, which must be run again unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_deadlock_is_run_again() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let child = api.job(project, task, "child has the smaller id", &[]).await;
    let parent = api.job(project, task, "parent", &[]).await;
    let mut body = api.get(&format!("/jobs/{child}")).await.expect(200);
    body["depends"] = json!({parent.to_string(): ""});
    api.put(&format!("/jobs/{child}"), body).await.expect(200);

    // Holds the child and then wants the parent, while the report holds the parent and wants the child.
    let mut client = database.connect().await;
    client.batch_execute("set deadlock_timeout = '20s'").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("select from jobs where id = $1 for update", &[&child]).await.unwrap();
    let report = tokio::spawn({
        let api = api.clone();
        async move { api.set_status(parent, "COMPLETED").await }
    });
    let watcher = database.connect().await;
    crate::support::eventually("the report waits for the child", || async { waiting_for_locks(&watcher).await == 1 }).await;
    transaction.execute("select from jobs where id = $1 for update", &[&parent]).await.expect("the report is the one that loses");
    transaction.commit().await.unwrap();
    let reported = tokio::time::timeout(Duration::from_secs(10), report).await.expect("it ends").unwrap();
    assert_eq!(reported["status"], "COMPLETED");
    database.assert_graph_is_true().await;
    server.stop().await;
}

async fn fetch(api: &Api, project: i64) -> Option<i64> {
    let fetched = api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    assert_eq!(fetched["job"].is_null(), fetched["num_pending"] == 0, "{fetched}");
    fetched["job"]["id"].as_i64()
}

async fn statuses(api: &Api, jobs: &[i64]) -> Vec<String> {
    let mut statuses = Vec::new();
    for job in jobs {
        statuses.push(api.status(*job).await);
    }
    statuses
}
