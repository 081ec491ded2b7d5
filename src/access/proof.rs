//! Proofs that a key was verified, which servers leave for each other in Redis.
//!
//! argon2 costs 15 ms of a processor, on every server and after every restart, and whoever sends enough wrong keys can keep right ones waiting. So a server that
//! has verified a key leaves HMAC-SHA256 of the key and its stored hash under a secret that the fleet shares and keeps in PostgreSQL. A server that is
//! presented with the same key, and finds the same there, need not run argon2.
//!
//! - Whoever reads Redis finds an HMAC of 256 random bits under a secret that is not there: nothing to try keys on.
//! - Whoever reads PostgreSQL finds the secret and argon2 hashes, but no proof. Who reads both can try keys fast, which 256 random bits do not mind.
//! - Whoever writes to Redis cannot make a proof, and does not need one: they can write a record with a hash of their own.
//! - A proof is of one hash. A key whose stored hash was replaced has none.
//! - It says nothing about whether a key has expired or been revoked; that is in its record, as ever.
//!
//! Without the secret, or without Redis, there are no proofs, and argon2 runs.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{Key, KeyHash, KeyId, Result, Store, live};
use crate::redis::Redis;

/// How long a proof is kept after it was last looked at.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The proofs of the whole fleet; clones share what they know.
#[derive(Clone)]
pub struct Proofs {
    store: Store,
    redis: Redis,
    /// Has seen the fleet's secret and nothing else.
    mac: Arc<OnceLock<Hmac<Sha256>>>,
}

impl Proofs {
    /// Those of this Redis, under the secret of this database, once it was read.
    pub fn new(store: Store, redis: Redis) -> Self {
        Self { store, redis, mac: Arc::default() }
    }

    /// Reads the fleet's secret, if it was not read yet.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn prepare(&self) -> Result<()> {
        if self.mac.get().is_none() {
            let secret = self.store.fleet_secret().await?;
            let mac = Hmac::new_from_slice(&secret).expect("HMAC takes secrets of any length");
            // Somebody else may have been faster, with the same secret.
            let _ = self.mac.set(mac);
        }
        Ok(())
    }

    /// Whether some server has verified this key for this hash.
    pub async fn is_there(&self, key: &Key, hash: &KeyHash) -> bool {
        match self.found(key.id()).await {
            Some(found) => self.proves(&found, key, hash),
            None => false,
        }
    }

    /// What some server has left of a key with this id, whatever it proves.
    pub async fn found(&self, id: KeyId) -> Option<Vec<u8>> {
        // Without the secret nothing is a proof.
        self.mac.get()?;
        let attempt = self.redis.attempt(&id.to_string()).ok()?;
        let (name, mut connection) = (self.name(id), attempt.connection());
        attempt.answer(live::read_proof(&mut connection, &name, KEPT)).await.ok().flatten()
    }

    /// Whether it proves that this key was verified for this hash.
    pub fn proves(&self, found: &[u8], key: &Key, hash: &KeyHash) -> bool {
        self.of(key, hash).is_some_and(|proof| found.ct_eq(&proof).into())
    }

    /// Leaves the proof that this server has verified a key for a hash. It may be in vain.
    pub async fn leave(&self, key: &Key, hash: &KeyHash) {
        let (Some(proof), Ok(attempt)) = (self.of(key, hash), self.redis.attempt(&key.id().to_string())) else { return };
        let (name, mut connection) = (self.name(key.id()), attempt.connection());
        if attempt.answer(live::write_proof(&mut connection, &name, &proof, KEPT)).await.is_err() {
            tracing::debug!(key = %key.id(), "other servers have to verify this key themselves");
        }
    }

    fn of(&self, key: &Key, hash: &KeyHash) -> Option<[u8; 32]> {
        // Neither has a NUL in it.
        let mac = self.mac.get()?.clone().chain_update(hash.as_str()).chain_update([0]).chain_update(key.expose());
        Some(mac.finalize().into_bytes().into())
    }

    fn name(&self, id: KeyId) -> String {
        self.redis.key(&id.to_string(), "proof")
    }
}
