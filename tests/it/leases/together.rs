//! What comes while others like it are being done is done together with them, and nobody notices but for the time it takes.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::World;
use crate::support::{eventually, id, waiting_for_locks};

/// How many ask at a time.
const MANY: usize = 40;

/// In how many transactions they are done: the first, and a group or two of those who came meanwhile, or who were late.
const FEW: i64 = 8;

impl World {
    /// How many transactions wrote these rows.
    async fn transactions(&self, rows: &str) -> i64 {
        let sql = format!("select count(distinct xmin::text) from {rows}");
        self.database.connect().await.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// `MANY` jobs that `node` has claimed, with attempt 1.
    async fn claimed(&self) -> Vec<i64> {
        self.client("node", 1000, 0).await;
        let mut jobs = self.jobs(MANY).await;
        let mut claimed = self.claim_ids(json!({"client_id": "node", "max_jobs": MANY, "lease_seconds": 600})).await;
        jobs.sort_unstable();
        claimed.sort_unstable();
        assert_eq!(jobs, claimed);
        jobs
    }

    /// Holds a table until enough ask at a time, and tells the statuses of the answers, in order.
    async fn held<T>(&self, table: &str, ask: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let (mut holder, watcher) = (self.database.connect().await, self.database.connect().await);
        let holds = holder.transaction().await.unwrap();
        holds.batch_execute(&format!("lock table {table} in share mode")).await.unwrap();
        let release = async {
            eventually("the first waits", || async { waiting_for_locks(&watcher).await >= 1 }).await;
            // The others have come by then: each is answered an unlimited read after it was sent over the same connections.
            join_all((0..MANY).map(|_| self.api.get("/projects"))).await;
            holds.rollback().await.unwrap();
        };
        tokio::join!(join_all(ask), release).0
    }
}

/// As a job's parents are given: ids, and names.
fn names(jobs: &[i64]) -> Value {
    jobs.iter().map(|job| (job.to_string(), json!("j"))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_sent_at_once_are_added_together_each_as_it_was_sent() {
    let world = World::new().await;
    let send = |n: usize| {
        let world = &world;
        async move {
            // One names a task that is not there.
            let task = if n == 7 { 999_999 } else { world.task };
            let job =
                json!({"name": format!("job {n}"), "project_id": world.project, "task_id": task, "parameters": {"n": n}, "priority": n});
            world.api.post("/jobs", job).await
        }
    };
    let mut ids = BTreeSet::new();
    for (n, answer) in world.held("jobs", (0..MANY).map(send)).await.into_iter().enumerate() {
        if n == 7 {
            assert!(answer.expect(400)["detail"].to_string().contains("999999"), "only that one is told of it");
            continue;
        }
        let job = answer.expect(201);
        assert_eq!((&job["name"], &job["parameters"], &job["priority"]), (&json!(format!("job {n}")), &json!({"n": n}), &json!(n)));
        assert_eq!(world.api.get(&format!("/jobs/{}", id(&job))).await.expect(200)["name"], job["name"], "it is the one that was sent");
        ids.insert(id(&job));
    }
    assert_eq!(ids.len(), MANY - 1, "each once");
    let counted = world.api.get(&format!("/projects/{}/stats", world.project)).await.expect(200);
    assert_eq!(counted["jobs"]["PENDING"], MANY - 1);
    // Without the one that nobody could add.
    let send = |n: usize| {
        let world = &world;
        async move { world.job_with("k", json!({"priority": n})).await }
    };
    world.held("jobs", (0..MANY).map(send)).await;
    let transactions = world.transactions("jobs where name = 'k'").await;
    assert!(transactions <= FEW, "expected {MANY} jobs to be added by few transactions, and not by {transactions}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_that_begin_at_once_begin_together_and_what_is_wrong_with_one_is_told_to_it_alone() {
    let world = World::new().await;
    let jobs = world.claimed().await;
    let say = |n: usize| {
        let (world, job) = (&world, jobs[n]);
        async move {
            match n {
                // One that never was, and one that says it twice.
                3 => world.say(job, 2, "start", json!({})).await.status,
                4 => {
                    let both = tokio::join!(world.say(job, 1, "start", json!({})), world.say(job, 1, "start", json!({})));
                    assert_eq!((both.0.status, both.1.status), (200, 200));
                    both.0.status
                }
                _ => world.say(job, 1, "start", json!({})).await.status,
            }
        }
    };
    let statuses = world.held("attempts", (0..MANY).map(say)).await;
    assert_eq!(statuses, (0..MANY).map(|n| if n == 3 { 404 } else { 200 }).collect::<Vec<_>>());
    let transactions = world.transactions("attempts where status = 'RUNNING'").await;
    assert!(transactions <= FEW, "expected {MANY} attempts to begin in few transactions, and not in {transactions}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_at_once_is_completed_together_and_children_are_counted_down_by_each_parent() {
    let world = World::new().await;
    let jobs = world.claimed().await;
    let child = world.job_with("child", json!({"depends": names(&jobs)})).await;
    let last = world.job_with("last", json!({"depends": names(&[child, jobs[0]])})).await;
    let say = |n: usize| {
        let (world, job) = (&world, jobs[n]);
        async move {
            let report = json!({"result": {"n": n}, "log_tail": format!("line {n}")});
            // Each says it twice, and is told the same twice.
            let (one, other) = tokio::join!(world.say(job, 1, "complete", report.clone()), world.say(job, 1, "complete", report));
            assert_eq!(one.expect(200), other.expect(200));
        }
    };
    world.held("attempts", (0..MANY).map(say)).await;
    for (n, job) in jobs.iter().enumerate() {
        let attempt = world.attempt(*job, 1).await;
        assert_eq!((&attempt["result"], &attempt["log_tail"]), (&json!({"n": n}), &json!(format!("line {n}"))), "each has its own");
    }
    let transactions = world.transactions("attempts where status = 'COMPLETED'").await;
    assert!(transactions <= FEW, "expected {MANY} attempts to end in few transactions, and not in {transactions}");
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 9, "lease_seconds": 600})).await, [child]);
    world.say(child, 1, "complete", json!({})).await.expect(200);
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 9, "lease_seconds": 600})).await, [last]);
    world.end().await;
}

/// Somebody holds the row of one job. Reports of that wait, and no others do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_the_lock_of_another_ones_job() {
    let world = World::new().await;
    let jobs = world.claimed().await;
    let (mut holder, watcher) = (world.database.connect().await, world.database.connect().await);
    for (what, status) in [("start", "RUNNING"), ("complete", "COMPLETED")] {
        let holds = holder.transaction().await.unwrap();
        holds.execute("select from jobs where id = $1 for update", &[&jobs[5]]).await.unwrap();
        let waits = tokio::spawn({
            let (api, path) = (world.api.clone(), format!("/jobs/{}/attempts/1/{what}", jobs[5]));
            async move { api.post(&path, json!({})).await }
        });
        eventually("its report waits", || async { waiting_for_locks(&watcher).await == 1 }).await;
        let others = jobs.iter().filter(|job| **job != jobs[5]).map(|job| world.say(*job, 1, what, json!({})));
        for answer in join_all(others).await {
            assert_eq!(answer.expect(200)["status"], status);
        }
        assert!(!waits.is_finished(), "expected the report of a job that somebody holds to wait");
        holds.rollback().await.unwrap();
        assert_eq!(waits.await.unwrap().expect(200)["status"], status);
    }
    world.end().await;
}
