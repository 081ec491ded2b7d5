//! Metrics: a real server scraped, and what is made of that in `deploy/`.

mod deployed;
mod scrape;
mod sweeps;
mod waiting;

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use whatsnext::access::{Grants, Role};

use crate::support::{Api, Process, Proxy, RedisServer, TestDatabase, make_key, make_key_with, within};
use scrape::{Scrape, busy, promtool, start_with};

/// How long what the database said is kept, and more.
const STALE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn requests_are_counted_by_route_method_and_status_and_admissions_by_why_not() {
    let database = TestDatabase::new().await;
    let (process, scraper) = start_with(&database, &[("DISABLE_AUTH", "false"), ("RATE_LIMIT_PER_MINUTE", "600")]).await;
    let admin = make_key(&database, Grants::All(Role::Admin)).await;
    let limited = make_key_with(&database, Grants::All(Role::Reader), |new| new.rate_limit = Some(3)).await;
    let (api, limited) = (process.api.with_key(admin.expose()), process.api.with_key(limited.expose()));
    let before = scraper.scrape().await;

    let project = api.post("/projects", json!({"name": "canary-name"})).await.expect(201)["id"].clone();
    for _ in 0..5 {
        api.get(&format!("/projects/{project}")).await.expect(200);
    }
    api.get("/projects/999999").await.problem(404);
    api.delete("/canary-path?canary=1").await.problem(404);
    api.put("/projects", json!({})).await.problem(405);
    process.api.get("/projects").await.problem(401);
    for status in [200, 200, 200, 429, 429] {
        assert_eq!(limited.get("/projects").await.status, status);
    }
    let two = [("x-api-key", admin.expose()), ("authorization", "Bearer another")];
    process.api.send_with(Method::GET, "/projects", &two, Vec::new()).await.problem(400);

    let scrape = scraper.scrape().await;
    let requests = |route, method, status| {
        let labels = [("route", route), ("method", method), ("status", status)];
        scrape.value("whatsnext_http_requests_total", &labels)
    };
    assert_eq!(requests("/projects", "POST", "201"), 1.0);
    assert_eq!(requests("/projects/{project_id}", "GET", "200"), 5.0);
    assert_eq!(requests("/projects/{project_id}", "GET", "404"), 1.0);
    assert_eq!(requests("/projects", "PUT", "405"), 1.0);
    assert_eq!(requests("", "DELETE", "404"), 1.0);
    assert_eq!(requests("/projects", "GET", "200"), 3.0);
    assert_eq!(requests("/projects", "GET", "429") + requests("", "GET", "429"), 2.0, "one as an answer, one from memory");
    assert_eq!(requests("/projects", "GET", "401"), 1.0);
    assert_eq!(requests("/projects", "GET", "400"), 1.0);
    let of_reads = [("route", "/projects/{project_id}"), ("method", "GET")];
    assert_eq!(scrape.value("whatsnext_http_request_duration_seconds_count", &of_reads), 6.0);
    let seconds = scrape.value("whatsnext_http_request_duration_seconds_sum", &of_reads);
    assert!(seconds > 0.0 && seconds < 6.0, "{seconds} s");

    let rose = |outcome| scrape.rose(&before, "whatsnext_admissions_total", &[("class", "api"), ("outcome", outcome)]);
    assert_eq!(["admitted", "unauthorized", "limited", "malformed", "unavailable"].map(rose), [10.0, 1.0, 2.0, 1.0, 0.0]);
    assert_eq!(scrape.value("whatsnext_argon2_runs_total", &[]), 2.0, "one for each key");
    assert!(scrape.value("whatsnext_keys_remembered_total", &[]) >= 9.0, "the other times they were known");
    assert!(scrape.rose(&before, "whatsnext_postgresql_duration_seconds_count", &[]) >= 8.0, "statements were sent");
    assert!(scrape.rose(&before, "whatsnext_redis_duration_seconds_count", &[]) >= 10.0, "Redis was asked");
    assert_eq!(scrape.value("whatsnext_redis_up", &[]), 1.0);
    assert!(scrape.value("whatsnext_http_connections", &[]) >= 1.0, "clients keep theirs");
    assert!(!scrape.text.contains("canary"), "no name, path or value: {}", scrape.text);
    for key in [&admin, &make_key(&database, Grants::All(Role::Reader)).await] {
        assert!(!scrape.text.contains(&key.id().to_string()), "no key");
    }
}

