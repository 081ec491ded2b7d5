//! What becomes of jobs and claims on this server, in numbers.

use super::{Reason, attempts::Outcome};
use crate::measure::{Counter, Distribution, Gauge, Histogram};

/// Where the ranges end of how many claims one transaction serves.
const TOGETHER: &[u64] = &[1, 2, 4, 8, 16, 32, 64];

/// Counted as it happens.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) completed: Counter,
    pub(super) failed: Counter,
    pub(super) released: Counter,
    pub(super) tried_again: Counter,
    pub(super) asked_again: Counter,
    pub(super) put_back: Counter,
    pub(super) due: Counter,
    pub(super) returned: Counter,
    pub(super) expired: Counter,
    pub(super) fetched: Counter,
    pub(super) granted: Counter,
    /// Claims that are not answered yet.
    pub(super) claims: Gauge,
    pub(super) woken: Counter,
    pub(super) rounds: Histogram,
}

/// What happened on this server since its start.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Attempts that their clients reported as completed.
    pub completed: u64,
    /// As failed.
    pub failed: u64,
    /// Attempts that were given back.
    pub released: u64,
    /// Jobs that wait for another attempt after one that failed.
    pub tried_again: u64,
    /// Jobs that somebody let run again.
    pub asked_again: u64,
    /// Jobs that were put back because nobody received them.
    pub put_back: u64,
    /// Jobs whose time came.
    pub due: u64,
    /// Leases that ended and whose jobs wait for another attempt, as nothing follows from it for other jobs.
    pub returned: u64,
    /// Leases that ended and whose jobs have failed, were to be cancelled, or wait for others.
    pub expired: u64,
    /// Jobs given out by `fetch_job`.
    pub fetched: u64,
    /// Jobs given out with a lease.
    pub granted: u64,
    /// Claims that are not answered yet.
    pub claims: u64,
    /// Claims that waited and were looked at again because there was something that they could have.
    pub woken: u64,
    /// How many claims one transaction served.
    pub rounds: Distribution,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            completed: Counter::default(),
            failed: Counter::default(),
            released: Counter::default(),
            tried_again: Counter::default(),
            asked_again: Counter::default(),
            put_back: Counter::default(),
            due: Counter::default(),
            returned: Counter::default(),
            expired: Counter::default(),
            fetched: Counter::default(),
            granted: Counter::default(),
            claims: Gauge::default(),
            woken: Counter::default(),
            rounds: Histogram::new(TOGETHER),
        }
    }
}

impl Tally {
    /// An attempt ended as its client says; whether its job waits for another one.
    pub(super) fn ended(&self, outcome: &Outcome, waits: bool) {
        match outcome {
            Outcome::Completed(_) => self.completed.one(),
            Outcome::Failed { .. } => self.failed.one(),
            Outcome::Released(_) => self.released.one(),
        }
        if waits && !matches!(outcome, Outcome::Released(Reason::Preempted)) {
            self.tried_again.one();
        }
    }

    pub(super) fn get(&self) -> Stats {
        Stats {
            completed: self.completed.get(),
            failed: self.failed.get(),
            released: self.released.get(),
            tried_again: self.tried_again.get(),
            asked_again: self.asked_again.get(),
            put_back: self.put_back.get(),
            due: self.due.get(),
            returned: self.returned.get(),
            expired: self.expired.get(),
            fetched: self.fetched.get(),
            granted: self.granted.get(),
            claims: self.claims.get(),
            woken: self.woken.get(),
            rounds: self.rounds.get(),
        }
    }
}
