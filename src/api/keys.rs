//! `/keys`: who may come in, and how often.

use std::time::Duration;

use poem::http::StatusCode;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    Error, Tag,
    admission::{Gate, Limit as KeyLimit, Who},
    error::{BadRequest, Conflict, NotFound, Refusal},
    extract::{Body, Caller, Path, Query, Scope},
    paging::{self, ten},
    reply::{Created, Paged, Reply},
    types::{Count, Grants, Limit, Name, Role, Skip, Timestamp},
};
use crate::{
    access::{self, Busy, KeyId, KeyInfo, NewKey},
    postgres::Page,
};

/// The operations on keys.
#[derive(Clone)]
pub struct Api {
    /// What knows them.
    pub gate: Gate,
}

/// A key. Its secret is known only to whom it was given to.
#[derive(Debug, Serialize, Object)]
pub struct KeyData {
    id: String,
    name: Name,
    /// The user whose key it is; what the key may do is bounded by what they may.
    user_id: Option<i64>,
    user_name: Option<Name>,
    grants: Grants,
    /// Its own limit, in requests a minute, 0 for none; null for the server's.
    rate_limit: Option<Count>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// The key that was made to replace it.
    successor: Option<String>,
    /// To the minute.
    last_used_at: Option<Timestamp>,
    created_at: Timestamp,
}

/// A key that was just made: the only time that all of it is told.
#[derive(Debug, Serialize, Object)]
pub struct MadeKey {
    /// All of the key, to be kept secret. It cannot be asked for again.
    key: String,
    data: KeyData,
}

/// A key to be made.
#[derive(Debug, Deserialize, Object)]
pub struct NewKeyBody {
    name: Name,
    role: Role,
    /// The projects in which the role holds; null for all, also for those that do not exist yet.
    projects: Option<Vec<i64>>,
    /// Whose key it is to be.
    user_id: Option<i64>,
    /// Requests a minute, 0 for no limit; null for the server's.
    rate_limit: Option<Count>,
    /// After how many seconds it ends; null for never.
    expires_in_seconds: Option<Count>,
}

/// How a key is replaced.
#[derive(Debug, Deserialize, Object)]
pub struct Rotation {
    /// For how many seconds the old key is good.
    #[oai(default = "at_once")]
    #[serde(default = "at_once")]
    grace_seconds: Count,
}

/// A key's own limit.
#[derive(Debug, Deserialize, Object)]
pub struct NewLimit {
    /// Requests a minute, 0 for no limit; null for the server's.
    rate_limit: Option<Count>,
}

/// How a key's window stands.
#[derive(Debug, Serialize, Object)]
pub struct WindowData {
    /// Requests a minute; 0 for no limit.
    limit: u32,
    remaining: u32,
    /// When it is empty if nothing else comes, in milliseconds.
    reset_ms: u64,
}

fn at_once() -> Count {
    Count::new(0).expect("in range")
}

impl From<KeyInfo> for KeyData {
    fn from(key: KeyInfo) -> Self {
        let (user_id, user_name) = key.user.map_or((None, None), |(id, name)| (Some(id), Some(name.into())));
        Self {
            id: key.id.to_string(),
            name: key.name.into(),
            user_id,
            user_name,
            grants: Grants(key.grants),
            rate_limit: key.rate_limit.map(|limit| Count::new(limit.into()).unwrap_or_else(|_| at_once())),
            expires_at: key.expires_at.map(Timestamp),
            revoked_at: key.revoked_at.map(Timestamp),
            successor: key.successor.map(|id| id.to_string()),
            last_used_at: key.last_used_at.map(Timestamp),
            created_at: Timestamp(key.created_at),
        }
    }
}

