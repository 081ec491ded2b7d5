//! Reports, and what becomes of jobs: completed, tried again, given up, cancelled.

use reqwest::Method;
use serde_json::{Value, json};

use super::World;
use crate::support::eventually;

#[tokio::test]
async fn an_attempt_from_claim_to_result() {
    let world = World::new().await;
    let job = world.job("j").await;
    let child = world.job_with("child", json!({"depends": {job.to_string(): ""}})).await;
    world.claim(json!({"client_id": "node", "lease_seconds": 60})).await;
    let started = world.say(job, 1, "start", json!({})).await.expect(200);
    assert_eq!((&started["status"], &started["client_id"], &started["cpu"]), (&json!("RUNNING"), &json!("node"), &json!(1)));
    assert_eq!(world.api.status(job).await, "RUNNING");
    assert_eq!(world.say(job, 1, "start", json!({})).await.expect(200), started, "the answer got lost, and it comes again");
    let beat = world.say(job, 1, "heartbeat", json!({"progress": 0.5, "message": "epoch 5", "lease_seconds": 600})).await.expect(200);
    assert!(beat["lease_expires_at"].as_str() > started["lease_expires_at"].as_str(), "{beat} is later than {started}");
    assert_eq!(beat["cancel_requested"], false);
    let result = json!({"accuracy": 0.97});
    let done = world.say(job, 1, "complete", json!({"result": result, "log_tail": "the\u{0}end"})).await.expect(200);
    assert_eq!((&done["status"], &done["result"], &done["job_status"]), (&json!("COMPLETED"), &result, &json!("COMPLETED")));
    assert_eq!((&done["log_tail"], &done["message"]), (&json!("the\u{fffd}end"), &json!("epoch 5")));
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [child], "what waited for it is ready");

    // The answer got lost, and the report comes again.
    let again = world.say(job, 1, "complete", json!({"result": "another"})).await.expect(200);
    assert_eq!(again, done);
    // Anything else comes too late.
    for (what, body) in [("start", json!({})), ("heartbeat", json!({})), ("fail", json!({})), ("release", json!({"reason": "preempted"}))] {
        let stale = world.say(job, 1, what, body).await;
        assert_eq!(stale.body["current_attempt"], 1, "{what}");
        assert!(stale.problem(409).contains("is over (COMPLETED): stop working on it"), "{what}");
    }
    for (job, attempt, status) in [(job, 2, 404), (job, 0, 404), (99_999, 1, 404)] {
        world.say(job, attempt, "complete", json!({})).await.problem(status);
    }
    assert_eq!(world.attempt(job, 1).await, done, "nothing changed");
    // Of a job that is deleted nothing is left.
    assert_eq!(world.api.delete(&format!("/jobs/{child}")).await.status, 204);
    for (what, body) in [("heartbeat", json!({})), ("start", json!({})), ("complete", json!({})), ("fail", json!({}))] {
        world.say(child, 1, what, body).await.problem(404);
    }
    world.end().await;
}

