//! Claims, attempts and reports as they are sent and answered.

use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        jobs::Job,
        types::{
            Amount, AttemptNumber, ClientId, ExitCode, Fraction, JobStatus, LeaseSeconds, Line, LogTail, Many, Name, Outcome, Prose,
            Timestamp, WaitSeconds,
        },
    },
    queue::jobs::{self, Left},
};

/// What a client claims.
#[derive(Debug, Deserialize, Object)]
pub struct NewClaim {
    /// The client, which must be registered: it is never given more than it registered with, counting what it runs already.
    pub(super) client_id: ClientId,
    /// How many jobs at most.
    #[oai(default = "one")]
    #[serde(default = "one")]
    pub(super) max_jobs: Many,
    /// How long to wait if there is none: the answer comes as soon as there is one. The time-out of whoever sends this must be longer.
    #[oai(default = "at_once")]
    #[serde(default = "at_once")]
    pub(super) wait_seconds: WaitSeconds,
    /// How long each job is the client's own, unless it sends a heartbeat. Without it, what the server says (60 unless it was set otherwise).
    pub(super) lease_seconds: Option<LeaseSeconds>,
    /// CPUs for these jobs together; 0 is none. Without it, all that the client has left.
    pub(super) available_cpu: Option<Amount>,
    /// Accelerators for these jobs together; 0 is none. Without it, all that the client has left.
    pub(super) available_accelerators: Option<Amount>,
    /// Only jobs of these tasks, of which there may be 1000.
    #[oai(validator(max_items = 1000))]
    pub(super) task_ids: Option<Vec<i64>>,
}

fn one() -> Many {
    Many::new(1).expect("in range")
}

fn at_once() -> WaitSeconds {
    WaitSeconds::new(0).expect("in range")
}

/// The jobs that were claimed.
#[derive(Debug, Serialize, Object)]
pub struct Claimed {
    /// The most urgent first; none if there was none that fits.
    jobs: Vec<ClaimedJob>,
}

/// A job to be run.
#[derive(Debug, Serialize, Object)]
pub struct ClaimedJob {
    job: Job,
    task_name: Name,
    /// How to make a command of the job's parameters.
    command_template: Option<Prose>,
    /// The attempt that everything is to be reported for.
    attempt: i32,
    /// CPUs of the client that it takes: what the job may use.
    cpu: Amount,
    /// Accelerators of the client that it takes: what the job may use.
    accelerators: Amount,
    /// Until when the job is the client's own.
    lease_expires_at: Timestamp,
}

/// One claim of a job, and what came of it.
#[derive(Debug, Serialize, Object)]
pub struct Attempt {
    job_id: i64,
    /// 1, 2, 3 …
    attempt: i32,
    /// Null for a job that was fetched without saying by whom.
    client_id: Option<String>,
    status: AttemptStatus,
    /// CPUs of the client that it takes.
    cpu: Amount,
    /// Accelerators of the client that it takes.
    accelerators: Amount,
    claimed_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    /// Until when the job is the client's own; null if that has no end.
    lease_expires_at: Option<Timestamp>,
    /// The client is to give up the job; its lease is not extended any more.
    cancel_requested: bool,
    progress: Option<Fraction>,
    /// What the client said last of how it goes.
    message: Option<Prose>,
    /// What came out of it: any JSON of at most 64 KiB of UTF-8.
    result: Option<Outcome>,
    /// What went wrong. At most 64 KiB of UTF-8.
    error: Option<Prose>,
    exit_code: Option<ExitCode>,
    /// Why it ended without being done: `preempted` or `unable`, as its client said when it gave the job back; `lease expired`; or `not delivered`, if the
    /// client was gone before the claim's answer was sent.
    reason: Option<Prose>,
    /// The last lines that it wrote, as it ended or as its client said last. At most 64 KiB of UTF-8.
    log_tail: Option<LogTail>,
    /// What the job became when the attempt ended.
    job_status: Option<JobStatus>,
}

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "UPPERCASE")]
#[oai(rename_all = "UPPERCASE")]
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

/// How it goes.
#[derive(Debug, Default, Deserialize, Object)]
pub struct Heartbeat {
    /// How much is done.
    pub(super) progress: Option<Fraction>,
    /// How it goes, in a line: at most 1000 characters.
    pub(super) message: Option<Line>,
    /// The last lines that it wrote so far: kept if nothing is heard of it any more. At most 64 KiB of UTF-8: it is bytes that count, not characters.
    pub(super) log_tail: Option<LogTail>,
    /// How long the lease lasts from now on. Without it, as long as before: at first, as it was claimed for.
    pub(super) lease_seconds: Option<LeaseSeconds>,
}

/// What the client has to know.
#[derive(Debug, Serialize, Object)]
pub struct Lease {
    job_id: i64,
    attempt: i32,
    /// Until when the job is the client's own; null if that has no end.
    lease_expires_at: Option<Timestamp>,
    /// Give up the job: release or fail it. Its lease is not extended any more.
    cancel_requested: bool,
}

