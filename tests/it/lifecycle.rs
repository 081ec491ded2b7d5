//! Processes: starting, stopping, what they write.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{Process, TestDatabase, eventually, free_port, program, waiting_for_locks};

#[tokio::test]
async fn sigterm_finishes_what_is_in_flight_and_exits_with_0() {
    let database = TestDatabase::new().await;
    let process = Process::start(&database).await;
    let (project, _) = process.api.project_with_task("p").await;

    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    let in_flight = tokio::spawn({
        let api = process.api.clone();
        async move { api.get("/projects").await }
    });
    let watcher = database.connect().await;
    eventually("the request waits in the database", || async { waiting_for_locks(&watcher).await == 1 }).await;
    process.signal(Signal::SIGTERM);
    eventually("new connections are refused", || async { process.api.try_get("/").await.is_none() }).await;
    lock.rollback().await.unwrap();
    in_flight.await.unwrap().expect(200);
    let (status, log) = process.end().await;
    assert!(status.success(), "{status}\n{log}");
    assert!(log.contains("stopped"), "{log}");
    assert!(project > 0);
}

#[tokio::test]
async fn readyz_says_503_before_connections_are_refused() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("DRAIN_DELAY_SECONDS", "3")]).await;
    assert_eq!(process.api.get("/readyz").await.expect(200), json!({"status": "ready", "postgresql": "up", "redis": "up"}));
    process.signal(Signal::SIGTERM);
    eventually("/readyz answers 503", || async { process.api.try_get("/readyz").await == Some(503) }).await;
    assert_eq!(process.api.get("/readyz").await.expect(503)["status"], "draining");
    assert_eq!(process.api.get("/livez").await.expect(200), json!({"status": "healthy"}));
    process.api.get("/projects").await.expect(200);
    let (status, log) = process.end().await;
    assert!(status.success(), "{status}\n{log}");
}

/// A balancer that has not noticed yet sends claims, which are served as ever; who waits is answered when it has, and asks elsewhere then.
#[tokio::test]
async fn claims_are_served_until_connections_are_refused_and_those_that_wait_are_answered_then() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("DRAIN_DELAY_SECONDS", "3")]).await;
    let (project, task) = process.api.project_with_task("p").await;
    for client in ["a", "b", "c"] {
        let client = json!({"id": client, "name": "c", "entity": "lab", "available_cpu": 1, "available_accelerators": 0});
        process.api.post("/clients/register", client).await.expect(201);
    }
    let database = database.connect().await;
    database.execute("update clients set last_heartbeat = now() - interval '1 hour'", &[]).await.unwrap();
    let parked = async |clients: i64| -> bool {
        let heard = "select count(*) from clients where last_heartbeat > now() - interval '1 minute'";
        database.query_one(heard, &[]).await.unwrap().get::<_, i64>(0) == clients
    };
    let claim = |client: &'static str| {
        let (api, path) = (process.api.clone(), format!("/projects/{project}/claims"));
        tokio::spawn(async move { api.post(&path, json!({"client_id": client, "wait_seconds": 60})).await.expect(200)["jobs"].clone() })
    };
    let before = claim("a");
    eventually("it is parked", || parked(1)).await;
    let began = Instant::now();
    process.signal(Signal::SIGTERM);
    eventually("it drains", || async { process.api.get("/readyz").await.status == 503 }).await;
    let during = claim("b");
    eventually("it is parked as well", || parked(2)).await;
    let job = process.api.job(project, task, "j", &[]).await;
    assert_eq!(before.await.unwrap()[0]["job"]["id"], job, "whoever waits is served");
    let last = claim("c");
    for waits in [during, last] {
        assert_eq!(waits.await.unwrap(), json!([]), "there was nothing more");
    }
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "expected those who wait to be answered when the server stops, and not after {:?}",
        began.elapsed()
    );
    let (status, log) = process.end().await;
    assert!(status.success(), "{status}\n{log}");
}

