//! Reports that are made together: of clients that have begun, and of those that are done.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::value::RawValue;

use super::{Attempt, attempt};
use crate::{
    postgres::{
        Database, Executor, Row, Transaction, Work,
        query::{attempts as sql, jobs},
        types::Json,
    },
    queue::{
        Error, Result,
        jobs::{graph::adjust_children, group::Changes},
    },
};

/// A job, and the number of its attempt.
type Named = (i64, i32);

/// That clients have begun with what they claimed.
pub(in crate::queue::jobs) struct Starts(pub(in crate::queue::jobs) Database);

/// That clients have done what they claimed.
pub(in crate::queue::jobs) struct Completions(pub(in crate::queue::jobs) Database);

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

    async fn make(&self, project_id: i64, changes: &[Named]) -> Result<Vec<Option<Attempt>>> {
        let client = self.0.client_for(project_id).await?;
        start(&client, changes).await
    }

    async fn make_alone(&self, project_id: i64, change: &Named) -> Result<Option<Attempt>> {
        let started =
            self.0.transaction(&Reports { project_id, waits_for: Some(change.0), changes: Reported::Started(&[*change]) }).await?;
        Ok(started.into_iter().next().flatten())
    }
}

impl Changes for Completions {
    type Change = Arc<Completion>;
    type Outcome = Attempt;

    async fn make(&self, project_id: i64, changes: &[Arc<Completion>]) -> Result<Vec<Option<Attempt>>> {
        self.0.transaction(&Reports { project_id, waits_for: None, changes: Reported::Completed(changes) }).await
    }

    async fn make_alone(&self, project_id: i64, change: &Arc<Completion>) -> Result<Option<Attempt>> {
        let changes = Reported::Completed(std::slice::from_ref(change));
        let completed = self.0.transaction(&Reports { project_id, waits_for: Some(change.job_id), changes }).await?;
        Ok(completed.into_iter().next().flatten())
    }
}

/// Reports of one project, made in one transaction.
struct Reports<'a> {
    project_id: i64,
    /// The job whose row is waited for, if somebody else holds it: without that it is passed over.
    waits_for: Option<i64>,
    changes: Reported<'a>,
}

enum Reported<'a> {
    Started(&'a [Named]),
    Completed(&'a [Arc<Completion>]),
}

impl Work for Reports<'_> {
    type Output = Vec<Option<Attempt>>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<Option<Attempt>>> {
        if let Some(job_id) = self.waits_for {
            jobs::LOCK.maybe(transaction, &[&job_id]).await?;
        }
        match self.changes {
            Reported::Started(attempts) => start(transaction, attempts).await,
            Reported::Completed(completions) => complete(transaction, completions).await,
        }
    }
}

async fn start(executor: &impl Executor, attempts: &[Named]) -> Result<Vec<Option<Attempt>>> {
    let (jobs, numbers): (Vec<i64>, Vec<i32>) = attempts.iter().copied().unzip();
    let started = by_name(&sql::START.all(executor, &[&jobs, &numbers]).await?);
    // Who says it twice is told the same twice.
    Ok(attempts.iter().map(|named| started.get(named).cloned()).collect())
}

async fn complete(transaction: &Transaction<'_>, completions: &[Arc<Completion>]) -> Result<Vec<Option<Attempt>>> {
    // Of what comes twice, the second is a repetition.
    let mut named = HashSet::new();
    let first: Vec<&Completion> = completions.iter().map(|one| &**one).filter(|one| named.insert((one.job_id, one.number))).collect();
    let jobs: Vec<i64> = first.iter().map(|one| one.job_id).collect();
    let numbers: Vec<i32> = first.iter().map(|one| one.number).collect();
    let results: Vec<Option<Json<&RawValue>>> = first.iter().map(|one| one.result.as_deref().map(Json)).collect();
    let tails: Vec<Option<&str>> = first.iter().map(|one| one.log_tail.as_deref()).collect();
    let rows = sql::COMPLETE.all(transaction, &[&jobs, &numbers, &results, &tails]).await?;
    if !rows.is_empty() {
        let completed: Vec<i64> = rows.iter().map(|row| row.get("job_id")).collect();
        adjust_children(transaction, &completed, -1).await?;
    }
    let mut completed = by_name(&rows);
    Ok(completions.iter().map(|one| completed.remove(&(one.job_id, one.number))).collect())
}

fn by_name(rows: &[Row]) -> HashMap<Named, Attempt> {
    rows.iter().map(attempt).map(|attempt| ((attempt.job_id, attempt.number), attempt)).collect()
}