/// That the job is done.
#[derive(Debug, Default, Deserialize, Object)]
pub struct Completion {
    /// What came out of it: any JSON of at most 64 KiB as it is sent, in bytes.
    pub(super) result: Option<Outcome>,
    /// The last lines that it wrote. At most 64 KiB of UTF-8: it is bytes that count, not characters.
    pub(super) log_tail: Option<LogTail>,
}

/// That it went wrong.
#[derive(Debug, Deserialize, Object)]
pub struct Failure {
    /// What went wrong. At most 64 KiB of UTF-8: it is bytes that count, not characters.
    #[oai(default)]
    #[serde(default)]
    pub(super) error: LogTail,
    /// What the program exited with.
    pub(super) exit_code: Option<ExitCode>,
    /// Whether another attempt may do better.
    #[oai(default = "yes")]
    #[serde(default = "yes")]
    pub(super) retryable: bool,
    /// The last lines that it wrote. At most 64 KiB of UTF-8: it is bytes that count, not characters.
    pub(super) log_tail: Option<LogTail>,
}

impl Default for Failure {
    fn default() -> Self {
        Self { error: LogTail::default(), exit_code: None, retryable: yes(), log_tail: None }
    }
}

fn yes() -> bool {
    true
}

/// That the client gives it back.
#[derive(Debug, Deserialize, Object)]
pub struct Release {
    pub(super) reason: Reason,
    /// The last lines that it wrote. At most 64 KiB of UTF-8: it is bytes that count, not characters.
    pub(super) log_tail: Option<LogTail>,
}

/// Why a client gives back a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase")]
pub enum Reason {
    /// It has to do something else: nothing is wrong with the job, and the attempt does not count.
    Preempted,
    /// It cannot run this job, which counts as a failed attempt.
    Unable,
}

impl From<Reason> for jobs::Reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Preempted => Self::Preempted,
            Reason::Unable => Self::Unable,
        }
    }
}

impl From<jobs::AttemptStatus> for AttemptStatus {
    fn from(status: jobs::AttemptStatus) -> Self {
        use jobs::AttemptStatus as From;
        match status {
            From::Claimed => Self::Claimed,
            From::Running => Self::Running,
            From::Completed => Self::Completed,
            From::Failed => Self::Failed,
            From::Released => Self::Released,
            From::Expired => Self::Expired,
            From::Cancelled => Self::Cancelled,
        }
    }
}

impl From<&Vec<jobs::Granted>> for Claimed {
    fn from(granted: &Vec<jobs::Granted>) -> Self {
        Self { jobs: granted.iter().map(ClaimedJob::from).collect() }
    }
}

impl From<&jobs::Granted> for ClaimedJob {
    fn from(granted: &jobs::Granted) -> Self {
        Self {
            job: granted.job.clone().into(),
            task_name: granted.task_name.clone().into(),
            command_template: granted.command_template.clone().map(Prose::from),
            attempt: granted.job.attempt,
            cpu: granted.holds.cpu.into(),
            accelerators: granted.holds.accelerators.into(),
            lease_expires_at: Timestamp(granted.lease_expires_at),
        }
    }
}

impl From<jobs::Attempt> for Attempt {
    fn from(attempt: jobs::Attempt) -> Self {
        Self {
            job_id: attempt.job_id,
            attempt: attempt.number,
            client_id: attempt.client_id,
            status: attempt.status.into(),
            cpu: attempt.cpu.into(),
            accelerators: attempt.accelerators.into(),
            claimed_at: Timestamp(attempt.claimed_at),
            started_at: attempt.started_at.map(Timestamp),
            ended_at: attempt.ended_at.map(Timestamp),
            lease_expires_at: attempt.lease_expires_at.map(Timestamp),
            cancel_requested: attempt.cancel_requested,
            progress: attempt.progress.map(Fraction),
            message: attempt.message.map(Prose::from),
            result: attempt.result.map(Outcome),
            error: attempt.error.map(Prose::from),
            exit_code: attempt.exit_code.map(ExitCode::from),
            reason: attempt.reason.map(Prose::from),
            log_tail: attempt.log_tail.map(LogTail),
            job_status: attempt.job_status.map(JobStatus),
        }
    }
}

impl From<Left> for Lease {
    fn from(left: Left) -> Self {
        Self {
            job_id: left.job_id,
            attempt: left.number,
            lease_expires_at: left.lease_expires_at.map(Timestamp),
            cancel_requested: left.cancel_requested,
        }
    }
}

impl Heartbeat {
    pub(super) fn of(self, job_id: i64, number: AttemptNumber) -> jobs::Beat {
        jobs::Beat {
            job_id,
            number: number.get_i32(),
            progress: self.progress.map(|fraction| fraction.0),
            message: self.message.map(Line::into_string),
            log_tail: self.log_tail.map(|tail| tail.0),
            lease_seconds: self.lease_seconds.map(LeaseSeconds::get_i32),
        }
    }
}
