//! One project in which everything waits is nothing to the others.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Notify;
use whatsnext::{
    postgres::{Transaction, Work, query::claims::ARRIVE},
    queue,
};

use super::World;
use crate::support::{eventually, id, waiting_for_locks, within};

/// Somebody holds the graphs of several projects, and in each a lease has ended of which more follows. The leases of others end as they should, also those of which
/// more follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_has_to_wait_for_its_project_keeps_no_other_projects() {
    const JAMMED: usize = 6;
    let world = World::with(&[("max_attempts", "1")]).await;
    let (mut holder, database) = (world.database.connect().await, world.database.connect().await);
    let mut jobs = Vec::new();
    world.client("rack", 100, 0).await;
    for n in 0..=JAMMED {
        let (project, task) = world.api.project_with_task(&format!("{n}")).await;
        for is_parent in [true, false] {
            let job = world.api.job(project, task, "j", &[]).await;
            if is_parent {
                world.api.job(project, task, "child", &[job]).await;
            }
            let claimed = world.api.post(&format!("/projects/{project}/claims"), json!({"client_id": "rack"})).await.expect(200);
            assert_eq!(claimed["jobs"][0]["job"]["id"], job);
            jobs.push((project, job));
        }
    }
    let (of_jammed, others) = jobs.split_at(2 * JAMMED);
    let (jammed, stuck): (Vec<i64>, Vec<i64>) = of_jammed.iter().step_by(2).copied().unzip();
    let holds = holder.transaction().await.unwrap();
    holds.execute("select from projects where id = any ($1) for update", &[&jammed]).await.unwrap();
    let late = "update attempts set lease_expires_at = now() where job_id = $1";
    database.execute("update attempts set lease_expires_at = now() where job_id = any ($1)", &[&stuck]).await.unwrap();
    // Four at first, and more when these have waited for long.
    eventually("their ends wait", || async { waiting_for_locks(&database).await == 6 }).await;
    for (_, job) in others {
        database.execute(late, &[job]).await.unwrap();
    }
    let have_failed = async || join_all(others.iter().map(|(_, job)| world.api.status(*job))).await.iter().all(|status| status == "FAILED");
    within(Duration::from_secs(6), "the other leases have ended", have_failed).await;
    let of_stuck = async || join_all(stuck.iter().map(|job| world.api.status(*job))).await;
    assert_eq!(of_stuck().await, ["QUEUED"; JAMMED], "these wait");
    let longest = "select coalesce(max(extract(epoch from now() - query_start)), 0)::float8 from pg_stat_activity
                   where wait_event_type = 'Lock' and datname = current_database()";
    let keeps_its_place = async || database.query_one(longest, &[]).await.unwrap().get::<_, f64>(0) > 3.0;
    within(Duration::from_secs(8), "they keep their places among those who wait", keeps_its_place).await;
    holds.rollback().await.unwrap();
    within(Duration::from_secs(10), "and they end when they can", async || of_stuck().await == ["FAILED"; JAMMED]).await;
    world.end().await;
}

/// Many leases have ended of which more follows, and each takes long to end. Those of another project do not wait for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_take_long_to_end_keep_no_other_projects() {
    const MANY: usize = 60;
    let world = World::with(&[("max_attempts", "1")]).await;
    let database = world.database.connect().await;
    world.client("rack", 100, 0).await;
    let parents = world.jobs(MANY).await;
    for parent in &parents {
        world.api.job(world.project, world.task, "child", &[*parent]).await;
    }
    assert_eq!(world.claim_ids(json!({"client_id": "rack", "max_jobs": MANY})).await, parents);
    let (other, task) = world.api.project_with_task("other").await;
    let job = world.api.job(other, task, "j", &[]).await;
    world.api.job(other, task, "child", &[job]).await;
    let claimed = world.api.post(&format!("/projects/{other}/claims"), json!({"client_id": "node"})).await.expect(200);
    assert_eq!(claimed["jobs"][0]["job"]["id"], job);
    let slow = format!(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.2); return new; end $$;
         create trigger slow before update on jobs for each row when (new.status = 'FAILED' and new.project_id = {})
         execute function slow();",
        world.project
    );
    database.batch_execute(&slow).await.unwrap();
    let have_ended = async || database.query_one("select count(*) from jobs where status = 'FAILED'", &[]).await.unwrap().get::<_, i64>(0);
    database.execute("update attempts set lease_expires_at = now() where job_id <> $1", &[&job]).await.unwrap();
    eventually("they begin to end", || async { have_ended().await > 0 }).await;
    database.execute("update attempts set lease_expires_at = now() where job_id = $1", &[&job]).await.unwrap();
    within(Duration::from_secs(5), "the other project's lease has ended", async || world.api.status(job).await == "FAILED").await;
    let ended = have_ended().await;
    assert!(ended < 50, "expected it to end before most of those that take long: {ended} have ended");
    within(Duration::from_secs(30), "they end too", async || have_ended().await == 1 + i64::try_from(MANY).unwrap()).await;
    world.end().await;
}

