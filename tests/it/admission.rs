//! Who comes in, on four servers that share everything.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use whatsnext::access::{Grants, Key, KeyId, Role};

use crate::support::{
    Api, Process, TestDatabase, admitted_until, each_with, end_subscriptions, eventually, fleet, is_of_all, make_key, make_key_with,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_one_for_the_whole_fleet() {
    let database = TestDatabase::new().await;
    let fleet = fleet(&database, 4, &[("RATE_LIMIT_PER_MINUTE", "600")]).await;
    let mut rounds = 0;
    let answers = loop {
        let key = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(100)).await;
        let apis = each_with(&fleet, &key);
        let requests = (0..1_000).map(|n| {
            let api = apis[n % 4].clone();
            tokio::spawn(async move { api.get("/projects?limit=1").await })
        });
        let answers: Vec<_> = join_all(requests).await.into_iter().map(|answer| answer.expect("no panic")).collect();
        // On a machine with too much to do a server may lose sight of Redis, and says so: then it decides by its share, which is another test's subject.
        let is_one_fleet = answers.iter().all(is_of_all);
        rounds += 1;
        if is_one_fleet || rounds == 5 {
            break answers;
        }
    };
    let (admitted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!((99..=100).contains(&admitted.len()), "expected 99 or 100 of a limit of 100 to be admitted, got {}", admitted.len());
    assert!(admitted.iter().all(|answer| answer.header("ratelimit-policy") == "\"default\";q=100;w=60"));
    for answer in refused {
        let seconds: u64 = answer.header("retry-after").parse().expect("whole seconds");
        assert!((1..=60).contains(&seconds) && answer.header("ratelimit").starts_with("\"default\";r=0;t="), "{:?}", answer.headers);
        assert_eq!(answer.problem(429), format!("Rate limit exceeded. Try again in {seconds} seconds."));
    }
}

/// Three minutes of more requests than may come in, after a while of fewer, so that room becomes free at all times of a minute: in no minute, wherever it
/// begins, are there more than the limit, and in none less than 99 of 100. An admission happens between sending and answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_in_every_position_of_the_window_for_three_windows() {
    const MINUTE: Duration = Duration::from_secs(60);
    let database = TestDatabase::new().await;
    let fleet = fleet(&database, 4, &[]).await;
    let mut rounds = 0;
    let (start, flood_from, end, admitted) = loop {
        let key = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(100)).await;
        let start = Instant::now();
        let flood_from = start + MINUTE / 2;
        let end = flood_from + 3 * MINUTE;
        let clients = each_with(&fleet, &key).into_iter().map(|api| tokio::spawn(admitted_until(api, flood_from, end)));
        let admitted = futures_util::future::try_join_all(clients).await.expect("no panic");
        rounds += 1;
        // A server that has lost sight of Redis decides by its share, which is another test's subject.
        match admitted.into_iter().collect::<Option<Vec<_>>>() {
            Some(admitted) => break (start, flood_from, end, admitted.concat()),
            None => assert!(rounds < 3, "in none of {rounds} rounds all servers had sight of Redis all the time"),
        }
    };
    let surely = |from: Instant| admitted.iter().filter(|(sent, answered)| *sent >= from && *answered < from + MINUTE).count();
    // A server remembers a refusal for a second, and each client pauses.
    let late = Duration::from_millis(1500);
    let possibly = |from: Instant| admitted.iter().filter(|(sent, answered)| *answered >= from && *sent <= from + MINUTE + late).count();
    for (sent, _) in &admitted {
        assert!(surely(*sent) <= 100, "{} came in in the minute that begins {:?} after the start", surely(*sent), *sent - start);
        if *sent >= flood_from && *sent + MINUTE + late < end {
            assert!(
                possibly(*sent) >= 99,
                "only {} came in in the minute that begins {:?} after the start",
                possibly(*sent),
                *sent - start
            );
        }
    }
    assert!(admitted.len() >= 3 * 99, "{} in all", admitted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_is_seen_by_the_next_request_on_every_server() {
    const KEYS: usize = 30;
    let database = TestDatabase::new().await;
    let admin = make_key(&database, Grants::All(Role::Admin)).await;
    let fleet = fleet(&database, 4, &[("AUTH_FAILURES_PER_MINUTE", "0")]).await;
    let admin = fleet[0].api.with_key(admin.expose());
    let keys = join_all((0..KEYS).map(|_| make_key(&database, Grants::All(Role::Reader)))).await;
    let of_each: Vec<Vec<Api>> = keys.iter().map(|key| each_with(&fleet, key)).collect();
    for api in of_each.iter().flatten() {
        api.get("/projects").await.expect(200);
    }
    for (key, apis) in keys.iter().zip(&of_each) {
        // Nothing may depend on a message.
        end_subscriptions().await;
        let revoked = admin.post(&format!("/keys/{}/revoke", key.id()), json!({})).await.expect(200);
        assert!(revoked["revoked_at"].is_string(), "{revoked}");
        let answers = join_all(apis.iter().map(|api| api.get("/projects"))).await;
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [401; 4], "after the revocation of {}", key.id());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_keys_and_users_hold_for_the_next_request() {
    let database = TestDatabase::new().await;
    let admin = make_key(&database, Grants::All(Role::Admin)).await;
    let fleet = fleet(&database, 4, &[("RATE_LIMIT_PER_MINUTE", "600")]).await;
    let admin = fleet[0].api.with_key(admin.expose());
    let project = admin.post("/projects", json!({"name": "p"})).await.expect(201)["id"].as_i64().unwrap();

    let user = admin.post("/users", json!({"name": "lab", "grants": {"all": "maintainer"}})).await.expect(201);
    let user = user["id"].as_i64().unwrap();
    let new = json!({"name": "k", "role": "admin", "user_id": user, "rate_limit": 1000});
    let made = admin.post("/keys", new).await.expect(201);
    let (id, key): (&str, Key) = (made["data"]["id"].as_str().unwrap(), made["key"].as_str().unwrap().parse().unwrap());
    let apis = each_with(&fleet, &key);
    for api in &apis {
        assert_eq!(api.get("/projects").await.header("ratelimit-policy"), "\"default\";q=1000;w=60");
        api.get("/keys").await.problem(403);
        assert_eq!(api.get("/keys/self").await.expect(200)["name"], "k");
    }
    // The user's power bounds the key's.
    admin.put(&format!("/users/{user}"), json!({"grants": {"only": {project.to_string(): "reader"}}})).await.expect(200);
    for api in &apis {
        assert!(api.post("/tasks", json!({"name": "t", "project_id": project})).await.problem(403).contains("manage"));
        api.get(&format!("/projects/{project}")).await.expect(200);
    }
    admin.put(&format!("/users/{user}"), json!({"grants": {"only": {}}})).await.expect(200);
    for api in &apis {
        api.get(&format!("/projects/{project}")).await.problem(404);
    }
    admin.put(&format!("/users/{user}"), json!({"active": false})).await.expect(200);
    for api in &apis {
        api.get("/projects").await.problem(401);
    }
    admin.put(&format!("/users/{user}"), json!({"active": true, "grants": {"all": "reader"}})).await.expect(200);
    // The limit too, in the open window.
    admin.put(&format!("/keys/{id}/limit"), json!({"rate_limit": 2})).await.expect(200);
    for api in &apis {
        assert_eq!(api.get("/projects").await.status, 429);
    }
    assert_eq!(admin.get(&format!("/keys/{id}/limit")).await.expect(200)["limit"], 2);
    let reset = admin.post(&format!("/keys/{id}/limit/reset"), json!({})).await.expect(200);
    assert_eq!((&reset["limit"], &reset["remaining"]), (&json!(2), &json!(2)));
    eventually("a server that remembered the refusal asks again", || async { apis[1].try_get("/projects").await == Some(200) }).await;
    admin.put(&format!("/keys/{id}/limit"), json!({"rate_limit": null})).await.expect(200);
    for api in &apis {
        eventually("each server, whenever it refused, asks again", || async { api.try_get("/projects").await == Some(200) }).await;
    }

    // Rotation: the old key has its grace and no more.
    let rotated = admin.post(&format!("/keys/{id}/rotate"), json!({"grace_seconds": 3600})).await.expect(201);
    let successor: Key = rotated["key"].as_str().unwrap().parse().unwrap();
    assert_eq!(rotated["data"]["user_id"], user);
    for api in each_with(&fleet, &successor).iter().chain(&apis[2..]) {
        api.get("/projects").await.expect(200);
    }
    admin.post(&format!("/keys/{id}/rotate"), json!({})).await.problem(409);
    let rotated = admin.post(&format!("/keys/{}/rotate", successor.id()), json!({})).await.expect(201);
    for api in each_with(&fleet, &successor) {
        api.get("/projects").await.problem(401);
    }
    let last: Key = rotated["key"].as_str().unwrap().parse().unwrap();
    let own = fleet[3].api.with_key(last.expose());
    own.post("/keys/self/revoke", json!({})).await.expect(200);
    own.get("/keys/self").await.problem(401);
}

/// Whatever is wrong with a key, the answer is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_keys_are_told_nothing_and_are_throttled() {
    let database = TestDatabase::new().await;
    let good = make_key(&database, Grants::All(Role::Reader)).await;
    let over = make_key_with(&database, Grants::All(Role::Reader), |new| new.expires_at = Some(chrono::Utc::now())).await;
    let process = Process::start_with(&database, &[("DISABLE_AUTH", "false"), ("AUTH_FAILURES_PER_MINUTE", "5")]).await;
    let api = &process.api;
    let with_good = api.with_key(good.expose());
    with_good.get("/projects").await.expect(200);

    let same = |answer: &crate::support::Json| {
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{:?}", answer.headers);
        let mut body = answer.body.clone();
        body["request_id"] = json!(null);
        body
    };
    let none = api.get("/projects").await;
    let expected = same(&none);
    none.problem(401);
    let long = "x".repeat(8_000);
    let one_off = format!("{}{}", &good.expose()[..78], if good.expose().ends_with('0') { '1' } else { '0' });
    let hash = whatsnext::access::KeyHash::of(&good);
    let malformed = ["wn_", "", "good", &good.expose()[1..], &good.expose().to_lowercase(), &one_off, &long, hash.as_str(), "wn_\u{660}"];
    // What cannot be a key costs nothing, and is not counted.
    for key in malformed.iter().cycle().take(40) {
        let answer = api.send_with(Method::GET, "/projects", &[("x-api-key", key)], Vec::new()).await;
        assert_eq!(same(&answer), expected, "{key:?}");
    }
    let unknown = Key::generate(KeyId::make());
    let wrong_secret = Key::generate(good.id());
    for key in [&unknown, &wrong_secret, &over] {
        let answer = api.with_key(key.expose()).get("/projects").await;
        assert_eq!(same(&answer), expected, "{key:?}");
    }
    for _ in 0..2 {
        api.with_key(unknown.expose()).get("/projects").await.problem(401);
    }
    let throttled = api.with_key(unknown.expose()).get("/projects").await;
    assert!(!throttled.header("retry-after").is_empty());
    throttled.problem(429);
    // Whoever has shown a good key goes on.
    with_good.get("/projects").await.expect(200);
    // Health is for everybody, whatever their address did.
    for path in ["/", "/livez", "/readyz", "/checkdb"] {
        api.get(path).await.expect(200);
    }
    let options = api.send(Method::OPTIONS, "/jobs", None).await;
    assert_eq!(options.status, 204, "what a path takes is told without a key");
    let two = [("x-api-key", good.expose()), ("authorization", "Bearer other")];
    api.send_with(Method::GET, "/projects", &two, Vec::new()).await.problem(400);
    let basic = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("key:{}", good.expose()));
    let twice = [("x-api-key", good.expose()), ("authorization", &format!("Basic {basic}"))];
    api.send_with(Method::GET, "/projects", &twice, Vec::new()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_headers_change_nobodys_address() {
    let database = TestDatabase::new().await;
    let limits = [("RATE_LIMIT_PER_MINUTE", "3")];
    let untrusting = Process::start_with(&database, &limits).await;
    let forged = async |api: &Api, forwarded: &str| {
        api.send_with(Method::GET, "/projects", &[("x-forwarded-for", forwarded), ("forwarded", "for=9.9.9.9")], Vec::new()).await.status
    };
    for n in 0..3 {
        assert_eq!(forged(&untrusting.api, &format!("203.0.113.{n}")).await, 200);
    }
    assert_eq!(forged(&untrusting.api, "203.0.113.77").await, 429, "the header of a peer that is not trusted is not read");

    let trusting = Process::start_with(&database, &[limits[0], ("TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8")]).await;
    let endless = format!("{}, 203.0.113.1, 10.1.1.1", vec!["8.8.8.8"; 500].join(", "));
    for _ in 0..3 {
        assert_eq!(forged(&trusting.api, &endless).await, 200);
    }
    assert_eq!(forged(&trusting.api, "1.1.1.1, 203.0.113.1, 10.9.9.9").await, 429, "what is further left is not read");
    assert_eq!(forged(&trusting.api, "203.0.113.2").await, 200, "another client has its own window");
    for n in 0..3 {
        assert_eq!(forged(&trusting.api, &format!("2001:db8:1:2::{n}")).await, 200);
    }
    assert_eq!(forged(&trusting.api, "2001:db8:1:2:ffff::1").await, 429, "a /64 is one client");
    assert_eq!(forged(&trusting.api, "2001:db8:1:3::1").await, 200);
}

/// What a load balancer that does not look into HTTP says before the first request, and nobody else.
#[tokio::test]
async fn connections_are_announced_by_trusted_proxies_only() {
    let database = TestDatabase::new().await;
    let announced = [("RATE_LIMIT_PER_MINUTE", "3"), ("FORWARDED_BY", "proxy-protocol"), ("HEADER_TIMEOUT_SECONDS", "1")];
    let trusting = Process::start_listening(&database, &[&announced[..], &[("TRUSTED_PROXIES", "127.0.0.1")]].concat()).await;
    let v1 = |source: &str| format!("PROXY TCP4 {source} 192.0.2.2 56324 443\r\n").into_bytes();
    let v2 = |source: [u8; 4]| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend(source);
        header.extend([192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb]);
        header
    };
    let status = async |address, head: Vec<u8>| -> Option<String> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /projects HTTP/1.1\r\nhost: t\r\nx-forwarded-for: 8.8.8.8\r\nconnection: close\r\n\r\n";
        stream.write_all(&[&head[..], request].concat()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok();
        answer.split(' ').nth(1).map(ToOwned::to_owned)
    };
    let ok = Some("200".to_owned());
    let address = trusting.address();
    assert_eq!(status(address, v1("203.0.113.1")).await, ok);
    assert_eq!(status(address, v2([203, 0, 113, 1])).await, ok);
    assert_eq!(status(address, v1("203.0.113.1")).await, ok);
    assert_eq!(status(address, v2([203, 0, 113, 1])).await.as_deref(), Some("429"), "both versions name the same client");
    assert_eq!(status(address, v1("203.0.113.2")).await, ok, "another client has its own window");
    for no_header in ["", "PROXY TCP4 nonsense\r\n", "PROXY"] {
        assert_eq!(status(address, no_header.into()).await, None, "{no_header:?}: closed without an answer");
    }
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"PROXY TCP4 203.0").await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0, "half a header is not waited for");

    let untrusting = Process::start_with(&database, &[&announced[..], &[("TRUSTED_PROXIES", "10.0.0.0/8")]].concat()).await;
    assert_eq!(status(untrusting.address(), v1("203.0.113.9")).await.as_deref(), Some("400"), "a header of somebody else is no request");
    assert_eq!(status(untrusting.address(), Vec::new()).await, ok);
}

