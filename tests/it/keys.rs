//! Keys over their life: how they end, what both stores know of them, and what is for whoever holds one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use whatsnext::{
    access::{Grants, Key, KeyHash, KeyId, Keys, NewKey, Record, Role, Store, live},
    limits::{Admission, Limits, Window, window::MAX_LIMIT},
    redis::Redis,
};

use crate::support::{Api, Process, Proxy, TestDatabase, eventually, is_of_all, make_key, make_key_with, store_url, waiting_for_locks};

async fn redis() -> MultiplexedConnection {
    redis::Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap().get_multiplexed_async_connection().await.unwrap()
}

async fn keys(database: &TestDatabase) -> Keys {
    let redis = Redis::new(&database.settings(&[])).unwrap();
    redis.connect().await;
    Keys::new(Store::new(database.database()), redis)
}

fn record_key(database: &TestDatabase, id: KeyId) -> String {
    format!("{}:{{{id}}}:record", database.name())
}

async fn ending(database: &TestDatabase, after: Duration) -> (Key, DateTime<Utc>) {
    let end = Utc::now() + after;
    (make_key_with(database, Grants::All(Role::Reader), |new| new.expires_at = Some(end)).await, end)
}

/// Sends requests until one is refused: it was good before the end, and not after it.
async fn assert_good_until(api: &Api, end: DateTime<Utc>, what: &str) {
    let mut last_good = None;
    let refused = loop {
        let before = Utc::now();
        match api.try_get("/projects").await {
            Some(200) => last_good = Some(before),
            Some(401) => break Utc::now(),
            status => panic!("{what}: {status:?}"),
        }
        assert!(before < end + Duration::from_secs(5), "{what}: it does not end");
    };
    assert!(last_good.is_some_and(|last| last < end) && refused >= end, "{what}: {last_good:?} < {end} <= {refused}");
}

/// Larger than windows can be is as good as the largest, and keeps no server from Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_no_window_can_have_holds_nobody_up() {
    let (database, proxy) = (TestDatabase::new().await, Proxy::to_redis().await);
    let environment = [("DISABLE_AUTH", "false"), ("REDIS_URL", &proxy.redis_url()), ("RATE_LIMIT_PER_MINUTE", "600")];
    let server = Process::start_with(&database, &environment).await;
    let key = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(20_000_000)).await;
    let large = server.api.with_key(key.expose());
    let admin = server.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let limit = format!("/keys/{}/limit", key.id());
    let shared = async || large.get("/projects").await.header("ratelimit-policy") == "\"default\";q=10000000;w=60";
    for _ in 0..3 {
        assert!(shared().await);
        let told = admin.get(&limit).await;
        assert!(is_of_all(&told), "{:?}", told.headers);
        assert_eq!(told.expect(200)["limit"], 10_000_000);
    }
    admin.post(&format!("{limit}/reset"), json!({})).await.expect(200);
    proxy.cut();
    eventually("the server goes on alone", || async { large.get("/projects").await.header("ratelimit-policy").contains("degraded") }).await;
    large.get("/projects").await.expect(200);
    proxy.mend();
    eventually("the server is back", || async { shared().await && is_of_all(&admin.get("/projects").await) }).await;
    let remaining = admin.get(&limit).await.expect(200)["remaining"].as_u64().unwrap();
    assert!(remaining < 9_999_999, "it was charged with what came in meanwhile: {remaining}");
}

/// What goes wrong with one question before it is asked says nothing of Redis.
#[tokio::test]
async fn a_question_that_cannot_be_asked_keeps_nobody_from_redis() {
    let database = TestDatabase::new().await;
    let redis = Redis::new(&database.settings(&[])).unwrap();
    redis.connect().await;
    let limits = Limits::new(redis.prefix());
    let window = |limit| Window { name: "api", limit, length: Duration::from_secs(60), weight: 1, own_limit: false };
    let ask = async |limit| {
        let attempt = redis.attempt("somebody").expect("Redis is there");
        let mut connection = attempt.connection();
        attempt.answer(limits.admit(&mut connection, "somebody", None, &[window(limit)])).await
    };
    assert!(ask(MAX_LIMIT + 1).await.is_err(), "there is no such window");
    assert!(matches!(ask(MAX_LIMIT).await, Ok(Admission::Admitted { .. })), "and Redis still answers");
}

