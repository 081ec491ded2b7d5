//! Jobs as they are sent and answered.

use poem_openapi::Object;
use serde::{Deserialize, Serialize};

use crate::{
    api::types::{Depends, DependsOn, JobStatus, Name, Parameters, Priority, Timestamp},
    queue::jobs::{self, Status},
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
    pub(super) job: Option<FetchedJob>,
    /// How many jobs could have been given for this request, the given one included: 0 exactly if `job` is null.
    pub(super) num_pending: i64,
    /// How many jobs of the project wait for others.
    pub(super) num_waiting: i64,
    /// Whether counting stopped at 1000, so that there may be more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(default)]
    pub(super) count_capped: Option<bool>,
}

pub(super) fn pending() -> JobStatus {
    JobStatus(Status::Pending)
}

fn usual() -> Priority {
    Priority::new(0).expect("in range")
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
