//! Claiming with a lease, and reporting: `/projects/{id}/claims`, `/jobs/{id}/attempts`.

mod explanation;
mod wire;

use std::time::Duration;

use poem::web::Data;
use poem_openapi::OpenApi;

pub use explanation::{Explanation, Wait, WaitKind};
pub use wire::{Attempt, AttemptStatus, Claimed, ClaimedJob, Completion, Failure, Heartbeat, Lease, NewClaim, Reason, Release};

use super::{
    Error, Tag,
    delivery::Handed,
    error::{Conflict, NotFound, Refusal},
    extract::{Body, Caller, Context, OptionalBody, Path, Query, Scope},
    paging,
    reply::{Paged, Reply},
    types::{Amount, AttemptNumber, Limit, Skip},
};
use crate::{
    http::Connection,
    queue::{
        self, Thing,
        jobs::{self, Claims, Outcome, Report, Resources, Wish},
    },
};

/// How many tasks a claim may name.
const MAX_TASKS: usize = 1000;

/// The operations on attempts.
#[derive(Clone)]
pub struct Api {
    /// The jobs.
    pub jobs: jobs::Store,
    /// Who claims them.
    pub claims: Claims,
    /// How long a lease lasts if the claim does not say it.
    pub lease_seconds: i32,
}

#[OpenApi(tag = "Tag::Attempts")]
impl Api {
    /// Claim jobs
    ///
    /// Gives a registered client the most urgent ready jobs that it has room for. Each is its own until its lease ends, which heartbeats extend: after that
    /// somebody else gets it. If there is none the request waits as long as it says. If the caller goes away before the answer is sent, the jobs go back.
    #[oai(path = "/projects/:project_id/claims", method = "post", operation_id = "claim_jobs")]
    async fn claim(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        Data(connection): Data<&Connection>,
        Data(context): Data<&Context>,
        project_id: Path<i64>,
        body: Body<NewClaim>,
    ) -> Result<Handed<Claimed>, Refusal<NotFound>> {
        let claim = body.into_inner();
        if claim.task_ids.as_ref().is_some_and(|tasks| tasks.len() > MAX_TASKS) {
            let msg = format!("must have at most {MAX_TASKS} tasks");
            return Err(Error::invalid(vec!["body".into(), "task_ids".into()], "out_of_range", msg).into());
        }
        let given = |amount: Option<Amount>| amount.map_or(i32::MAX, Amount::get_i32);
        let wish = Wish {
            client_id: claim.client_id.0,
            speaker: caller.owner(),
            max_jobs: claim.max_jobs.get_u32() as usize,
            lease_seconds: claim.lease_seconds.map_or(self.lease_seconds, super::types::LeaseSeconds::get_i32),
            limit: Resources { cpu: given(claim.available_cpu), accelerators: given(claim.available_accelerators) },
            task_ids: claim.task_ids,
        };
        let wait = Duration::from_secs(claim.wait_seconds.get_u32().into());
        context.deadline().extend(wait);
        let handover = self.claims.claim(*project_id, wish, wait).await?;
        Ok(Handed::over(connection, Claimed::from(&handover.claimed), handover.receipt))
    }

