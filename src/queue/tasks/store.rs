//! Tasks in the database.

use super::{Change, Content, Task};
use crate::{
    postgres::{
        Database, Row, Transaction, Work,
        query::{Params, graph, tasks as sql},
    },
    queue::{Bells, Error, Listing, Page, Result, Retry, Thing, lasting::Lasting, no_number},
};

/// The tasks.
#[derive(Clone)]
pub struct Store {
    database: Database,
    bells: Bells,
}

impl Store {
    /// The tasks of this database. Bells are rung when there may be something to claim.
    pub fn new(database: Database, bells: Bells) -> Self {
        Self { database, bells }
    }

    /// Creates a task.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownProject`], [`Error::NameTaken`].
    pub async fn create(&self, project_id: i64, content: &Content) -> Result<Task> {
        let client = self.database.client_for(project_id).await?;
        let Content { name, command_template, required_cpu, required_accelerators, retry } = content;
        let Retry { max_attempts, backoff_seconds } = retry;
        let params: Params<'_> = &[&project_id, name, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds];
        let row = sql::INSERT.one(&client, params).await;
        row.map(|row| task(&row)).map_err(|error| match error.constraint() {
            Some("tasks_project_fkey") => Error::UnknownProject(project_id),
            Some("tasks_name_key") => Error::NameTaken(Thing::TaskNamed(name.clone())),
            _ => error.into(),
        })
    }

    /// One task.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn get(&self, id: i64) -> Result<Task> {
        let client = self.database.client().await?;
        let row = sql::GET.maybe(&client, &[&id]).await?;
        row.map(|row| task(&row)).ok_or(Error::NotFound(Thing::Task(id)))
    }

    /// One task by its name: the project's, or the oldest of that name if no project is given; of the projects that may be seen, if that is not all.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn get_by_name(&self, name: &str, project_id: Option<i64>, visible: Option<&[i64]>) -> Result<Task> {
        let client = self.database.client().await?;
        let row = sql::GET_BY_NAME.maybe(&client, &[&name, &project_id, &visible]).await?;
        row.map(|row| task(&row)).ok_or_else(|| Error::NotFound(Thing::TaskNamed(name.to_owned())))
    }

    /// A page of a project's tasks.
    pub async fn list(&self, project_id: i64, page: Page<i64>) -> Result<Listing<Task>> {
        let client = self.database.client().await?;
        let params: Params<'_> = &[&project_id, &page.after, &page.skip, &page.limit];
        Ok(Listing::read(sql::LIST, &client, params, task, no_number).await?)
    }

    /// Changes a task. A changed requirement holds at once for all its jobs that are not claimed yet.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::OtherProject`], [`Error::NameTaken`].
    pub async fn update(&self, id: i64, change: &Change) -> Result<Task> {
        let owner = self.get(id).await?.project_id;
        if let Some(other) = change.project_id.filter(|project_id| *project_id != owner) {
            return Err(Error::OtherProject(Thing::Task(id), other));
        }
        let client = self.database.client_for(owner).await?;
        let Change { name, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds, .. } = change;
        let (template, most, backoff) = (command_template.clone().flatten(), max_attempts.flatten(), backoff_seconds.flatten());
        let given = [command_template.is_some(), max_attempts.is_some(), backoff_seconds.is_some()];
        let params: Params<'_> =
            &[&id, name, &given[0], &template, required_cpu, required_accelerators, &given[1], &most, &given[2], &backoff];
        // Its jobs may fit somebody then.
        let ringing = self.bells.ring_after(owner);
        let row = sql::UPDATE.maybe(&client, params).await;
        let taken = |error| {
            let name = change.name.clone().unwrap_or_default();
            Error::on_constraint(error, "tasks_name_key", Error::NameTaken(Thing::TaskNamed(name)))
        };
        let updated = row.map_err(taken).and_then(|row| row.map(|row| task(&row)).ok_or(Error::NotFound(Thing::Task(id))));
        ringing.end(&updated);
        updated
    }

    /// Deletes a task with its jobs.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], and [`Error::Waited`] while a job of another task waits for one of its jobs.
    pub async fn delete(&self, id: i64) -> Result<()> {
        let project_id = self.get(id).await?.project_id;
        let Self { database, bells } = self.clone();
        let work = async move {
            let ringing = bells.ring_unless(project_id);
            let deleted = database.transaction(&Delete { id, project_id }).await;
            ringing.end(&deleted);
            deleted.map(|clients| clients.iter().for_each(|client| bells.ring_for_client(client)))
        };
        Lasting::new(work).await
    }
}

/// Deleting a task.
struct Delete {
    id: i64,
    project_id: i64,
}

impl Work for Delete {
    /// The clients that ran its jobs.
    type Output = Vec<String>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<String>> {
        let Self { id, project_id } = self;
        graph::LOCK_EXCLUSIVE.maybe(transaction, &[project_id]).await?;
        sql::LOCK.maybe(transaction, &[id]).await?;
        graph::LOCK_TASK_JOBS.one(transaction, &[id]).await?;
        if let Some(child) = graph::WAITING_CHILD_OF_TASK.maybe(transaction, &[id]).await? {
            let for_what = format!("a job of task {id}");
            return Err(Error::Waited { for_what, waiting: child.get("id"), name: child.get("name") });
        }
        let freed = graph::DETACH_TASK.all(transaction, &[id]).await?;
        match sql::DELETE.execute(transaction, &[id]).await? {
            0 => Err(Error::NotFound(Thing::Task(*id))),
            _ => Ok(freed.iter().map(|row| row.get("client_id")).collect()),
        }
    }
}

fn task(row: &Row) -> Task {
    Task {
        id: row.get("id"),
        project_id: row.get("project_id"),
        content: Content {
            name: row.get("name"),
            command_template: row.get("command_template"),
            required_cpu: row.get("required_cpu"),
            required_accelerators: row.get("required_accelerators"),
            retry: Retry { max_attempts: row.get("max_attempts"), backoff_seconds: row.get("backoff_seconds") },
        },
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}
