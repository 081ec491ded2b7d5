//! What the queue costs, over HTTP with default settings: submitting in batches, claiming at depth, fan-in and fan-out.
//!
//! `deploy/bench.sh` starts PostgreSQL and Redis and runs it; it prints a table in Markdown. Rows of one kind come with `cargo bench --bench queue -- fan`
//! (`submit`, `claims`, `fan`), where the stores are. Load generator, server, PostgreSQL and Redis share the machine, so read ratios rather than numbers. What is compared is measured in turns in one run, so that whatever disturbs one disturbs the other.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this is a benchmark")]

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Api, Process, TestDatabase};

/// How many claims are timed at each depth.
const CLAIMS: usize = 10_000;

/// How many claims are made at each depth, in turns, before what was taken out is put in again.
const TURN: usize = 100;

#[tokio::main]
async fn main() {
    let database = TestDatabase::new().await;
    let server = Process::start_with(&database, &[("LOG_FILTER", "warn")]).await;
    let api = &server.api;
    println!("| what | measured | bar |\n| --- | --- | --- |");
    let named: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let is_wanted = |name: &str| named.is_empty() || named.iter().any(|named| named == name);
    if is_wanted("submit") {
        submit(api).await;
    }
    if is_wanted("claims") {
        claims(api, &database).await;
    }
    if is_wanted("fan") {
        fan_in_and_out(api).await;
    }
    println!("| resident memory afterwards | {} MiB | |", server.resident_bytes() / 1024 / 1024);
}

async fn submit(api: &Api) {
    let (project, task) = api.project_with_task("submit").await;
    for (batch, senders) in [(10_000, 1), (10_000, 2), (1_000, 4), (100, 8)] {
        const JOBS: usize = 200_000;
        let body = jobs(batch, task, 0);
        let start = Instant::now();
        let sent = (0..senders).map(|_| {
            let (api, body, path) = (api.clone(), body.clone(), format!("/projects/{project}/jobs/batch"));
            tokio::spawn(async move {
                for _ in 0..JOBS / batch / senders {
                    api.post(&path, body.clone()).await.expect(201);
                }
            })
        });
        futures_util::future::try_join_all(sent).await.unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = JOBS as f64 / start.elapsed().as_secs_f64();
        println!("| submit, batches of {batch}, {senders} at once | {rate:.0} jobs/s | ≥ 20,000 jobs/s |");
    }
}

/// Two projects of which one has a thousand times as many ready jobs. Nine of ten jobs, and all that are more urgent, need more CPUs than the filter has.
async fn claims(api: &Api, database: &TestDatabase) {
    let mut sides = Vec::new();
    for depth in [1_000, 1_000_000] {
        let (project, small) = api.project_with_task(&format!("depth {depth}")).await;
        let large = json!({"name": "large", "project_id": project, "required_cpu": 64});
        let large = api.post("/tasks", large).await.expect(201)["id"].as_i64().unwrap();
        let side = Side { api: api.clone(), project, small, large };
        side.fill(depth).await;
        sides.push(side);
    }
    // As autovacuum and the checkpointer do in their own time.
    let client = database.connect().await;
    client.batch_execute("vacuum analyze").await.unwrap();
    client.batch_execute("checkpoint").await.unwrap();
    for (name, query) in [("no filter", ""), ("a filter that 9 of 10 jobs do not fit", "?available_cpu=1")] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..CLAIMS / TURN {
            let mut claimed = [Vec::new(), Vec::new()];
            for _ in 0..TURN {
                for ((side, times), claimed) in sides.iter().zip(&mut times).zip(&mut claimed) {
                    let start = Instant::now();
                    let fetched = api.get(&format!("/projects/{}/fetch_job{query}", side.project)).await.expect(200);
                    times.push(start.elapsed());
                    claimed.push(fetched["job"]["task_id"].as_i64().expect("a job"));
                }
            }
            for (side, claimed) in sides.iter().zip(&claimed) {
                side.refill(claimed).await;
            }
        }
        let [few, many] = times.map(|mut times| {
            times.sort_unstable();
            times
        });
        for (percentile, bar) in [(50, ""), (99, "≤ 1.2")] {
            let (few, many) = (at(&few, percentile), at(&many, percentile));
            let ratio = many.as_secs_f64() / few.as_secs_f64();
            println!("| claim, {name}, p{percentile} at 1,000,000 ready ÷ at 1,000 | {many:.2?} ÷ {few:.2?} = {ratio:.2} | {bar} |");
        }
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..1_000 {
        for (side, times) in sides.iter().zip(&mut times) {
            let start = Instant::now();
            api.get(&format!("/projects/{}/stats", side.project)).await.expect(200);
            times.push(start.elapsed());
        }
    }
    let [few, many] = times.map(|mut times| {
        times.sort_unstable();
        times
    });
    for (percentile, bar) in [(50, "milliseconds"), (99, "milliseconds")] {
        let (few, many) = (at(&few, percentile), at(&many, percentile));
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        println!("| how a project stands, p{percentile} at 1,000,000 ready ÷ at 1,000 | {many:.2?} ÷ {few:.2?} = {ratio:.2} | {bar} |");
    }
}

