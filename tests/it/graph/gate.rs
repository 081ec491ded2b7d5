//! Who wants a project's graph, or one of its jobs, for themselves gets it, however many add jobs meanwhile.

use serde_json::json;
use tokio_postgres::{Client, Transaction};
use whatsnext::postgres::query::graph;

use crate::support::{Server, TestDatabase, eventually, waiting_for_locks};

/// What a request does that adds jobs below a parent, up to where it adds them.
async fn adding<'a>(client: &'a mut Client, project: i64, parent: i64) -> Transaction<'a> {
    let transaction = client.transaction().await.unwrap();
    for (query, parameters) in [(graph::LOCK_SHARED, vec![project]), (graph::LOCK_PARENTS, vec![project, parent])] {
        let statement = transaction.prepare(query.sql).await.unwrap();
        let rows = match parameters[..] {
            [project] => transaction.query(&statement, &[&project]).await,
            [project, parent] => transaction.query(&statement, &[&project, &vec![parent]]).await,
            _ => unreachable!("each has one or two"),
        };
        assert_eq!(rows.unwrap().len(), 1, "{}", query.name);
    }
    transaction
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_changes_the_graph_or_completes_a_parent_comes_before_those_who_add_jobs_later() {
    let database = TestDatabase::new().await;
    let server = Server::start_with(&database, &[("rate_limit_per_minute", "0")]).await;
    let api = &server.api;
    let (project, task) = api.project_with_task("p").await;
    let client = json!({"id": "node", "name": "n", "entity": "lab", "available_cpu": 9, "available_accelerators": 0});
    api.post("/clients/register", client).await.expect(201);
    let (mut first, watcher) = (database.connect().await, database.connect().await);
    for what in ["cancel", "complete", "clear", "edit"] {
        let parent = api.job(project, task, "parent", &[]).await;
        // Below it is one already, so that what becomes of it reaches further. Not where the queue is cleared: who adds to it finds nothing then.
        if what != "clear" {
            api.job(project, task, "child", &[parent]).await;
        }
        if what == "complete" {
            let claimed = api.post(&format!("/projects/{project}/claims"), json!({"client_id": "node"})).await.expect(200);
            assert_eq!(claimed["jobs"][0]["job"]["id"], parent);
        }
        let adds = adding(&mut first, project, parent).await;
        let changes = tokio::spawn({
            let api = api.clone();
            async move {
                match what {
                    "cancel" => api.post(&format!("/jobs/{parent}/cancel"), json!({})).await.expect(200),
                    "complete" => api.post(&format!("/jobs/{parent}/attempts/1/complete"), json!({})).await.expect(200),
                    "clear" => api.delete(&format!("/projects/{project}/queue")).await.expect(200),
                    _ => {
                        let content = json!({"name": "edited", "description": "", "status": "ACTIVE"});
                        api.put(&format!("/projects/{project}"), content).await.expect(200)
                    }
                }
            }
        });
        eventually("the change waits for who adds", || async { waiting_for_locks(&watcher).await == 1 }).await;
        let later = tokio::spawn({
            let (api, depends) = (api.clone(), json!({parent.to_string(): "parent"}));
            let job = json!({"name": "later", "project_id": project, "task_id": task, "parameters": {}, "depends": depends});
            async move { api.post("/jobs", job).await.status }
        });
        eventually("who adds later waits behind it", || async { waiting_for_locks(&watcher).await == 2 }).await;
        adds.rollback().await.unwrap();
        changes.await.unwrap();
        // There may be no parent any more.
        let expected = if what == "clear" { 400 } else { 201 };
        assert_eq!(later.await.unwrap(), expected, "{what}");
    }
    server.stop().await;
    database.assert_graph_is_true().await;
}