/// Whoever fetches jobs walks past what others hold, and does not wait with those who wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_fetch_jobs_do_not_wait_for_those_who_change_the_graph() {
    let world = World::new().await;
    let parent = world.job_with("parent", json!({"not_before": "2999-01-01T00:00:00Z"})).await;
    let jobs = world.jobs(3).await;
    let (mut holder, watcher) = (world.database.connect().await, world.database.connect().await);
    let holds = holder.transaction().await.unwrap();
    holds.execute("select from projects where id = $1 for update", &[&world.project]).await.unwrap();
    let changes: Vec<_> = (0..20)
        .map(|_| {
            let (api, project, task) = (world.api.clone(), world.project, world.task);
            tokio::spawn(async move { api.job(project, task, "child", &[parent]).await })
        })
        .collect();
    eventually("as many wait as may", || async { waiting_for_locks(&watcher).await >= 8 }).await;
    for job in jobs {
        let fetch = async || world.api.get(&format!("/projects/{}/fetch_job", world.project)).await.expect(200);
        let fetched = tokio::time::timeout(Duration::from_secs(5), fetch()).await.expect("it is answered while they wait");
        assert_eq!(fetched["job"]["id"], job);
    }
    holds.rollback().await.unwrap();
    for added in join_all(changes).await {
        assert_eq!(world.api.status(added.unwrap()).await, "PENDING");
    }
    world.end().await;
}

/// Somebody changes or deletes jobs that run, which takes a while. Their clients beat for them, and take no connection from others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_beat_for_what_somebody_holds_leave_connections_to_others() {
    let world = World::new().await;
    world.client("rack", 100, 0).await;
    let jobs = world.jobs(20).await;
    assert_eq!(world.claim_ids(json!({"client_id": "rack", "max_jobs": 20})).await, jobs);
    let free = world.job("free").await;
    assert_eq!(world.claim_ids(json!({"client_id": "rack"})).await, [free]);
    let (mut holder, watcher) = (world.database.connect().await, world.database.connect().await);
    watcher.execute("update clients set last_heartbeat = now() - interval '1 minute' where id = 'rack'", &[]).await.unwrap();
    watcher.execute("update attempts set cancel_requested = true where job_id = $1", &[&jobs[0]]).await.unwrap();
    let holds = holder.transaction().await.unwrap();
    holds.execute("select from attempts where job_id <> $1 for update", &[&free]).await.unwrap();
    let holds_it: i32 = holds.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let behind = "select count(*) from pg_stat_activity where $1 = any (pg_blocking_pids(pid))";
    let wait_for_it = async || watcher.query_one(behind, &[&holds_it]).await.unwrap().get::<_, i64>(0);
    let before: String = world.attempt(free, 1).await["lease_expires_at"].as_str().unwrap().to_owned();
    let beat = |path: String| {
        let api = world.api.clone();
        tokio::spawn(async move { api.post(&path, json!({})).await })
    };
    let for_one = |job: &i64| beat(format!("/jobs/{job}/attempts/1/heartbeat"));
    let for_all = || beat("/clients/rack/heartbeat".to_owned());
    let (ones, alls): (Vec<_>, Vec<_>) = jobs.iter().map(|job| (for_one(job), for_all())).unzip();
    for _ in 0..10 {
        world.api.get("/projects").await.expect(200);
        assert_eq!(wait_for_it().await, 0, "nobody waits for that with a connection");
    }
    let left = world.say(free, 1, "heartbeat", json!({})).await.expect(200);
    assert_eq!(left["cancel_requested"], false, "what nobody holds is extended");
    for one in ones {
        assert!(one.await.unwrap().problem(503).starts_with("Somebody is changing attempt 1 of job"));
    }
    for all in alls {
        let all = all.await.unwrap().expect(200);
        let told: BTreeMap<i64, &Value> =
            all["attempts"].as_array().unwrap().iter().map(|left| (left["job_id"].as_i64().unwrap(), left)).collect();
        assert_eq!(told.len(), 21, "what was not extended is told of as it stands");
        assert!(told[&free]["lease_expires_at"].as_str() > Some(&before), "and the others are extended");
        assert!(told.iter().all(|(job, left)| left["cancel_requested"] == (*job == jobs[0])));
    }
    let heard = "select last_heartbeat > now() - interval '30 seconds' from clients where id = 'rack'";
    assert!(watcher.query_one(heard, &[]).await.unwrap().get::<_, bool>(0), "the client is there");
    // It is tried again as long as there is hope.
    let (one, all) = (for_one(&jobs[1]), for_all());
    holds.rollback().await.unwrap();
    one.await.unwrap().expect(200);
    all.await.unwrap().expect(200);
    world.end().await;
}

