//! Requests with a key.
//!
//! # Who shares an address with an attacker
//!
//! The address's windows come before anything is asked about a key that this server has not verified, since that may cost argon2. So whoever uses them up could
//! keep a good key from the same address out of a server that has not met it yet. Therefore such a key is not refused before a look at its id:
//!
//! - An id that was never given out is refused from memory ([`super::issued`]). Whoever makes ids up gets no further, and costs nothing.
//! - A key that any server has verified lately comes in by its proof ([`crate::access::proof`]), which costs no argon2.
//! - Any other whose id was given out has a window of failures of its own at each address. Only who knows the id can use that up, and it is then as it would
//!   be without: refused, from this address, for a minute at most.
//!
//! The answer to a wrong key is the refusal that the address had coming, as for an unknown one.

use std::sync::Arc;

use poem::http::StatusCode;

use super::{
    ATTEMPTS, Arrival, Ended, Gate, Inner, Outcome, Pass, Subject,
    visitors::{Brought, to_the_end},
    window,
};
use crate::{
    access::{Busy, Key, KeyId, Record, Stored},
    api::Error,
};

/// A key's record, and what some server has left to prove the key.
#[derive(Clone)]
pub(super) struct Witness {
    record: Arc<Record>,
    proof: Option<Vec<u8>>,
}

impl Gate {
    /// The user whose key it is, as far as this server has met it; nothing if it is nobody's.
    pub(in crate::api) fn user_of(&self, key: KeyId) -> Option<i64> {
        Some(self.0.known.get(&key)?.user.as_ref()?.id)
    }

    /// Notes that a key was given out just now, so that nobody takes its id for one that was made up.
    pub(in crate::api) fn gave_out(&self, key: KeyId) {
        self.0.issued.add(vec![key]);
    }
}

impl Inner {
    /// A key, and the version of its record for which it was verified here. All that a key needs which was not is large and rare: it has places of its own, so that
    /// no other request moves it about.
    pub(super) async fn with_key(self: &Arc<Self>, key: &Key, version: Option<i64>, arrival: &Arrival) -> Result<Pass, Error> {
        let Some(version) = version else { return Box::pin(self.unmet(key, arrival)).await };
        if let Some(refusal) = self.refusal_of_ended(Ended::Key(key.id()), arrival) {
            return Err(refusal);
        }
        if let Some(record) = self.known.get(&key.id()).filter(|record| record.version == version) {
            match self.of_key(&record, None, arrival.class).await? {
                Outcome::In(pass) => return Ok(pass),
                Outcome::Gone => {
                    self.ended.note(Ended::Key(key.id()), ());
                    return Err(Box::pin(self.failed(arrival)).await);
                }
                Outcome::Changed => {}
            }
        }
        Box::pin(self.verified_or_failed(key, arrival)).await
    }

    /// A key that was not verified here yet.
    async fn unmet(self: &Arc<Self>, key: &Key, arrival: &Arrival) -> Result<Pass, Error> {
        // Whoever makes ids up waits for nothing either.
        let brought = if self.issued.contains(key.id()) { Brought::IssuedKey } else { Brought::OtherKey };
        if let Brought::OtherKey = brought
            && let Some(refusal) = self.decider.refusal(Subject::Address(arrival.address), "verify")
        {
            return Err(refusal);
        }
        // Until it is decided and, if it is wrong, counted: of those that come at once none is looked at before the failures of others are known.
        let place = self.visitors.place(arrival.address, brought).await;
        let (inner, key, arrival) = (Arc::clone(self), key.clone(), arrival.clone());
        to_the_end(async move {
            let _place = place;
            inner.looked_at(&key, &arrival).await
        })
        .await
    }

    async fn looked_at(&self, key: &Key, arrival: &Arrival) -> Result<Pass, Error> {
        // Another request may have brought it meanwhile.
        if self.verifier.verified_version(key).is_none()
            && let Err(refusal) = self.before_verifying(arrival).await
        {
            return self.hear(key, arrival, refusal).await;
        }
        self.verified_or_failed(key, arrival).await
    }