#[tokio::test]
async fn requests_that_take_too_long_at_the_end_are_cut() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("SHUTDOWN_TIMEOUT_SECONDS", "1")]).await;
    let mut client = database.connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table projects in access exclusive mode").await.unwrap();
    let api = process.api.clone();
    let in_flight = tokio::spawn(async move { api.try_get("/projects").await });
    let watcher = database.connect().await;
    eventually("the request waits in the database", || async { waiting_for_locks(&watcher).await == 1 }).await;
    process.signal(Signal::SIGINT);
    let (status, log) = process.end().await;
    assert!(status.success(), "{status}\n{log}");
    assert!(log.contains("were cut"), "{log}");
    assert_eq!(in_flight.await.unwrap(), None);
}

/// One line a request, with what an operator looks for, and never a value that somebody sent.
#[tokio::test]
async fn the_log_tells_of_requests_but_no_secret_and_no_value() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(
        &database,
        &[("LOG_FORMAT", "json"), ("LOG_FILTER", "debug"), ("API_KEYS", "canary-key"), ("DATABASE_PASSWORD", "canary-password")],
    )
    .await;
    let api = &process.api;
    let (project, task) = api.project_with_task("canary-project").await;
    let job = json!({"name": "canary-name", "project_id": project, "task_id": task, "parameters": {"canary-parameter": "canary-value"}});
    api.post("/jobs", job).await.expect(201);
    api.get("/projects/name/canary-project?limit=canary-query").await.expect(200);
    api.get("/jobs?status=canary-status").await.problem(422);
    let key = [("x-api-key", "canary-key"), ("authorization", "Bearer canary-token"), ("x-request-id", "id-of-the-test")];
    api.send_with(reqwest::Method::GET, "/jobs/1", &key, Vec::new()).await.expect(200);
    process.signal(Signal::SIGTERM);
    let (_, log) = process.end().await;

    assert!(!log.contains("canary"), "a value got into the log:\n{}", log.lines().find(|line| line.contains("canary")).unwrap_or_default());
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let line =
        lines.iter().find(|line| line["span"]["id"] == "id-of-the-test" && line["message"] == "answered").expect("the request's line");
    assert_eq!((&line["method"], &line["route"], &line["status"]), (&json!("GET"), &json!("/jobs/{job_id}"), &json!(200)));
    assert!(line["duration_ms"].is_number(), "{line}");
}

