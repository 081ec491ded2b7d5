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
        Error, Policy, Result,
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
        lapsed(self.transition(id, PutBack { number }).await)
    }

    /// Ends an attempt whose lease has ended. Does nothing if it was extended, or is over. Returns whether it did.
    pub(in crate::queue::jobs) async fn expire(&self, id: i64, number: i32) -> Result<bool> {
        lapsed(self.transition(id, Expire { number, policy: self.policy }).await)
    }
}

/// Whether an attempt has ended. A job that was deleted meanwhile has no need of what was to be done.
fn lapsed(lapsed: Result<Lapsed>) -> Result<bool> {
    match lapsed {
        Ok(Lapsed::Ended(_)) => Ok(true),
        Ok(Lapsed::Not) | Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What became of an attempt of which nobody reports.
enum Lapsed {
    /// It ended, and was this client's.
    Ended(Option<String>),
    /// It was over, or is extended.
    Not,
}

impl Lapsed {
    /// The client has more room, and may be there all the same.
    fn follow(&self, store: &Store) {
        if let Self::Ended(client_id) = self {
            store.has_room(client_id.as_deref());
        }
    }
}

struct PutBack {
    number: i32,
}

impl Ask for PutBack {
    type Output = Lapsed;

    async fn decide(&self, transaction: &Transaction<'_>, job: &Locked) -> Result<Decision<Lapsed>> {
        if job.status != Status::Queued || job.attempt != self.number {
            return Ok(Decision::Already(Lapsed::Not));
        }
        let (attempt, _) = lock(transaction, job.id, self.number).await?;
        if attempt.cancel_requested {
            return Ok(Decision::Move(Move::to(Status::Cancelled, job)));
        }
        Ok(Decision::Move(Move { due: Due::Now, ..Move::to(Status::Pending, job) }))
    }

    async fn conclude(&self, transaction: &Transaction<'_>, job: &Locked, status: Status) -> Result<Lapsed> {
        end(transaction, job, self.number, AttemptStatus::Released, status, "not delivered").await
    }

    fn follow(&self, store: &Store, lapsed: &Lapsed) {
        lapsed.follow(store);
        store.tally.put_back.add(u64::from(matches!(lapsed, Lapsed::Ended(_))));
    }
}

struct Expire {
    number: i32,
    policy: Policy,
}

impl Ask for Expire {
    type Output = Lapsed;

    async fn decide(&self, transaction: &Transaction<'_>, job: &Locked) -> Result<Decision<Lapsed>> {
        let (attempt, has_expired) = lock(transaction, job.id, self.number).await?;
        if !attempt.status.is_live() || !has_expired || job.attempt != self.number || !job.status.is_live() {
            return Ok(Decision::Already(Lapsed::Not));
        }
        let to = match attempt.cancel_requested {
            true => Move::to(Status::Cancelled, job),
            false => failed(job, self.policy.next(job.retry, job.failed_attempts)),
        };
        Ok(Decision::Move(to))
    }

    async fn conclude(&self, transaction: &Transaction<'_>, job: &Locked, status: Status) -> Result<Lapsed> {
        end(transaction, job, self.number, AttemptStatus::Expired, status, "lease expired").await
    }

    fn follow(&self, store: &Store, lapsed: &Lapsed) {
        lapsed.follow(store);
    }
}

/// Ends an attempt of which nobody reports.
async fn end(
    transaction: &Transaction<'_>,
    job: &Locked,
    number: i32,
    ended: AttemptStatus,
    became: Status,
    reason: &str,
) -> Result<Lapsed> {
    let none: Option<&str> = None;
    let (ended, became) = (ended.as_str(), became.as_str());
    let params: Params<'_> = &[&job.id, &number, &ended, &became, &none, &none, &None::<i32>, &reason, &false, &KEPT];
    Ok(Lapsed::Ended(sql::END.maybe(transaction, params).await?.and_then(|row| row.get("client_id"))))
}
