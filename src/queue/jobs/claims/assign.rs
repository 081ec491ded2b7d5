//! Which job goes to whom: no I/O.

use std::collections::HashMap;

use crate::queue::jobs::Resources;

/// A job that could be claimed, and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: i64,
    pub(super) task_id: i64,
    /// Less is more urgent: the priority, negated.
    pub(super) rank: i32,
    pub(super) needs: Resources,
}

/// Somebody who wants jobs.
#[derive(Debug, Clone)]
pub(super) struct Taker<'a> {
    pub(super) client: &'a str,
    /// How many jobs more.
    pub(super) wants: usize,
    /// What it set aside for them: what it has in all may be less.
    pub(super) limit: Resources,
    /// Only jobs of these tasks; nothing for all.
    pub(super) tasks: Option<&'a [i64]>,
}

impl Taker<'_> {
    /// What it could use, of what its client has left.
    pub(super) fn profile(&self, free: &HashMap<&str, Resources>) -> Resources {
        let free = free.get(self.client).copied().unwrap_or_default();
        Resources { cpu: self.limit.cpu.min(free.cpu), accelerators: self.limit.accelerators.min(free.accelerators) }
    }

    fn can_take(&self, job: &Candidate, free: &HashMap<&str, Resources>) -> bool {
        let profile = self.profile(free);
        self.wants > 0
            && job.needs.cpu <= profile.cpu
            && job.needs.accelerators <= profile.accelerators
            && self.tasks.is_none_or(|tasks| tasks.contains(&job.task_id))
    }
}

/// Gives each job, the most urgent first, to the first taker that can take it, and takes what it needs from what the taker and its client have.
/// Returns which job (its place among the candidates) goes to which taker.
pub(super) fn assign<'a>(
    candidates: &[Candidate],
    takers: &mut [Taker<'a>],
    free: &mut HashMap<&'a str, Resources>,
) -> Vec<(usize, usize)> {
    let mut assigned = Vec::new();
    for (at, job) in candidates.iter().enumerate() {
        let Some(taker) = takers.iter().position(|taker| taker.can_take(job, free)) else { continue };
        let Taker { client, wants, limit, .. } = &mut takers[taker];
        *wants -= 1;
        take(limit, job.needs);
        take(free.entry(client).or_default(), job.needs);
        assigned.push((at, taker));
    }
    assigned
}

/// Undoes what [`assign`] took for a job that somebody else got.
pub(super) fn unassign<'a>(job: &Candidate, taker: &mut Taker<'a>, free: &mut HashMap<&'a str, Resources>) {
    taker.wants += 1;
    for resources in [&mut taker.limit, free.entry(taker.client).or_default()] {
        resources.cpu = resources.cpu.saturating_add(job.needs.cpu);
        resources.accelerators = resources.accelerators.saturating_add(job.needs.accelerators);
    }
}

fn take(from: &mut Resources, needs: Resources) {
    from.cpu -= needs.cpu;
    from.accelerators -= needs.accelerators;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENTS: [&str; 3] = ["a", "b", "c"];

    fn resources() -> impl Strategy<Value = Resources> {
        (0..8, 0..3).prop_map(|(cpu, accelerators)| Resources { cpu, accelerators })
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_they_have_and_nobody_is_passed_over(
            jobs in proptest::collection::vec((0..3_i64, resources()), 0..20),
            takers in proptest::collection::vec((0..CLIENTS.len(), 0..4_usize, resources(), proptest::option::of(0..3_i64)), 0..6),
            has in proptest::array::uniform3(resources()),
        ) {
            let candidates: Vec<_> = (0..).zip(&jobs).map(|(id, (task_id, needs))| Candidate { id, task_id: *task_id, rank: 0, needs: *needs }).collect();
            let only: Vec<Option<[i64; 1]>> = takers.iter().map(|(_, _, _, task)| task.map(|task| [task])).collect();
            let asked: Vec<_> = takers
                .iter()
                .zip(&only)
                .map(|((client, wants, limit, _), tasks)| Taker {
                    client: CLIENTS[*client],
                    wants: *wants,
                    limit: *limit,
                    tasks: tasks.as_ref().map(<[i64; 1]>::as_slice),
                })
                .collect();
            let whole: HashMap<&str, Resources> = CLIENTS.into_iter().zip(has).collect();
            let (mut left, mut free) = (asked.clone(), whole.clone());
            let assigned = assign(&candidates, &mut left, &mut free);

            let sum = |jobs: Vec<usize>| jobs.iter().fold((0, 0), |(cpu, accelerators), job| {
                (cpu + candidates[*job].needs.cpu, accelerators + candidates[*job].needs.accelerators)
            });
            for (n, taker) in asked.iter().enumerate() {
                let own: Vec<usize> = assigned.iter().filter(|(_, to)| *to == n).map(|(job, _)| *job).collect();
                prop_assert!(own.len() <= taker.wants);
                prop_assert!(own.iter().all(|job| taker.tasks.is_none_or(|tasks| tasks.contains(&candidates[*job].task_id))));
                let (cpu, accelerators) = sum(own);
                prop_assert!(cpu <= taker.limit.cpu && accelerators <= taker.limit.accelerators);
            }
            for client in CLIENTS {
                let (cpu, accelerators) = sum(assigned.iter().filter(|(_, to)| asked[*to].client == client).map(|(job, _)| *job).collect());
                prop_assert!(cpu <= whole[client].cpu && accelerators <= whole[client].accelerators);
            }
            // What is left over fits nobody who still wants something.
            for (at, job) in candidates.iter().enumerate().filter(|(at, _)| !assigned.iter().any(|(given, _)| given == at)) {
                prop_assert!(!left.iter().any(|taker| taker.can_take(job, &free)), "job {at} fits somebody");
            }
            // What somebody else got is given back whole.
            for (job, taker) in &assigned {
                unassign(&candidates[*job], &mut left[*taker], &mut free);
            }
            prop_assert_eq!(free, whole);
        }
    }
}