/// Redis's clock may be behind. What PostgreSQL's says has ended has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_has_ended_is_no_good_whatever_time_redis_thinks_it_is() {
    let (database, mut redis) = (TestDatabase::new().await, redis().await);
    let keys = keys(&database).await;
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("AUTH_FAILURES_PER_MINUTE", "0")]).await;
    // Seen from such a clock, the end of every record is later.
    let later = (Utc::now() + Duration::from_secs(3600)).timestamp_millis();

    let old = make_key(&database, Grants::All(Role::Reader)).await;
    let api = server.api.with_key(old.expose());
    api.get("/projects").await.expect(200);
    let new = Key::generate(KeyId::make());
    keys.rotate(old.id(), &new, &KeyHash::of(&new), Duration::ZERO).await.unwrap();
    let name = record_key(&database, old.id());
    assert_eq!(redis.hget::<_, _, Option<String>>(&name, "dead").await.unwrap().as_deref(), Some("1"), "it has ended where it is told of");
    let _: () = redis.hset(&name, "expires_at_ms", later).await.unwrap();
    api.get("/projects").await.problem(401);
    server.api.with_key(new.expose()).get("/projects").await.expect(200);

    let (key, end) = ending(&database, Duration::from_secs(2)).await;
    let api = server.api.with_key(key.expose());
    api.get("/projects").await.expect(200);
    let name = record_key(&database, key.id());
    let kept: i64 = redis.pttl(&name).await.unwrap();
    assert!((1..=2_000).contains(&kept), "its record is kept for {kept} ms");
    let _: () = redis.hset(&name, "expires_at_ms", later).await.unwrap();
    // The copy is gone some milliseconds after the end by PostgreSQL's clock: as long as it took to be made.
    eventually("it ends", || async { api.try_get("/projects").await == Some(401) }).await;
    let late = Utc::now() - end;
    assert!((0..1_000).contains(&late.num_milliseconds()), "{late} after its end");
}

/// Whatever stands where a record should be: it costs one look into PostgreSQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_record_is_replaced_however_new_it_says_to_be() {
    let (database, mut redis) = (TestDatabase::new().await, redis().await);
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "600")]).await;
    let met = make_key(&database, Grants::All(Role::Reader)).await;
    server.api.with_key(met.expose()).get("/projects").await.expect(200);
    let newest = i64::MAX.to_string();
    let garbage: [&[(&str, &[u8])]; 6] = [
        &[("version", newest.as_bytes())],
        &[("version", b"1e300"), ("name", b"n")],
        &[("version", b"inf"), ("name", b"n"), ("hash", b"h"), ("grants", b"[]")],
        &[("version", newest.as_bytes()), ("name", b"\xff\xfe"), ("hash", b"\0"), ("grants", b"{}")],
        &[("name", b"n")],
        &[],
    ];
    for fields in garbage {
        for key in [&met, &make_key(&database, Grants::All(Role::Reader)).await] {
            let name = record_key(&database, key.id());
            let _: () = redis.del(&name).await.unwrap();
            match fields {
                [] => redis.set::<_, _, ()>(&name, "no record").await.unwrap(),
                fields => redis.hset_multiple::<_, _, _, ()>(&name, fields).await.unwrap(),
            }
            let answer = server.api.with_key(key.expose()).get("/projects").await;
            assert!(is_of_all(&answer), "{fields:?} does not make Redis go away: {:?}", answer.headers);
            answer.expect(200);
            assert_eq!(redis.hget::<_, _, String>(&name, "version").await.unwrap(), "1", "instead of {fields:?}");
        }
    }
}

