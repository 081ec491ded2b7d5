//! Finished jobs are forgotten after their time.

use std::time::Duration;

use serde_json::json;
use whatsnext::queue::{
    Bells, Policy,
    jobs::{Pruned, Store},
};

use super::World;
use crate::support::{eventually, id, waiting_for_locks};

#[tokio::test]
async fn finished_jobs_are_forgotten_after_their_time_if_nothing_needs_them() {
    // A tenth of a second.
    let world = World::with(&[("retention_days", "0.0000011574")]).await;
    let there = async |job: i64| world.api.get(&format!("/jobs/{job}")).await.status == 200;
    let (done, needed, failed) = (world.job("done").await, world.job("needed").await, world.job("failed").await);
    let waits = world.job_with("waits", json!({"depends": {needed.to_string(): ""}})).await;
    let blocked = world.job_with("blocked", json!({"depends": {failed.to_string(): ""}})).await;
    for (job, status) in [(done, "COMPLETED"), (needed, "COMPLETED"), (failed, "FAILED")] {
        world.api.set_status(job, status).await;
    }
    eventually("what nothing depends on is forgotten", || async { !there(done).await }).await;
    assert!(there(needed).await && there(failed).await && there(waits).await && there(blocked).await);
    world.api.set_status(waits, "COMPLETED").await;
    world.api.set_status(blocked, "CANCELLED").await;
    eventually("the rest is forgotten when nothing needs it", || async {
        let mut left = 0;
        for job in [needed, failed, waits, blocked] {
            left += usize::from(there(job).await);
        }
        left == 0
    })
    .await;
    world.end().await;
}

/// What cannot be forgotten keeps nothing else, and is forgotten when it can be.
#[tokio::test]
async fn a_project_in_which_forgetting_fails_keeps_no_other() {
    let world = World::with(&[("retention_days", "0.0000011574")]).await;
    let there = async |job: i64| world.api.get(&format!("/jobs/{job}")).await.status == 200;
    let (kept, gone) = (world.job("kept").await, world.job("gone").await);
    let (other, task) = world.api.project_with_task("other").await;
    let elsewhere = world.api.job(other, task, "elsewhere", &[]).await;
    let database = world.database.connect().await;
    let refuse = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
         create trigger refuse before delete on jobs for each row when (old.id = {kept}) execute function refuse()"
    );
    database.batch_execute(&refuse).await.unwrap();
    for job in [kept, elsewhere] {
        world.api.set_status(job, "COMPLETED").await;
    }
    eventually("the other project's is forgotten", || async { !there(elsewhere).await }).await;
    assert!(there(kept).await, "the trigger keeps it");
    // Again and again: also what comes later.
    let later =
        id(&world.api.post("/jobs", json!({"name": "later", "project_id": other, "task_id": task, "parameters": {}})).await.expect(201));
    world.api.set_status(later, "COMPLETED").await;
    eventually("what comes later is forgotten", || async { !there(later).await }).await;
    assert!(there(kept).await && there(gone).await);
    database.batch_execute("drop trigger refuse on jobs").await.unwrap();
    eventually("the round after that forgets it", || async { !there(kept).await }).await;
    assert!(there(gone).await, "it is not finished");
    world.end().await;
}

/// However many there are, few are forgotten at a time, and whoever claims and reports does not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_is_forgotten_a_few_at_a_time_and_keeps_nobody_waiting() {
    const OLD: i64 = 5000;
    const MOST: i64 = 2000;
    let age = Duration::from_secs(24 * 60 * 60);
    let world = World::new().await;
    let (mut holder, database) = (world.database.connect().await, world.database.connect().await);
    let jobs = "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet, updated_at)
                select $1, $2, 'old', '{}', 'COMPLETED', 0, 0, now() - interval '3 days' from generate_series(1, $3::bigint)";
    database.execute(jobs, &[&world.project, &world.task, &OLD]).await.unwrap();
    let first: i64 = database.query_one("select min(id) from jobs", &[]).await.unwrap().get(0);
    let (job, waits) = (world.job("j").await, world.job("waits").await);
    let store = Store::new(world.database.database(), Policy::default(), Bells::default());
    let left = async || database.query_one("select count(*) from jobs", &[]).await.unwrap().get::<_, i64>(0);

    // Somebody holds one of them, so that forgetting is under way for as long as this takes.
    let holds = holder.transaction().await.unwrap();
    holds.execute("select from jobs where id = $1 for update", &[&first]).await.unwrap();
    let pruning = tokio::spawn({
        let store = store.clone();
        async move { store.prune(0, age).await }
    });
    eventually("it is under way", || async { waiting_for_locks(&database).await == 1 }).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job]);
    world.say(job, 1, "start", json!({})).await.expect(200);
    world.say(job, 1, "heartbeat", json!({})).await.expect(200);
    world.say(job, 1, "complete", json!({})).await.expect(200);
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [waits]);
    assert!(!pruning.is_finished(), "expected all of that to be done while jobs are being forgotten");
    holds.rollback().await.unwrap();
    let Pruned { mut deleted, mut next, failures } = pruning.await.unwrap().unwrap();
    assert!((1..=MOST).contains(&deleted), "expected {MOST} jobs at most to be forgotten at once, not {deleted}");
    assert!(next.is_some() && failures.is_empty(), "expected that it is told where to go on: {next:?}, {failures:?}");
    assert_eq!(left().await, OLD + 2 - deleted);
    while let Some(after) = next {
        let pruned = store.prune(after, age).await.unwrap();
        assert!(pruned.deleted <= MOST && pruned.failures.is_empty(), "{pruned:?}");
        (deleted, next) = (deleted + pruned.deleted, pruned.next);
    }
    assert_eq!((deleted, left().await), (OLD, 2), "all that is old, and nothing else");
    world.end().await;
}
