//! A look for ready jobs: the most urgent of all tasks, without reading many of each.
//!
//! Any task may hold all of the most urgent ones, so each would have to be read that far. But the first of them is looked at that far, and the others have
//! their share of twice as many. Then only those can hold more whose share was used up before the last job that is wanted, which are half of them at most;
//! they are looked at again, from there on, with larger shares.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use super::{assign::Candidate, marks::Places, round::Round};
use crate::{
    postgres::{
        Row, Transaction,
        query::{Params, claims as sql},
    },
    queue::{Result, jobs::Resources},
};

/// What was found so far.
#[derive(Debug)]
struct Look {
    /// How many are wanted.
    limit: usize,
    /// The most urgent first.
    found: Vec<Candidate>,
}

impl Look {
    /// Adds what one statement found, each with how many of its task it read at most. Returns from where on which tasks may hold more.
    fn add(&mut self, rows: Vec<(Candidate, usize)>) -> Places {
        let mut tasks: HashMap<i64, (usize, usize, Candidate)> = HashMap::new();
        for (job, most) in &rows {
            let (count, _, last) = tasks.entry(job.task_id).or_insert((0, *most, *job));
            *count += 1;
            *last = *job;
        }
        // What became more urgent between two statements is there twice.
        let known: HashSet<i64> = self.found.iter().map(|job| job.id).collect();
        self.found.extend(rows.into_iter().map(|(job, _)| job).filter(|job| !known.contains(&job.id)));
        self.found.sort_by_key(place);
        self.found.truncate(self.limit);
        let end = self.found.get(self.limit - 1).map(place);
        let mut from = Places::default();
        for (task, (count, most, last)) in tasks {
            if count == most && end.is_none_or(|end| place(&last) < end) {
                from.0.push(task);
                from.1.push(last.rank);
                from.2.push(last.id + 1);
            }
        }
        from
    }
}

/// Where a job stands among all.
fn place(job: &Candidate) -> (i32, i64) {
    (job.rank, job.id)
}

impl Round<'_> {
    /// The most urgent ready jobs that could fit, so many at most.
    pub(super) async fn candidates(
        &self,
        transaction: &Transaction<'_>,
        profile: Resources,
        tasks: Option<&[i64]>,
        limit: usize,
    ) -> Result<Vec<Candidate>> {
        loop {
            let began = Instant::now();
            let marks = self.marks().arrays(began);
            let was_whole = marks.0.is_empty();
            let found = self.look(transaction, profile, tasks, limit, marks).await?;
            if found.is_empty() && !was_whole {
                // There may be something before the marks.
                self.marks().forget();
                continue;
            }
            self.marks().note(began, began.elapsed(), was_whole, found.iter().map(|job| (job.task_id, job.rank, job.id)));
            return Ok(found);
        }
    }

    async fn look(
        &self,
        transaction: &Transaction<'_>,
        profile: Resources,
        tasks: Option<&[i64]>,
        limit: usize,
        from: Places,
    ) -> Result<Vec<Candidate>> {
        let mut look = Look { limit, found: Vec::new() };
        let rows = self.read(transaction, profile, tasks, limit, &from).await?;
        let mut from = look.add(rows);
        while !from.0.is_empty() {
            let rows = self.read(transaction, profile, Some(&from.0), limit, &from).await?;
            from = look.add(rows);
        }
        Ok(look.found)
    }

    async fn read(
        &self,
        transaction: &Transaction<'_>,
        profile: Resources,
        tasks: Option<&[i64]>,
        limit: usize,
        (from_tasks, from_ranks, from_ids): &Places,
    ) -> Result<Vec<(Candidate, usize)>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params: Params<'_> = &[&self.project_id, &profile.cpu, &profile.accelerators, &tasks, &limit, from_tasks, from_ranks, from_ids];
        let rows = sql::CANDIDATES.all(transaction, params).await?;
        let candidate = |row: &Row| {
            let needs = Resources { cpu: row.get("required_cpu"), accelerators: row.get("required_accelerators") };
            let job = Candidate { id: row.get("id"), task_id: row.get("task_id"), rank: row.get("rank"), needs };
            (job, usize::try_from(row.get::<_, i64>("most")).unwrap_or(usize::MAX))
        };
        Ok(rows.iter().map(candidate).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `claims/candidates.sql` does with these jobs of each task; and how many it reads.
    fn read(
        jobs: &[Vec<Candidate>],
        limit: usize,
        from: &HashMap<i64, (i32, i64)>,
        only: Option<&[i64]>,
    ) -> (Vec<(Candidate, usize)>, usize) {
        let mut tasks: Vec<Vec<Candidate>> = (0..)
            .zip(jobs)
            .filter(|(task, _)| only.is_none_or(|only| only.contains(task)))
            .map(|(task, jobs)| jobs.iter().filter(|job| from.get(&task).is_none_or(|from| place(job) >= *from)).copied().collect())
            .filter(|jobs: &Vec<Candidate>| !jobs.is_empty())
            .collect();
        tasks.sort_by_key(|jobs| place(&jobs[0]));
        tasks.truncate(limit);
        let share = (2 * limit / tasks.len().max(1)).max(1);
        let mut rows = Vec::new();
        for (n, jobs) in tasks.iter().enumerate() {
            let most = if n == 0 { limit } else { share };
            rows.extend(jobs.iter().take(most).map(|job| (*job, most)));
        }
        let count = rows.len();
        rows.sort_by_key(|(job, _)| place(job));
        rows.truncate(limit);
        (rows, count)
    }

    proptest! {
        #[test]
        fn a_look_finds_the_most_urgent_of_all_and_reads_few(
            ranks in proptest::collection::vec(proptest::collection::vec(0..5_i32, 0..80), 1..40),
            limit in 1..60_usize,
        ) {
            let mut id = 0;
            let mut tasks = Vec::new();
            for (task_id, mut ranks) in (0..).zip(ranks) {
                ranks.sort_unstable();
                tasks.push(ranks.into_iter().map(|rank| {
                    id += 1;
                    Candidate { id: id * 7919 % 10_007, task_id, rank, needs: Resources::default() }
                }).collect::<Vec<_>>());
                tasks.last_mut().expect("one").sort_by_key(place);
            }
            let mut all: Vec<Candidate> = tasks.iter().flatten().copied().collect();
            all.sort_by_key(place);
            all.truncate(limit);

            let mut look = Look { limit, found: Vec::new() };
            let (rows, mut count) = read(&tasks, limit, &HashMap::new(), None);
            let mut from = look.add(rows);
            while !from.0.is_empty() {
                let places = from.0.iter().copied().zip(from.1.into_iter().zip(from.2)).collect();
                let (rows, more) = read(&tasks, limit, &places, Some(&from.0));
                count += more;
                from = look.add(rows);
            }
            prop_assert_eq!(look.found, all);
            let most = 4 * limit * (1 + tasks.len().ilog2() as usize);
            prop_assert!(count <= most, "expected to read {most} jobs of {} tasks at most for {limit}, read {count}", tasks.len());
        }
    }
}
