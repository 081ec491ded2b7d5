//! Waiting claims, and changes of what they wait for: a task, a project, a client.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::World;
use crate::support::{Api, Server, eventually};

/// Those who wait look by themselves after a second at the earliest.
const MUCH_SOONER: Duration = Duration::from_millis(500);

/// A world with a second server.
struct Two {
    world: World,
    second: Server,
}

impl Two {
    async fn new() -> Self {
        let world = World::new().await;
        let second = Server::start_with(&world.database, &[("rate_limit_per_minute", "0")]).await;
        Self { world, second }
    }

    /// Looks how long it takes from a change until a client is given this job, which it could not be given before: waiting here, and at the other server.
    async fn measure(&self, job: i64, change: impl AsyncFn(), undo: impl AsyncFn()) {
        let database = self.world.database.connect().await;
        let mut attempt = 0;
        for (place, api) in [("here", &self.world.api), ("at the other server", &self.second.api)] {
            let mut times = Vec::new();
            for _ in 0..5 {
                attempt += 1;
                database.execute("update clients set last_heartbeat = now() - interval '1 minute'", &[]).await.unwrap();
                let waits = tokio::spawn(claim(api.clone(), self.world.project));
                let heard = "select last_heartbeat > now() - interval '30 seconds' from clients where id = 'node'";
                eventually("the claim is parked", || async { database.query_one(heard, &[]).await.unwrap().get::<_, bool>(0) }).await;
                let began = Instant::now();
                change().await;
                let (at, claimed) = waits.await.unwrap();
                assert_eq!((&claimed["job"]["id"], &claimed["attempt"]), (&json!(job), &json!(attempt)), "{place}");
                times.push(at - began);
                self.world.say(job, attempt, "release", json!({"reason": "preempted"})).await.expect(200);
                undo().await;
            }
            times.sort_unstable();
            assert!(times[2] < MUCH_SOONER, "expected most answers {place} within {MUCH_SOONER:?}: {times:?}");
        }
    }

    async fn end(self) {
        self.second.stop().await;
        self.world.end().await;
    }
}

/// When a claim was answered, and with what.
async fn claim(api: Api, project: i64) -> (Instant, Value) {
    let claimed = api.post(&format!("/projects/{project}/claims"), json!({"client_id": "node", "wait_seconds": 10})).await.expect(200);
    (Instant::now(), claimed["jobs"][0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_hears_of_a_task_that_needs_less_and_of_a_project_that_is_active_again() {
    let two = Two::new().await;
    let world = &two.world;
    let task = world.task("large", 9, 0).await;
    let job = world.job_with("j", json!({"task_id": task})).await;
    let needs = async |cpu: i32| {
        world.api.put(&format!("/tasks/{task}"), json!({"required_cpu": cpu})).await.expect(200);
    };
    two.measure(job, async || needs(8).await, async || needs(9).await).await;
    world.api.delete(&format!("/jobs/{job}")).await;

    let job = world.job("j").await;
    let becomes = async |status: &str| {
        let project = json!({"name": "p", "description": "", "status": status});
        world.api.put(&format!("/projects/{}", world.project), project).await.expect(200);
    };
    becomes("ARCHIVED").await;
    two.measure(job, async || becomes("ACTIVE").await, async || becomes("ARCHIVED").await).await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_hears_that_its_client_has_more() {
    let two = Two::new().await;
    let world = &two.world;
    let task = world.task("large", 9, 0).await;
    let job = world.job_with("j", json!({"task_id": task})).await;
    let has = async |cpu: i32| {
        world.api.put("/clients/node", json!({"available_cpu": cpu})).await.expect(200);
    };
    two.measure(job, async || has(9).await, async || has(8).await).await;
    world.api.delete(&format!("/jobs/{job}")).await;
    let job = world.job_with("j", json!({"task_id": task})).await;
    two.measure(job, async || world.client("node", 9, 0).await, async || has(8).await).await;
    two.end().await;
}

/// A server that was not told looks by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_more_is_noticed_without_being_told() {
    let world = World::new().await;
    let task = world.task("large", 9, 0).await;
    let job = world.job_with("j", json!({"task_id": task})).await;
    let database = world.database.connect().await;
    database.execute("update clients set last_heartbeat = now() - interval '1 minute'", &[]).await.unwrap();
    let waits = tokio::spawn(claim(world.api.clone(), world.project));
    let heard = "select last_heartbeat > now() - interval '30 seconds' from clients where id = 'node'";
    eventually("the claim is parked", || async { database.query_one(heard, &[]).await.unwrap().get::<_, bool>(0) }).await;
    database.execute("update clients set available_cpu = 9", &[]).await.unwrap();
    assert_eq!(waits.await.unwrap().1["job"]["id"], job);
    world.end().await;
}
