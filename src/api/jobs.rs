//! `/jobs`, and the jobs of a project: submitting, changing, claiming.

use http_body_util::BodyExt as _;
use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    registry::{MetaResponses, Registry},
    types::Type,
};
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use super::{
    Error, Tag,
    delivery::Delivery,
    error::{BadRequest, Conflict, NotFound, Refusal},
    extract::{Batch, Body, Caller, Path, Query, Scope},
    paging,
    reply::{self, Created, Gone, Paged, Reply},
    tasks::none,
    types::{Amount, Depends, DependsOn, JobLimit, JobStatus, Name, Parameters, Priority, Skip, Timestamp},
};
use crate::queue::{
    self, Thing,
    jobs::{self, Change, Filter, Handover, Resources, Status},
};

/// The operations on jobs.
#[derive(Clone)]
pub struct Api {
    /// The jobs.
    pub jobs: jobs::Store,
    /// Claims and put-backs that must end before the server does.
    pub tasks: TaskTracker,
    /// How many jobs a batch may have.
    pub batch_limit: usize,
}

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
    data: Job,
}

/// A job to be added.
#[derive(Debug, Deserialize, Object)]
pub struct NewJob {
    name: Name,
    project_id: i64,
    /// A task of the project.
    task_id: i64,
    /// Any JSON object. It is given back to the letter, so numbers that no double can hold are refused.
    parameters: Parameters,
    /// `PENDING` and `BLOCKED` both mean: to be run. Which of them it is follows from what the job depends on.
    #[oai(default = "pending")]
    #[serde(default = "pending")]
    status: JobStatus,
    /// Higher is sooner.
    #[oai(default = "usual")]
    #[serde(default = "usual")]
    priority: Priority,
    /// The jobs of the project that must complete before this one is given out: their ids. The values are not looked at.
    #[oai(default)]
    #[serde(default)]
    depends: Depends,
}

/// What a job is to be.
#[derive(Debug, Deserialize, Object)]
pub struct JobUpdate {
    name: Name,
    /// The job's own project; a job cannot be moved.
    project_id: i64,
    /// A task of the project.
    task_id: i64,
    parameters: Parameters,
    /// `PENDING` and `BLOCKED` both mean: to be run. Which of them it is follows from what the job depends on.
    status: JobStatus,
    /// Higher is sooner.
    priority: Priority,
    /// The jobs of the project that must complete before this one is given out.
    depends: Depends,
}

/// A job of a batch.
#[derive(Debug, Deserialize, Object)]
pub struct BatchJob {
    name: Name,
    /// A task of the project.
    task_id: i64,
    /// Any JSON object. It is given back to the letter, so numbers that no double can hold are refused.
    parameters: Parameters,
    /// Higher is sooner.
    #[oai(default = "usual")]
    #[serde(default = "usual")]
    priority: Priority,
    /// The jobs of the project, from before the batch, that must complete before this one is given out.
    #[oai(default)]
    #[serde(default)]
    depends: Depends,
}

/// Jobs to be added, all or none.
#[derive(Debug, Deserialize, Object)]
pub struct NewBatch {
    jobs: Vec<BatchJob>,
}

