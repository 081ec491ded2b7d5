//! Jobs as they are sent and answered.

use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

use crate::{
    api::types::{Backoff, Depends, DependsOn, JobStatus, Name, Parameters, Priority, Timestamp, Tries},
    queue::{
        Retry,
        jobs::{self, Status},
    },
};

/// A job.
#[derive(Debug, Serialize, Object)]
pub struct Job {
    id: i64,
    name: Name,
    project_id: i64,
    task_id: i64,
    /// As it was submitted, to the letter.
    parameters: Parameters,
    status: JobStatus,
    /// Higher is sooner.
    priority: Priority,
    /// How often it was claimed.
    attempt: i32,
    /// How many attempts may fail before the job has; null for what its task says, or else the server.
    max_attempts: Option<Tries>,
    /// Seconds between the first attempt and the second, and twice as long between each two that follow; null for what its task says, or else the server.
    backoff_seconds: Option<Backoff>,
    /// When it is given out at the earliest: as it was asked for, or after a failure.
    not_before: Option<Timestamp>,
    /// The jobs that this one depends on: their ids, and their names.
    depends: DependsOn,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// A job, as an update answers it.
#[derive(Debug, Serialize, Object)]
pub struct JobData {
    pub(super) data: Job,
}

/// A job to be added.
#[derive(Debug, Deserialize, Object)]
pub struct NewJob {
    pub(super) name: Name,
    pub(super) project_id: i64,
    /// A task of the project.
    pub(super) task_id: i64,
    /// Any JSON object. It is given back to the letter, so numbers that no double can hold are refused.
    pub(super) parameters: Parameters,
    /// `PENDING` and `BLOCKED` both mean: to be run. Which of them it is follows from what the job depends on.
    #[oai(default = "pending")]
    #[serde(default = "pending")]
    pub(super) status: JobStatus,
    /// Higher is sooner.
    #[oai(default = "usual")]
    #[serde(default = "usual")]
    pub(super) priority: Priority,
    /// How many attempts may fail before the job has. Without it, what its task says, or else the server.
    pub(super) max_attempts: Option<Tries>,
    /// Seconds between the first attempt and the second; twice as long between each two that follow.
    pub(super) backoff_seconds: Option<Backoff>,
    /// When it is to be given out at the earliest.
    pub(super) not_before: Option<Timestamp>,
    /// The jobs of the project that must complete before this one is given out: their ids. The values are not looked at.
    #[oai(default)]
    #[serde(default)]
    pub(super) depends: Depends,
}

/// What a job is to be.
#[derive(Debug, Deserialize, Object)]
pub struct JobUpdate {
    pub(super) name: Name,
    /// The job's own project; a job cannot be moved.
    pub(super) project_id: i64,
    /// A task of the project.
    pub(super) task_id: i64,
    pub(super) parameters: Parameters,
    /// `PENDING` and `BLOCKED` both mean: to be run. Which of them it is follows from what the job depends on.
    pub(super) status: JobStatus,
    /// Higher is sooner.
    pub(super) priority: Priority,
    /// How many attempts may fail before the job has. Without it, or with null, that stays as it is.
    pub(super) max_attempts: Option<Tries>,
    /// Seconds between the first attempt and the second. Without it, or with null, that stays as it is.
    pub(super) backoff_seconds: Option<Backoff>,
    /// When it is given out at the earliest. Without it, or with null, that stays as it is; and so it does if the job does not wait.
    pub(super) not_before: Option<Timestamp>,
    /// The jobs of the project that must complete before this one is given out.
    pub(super) depends: Depends,
}

/// A job of a batch.
#[derive(Debug, Deserialize, Object)]
pub struct BatchJob {
    pub(super) name: Name,
    /// A task of the project.
    pub(super) task_id: i64,
    /// Any JSON object. It is given back to the letter, so numbers that no double can hold are refused.
    pub(super) parameters: Parameters,
    /// Higher is sooner.
    #[oai(default = "usual")]
    #[serde(default = "usual")]
    pub(super) priority: Priority,
    /// How many attempts may fail before the job has. Without it, what its task says, or else the server.
    pub(super) max_attempts: Option<Tries>,
    /// Seconds between the first attempt and the second; twice as long between each two that follow.
    pub(super) backoff_seconds: Option<Backoff>,
    /// When it is to be given out at the earliest.
    pub(super) not_before: Option<Timestamp>,
    /// The jobs of the project, from before the batch, that must complete before this one is given out.
    #[oai(default)]
    #[serde(default)]
    pub(super) depends: Depends,
}

/// Jobs to be added, all or none.
#[derive(Debug, Deserialize, Object)]
pub struct NewBatch {
    pub(super) jobs: Vec<BatchJob>,
}

/// The jobs that were added.
#[derive(Debug, Serialize, Object)]
pub struct Added {
    pub(super) created: usize,
    /// In the order of the batch.
    pub(super) job_ids: Vec<i64>,
}

/// What a job depends on, and how that stands.
#[derive(Debug, Serialize, Object)]
pub struct Dependencies {
    job_id: i64,
    job_name: Name,
    status: JobStatus,
    dependencies: Vec<Dependency>,
    /// Nothing more to wait for.
    all_completed: bool,
    /// One of them failed, was cancelled, or is blocked itself.
    has_failed: bool,
}

/// A job that another one depends on.
#[derive(Debug, Serialize, Object)]
pub struct Dependency {
    job_id: i64,
    job_name: Name,
    status: JobStatus,
}

/// A job to be run. The published client makes an object of exactly these fields: one more would break it.
#[derive(Debug, Serialize, Object)]
pub struct FetchedJob {
    id: i64,
    name: Name,
    project_id: i64,
    task_id: i64,
    task_name: Name,
    parameters: Parameters,
    status: JobStatus,
    priority: Priority,
    depends: DependsOn,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// The next job, if there is one.
#[derive(Debug, Serialize, Object)]
pub struct Fetched {
    /// The job, now QUEUED; null if none is ready that fits.
    job: Option<FetchedJob>,
    /// How many jobs could have been given for this request, the given one included: 0 exactly if `job` is null.
    num_pending: i64,
    /// How many jobs of the project wait for others.
    num_waiting: i64,
    /// Whether counting stopped at 1000, so that there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(default)]
    count_capped: Option<bool>,
}

/// Which jobs to run again.
#[derive(Debug, Deserialize, Object)]
pub struct RetryMany {
    /// Those that failed, or those that were cancelled.
    #[oai(default = "failed")]
    #[serde(default = "failed")]
    pub(super) status: Stopped,
    /// Only those of this task.
    pub(super) task_id: Option<i64>,
}

impl Default for RetryMany {
    fn default() -> Self {
        Self { status: failed(), task_id: None }
    }
}

/// How a job stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Enum)]
#[serde(rename_all = "UPPERCASE")]
#[oai(rename_all = "UPPERCASE")]
pub enum Stopped {
    /// It went wrong.
    Failed,
    /// It was cancelled.
    Cancelled,
}

fn failed() -> Stopped {
    Stopped::Failed
}

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Failed => Self::Failed,
            Stopped::Cancelled => Self::Cancelled,
        }
    }
}

