//! What time brings: leases that end, and jobs that become due. Every server does it, none leads; what one has locked the others pass over.

use super::Store;
use crate::{
    postgres::query::{Params, attempts, jobs, schema},
    queue::{Result, retry::LONGEST_BACKOFF_SECONDS},
};

/// How many jobs one statement touches.
const BATCH: usize = 500;

/// What a sweep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many jobs became due.
    pub due: usize,
    /// How many leases had ended.
    pub expired: usize,
    /// The projects in which there is something to claim again.
    pub projects: Vec<i64>,
}

impl Store {
    /// Takes jobs from clients whose leases have ended.
    pub async fn sweep_leases(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        self.give_back(&mut swept).await?;
        self.expire_all(&mut swept).await?;
        self.ring(&mut swept.projects);
        Ok(swept)
    }

    /// Makes jobs ready whose time has come. Returns in how many seconds the next one is due, if any will be.
    pub async fn sweep_due(&self) -> Result<Option<f64>> {
        let mut swept = Swept::default();
        self.make_due(&mut swept).await?;
        self.ring(&mut swept.projects);
        self.next_due().await
    }

    fn ring(&self, projects: &mut Vec<i64>) {
        projects.sort_unstable();
        projects.dedup();
        for project_id in projects {
            self.bells.ring(*project_id);
        }
    }

    /// Forgets what need not be known any more.
    pub async fn tidy(&self) -> Result<()> {
        self.prune_answers().await?;
        Ok(())
    }

    /// Tells PostgreSQL's planner when tables have become several times as large as it knows, and says whether they had. It plans a statement once a
    /// connection by what it knows then; of a queue that was empty it knows that reading all of it is fast. What autovacuum learns it learns once a minute at
    /// most, which is a million jobs later.
    pub async fn refresh_statistics(&self) -> Result<bool> {
        let client = self.database.client().await?;
        let is_outgrown = schema::OUTGROWN.one(&client, &[]).await?.get("outgrown");
        if is_outgrown {
            schema::ANALYZE.execute(&client, &[]).await?;
        }
        Ok(is_outgrown)
    }

    /// In how many seconds the next job is due, if any will be.
    async fn next_due(&self) -> Result<Option<f64>> {
        let client = self.database.client().await?;
        Ok(jobs::NEXT_DUE.one(&client, &[]).await?.get("seconds"))
    }

    async fn make_due(&self, swept: &mut Swept) -> Result<()> {
        loop {
            let client = self.database.client().await?;
            let rows = jobs::DUE.all(&client, &[&(BATCH as i64)]).await?;
            swept.due += rows.len();
            self.tally.due.add(rows.len() as u64);
            swept.projects.extend(rows.iter().map(|row| row.get::<_, i64>("project_id")));
            if rows.len() < BATCH {
                return Ok(());
            }
        }
    }

    async fn give_back(&self, swept: &mut Swept) -> Result<()> {
        let policy = &self.policy;
        loop {
            let client = self.database.client().await?;
            let params: Params<'_> = &[&(BATCH as i64), &policy.max_attempts, &policy.backoff_seconds, &LONGEST_BACKOFF_SECONDS];
            let rows = attempts::GIVE_BACK.all(&client, params).await?;
            swept.expired += rows.len();
            self.tally.returned.add(rows.len() as u64);
            swept.projects.extend(rows.iter().map(|row| row.get::<_, i64>("project_id")));
            if rows.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// One by one: each may block what waits for it.
    async fn expire_all(&self, swept: &mut Swept) -> Result<()> {
        let client = self.database.client().await?;
        let rows = attempts::EXPIRED.all(&client, &[&(BATCH as i64)]).await?;
        drop(client);
        for row in rows {
            match self.expire(row.get("job_id"), row.get("number")).await {
                Ok(done) => {
                    swept.expired += usize::from(done);
                    self.tally.expired.add(u64::from(done));
                }
                // One that fails must not keep the others.
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error,
                        job = row.get::<_, i64>("job_id"),
                        "a lease that has ended could not be taken back; it is tried again"
                    );
                }
            }
        }
        Ok(())
    }
}
