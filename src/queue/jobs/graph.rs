//! What waits for what: changing and deleting jobs without ever leaving a count or a BLOCKED that is not true.
//!
//! # What is true after every transaction
//!
//! - `unmet` of a job is the number of its parents that are not COMPLETED, whatever the job's own status.
//! - A job that has not been started is BLOCKED if one of its parents is dead (FAILED, CANCELLED or BLOCKED), otherwise PENDING. Asking for
//!   either word therefore means "wait (again)"; which of the two it is follows from the parents.
//! - An edge leads from a job to another job of the same project, and there is no way round in a circle.
//!
//! # How, without reading the graph
//!
//! Two locks order everything, always in this order:
//!
//! 1. The **project's row**: shared by transactions that add jobs below others, exclusive for those that change edges, block, unblock
//!    or delete. Claims, and most reports, do without it.
//! 2. **Jobs' rows**, by id. Who adds an edge holds the parent's row, so a parent cannot complete between being looked at and being
//!    waited for; who completes a parent counts down its children in a later statement, which sees every edge committed before.
//!
//! A change *stays local* if it moves a job among PENDING-and-ready, QUEUED, RUNNING and COMPLETED, or if nothing depends on the job: then
//! the second lock is enough. This is tried first; `Step::NeedsGraph` starts it over with the first lock. Where ids do not run
//! down the graph (dependencies given later by PUT) two transactions can meet in a deadlock; PostgreSQL ends one, which is run again.

use serde_json::value::RawValue;

use super::{Change, Job, NewJob, Status, Store, store, submit};
use crate::{
    postgres::{
        Row, Transaction, Work,
        query::{graph as sql, jobs},
        types::Json,
    },
    queue::{Error, Result, Thing},
};

/// How an attempt to change a job ended.
enum Step<T> {
    Done(T),
    /// Nothing was changed: it takes the graph of this project, which must be locked first.
    NeedsGraph(i64),
}

/// A job's row, locked.
struct Locked {
    id: i64,
    project_id: i64,
    status: Status,
    unmet: i32,
    attempt: i32,
    depends: Vec<i64>,
}

impl Store {
    /// Replaces what a caller decides about a job; all that follows for other jobs happens in the same transaction.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::OtherProject`], [`Error::UnknownTask`], [`Error::UnknownDependency`], [`Error::Circular`].
    pub async fn update(&self, id: i64, change: &Change) -> Result<Job> {
        let project_id = self.project_of(id).await?;
        if change.project_id != project_id {
            return Err(Error::OtherProject(Thing::Job(id), change.project_id));
        }
        let work = |graph| Update { id, change, graph };
        let updated = match self.database.transaction(&work(None)).await {
            Ok(Step::NeedsGraph(project_id)) => self.database.transaction(&work(Some(project_id))).await,
            updated => updated,
        };
        match updated {
            Ok(Step::Done(job)) => Ok(job),
            Ok(Step::NeedsGraph(_)) => unreachable!("the graph was locked"),
            Err(Error::Database(error)) if error.constraint() == Some("jobs_task_fkey") => {
                Err(Error::UnknownTask { project: change.project_id, task: change.job.task_id })
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a job that was claimed, but not received by anybody, wait again. Does nothing if it has been claimed again, started, changed or
    /// deleted since. Returns whether it did.
    pub async fn put_back(&self, id: i64, attempt: i32) -> Result<bool> {
        let project_id = match self.project_of(id).await {
            Err(Error::NotFound(_)) => return Ok(false),
            project_id => project_id?,
        };
        let work = |graph| PutBack { id, project_id, attempt, graph };
        let step = match self.database.transaction(&work(None)).await? {
            Step::NeedsGraph(project_id) => self.database.transaction(&work(Some(project_id))).await?,
            step => step,
        };
        match step {
            Step::Done(done) => Ok(done),
            Step::NeedsGraph(_) => unreachable!("the graph was locked"),
        }
    }

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
        self.database.transaction(&Delete { id, project_id: owner }).await
    }

    /// The project of a job: known before anything waits for a lock, so that what waits is in the project's lane.
    async fn project_of(&self, id: i64) -> Result<i64> {
        let client = self.database.client().await?;
        let row = jobs::PROJECT.maybe(&client, &[&id]).await?;
        row.map(|row| row.get("project_id")).ok_or(Error::NotFound(Thing::Job(id)))
    }

    /// Deletes a project's pending jobs, and the blocked ones that wait for one of them, so that nothing waits for what is gone. Returns
    /// how many were deleted.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn clear(&self, project_id: i64) -> Result<i64> {
        let deleted = self.database.transaction(&Clear { project_id }).await;
        self.plenty.forget(project_id);
        deleted
    }
}

/// Changing a job, with the project whose graph is to be locked.
struct Update<'a> {
    id: i64,
    change: &'a Change,
    graph: Option<i64>,
}