/// What may be said of an attempt may be left unsaid, and then there need be no body.
#[tokio::test]
async fn who_has_nothing_to_say_sends_no_body() {
    let world = World::new().await;
    let (done, fails) = (world.job("done").await, world.job_with("fails", json!({"max_attempts": 2})).await);
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 2, "lease_seconds": 60})).await, [done, fails]);
    let send = async |path: String| world.api.send_with(Method::POST, &path, &[], Vec::new()).await;
    let say = async |job: i64, attempt: i64, what: &str| send(format!("/jobs/{job}/attempts/{attempt}/{what}")).await;
    say(done, 1, "start").await.expect(200);
    assert_eq!(say(done, 1, "heartbeat").await.expect(200)["cancel_requested"], false);
    let completed = say(done, 1, "complete").await.expect(200);
    assert_eq!((&completed["status"], &completed["result"]), (&json!("COMPLETED"), &Value::Null));
    assert!(say(fails, 1, "release").await.problem(422).starts_with("Invalid request: body"), "why must be said");
    let failed = say(fails, 1, "fail").await.expect(200);
    assert_eq!((&failed["job_status"], &failed["error"]), (&json!("PENDING"), &json!("")), "another attempt may do better");
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [fails]);
    assert_eq!(say(fails, 2, "fail").await.expect(200)["job_status"], "FAILED");
    assert_eq!(send(format!("/projects/{}/retry", world.project)).await.expect(200)["retried"], 1, "all that failed");
    // Where there is one it is read as strictly as any.
    world.say(done, 1, "complete", json!([])).await.problem(422);
    let text = [("content-type", "text/plain")];
    let path = format!("/jobs/{done}/attempts/1/heartbeat");
    assert_eq!(world.api.send_with(Method::POST, &path, &text, b"x".to_vec()).await.status, 415);
    world.end().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_until_its_attempts_are_used_up() {
    let world = World::new().await;
    let job = world.job_with("j", json!({"max_attempts": 2})).await;
    let child = world.job_with("child", json!({"depends": {job.to_string(): ""}})).await;
    let claim = json!({"client_id": "node"});
    assert_eq!(world.claim_ids(claim.clone()).await, [job]);
    let failed = world.say(job, 1, "fail", json!({"error": "out of memory", "exit_code": 137, "log_tail": "a"})).await.expect(200);
    assert_eq!((&failed["job_status"], &failed["exit_code"]), (&json!("PENDING"), &json!(137)));
    let again = world.say(job, 1, "fail", json!({"error": "another", "exit_code": 1})).await.expect(200);
    assert_eq!(again, failed, "the answer got lost, and it comes again");

    // Preempted: the attempt does not count.
    assert_eq!(world.claim_ids(claim.clone()).await, [job]);
    let released = world.say(job, 2, "release", json!({"reason": "preempted"})).await.expect(200);
    assert_eq!((&released["status"], &released["job_status"]), (&json!("RELEASED"), &json!("PENDING")));
    assert_eq!(world.say(job, 2, "release", json!({"reason": "preempted"})).await.expect(200), released);
    let stale = world.say(job, 1, "complete", json!({})).await;
    assert_eq!(stale.body["current_attempt"], 2);
    stale.problem(409);

    assert_eq!(world.claim_ids(claim.clone()).await, [job]);
    let failed = world.say(job, 3, "release", json!({"reason": "unable"})).await.expect(200);
    assert_eq!(failed["job_status"], "FAILED", "the second that counts");
    assert_eq!((world.api.status(job).await, world.api.status(child).await), ("FAILED".to_owned(), "BLOCKED".to_owned()));
    let attempts = world.api.get(&format!("/jobs/{job}/attempts?limit=2&skip=1")).await;
    assert_eq!(attempts.header("x-total-count"), "3");
    let listed: Vec<(i64, Value)> =
        attempts.body.as_array().unwrap().iter().map(|a| (a["attempt"].as_i64().unwrap(), a["status"].clone())).collect();
    assert_eq!(listed, [(2, json!("RELEASED")), (3, json!("RELEASED"))]);

    // Again, with all of its attempts; numbers go on.
    world.api.post(&format!("/jobs/{job}/retry"), json!({})).await.expect(200);
    assert_eq!(world.api.status(child).await, "PENDING");
    assert_eq!(world.claim_ids(claim.clone()).await, [job]);
    let hopeless = world.say(job, 4, "fail", json!({"error": "no such file", "retryable": false})).await.expect(200);
    assert_eq!(hopeless["job_status"], "FAILED");
    let retried = world.api.post(&format!("/projects/{}/retry", world.project), json!({})).await.expect(200);
    assert_eq!(retried, json!({"retried": 1}));
    assert_eq!((world.api.status(job).await, world.api.status(child).await), ("PENDING".to_owned(), "PENDING".to_owned()));
    world.end().await;
}

