//! Keys in both stores: changed in PostgreSQL first, then copied to where every server looks.

use std::{sync::Arc, time::Duration};

use super::{
    Grants, Key, KeyHash, KeyId, KeyInfo, NewKey, Proofs, Record, Result, Store, User,
    live::{self, Copy},
};
use crate::redis::{Away, Redis};

/// How far back changes are copied again: longer than anything that can hold up a copy.
const LATELY: Duration = Duration::from_secs(120);

/// How often a copy may be changed while it is looked at.
const LOOKS: usize = 5;

/// The keys of the whole fleet; cheap to clone.
#[derive(Clone)]
pub struct Keys {
    /// Where they are kept.
    pub store: Store,
    /// Which of them other servers need not verify again.
    pub proofs: Proofs,
    redis: Redis,
}

impl Keys {
    /// Those of this database, copied to this Redis.
    pub fn new(store: Store, redis: Redis) -> Self {
        Self { proofs: Proofs::new(store.clone(), redis.clone()), store, redis }
    }

    /// Adds a key that was generated, with its hash.
    ///
    /// # Errors
    ///
    /// As [`Store::add`].
    pub async fn add(&self, key: &Key, hash: &KeyHash, new: &NewKey) -> Result<KeyInfo> {
        let added = self.store.add(key, hash, new).await?;
        self.proofs.leave(key, hash).await;
        Ok(added)
    }

    /// Ends a key for good: from the next request on, on every server.
    ///
    /// # Errors
    ///
    /// As [`Store::revoke`].
    pub async fn revoke(&self, id: KeyId) -> Result<KeyInfo> {
        self.store.revoke(id).await?;
        self.publish(&[id]).await?;
        self.store.get(id).await
    }

    /// Adds a key's successor; the key itself has `grace` left.
    ///
    /// # Errors
    ///
    /// As [`Store::rotate`].
    pub async fn rotate(&self, old: KeyId, key: &Key, hash: &KeyHash, grace: Duration) -> Result<KeyInfo> {
        let successor = self.store.rotate(old, key, hash, grace).await?;
        self.publish(&[old]).await?;
        self.proofs.leave(key, hash).await;
        Ok(successor)
    }

    /// Gives a key its own limit, or takes that away.
    ///
    /// # Errors
    ///
    /// As [`Store::set_limit`].
    pub async fn set_limit(&self, id: KeyId, limit: Option<u32>) -> Result<KeyInfo> {
        let changed = self.store.set_limit(id, limit).await?;
        self.publish(&[id]).await?;
        Ok(changed)
    }

    /// Changes a user, and with them what their keys may do.
    ///
    /// # Errors
    ///
    /// As [`Store::update_user`].
    pub async fn update_user(&self, id: i64, grants: Option<&Grants>, active: Option<bool>) -> Result<User> {
        let (user, keys) = self.store.update_user(id, grants, active).await?;
        self.publish(&keys).await?;
        Ok(user)
    }

    /// Copies again what was changed lately, in case that the copy made at the time did not arrive. Returns which keys these are.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn reconcile(&self) -> Result<Vec<KeyId>> {
        let lately = self.store.changed_within(LATELY).await?;
        self.publish(&lately).await?;
        Ok(lately)
    }

    /// What a server must know of a key: the copy, or what it was copied from where there is no copy; then there is one again.
    ///
    /// # Errors
    ///
    /// [`Away`] inside if Redis cannot be asked; those of the database.
    pub async fn look_up(&self, id: KeyId) -> Result<std::result::Result<Option<Arc<Record>>, Away>> {
        let (subject, key) = (id.to_string(), self.record_key(id));
        for _ in 0..LOOKS {
            let Ok(attempt) = self.redis.attempt(&subject) else { return Ok(Err(Away)) };
            let mut connection = attempt.connection();
            let unreadable = match attempt.answer(live::read(&mut connection, &key, id)).await {
                Err(Away) => return Ok(Err(Away)),
                Ok(Copy::Record(record)) => return Ok(Ok(Some(Arc::new(record)))),
                Ok(Copy::Nothing) => Vec::new(),
                Ok(Copy::Unreadable(version)) => version,
            };
            let Some(record) = self.stored(id).await? else { return Ok(Ok(None)) };
            let Ok(attempt) = self.redis.attempt(&subject) else { return Ok(Err(Away)) };
            match attempt.answer(live::write(&mut connection, &key, &record, &unreadable)).await {
                Err(Away) => return Ok(Err(Away)),
                Ok(true) => return Ok(Ok(Some(record))),
                // It was changed and copied in between.
                Ok(false) => {}
            }
        }
        Ok(Ok(self.stored(id).await?))
    }

    /// What a server must know of a key, from PostgreSQL.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn stored(&self, id: KeyId) -> Result<Option<Arc<Record>>> {
        Ok(self.store.records(&[id]).await?.pop().map(Arc::new))
    }

    /// Copies keys to Redis. One that cannot be copied now is copied by [`Keys::reconcile`].
    async fn publish(&self, ids: &[KeyId]) -> Result<()> {
        for record in self.store.records(ids).await? {
            let Ok(attempt) = self.redis.early_attempt(&record.id.to_string()) else { return Ok(()) };
            let (key, mut connection) = (self.record_key(record.id), attempt.connection());
            if attempt.answer(live::write(&mut connection, &key, &record, &[])).await.is_err() {
                tracing::warn!(key = %record.id, "a changed key could not be copied to Redis yet");
            }
        }
        Ok(())
    }

    fn record_key(&self, id: KeyId) -> String {
        self.redis.key(&id.to_string(), "record")
    }
}
