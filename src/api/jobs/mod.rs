//! `/jobs`, and the jobs of a project: submitting, changing, claiming.

mod wire;

use poem::web::Data;
use poem_openapi::OpenApi;
use tokio_util::task::TaskTracker;

pub(super) use wire::retry;
pub use wire::{
    Added, BatchJob, Dependencies, Dependency, Fetched, FetchedJob, Job, JobData, JobUpdate, NewBatch, NewJob, Retried, RetryMany, Stopped,
};

use super::{
    Error, Tag,
    delivery::Handed,
    error::{BadRequest, Conflict, NotFound, Refusal},
    extract::{Batch, Body, Caller, IdempotencyKey, OptionalBody, Path, Query, Scope},
    paging,
    reply::{Created, Gone, Paged, Reply, Submission},
    tasks::none,
    types::{Amount, JobLimit, JobStatus, Skip},
};
use crate::{
    http::Connection,
    queue::{
        self, Thing,
        jobs::{self, Change, Filter, Handover, Resources},
    },
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

#[OpenApi(tag = "Tag::Jobs")]
impl Api {
    /// List jobs
    #[oai(path = "/jobs", method = "get", operation_id = "list_jobs")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
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
        let visible = caller.readable();
        // What is asked of a project that may not be seen is what there is of one that does not exist.
        let project_id = project_id.map(|id| if caller.may(Scope::Read, id) { id } else { NO_PROJECT });
        let filter = Filter { project_id, task_id: *task_id, status: status.map(|status| status.0), visible };
        let page = queue::Page { after: *after_id, skip: skip.get(), limit: limit.get() };
        Ok(Paged(self.jobs.list(filter, page).await?.map(Job::from)))
    }

    /// Add a job
    ///
    /// With an `Idempotency-Key` the request can be sent again if its answer got lost: the same key and body get the same answer for 24 hours, and the job is there
    /// once. The same key with another body is 422; 409 says that the first of them is still being done: send it again in a moment. What was refused is not
    /// kept, and may be mended and sent again with its key.
    #[oai(path = "/jobs", method = "post", operation_id = "create_job")]
    async fn create(
        &self,
        #[oai(scope = "Scope::Submit")] caller: Caller,
        /// Chosen by the caller, a new one for each request that is not a repetition.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: IdempotencyKey,
        body: Body<NewJob>,
    ) -> Result<Submission<Job>, Refusal<(BadRequest, Conflict)>> {
        let once = idempotency_key.of(&caller, body.digest());
        let job = body.into_inner();
        let project_id = job.project_id;
        caller.check_named(Scope::Submit, project_id)?;
        let created = |job: jobs::Job| Created { location: format!("/jobs/{}", job.id), body: Job::from(job) };
        let submitted = self.jobs.create(project_id, job.into(), once.as_ref(), |job| created(job.clone()).to_answer()).await?;
        Ok(Submission(submitted.map(created)))
    }

    /// Add many jobs at once, all or none
    ///
    /// With an `Idempotency-Key` the request can be sent again if its answer got lost: the same key and body get the same answer for 24 hours, and the jobs are there
    /// once. The same key with another body is 422; 409 says that the first of them is still being done: send it again in a moment. What was refused is not
    /// kept, and may be mended and sent again with its key.
    #[oai(path = "/projects/:project_id/jobs/batch", method = "post", operation_id = "create_jobs")]
    async fn create_many(
        &self,
        #[oai(scope = "Scope::Submit")] caller: Caller,
        project_id: Path<i64>,
        /// Chosen by the caller, a new one for each request that is not a repetition.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: IdempotencyKey,
        body: Body<NewBatch, Batch>,
    ) -> Result<Submission<Added>, Refusal<(BadRequest, NotFound, Conflict)>> {
        let once = idempotency_key.of(&caller, body.digest());
        let NewBatch { jobs } = body.into_inner();
        if jobs.len() > self.batch_limit {
            let msg = format!("must have at most {} jobs", self.batch_limit);
            return Err(Error::invalid(vec!["body".into(), "jobs".into()], "out_of_range", msg).into());
        }
        let jobs: Vec<jobs::NewJob> = jobs.into_iter().map(Into::into).collect();
        let location = format!("/jobs?project_id={}", *project_id);
        let created = |job_ids: Vec<i64>| Created { location: location.clone(), body: Added { created: job_ids.len(), job_ids } };
        let render = |job_ids: &Vec<i64>| created(job_ids.clone()).to_answer();
        let submitted = self.jobs.submit(*project_id, &jobs, once.as_ref(), render).await.map_err(|error| match error {
            // Here the project is what the path names.
            queue::Error::UnknownProject(id) => queue::Error::NotFound(Thing::Project(id)),
            other => other,
        })?;
        Ok(Submission(submitted.map(created)))
    }

    /// Get a job
    #[oai(path = "/jobs/:job_id", method = "get", operation_id = "get_job")]
    async fn get(&self, #[oai(scope = "Scope::Read")] caller: Caller, job_id: Path<i64>) -> Result<Reply<Job>, Refusal<NotFound>> {
        let job = self.jobs.get(*job_id).await?;
        caller.check_on(Scope::Read, job.project_id, || Thing::Job(job.id))?;
        Ok(Reply(job.into()))
    }

    /// Change a job
    ///
    /// Takes the whole job; `max_attempts`, `backoff_seconds` and `not_before` may be left out, and stay as they are. This is also how the published client reports: it sends back what it read, with another status. For that the scope `work`
    /// is enough; to change anything else it takes `submit`.
    #[oai(path = "/jobs/:job_id", method = "put", operation_id = "update_job")]
    async fn update(
        &self,
        #[oai(scope = "Scope::Work", scope = "Scope::Submit")] caller: Caller,
        job_id: Path<i64>,
        body: Body<JobUpdate>,
    ) -> Result<Reply<JobData>, Refusal<(BadRequest, NotFound)>> {
        let job = body.into_inner();
        let only_status = !self.may_change(&caller, *job_id).await?;
        let change = Change { project_id: job.project_id, job: job.into(), only_status };
        Ok(Reply(JobData { data: self.jobs.update(*job_id, change).await?.into() }))
    }

    /// Delete a job
    ///
    /// Refused with 409 while a job that has not been started waits for it.
    #[oai(path = "/jobs/:job_id", method = "delete", operation_id = "delete_job")]
    async fn delete(
        &self,
        #[oai(scope = "Scope::Submit")] caller: Caller,
        job_id: Path<i64>,
    ) -> Result<Gone, Refusal<(NotFound, Conflict)>> {
        self.check(&caller, Scope::Submit, *job_id).await?;
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

    /// Cancel a job
    ///
    /// At once if nobody has it. Otherwise its client is told with the next heartbeat (`cancel_requested`), and has until its lease ends to give it up.
    #[oai(path = "/jobs/:job_id/cancel", method = "post", operation_id = "cancel_job")]
    async fn cancel(
        &self,
        #[oai(scope = "Scope::Submit")] caller: Caller,
        job_id: Path<i64>,
    ) -> Result<Reply<Job>, Refusal<(NotFound, Conflict)>> {
        self.check(&caller, Scope::Submit, *job_id).await?;
        Ok(Reply(self.jobs.cancel(*job_id).await?.into()))
    }

    /// Run a job again
    ///
    /// One that failed or was cancelled, with all of its attempts; what was blocked by it waits for it again. One that waits for its time runs now.
    #[oai(path = "/jobs/:job_id/retry", method = "post", operation_id = "retry_job")]
    async fn retry(
        &self,
        #[oai(scope = "Scope::Submit")] caller: Caller,
        job_id: Path<i64>,
    ) -> Result<Reply<Job>, Refusal<(NotFound, Conflict)>> {
        self.check(&caller, Scope::Submit, *job_id).await?;
        Ok(Reply(self.jobs.retry(*job_id).await?.into()))
    }

    /// Run a project's jobs again
    ///
    /// All that failed, or were cancelled, as `/jobs/{id}/retry` does with one.
    #[oai(path = "/projects/:project_id/retry", method = "post", operation_id = "retry_jobs")]
    async fn retry_all(
        &self,
        #[oai(scope = "Scope::Submit")] _caller: Caller,
        project_id: Path<i64>,
        body: OptionalBody<RetryMany>,
    ) -> Result<Reply<Retried>, Refusal<NotFound>> {
        let RetryMany { status, task_id } = body.or_default();
        let retried = self.jobs.retry_all(*project_id, status.into(), task_id).await?;
        Ok(Reply(Retried { retried }))
    }

    /// Get what a job depends on
    #[oai(path = "/jobs/:job_id/dependencies", method = "get", operation_id = "get_job_dependencies")]
    async fn dependencies(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        job_id: Path<i64>,
    ) -> Result<Reply<Dependencies>, Refusal<NotFound>> {
        self.check(&caller, Scope::Read, *job_id).await?;
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
        Data(connection): Data<&Connection>,
        project_id: Path<i64>,
        /// Only jobs that need at most so many CPUs; 0 for any.
        #[oai(default = "none")]
        available_cpu: Query<Amount>,
        /// Only jobs that need at most so many accelerators; 0 for any.
        #[oai(default = "none")]
        available_accelerators: Query<Amount>,
    ) -> Result<Handed<Fetched>, Refusal<NotFound>> {
        let resources = Resources { cpu: available_cpu.get_i32(), accelerators: available_accelerators.get_i32() };
        let handover = Handover::fetch(&self.jobs, &self.tasks, *project_id, resources).await?;
        Ok(Handed::over(connection, Fetched::from(&handover.claimed), handover.receipt))
    }
}

/// No project's id.
const NO_PROJECT: i64 = 0;

impl Api {
    /// Whether a caller may do this to a job. A job never moves, so what holds of its project now holds when it is changed.
    async fn check(&self, caller: &Caller, scope: Scope, job_id: i64) -> Result<(), Error> {
        if caller.readable().is_none() {
            return caller.check(scope);
        }
        let job = self.jobs.get(job_id).await?;
        caller.check_on(scope, job.project_id, || Thing::Job(job_id))
    }

    /// Whether a caller may change all of a job; if not, its status.
    async fn may_change(&self, caller: &Caller, job_id: i64) -> Result<bool, Error> {
        if caller.readable().is_none() && caller.check(Scope::Submit).is_ok() {
            return Ok(true);
        }
        let project = self.jobs.get(job_id).await?.project_id;
        if caller.may(Scope::Submit, project) {
            return Ok(true);
        }
        caller.check_on(Scope::Work, project, || Thing::Job(job_id))?;
        Ok(false)
    }
}
