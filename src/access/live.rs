//! The live copy of keys in Redis, which servers look at with every request; and the commands for tokens ([`super::tokens`]) and proofs ([`super::proof`]).
//!
//! A record is a hash. The script that admits requests reads `version`, `expires_at_ms`, `dead` and `limit` of it (`limits::store`); the other fields are
//! for a server that meets the key for the first time. Records are kept for [`KEPT`] and then read from PostgreSQL anew, so that whatever may have gone
//! wrong with a copy (a Redis that was restored from an old snapshot, a writer that died between both stores) ends by then at the latest. One of a key that
//! expires earlier is kept no longer than the key is good by PostgreSQL's clock, however far behind Redis's is.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use ::redis::{RedisError, Script, aio::ConnectionLike, cmd};
use chrono::DateTime;

use super::{HeldToken, KeyId, Record};

/// How long a copy is good.
pub const KEPT: Duration = Duration::from_secs(60);

static TOKEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("token.lua")));

static FILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("fill.lua")));

/// What there is where a record should be.
#[derive(Debug)]
pub enum Copy {
    /// Nothing.
    Nothing,
    /// Something that cannot be read, with what says to be its version.
    Unreadable(Vec<u8>),
    /// The record.
    Record(Record),
}

/// Reads the record at this key of Redis.
///
/// # Errors
///
/// Those of Redis.
pub async fn read(connection: &mut (impl ConnectionLike + Send), key: &str, id: KeyId) -> Result<Copy, RedisError> {
    let mut fields: HashMap<Vec<u8>, Vec<u8>> = match cmd("HGETALL").arg(key).query_async(connection).await {
        Ok(fields) => fields,
        Err(error) if error.code() == Some("WRONGTYPE") => return Ok(Copy::Unreadable(Vec::new())),
        Err(error) => return Err(error),
    };
    if fields.is_empty() {
        return Ok(Copy::Nothing);
    }
    let version = fields.get(&b"version"[..]).cloned().unwrap_or_default();
    let text = fields.drain().map(|(name, value)| Some((String::from_utf8(name).ok()?, String::from_utf8(value).ok()?)));
    let record = text.collect::<Option<HashMap<_, _>>>().and_then(|fields| record(id, fields));
    Ok(record.map_or(Copy::Unreadable(version), Copy::Record))
}

/// Writes a record there, unless a newer one is, other than the one with the version that is `unreadable`. Returns whether it is there now.
///
/// # Errors
///
/// Those of Redis.
pub async fn write(
    connection: &mut (impl ConnectionLike + Send),
    key: &str,
    record: &Record,
    unreadable: &[u8],
) -> Result<bool, RedisError> {
    let kept = record.left.filter(|_| !record.dead).map_or(KEPT, |left| KEPT.min(left));
    let mut call = FILL.key(key);
    call.arg(record.version).arg(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)).arg(unreadable);
    call.arg("name").arg(&record.name);
    call.arg("hash").arg(&record.hash);
    call.arg("grants").arg(serde_json::to_string(&record.grants).expect("grants are plain data"));
    if let Some(user) = &record.user {
        call.arg("user").arg(serde_json::to_string(user).expect("a user is plain data"));
    }
    if let Some(limit) = record.rate_limit {
        call.arg("limit").arg(limit);
    }
    if let Some(end) = record.expires_at {
        call.arg("expires_at_ms").arg(end.timestamp_millis());
    }
    if record.dead {
        call.arg("dead").arg(1);
    }
    call.invoke_async(connection).await
}

/// Notes a token among a key's, which may have `most`. Returns when it ends, by Redis's clock; nothing if there are too many.
///
/// # Errors
///
/// Those of Redis.
pub async fn note_token(
    connection: &mut (impl ConnectionLike + Send),
    key: &str,
    digest: &[u8; 32],
    lifetime_ms: i64,
    key_ends_at_ms: Option<i64>,
    most: usize,
) -> Result<Option<i64>, RedisError> {
    let mut call = TOKEN.key(key);
    call.arg(&digest[..]).arg(lifetime_ms).arg(key_ends_at_ms.map(|end| end.to_string()).unwrap_or_default()).arg(most);
    let ends_at_ms: i64 = call.invoke_async(connection).await?;
    Ok((ends_at_ms > 0).then_some(ends_at_ms))
}

/// Writes what is known of a token, until it ends.
///
/// # Errors
///
/// Those of Redis.
pub async fn write_token(connection: &mut (impl ConnectionLike + Send), name: &str, token: &HeldToken) -> Result<(), RedisError> {
    let text = serde_json::to_string(token).expect("a token is plain data");
    cmd("SET").arg(name).arg(text).arg("PXAT").arg(token.ends_at_ms).query_async(connection).await
}

/// Reads it; nothing if there is none, or none that can be read.
///
/// # Errors
///
/// Those of Redis.
pub async fn read_token(connection: &mut (impl ConnectionLike + Send), name: &str) -> Result<Option<HeldToken>, RedisError> {
    let text: Option<Vec<u8>> = cmd("GET").arg(name).query_async(connection).await?;
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Takes a token out of a key's, and forgets what is known of it.
///
/// # Errors
///
/// Those of Redis.
pub async fn end_token(connection: &mut (impl ConnectionLike + Send), key: &str, name: &str, digest: &[u8; 32]) -> Result<(), RedisError> {
    let () = cmd("ZREM").arg(key).arg(&digest[..]).query_async(connection).await?;
    cmd("DEL").arg(name).query_async(connection).await
}

/// Reads a key's proof, which is kept for so long from now on.
///
/// # Errors
///
/// Those of Redis.
pub async fn read_proof(connection: &mut (impl ConnectionLike + Send), name: &str, kept: Duration) -> Result<Option<Vec<u8>>, RedisError> {
    cmd("GETEX").arg(name).arg("EX").arg(kept.as_secs()).query_async(connection).await
}

/// Writes it.
///
/// # Errors
///
/// Those of Redis.
pub async fn write_proof(
    connection: &mut (impl ConnectionLike + Send),
    name: &str,
    proof: &[u8; 32],
    kept: Duration,
) -> Result<(), RedisError> {
    cmd("SET").arg(name).arg(&proof[..]).arg("EX").arg(kept.as_secs()).query_async(connection).await
}

fn record(id: KeyId, mut fields: HashMap<String, String>) -> Option<Record> {
    let user = match fields.remove("user") {
        Some(user) => Some(serde_json::from_str(&user).ok()?),
        None => None,
    };
    let number = |text: Option<String>| text.map(|text| text.parse().ok()).map_or(Some(None), |number| number.map(Some));
    Some(Record {
        id,
        name: fields.remove("name")?,
        version: fields.remove("version")?.parse().ok()?,
        hash: fields.remove("hash")?,
        grants: serde_json::from_str(&fields.remove("grants")?).ok()?,
        user,
        rate_limit: number(fields.remove("limit"))?.map(u32::try_from).transpose().ok()?,
        expires_at: number(fields.remove("expires_at_ms"))?
            .map(|at: i64| DateTime::from_timestamp_millis(at))
            .map_or(Some(None), |at| at.map(Some))?,
        left: None,
        dead: fields.contains_key("dead"),
    })
}