#[tokio::test]
async fn jobs_claims_leases_and_retries_are_counted() {
    let database = TestDatabase::new().await;
    let (process, scraper) = start_with(&database, &[("BACKOFF_SECONDS", "0")]).await;
    let api = &process.api;
    let (project, task) = api.project_with_task("p").await;
    let client = json!({"id": "c", "name": "c", "entity": "lab", "available_cpu": 8, "available_accelerators": 0});
    api.post("/clients/register", client).await;
    for name in ["a", "b", "c", "d"] {
        api.job(project, task, name, &[]).await;
    }
    api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    let claim = |wait: u32| json!({"client_id": "c", "max_jobs": 1, "lease_seconds": 1, "wait_seconds": wait});
    let claims = format!("/projects/{project}/claims");
    let one = api.post(&claims, claim(0)).await.expect(200)["jobs"][0]["job"]["id"].clone();
    api.post(&format!("/jobs/{one}/attempts/1/complete"), json!({})).await.expect(200);
    let two = api.post(&claims, claim(0)).await.expect(200)["jobs"][0]["job"]["id"].clone();
    for _ in 0..2 {
        // The second time it is only answered again.
        api.post(&format!("/jobs/{two}/attempts/1/fail"), json!({"error": "e"})).await.expect(200);
    }
    // This one's lease ends.
    api.post(&claims, claim(0)).await.expect(200);
    within(STALE, "the lease ended, and its job waits again", async || {
        scraper.scrape().await.value("whatsnext_leases_expired_total", &[("job", "returned")]) == 1.0
    })
    .await;

    let project_label = project.to_string();
    let of_project = |status| [("project", project_label.as_str()), ("status", status)];
    let is_told = |scrape: &Scrape| scrape.value("whatsnext_project_jobs", &of_project("PENDING")) == 2.0;
    within(STALE, "the project's jobs are told", async || is_told(&scraper.scrape().await)).await;
    let scrape = scraper.scrape().await;
    for (status, count) in [("PENDING", 2.0), ("QUEUED", 1.0), ("COMPLETED", 1.0), ("FAILED", 0.0)] {
        assert_eq!(scrape.value("whatsnext_project_jobs", &of_project(status)), count, "{status}");
        assert_eq!(scrape.value("whatsnext_jobs", &[("status", status)]), count, "{status}");
    }
    let oldest = scrape.value("whatsnext_project_oldest_ready_seconds", &[("project", &project_label)]);
    assert!(oldest > 0.0 && oldest < 60.0, "{oldest} s");
    for (name, labels, count) in [
        ("whatsnext_live_clients", &[][..], 1.0),
        ("whatsnext_projects", &[], 1.0),
        ("whatsnext_queue_up", &[], 1.0),
        ("whatsnext_leases", &[], 0.0),
        ("whatsnext_jobs_given_total", &[("way", "claim")], 3.0),
        ("whatsnext_jobs_given_total", &[("way", "fetch")], 1.0),
        ("whatsnext_attempts_reported_total", &[("outcome", "completed")], 1.0),
        ("whatsnext_attempts_reported_total", &[("outcome", "failed")], 1.0),
        ("whatsnext_retries_total", &[("reason", "failure")], 1.0),
        ("whatsnext_retries_total", &[("reason", "lease")], 1.0),
        ("whatsnext_claims_waiting", &[], 0.0),
    ] {
        assert_eq!(scrape.value(name, labels), count, "{name} {labels:?}");
    }

    // Both jobs are taken; one claim waits, and is woken when there is something for it.
    for _ in 0..2 {
        api.post(&claims, json!({"client_id": "c", "max_jobs": 1, "lease_seconds": 60})).await.expect(200);
    }
    let waiting = tokio::spawn({
        let (api, claims, claim) = (api.clone(), claims.clone(), claim(30));
        async move { api.post(&claims, claim).await.expect(200) }
    });
    within(STALE, "a claim waits", async || scraper.scrape().await.value("whatsnext_claims_waiting", &[]) == 1.0).await;
    let woken = scraper.scrape().await.value("whatsnext_claims_woken_total", &[]);
    api.job(project, task, "e", &[]).await;
    let answer = waiting.await.expect("no panic");
    assert_eq!(answer["jobs"].as_array().map(Vec::len), Some(1), "{answer}");
    let scrape = scraper.scrape().await;
    assert_eq!(scrape.value("whatsnext_claims_woken_total", &[]), woken + 1.0);
    assert_eq!(scrape.value("whatsnext_claims_waiting", &[]), 0.0);
    assert!(scrape.value("whatsnext_claims_together_count", &[]) >= 6.0);
}

