//! `/users`: whose keys there are.

use poem_openapi::{Object, OpenApi};
use serde::{Deserialize, Serialize};

use super::{
    Tag,
    admission::Gate,
    error::{Conflict, NotFound, Refusal},
    extract::{Body, Caller, Path, Query, Scope},
    keys::check_length,
    paging::{self, ten},
    reply::{Created, Paged, Reply},
    types::{Grants, Limit, Name, Skip, Timestamp},
};
use crate::access;

/// The operations on users.
#[derive(Clone)]
pub struct Api {
    /// What knows them.
    pub gate: Gate,
}

/// Somebody who has keys.
#[derive(Debug, Serialize, Object)]
pub struct User {
    id: i64,
    name: Name,
    /// What the user's keys may do at most.
    grants: Grants,
    /// Whether the user's keys are good.
    active: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// A user, as an update answers it.
#[derive(Debug, Serialize, Object)]
pub struct UserData {
    data: User,
}

/// A user to be added.
#[derive(Debug, Deserialize, Object)]
pub struct NewUser {
    /// Unique among all users.
    name: Name,
    grants: Grants,
}

/// What to change of a user: what is not given stays as it is.
#[derive(Debug, Deserialize, Object)]
pub struct UserUpdate {
    grants: Option<Grants>,
    active: Option<bool>,
}

impl From<access::User> for User {
    fn from(user: access::User) -> Self {
        Self {
            id: user.id,
            name: user.name.into(),
            grants: Grants(user.grants),
            active: user.active,
            created_at: Timestamp(user.created_at),
            updated_at: Timestamp(user.updated_at),
        }
    }
}

impl User {
    /// For a table: id, name, grants, whether active.
    pub fn columns(&self) -> [String; 4] {
        let active = if self.active { "yes" } else { "no" };
        [self.id.to_string(), self.name.as_str().to_owned(), self.grants.to_string(), active.to_owned()]
    }
}

#[OpenApi(tag = "Tag::Access")]
impl Api {
    /// List users
    #[oai(path = "/users", method = "get", operation_id = "list_users")]
    async fn list(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        /// At most so many.
        #[oai(default = "ten")]
        limit: Query<Limit>,
        /// Pass over so many.
        #[oai(default = "paging::zero")]
        skip: Query<Skip>,
        /// Only those with a greater id; cheaper than `skip`.
        #[oai(default = "paging::start")]
        after_id: Query<i64>,
    ) -> Result<Paged<User>, Refusal> {
        let page = paging::page(*limit, *skip, *after_id);
        Ok(Paged(self.gate.keys().store.users(page).await?.map(User::from)))
    }

    /// Add a user
    #[oai(path = "/users", method = "post", operation_id = "create_user")]
    async fn create(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        body: Body<NewUser>,
    ) -> Result<Created<User>, Refusal<Conflict>> {
        let NewUser { name, grants } = body.into_inner();
        check_length(&grants.0)?;
        let user = self.gate.keys().store.add_user(&name.into_string(), &grants.0).await?;
        Ok(Created { location: format!("/users/{}", user.id), body: user.into() })
    }

    /// Get a user
    #[oai(path = "/users/:user_id", method = "get", operation_id = "get_user")]
    async fn get(&self, #[oai(scope = "Scope::Admin")] _caller: Caller, user_id: Path<i64>) -> Result<Reply<User>, Refusal<NotFound>> {
        Ok(Reply(self.gate.keys().store.user(*user_id).await?.into()))
    }

    /// Change a user
    ///
    /// What is taken from the user is taken from all of their keys, from the next request on.
    #[oai(path = "/users/:user_id", method = "put", operation_id = "update_user")]
    async fn update(
        &self,
        #[oai(scope = "Scope::Admin")] _caller: Caller,
        user_id: Path<i64>,
        body: Body<UserUpdate>,
    ) -> Result<Reply<UserData>, Refusal<NotFound>> {
        let UserUpdate { grants, active } = body.into_inner();
        if let Some(grants) = &grants {
            check_length(&grants.0)?;
        }
        let user = self.gate.keys().update_user(*user_id, grants.as_ref().map(|grants| &grants.0), active).await?;
        Ok(Reply(UserData { data: user.into() }))
    }
}
