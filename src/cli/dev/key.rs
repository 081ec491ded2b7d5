//! The first key: made once, and kept in the folder where only its owner can read it.

use std::fs;

use super::{folder::Folder, stores::Stores};
use crate::{
    access::{Grants, Key, KeyHash, KeyId, NewKey, Role},
    cli::keys::open,
};

/// A key that may do everything: the one that is kept, as long as it is good, or a new one.
pub(super) async fn first(folder: &Folder, stores: &Stores) -> anyhow::Result<Key> {
    let keys = open(&stores.server_settings()?).await?;
    let kept = fs::read_to_string(folder.key()).ok().and_then(|text| text.trim().parse::<Key>().ok());
    if let Some(key) = kept
        && keys.store.get(key.id()).await.is_ok_and(|info| info.revoked_at.is_none() && info.successor.is_none())
    {
        return Ok(key);
    }
    let key = Key::generate(KeyId::make());
    let new = NewKey { name: "dev".to_owned(), user_id: None, grants: Grants::All(Role::Admin), rate_limit: None, expires_at: None };
    keys.add(&key, &KeyHash::of(&key), &new).await?;
    folder.write(&folder.key(), &format!("{}\n", key.expose()))?;
    Ok(key)
}