#[tokio::test]
async fn check_shows_what_is_in_force_and_warns() {
    let database = TestDatabase::new().await;
    let output = program(&database).args(["serve", "--check", "--port", "1234"]).env("DATABASE_PASSWORD", "canary").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("port = 1234\n") && text.contains("# warning: disable_auth=true"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_server_that_may_not_start_says_why_in_one_sentence() {
    let database = TestDatabase::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let free = free_port().to_string();
    let cases: [(&[(&str, &str)], &str); 8] = [
        (
            &[("TRUSTED_PROXIES", "10.0.0.0/8, nowhere"), ("PORT", &free)],
            "trusted_proxies: \"nowhere\" is neither an address nor a network",
        ),
        (&[("HOST", "0.0.0.0"), ("PORT", &free)], "is not a loopback address"),
        (&[("PORT", &port)], "is in use: stop what uses it, or set another port"),
        (&[("DATABASE_URL", "canary://x"), ("PORT", &free)], "database_url is not of the form"),
        (&[("REDIS_URL", "canary://x"), ("PORT", &free)], "redis_url is not of the form"),
        (&[("METRICS_BIND", "9464"), ("PORT", &free)], "metrics_bind is `9464`: it must be an address and a port"),
        (&[("OTLP_ENDPOINT", "https://canary"), ("PORT", &free)], "otlp_endpoint is not of the form http://host:port"),
        (&[("PORT", "canary")], "port"),
    ];
    for (environment, sentence) in cases {
        let output = program(&database).arg("serve").envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let said: Vec<&str> = text.lines().filter(|line| line.starts_with("whatsnext: ")).collect();
        assert!(!output.status.success(), "{environment:?}");
        assert!(said.len() == 1 && said[0].contains(sentence), "{environment:?}: expected {sentence:?} in\n{text}");
        assert!(!said[0].contains("canary://"), "{text}");
    }
}

#[tokio::test]
async fn a_server_without_keys_lets_nobody_in_and_says_how_to_make_one() {
    let database = TestDatabase::new().await;
    let process = Process::start_with(&database, &[("DISABLE_AUTH", "false")]).await;
    for path in ["/projects", "/jobs", "/keys", "/docs", "/openapi.json"] {
        process.api.get(path).await.problem(401);
    }
    let made = program(&database).args(["keys", "create", "--name", "first", "--role", "admin"]).output().unwrap();
    let printed = String::from_utf8(made.stdout).unwrap();
    let key = printed.lines().last().unwrap();
    let api = process.api.with_key(key);
    for path in ["/projects", "/jobs", "/docs", "/openapi.json"] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    let listed = api.get("/keys").await.expect(200);
    assert_eq!((&listed[0]["name"], listed.as_array().map(Vec::len)), (&json!("first"), Some(1)));

    // The command line does what the API does.
    let id = listed[0]["id"].as_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = program(&database).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["users", "create", "--name", "lab", "--role", "reader"]);
    let bound =
        run(&["keys", "create", "--name", "bound", "--role", "admin", "--user", "lab", "--expires", "90d", "--rate-limit", "7", "--json"]);
    let (data, bound) = bound.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap()["rate_limit"], 7);
    let bound = process.api.with_key(bound);
    bound.get("/projects").await.expect(200);
    bound.get("/keys").await.problem(403);
    run(&["users", "suspend", "lab"]);
    bound.get("/projects").await.problem(401);
    let table = run(&["keys", "list"]);
    assert!(table.lines().count() == 3 && table.contains("first") && table.contains("lab"), "{table}");
    let rotated = run(&["keys", "rotate", id, "--grace", "1h"]);
    process.api.with_key(rotated.lines().last().unwrap()).get("/keys").await.expect(200);
    api.get("/keys").await.expect(200);
    run(&["keys", "revoke", id]);
    api.get("/keys").await.problem(401);
    let shown: Value = serde_json::from_str(&run(&["keys", "show", id, "--json"])).unwrap();
    assert!(shown["revoked_at"].is_string() && shown["successor"].is_string(), "{shown}");
    process.signal(Signal::SIGTERM);
    let (_, log) = process.end().await;
    assert!(log.contains("there is no key, so every request is refused") && log.contains("whatsnext keys create"), "{log}");
}

#[tokio::test]
async fn the_command_line_makes_keys_of_projects_and_tells_of_keys_in_json() {
    let database = TestDatabase::new().await;
    let run = |arguments: &[&str]| {
        let output = program(&database).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let made = run(&["keys", "create", "--name", "two", "--role", "worker", "--project", "3", "--project", "5", "--json"]);
    let (data, key) = made.trim_end().rsplit_once('\n').expect("the key is alone on the last line");
    let data = json(data);
    assert_eq!(data["grants"], json!({"only": {"3": "worker", "5": "worker"}}));
    assert!(!data.to_string().contains(key), "the secret is told once");
    let id = data["id"].as_str().unwrap();
    assert_eq!(json(&run(&["keys", "show", id, "--json"])), data);
    assert_eq!(json(&run(&["keys", "list", "--json"])), json!([data]));

    let rotated = run(&["keys", "rotate", id, "--grace", "1h", "--json"]);
    let (successor, new) = rotated.trim_end().rsplit_once('\n').expect("the key is alone on the last line");
    let successor = json(successor);
    assert_eq!((&successor["name"], &successor["grants"]), (&data["name"], &data["grants"]));
    assert!(new.starts_with(&format!("wn_{}_", successor["id"].as_str().unwrap())) && new != key);
    let old = json(&run(&["keys", "show", id, "--json"]));
    assert_eq!((&old["successor"], &old["revoked_at"]), (&successor["id"], &Value::Null));
    let revoked = json(&run(&["keys", "revoke", id, "--json"]));
    assert!(revoked["revoked_at"].is_string() && revoked["id"] == id, "{revoked}");
    assert_eq!(json(&run(&["keys", "list", "--json"])), json!([revoked, successor]));
    run(&["users", "create", "--name", "lab", "--role", "reader"]);
    assert_eq!(json(&run(&["keys", "list", "--user", "lab", "--json"])), json!([]));
}
