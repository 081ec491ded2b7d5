//! Stores that are away, slow or full.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Process, Proxy, Server, TestDatabase, Tls, eventually, waiting_for_locks};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgresql_requests_are_503_and_it_comes_back_by_itself() {
    let database = TestDatabase::new().await;
    let proxy = Proxy::to_postgresql().await;
    let url = proxy.database_url(&database);
    let process = Process::start_with(&database, &[("DATABASE_URL", &url)]).await;
    let api = &process.api;
    api.project_with_task("p").await;

    proxy.cut();
    eventually("a request is refused with 503", || async { api.try_get("/projects").await == Some(503) }).await;
    let refused = api.get("/projects").await;
    assert_eq!(refused.header("retry-after"), "1");
    let said = refused.problem(503);
    assert!(said.contains("database") && !said.contains("refused") && !said.contains("127.0.0.1"), "{said}");
    assert_eq!(api.post("/projects", json!({"name": "q"})).await.status, 503);
    eventually("the database is down", || async { api.try_get("/checkdb").await == Some(503) }).await;
    assert_eq!(api.get("/checkdb").await.expect(503), json!({"status": "unhealthy", "database": "disconnected"}));
    assert_eq!(api.get("/readyz").await.header("retry-after"), "1");
    assert_eq!(api.get("/readyz").await.expect(503), json!({"status": "unavailable", "postgresql": "down", "redis": "up"}));
    assert_eq!(api.get("/livez").await.expect(200), json!({"status": "healthy"}));

    proxy.mend();
    eventually("requests are served again", || async { api.try_get("/projects").await == Some(200) }).await;
    eventually("the server is ready", || async { api.try_get("/readyz").await == Some(200) }).await;
    assert_eq!(api.get("/projects").await.header("x-total-count"), "1", "what was refused was not done");
    assert_eq!(api.get("/readyz").await.expect(200)["status"], "ready");
}

#[tokio::test]
async fn connections_that_the_database_ends_are_replaced_unseen() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    server.api.project_with_task("p").await;
    let client = database.connect().await;
    for _ in 0..5 {
        let ended =
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
        client.query_one(ended, &[]).await.unwrap();
        eventually("requests are served", || async { server.api.try_get("/projects").await == Some(200) }).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_the_service_goes_on_and_says_so() {
    let database = TestDatabase::new().await;
    let proxy = Proxy::to_redis().await;
    let server = Server::start_with(&database, &[("redis_url", &proxy.redis_url())]).await;
    assert_eq!(server.api.get("/readyz").await.expect(200)["status"], "ready");
    proxy.cut();
    eventually("Redis is down", || async { server.api.get("/readyz").await.body["redis"] == "down" }).await;
    assert_eq!(server.api.get("/readyz").await.expect(200), json!({"status": "degraded", "postgresql": "up", "redis": "down"}));
    server.api.project_with_task("p").await;
    proxy.mend();
    eventually("Redis is up again", || async { server.api.get("/readyz").await.body["redis"] == "up" }).await;
    server.stop().await;
}

#[tokio::test]
async fn a_full_pool_is_503_and_not_a_queue_without_end() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("database_pool_size", "1"), ("database_checkout_timeout_seconds", "1")]).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    let holder = tokio::spawn({
        let api = server.api.clone();
        async move { api.get("/projects").await }
    });
    let watcher = database.connect().await;
    eventually("the only connection is in use", || async { waiting_for_locks(&watcher).await == 1 }).await;
    let start = Instant::now();
    let refused = server.api.get("/clients").await;
    assert_eq!(refused.header("retry-after"), "1");
    let said = refused.problem(503);
    assert!(said.contains("more to do"), "a full pool is not a database that is away: {said}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(server.api.get("/readyz").await.expect(200)["status"], "ready", "the database answers");
    server.api.get("/checkdb").await.expect(200);
    lock.rollback().await.unwrap();
    holder.await.unwrap().expect(200);
    server.api.get("/clients").await.expect(200);
    server.stop().await;
}

