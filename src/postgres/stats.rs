//! What the way to PostgreSQL counts.

use super::{Database, Error};
use crate::measure::{Counter, Distribution, Histogram};

/// Where the ranges of times end, in microseconds.
const TIMES: &[u64] = &[250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// Counted as it happens.
#[derive(Debug)]
pub(super) struct Counts {
    /// Statements and commits that were waited for to their end, and how long.
    pub(super) statements: Histogram,
    /// Transactions that lost a deadlock and were run again.
    pub(super) reruns: Counter,
    /// Statements that nobody waited for any more.
    pub(super) abandoned: Counter,
    busy: Counter,
    unreachable: Counter,
}

/// How the way to PostgreSQL stands.
#[derive(Debug, Clone)]
pub struct Stats {
    /// How many connections there may be.
    pub pool_size: usize,
    /// How many are in use.
    pub in_use: usize,
    /// How many wait for work.
    pub idle: usize,
    /// How many requests wait for a connection.
    pub waiting: usize,
    /// How long statements and commits took, in microseconds.
    pub statements: Distribution,
    /// How many transactions lost a deadlock and were run again.
    pub reruns: u64,
    /// How many statements were given up because nobody waited for them any more.
    pub abandoned: u64,
    /// How often no connection became free in time.
    pub busy: u64,
    /// How often no connection could be made.
    pub unreachable: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            statements: Histogram::new(TIMES),
            reruns: Counter::default(),
            abandoned: Counter::default(),
            busy: Counter::default(),
            unreachable: Counter::default(),
        }
    }
}

impl Counts {
    /// That no connection was to be had.
    pub(super) fn no_connection(&self, error: &Error) {
        if matches!(error, Error::Busy) { self.busy.one() } else { self.unreachable.one() }
    }
}

impl Database {
    /// How it stands, and what was counted since the start.
    pub fn stats(&self) -> Stats {
        let (pool, counts) = (self.pool.status(), &self.counts);
        Stats {
            pool_size: pool.max_size,
            in_use: pool.size.saturating_sub(pool.available),
            idle: pool.available,
            waiting: pool.waiting,
            statements: counts.statements.get(),
            reruns: counts.reruns.get(),
            abandoned: counts.abandoned.get(),
            busy: counts.busy.get(),
            unreachable: counts.unreachable.get(),
        }
    }
}
