//! What can go wrong with keys and users.

use crate::postgres::{self, WorkError};

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something was not done. All but the last are the caller's to mend, and their texts are for the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such key.
    #[error("There is no key {0}.")]
    NoKey(String),
    /// There is no such user.
    #[error("There is no user {0}.")]
    NoUser(String),
    /// A name that is taken already.
    #[error("There is already a user named {0:?}: choose another name.")]
    NameTaken(String),
    /// A key that was revoked, replaced, or has expired.
    #[error("Key {0} has ended: make a new one.")]
    Ended(String),
    /// A page of a list would be too large to hold.
    #[error("a page may have at most {0} bytes, and this one has more: ask for fewer")]
    PageTooLarge(usize),
    /// The database failed. The text is for the log.
    #[error(transparent)]
    Database(postgres::Error),
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        match error {
            postgres::Error::TooLarge { limit, .. } => Self::PageTooLarge(limit),
            error => Self::Database(error),
        }
    }
}

impl WorkError for Error {
    fn database(&self) -> Option<&postgres::Error> {
        match self {
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}
