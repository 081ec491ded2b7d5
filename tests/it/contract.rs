//! The routes, their answers and their errors, as clients see them.

use serde_json::{Value, json};

use crate::support::{Server, TestDatabase};

#[tokio::test]
async fn a_project_lives_its_life() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;

    let made = api.post("/projects", json!({"name": "p"})).await;
    assert_eq!(made.header("location"), "/projects/1");
    let made = made.expect(201);
    assert_eq!(keys(&made), ["id", "name", "description", "status", "created_at", "updated_at"]);
    assert_eq!((&made["description"], &made["status"]), (&json!(""), &json!("ACTIVE")));
    assert_is_time(&made["created_at"]);

    assert_eq!(api.get("/projects/1").await.expect(200), made);
    assert_eq!(api.get("/projects/name/p").await.expect(200), made);
    assert_eq!(api.get("/projects").await.expect(200), json!([made]));

    let update = json!({"name": "q", "description": "d", "status": "archived"});
    let updated = api.put("/projects/1", update).await.expect(200)["data"].take();
    assert_eq!((&updated["name"], &updated["description"], &updated["status"]), (&json!("q"), &json!("d"), &json!("ARCHIVED")));
    assert_eq!(updated["created_at"], made["created_at"]);
    assert_ne!(updated["updated_at"], made["updated_at"]);

    assert_eq!(api.get("/projects").await.expect(200), json!([]), "the default lists active projects");
    assert_eq!(api.get("/projects?status_filter=").await.expect(200), json!([updated]));
    assert_eq!(api.get("/projects?status_filter=archived").await.expect(200), json!([updated]));
    assert!(api.get("/projects?status_filter=gone").await.problem(400).contains("ACTIVE or ARCHIVED"));

    api.delete("/projects/name/q").await.expect(204);
    assert_eq!(api.get("/projects/1").await.problem(404), "There is no project 1.");
    api.delete("/projects/1").await.problem(404);
    api.delete("/projects/name/q").await.problem(404);
    api.put("/projects/1", json!({"name": "q", "description": "", "status": "ACTIVE"})).await.problem(404);
    server.stop().await;
}

#[tokio::test]
async fn names_are_taken_once() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, _) = api.project_with_task("p").await;
    let (other, _) = api.project_with_task("q").await;

    assert!(api.post("/projects", json!({"name": "p"})).await.problem(409).contains("project named \"p\""));
    api.put(&format!("/projects/{other}"), json!({"name": "p", "description": "", "status": "ACTIVE"})).await.problem(409);
    api.post("/tasks", json!({"name": "task", "project_id": project})).await.problem(409);
    let second = api.post("/tasks", json!({"name": "second", "project_id": project})).await.expect(201);
    api.put(&format!("/tasks/{}", second["id"]), json!({"name": "task"})).await.problem(409);
    server.stop().await;
}

#[tokio::test]
async fn a_task_lives_its_life() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let project = api.post("/projects", json!({"name": "p"})).await.expect(201)["id"].clone();

    let made = api.post("/tasks", json!({"name": "t", "project_id": project})).await.expect(201);
    let fields = [
        "id",
        "name",
        "project_id",
        "command_template",
        "required_cpu",
        "required_accelerators",
        "max_attempts",
        "backoff_seconds",
        "created_at",
        "updated_at",
    ];
    assert_eq!(keys(&made), fields);
    assert_eq!((&made["command_template"], &made["required_cpu"], &made["required_accelerators"]), (&Value::Null, &json!(1), &json!(0)));

    assert_eq!(api.get("/tasks/1").await.expect(200), made);
    assert_eq!(api.get("/tasks/name/t?project_id=1").await.expect(200), made);
    assert_eq!(api.get("/tasks/name/t").await.expect(200), made);
    assert_eq!(api.get("/tasks?project_id=1").await.expect(200), json!([made]));
    api.get("/tasks/name/t?project_id=2").await.problem(404);
    assert!(api.get("/tasks").await.problem(400).contains("project_id"));
    api.get("/tasks?project_id=2").await.problem(400);

    let updated = api.put("/tasks/1", json!({"command_template": "run {x}", "required_cpu": 4})).await.expect(200)["data"].take();
    assert_eq!((&updated["name"], &updated["command_template"], &updated["required_cpu"]), (&json!("t"), &json!("run {x}"), &json!(4)));
    let cleared = api.put("/tasks/1", json!({"command_template": null})).await.expect(200);
    assert_eq!(cleared["data"]["command_template"], Value::Null, "null is a value, absence is not");
    assert_eq!(cleared["data"]["required_cpu"], 4);
    api.put("/tasks/1", json!({"project_id": 1})).await.expect(200);
    assert!(api.put("/tasks/1", json!({"project_id": 2})).await.problem(400).contains("cannot be moved"));

    api.put("/projects/1", json!({"name": "p", "description": "", "status": "ARCHIVED"})).await.expect(200);
    assert!(api.get("/tasks?project_id=1").await.problem(400).contains("archived"));

    api.delete("/tasks/1").await.expect(204);
    api.delete("/tasks/1").await.problem(404);
    api.get("/tasks/1").await.problem(404);
    api.put("/tasks/1", json!({})).await.problem(404);
    api.post("/tasks", json!({"name": "t", "project_id": 9})).await.problem(400);
    server.stop().await;
}