#[tokio::test]
async fn an_older_copy_never_replaces_a_newer_one() {
    let (database, mut redis) = (TestDatabase::new().await, redis().await);
    let id = make_key(&database, Grants::All(Role::Reader)).await.id();
    let name = record_key(&database, id);
    let [record] = &Store::new(database.database()).records(&[id]).await.unwrap()[..] else { panic!("a record") };
    let at = |version: i64| Record { version, name: format!("at {version}"), ..record.clone() };
    for (version, is_there, newest) in
        [(5, true, 5), (4, false, 5), (5, true, 5), (10, true, 10), (9, false, 10), (i64::MAX, true, i64::MAX)]
    {
        assert_eq!(live::write(&mut redis, &name, &at(version), &[]).await.unwrap(), is_there, "{version}");
        let live::Copy::Record(read) = live::read(&mut redis, &name, id).await.unwrap() else { panic!("it can be read") };
        assert_eq!((read.version, read.name), (newest, format!("at {newest}")));
    }
}

/// A key that is made while its user is changed gets the user as they are afterwards, and a new version: whoever makes it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_made_while_its_user_is_being_changed() {
    let database = TestDatabase::new().await;
    let store = Store::new(database.database());
    let user = store.add_user("lab", &Grants::All(Role::Admin)).await.unwrap().id;
    let old = make_key_with(&database, Grants::All(Role::Admin), |new| new.user_id = Some(user)).await;
    let [first, second] = [Key::generate(KeyId::make()), Key::generate(KeyId::make())];
    let hash = KeyHash::of(&first);
    let new = NewKey { name: "new".to_owned(), user_id: Some(user), grants: Grants::All(Role::Admin), rate_limit: None, expires_at: None };
    let (changing, watcher) = (database.connect().await, database.connect().await);
    changing.batch_execute("begin; update users set grants = '{\"all\": \"reader\"}'").await.unwrap();
    let making = async { tokio::join!(store.add(&first, &hash, &new), store.rotate(old.id(), &second, &hash, Duration::ZERO)) };
    let change = async {
        eventually("both wait for the user", || async { waiting_for_locks(&watcher).await == 2 }).await;
        changing.batch_execute("update keys set version = version + 1; commit").await.unwrap();
    };
    let ((added, rotated), ()) = tokio::join!(making, change);
    added.unwrap();
    rotated.unwrap();
    let nobody = NewKey { user_id: Some(99_999), ..new };
    let refused = store.add(&Key::generate(KeyId::make()), &hash, &nobody).await.unwrap_err();
    assert_eq!(refused.to_string(), "There is no user 99999.");
}

/// Grace is no longer life than a key had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_ends_when_it_would_have_if_that_is_before_its_grace_is_over() {
    let database = TestDatabase::new().await;
    let keys = keys(&database).await;
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false")]).await;
    let (old, end) = ending(&database, Duration::from_secs(2)).await;
    let before = keys.store.get(old.id()).await.unwrap().expires_at;
    let new = Key::generate(KeyId::make());
    let successor = keys.rotate(old.id(), &new, &KeyHash::of(&new), Duration::from_secs(3600)).await.unwrap();
    assert_eq!((keys.store.get(old.id()).await.unwrap().expires_at, successor.expires_at), (before, before));
    assert_good_until(&server.api.with_key(old.expose()), end, "the old key").await;
}

/// An expiry is compared with every request, whoever knows the key by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_known_ends_when_it_says_with_redis_and_without() {
    let (database, proxy) = (TestDatabase::new().await, Proxy::to_redis().await);
    let environment = [("DISABLE_AUTH", "false"), ("REDIS_URL", &proxy.redis_url()), ("RATE_LIMIT_PER_MINUTE", "0")];
    let server = Process::start_with(&database, &environment).await;
    let (key, end) = ending(&database, Duration::from_secs(2)).await;
    assert_good_until(&server.api.with_key(key.expose()), end, "with Redis").await;

    let (key, end) = ending(&database, Duration::from_secs(4)).await;
    let limited = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(1_000)).await;
    let (api, limited) = (server.api.with_key(key.expose()), server.api.with_key(limited.expose()));
    api.get("/projects").await.expect(200);
    proxy.cut();
    eventually("the server goes on alone", || async { limited.get("/projects").await.header("ratelimit-policy").contains("degraded") })
        .await;
    assert_good_until(&api, end, "without Redis").await;
}

