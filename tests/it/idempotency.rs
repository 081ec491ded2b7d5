//! Requests that come again because their answers got lost.

use reqwest::Method;
use serde_json::{Value, json};
use whatsnext::access::{Grants, Role};

use crate::support::{Api, Json, Process, Server, TestDatabase, eventually, id, make_key, waiting_for_locks};

async fn send(api: &Api, path: &str, key: &str, body: &Value) -> Json {
    let headers = [("idempotency-key", key), ("content-type", "application/json")];
    api.send_with(Method::POST, path, &headers, body.to_string().into_bytes()).await
}

#[tokio::test]
async fn a_request_that_comes_again_is_answered_again_and_done_once() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let count = async || api.get(&format!("/jobs?project_id={project}&limit=1")).await.header("x-total-count").to_owned();

    let job = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {"lr": 1.0}});
    let first = send(api, "/jobs", "\"one\"", &job).await;
    let location = first.header("location").to_owned();
    let first = first.expect(201);
    api.set_status(first["id"].as_i64().unwrap(), "RUNNING").await;
    for (path, key) in [("/jobs", "one"), ("/jobs/", "\"one\"")] {
        let again = send(api, path, key, &job).await;
        assert_eq!(again.header("location"), location);
        assert_eq!(again.expect(201), first, "as it was answered then, not as the job is now");
    }
    assert_eq!(count().await, "1");

    // Another body, another operation, another key.
    let mut other = job.clone();
    other["name"] = json!("other");
    let refused = send(api, "/jobs", "one", &other).await;
    assert_eq!(refused.body["errors"][0]["loc"], json!(["header", "Idempotency-Key"]));
    assert!(refused.problem(422).contains("choose a new one"));
    let batch = json!({"jobs": [{"name": "b", "task_id": task, "parameters": {}}, {"name": "c", "task_id": task, "parameters": {}}]});
    let path = format!("/projects/{project}/jobs/batch");
    send(api, &path, "one", &batch).await.problem(422);
    let added = send(api, &path, "two", &batch).await.expect(201);
    assert_eq!(send(api, &path, "two", &batch).await.expect(201), added);
    assert_eq!(count().await, "3");
    send(api, "/jobs", "three", &job).await.expect(201);
    assert_eq!(count().await, "4");

    // What failed may be mended and sent again with the same key.
    let mut wrong = job.clone();
    wrong["task_id"] = json!(task + 1);
    send(api, "/jobs", "four", &wrong).await.problem(400);
    send(api, "/jobs", "four", &job).await.expect(201);
    for key in ["", "\"\"", &"x".repeat(256)] {
        send(api, "/jobs", key, &job).await.problem(422);
    }
    assert_eq!(count().await, "5");

    // After a day it is forgotten, and done anew.
    let client = database.connect().await;
    client.execute("update submissions set created_at = now() - interval '25 hours'", &[]).await.unwrap();
    eventually("old answers are forgotten", || async {
        client.query_one("select count(*) from submissions", &[]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    assert_ne!(send(api, "/jobs", "one", &job).await.expect(201)["id"], first["id"]);
    server.stop().await;
}

/// The same request to several servers at once: one does it, the others answer the same or say that it is being done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_same_request_at_once_one_is_done() {
    let database = TestDatabase::new().await;
    let processes = [Process::start(&database).await, Process::start(&database).await];
    let api = &processes[0].api;
    let (project, task) = api.project_with_task("p").await;
    let jobs: Vec<Value> = (0..500).map(|n| json!({"name": format!("j{n}"), "task_id": task, "parameters": {}})).collect();
    let path = format!("/projects/{project}/jobs/batch");
    for key in ["a", "b", "c"] {
        let requests = (0..16).map(|n| {
            let (api, path, body) = (processes[n % 2].api.clone(), path.clone(), json!({"jobs": jobs}));
            tokio::spawn(async move { send(&api, &path, key, &body).await })
        });
        let answers = futures_util::future::try_join_all(requests).await.unwrap();
        let mut done: Vec<Value> = Vec::new();
        for answer in answers {
            match answer.status {
                201 => done.push(answer.body),
                _ => assert!(answer.problem(409).contains("being done right now"), "in flight"),
            }
        }
        assert!(!done.is_empty() && done.iter().all(|answer| *answer == done[0]), "all that were answered got the same");
    }
    assert_eq!(api.get(&format!("/jobs?project_id={project}&limit=1")).await.header("x-total-count"), "1500");
}

/// What is being done cannot be answered yet, and is not done twice: whoever sends it again, to whatever server, is told to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_is_refused_while_it_is_being_done() {
    let database = TestDatabase::new().await;
    let (first, second) = (Server::start(&database).await, Server::start(&database).await);
    let (project, task) = first.api.project_with_task("p").await;
    let (mut locker, watcher) = (database.connect().await, database.connect().await);
    let job = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}});
    let holds = locker.transaction().await.unwrap();
    holds.execute("select from tasks where id = $1 for update", &[&task]).await.unwrap();
    let done = tokio::spawn({
        let (api, job) = (first.api.clone(), job.clone());
        async move { send(&api, "/jobs", "one", &job).await }
    });
    eventually("it waits for its task", || async { waiting_for_locks(&watcher).await == 1 }).await;
    for server in [&first, &second] {
        let detail = send(&server.api, "/jobs", "one", &job).await.problem(409);
        assert!(detail.contains("being done right now"), "{detail}");
    }
    holds.rollback().await.unwrap();
    let done = done.await.unwrap().expect(201);
    for server in [first, second] {
        assert_eq!(send(&server.api, "/jobs", "one", &job).await.expect(201), done);
        server.stop().await;
    }
    assert_eq!(watcher.query_one("select count(*) from jobs", &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// Others may choose the same key, and are not told what was answered to somebody else.
#[tokio::test]
async fn an_idempotency_key_is_the_callers_own() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("disable_auth", "false")]).await;
    let admin = server.api.with_key(make_key(&database, Grants::All(Role::Admin)).await.expose());
    let (project, task) = admin.project_with_task("p").await;
    let mut apis = Vec::new();
    for _ in 0..3 {
        apis.push(server.api.with_key(make_key(&database, Grants::All(Role::Maintainer)).await.expose()));
    }
    let [one, other, third] = &apis[..] else { unreachable!() };
    let job = |name: &str| json!({"name": name, "project_id": project, "task_id": task, "parameters": {}});
    let first = send(one, "/jobs", "key", &job("j")).await.expect(201);
    let others = send(other, "/jobs", "key", &job("j")).await.expect(201);
    assert_ne!(first["id"], others["id"], "expected two callers to have a job each");
    let another = send(third, "/jobs", "key", &job("another")).await.expect(201);
    assert_eq!(another["name"], "another", "expected that the third may use it for what it likes");

    // A token is its key's: who comes again with one comes again.
    let token = one.post("/tokens", json!({})).await.expect(201)["token"].as_str().unwrap().to_owned();
    let by_token = server.api.with_key(&token);
    for (api, name, answer) in [(one, "j", &first), (&by_token, "j", &first), (other, "j", &others), (third, "another", &another)] {
        assert_eq!(send(api, "/jobs", "key", &job(name)).await.expect(201), *answer);
        send(api, "/jobs", "key", &job("wrong")).await.problem(422);
    }
    let path = format!("/projects/{project}/jobs/batch");
    let batch = json!({"jobs": [{"name": "b", "task_id": task, "parameters": {}}]});
    let added = send(&by_token, &path, "batch", &batch).await.expect(201);
    assert_eq!(send(one, &path, "batch", &batch).await.expect(201), added, "and the other way round");
    assert_ne!(send(other, &path, "batch", &batch).await.expect(201), added);
    assert_eq!(admin.get("/jobs?limit=1").await.header("x-total-count"), "5");
    server.stop().await;
}