/// How many jobs run again.
#[derive(Debug, Serialize, Object)]
pub struct Retried {
    pub(super) retried: usize,
}

fn pending() -> JobStatus {
    JobStatus(Status::Pending)
}

fn usual() -> Priority {
    Priority::new(0).expect("in range")
}

impl From<BatchJob> for jobs::NewJob {
    fn from(job: BatchJob) -> Self {
        Self {
            name: job.name.into_string(),
            task_id: job.task_id,
            parameters: job.parameters.0,
            status: Status::Pending,
            priority: job.priority.get_i32(),
            retry: retry(job.max_attempts, job.backoff_seconds),
            not_before: job.not_before.map(|time| time.0),
            depends: job.depends.into_ids(),
        }
    }
}

impl From<NewJob> for jobs::NewJob {
    fn from(job: NewJob) -> Self {
        let NewJob { name, task_id, parameters, status, priority, max_attempts, backoff_seconds, not_before, depends, .. } = job;
        let job = BatchJob { name, task_id, parameters, priority, max_attempts, backoff_seconds, not_before, depends };
        Self { status: status.0, ..job.into() }
    }
}

impl From<JobUpdate> for jobs::NewJob {
    fn from(update: JobUpdate) -> Self {
        let JobUpdate { name, task_id, parameters, status, priority, max_attempts, backoff_seconds, not_before, depends, .. } = update;
        let job = BatchJob { name, task_id, parameters, priority, max_attempts, backoff_seconds, not_before, depends };
        Self { status: status.0, ..job.into() }
    }
}

/// How often a job, or those of a task, are tried.
pub(in crate::api) fn retry(max_attempts: Option<Tries>, backoff_seconds: Option<Backoff>) -> Retry {
    Retry { max_attempts: max_attempts.map(Tries::get_i32), backoff_seconds: backoff_seconds.map(Backoff::get_i32) }
}

impl From<jobs::Job> for Job {
    fn from(job: jobs::Job) -> Self {
        Self {
            id: job.id,
            name: job.name.into(),
            project_id: job.project_id,
            task_id: job.task_id,
            parameters: Parameters(job.parameters),
            status: JobStatus(job.status),
            priority: job.priority.into(),
            attempt: job.attempt,
            max_attempts: job.retry.max_attempts.map(Tries::from),
            backoff_seconds: job.retry.backoff_seconds.map(Backoff::from),
            not_before: job.not_before.map(Timestamp),
            depends: DependsOn(job.depends),
            created_at: Timestamp(job.created_at),
            updated_at: Timestamp(job.updated_at),
        }
    }
}

impl From<&jobs::Claimed> for FetchedJob {
    fn from(claimed: &jobs::Claimed) -> Self {
        let job = claimed.job.clone();
        Self {
            id: job.id,
            name: job.name.into(),
            project_id: job.project_id,
            task_id: job.task_id,
            task_name: claimed.task_name.clone().into(),
            parameters: Parameters(job.parameters),
            status: JobStatus(job.status),
            priority: job.priority.into(),
            depends: DependsOn(job.depends),
            created_at: Timestamp(job.created_at),
            updated_at: Timestamp(job.updated_at),
        }
    }
}

impl From<&jobs::Fetched> for Fetched {
    fn from(fetched: &jobs::Fetched) -> Self {
        Self {
            job: fetched.claimed.as_ref().map(FetchedJob::from),
            num_pending: fetched.num_pending,
            num_waiting: fetched.num_waiting,
            count_capped: fetched.count_capped.then_some(true),
        }
    }
}

impl From<jobs::Dependencies> for Dependencies {
    fn from(jobs::Dependencies { job, parents }: jobs::Dependencies) -> Self {
        Self {
            job_id: job.id,
            job_name: job.name.into(),
            status: JobStatus(job.status),
            all_completed: parents.iter().all(|parent| parent.status == Status::Completed),
            has_failed: parents.iter().any(|parent| parent.status.is_dead()),
            dependencies: parents
                .into_iter()
                .map(|parent| Dependency { job_id: parent.id, job_name: parent.name.into(), status: JobStatus(parent.status) })
                .collect(),
        }
    }
}
