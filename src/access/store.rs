//! Keys and users in PostgreSQL, which is the truth about them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

use super::{Error, Grants, Key, KeyHash, KeyId, Owner, Record, Result};
use crate::postgres::{
    Database, Listing, Page, Row, Transaction, Work,
    query::{Params, fleet, keys as sql, users},
    types::Json,
};

/// A key as people look at it. Its secret is not among what is known.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct KeyInfo {
    pub id: KeyId,
    pub name: String,
    pub user: Option<(i64, String)>,
    pub grants: Grants,
    pub rate_limit: Option<u32>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub successor: Option<KeyId>,
    pub last_used_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// A key to be made.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct NewKey {
    pub name: String,
    pub user_id: Option<i64>,
    pub grants: Grants,
    pub rate_limit: Option<u32>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Somebody who has keys.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are what they say")]
pub struct User {
    pub id: i64,
    pub name: String,
    pub grants: Grants,
    /// Whether the user's keys are good.
    pub active: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// Keys and users.
#[derive(Clone)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Those of this database.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Adds a key that was generated, with its hash.
    ///
    /// # Errors
    ///
    /// [`Error::NoUser`].
    pub async fn add(&self, key: &Key, hash: &KeyHash, new: &NewKey) -> Result<KeyInfo> {
        self.database.transaction(&Add { key, hash, new }).await?;
        self.get(key.id()).await
    }

    /// One key.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`].
    pub async fn get(&self, id: KeyId) -> Result<KeyInfo> {
        let client = self.database.client().await?;
        let row = sql::GET.maybe(&client, &[&id.to_string()]).await?;
        row.map(|row| info(&row)).ok_or_else(|| no_key(id))
    }

