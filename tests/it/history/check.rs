//! Whether a history can have happened on a queue that keeps its promises: no I/O but reading how it ended.
//!
//! Leases and resources are compared by the database's times, which are of one clock; what came before what among requests, by the test's own: an
//! operation came before another one if its answer was there before the other was sent. What is unknown may have happened or not, at any time after it
//! was sent, so nothing is concluded from it, except that it excuses what else nobody asked for.

mod attempts;
mod jobs;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use super::log::{Ending, Event, Lease, New, Offer, Operation, Outcome};

/// What is in the database in the end.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) jobs: BTreeMap<i64, Job>,
    /// By job and number.
    pub(super) attempts: BTreeMap<(i64, i32), Attempt>,
    /// What each client has.
    pub(super) clients: BTreeMap<String, Room>,
}

/// What a client has, or a task needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) cpu: i64,
    pub(super) accelerators: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) task: i64,
    pub(super) status: String,
    pub(super) attempt: i32,
    pub(super) parents: Vec<i64>,
    pub(super) max_attempts: i32,
    pub(super) failed_attempts: i32,
}

#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// Nothing for one that was fetched.
    pub(super) client: Option<String>,
    pub(super) status: String,
    /// What its task needs.
    pub(super) needs: Room,
    pub(super) claimed_at: DateTime<Utc>,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) lease_expires_at: Option<DateTime<Utc>>,
    pub(super) reason: Option<String>,
    pub(super) job_status: Option<String>,
}

impl State {
    pub(super) async fn read(client: &Client) -> Self {
        let mut state = Self::default();
        let jobs = "select id, name, task_id, status, attempt, max_attempts, failed_attempts,
                           array(select depends_on from dependencies d where d.job_id = j.id) as parents
                    from jobs j";
        for row in client.query(jobs, &[]).await.unwrap() {
            let job = Job {
                name: row.get("name"),
                task: row.get("task_id"),
                status: row.get("status"),
                attempt: row.get("attempt"),
                parents: row.get("parents"),
                max_attempts: row.get("max_attempts"),
                failed_attempts: row.get("failed_attempts"),
            };
            state.jobs.insert(row.get("id"), job);
        }
        let attempts = "select job_id, number, client_id, a.status, t.required_cpu::bigint as need_cpu,
                               t.required_accelerators::bigint as need_accelerators, claimed_at, ended_at, lease_expires_at, reason, job_status
                        from attempts a
                        join jobs j on j.id = a.job_id
                        join tasks t on t.id = j.task_id";
        for row in client.query(attempts, &[]).await.unwrap() {
            let attempt = Attempt {
                client: row.get("client_id"),
                status: row.get("status"),
                needs: Room { cpu: row.get("need_cpu"), accelerators: row.get("need_accelerators") },
                claimed_at: row.get("claimed_at"),
                ended_at: row.get("ended_at"),
                lease_expires_at: row.get("lease_expires_at"),
                reason: row.get("reason"),
                job_status: row.get("job_status"),
            };
            state.attempts.insert((row.get("job_id"), row.get("number")), attempt);
        }
        let clients = "select id, available_cpu::bigint as cpu, available_accelerators::bigint as accelerators from clients";
        for row in client.query(clients, &[]).await.unwrap() {
            state.clients.insert(row.get("id"), Room { cpu: row.get("cpu"), accelerators: row.get("accelerators") });
        }
        state
    }

    /// The attempts of a job that are noted, with their numbers.
    fn attempts_of(&self, job: i64) -> impl Iterator<Item = (i32, &Attempt)> {
        self.attempts.range((job, 0)..=(job, i32::MAX)).map(|((_, number), attempt)| (*number, attempt))
    }
}

/// What is wrong with a history that ended in this state: a sentence each. The clients went on until no job could be claimed any more.
pub(super) fn check(history: &[Event], state: &State) -> Vec<String> {
    let check = Check { history, state };
    let jobs = [check.lost(), check.unasked(), check.repeated(), check.parents(), check.stopped(), check.cancelled(), check.deleted()];
    let attempts = [check.numbers(), check.completions(), check.resources(), check.leases(), check.fetched(), check.budgets()];
    jobs.into_iter().chain(attempts).chain([check.pulses()]).flatten().collect()
}

/// What too little was seen of in a history for it to tell anything: where all is unknown, nothing is wrong.
pub(super) fn unseen(history: &[Event]) -> Vec<String> {
    let check = Check { history, state: &State::default() };
    let accepted = |endings: &[Ending]| check.accepted().filter(|(.., ending)| endings.contains(ending)).count();
    let answered = |is_it: fn(&Operation, &Outcome) -> bool| history.iter().filter(|event| is_it(&event.operation, &event.outcome)).count();
    let seen = [
        ("completions", accepted(&[Ending::Complete]), 30),
        ("failures", accepted(&[Ending::Fail, Ending::GiveUp]), 3),
        ("releases", accepted(&[Ending::Release, Ending::Decline]), 3),
        ("beginnings", answered(|asked, told| matches!((asked, told), (Operation::Start { .. }, Outcome::Extended { .. }))), 10),
        ("heartbeats", answered(|asked, told| matches!((asked, told), (Operation::Beat { .. }, Outcome::Extended { .. }))), 3),
        ("heartbeats of clients", answered(|_, told| matches!(told, Outcome::Beaten { .. })), 3),
        ("cancellations", answered(|asked, told| matches!((asked, told), (Operation::Cancel { .. }, Outcome::Became { .. }))), 3),
        (
            "reports that came too late",
            answered(|asked, told| matches!((asked, told), (Operation::Report { .. }, Outcome::Refused(409)))),
            1,
        ),
        ("fetched jobs", answered(|_, told| matches!(told, Outcome::Fetched(Some(_)))), 3),
    ];
    let few = seen.into_iter().filter(|(_, count, least)| count < least);
    few.map(|(what, count, least)| format!("Of {what} there were only {count}, and {least} are expected.")).collect()
}

