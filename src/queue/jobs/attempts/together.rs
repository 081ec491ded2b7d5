//! Reports that are made together: of clients that have begun, and of those that are done.
//!
//! Whether somebody may speak for a client is asked by the statements that do the work. Whoever may not is left out of the group, and told so alone.

use std::{collections::HashMap, sync::Arc};

use serde_json::value::RawValue;

use super::{Attempt, attempt};
use crate::{
    postgres::{
        Database, Executor, Row, Transaction, Work,
        query::{attempts as sql, graph},
        types::Json,
    },
    queue::{
        Bells, Error, Owner, Result,
        jobs::{graph::adjust_children, group::Changes, tally::Tally},
    },
};

/// That clients have begun with what they claimed.
pub(in crate::queue::jobs) struct Starts(pub(in crate::queue::jobs) Database);

/// That clients have done what they claimed.
pub(in crate::queue::jobs) struct Completions {
    pub(in crate::queue::jobs) database: Database,
    pub(in crate::queue::jobs) bells: Bells,
    pub(in crate::queue::jobs) tally: Arc<Tally>,
}

/// An attempt of which somebody says something.
#[derive(Debug)]
pub(in crate::queue::jobs) struct Said {
    pub(super) job_id: i64,
    pub(super) number: i32,
    /// Who says it: nothing for whoever may speak for all clients.
    pub(super) by: Option<Owner>,
}

impl Said {
    fn name(&self) -> (i64, i32) {
        (self.job_id, self.number)
    }
}

/// What a client says of what it has done.
pub(in crate::queue::jobs) struct Completion {
    pub(super) said: Said,
    pub(super) result: Option<Box<RawValue>>,
    pub(super) log_tail: Option<String>,
}

impl Changes for Starts {
    type Change = Said;
    type Outcome = Attempt;

    fn bytes(_: &Said) -> usize {
        size_of::<Said>()
    }

    async fn make(&self, project_id: i64, changes: &[&Said]) -> Result<Vec<Option<Attempt>>> {
        let client = self.0.client_for(project_id).await?;
        start(&client, changes).await
    }

    async fn make_alone(&self, project_id: i64, said: &Said) -> Result<Option<Attempt>> {
        self.0.transaction(&Alone { project_id, said, completion: None }).await
    }

    fn follow(&self, _: i64, _: &Said, _: &Attempt) {}
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
        // What waited for it may be ready.
        let ringing = self.bells.ring_after(project_id);
        let made = self.database.transaction(&Alone { project_id, said: &change.said, completion: Some(change) }).await;
        ringing.end(&made);
        made
    }

    fn follow(&self, _: i64, _: &Completion, ended: &Attempt) {
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
        let Columns { jobs, numbers, users, keys } = columns(self.completions.iter().map(|one| &one.said));
        let locked = sql::LOCK_JOBS.all(transaction, &[&jobs, &numbers, &users, &keys]).await?;
        let mut completed: Vec<Option<Attempt>> = self.completions.iter().map(|_| None).collect();
        // Each once: of what comes twice, the second is a repetition.
        let mut places = HashMap::new();
        for place in locked.iter().map(place) {
            places.entry(self.completions[place].said.name()).or_insert(place);
        }
        if !places.is_empty() {
            let first: Vec<&Completion> = places.values().map(|place| self.completions[*place]).collect();
            for attempt in complete(transaction, &first, false).await?.iter().map(attempt) {
                let place = places[&(attempt.job_id, attempt.number)];
                completed[place] = Some(attempt);
            }
        }
        Ok(completed)
    }
}

/// One report, however long it takes to get hold of its job.
struct Alone<'a> {
    project_id: i64,
    said: &'a Said,
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
        let Self { project_id, said: Said { job_id, number, by }, completion } = self;
        if let Some(owner) = by {
            // Before anything is waited for.
            owner.check_attempt(transaction, *job_id, *number).await?;
        }
        let Some(row) = sql::TRY_LOCK_JOB.maybe(transaction, &[job_id, number]).await? else { return Ok(None) };
        if row.get("is_held") {
            // By those, maybe, who add jobs that depend on it: there may always be another one, but for who takes the graph.
            graph::LOCK_EXCLUSIVE.maybe(transaction, &[project_id]).await?;
            if sql::LOCK_JOB.maybe(transaction, &[job_id, number]).await?.is_none() {
                return Ok(None);
            }
        }
        // A heartbeat may have it.
        sql::LOCK.maybe(transaction, &[job_id, number]).await?;
        let Some(completion) = completion else {
            let said = Said { job_id: *job_id, number: *number, by: None };
            return Ok(start(transaction, &[&said]).await?.pop().flatten());
        };
        let rows = complete(transaction, &[completion], true).await?;
        if !rows.is_empty() {
            adjust_children(transaction, *job_id, -1).await?;
        }
        Ok(rows.first().map(attempt))
    }
}

/// Who says it twice is told the same twice.
async fn start(executor: &impl Executor, attempts: &[&Said]) -> Result<Vec<Option<Attempt>>> {
    let Columns { jobs, numbers, users, keys } = columns(attempts.iter().copied());
    let mut started: Vec<Option<Attempt>> = attempts.iter().map(|_| None).collect();
    for row in sql::START.all(executor, &[&jobs, &numbers, &users, &keys]).await? {
        started[place(&row)] = Some(attempt(&row));
    }
    Ok(started)
}

/// Completes jobs whose rows are locked.
async fn complete(transaction: &Transaction<'_>, completions: &[&Completion], with_children: bool) -> Result<Vec<Row>> {
    let Columns { jobs, numbers, .. } = columns(completions.iter().map(|one| &one.said));
    let results: Vec<Option<Json<&RawValue>>> = completions.iter().map(|one| one.result.as_deref().map(Json)).collect();
    let tails: Vec<Option<&str>> = completions.iter().map(|one| one.log_tail.as_deref()).collect();
    Ok(sql::COMPLETE.all(transaction, &[&jobs, &numbers, &results, &tails, &with_children]).await?)
}

/// Attempts, and who says something of them, as statements take them: one array element an attempt.
struct Columns<'a> {
    jobs: Vec<i64>,
    numbers: Vec<i32>,
    users: Vec<Option<i64>>,
    keys: Vec<Option<&'a str>>,
}

fn columns<'a>(said: impl Iterator<Item = &'a Said> + Clone) -> Columns<'a> {
    Columns {
        jobs: said.clone().map(|said| said.job_id).collect(),
        numbers: said.clone().map(|said| said.number).collect(),
        users: said.clone().map(|said| said.by.as_ref().and_then(|owner| owner.user)).collect(),
        keys: said.map(|said| said.by.as_ref().map(|owner| owner.key.as_str())).collect(),
    }
}

/// The place that a row names. Places begin at 1.
fn place(row: &Row) -> usize {
    usize::try_from(row.get::<_, i64>("position") - 1).expect("it is the place of an array element")
}
