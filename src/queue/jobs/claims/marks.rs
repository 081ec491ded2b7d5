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

/// From when on a look is slow.
const SLOW: Duration = Duration::from_millis(4);

/// How many times as long as a slow look took the next ones are spared.
const PAUSE: u32 = 10;

/// How long whoever is to look at all of it again may take before somebody else is asked to.
const TURN: Duration = Duration::from_secs(1);

/// For some tasks: their ids, and the rank and the id from where on each is looked at, as statements take them.
pub(in crate::queue::jobs) type Places = (Vec<i64>, Vec<i32>, Vec<i64>);

/// The marks of one project at one server.
#[derive(Debug, Default)]
pub(in crate::queue::jobs) struct Marks {
    /// By task: the rank and the id of the first job that was found.
    first: BTreeMap<i64, (i32, i64)>,
    /// When it is to be looked at all of it again.
    whole_at: Option<Instant>,
}

impl Marks {
    /// Whether looks begin at the marks.
    pub(in crate::queue::jobs) fn are_used(&self, now: Instant) -> bool {
        self.whole_at.is_some_and(|at| now < at)
    }

    /// Where looks begin; nowhere if that is the beginning.
    pub(in crate::queue::jobs) fn arrays(&self, now: Instant) -> Places {
        let mut arrays = Places::default();
        if self.are_used(now) {
            for (task, (rank, id)) in &self.first {
                arrays.0.push(*task);
                arrays.1.push(*rank);
                arrays.2.push(*id);
            }
        }
        arrays
    }

    /// Whether whoever asks is to look at all of it again: the first to ask when it is time. Until that is done the marks hold for all others.
    pub(in crate::queue::jobs) fn is_my_turn(&mut self, now: Instant) -> bool {
        let is_time = self.whole_at.is_some_and(|at| at <= now);
        if is_time {
            self.whole_at = Some(now + TURN);
        }
        is_time
    }

    /// Nothing of a task is ready before this job, which is being taken.
    pub(in crate::queue::jobs) fn advance(&mut self, task: i64, rank: i32, id: i64) {
        let first = self.first.entry(task).or_insert((rank, id));
        *first = (*first).max((rank, id));
    }

    /// Notes what a look found (tasks, ranks and ids, the most urgent first), that began then and took so long, and whether it began at the beginning.
    pub(in crate::queue::jobs) fn note(
        &mut self,
        began: Instant,
        took: Duration,
        was_whole: bool,
        found: impl DoubleEndedIterator<Item = (i64, i32, i64)>,
    ) {
        if was_whole {
            self.first.clear();
            self.whole_at = (took >= SLOW).then(|| began + took * PAUSE);
        }
        if self.whole_at.is_some() {
            for (task, rank, id) in found.rev() {
                self.first.insert(task, (rank, id));
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

    #[test]
    fn only_slow_looks_leave_marks_and_for_a_while() {
        let found = || [(1, -5, 7), (2, 0, 3), (1, 0, 8)].into_iter();
        let (mut marks, now) = (Marks::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        marks.note(now, Duration::from_millis(1), true, found());
        assert_eq!(marks.arrays(now), (vec![], vec![], vec![]), "it was fast");
        marks.note(now, Duration::from_millis(20), true, found());
        assert_eq!(marks.arrays(at(199)), (vec![1, 2], vec![-5, 0], vec![7, 3]), "the first of each task");
        marks.note(at(50), Duration::from_millis(1), false, [(1, 0, 8)].into_iter());
        assert_eq!(marks.arrays(at(199)), (vec![1, 2], vec![0, 0], vec![8, 3]), "further on, until it is time for a whole look");
        assert_eq!(marks.arrays(at(200)), (vec![], vec![], vec![]));
        marks.note(at(200), Duration::from_millis(1), true, found());
        assert!(!marks.are_used(at(200)), "it is fast again");
        marks.note(now, Duration::from_millis(20), true, found());
        marks.forget();
        assert!(!marks.are_used(now));
    }

    #[test]
    fn when_it_is_time_one_looks_again_and_the_others_go_on() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        assert!(!marks.is_my_turn(now), "nothing is slow");
        marks.note(now, Duration::from_millis(20), true, [(1, 0, 7)].into_iter());
        assert!(!marks.is_my_turn(at(199)));
        assert!(marks.is_my_turn(at(200)) && !marks.is_my_turn(at(201)));
        assert_eq!(marks.arrays(at(201)), (vec![1], vec![0], vec![7]));
        assert!(marks.is_my_turn(at(1200)), "the one who was to look did not");
        marks.advance(1, 0, 9);
        marks.advance(1, 0, 8);
        assert_eq!(marks.arrays(at(1201)), (vec![1], vec![0], vec![9]), "never back");
    }
}