    /// List a job's attempts
    #[oai(path = "/jobs/:job_id/attempts", method = "get", operation_id = "list_attempts")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        job_id: Path<i64>,
        /// At most so many.
        #[oai(default = "paging::ten")]
        limit: Query<Limit>,
        /// Pass over so many.
        #[oai(default = "paging::zero")]
        skip: Query<Skip>,
        /// Only those with a greater number; cheaper than `skip`.
        #[oai(default = "paging::start")]
        after_id: Query<i64>,
    ) -> Result<Paged<Attempt>, Refusal<NotFound>> {
        self.check(&caller, Scope::Read, *job_id).await?;
        let after = i32::try_from((*after_id).clamp(0, i32::MAX.into())).unwrap_or(i32::MAX);
        let page = queue::Page { after, skip: skip.get(), limit: limit.get() };
        let attempts = self.jobs.attempts(*job_id, page).await?;
        if attempts.total == 0 {
            // It may have been deleted just now.
            self.jobs.get(*job_id).await?;
        }
        Ok(Paged(attempts.map(Attempt::from)))
    }

    /// Ask why a job does not run
    ///
    /// For other jobs, for its time, for a client that has what it needs, because its project is archived, or because others are more urgent.
    #[oai(path = "/jobs/:job_id/explain", method = "get", operation_id = "explain_job")]
    async fn explain(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        job_id: Path<i64>,
    ) -> Result<Reply<Explanation>, Refusal<NotFound>> {
        self.check(&caller, Scope::Read, *job_id).await?;
        Ok(Reply(self.jobs.explain(*job_id).await?.into()))
    }

    /// Get an attempt
    #[oai(path = "/jobs/:job_id/attempts/:attempt", method = "get", operation_id = "get_attempt")]
    async fn get(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        job_id: Path<i64>,
        attempt: Path<AttemptNumber>,
    ) -> Result<Reply<Attempt>, Refusal<NotFound>> {
        self.check(&caller, Scope::Read, *job_id).await?;
        Ok(Reply(self.jobs.attempt(*job_id, attempt.get_i32()).await?.into()))
    }

    /// Say that an attempt begins
    ///
    /// Extends the lease. Of an attempt that is over nothing changes: 409.
    #[oai(path = "/jobs/:job_id/attempts/:attempt/start", method = "post", operation_id = "start_attempt")]
    async fn start(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        job_id: Path<i64>,
        attempt: Path<AttemptNumber>,
    ) -> Result<Reply<Attempt>, Refusal<(NotFound, Conflict)>> {
        self.check(&caller, Scope::Work, *job_id).await?;
        Ok(Reply(self.jobs.start(*job_id, attempt.get_i32(), caller.owner()).await?.into()))
    }

    /// Extend a lease
    ///
    /// Of an attempt that is over nothing changes: 409, and the client is to stop.
    #[oai(path = "/jobs/:job_id/attempts/:attempt/heartbeat", method = "post", operation_id = "heartbeat_attempt")]
    async fn heartbeat(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        job_id: Path<i64>,
        attempt: Path<AttemptNumber>,
        body: OptionalBody<Heartbeat>,
    ) -> Result<Reply<Lease>, Refusal<(NotFound, Conflict)>> {
        self.check(&caller, Scope::Work, *job_id).await?;
        if let Some(owner) = caller.owner() {
            self.jobs.check_reporter(*job_id, attempt.get_i32(), &owner).await?;
        }
        Ok(Reply(self.jobs.heartbeat(&body.or_default().of(*job_id, *attempt)).await?.into()))
    }

    /// Report that a job is done
    ///
    /// A report that comes again, because its answer got lost, is answered again. Of an attempt that ended in another way nothing changes: 409.
    #[oai(path = "/jobs/:job_id/attempts/:attempt/complete", method = "post", operation_id = "complete_attempt")]
    async fn complete(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        job_id: Path<i64>,
        attempt: Path<AttemptNumber>,
        body: OptionalBody<Completion>,
    ) -> Result<Reply<Attempt>, Refusal<(NotFound, Conflict)>> {
        let Completion { result, log_tail } = body.or_default();
        let outcome = Outcome::Completed(result.map(|result| result.0));
        self.report(&caller, *job_id, *attempt, Report { outcome, log_tail: log_tail.map(|tail| tail.0) }).await
    }

    /// Report that a job went wrong
    ///
    /// It is tried again after a while, unless that is hopeless or it has failed too often. A report that comes again is answered again.
    #[oai(path = "/jobs/:job_id/attempts/:attempt/fail", method = "post", operation_id = "fail_attempt")]
    async fn fail(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        job_id: Path<i64>,
        attempt: Path<AttemptNumber>,
        body: OptionalBody<Failure>,
    ) -> Result<Reply<Attempt>, Refusal<(NotFound, Conflict)>> {
        let Failure { error, exit_code, retryable, log_tail } = body.or_default();
        let outcome = Outcome::Failed { error: error.0, exit_code: exit_code.map(super::types::ExitCode::get_i32), retryable };
        self.report(&caller, *job_id, *attempt, Report { outcome, log_tail: log_tail.map(|tail| tail.0) }).await
    }

    /// Give a job back
    ///
    /// Somebody else gets it: at once if the reason is `preempted`, which does not count as a failed attempt.
    #[oai(path = "/jobs/:job_id/attempts/:attempt/release", method = "post", operation_id = "release_attempt")]
    async fn release(
        &self,
        #[oai(scope = "Scope::Work")] caller: Caller,
        job_id: Path<i64>,
        attempt: Path<AttemptNumber>,
        body: Body<Release>,
    ) -> Result<Reply<Attempt>, Refusal<(NotFound, Conflict)>> {
        let Release { reason, log_tail } = body.into_inner();
        let outcome = Outcome::Released(reason.into());
        self.report(&caller, *job_id, *attempt, Report { outcome, log_tail: log_tail.map(|tail| tail.0) }).await
    }
}

impl Api {
    /// Whether a caller may do this to a job, and whether there is one. A job never moves, so what holds of its project now holds later.
    async fn check(&self, caller: &Caller, scope: Scope, job_id: i64) -> Result<(), Error> {
        let project_id = self.jobs.project_of(job_id).await?;
        caller.check_on(scope, project_id, || Thing::Job(job_id))
    }

    async fn report(
        &self,
        caller: &Caller,
        job_id: i64,
        attempt: AttemptNumber,
        report: Report,
    ) -> Result<Reply<Attempt>, Refusal<(NotFound, Conflict)>> {
        self.check(caller, Scope::Work, job_id).await?;
        Ok(Reply(self.jobs.report(job_id, attempt.get_i32(), report, caller.owner()).await?.into()))
    }
}
