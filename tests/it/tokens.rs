//! Short-lived tokens, on two servers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use redis::{AsyncCommands as _, aio::MultiplexedConnection, cmd};
use reqwest::Method;
use serde_json::{Value, json};
use whatsnext::access::{Grants, Key, Role, Token};

use crate::support::{Api, Process, Proxy, TestDatabase, eventually, make_key, make_key_with, store_url};

/// Two servers that ask for keys.
struct Pair {
    database: TestDatabase,
    servers: [Process; 2],
    admin: Api,
}

impl Pair {
    async fn new(environment: &[(&str, &str)]) -> Self {
        let database = TestDatabase::new().await;
        let environment = [&[("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "1000"), ("AUTH_FAILURES_PER_MINUTE", "0")], environment];
        let environment = environment.concat();
        let servers = [Process::start_with(&database, &environment).await, Process::start_with(&database, &environment).await];
        let admin = make_key_with(&database, Grants::All(Role::Admin), |new| new.rate_limit = Some(0)).await;
        let admin = servers[0].api.with_key(admin.expose());
        Self { database, servers, admin }
    }

    async fn key(&self, grants: Grants) -> Key {
        make_key(&self.database, grants).await
    }

    /// Each server, with a key or a token.
    fn each_with(&self, key: &str) -> [Api; 2] {
        [self.servers[0].api.with_key(key), self.servers[1].api.with_key(key)]
    }

    /// A token of a key, from the first server, which both have let in.
    async fn token(&self, key: &Key, asked: Value) -> String {
        let token = made(&self.servers[0].api.with_key(key.expose()), asked).await["token"].as_str().unwrap().to_owned();
        for api in self.each_with(&token) {
            api.get("/tokens/self").await.expect(200);
        }
        token
    }

    async fn expect(&self, key: &str, path: &str, status: u16) {
        for api in self.each_with(key) {
            let answer = api.get(path).await;
            assert_eq!(answer.status, status, "{path}: {}", answer.text);
        }
    }
}

async fn made(api: &Api, asked: Value) -> Value {
    api.post("/tokens", asked).await.expect(201)
}

async fn redis() -> MultiplexedConnection {
    let client = redis::Client::open(store_url("WHATSNEXT_TEST_REDIS_URL")).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

fn ends(made: &Value) -> DateTime<Utc> {
    made["data"]["expires_at"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_do_a_part_of_what_its_key_may_wherever_it_is_sent() {
    let pair = Pair::new(&[]).await;
    let (own, task) = pair.admin.project_with_task("own").await;
    let (other, _) = pair.admin.project_with_task("other").await;
    let (foreign, _) = pair.admin.project_with_task("foreign").await;
    let key = pair.key(Grants::Only(BTreeMap::from([(own, Role::Maintainer), (other, Role::Reader)]))).await;
    let api = pair.servers[0].api.with_key(key.expose());

    let all = made(&api, json!({})).await;
    let seconds = (ends(&all) - Utc::now()).num_seconds();
    assert!((3590..=3600).contains(&seconds), "an hour if nothing else is said: {seconds}");
    assert_eq!(all["data"]["key_id"], key.id().to_string());
    assert_eq!(all["data"]["scopes"], json!(["read", "submit", "work", "manage"]));
    assert_eq!(all["data"]["projects"], json!([own, other]));
    let text = all["token"].as_str().unwrap();
    assert!(Token::parse(text).is_ok(), "{text}");

    let part = made(&api, json!({"scopes": ["read", "submit"], "projects": [own], "ttl_seconds": 60})).await;
    assert_eq!((&part["data"]["scopes"], &part["data"]["projects"]), (&json!(["read", "submit"]), &json!([own])));
    let token = part["token"].as_str().unwrap();
    for api in pair.each_with(token) {
        assert_eq!(api.get("/tokens/self").await.expect(200), part["data"]);
        assert_eq!(api.get("/projects").await.expect(200).as_array().unwrap().len(), 1);
        api.job(own, task, "j", &[]).await;
        api.get(&format!("/projects/{other}")).await.problem(404);
        api.get(&format!("/projects/{foreign}")).await.problem(404);
        let refused = api.post("/tasks", json!({"name": "t", "project_id": own})).await.problem(403);
        assert_eq!(refused, "This token may not do that: it lacks the scope manage.");
        assert!(api.get(&format!("/projects/{own}/fetch_job")).await.problem(403).contains("work"));
        // What belongs to the key alone.
        for refused in [api.post("/tokens", json!({})).await, api.get("/keys/self").await, api.post("/keys/self/revoke", json!({})).await] {
            assert!(refused.problem(403).contains("token"));
        }
        let basic = format!("Basic {}", STANDARD.encode(format!("anybody:{token}")));
        for header in [basic, format!("Bearer {token}")] {
            pair.servers[1].api.send_with(Method::GET, "/tokens/self", &[("authorization", &header)], Vec::new()).await.expect(200);
        }
    }
    // One without `read` can still end itself.
    let worker = pair.token(&key, json!({"scopes": ["work"]})).await;
    let [first, second] = pair.each_with(&worker);
    first.get(&format!("/projects/{own}")).await.problem(403);
    first.delete("/tokens/self").await.expect(204);
    for api in [&first, &second] {
        api.get("/tokens/self").await.problem(401);
    }
    for (method, status) in [(Method::GET, 404), (Method::DELETE, 404)] {
        api.send(method, "/tokens/self", None).await.problem(status);
    }
    api.get("/keys/self").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_never_given_more_than_its_key_has() {
    let pair = Pair::new(&[("API_KEYS", "configured")]).await;
    let (own, _) = pair.admin.project_with_task("own").await;
    let (foreign, _) = pair.admin.project_with_task("foreign").await;
    let key = pair.key(Grants::Only(BTreeMap::from([(own, Role::Worker)]))).await;
    let api = pair.servers[1].api.with_key(key.expose());
    for (asked, lacking) in [
        (json!({"scopes": ["submit"]}), "the scope submit."),
        (json!({"scopes": ["read", "manage"], "projects": [own]}), &format!("the scope manage in project {own}.")),
        (json!({"projects": [foreign]}), &format!("nothing in project {foreign}.")),
        (json!({"projects": [own, 99_999_999]}), "nothing in project 99999999."),
        (json!({"projects": []}), "could do nothing"),
        (json!({"scopes": []}), "could do nothing"),
    ] {
        let refused = api.post("/tokens", asked.clone()).await.problem(403);
        assert!(refused.contains(lacking), "{asked}: {refused}");
    }
    for invalid in [json!({"scopes": ["admin"]}), json!({"ttl_seconds": 59}), json!({"ttl_seconds": 86_401}), json!({"projects": ["1"]})] {
        api.post("/tokens", invalid).await.problem(422);
    }
    api.post("/tokens", json!({"projects": (1..=101).collect::<Vec<i64>>()})).await.problem(422);
    let configured = pair.servers[0].api.with_key("configured").post("/tokens", json!({})).await;
    assert!(configured.problem(403).contains("configuration"));

    // Not `admin`, whoever makes it, and no longer than the key.
    let admin = made(&pair.admin, json!({})).await;
    assert_eq!((&admin["data"]["scopes"], &admin["data"]["projects"]), (&json!(["read", "submit", "work", "manage"]), &Value::Null));
    let admin = pair.servers[1].api.with_key(admin["token"].as_str().unwrap());
    admin.post("/projects", json!({"name": "made with a token"})).await.expect(201);
    assert!(admin.get("/keys").await.problem(403).contains("admin"));
    let end = Utc::now() + Duration::from_secs(120);
    let short = make_key_with(&pair.database, Grants::All(Role::Reader), |new| new.expires_at = Some(end)).await;
    let short = made(&pair.servers[0].api.with_key(short.expose()), json!({"ttl_seconds": 86_400})).await;
    assert!((ends(&short) - end).num_milliseconds().abs() <= 1, "{short}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_dies_with_its_key_at_the_next_request_on_every_server() {
    let pair = Pair::new(&[]).await;
    let admin = &pair.admin;
    for _ in 0..10 {
        let key = pair.key(Grants::All(Role::Reader)).await;
        let tokens = [pair.token(&key, json!({})).await, pair.token(&key, json!({})).await];
        admin.post(&format!("/keys/{}/revoke", key.id()), json!({})).await.expect(200);
        for token in &tokens {
            pair.expect(token, "/projects", 401).await;
        }
    }
    // With grace, as long as the key; without, no longer.
    let key = pair.key(Grants::All(Role::Reader)).await;
    let token = pair.token(&key, json!({})).await;
    let rotated = admin.post(&format!("/keys/{}/rotate", key.id()), json!({"grace_seconds": 2})).await.expect(201);
    let old = admin.get(&format!("/keys/{}", key.id())).await.expect(200);
    let end: DateTime<Utc> = old["expires_at"].as_str().unwrap().parse().unwrap();
    pair.expect(&token, "/projects", 200).await;
    let api = pair.servers[1].api.with_key(&token);
    eventually("the old key ends, and its token", || async { api.try_get("/projects").await == Some(401) }).await;
    assert!(Utc::now() >= end, "not before the key");
    pair.expect(&token, "/projects", 401).await;
    let successor: Key = rotated["key"].as_str().unwrap().parse().unwrap();
    let token = pair.token(&successor, json!({})).await;
    admin.post(&format!("/keys/{}/rotate", successor.id()), json!({})).await.expect(201);
    pair.expect(&token, "/projects", 401).await;

    // The user's power is the key's, and the token's.
    let (project, _) = admin.project_with_task("p").await;
    let user = admin.post("/users", json!({"name": "lab", "grants": {"all": "maintainer"}})).await.expect(201)["id"].as_i64().unwrap();
    let key = make_key_with(&pair.database, Grants::All(Role::Admin), |new| new.user_id = Some(user)).await;
    let token = pair.token(&key, json!({"scopes": ["read", "manage"]})).await;
    let task = |name: &str| json!({"name": name, "project_id": project});
    for (n, api) in pair.each_with(&token).iter().enumerate() {
        api.post("/tasks", task(&n.to_string())).await.expect(201);
    }
    admin.put(&format!("/users/{user}"), json!({"grants": {"only": {project.to_string(): "reader"}}})).await.expect(200);
    for api in pair.each_with(&token) {
        assert_eq!(api.get("/tokens/self").await.expect(200)["scopes"], json!(["read"]));
        api.post("/tasks", task("t")).await.problem(403);
    }
    admin.put(&format!("/users/{user}"), json!({"active": false})).await.expect(200);
    pair.expect(&token, "/projects", 401).await;
    admin.put(&format!("/users/{user}"), json!({"active": true, "grants": {"all": "maintainer"}})).await.expect(200);
    pair.expect(&token, "/projects", 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_when_it_says_and_its_requests_count_for_its_key() {
    let pair = Pair::new(&[]).await;
    let limited = make_key_with(&pair.database, Grants::All(Role::Reader), |new| new.rate_limit = Some(10)).await;
    let by_key = pair.each_with(limited.expose());
    let token = made(&by_key[0], json!({})).await["token"].as_str().unwrap().to_owned();
    let by_token = pair.each_with(&token);
    for n in 0..9 {
        let answer = if n % 3 == 0 { by_key[n % 2].get("/projects").await } else { by_token[n % 2].get("/projects").await };
        assert_eq!(answer.header("ratelimit-policy"), "\"default\";q=10;w=60");
        answer.expect(200);
    }
    for api in by_key.iter().chain(&by_token) {
        api.get("/projects").await.problem(429);
    }

    // A minute is the least that can be asked for, so the end is moved nearer where it is decided.
    let key = pair.key(Grants::All(Role::Reader)).await;
    let token = pair.token(&key, json!({"ttl_seconds": 60})).await;
    let digest = Token::parse(&token).unwrap().digest();
    let tokens = format!("{}:{{{}}}:tokens", pair.database.name(), key.id());
    let mut redis = redis().await;
    let end = Utc::now() + Duration::from_millis(700);
    let _: () = redis.zadd(&tokens, &digest[..], end.timestamp_millis()).await.unwrap();
    let api = &pair.each_with(&token)[1];
    let (mut last, mut first_refused) = (None, None);
    while first_refused.is_none() {
        let before = Utc::now();
        match api.try_get("/projects").await {
            Some(200) => last = Some(before),
            status => first_refused = Some((Utc::now(), status)),
        }
        assert!(before < end + Duration::from_secs(5), "it does not end");
    }
    let (at, status) = first_refused.unwrap();
    assert_eq!(status, Some(401));
    assert!(last.is_some_and(|last| last < end) && at >= end, "{last:?} < {end} <= {at}");
    pair.expect(&token, "/projects", 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_holds_digests_that_end_and_nothing_that_could_be_sent() {
    let pair = Pair::new(&[]).await;
    let key = pair.key(Grants::All(Role::Reader)).await;
    let mut tokens = Vec::new();
    for ttl in [60, 600, 86_400] {
        tokens.push(pair.token(&key, json!({"ttl_seconds": ttl})).await);
    }
    let mut redis = redis().await;
    let prefix = pair.database.name();
    let names = scan(&mut redis, &format!("{prefix}:*")).await;
    for token in &tokens {
        let digest: String = Token::parse(token).unwrap().digest().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(names.contains(&format!("{prefix}:{{t:{digest}}}:token")), "{names:?}");
    }
    for name in &names {
        let ttl: i64 = redis.pttl(name).await.unwrap();
        assert!(ttl > 0 || ttl == -2, "{name} never ends");
        let dump: Vec<u8> = cmd("DUMP").arg(name).query_async::<Option<Vec<u8>>>(&mut redis).await.unwrap().unwrap_or_default();
        for token in &tokens {
            let secret = &token.as_bytes()[4..];
            let shown = [dump.as_slice(), name.as_bytes()].iter().any(|text| text.windows(secret.len()).any(|part| part == secret));
            assert!(!shown, "{name} has a token in it");
        }
    }
    // No key has tokens without end.
    let key = make_key_with(&pair.database, Grants::All(Role::Reader), |new| new.rate_limit = Some(0)).await;
    let api = pair.servers[0].api.with_key(key.expose());
    made(&api, json!({})).await;
    let of_key = format!("{prefix}:{{{}}}:tokens", key.id());
    let far = (Utc::now() + Duration::from_secs(60)).timestamp_millis();
    for n in 0..999 {
        let _: () = redis.zadd(&of_key, n, far).await.unwrap();
    }
    assert!(api.post("/tokens", json!({})).await.problem(409).contains("1000"));
}

async fn scan(redis: &mut MultiplexedConnection, pattern: &str) -> Vec<String> {
    let (mut cursor, mut found) = (0_u64, Vec::new());
    loop {
        let (next, names): (u64, Vec<String>) =
            cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1000).query_async(redis).await.unwrap();
        found.extend(names);
        cursor = next;
        if cursor == 0 {
            return found;
        }
    }
}

/// Whatever is wrong with a token, the answer is that for a wrong key; what cannot be one costs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_tokens_are_told_nothing_and_are_throttled() {
    let pair = Pair::new(&[("AUTH_FAILURES_PER_MINUTE", "5")]).await;
    let key = pair.key(Grants::All(Role::Reader)).await;
    let good = pair.token(&key, json!({})).await;
    let api = &pair.servers[0].api;
    let expected = {
        let mut body = api.get("/projects").await.body;
        body["request_id"] = json!(null);
        body
    };
    let one_off = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { '1' } else { '0' });
    for wrong in ["wnt_", "wnt_x", &good[1..], &good.to_uppercase(), &format!("{good}0"), &one_off].iter().cycle().take(30) {
        let answer = api.with_key(wrong).get("/projects").await;
        assert_eq!((answer.status, answer.header("www-authenticate").is_empty()), (401, false), "{wrong}");
    }
    for _ in 0..5 {
        let unknown = Token::generate();
        let mut answer = api.with_key(unknown.expose()).get("/projects").await;
        assert_eq!(answer.status, 401);
        answer.body["request_id"] = json!(null);
        assert_eq!(answer.body, expected);
    }
    api.with_key(Token::generate().expose()).get("/projects").await.problem(429);
    pair.expect(&good, "/projects", 200).await;
}

/// Without Redis tokens that a server has met go on while their key is good; it makes none, and cannot check others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_tokens_that_were_met_go_on() {
    let proxy = Proxy::to_redis().await;
    let url = proxy.redis_url();
    let pair = Pair::new(&[("REDIS_URL", &url)]).await;
    let key = pair.key(Grants::All(Role::Reader)).await;
    let token = pair.token(&key, json!({})).await;
    let unmet = made(&pair.servers[0].api.with_key(key.expose()), json!({})).await["token"].as_str().unwrap().to_owned();
    proxy.cut();
    for api in pair.each_with(&token) {
        eventually("the server goes on alone", || async { api.get("/projects").await.header("ratelimit-policy").contains("degraded") })
            .await;
        api.get("/projects").await.expect(200);
        let refused = api.delete("/tokens/self").await;
        assert!(!refused.header("retry-after").is_empty());
        refused.problem(503);
    }
    for api in pair.each_with(&unmet) {
        let refused = api.get("/projects").await;
        assert!(!refused.header("retry-after").is_empty());
        refused.problem(503);
    }
    pair.servers[0].api.with_key(key.expose()).post("/tokens", json!({})).await.problem(503);
    pair.servers[1].api.with_key("wnt_malformed").get("/projects").await.problem(401);
    // The key's end is seen a second later at most.
    let revoked = Instant::now();
    pair.admin.post(&format!("/keys/{}/revoke", key.id()), json!({})).await.expect(200);
    for api in pair.each_with(&token) {
        eventually("the token has died with its key", || async { api.try_get("/projects").await == Some(401) }).await;
    }
    assert!(revoked.elapsed() < Duration::from_secs(3), "it took {:?}", revoked.elapsed());
    proxy.mend();
    for api in pair.each_with(&unmet) {
        eventually("Redis is back, and knows that the key was revoked", || async { api.try_get("/projects").await == Some(401) }).await;
    }
}