/// Whatever is sent, nothing of it becomes a name.
#[tokio::test]
async fn ten_thousand_random_paths_and_methods_add_no_series() {
    let database = TestDatabase::new().await;
    let (process, scraper) = start_with(&database, &[]).await;
    let random = |n: usize| format!("/{:x}/{n}", uuid::Uuid::new_v4().as_u128());
    let ask = async |api: &Api, method: &str, path: &str| {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        api.send(method, path, None).await.status
    };
    let methods = |n: usize| match n % 6 {
        0 => format!("M{n}"),
        number => ["GET", "POST", "PUT", "DELETE", "OPTIONS"][number - 1].to_owned(),
    };
    let paths = |n: usize| match n % 4 {
        0 => format!("/jobs/{n}"),
        1 => format!("/jobs/{n}/attempts/{n}?x={n}"),
        _ => random(n),
    };
    // Each kind once.
    for n in 0..24 {
        ask(&process.api, &methods(n), &paths(n)).await;
    }
    let before = scraper.scrape().await;
    let asked = futures_util::stream::iter((0..10_000).map(|n| {
        let (api, method, path) = (&process.api, methods(n), paths(n));
        async move { ask(api, &method, &path).await }
    }));
    let statuses: Vec<u16> = futures_util::StreamExt::collect(futures_util::StreamExt::buffer_unordered(asked, 32)).await;
    assert!(statuses.iter().all(|status| *status < 500), "{statuses:?}");
    let after = scraper.scrape().await;
    assert_eq!(after.series(), before.series(), "names and labels are the same");
    let asked = |scrape: &Scrape| scrape.sum("whatsnext_http_requests_total");
    assert_eq!(asked(&after) - asked(&before), 10_000.0, "and all were counted");
}

