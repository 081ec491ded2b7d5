//! What time brings: leases that end, and jobs that become due. Every server does it, none leads; what one has locked the others pass over.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

use super::Store;
use crate::{
    postgres::{
        Transaction, Work,
        query::{Params, attempts, jobs, schema},
    },
    queue::{Error, Policy, Result, retry::LONGEST_BACKOFF_SECONDS},
};

/// How many jobs one statement touches.
const BATCH: usize = 500;

/// For how long leases are ended one by one before it is looked again for those that can be ended together.
const TURN: Duration = Duration::from_secs(1);

/// What became of leases that had ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many there were.
    pub expired: usize,
    /// Whether there is more to do, or was so much that there may be by now.
    pub is_more: bool,
}

impl Store {
    /// Takes jobs from clients whose leases have ended.
    pub async fn sweep_leases(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        let left = self.give_back(&mut swept).await?;
        let is_cut = self.expire_all(left, &mut swept).await;
        swept.is_more = is_cut || swept.expired >= BATCH;
        Ok(swept)
    }

    /// Makes jobs ready whose time has come. Returns in how many seconds the next one is due, if any will be.
    pub async fn sweep_due(&self) -> Result<Option<f64>> {
        self.make_due().await?;
        self.next_due().await
    }

    /// Waits so long, or until a job was added here that is due before that.
    pub async fn until_due(&self, longest: Duration) {
        self.alarm.sleep(longest).await;
    }

    fn ring(&self, mut projects: Vec<i64>) {
        projects.sort_unstable();
        projects.dedup();
        for project_id in projects {
            self.bells.ring(project_id);
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

    async fn make_due(&self) -> Result<()> {
        loop {
            let client = self.database.client().await?;
            let rows = jobs::DUE.all(&client, &[&(BATCH as i64)]).await?;
            drop(client);
            self.tally.due.add(rows.len() as u64);
            self.ring(rows.iter().map(|row| row.get("project_id")).collect());
            if rows.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Ends leases together, as long as there are any. Returns those that are left: what follows from them may reach other jobs.
    async fn give_back(&self, swept: &mut Swept) -> Result<Vec<(i64, i32)>> {
        let (mut after, mut left) = (0, Vec::new());
        loop {
            let batch = GiveBack { after, policy: &self.policy, is_looked_at: false };
            let Given { late, ended, waiting, clients } = match self.database.transaction(&batch).await {
                // One that fails must not keep the others: they are ended one by one.
                Err(Error::Database(error)) if !error.is_transient() => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "leases that have ended could not be taken back together");
                    self.database.transaction(&GiveBack { is_looked_at: true, ..batch }).await?
                }
                given => given?,
            };
            swept.expired += ended.len();
            self.tally.returned.add(waiting.len() as u64);
            self.tally.expired.add((ended.len() - waiting.len()) as u64);
            // Each batch at once: somebody waits for these jobs.
            self.ring(waiting);
            clients.iter().for_each(|client| self.has_room(Some(client)));
            let (is_full, last) = (late.len() == BATCH, late.last().copied());
            left.extend(late.into_iter().filter(|(job, _)| !ended.contains(job)));
            match last {
                Some((job, _)) if is_full => after = job,
                _ => return Ok(left),
            }
        }
    }

    /// Ends leases one by one: each may block what waits for it. Returns whether that took too long and some are left, for others' leases end meanwhile.
    async fn expire_all(&self, mut left: Vec<(i64, i32)>, swept: &mut Swept) -> bool {
        let began = Instant::now();
        if !left.is_empty() {
            // Servers that have the same before them begin at different ends.
            let first = Uuid::new_v4().as_u128() % left.len() as u128;
            left.rotate_left(usize::try_from(first).expect("it is an index"));
        }
        for (job, number) in left {
            if began.elapsed() >= TURN {
                return true;
            }
            match self.expire(job, number).await {
                Ok(done) => {
                    swept.expired += usize::from(done);
                    self.tally.expired.add(u64::from(done));
                }
                // One that fails must not keep the others.
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, job, "a lease that has ended could not be taken back; it is tried again");
                }
            }
        }
        false
    }
}

/// Ending leases together.
#[derive(Clone, Copy)]
struct GiveBack<'a> {
    /// Only of jobs above this.
    after: i64,
    policy: &'a Policy,
    /// Whether nothing is to be done but looking.
    is_looked_at: bool,
}

/// What became of some leases.
struct Given {
    /// Their jobs and attempts, by job.
    late: Vec<(i64, i32)>,
    /// The jobs whose attempts ended now.
    ended: HashSet<i64>,
    /// The projects of those that wait again, one for each.
    waiting: Vec<i64>,
    /// Whose they were.
    clients: HashSet<String>,
}

impl Work for GiveBack<'_> {
    type Output = Given;
    type Error = Error;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<Given> {
        let Self { after, policy, is_looked_at } = self;
        let rows = attempts::EXPIRED.all(transaction, &[after, &(BATCH as i64)]).await?;
        let late: Vec<(i64, i32)> = rows.iter().map(|row| (row.get("job_id"), row.get("number"))).collect();
        let mut given = Given { late, ended: HashSet::new(), waiting: Vec::new(), clients: HashSet::new() };
        if given.late.is_empty() || *is_looked_at {
            return Ok(given);
        }
        let jobs: Vec<i64> = given.late.iter().map(|(job, _)| *job).collect();
        let params: Params<'_> = &[&jobs, &policy.max_attempts, &policy.backoff_seconds, &LONGEST_BACKOFF_SECONDS];
        for row in attempts::GIVE_BACK.all(transaction, params).await? {
            given.ended.insert(row.get("id"));
            given.clients.extend(row.get::<_, Option<String>>("client_id"));
            if row.get("waits") {
                given.waiting.push(row.get("project_id"));
            }
        }
        Ok(given)
    }
}