/// A lease has ended, and somebody holds its attempt. Those of others end all the same, and this one when it can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_somebody_holds_keeps_no_other_from_its_end() {
    let world = World::new().await;
    let jobs = world.jobs(3).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 3})).await, jobs);
    let (mut holder, database) = (world.database.connect().await, world.database.connect().await);
    // They are about to end, and then do while this one is held.
    let soon = "update attempts set lease_expires_at = now() + interval '3 seconds'";
    database.execute(soon, &[]).await.unwrap();
    let holds = holder.transaction().await.unwrap();
    holds.execute("select from attempts where job_id = $1 for update", &[&jobs[0]]).await.unwrap();
    let have_ended = async || join_all(jobs[1..].iter().map(|job| world.api.status(*job))).await.iter().all(|status| status == "PENDING");
    within(Duration::from_secs(9), "the other leases have ended", have_ended).await;
    assert_eq!(world.api.status(jobs[0]).await, "QUEUED", "this one's end waits");
    holds.rollback().await.unwrap();
    within(Duration::from_secs(6), "and ends when it can", async || world.api.status(jobs[0]).await == "PENDING").await;
    world.end().await;
}

/// What fetches jobs of one project waits, and has a quarter of the pool at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_fetch_jobs_of_a_project_leave_connections_to_others() {
    let world = World::with(&[("database_checkout_timeout_seconds", "60")]).await;
    world.jobs(40).await;
    let (mut holder, watcher) = (world.database.connect().await, world.database.connect().await);
    let holds = holder.transaction().await.unwrap();
    holds.batch_execute("lock table attempts in share mode").await.unwrap();
    let fetches: Vec<_> = (0..40)
        .map(|_| {
            let (api, path) = (world.api.clone(), format!("/projects/{}/fetch_job", world.project));
            tokio::spawn(async move { api.get(&path).await.expect(200)["job"]["id"].as_i64() })
        })
        .collect();
    eventually("they wait", || async { waiting_for_locks(&watcher).await >= 4 }).await;
    for _ in 0..10 {
        world.api.get("/projects").await.expect(200);
    }
    assert_eq!(waiting_for_locks(&watcher).await, 4, "a quarter of 16 connections");
    holds.rollback().await.unwrap();
    let mut fetched: Vec<_> = join_all(fetches).await.into_iter().map(|job| job.unwrap().expect("there is one for each")).collect();
    fetched.sort_unstable();
    fetched.dedup();
    assert_eq!(fetched.len(), 40);
    world.end().await;
}

