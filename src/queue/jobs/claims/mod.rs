//! Claims by clients that are registered: with a lease, no more than the client has, and waiting for what is not there yet.
//!
//! Claims of one project that arrive at a server while it serves others are served together, in one transaction (`round`), first come first served
//! (`assign`). Who finds nothing and may wait is *parked*: it holds no connection to any store. One task a project wakes when one of the [`Bells`] rings because there
//! may be something new, or looks by itself now and then.

mod assign;
mod bell;
mod marks;
mod round;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use bell::{Bells, Wire};

use super::{Handover, Job, Resources, Store};
use crate::queue::{Error, Result};
use marks::Marks;
use round::Round;

/// How many claims one transaction serves.
const TOGETHER: usize = 64;

/// How long those that are parked wait before it is looked again without anybody ringing: from so long to twice as long.
const LOOK_AGAIN: Duration = Duration::from_millis(1000);

/// What a client claims.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The client, which must be registered.
    pub client_id: String,
    /// How many jobs at most.
    pub max_jobs: usize,
    /// How long each is its own, unless it says more.
    pub lease_seconds: i32,
    /// What it gives for these jobs in all. Less is given if it has less.
    pub limit: Resources,
    /// Only jobs of these tasks; nothing for all.
    pub task_ids: Option<Vec<i64>>,
}

/// A job that was claimed.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The job; its attempt is the client's.
    pub job: Job,
    /// Its task's name.
    pub task_name: String,
    /// How the task makes a command of the job's parameters.
    pub command_template: Option<String>,
    /// Until when it is the client's.
    pub lease_expires_at: DateTime<Utc>,
}

/// The claims of one server; clones are the same.
#[derive(Clone)]
pub struct Claims {
    jobs: Store,
    queues: Arc<Mutex<HashMap<i64, Vec<Claim>>>>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// A claim that waits for its answer.
struct Claim {
    wish: Wish,
    until: Instant,
    answer: oneshot::Sender<Result<Handover<Vec<Granted>>>>,
}

impl Claims {
    /// Claims on these jobs. `tasks` is what a server waits for before it exits; when `closing` is cancelled, nobody waits any more.
    pub fn new(jobs: Store, tasks: TaskTracker, closing: CancellationToken) -> Self {
        Self { jobs, queues: Arc::default(), tasks, closing }
    }

    /// Claims jobs of a project, and waits for the first if there are none. None after that time.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the project or the client.
    pub async fn claim(&self, project_id: i64, wish: Wish, wait: Duration) -> Result<Handover<Vec<Granted>>> {
        let (answer, answered) = oneshot::channel();
        let claim = Claim { wish, until: Instant::now() + wait, answer };
        let is_first = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = !queues.contains_key(&project_id);
            queues.entry(project_id).or_default().push(claim);
            is_first
        };
        if is_first {
            self.tasks.spawn(self.clone().serve(project_id));
        } else {
            self.jobs.bells.nudge(project_id);
        }
        answered.await.expect("each claim is answered")
    }

    /// Serves a project as long as anybody claims.
    async fn serve(self, project_id: i64) {
        let bell = self.jobs.bells.hear(project_id);
        let marks = Mutex::default();
        let mut parked: Vec<Claim> = Vec::new();
        loop {
            let Some(new) = self.arrived(project_id, parked.is_empty()) else { return };
            let left = self.serve_all(project_id, &marks, new, true).await;
            parked.extend(left);
            if bell.has_rung() {
                let waiting = std::mem::take(&mut parked);
                parked = self.serve_all(project_id, &marks, waiting, false).await;
            }
            let now = Instant::now();
            let is_over = |claim: &Claim| claim.until <= now || claim.answer.is_closed() || self.closing.is_cancelled();
            for claim in parked.extract_if(.., |claim| is_over(claim)) {
                drop(claim.answer.send(Ok(self.handover(Vec::new()))));
            }
            if let Some(first) = parked.iter().map(|claim| claim.until).min() {
                let look_again = Instant::now() + LOOK_AGAIN.mul_f64(1.0 + jitter());
                tokio::select! {
                    () = bell.wait() => {}
                    () = self.closing.cancelled() => {}
                    () = sleep_until(first) => {}
                    () = sleep_until(look_again) => bell.ring(),
                }
            }
        }
    }

    /// The claims that arrived since. If there are none, and nobody is parked, the project is served no longer.
    fn arrived(&self, project_id: i64, is_idle: bool) -> Option<Vec<Claim>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = std::mem::take(queues.entry(project_id).or_default());
        if arrived.is_empty() && is_idle {
            queues.remove(&project_id);
            return None;
        }
        Some(arrived)
    }

    /// Answers what can be answered; returns the rest, in the same order.
    async fn serve_all(&self, project_id: i64, marks: &Mutex<Marks>, claims: Vec<Claim>, are_new: bool) -> Vec<Claim> {
        let mut left = Vec::new();
        let mut claims = claims.into_iter().filter(|claim| !claim.answer.is_closed()).peekable();
        while claims.peek().is_some() {
            let (wishes, answers): (Vec<Wish>, Vec<_>) =
                claims.by_ref().take(TOGETHER).map(|claim| (claim.wish, (claim.until, claim.answer))).unzip();
            let round = self.jobs.database.transaction(&Round { project_id, wishes: &wishes, marks }).await;
            let found = match round {
                Ok(found) => found,
                // Whoever waits may live to see the database again.
                Err(Error::Database(error)) if !are_new && error.is_transient() => wishes.iter().map(|_| Ok(Vec::new())).collect(),
                Err(error) => {
                    let error = Arc::new(error);
                    wishes.iter().map(|_| Err(Error::Shared(error.clone()))).collect()
                }
            };
            for ((wish, (until, answer)), found) in wishes.into_iter().zip(answers).zip(found) {
                match found {
                    Ok(jobs) if jobs.is_empty() => left.push(Claim { wish, until, answer }),
                    // If the client is gone already, the handover comes back here and is dropped.
                    Ok(jobs) => drop(answer.send(Ok(self.handover(jobs)))),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
        }
        left
    }

    fn handover(&self, granted: Vec<Granted>) -> Handover<Vec<Granted>> {
        let claimed = granted.iter().map(|granted| (granted.job.id, granted.job.attempt)).collect();
        Handover::new(granted, claimed, self.jobs.clone(), self.tasks.clone())
    }
}

/// From 0 to 1, another one each time.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}
