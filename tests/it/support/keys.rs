//! Keys, made as the command line makes them.

use whatsnext::access::{Grants, Key, KeyHash, KeyId, NewKey, Store};

use super::TestDatabase;

/// Makes a key.
pub(crate) async fn make_key(database: &TestDatabase, grants: Grants) -> Key {
    make_key_with(database, grants, |_| {}).await
}

/// Makes a key that is not like others.
pub(crate) async fn make_key_with(database: &TestDatabase, grants: Grants, adjust: impl FnOnce(&mut NewKey)) -> Key {
    let mut new = NewKey { name: "key".to_owned(), user_id: None, grants, rate_limit: None, expires_at: None };
    adjust(&mut new);
    let key = Key::generate(KeyId::make());
    Store::new(database.database()).add(&key, &KeyHash::of(&key), &new).await.expect("the key is added");
    key
}