/// Neither is there without the other, whatever happens between the two.
#[tokio::test]
async fn what_is_answered_is_kept_by_the_transaction_that_adds_the_jobs() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let client = database.connect().await;
    let count = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let parent = api.job(project, task, "parent", &[]).await;
    let job = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}});
    let mut child = job.clone();
    child["depends"] = json!({parent.to_string(): ""});
    let many: Vec<Value> = (0..3).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
    let batch = format!("/projects/{project}/jobs/batch");
    let requests = [("/jobs", "one", job, 1), ("/jobs", "two", child, 1), (&*batch, "three", json!({"jobs": many}), 3)];

    let refuse = "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not now'; end $$;
                  create trigger refuse before insert on submissions for each row execute function refuse();";
    client.batch_execute(refuse).await.unwrap();
    for (path, key, body, _) in &requests {
        let failed = send(api, path, key, body).await;
        assert!((500..600).contains(&failed.status), "expected that it fails, not {} with {}", failed.status, failed.text);
        assert_eq!(count("select count(*) from jobs where name = 'j'").await, 0, "expected that {path} with key {key} did nothing");
    }
    client.batch_execute("drop trigger refuse on submissions").await.unwrap();
    for (path, key, body, jobs) in &requests {
        send(api, path, key, body).await.expect(201);
        let transactions = "select count(distinct xmin::text) from (
                                select xmin from submissions union all select xmin from jobs where name = 'j'
                            ) as rows";
        assert_eq!(count(transactions).await, 1, "expected one transaction to add jobs and keep the answer to {path} with key {key}");
        assert_eq!(count("select count(*) from jobs where name = 'j'").await, *jobs);
        client.batch_execute("update jobs set name = 'known'; delete from submissions").await.unwrap();
    }
    database.assert_graph_is_true().await;
    server.stop().await;
}

