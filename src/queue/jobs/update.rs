//! Replacing what a caller decides about a job, as PUT does.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::{
    Change, Job, NewJob, Store, attempts,
    graph::{Locked, Step, lock, propagate, target},
    store, submit,
};
use crate::{
    postgres::{
        Transaction, Work,
        query::{Params, graph as sql, jobs},
        types::Json,
    },
    queue::{Error, Result, Retry, Thing, lasting::Lasting},
};

impl Store {
    /// Replaces what a caller decides about a job; all that follows for other jobs happens in the same transaction.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::OtherProject`], [`Error::UnknownTask`], [`Error::UnknownDependency`], [`Error::Circular`].
    pub async fn update(&self, id: i64, change: Change) -> Result<Job> {
        let project_id = self.project_of(id).await?;
        if change.project_id != project_id {
            return Err(Error::OtherProject(Thing::Job(id), change.project_id));
        }
        let (store, task) = (self.clone(), change.job.task_id);
        let work = async move {
            let ringing = store.bells.ring_anyway(project_id);
            let updated = store.in_steps(|graph| Update { id, change: &change, graph }).await;
            ringing.end(&updated);
            // Also if that failed: it may have been done all the same.
            if let Some(due) = change.job.not_before.filter(|_| change.job.status.is_waiting()) {
                store.alarm.set(due);
            }
            updated.inspect(|(_, client_id)| store.has_room(client_id.as_deref()))
        };
        match Lasting::new(work).await {
            Ok((job, _)) => Ok(job),
            Err(Error::Database(error)) if error.constraint() == Some("jobs_task_fkey") => {
                Err(Error::UnknownTask { project: project_id, task })
            }
            Err(error) => Err(error),
        }
    }
}

/// Changing a job, with the project whose graph is to be locked.
struct Update<'a> {
    id: i64,
    change: &'a Change,
    graph: Option<i64>,
}

impl Work for Update<'_> {
    /// The job, and the client whose attempt ended.
    type Output = Step<(Job, Option<String>)>;
    type Error = Error;

    fn project(&self) -> Option<i64> {
        Some(self.change.project_id)
    }

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Step<(Job, Option<String>)>> {
        let Self { id, change, graph } = *self;
        // Parents before the job, those of now and those to be: whoever completes a parent holds its row and then wants the job's, and
        // would count down for an edge that is gone by then.
        let mut parents = None;
        if let Some(project_id) = graph {
            sql::LOCK_EXCLUSIVE.maybe(transaction, &[&project_id]).await?;
            let mut all = change.job.depends.clone();
            all.extend(edges(transaction, id).await?);
            parents = Some(submit::lock_parents(transaction, project_id, &all).await?);
        }
        let mut locked = match lock(transaction, id, graph).await? {
            Step::Done(job) => job,
            Step::NeedsGraph(project_id) => return Ok(Step::NeedsGraph(project_id)),
        };
        let depends = edges(transaction, id).await?;

        if change.only_status && !is_same(&store::job(&jobs::GET.one(transaction, &[&id]).await?), &change.job) {
            return Err(Error::OnlyStatus);
        }
        let mut asked = change.job.depends.clone();
        asked.sort_unstable();
        if asked != depends {
            let Some(parents) = parents else { return Ok(Step::NeedsGraph(locked.project_id)) };
            let missing = asked.iter().find(|parent| !parents.contains_key(parent)).copied();
            match missing {
                None if change.only_status => return Err(Error::OnlyStatus),
                None => set_parents(transaction, &mut locked, &asked).await?,
                Some(missing) => {
                    // A client reports by sending back the whole job that it read. What the job depended on may have been deleted since,
                    // which is no reason to lose the report.
                    asked.retain(|parent| parents.contains_key(parent));
                    if locked.status.is_waiting() || asked != depends {
                        return Err(Error::UnknownDependency { project: locked.project_id, job: missing });
                    }
                }
            }
        }

        let target = match target(transaction, &locked, change.job.status, graph).await? {
            Step::Done(status) => status,
            Step::NeedsGraph(project_id) => return Ok(Step::NeedsGraph(project_id)),
        };
        let NewJob { name, task_id, parameters, priority, retry, not_before, .. } = &change.job;
        // A time is for what waits.
        let not_before = not_before.filter(|_| target.is_waiting());
        let (status, parameters) = (target.as_str(), Json(&**parameters));
        let Retry { max_attempts, backoff_seconds } = retry;
        let params: Params<'_> = &[&id, name, task_id, &parameters, &status, priority, max_attempts, backoff_seconds, &not_before];
        jobs::UPDATE.execute(transaction, params).await?;
        let mut client_id = None;
        if locked.status.is_live() && target != locked.status {
            client_id = attempts::follow(transaction, &locked, target).await?;
        }
        propagate(transaction, &locked, target).await?;
        Ok(Step::Done((store::job(&jobs::GET.one(transaction, &[&id]).await?), client_id)))
    }
}

/// Whether a job is to stay what it is, but for its status and its dependencies. Parameters are compared by what they mean: who read them and sends them
/// back may write them in another way.
fn is_same(job: &Job, asked: &NewJob) -> bool {
    let is_kept = |is: Option<i32>, asked: Option<i32>| asked.is_none() || asked == is;
    // As much of a time as every client keeps.
    let millis = |time: Option<DateTime<Utc>>| time.map(|time| time.timestamp_millis());
    let means = |text: &RawValue| serde_json::from_str::<serde_json::Value>(text.get()).ok();
    job.name == asked.name
        && job.task_id == asked.task_id
        && job.priority == asked.priority
        && is_kept(job.retry.max_attempts, asked.retry.max_attempts)
        && is_kept(job.retry.backoff_seconds, asked.retry.backoff_seconds)
        && (asked.not_before.is_none() || millis(asked.not_before) == millis(job.not_before) || !asked.status.is_waiting())
        && means(&job.parameters) == means(&asked.parameters)
}

/// What a job depends on, by id.
async fn edges(transaction: &Transaction<'_>, id: i64) -> Result<Vec<i64>> {
    let edges = sql::EDGES.all(transaction, &[&id]).await?;
    let mut depends: Vec<i64> = edges.iter().map(|row| row.get("depends_on")).collect();
    depends.sort_unstable();
    Ok(depends)
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
