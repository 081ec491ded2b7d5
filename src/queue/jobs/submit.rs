//! Adding jobs.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::{Answer, Job, NewJob, Once, Status, Store, Submitted, alarm::Alarm, group::Changes, once::OnceOnly, store};
use crate::{
    postgres::{
        Database, Executor, Row, Transaction, Work,
        query::{Params, graph, jobs as sql, projects, tasks},
        types::Json,
    },
    queue::{Bells, Error, Result},
};

impl Store {
    /// Adds jobs to a project, all or none, and returns their ids in the same order. With `once`, what `render` makes of them is answered again if the
    /// same request comes again.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownProject`], [`Error::UnknownTask`], [`Error::UnknownDependency`]; [`Error::InFlight`], [`Error::OtherRequest`].
    pub async fn submit(
        &self,
        project_id: i64,
        jobs: &[NewJob],
        once: Option<&Once>,
        render: impl Fn(&Vec<i64>) -> Answer + Sync,
    ) -> Result<Submitted<Vec<i64>>> {
        self.add(project_id, jobs, OnceOnly { work: Insert { project_id, jobs }, once, render }).await
    }

    /// Adds a job and returns it as it was added, whatever becomes of it in the next moment.
    ///
    /// # Errors
    ///
    /// As [`Store::submit`].
    pub async fn create(
        &self,
        project_id: i64,
        job: NewJob,
        once: Option<&Once>,
        render: impl Fn(&Job) -> Answer + Sync,
    ) -> Result<Submitted<Job>> {
        let job = Arc::new(job);
        let jobs = std::slice::from_ref(&*job);
        if once.is_none() && job.depends.is_empty() {
            let created = self.creations.make(project_id, job.clone()).await;
            let created = self.explained(created, project_id, jobs).await?;
            return Ok(Submitted::Now(created.expect(ADDED)));
        }
        self.add(project_id, jobs, OnceOnly { work: Create { project_id, job: &job }, once, render }).await
    }

    async fn add<W: Work<Error = Error>>(&self, project_id: i64, jobs: &[NewJob], work: W) -> Result<W::Output> {
        let ringing = self.bells.ring_after(project_id);
        let added = self.database.transaction(&work).await;
        ringing.end(&added);
        if added.is_err() && jobs.iter().any(|job| !job.depends.is_empty()) {
            // What they were to depend on was held, and passed over by whoever claimed meanwhile.
            self.bells.ring(project_id);
        }
        if let Some(due) = jobs.iter().filter_map(|job| job.not_before).min() {
            self.alarm.set(due);
        }
        self.explained(added, project_id, jobs).await
    }

    /// A constraint says only that a task is not the project's; which one, and whether it is the project that is missing, is asked then.
    async fn explained<T>(&self, added: Result<T>, project_id: i64, jobs: &[NewJob]) -> Result<T> {
        match added {
            Err(Error::Database(error)) if error.constraint() == Some("jobs_task_fkey") => {
                Err(self.what_is_missing(project_id, jobs).await?)
            }
            added => added,
        }
    }

    async fn what_is_missing(&self, project_id: i64, jobs: &[NewJob]) -> Result<Error> {
        let client = self.database.client().await?;
        if projects::GET.maybe(&client, &[&project_id]).await?.is_none() {
            return Ok(Error::UnknownProject(project_id));
        }
        let wanted: Vec<i64> = jobs.iter().map(|job| job.task_id).collect();
        let foreign = tasks::FOREIGN.maybe(&client, &[&project_id, &wanted]).await?;
        // It may have been deleted just before and made anew since: then the first task is as good an answer as any.
        let task = foreign.map_or_else(|| wanted.first().copied().unwrap_or_default(), |row| row.get("id"));
        Ok(Error::UnknownTask { project: project_id, task })
    }
}

/// A job with the place in the graph that its parents give it.
struct Placed<'a> {
    job: &'a NewJob,
    status: Status,
    unmet: i32,
}

/// Where a job stands that waits for nothing.
fn free(asked: Status) -> Status {
    if asked.is_waiting() { Status::Pending } else { asked }
}

/// Adding a job and reading it before anybody else can.
struct Create<'a> {
    project_id: i64,
    job: &'a NewJob,
}

