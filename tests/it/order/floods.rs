//! What a flood of what is no good costs: Redis a few calls a second, argon2 no more than the limit of failures, and nobody else anything.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{join_all, select_all};
use redis::AsyncCommands as _;
use reqwest::Method;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use whatsnext::access::{Grants, Key, KeyId, Role, Token};

use super::decisions;
use crate::support::{Api, Process, Proxy, RedisServer, TestDatabase, eventually, free_port, make_key, make_key_with};

/// How often Redis was asked anything, but for what a script does inside of it.
async fn calls(redis: &RedisServer) -> u32 {
    let stats: String = redis.ask(&["INFO", "commandstats"]).await.unwrap();
    let asked = ["eval", "evalsha", "hgetall", "get", "getex"].map(|command| {
        let start = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&start)?.split(',').next());
        calls.map_or(0, |calls| calls.parse::<u32>().unwrap())
    });
    asked.into_iter().sum()
}

/// Sends as much as 32 clients can, and returns how many were answered with each of these statuses, and how long it took.
async fn flood(api: &Api, key: impl Fn() -> String, statuses: [u16; 2]) -> ([u32; 2], f64) {
    let start = Instant::now();
    let asking = (0..32).map(|_| async {
        let mut answered = [0, 0];
        while start.elapsed() < Duration::from_secs(3) {
            let status = api.send_with(Method::GET, "/projects", &[("x-api-key", &key())], Vec::new()).await.status;
            let which = statuses.iter().position(|known| *known == status).unwrap_or_else(|| panic!("{status}"));
            answered[which] += 1;
        }
        answered
    });
    let all = join_all(asking).await.into_iter().fold([0, 0], |all, one| [all[0] + one[0], all[1] + one[1]]);
    (all, start.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_what_is_no_good_costs_redis_a_few_calls_a_second() {
    let (database, redis) = (TestDatabase::new().await, RedisServer::start(&[]).await);
    let [unmet, ended, gone] = [(); 3].map(|()| make_key(&database, Grants::All(Role::Reader)));
    let (unmet, ended, gone) = tokio::join!(unmet, ended, gone);
    let admin = make_key(&database, Grants::All(Role::Admin)).await;
    let postgresql = Proxy::to_postgresql().await;
    let (url, database_url) = (redis.url(), postgresql.database_url(&database));
    let environment = [
        ("DISABLE_AUTH", "false"),
        ("REDIS_URL", url.as_str()),
        ("DATABASE_URL", &database_url),
        ("RATE_LIMIT_PER_MINUTE", "10000"),
        ("AUTH_FAILURES_PER_MINUTE", "5"),
    ];
    let server = Process::start_with(&database, &environment).await;
    let api = &server.api;
    let token = api.with_key(ended.expose()).post("/tokens", json!({})).await.expect(201)["token"].as_str().unwrap().to_owned();
    api.with_key(&token).get("/projects").await.expect(200);
    api.with_key(admin.expose()).post(&format!("/keys/{}/revoke", ended.id()), json!({})).await.expect(200);
    // Its row is taken away, and what was copied of it is not there any more after a minute.
    api.with_key(gone.expose()).get("/projects").await.expect(200);
    let gone_id = gone.id().to_string();
    database.connect().await.execute("delete from keys where id = $1", &[&gone_id]).await.unwrap();
    redis.ask::<u32>(&["DEL", &format!("{}:{{{gone_id}}}:record", database.name())]).await.unwrap();
    for expected in [401, 401, 401, 401, 401, 429] {
        assert_eq!(api.with_key(Key::generate(KeyId::make()).expose()).get("/projects").await.status, expected);
    }
    let floods: [(&str, &dyn Fn() -> String); 6] = [
        ("keys that were made up", &|| Key::generate(KeyId::make()).expose().to_owned()),
        ("wrong keys with an id that was given out", &|| Key::generate(unmet.id()).expose().to_owned()),
        ("tokens that were made up", &|| Token::generate().expose().to_owned()),
        ("a key that was met here and then revoked", &|| ended.expose().to_owned()),
        ("its token", &|| token.clone()),
        ("a key that was met here and of which nothing is left", &|| gone.expose().to_owned()),
    ];
    for (what, key) in floods {
        // Until the failures of this key at this address are used up as well.
        for _ in 0..7 {
            api.with_key(&key()).get("/projects").await.problem(429);
        }
        let before = (calls(&redis).await, postgresql.asked());
        let ([refused, _], seconds) = flood(api, key, [429, 401]).await;
        let (asked, sent) = (calls(&redis).await - before.0, postgresql.asked() - before.1);
        assert!(refused > 300, "{what}: it was a flood: {refused}");
        // Eight tokens are looked for in a second; a server says once a second that it is there, and copies changed keys again every five.
        let most = (seconds + 1.0) * 13.0;
        assert!(
            f64::from(asked) <= most,
            "{what}: {refused} refusals in {seconds:.1} s asked Redis {asked} times, expected at most {most}"
        );
        // Two questions a second, and what a server asks by itself, with the text of each statement once for a connection. Each refusal would take 150.
        let most = seconds.mul_add(1_000.0, 20_000.0);
        #[expect(clippy::cast_precision_loss, reason = "they are few")]
        let sent = sent as f64;
        assert!(sent <= most, "{what}: {refused} refusals in {seconds:.1} s sent PostgreSQL {sent} bytes, expected at most {most}");
    }
    api.with_key(admin.expose()).get("/projects").await.expect(200);
}

/// A window that was filled evenly has room again every tenth of a second. Whoever floods it is admitted as often, and does not ask as often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_a_window_that_empties_evenly_is_refused_for_whole_seconds() {
    const LIMIT: u32 = 600;
    let (database, redis) = (TestDatabase::new().await, RedisServer::start(&[]).await);
    let key = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(LIMIT)).await;
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("REDIS_URL", &redis.url())]).await;
    let api = server.api.with_key(key.expose());
    api.get("/projects").await.expect(200);
    // As if one had come in every tenth of a second of the last minute.
    let time: Vec<String> = redis.ask(&["TIME"]).await.unwrap();
    let now = time[0].parse::<u64>().unwrap() * 1000 + time[1].parse::<u64>().unwrap() / 1000;
    let low = |time: u64| u32::try_from(time % (1 << 32)).unwrap().to_le_bytes();
    let times: Vec<u64> = (0..u64::from(LIMIT)).map(|n| now - 60_000 + n * 100).collect();
    let mut window = Vec::new();
    for number in [827_086_679, LIMIT, 0, LIMIT] {
        window.extend(u32::to_le_bytes(number));
    }
    window.extend(low(times[0]));
    for number in [*times.last().unwrap(), 0, now + 75_000] {
        window.extend(number.to_le_bytes());
    }
    window.extend(times.iter().flat_map(|time| low(*time)));
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let _: () = connection.pset_ex(format!("{}:{{{}}}:w:api", database.name(), key.id()), window, 75_000).await.unwrap();

    let before = decisions(&redis).await;
    let ([admitted, refused], seconds) = flood(&api, || key.expose().to_owned(), [200, 429]).await;
    let asked = decisions(&redis).await - before;
    assert!((10..=45).contains(&admitted), "of ten a second, {admitted} were admitted in {seconds:.1} s");
    assert!(refused > 300, "it was a flood: {refused}");
    // One finds that there is room, then those who waited for that ask together, and are told when there is no more.
    let most = (seconds + 1.0) * 6.0;
    assert!(f64::from(asked) <= most, "{admitted} admissions and {refused} refusals in {seconds:.1} s asked Redis {asked} times");
}

