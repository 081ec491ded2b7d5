//! The order of the steps that a request goes through before it is let in, and what each of them costs the stores.

mod floods;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nix::sys::signal::Signal;
use redis::AsyncCommands as _;
use reqwest::Method;
use serde_json::json;
use whatsnext::{
    access::{Grants, Key, KeyId, Keys, Role, Store, Token},
    redis::Redis,
};

use crate::support::{Api, Process, Proxy, RedisServer, TestDatabase, eventually, make_key, make_key_with, store_url};

/// A server whose ways to its stores are counted and can be cut.
struct Watched {
    database: TestDatabase,
    redis: Proxy,
    postgresql: Proxy,
    process: Process,
}

impl Watched {
    async fn new(environment: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        let (redis, postgresql) = (Proxy::to_redis().await, Proxy::to_postgresql().await);
        let (redis_url, database_url) = (redis.redis_url(), postgresql.database_url(&database));
        let own = [("DISABLE_AUTH", "false"), ("REDIS_URL", redis_url.as_str()), ("DATABASE_URL", &database_url)];
        let process = Process::start_with(&database, &[&own, environment].concat()).await;
        Self { database, redis, postgresql, process }
    }

    fn api(&self) -> &Api {
        &self.process.api
    }

    /// What many requests cost the stores: bytes sent to Redis and to PostgreSQL, beyond what the server says by itself in that time at most.
    async fn cost(&self, mut burst: impl AsyncFnMut()) -> (u64, u64) {
        let now = || (self.redis.asked(), self.postgresql.asked());
        let (before, start) = (now(), Instant::now());
        burst().await;
        let (after, took) = (now(), start.elapsed());
        // Once a second to Redis, every five to PostgreSQL.
        let rounds = took.as_secs() + 2;
        let of_its_own = (rounds * 400, rounds.div_ceil(5) * 2_000);
        ((after.0 - before.0).saturating_sub(of_its_own.0), (after.1 - before.1).saturating_sub(of_its_own.1))
    }
}

async fn statuses(requests: impl IntoIterator<Item = impl Future<Output = u16>>) -> Vec<u16> {
    join_all(requests).await
}

/// What can be told by looking at the request is told without any store: with both of them gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_look_at_the_request_refuses_asks_no_store() {
    let watched = Watched::new(&[]).await;
    let good = make_key(&watched.database, Grants::All(Role::Admin)).await;
    watched.redis.cut();
    watched.postgresql.cut();
    let api = watched.api();
    eventually("the stores are away", || async { api.with_key(good.expose()).try_get("/projects").await == Some(503) }).await;
    let token = Token::generate();
    let malformed = ["x", "wn_", &good.expose()[..78], &format!("{}0", good.expose()), "wnt_", &token.expose()[..20]];
    for key in malformed {
        let start = Instant::now();
        for path in ["/projects", "/jobs/1", "/keys"] {
            api.with_key(key).get(path).await.problem(401);
        }
        assert!(start.elapsed() < Duration::from_secs(1), "it waits for nothing");
    }
    // Before that, what needs no key at all.
    let preflight = [("origin", "https://example.org"), ("access-control-request-method", "POST"), ("x-api-key", "x")];
    for path in ["/jobs", "/keys", "/tokens"] {
        let answer = api.send_with(Method::OPTIONS, path, &preflight, Vec::new()).await;
        assert_eq!(answer.status, 204, "{path}");
    }
    api.send(Method::PATCH, "/jobs", None).await.problem(405);
    api.get("/nothing").await.problem(404);
    api.get("/livez").await.expect(200);
    let two = [("x-api-key", good.expose()), ("authorization", "Bearer x")];
    api.send_with(Method::GET, "/projects", &two, Vec::new()).await.problem(400);
}