    /// A page of the keys, of all or of one user.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn list(&self, user_id: Option<i64>, page: Page<&str>) -> Result<Listing<KeyInfo>> {
        let client = self.database.client().await?;
        let params: Params<'_> = &[&user_id, &page.after, &page.skip, &page.limit];
        Ok(Listing::read(sql::LIST, &client, params, info, |row| row.get::<_, Option<&str>>("id").is_none()).await?)
    }

    /// What a server must know of these keys; of those that there are.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn records(&self, ids: &[KeyId]) -> Result<Vec<Record>> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let client = self.database.client().await?;
        let rows = sql::RECORD.all(&client, &[&ids]).await?;
        Ok(rows.iter().map(record).collect())
    }

    /// The keys that were changed within this time.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn changed_within(&self, time: Duration) -> Result<Vec<KeyId>> {
        let client = self.database.client().await?;
        let rows = sql::CHANGED.all(&client, &[&time.as_secs_f64()]).await?;
        Ok(rows.iter().map(|row| id(row, "id")).collect())
    }

    /// The newest keys that are good, at most so many.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn good_ids(&self, most: usize) -> Result<Vec<KeyId>> {
        let client = self.database.client().await?;
        let rows = sql::GOOD.all(&client, &[&i64::try_from(most).unwrap_or(i64::MAX)]).await?;
        Ok(rows.iter().map(|row| id(row, "id")).collect())
    }

    /// What all servers on this database know, and nobody else.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn fleet_secret(&self) -> Result<Zeroizing<Vec<u8>>> {
        let client = self.database.client().await?;
        Ok(Zeroizing::new(fleet::SECRET.one(&client, &[]).await?.get("secret")))
    }

    /// Ends a key for good.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`].
    pub async fn revoke(&self, id: KeyId) -> Result<()> {
        let client = self.database.client().await?;
        match sql::REVOKE.execute(&client, &[&id.to_string()]).await? {
            0 => Err(no_key(id)),
            _ => Ok(()),
        }
    }

    /// Adds a successor of a key with the same owner, grants, limit and expiry. The old key has `grace` left, or less if it would have ended earlier.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`]; [`Error::Ended`] if there is nothing left to succeed to.
    pub async fn rotate(&self, old: KeyId, key: &Key, hash: &KeyHash, grace: Duration) -> Result<KeyInfo> {
        self.get(old).await?;
        self.database.transaction(&Rotate { old, key, hash, grace }).await?;
        self.get(key.id()).await
    }

    /// Gives a key its own limit (0 for none), or takes that away.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`].
    pub async fn set_limit(&self, id: KeyId, limit: Option<u32>) -> Result<KeyInfo> {
        let client = self.database.client().await?;
        if sql::SET_LIMIT.execute(&client, &[&id.to_string(), &limit.map(stored_limit)]).await? == 0 {
            return Err(no_key(id));
        }
        drop(client);
        self.get(id).await
    }

    /// Notes when keys were last used: how long ago each.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn touch(&self, used: &[(KeyId, Duration)]) -> Result<()> {
        let ids: Vec<String> = used.iter().map(|(id, _)| id.to_string()).collect();
        let ago: Vec<f64> = used.iter().map(|(_, ago)| ago.as_secs_f64()).collect();
        let client = self.database.client().await?;
        sql::TOUCH.execute(&client, &[&ids, &ago]).await?;
        Ok(())
    }

    /// Whether there is any key.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn has_keys(&self) -> Result<bool> {
        let client = self.database.client().await?;
        Ok(sql::PRESENT.one(&client, &[]).await?.get("present"))
    }

    /// Adds a user.
    ///
    /// # Errors
    ///
    /// [`Error::NameTaken`].
    pub async fn add_user(&self, name: &str, grants: &Grants) -> Result<User> {
        let client = self.database.client().await?;
        match users::INSERT.one(&client, &[&name, &Json(grants)]).await {
            Ok(row) => Ok(user(&row)),
            Err(error) if error.constraint() == Some("users_name_key") => Err(Error::NameTaken(name.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// One user.
    ///
    /// # Errors
    ///
    /// [`Error::NoUser`].
    pub async fn user(&self, id: i64) -> Result<User> {
        let client = self.database.client().await?;
        let row = users::GET.maybe(&client, &[&id]).await?;
        row.map(|row| user(&row)).ok_or_else(|| Error::NoUser(id.to_string()))
    }

    /// One user, by name.
    ///
    /// # Errors
    ///
    /// [`Error::NoUser`].
    pub async fn user_named(&self, name: &str) -> Result<User> {
        let client = self.database.client().await?;
        let row = users::GET_BY_NAME.maybe(&client, &[&name]).await?;
        row.map(|row| user(&row)).ok_or_else(|| Error::NoUser(format!("named {name:?}")))
    }

    /// A page of the users.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub async fn users(&self, page: Page<i64>) -> Result<Listing<User>> {
        let client = self.database.client().await?;
        let params: Params<'_> = &[&page.after, &page.skip, &page.limit];
        Ok(Listing::read(users::LIST, &client, params, user, crate::postgres::no_number).await?)
    }

    /// Changes what a user may do, or whether they may come in. Their keys get a new version; which these are is returned.
    ///
    /// # Errors
    ///
    /// [`Error::NoUser`].
    pub async fn update_user(&self, id: i64, grants: Option<&Grants>, active: Option<bool>) -> Result<(User, Vec<KeyId>)> {
        self.database.transaction(&UpdateUser { id, grants, active }).await
    }
}

struct Add<'a> {
    key: &'a Key,
    hash: &'a KeyHash,
    new: &'a NewKey,
}

impl Work for Add<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<()> {
        let NewKey { name, user_id, grants, rate_limit, expires_at } = self.new;
        // Whoever changes the user makes a new version of their keys: of this one too, or before it is made.
        if let Some(user) = user_id
            && users::LOCK.maybe(transaction, &[user]).await?.is_none()
        {
            return Err(Error::NoUser(user.to_string()));
        }
        let (id, limit) = (self.key.id().to_string(), rate_limit.map(stored_limit));
        sql::INSERT.execute(transaction, &[&id, name, user_id, &Json(grants), &self.hash.as_str(), &limit, expires_at]).await?;
        Ok(())
    }
}