/// Being preempted does not count, so a job may have any number of attempts. Only the last thousand are kept.
#[tokio::test]
async fn of_a_job_that_is_given_back_for_ever_the_oldest_attempts_are_forgotten() {
    let world = World::new().await;
    let (job, other) = (world.job("j").await, world.job_with("other", json!({"priority": -1})).await);
    let database = world.database.connect().await;
    let attempts = "insert into attempts (job_id, number, status, cpu, accelerators, ended_at)
                    select id, number, 'RELEASED', 1, 0, now() from jobs cross join generate_series(1, 1500) as number";
    database.execute(attempts, &[]).await.unwrap();
    database.execute("update jobs set attempt = 1500", &[]).await.unwrap();
    let kept = async |job: i64| {
        let kept = "select count(*), min(number), max(number) from attempts where job_id = $1";
        let row = database.query_one(kept, &[&job]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i32>(1), row.get::<_, i32>(2))
    };
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job]);
    assert_eq!(kept(job).await, (1501, 1, 1501));
    world.say(job, 1501, "release", json!({"reason": "preempted"})).await.expect(200);
    assert_eq!((kept(job).await, kept(other).await), ((1000, 502, 1501), (1500, 1, 1500)));
    world.say(job, 502, "complete", json!({})).await.problem(409);
    world.say(job, 501, "complete", json!({})).await.problem(404);
    // As the published client puts a job back.
    for status in ["QUEUED", "PENDING"] {
        world.api.set_status(other, status).await;
    }
    assert_eq!(kept(other).await, (1000, 501, 1500));
    world.end().await;
}

#[tokio::test]
async fn retrying_a_project_unblocks_exactly_what_can_run() {
    let world = World::new().await;
    let (a, b, c) = (world.job("a").await, world.job("b").await, world.job("c").await);
    let below_a = world.job_with("below a", json!({"depends": {a.to_string(): ""}})).await;
    let below_both = world.job_with("below both", json!({"depends": {a.to_string(): "", b.to_string(): ""}})).await;
    let below_below = world.job_with("below below", json!({"depends": {below_both.to_string(): ""}})).await;
    world.api.set_status(a, "FAILED").await;
    world.api.set_status(b, "CANCELLED").await;
    let statuses = async || {
        let mut all = Vec::new();
        for job in [a, b, below_a, below_both, below_below, c] {
            all.push(world.api.status(job).await);
        }
        all.join(" ")
    };
    assert_eq!(statuses().await, "FAILED CANCELLED BLOCKED BLOCKED BLOCKED PENDING");
    let retry = format!("/projects/{}/retry", world.project);
    assert_eq!(world.api.post(&retry, json!({"task_id": world.task + 1})).await.expect(200)["retried"], 0);
    assert_eq!(world.api.post(&retry, json!({"status": "FAILED", "task_id": world.task})).await.expect(200)["retried"], 1);
    assert_eq!(statuses().await, "PENDING CANCELLED PENDING BLOCKED BLOCKED PENDING");
    assert_eq!(world.api.post(&retry, json!({"status": "CANCELLED"})).await.expect(200)["retried"], 1);
    assert_eq!(statuses().await, "PENDING PENDING PENDING PENDING PENDING PENDING");
    world.api.post(&retry, json!({"status": "RUNNING"})).await.problem(422);
    world.api.post(&format!("/jobs/{c}/retry"), json!({})).await.expect(200);
    world.api.set_status(c, "COMPLETED").await;
    assert!(world.api.post(&format!("/jobs/{c}/retry"), json!({})).await.problem(409).contains("is COMPLETED"));
    world.end().await;
}

