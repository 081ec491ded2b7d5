//! Claiming: each job to exactly one, the most urgent first, only what fits.

use std::{collections::HashSet, time::Instant};

use serde_json::{Value, json};

use crate::support::{Process, Server, TestDatabase, eventually, id};

#[tokio::test]
async fn the_most_urgent_job_comes_first_then_the_oldest() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let second = api.post("/tasks", json!({"name": "second", "project_id": project})).await.expect(201)["id"].clone();
    let add = async |name: &str, task: Value, priority: i64| {
        let job = json!({"name": name, "project_id": project, "task_id": task, "parameters": {}, "priority": priority});
        api.post("/jobs", job).await.expect(201);
    };
    for (name, task, priority) in [
        ("d", json!(task), 0),
        ("b", second.clone(), 5),
        ("e", second.clone(), 0),
        ("a", json!(task), 9),
        ("c", json!(task), 5),
        ("f", second, -3),
    ] {
        add(name, task, priority).await;
    }
    for (left, name) in ["a", "b", "c", "d", "e", "f"].iter().enumerate().map(|(n, name)| (6 - n, name)) {
        let fetched = api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
        assert_eq!((&fetched["job"]["name"], &fetched["num_pending"]), (&json!(name), &json!(left)));
    }
    server.stop().await;
}

#[tokio::test]
async fn only_jobs_that_fit_are_given_and_counted() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let project = api.post("/projects", json!({"name": "p"})).await.expect(201)["id"].clone();
    for (name, cpu, accelerators) in [("small", 1, 0), ("large", 8, 0), ("gpu", 1, 2)] {
        let task = json!({"name": name, "project_id": project, "required_cpu": cpu, "required_accelerators": accelerators});
        let task = api.post("/tasks", task).await.expect(201);
        let job = json!({"name": name, "project_id": project, "task_id": task["id"], "parameters": {}});
        api.post("/jobs", job).await.expect(201);
    }
    let fetch = async |query: &str| {
        let fetched = api.get(&format!("/projects/{project}/fetch_job?{query}")).await.expect(200);
        (fetched["job"]["name"].as_str().map(ToOwned::to_owned), fetched["num_pending"].as_i64().unwrap())
    };
    assert_eq!(fetch("available_cpu=4&available_accelerators=1").await, (Some("small".to_owned()), 1));
    assert_eq!(fetch("available_cpu=4&available_accelerators=1").await, (None, 0));
    assert_eq!(fetch("available_accelerators=1").await, (Some("large".to_owned()), 1), "0 CPUs stands for any");
    assert_eq!(fetch("available_cpu=0&available_accelerators=0").await, (Some("gpu".to_owned()), 1));
    for query in ["available_cpu=-1", "available_cpu=x", "available_accelerators=2147483648"] {
        api.get(&format!("/projects/{project}/fetch_job?{query}")).await.problem(422);
    }
    server.stop().await;
}

#[tokio::test]
async fn counting_stops_at_a_thousand_and_says_so() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let batch = json!({"jobs": (0..1001).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect::<Vec<_>>()});
    api.post(&format!("/projects/{project}/jobs/batch"), batch).await.expect(201);
    let fetch = async || api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    let capped = fetch().await;
    assert_eq!((&capped["num_pending"], &capped["count_capped"]), (&json!(1000), &json!(true)));
    fetch().await;
    let exact = fetch().await;
    assert_eq!((&exact["num_pending"], &exact["count_capped"]), (&json!(999), &Value::Null));
    server.stop().await;
}

/// A queue that is long enough is not counted for each claim, which nobody must notice: not while it is long, and not when it is suddenly empty.
#[tokio::test]
async fn a_very_long_queue_is_counted_as_one_that_is_capped() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let batch = json!({"jobs": (0..10_000).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect::<Vec<_>>()});
    for _ in 0..2 {
        api.post(&format!("/projects/{project}/jobs/batch"), batch.clone()).await.expect(201);
    }
    for _ in 0..300 {
        let fetched = api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
        assert_eq!((&fetched["num_pending"], &fetched["count_capped"]), (&json!(1000), &json!(true)));
        assert_eq!(fetched["job"]["status"], "QUEUED");
    }
    api.delete(&format!("/projects/{project}/queue")).await.expect(200);
    let empty = api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    assert_eq!(empty, json!({"job": null, "num_pending": 0, "num_waiting": 0}));
    server.stop().await;
}

#[tokio::test]
async fn an_archived_project_gives_out_nothing() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    api.job(project, task, "j", &[]).await;
    let set = async |status: &str| {
        api.put(&format!("/projects/{project}"), json!({"name": "p", "description": "", "status": status})).await.expect(200)
    };
    set("ARCHIVED").await;
    let empty = api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    assert_eq!((&empty["job"], &empty["num_pending"]), (&Value::Null, &json!(0)));
    set("ACTIVE").await;
    assert_eq!(api.get(&format!("/projects/{project}/fetch_job")).await.expect(200)["job"]["name"], "j");
    server.stop().await;
}

