//! The OpenAPI document, and the pages that show it.

use std::{collections::BTreeSet, path::Path};

use reqwest::Method;
use serde_json::{Value, json};
use whatsnext::{
    access::{Grants, Key, KeyId, Role},
    app::App,
};

use crate::support::{Server, TestDatabase, make_key};

/// What works without a key, now and when keys are checked.
const OPEN: [&str; 4] = ["/", "/checkdb", "/livez", "/readyz"];

/// The contract is a diff. After a wanted change: `whatsnext openapi > tests/snapshots/openapi.json`.
#[tokio::test]
async fn the_document_is_the_snapshot() {
    let database = TestDatabase::new().await;
    let document = App::build(database.settings(&[])).unwrap().document();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/openapi.json");
    let snapshot: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut changed = Vec::new();
    differences("", &snapshot, &document, &mut changed);
    let changed = changed.join("\n");
    assert!(changed.is_empty(), "expected no change; if it is wanted: whatsnext openapi > tests/snapshots/openapi.json\n{changed}");
}

#[tokio::test]
async fn every_operation_says_what_it_needs_and_how_it_can_end() {
    let database = TestDatabase::new().await;
    let document = App::build(database.settings(&[])).unwrap().document();
    let schemes: BTreeSet<&str> = document["components"]["securitySchemes"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(schemes, BTreeSet::from(["api_key", "basic", "bearer"]));

    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let name = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{name} has an id"));
        assert!(ids.insert(id.to_owned()), "{name}: the id {id} is taken");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{name} has a tag");
        assert!(operation["summary"].is_string(), "{name} has a summary");
        let scope = operation["x-required-scope"].as_str();
        if OPEN.contains(&path) {
            assert_eq!((scope, &operation["security"]), (None, &Value::Null), "{name} is open");
        } else if path.starts_with("/keys/self") {
            assert_eq!(scope, None, "{name} is for whoever has a key");
            assert_eq!(operation["security"].as_array().map(Vec::len), Some(3), "{name} takes a key in three ways");
        } else {
            assert!(matches!(scope, Some("read" | "submit" | "work" | "manage" | "admin")), "{name} needs {scope:?}");
            assert_eq!(operation["security"].as_array().map(Vec::len), Some(3), "{name} takes a key in three ways");
        }
        if method == "get" && !path.ends_with("/fetch_job") && scope.is_some() {
            let expected = if path.starts_with("/keys") || path.starts_with("/users") { "admin" } else { "read" };
            assert_eq!(scope, Some(expected), "{name}");
        }
        let responses = operation["responses"].as_object().unwrap();
        for (status, response) in responses {
            assert!(response["headers"]["X-Request-Id"].is_object(), "{name} {status} documents X-Request-Id");
            let problem = response["content"]["application/problem+json"].is_object();
            let health = OPEN.contains(&path) && status == "503";
            assert!(status.starts_with('2') || problem || health, "{name} {status} is a problem");
        }
        for status in ["500", "503"] {
            assert!(responses.contains_key(status), "{name} documents {status}");
        }
    }
}

#[tokio::test]
async fn every_schema_of_a_request_has_an_example_and_the_examples_are_accepted() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    let document = api.get("/openapi.json").await.expect(200);
    let example = |name: &str| document["components"]["schemas"][name]["example"].clone();
    for (path, method, operation) in operations(&document) {
        let Some(schema) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str() else { continue };
        let name = schema.rsplit('/').next().unwrap();
        assert!(example(name).is_object(), "{method} {path}: {name} has an example");
    }
    let project = api.post("/projects", example("NewProject")).await.expect(201);
    let same_fields = |answer: &Value, name: &str| {
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(fields(answer), fields(&example(name)), "the example of {name} has the fields of an answer");
    };
    same_fields(&project, "Project");
    for _ in 0..3 {
        let mut task = example("NewTask");
        task["name"] = json!(format!("{}{}", task["name"], api.get("/tasks?project_id=1").await.header("x-total-count")));
        same_fields(&api.post("/tasks", task).await.expect(201), "Task");
    }
    same_fields(&api.post("/jobs", example("NewJob")).await.expect(201), "Job");
    same_fields(&api.post("/projects/1/jobs/batch", example("NewBatch")).await.expect(201), "Added");
    same_fields(&api.put("/jobs/1", example("JobUpdate")).await.expect(200)["data"], "Job");
    same_fields(&api.get("/jobs/1/dependencies").await.expect(200), "Dependencies");
    same_fields(&api.get("/projects/1/fetch_job").await.expect(200), "Fetched");
    same_fields(&api.put("/tasks/1", example("TaskUpdate")).await.expect(200)["data"], "Task");
    same_fields(&api.post("/clients/register", example("NewClient")).await.expect(201), "Client");
    api.put("/clients/gpu-node-1", example("ClientUpdate")).await.expect(200);
    let claimed = api.post("/projects/1/claims", example("NewClaim")).await.expect(200);
    same_fields(&claimed, "Claimed");
    let (job, claimed) = (claimed["jobs"][0]["job"]["id"].clone(), claimed["jobs"][0].clone());
    assert_eq!(
        claimed.as_object().unwrap().keys().collect::<Vec<_>>(),
        example("Claimed")["jobs"][0].as_object().unwrap().keys().collect::<Vec<_>>()
    );
    let attempt = async |what: &str, body: &str| api.post(&format!("/jobs/{job}/attempts/1/{what}"), example(body)).await.expect(200);
    same_fields(&attempt("heartbeat", "Heartbeat").await, "Lease");
    same_fields(&api.post("/clients/gpu-node-1/heartbeat", example("Pulse")).await.expect(200), "Alive");
    same_fields(&api.get("/projects/1/stats").await.expect(200), "ProjectStats");
    same_fields(&attempt("complete", "Completion").await, "Attempt");
    same_fields(&api.post("/projects/1/retry", example("RetryMany")).await.expect(200), "Retried");
    same_fields(&api.put("/projects/1", example("ProjectUpdate")).await.expect(200)["data"], "Project");
    server.stop().await;
}

