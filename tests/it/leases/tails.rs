//! Ends of logs: of those that end well, and of those of whom nothing is heard any more.

use serde_json::{Value, json};

use super::World;
use crate::support::eventually;

#[tokio::test]
async fn what_an_attempt_wrote_last_is_kept_however_it_ends() {
    let world = World::new().await;
    let jobs = world.jobs(6).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 6, "lease_seconds": 600})).await, jobs);
    let beat = async |job: i64, body: Value| world.say(job, 1, "heartbeat", body).await.expect(200);
    for job in &jobs {
        beat(*job, json!({"log_tail": "epoch 1"})).await;
        beat(*job, json!({"log_tail": "epoch 2\u{0}"})).await;
        beat(*job, json!({"progress": 0.5})).await;
        assert_eq!(world.attempt(*job, 1).await["log_tail"], "epoch 2\u{fffd}", "the last one that was sent");
    }
    let [killed, cancelled, completed, failed, told, released] = jobs[..] else { unreachable!() };
    // Nothing is heard of these two any more.
    world.api.post(&format!("/jobs/{cancelled}/cancel"), json!({})).await.expect(200);
    let end = "update attempts set lease_expires_at = clock_timestamp() where job_id = any ($1)";
    world.database.connect().await.execute(end, &[&[killed, cancelled].as_slice()]).await.unwrap();
    eventually("their leases end", || async {
        world.api.status(killed).await == "PENDING" && world.api.status(cancelled).await == "CANCELLED"
    })
    .await;
    world.say(completed, 1, "complete", json!({})).await.expect(200);
    world.say(failed, 1, "fail", json!({"error": "e"})).await.expect(200);
    world.say(told, 1, "complete", json!({"log_tail": "done"})).await.expect(200);
    world.say(released, 1, "release", json!({"reason": "preempted", "log_tail": "bye"})).await.expect(200);
    let ends = [
        (killed, "EXPIRED", "epoch 2\u{fffd}"),
        (cancelled, "EXPIRED", "epoch 2\u{fffd}"),
        (completed, "COMPLETED", "epoch 2\u{fffd}"),
        (failed, "FAILED", "epoch 2\u{fffd}"),
        (told, "COMPLETED", "done"),
        (released, "RELEASED", "bye"),
    ];
    for (job, status, tail) in ends {
        let listed = world.api.get(&format!("/jobs/{job}/attempts")).await.expect(200);
        assert_eq!((&listed[0]["status"], &listed[0]["log_tail"]), (&json!(status), &json!(tail)), "of job {job}");
    }
    // Who comes back too late changes nothing.
    world.say(killed, 1, "heartbeat", json!({"log_tail": "late"})).await.problem(409);
    assert_eq!(world.attempt(killed, 1).await["log_tail"], "epoch 2\u{fffd}");
    // As the published client ends a job: it knows nothing of logs.
    let job = world.claim_ids(json!({"client_id": "node"})).await[0];
    world.say(job, 2, "heartbeat", json!({"log_tail": "again"})).await.expect(200);
    world.api.set_status(job, "CANCELLED").await;
    assert_eq!(world.attempt(job, 2).await["log_tail"], "again");
    world.end().await;
}

#[tokio::test]
async fn a_log_tail_of_a_heartbeat_has_the_limit_of_all_log_tails() {
    let world = World::new().await;
    let job = world.job("j").await;
    let claimed = world.claim(json!({"client_id": "node", "lease_seconds": 60})).await;
    let most = "x".repeat(64 * 1024);
    let detail = world.say(job, 1, "heartbeat", json!({"log_tail": format!("{most}x"), "progress": 1.0, "lease_seconds": 600})).await;
    assert!(detail.problem(422).contains("log_tail"), "it is named");
    let attempt = world.attempt(job, 1).await;
    assert_eq!(
        (&attempt["log_tail"], &attempt["progress"], &attempt["lease_expires_at"]),
        (&Value::Null, &Value::Null, &claimed[0]["lease_expires_at"]),
        "nothing changed"
    );
    world.say(job, 1, "heartbeat", json!({"log_tail": most})).await.expect(200);
    assert_eq!(world.attempt(job, 1).await["log_tail"], json!(most));
    world.end().await;
}
