//! Claims with a lease: what a client gets, what it may say of it, and what becomes of jobs whose clients fall silent.

mod changes;
mod claiming;
mod contention;
mod crowd;
mod editing;
mod elsewhere;
mod ending;
mod explaining;
mod forgetting;
mod heartbeats;
mod held;
mod jam;
mod leaving;
mod moving;
mod pulse;
mod rack;
mod retrying;
mod room;
mod speaking;
mod stale;
mod tails;
mod timely;
mod together;
mod turns;
mod waiting;

use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Api, Server, TestDatabase, eventually, id};

/// A server, a project with a task, and a registered client.
struct World {
    database: TestDatabase,
    server: Server,
    api: Api,
    project: i64,
    task: i64,
}

impl World {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        // Who asks for no pooler goes directly to PostgreSQL.
        let url = database.url();
        let direct = settings.contains(&("database_pooler", "none")).then_some(("database_url", &*url));
        let all: Vec<_> =
            [("rate_limit_per_minute", "0"), ("backoff_seconds", "0")].into_iter().chain(settings.iter().copied()).chain(direct).collect();
        let server = Server::start_with(&database, &all).await;
        let api = server.api.clone();
        let (project, task) = api.project_with_task("p").await;
        let world = Self { database, server, api, project, task };
        world.client("node", 8, 2).await;
        world
    }

    /// Registers a client.
    async fn client(&self, name: &str, cpu: i32, accelerators: i32) {
        let client = json!({"id": name, "name": name, "entity": "lab", "available_cpu": cpu, "available_accelerators": accelerators});
        self.api.post("/clients/register", client).await.expect(201);
    }

    /// Adds a task that needs this, and returns its id.
    async fn task(&self, name: &str, cpu: i32, accelerators: i32) -> i64 {
        let task = json!({"name": name, "project_id": self.project, "required_cpu": cpu, "required_accelerators": accelerators});
        id(&self.api.post("/tasks", task).await.expect(201))
    }

    /// Adds a job with more fields than a name.
    async fn job_with(&self, name: &str, more: Value) -> i64 {
        let mut job = json!({"name": name, "project_id": self.project, "task_id": self.task, "parameters": {}});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        id(&self.api.post("/jobs", job).await.expect(201))
    }

    async fn job(&self, name: &str) -> i64 {
        self.job_with(name, json!({})).await
    }

    /// Adds so many jobs at once.
    async fn jobs(&self, count: usize) -> Vec<i64> {
        let jobs: Vec<Value> = (0..count).map(|_| json!({"name": "j", "task_id": self.task, "parameters": {}})).collect();
        let added = self.api.post(&format!("/projects/{}/jobs/batch", self.project), json!({"jobs": jobs})).await.expect(201);
        added["job_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
    }

    /// What a claim gives.
    async fn claim(&self, claim: Value) -> Vec<Value> {
        let path = format!("/projects/{}/claims", self.project);
        let claimed = self.api.post(&path, claim).await.expect(200);
        claimed["jobs"].as_array().unwrap().clone()
    }

    /// The ids of the jobs that a claim gives.
    async fn claim_ids(&self, claim: Value) -> Vec<i64> {
        self.claim(claim).await.iter().map(|claimed| id(&claimed["job"])).collect()
    }

    /// A claim of `node` that waits at this server, and is parked there: when it is answered, and with what.
    async fn waiting(&self, api: &Api) -> JoinHandle<(Instant, Value)> {
        let database = self.database.connect().await;
        database.execute("update clients set last_heartbeat = now() - interval '1 minute' where id = 'node'", &[]).await.unwrap();
        let (api, path) = (api.clone(), format!("/projects/{}/claims", self.project));
        let waits = tokio::spawn(async move {
            let claimed = api.post(&path, json!({"client_id": "node", "wait_seconds": 60})).await.expect(200);
            (Instant::now(), claimed)
        });
        let heard = "select last_heartbeat > now() - interval '30 seconds' from clients where id = 'node'";
        eventually("the claim is parked", || async { database.query_one(heard, &[]).await.unwrap().get::<_, bool>(0) }).await;
        waits
    }

    /// Says something of an attempt.
    async fn say(&self, job: i64, attempt: i64, what: &str, body: Value) -> crate::support::Json {
        self.api.post(&format!("/jobs/{job}/attempts/{attempt}/{what}"), body).await
    }

    async fn attempt(&self, job: i64, attempt: i64) -> Value {
        self.api.get(&format!("/jobs/{job}/attempts/{attempt}")).await.expect(200)
    }

    async fn end(self) {
        self.server.stop().await;
        self.database.assert_graph_is_true().await;
    }
}
