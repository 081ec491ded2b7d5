//! Deleting jobs.

use super::{Store, graph::lock};
use crate::{
    postgres::{
        Transaction, Work,
        query::{graph as sql, jobs},
    },
    queue::{Error, Result, Thing, lasting::Lasting},
};

impl Store {
    /// Deletes a job. With a project, only if it is that project's.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and [`Error::Waited`] while a job that has not been started waits for it.
    pub async fn delete(&self, id: i64, project_id: Option<i64>) -> Result<()> {
        let owner = self.project_of(id).await?;
        if project_id.is_some_and(|project_id| project_id != owner) {
            return Err(Error::NotFound(Thing::Job(id)));
        }
        let store = self.clone();
        let work = async move {
            let ringing = store.bells.ring_unless(owner);
            let deleted = store.database.transaction(&Delete { id, project_id: owner }).await;
            ringing.end(&deleted);
            deleted.map(|client_id| store.has_room(client_id.as_deref()))
        };
        Lasting::new(work).await
    }

    /// Deletes a project's pending jobs, and the blocked ones that wait for one of them, so that nothing waits for what is gone. Returns
    /// how many were deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn clear(&self, project_id: i64) -> Result<i64> {
        let ringing = self.bells.ring_unless(project_id);
        let deleted = self.database.transaction(&Clear { project_id }).await;
        ringing.end(&deleted);
        self.plenty.forget(project_id);
        deleted
    }
}

/// Deleting a job.
struct Delete {
    id: i64,
    project_id: i64,
}

impl Work for Delete {
    /// The client that ran it.
    type Output = Option<String>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Option<String>> {
        let Self { id, project_id } = self;
        lock(transaction, *id, Some(*project_id)).await?.done();
        if let Some(child) = sql::WAITING_CHILD.maybe(transaction, &[id]).await? {
            return Err(Error::Waited { for_what: format!("job {id}"), waiting: child.get("id"), name: child.get("name") });
        }
        let tried = sql::DETACH_JOB.maybe(transaction, &[id]).await?;
        jobs::DELETE.execute(transaction, &[id]).await?;
        Ok(tried.map(|row| row.get("client_id")))
    }
}

/// Clearing a queue.
struct Clear {
    project_id: i64,
}

impl Work for Clear {
    type Output = i64;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<i64> {
        let project = sql::LOCK_EXCLUSIVE.maybe(transaction, &[&self.project_id]).await?;
        project.ok_or(Error::NotFound(Thing::Project(self.project_id)))?;
        let locked: Vec<i64> = sql::LOCK_QUEUE.one(transaction, &[&self.project_id]).await?.get("ids");
        Ok(sql::CLEAR_QUEUE.one(transaction, &[&locked]).await?.get("deleted"))
    }
}
