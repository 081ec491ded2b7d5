//! `/tokens`: a part of what a key may do, for a while.

use std::collections::BTreeSet;

use poem::http::StatusCode;
use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    Error, Tag,
    admission::{Gate, Who},
    error::{Conflict, NotFound, Refusal},
    extract::{Body, Caller, Scope},
    reply::{Created, Gone, Reply},
    types::{Lifetime, Timestamp, TokenScope},
};
use crate::{
    access::{Bounds, HeldToken, KeyId, Power, Scopes, Visible, tokens},
    redis::Away,
};

/// The operations on tokens.
#[derive(Clone)]
pub struct Api {
    /// What knows them.
    pub gate: Gate,
}

/// A token to be made.
#[derive(Debug, Deserialize, Object)]
pub struct NewToken {
    /// For how many seconds it is good; less if its key ends earlier.
    #[oai(default = "an_hour")]
    #[serde(default = "an_hour")]
    ttl_seconds: Lifetime,
    /// What it is to be good for; null for all that its key is, but for `admin`.
    scopes: Option<Vec<TokenScope>>,
    /// The projects in which it is to be good; null for all of its key's, also for those that it will have.
    projects: Option<Vec<i64>>,
}

/// A token.
#[derive(Debug, Serialize, Object)]
pub struct TokenData {
    /// The key that it was made with, and ends with.
    key_id: String,
    /// What it is good for in one project or another.
    scopes: Vec<TokenScope>,
    /// Where it is good for anything; null for all projects.
    projects: Option<Vec<i64>>,
    /// When it ends if its key does not.
    expires_at: Timestamp,
}

/// A token that was just made: the only time that all of it is told.
#[derive(Debug, Serialize, Object)]
pub struct MadeToken {
    /// All of the token, to be sent in place of the key. It cannot be asked for again.
    token: String,
    data: TokenData,
}

fn an_hour() -> Lifetime {
    Lifetime::new(3600).expect("in range")
}

#[OpenApi(tag = "Tag::Access")]
impl Api {
    /// Make a token
    ///
    /// It may do what is asked for, as long as the key that this is sent with may do that too; never `admin`. It counts for the key's limit, and is no good
    /// from the next request on when the key ends. The answer has all of it, which is not kept and cannot be asked for again.
    #[oai(path = "/tokens", method = "post", operation_id = "create_token")]
    async fn create(
        &self,
        #[oai(scope = "Scope::Read")] caller: Caller,
        body: Body<NewToken>,
    ) -> Result<Created<MadeToken>, Refusal<Conflict>> {
        let key = match caller.who() {
            Who::Key(key) => key,
            Who::Token { .. } => return Err(forbidden("A token cannot make tokens: send its key.").into()),
            Who::Configured(_) => {
                return Err(forbidden("A key of the configuration has no tokens: make a key, and tokens with that.").into());
            }
            Who::Anybody => return Err(forbidden("Tokens are made with a key, and this server asks for none (disable_auth).").into()),
        };
        let NewToken { ttl_seconds, scopes, projects } = body.into_inner();
        let projects: Option<BTreeSet<i64>> = projects.map(BTreeSet::from_iter);
        if projects.as_ref().is_some_and(|projects| projects.len() > Bounds::MAX_PROJECTS) {
            let msg = format!("must have at most {} projects", Bounds::MAX_PROJECTS);
            return Err(Error::invalid(vec!["body".into(), "projects".into()], "out_of_range", msg).into());
        }
        check(caller.power(), scopes.as_deref().unwrap_or_default(), projects.as_ref())?;
        let scopes = scopes.unwrap_or_else(|| TokenScope::ALL.to_vec());
        let bounds = Bounds { scopes: Scopes::from_iter(scopes.into_iter().map(Into::into)), projects };
        let power = caller.power().within_bounds(&bounds);
        if power == Power::NONE {
            return Err(forbidden("This token could do nothing: ask for something that its key may do.").into());
        }
        let (token, held) = self.gate.tokens().make(key, bounds, ttl_seconds.get() * 1000).await.map_err(|error| match error {
            tokens::Error::Away(Away) => away(),
            tokens::Error::TooMany => Error::new(StatusCode::CONFLICT, error.to_string()),
        })?;
        let data = TokenData::new(key.id, &held, &power);
        Ok(Created { location: "/tokens/self".to_owned(), body: MadeToken { token: token.expose().to_owned(), data } })
    }

