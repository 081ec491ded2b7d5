//! A client that waits for room of its own hears at once that it has some, whatever gave it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::World;
use crate::support::eventually;

/// Who waits looks by itself after a second at the earliest. By chance that falls in the right moment, but not six times of seven.
const MUCH_SOONER: Duration = Duration::from_millis(600);

/// Looks whether most of seven answers came so soon after what they waited for.
fn assert_soon(mut late: Vec<Duration>, after_what: &str) {
    late.sort_unstable();
    assert!(late.len() == 7 && late[5] < MUCH_SOONER, "expected most of seven answers within {MUCH_SOONER:?} of {after_what}: {late:?}");
}

/// The room of a client whose lease has ended is its own again, and its claim that waits for room hears of it, though nobody reports anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_for_its_own_lease_to_end_and_no_longer() {
    let world = World::with(&[("max_attempts", "100")]).await;
    world.client("node", 1, 0).await;
    let database = world.database.connect().await;
    let ended = "select max(ended_at) from attempts";
    let mut late = Vec::new();
    world.job("j").await;
    assert_eq!(world.claim(json!({"client_id": "node", "lease_seconds": 3600})).await.len(), 1);
    for _ in 0..7 {
        let waits = world.waiting(&world.api).await;
        database.execute("update attempts set lease_expires_at = now() where ended_at is null", &[]).await.unwrap();
        let (_, claimed) = waits.await.unwrap();
        assert_eq!(claimed["jobs"].as_array().unwrap().len(), 1);
        let ended: chrono::DateTime<chrono::Utc> = database.query_one(ended, &[]).await.unwrap().get(0);
        late.push((chrono::Utc::now() - ended).to_std().unwrap_or_default());
    }
    assert_soon(late, "the end of the lease");
    world.end().await;
}

/// So does the claim of a client whose job somebody sets to another status, or deletes, by itself, with its task, or with its project.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_waits_for_its_job_to_be_taken_from_it_and_no_longer() {
    let world = World::new().await;
    world.client("node", 1, 0).await;
    let next = world.job("next").await;
    for how in ["a new status", "its deletion", "that of its task", "that of its project"] {
        let mut late = Vec::new();
        for n in 0..7 {
            let (project, task) = world.api.project_with_task("other").await;
            let job = world.api.job(project, task, "j", &[]).await;
            // The one that waits takes no room meanwhile, and none is given to it before.
            let held = world.api.post(&format!("/projects/{project}/claims"), json!({"client_id": "node"})).await.expect(200);
            assert_eq!(held["jobs"][0]["job"]["id"], job);
            if n % 2 == 1 {
                world.say(job, 1, "start", json!({})).await.expect(200);
            }
            let waits = world.waiting(&world.api).await;
            let began = Instant::now();
            match how {
                "a new status" => drop(world.api.set_status(job, ["COMPLETED", "FAILED", "CANCELLED"][n % 3]).await),
                "its deletion" => drop(world.api.delete(&format!("/jobs/{job}")).await.expect(204)),
                "that of its task" => drop(world.api.delete(&format!("/tasks/{task}")).await.expect(204)),
                _ => drop(world.api.delete(&format!("/projects/{project}")).await.expect(204)),
            }
            let (at, claimed) = waits.await.unwrap();
            late.push(at - began);
            let granted = &claimed["jobs"][0];
            assert_eq!(granted["job"]["id"], next);
            world.say(next, granted["attempt"].as_i64().unwrap(), "release", json!({"reason": "preempted"})).await.expect(200);
            if how != "that of its project" {
                world.api.delete(&format!("/projects/{project}")).await.expect(204);
            }
        }
        assert_soon(late, how);
    }
    world.end().await;
}