/// All wrong keys at once are no way around the limit of failures, and keep no key of another address waiting for argon2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_wrong_keys_gets_no_further_than_its_limit() {
    const LIMIT: usize = 5;
    let database = TestDatabase::new().await;
    let [owner, other] = [make_key(&database, Grants::All(Role::Reader)).await, make_key(&database, Grants::All(Role::Reader)).await];
    let metrics = format!("127.0.0.1:{}", free_port());
    let environment = [
        ("DISABLE_AUTH", "false"),
        ("AUTH_FAILURES_PER_MINUTE", "5"),
        ("RATE_LIMIT_PER_MINUTE", "10000"),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
        ("METRICS_BIND", &metrics),
    ];
    let server = Process::start_with(&database, &environment).await;
    let status = async |key: &Key, address: &str| {
        let headers = [("x-api-key", key.expose()), ("x-forwarded-for", address)];
        server.api.send_with(Method::GET, "/projects", &headers, Vec::new()).await.status
    };
    let has_begun = AtomicBool::new(false);
    let burst = join_all((0..200).map(|_| async {
        let answer = status(&Key::generate(KeyId::make()), "203.0.113.1").await;
        has_begun.store(true, Ordering::Relaxed);
        answer
    }));
    let meanwhile = async {
        eventually("the first wrong key is answered", || async { has_begun.load(Ordering::Relaxed) }).await;
        [status(&other, "203.0.113.2").await, status(&owner, "203.0.113.1").await]
    };
    let (answers, good) = tokio::join!(burst, meanwhile);
    assert_eq!(good, [200, 200], "a good key from another address, and one from the same");
    let count = |status: u16| answers.iter().filter(|answer| **answer == status).count();
    assert_eq!((count(401), count(429)), (LIMIT, 200 - LIMIT), "each failure was known before much more was looked at");
    let told = Api::new(&format!("http://{metrics}")).get("/metrics").await.text;
    let runs = told.lines().find_map(|line| line.strip_prefix("whatsnext_argon2_runs_total ")).expect("runs are counted");
    let runs: f64 = runs.parse().unwrap();
    assert!(runs <= 5.0 + 3.0 + 2.0, "argon2 ran {runs} times for {LIMIT} failures, three that came at once, and two good keys");
}

