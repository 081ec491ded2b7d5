//! Whether a history can have happened on a queue that keeps its promises: no I/O.
//!
//! Leases and resources are compared by the database's times, which are of one clock; what came before what among requests, by the test's own: an
//! operation came before another one if its answer was there before the other was sent. What is unknown may have happened or not, at any time after it
//! was sent, so nothing is concluded from it, except that it excuses what else nobody asked for.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use super::log::{Ending, Event, Offer, Operation, Outcome};

/// What is in the database in the end.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) jobs: BTreeMap<i64, Job>,
    /// By job and number.
    pub(super) attempts: BTreeMap<(i64, i32), Attempt>,
    /// What each client has.
    pub(super) clients: BTreeMap<String, i64>,
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) status: String,
    pub(super) attempt: i32,
    pub(super) parents: Vec<i64>,
}

#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) client: String,
    pub(super) status: String,
    pub(super) cpu: i64,
    pub(super) claimed_at: DateTime<Utc>,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

impl State {
    pub(super) async fn read(client: &Client) -> Self {
        let mut state = Self::default();
        let jobs = "select id, status, attempt, array(select depends_on from dependencies d where d.job_id = j.id) as parents from jobs j";
        for row in client.query(jobs, &[]).await.unwrap() {
            let job = Job { status: row.get("status"), attempt: row.get("attempt"), parents: row.get("parents") };
            state.jobs.insert(row.get("id"), job);
        }
        let attempts = "select job_id, number, client_id, status, cpu::bigint as cpu, claimed_at, ended_at from attempts";
        for row in client.query(attempts, &[]).await.unwrap() {
            let attempt = Attempt {
                client: row.get("client_id"),
                status: row.get("status"),
                cpu: row.get("cpu"),
                claimed_at: row.get("claimed_at"),
                ended_at: row.get("ended_at"),
            };
            state.attempts.insert((row.get("job_id"), row.get("number")), attempt);
        }
        for row in client.query("select id, available_cpu::bigint as cpu from clients", &[]).await.unwrap() {
            state.clients.insert(row.get("id"), row.get("cpu"));
        }
        state
    }
}

/// What is wrong with a history that ended in this state: a sentence each. The clients went on until no job could be claimed any more.
pub(super) fn check(history: &[Event], state: &State) -> Vec<String> {
    let check = Check { history, state };
    [check.lost(), check.unasked(), check.numbers(), check.completions(), check.parents(), check.resources(), check.leases()].concat()
}

struct Check<'a> {
    history: &'a [Event],
    state: &'a State,
}

/// An offer, with what brought it.
type Offered<'a> = (&'a Event, &'a str, &'a Offer);