#[tokio::test]
async fn a_running_job_is_cancelled_by_way_of_its_client_and_others_at_once() {
    let world = World::new().await;
    let cancel = async |job: i64| world.api.post(&format!("/jobs/{job}/cancel"), json!({})).await;
    let waiting = world.job_with("waiting", json!({"priority": -1})).await;
    let child = world.job_with("child", json!({"depends": {waiting.to_string(): ""}})).await;
    assert_eq!(cancel(waiting).await.expect(200)["status"], "CANCELLED");
    assert_eq!(cancel(waiting).await.expect(200)["status"], "CANCELLED", "again");
    assert_eq!(world.api.status(child).await, "BLOCKED");

    // A client that gives it up, one that completes it all the same, and one that never hears.
    let (given_up, completed, ignored) = (world.job("a").await, world.job("b").await, world.job("c").await);
    let claimed = world.claim_ids(json!({"client_id": "node", "max_jobs": 3, "lease_seconds": 1})).await;
    assert_eq!(claimed, [given_up, completed, ignored]);
    for job in claimed {
        assert_eq!(cancel(job).await.expect(200)["status"], "QUEUED");
        let beat = world.say(job, 1, "heartbeat", json!({"lease_seconds": 86_400})).await.expect(200);
        assert_eq!(beat["cancel_requested"], true);
    }
    assert_eq!(world.say(given_up, 1, "fail", json!({"error": "stopped"})).await.expect(200)["job_status"], "CANCELLED");
    assert_eq!(world.say(completed, 1, "complete", json!({})).await.expect(200)["job_status"], "COMPLETED");
    assert!(cancel(completed).await.problem(409).contains("nothing left to cancel"));
    eventually("the lease of who does not hear ends", || async { world.api.status(ignored).await == "CANCELLED" }).await;
    assert_eq!(world.attempt(ignored, 1).await["status"], "EXPIRED");
    world.say(ignored, 1, "complete", json!({})).await.problem(409);

    // Who fetched a job cannot be told.
    let fetched = world.job("fetched").await;
    world.api.get(&format!("/projects/{}/fetch_job", world.project)).await.expect(200);
    assert_eq!(cancel(fetched).await.expect(200)["status"], "CANCELLED");
    assert_eq!(world.attempt(fetched, 1).await["status"], "CANCELLED");
    cancel(99_999).await.problem(404);
    world.end().await;
}