#[tokio::test]
async fn a_job_lives_its_life() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;

    let made = api.post("/jobs", json!({"name": "j", "project_id": project, "task_id": task, "parameters": {"lr": 0.1}})).await.expect(201);
    let fields = "id name project_id task_id parameters status priority attempt max_attempts backoff_seconds not_before depends created_at updated_at";
    let fields: Vec<_> = fields.split(' ').collect();
    assert_eq!(keys(&made), fields);
    assert_eq!((&made["status"], &made["priority"], &made["depends"]), (&json!("PENDING"), &json!(0), &json!({})));
    let path = format!("/jobs/{}", made["id"]);
    assert_eq!(api.get(&path).await.expect(200), made);

    let fetched = api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    assert_eq!((&fetched["num_pending"], &fetched["num_waiting"]), (&json!(1), &json!(0)));
    let fields =
        ["id", "name", "project_id", "task_id", "task_name", "parameters", "status", "priority", "depends", "created_at", "updated_at"];
    assert_eq!(keys(&fetched["job"]), fields, "the published client breaks at one field more");
    assert_eq!((&fetched["job"]["status"], &fetched["job"]["task_name"]), (&json!("QUEUED"), &json!("task")));

    let empty = api.get(&format!("/projects/{project}/fetch_job")).await.expect(200);
    assert_eq!(empty, json!({"job": null, "num_pending": 0, "num_waiting": 0}));

    for status in ["RUNNING", "COMPLETED", "pending", "FAILED", "CANCELLED"] {
        assert_eq!(api.set_status(1, status).await["status"], status.to_uppercase());
    }
    let mut changed = api.get(&path).await.expect(200);
    changed["name"] = json!("k");
    changed["priority"] = json!(-7);
    changed["parameters"] = json!({"x": [1, {"y": null}]});
    let updated = api.put(&path, changed).await.expect(200)["data"].take();
    assert_eq!(
        (&updated["name"], &updated["priority"], &updated["parameters"]),
        (&json!("k"), &json!(-7), &json!({"x": [1, {"y": null}]}))
    );

    api.delete(&format!("/projects/{}/jobs/1", project + 1)).await.problem(404);
    api.delete(&format!("/projects/{project}/jobs/1")).await.expect(204);
    api.delete(&path).await.problem(404);
    api.get(&path).await.problem(404);
    api.get(&format!("{path}/dependencies")).await.problem(404);
    server.stop().await;
}

#[tokio::test]
async fn what_a_job_names_must_exist() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let (other, foreign_task) = api.project_with_task("q").await;
    let foreign_job = api.job(other, foreign_task, "j", &[]).await;
    let job = |project: i64, task: i64, depends: Value| json!({"name": "j", "project_id": project, "task_id": task, "parameters": {}, "depends": depends});

    assert_eq!(api.post("/jobs", job(99, task, json!({}))).await.problem(400), "There is no project 99.");
    assert_eq!(api.post("/jobs", job(99, task, json!({"1": "x"}))).await.problem(400), "There is no project 99.");
    assert_eq!(api.post("/jobs", job(project, 99, json!({}))).await.problem(400), format!("Project {project} has no task 99."));
    let wanted = format!("Project {project} has no task {foreign_task}.");
    assert_eq!(api.post("/jobs", job(project, foreign_task, json!({}))).await.problem(400), wanted);
    let foreign = json!({ foreign_job.to_string(): "j" });
    assert_eq!(
        api.post("/jobs", job(project, task, foreign)).await.problem(400),
        format!("Project {project} has no job {foreign_job} to depend on.")
    );

    let mine = api.job(project, task, "j", &[]).await;
    let mut body = api.get(&format!("/jobs/{mine}")).await.expect(200);
    body["task_id"] = json!(foreign_task);
    assert_eq!(api.put(&format!("/jobs/{mine}"), body.clone()).await.problem(400), wanted);
    body["task_id"] = json!(task);
    body["project_id"] = json!(other);
    assert!(api.put(&format!("/jobs/{mine}"), body.clone()).await.problem(400).contains("cannot be moved"));
    body["project_id"] = json!(project);
    body["depends"] = json!({"99": "x"});
    assert!(api.put(&format!("/jobs/{mine}"), body).await.problem(400).contains("no job 99"));

    let batch = json!({"jobs": [{"name": "a", "task_id": task, "parameters": {}}, {"name": "b", "task_id": 99, "parameters": {}}]});
    api.post("/projects/99/jobs/batch", batch.clone()).await.problem(404);
    api.post("/projects/99/jobs/batch", json!({"jobs": []})).await.problem(404);
    api.post(&format!("/projects/{project}/jobs/batch"), batch).await.problem(400);
    assert_eq!(api.get(&format!("/jobs?project_id={project}")).await.header("x-total-count"), "1", "a batch is all or nothing");
    api.get("/projects/99/fetch_job").await.problem(404);
    api.delete("/projects/99/queue").await.problem(404);
    server.stop().await;
}

