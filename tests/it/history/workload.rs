//! People who submit, and clients that claim, work, fall silent, lose answers and die.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::log::{Ending, Log, Offer, Operation, Outcome};

/// How long every lease lasts.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// When an answer is given up.
const PATIENCE: Duration = Duration::from_secs(4);

/// What each client has.
pub(super) const CPUS: u64 = 4;

/// Numbers that look random and are the same for the same seed (SplitMix64, Steele and others 2014).
#[derive(Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another one, whose numbers are its own.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below this.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// How a report finds its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// It names the attempt that it is about.
    Attempt,
    /// Broken: whatever it names, the current one is meant.
    None,
}

/// The way to the servers, and what all that use it have in common.
#[derive(Clone)]
pub(super) struct World {
    pub(super) log: Log,
    pub(super) project: i64,
    /// Tasks that need 1, 2, 3 … CPUs.
    pub(super) tasks: Vec<i64>,
    pub(super) guard: Guard,
    servers: Arc<Mutex<Vec<String>>>,
    http: reqwest::Client,
    submitted: Arc<Mutex<Vec<i64>>>,
    /// Nothing new is submitted, and clients do nothing but work.
    calm: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl World {
    pub(super) fn new(servers: Vec<String>, project: i64, tasks: Vec<i64>, guard: Guard) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let (log, servers) = (Log::new(), Arc::new(Mutex::new(servers)));
        Self { log, project, tasks, guard, servers, http, submitted: Arc::default(), calm: Arc::default(), over: Arc::default() }
    }

