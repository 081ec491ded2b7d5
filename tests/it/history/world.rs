//! What all clients know, wherever they run: in a folder, which outlives any of them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    log::{Ending, Lease, Log, Offer, Operation, Outcome},
    random::Random,
};

/// How long every lease lasts that is asked for.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// When an answer is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// How a report finds its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// It names the attempt that it is about.
    Attempt,
    /// Broken: whatever it names, the current one is meant.
    None,
}

/// What clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Whatever comes to mind.
    Busy,
    /// Nothing but what is there already.
    Calm,
    /// Nothing any more.
    Over,
}

/// What the world is like; in a file, that is read again for each request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Scene {
    pub(super) servers: Vec<String>,
    pub(super) project: i64,
    /// Tasks that need 1, 2 and 3 CPUs, and one that needs a CPU and an accelerator.
    pub(super) tasks: Vec<i64>,
    pub(super) stage: Stage,
}

impl Scene {
    /// Puts it in the place of the one before.
    pub(super) fn write(&self, folder: &Path) {
        let next = folder.join("scene.next");
        fs::write(&next, serde_json::to_vec(self).unwrap()).unwrap();
        fs::rename(next, scene(folder)).unwrap();
    }
}

fn scene(folder: &Path) -> PathBuf {
    folder.join("scene.json")
}

/// The way to the servers.
#[derive(Clone)]
pub(super) struct World {
    folder: PathBuf,
    guard: Guard,
    log: Log,
    http: reqwest::Client,
}

impl World {
    /// Of this folder, in which there is a [`Scene`].
    pub(super) fn open(folder: &Path, guard: Guard) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { folder: folder.to_owned(), guard, log: Log::create(folder), http }
    }

    pub(super) fn scene(&self) -> Scene {
        serde_json::from_slice(&fs::read(scene(&self.folder)).unwrap()).unwrap()
    }

    pub(super) fn is_busy(&self) -> bool {
        self.scene().stage == Stage::Busy
    }

    pub(super) fn is_over(&self) -> bool {
        self.scene().stage == Stage::Over
    }

    /// Asks any server for something, and notes it.
    pub(super) async fn ask(&self, random: &mut Random, operation: Operation) -> Outcome {
        let scene = self.scene();
        let base = &scene.servers[random.below(scene.servers.len() as u64) as usize];
        // Nothing was sent if what it takes could not be read.
        let Some((method, path, body)) = self.request(&scene, base, &operation).await else { return Outcome::Unknown };
        let mut request = self.http.request(method, format!("{base}{path}"));
        if !body.is_null() {
            request = request.json(&body);
        }
        if let Operation::Submit { key: Some(key), .. } = &operation {
            request = request.header("idempotency-key", key);
        }
        let number = self.log.invoke(operation.clone());
        let outcome = match request.send().await {
            Ok(answer) if answer.status().is_server_error() => Outcome::Unknown,
            Ok(answer) if answer.status().is_client_error() => Outcome::Refused(answer.status().as_u16()),
            Ok(answer) => answer.text().await.map_or(Outcome::Unknown, |body| understood(&operation, &body)),
            Err(_) => Outcome::Unknown,
        };
        self.log.end(number, outcome.clone());
        outcome
    }

    async fn request(&self, scene: &Scene, base: &str, operation: &Operation) -> Option<(Method, String, Value)> {
        let project = scene.project;
        let post = |path: String, body: Value| Some((Method::POST, path, body));
        match operation {
            Operation::Submit { jobs, .. } => {
                let mut jobs: Vec<Value> = jobs
                    .iter()
                    .map(|new| {
                        let depends: serde_json::Map<_, _> = new.parents.iter().map(|id| (id.to_string(), json!(""))).collect();
                        json!({"name": new.name, "project_id": project, "task_id": new.task, "parameters": {}, "depends": depends,
                            "max_attempts": new.max_attempts, "backoff_seconds": 0})
                    })
                    .collect();
                match jobs.len() {
                    1 => post("/jobs".to_owned(), jobs.remove(0)),
                    _ => post(format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})),
                }
            }
            Operation::Claim { client, most } => {
                let claim = json!({"client_id": client, "max_jobs": most, "wait_seconds": 1, "lease_seconds": LEASE.as_secs()});
                post(format!("/projects/{project}/claims"), claim)
            }
            Operation::Fetch => Some((Method::GET, format!("/projects/{project}/fetch_job?available_cpu=3"), Value::Null)),
            Operation::Start { job, attempt } => post(format!("/jobs/{job}/attempts/{attempt}/start"), Value::Null),
            Operation::Pulse { client, named } => {
                let name = |(job, attempt): &(i64, i32)| json!({"job_id": job, "attempt": attempt});
                let body = named.as_ref().map(|named| json!({"attempts": named.iter().map(name).collect::<Vec<_>>()}));
                post(format!("/clients/{client}/heartbeat"), body.unwrap_or(Value::Null))
            }
            Operation::Beat { job, attempt } => post(format!("/jobs/{job}/attempts/{attempt}/heartbeat"), json!({})),
            Operation::Report { job, attempt, ending } => {
                let attempt = match self.guard {
                    Guard::Attempt => *attempt,
                    Guard::None => i32::try_from(self.read(base, *job).await?["attempt"].as_i64()?).ok()?,
                };
                let body = match ending {
                    Ending::Complete => json!({}),
                    Ending::Fail => json!({"retryable": true}),
                    Ending::GiveUp => json!({"retryable": false}),
                    Ending::Release => json!({"reason": "preempted"}),
                    Ending::Decline => json!({"reason": "unable"}),
                };
                post(format!("/jobs/{job}/attempts/{attempt}/{}", ending.path()), body)
            }
            Operation::Done { job } => {
                let mut body = self.read(base, *job).await?;
                body["status"] = json!("COMPLETED");
                Some((Method::PUT, format!("/jobs/{job}"), body))
            }
            Operation::Cancel { job } => post(format!("/jobs/{job}/cancel"), Value::Null),
            Operation::Retry { job } => post(format!("/jobs/{job}/retry"), Value::Null),
            Operation::RetryAll { task, status } => post(format!("/projects/{project}/retry"), json!({"status": status, "task_id": task})),
            Operation::Delete { job } => Some((Method::DELETE, format!("/jobs/{job}"), Value::Null)),
        }
    }

    /// A job as it is.
    async fn read(&self, base: &str, job: i64) -> Option<Value> {
        let answer = self.http.get(format!("{base}/jobs/{job}")).send().await.ok()?.error_for_status().ok()?;
        answer.json().await.ok()
    }
}