/// Whoever goes away while their key is being checked has brought a wrong one all the same. (Nothing is done about those that still wait for that.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_of_who_does_not_wait_for_the_answer_are_counted() {
    const LIMIT: usize = 40;
    let database = TestDatabase::new().await;
    let limit = LIMIT.to_string();
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("AUTH_FAILURES_PER_MINUTE", &limit)]).await;
    for _ in 0..LIMIT - 10 {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            let key = Key::generate(KeyId::make());
            let request = format!("GET /projects HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", key.expose());
            stream.write_all(request.as_bytes()).await.unwrap();
            server.api.get("/livez").await.expect(200);
        }
        if server.api.with_key(Key::generate(KeyId::make()).expose()).get("/projects").await.status == 429 {
            return;
        }
    }
    panic!("expected that the limit of {LIMIT} failures is reached, though only {} keys came whose answer was waited for", LIMIT - 10);
}

/// Also one that shares its address with an attacker, for whom there is nothing else to tell it from a key that was made up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_just_made_is_heard_at_once_by_the_server_that_made_it() {
    let database = TestDatabase::new().await;
    let admin = make_key(&database, Grants::All(Role::Admin)).await;
    let server = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("AUTH_FAILURES_PER_MINUTE", "5")]).await;
    let admin = server.api.with_key(admin.expose());
    admin.get("/projects").await.expect(200);
    for expected in [401, 401, 401, 401, 401, 429] {
        assert_eq!(server.api.with_key(Key::generate(KeyId::make()).expose()).get("/projects").await.status, expected);
    }
    // More than one: some would be made just before the server looks for new ones.
    for _ in 0..3 {
        let made = admin.post("/keys", json!({"name": "k", "role": "reader"})).await.expect(201);
        let path = format!("/keys/{}/rotate", made["data"]["id"].as_str().unwrap());
        let key = made["key"].as_str().unwrap();
        assert_eq!(server.api.with_key(key).get("/projects").await.status, 200, "of a key that was just made");
        let rotated = admin.post(&path, json!({})).await.expect(201);
        let key = rotated["key"].as_str().unwrap();
        assert_eq!(server.api.with_key(key).get("/projects").await.status, 200, "of its successor");
    }
    server.api.with_key(Key::generate(KeyId::make()).expose()).get("/projects").await.problem(429);
}

/// Keys that were made up are looked for in PostgreSQL. While that does not answer, whoever has a key or a token that the fleet knows does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_keys_that_wait_for_postgresql_keep_no_good_one_of_their_address_waiting() {
    let database = TestDatabase::new().await;
    let key = make_key(&database, Grants::All(Role::Reader)).await;
    let environment = [("DISABLE_AUTH", "false"), ("AUTH_FAILURES_PER_MINUTE", "0")];
    // It is met by another server, so that what there is to know of it is in Redis.
    let first = Process::start_with(&database, &environment).await;
    let token = first.api.with_key(key.expose()).post("/tokens", json!({})).await.expect(201)["token"].as_str().unwrap().to_owned();
    let postgresql = Proxy::to_postgresql().await;
    let database_url = postgresql.database_url(&database);
    let second = Process::start_with(&database, &[&environment[..], &[("DATABASE_URL", &database_url)]].concat()).await;
    postgresql.slow_down(Duration::from_secs(1_800));
    let before = postgresql.asked();
    let made_up = (0..24).map(|_| {
        let api = second.api.with_key(Key::generate(KeyId::make()).expose());
        Box::pin(async move { api.get("/tokens/self").await.status })
    });
    let good = async {
        // Each that is looked for names its id.
        eventually("all places are taken", || async { postgresql.asked() - before > 4 * 26 }).await;
        // Whoever has no token is told so once they are in.
        let owner = second.api.with_key(key.expose()).get("/tokens/self").await.status;
        let bearer = second.api.with_key(&token).get("/tokens/self").await.status;
        (owner, bearer)
    };
    tokio::select! {
        good = good => assert_eq!(good, (404, 200)),
        // None of them gives its place back before.
        (status, ..) = select_all(made_up) => panic!("expected the good ones first, and not {status}"),
    }
}
