//! One job's way to another status: what all of them share.
//!
//! A *transition* locks the job, asks an [`Ask`] what is to become of it, sets that, and lets follow what follows for other jobs, in one transaction.

use super::{
    Status, Store,
    graph::{Locked, Step, lock, propagate, target},
};
use crate::{
    postgres::{Transaction, Work, query::jobs as sql},
    queue::{Error, Result, lasting::Lasting},
};

/// When a job that waits again is given out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Due {
    /// That does not change.
    AsItIs,
    /// At once.
    Now,
    /// In so many seconds.
    In(f64),
}

/// What is to become of a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Move {
    pub(super) status: Status,
    pub(super) failed_attempts: i32,
    pub(super) due: Due,
}

impl Move {
    /// To this status, and nothing else.
    pub(super) fn to(status: Status, locked: &Locked) -> Self {
        Self { status, failed_attempts: locked.failed_attempts, due: Due::AsItIs }
    }
}

/// What an [`Ask`] says to a job as it is.
pub(super) enum Decision<T> {
    /// Nothing is to be done.
    Already(T),
    /// It is to become this.
    Move(Move),
}

/// Something that is wanted of a job.
pub(super) trait Ask: Send + Sync + 'static {
    /// What comes of it.
    type Output: Send + 'static;

    /// Decides, with the job's row locked.
    fn decide(&self, transaction: &Transaction<'_>, job: &Locked) -> impl Future<Output = Result<Decision<Self::Output>>> + Send;

    /// Does what is to be done besides, once it is known what the job becomes: an asked PENDING may be BLOCKED.
    fn conclude(&self, transaction: &Transaction<'_>, job: &Locked, status: Status) -> impl Future<Output = Result<Self::Output>> + Send;

    /// Does what follows on this server, once it is done, also if whoever asked has gone in the moment of the commit.
    fn follow(&self, store: &Store, output: &Self::Output);
}

impl Store {
    /// Does what is asked of a job.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and those of the ask.
    pub(super) async fn transition<A: Ask>(&self, id: i64, ask: A) -> Result<A::Output> {
        let project_id = self.project_of(id).await?;
        let store = self.clone();
        let work = async move {
            // A job waits again, or another one waits no longer.
            let ringing = store.bells.ring_after(project_id);
            let done = store.in_steps(|graph| Transition { id, project_id, ask: &ask, graph }).await;
            ringing.end(&done);
            done.inspect(|output| ask.follow(&store, output))
        };
        Lasting::new(work).await
    }
}

/// Doing it, with the project whose graph is to be locked.
struct Transition<'a, A> {
    id: i64,
    project_id: i64,
    ask: &'a A,
    graph: Option<i64>,
}

impl<A: Ask> Work for Transition<'_, A> {
    type Output = Step<A::Output>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Step<A::Output>> {
        let Self { id, ask, graph, .. } = *self;
        let job = match lock(transaction, id, graph).await? {
            Step::Done(job) => job,
            Step::NeedsGraph(project_id) => return Ok(Step::NeedsGraph(project_id)),
        };
        let asked = match ask.decide(transaction, &job).await? {
            Decision::Already(output) => return Ok(Step::Done(output)),
            Decision::Move(asked) => asked,
        };
        let status = match target(transaction, &job, asked.status, graph).await? {
            Step::Done(status) => status,
            Step::NeedsGraph(project_id) => return Ok(Step::NeedsGraph(project_id)),
        };
        let seconds = match asked.due {
            Due::AsItIs => None,
            Due::Now => Some(0.0),
            Due::In(seconds) => Some(seconds),
        };
        sql::SETTLE.execute(transaction, &[&id, &status.as_str(), &asked.failed_attempts, &seconds]).await?;
        let output = ask.conclude(transaction, &job, status).await?;
        propagate(transaction, &job, status).await?;
        Ok(Step::Done(output))
    }
}
