//! Attempts: who has a job, until when, and what came of it.
//!
//! Each claim begins one. It lives until its client reports, its lease ends, or somebody sets the job to another status. Everything that a client says
//! names its attempt, and what it says of one that is over changes nothing ([`Error::Stale`]): so a client that was thought dead and comes back cannot do
//! harm, and neither can an answer that got lost, since a report that comes twice is answered twice.
//!
//! The job's row is locked before the attempt's. A heartbeat takes no job's, and waits for no attempt's: who ends an attempt writes its row too.

mod beats;
mod lapse;
mod report;
mod together;

pub use beats::{Beat, Left};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::{Status, Store, graph::Locked};
use crate::{
    postgres::{
        Row, Transaction,
        query::{Params, attempts as sql},
        types::Json,
    },
    queue::{Error, Listing, Page, Result, Thing},
};
pub(super) use together::{Completions, Starts};

/// How many attempts of a job are kept at least: as many as may fail in a row. One that is preempted again and again has no others; the oldest are forgotten.
const KEPT: i32 = 1000;

/// One claim of a job.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct Attempt {
    pub job_id: i64,
    pub number: i32,
    /// Nothing for a job that was fetched by who did not say who they are.
    pub client_id: Option<String>,
    pub status: AttemptStatus,
    /// What it holds of its client.
    pub cpu: i32,
    /// What it holds of its client.
    pub accelerators: i32,
    pub claimed_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Nothing for one that lasts until somebody ends it.
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// The client is to give up the job.
    pub cancel_requested: bool,
    /// From 0 to 1.
    pub progress: Option<f64>,
    pub message: Option<String>,
    pub result: Option<Box<RawValue>>,
    pub error: Option<String>,
    pub exit_code: Option<i32>,
    /// Why it was released.
    pub reason: Option<String>,
    pub log_tail: Option<String>,
    /// What the job became when it ended.
    pub job_status: Option<Status>,
    reported: bool,
}

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptStatus {
    /// The client has it.
    Claimed,
    /// The client has begun.
    Running,
    /// Done.
    Completed,
    /// Went wrong.
    Failed,
    /// Given back.
    Released,
    /// Its lease ended.
    Expired,
    /// The job was cancelled.
    Cancelled,
}

impl AttemptStatus {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Claimed, Self::Running, Self::Completed, Self::Failed, Self::Released, Self::Expired, Self::Cancelled];

    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "CLAIMED",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Released => "RELEASED",
            Self::Expired => "EXPIRED",
            Self::Cancelled => "CANCELLED",
        }
    }

    fn is_live(self) -> bool {
        matches!(self, Self::Claimed | Self::Running)
    }
}

/// What a client says at the end of its attempt.
#[derive(Debug, Clone)]
pub struct Report {
    /// What came of it.
    pub outcome: Outcome,
    /// The last lines that it wrote.
    pub log_tail: Option<String>,
}

/// What came of an attempt.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The job is done, with what came out of it.
    Completed(Option<Box<RawValue>>),
    /// It went wrong.
    Failed {
        /// What went wrong.
        error: String,
        /// What the program exited with.
        exit_code: Option<i32>,
        /// Whether another attempt may do better.
        retryable: bool,
    },
    /// The client gives it back.
    Released(Reason),
}

/// Why a client gives back a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It has to do something else: nothing is wrong with the job, and the attempt does not count.
    Preempted,
    /// It cannot run this job: that counts as a failed attempt.
    Unable,
}

impl Reason {
    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preempted => "preempted",
            Self::Unable => "unable",
        }
    }
}

impl Outcome {
    fn status(&self) -> AttemptStatus {
        match self {
            Self::Completed(_) => AttemptStatus::Completed,
            Self::Failed { .. } => AttemptStatus::Failed,
            Self::Released(_) => AttemptStatus::Released,
        }
    }
}

impl Store {
    /// One attempt.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn attempt(&self, job_id: i64, number: i32) -> Result<Attempt> {
        let client = self.database.client().await?;
        let row = sql::GET.maybe(&client, &[&job_id, &number]).await?;
        row.map(|row| attempt(&row)).ok_or(Error::NotFound(Thing::Attempt { job: job_id, number }))
    }

    /// A page of a job's attempts.
    pub async fn attempts(&self, job_id: i64, page: Page<i32>) -> Result<Listing<Attempt>> {
        let client = self.database.client().await?;
        let params: Params<'_> = &[&job_id, &page.after, &page.skip, &page.limit];
        Ok(Listing::read(sql::LIST, &client, params, attempt, |row| row.get::<_, Option<i32>>("number").is_none()).await?)
    }
}

/// Lets the attempt of a job, whose row is locked, follow what the job is set to. Tells whose it was, if it ended.
pub(super) async fn follow(transaction: &Transaction<'_>, job: &Locked, status: Status) -> Result<Option<String>> {
    let row = sql::FOLLOW.maybe(transaction, &[&job.id, &job.attempt, &status.as_str(), &KEPT]).await?;
    Ok(row.and_then(|row| row.get("client_id")))
}

fn stale(attempt: &Attempt, current: i32, job_status: Status) -> Error {
    Error::Stale { job: attempt.job_id, number: attempt.number, status: attempt.status.as_str(), current, job_status: job_status.as_str() }
}

fn attempt(row: &Row) -> Attempt {
    let status: &str = row.get("status");
    Attempt {
        job_id: row.get("job_id"),
        number: row.get("number"),
        client_id: row.get("client_id"),
        status: AttemptStatus::ALL.into_iter().find(|known| known.as_str() == status).expect("attempts_status_check"),
        cpu: row.get("cpu"),
        accelerators: row.get("accelerators"),
        claimed_at: row.get("claimed_at"),
        started_at: row.get("started_at"),
        ended_at: row.get("ended_at"),
        lease_expires_at: row.get("lease_expires_at"),
        cancel_requested: row.get("cancel_requested"),
        progress: row.get("progress"),
        message: row.get("message"),
        result: row.get::<_, Option<Json<Box<RawValue>>>>("result").map(|json| json.0),
        error: row.get("error"),
        exit_code: row.get("exit_code"),
        reason: row.get("reason"),
        log_tail: row.get("log_tail"),
        job_status: row.get::<_, Option<&str>>("job_status").map(|status| status.parse().expect("it was a job's")),
        reported: row.get("reported"),
    }
}
