//! From the claim to the client: a job that nobody received goes back.
//!
//! A request's future is dropped when its client goes away, and an answer may be made and never sent. So a claim runs in a task of its own, and its
//! result is a [`Handover`]: wherever that is dropped before somebody says [`Receipt::delivered`], the job is put back.

use std::time::Duration;

use tokio::{runtime::Handle, time::sleep};
use tokio_util::task::TaskTracker;

use super::{Fetched, Resources, Store};
use crate::queue::Result;

/// How long putting back is tried while the database is away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something claimed on its way to the client.
pub struct Handover<T> {
    /// What was claimed.
    pub claimed: T,
    /// What has to be signed.
    pub receipt: Receipt,
}

/// Says whether something claimed was received. Dropped before somebody says [`Receipt::delivered`], it puts back the jobs.
pub struct Receipt(Option<Pending>);

/// What to do if it does not arrive.
struct Pending {
    /// Jobs and their attempts.
    attempts: Vec<(i64, i32)>,
    jobs: Store,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Handover<Fetched> {
    /// Claims as [`Store::claim`] does, in a task of its own. `tasks` is what a server waits for before it exits.
    ///
    /// # Errors
    ///
    /// As [`Store::claim`].
    pub async fn fetch(jobs: &Store, tasks: &TaskTracker, project_id: i64, resources: Resources) -> Result<Self> {
        let (jobs, tasks_of_fetch) = (jobs.clone(), tasks.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn(async move {
            let fetched = jobs.claim(project_id, resources).await;
            let over = |fetched: Fetched| {
                let attempts = fetched.claimed.iter().map(|claimed| (claimed.job.id, claimed.job.attempt)).collect();
                Self::new(fetched, attempts, jobs, tasks_of_fetch)
            };
            // If the client is gone already, the handover comes back here and is dropped.
            drop(sender.send(fetched.map(over)));
        });
        receiver.await.expect("the task sends before it ends")
    }
}

impl<T> Handover<T> {
    /// Hands over what was claimed: these jobs and attempts.
    pub(super) fn new(claimed: T, attempts: Vec<(i64, i32)>, jobs: Store, tasks: TaskTracker) -> Self {
        let pending = (!attempts.is_empty()).then(|| Pending { attempts, jobs, tasks, runtime: Handle::current() });
        Self { claimed, receipt: Receipt(pending) }
    }
}

impl Receipt {
    /// It is the client's now.
    pub fn delivered(&mut self) {
        self.0 = None;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(pending) = self.0.take() {
            let (tasks, runtime) = (pending.tasks.clone(), pending.runtime.clone());
            tasks.spawn_on(pending.put_back(), &runtime);
        }
    }
}

impl Pending {
    async fn put_back(self) {
        for (id, attempt) in &self.attempts {
            put_back(&self.jobs, *id, *attempt).await;
        }
    }
}

async fn put_back(jobs: &Store, id: i64, attempt: i32) {
    let mut pause = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    loop {
        match jobs.put_back(id, attempt).await {
            Ok(done) => {
                tracing::info!(job = id, attempt, done, "a claimed job was not received and has been put back");
                return;
            }
            Err(error) if error.is_transient() && waited < PATIENCE => {
                sleep(pause).await;
                waited += pause;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(job = id, attempt, error, "a claimed job was not received and could not be put back: set it to PENDING");
                return;
            }
        }
    }
}
