//! Whose something is.

/// Who speaks for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user whose key it is, if it is somebody's.
    pub user: Option<i64>,
    /// The key's id.
    pub key: String,
}
