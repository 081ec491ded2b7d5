//! Requests with a token in place of a key.
//!
//! A token's digest is looked for in memory, then, after the address's windows, in Redis. What it says is only whose token it is and what was asked for: its
//! key's record decides, at the version of this moment, in the same script call that looks whether the token has ended.

use std::{sync::Arc, time::Instant};

use poem::http::StatusCode;

use super::{
    ATTEMPTS, Arrival, Deputy, Ended, Inner, Outcome, Pass,
    visitors::{Brought, to_the_end},
};
use crate::{access::HeldToken, api::Error, redis::Away};

impl Inner {
    pub(super) async fn with_token(self: &Arc<Self>, digest: &[u8; 32], arrival: &Arrival) -> Result<Pass, Error> {
        let held = match self.held.get(digest) {
            Some(held) => held,
            None => {
                let held = self.look_for(digest, arrival).await?;
                self.held.insert(*digest, held.clone());
                held
            }
        };
        let mut known = self.known.get(&held.key);
        for _ in 0..ATTEMPTS {
            let record = match known.take() {
                Some(record) => Some(record),
                None => self.look_up(held.key).await?.inspect(|record| self.known.insert(held.key, record.clone())),
            };
            let outcome = match record {
                Some(record) => self.of_key(&record, Some(Deputy { held: &held, digest: *digest }), arrival.class).await?,
                None => Outcome::Gone,
            };
            match outcome {
                Outcome::In(pass) => return Ok(pass),
                Outcome::Changed => {}
                Outcome::Gone => {
                    self.held.remove(digest);
                    self.ended.note(Ended::Token(*digest), ());
                    return Err(self.failed(arrival).await);
                }
            }
        }
        Err(Error::unavailable("This token's key is being changed. Try again in a moment."))
    }

    /// A token that was not met here yet.
    async fn look_for(self: &Arc<Self>, digest: &[u8; 32], arrival: &Arrival) -> Result<Arc<HeldToken>, Error> {
        if let Some(refusal) = self.refusal_of_ended(Ended::Token(*digest), arrival) {
            return Err(refusal);
        }
        // Until it is found or, if there is none, counted.
        let place = self.visitors.place(arrival.address, Brought::Token).await;
        let (inner, digest, arrival) = (Arc::clone(self), *digest, arrival.clone());
        to_the_end(async move {
            let _place = place;
            inner.found(&digest, &arrival).await
        })
        .await
    }

    async fn found(&self, digest: &[u8; 32], arrival: &Arrival) -> Result<Arc<HeldToken>, Error> {
        let refusal = match self.before_verifying(arrival).await {
            Ok(()) => None,
            // Who shares an address with an attacker is not locked out, as long as not many are looked for.
            Err(refusal)
                if refusal.status() == StatusCode::TOO_MANY_REQUESTS && self.visitors.may_be_heard(arrival.address, Instant::now()) =>
            {
                Some(refusal)
            }
            Err(refusal) => return Err(refusal),
        };
        match self.tokens.look_up(digest).await.map_err(away)? {
            Some(held) => Ok(held),
            None => Err(match refusal {
                Some(refusal) => refusal,
                None => self.failed(arrival).await,
            }),
        }
    }
}

fn away(_: Away) -> Error {
    Error::unavailable("Redis, which holds the tokens, is not available right now. Try again in a moment.")
}
