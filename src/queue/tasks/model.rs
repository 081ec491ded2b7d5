//! What a task is.

use chrono::{DateTime, Utc};

use crate::queue::Retry;

/// A task.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct Task {
    pub id: i64,
    pub project_id: i64,
    pub content: Content,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What a caller decides about a task.
#[derive(Debug, Clone)]
pub struct Content {
    /// Unique in its project.
    pub name: String,
    /// How a job's command is made of its parameters; for clients, never read by the server.
    pub command_template: Option<String>,
    /// CPUs that a job of this task needs.
    pub required_cpu: i32,
    /// Accelerators that a job of this task needs.
    pub required_accelerators: i32,
    /// How often its jobs are tried, where they say nothing of it.
    pub retry: Retry,
}

/// What to change of a task. `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Content")]
pub struct Change {
    pub name: Option<String>,
    /// Moving to another project is refused; naming its own is allowed, since clients send back what they read.
    pub project_id: Option<i64>,
    pub command_template: Option<Option<String>>,
    pub required_cpu: Option<i32>,
    pub required_accelerators: Option<i32>,
    pub max_attempts: Option<Option<i32>>,
    pub backoff_seconds: Option<Option<i32>>,
}