#[tokio::test]
async fn a_batch_gives_its_ids_in_order() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("batch_limit_jobs", "100")]).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let first = api.job(project, task, "first", &[]).await;
    let path = format!("/projects/{project}/jobs/batch");

    let jobs: Vec<Value> = (0..100)
        .map(|n| json!({"name": format!("j{n}"), "task_id": task, "parameters": {"n": n}, "depends": {first.to_string(): ""}}))
        .collect();
    let added = api.post(&path, json!({"jobs": jobs})).await.expect(201);
    assert_eq!(added["created"], 100);
    let listed = api.get(&format!("/jobs?project_id={project}&limit=1000&after_id={first}")).await.expect(200);
    let listed: Vec<(&Value, &Value, &Value)> =
        listed.as_array().unwrap().iter().map(|job| (&job["id"], &job["name"], &job["parameters"]["n"])).collect();
    for (n, id) in added["job_ids"].as_array().unwrap().iter().enumerate() {
        assert_eq!(listed[n], (id, &json!(format!("j{n}")), &json!(n)));
    }

    assert_eq!(api.post(&path, json!({"jobs": []})).await.expect(201), json!({"created": 0, "job_ids": []}));
    let more: Vec<Value> = (0..101).map(|_| json!({"name": "j", "task_id": task, "parameters": {}})).collect();
    assert!(api.post(&path, json!({"jobs": more})).await.problem(422).contains("at most 100 jobs"));
    let wrong = json!({"jobs": [{"name": "a", "task_id": task, "parameters": {}}, {"name": "b", "task_id": task, "parameters": []}]});
    let answer = api.post(&path, wrong).await;
    assert_eq!(answer.body["errors"][0]["loc"], json!(["body", "jobs", 1, "parameters"]), "{}", answer.text);
    server.stop().await;
}

