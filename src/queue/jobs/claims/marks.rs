//! Where to begin to look for ready jobs.
//!
//! Claimed jobs leave dead entries at the head of the index of ready jobs, and while anybody holds an old snapshot (a dump, a forgotten transaction) no vacuum
//! can remove them. Then each look walks past all that was claimed. So after a look that was slow the next ones begin where it found the first job of
//! each task. They may miss a more urgent job that became ready since; therefore, now and then, it is looked at all of it again: after [`PAUSE`] times
//! what that costs, so that it costs a tenth at most. Where looks are fast, and they are unless something is wrong, all of them begin at the beginning.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::assign::Candidate;

/// From when on a look is slow.
const SLOW: Duration = Duration::from_millis(4);

/// How many times as long as a slow look took the next ones are spared.
const PAUSE: u32 = 10;

/// The marks of one project at one server.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// By task: the rank and the id of the first job that was found.
    first: BTreeMap<i64, (i32, i64)>,
    /// When it is to be looked at all of it again.
    whole_at: Option<Instant>,
}

impl Marks {
    /// Whether looks begin at the marks.
    pub(super) fn are_used(&self, now: Instant) -> bool {
        self.whole_at.is_some_and(|at| now < at)
    }

    /// Tasks, ranks and ids, as `claims/candidates.sql` takes them; none if looks begin at the beginning.
    pub(super) fn arrays(&self, now: Instant) -> (Vec<i64>, Vec<i32>, Vec<i64>) {
        let mut arrays = (Vec::new(), Vec::new(), Vec::new());
        if self.are_used(now) {
            for (task, (rank, id)) in &self.first {
                arrays.0.push(*task);
                arrays.1.push(*rank);
                arrays.2.push(*id);
            }
        }
        arrays
    }

    /// Notes what a look found, that began then and took so long, and whether it began at the marks.
    pub(super) fn note(&mut self, began: Instant, took: Duration, was_whole: bool, found: &[Candidate]) {
        if was_whole {
            self.first.clear();
            self.whole_at = (took >= SLOW).then(|| began + took * PAUSE);
        }
        if self.whole_at.is_some() {
            for job in found.iter().rev() {
                self.first.insert(job.task_id, (job.rank, job.id));
            }
        }
    }

    /// The next look begins at the beginning.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::jobs::Resources;

    #[test]
    fn only_slow_looks_leave_marks_and_for_a_while() {
        let job = |task_id, rank, id| Candidate { id, task_id, rank, needs: Resources::default() };
        let found = [job(1, -5, 7), job(2, 0, 3), job(1, 0, 8)];
        let (mut marks, now) = (Marks::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        marks.note(now, Duration::from_millis(1), true, &found);
        assert_eq!(marks.arrays(now), (vec![], vec![], vec![]), "it was fast");
        marks.note(now, Duration::from_millis(20), true, &found);
        assert_eq!(marks.arrays(at(199)), (vec![1, 2], vec![-5, 0], vec![7, 3]), "the first of each task");
        marks.note(at(50), Duration::from_millis(1), false, &[job(1, 0, 8)]);
        assert_eq!(marks.arrays(at(199)), (vec![1, 2], vec![0, 0], vec![8, 3]), "further on, until it is time for a whole look");
        assert_eq!(marks.arrays(at(200)), (vec![], vec![], vec![]));
        marks.note(at(200), Duration::from_millis(1), true, &found);
        assert!(!marks.are_used(at(200)), "it is fast again");
        marks.note(now, Duration::from_millis(20), true, &found);
        marks.forget();
        assert!(!marks.are_used(now));
    }
}
