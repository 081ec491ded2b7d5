//! Attempts that end without a report: nobody received the job, or the lease has ended.

use super::{
    AttemptStatus, KEPT,
    report::{failed, lock},
};
use crate::{
    postgres::{
        Transaction,
        query::{Params, attempts as sql},
    },
    queue::{
        Error, Result,
        jobs::{
            Status, Store,
            graph::Locked,
            transition::{Ask, Decision, Due, Move},
        },
    },
};

impl Store {
    /// Makes a job that was claimed, but not received by anybody, wait again. Does nothing if it has been claimed again, started, changed or deleted
    /// since. Returns whether it did.
    pub async fn put_back(&self, id: i64, number: i32) -> Result<bool> {
        let done = none_is_false(self.transition(id, &PutBack { number }).await);
        done.inspect(|done| self.tally.put_back.add(u64::from(*done)))
    }

    /// Ends an attempt whose lease has ended. Does nothing if it was extended, or is over. Returns whether it did.
    pub(in crate::queue::jobs) async fn expire(&self, id: i64, number: i32) -> Result<bool> {
        none_is_false(self.transition(id, &Expire { number, store: self }).await)
    }
}

/// A job that was deleted meanwhile has no need of what was to be done.
fn none_is_false(done: Result<bool>) -> Result<bool> {
    match done {
        Err(Error::NotFound(_)) => Ok(false),
        done => done,
    }
}

struct PutBack {
    number: i32,
}

impl Ask for PutBack {
    type Output = bool;

    async fn decide(&self, transaction: &Transaction<'_>, job: &Locked) -> Result<Decision<bool>> {
        if job.status != Status::Queued || job.attempt != self.number {
            return Ok(Decision::Already(false));
        }
        let (attempt, _) = lock(transaction, job.id, self.number).await?;
        if attempt.cancel_requested {
            return Ok(Decision::Move(Move::to(Status::Cancelled, job)));
        }
        Ok(Decision::Move(Move { due: Due::Now, ..Move::to(Status::Pending, job) }))
    }

    async fn conclude(&self, transaction: &Transaction<'_>, job: &Locked, status: Status) -> Result<bool> {
        end(transaction, job, self.number, AttemptStatus::Released, status, "not delivered").await
    }
}

struct Expire<'a> {
    number: i32,
    store: &'a Store,
}

impl Ask for Expire<'_> {
    type Output = bool;

    async fn decide(&self, transaction: &Transaction<'_>, job: &Locked) -> Result<Decision<bool>> {
        let (attempt, has_expired) = lock(transaction, job.id, self.number).await?;
        if !attempt.status.is_live() || !has_expired || job.attempt != self.number || !job.status.is_live() {
            return Ok(Decision::Already(false));
        }
        let to = match attempt.cancel_requested {
            true => Move::to(Status::Cancelled, job),
            false => failed(job, self.store.next(job)),
        };
        Ok(Decision::Move(to))
    }

    async fn conclude(&self, transaction: &Transaction<'_>, job: &Locked, status: Status) -> Result<bool> {
        end(transaction, job, self.number, AttemptStatus::Expired, status, "lease expired").await
    }
}

/// Ends an attempt of which nobody reports.
async fn end(transaction: &Transaction<'_>, job: &Locked, number: i32, ended: AttemptStatus, became: Status, reason: &str) -> Result<bool> {
    let none: Option<&str> = None;
    let (ended, became) = (ended.as_str(), became.as_str());
    let params: Params<'_> = &[&job.id, &number, &ended, &became, &none, &none, &None::<i32>, &reason, &false, &KEPT];
    sql::END.maybe(transaction, params).await?;
    Ok(true)
}