/// The jobs that were added.
#[derive(Debug, Serialize, Object)]
pub struct Added {
    created: usize,
    /// In the order of the batch.
    job_ids: Vec<i64>,
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

fn pending() -> JobStatus {
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

/// The answer to a claim. If it is dropped before its body was taken to be sent, the job goes back.
pub struct Handed(Handover);

impl IntoResponse for Handed {
    fn into_response(self) -> Response {
        let claim = &self.0.claim;
        let fetched = Fetched {
            job: claim.claimed.as_ref().map(FetchedJob::from),
            num_pending: claim.num_pending,
            num_waiting: claim.num_waiting,
            count_capped: claim.count_capped.then_some(true),
        };
        let mut response = reply::json(StatusCode::OK, &fetched);
        let body = response.take_body();
        response.set_body(poem::Body::from(Delivery::new(body, self.0).boxed()));
        response
    }
}

impl ApiResponse for Handed {
    fn meta() -> MetaResponses {
        Reply::<Fetched>::meta()
    }

    fn register(registry: &mut Registry) {
        Fetched::register(registry);
    }
}

#[OpenApi(tag = "Tag::Jobs")]
impl Api {
    /// List jobs
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Read")] _caller: Caller,
        /// Only this project's.
        project_id: Query<Option<i64>>,
        /// Only this task's.
        task_id: Query<Option<i64>>,
        /// Only those with this status.
        status: Query<Option<JobStatus>>,
        /// At most so many: 1 to 1000, or 10000, which the published command line asks for to count jobs.
        #[oai(default = "JobLimit::ten")]
        limit: Query<JobLimit>,
        /// Pass over so many.
        #[oai(default = "paging::zero")]
        skip: Query<Skip>,
        /// Only those with a greater id; cheaper than `skip`.
        #[oai(default = "paging::start")]
        after_id: Query<i64>,
    ) -> Result<Paged<Job>, Refusal> {
        let filter = Filter { project_id: *project_id, task_id: *task_id, status: status.map(|status| status.0) };
        let page = queue::Page { after: *after_id, skip: skip.get(), limit: limit.get() };
        Ok(Paged(self.jobs.list(filter, page).await?.map(Job::from)))
    }

    /// Add a job
    #[oai(path = "/jobs", method = "post", operation_id = "create_job")]
    async fn create(
        &self,
        #[oai(scope = "Scope::Submit")] _caller: Caller,
        body: Body<NewJob>,
    ) -> Result<Created<Job>, Refusal<BadRequest>> {
        let NewJob { name, project_id, task_id, parameters, status, priority, depends } = body.into_inner();
        let job = new_job(name, task_id, parameters, status, priority, depends);
        let job = self.jobs.create(project_id, &job).await?;
        Ok(Created { location: format!("/jobs/{}", job.id), body: job.into() })
    }

    /// Add many jobs at once, all or none
    #[oai(path = "/projects/:project_id/jobs/batch", method = "post", operation_id = "create_jobs")]
    async fn create_many(
        &self,
        #[oai(scope = "Scope::Submit")] _caller: Caller,
        project_id: Path<i64>,
        body: Body<NewBatch, Batch>,
    ) -> Result<Created<Added>, Refusal<(BadRequest, NotFound)>> {
        let NewBatch { jobs } = body.into_inner();
        if jobs.len() > self.batch_limit {
            let msg = format!("must have at most {} jobs", self.batch_limit);
            return Err(Error::invalid(vec!["body".into(), "jobs".into()], "out_of_range", msg).into());
        }
        let jobs: Vec<_> =
            jobs.into_iter().map(|job| new_job(job.name, job.task_id, job.parameters, pending(), job.priority, job.depends)).collect();
        let job_ids = self.jobs.submit(*project_id, &jobs).await.map_err(|error| match error {
            // Here the project is what the path names.
            queue::Error::UnknownProject(id) => queue::Error::NotFound(Thing::Project(id)),
            other => other,
        })?;
        Ok(Created { location: format!("/jobs?project_id={}", *project_id), body: Added { created: job_ids.len(), job_ids } })
    }

    /// Get a job
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "get_job")]
    async fn get(&self, #[oai(scope = "Scope::Read")] _caller: Caller, job_id: Path<i64>) -> Result<Reply<Job>, Refusal<NotFound>> {
        Ok(Reply(self.jobs.get(*job_id).await?.into()))
    }

    /// Change a job
    ///
    /// Takes the whole job. This is also how the published client reports: it sends back what it read, with another status.
    #[oai(path = "/jobs/:job_id", method = "put", operation_id = "update_job")]
    async fn update(
        &self,
        #[oai(scope = "Scope::Work")] _caller: Caller,
        job_id: Path<i64>,
        body: Body<JobUpdate>,
    ) -> Result<Reply<JobData>, Refusal<(BadRequest, NotFound)>> {
        let JobUpdate { name, project_id, task_id, parameters, status, priority, depends } = body.into_inner();
        let change = Change { project_id, job: new_job(name, task_id, parameters, status, priority, depends) };
        Ok(Reply(JobData { data: self.jobs.update(*job_id, &change).await?.into() }))
    }

    /// Delete a job
    ///
    /// Refused with 409 while a job that has not been started waits for it.
    #[oai(path = "/jobs/:job_id", method = "delete", operation_id = "delete_job")]
    async fn delete(
        &self,
        #[oai(scope = "Scope::Submit")] _caller: Caller,
        job_id: Path<i64>,
    ) -> Result<Gone, Refusal<(NotFound, Conflict)>> {
        self.jobs.delete(*job_id, None).await?;
        Ok(Gone)
    }

    /// Delete a job of a project
    ///
    /// Refused with 409 while a job that has not been started waits for it.
    #[oai(path = "/projects/:project_id/jobs/:job_id", method = "delete", operation_id = "delete_project_job")]
    async fn delete_of_project(
        &self,
        #[oai(scope = "Scope::Submit")] _caller: Caller,
        project_id: Path<i64>,
        job_id: Path<i64>,
    ) -> Result<Gone, Refusal<(NotFound, Conflict)>> {
        self.jobs.delete(*job_id, Some(*project_id)).await?;
        Ok(Gone)
    }

    /// Get what a job depends on
    #[oai(path = "/jobs/:job_id/dependencies", method = "get", operation_id = "get_job_dependencies")]
    async fn dependencies(
        &self,
        #[oai(scope = "Scope::Read")] _caller: Caller,
        job_id: Path<i64>,
    ) -> Result<Reply<Dependencies>, Refusal<NotFound>> {
        Ok(Reply(self.jobs.dependencies(*job_id).await?.into()))
    }

    /// Claim the next job
    ///
    /// Gives the most urgent ready job that fits (highest priority, then oldest) to exactly one caller. If the caller goes away before the
    /// answer is sent, the job goes back.
    #[oai(path = "/projects/:project_id/fetch_job", method = "get", operation_id = "fetch_job")]
    async fn fetch(
        &self,
        #[oai(scope = "Scope::Work")] _caller: Caller,
        project_id: Path<i64>,
        /// Only jobs that need at most so many CPUs; 0 for any.
        #[oai(default = "none")]
        available_cpu: Query<Amount>,
        /// Only jobs that need at most so many accelerators; 0 for any.
        #[oai(default = "none")]
        available_accelerators: Query<Amount>,
    ) -> Result<Handed, Refusal<NotFound>> {
        let resources = Resources { cpu: available_cpu.get_i32(), accelerators: available_accelerators.get_i32() };
        Ok(Handed(Handover::claim(&self.jobs, &self.tasks, *project_id, resources).await?))
    }
}

fn new_job(name: Name, task_id: i64, parameters: Parameters, status: JobStatus, priority: Priority, depends: Depends) -> jobs::NewJob {
    jobs::NewJob {
        name: name.into_string(),
        task_id,
        parameters: parameters.0,
        status: status.0,
        priority: priority.get_i32(),
        depends: depends.into_ids(),
    }
}
