//! Who is this, and may it come in now? The steps before an operation, in this order:
//!
//! 1. The request is looked at ([`Arrival`]): the client's address ([`crate::access::address`]), what it is counted as, and the key, if there is one. What
//!    cannot be a key is refused without any I/O.
//! 2. Whose limit was used up a moment ago is refused from memory, before anything else is done about the request ([`Gate::refusal`]).
//! 3. A key that this server has verified: one script call looks at its record and decides its window. Nothing else is asked.
//! 4. Any other key: first the address's windows (requests, and failed authentications, which are fewer), then the record, then argon2, then the key's
//!    window. Unknown, wrong, expired and revoked keys are told the same.
//! 5. A token (`token.rs`) in place of a key: whose it is, and then as a key of which nothing but its record is to be known.
//! 6. No key: the address's window, then 401 where the operation needs a key.
//!
//! While Redis is away keys are read from PostgreSQL, at most a second old, and each server admits its share of the limits.
//!
//! A key that was verified here is not touched by what its address does wrong, nor is one of the configuration, if all of those are long. One that was not, and comes from an address
//! that has used up its requests or failures, gets a hearing of its own if its id is one that was given out (`key.rs`): who shares an address with an attacker
//! is not locked out. Of each address few are checked at a time (`visitors.rs`), so what it does wrong is counted before much more of it is looked at.

mod arrival;
mod class;
mod credentials;
mod decide;
mod headers;
mod issued;
mod key;
mod last_used;
mod lately;
mod principal;
mod standing;
mod subject;
mod tally;
mod tend;
mod token;
mod visitors;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use quick_cache::sync::Cache;
use secrecy::SecretString;

pub use arrival::Arrival;
pub use class::Class;
pub use principal::{Principal, Who};
pub use standing::Limit;
pub use tally::Count;

use super::Error;
use crate::{
    access::{self, ConfiguredKeys, HeldToken, KeyId, Keys, Record, Store, Tokens, TrustedProxies, Verifier, address::NotANetwork},
    coalesce::Together,
    config::{ForwardedBy, Settings},
    http::Head,
    limits::{Guard, Window},
    postgres::Database,
    redis::{Away, Redis},
};
use arrival::Credential;
use class::ClassLimits;
use decide::{Decider, Decision, window};
use headers::Told;
use issued::Issued;
use key::Witness;
use last_used::LastUsed;
use lately::Lately;
use subject::Subject;
use tally::Tally;
use visitors::Visitors;

/// How many keys a server knows at a time, and how many tokens.
const KNOWN_KEYS: usize = 10_000;

/// How many argon2 runs there are at a time at most, on however many processors: each takes 19 MiB.
const MOST_RUNS: usize = 8;

/// How many argon2 runs may wait for their turn.
const WAITING: usize = 64;

/// How often a key may change while it is being looked at.
const ATTEMPTS: usize = 5;

/// Lets requests in; clones are the same one.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    proxies: TrustedProxies,
    forwarded: ForwardedBy,
    is_open: bool,
    limits: ClassLimits,
    failures: u32,
    configured: RwLock<ConfiguredKeys>,
    keys: Keys,
    tokens: Tokens,
    verifier: Verifier,
    /// As they were when this server last looked. Whether they still are is decided with every request.
    known: Cache<KeyId, Arc<Record>>,
    /// The tokens that were met here, by their digests.
    held: Cache<[u8; 32], Arc<HeldToken>>,
    /// Who wants to know a key's record at the same time asks for it together.
    looked_up: Together<KeyId, Result<Option<Arc<Record>>, Error>>,
    /// What PostgreSQL said, while Redis is away.
    fresh: Lately<KeyId, Option<Arc<Record>>>,
    /// What there is to prove keys with that come from addresses over their limit.
    witnesses: Lately<KeyId, Option<Witness>>,
    /// What was good once and is no more.
    ended: Lately<Ended, ()>,
    decider: Decider,
    last_used: LastUsed,
    issued: Issued,
    visitors: Visitors,
    tally: Tally,
}

/// A request that came in.
pub struct Pass {
    /// Who sent it.
    pub principal: Principal,
    told: Option<Told>,
}

impl Pass {
    /// Among how many requests a minute it is, at most; nothing if that may be any number.
    pub fn limit(&self) -> Option<u32> {
        self.told.map(|told| told.standing.limit)
    }

    /// What the answer says of the limit.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        self.told.map(|told| headers::fields(&told)).into_iter().flatten()
    }
}