impl KeyData {
    /// What people call it.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// For a table: id, name, user, grants, limit, state, last use.
    pub fn columns(&self) -> [String; 7] {
        let now = chrono::Utc::now();
        let time = |at: &Timestamp| at.0.format("%Y-%m-%d %H:%M").to_string();
        let state = match (&self.revoked_at, &self.expires_at) {
            (Some(at), _) => format!("revoked {}", time(at)),
            (None, Some(at)) if at.0 <= now => format!("expired {}", time(at)),
            (None, Some(at)) => format!("until {}", time(at)),
            (None, None) => "good".to_owned(),
        };
        [
            self.id.clone(),
            self.name().to_owned(),
            self.user_name.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default(),
            self.grants.to_string(),
            self.rate_limit.map(|limit| limit.get().to_string()).unwrap_or_default(),
            state,
            self.last_used_at.as_ref().map(time).unwrap_or_default(),
        ]
    }
}

impl From<KeyLimit> for WindowData {
    fn from(window: KeyLimit) -> Self {
        Self { limit: window.limit, remaining: window.remaining, reset_ms: window.reset_ms }
    }
}

#[OpenApi(tag = "Tag::Access")]
impl Api {
    /// List keys
    #[oai(path = "/keys", method = "get", operation_id = "list_keys")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        /// Only this user's.
        user_id: Query<Option<i64>>,
        /// At most so many.
        #[oai(default = "ten")]
        limit: Query<Limit>,
        /// Pass over so many.
        #[oai(default = "paging::zero")]
        skip: Query<Skip>,
        /// Only those with a greater id; cheaper than `skip`.
        #[oai(default = "String::new")]
        after_id: Query<String>,
    ) -> Result<Paged<KeyData>, Refusal> {
        let page = Page { after: after_id.as_str(), skip: skip.get(), limit: limit.get() };
        Ok(Paged(self.gate.keys().store.list(*user_id, page).await?.map(KeyData::from)))
    }

    /// Make a key
    ///
    /// The answer has all of the key, which is not kept and cannot be asked for again.
    #[oai(path = "/keys", method = "post", operation_id = "create_key")]
    async fn create(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        body: Body<NewKeyBody>,
    ) -> Result<Created<MadeKey>, Refusal<BadRequest>> {
        let NewKeyBody { name, role, projects, user_id, rate_limit, expires_in_seconds } = body.into_inner();
        let grants = match projects {
            None => access::Grants::All(role.0),
            Some(projects) => access::Grants::Only(projects.into_iter().map(|project| (project, role.0)).collect()),
        };
        check_length(&grants)?;
        let new = NewKey {
            name: name.into_string(),
            user_id,
            grants,
            rate_limit: rate_limit.map(Count::get_u32),
            expires_at: expires_in_seconds.map(|seconds| chrono::Utc::now() + chrono::Duration::seconds(seconds.get())),
        };
        let key = access::Key::generate(KeyId::make());
        let hash = self.gate.verifier().hash(&key).await.map_err(busy)?;
        let info = self.gate.keys().add(&key, &hash, &new).await.map_err(|error| match error {
            // Here the user is what the body names.
            access::Error::NoUser(_) => Error::bad_request(error.to_string()),
            other => other.into(),
        })?;
        Ok(self.made(&key, info))
    }

    /// Get the key that the request was sent with
    ///
    /// Whatever it may do, also nothing.
    #[oai(path = "/keys/self", method = "get", operation_id = "get_own_key")]
    async fn own(&self, caller: Caller) -> Result<Reply<KeyData>, Refusal<NotFound>> {
        Ok(Reply(self.gate.keys().store.get(own(&caller)?).await?.into()))
    }

    /// Revoke the key that the request was sent with
    ///
    /// For whoever believes that it got into other hands, whatever it may do.
    #[oai(path = "/keys/self/revoke", method = "post", operation_id = "revoke_own_key")]
    async fn revoke_own(&self, caller: Caller) -> Result<Reply<KeyData>, Refusal<NotFound>> {
        Ok(Reply(self.gate.keys().revoke(own(&caller)?).await?.into()))
    }

    /// Get a key
    #[oai(path = "/keys/:key_id", method = "get", operation_id = "get_key")]
    async fn get(&self, #[oai(scope = "Scope::Admin")] _caller: Caller, key_id: Path<String>) -> Result<Reply<KeyData>, Refusal<NotFound>> {
        Ok(Reply(self.gate.keys().store.get(id(&key_id)?).await?.into()))
    }

    /// Replace a key
    ///
    /// Makes a key for the same user, with the same grants, limit and expiry. The old one is good for `grace_seconds`, or less if it would have ended
    /// earlier.
    #[oai(path = "/keys/:key_id/rotate", method = "post", operation_id = "rotate_key")]
    async fn rotate(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        key_id: Path<String>,
        body: Body<Rotation>,
    ) -> Result<Created<MadeKey>, Refusal<(NotFound, Conflict)>> {
        let old = id(&key_id)?;
        let key = access::Key::generate(KeyId::make());
        let hash = self.gate.verifier().hash(&key).await.map_err(busy)?;
        let grace = Duration::from_secs(body.into_inner().grace_seconds.get_u32().into());
        let info = self.gate.keys().rotate(old, &key, &hash, grace).await?;
        Ok(self.made(&key, info))
    }

    /// Revoke a key
    ///
    /// It is no good from the next request on, on every server.
    #[oai(path = "/keys/:key_id/revoke", method = "post", operation_id = "revoke_key")]
    async fn revoke(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        key_id: Path<String>,
    ) -> Result<Reply<KeyData>, Refusal<NotFound>> {
        Ok(Reply(self.gate.keys().revoke(id(&key_id)?).await?.into()))
    }

    /// Get how a key's limit stands
    #[oai(path = "/keys/:key_id/limit", method = "get", operation_id = "get_key_limit")]
    async fn limit(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        key_id: Path<String>,
    ) -> Result<Reply<WindowData>, Refusal<NotFound>> {
        let key = self.gate.keys().store.get(id(&key_id)?).await?;
        Ok(Reply(self.gate.limit_of(&key).await?.into()))
    }

    /// Give a key its own limit
    ///
    /// It holds at once, for what came in during the last minute too.
    #[oai(path = "/keys/:key_id/limit", method = "put", operation_id = "set_key_limit")]
    async fn set_limit(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        key_id: Path<String>,
        body: Body<NewLimit>,
    ) -> Result<Reply<KeyData>, Refusal<NotFound>> {
        let limit = body.into_inner().rate_limit.map(Count::get_u32);
        Ok(Reply(self.gate.keys().set_limit(id(&key_id)?, limit).await?.into()))
    }

    /// Forget what a key has used of its limit
    #[oai(path = "/keys/:key_id/limit/reset", method = "post", operation_id = "reset_key_limit")]
    async fn reset(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        key_id: Path<String>,
    ) -> Result<Reply<WindowData>, Refusal<NotFound>> {
        let key = self.gate.keys().store.get(id(&key_id)?).await?;
        self.gate.reset(&key).await?;
        Ok(Reply(self.gate.limit_of(&key).await?.into()))
    }
}

