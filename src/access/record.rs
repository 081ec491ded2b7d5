//! What a server must know of a key to let it in.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Grants, KeyHash, KeyId, Power, Scopes};

/// A key as it is at one version.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which key.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// Rises with every change of the key, or of its user.
    pub version: i64,
    /// What a presented key is compared with; its text as it is stored.
    pub hash: String,
    /// What the key may do for its own part.
    pub grants: Grants,
    /// Whose it is, if it is somebody's.
    pub user: Option<Owner>,
    /// Its own limit: requests a window, 0 for none.
    pub rate_limit: Option<u32>,
    /// From when it is no good.
    pub expires_at: Option<DateTime<Utc>>,
    /// How long it is good from when the database was asked, by its clock; not known of a copy.
    pub left: Option<Duration>,
    /// It was revoked, had expired by the database's clock, or its user may not come in.
    pub dead: bool,
}

/// The user that a key belongs to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// The user's id.
    pub id: i64,
    /// The user's name.
    pub name: String,
    /// What the user may do.
    pub grants: Grants,
}

impl Record {
    /// What the key may do: as much as both it and its user may.
    pub fn power(&self) -> Power {
        let own = Power::new(Scopes::ALL, &self.grants);
        match &self.user {
            Some(user) => own.meet(&Power::new(Scopes::ALL, &user.grants)),
            None => own,
        }
    }

    /// Whether it is good at a moment.
    pub fn is_good(&self, now: DateTime<Utc>) -> bool {
        !self.dead && self.expires_at.is_none_or(|end| now < end)
    }

    /// The stored hash, if it is one.
    pub fn key_hash(&self) -> Option<KeyHash> {
        KeyHash::parse(&self.hash).ok()
    }
}