    async fn verified_or_failed(&self, key: &Key, arrival: &Arrival) -> Result<Pass, Error> {
        match self.verified(key, arrival).await? {
            Some(pass) => Ok(pass),
            None => Err(self.failed(arrival).await),
        }
    }

    /// A key that is not known here, from an address over its limit.
    async fn hear(&self, key: &Key, arrival: &Arrival, refusal: Error) -> Result<Pass, Error> {
        if refusal.status() != StatusCode::TOO_MANY_REQUESTS || !self.issued.contains(key.id()) {
            return Err(refusal);
        }
        let subject = Subject::KeyAt(arrival.address, key.id());
        let failures = |weight| [window("failures", self.failures, weight, false)];
        if !self.is_proven(key).await? && self.without_record(subject, "verify", &failures(0)).await.is_err() {
            return Err(refusal);
        }
        if let Some(pass) = self.verified(key, arrival).await? {
            return Ok(pass);
        }
        // Over it or not: the answer is the same.
        let _ = self.without_record(subject, "failures", &failures(1)).await;
        Err(refusal)
    }

    /// Whether another server has verified the key. Then it is known here too. What is there to prove it with is looked for once a second, so that right and
    /// wrong keys of an id are told apart without asking anybody.
    async fn is_proven(&self, key: &Key) -> Result<bool, Error> {
        let id = key.id();
        let look = || async {
            let Some(record) = self.look_up(id).await? else { return Ok(None) };
            Ok(Some(Witness { record, proof: self.keys.proofs.found(id).await }))
        };
        let Some(Witness { record, proof: Some(proof) }) = self.witnesses.get_or_ask(id, look).await? else { return Ok(false) };
        let Some(hash) = record.key_hash() else { return Ok(false) };
        let is_proven = self.keys.proofs.proves(&proof, key, &hash);
        if is_proven {
            self.verifier.believe(key, Stored { version: record.version, hash: &hash });
        }
        Ok(is_proven)
    }

    /// Whether it is the key that is stored: by its proof, or by argon2, which leaves one.
    async fn is_right(&self, key: &Key, stored: Option<Stored<'_>>) -> Result<bool, Busy> {
        let Some(stored) = stored.filter(|_| self.verifier.verified_version(key).is_none()) else {
            return self.verifier.verify(key, stored).await;
        };
        if self.keys.proofs.is_there(key, stored.hash).await {
            self.verifier.believe(key, stored);
            return Ok(true);
        }
        let is_right = self.verifier.verify(key, Some(stored)).await?;
        if is_right {
            self.keys.proofs.leave(key, stored.hash).await;
        }
        Ok(is_right)
    }

    /// Looks the key's record up, verifies the key and decides its window. Nothing if it is not right, or no longer good.
    async fn verified(&self, key: &Key, arrival: &Arrival) -> Result<Option<Pass>, Error> {
        for _ in 0..ATTEMPTS {
            let record = self.look_up(key.id()).await?;
            if record.is_none() && self.verifier.verified_version(key).is_some() {
                // It was good here: it has ended, however it came that nothing is left of it.
                self.ended.note(Ended::Key(key.id()), ());
                return Ok(None);
            }
            let hash = record.as_ref().and_then(|record| record.key_hash());
            let stored = record.as_ref().zip(hash.as_ref()).map(|(record, hash)| Stored { version: record.version, hash });
            let is_right = self.is_right(key, stored).await;
            let is_right = is_right.map_err(|Busy| Error::unavailable("Too many keys are being checked. Try again in a moment."))?;
            let Some(record) = record.filter(|_| is_right) else { return Ok(None) };
            // Also if it is over its limit: whose it is, is known.
            self.known.insert(record.id, record.clone());
            match self.of_key(&record, None, arrival.class).await? {
                Outcome::In(pass) => return Ok(Some(pass)),
                Outcome::Gone => {
                    self.ended.note(Ended::Key(key.id()), ());
                    return Ok(None);
                }
                Outcome::Changed => {}
            }
        }
        Err(Error::unavailable("This key is being changed. Try again in a moment."))
    }
}
