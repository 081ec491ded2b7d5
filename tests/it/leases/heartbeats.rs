//! What heartbeats lock and what they leave behind.

use std::time::Duration;

use serde_json::json;
use whatsnext::queue::{
    Bells, Policy,
    jobs::{Beat, Store},
};

use super::World;
use crate::support::{eventually, waiting_for_locks};

/// A heartbeat and a client's end at the same moment: whichever comes first, neither is undone by a deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_and_the_end_of_its_client_do_not_lock_each_other_out() {
    let world = World::new().await;
    let (mut database, watcher) = (world.database.connect().await, world.database.connect().await);
    let job = world.job("j").await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 60})).await, [job]);
    // Long enough ago that it is noted.
    watcher.execute("update clients set last_heartbeat = now() - interval '1 minute'", &[]).await.unwrap();
    let holds = database.transaction().await.unwrap();
    holds.execute("select from clients where id = 'node' for update", &[]).await.unwrap();
    let end = tokio::spawn({
        let api = world.api.clone();
        async move { api.delete("/clients/node").await.status }
    });
    eventually("the end waits", || async { waiting_for_locks(&watcher).await == 1 }).await;
    let beat = tokio::time::timeout(Duration::from_secs(5), world.say(job, 1, "heartbeat", json!({})));
    beat.await.expect("the heartbeat waits for nobody").expect(200);
    let beat = tokio::time::timeout(Duration::from_secs(5), world.api.post("/clients/node/heartbeat", json!({})));
    let beaten = beat.await.expect("nor does one for all that the client runs").expect(200);
    assert_eq!(beaten["attempts"][0]["job_id"], job);
    assert_eq!(waiting_for_locks(&watcher).await, 1, "the end waits still");
    holds.rollback().await.unwrap();
    assert_eq!(end.await.unwrap(), 204);
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(watcher.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
    world.end().await;
}

/// What is greater, or comes later in the alphabet, is nothing to what was said last.
#[tokio::test]
async fn of_an_attempt_that_beats_twice_at_once_the_last_counts() {
    let world = World::new().await;
    let jobs = world.jobs(2).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 2, "lease_seconds": 60})).await, jobs);
    let beat = |job_id, said: Option<(f64, &str, &str, i32)>| Beat {
        job_id,
        number: 1,
        progress: said.map(|said| said.0),
        message: said.map(|said| said.1.to_owned()),
        log_tail: said.map(|said| said.2.to_owned()),
        lease_seconds: said.map(|said| said.3),
    };
    let (early, late) = (Some((0.9, "validating", "step 9", 900)), Some((0.1, "again", "step 10", 100)));
    let beats = [beat(jobs[0], early), beat(jobs[1], late), beat(jobs[0], late), beat(jobs[1], early), beat(jobs[0], None)];
    let store = Store::new(world.database.database(), Policy::default(), Bells::default());
    let mut left = store.heartbeats(&beats, Some("node")).await.unwrap();
    left.sort_by_key(|left| left.job_id);
    assert_eq!(left.iter().map(|left| left.job_id).collect::<Vec<_>>(), jobs, "each is told of once");
    let database = world.database.connect().await;
    for (job, last) in [(jobs[0], late), (jobs[1], early)] {
        let stored = "select progress, message, log_tail, lease_seconds from attempts where job_id = $1";
        let row = database.query_one(stored, &[&job]).await.unwrap();
        assert_eq!(Some((row.get(0), row.get(1), row.get(2), row.get(3))), last, "of job {job}");
    }
    world.end().await;
}

/// Whoever beats as before writes no index. What is left behind is gone without a vacuum, however long a job runs.
#[tokio::test]
async fn a_heartbeat_writes_no_index_unless_it_changes_how_long_the_lease_lasts() {
    const BEATS: i64 = 200;
    let world = World::new().await;
    let job = world.job("j").await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 60})).await, [job]);
    let database = world.database.connect().await;
    // How many rows of attempts were written, and how many of them without an index.
    let written = async || {
        let counts = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'attempts'";
        let row = database.query_one(counts, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let beat = async |beats: &dyn Fn(i64) -> serde_json::Value| {
        let before = written().await;
        for n in 0..BEATS {
            world.say(job, 1, "heartbeat", beats(n)).await.expect(200);
        }
        eventually("PostgreSQL has counted them", || async { written().await.0 >= before.0 + BEATS }).await;
        let after = written().await;
        (after.0 - before.0, after.1 - before.1)
    };
    let same = beat(&|n| json!({"progress": n as f64 / BEATS as f64, "message": format!("step {n}"), "lease_seconds": 60})).await;
    let tails = beat(&|n| json!({"log_tail": random(n, 8 * 1024)})).await;
    // One that meets a full page beside a reader's snapshot may have to move.
    for (written, what) in [(same, "progress"), (tails, "ends of logs")] {
        assert!(
            written.0 == BEATS && written.1 >= BEATS * 9 / 10,
            "expected that nearly all of {BEATS} with {what} write no index, not {written:?}"
        );
    }
    let other = beat(&|n| json!({"lease_seconds": 61 + n})).await;
    assert_eq!(other, (BEATS, 0), "none of them: attempts_held_idx is for those with a lease");
    world.end().await;
}

/// Text of so many bytes that cannot be compressed to much less.
fn random(seed: i64, bytes: usize) -> String {
    let mut state = seed.unsigned_abs() + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from((state >> 33) % 95).expect("a letter"))
    };
    (0..bytes).map(|_| next()).collect()
}