/// A key of the configuration, as the Python server had them.
#[tokio::test]
async fn configured_keys_work_and_are_compared_whole() {
    let (database, another) = (TestDatabase::new().await, TestDatabase::new().await);
    let (first, second) = ("the-first-key-of-thirty-two-chars", "the-second-key-of-thirty-two-chars");
    let both = format!("{first},{second}");
    let with = |keys| [("DISABLE_AUTH", "false"), ("API_KEYS", keys), ("AUTH_FAILURES_PER_MINUTE", "3")];
    let process = Process::start_with(&database, &with(&both)).await;
    for key in [first, second] {
        process.api.with_key(key).get("/keys").await.expect(200);
    }
    for key in [&first[..31], &both, &first.to_uppercase()] {
        process.api.with_key(key).get("/keys").await.problem(401);
    }
    for _ in 0..20 {
        process.api.with_key("the-first-key-of-thirty-two-charz").get("/keys").await.problem(429);
    }
    for key in [first, second] {
        process.api.with_key(key).get("/keys").await.expect(200);
    }
    // What could be found by trying is not told from what is wrong any more.
    let process = Process::start_with(&another, &with("short,shorter")).await;
    process.api.with_key("short").get("/keys").await.expect(200);
    for key in ["a", "b", "c"] {
        process.api.with_key(key).get("/keys").await.problem(401);
    }
    for key in ["d", "short", "shorter"] {
        process.api.with_key(key).get("/keys").await.problem(429);
    }
}

