//! What clients wanted, and what they were told.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

/// Something that was asked of a server.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// When it was sent, and when the answer was there or was given up: on the test's own clock.
    pub(super) invoked: Duration,
    pub(super) ended: Duration,
    pub(super) operation: Operation,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    Submit { parents: Vec<i64> },
    Claim { client: String },
    Beat { job: i64, attempt: i32 },
    Report { job: i64, attempt: i32, ending: Ending },
}

/// How a client ends its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Complete,
    Fail,
    Release,
}

impl Ending {
    /// The attempt's status after it.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETED",
            Self::Fail => "FAILED",
            Self::Release => "RELEASED",
        }
    }

    /// The last part of its path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Release => "release",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Submitted(i64),
    Claimed(Vec<Offer>),
    /// A heartbeat was accepted: the lease lasts until then.
    Extended(DateTime<Utc>),
    /// A report was accepted.
    Accepted,
    /// Nothing was done: a 4xx.
    Refused(u16),
    /// It may have been done or not, or may still be: the connection broke, or a 5xx.
    Unknown,
}

/// A job that somebody was given.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    pub(super) job: i64,
    pub(super) attempt: i32,
    pub(super) lease_expires_at: DateTime<Utc>,
}

/// Where all of them write; clones are the same.
#[derive(Clone)]
pub(super) struct Log {
    began: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), events: Arc::default() }
    }

    /// Notes an operation before it is sent: as unknown, which it stays if whoever sent it does not live to see the answer.
    pub(super) fn invoke(&self, operation: Operation) -> usize {
        let mut events = self.lock();
        events.push(Event { invoked: self.began.elapsed(), ended: Duration::MAX, operation, outcome: Outcome::Unknown });
        events.len() - 1
    }

    /// Notes what came of it.
    pub(super) fn end(&self, at: usize, outcome: Outcome) {
        let event = &mut self.lock()[at];
        event.ended = self.began.elapsed();
        event.outcome = outcome;
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