/// Many wait for something that another one holds, and one behind them for something that nobody holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_hold_keeps_nobody_from_what_there_is() {
    const CROWD: usize = 70;
    let world = World::new().await;
    let path = format!("/projects/{}/claims", world.project);
    let (mut holder, database) = (world.database.connect().await, world.database.connect().await);
    let becomes = async |status: &str| {
        let project = json!({"name": "p", "description": "", "status": status});
        world.api.put(&format!("/projects/{}", world.project), project).await.expect(200);
    };
    becomes("ARCHIVED").await;
    let held = world.job("for CPUs").await;
    let free = world.job_with("for accelerators", json!({"task_id": world.task("gpu", 0, 1).await})).await;
    let holds = holder.transaction().await.unwrap();
    holds.execute("select from jobs where id = $1 for update", &[&held]).await.unwrap();
    for n in 0..CROWD {
        world.client(&format!("cpu-{n}"), 1, 0).await;
    }
    world.client("node", 0, 1).await;
    let claim = |client: String| {
        let (api, path) = (world.api.clone(), path.clone());
        tokio::spawn(async move { api.post(&path, json!({"client_id": client, "wait_seconds": 60})).await.expect(200)["jobs"].clone() })
    };
    database.execute("update clients set last_heartbeat = now() - interval '1 minute'", &[]).await.unwrap();
    let crowd: Vec<_> = (0..CROWD).map(|n| claim(format!("cpu-{n}"))).collect();
    let heard = "select count(*) from clients where last_heartbeat > now() - interval '30 seconds'";
    let crowd_size = i64::try_from(CROWD).unwrap();
    eventually("the crowd waits", || async { database.query_one(heard, &[]).await.unwrap().get::<_, i64>(0) == crowd_size }).await;
    let mut late = Vec::new();
    for attempt in 1..=7 {
        let waits = world.waiting(&world.api).await;
        let began = Instant::now();
        becomes("ACTIVE").await;
        let (at, claimed) = waits.await.unwrap();
        late.push(at - began);
        assert_eq!(id(&claimed["jobs"][0]["job"]), free);
        becomes("ARCHIVED").await;
        world.say(free, attempt, "release", json!({"reason": "preempted"})).await.expect(200);
    }
    late.sort_unstable();
    // Who waits looks by itself after a second at the earliest.
    assert!(late[5] < Duration::from_millis(600), "expected most answers at once: {late:?}");
    crowd.iter().for_each(tokio::task::JoinHandle::abort);
    holds.rollback().await.unwrap();
    world.end().await;
}

/// A server that vanishes while it serves a client's claim.
struct Vanishes {
    is_serving: Notify,
    is_back: Notify,
}

impl Work for Vanishes {
    type Output = ();
    type Error = queue::Error;

    async fn run(&self, transaction: &Transaction<'_>) -> queue::Result<()> {
        let (nobody, no_key): (Option<i64>, Option<&str>) = (None, None);
        let arrived = ARRIVE.all(transaction, &[&vec!["node"], &vec![nobody], &vec![no_key]]).await?;
        assert_eq!(arrived.len(), 1);
        self.is_serving.notify_one();
        self.is_back.notified().await;
        ARRIVE.all(transaction, &[&vec!["node"], &vec![nobody], &vec![no_key]]).await.map(drop).map_err(Into::into)
    }
}

/// It holds the client, which the load balancer has sent to another server by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_vanished_keeps_its_clients_from_others_for_a_moment_only() {
    let world = World::new().await;
    let job = world.job("j").await;
    let (there, vanishes) = (world.database.database(), Vanishes { is_serving: Notify::new(), is_back: Notify::new() });
    let elsewhere = async {
        vanishes.is_serving.notified().await;
        let claimed = tokio::time::timeout(Duration::from_secs(10), world.claim_ids(json!({"client_id": "node"}))).await;
        assert_eq!(claimed.expect("the other server's transaction has ended"), [job]);
        vanishes.is_back.notify_one();
    };
    let (lost, ()) = tokio::join!(there.transaction(&vanishes), elsewhere);
    let Err(queue::Error::Database(error)) = lost else { panic!("expected it to have lost its transaction") };
    assert!(error.is_transient(), "whoever asked it may ask again: {error:?}");
    world.end().await;
}
