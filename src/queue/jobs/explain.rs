//! Why a job does not run.

use chrono::{DateTime, Utc};

use super::{Attempt, Parent, Resources, Status, Store, store};
use crate::{
    postgres::query::{claims, jobs as sql},
    queue::{Error, Result, Thing},
};

/// Where counting what comes before a job stops.
const CAP: i64 = 1000;

/// From how many clients on that a job fits it is not asked whether all of them are busy.
const MANY_CLIENTS: i64 = 100;

/// What decides when a job is given out.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The job.
    pub job_id: i64,
    /// Where it stands.
    pub status: Status,
    /// What it waits for.
    pub waits_for: Vec<Wait>,
    /// How many ready jobs of its project are more urgent, if it is ready itself; at most 1000 are counted.
    pub ahead: Option<i64>,
    /// How many clients are alive and have what it needs, if it is ready and none of them has it left now.
    pub busy: Option<i64>,
    /// Who has it, if somebody does.
    pub attempt: Option<Attempt>,
    /// The attempt after which it was given up, if it failed.
    pub failed: Option<Attempt>,
}

/// Something that a job waits for.
#[derive(Debug, Clone)]
pub enum Wait {
    /// Jobs that are not completed.
    Jobs(Vec<Parent>),
    /// A time.
    Time(DateTime<Utc>),
    /// Its project is archived.
    Archived,
    /// A client that is alive and has this; there are so many that are alive and have not.
    Client(Resources, i64),
}

impl Store {
    /// Tells what a job waits for.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn explain(&self, id: i64) -> Result<Explanation> {
        let client = self.database.client().await?;
        let row = sql::EXPLAIN.maybe(&client, &[&id, &CAP]).await?.ok_or(Error::NotFound(Thing::Job(id)))?;
        drop(client);
        let (status, number) = (store::status(&row), row.get("attempt"));
        let needs = Resources { cpu: row.get("required_cpu"), accelerators: row.get("required_accelerators") };
        let mut waits_for = Vec::new();
        if status.is_waiting() {
            if row.get::<_, i32>("unmet") > 0 {
                let parents = self.dependencies(id).await?.parents;
                waits_for.push(Wait::Jobs(parents.into_iter().filter(|parent| parent.status != Status::Completed).collect()));
            }
            if let Some(time) = row.get::<_, Option<DateTime<Utc>>>("not_before").filter(|_| !row.get::<_, bool>("due")) {
                waits_for.push(Wait::Time(time));
            }
            if row.get::<_, &str>("project_status") != "ACTIVE" {
                waits_for.push(Wait::Archived);
            }
            if !row.get::<_, bool>("fits") {
                waits_for.push(Wait::Client(needs, row.get("live_clients")));
            }
        }
        let busy = if row.get("ready") && waits_for.is_empty() { self.busy(needs).await? } else { None };
        let last = match status.is_live() || status == Status::Failed {
            true => self.last(id, number).await?,
            false => None,
        };
        let (failed, attempt) = if status.is_live() { (None, last) } else { (last, None) };
        // Somebody may have set it to FAILED since.
        let failed = failed.filter(|attempt| attempt.job_status == Some(Status::Failed));
        Ok(Explanation { job_id: id, status, waits_for, ahead: row.get("ahead"), busy, attempt, failed })
    }

    async fn last(&self, id: i64, number: i32) -> Result<Option<Attempt>> {
        match self.attempt(id, number).await {
            Err(Error::NotFound(_)) => Ok(None),
            attempt => attempt.map(Some),
        }
    }

    /// How many clients are alive and have this, if they are few enough to ask, and none of them has it left.
    async fn busy(&self, needs: Resources) -> Result<Option<i64>> {
        let client = self.database.client().await?;
        let row = claims::BUSY.one(&client, &[&needs.cpu, &needs.accelerators, &MANY_CLIENTS]).await?;
        let fitting: i64 = row.get("fitting");
        Ok((!row.get::<_, bool>("has_room") && (1..MANY_CLIENTS).contains(&fitting)).then_some(fitting))
    }
}
