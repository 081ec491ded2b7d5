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

    /// Holds a table until the first of those who ask waits for it in a statement like this one, and the others have come. Tells the answers, in order.
    async fn held<T>(&self, table: &str, first: &str, ask: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
        let (mut holder, watcher) = (self.database.connect().await, self.database.connect().await);
        let holds = holder.transaction().await.unwrap();
        holds.batch_execute(&format!("lock table {table} in share mode")).await.unwrap();
        let waits =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database() and query like $1";
        let release = async {
            eventually("the first waits", || async { watcher.query_one(waits, &[&first]).await.unwrap().get::<_, i64>(0) == 1 }).await;
            // The others were sent before these reads, and come about when they do: whoever is late is done with others who are.
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
    for bad in [None, Some(7)] {
        let send = |n: usize| {
            let world = &world;
            async move {
                // One may name a task that is not there.
                let task = if Some(n) == bad { 999_999 } else { world.task };
                let name = format!("{bad:?} {n}");
                let job = json!({"name": name, "project_id": world.project, "task_id": task, "parameters": {"n": n}, "priority": n});
                world.api.post("/jobs", job).await
            }
        };
        let mut ids = BTreeSet::new();
        for (n, answer) in world.held("jobs", "%-- Adds jobs%", (0..MANY).map(send)).await.into_iter().enumerate() {
            if Some(n) == bad {
                assert!(answer.expect(400)["detail"].to_string().contains("999999"), "only that one is told of it");
                continue;
            }
            let job = answer.expect(201);
            assert_eq!((&job["parameters"], &job["priority"]), (&json!({"n": n}), &json!(n)), "it is the one that was sent");
            assert_eq!(world.api.get(&format!("/jobs/{}", id(&job))).await.expect(200)["name"], format!("{bad:?} {n}"));
            ids.insert(id(&job));
        }
        assert_eq!(ids.len(), MANY - usize::from(bad.is_some()), "each once");
        let transactions = world.transactions(&format!("jobs where name like '{bad:?}%'")).await;
        assert!(transactions <= FEW, "expected {MANY} jobs to be added by few transactions, and not by {transactions}");
    }
    let counted = world.api.get(&format!("/projects/{}/stats", world.project)).await.expect(200);
    assert_eq!(counted["jobs"]["PENDING"], 2 * MANY - 1);
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
    let statuses = world.held("attempts", "%-- Notes that clients have begun%", (0..MANY).map(say)).await;
    assert_eq!(statuses, (0..MANY).map(|n| if n == 3 { 404 } else { 200 }).collect::<Vec<_>>());
    let transactions = world.transactions("attempts where status = 'RUNNING'").await;
    assert!(transactions <= FEW, "expected {MANY} attempts to begin in few transactions, and not in {transactions}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_at_once_is_completed_together_and_children_are_counted_down_by_each_parent() {
    let world = World::new().await;
    let jobs = world.claimed().await;
    let (parents, others) = jobs.split_at(3);
    let child = world.job_with("child", json!({"depends": names(parents)})).await;
    let last = world.job_with("last", json!({"depends": names(&[child, parents[0]])})).await;
    let say = |n: usize| {
        let (world, job) = (&world, jobs[n]);
        async move {
            let report = json!({"result": {"n": n}, "log_tail": format!("line {n}")});
            // Each says it twice, and is told the same twice.
            let (one, other) = tokio::join!(world.say(job, 1, "complete", report.clone()), world.say(job, 1, "complete", report));
            assert_eq!(one.expect(200), other.expect(200));
        }
    };
    world.held("attempts", "%-- Completes jobs%", (0..MANY).map(say)).await;
    for (n, job) in jobs.iter().enumerate() {
        let attempt = world.attempt(*job, 1).await;
        assert_eq!((&attempt["result"], &attempt["log_tail"]), (&json!({"n": n}), &json!(format!("line {n}"))), "each has its own");
    }
    let transactions = world.transactions(&format!("attempts where job_id = any (array{others:?})")).await;
    assert!(transactions <= FEW, "expected {MANY} attempts to end in few transactions, and not in {transactions}");
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 9, "lease_seconds": 600})).await, [child]);
    world.say(child, 1, "complete", json!({})).await.expect(200);
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 9, "lease_seconds": 600})).await, [last]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_come_at_once_are_served_together_and_each_gets_a_job_of_its_own() {
    let world = World::new().await;
    for n in 0..MANY {
        world.client(&format!("c{n}"), 1, 0).await;
    }
    let jobs: BTreeSet<i64> = world.jobs(MANY).await.into_iter().collect();
    let claim = |n: usize| {
        let world = &world;
        async move {
            // More than there is room for.
            let claimed = world.claim_ids(json!({"client_id": format!("c{n}"), "max_jobs": 3, "lease_seconds": 600})).await;
            assert_eq!(claimed.len(), 1, "c{n} has one CPU");
            claimed[0]
        }
    };
    let claimed = world.held("attempts", "%-- Claims jobs for clients%", (0..MANY).map(claim)).await;
    assert_eq!(claimed.iter().copied().collect::<BTreeSet<_>>(), jobs, "each once");
    for (n, job) in claimed.iter().enumerate() {
        assert_eq!(world.attempt(*job, 1).await["client_id"], format!("c{n}"), "it has the job that it was told of");
    }
    let transactions = world.transactions("attempts").await;
    assert!(transactions <= FEW, "expected {MANY} claims to be served by few transactions, and not by {transactions}");
    world.end().await;
}

/// Somebody holds a row. Who needs it waits, and nobody else of those who ask for the same with other rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_lock_that_another_one_needs() {
    let world = World::new().await;
    let jobs = world.claimed().await;
    let child = world.job_with("child", json!({"depends": names(&jobs[20..21])})).await;
    let other = world.task("other", 1, 0).await;
    let say = |what: &'static str, from: usize| {
        let path = move |job: i64| (format!("/jobs/{job}/attempts/1/{what}"), json!({}));
        jobs[from..from + 10].iter().copied().map(path).collect::<Vec<_>>()
    };
    let send = |task: i64| ("/jobs".to_owned(), json!({"name": "j", "project_id": world.project, "task_id": task, "parameters": {}}));
    let mut sent = vec![send(world.task); 10];
    sent[0] = send(other);
    let held = [
        (format!("jobs where id = {}", jobs[0]), say("start", 0), 200),
        (format!("attempts where job_id = {}", jobs[10]), say("start", 10), 200),
        (format!("jobs where id = {}", jobs[0]), say("complete", 0), 200),
        (format!("attempts where job_id = {}", jobs[10]), say("complete", 10), 200),
        (format!("jobs where id = {child}"), say("complete", 20), 200),
        (format!("tasks where id = {other}"), sent, 201),
    ];
    let (mut holder, watcher) = (world.database.connect().await, world.database.connect().await);
    for (rows, requests, status) in held {
        let holds = holder.transaction().await.unwrap();
        holds.execute(&format!("select from {rows} for update"), &[]).await.unwrap();
        let mut requests = requests.into_iter().map(|(path, body)| {
            let api = world.api.clone();
            async move { api.post(&path, body).await }
        });
        let waits = tokio::spawn(requests.next().unwrap());
        eventually("who needs it waits", || async { waiting_for_locks(&watcher).await >= 1 }).await;
        for answer in join_all(requests).await {
            answer.expect(status);
        }
        assert!(!waits.is_finished(), "expected the first to wait for {rows}");
        holds.rollback().await.unwrap();
        waits.await.unwrap().expect(status);
    }
    world.end().await;
}
