//! Many leases that end at the same moment.

use std::time::{Duration, Instant};

use serde_json::json;

use super::World;
use crate::support::{Server, eventually, waiting_for_locks, within};

const LEASES: usize = 2000;

/// How long after its lease the last job may wait or have failed.
const BOUND: f64 = 5.0;

/// Every second job is on its last attempt, and for some of these others wait. Two servers share the work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "it measures")]
async fn when_all_machines_die_at_once_their_jobs_are_offered_again_within_seconds() {
    let world = World::new().await;
    let second = Server::start_with(&world.database, &[("rate_limit_per_minute", "0"), ("backoff_seconds", "0")]).await;
    let mut database = world.database.connect().await;
    let jobs = world.jobs(LEASES).await;
    let mut children = Vec::new();
    for parent in jobs.iter().filter(|job| **job % 2 == 0).step_by(100) {
        children.push(world.job_with("child", json!({"depends": {parent.to_string(): ""}})).await);
    }
    let dead = database.transaction().await.unwrap();
    let set = "update jobs set status = 'RUNNING', attempt = 1, max_attempts = case when id % 2 = 0 then 1 end where id = any ($1)";
    dead.execute(set, &[&jobs]).await.unwrap();
    let begin = "insert into attempts (job_id, number, client_id, status, cpu, accelerators, lease_seconds, lease_expires_at)
                 select id, 1, 'node', 'RUNNING', 1, 0, 2, now() + interval '2 seconds' from unnest($1::bigint[]) as id";
    dead.execute(begin, &[&jobs]).await.unwrap();
    dead.commit().await.unwrap();

    let count =
        async |status: &str| -> i64 { database.query_one("select count(*) from jobs where status = $1", &[&status]).await.unwrap().get(0) };
    within(Duration::from_secs(60), "all leases have ended", async || count("RUNNING").await == 0).await;
    let (half, waiting) = (LEASES as i64 / 2, children.len() as i64);
    assert_eq!((count("PENDING").await, count("FAILED").await, count("BLOCKED").await), (half, half, waiting));
    let wrong = "select count(*) from jobs j left join attempts a on a.job_id = j.id and a.number = 1
                 where j.id = any ($1) and (a.status, a.job_status, j.failed_attempts, j.due) is distinct from ('EXPIRED', j.status, 1, true)";
    assert_eq!(database.query_one(wrong, &[&jobs]).await.unwrap().get::<_, i64>(0), 0, "each attempt says what became of its job");
    let late = "select extract(epoch from max(ended_at - lease_expires_at))::float8 as last, bool_and(ended_at >= lease_expires_at) as after from attempts";
    let row = database.query_one(late, &[]).await.unwrap();
    let (last, after): (f64, bool) = (row.get("last"), row.get("after"));
    eprintln!("the last of {LEASES} leases was ended {last:.2} s after its end");
    assert!(after, "none earlier than its lease");
    assert!(last <= BOUND, "expected all to be given back within {BOUND} s of the end of their leases, not {last:.2} s");
    let began = Instant::now();
    assert_eq!(world.claim(json!({"client_id": "node", "max_jobs": 8})).await.len(), 8, "there they are");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    second.stop().await;
    world.end().await;
}

/// What is asked to be cancelled is, together with others, and a heartbeat that comes before the sweep keeps its job.
#[tokio::test]
async fn leases_that_end_together_end_each_in_its_own_way() {
    let world = World::new().await;
    let jobs = world.jobs(4).await;
    let [again, cancelled, last, blocked] = jobs[..] else { unreachable!() };
    let parent = world.job("parent").await;
    let database = world.database.connect().await;
    database.execute("update jobs set max_attempts = 1 where id = $1", &[&last]).await.unwrap();
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 4, "lease_seconds": 600})).await, jobs);
    world.api.post(&format!("/jobs/{cancelled}/cancel"), json!({})).await.expect(200);
    // One that came to wait for another job while it runs, which has failed since.
    let mut job = world.api.get(&format!("/jobs/{blocked}")).await.expect(200);
    job["depends"] = json!({parent.to_string(): ""});
    world.api.put(&format!("/jobs/{blocked}"), job).await.expect(200);
    world.api.set_status(parent, "FAILED").await;
    database.execute("update attempts set lease_expires_at = clock_timestamp()", &[]).await.unwrap();
    let statuses = async || {
        let mut all = Vec::new();
        for job in &jobs {
            all.push(world.api.status(*job).await);
        }
        all
    };
    eventually("all have ended", || async { statuses().await == ["PENDING", "CANCELLED", "FAILED", "BLOCKED"] }).await;
    for (job, failed) in [(again, 1), (cancelled, 0), (last, 1), (blocked, 1)] {
        let row = database.query_one("select failed_attempts from jobs where id = $1", &[&job]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), failed, "of job {job}");
        let attempt = world.attempt(job, 1).await;
        assert_eq!((&attempt["status"], &attempt["job_status"]), (&json!("EXPIRED"), &json!(world.api.status(job).await)), "of job {job}");
    }
    world.end().await;
}