/// A client is forgotten while its claim waits, and registered anew with more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_registered_anew_waits_no_longer_for_what_fits_it_now() {
    let world = World::new().await;
    let job = world.job_with("j", json!({"task_id": world.task("large", 9, 0).await})).await;
    let mut late = Vec::new();
    for attempt in 1..=7 {
        world.client("node", 8, 0).await;
        let waits = world.waiting(&world.api).await;
        world.api.delete("/clients/node").await.expect(204);
        let began = Instant::now();
        world.client("node", 9, 0).await;
        let (at, claimed) = waits.await.unwrap();
        late.push(at - began);
        assert_eq!(claimed["jobs"][0]["job"]["id"], job);
        world.say(job, attempt, "release", json!({"reason": "preempted"})).await.expect(200);
    }
    assert_soon(late, "its registration");
    world.end().await;
}

/// Whoever takes a job from its client goes away in the moment of the commit, when nobody can tell what comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_hears_of_its_room_though_whoever_gave_it_has_gone() {
    // Behind a pooler a statement cannot be told to stop in time, or is told when it is somebody else's.
    let world = World::with(&[("database_pooler", "none")]).await;
    world.client("node", 1, 0).await;
    let database = world.database.connect().await;
    let slow = "create function slow() returns trigger language plpgsql as $$ begin
                    perform pg_sleep(0.06);
                    return null;
                end $$;
                create constraint trigger slow after update or delete on attempts deferrable initially deferred
                    for each row when (old.ended_at is null and old.status = 'RUNNING') execute function slow();";
    database.batch_execute(slow).await.unwrap();
    let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";
    for how in ["fail", "release", "complete", "PUT", "DELETE"] {
        let mut late = Vec::new();
        let mut rounds = 0..40;
        while late.len() < 7 {
            rounds.next().unwrap_or_else(|| panic!("expected {how} to be done though whoever asked has gone, most times"));
            let (job, next) = (world.job("j").await, world.job("next").await);
            let first = world.claim_ids(json!({"client_id": "node", "max_jobs": 1, "lease_seconds": 3600})).await;
            assert_eq!(first, [job]);
            world.say(job, 1, "start", json!({})).await.expect(200);
            let waits = world.waiting(&world.api).await;
            let asks = tokio::spawn({
                let (api, mut body) = (world.api.clone(), world.api.get(&format!("/jobs/{job}")).await.expect(200));
                body["status"] = json!("FAILED");
                async move {
                    let report = format!("/jobs/{job}/attempts/1/{how}");
                    match how {
                        "fail" => api.post(&report, json!({"error": "e", "retryable": false})).await,
                        "release" => api.post(&report, json!({"reason": "unable"})).await,
                        "complete" => api.post(&report, json!({})).await,
                        "PUT" => api.put(&format!("/jobs/{job}"), body).await,
                        _ => api.delete(&format!("/jobs/{job}")).await,
                    }
                }
            });
            eventually("it is being committed", || async {
                database.query_one(sleeps, &[]).await.unwrap().get::<_, i64>(0) == 1 || asks.is_finished()
            })
            .await;
            asks.abort();
            let began = Instant::now();
            let has_gone = asks.await.is_err();
            eventually("it is over", || async { database.query_one(sleeps, &[]).await.unwrap().get::<_, i64>(0) == 0 }).await;
            let is_done = "select not exists (select from attempts where job_id = $1 and ended_at is null)";
            let is_done: bool = database.query_one(is_done, &[&job]).await.unwrap().get(0);
            if !is_done {
                // It took so long that it was given up.
                world.api.delete(&format!("/jobs/{job}")).await.expect(204);
            }
            let (at, claimed) = waits.await.unwrap();
            if is_done && has_gone {
                late.push(at - began);
            }
            // A job that was released may be given out again.
            let granted = claimed["jobs"][0]["job"]["id"].as_i64().expect("it had room");
            assert!([job, next].contains(&granted), "{claimed}");
            for job in [job, next] {
                world.api.delete(&format!("/jobs/{job}")).await;
            }
        }
        assert_soon(late, how);
    }
    world.end().await;
}
