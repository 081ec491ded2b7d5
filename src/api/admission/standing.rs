//! How a key's window stands, and emptying it.

use super::{Class, Gate, Subject};
use crate::{access::KeyInfo, api::Error};

/// How a key's window stands.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Requests a minute; 0 for no limit.
    pub limit: u32,
    /// How many more could come now.
    pub remaining: u32,
    /// In how many milliseconds it is empty if nothing else comes.
    pub reset_ms: u64,
}

impl Gate {
    /// How a key's window stands, with nothing taken.
    ///
    /// # Errors
    ///
    /// 503 while Redis is away.
    pub async fn limit_of(&self, key: &KeyInfo) -> Result<Limit, Error> {
        let window = self.0.api_window(key.rate_limit);
        let standing = self.0.decider.standing(Subject::Key(key.id), window).await?;
        Ok(Limit {
            limit: window.limit,
            remaining: standing.map_or(0, |standing| standing.remaining),
            reset_ms: standing.map_or(0, |standing| standing.reset_ms),
        })
    }

    /// Forgets what a key has used of its limits, in each class.
    ///
    /// # Errors
    ///
    /// 503 while Redis is away.
    pub async fn reset(&self, key: &KeyInfo) -> Result<(), Error> {
        self.0.decider.reset(Subject::Key(key.id), &Class::ALL.map(Class::name)).await
    }
}