/// A job that a claim of somebody else has locked is walked past, and what is less urgent is not taken before another task's head.
#[tokio::test]
async fn a_locked_job_is_walked_past_in_the_order_of_urgency() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let second = api.post("/tasks", json!({"name": "second", "project_id": project})).await.expect(201)["id"].clone();
    for (name, task, priority) in [("first", json!(task), 9), ("last", json!(task), 1), ("next", second, 5)] {
        let job = json!({"name": name, "project_id": project, "task_id": task, "parameters": {}, "priority": priority});
        api.post("/jobs", job).await.expect(201);
    }
    let mut client = database.connect().await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("select from jobs where name = 'first' for update", &[]).await.unwrap();
    let fetch = async || api.get(&format!("/projects/{project}/fetch_job")).await.expect(200)["job"]["name"].clone();
    assert_eq!(fetch().await, "next");
    assert_eq!(fetch().await, "last");
    // All that is left is locked: the claim looks again until the lock goes.
    let waiting = tokio::spawn({
        let (api, path) = (api.clone(), format!("/projects/{project}/fetch_job"));
        async move { api.get(&path).await.expect(200)["job"]["name"].clone() }
    });
    transaction.rollback().await.unwrap();
    assert_eq!(waiting.await.unwrap(), "first");
    server.stop().await;
}

/// 20,000 jobs, 64 pullers, four servers: each job exactly once, and nobody is told that the queue is empty while it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_job_is_given_out_exactly_once() {
    const JOBS: usize = 20_000;
    let database = TestDatabase::new().await;
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(Process::start_with(&database, &[("LOG_FILTER", "warn"), ("DATABASE_POOL_SIZE", "8")]).await);
    }
    let api = &servers[0].api;
    let (project, task) = api.project_with_task("p").await;
    for _ in 0..JOBS / 5_000 {
        let jobs: Vec<Value> = (0..5_000).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
        api.post(&format!("/projects/{project}/jobs/batch"), json!({"jobs": jobs})).await.expect(201);
    }
    let pullers = (0..64).map(|puller| {
        let (api, path) = (servers[puller % 4].api.clone(), format!("/projects/{project}/fetch_job"));
        tokio::spawn(async move {
            let mut got = Vec::new();
            while let Some(id) = api.get(&path).await.expect(200)["job"]["id"].as_i64() {
                got.push(id);
            }
            got
        })
    });
    let got: Vec<i64> = futures_util::future::try_join_all(pullers).await.unwrap().concat();
    let distinct: HashSet<i64> = got.iter().copied().collect();
    assert_eq!((got.len(), distinct.len()), (JOBS, JOBS), "given out, and different ones among them");
    let queued = api.get(&format!("/jobs?project_id={project}&status=QUEUED&limit=1")).await;
    assert_eq!(queued.header("x-total-count"), JOBS.to_string());
}

/// While somebody holds an old snapshot nothing that was claimed can be vacuumed, however much it is. Fetching walks past it now and then only, and misses
/// nothing.
#[tokio::test]
async fn fetching_does_not_walk_past_all_that_was_claimed_before() {
    const CLAIMED: i64 = 150_000;
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("rate_limit_per_minute", "0")]).await;
    let (project, task) = server.api.project_with_task("p").await;
    let watcher = database.connect().await;
    let insert = "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet)
                  select $1, $2, 'j', '{}', 'PENDING', 0, 0 from generate_series(1, $3)";
    watcher.execute(insert, &[&project, &task, &(CLAIMED as i32 + 1000)]).await.unwrap();
    watcher.batch_execute("vacuum analyze jobs").await.unwrap();
    let first: i64 = watcher.query_one("select min(id) from jobs", &[]).await.unwrap().get(0);
    let mut snapshot = database.connect().await;
    let held = snapshot.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).start().await.unwrap();
    held.query("select count(*) from projects", &[]).await.unwrap();
    watcher.execute("update jobs set status = 'QUEUED' where id < $1", &[&(first + CLAIMED)]).await.unwrap();
    let dead = "select pg_stat_get_dead_tuples('jobs'::regclass)";
    eventually("PostgreSQL knows of them", || async { watcher.query_one(dead, &[]).await.unwrap().get::<_, i64>(0) >= CLAIMED }).await;

    let fetch = async || server.api.get(&format!("/projects/{project}/fetch_job")).await.expect(200)["job"]["id"].as_i64();
    let mut times = Vec::new();
    for n in 0..40 {
        let began = Instant::now();
        assert_eq!(fetch().await, Some(first + CLAIMED + n), "in their order");
        times.push(began.elapsed());
    }
    let (slow, mut others) = (times[0], times.split_off(1));
    others.sort_unstable();
    let usual = others[others.len() / 2];
    assert!(
        usual * 2 < slow,
        "expected the first fetch, which walks past all, to take more than twice as long as most: {slow:?}, {usual:?}"
    );

    // What becomes ready before the place where looks begin is found, at once if there is nothing else, and otherwise a moment later.
    let urgent = id(&server
        .api
        .post("/jobs", json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}, "priority": 5}))
        .await
        .expect(201));
    eventually("what is more urgent comes first", || async { fetch().await == Some(urgent) }).await;
    watcher.execute("update jobs set status = 'QUEUED' where status = 'PENDING'", &[]).await.unwrap();
    server.api.set_status(first, "PENDING").await;
    assert_eq!((fetch().await, fetch().await), (Some(first), None));
    held.rollback().await.unwrap();
    server.stop().await;
}
