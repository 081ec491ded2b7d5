//! Requests that come twice and must be done once (draft-ietf-httpapi-idempotency-key-header).
//!
//! What was answered is kept by the transaction that did the request, so either both are there or neither. It is kept for a day.

use std::time::Duration;

use super::Store;
use crate::{
    postgres::{Transaction, Work, query::submissions as sql},
    queue::{Error, Result},
};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How many answers are forgotten at once.
const BATCH: i64 = 1000;

/// What tells a request from all others.
#[derive(Debug, Clone)]
pub struct Once {
    /// Who sends it: others may use the same key.
    pub caller: String,
    /// The key that the caller chose.
    pub key: String,
    /// Of what it asks.
    pub digest: [u8; 32],
}

/// What comes of a request.
#[derive(Debug)]
pub enum Submitted<T> {
    /// It was done.
    Now(T),
    /// It had been done before, with this answer.
    Before(Answer),
}

impl<T> Submitted<T> {
    /// The same with something else of what was done now.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Submitted<U> {
        match self {
            Self::Now(value) => Submitted::Now(change(value)),
            Self::Before(answer) => Submitted::Before(answer),
        }
    }
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Where the new thing is.
    pub location: String,
    /// JSON.
    pub body: String,
}

/// Doing something once.
pub(super) struct OnceOnly<'a, W, R> {
    pub(super) work: W,
    pub(super) once: Option<&'a Once>,
    pub(super) render: R,
}

impl<W: Work<Error = Error>, R: Fn(&W::Output) -> Answer + Sync> Work for OnceOnly<'_, W, R> {
    type Output = Submitted<W::Output>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        self.work.project()
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Submitted<W::Output>> {
        let Some(Once { caller, key, digest }) = self.once else { return Ok(Submitted::Now(self.work.run(transaction).await?)) };
        if !sql::LOCK.one(transaction, &[caller, key]).await?.get::<_, bool>("alone") {
            return Err(Error::InFlight);
        }
        if let Some(row) = sql::GET.maybe(transaction, &[caller, key]).await? {
            return match row.get::<_, &[u8]>("digest") == digest {
                true => Ok(Submitted::Before(Answer { location: row.get("location"), body: row.get("answer") })),
                false => Err(Error::OtherRequest),
            };
        }
        let output = self.work.run(transaction).await?;
        let Answer { location, body } = (self.render)(&output);
        sql::INSERT.execute(transaction, &[caller, key, &&digest[..], &location, &body]).await?;
        Ok(Submitted::Now(output))
    }
}

impl Store {
    /// Forgets answers that are older than that.
    pub(super) async fn prune_answers(&self) -> Result<u64> {
        let mut pruned = 0;
        loop {
            let client = self.database.client().await?;
            let count = sql::PRUNE.execute(&client, &[&KEPT.as_secs_f64(), &BATCH]).await?;
            pruned += count;
            if count < BATCH.unsigned_abs() {
                return Ok(pruned);
            }
        }
    }
}