    /// A server is somewhere else now.
    pub(super) fn moved(&self, server: usize, base: String) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)[server] = base;
    }

    pub(super) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Submits jobs, some of which wait for others, until it is calm.
    pub(super) async fn submit(self, mut random: Random) {
        while !self.is_calm() {
            let task = self.tasks[random.below(self.tasks.len() as u64) as usize];
            let parents: Vec<i64> = {
                let submitted = self.submitted.lock().unwrap_or_else(PoisonError::into_inner);
                let count = if submitted.is_empty() { 0 } else { random.below(4).saturating_sub(1) };
                // Late ones: early ones have completed already.
                let late = submitted.len().saturating_sub(12) as u64;
                let parents = (0..count).map(|_| submitted[(late + random.below(submitted.len() as u64 - late)) as usize]);
                parents.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
            };
            if let Outcome::Submitted(id) = self.ask(&mut random, Operation::Submit { parents }, task).await {
                self.submitted.lock().unwrap_or_else(PoisonError::into_inner).push(id);
            }
            sleep(random.milliseconds(5, 50)).await;
        }
    }

    /// Claims and works until it is over.
    pub(super) async fn work(self, client: String, mut random: Random) {
        while !self.over.load(Ordering::Relaxed) {
            let most = 1 + random.below(3) as i64;
            match self.ask(&mut random, Operation::Claim { client: client.clone() }, most).await {
                Outcome::Claimed(offers) => {
                    for offer in offers {
                        self.run(&offer, &mut random).await;
                    }
                }
                _ => sleep(random.milliseconds(20, 100)).await,
            }
        }
    }

    /// Does a job, or something else with it.
    async fn run(&self, offer: &Offer, random: &mut Random) {
        let Offer { job, attempt, .. } = *offer;
        let report = |ending| Operation::Report { job, attempt, ending };
        let fate = if self.is_calm() { 0 } else { random.below(100) };
        match fate {
            0..50 => drop(self.ask(random, report(Ending::Complete), 0).await),
            // It takes longer than the lease.
            50..60 => {
                for _ in 0..3 {
                    sleep(LEASE / 2).await;
                    if !matches!(self.ask(random, Operation::Beat { job, attempt }, 0).await, Outcome::Extended(_)) {
                        break;
                    }
                }
                self.ask(random, report(Ending::Complete), 0).await;
            }
            // Three of four may be tried again.
            60..68 => drop(self.ask(random, report(Ending::Fail), i64::from(fate > 61)).await),
            68..74 => drop(self.ask(random, report(Ending::Release), 0).await),
            // Thought dead, it comes back.
            74..84 => {
                sleep(LEASE + random.milliseconds(0, 2000)).await;
                self.ask(random, report(Ending::Complete), 0).await;
            }
            // The answer is lost, and the report comes again.
            84..94 => {
                let _ = timeout(random.milliseconds(0, 10), self.ask(&mut random.fork(), report(Ending::Complete), 0)).await;
                self.ask(random, report(Ending::Complete), 0).await;
            }
            // It dies with what it has.
            _ => {
                let claim = Operation::Claim { client: "killed".to_owned() };
                let _ = timeout(random.milliseconds(0, 30), self.ask(&mut random.fork(), claim, 3)).await;
            }
        }
    }

    /// Asks any server for something, and notes it. What `more` means depends on the operation: the task, how many jobs, whether to try again.
    pub(super) async fn ask(&self, random: &mut Random, operation: Operation, more: i64) -> Outcome {
        let (path, body) = self.request(&operation, more).await;
        let base = {
            let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers[random.below(servers.len() as u64) as usize].clone()
        };
        let at = self.log.invoke(operation.clone());
        let outcome =
            match self.http.post(format!("{base}{path}")).body(body.to_string()).header("content-type", "application/json").send().await {
                Ok(answer) if answer.status().is_server_error() => Outcome::Unknown,
                Ok(answer) if answer.status().is_client_error() => Outcome::Refused(answer.status().as_u16()),
                Ok(answer) => answer.json::<Value>().await.map_or(Outcome::Unknown, |body| understood(&operation, &body)),
                Err(_) => Outcome::Unknown,
            };
        self.log.end(at, outcome.clone());
        outcome
    }

    async fn request(&self, operation: &Operation, more: i64) -> (String, Value) {
        match operation {
            Operation::Submit { parents } => {
                let depends: serde_json::Map<_, _> = parents.iter().map(|id| (id.to_string(), json!(""))).collect();
                let retry = json!({"name": "j", "project_id": self.project, "task_id": more, "parameters": {}, "depends": depends,
                    "max_attempts": 1000, "backoff_seconds": 0});
                ("/jobs".to_owned(), retry)
            }
            Operation::Claim { client } => {
                let claim = json!({"client_id": client, "max_jobs": more, "wait_seconds": 1, "lease_seconds": LEASE.as_secs()});
                (format!("/projects/{}/claims", self.project), claim)
            }
            Operation::Beat { job, attempt } => (format!("/jobs/{job}/attempts/{attempt}/heartbeat"), json!({})),
            Operation::Report { job, attempt, ending } => {
                let attempt = if self.guard == Guard::None { self.current(*job).await } else { *attempt };
                let body = match ending {
                    Ending::Complete => json!({}),
                    Ending::Fail => json!({"retryable": more > 0}),
                    Ending::Release => json!({"reason": "preempted"}),
                };
                (format!("/jobs/{job}/attempts/{attempt}/{}", ending.path()), body)
            }
        }
    }

    /// What a server without the guard would take a report for.
    async fn current(&self, job: i64) -> i32 {
        let base = self.servers.lock().unwrap_or_else(PoisonError::into_inner)[0].clone();
        let job: Value = self.http.get(format!("{base}/jobs/{job}")).send().await.unwrap().json().await.unwrap();
        i32::try_from(job["attempt"].as_i64().unwrap()).unwrap()
    }
}

/// What a 2xx says.
fn understood(operation: &Operation, body: &Value) -> Outcome {
    let until = |value: &Value| value["lease_expires_at"].as_str().unwrap().parse().unwrap();
    match operation {
        Operation::Submit { .. } => Outcome::Submitted(body["id"].as_i64().unwrap()),
        Operation::Claim { .. } => {
            let offer = |given: &Value| Offer {
                job: given["job"]["id"].as_i64().unwrap(),
                attempt: i32::try_from(given["attempt"].as_i64().unwrap()).unwrap(),
                lease_expires_at: until(given),
            };
            Outcome::Claimed(body["jobs"].as_array().unwrap().iter().map(offer).collect())
        }
        Operation::Beat { .. } => Outcome::Extended(until(body)),
        Operation::Report { .. } => Outcome::Accepted,
    }
}