#[tokio::test]
async fn an_answer_is_kept_for_a_day_and_no_longer() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let client = database.connect().await;
    let job = json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}});
    let (old, young) = (send(api, "/jobs", "old", &job).await.expect(201), send(api, "/jobs", "young", &job).await.expect(201));
    for (key, hours) in [("young", "23 hours"), ("old", "25 hours")] {
        let made = "update submissions set created_at = now() - $2::text::interval where key = $1";
        assert_eq!(client.execute(made, &[&key, &hours]).await.unwrap(), 1);
    }
    let kept = async || client.query_one("select string_agg(key, ' ') from submissions", &[]).await.unwrap().get::<_, Option<String>>(0);
    eventually("the old answer is forgotten", || async { kept().await.is_none_or(|kept| !kept.contains("old")) }).await;
    assert_eq!(kept().await.as_deref(), Some("young"));
    assert_eq!(send(api, "/jobs", "young", &job).await.expect(201), young, "it is less than a day old");
    let anew = send(api, "/jobs", "old", &job).await.expect(201);
    assert!(id(&anew) > id(&young), "expected that it is done anew: {anew} was {old}");
    server.stop().await;
}

/// It is a request like any other.
#[tokio::test]
async fn a_batch_of_nothing_is_remembered_too() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let path = format!("/projects/{project}/jobs/batch");
    let (nothing, something) = (json!({"jobs": []}), json!({"jobs": [{"name": "j", "task_id": task, "parameters": {}}]}));
    let elsewhere = format!("/projects/{}/jobs/batch", project + 1);
    send(api, &elsewhere, "key", &nothing).await.problem(404);
    let answer = send(api, &path, "key", &nothing).await;
    assert_eq!((answer.status, &answer.body), (201, &json!({"job_ids": [], "created": 0})), "{}", answer.text);
    assert_eq!(send(api, &path, "key", &nothing).await.text, answer.text);
    send(api, &path, "key", &something).await.problem(422);
    api.post(&elsewhere, nothing.clone()).await.problem(404);
    assert_eq!(api.post(&path, nothing).await.expect(201)["job_ids"], json!([]));
    send(api, &path, "another", &something).await.expect(201);
    assert_eq!(api.get("/jobs?limit=1").await.header("x-total-count"), "1");
    server.stop().await;
}