impl Work for Update<'_> {
    type Output = Step<Job>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.change.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Step<Job>> {
        let Self { id, change, graph } = *self;
        // Parents before the job, those of now and those to be: whoever completes a parent holds its row and then wants the job's, and
        // would count down for an edge that is gone by then.
        let mut parents = None;
        if let Some(project_id) = graph {
            sql::LOCK_EXCLUSIVE.maybe(transaction, &[&project_id]).await?;
            let current = sql::EDGES.all(transaction, &[&id]).await?;
            let mut all = change.job.depends.clone();
            all.extend(current.iter().map(|row| row.get::<_, i64>("depends_on")));
            parents = Some(submit::lock_parents(transaction, project_id, &all).await?);
        }
        let mut locked = lock(transaction, id).await?;

        if change.only_status && !is_same(&store::job(&jobs::GET.one(transaction, &[&id]).await?), &change.job) {
            return Err(Error::OnlyStatus);
        }
        let mut asked = change.job.depends.clone();
        asked.sort_unstable();
        if asked != locked.depends {
            let Some(parents) = parents else { return Ok(Step::NeedsGraph(locked.project_id)) };
            let missing = asked.iter().find(|parent| !parents.contains_key(parent)).copied();
            match missing {
                None if change.only_status => return Err(Error::OnlyStatus),
                None => set_parents(transaction, &mut locked, &asked).await?,
                Some(missing) => {
                    // A client reports by sending back the whole job that it read. What the job depended on may have been deleted since,
                    // which is no reason to lose the report.
                    asked.retain(|parent| parents.contains_key(parent));
                    if locked.status.is_waiting() || asked != locked.depends {
                        return Err(Error::UnknownDependency { project: locked.project_id, job: missing });
                    }
                }
            }
        }

        let target = match target(transaction, &locked, change.job.status, graph).await? {
            Step::Done(status) => status,
            Step::NeedsGraph(project_id) => return Ok(Step::NeedsGraph(project_id)),
        };
        let NewJob { name, task_id, parameters, priority, .. } = &change.job;
        jobs::UPDATE.execute(transaction, &[&id, name, task_id, &Json(&**parameters), &target.as_str(), priority]).await?;
        propagate(transaction, &locked, target).await?;
        Ok(Step::Done(store::job(&jobs::GET.one(transaction, &[&id]).await?)))
    }
}

/// Putting a job back, with the project whose graph is to be locked.
struct PutBack {
    id: i64,
    project_id: i64,
    attempt: i32,
    graph: Option<i64>,
}

impl Work for PutBack {
    type Output = Step<bool>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Step<bool>> {
        let Self { id, attempt, graph, .. } = *self;
        if let Some(project_id) = graph {
            sql::LOCK_EXCLUSIVE.maybe(transaction, &[&project_id]).await?;
        }
        let locked = match lock(transaction, id).await {
            Err(Error::NotFound(_)) => return Ok(Step::Done(false)),
            locked => locked?,
        };
        if locked.status != Status::Queued || locked.attempt != attempt {
            return Ok(Step::Done(false));
        }
        let target = match target(transaction, &locked, Status::Pending, graph).await? {
            Step::Done(status) => status,
            Step::NeedsGraph(project_id) => return Ok(Step::NeedsGraph(project_id)),
        };
        jobs::SET_STATUS.execute(transaction, &[&id, &target.as_str()]).await?;
        propagate(transaction, &locked, target).await?;
        Ok(Step::Done(true))
    }
}

/// Deleting a job.
struct Delete {
    id: i64,
    project_id: i64,
}

