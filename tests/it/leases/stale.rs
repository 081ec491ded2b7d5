//! What is said of an attempt that is over while another one lives, at somebody else's: it changes nothing.

use serde_json::{Value, json};

use super::World;
use crate::support::eventually;

/// All that can be said of an attempt.
fn reports() -> [(&'static str, Value); 6] {
    [
        ("start", json!({})),
        ("heartbeat", json!({"progress": 0.9, "message": "late", "log_tail": "late", "lease_seconds": 7})),
        ("complete", json!({"result": "late", "log_tail": "late"})),
        ("fail", json!({"error": "late", "exit_code": 9, "log_tail": "late", "retryable": false})),
        ("release", json!({"reason": "preempted", "log_tail": "late"})),
        ("release", json!({"reason": "unable", "log_tail": "late"})),
    ]
}

/// What is stored of a job and its attempts, to the letter, and by which transactions.
async fn stored(world: &World, job: i64) -> Vec<String> {
    let rows = "select 'job ' || j.xmin::text || ' ' || j::text as row from jobs j where j.id = $1
                union all
                select 'attempt ' || a.xmin::text || ' ' || a::text from attempts a where a.job_id = $1
                order by row";
    world.database.connect().await.query(rows, &[&job]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Attempt 2 begins at `other`, and runs. Tells what is stored then.
async fn runs_elsewhere(world: &World, job: i64) -> Vec<String> {
    assert_eq!(world.claim_ids(json!({"client_id": "other", "lease_seconds": 600})).await, [job]);
    world.say(job, 2, "start", json!({})).await.expect(200);
    world.say(job, 2, "heartbeat", json!({"progress": 0.1, "message": "on time", "log_tail": "step 1"})).await.expect(200);
    stored(world, job).await
}

#[tokio::test]
async fn whose_lease_has_ended_can_say_nothing_that_touches_the_attempt_of_another() {
    let world = World::new().await;
    world.client("other", 8, 2).await;
    for begins in [false, true] {
        let job = world.job("j").await;
        assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 600})).await, [job]);
        if begins {
            world.say(job, 1, "start", json!({})).await.expect(200);
        }
        let end = "update attempts set lease_expires_at = clock_timestamp() where job_id = $1";
        world.database.connect().await.execute(end, &[&job]).await.unwrap();
        eventually("its lease ends", || async { world.api.status(job).await == "PENDING" }).await;
        let before = runs_elsewhere(&world, job).await;
        for _ in 0..2 {
            for (what, body) in reports() {
                let stale = world.say(job, 1, what, body.clone()).await;
                assert_eq!(stale.body["current_attempt"], 2, "{what} {body}: {}", stale.text);
                assert!(stale.problem(409).contains("is over (EXPIRED)"), "{what} {body}");
                assert_eq!(stored(&world, job).await, before, "expected that {what} {body} of attempt 1 changes nothing");
            }
        }
        let named = world.api.post("/clients/node/heartbeat", json!({"attempts": [{"job_id": job, "attempt": 1}]})).await.expect(200);
        assert_eq!((&named["attempts"], &named["over"][0]["job_id"]), (&json!([]), &json!(job)));
        assert_eq!(stored(&world, job).await, before, "nor does the client's heartbeat");
        world.say(job, 2, "complete", json!({})).await.expect(200);
    }
    world.end().await;
}

#[tokio::test]
async fn a_report_that_was_accepted_is_answered_again_while_the_next_attempt_runs_and_leaves_it_alone() {
    let world = World::new().await;
    world.client("other", 8, 2).await;
    let accepted = [
        ("fail", json!({"error": "out of memory", "exit_code": 137, "log_tail": "the end"})),
        ("release", json!({"reason": "preempted", "log_tail": "the end"})),
        ("release", json!({"reason": "unable", "log_tail": "the end"})),
    ];
    for (what, body) in accepted {
        let job = world.job("j").await;
        assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 600})).await, [job]);
        world.say(job, 1, "start", json!({})).await.expect(200);
        let first = world.say(job, 1, what, body.clone()).await;
        assert_eq!((first.status, &first.body["job_status"]), (200, &json!("PENDING")), "{}", first.text);
        let before = runs_elsewhere(&world, job).await;
        for _ in 0..3 {
            let again = world.say(job, 1, what, body.clone()).await;
            assert_eq!((again.status, &again.text), (200, &first.text), "expected {what} {body} to be answered as the first time");
            assert_eq!(stored(&world, job).await, before, "expected that {what} {body} again changes nothing");
        }
        // Whatever else it says comes too late.
        for (other, body) in reports().into_iter().filter(|(other, _)| *other != what) {
            let stale = world.say(job, 1, other, body).await;
            assert_eq!(stale.body["current_attempt"], 2, "{other} after {what}");
            stale.problem(409);
            assert_eq!(stored(&world, job).await, before, "expected that {other} after {what} changes nothing");
        }
        world.say(job, 2, "complete", json!({})).await.expect(200);
    }
    world.end().await;
}

#[tokio::test]
async fn of_an_attempt_that_never_was_nothing_can_be_said() {
    let world = World::new().await;
    let (job, waits) = (world.job("j").await, world.job("waits").await);
    assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 600})).await, [job]);
    let before = stored(&world, job).await;
    for (other, attempt) in [(job, 2), (waits, 1), (99_999, 1)] {
        for (what, body) in reports() {
            world.say(other, attempt, what, body).await.problem(404);
        }
    }
    assert_eq!(stored(&world, job).await, before, "the one that lives is as it was");
    assert_eq!(world.api.status(waits).await, "PENDING");
    world.end().await;
}