/// Changes of one project that wait for its lock leave connections for the others.
#[tokio::test]
async fn one_project_cannot_take_all_connections() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("database_pool_size", "4"), ("database_checkout_timeout_seconds", "1")]).await;
    let api = &server.api;
    let (busy, busy_task) = api.project_with_task("busy").await;
    let (other, other_task) = api.project_with_task("other").await;
    let parent = api.job(busy, busy_task, "parent", &[]).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.query_one("select from projects where id = $1 for update", &[&busy]).await.unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let api = api.clone();
            tokio::spawn(async move { api.job(busy, busy_task, &format!("child {n}"), &[parent]).await })
        })
        .collect();
    let watcher = database.connect().await;
    eventually("half of the pool waits for the lock", || async { waiting_for_locks(&watcher).await == 2 }).await;
    // Changes that do not go through the graph wait as well; that they name another project makes no difference.
    let changing = (0..10).flat_map(|n| {
        let own = json!({"name": "p", "description": "", "status": "ACTIVE"});
        let job = json!({"name": "j", "project_id": busy, "task_id": busy_task, "parameters": {}, "status": "RUNNING", "priority": 0, "depends": {}});
        let mut elsewhere = job.clone();
        elsewhere["project_id"] = json!(100 + n);
        [(format!("/projects/{busy}"), own), (format!("/jobs/{parent}"), job), (format!("/jobs/{parent}"), elsewhere)]
    });
    let changing: Vec<_> = changing
        .map(|(path, body)| {
            let api = api.clone();
            tokio::spawn(async move { api.put(&path, body).await.status })
        })
        .collect();
    for n in 0..20 {
        api.job(other, other_task, &format!("job {n}"), &[]).await;
    }
    changing.iter().for_each(tokio::task::JoinHandle::abort);
    lock.rollback().await.unwrap();
    futures_util::future::try_join_all(waiting).await.expect("all of them are added");
    database.assert_graph_is_true().await;
    server.stop().await;
}

/// Clients that go away in the middle of a statement leave no connection behind that the next request would have to wait for.
#[tokio::test]
async fn statements_that_nobody_waits_for_are_cancelled() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("database_pool_size", "2")]).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    let watcher = database.connect().await;
    for _ in 0..3 {
        let gone = [(), ()].map(|()| {
            let api = server.api.clone();
            tokio::spawn(async move { api.get("/projects").await })
        });
        eventually("both connections wait for the lock", || async { waiting_for_locks(&watcher).await == 2 }).await;
        gone.iter().for_each(tokio::task::JoinHandle::abort);
        eventually("what they asked for is cancelled", || async { waiting_for_locks(&watcher).await == 0 }).await;
        server.api.get("/clients").await.expect(200);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_and_its_connection_is_used_again() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("database_pool_size", "1"), ("database_statement_timeout_seconds", "1")]).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    server.api.get("/projects").await.problem(503);
    server.api.get("/clients").await.expect(200);
    lock.rollback().await.unwrap();
    server.api.get("/projects").await.expect(200);
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_503() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("request_timeout_seconds", "1")]).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    let refused = server.api.get("/projects").await;
    assert_eq!(refused.header("retry-after"), "1");
    assert!(refused.problem(503).contains("in time"));
    lock.rollback().await.unwrap();
    server.api.get("/projects").await.expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connection_to_the_database_is_as_safe_as_asked_for() {
    let database = TestDatabase::new().await;
    let tls = Tls::new("localhost");
    let with_tls = Proxy::to_postgresql_over(&tls).await;
    let without = Proxy::to_postgresql().await;
    let other = Tls::new("elsewhere.example");
    let misnamed = Proxy::to_postgresql_over(&other).await;
    let authority = tls.authority.file();
    let other_authority = other.authority.file();

    let try_it = async |proxy: &Proxy, mode: &str, authority: &str| {
        let url = proxy.database_url(&database);
        let flags = [("database_url", url.as_str()), ("database_tls", mode), ("database_ca_file", authority)];
        let pool = whatsnext::postgres::Database::new(&database.settings(&flags)).expect("the settings are sound");
        let answered = pool.ping().await.is_ok();
        (answered, proxy.last_was_encrypted())
    };
    assert_eq!(try_it(&with_tls, "verify-full", &authority).await, (true, true));
    assert_eq!(try_it(&with_tls, "require", "").await, (true, true));
    assert_eq!(try_it(&with_tls, "prefer", "").await, (true, true));
    assert_eq!(try_it(&with_tls, "disable", "").await, (true, false));
    assert_eq!(try_it(&without, "prefer", "").await, (true, false));
    assert!(!try_it(&without, "require", "").await.0, "no TLS, no connection");
    assert!(!try_it(&without, "verify-full", &authority).await.0, "no TLS, no connection");
    assert!(!try_it(&with_tls, "verify-full", &other_authority).await.0, "an unknown authority");
    assert!(!try_it(&misnamed, "verify-full", &other_authority).await.0, "a certificate for another name");

    let flags = [("database_tls", "verify-full"), ("database_ca_file", "/nonexistent.pem")];
    let error = whatsnext::postgres::Database::new(&database.settings(&flags)).err().expect("there is no such file");
    assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
}