struct Check<'a> {
    history: &'a [Event],
    state: &'a State,
}

/// That somebody was given a job, and with which attempt if they were told.
struct Given<'a> {
    event: &'a Event,
    to: &'a str,
    job: i64,
    attempt: Option<i32>,
}

impl std::fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.attempt {
            Some(attempt) => write!(f, "Job {} was given to {} (attempt {attempt})", self.job, self.to),
            None => write!(f, "Job {} was given to {}", self.job, self.to),
        }
    }
}

impl<'a> Check<'a> {
    /// What was claimed, with what brought it and for whom.
    fn offers(&self) -> impl Iterator<Item = (&'a Event, &'a str, &'a Offer)> {
        self.history.iter().flat_map(|event| {
            let (client, offers) = match (&event.operation, &event.outcome) {
                (Operation::Claim { client, .. }, Outcome::Claimed(offers)) => (client.as_str(), offers.as_slice()),
                _ => ("", [].as_slice()),
            };
            offers.iter().map(move |offer| (event, client, offer))
        })
    }

    /// What was claimed or fetched.
    fn given(&self) -> impl Iterator<Item = Given<'a>> {
        let fetched = self.history.iter().filter_map(|event| match event.outcome {
            Outcome::Fetched(Some(job)) => Some(Given { event, to: "who fetched it", job, attempt: None }),
            _ => None,
        });
        self.offers().map(|(event, to, offer)| Given { event, to, job: offer.job, attempt: Some(offer.attempt) }).chain(fetched)
    }

    /// Leases that were extended, or attempts that need not be extended because they are to be given up.
    fn extended(&self) -> impl Iterator<Item = (&'a Event, Lease)> {
        self.history.iter().flat_map(|event| {
            let leases = match (&event.operation, &event.outcome) {
                (Operation::Beat { job, attempt } | Operation::Start { job, attempt }, Outcome::Extended { until, cancel_requested }) => {
                    vec![Lease { job: *job, attempt: *attempt, until: *until, cancel_requested: *cancel_requested }]
                }
                (_, Outcome::Beaten { leases, .. }) => leases.clone(),
                _ => Vec::new(),
            };
            leases.into_iter().map(move |lease| (event, lease))
        })
    }

    /// Reports that were accepted.
    fn accepted(&self) -> impl Iterator<Item = (&'a Event, i64, i32, Ending)> {
        self.history.iter().filter_map(|event| match (&event.operation, &event.outcome) {
            (Operation::Report { job, attempt, ending }, Outcome::Accepted) => Some((event, *job, *attempt, *ending)),
            _ => None,
        })
    }

    /// What was done, or may have been.
    fn possible(&self) -> impl Iterator<Item = &'a Event> {
        self.history.iter().filter(|event| !matches!(event.outcome, Outcome::Refused(_)))
    }

    /// The reports that were accepted, or may have been.
    fn possible_reports(&self) -> impl Iterator<Item = (i64, i32, Ending)> {
        self.possible().filter_map(|event| match event.operation {
            Operation::Report { job, attempt, ending } => Some((job, attempt, ending)),
            _ => None,
        })
    }

    /// The jobs with which something was done, or may have been, that has no name but the job's.
    fn possibly(&self, is_it: impl Fn(&Operation) -> Option<i64>) -> BTreeSet<i64> {
        self.possible().filter_map(|event| is_it(&event.operation)).collect()
    }

    /// The jobs that the published client may have completed.
    fn possibly_done(&self) -> BTreeSet<i64> {
        self.possibly(|operation| if let Operation::Done { job } = operation { Some(*job) } else { None })
    }

    fn possibly_deleted(&self) -> BTreeSet<i64> {
        self.possibly(|operation| if let Operation::Delete { job } = operation { Some(*job) } else { None })
    }

    /// When each job may have been allowed to run again: from and to.
    fn possible_retries(&self) -> Retries {
        let mut retries = Retries { tasks: self.state.jobs.iter().map(|(id, job)| (*id, job.task)).collect(), ..Retries::default() };
        for event in self.possible() {
            let time = (event.invoked, event.done_by());
            match event.operation {
                Operation::Retry { job } => retries.of_jobs.entry(job).or_default().push(time),
                Operation::RetryAll { task, .. } => retries.of_tasks.push((task, time)),
                _ => {}
            }
        }
        retries
    }
}

#[derive(Default)]
struct Retries {
    of_jobs: BTreeMap<i64, Vec<(Duration, Duration)>>,
    of_tasks: Vec<(i64, (Duration, Duration))>,
    /// Of the jobs that are known.
    tasks: BTreeMap<i64, i64>,
}

impl Retries {
    /// Those of a job.
    fn of(&self, job: i64) -> impl Iterator<Item = (Duration, Duration)> {
        let own = self.tasks.get(&job).copied();
        let of_task = self.of_tasks.iter().filter(move |(task, _)| own.is_none_or(|own| own == *task)).map(|(_, time)| time);
        self.of_jobs.get(&job).into_iter().flatten().chain(of_task).copied()
    }

    /// Whether there may have been one in this time.
    fn any(&self, job: i64, from: Duration, to: Duration) -> bool {
        self.of(job).any(|(invoked, ended)| ended >= from && invoked <= to)
    }
}