/// What a 2xx says.
fn understood(operation: &Operation, body: &str) -> Outcome {
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() };
    let until = |value: &Value| value["lease_expires_at"].as_str().unwrap().parse().unwrap();
    let is_cancelled = |value: &Value| value["cancel_requested"].as_bool().unwrap();
    let attempt = |value: &Value| i32::try_from(value["attempt"].as_i64().unwrap()).unwrap();
    match operation {
        Operation::Submit { jobs, .. } if jobs.len() == 1 => Outcome::Submitted(vec![body["id"].as_i64().unwrap()]),
        Operation::Submit { .. } => Outcome::Submitted(body["job_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()),
        Operation::Claim { .. } => {
            let offer = |given: &Value| Offer {
                job: given["job"]["id"].as_i64().unwrap(),
                attempt: attempt(given),
                lease_expires_at: until(given),
            };
            Outcome::Claimed(body["jobs"].as_array().unwrap().iter().map(offer).collect())
        }
        Operation::Fetch => Outcome::Fetched(body["job"]["id"].as_i64()),
        Operation::Start { .. } | Operation::Beat { .. } => {
            Outcome::Extended { until: until(&body), cancel_requested: is_cancelled(&body) }
        }
        Operation::Pulse { .. } => {
            let job = |value: &Value| value["job_id"].as_i64().unwrap();
            let lease = |value: &Value| Lease {
                job: job(value),
                attempt: attempt(value),
                until: until(value),
                cancel_requested: is_cancelled(value),
            };
            let all = |name: &str| body[name].as_array().unwrap().clone();
            Outcome::Beaten {
                leases: all("attempts").iter().map(lease).collect(),
                over: all("over").iter().map(|name| (job(name), attempt(name))).collect(),
            }
        }
        Operation::Cancel { .. } | Operation::Retry { .. } => {
            Outcome::Became { status: body["status"].as_str().unwrap().to_owned(), attempt: attempt(&body) }
        }
        Operation::Report { .. } | Operation::Done { .. } | Operation::RetryAll { .. } | Operation::Delete { .. } => Outcome::Accepted,
    }
}
