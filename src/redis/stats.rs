//! What the way to Redis counts.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Line, Redis};
use crate::measure::{Distribution, Histogram};

/// Where the ranges of times end, in microseconds. Nobody waits longer than a second.
const TIMES: &[u64] = &[100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000];

/// Counted as it happens.
pub(super) struct Counts {
    /// How long answers took that came.
    pub(super) answers: Histogram,
    outages: Mutex<Outages>,
}

/// When it was away.
#[derive(Default)]
struct Outages {
    count: u64,
    past: Duration,
    since: Option<Instant>,
}

/// How the way to Redis stands.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Whether requests use it.
    pub is_used: bool,
    /// How many servers there were when it last told.
    pub servers: usize,
    /// How often it went away.
    pub outages: u64,
    /// How long it was away in all.
    pub away: Duration,
    /// How long its answers took that came in time, in microseconds.
    pub answers: Distribution,
}

impl Default for Counts {
    fn default() -> Self {
        Self { answers: Histogram::new(TIMES), outages: Mutex::default() }
    }
}

impl Counts {
    /// It has gone away.
    pub(super) fn went_away(&self) {
        let mut outages = self.outages();
        if outages.since.is_none() {
            outages.count += 1;
            outages.since = Some(Instant::now());
        }
    }

    /// It is back.
    pub(super) fn is_back(&self) {
        let mut outages = self.outages();
        if let Some(since) = outages.since.take() {
            outages.past += since.elapsed();
        }
    }

    fn outages(&self) -> MutexGuard<'_, Outages> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Redis {
    /// How it stands, and what was counted since the start.
    pub fn stats(&self) -> Stats {
        let counts = &self.shared.counts;
        let is_used = matches!(&*self.shared.line.read().unwrap_or_else(PoisonError::into_inner), Line::Up(..));
        let outages = counts.outages();
        let away = outages.past + outages.since.map_or(Duration::ZERO, |since| since.elapsed());
        Stats { is_used, servers: self.servers(), outages: outages.count, away, answers: counts.answers.get() }
    }
}