impl Work for Create<'_> {
    type Output = Job;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Job> {
        if self.job.depends.is_empty() {
            let created = create(transaction, self.project_id, &[self.job], true).await?.pop().flatten();
            return Ok(created.expect(ADDED));
        }
        let ids = Insert { project_id: self.project_id, jobs: std::slice::from_ref(self.job) }.run(transaction).await?;
        Ok(store::job(&sql::GET.one(transaction, &[&ids[0]]).await?))
    }
}

const ADDED: &str = "a job that is not added, and not passed over, is an error";

/// Single jobs that depend on nothing.
pub(super) struct Creations {
    pub(super) database: Database,
    pub(super) bells: Bells,
    pub(super) alarm: Arc<Alarm>,
}

impl Changes for Creations {
    type Change = Arc<NewJob>;
    type Outcome = Job;

    fn bytes(job: &Arc<NewJob>) -> usize {
        job.name.len() + job.parameters.get().len()
    }

    async fn make(&self, project_id: i64, jobs: &[&Arc<NewJob>]) -> Result<Vec<Option<Job>>> {
        let jobs: Vec<&NewJob> = jobs.iter().map(|job| &***job).collect();
        self.create(project_id, &jobs, false).await
    }

    async fn make_alone(&self, project_id: i64, job: &Arc<NewJob>) -> Result<Option<Job>> {
        Ok(self.create(project_id, &[job], true).await?.pop().flatten())
    }

    fn follow(&self, _: i64, _: &Arc<NewJob>, job: &Job) {
        if let Some(due) = job.not_before {
            self.alarm.set(due);
        }
    }
}

impl Creations {
    async fn create(&self, project_id: i64, jobs: &[&NewJob], waits: bool) -> Result<Vec<Option<Job>>> {
        // One statement is its own transaction.
        let client = self.database.client_for(project_id).await?;
        let ringing = self.bells.ring_after(project_id);
        let created = create(&client, project_id, jobs, waits).await;
        ringing.end(&created);
        if created.is_err() {
            // They may have been added all the same.
            jobs.iter().filter_map(|job| job.not_before).for_each(|due| self.alarm.set(due));
        }
        created
    }
}

/// Adds jobs that depend on nothing. Those whose task somebody holds, or that have none, are passed over, or else waited for, or an error.
async fn create(executor: &impl Executor, project_id: i64, jobs: &[&NewJob], waits: bool) -> Result<Vec<Option<Job>>> {
    let placed: Vec<_> = jobs.iter().map(|job| Placed { job, status: free(job.status), unmet: 0 }).collect();
    let Columns { names, tasks, parameters, statuses, priorities, most, backoff, not_before, .. } = columns(&placed);
    let params: Params<'_> = &[&project_id, &names, &tasks, &parameters, &statuses, &priorities, &most, &backoff, &not_before, &waits];
    let mut created: Vec<Option<Job>> = jobs.iter().map(|_| None).collect();
    for row in sql::CREATE.all(executor, params).await? {
        // Places begin at 1.
        if let Some(place) = usize::try_from(row.get::<_, i64>("position")).ok().and_then(|place| created.get_mut(place - 1)) {
            *place = Some(store::job(&row));
        }
    }
    Ok(created)
}

/// Adding jobs.
struct Insert<'a> {
    project_id: i64,
    jobs: &'a [NewJob],
}

impl Work for Insert<'_> {
    type Output = Vec<i64>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Vec<i64>> {
        if self.jobs.is_empty() {
            // No constraint asks whether there is such a project.
            let project = projects::GET.maybe(transaction, &[&self.project_id]).await?;
            return project.map(|_| Vec::new()).ok_or(Error::UnknownProject(self.project_id));
        }
        match self.jobs.iter().all(|job| job.depends.is_empty()) {
            true => self.free(transaction).await,
            false => self.below_others(transaction).await,
        }
    }
}