#[tokio::test]
async fn a_lease_that_ends_gives_the_job_to_somebody_else_and_never_earlier() {
    let world = World::with(&[("max_attempts", "2")]).await;
    world.client("other", 8, 2).await;
    let job = world.job("j").await;
    let kept = world.job("kept").await;
    let child = world.job_with("child", json!({"depends": {job.to_string(): ""}})).await;
    let claimed = world.claim(json!({"client_id": "node", "max_jobs": 2, "lease_seconds": 1})).await;
    assert_eq!(claimed.len(), 2);
    // One is kept alive, which one call does for all that a client has.
    let beat = world.say(kept, 1, "heartbeat", json!({"lease_seconds": 600})).await.expect(200);
    assert!(beat["lease_expires_at"].as_str() > claimed[1]["lease_expires_at"].as_str());
    let other = json!({"client_id": "other", "max_jobs": 2, "wait_seconds": 20, "lease_seconds": 1});
    let again = world.claim(other.clone()).await;
    assert_eq!((again.len(), &again[0]["job"]["id"], &again[0]["attempt"]), (1, &json!(job), &json!(2)));
    let first = world.attempt(job, 1).await;
    assert_eq!((&first["status"], &first["job_status"]), (&json!("EXPIRED"), &json!("PENDING")));
    let second = world.attempt(job, 2).await;
    assert!(second["claimed_at"].as_str() >= first["lease_expires_at"].as_str(), "{second} is not earlier than the end of {first}");
    // Who was thought dead comes back.
    let stale = world.say(job, 1, "complete", json!({"result": 1})).await;
    assert_eq!(stale.body["current_attempt"], 2);
    assert_eq!(
        stale.problem(409),
        format!("Attempt 1 of job {job} is over (EXPIRED): stop working on it. The job is QUEUED, its last attempt is 2.")
    );
    // Nobody beats any more: its attempts are used up.
    eventually("the second lease ends", || async { world.api.status(job).await == "FAILED" }).await;
    assert_eq!(world.api.status(child).await, "BLOCKED");
    let alive = world.api.post("/clients/node/heartbeat", json!({})).await.expect(200);
    assert_eq!(alive["status"], "ok");
    let kept_alive: Vec<&Value> = alive["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["job_id"]).collect();
    assert_eq!(kept_alive, [kept]);
    assert_eq!(world.attempt(kept, 1).await["status"], "CLAIMED");
    world.api.delete("/clients/node").await;
    world.api.post("/clients/node/heartbeat", json!({})).await.problem(404);
    world.say(kept, 1, "heartbeat", json!({})).await.expect(200);
    world.end().await;
}

#[tokio::test]
async fn jobs_wait_for_their_time_and_longer_after_each_failure() {
    let world = World::new().await;
    let soon = chrono::Utc::now() + chrono::Duration::milliseconds(700);
    let scheduled = world.job_with("scheduled", json!({"not_before": soon.to_rfc3339()})).await;
    let tomorrow = world.job_with("tomorrow", json!({"not_before": "2999-01-01T00:00:00Z"})).await;
    let past = world.job_with("past", json!({"not_before": "1999-01-01T00:00:00Z", "priority": -1})).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 9})).await, [past]);
    let claimed = world.claim(json!({"client_id": "node", "max_jobs": 9, "wait_seconds": 20})).await;
    assert_eq!(claimed.iter().map(|claimed| &claimed["job"]["id"]).collect::<Vec<_>>(), [scheduled]);
    let claimed_at = world.attempt(scheduled, 1).await["claimed_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!(claimed_at >= soon, "not before {soon}, but at {claimed_at}");

    // Backoff doubles.
    let job = world.job_with("fails", json!({"backoff_seconds": 1000, "max_attempts": 3})).await;
    for (attempt, seconds) in [(1, 1000), (2, 2000)] {
        assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job]);
        let failed = world.say(job, attempt, "fail", json!({})).await.expect(200);
        assert_eq!(failed["job_status"], "PENDING");
        let now = failed["ended_at"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        let told = world.api.get(&format!("/jobs/{job}")).await.expect(200);
        let due = told["not_before"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        assert!((due - now).num_seconds().abs_diff(seconds) <= 1, "expected {seconds} s after {now}, got {due}");
        assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [0; 0], "it backs off");
        // Somebody is impatient.
        world.api.post(&format!("/jobs/{job}/retry"), json!({})).await.expect(200);
    }
    world.api.post(&format!("/jobs/{tomorrow}/retry"), json!({})).await.expect(200);
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 9})).await, [tomorrow, job]);
    world.end().await;
}

#[tokio::test]
async fn what_is_reported_has_its_limits() {
    let world = World::new().await;
    let job = world.job("j").await;
    world.claim(json!({"client_id": "node"})).await;
    let large = "x".repeat(65 * 1024);
    for (what, body, place) in [
        ("complete", json!({"result": large}), "result"),
        ("complete", json!({"log_tail": large}), "log_tail"),
        ("fail", json!({"error": large}), "error"),
        ("heartbeat", json!({"progress": 1.5}), "progress"),
        ("heartbeat", json!({"message": "x".repeat(1001)}), "message"),
        ("heartbeat", json!({"lease_seconds": 0}), "lease_seconds"),
        ("release", json!({}), "reason"),
        ("release", json!({"reason": "bored"}), "reason"),
    ] {
        let detail = world.say(job, 1, what, body).await.problem(422);
        assert!(detail.contains(place), "{what}: {detail}");
    }
    assert_eq!(world.attempt(job, 1).await["status"], "CLAIMED", "nothing was done");
    world.end().await;
}