impl Gate {
    /// The gate of one server.
    ///
    /// # Errors
    ///
    /// [`NotANetwork`] in `trusted_proxies`.
    pub fn new(settings: &Settings, database: Database, redis: Redis) -> Result<Self, NotANetwork> {
        let runs = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_RUNS);
        Ok(Self(Arc::new(Inner {
            proxies: settings.trusted_proxies.parse()?,
            forwarded: settings.forwarded_by,
            is_open: settings.disable_auth,
            limits: ClassLimits { api: settings.rate_limit_per_minute, report: settings.report_limit_per_minute },
            failures: settings.auth_failures_per_minute,
            configured: RwLock::new(ConfiguredKeys::new(&settings.api_keys)),
            keys: Keys::new(Store::new(database), redis.clone()),
            tokens: Tokens::new(redis.clone()),
            verifier: Verifier::new(runs, WAITING),
            known: Cache::new(KNOWN_KEYS),
            held: Cache::new(KNOWN_KEYS),
            looked_up: Together::default(),
            fresh: Lately::new(KNOWN_KEYS),
            witnesses: Lately::new(KNOWN_KEYS),
            ended: Lately::new(KNOWN_KEYS),
            decider: Decider::new(redis, settings.redis_failure),
            last_used: LastUsed::default(),
            issued: Issued::default(),
            visitors: Visitors::default(),
            tally: Tally::default(),
        })))
    }

    /// Takes other keys of the configuration in place of those there were. Returns how many there are now if they are not the same.
    pub fn set_configured(&self, list: &SecretString) -> Option<usize> {
        let keys = ConfiguredKeys::new(list);
        let mut current = self.0.configured.write().unwrap_or_else(PoisonError::into_inner);
        let changed = (*current != keys).then(|| keys.len());
        *current = keys;
        changed
    }

    /// The proxies that announce connections before the first request of each (PROXY protocol): nobody, if they tell in another way.
    pub fn announcers(&self) -> TrustedProxies {
        match self.0.forwarded {
            ForwardedBy::ProxyProtocol => self.0.proxies.clone(),
            ForwardedBy::XForwardedFor | ForwardedBy::Forwarded => TrustedProxies::default(),
        }
    }

    /// The keys that it knows.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// What verifies them.
    pub fn verifier(&self) -> &Verifier {
        &self.0.verifier
    }

    /// The tokens that it knows.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Looks at a request, without asking anybody.
    pub fn arrival(&self, head: &Head<'_>) -> Arrival {
        self.0.arrival(head)
    }

    /// The refusal that a request would get, if that is known: it was over its limit a moment ago. 429.
    pub fn refusal(&self, arrival: &Arrival) -> Option<Error> {
        self.0.decider.refusal(self.0.subject(arrival)?, arrival.class.name())
    }

    /// Decides whether a request comes in.
    ///
    /// # Errors
    ///
    /// 400 for two different keys, 401 for none that is good, 429 over a limit, 503 if it cannot be told right now.
    pub async fn admit(&self, arrival: &Arrival) -> Result<Pass, Error> {
        let result = self.decide(arrival).await;
        self.0.tally.note(arrival.class, result.as_ref().err());
        result
    }

    /// Counts a request that got its [`Gate::refusal`].
    pub fn note_refusal(&self, arrival: &Arrival, refusal: &Error) {
        self.0.tally.note(arrival.class, Some(refusal));
    }

    /// How many requests came in, and why the others did not.
    pub fn counts(&self) -> Vec<Count> {
        self.0.tally.counts()
    }

    async fn decide(&self, arrival: &Arrival) -> Result<Pass, Error> {
        let inner = &self.0;
        match &arrival.credential {
            Credential::Nothing => match inner.anybody(arrival).await {
                Ok(_) if !inner.is_open => Err(unauthorized()),
                decided => decided,
            },
            Credential::Key(key, version) => inner.with_key(key, *version, arrival).await,
            Credential::Token(digest) => Box::pin(inner.with_token(digest, arrival)).await,
            Credential::Text(text) => Box::pin(inner.with_configured(text, arrival)).await,
            Credential::Unreadable => Err(unauthorized()),
            Credential::Several(error) => Err(error.clone()),
        }
    }
}

impl Inner {
    fn configured(&self) -> RwLockReadGuard<'_, ConfiguredKeys> {
        self.configured.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever comes without a key, of which only the address is known.
    async fn anybody(&self, arrival: &Arrival) -> Result<Pass, Error> {
        let told = self.of_address(arrival, arrival.class.name(), &self.limits.window(arrival.class, false)).await?;
        Ok(Pass { principal: Principal::anybody(), told })
    }

    /// What an address may do, with or without Redis.
    async fn of_address(&self, arrival: &Arrival, class: &'static str, windows: &[Window]) -> Result<Option<Told>, Error> {
        self.without_record(Subject::Address(arrival.address), class, windows).await
    }

    /// What a subject may do of which nothing is recorded.
    async fn without_record(&self, subject: Subject, class: &'static str, windows: &[Window]) -> Result<Option<Told>, Error> {
        match self.decider.decide(subject, class, None, windows).await? {
            Decision::In(told) => Ok(told),
            Decision::Alone | Decision::Stale | Decision::Gone => self.decider.alone(subject, windows, None),
        }
    }