impl Api {
    /// The answer with a key that was just made, which may come back at once.
    fn made(&self, key: &access::Key, info: KeyInfo) -> Created<MadeKey> {
        self.gate.gave_out(info.id);
        Created { location: format!("/keys/{}", info.id), body: MadeKey { key: key.expose().to_owned(), data: info.into() } }
    }
}

/// The key that a request was sent with, not by way of a token.
fn own(caller: &Caller) -> Result<KeyId, Error> {
    match caller.who() {
        Who::Key(record) => Ok(record.id),
        Who::Token { .. } => Err(Error::new(StatusCode::FORBIDDEN, "This was sent with a token: see /tokens/self, or send the key.")),
        Who::Anybody | Who::Configured(_) => Err(access::Error::NoKey("with which this was sent".to_owned()).into()),
    }
}

fn id(text: &str) -> Result<KeyId, Error> {
    text.parse().map_err(|_| access::Error::NoKey(format!("{text:?}")).into())
}

pub(super) fn busy(Busy: Busy) -> Error {
    Error::unavailable("Too many keys are being made and checked. Try again in a moment.")
}

pub(super) fn check_length(grants: &access::Grants) -> Result<(), Error> {
    match grants.is_short() {
        true => Ok(()),
        false => {
            let msg = format!("must have at most {} projects", access::Grants::MAX_PROJECTS);
            Err(Error::invalid(vec!["body".into(), "projects".into()], "out_of_range", msg))
        }
    }
}
