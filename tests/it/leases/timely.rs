//! Who waits hears of what nobody tells at the right moment: of a time that has come, and of what its submitter does not wait for.

use std::time::{Duration, Instant};

use serde_json::json;

use super::World;
use crate::support::{eventually, waiting_for_locks};

/// Who makes jobs ready looks each second, and a job's time comes between two looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_due_in_a_moment_is_given_out_in_that_moment() {
    const AHEAD: Duration = Duration::from_millis(100);
    let world = World::new().await;
    let mut late = Vec::new();
    for n in 0..9 {
        let waits = world.waiting(&world.api).await;
        let (due, time) = (Instant::now() + AHEAD, chrono::Utc::now() + AHEAD);
        let jobs = json!([{"name": "j", "task_id": world.task, "parameters": {}, "not_before": time.to_rfc3339()},
                          {"name": "far", "task_id": world.task, "parameters": {}, "not_before": "2999-01-01T00:00:00Z"}]);
        // One by one, and many at once.
        let job = match n % 2 {
            0 => world.job_with("j", json!({"not_before": time.to_rfc3339()})).await,
            _ => {
                let path = format!("/projects/{}/jobs/batch", world.project);
                world.api.post(&path, json!({"jobs": jobs})).await.expect(201)["job_ids"][0].as_i64().unwrap()
            }
        };
        let (at, claimed) = waits.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], job);
        late.push(at.saturating_duration_since(due));
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    late.sort_unstable();
    // By chance a look falls in the right moment, but not seven times of nine.
    assert!(late[6] < Duration::from_millis(250), "expected most jobs within 250 ms of their time: {late:?}");
    world.end().await;
}

/// While a change is made it holds its job, and whoever claims walks past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_given_out_at_once_when_a_change_of_it_is_refused() {
    let world = World::new().await;
    let (mut holder, watcher) = (world.database.connect().await, world.database.connect().await);
    let mut times = Vec::new();
    for n in 0..5 {
        let (job, task) = (world.job("j").await, world.task(&format!("{n}"), 1, 0).await);
        // Nobody knows whether the task that the job is to have is there, until this ends.
        let deletes = holder.transaction().await.unwrap();
        deletes.execute("delete from tasks where id = $1", &[&task]).await.unwrap();
        let refused = tokio::spawn({
            let (api, mut content) = (world.api.clone(), world.api.get(&format!("/jobs/{job}")).await.expect(200).clone());
            content["task_id"] = json!(task);
            async move { api.put(&format!("/jobs/{job}"), content).await.problem(400) }
        });
        eventually("the change waits", || async { waiting_for_locks(&watcher).await == 1 }).await;
        let waits = world.waiting(&world.api).await;
        let began = Instant::now();
        deletes.commit().await.unwrap();
        let (at, claimed) = waits.await.unwrap();
        times.push(at - began);
        assert_eq!(claimed["jobs"][0]["job"]["id"], job);
        refused.await.unwrap();
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    times.sort_unstable();
    assert!(times[2] < Duration::from_millis(600), "expected most answers sooner than who waits looks by itself: {times:?}");
    world.end().await;
}

/// A request whose client goes away is given up, and may have been done all the same: here PostgreSQL is told to stop, and does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_given_out_at_once_though_its_submitter_did_not_wait_for_the_answer() {
    // Behind a pooler it is not told: what becomes of the statement is between the pooler and PostgreSQL.
    let world = World::with(&[("database_pooler", "none")]).await;
    let database = world.database.connect().await;
    // PostgreSQL signals a process and then its group (`signal_child`), so one cancellation may interrupt twice, the second time a moment later.
    let stubborn = "create function stubborn() returns trigger language plpgsql as $$ begin
                        begin
                            begin perform pg_sleep(10); exception when query_canceled then perform pg_sleep(0.02); end;
                        exception when query_canceled then null;
                        end;
                        return new;
                    end $$;
                    create trigger stubborn before insert on jobs for each row execute function stubborn();";
    database.batch_execute(stubborn).await.unwrap();
    let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";
    let mut times = Vec::new();
    for _ in 0..5 {
        let waits = world.waiting(&world.api).await;
        let submits = tokio::spawn({
            let (api, job) =
                (world.api.clone(), json!({"name": "j", "project_id": world.project, "task_id": world.task, "parameters": {}}));
            async move { api.post("/jobs", job).await }
        });
        eventually("it is being done", || async { database.query_one(sleeps, &[]).await.unwrap().get::<_, i64>(0) == 1 }).await;
        submits.abort();
        let began = Instant::now();
        let (at, claimed) = waits.await.unwrap();
        times.push(at - began);
        let job = claimed["jobs"][0]["job"]["id"].as_i64().expect("it was submitted");
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    times.sort_unstable();
    assert!(times[2] < Duration::from_millis(700), "expected most answers sooner than who waits looks by itself: {times:?}");
    world.end().await;
}
