//! Short-lived tokens, which stand for a part of what a key may do. They are in Redis only, and only as digests.
//!
//! | key | type | what |
//! | --- | --- | --- |
//! | `{prefix}:{t:<digest>}:token` | string | whose token it is, what was asked for, when it ends |
//! | `{prefix}:{<key>}:tokens` | sorted set | the digests of a key's tokens, by when they end |
//!
//! The first is read once by a server that meets the token, and remembered. The second is looked at with every request, in the same script call that looks
//! at the key's record (`limits::store`). So a token that was ended is no good for the next request on every server, as is one whose key was. Both
//! keys are gone when the token is.
//!
//! A Redis that loses its data takes all tokens with it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Bounds, KeyId, Power, Record, Token, live};
use crate::redis::{Away, Redis};

/// How many tokens a key may have at a time.
pub const MOST: usize = 1_000;

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldToken {
    /// Whose it is.
    pub key: KeyId,
    /// What was asked for. What it may do is that part of it which the key may do.
    pub bounds: Bounds,
    /// From when it is no good, in Unix milliseconds by Redis's clock.
    pub ends_at_ms: i64,
}

impl HeldToken {
    /// What it may do while its key's record is this.
    pub fn power(&self, key: &Record) -> Power {
        key.power().within_bounds(&self.bounds)
    }

    /// From when it is no good.
    pub fn ends_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.ends_at_ms).unwrap_or_default()
    }
}

/// The tokens of the whole fleet; cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    redis: Redis,
}

/// Why a token is not made or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Redis cannot be asked.
    #[error(transparent)]
    Away(#[from] Away),
    /// The key has [`MOST`] tokens.
    #[error("This key has {MOST} tokens: end some, or wait until some have expired.")]
    TooMany,
}

impl Tokens {
    /// Those of this Redis.
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// Makes a token of a key, good for so many milliseconds, or until the key ends if that is earlier.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn make(&self, key: &Record, bounds: Bounds, lifetime_ms: i64) -> Result<(Token, HeldToken), Error> {
        let token = Token::generate();
        let digest = token.digest();
        let attempt = self.redis.attempt(&key.id.to_string())?;
        let mut connection = attempt.connection();
        let key_ends_at = key.expires_at.map(|end| end.timestamp_millis());
        let name = self.of_key(key.id);
        let noted = live::note_token(&mut connection, &name, &digest, lifetime_ms, key_ends_at, MOST);
        let ends_at_ms = attempt.answer(noted).await?.ok_or(Error::TooMany)?;
        let held = HeldToken { key: key.id, bounds, ends_at_ms };
        let attempt = self.redis.attempt(&subject(&digest))?;
        attempt.answer(live::write_token(&mut connection, &self.name(&digest), &held)).await?;
        Ok((token, held))
    }

    /// What is known of the token with this digest; nothing if there is none.
    ///
    /// # Errors
    ///
    /// [`Away`].
    pub async fn look_up(&self, digest: &[u8; 32]) -> Result<Option<Arc<HeldToken>>, Away> {
        let attempt = self.redis.attempt(&subject(digest))?;
        let mut connection = attempt.connection();
        Ok(attempt.answer(live::read_token(&mut connection, &self.name(digest))).await?.map(Arc::new))
    }

    /// Ends a token: from the next request on, on every server.
    ///
    /// # Errors
    ///
    /// [`Away`].
    pub async fn end(&self, digest: &[u8; 32], key: KeyId) -> Result<(), Away> {
        let attempt = self.redis.attempt(&key.to_string())?;
        let mut connection = attempt.connection();
        attempt.answer(live::end_token(&mut connection, &self.of_key(key), &self.name(digest), digest)).await
    }

    fn name(&self, digest: &[u8; 32]) -> String {
        self.redis.key(&subject(digest), "token")
    }

    fn of_key(&self, key: KeyId) -> String {
        self.redis.key(&key.to_string(), "tokens")
    }
}

fn subject(digest: &[u8; 32]) -> String {
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t:{digest}")
}
