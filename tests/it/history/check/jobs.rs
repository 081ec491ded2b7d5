//! Rules of what becomes of jobs.

use super::*;

impl Check<'_> {
    /// What somebody was told is done stays done, and everything is done in the end.
    pub(super) fn lost(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let (done, deleted) = (self.possibly_done(), self.possibly_deleted());
        for event in self.history {
            let (Operation::Submit { jobs, .. }, Outcome::Submitted(ids)) = (&event.operation, &event.outcome) else { continue };
            if jobs.len() != ids.len() {
                wrong.push(format!("{} jobs were submitted together, and {} were told.", jobs.len(), ids.len()));
            }
            for (New { name, parents, .. }, id) in jobs.iter().zip(ids) {
                match self.state.jobs.get(id) {
                    None if deleted.contains(id) => {}
                    None => wrong.push(format!("Job {id} is lost: it was submitted, and is not there in the end.")),
                    Some(job) if job.name != *name => wrong.push(format!("Job {id} was submitted as {name}, and is {}.", job.name)),
                    Some(job) => {
                        let (kept, given): (BTreeSet<_>, BTreeSet<_>) = (job.parents.iter().collect(), parents.iter().collect());
                        if !kept.is_subset(&given) || given.difference(&kept).any(|parent| !deleted.contains(parent)) {
                            wrong.push(format!("Job {id} was submitted to wait for {given:?}, and waits for {kept:?}."));
                        }
                    }
                }
            }
        }
        for (_, client, Offer { job, attempt, .. }) in self.offers() {
            match self.state.attempts.get(&(*job, *attempt)) {
                None if deleted.contains(job) => {}
                None => wrong.push(format!("Attempt {attempt} of job {job} is lost: client {client} was given it.")),
                Some(kept) if kept.client.as_deref() != Some(client) => {
                    let other = kept.client.as_deref().unwrap_or("nobody");
                    wrong.push(format!("Attempt {attempt} of job {job} was given to client {client}, and is noted for {other}."));
                }
                Some(_) => {}
            }
        }
        for (_, job, attempt, ending) in self.accepted().filter(|(_, job, ..)| !deleted.contains(job)) {
            let status = self.state.attempts.get(&(job, attempt)).map_or("not there", |kept| kept.status.as_str());
            if status != ending.status() {
                wrong.push(format!(
                    "A report of attempt {attempt} of job {job} was accepted ({ending:?}), and the attempt is {status} in the end."
                ));
            }
        }
        for (id, job) in &self.state.jobs {
            let is_completed = done.contains(id) || self.state.attempts_of(*id).any(|(_, attempt)| attempt.status == "COMPLETED");
            match job.status.as_str() {
                "COMPLETED" if !is_completed => wrong.push(format!("Job {id} is COMPLETED, and none of its attempts is.")),
                "COMPLETED" | "FAILED" | "BLOCKED" | "CANCELLED" => {}
                status => wrong.push(format!("Job {id} is stuck: nobody was given it any more, and it is {status}.")),
            }
        }
        wrong
    }

    /// Nothing is there that nobody asked for.
    pub(super) fn unasked(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let done = self.possibly_done();
        let names: BTreeSet<&str> = self
            .possible()
            .filter_map(|event| if let Operation::Submit { jobs, .. } = &event.operation { Some(jobs) } else { None })
            .flatten()
            .map(|new| new.name.as_str())
            .collect();
        for (id, job) in self.state.jobs.iter().filter(|(_, job)| !names.contains(job.name.as_str())) {
            wrong.push(format!("Job {id} ({}) is there, and nobody can have submitted it.", job.name));
        }
        let reports: BTreeSet<(i64, i32, &str)> =
            self.possible_reports().map(|(job, attempt, ending)| (job, attempt, ending.status())).collect();
        for ((job, number), attempt) in &self.state.attempts {
            // A server releases what it could not deliver, and ends what expired.
            let status = attempt.status.as_str();
            let is_asked = reports.contains(&(*job, *number, status)) || status == "COMPLETED" && done.contains(job);
            if matches!(status, "COMPLETED" | "FAILED") && !is_asked {
                wrong.push(format!("Attempt {number} of job {job} is {status}, and nobody reported that."));
            }
        }
        wrong
    }

    /// What was submitted is there once, however often it was sent; a batch is there as a whole or not at all.
    pub(super) fn repeated(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut by_name: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for (id, job) in &self.state.jobs {
            by_name.entry(&job.name).or_default().push(*id);
        }
        for (name, ids) in by_name.iter().filter(|(_, ids)| ids.len() > 1) {
            wrong.push(format!("{name} was submitted once, and is there as jobs {ids:?}."));
        }
        let (mut answers, mut owners): (BTreeMap<&str, &Vec<i64>>, BTreeMap<i64, &str>) = Default::default();
        for event in self.history {
            if let (Operation::Submit { key: Some(key), .. }, Outcome::Submitted(ids)) = (&event.operation, &event.outcome) {
                answers.entry(key).or_insert(ids);
            }
        }
        for event in self.history {
            let Operation::Submit { jobs, key } = &event.operation else { continue };
            match &event.outcome {
                Outcome::Submitted(ids) => {
                    let first = key.as_deref().and_then(|key| answers.get(key).copied()).unwrap_or(ids);
                    if first != ids {
                        wrong.push(format!("What was submitted with one key was answered with jobs {first:?} and with {ids:?}."));
                    }
                    for (new, id) in jobs.iter().zip(ids) {
                        let owner = owners.entry(*id).or_insert(&new.name);
                        if *owner != new.name {
                            wrong.push(format!("Two were told that job {id} is theirs: {owner} and {}.", new.name));
                        }
                    }
                }
                Outcome::Unknown => {
                    let there = jobs.iter().filter(|new| by_name.contains_key(new.name.as_str())).count();
                    // Nobody deletes what nobody was told of; another answer may have told it.
                    let is_told = key.as_ref().is_some_and(|key| answers.contains_key(key.as_str()));
                    if there != 0 && there != jobs.len() && !is_told {
                        wrong.push(format!("Of a batch with {} only {there} of {} jobs are there.", jobs[0].name, jobs.len()));
                    }
                }
                _ => {}
            }
        }
        wrong
    }

    /// Nobody is given a job before all that it waits for has completed.
    pub(super) fn parents(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let done = self.possibly_done();
        let mut reported: BTreeMap<i64, Duration> = BTreeMap::new();
        for event in self.possible() {
            if let Operation::Report { job, ending: Ending::Complete, .. } | Operation::Done { job } = event.operation {
                let first = reported.entry(job).or_insert(event.invoked);
                *first = event.invoked.min(*first);
            }
        }
        let parents = |job: i64| self.state.jobs.get(&job).map(|job| job.parents.as_slice()).unwrap_or_default();
        for given in self.given() {
            for parent in parents(given.job) {
                if reported.get(parent).is_none_or(|sent| *sent > given.event.ended) {
                    wrong.push(format!("{given} before anybody had completed job {parent}."));
                }
            }
        }
        for ((job, number), attempt) in &self.state.attempts {
            for parent in parents(*job).iter().filter(|parent| !done.contains(parent)) {
                let before =
                    |(_, kept): (_, &Attempt)| kept.status == "COMPLETED" && kept.ended_at.is_some_and(|ended| ended <= attempt.claimed_at);
                if !self.state.attempts_of(*parent).any(before) {
                    wrong
                        .push(format!("Attempt {number} of job {job} was claimed before job {parent}, which it waits for, had completed."));
                }
            }
        }
        wrong
    }

    /// What stopped has a reason: a job FAILED when nothing is left to try, is BLOCKED by one that stopped, and CANCELLED by somebody.
    pub(super) fn stopped(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let given_up: BTreeSet<(i64, i32)> =
            self.possible_reports().filter(|(.., ending)| *ending == Ending::GiveUp).map(|(job, attempt, _)| (job, attempt)).collect();
        let mut cancelled: BTreeMap<i64, Duration> = BTreeMap::new();
        for event in self.possible() {
            if let Operation::Cancel { job } = event.operation {
                let last = cancelled.entry(job).or_default();
                *last = event.done_by().max(*last);
            }
        }
        let mut retried: BTreeMap<i64, Vec<(Duration, &str, i32)>> = BTreeMap::new();
        for event in self.history {
            if let (Operation::Retry { job }, Outcome::Became { status, attempt }) = (&event.operation, &event.outcome) {
                retried.entry(*job).or_default().push((event.invoked, status.as_str(), *attempt));
            }
        }
        for (id, job) in &self.state.jobs {
            let retries = retried.get(id).map(Vec::as_slice).unwrap_or_default();
            match job.status.as_str() {
                "FAILED" => {
                    if !given_up.contains(&(*id, job.attempt)) && job.failed_attempts < job.max_attempts {
                        let Job { failed_attempts, max_attempts, .. } = job;
                        wrong.push(format!("Job {id} FAILED after {failed_attempts} of {max_attempts} attempts."));
                    }
                    if retries.iter().any(|(_, status, attempt)| *status == "PENDING" && *attempt == job.attempt) {
                        wrong.push(format!("Job {id} was to run again, and FAILED without another attempt."));
                    }
                }
                "BLOCKED" => {
                    let stopped = |parent: &i64| {
                        self.state
                            .jobs
                            .get(parent)
                            .is_some_and(|parent| matches!(parent.status.as_str(), "FAILED" | "CANCELLED" | "BLOCKED"))
                    };
                    if !job.parents.iter().any(stopped) {
                        wrong.push(format!("Job {id} is BLOCKED, and nothing that it waits for has stopped."));
                    }
                }
                "CANCELLED" => {
                    let last = retries.iter().map(|(invoked, ..)| *invoked).max().unwrap_or_default();
                    if cancelled.get(id).is_none_or(|cancelled| *cancelled < last) {
                        wrong.push(format!("Job {id} is CANCELLED, and nobody did that since it was to run."));
                    }
                }
                _ => {}
            }
        }
        wrong
    }

    /// Nobody is given a job that was cancelled, unless it was to run again, and whoever has it is told.
    pub(super) fn cancelled(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let (retries, done) = (self.possible_retries(), self.possibly_done());
        let mut cancels: BTreeMap<i64, Vec<&Event>> = BTreeMap::new();
        let mut told: BTreeMap<(i64, i32), Duration> = BTreeMap::new();
        for event in self.history {
            let (Operation::Cancel { job }, Outcome::Became { status, attempt }) = (&event.operation, &event.outcome) else { continue };
            cancels.entry(*job).or_default().push(event);
            if matches!(status.as_str(), "QUEUED" | "RUNNING") && !retries.any(*job, event.invoked, event.ended) {
                let first = told.entry((*job, *attempt)).or_insert(event.ended);
                *first = event.ended.min(*first);
            }
        }
        for given in self.given() {
            let before =
                |cancel: &&&Event| cancel.ended < given.event.invoked && !retries.any(given.job, cancel.invoked, given.event.ended);
            if cancels.get(&given.job).into_iter().flatten().any(|cancel| before(&cancel)) {
                wrong.push(format!("{given} after it had been cancelled."));
            }
        }
        for (event, Lease { job, attempt, .. }) in self.extended().filter(|(_, lease)| !lease.cancel_requested) {
            if told.get(&(job, attempt)).is_some_and(|cancelled| *cancelled < event.invoked) {
                wrong.push(format!("Attempt {attempt} of job {job} was not told that the job had been cancelled."));
            }
        }
        for (id, cancels) in cancels.iter().filter(|(id, _)| !done.contains(id)) {
            let status = self.state.jobs.get(id).map_or("CANCELLED", |job| job.status.as_str());
            let is_final = cancels.iter().any(|cancel| !retries.any(*id, cancel.invoked, Duration::MAX));
            if is_final && !matches!(status, "CANCELLED" | "COMPLETED") {
                wrong.push(format!("Job {id} was cancelled, and is {status} in the end."));
            }
        }
        wrong
    }

    /// What was deleted is not there, and nobody is given it.
    pub(super) fn deleted(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut deleted: BTreeMap<i64, Duration> = BTreeMap::new();
        for event in self.history {
            if let (Operation::Delete { job }, Outcome::Accepted) = (&event.operation, &event.outcome) {
                deleted.insert(*job, event.ended);
            }
        }
        for id in deleted.keys().filter(|id| self.state.jobs.contains_key(id)) {
            wrong.push(format!("Job {id} was deleted, and is there in the end."));
        }
        for given in self.given() {
            if deleted.get(&given.job).is_some_and(|deleted| *deleted < given.event.invoked) {
                wrong.push(format!("{given} after it had been deleted."));
            }
        }
        wrong
    }
}
