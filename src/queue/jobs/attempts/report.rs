//! What a client reports of its attempt, and what becomes of the job.

use super::{
    Attempt, AttemptStatus, KEPT, Outcome, Reason, Report, attempt, stale,
    together::{Completion, Said},
};
use crate::{
    postgres::{
        Transaction,
        query::{Params, attempts as sql},
    },
    queue::{
        Error, Owner, Policy, Result, Thing,
        jobs::{
            Status, Store,
            graph::Locked,
            transition::{Ask, Decision, Due, Move},
        },
    },
};

impl Store {
    /// Whether somebody may speak for the client of an attempt. Of one that does not exist nothing is said.
    ///
    /// # Errors
    ///
    /// [`Error::OthersClient`].
    pub async fn check_reporter(&self, job_id: i64, number: i32, owner: &Owner) -> Result<()> {
        owner.check_attempt(&self.database.client().await?, job_id, number).await
    }

    /// Notes that a client has begun, as somebody says: nobody in particular for whoever may speak for all clients.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::OthersClient`], [`Error::Stale`].
    pub async fn start(&self, job_id: i64, number: i32, by: Option<Owner>) -> Result<Attempt> {
        let project_id = self.project_of(job_id).await?;
        match self.starts.make(project_id, Said { job_id, number, by }).await? {
            Some(attempt) => Ok(attempt),
            None => self.as_it_is(job_id, number, |attempt| attempt.status == AttemptStatus::Running).await,
        }
    }

    /// Ends an attempt as its client says, or somebody for it: nobody in particular for whoever may speak for all clients.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::OthersClient`]; [`Error::Stale`] if it ended in another way.
    pub async fn report(&self, job_id: i64, number: i32, report: Report, by: Option<Owner>) -> Result<Attempt> {
        let Report { outcome, log_tail } = report;
        match outcome {
            Outcome::Completed(result) => self.complete(Completion { said: Said { job_id, number, by }, result, log_tail }).await,
            Outcome::Failed { .. } | Outcome::Released(_) => {
                if let Some(owner) = &by {
                    self.check_reporter(job_id, number, owner).await?;
                }
                let end = End { number, outcome, log_tail, policy: self.policy };
                Ok(self.transition(job_id, end).await?.0)
            }
        }
    }

    /// Nothing is asked of other jobs but a count, so this does without asking what the job is to become.
    async fn complete(&self, completion: Completion) -> Result<Attempt> {
        let Said { job_id, number, .. } = completion.said;
        let project_id = self.project_of(job_id).await?;
        let is_repeated = |attempt: &Attempt| attempt.reported && attempt.status == AttemptStatus::Completed;
        match self.completions.make(project_id, completion).await? {
            Some(attempt) => Ok(attempt),
            None => self.as_it_is(job_id, number, is_repeated).await,
        }
    }

    /// The client of an attempt that ended has more to give.
    pub(in crate::queue::jobs) fn has_room(&self, client_id: Option<&str>) {
        if let Some(client_id) = client_id {
            self.bells.ring_for_client(client_id);
        }
    }

    /// An attempt of which nothing was changed, if that is as it should be.
    async fn as_it_is(&self, job_id: i64, number: i32, is_right: impl Fn(&Attempt) -> bool) -> Result<Attempt> {
        let job = self.get(job_id).await?;
        let attempt = self.attempt(job_id, number).await?;
        if is_right(&attempt) { Ok(attempt) } else { Err(stale(&attempt, job.attempt, job.status)) }
    }
}

struct End {
    number: i32,
    outcome: Outcome,
    log_tail: Option<String>,
    policy: Policy,
}

impl Ask for End {
    /// The attempt, and whether it ended now.
    type Output = (Attempt, bool);

    async fn decide(&self, transaction: &Transaction<'_>, job: &Locked) -> Result<Decision<(Attempt, bool)>> {
        let (attempt, _) = lock(transaction, job.id, self.number).await?;
        if !attempt.status.is_live() {
            let is_repeated = attempt.reported && attempt.status == self.outcome.status();
            return if is_repeated { Ok(Decision::Already((attempt, false))) } else { Err(stale(&attempt, job.attempt, job.status)) };
        }
        let to = match self.outcome {
            Outcome::Completed(_) => Move::to(Status::Completed, job),
            // What was to be cancelled is not tried again.
            _ if attempt.cancel_requested => Move::to(Status::Cancelled, job),
            Outcome::Released(Reason::Preempted) => Move { due: Due::Now, ..Move::to(Status::Pending, job) },
            Outcome::Failed { retryable: false, .. } => failed(job, None),
            Outcome::Failed { .. } | Outcome::Released(Reason::Unable) => failed(job, self.policy.next(job.retry, job.failed_attempts)),
        };
        Ok(Decision::Move(to))
    }

    async fn conclude(&self, transaction: &Transaction<'_>, job: &Locked, status: Status) -> Result<(Attempt, bool)> {
        let Self { outcome, log_tail, .. } = self;
        let (mut error, mut exit_code, mut reason) = (None, None, None);
        match outcome {
            Outcome::Completed(_) => {}
            Outcome::Failed { error: text, exit_code: code, .. } => (error, exit_code) = (Some(text), *code),
            Outcome::Released(why) => reason = Some(why.as_str()),
        }
        let (ended, became) = (outcome.status().as_str(), status.as_str());
        let params: Params<'_> = &[&job.id, &self.number, &ended, &became, log_tail, &error, &exit_code, &reason, &true, &KEPT];
        Ok((attempt(&sql::END.one(transaction, params).await?), true))
    }

    fn follow(&self, store: &Store, (attempt, is_new): &(Attempt, bool)) {
        if *is_new {
            store.has_room(attempt.client_id.as_deref());
            store.tally.ended(&self.outcome, attempt.job_status == Some(Status::Pending));
        }
    }
}

/// What becomes of a job after a failure: it waits for so many seconds, or has failed.
pub(super) fn failed(job: &Locked, next: Option<f64>) -> Move {
    let failed_attempts = job.failed_attempts + 1;
    match next {
        Some(seconds) => Move { status: Status::Pending, failed_attempts, due: Due::In(seconds) },
        None => Move { status: Status::Failed, failed_attempts, due: Due::AsItIs },
    }
}

/// An attempt, whose row is locked now, and whether its lease has ended.
pub(super) async fn lock(transaction: &Transaction<'_>, job_id: i64, number: i32) -> Result<(Attempt, bool)> {
    let row = sql::LOCK.maybe(transaction, &[&job_id, &number]).await?;
    let row = row.ok_or(Error::NotFound(Thing::Attempt { job: job_id, number }))?;
    Ok((attempt(&row), row.get("expired")))
}
