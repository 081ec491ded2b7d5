//! Finished jobs are forgotten after their time.

use serde_json::json;

use super::World;
use crate::support::{eventually, id};

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