impl Work for Delete {
    type Output = ();
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<()> {
        let Self { id, project_id } = self;
        sql::LOCK_EXCLUSIVE.maybe(transaction, &[project_id]).await?;
        lock(transaction, *id).await?;
        if let Some(child) = sql::WAITING_CHILD.maybe(transaction, &[id]).await? {
            return Err(Error::Waited { for_what: format!("job {id}"), waiting: child.get("id"), name: child.get("name") });
        }
        sql::DETACH_JOB.execute(transaction, &[id]).await?;
        jobs::DELETE.execute(transaction, &[id]).await?;
        Ok(())
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

/// Whether a job is to stay what it is, but for its status and its dependencies. Parameters are compared by what they mean: who read them and sends them
/// back may write them in another way.
fn is_same(job: &Job, asked: &NewJob) -> bool {
    let means = |text: &RawValue| serde_json::from_str::<serde_json::Value>(text.get()).ok();
    job.name == asked.name
        && job.task_id == asked.task_id
        && job.priority == asked.priority
        && means(&job.parameters) == means(&asked.parameters)
}

async fn lock(transaction: &Transaction<'_>, id: i64) -> Result<Locked> {
    let row: Row = jobs::LOCK.maybe(transaction, &[&id]).await?.ok_or(Error::NotFound(Thing::Job(id)))?;
    let edges = sql::EDGES.all(transaction, &[&id]).await?;
    let mut depends: Vec<i64> = edges.iter().map(|row| row.get("depends_on")).collect();
    depends.sort_unstable();
    Ok(Locked {
        id,
        project_id: row.get("project_id"),
        status: store::status(&row),
        unmet: row.get("unmet"),
        attempt: row.get("attempt"),
        depends,
    })
}

/// Gives a job other parents. The project's row and the new parents are locked.
async fn set_parents(transaction: &Transaction<'_>, locked: &mut Locked, parents: &[i64]) -> Result<()> {
    let id = locked.id;
    if sql::IS_ANCESTOR.one(transaction, &[&id, &parents]).await?.get("circular") {
        return Err(Error::Circular(id));
    }
    sql::REMOVE_EDGES.execute(transaction, &[&id]).await?;
    submit::add_edges(transaction, locked.project_id, &vec![id; parents.len()], parents).await?;
    locked.unmet = sql::SET_UNMET.one(transaction, &[&id]).await?.get("unmet");
    Ok(())
}

/// The status that a job gets when `asked` is wanted, or that the graph must be locked to tell or to set it.
async fn target(transaction: &Transaction<'_>, locked: &Locked, asked: Status, graph: Option<i64>) -> Result<Step<Status>> {
    if graph.is_some() {
        let blocked = asked.is_waiting() && sql::HAS_DEAD_PARENT.one(transaction, &[&locked.id]).await?.get("dead");
        return Ok(Step::Done(waiting(asked, blocked)));
    }
    let target = match asked.is_waiting() {
        true if locked.status.is_waiting() => locked.status,
        // Parents are read only where one may be dead, and then the graph must stand still.
        true if locked.unmet > 0 => return Ok(Step::NeedsGraph(locked.project_id)),
        _ => waiting(asked, false),
    };
    let stays_local = target == locked.status
        || (is_local(locked.status, locked.unmet) && is_local(target, locked.unmet))
        || !sql::HAS_CHILDREN.one(transaction, &[&locked.id]).await?.get::<_, bool>("children");
    Ok(if stays_local { Step::Done(target) } else { Step::NeedsGraph(locked.project_id) })
}

fn waiting(asked: Status, blocked: bool) -> Status {
    match (asked.is_waiting(), blocked) {
        (true, true) => Status::Blocked,
        (true, false) => Status::Pending,
        (false, _) => asked,
    }
}

/// Whether moving among statuses like this one is nothing to the jobs below but a count.
fn is_local(status: Status, unmet: i32) -> bool {
    match status {
        Status::Queued | Status::Running | Status::Completed => true,
        Status::Pending => unmet == 0,
        Status::Failed | Status::Blocked | Status::Cancelled => false,
    }
}

/// Does to the jobs below what follows from a job's new status, which is set already.
async fn propagate(transaction: &Transaction<'_>, was: &Locked, is: Status) -> Result<()> {
    let completed = |status| i32::from(status == Status::Completed);
    let fewer = completed(is) - completed(was.status);
    if fewer != 0 {
        sql::ADJUST_CHILDREN.execute(transaction, &[&was.id, &-fewer]).await?;
    }
    match (was.status.is_dead(), is.is_dead()) {
        (false, true) => drop(sql::BLOCK_DESCENDANTS.execute(transaction, &[&was.id]).await?),
        (true, false) => drop(sql::UNBLOCK_DESCENDANTS.execute(transaction, &[&was.id]).await?),
        _ => {}
    }
    Ok(())
}
