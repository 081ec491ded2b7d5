//! Requests with a token in place of a key.
//!
//! A token's digest is looked for in memory, then, after the address's windows, in Redis. What it says is only whose token it is and what was asked for: its
//! key's record decides, at the version of this moment, in the same script call that looks whether the token has ended.

use poem::http::StatusCode;

use super::{ATTEMPTS, Arrival, Deputy, Inner, Outcome, Pass};
use crate::{api::Error, redis::Away};

impl Inner {
    pub(super) async fn with_token(&self, digest: &[u8; 32], arrival: &Arrival) -> Result<Pass, Error> {
        let held = match self.held.get(digest) {
            Some(held) => held,
            None => {
                let refused = match self.before_verifying(arrival).await {
                    Ok(()) => None,
                    // Who shares an address with an attacker is not locked out, as long as not many ask at a time.
                    Err(refusal) if refusal.status() == StatusCode::TOO_MANY_REQUESTS => match self.hearings.try_acquire() {
                        Ok(place) => Some((refusal, place)),
                        Err(_) => return Err(refusal),
                    },
                    Err(refusal) => return Err(refusal),
                };
                let Some(held) = self.tokens.look_up(digest).await.map_err(away)? else {
                    return Err(match refused {
                        Some((refusal, _)) => refusal,
                        None => self.failed(arrival).await,
                    });
                };
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
                    return Err(self.failed(arrival).await);
                }
            }
        }
        Err(Error::unavailable("This token's key is being changed. Try again in a moment."))
    }
}

fn away(_: Away) -> Error {
    Error::unavailable("Redis, which holds the tokens, is not available right now. Try again in a moment.")
}
