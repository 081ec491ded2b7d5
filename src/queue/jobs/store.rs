//! Reading jobs.

use std::sync::Arc;

use quick_cache::sync::Cache;
use serde_json::value::RawValue;

use super::{
    Dependencies, Filter, Job, Parent, Status,
    alarm::Alarm,
    attempts::{Completions, Starts},
    begin::Beginnings,
    group::Groups,
    plenty::Plenty,
    submit::Creations,
    tally::{self, Tally},
};
use crate::{
    postgres::{
        Database, Row,
        query::jobs as sql,
        types::{Json, ToSql},
    },
    queue::{Bells, Error, Listing, Page, Policy, Result, Retry, Thing, no_number},
};

/// The jobs.
#[derive(Clone)]
pub struct Store {
    pub(super) database: Database,
    pub(super) policy: Policy,
    pub(super) plenty: Plenty,
    pub(super) beginnings: Beginnings,
    pub(super) bells: Bells,
    pub(super) alarm: Arc<Alarm>,
    /// Of jobs by id, which never changes.
    pub(super) projects: Arc<Cache<i64, i64>>,
    pub(super) tally: Arc<Tally>,
    pub(super) creations: Groups<Creations>,
    pub(super) starts: Groups<Starts>,
    pub(super) completions: Groups<Completions>,
}

/// Of how many jobs it is remembered whose they are.
const REMEMBERED: usize = 20_000;

impl Store {
    /// The jobs of this database, with what holds where neither a job nor its task says another thing.
    /// The bells are rung when there may be something to claim.
    pub fn new(database: Database, policy: Policy, bells: Bells) -> Self {
        let projects = Arc::new(Cache::new(REMEMBERED));
        let (plenty, beginnings) = (Plenty::default(), Beginnings::default());
        let (alarm, tally) = (Arc::<Alarm>::default(), Arc::<Tally>::default());
        let creations = Groups::new(Creations { database: database.clone(), bells: bells.clone(), alarm: alarm.clone() });
        let starts = Groups::new(Starts(database.clone()));
        let completions = Groups::new(Completions { database: database.clone(), bells: bells.clone(), tally: tally.clone() });
        Self { database, policy, plenty, beginnings, bells, alarm, projects, tally, creations, starts, completions }
    }

    /// What is rung when there may be something to claim.
    pub fn bells(&self) -> &Bells {
        &self.bells
    }

    /// What became of jobs on this server since its start.
    pub fn stats(&self) -> tally::Stats {
        self.tally.get()
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn get(&self, id: i64) -> Result<Job> {
        let client = self.database.client().await?;
        let row = sql::GET.maybe(&client, &[&id]).await?;
        row.map(|row| job(&row)).ok_or(Error::NotFound(Thing::Job(id)))
    }

    /// A page of all jobs, or of those that the filter lets through.
    pub async fn list(&self, filter: Filter, page: Page<i64>) -> Result<Listing<Job>> {
        let client = self.database.client().await?;
        let status = filter.status.map(Status::as_str);
        let Page { after, skip, limit } = page;
        let Filter { task_id, project_id, visible, .. } = filter;
        let (list, params): (_, &[&(dyn ToSql + Sync)]) = match (&task_id, &project_id) {
            (Some(task), project) => (sql::LIST_BY_TASK, &[&status, &after, &skip, &limit, task, project, &visible]),
            (None, Some(project)) => (sql::LIST_BY_PROJECT, &[&status, &after, &skip, &limit, project]),
            (None, None) => (sql::LIST, &[&status, &after, &skip, &limit, &visible]),
        };
        Ok(Listing::read(list, &client, params, job, no_number).await?)
    }

    /// A job with what it depends on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn dependencies(&self, id: i64) -> Result<Dependencies> {
        let client = self.database.client().await?;
        let row = sql::GET.maybe(&client, &[&id]).await?.ok_or(Error::NotFound(Thing::Job(id)))?;
        let parents = sql::PARENTS.all(&client, &[&id]).await?;
        let parent = |row: &Row| Parent { id: row.get("id"), name: row.get("name"), status: status(row) };
        Ok(Dependencies { job: job(&row), parents: parents.iter().map(parent).collect() })
    }
}

pub(super) fn job(row: &Row) -> Job {
    Job {
        id: row.get("id"),
        name: row.get("name"),
        project_id: row.get("project_id"),
        task_id: row.get("task_id"),
        parameters: row.get::<_, Json<Box<RawValue>>>("parameters").0,
        status: status(row),
        priority: row.get("priority"),
        attempt: row.get("attempt"),
        retry: Retry { max_attempts: row.get("max_attempts"), backoff_seconds: row.get("backoff_seconds") },
        not_before: row.get("not_before"),
        depends: row.get::<_, Json<Box<RawValue>>>("depends").0,
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}

pub(super) fn status(row: &Row) -> Status {
    let status: &str = row.get("status");
    status.parse().expect("jobs_status_check allows nothing else")
}