/// Keys are used all the time, and told of once a minute.
#[tokio::test]
async fn the_last_use_is_written_once_a_minute_at_most() {
    let database = TestDatabase::new().await;
    let (store, client) = (Store::new(database.database()), database.connect().await);
    let id = make_key(&database, Grants::All(Role::Reader)).await.id();
    let used = async |ago: u64| {
        store.touch(&[(id, Duration::from_secs(ago))]).await.unwrap();
        store.get(id).await.unwrap().last_used_at.expect("it was used")
    };
    let first = used(30).await;
    let ago = (Utc::now() - first).num_seconds();
    assert!((25..=40).contains(&ago), "{ago} s ago");
    for ago in [0, 60, 0] {
        assert_eq!(used(ago).await, first, "the same minute");
    }
    client.execute("update keys set last_used_at = last_used_at - interval '1 minute'", &[]).await.unwrap();
    assert!(used(0).await > first, "a minute later");
}

/// Raw bytes where a key should be.
#[tokio::test]
async fn control_characters_are_no_part_of_a_key() {
    let database = TestDatabase::new().await;
    let good = make_key(&database, Grants::All(Role::Reader)).await;
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("API_KEYS", "configured")]).await;
    let status = async |header: &[u8]| {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = [b"GET /projects HTTP/1.1\r\nhost: t\r\nconnection: close\r\n", header, b"\r\n\r\n"].concat();
        stream.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).split(' ').nth(1).map(ToOwned::to_owned)
    };
    let with = |key: &[u8], character: u8, place: usize| {
        let mut key = key.to_vec();
        key.insert(place, character);
        key
    };
    let basic = |password: &[u8]| {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [b"key:", password].concat());
        format!("authorization: Basic {text}").into_bytes()
    };
    assert_eq!(status(&basic(good.expose().as_bytes())).await.as_deref(), Some("200"));
    for key in [good.expose().as_bytes(), b"configured"] {
        for character in [0, 1, 8, b'\t', b'\n', b'\r', 0x1b, b' ', 0x7f, 0x80, 0xa0, 0xff] {
            for place in [0, 4, key.len()] {
                let password = basic(&with(key, character, place));
                assert_eq!(status(&password).await.as_deref(), Some("401"), "{character:#x} at {place} of Basic's password");
            }
            let header = [&b"x-api-key: "[..], &with(key, character, 4)].concat();
            let answer = status(&header).await;
            // What HTTP does not allow in a header is refused before anybody asks what it is.
            let expected = match character {
                b'\t' | b' ' | 0x80.. => "401",
                _ => "400",
            };
            assert_eq!(answer.as_deref(), Some(expected), "{character:#x} in X-API-Key");
        }
    }
}

/// Whoever holds a key can look at it and end it, also if it may do nothing.
#[tokio::test]
async fn a_key_that_may_do_nothing_can_still_be_ended_by_its_holder() {
    let database = TestDatabase::new().await;
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false")]).await;
    let store = Store::new(database.database());
    let user = store.add_user("lab", &Grants::Only([].into())).await.unwrap().id;
    let key = make_key_with(&database, Grants::All(Role::Admin), |new| new.user_id = Some(user)).await;
    let api = server.api.with_key(key.expose());
    for path in ["/projects", "/keys", "/tokens/self"] {
        api.get(path).await.problem(403);
    }
    api.post("/tokens", json!({})).await.problem(403);
    assert_eq!(api.get("/keys/self").await.expect(200)["id"], key.id().to_string());
    assert!(api.post("/keys/self/revoke", json!({})).await.expect(200)["revoked_at"].is_string());
    api.get("/keys/self").await.problem(401);
}
