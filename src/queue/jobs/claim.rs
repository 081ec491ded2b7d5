//! Taking the next job, as `fetch_job` does: without a client and without waiting.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Job, Store, store};
use crate::{
    postgres::query::{Params, jobs as sql, projects},
    queue::{Error, Result, Thing},
};

/// Where counting stops, so that a claim does not get slower as the queue grows.
pub(super) const COUNT_CAP: i64 = 1000;

/// How long a claim looks again while all jobs that it could have are locked by others: claims that are just being committed, or changes.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a client has for a job. Zero stands for "any": no filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// CPUs.
    pub cpu: i32,
    /// Accelerators.
    pub accelerators: i32,
}

/// What there was to fetch.
#[derive(Debug)]
pub struct Fetched {
    /// The job, now QUEUED.
    pub claimed: Option<Claimed>,
    /// How many jobs this claim could have been given, the claimed one included: 0 exactly if there is none.
    pub num_pending: i64,
    /// How many jobs of the project wait for others.
    pub num_waiting: i64,
    /// Whether counting stopped, so that there may be more than the numbers say.
    pub count_capped: bool,
}

/// A claimed job.
#[derive(Debug)]
pub struct Claimed {
    /// The job.
    pub job: Job,
    /// Its task's name.
    pub task_name: String,
}

impl Store {
    /// Claims the most urgent ready job of a project that fits. The job is QUEUED when this returns, so a caller that cannot pass it on must
    /// give it back ([`super::Handover`]).
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for the project. An archived project has nothing to give.
    pub async fn claim(&self, project_id: i64, resources: Resources) -> Result<Fetched> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let fetched = self.try_claim(project_id, resources).await?;
            if fetched.claimed.is_some() {
                return Ok(fetched);
            }
            if fetched.num_pending == 0 || Instant::now() + pause > deadline {
                self.check_project(project_id).await?;
                return Ok(Fetched { num_pending: 0, count_capped: fetched.num_waiting == COUNT_CAP, ..fetched });
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn try_claim(&self, project_id: i64, resources: Resources) -> Result<Fetched> {
        let is_plenty = self.plenty.is_known((project_id, resources));
        let cap = if is_plenty { 1 } else { COUNT_CAP };
        // Whoever walks past much that is locked, as while a queue is cleared, keeps no other project from the database.
        let client = self.database.client_passing(project_id).await?;
        let (row, claimed) = loop {
            let from = self.beginnings.of(&client, project_id).await?;
            let Resources { cpu, accelerators } = resources;
            let lease_seconds = &self.policy.fetch_lease_seconds;
            let began = Instant::now();
            let row = if from.0.is_empty() {
                sql::CLAIM.one(&client, &[&project_id, &cpu, &accelerators, &cap, &COUNT_CAP, lease_seconds]).await?
            } else {
                let (tasks, ranks, ids) = &from;
                let params: Params<'_> = &[&project_id, &cpu, &accelerators, &cap, &COUNT_CAP, lease_seconds, tasks, ranks, ids];
                sql::CLAIM_FROM.one(&client, params).await?
            };
            let claimed = row.get::<_, Option<i64>>("id").map(|_| Claimed { job: store::job(&row), task_name: row.get("task_name") });
            self.beginnings.note(&client, project_id, &from, began.elapsed(), claimed.as_ref().map(|claimed| &claimed.job)).await;
            if claimed.is_some() || from.0.is_empty() {
                break (row, claimed);
            }
            self.beginnings.forget(project_id);
        };
        drop(client);
        let (counted, num_waiting): (i64, i64) = (row.get("num_pending"), row.get("num_waiting"));
        self.tally.fetched.add(u64::from(claimed.is_some()));
        let num_pending = if is_plenty && claimed.is_some() { COUNT_CAP } else { counted };
        if num_pending == COUNT_CAP {
            self.plenty.look(&self.database, (project_id, resources));
        }
        let count_capped = num_pending == COUNT_CAP || num_waiting == COUNT_CAP;
        Ok(Fetched { claimed, num_pending, num_waiting, count_capped })
    }

    async fn check_project(&self, project_id: i64) -> Result<()> {
        let client = self.database.client().await?;
        let project = projects::GET.maybe(&client, &[&project_id]).await?;
        project.map(drop).ok_or(Error::NotFound(Thing::Project(project_id)))
    }
}
