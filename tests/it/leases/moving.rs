//! A job that is moved to another task while somebody waits for it is found all the same.

use serde_json::json;

use super::World;
use crate::support::{eventually, waiting_for_locks};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_job_finds_it_though_it_has_another_task_by_then() {
    let world = World::new().await;
    let other = world.task("other", 1, 0).await;
    let (mut mover, watcher) = (world.database.connect().await, world.database.connect().await);
    for what in ["start", "complete", "fail", "release", "PUT", "cancel", "retry", "DELETE"] {
        let job = world.job("j").await;
        let is_live = !["retry", "DELETE"].contains(&what);
        if is_live {
            assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 600})).await, [job]);
        }
        if what == "retry" {
            world.api.set_status(job, "FAILED").await;
        }
        let moves = mover.transaction().await.unwrap();
        moves.execute("update jobs set task_id = $2 where id = $1", &[&job, &other]).await.unwrap();
        let asks = tokio::spawn({
            let (api, mut body) = (world.api.clone(), world.api.get(&format!("/jobs/{job}")).await.expect(200));
            body["status"] = json!("COMPLETED");
            async move {
                let (path, report) = (format!("/jobs/{job}"), format!("/jobs/{job}/attempts/1/{what}"));
                match what {
                    "PUT" => api.put(&path, body).await,
                    "DELETE" => api.delete(&path).await,
                    "cancel" | "retry" => api.post(&format!("{path}/{what}"), json!({})).await,
                    "fail" => api.post(&report, json!({"error": "e", "retryable": false})).await,
                    "release" => api.post(&report, json!({"reason": "preempted"})).await,
                    _ => api.post(&report, json!({})).await,
                }
            }
        });
        eventually("it waits for the job", || async { waiting_for_locks(&watcher).await == 1 }).await;
        moves.commit().await.unwrap();
        let answer = asks.await.unwrap();
        let expected = if what == "DELETE" { 204 } else { 200 };
        assert_eq!(answer.status, expected, "{what}: {}", answer.text);
        if what != "DELETE" {
            world.api.delete(&format!("/jobs/{job}")).await.expect(204);
        }
    }
    world.end().await;
}
