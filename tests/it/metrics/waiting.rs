//! What claims that wait cost: they are looked at when there may be something for them, and not each time that anything happens.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    STALE,
    scrape::{Scraper, start_with},
};
use crate::support::{Api, Process, TestDatabase, within};

/// How many clients wait: more than one transaction serves.
const CLIENTS: usize = 200;

struct World {
    process: Process,
    scraper: Scraper,
    project: i64,
    task: i64,
}

impl World {
    /// A server, and clients that have one processor each.
    async fn new(database: &TestDatabase) -> Self {
        let (process, scraper) = start_with(database, &[("LOG_FILTER", "warn")]).await;
        let (project, task) = process.api.project_with_task("p").await;
        let register = "insert into clients (id, name, entity, available_cpu, available_accelerators)
                        select 'client-' || n, 'c', 'lab', 1, 0 from generate_series(0, $1::bigint - 1) as n";
        database.connect().await.execute(register, &[&(CLIENTS as i64)]).await.unwrap();
        Self { process, scraper, project, task }
    }

    fn api(&self) -> &Api {
        &self.process.api
    }

    async fn jobs(&self, count: usize) {
        let jobs: Vec<Value> = (0..count).map(|_| json!({"name": "j", "task_id": self.task, "parameters": {}})).collect();
        self.api().post(&format!("/projects/{}/jobs/batch", self.project), json!({"jobs": jobs})).await.expect(201);
    }

    fn claim(&self, client: usize, wait_seconds: u32) -> JoinHandle<Value> {
        let (api, path) = (self.api().clone(), format!("/projects/{}/claims", self.project));
        let claim = json!({"client_id": format!("client-{client}"), "wait_seconds": wait_seconds, "lease_seconds": 3600});
        tokio::spawn(async move { api.post(&path, claim).await.expect(200)["jobs"][0].clone() })
    }

    /// Claims of all clients, which have been looked at and wait now.
    async fn all_wait(&self) -> Vec<JoinHandle<Value>> {
        let served = "whatsnext_claims_together_sum";
        let before = self.told(served).await;
        let waiting = (0..CLIENTS).map(|client| self.claim(client, 60)).collect();
        within(STALE, "all claims wait", async || {
            self.told(served).await - before >= CLIENTS as f64 && self.told("whatsnext_claims_waiting").await == CLIENTS as f64
        })
        .await;
        waiting
    }

    async fn told(&self, metric: &str) -> f64 {
        self.scraper.scrape().await.value(metric, &[])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_wakes_few_of_those_who_could_take_it() {
    let database = TestDatabase::new().await;
    let world = World::new(&database).await;
    let waiting = world.all_wait().await;
    let woken = world.told("whatsnext_claims_woken_total").await;
    world.jobs(1).await;
    within(STALE, "somebody has the job", async || waiting.iter().any(JoinHandle::is_finished)).await;
    let woken = world.told("whatsnext_claims_woken_total").await - woken;
    assert!(
        (1.0..=64.0).contains(&woken),
        "expected that one transaction serves claims for one job, not that {woken} claims are looked at"
    );
    assert_eq!(waiting.iter().filter(|claim| claim.is_finished()).count(), 1, "one job, one answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_have_no_room_are_left_alone_until_they_have() {
    let database = TestDatabase::new().await;
    let world = World::new(&database).await;
    world.jobs(CLIENTS).await;
    let mut held = Vec::new();
    for client in 0..CLIENTS {
        held.push(world.claim(client, 0).await.unwrap());
    }
    let waiting = world.all_wait().await;

    // There is something for everybody now, and nobody has room for it.
    let woken = world.told("whatsnext_claims_woken_total").await;
    for _ in 0..30 {
        world.jobs(1).await;
    }
    assert_eq!(world.told("whatsnext_claims_woken_total").await - woken, 0.0, "nobody is looked at who has no room");
    assert!(waiting.iter().all(|claim| !claim.is_finished()), "nobody is answered");

    let (done, began) = (&held[7], Instant::now());
    let path = format!("/jobs/{}/attempts/{}/complete", done["job"]["id"], done["attempt"]);
    world.api().post(&path, json!({})).await.expect(200);
    within(STALE, "the client that has room again has a job", async || waiting[7].is_finished()).await;
    // Those who are not told look by themselves after a second at the earliest.
    assert!(began.elapsed() < Duration::from_millis(900), "expected that it is told at once, not after {:?}", began.elapsed());
    assert_eq!(world.told("whatsnext_claims_woken_total").await - woken, 1.0, "it alone is looked at");
    assert_eq!(waiting.iter().filter(|claim| claim.is_finished()).count(), 1, "it alone is answered");
}