/// Ends the leases of all that is claimed.
async fn end_leases(world: &World) {
    let end = "update attempts set lease_expires_at = clock_timestamp() where ended_at is null";
    world.database.connect().await.execute(end, &[]).await.unwrap();
}

/// What somebody else holds is passed over, and taken back when they let go of it.
#[tokio::test]
async fn a_job_that_somebody_has_locked_keeps_no_other_from_going_back() {
    let world = World::new().await;
    let mut holder = world.database.connect().await;
    let jobs = world.jobs(3).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 3, "lease_seconds": 600})).await, jobs);
    // The first, the one between, and the last.
    for (n, held) in jobs.iter().enumerate() {
        let holds = holder.transaction().await.unwrap();
        holds.execute("select from jobs where id = $1 for update", &[held]).await.unwrap();
        end_leases(&world).await;
        let attempt = n as i64 + 1;
        for job in jobs.iter().filter(|job| *job != held) {
            within(Duration::from_secs(5), "another job is back", async || world.api.status(*job).await == "PENDING").await;
        }
        assert_eq!(world.attempt(*held, attempt).await["status"], "CLAIMED", "it is somebody's");
        holds.rollback().await.unwrap();
        within(Duration::from_secs(5), "this one is back as well", async || world.api.status(*held).await == "PENDING").await;
        assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 3, "lease_seconds": 600})).await.len(), 3);
        world.database.connect().await.execute("update jobs set failed_attempts = 0", &[]).await.unwrap();
    }
    world.end().await;
}

/// Here a trigger wants it so.
#[tokio::test]
async fn a_lease_that_cannot_be_taken_back_keeps_no_other_and_is_taken_back_when_it_can_be() {
    let world = World::new().await;
    let database = world.database.connect().await;
    let jobs = world.jobs(5).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 5, "lease_seconds": 600})).await, jobs);
    let kept = jobs[2];
    let refuse = format!(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not this one'; end $$;
         create trigger refuse before update on jobs for each row when (old.id = {kept}) execute function refuse()"
    );
    database.batch_execute(&refuse).await.unwrap();
    end_leases(&world).await;
    for job in jobs.iter().filter(|job| **job != kept) {
        within(Duration::from_secs(5), "another job is back", async || world.api.status(*job).await == "PENDING").await;
    }
    // Also what comes later.
    let later = world.job("later").await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 600})).await, [jobs[0]]);
    end_leases(&world).await;
    within(Duration::from_secs(5), "it is back again", async || world.attempt(jobs[0], 2).await["status"] == "EXPIRED").await;
    assert_eq!((world.api.status(kept).await, world.api.status(later).await), ("QUEUED".to_owned(), "PENDING".to_owned()));
    assert_eq!(world.attempt(kept, 1).await["status"], "CLAIMED");
    database.batch_execute("drop trigger refuse on jobs").await.unwrap();
    within(Duration::from_secs(5), "it is taken back as well", async || world.api.status(kept).await == "PENDING").await;
    assert_eq!(world.attempt(kept, 1).await["status"], "EXPIRED");
    world.end().await;
}

/// A heartbeat that came first, and is noted only when the sweep is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_whose_lease_is_extended_while_it_is_swept_lives() {
    let world = World::new().await;
    let (mut holder, watcher) = (world.database.connect().await, world.database.connect().await);
    let job = world.job("j").await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 2})).await, [job]);
    let beat = holder.transaction().await.unwrap();
    let extend =
        "update attempts set lease_seconds = 600, lease_expires_at = clock_timestamp() + interval '600 seconds' where ended_at is null";
    assert_eq!(beat.execute(extend, &[]).await.unwrap(), 1, "it lives");
    let swept = "select lease_expires_at < clock_timestamp() - interval '4 seconds' from attempts";
    eventually("the sweep waits for it, or has passed over it", || async {
        waiting_for_locks(&watcher).await == 1 || watcher.query_one(swept, &[]).await.unwrap().get::<_, bool>(0)
    })
    .await;
    beat.commit().await.unwrap();
    // These wait for a sweep that is under way.
    world.say(job, 1, "start", json!({})).await.expect(200);
    world.say(job, 1, "heartbeat", json!({})).await.expect(200);
    let done = world.say(job, 1, "complete", json!({})).await.expect(200);
    assert_eq!((&done["status"], world.api.status(job).await), (&json!("COMPLETED"), "COMPLETED".to_owned()));
    world.end().await;
}
