//! Reports that are made together: of clients that have begun, and of those that are done.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::value::RawValue;

use super::{Attempt, attempt};
use crate::{
    postgres::{Database, Executor, Row, Transaction, Work, query::attempts as sql, types::Json},
    queue::{
        Bells, Error, Result,
        jobs::{graph::adjust_children, group::Changes, tally::Tally},
    },
};

/// A job, and the number of its attempt.
type Named = (i64, i32);

/// That clients have begun with what they claimed.
pub(in crate::queue::jobs) struct Starts(pub(in crate::queue::jobs) Database);

/// That clients have done what they claimed.
pub(in crate::queue::jobs) struct Completions {
    pub(in crate::queue::jobs) database: Database,
    pub(in crate::queue::jobs) bells: Bells,
    pub(in crate::queue::jobs) tally: Arc<Tally>,
}

/// What a client says of what it has done.
pub(in crate::queue::jobs) struct Completion {
    pub(super) job_id: i64,
    pub(super) number: i32,
    pub(super) result: Option<Box<RawValue>>,
    pub(super) log_tail: Option<String>,
}

impl Changes for Starts {
    type Change = Named;
    type Outcome = Attempt;

    fn bytes(_: &Named) -> usize {
        size_of::<Named>()
    }

    async fn make(&self, project_id: i64, changes: &[&Named]) -> Result<Vec<Option<Attempt>>> {
        let client = self.0.client_for(project_id).await?;
        start(&client, changes).await
    }

    async fn make_alone(&self, project_id: i64, (job_id, number): &Named) -> Result<Option<Attempt>> {
        self.0.transaction(&Alone { project_id, job_id: *job_id, number: *number, completion: None }).await
    }

    fn follow(&self, _: i64, _: &Named, _: &Attempt) {}
}

impl Changes for Completions {
    type Change = Completion;
    type Outcome = Attempt;

    fn bytes(Completion { result, log_tail, .. }: &Completion) -> usize {
        result.as_ref().map_or(0, |result| result.get().len()) + log_tail.as_ref().map_or(0, String::len)
    }

    /// Of jobs that nothing depends on. What others depend on reaches further, to rows that somebody else may hold, and is left out.
    async fn make(&self, project_id: i64, changes: &[&Completion]) -> Result<Vec<Option<Attempt>>> {
        self.database.transaction(&Complete { project_id, completions: changes }).await
    }

    async fn make_alone(&self, project_id: i64, change: &Completion) -> Result<Option<Attempt>> {
        let Completion { job_id, number, .. } = *change;
        self.database.transaction(&Alone { project_id, job_id, number, completion: Some(change) }).await
    }

    fn follow(&self, project_id: i64, _: &Completion, ended: &Attempt) {
        self.bells.ring(project_id);
        if let Some(client_id) = &ended.client_id {
            self.bells.ring_for_client(client_id);
        }
        self.tally.completed.one();
    }
}

/// Completing jobs that nothing depends on, and that nobody else holds.
struct Complete<'a> {
    project_id: i64,
    completions: &'a [&'a Completion],
}

impl Work for Complete<'_> {
    type Output = Vec<Option<Attempt>>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<Option<Attempt>>> {
        let (jobs, numbers): (Vec<i64>, Vec<i32>) = self.completions.iter().map(|one| (one.job_id, one.number)).unzip();
        let locked = sql::LOCK_JOBS.all(transaction, &[&jobs, &numbers]).await?;
        // Each once: of what comes twice, the second is a repetition.
        let mut locked: HashSet<Named> = locked.iter().map(|row| (row.get("job_id"), row.get("number"))).collect();
        let first: Vec<&Completion> = self.completions.iter().copied().filter(|one| locked.remove(&(one.job_id, one.number))).collect();
        let mut completed = match first.is_empty() {
            true => HashMap::new(),
            false => by_name(&complete(transaction, &first, false).await?),
        };
        Ok(self.completions.iter().map(|one| completed.remove(&(one.job_id, one.number))).collect())
    }
}

/// One report, however long it takes to get hold of its job.
struct Alone<'a> {
    project_id: i64,
    job_id: i64,
    number: i32,
    /// That it is done; without that, that it begins.
    completion: Option<&'a Completion>,
}

impl Work for Alone<'_> {
    type Output = Option<Attempt>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Option<Attempt>> {
        let Self { job_id, number, completion, .. } = self;
        if sql::LOCK_JOB.maybe(transaction, &[job_id, number]).await?.is_none() {
            return Ok(None);
        }
        // A heartbeat may have it.
        sql::LOCK.maybe(transaction, &[job_id, number]).await?;
        let Some(completion) = completion else { return Ok(start(transaction, &[&(*job_id, *number)]).await?.pop().flatten()) };
        let rows = complete(transaction, &[completion], true).await?;
        if !rows.is_empty() {
            adjust_children(transaction, *job_id, -1).await?;
        }
        Ok(rows.first().map(attempt))
    }
}

async fn start(executor: &impl Executor, attempts: &[&Named]) -> Result<Vec<Option<Attempt>>> {
    let (jobs, numbers): (Vec<i64>, Vec<i32>) = attempts.iter().copied().copied().unzip();
    let started = by_name(&sql::START.all(executor, &[&jobs, &numbers]).await?);
    // Who says it twice is told the same twice.
    Ok(attempts.iter().map(|named| started.get(*named).cloned()).collect())
}

/// Completes jobs whose rows are locked.
async fn complete(transaction: &Transaction<'_>, completions: &[&Completion], with_children: bool) -> Result<Vec<Row>> {
    let (jobs, numbers): (Vec<i64>, Vec<i32>) = completions.iter().map(|one| (one.job_id, one.number)).unzip();
    let results: Vec<Option<Json<&RawValue>>> = completions.iter().map(|one| one.result.as_deref().map(Json)).collect();
    let tails: Vec<Option<&str>> = completions.iter().map(|one| one.log_tail.as_deref()).collect();
    Ok(sql::COMPLETE.all(transaction, &[&jobs, &numbers, &results, &tails, &with_children]).await?)
}

fn by_name(rows: &[Row]) -> HashMap<Named, Attempt> {
    rows.iter().map(attempt).map(|attempt| ((attempt.job_id, attempt.number), attempt)).collect()
}