/// Health, preflights and malformed keys are never limited, and a burst of them is no burst for a store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_to_everybody_is_not_limited_and_floods_no_store() {
    let watched = Watched::new(&[("RATE_LIMIT_PER_MINUTE", "3"), ("AUTH_FAILURES_PER_MINUTE", "3")]).await;
    let api = watched.api();
    let bad = api.with_key(Key::generate(KeyId::make()).expose());
    for expected in [401, 401, 401, 429] {
        assert_eq!(bad.get("/projects").await.status, expected);
    }
    for (method, path, key, expected) in [
        (Method::GET, "/readyz", None, 200),
        (Method::GET, "/checkdb", None, 200),
        (Method::GET, "/", None, 200),
        (Method::OPTIONS, "/jobs", None, 204),
        (Method::OPTIONS, "/jobs", Some("wn_malformed"), 204),
        (Method::GET, "/jobs", Some("wn_malformed"), 401),
        // Over its limit, which is known.
        (Method::GET, "/jobs", None, 429),
    ] {
        let api = key.map_or_else(|| api.clone(), |key| api.with_key(key));
        // The first tells the server what it then knows for a while.
        assert_eq!(api.send(method.clone(), path, None).await.status, expected, "{method} {path}");
        let cost = watched
            .cost(async || {
                // Not all at once: what the server knows of a refusal it asks about anew once a second, and then whoever comes at that moment.
                for _ in 0..20 {
                    let burst = (0..10).map(|_| async { api.send(method.clone(), path, None).await.status });
                    assert_eq!(statuses(burst).await, [expected; 10], "{method} {path}");
                }
            })
            .await;
        // A PING has 14 bytes, an asking of PostgreSQL some 60: each may be asked ten times a second.
        assert!(cost.0 < 2_000 && cost.1 < 2_000, "200 × {method} {path} {key:?} sent {cost:?} bytes to Redis and PostgreSQL");
    }
}

/// An address that has used up its failures is refused before anything is looked up, and what it does is nothing to the owners of good keys.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_keys_are_throttled_before_they_are_looked_up_and_lock_nobody_out() {
    let watched = Watched::new(&[("RATE_LIMIT_PER_MINUTE", "600"), ("AUTH_FAILURES_PER_MINUTE", "5")]).await;
    let api = watched.api();
    let good = make_key(&watched.database, Grants::All(Role::Reader)).await;
    let owner = api.with_key(good.expose());
    owner.get("/projects").await.expect(200);
    for expected in [401, 401, 401, 401, 401, 429] {
        assert_eq!(
            api.with_key(Key::generate(KeyId::make()).expose()).get("/projects").await.status,
            expected,
            "5 bad ones, of 600 good ones"
        );
    }
    let cost = watched
        .cost(async || {
            for _ in 0..20 {
                let keys = (0..10).map(|_| api.with_key(Key::generate(KeyId::make()).expose()));
                let burst = keys.map(|api| async move { api.get("/projects").await.status });
                assert_eq!(statuses(burst).await, [429; 10]);
            }
        })
        .await;
    assert!(cost.0 < 2_000 && cost.1 < 2_000, "200 keys that were made up sent {cost:?} bytes to Redis and PostgreSQL");
    let cost = watched
        .cost(async || {
            for n in 0..200 {
                let answer = owner.get("/projects").await;
                assert_eq!(answer.status, 200, "the owner's request {n}");
            }
        })
        .await;
    assert!(cost.0 > 10_000, "and this is what requests cost that are let in: {cost:?}");
}

