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
    /// Whose a client is, if they may speak for it: themselves, or a key that theirs has succeeded. Nothing if there is no such client.
    ///
    /// # Errors
    ///
    /// [`Error::OthersClient`].
    pub(super) async fn owner_of(&self, executor: &impl Executor, client_id: &str) -> Result<Option<Self>> {
        let Some(row) = clients::MAY_USE.maybe(executor, &[&client_id, &self.user, &self.key]).await? else { return Ok(None) };
        if !row.get::<_, bool>("may_use") {
            return Err(Error::OthersClient(client_id.to_owned()));
        }
        let key = row.get::<_, Option<String>>("owner_key").unwrap_or_else(|| self.key.clone());
        Ok(Some(Self { user: self.user, key }))
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
