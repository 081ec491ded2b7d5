//! Every operation of the document, and what it leaves in the audit log.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Value, json};
use tokio_postgres::Client;
use whatsnext::{
    access::{Grants, Key, KeyHash, KeyId, Role},
    app::App,
};

use super::{Operation, Site, Table, holders::Holder, requests};
use crate::support::{Process, TestDatabase, audit_lines, make_key};

/// A digest of everything in the database but when keys were last used.
async fn digest(client: &Client) -> String {
    let tables = client.query("select tablename::text from pg_tables where schemaname = 'public' order by 1", &[]).await.unwrap();
    let each: Vec<String> = tables
        .iter()
        .map(|row| row.get::<_, String>(0))
        .map(|table| format!("select '{table} ' || (to_jsonb(t) - 'last_used_at')::text as row from {table} t"))
        .collect();
    let all = format!("select md5(coalesce(string_agg(row, '|' order by row), '')) from ({}) as rows", each.join(" union all "));
    client.query_one(&all, &[]).await.unwrap().get(0)
}

/// What changes something is found by looking: at the method, and at the database. Nobody has to remember to record a new operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_that_changes_anything_leaves_a_line() {
    let (database, folder) = (TestDatabase::new().await, tempfile::tempdir().unwrap());
    let document = App::build(database.settings(&[])).unwrap().document();
    let operations = Operation::all(&document);
    let settings = [("DISABLE_AUTH", "false"), ("AUDIT_LOG_DIR", folder.path().to_str().unwrap())];
    let process = Process::start_with(&database, &settings).await;
    let admin_key = make_key(&database, Grants::All(Role::Admin)).await;
    let admin = process.api.with_key(admin_key.expose());
    let client = database.connect().await;
    let hash = KeyHash::of(&Key::generate(KeyId::make()));
    let table = Table { database, api: process.api.clone(), admin, hash };
    let reader = make_key(&table.database, Grants::All(Role::Reader)).await;
    let reader = process.api.with_key(reader.expose());

    // The request's id, the operation, the status, and whether it must be recorded: yes, no, or as you like.
    let mut sent: Vec<(String, &Operation, u16, Option<bool>)> = Vec::new();
    let (mut refused, mut unseen) = (HashMap::from([(401, 0_u64), (403, 0)]), Vec::new());
    for operation in &operations {
        let world = table.world(Holder::ADMIN).await;
        let ask = requests::ask(&table, &world, operation, Site::Own).await;
        for api in [&process.api, &reader] {
            let status = ask.send(api, &operation.method).await.status;
            if let Some(count) = refused.get_mut(&status) {
                *count += 1;
            }
        }
        let ask = requests::ask(&table, &world, operation, Site::Own).await;
        let before = digest(&client).await;
        let answer = ask.send(&world.api, &operation.method).await;
        let mut has_changed = digest(&client).await != before;
        // Servers also do things by themselves, but not each time.
        for _ in 0..if operation.method == "GET" { 2 } else { 0 } {
            if has_changed {
                let ask = requests::ask(&table, &world, operation, Site::Own).await;
                let before = digest(&client).await;
                ask.send(&world.api, &operation.method).await;
                has_changed = digest(&client).await != before;
            }
        }
        let must = match operation.method.as_str() {
            "GET" if has_changed => Some(true),
            // Looking at keys and users may be recorded as well.
            "GET" if operation.scopes == ["admin"] => None,
            "GET" => Some(false),
            _ => Some(true),
        };
        if !has_changed && must == Some(true) {
            unseen.push(operation.id.as_str());
        }
        sent.push((answer.header("x-request-id").to_owned(), operation, answer.status, must));
    }
    assert!(
        sent.iter().any(|(_, operation, _, must)| operation.method == "GET" && *must == Some(true)),
        "a GET that changes something is seen"
    );
    assert!(unseen.len() < 12, "most changes are seen in the database: {unseen:?}");
    // And with bodies and paths that are no good.
    let failed = [("POST", "/projects", "canary"), ("DELETE", "/jobs/99999999", ""), ("PUT", "/users/x", "{}")];
    for (method, path, body) in failed {
        let answer = table.admin.send(Method::from_bytes(method.as_bytes()).unwrap(), path, Some(body.to_owned())).await;
        let operation = match path {
            "/projects" => "create_project",
            "/jobs/99999999" => "delete_job",
            _ => "update_user",
        };
        let operation = operations.iter().find(|known| known.id == operation).unwrap();
        assert!(answer.status >= 400, "{path}");
        sent.push((answer.header("x-request-id").to_owned(), operation, answer.status, Some(true)));
    }
    process.terminate().await;

    let lines = audit_lines(folder.path());
    for (id, operation, status, must) in &sent {
        let found: Vec<&Value> = lines.iter().filter(|line| line["http.request.id"] == id.as_str()).collect();
        let name = format!("{} {} ({status})", operation.method, operation.path);
        match must {
            Some(false) => assert!(found.is_empty(), "{name} only reads: {found:?}"),
            None => {}
            Some(true) => {
                let [line] = found.as_slice() else { panic!("expected one line of {name}: {found:?}") };
                let outcome = if *status < 400 { "success" } else { "failure" };
                let expected = [
                    ("event.action", json!(operation.id)),
                    ("event.outcome", json!(outcome)),
                    ("http.request.method", json!(operation.method)),
                    ("http.response.status_code", json!(status)),
                    ("whatsnext.route", json!(operation.path)),
                    ("source.ip", json!("127.0.0.1")),
                ];
                for (field, value) in expected {
                    assert_eq!(line[field], value, "{field} of {name}: {line}");
                }
                let key = line["whatsnext.key.id"].as_str().unwrap();
                assert_eq!(line["user.id"], format!("key:{key}"), "{line}");
                let is_access = ["/keys", "/users", "/tokens"].iter().any(|part| operation.path.starts_with(part));
                assert_eq!(line["event.category"], json!([if is_access { "iam" } else { "api" }]), "{line}");
                for id in ["key_id", "job_id", "project_id", "user_id", "task_id"] {
                    let is_there = operation.path.contains(&format!("{{{id}}}")) && *status < 400;
                    assert!(!is_there || !line["whatsnext.target"][id].is_null(), "{id} of {name}: {line}");
                }
            }
        }
    }
    for (status, action) in [(401, "authentication_failed"), (403, "permission_denied")] {
        let of_kind = lines.iter().filter(|line| line["event.action"] == action);
        let told: u64 = of_kind.map(|line| line["whatsnext.audit.folded"].as_u64().unwrap_or(1)).sum();
        assert!(refused[&status] > 20 && told == refused[&status], "{action}: {told} of {}", refused[&status]);
    }
}
