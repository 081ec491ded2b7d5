//! What a client is.

use chrono::{DateTime, Utc};

/// A client.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct Client {
    pub id: String,
    pub content: Content,
    pub last_heartbeat: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub is_active: bool,
}

/// What a client says of itself.
#[derive(Debug, Clone)]
pub struct Content {
    /// For people.
    pub name: String,
    /// Whose machine it is.
    pub entity: String,
    /// For people.
    pub description: Option<String>,
    /// CPUs that it has for jobs.
    pub available_cpu: i32,
    /// Accelerators that it has for jobs.
    pub available_accelerators: i32,
}

/// What to change of a client. `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the fields are those of Client")]
pub struct Change {
    pub available_cpu: Option<i32>,
    pub available_accelerators: Option<i32>,
    pub is_active: Option<bool>,
}