struct Rotate<'a> {
    old: KeyId,
    key: &'a Key,
    hash: &'a KeyHash,
    grace: Duration,
}

impl Work for Rotate<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<()> {
        let (old, new) = (self.old.to_string(), self.key.id().to_string());
        // As in `Add`, and before the key, in the order in which a change of the user takes them.
        users::LOCK_OF_KEY.maybe(transaction, &[&old]).await?;
        let Some(row) = sql::LOCK.maybe(transaction, &[&old]).await? else { return Err(Error::Ended(old)) };
        let (name, user_id): (&str, Option<i64>) = (row.get("name"), row.get("user_id"));
        let (limit, expires_at): (Option<i32>, Option<DateTime<Utc>>) = (row.get("rate_limit"), row.get("expires_at"));
        let grants: Json<serde_json::Value> = row.get("grants");
        sql::INSERT.execute(transaction, &[&new, &name, &user_id, &grants, &self.hash.as_str(), &limit, &expires_at]).await?;
        sql::REPLACE.execute(transaction, &[&old, &new, &self.grace.as_secs_f64()]).await?;
        Ok(())
    }
}

struct UpdateUser<'a> {
    id: i64,
    grants: Option<&'a Grants>,
    active: Option<bool>,
}

impl Work for UpdateUser<'_> {
    type Output = (User, Vec<KeyId>);
    type Error = Error;

    async fn run(&self, transaction: &Transaction<'_>) -> Result<(User, Vec<KeyId>)> {
        let row = users::UPDATE.maybe(transaction, &[&self.id, &self.grants.map(Json), &self.active]).await?;
        let changed = user(&row.ok_or_else(|| Error::NoUser(self.id.to_string()))?);
        let keys = sql::OF_USER.all(transaction, &[&self.id]).await?;
        Ok((changed, keys.iter().map(|row| id(row, "id")).collect()))
    }
}

fn no_key(id: KeyId) -> Error {
    Error::NoKey(id.to_string())
}

fn stored_limit(limit: u32) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

fn limit(row: &Row) -> Option<u32> {
    row.get::<_, Option<i32>>("rate_limit").map(|limit| u32::try_from(limit).expect("keys_rate_limit_check allows nothing less"))
}

fn id(row: &Row, column: &str) -> KeyId {
    row.get::<_, &str>(column).parse().expect("keys have ids that were generated")
}

fn info(row: &Row) -> KeyInfo {
    KeyInfo {
        id: id(row, "id"),
        name: row.get("name"),
        user: row.get::<_, Option<i64>>("user_id").map(|id| (id, row.get("user_name"))),
        grants: row.get::<_, Json<Grants>>("grants").0,
        rate_limit: limit(row),
        expires_at: row.get("expires_at"),
        revoked_at: row.get("revoked_at"),
        successor: row.get::<_, Option<&str>>("successor").map(|_| id(row, "successor")),
        last_used_at: row.get("last_used_at"),
        created_at: row.get("created_at"),
    }
}

fn record(row: &Row) -> Record {
    let owner = |id| Owner { id, name: row.get("user_name"), grants: row.get::<_, Json<Grants>>("user_grants").0 };
    Record {
        id: id(row, "id"),
        name: row.get("name"),
        version: row.get("version"),
        hash: row.get("hash"),
        grants: row.get::<_, Json<Grants>>("grants").0,
        user: row.get::<_, Option<i64>>("user_id").map(owner),
        rate_limit: limit(row),
        expires_at: row.get("expires_at"),
        left: row.get::<_, Option<i64>>("left_ms").map(|left| Duration::from_millis(left.try_into().unwrap_or(0))),
        dead: row.get("dead"),
    }
}

fn user(row: &Row) -> User {
    User {
        id: row.get("id"),
        name: row.get("name"),
        grants: row.get::<_, Json<Grants>>("grants").0,
        active: row.get("active"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    }
}
