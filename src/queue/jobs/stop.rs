//! Cancelling jobs, and letting them run again.

use super::{
    Job, Status, Store, attempts,
    graph::Locked,
    transition::{Ask, Decision, Due, Move},
};
use crate::{
    postgres::{
        Transaction, Work,
        query::{attempts::REQUEST_CANCEL, graph, jobs as sql},
    },
    queue::{Error, Result, Thing},
};

impl Store {
    /// Cancels a job: at once if nobody has it, or if who has it cannot be told; otherwise its client is told with its next heartbeat, and has until the
    /// end of its lease to give it up.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotNow`] if the job is over.
    pub async fn cancel(&self, id: i64) -> Result<Job> {
        self.transition(id, Cancel).await?;
        self.get(id).await
    }

    /// Lets a job that failed or was cancelled run again, with all of its attempts, and what was blocked by it; one that waits for its time, now.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotNow`] if the job did not stop.
    pub async fn retry(&self, id: i64) -> Result<Job> {
        self.transition(id, RunAgain).await?;
        self.get(id).await
    }

    /// Does so with all jobs of a project, or of one of its tasks, that have this status. Returns how many.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn retry_all(&self, project_id: i64, status: Status, task_id: Option<i64>) -> Result<usize> {
        let ringing = self.bells.ring_after(project_id);
        let retried = self.database.transaction(&RetryAll { project_id, status, task_id }).await;
        ringing.end(&retried);
        retried.inspect(|count| self.tally.asked_again.add(*count as u64))
    }
}

struct Cancel;

impl Ask for Cancel {
    /// The client whose attempt ended.
    type Output = Option<String>;

    async fn decide(&self, transaction: &Transaction<'_>, job: &Locked) -> Result<Decision<Option<String>>> {
        match job.status {
            Status::Cancelled => Ok(Decision::Already(None)),
            Status::Completed | Status::Failed => {
                Err(Error::NotNow { job: job.id, status: job.status.as_str(), hint: "there is nothing left to cancel" })
            }
            Status::Queued | Status::Running if REQUEST_CANCEL.execute(transaction, &[&job.id, &job.attempt]).await? > 0 => {
                Ok(Decision::Already(None))
            }
            Status::Queued | Status::Running | Status::Pending | Status::Blocked => Ok(Decision::Move(Move::to(Status::Cancelled, job))),
        }
    }

    async fn conclude(&self, transaction: &Transaction<'_>, job: &Locked, status: Status) -> Result<Option<String>> {
        attempts::follow(transaction, job, status).await
    }

    fn follow(&self, store: &Store, client_id: &Option<String>) {
        store.has_room(client_id.as_deref());
    }
}

struct RunAgain;

impl Ask for RunAgain {
    /// Whether anything was done.
    type Output = bool;

    async fn decide(&self, _: &Transaction<'_>, job: &Locked) -> Result<Decision<bool>> {
        match job.status {
            Status::Pending | Status::Blocked if job.due => Ok(Decision::Already(false)),
            Status::Pending | Status::Blocked => Ok(Decision::Move(Move { due: Due::Now, ..Move::to(job.status, job) })),
            Status::Failed | Status::Cancelled => Ok(Decision::Move(Move { status: Status::Pending, failed_attempts: 0, due: Due::Now })),
            Status::Queued | Status::Running | Status::Completed => {
                Err(Error::NotNow { job: job.id, status: job.status.as_str(), hint: "only a job that failed or was cancelled runs again" })
            }
        }
    }

    async fn conclude(&self, _: &Transaction<'_>, _: &Locked, _: Status) -> Result<bool> {
        Ok(true)
    }

    fn follow(&self, store: &Store, is_done: &bool) {
        store.tally.asked_again.add(u64::from(*is_done));
    }
}

struct RetryAll {
    project_id: i64,
    status: Status,
    task_id: Option<i64>,
}

impl Work for RetryAll {
    type Output = usize;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<usize> {
        let Self { project_id, status, task_id } = self;
        let project = graph::LOCK_EXCLUSIVE.maybe(transaction, &[project_id]).await?;
        project.ok_or(Error::NotFound(Thing::Project(*project_id)))?;
        let ids: Vec<i64> = sql::RETRY_HALTED.one(transaction, &[project_id, &status.as_str(), task_id]).await?.get("ids");
        graph::UNBLOCK.execute(transaction, &[&ids]).await?;
        Ok(ids.len())
    }
}