/// Lists show what a key may read, and nothing else tells that there is more.
#[tokio::test]
async fn what_is_foreign_is_not_there() {
    let database = TestDatabase::new().await;
    let admin = make_key(&database, Grants::All(Role::Admin)).await;
    let process = Process::start_with(&database, &[("DISABLE_AUTH", "false")]).await;
    let admin = process.api.with_key(admin.expose());
    let (own, own_task) = admin.project_with_task("own").await;
    let (foreign, foreign_task) = admin.project_with_task("foreign").await;
    let own_job = admin.job(own, own_task, "j", &[]).await;
    let foreign_job = admin.job(foreign, foreign_task, "j", &[]).await;
    let key = make_key(&database, Grants::Only(BTreeMap::from([(own, Role::Maintainer)]))).await;
    let api = process.api.with_key(key.expose());

    let listed = api.get("/projects").await;
    assert_eq!(listed.header("x-total-count"), "1");
    assert_eq!(listed.expect(200)[0]["id"], own);
    for path in ["/jobs".to_owned(), format!("/jobs?task_id={own_task}"), format!("/jobs?project_id={own}")] {
        let listed = api.get(&path).await;
        assert_eq!((listed.header("x-total-count"), &listed.body[0]["id"]), ("1", &json!(own_job)), "{path}");
    }
    for path in [format!("/jobs?project_id={foreign}"), format!("/jobs?task_id={foreign_task}")] {
        assert_eq!(api.get(&path).await.header("x-total-count"), "0", "{path}");
    }
    assert_eq!(api.get("/tasks/name/task").await.expect(200)["id"], own_task, "of two tasks of a name, the own one");
    // The same words as for what does not exist.
    let missing = |answer: String, id: i64| answer.replace(&id.to_string(), "N");
    for (path, id) in [
        (format!("/projects/{foreign}"), foreign),
        (format!("/tasks/{foreign_task}"), foreign_task),
        (format!("/jobs/{foreign_job}"), foreign_job),
    ] {
        let none = path.replace(&id.to_string(), "99999");
        for method in [Method::GET, Method::DELETE] {
            let (foreign, none) = (api.send(method.clone(), &path, None).await, api.send(method, &none, None).await);
            assert_eq!(missing(foreign.problem(404), id), missing(none.problem(404), 99999), "{path}");
        }
    }
    assert_eq!(api.get("/projects/name/foreign").await.problem(404), "There is no project named \"foreign\".");
    let job = json!({"name": "j", "project_id": foreign, "task_id": foreign_task, "parameters": {}});
    assert_eq!(api.post("/jobs", job).await.problem(400), format!("There is no project {foreign}."));
    assert_eq!(admin.get("/jobs").await.header("x-total-count"), "2", "nothing was deleted");
}