impl<'a> Check<'a> {
    fn offers(&self) -> impl Iterator<Item = Offered<'a>> {
        self.history.iter().flat_map(|event| {
            let (client, offers) = match (&event.operation, &event.outcome) {
                (Operation::Claim { client }, Outcome::Claimed(offers)) => (client.as_str(), offers.as_slice()),
                _ => ("", [].as_slice()),
            };
            offers.iter().map(move |offer| (event, client, offer))
        })
    }

    fn accepted(&self) -> impl Iterator<Item = (&'a Event, i64, i32, Ending)> {
        self.history.iter().filter_map(|event| match (&event.operation, &event.outcome) {
            (Operation::Report { job, attempt, ending }, Outcome::Accepted) => Some((event, *job, *attempt, *ending)),
            _ => None,
        })
    }

    /// What somebody was told is done stays done, and everything is done in the end.
    fn lost(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for event in self.history {
            let (Operation::Submit { parents }, Outcome::Submitted(id)) = (&event.operation, &event.outcome) else { continue };
            match self.state.jobs.get(id) {
                None => wrong.push(format!("Job {id} is lost: it was submitted, and is not there in the end.")),
                Some(job) => {
                    let (kept, given): (BTreeSet<_>, BTreeSet<_>) = (job.parents.iter().collect(), parents.iter().collect());
                    if kept != given {
                        wrong.push(format!("Job {id} was submitted to wait for {given:?}, and waits for {kept:?}."));
                    }
                }
            }
        }
        for (_, client, Offer { job, attempt, .. }) in self.offers() {
            match self.state.attempts.get(&(*job, *attempt)) {
                None => wrong.push(format!("Attempt {attempt} of job {job} is lost: client {client} was given it.")),
                Some(kept) if kept.client != client => {
                    wrong.push(format!("Attempt {attempt} of job {job} was given to client {client}, and is noted for {}.", kept.client));
                }
                Some(_) => {}
            }
        }
        for (_, job, attempt, ending) in self.accepted() {
            let status = self.state.attempts.get(&(job, attempt)).map_or("not there", |kept| kept.status.as_str());
            if status != ending.status() {
                wrong.push(format!(
                    "A report of attempt {attempt} of job {job} was accepted ({ending:?}), and the attempt is {status} in the end."
                ));
            }
        }
        for (id, job) in &self.state.jobs {
            let completed = self.state.attempts.range((*id, 0)..=(*id, i32::MAX)).any(|(_, attempt)| attempt.status == "COMPLETED");
            match job.status.as_str() {
                "COMPLETED" if !completed => wrong.push(format!("Job {id} is COMPLETED, and none of its attempts is.")),
                "COMPLETED" | "FAILED" | "BLOCKED" => {}
                status => wrong.push(format!("Job {id} is stuck: nobody was given it any more, and it is {status}.")),
            }
        }
        wrong
    }

    /// Nothing is there that nobody asked for.
    fn unasked(&self) -> Vec<String> {
        let mut told = BTreeSet::new();
        let mut wrong = Vec::new();
        let mut unknown = 0;
        for event in self.history {
            match (&event.operation, &event.outcome) {
                (_, Outcome::Submitted(id)) if !told.insert(*id) => wrong.push(format!("Two were told that job {id} is theirs.")),
                (Operation::Submit { .. }, Outcome::Unknown) => unknown += 1,
                _ => {}
            }
        }
        let others = self.state.jobs.keys().filter(|id| !told.contains(id)).count();
        if others > unknown {
            wrong.push(format!("{others} jobs are there whose submitters were not told so, and only for {unknown} is it unknown."));
        }
        let mut reports: BTreeSet<(i64, i32, &str)> = BTreeSet::new();
        for event in self.history {
            if let (Operation::Report { job, attempt, ending }, Outcome::Accepted | Outcome::Unknown) = (&event.operation, &event.outcome) {
                reports.insert((*job, *attempt, ending.status()));
            }
        }
        for ((job, number), attempt) in &self.state.attempts {
            // A server releases what it could not deliver, and ends what expired.
            if matches!(attempt.status.as_str(), "COMPLETED" | "FAILED") && !reports.contains(&(*job, *number, &attempt.status)) {
                wrong.push(format!("Attempt {number} of job {job} is {}, and nobody reported that.", attempt.status));
            }
        }
        wrong
    }

    /// Attempts count 1, 2, 3 …, and each is given out once.
    fn numbers(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut of_jobs: HashMap<i64, Vec<Offered<'_>>> = HashMap::new();
        for offered in self.offers() {
            of_jobs.entry(offered.2.job).or_default().push(offered);
        }
        for (job, mut offers) in of_jobs {
            offers.sort_by_key(|(event, _, offer)| (offer.attempt, event.invoked));
            for pair in offers.windows(2).filter(|pair| pair[0].2.attempt == pair[1].2.attempt) {
                let (one, other, attempt) = (pair[0].1, pair[1].1, pair[1].2.attempt);
                wrong.push(format!("Attempt {attempt} of job {job} was given out twice: to {one} and to {other}."));
            }
            // From the last to the first: the earliest answer that gave out a later attempt.
            let mut later: Option<Offered<'_>> = None;
            for offered in offers.into_iter().rev() {
                let (event, client, Offer { attempt, .. }) = offered;
                if let Some((answered, other, Offer { attempt: after, .. })) = later
                    && answered.ended < event.invoked
                    && after > attempt
                {
                    wrong
                        .push(format!("Attempts of job {job} do not increase: {after} was given to {other} before {attempt} to {client}."));
                }
                if later.is_none_or(|(answered, ..)| event.ended < answered.ended) {
                    later = Some(offered);
                }
            }
        }
        for (id, job) in &self.state.jobs {
            let numbers: Vec<i32> = self.state.attempts.range((*id, 0)..=(*id, i32::MAX)).map(|((_, number), _)| *number).collect();
            if !numbers.iter().copied().eq(1..=job.attempt) {
                wrong.push(format!("Job {id} is at attempt {}, and those that are noted are {numbers:?}.", job.attempt));
            }
        }
        wrong
    }

    /// At most one completion of a job is accepted, and nobody is given it after that.
    fn completions(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut accepted: BTreeMap<i64, BTreeMap<i32, Duration>> = BTreeMap::new();
        for (event, job, attempt, _) in self.accepted().filter(|(.., ending)| *ending == Ending::Complete) {
            let first = accepted.entry(job).or_default().entry(attempt).or_insert(event.ended);
            *first = event.ended.min(*first);
        }
        for (job, attempts) in &accepted {
            if attempts.len() > 1 {
                let attempts: Vec<String> = attempts.keys().map(i32::to_string).collect();
                wrong.push(format!("More than one completion of job {job} was accepted: of attempts {}.", attempts.join(" and ")));
            }
        }
        for (event, client, Offer { job, attempt, .. }) in self.offers() {
            let completed = accepted.get(job).and_then(|attempts| attempts.values().min());
            if completed.is_some_and(|completed| *completed < event.invoked) {
                wrong.push(format!("Job {job} was given to client {client} (attempt {attempt}) after its completion had been accepted."));
            }
        }
        let mut kept: BTreeMap<i64, usize> = BTreeMap::new();
        for ((job, _), _) in self.state.attempts.iter().filter(|(_, attempt)| attempt.status == "COMPLETED") {
            *kept.entry(*job).or_default() += 1;
        }
        wrong.extend(kept.iter().filter(|(_, count)| **count > 1).map(|(job, count)| format!("Job {job} has {count} completed attempts.")));
        wrong
    }

    /// Nobody is given a job before all that it waits for has completed.
    fn parents(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut reported: HashMap<i64, Duration> = HashMap::new();
        for event in self.history {
            if let (Operation::Report { job, ending: Ending::Complete, .. }, Outcome::Accepted | Outcome::Unknown) =
                (&event.operation, &event.outcome)
            {
                let first = reported.entry(*job).or_insert(event.invoked);
                *first = event.invoked.min(*first);
            }
        }
        let parents = |job: &i64| self.state.jobs.get(job).map(|job| job.parents.as_slice()).unwrap_or_default();
        for (event, client, Offer { job, attempt, .. }) in self.offers() {
            for parent in parents(job) {
                if reported.get(parent).is_none_or(|sent| *sent > event.ended) {
                    wrong.push(format!("Job {job} (attempt {attempt}) was given to {client} before anybody had completed job {parent}."));
                }
            }
        }
        for ((job, number), attempt) in &self.state.attempts {
            for parent in parents(job) {
                let before =
                    |(_, kept): (_, &Attempt)| kept.status == "COMPLETED" && kept.ended_at.is_some_and(|ended| ended <= attempt.claimed_at);
                if !self.state.attempts.range((*parent, 0)..=(*parent, i32::MAX)).any(before) {
                    wrong
                        .push(format!("Attempt {number} of job {job} was claimed before job {parent}, which it waits for, had completed."));
                }
            }
        }
        wrong
    }

    /// At no time do a client's attempts hold more than it has.
    fn resources(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (client, has) in &self.state.clients {
            let mut changes = Vec::new();
            for ((job, _), attempt) in self.state.attempts.iter().filter(|(_, attempt)| attempt.client == *client) {
                changes.push((attempt.claimed_at, attempt.cpu, *job));
                changes.extend(attempt.ended_at.map(|ended| (ended, -attempt.cpu, *job)));
            }
            // What ends is free for what begins at the same time.
            changes.sort_unstable();
            let mut held = 0;
            for (at, cpu, job) in changes {
                held += cpu;
                if cpu > 0 && held > *has {
                    wrong.push(format!("Client {client} has {has} CPUs and held {held} from {at} on, with job {job}."));
                }
            }
        }
        wrong
    }

    /// A job is somebody's own until its lease ends or is given up: nobody else gets it before.
    fn leases(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut told: HashMap<(i64, i32), DateTime<Utc>> = HashMap::new();
        let mut tell = |job: i64, attempt: i32, until: DateTime<Utc>| {
            let last = told.entry((job, attempt)).or_insert(until);
            *last = until.max(*last);
        };
        self.offers().for_each(|(_, _, offer)| tell(offer.job, offer.attempt, offer.lease_expires_at));
        let mut released = BTreeSet::new();
        for event in self.history {
            match (&event.operation, &event.outcome) {
                (Operation::Beat { job, attempt }, Outcome::Extended(until)) => tell(*job, *attempt, *until),
                (Operation::Report { job, attempt, ending: Ending::Release }, Outcome::Accepted | Outcome::Unknown) => {
                    released.insert((*job, *attempt));
                }
                _ => {}
            }
        }
        for ((job, number), attempt) in &self.state.attempts {
            let until = told.get(&(*job, *number));
            if let (Some(until), Some(ended), "EXPIRED") = (until, attempt.ended_at, attempt.status.as_str())
                && ended < *until
            {
                wrong.push(format!(
                    "Attempt {number} of job {job} was ended at {ended}, within the lease until {until} that {} was told of.",
                    attempt.client
                ));
            }
            if until.is_some() && attempt.status == "RELEASED" && !released.contains(&(*job, *number)) {
                wrong.push(format!("Attempt {number} of job {job} was taken from {}, who had received it.", attempt.client));
            }
            let Some(next) = self.state.attempts.get(&(*job, number + 1)) else { continue };
            if attempt.ended_at.is_none_or(|ended| next.claimed_at < ended) {
                let (one, other) = (&attempt.client, &next.client);
                wrong.push(format!("Job {job} was given to {other} (attempt {}) while attempt {number} was still {one}'s.", number + 1));
            }
        }
        wrong
    }
}
