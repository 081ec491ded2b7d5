//! Everything at once.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{join_all, try_join_all};
use serde_json::{Value, json};

use crate::support::{Api, Server, TestDatabase};

/// Many callers change one graph at once, in every way there is, and clients report of many of its jobs together; afterwards every count and every BLOCKED is
/// true.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_graph_stays_true_when_everything_happens_at_once() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database).await;
    let (project, task) = server.api.project_with_task("p").await;
    for n in 0..40 {
        server.api.job(project, task, &format!("j{n}"), &[]).await;
    }
    let callers = (0..16).map(|caller| tokio::spawn(random_caller(server.api.clone(), project, task, caller)));
    let is_over = AtomicBool::new(false);
    let calls = async {
        let calls: usize = try_join_all(callers).await.expect("no caller saw a 5xx").iter().sum();
        is_over.store(true, Ordering::Relaxed);
        calls
    };
    let clients = join_all((0..4).map(|client| reporting_client(&server.api, project, client, &is_over)));
    let (calls, completed) = tokio::join!(calls, clients);
    assert_eq!(calls, 16 * 80);
    assert!(completed.iter().sum::<usize>() > 0, "expected some jobs to be completed by their clients");
    database.assert_graph_is_true().await;
    server.stop().await;
}

async fn random_caller(api: Api, project: i64, task: i64, caller: u64) -> usize {
    let mut random = caller.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    let mut next = move |below: u64| {
        // xorshift64: the test must be the same each time, and the order in which callers meet is not in its hand anyway.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..80 {
        let listed = api.get(&format!("/jobs?project_id={project}&limit=1000")).await.expect(200);
        let jobs = listed.as_array().unwrap();
        let Some(job) = jobs.get(usize::try_from(next(jobs.len().max(1) as u64)).unwrap()) else { continue };
        let other = &jobs[usize::try_from(next(jobs.len() as u64)).unwrap()];
        let path = format!("/jobs/{}", job["id"]);
        let answer = match next(10) {
            0 | 1 => {
                let depends = json!({job["id"].to_string(): "", other["id"].to_string(): ""});
                api.post("/jobs", json!({"name": "n", "project_id": project, "task_id": task, "parameters": {}, "depends": depends})).await
            }
            2 => api.get(&format!("/projects/{project}/fetch_job")).await,
            3 => api.delete(&path).await,
            4 if next(8) == 0 => api.delete(&format!("/projects/{project}/queue")).await,
            5 => {
                let mut body = job.clone();
                body["depends"][other["id"].to_string()] = json!("");
                api.put(&path, body).await
            }
            choice => {
                let mut body = job.clone();
                let statuses = ["COMPLETED", "FAILED", "PENDING", "RUNNING", "CANCELLED"];
                body["status"] = json!(statuses[usize::try_from(next(5)).unwrap()]);
                if choice == 6 {
                    body["depends"] = json!({});
                }
                api.put(&path, body).await
            }
        };
        assert!(answer.status < 500, "{} {}", answer.status, answer.text);
    }
    80
}

/// Claims and completes jobs, several together, until it is over. Returns how many it completed.
async fn reporting_client(api: &Api, project: i64, client: usize, is_over: &AtomicBool) -> usize {
    let name = format!("client-{client}");
    let register = json!({"id": name, "name": name, "entity": "lab", "available_cpu": 1000, "available_accelerators": 0});
    api.post("/clients/register", register).await.expect(201);
    let mut completed = 0;
    while !is_over.load(Ordering::Relaxed) {
        let claim = json!({"client_id": name, "max_jobs": 8, "wait_seconds": 1});
        let claimed = api.post(&format!("/projects/{project}/claims"), claim).await.expect(200);
        let report = async |granted: &Value| {
            let path = format!("/jobs/{}/attempts/{}/complete", granted["job"]["id"], granted["attempt"]);
            api.post(&path, json!({})).await
        };
        for answer in join_all(claimed["jobs"].as_array().unwrap().iter().map(report)).await {
            // Somebody may have set it to another status, or deleted it.
            assert!(matches!(answer.status, 200 | 404 | 409), "{} {}", answer.status, answer.text);
            completed += usize::from(answer.status == 200);
        }
    }
    completed
}
