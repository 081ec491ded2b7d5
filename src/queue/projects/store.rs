//! Projects in the database.

use std::collections::BTreeMap;

use super::{Busy, Content, Overview, Project, Stats, Status};
use crate::{
    postgres::{
        Database, Row, Transaction, Work,
        query::{Params, graph, projects as sql, tasks},
        types::Json,
    },
    queue::{Bells, Error, Listing, Page, Result, Thing, lasting::Lasting, no_number},
};

/// From how many rows of counts of one status on they are made fewer.
const MANY: i64 = 16;

/// How many rows of counts become few at once.
const COMPACTED: i64 = 10_000;

/// How many priorities of tasks, and about how many jobs, are looked at for the one that has been ready for longest.
const PRIORITIES: i64 = 1000;
const LOOKED_AT: i64 = 10_000;

/// The projects.
#[derive(Clone)]
pub struct Store {
    database: Database,
    bells: Bells,
}

impl Store {
    /// The projects of this database. Bells are rung when there may be something to claim.
    pub fn new(database: Database, bells: Bells) -> Self {
        Self { database, bells }
    }

    /// Creates a project.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`].
    pub async fn create(&self, content: &Content) -> Result<Project> {
        let client = self.database.client().await?;
        let row = sql::INSERT.one(&client, &[&content.name, &content.description, &content.status.as_str()]).await;
        row.map(|row| project(&row)).map_err(|error| taken(error, content))
    }

    /// One project.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn get(&self, id: i64) -> Result<Project> {
        let client = self.database.client().await?;
        let row = sql::GET.maybe(&client, &[&id]).await?;
        row.map(|row| project(&row)).ok_or(Error::NotFound(Thing::Project(id)))
    }

    /// One project by its name.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn get_by_name(&self, name: &str) -> Result<Project> {
        let client = self.database.client().await?;
        let row = sql::GET_BY_NAME.maybe(&client, &[&name]).await?;
        row.map(|row| project(&row)).ok_or_else(|| Error::NotFound(Thing::ProjectNamed(name.to_owned())))
    }

    /// A page of all projects, or of those with a status; of those that may be seen, if that is not all of them.
    pub async fn list(&self, status: Option<Status>, visible: Option<&[i64]>, page: Page<i64>) -> Result<Listing<Project>> {
        let client = self.database.client().await?;
        let params: Params<'_> = &[&status.map(Status::as_str), &page.after, &page.skip, &page.limit, &visible];
        Ok(Listing::read(sql::LIST, &client, params, project, no_number).await?)
    }

    /// Replaces what a project says.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NameTaken`].
    pub async fn update(&self, id: i64, content: &Content) -> Result<Project> {
        // It may have been archived before.
        let ringing = self.bells.ring_after(id);
        let updated = self.database.transaction(&Update { id, content }).await;
        ringing.end(&updated);
        updated
    }

    /// How a project stands, in a time that does not depend on how many jobs it has.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn stats(&self, id: i64) -> Result<Stats> {
        let client = self.database.client().await?;
        let row = sql::STATS.maybe(&client, &[&id, &PRIORITIES, &LOOKED_AT]).await?.ok_or(Error::NotFound(Thing::Project(id)))?;
        Ok(Stats {
            counts: row.get::<_, Json<BTreeMap<String, i64>>>("counts").0,
            oldest_ready_seconds: row.get("oldest_ready_seconds"),
            live_clients: row.get("live_clients"),
            leases: row.get("leases"),
        })
    }

    /// How everything stands, and those projects that have the most to do: at most so many.
    pub async fn overview(&self, projects: i64) -> Result<Overview> {
        let client = self.database.client().await?;
        let totals = sql::TOTALS.one(&client, &[]).await?;
        let busiest = sql::BUSIEST.all(&client, &[&projects, &PRIORITIES, &LOOKED_AT]).await?;
        let busy = |row: &Row| Busy {
            project_id: row.get("project_id"),
            counts: row.get::<_, Json<BTreeMap<String, i64>>>("counts").0,
            oldest_ready_seconds: row.get("oldest_ready_seconds"),
        };
        Ok(Overview {
            counts: totals.get::<_, Json<BTreeMap<String, i64>>>("counts").0,
            projects: totals.get("projects"),
            live_clients: totals.get("live_clients"),
            leases: totals.get("leases"),
            busiest: busiest.iter().map(busy).collect(),
        })
    }

    /// Makes few rows of what statements have counted.
    pub async fn compact_counts(&self) -> Result<()> {
        loop {
            let client = self.database.client().await?;
            let row = sql::COMPACT_COUNTS.one(&client, &[&MANY, &COMPACTED]).await?;
            if row.get::<_, i64>("taken") < COMPACTED {
                return Ok(());
            }
        }
    }

    /// Deletes a project with its tasks and jobs.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn delete(&self, id: i64) -> Result<()> {
        let Self { database, bells } = self.clone();
        let work = async move {
            let ringing = bells.ring_unless(id);
            let deleted = database.transaction(&Delete { id }).await;
            ringing.end(&deleted);
            deleted.map(|clients| clients.iter().for_each(|client| bells.ring_for_client(client)))
        };
        Lasting::new(work).await
    }
}

/// Replacing what a project says.
struct Update<'a> {
    id: i64,
    content: &'a Content,
}

impl Work for Update<'_> {
    type Output = Project;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Project> {
        let Self { id, content } = self;
        // Those who add jobs share the row, and there may always be another one.
        graph::LOCK_EXCLUSIVE.maybe(transaction, &[id]).await?;
        let row = sql::UPDATE.maybe(transaction, &[id, &content.name, &content.description, &content.status.as_str()]).await;
        let row = row.map_err(|error| taken(error, content))?;
        row.map(|row| project(&row)).ok_or(Error::NotFound(Thing::Project(*id)))
    }
}

/// A transaction of its own because the cascade may lose a deadlock against a job that is just completing, and is then run again.
struct Delete {
    id: i64,
}

impl Work for Delete {
    /// The clients that ran its jobs.
    type Output = Vec<String>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<String>> {
        // What would become a task, a job or an attempt while the project goes has to wait, and then finds none.
        graph::LOCK_EXCLUSIVE.maybe(transaction, &[&self.id]).await?;
        sql::LOCK.maybe(transaction, &[&self.id]).await?;
        tasks::LOCK_OF_PROJECT.all(transaction, &[&self.id]).await?;
        graph::LOCK_PROJECT_JOBS.one(transaction, &[&self.id]).await?;
        let freed = graph::DETACH_PROJECT.all(transaction, &[&self.id]).await?;
        match sql::DELETE.execute(transaction, &[&self.id]).await? {
            0 => Err(Error::NotFound(Thing::Project(self.id))),
            _ => Ok(freed.iter().map(|row| row.get("client_id")).collect()),
        }
    }
}

fn taken(error: crate::postgres::Error, content: &Content) -> Error {
    Error::on_constraint(error, "projects_name_key", Error::NameTaken(Thing::ProjectNamed(content.name.clone())))
}

fn project(row: &Row) -> Project {
    let status: &str = row.get("status");
    Project {
        id: row.get("id"),
        content: Content {
            name: row.get("name"),
            description: row.get("description"),
            status: status.parse().expect("projects_status_check allows nothing else"),
        },
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}