#[tokio::test]
async fn the_pages_need_nothing_from_elsewhere() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let api = &server.api;
    for (page, files) in [("/docs", ["/docs/swagger-ui.js", "/docs/start.js"]), ("/redoc", ["/redoc/redoc.js", "/redoc/start.js"])] {
        let html = api.get(page).await;
        assert!(html.header("content-type").starts_with("text/html"), "{page}");
        assert!(!html.text.contains("http"), "{page} names no other host:\n{}", html.text);
        // The page is the same with a trailing slash, and the policy lets no <base> say from where they count.
        for name in html.text.split(['"']).filter(|part| part.ends_with(".js") || part.ends_with(".css")) {
            assert!(name.starts_with(page), "{page} names {name}, which should begin at the root");
        }
        let policy = html.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
        for file in files {
            let script = api.get(file).await;
            assert!(script.status == 200 && script.header("content-type").starts_with("text/javascript"), "{file}");
            let etag = script.header("etag").to_owned();
            let again = api.send_with(Method::GET, file, &[("if-none-match", &etag)], Vec::new()).await;
            assert_eq!((again.status, again.text.as_str()), (304, ""), "{file}");
        }
    }
    assert_eq!(api.get("/openapi.json").await.expect(200)["openapi"], "3.0.3");
    server.stop().await;
}

/// Every path of the documentation, with and without a trailing slash, for everybody who might ask.
#[tokio::test]
async fn the_documentation_is_for_whom_it_is_meant() {
    const PATHS: [&str; 8] = [
        "/openapi.json",
        "/docs",
        "/docs/start.js",
        "/docs/swagger-ui.js",
        "/docs/swagger-ui.css",
        "/redoc",
        "/redoc/start.js",
        "/redoc/redoc.js",
    ];
    let database = TestDatabase::new().await;
    let reader = make_key(&database, Grants::All(Role::Reader)).await;
    let wrong = Key::generate(KeyId::make());
    // Without a key, with a wrong one, with one that may read.
    for (docs, expected) in [("public", [200, 200, 200]), ("key", [401, 401, 200]), ("off", [404, 404, 404])] {
        let flags = [("docs", docs), ("disable_auth", "false"), ("auth_failures_per_minute", "0")];
        let server = Server::start_with(&database, &flags).await;
        let callers = [server.api.clone(), server.api.with_key(wrong.expose()), server.api.with_key(reader.expose())];
        for path in PATHS.into_iter().flat_map(|path| [path.to_owned(), format!("{path}/")]) {
            for (caller, expected) in callers.iter().zip(expected) {
                for method in [Method::GET, Method::HEAD] {
                    let answer = caller.send(method.clone(), &path, None).await;
                    assert_eq!(answer.status, expected, "docs={docs} {method} {path}");
                    let policy = answer.header("content-security-policy");
                    let is_strict =
                        policy.starts_with("default-src 'none'; script-src 'self';") && policy.contains("frame-ancestors 'none'");
                    assert_eq!(is_strict, expected == 200, "docs={docs} {path}: {policy}");
                    assert!(!policy.contains("unsafe-eval") && !policy.contains("http") && !policy.contains('*'), "{policy}");
                }
            }
        }
        server.stop().await;
    }
}

fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}

/// The places where two documents differ.
fn differences(place: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
                let (before, after) = (before.get(name).unwrap_or(&Value::Null), after.get(name).unwrap_or(&Value::Null));
                differences(&format!("{place}/{name}"), before, after, found);
            }
        }
        (before, after) if before != after => {
            found.push(format!("{place}: {before:.200} → {after:.200}", before = before.to_string(), after = after.to_string()));
        }
        _ => {}
    }
}
