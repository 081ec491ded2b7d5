//! Whose something is.

use super::{Error, Result};
use crate::postgres::{
    Executor,
    query::{attempts, clients},
};

/// Who speaks for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The user whose key it is, if it is somebody's.
    pub user: Option<i64>,
    /// The key's id.
    pub key: String,
}

impl Owner {
    /// Whether they may speak for a client; nothing if there is none.
    pub(super) async fn may_use(&self, executor: &impl Executor, client_id: &str) -> Result<Option<bool>> {
        let row = clients::MAY_USE.maybe(executor, &[&client_id, &self.user, &self.key]).await?;
        Ok(row.map(|row| row.get("may_use")))
    }

    /// Fails unless they may speak for the client of an attempt. Of one that does not exist nothing is said.
    ///
    /// # Errors
    ///
    /// [`Error::OthersClient`].
    pub(super) async fn check_attempt(&self, executor: &impl Executor, job_id: i64, number: i32) -> Result<()> {
        let row = attempts::MAY_REPORT.maybe(executor, &[&job_id, &number, &self.user, &self.key]).await?;
        match row.filter(|row| !row.get::<_, bool>("may_use")) {
            Some(row) => Err(Error::OthersClient(row.get("id"))),
            None => Ok(()),
        }
    }
}
