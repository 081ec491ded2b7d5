//! What clients wanted, and what they were told: written down line by line, so that it is there when who wrote it was killed.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Something that was asked of a server.
#[derive(Debug, Clone)]
pub(super) struct Event {
    /// When it was sent, and when the answer was there or was given up: on this machine's own clock.
    pub(super) invoked: Duration,
    pub(super) ended: Duration,
    pub(super) operation: Operation,
    pub(super) outcome: Outcome,
}

impl Event {
    /// When it had been done at the latest, if it was.
    pub(super) fn done_by(&self) -> Duration {
        if self.outcome == Outcome::Unknown { Duration::MAX } else { self.ended }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Operation {
    /// One job, or a batch. With a key, which comes again with the same jobs if the answer was lost.
    Submit {
        jobs: Vec<New>,
        key: Option<String>,
    },
    Claim {
        client: String,
        most: u64,
    },
    /// As the published client does, which says nothing of itself and hears nothing of attempts.
    Fetch,
    /// The client begins.
    Start {
        job: i64,
        attempt: i32,
    },
    Beat {
        job: i64,
        attempt: i32,
    },
    /// One heartbeat for all that a client has, or for what it names: jobs and attempts.
    Pulse {
        client: String,
        named: Option<Vec<(i64, i32)>>,
    },
    Report {
        job: i64,
        attempt: i32,
        ending: Ending,
    },
    /// As the published client reports: the job is completed, whoever has it.
    Done {
        job: i64,
    },
    Cancel {
        job: i64,
    },
    Retry {
        job: i64,
    },
    /// All of a task's that stopped in this way.
    RetryAll {
        task: i64,
        status: String,
    },
    Delete {
        job: i64,
    },
}

/// A job to be submitted. No two have the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct New {
    pub(super) name: String,
    pub(super) task: i64,
    pub(super) parents: Vec<i64>,
    pub(super) max_attempts: i32,
}

/// How a client ends its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ending {
    Complete,
    /// Another attempt may do better.
    Fail,
    /// None can.
    GiveUp,
    /// The client has to do something else, which counts for nothing.
    Release,
    /// The client is not able to run it.
    Decline,
}

impl Ending {
    /// The attempt's status after it.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETED",
            Self::Fail | Self::GiveUp => "FAILED",
            Self::Release | Self::Decline => "RELEASED",
        }
    }

    /// The last part of its path.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Fail | Self::GiveUp => "fail",
            Self::Release | Self::Decline => "release",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Submitted(Vec<i64>),
    Claimed(Vec<Offer>),
    Fetched(Option<i64>),
    /// A heartbeat, or a beginning, was accepted.
    Extended {
        until: DateTime<Utc>,
        cancel_requested: bool,
    },
    /// A heartbeat of a client was accepted: what it has, and what it named and has not.
    Beaten {
        leases: Vec<Lease>,
        over: Vec<(i64, i32)>,
    },
    /// What was wanted was done.
    Accepted,
    /// It was done, and this is what was told of the job after it.
    Became {
        status: String,
        attempt: i32,
    },
    /// Nothing was done: a 4xx.
    Refused(u16),
    /// It may have been done or not, or may still be: the connection broke, or a 5xx.
    Unknown,
}

/// A job that somebody was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) job: i64,
    pub(super) attempt: i32,
    pub(super) lease_expires_at: DateTime<Utc>,
}

/// An attempt whose lease was extended, if it need not be given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) job: i64,
    pub(super) attempt: i32,
    pub(super) until: DateTime<Utc>,
    pub(super) cancel_requested: bool,
}

/// A line of a log.
#[derive(Serialize, Deserialize)]
enum Line {
    Sent { at: Duration, operation: Operation },
    Answered { number: usize, at: Duration, outcome: Outcome },
}

/// Where one process writes; clones are the same.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<(File, usize)>>);

/// What the names of logs end with.
const EXTENSION: &str = "log";

impl Log {
    /// A new one in this folder.
    pub(super) fn create(folder: &Path) -> Self {
        let file = File::create_new(folder.join(format!("{}.{EXTENSION}", uuid::Uuid::new_v4()))).unwrap();
        Self(Arc::new(Mutex::new((file, 0))))
    }

    /// Notes an operation before it is sent. It stays unknown if whoever sent it does not live to see the answer.
    pub(super) fn invoke(&self, operation: Operation) -> usize {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut log.0, &Line::Sent { at: now(), operation });
        log.1 += 1;
        log.1 - 1
    }

    /// Notes what came of it.
    pub(super) fn end(&self, number: usize, outcome: Outcome) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut log.0, &Line::Answered { number, at: now(), outcome });
    }

    /// All that was written in a folder, in the order in which it was sent.
    pub(super) fn read_all(folder: &Path) -> Vec<Event> {
        let logs = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == EXTENSION));
        let mut history: Vec<Event> = logs.flat_map(|path| read(&fs::read_to_string(path).unwrap())).collect();
        history.sort_by_key(|event| event.invoked);
        history
    }
}

/// Of this machine: the same for all processes.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

/// In one piece, so that nothing is torn but what a process was killed at.
fn write(file: &mut File, line: &Line) {
    file.write_all(format!("{}\n", serde_json::to_string(line).unwrap()).as_bytes()).unwrap();
}

fn read(text: &str) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    // What its writer was killed at was not sent, or is as good as never answered.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        match serde_json::from_str(line).unwrap() {
            Line::Sent { at, operation } => {
                events.push(Event { invoked: at, ended: Duration::MAX, operation, outcome: Outcome::Unknown });
            }
            Line::Answered { number, at, outcome } => {
                events[number].ended = at;
                events[number].outcome = outcome;
            }
        }
    }
    events
}