#[tokio::test]
async fn lists_are_paged() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    for n in 0..12 {
        api.job(project, task, &format!("j{n}"), &[]).await;
    }
    let names = |body: Value| body.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();

    let page = api.get("/jobs").await;
    assert_eq!(page.header("x-total-count"), "12");
    assert_eq!(names(page.expect(200)).len(), 10, "the default page");
    assert_eq!(names(api.get("/jobs?skip=10").await.expect(200)), ["j10", "j11"]);
    assert_eq!(names(api.get("/jobs?limit=2&skip=3").await.expect(200)), ["j3", "j4"]);
    assert_eq!(names(api.get("/jobs?limit=2&after_id=3").await.expect(200)), ["j3", "j4"]);
    let beyond = api.get("/jobs?skip=9223372036854775807").await;
    assert_eq!(beyond.header("x-total-count"), "12");
    assert_eq!(beyond.expect(200), json!([]));

    api.set_status(3, "FAILED").await;
    assert_eq!(names(api.get(&format!("/jobs?project_id={project}&status=failed")).await.expect(200)), ["j2"]);
    assert_eq!(names(api.get(&format!("/jobs?task_id={task}&limit=1")).await.expect(200)), ["j0"]);
    assert_eq!(api.get(&format!("/jobs?task_id={task}&project_id={}", project + 1)).await.expect(200), json!([]));
    assert_eq!(api.get("/jobs?limit=10000").await.expect(200).as_array().unwrap().len(), 12, "as the published command line asks");
    for query in [
        "limit=0",
        "limit=1001",
        "limit=9999",
        "limit=-1",
        "skip=-1",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "status=gone",
        "after_id=1.5",
    ] {
        let answer = api.get(&format!("/jobs?{query}")).await;
        assert_eq!(answer.body["errors"][0]["loc"][0], "query", "{query}: {}", answer.text);
        answer.problem(422);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_lives_its_life() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;

    let body = json!({"id": "node-1", "name": "n", "entity": "lab"});
    let made = api.post("/clients/register", body.clone()).await.expect(201);
    let fields =
        ["id", "name", "entity", "description", "available_cpu", "available_accelerators", "last_heartbeat", "created_at", "is_active"];
    assert_eq!(keys(&made), fields);
    assert_eq!((&made["description"], &made["available_cpu"], &made["is_active"]), (&Value::Null, &json!(0), &json!(1)));
    assert_eq!(api.get("/clients/node-1").await.expect(200), made);

    let updated = api.put("/clients/node-1", json!({"available_cpu": 8, "is_active": 0})).await.expect(200)["data"].take();
    assert_eq!((&updated["available_cpu"], &updated["available_accelerators"], &updated["is_active"]), (&json!(8), &json!(0), &json!(0)));
    assert_eq!(api.get("/clients").await.expect(200), json!([]), "the default lists active clients");
    assert_eq!(api.get("/clients?active_only=False").await.expect(200), json!([updated]));
    assert_eq!(api.post("/clients/node-1/heartbeat", json!({})).await.expect(200), json!({"status": "ok", "attempts": [], "over": []}));
    assert_eq!(api.get("/clients/node-1").await.expect(200)["is_active"], 1);
    assert_eq!(api.post("/clients/node-1/deactivate", json!({})).await.expect(200), json!({"status": "deactivated"}));
    let again = api.post("/clients/register", body).await.expect(201);
    assert_eq!((&again["is_active"], &again["created_at"]), (&json!(1), &made["created_at"]));

    for id in ["", "a b", "ä", "x/y", &"a".repeat(129)] {
        api.post("/clients/register", json!({"id": id, "name": "n", "entity": "e"})).await.problem(400);
    }
    api.put("/clients/node-1", json!({"is_active": 2})).await.problem(422);
    api.delete("/clients/node-1").await.expect(204);
    api.delete("/clients/node-1").await.problem(404);
    api.get("/clients/node-1").await.problem(404);
    api.put("/clients/node-1", json!({})).await.problem(404);
    api.post("/clients/node-1/heartbeat", json!({})).await.problem(404);
    api.post("/clients/node-1/deactivate", json!({})).await.problem(404);
    server.stop().await;
}

#[tokio::test]
async fn parameters_come_back_to_the_letter() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let parameters = r#"{"z":1.10,"a":1e3,"big":123456789012345678901234567890,"n":-0.0,"text":"\u00fc ü 😀","deep":{"b":[],"a":{}}}"#;
    let body = format!(r#"{{"name":"j","project_id":{project},"task_id":{task},"parameters":{parameters}}}"#);
    let made = api.send(reqwest::Method::POST, "/jobs", Some(body)).await;
    let wanted = format!(r#""parameters":{parameters},"#);
    assert!(made.text.contains(&wanted), "{}", made.text);
    assert!(api.get("/jobs/1").await.text.contains(&wanted));
    assert!(api.get("/jobs").await.text.contains(&wanted));
    assert!(api.get(&format!("/projects/{project}/fetch_job")).await.text.contains(&wanted));
    server.stop().await;
}

#[tokio::test]
async fn every_path_answers_the_same_with_and_without_a_trailing_slash() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let (project, _) = api.project_with_task("p").await;
    for path in [
        "/projects",
        "/projects/1",
        "/projects/name/p",
        "/jobs",
        "/tasks/1",
        "/clients",
        "/checkdb",
        "/livez",
        "/readyz",
        "/docs",
        "/openapi.json",
    ] {
        let (without, with) = (api.get(path).await, api.get(&format!("{path}/")).await);
        assert_eq!((without.status, &without.text), (200, &with.text), "{path}");
        assert_eq!(with.status, 200, "{path}/");
    }
    api.post("/tasks/", json!({"name": "slash", "project_id": project})).await.expect(201);
    api.delete("/projects/name/p/").await.expect(204);
    server.stop().await;
}

#[tokio::test]
async fn times_are_what_python_reads() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let client = server.api.post("/clients/register", json!({"id": "c", "name": "n", "entity": "e"})).await.expect(201);
    assert_is_time(&client["last_heartbeat"]);
    assert_is_time(&client["created_at"]);
    // A whole second must have its six digits as well.
    database.connect().await.execute("update clients set created_at = '2026-01-31 09:00:00+00'", &[]).await.unwrap();
    assert_eq!(server.api.get("/clients/c").await.expect(200)["created_at"], "2026-01-31T09:00:00.000000+00:00");
    server.stop().await;
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[track_caller]
fn assert_is_time(value: &Value) {
    let text = value.as_str().expect("a time is a string");
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000000+00:00", "{text}");
}