    /// Get the token that the request was sent with
    #[oai(path = "/tokens/self", method = "get", operation_id = "get_own_token")]
    async fn own(
        &self,
        #[oai(scope = "Scope::Read", scope = "Scope::Submit", scope = "Scope::Work", scope = "Scope::Manage")] caller: Caller,
    ) -> Result<Reply<TokenData>, Refusal<NotFound>> {
        match caller.who() {
            Who::Token { key, token, .. } => Ok(Reply(TokenData::new(key.id, token, caller.power()))),
            Who::Key(_) | Who::Configured(_) | Who::Anybody => Err(none().into()),
        }
    }

    /// End the token that the request was sent with
    ///
    /// It is no good from the next request on, on every server.
    #[oai(path = "/tokens/self", method = "delete", operation_id = "delete_own_token")]
    async fn end(
        &self,
        #[oai(scope = "Scope::Read", scope = "Scope::Submit", scope = "Scope::Work", scope = "Scope::Manage")] caller: Caller,
    ) -> Result<Gone, Refusal<NotFound>> {
        match caller.who() {
            Who::Token { key, digest, .. } => {
                self.gate.tokens().end(digest, key.id).await.map_err(|Away| away())?;
                Ok(Gone)
            }
            Who::Key(_) | Who::Configured(_) | Who::Anybody => Err(none().into()),
        }
    }
}

impl TokenData {
    fn new(key: KeyId, token: &HeldToken, power: &Power) -> Self {
        let has = power.anywhere();
        let scopes: Vec<TokenScope> = TokenScope::ALL.into_iter().filter(|scope| has.contains((*scope).into())).collect();
        let mut projects = Some(BTreeSet::new());
        for scope in &scopes {
            match (power.projects((*scope).into()), &mut projects) {
                (Visible::Only(some), Some(all)) => all.extend(some),
                (Visible::All, _) | (_, None) => projects = None,
            }
        }
        let projects = projects.map(|projects| projects.into_iter().collect());
        Self { key_id: key.to_string(), scopes, projects, expires_at: Timestamp(token.ends_at()) }
    }
}

/// A token can be given only what its key has.
fn check(power: &Power, scopes: &[TokenScope], projects: Option<&BTreeSet<i64>>) -> Result<(), Error> {
    let lacks = |scope: &TokenScope, place: &str| {
        let scope = crate::access::Scope::from(*scope).as_str();
        forbidden(format!("A token cannot have what its key has not: this key lacks the scope {scope}{place}."))
    };
    let Some(projects) = projects else {
        return scopes.iter().find(|scope| !power.anywhere().contains((**scope).into())).map_or(Ok(()), |scope| Err(lacks(scope, "")));
    };
    for project in projects {
        let has = power.within(*project);
        if has.is_empty() {
            return Err(forbidden(format!("A token cannot have what its key has not: this key may do nothing in project {project}.")));
        }
        if let Some(scope) = scopes.iter().find(|scope| !has.contains((**scope).into())) {
            return Err(lacks(scope, &format!(" in project {project}")));
        }
    }
    Ok(())
}

fn forbidden(detail: impl Into<String>) -> Error {
    Error::new(StatusCode::FORBIDDEN, detail)
}

fn none() -> Error {
    Error::new(StatusCode::NOT_FOUND, "There is no token with which this was sent.")
}

fn away() -> Error {
    Error::unavailable("Redis, which holds the tokens, is not available right now. Try again in a moment.")
}
