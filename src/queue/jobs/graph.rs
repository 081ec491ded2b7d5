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
//! the second lock is enough. This is tried first, where nobody holds that; `Step::NeedsGraph` starts it over with the first lock. Where ids do not run
//! down the graph (dependencies given later by PUT) two transactions can meet in a deadlock; PostgreSQL ends one, which is run again.

use super::{Job, Status, Store, store};
use crate::{
    postgres::{
        Transaction, Work,
        query::{graph as sql, jobs},
    },
    queue::{Error, Result, Retry, Thing},
};

/// How a transaction that was to change a job ended.
pub(super) enum Step<T> {
    Done(T),
    /// Nothing was changed: it takes the graph of this project, which must be locked first.
    NeedsGraph(i64),
}

impl<T> Step<T> {
    /// What was done with the graph locked.
    pub(super) fn done(self) -> T {
        match self {
            Self::Done(value) => value,
            Self::NeedsGraph(_) => unreachable!("the graph was locked"),
        }
    }
}

/// A job's row, locked.
pub(super) struct Locked {
    pub(super) id: i64,
    pub(super) project_id: i64,
    pub(super) status: Status,
    pub(super) unmet: i32,
    pub(super) attempt: i32,
    pub(super) failed_attempts: i32,
    pub(super) due: bool,
    /// Its own, or else its task's.
    pub(super) retry: Retry,
}

impl Store {
    /// Runs what `work` makes without a graph, and if that does not do, once more with the project whose graph it is to lock.
    pub(super) async fn in_steps<T: Send, W: Work<Output = Step<T>, Error = Error>>(&self, work: impl Fn(Option<i64>) -> W) -> Result<T> {
        match self.database.transaction(&work(None)).await? {
            Step::Done(value) => Ok(value),
            Step::NeedsGraph(project_id) => Ok(self.database.transaction(&work(Some(project_id))).await?.done()),
        }
    }

    /// The project of a job: known before anything waits for a lock, so that what waits is in the project's lane. A job that was deleted lately may still
    /// have one.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn project_of(&self, id: i64) -> Result<i64> {
        if let Some(project_id) = self.projects.get(&id) {
            return Ok(project_id);
        }
        let client = self.database.client().await?;
        let row = jobs::PROJECT.maybe(&client, &[&id]).await?;
        let project_id = row.map(|row| row.get("project_id")).ok_or(Error::NotFound(Thing::Job(id)))?;
        self.projects.insert(id, project_id);
        Ok(project_id)
    }

    /// Notes whose a job is, which spares [`Store::project_of`] from asking.
    pub(super) fn remember(&self, job: &Job) {
        self.projects.insert(job.id, job.project_id);
    }
}

/// Locks a job: after its project's graph, or else only if nobody holds it. There may always be another one who does, adding jobs below it, but for who takes the
/// graph.
///
/// # Errors
///
/// [`Error::NotFound`].
pub(super) async fn lock(transaction: &Transaction<'_>, id: i64, graph: Option<i64>) -> Result<Step<Locked>> {
    let row = match graph {
        Some(project_id) => {
            sql::LOCK_EXCLUSIVE.maybe(transaction, &[&project_id]).await?;
            jobs::LOCK.maybe(transaction, &[&id]).await?
        }
        None => jobs::TRY_LOCK.maybe(transaction, &[&id]).await?,
    };
    let row = row.ok_or(Error::NotFound(Thing::Job(id)))?;
    if row.get::<_, Option<i64>>("id").is_none() {
        return Ok(Step::NeedsGraph(row.get("project_of")));
    }
    Ok(Step::Done(Locked {
        id,
        project_id: row.get("project_id"),
        status: store::status(&row),
        unmet: row.get("unmet"),
        attempt: row.get("attempt"),
        failed_attempts: row.get("failed_attempts"),
        due: row.get("due"),
        retry: Retry { max_attempts: row.get("max_attempts"), backoff_seconds: row.get("backoff_seconds") },
    }))
}

/// The status that a job gets when `asked` is wanted, or that the graph must be locked to tell or to set it.
pub(super) async fn target(transaction: &Transaction<'_>, locked: &Locked, asked: Status, graph: Option<i64>) -> Result<Step<Status>> {
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

/// Adds to the number of unmet dependencies of all jobs below one, whose row is locked.
///
/// Most jobs have none below, which is asked first: with every statement that changes jobs, if only none, they are counted.
pub(super) async fn adjust_children(transaction: &Transaction<'_>, id: i64, by: i32) -> Result<()> {
    if sql::HAS_CHILDREN.one(transaction, &[&id]).await?.get("children") {
        sql::ADJUST_CHILDREN.execute(transaction, &[&id, &by]).await?;
    }
    Ok(())
}

/// Does to the jobs below what follows from a job's new status, which is set already.
pub(super) async fn propagate(transaction: &Transaction<'_>, was: &Locked, is: Status) -> Result<()> {
    let completed = |status| i32::from(status == Status::Completed);
    let fewer = completed(is) - completed(was.status);
    if fewer != 0 {
        adjust_children(transaction, was.id, -fewer).await?;
    }
    match (was.status.is_dead(), is.is_dead()) {
        (false, true) => drop(sql::BLOCK_DESCENDANTS.execute(transaction, &[&was.id]).await?),
        (true, false) => drop(sql::UNBLOCK.execute(transaction, &[&vec![was.id]]).await?),
        _ => {}
    }
    Ok(())
}