impl Insert<'_> {
    /// Adds jobs that depend on nothing.
    async fn free(&self, transaction: &Transaction<'_>) -> Result<Vec<i64>> {
        let placed: Vec<_> = self.jobs.iter().map(|job| Placed { job, status: free(job.status), unmet: 0 }).collect();
        insert(transaction, self.project_id, &placed).await
    }

    /// Adds jobs of which some depend on others.
    async fn below_others(&self, transaction: &Transaction<'_>) -> Result<Vec<i64>> {
        let Self { project_id, jobs } = *self;
        graph::LOCK_SHARED.maybe(transaction, &[&project_id]).await?.ok_or(Error::UnknownProject(project_id))?;
        let wanted: BTreeSet<i64> = jobs.iter().flat_map(|job| job.depends.iter().copied()).collect();
        let parents = lock_parents(transaction, project_id, &Vec::from_iter(wanted.iter().copied())).await?;
        if let Some(missing) = wanted.iter().find(|id| !parents.contains_key(id)) {
            return Err(Error::UnknownDependency { project: project_id, job: *missing });
        }
        let placed: Vec<_> = jobs.iter().map(|job| place(job, &parents)).collect();
        let ids = insert(transaction, project_id, &placed).await?;
        let (mut children, mut above) = (Vec::new(), Vec::new());
        for (id, job) in ids.iter().zip(jobs) {
            children.extend(job.depends.iter().map(|_| *id));
            above.extend_from_slice(&job.depends);
        }
        add_edges(transaction, project_id, &children, &above).await?;
        Ok(ids)
    }
}

fn place<'a>(job: &'a NewJob, parents: &HashMap<i64, Status>) -> Placed<'a> {
    let unmet = job.depends.iter().filter(|parent| parents[parent] != Status::Completed).count();
    let blocked = job.depends.iter().any(|parent| parents[parent].is_dead());
    let status = if job.status.is_waiting() && blocked { Status::Blocked } else { free(job.status) };
    Placed { job, status, unmet: i32::try_from(unmet).expect("a request cannot hold two thousand million dependencies") }
}

/// Jobs as statements take them: one array element a job.
struct Columns<'a> {
    names: Vec<&'a str>,
    tasks: Vec<i64>,
    parameters: Vec<Json<&'a RawValue>>,
    statuses: Vec<&'static str>,
    priorities: Vec<i32>,
    unmet: Vec<i32>,
    most: Vec<Option<i32>>,
    backoff: Vec<Option<i32>>,
    not_before: Vec<Option<DateTime<Utc>>>,
}

fn columns<'a>(placed: &[Placed<'a>]) -> Columns<'a> {
    Columns {
        names: placed.iter().map(|placed| placed.job.name.as_str()).collect(),
        tasks: placed.iter().map(|placed| placed.job.task_id).collect(),
        parameters: placed.iter().map(|placed| Json(&*placed.job.parameters)).collect(),
        statuses: placed.iter().map(|placed| placed.status.as_str()).collect(),
        priorities: placed.iter().map(|placed| placed.job.priority).collect(),
        unmet: placed.iter().map(|placed| placed.unmet).collect(),
        most: placed.iter().map(|placed| placed.job.retry.max_attempts).collect(),
        backoff: placed.iter().map(|placed| placed.job.retry.backoff_seconds).collect(),
        not_before: placed.iter().map(|placed| placed.job.not_before).collect(),
    }
}

async fn insert(transaction: &Transaction<'_>, project_id: i64, placed: &[Placed<'_>]) -> Result<Vec<i64>> {
    let Columns { names, tasks, parameters, statuses, priorities, unmet, most, backoff, not_before } = columns(placed);
    let params: Params<'_> = &[&project_id, &names, &tasks, &parameters, &statuses, &priorities, &unmet, &most, &backoff, &not_before];
    Ok(sql::INSERT.one(transaction, params).await?.get("ids"))
}

/// Locks jobs that others are to depend on, so that they cannot complete unseen, and tells their statuses. Those that the project does
/// not have are missing in the answer.
pub(super) async fn lock_parents(transaction: &Transaction<'_>, project_id: i64, ids: &[i64]) -> Result<HashMap<i64, Status>> {
    let rows = graph::LOCK_PARENTS.all(transaction, &[&project_id, &ids]).await?;
    Ok(rows.iter().map(|row: &Row| (row.get("id"), store::status(row))).collect())
}

/// Adds edges: each of `children` depends on the parent at the same place.
pub(super) async fn add_edges(transaction: &Transaction<'_>, project_id: i64, children: &[i64], parents: &[i64]) -> Result<()> {
    graph::ADD_EDGES.execute(transaction, &[&project_id, &children, &parents]).await?;
    Ok(())
}