/// A project with a small and a large task.
struct Side {
    api: Api,
    project: i64,
    small: i64,
    large: i64,
}

impl Side {
    async fn fill(&self, depth: usize) {
        for _ in 0..(depth / 10_000).max(1) {
            let count = depth.min(10_000);
            self.add(count * 9 / 10, self.large, 1).await;
            self.add(count / 10, self.small, 0).await;
        }
    }

    /// Puts in what was taken out.
    async fn refill(&self, claimed: &[i64]) {
        let small = claimed.iter().filter(|task| **task == self.small).count();
        self.add(small, self.small, 0).await;
        self.add(claimed.len() - small, self.large, 1).await;
    }

    async fn add(&self, count: usize, task: i64, priority: i32) {
        self.api.post(&format!("/projects/{}/jobs/batch", self.project), jobs(count, task, priority)).await.expect(201);
    }
}

async fn fan_in_and_out(api: &Api) {
    let (project, task) = api.project_with_task("fan").await;
    let path = format!("/projects/{project}/jobs/batch");
    let parents: Vec<i64> = api.post(&path, jobs(10_000, task, 0)).await.expect(201)["job_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap())
        .collect();
    let rows = [
        ("submit a job with 10,000 parents", "< 5 s"),
        ("submit 10,000 children of one job", ""),
        ("complete a parent of 10,000 children", "< 1 s"),
        ("fail (it had completed) a parent of 10,000 children", "< 1 s"),
        ("retry a parent of 10,000 children", "< 1 s"),
    ];
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..3 {
        let start = Instant::now();
        let middle = api.job(project, task, "middle", &parents).await;
        times[0].push(start.elapsed());
        let mut children = jobs(10_000, task, 0);
        for child in children["jobs"].as_array_mut().unwrap() {
            child["depends"] = json!({ middle.to_string(): "middle" });
        }
        let start = Instant::now();
        api.post(&path, children).await.expect(201);
        times[1].push(start.elapsed());
        for (n, status) in (2..).zip(["COMPLETED", "FAILED", "PENDING"]) {
            let start = Instant::now();
            api.set_status(middle, status).await;
            times[n].push(start.elapsed());
        }
    }
    for ((what, bar), times) in rows.into_iter().zip(times) {
        println!("| {what}, three times | {:.0?}, {:.0?}, {:.0?} | {bar} |", times[0], times[1], times[2]);
    }
}

fn jobs(count: usize, task: i64, priority: i32) -> Value {
    let job = json!({"name": "train", "task_id": task, "parameters": {"lr": 0.01, "epochs": 10}, "priority": priority});
    json!({"jobs": vec![job; count]})
}

fn at(sorted: &[Duration], percentile: usize) -> Duration {
    sorted[(sorted.len() * percentile / 100).min(sorted.len() - 1)]
}
