//! Forgetting jobs that were finished long ago, a few at a time.

use std::{collections::BTreeMap, time::Duration};

use super::Store;
use crate::{
    postgres::{
        Transaction, Work,
        query::{graph, jobs as sql},
    },
    queue::{Error, Result},
};

/// How many jobs are looked at in one step.
const LOOK_AT: i64 = 2000;

/// What one step of forgetting did.
#[derive(Debug, Default)]
pub struct Pruned {
    /// How many jobs were deleted.
    pub deleted: i64,
    /// The id after which to go on; nothing if that was the last job.
    pub next: Option<i64>,
    /// The projects of which jobs could not be deleted, and why not.
    pub failures: Vec<(i64, Error)>,
}

impl Store {
    /// Looks at the next jobs after this id, and deletes those that were finished longer ago than `age` and that nothing needs any more. A project in
    /// which that fails keeps no other.
    ///
    /// # Errors
    ///
    /// Those of the look.
    pub async fn prune(&self, after: i64, age: Duration) -> Result<Pruned> {
        let client = self.database.client().await?;
        let row = sql::OLD.one(&client, &[&after, &LOOK_AT, &age.as_secs_f64()]).await?;
        drop(client);
        let (ids, projects): (Vec<i64>, Vec<i64>) = (row.get("ids"), row.get("project_ids"));
        let mut by_project: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (id, project_id) in ids.into_iter().zip(projects) {
            by_project.entry(project_id).or_default().push(id);
        }
        let mut pruned = Pruned { next: row.get("last"), ..Pruned::default() };
        for (project_id, ids) in by_project {
            match self.database.transaction(&Prune { project_id, ids, age }).await {
                Ok(deleted) => pruned.deleted += deleted,
                Err(error) => pruned.failures.push((project_id, error)),
            }
        }
        Ok(pruned)
    }
}

struct Prune {
    project_id: i64,
    ids: Vec<i64>,
    age: Duration,
}

impl Work for Prune {
    type Output = i64;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<i64> {
        graph::LOCK_EXCLUSIVE.maybe(transaction, &[&self.project_id]).await?;
        Ok(sql::PRUNE.one(transaction, &[&self.project_id, &self.ids, &self.age.as_secs_f64()]).await?.get("deleted"))
    }
}