#[tokio::test]
async fn time_without_redis_is_told() {
    let (database, redis) = (TestDatabase::new().await, RedisServer::start(&[]).await);
    let proxy = Proxy::to(&redis).await;
    let (process, scraper) = start_with(&database, &[("REDIS_URL", &proxy.redis_url()), ("RATE_LIMIT_PER_MINUTE", "1000")]).await;
    assert_eq!(scraper.scrape().await.value("whatsnext_redis_outages_total", &[]), 0.0);
    proxy.cut();
    within(STALE, "Redis is down", async || {
        process.api.get("/projects").await.expect(200);
        scraper.scrape().await.value("whatsnext_redis_up", &[]) == 0.0
    })
    .await;
    within(STALE, "seconds without it are counted while they pass", async || {
        scraper.scrape().await.value("whatsnext_degraded_seconds_total", &[]) > 0.5
    })
    .await;
    proxy.mend();
    within(STALE, "Redis is back", async || scraper.scrape().await.value("whatsnext_redis_up", &[]) == 1.0).await;
    let away = scraper.scrape().await.value("whatsnext_degraded_seconds_total", &[]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let scrape = scraper.scrape().await;
    assert_eq!(scrape.value("whatsnext_degraded_seconds_total", &[]), away, "it stands still");
    assert_eq!(scrape.value("whatsnext_redis_outages_total", &[]), 1.0);
}

/// All connections of a small pool wait for a lock, and more requests than that wait for them.
#[tokio::test]
async fn a_pool_tells_how_many_connections_are_in_use_and_how_many_requests_wait() {
    const POOL: usize = 2;
    // What a server does by itself now and then waits with them.
    const OWN: f64 = 6.0;
    let database = TestDatabase::new().await;
    let environment = [("DATABASE_POOL_SIZE", "2"), ("DATABASE_CHECKOUT_TIMEOUT_SECONDS", "30")];
    let (process, scraper) = start_with(&database, &environment).await;
    let (project, _) = process.api.project_with_task("p").await;
    let pool = async || {
        let scrape = scraper.scrape().await;
        let connections = |state| scrape.value("whatsnext_postgresql_connections", &[("state", state)]);
        [connections("in_use"), connections("idle"), scrape.value("whatsnext_postgresql_waiting", &[])]
    };
    let mut locker = database.connect().await;
    let lock = locker.transaction().await.expect("a transaction");
    lock.batch_execute("lock table projects in access exclusive mode").await.expect("it is locked");
    let mut requests = Vec::new();
    // So many more each time that it cannot be anything else that waits.
    for wait in [0.0, 10.0, 20.0] {
        while (requests.len() as f64) < POOL as f64 + wait {
            let api = process.api.clone();
            requests.push(tokio::spawn(async move { api.get(&format!("/projects/{project}")).await.status }));
        }
        let is_so = async || {
            let [in_use, idle, waiting] = pool().await;
            (in_use, idle) == (POOL as f64, 0.0) && (wait..=wait + OWN).contains(&waiting)
        };
        within(STALE, &format!("{POOL} connections are in use, and {wait} requests wait for one"), is_so).await;
    }
    lock.rollback().await.expect("it is free");
    for request in requests {
        assert_eq!(request.await.expect("no panic"), 200);
    }
    within(STALE, "all connections are idle, and nobody waits", async || pool().await == [0.0, POOL as f64, 0.0]).await;
}

/// Nobody who asks for metrics takes anything from those who work.
#[tokio::test]
async fn scraping_neither_loads_the_database_nor_waits_for_it() {
    let database = TestDatabase::new().await;
    let (process, scraper) = start_with(&database, &[]).await;
    process.api.project_with_task("p").await;
    let mut locker = database.connect().await;
    let lock = locker.transaction().await.expect("a transaction");
    lock.batch_execute("lock table job_counts in access exclusive mode").await.expect("it is locked");
    let start = std::time::Instant::now();
    let scrapes = futures_util::future::join_all((0..6).map(|_| scraper.scrape())).await;
    assert!(start.elapsed() < Duration::from_secs(5), "one look, given up after two seconds: {:?}", start.elapsed());
    for scrape in scrapes {
        assert_eq!(scrape.value("whatsnext_queue_up", &[]), 0.0);
        assert!(!scrape.text.contains("whatsnext_jobs{"), "what is not known is not told");
        assert_eq!(scrape.value("whatsnext_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    }
    assert_eq!(
        scraper.scrape().await.value("whatsnext_postgresql_abandoned_total", &[]),
        1.0,
        "it was asked once, and not again for a while"
    );
    lock.rollback().await.expect("it is free");
    within(STALE, "the database says it again", async || scraper.scrape().await.value("whatsnext_queue_up", &[]) == 1.0).await;
}

#[tokio::test]
async fn metrics_have_an_address_of_their_own_with_nothing_else_on_it() {
    let database = TestDatabase::new().await;
    let (process, scraper) = start_with(&database, &[("DISABLE_AUTH", "false")]).await;
    process.api.get("/metrics").await.problem(404);
    for (method, path, status) in [("GET", "/projects", 404), ("GET", "/", 404), ("POST", "/metrics", 405), ("HEAD", "/metrics", 200)] {
        assert_eq!(scraper.ask(method, path).await.0, status, "{method} {path}");
    }
    // Peers that say nothing are cut, and meanwhile the API is served.
    let silent = scraper.hold(20).await;
    process.api.get("/livez").await.expect(200);
    within(STALE, "metrics are told again", async || scraper.try_scrape(Duration::from_secs(1)).await.is_some()).await;
    drop(silent);
    let closed: Process = Process::start(&database).await;
    assert_ne!(closed.address(), scraper.address(), "without the setting there is nothing");
}

/// Prometheus' own checker reads what a busy server says, and finds nothing to complain of.
#[tokio::test]
async fn promtool_agrees_with_what_is_told() {
    let (_database, _process, scraper) = busy().await;
    promtool(&["check", "metrics"], &scraper.scrape().await.text);
}