    /// An address that brings a key which is not known here: it must have requests left, and failures.
    async fn before_verifying(&self, arrival: &Arrival) -> Result<(), Error> {
        let windows = [window("api", self.limits.api, 1, false), window("failures", self.failures, 0, false)];
        self.of_address(arrival, "verify", &windows).await.map(drop)
    }

    /// 401, after the failure was counted; or 429.
    async fn failed(&self, arrival: &Arrival) -> Error {
        match self.of_address(arrival, "failures", &[window("failures", self.failures, 1, false)]).await {
            Ok(_) => unauthorized(),
            Err(error) => error,
        }
    }

    async fn with_configured(&self, text: &str, arrival: &Arrival) -> Result<Pass, Error> {
        let (position, may_be_found) = {
            let keys = self.configured();
            (keys.position(text), keys.is_any_short())
        };
        // It costs nothing to know, so nobody is kept out by what others at their address do wrong: except where they might find a key in this way.
        if may_be_found {
            self.of_address(arrival, "verify", &[window("failures", self.failures, 0, false)]).await?;
        }
        let Some(position) = position else { return Err(self.failed(arrival).await) };
        let windows = self.limits.window(arrival.class, false);
        let told = self.without_record(Subject::Configured(position), arrival.class.name(), &windows).await?;
        Ok(Pass { principal: Principal::configured(position), told })
    }

    /// The window of a key that is right, if its record is still this one and good, and the token too that was given in its place.
    async fn of_key(&self, record: &Arc<Record>, token: Option<Deputy<'_>>, class: Class) -> Result<Outcome, Error> {
        let (subject, windows) = (Subject::Key(record.id), self.limits.window(class, true));
        let guard = Guard { version: record.version, token: token.map(|token| token.digest) };
        let told = match self.decider.decide(subject, class.name(), Some(guard), &windows).await? {
            Decision::In(told) => told,
            Decision::Stale => return Ok(Outcome::Changed),
            Decision::Gone => return Ok(Outcome::Gone),
            Decision::Alone if token.is_some_and(|token| token.held.ends_at() <= chrono::Utc::now()) => return Ok(Outcome::Gone),
            Decision::Alone => match self.freshly(record.id).await? {
                Some(now) if !now.is_good(chrono::Utc::now()) => return Ok(Outcome::Gone),
                Some(now) if now.version == record.version => self.decider.alone(subject, &windows, record.rate_limit)?,
                Some(_) => return Ok(Outcome::Changed),
                None => return Ok(Outcome::Gone),
            },
        };
        self.last_used.note(record.id);
        let principal = match token {
            Some(Deputy { held, digest }) => Principal::of_token(record, held, digest),
            None => Principal::of(record),
        };
        Ok(Outcome::In(Pass { principal, told }))
    }

    /// The window of a key as it is without a record.
    fn api_window(&self, own_limit: Option<u32>) -> Window {
        window("api", own_limit.unwrap_or(self.limits.api), 0, false)
    }

    async fn look_up(&self, id: KeyId) -> Result<Option<Arc<Record>>, Error> {
        let look = async || match self.keys.look_up(id).await? {
            Ok(record) => Ok(record),
            Err(Away) => self.freshly(id).await,
        };
        self.looked_up.ask(id, look).await
    }

    /// What PostgreSQL said of a key within the last second.
    async fn freshly(&self, id: KeyId) -> Result<Option<Arc<Record>>, Error> {
        self.fresh.get_or_ask(id, || async { Ok(self.keys.stored(id).await?) }).await
    }

    /// The refusal of an address that has used up its failures, if that is known and this has ended a moment ago.
    fn refusal_of_ended(&self, ended: Ended, arrival: &Arrival) -> Option<Error> {
        self.ended.get(&ended)?;
        self.decider.refusal(Subject::Address(arrival.address), "failures")
    }
}

/// What can be good and then end.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Ended {
    Key(KeyId),
    Token([u8; 32]),
}

/// A token that was given in place of its key.
#[derive(Clone, Copy)]
struct Deputy<'a> {
    held: &'a Arc<HeldToken>,
    digest: [u8; 32],
}

enum Outcome {
    In(Pass),
    Changed,
    Gone,
}

/// 401, the same for everybody.
fn unauthorized() -> Error {
    let challenge = "Bearer realm=\"whatsnext\", Basic realm=\"whatsnext\", charset=\"UTF-8\"";
    Error::new(StatusCode::UNAUTHORIZED, "A valid API key is needed: send it as X-API-Key, as a bearer token, or as the password of Basic.")
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

impl From<access::Error> for Error {
    fn from(error: access::Error) -> Self {
        use access::Error::{Database, Ended, NameTaken, NoKey, NoUser, PageTooLarge};
        match error {
            NoKey(_) | NoUser(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            NameTaken(_) | Ended(_) => Self::new(StatusCode::CONFLICT, error.to_string()),
            PageTooLarge(_) => Self::invalid(vec!["query".into(), "limit".into()], "out_of_range", error.to_string()),
            Database(error) => error.into(),
        }
    }
}
