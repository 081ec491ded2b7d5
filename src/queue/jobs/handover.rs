//! From the claim to the client: a job that nobody received goes back.
//!
//! A request's future is dropped when its client goes away, and an answer may be made and never sent. So a claim runs in a task of its own, and its
//! result is a [`Handover`]: wherever that is dropped before somebody says [`Handover::delivered`], the job is put back.

use std::time::Duration;

use tokio::{runtime::Handle, time::sleep};
use tokio_util::task::TaskTracker;

use super::{Claim, Resources, Store};
use crate::queue::{Error, Result};

/// How long putting back is tried while the database is away.
const PATIENCE: Duration = Duration::from_secs(60);

/// A claim on its way to the client.
pub struct Handover {
    /// What was claimed.
    pub claim: Claim,
    pending: Option<Pending>,
}

/// What to do if it does not arrive.
struct Pending {
    id: i64,
    attempt: i32,
    jobs: Store,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Handover {
    /// Claims as [`Store::claim`] does, in a task of its own. `tasks` is what a server waits for before it exits.
    ///
    /// # Errors
    ///
    /// As [`Store::claim`].
    pub async fn claim(jobs: &Store, tasks: &TaskTracker, project_id: i64, resources: Resources) -> Result<Self> {
        let (jobs, tasks_of_claim) = (jobs.clone(), tasks.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tasks.spawn(async move {
            let claim = jobs.claim(project_id, resources).await;
            // If the client is gone already, the handover comes back here and is dropped.
            drop(sender.send(claim.map(|claim| Self::new(claim, jobs, tasks_of_claim))));
        });
        receiver.await.expect("the task sends before it ends")
    }

    fn new(claim: Claim, jobs: Store, tasks: TaskTracker) -> Self {
        let pending = claim.claimed.as_ref().map(|claimed| Pending {
            id: claimed.job.id,
            attempt: claimed.attempt,
            jobs,
            tasks,
            runtime: Handle::current(),
        });
        Self { claim, pending }
    }

    /// The job is the client's now.
    pub fn delivered(&mut self) {
        self.pending = None;
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            let (tasks, runtime) = (pending.tasks.clone(), pending.runtime.clone());
            tasks.spawn_on(pending.put_back(), &runtime);
        }
    }
}

impl Pending {
    async fn put_back(self) {
        let Self { id, attempt, jobs, .. } = &self;
        let mut pause = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        loop {
            match jobs.put_back(*id, *attempt).await {
                Ok(done) => {
                    tracing::info!(job = id, attempt, done, "a claimed job was not received and has been put back");
                    return;
                }
                Err(Error::Database(error)) if error.is_transient() && waited < PATIENCE => {
                    sleep(pause).await;
                    waited += pause;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(
                        job = id,
                        attempt,
                        error,
                        "a claimed job was not received and could not be put back: set it to PENDING"
                    );
                    return;
                }
            }
        }
    }
}
