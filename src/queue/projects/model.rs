//! What a project is.

use std::{fmt, str::FromStr};

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

/// A project.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct Project {
    pub id: i64,
    pub content: Content,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What a caller decides about a project.
#[derive(Debug, Clone)]
pub struct Content {
    /// Unique among all projects.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whether it gives out jobs.
    pub status: Status,
}

/// Whether a project is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its ready jobs are given out.
    Active,
    /// It keeps everything and gives out nothing.
    Archived,
}

impl Status {
    /// As stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Archived => "ARCHIVED",
        }
    }
}

/// Not the name of a status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be ACTIVE or ARCHIVED")]
pub struct UnknownStatus;

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, UnknownStatus> {
        [Self::Active, Self::Archived].into_iter().find(|status| status.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownStatus)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a project stands.
#[derive(Debug, Clone)]
pub struct Stats {
    /// How many jobs have which status; those that no job has are missing.
    pub counts: BTreeMap<String, i64>,
    /// How long ago the job became ready, or was last changed, that has been ready for longest, of the first hundred of each task and priority. (Where there
    /// are more than a hundred of these, fewer of each are looked at, and of a thousand of them ten; of more, none.)
    pub oldest_ready_seconds: Option<f64>,
    /// How many clients are alive, which work for all projects.
    pub live_clients: i64,
    /// How many of its jobs are run with a lease.
    pub leases: i64,
}

/// How everything stands together.
#[derive(Debug, Clone)]
pub struct Overview {
    /// How many jobs have which status; those that no job has may be missing.
    pub counts: BTreeMap<String, i64>,
    /// How many projects there are.
    pub projects: i64,
    /// How many clients are alive.
    pub live_clients: i64,
    /// How many attempts run with a lease.
    pub leases: i64,
    /// The projects that have the most to do.
    pub busiest: Vec<Busy>,
}

/// How one of many projects stands.
#[derive(Debug, Clone)]
pub struct Busy {
    /// Which.
    pub project_id: i64,
    /// As [`Stats::counts`].
    pub counts: BTreeMap<String, i64>,
    /// As [`Stats::oldest_ready_seconds`].
    pub oldest_ready_seconds: Option<f64>,
}
