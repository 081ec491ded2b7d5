//! What a job is.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use crate::queue::Retry;

/// A job.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct Job {
    pub id: i64,
    pub name: String,
    pub project_id: i64,
    pub task_id: i64,
    /// A JSON object, to the letter as it was submitted.
    pub parameters: Box<RawValue>,
    pub status: Status,
    /// Higher is sooner.
    pub priority: i32,
    /// How often it was claimed; the number of its current attempt, or of its last.
    pub attempt: i32,
    pub retry: Retry,
    /// When it is given out at the earliest, if that was asked for, or follows from a failure.
    pub not_before: Option<DateTime<Utc>>,
    /// A JSON object: the id of each job that this one depends on, and that job's name.
    pub depends: Box<RawValue>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A job to be added.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of Job")]
pub struct NewJob {
    pub name: String,
    pub task_id: i64,
    pub parameters: Box<RawValue>,
    pub status: Status,
    pub priority: i32,
    pub retry: Retry,
    /// When it is to be given out at the earliest.
    pub not_before: Option<DateTime<Utc>>,
    /// Ids of jobs of the same project.
    pub depends: Vec<i64>,
}

/// What a job is to be from now on.
#[derive(Debug, Clone)]
pub struct Change {
    /// The project that the caller believes the job to be in; a job cannot be moved.
    pub project_id: i64,
    /// Everything else. How often it is tried, and not before when it is given out, stay as they are where that is not said.
    pub job: NewJob,
    /// Whether nothing but the status may differ from what the job is.
    pub only_status: bool,
}

/// A job that another one depends on.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of Job")]
pub struct Parent {
    pub id: i64,
    pub name: String,
    pub status: Status,
}

/// What a job depends on, and how that stands.
#[derive(Debug, Clone)]
pub struct Dependencies {
    /// The job.
    pub job: Job,
    /// What it depends on, by id.
    pub parents: Vec<Parent>,
}

/// Which jobs a list is about.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Job")]
pub struct Filter {
    pub project_id: Option<i64>,
    pub task_id: Option<i64>,
    pub status: Option<Status>,
    /// The projects that may be seen; nothing stands for all.
    pub visible: Option<Vec<i64>>,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Ready, or waiting for jobs that may still complete.
    Pending,
    /// Claimed.
    Queued,
    /// Being run.
    Running,
    /// Done.
    Completed,
    /// Went wrong.
    Failed,
    /// Waiting for something that failed, was cancelled, or is itself blocked.
    Blocked,
    /// Not to be run any more.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Pending, Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Blocked, Self::Cancelled];

    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Queued => "QUEUED",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Blocked => "BLOCKED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Not started yet. Which of the two it is, PENDING or BLOCKED, follows from the parents alone.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::Pending | Self::Blocked)
    }

    /// Somebody has it.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }

    /// Will not complete as things are, so that what depends on it is blocked.
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Failed | Self::Blocked | Self::Cancelled)
    }
}

/// Not the name of a status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of PENDING, QUEUED, RUNNING, COMPLETED, FAILED, BLOCKED, CANCELLED")]
pub struct UnknownStatus;

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        Self::ALL.into_iter().find(|status| status.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownStatus)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_words_are_read_in_any_case_and_written_in_capitals() {
        for status in Status::ALL {
            assert_eq!(status.to_string().to_lowercase().parse(), Ok(status));
            assert_eq!(status.as_str(), status.as_str().to_uppercase());
        }
        assert_eq!("done".parse::<Status>(), Err(UnknownStatus));
    }
}
