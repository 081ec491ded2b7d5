//! What time brings: leases that end, and jobs that become due. Every server does it, none leads; what one has locked the others pass over.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::Store;
use crate::{
    postgres::{
        Row, Transaction, Work,
        query::{Params, attempts, jobs, schema},
    },
    queue::{Error, Policy, Result, retry::LONGEST_BACKOFF_SECONDS},
};

/// How many jobs one statement touches.
const BATCH: usize = 500;

/// How long leases of a project are ended one by one before it is another one's turn.
const TURN: Duration = Duration::from_secs(1);

/// What became of leases that had ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many were ended.
    pub expired: usize,
    /// Those that could not be ended together with others: what follows from them may reach other jobs.
    pub left: Vec<Late>,
    /// Whether there were so many that there may be more by now.
    pub is_more: bool,
}

/// A lease that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Late {
    project_id: i64,
    job_id: i64,
    number: i32,
}

impl Late {
    /// Each project's.
    pub fn by_project(late: &[Self]) -> HashMap<i64, Vec<Self>> {
        let mut projects: HashMap<i64, Vec<Self>> = HashMap::new();
        for late in late {
            projects.entry(late.project_id).or_default().push(*late);
        }
        projects
    }
}

impl Store {
    /// Takes jobs from clients whose leases have ended, as many as can be taken together.
    pub async fn sweep_leases(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        self.give_back(&mut swept).await?;
        swept.is_more = swept.expired >= BATCH;
        Ok(swept)
    }

    /// Takes jobs from clients whose leases have ended, one by one: some of those that are left of a sweep in one project. It takes a turn, or as long as one of them
    /// has to wait for somebody who changes much of the project. Returns how many were ended, and what is left then.
    pub async fn sweep_late(&self, mut left: Vec<Late>) -> (usize, Vec<Late>) {
        if !left.is_empty() {
            // Servers that have the same before them begin at different ends.
            let first = Uuid::new_v4().as_u128() % left.len() as u128;
            left.rotate_left(usize::try_from(first).expect("it is an index"));
        }
        let (mut expired, began) = (0, Instant::now());
        while began.elapsed() < TURN
            && let Some(Late { job_id: job, number, .. }) = left.pop()
        {
            match self.expire(job, number).await {
                Ok(is_done) => expired += usize::from(is_done),
                // One that fails must not keep the others.
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, job, "a lease that has ended could not be taken back; it is tried again");
                }
            }
        }
        self.tally.expired.add(expired as u64);
        (expired, left)
    }

    /// How many connections to the database there may be.
    pub fn connections(&self) -> usize {
        self.database.stats().pool_size
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

    /// Ends leases together, as long as there are any.
    async fn give_back(&self, swept: &mut Swept) -> Result<()> {
        let mut after = 0;
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
            swept.left.extend(late.into_iter().filter(|late| !ended.contains(&late.job_id)));
            match last {
                Some(last) if is_full => after = last.job_id,
                _ => return Ok(()),
            }
        }
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
    /// All of them, by job.
    late: Vec<Late>,
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
        let late = |row: &Row| Late { project_id: row.get("project_id"), job_id: row.get("job_id"), number: row.get("number") };
        let late: Vec<Late> = rows.iter().map(late).collect();
        let mut given = Given { late, ended: HashSet::new(), waiting: Vec::new(), clients: HashSet::new() };
        if given.late.is_empty() || *is_looked_at {
            return Ok(given);
        }
        let jobs: Vec<i64> = given.late.iter().map(|late| late.job_id).collect();
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