/// Two servers. Whoever shares an address with an attacker comes in on a server that has never seen their key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attacker_locks_nobody_out_who_shares_their_address() {
    let database = TestDatabase::new().await;
    let environment = [("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "50"), ("AUTH_FAILURES_PER_MINUTE", "5")];
    let (seen, unseen) = (make_key(&database, Grants::All(Role::Reader)).await, make_key(&database, Grants::All(Role::Reader)).await);
    let first = Process::start_with(&database, &environment).await;
    first.api.with_key(seen.expose()).get("/projects").await.expect(200);
    let token = first.api.with_key(seen.expose()).post("/tokens", json!({})).await.expect(201)["token"].as_str().unwrap().to_owned();
    let second = Process::start_with(&database, &environment).await;

    // With keys that were made up, with wrong ones, and with none.
    let attack = async |api: &Api| {
        for _ in 0..6 {
            api.with_key(Key::generate(KeyId::make()).expose()).try_get("/projects").await;
            api.with_key(Token::generate().expose()).try_get("/projects").await;
        }
        for _ in 0..3 {
            api.with_key(Key::generate(unseen.id()).expose()).try_get("/projects").await;
        }
        for _ in 0..50 {
            api.try_get("/projects").await;
        }
        api.get("/projects").await.problem(429);
        api.with_key(Key::generate(KeyId::make()).expose()).get("/projects").await.problem(429);
        api.with_key(Key::generate(unseen.id()).expose()).get("/projects").await.problem(429);
        api.with_key(Token::generate().expose()).get("/projects").await.problem(429);
    };
    attack(&second.api).await;
    for key in [seen.expose(), unseen.expose(), &token] {
        second.api.with_key(key).get("/projects").await.expect(200);
    }
    // And a server that starts in the middle of it.
    let third = Process::start_with(&database, &environment).await;
    for key in [unseen.expose(), seen.expose(), &token] {
        third.api.with_key(key).get("/projects").await.expect(200);
    }
    // A key that is made meanwhile is known everywhere a little later.
    let new = make_key(&database, Grants::All(Role::Reader)).await;
    let new = third.api.with_key(new.expose());
    eventually("the new key is known", || async { new.try_get("/projects").await == Some(200) }).await;
    // Its id known, its owner's address shared: a key that some server has verified comes in by the proof of that, on one that has not.
    let fourth = Process::start_with(&database, &environment).await;
    for process in [&third, &fourth] {
        for _ in 0..10 {
            process.api.with_key(Key::generate(seen.id()).expose()).get("/projects").await.problem(429);
        }
        process.api.with_key(seen.expose()).get("/projects").await.expect(200);
    }
}

/// Wrong keys from many addresses keep argon2 busy. Keys that the fleet knows do not wait for it, on a server that has just been started either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_keys_come_in_while_wrong_ones_keep_argon2_busy() {
    let database = TestDatabase::new().await;
    let environment = [("DISABLE_AUTH", "false"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let keys = join_all((0..10).map(|_| make_key(&database, Grants::All(Role::Reader)))).await;
    let first = Process::start_with(&database, &environment).await;
    for key in &keys {
        first.api.with_key(key.expose()).get("/projects").await.expect(200);
    }
    let second = Process::start_with(&database, &environment).await;
    let (busy, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let attack = async {
        let attackers = (0..150).map(|n| {
            let (api, busy, over) = (&second.api, &busy, &over);
            async move {
                for round in 0.. {
                    let (key, address) = (Key::generate(KeyId::make()), format!("20.0.{n}.{}", round % 256));
                    let headers = [("x-api-key", key.expose()), ("x-forwarded-for", &address)];
                    match api.send_with(Method::GET, "/projects", &headers, Vec::new()).await.status {
                        401 => {}
                        503 => busy.store(true, Ordering::Relaxed),
                        status => panic!("{status}"),
                    }
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        });
        join_all(attackers).await;
    };
    let owners = async {
        eventually("argon2 has more to do than it can", || async { busy.load(Ordering::Relaxed) }).await;
        for key in &keys {
            second.api.with_key(key.expose()).get("/projects").await.expect(200);
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(attack, owners);
}

/// What servers leave for each other in Redis is no key, opens nothing with another key or another hash, and is not needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_is_of_one_key_and_one_hash_and_opens_nothing_that_has_ended() {
    let database = TestDatabase::new().await;
    let environment = [("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "50"), ("AUTH_FAILURES_PER_MINUTE", "0")];
    let [one, other] = [make_key(&database, Grants::All(Role::Reader)).await, make_key(&database, Grants::All(Role::Reader)).await];
    let first = Process::start_with(&database, &environment).await;
    first.api.with_key(one.expose()).get("/projects").await.expect(200);
    let client = redis::Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let name = |key: &Key| format!("{}:{{{}}}:proof", database.name(), key.id());
    let proof: Vec<u8> = redis.get(name(&one)).await.unwrap();
    assert_eq!(proof.len(), 32);
    assert!(redis.ttl::<_, i64>(name(&one)).await.unwrap() > 0, "it ends");

    // Another key with its proof, and a wrong key with the proof of the right one.
    let _: () = redis.set(name(&other), &proof).await.unwrap();
    let second = Process::start_with(&database, &environment).await;
    for wrong in [Key::generate(other.id()), Key::generate(one.id())] {
        second.api.with_key(wrong.expose()).get("/projects").await.problem(401);
    }
    // What is no proof is as good as none.
    second.api.with_key(other.expose()).get("/projects").await.expect(200);
    assert_ne!(redis.get::<_, Vec<u8>>(name(&other)).await.unwrap(), proof, "the server that verified it has left its own");
    // Another hash is stored for the key, which is wrong from then on, whatever was proven.
    let sql =
        "update keys set hash = (select hash from keys where id = $2), version = version + 1, changed_at = clock_timestamp() where id = $1";
    let (one_id, other_id) = (one.id().to_string(), other.id().to_string());
    database.connect().await.execute(sql, &[&one_id, &other_id]).await.unwrap();
    let _: () = redis.del(format!("{}:{{{one_id}}}:record", database.name())).await.unwrap();
    for process in [&first, &second] {
        process.api.with_key(one.expose()).get("/projects").await.problem(401);
    }
    // And one that was revoked is.
    let redis = Redis::new(&database.settings(&[])).unwrap();
    redis.connect().await;
    Keys::new(Store::new(database.database()), redis).revoke(other.id()).await.unwrap();
    let third = Process::start_with(&database, &environment).await;
    for process in [&first, &second, &third] {
        process.api.with_key(other.expose()).get("/projects").await.problem(401);
    }
}

/// How often Redis was asked to decide about keys: each call reads the key's record, and nothing else reads it in this way.
async fn decisions(redis: &RedisServer) -> u32 {
    let stats: String = redis.ask(&["INFO", "commandstats"]).await.unwrap();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Each is decided by itself all the same: everybody who comes in is told of one less that remains, and whoever comes after the last is refused.
#[tokio::test]
async fn requests_of_a_key_that_wait_for_redis_are_decided_in_one_call() {
    const TOGETHER: u32 = 60;
    const LIMIT: u32 = 10 * TOGETHER - 20;
    let (database, redis) = (TestDatabase::new().await, RedisServer::start(&[]).await);
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("REDIS_URL", &redis.url())]).await;
    let key = make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(LIMIT)).await;
    let api = server.api.with_key(key.expose());
    let mut told = Vec::new();
    for _ in 0..10 {
        redis.signal(Signal::SIGSTOP);
        let goes_on = async {
            // Less than a request waits before it goes on without Redis.
            tokio::time::sleep(Duration::from_millis(15)).await;
            redis.signal(Signal::SIGCONT);
        };
        told.extend(tokio::join!(join_all((0..TOGETHER).map(|_| api.get("/projects"))), goes_on).0);
    }
    let asked = decisions(&redis).await;
    let (admitted, refused): (Vec<_>, Vec<_>) = told.into_iter().partition(|told| told.status == 200);
    let remaining = admitted.iter().map(|told| told.header("ratelimit").strip_prefix("\"default\";r=").expect("what Redis said"));
    let mut remaining: Vec<u32> = remaining.map(|told| told.split(';').next().unwrap().parse().unwrap()).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, (0..LIMIT).collect::<Vec<_>>(), "each was told of another number");
    assert_eq!(refused.len(), 20);
    refused.into_iter().for_each(|refused| drop(refused.problem(429)));
    assert!(asked < 10 * TOGETHER / 4, "{} requests asked Redis {asked} times", 10 * TOGETHER);
}

/// Over its limit, a key costs Redis one call a second, however many requests come with it at once. It is refused whatever it asks for, but for what is open to
/// everybody and for what is counted apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_over_a_limit_costs_redis_one_call_a_second() {
    let (database, redis) = (TestDatabase::new().await, RedisServer::start(&[]).await);
    let url = redis.url();
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("REDIS_URL", &url), ("DOCS", "public")]).await;
    let key = make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(3)).await;
    let api = server.api.with_key(key.expose());
    for _ in 0..3 {
        api.get("/projects").await.expect(200);
    }
    api.get("/projects").await.problem(429);
    let (before, start) = (decisions(&redis).await, Instant::now());
    let asking = (0..32).map(|_| async {
        let mut refused = 0;
        while start.elapsed() < Duration::from_secs(4) {
            api.get("/projects").await.problem(429);
            refused += 1;
        }
        refused
    });
    let refused: u32 = join_all(asking).await.into_iter().sum();
    let (asked, seconds) = (decisions(&redis).await - before, start.elapsed().as_secs_f64());
    assert!(refused > 500, "it was a flood: {refused}");
    assert!((3.0..=seconds + 1.0).contains(&f64::from(asked)), "{refused} refusals in {seconds:.1} s asked Redis {asked} times");

    for (method, path, expected) in [
        (Method::GET, "/jobs", 429),
        (Method::HEAD, "/jobs", 429),
        (Method::GET, "/nothing", 429),
        (Method::PATCH, "/jobs", 429),
        (Method::OPTIONS, "/jobs", 204),
        (Method::GET, "/", 200),
        (Method::GET, "/livez", 200),
        (Method::GET, "/livez/", 200),
        (Method::GET, "/readyz", 200),
        (Method::GET, "/openapi.json", 200),
        (Method::POST, "/clients/nobody/heartbeat", 404),
        (Method::POST, "/jobs/1/attempts/1/start", 404),
    ] {
        let ask = async || {
            // Whoever asks for what there is renews what is remembered.
            api.get("/jobs").await.problem(429);
            let body = (method == Method::POST).then(|| "{}".to_owned());
            api.send(method.clone(), path, body).await.status
        };
        let status = match ask().await {
            status if status == expected => status,
            // The second may have ended in between, but not twice.
            _ => ask().await,
        };
        assert_eq!(status, expected, "{method} {path}");
    }
    // A larger limit is noticed within a second of what was remembered.
    let admin = server.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let own = format!("/keys/{}/limit", key.id());
    admin.send(Method::PUT, &own, Some(json!({"rate_limit": 100}).to_string())).await.expect(200);
    let start = Instant::now();
    eventually("it comes in again", || async { api.try_get("/projects").await == Some(200) }).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
