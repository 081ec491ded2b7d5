//! Rules of attempts: who has a job, until when, and how often.

use super::*;

impl Check<'_> {
    /// Attempts count 1, 2, 3 …, and each is given out once.
    pub(super) fn numbers(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut of_jobs: BTreeMap<i64, Vec<_>> = BTreeMap::new();
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
            let mut later: Option<(&Event, &str, &Offer)> = None;
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
            let numbers: Vec<i32> = self.state.attempts_of(*id).map(|(number, _)| number).collect();
            if !numbers.iter().copied().eq(1..=job.attempt) {
                wrong.push(format!("Job {id} is at attempt {}, and those that are noted are {numbers:?}.", job.attempt));
            }
        }
        wrong
    }

    /// At most one completion of a job is accepted, and nobody is given it after that.
    pub(super) fn completions(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut accepted: BTreeMap<i64, BTreeSet<i32>> = BTreeMap::new();
        let mut completed: BTreeMap<i64, Duration> = BTreeMap::new();
        let mut complete = |job: i64, event: &Event| {
            let first = completed.entry(job).or_insert(event.ended);
            *first = event.ended.min(*first);
        };
        for (event, job, attempt, _) in self.accepted().filter(|(.., ending)| *ending == Ending::Complete) {
            accepted.entry(job).or_default().insert(attempt);
            complete(job, event);
        }
        for event in self.history {
            if let (Operation::Done { job }, Outcome::Accepted) = (&event.operation, &event.outcome) {
                complete(*job, event);
            }
        }
        for (job, attempts) in accepted.iter().filter(|(_, attempts)| attempts.len() > 1) {
            let attempts: Vec<String> = attempts.iter().map(i32::to_string).collect();
            wrong.push(format!("More than one completion of job {job} was accepted: of attempts {}.", attempts.join(" and ")));
        }
        for given in self.given() {
            if completed.get(&given.job).is_some_and(|completed| *completed < given.event.invoked) {
                wrong.push(format!("{given} after its completion had been accepted."));
            }
        }
        let mut kept: BTreeMap<i64, usize> = BTreeMap::new();
        for ((job, _), _) in self.state.attempts.iter().filter(|(_, attempt)| attempt.status == "COMPLETED") {
            *kept.entry(*job).or_default() += 1;
        }
        wrong.extend(kept.iter().filter(|(_, count)| **count > 1).map(|(job, count)| format!("Job {job} has {count} completed attempts.")));
        wrong
    }

    /// At no time do a client's attempts hold more than it has.
    pub(super) fn resources(&self) -> Vec<String> {
        type Part = fn(&Room) -> i64;
        let mut wrong = Vec::new();
        let kinds: [(&str, Part); 2] = [("CPUs", |room| room.cpu), ("accelerators", |room| room.accelerators)];
        for ((client, room), (kind, of)) in self.state.clients.iter().flat_map(|client| kinds.map(|kind| (client, kind))) {
            let mut changes = Vec::new();
            for ((job, _), attempt) in self.state.attempts.iter().filter(|(_, attempt)| attempt.client.as_ref() == Some(client)) {
                changes.push((attempt.claimed_at, of(&attempt.needs), *job));
                changes.extend(attempt.ended_at.map(|ended| (ended, -of(&attempt.needs), *job)));
            }
            // What ends is free for what begins at the same time.
            changes.sort_unstable();
            let (has, mut held) = (of(room), 0);
            for (at, needs, job) in changes {
                held += needs;
                if needs > 0 && held > has {
                    wrong.push(format!("Client {client} has {has} {kind} and held {held} from {at} on, with job {job}."));
                }
            }
        }
        wrong
    }

    /// A heartbeat of a client is about what is its own, and about all of that, or all of what it named.
    pub(super) fn pulses(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let deleted = self.possibly_deleted();
        let mut lived: BTreeMap<(i64, i32), Duration> = BTreeMap::new();
        for (event, Lease { job, attempt, .. }) in self.extended() {
            let last = lived.entry((job, attempt)).or_default();
            *last = event.invoked.max(*last);
        }
        for event in self.history {
            let (Operation::Pulse { client, named }, Outcome::Beaten { leases, over }) = (&event.operation, &event.outcome) else {
                continue;
            };
            let told: BTreeSet<(i64, i32)> = leases.iter().map(|lease| (lease.job, lease.attempt)).collect();
            for (job, attempt) in &told {
                let owner = self.state.attempts.get(&(*job, *attempt)).and_then(|kept| kept.client.as_ref());
                if owner != Some(client) && !deleted.contains(job) {
                    wrong.push(format!("Attempt {attempt} of job {job} was extended for {client}, who does not have it."));
                }
                if named.as_ref().is_some_and(|named| !named.contains(&(*job, *attempt))) {
                    wrong.push(format!("Attempt {attempt} of job {job} was extended, and {client} had not named it."));
                }
            }
            let own = self.offers().filter(|(offered, to, _)| to == client && offered.ended < event.invoked);
            let known: BTreeSet<(i64, i32)> = match named {
                Some(named) => named.iter().copied().collect(),
                None => own.map(|(.., offer)| (offer.job, offer.attempt)).collect(),
            };
            for (job, attempt) in known.difference(&told) {
                let is_own = self.state.attempts.get(&(*job, *attempt)).is_some_and(|kept| kept.client.as_ref() == Some(client));
                if is_own && lived.get(&(*job, *attempt)).is_some_and(|last| *last > event.ended) {
                    wrong.push(format!("Attempt {attempt} of job {job} was left out of a heartbeat of {client}, and lived on."));
                }
                if named.is_some() && !over.contains(&(*job, *attempt)) {
                    wrong.push(format!("Nothing was said of attempt {attempt} of job {job}, which {client} had named."));
                }
            }
        }
        wrong
    }

    /// A job is somebody's own until its lease ends or is given up: nobody else gets it before.
    pub(super) fn leases(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut told: BTreeMap<(i64, i32), DateTime<Utc>> = BTreeMap::new();
        let mut tell = |job: i64, attempt: i32, until: DateTime<Utc>| {
            let last = told.entry((job, attempt)).or_insert(until);
            *last = until.max(*last);
        };
        self.offers().for_each(|(_, _, offer)| tell(offer.job, offer.attempt, offer.lease_expires_at));
        self.extended().for_each(|(_, lease)| tell(lease.job, lease.attempt, lease.until));
        let released: BTreeSet<(i64, i32)> =
            self.possible_reports().filter(|(.., ending)| ending.status() == "RELEASED").map(|(job, attempt, _)| (job, attempt)).collect();
        for ((job, number), attempt) in &self.state.attempts {
            let client = attempt.client.as_deref().unwrap_or("nobody");
            let until = told.get(&(*job, *number));
            if let (Some(until), Some(ended), "EXPIRED") = (until, attempt.ended_at, attempt.status.as_str())
                && ended < *until
            {
                wrong.push(format!(
                    "Attempt {number} of job {job} was ended at {ended}, within the lease until {until} that {client} was told of."
                ));
            }
            if attempt.status == "EXPIRED"
                && attempt.lease_expires_at.is_none_or(|until| attempt.ended_at.is_none_or(|ended| ended < until))
            {
                wrong.push(format!("Attempt {number} of job {job} has EXPIRED, and its lease had not."));
            }
            if until.is_some() && attempt.status == "RELEASED" && !released.contains(&(*job, *number)) {
                wrong.push(format!("Attempt {number} of job {job} was taken from {client}, who had received it."));
            }
            let Some(next) = self.state.attempts.get(&(*job, number + 1)) else { continue };
            if attempt.ended_at.is_none_or(|ended| next.claimed_at < ended) {
                let other = next.client.as_deref().unwrap_or("nobody");
                wrong.push(format!("Job {job} was given to {other} (attempt {}) while attempt {number} was still {client}'s.", number + 1));
            }
        }
        wrong
    }

    /// Each job that was fetched is an attempt of its own, which is not taken back while who fetched it may have it.
    pub(super) fn fetched(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let deleted = self.possibly_deleted();
        let mut fetched: BTreeMap<i64, usize> = BTreeMap::new();
        for given in self.given().filter(|given| given.attempt.is_none() && !deleted.contains(&given.job)) {
            *fetched.entry(given.job).or_default() += 1;
        }
        for (job, times) in fetched {
            let kept = self.state.attempts_of(job).filter(|(_, attempt)| attempt.client.is_none() && attempt.status != "RELEASED").count();
            if kept < times {
                wrong.push(format!("Job {job} was fetched {times} times, and {kept} attempts were left to who fetched it."));
            }
        }
        wrong
    }

    /// What counts against a job's attempts is what failed, expired, or was declined, and never more than it has.
    pub(super) fn budgets(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let retries = self.possible_retries();
        for (id, job) in &self.state.jobs {
            let counts = |attempt: &Attempt| match attempt.status.as_str() {
                "FAILED" | "EXPIRED" => attempt.job_status.as_deref() != Some("CANCELLED"),
                "RELEASED" => attempt.reason.as_deref() == Some("unable") && attempt.job_status.as_deref() != Some("CANCELLED"),
                _ => false,
            };
            let used = self.state.attempts_of(*id).filter(|(_, attempt)| counts(attempt)).count();
            let (counted, most) = (usize::try_from(job.failed_attempts).unwrap_or(0), usize::try_from(job.max_attempts).unwrap_or(0));
            let times = retries.of(*id).count();
            if counted > used || times == 0 && counted < used {
                wrong.push(format!("Of job {id} {used} attempts went wrong, and {counted} are counted."));
            }
            if used > most.saturating_mul(1 + times) {
                wrong.push(format!("Of job {id} {used} attempts went wrong, and it has {most}."));
            }
        }
        wrong
    }
}
