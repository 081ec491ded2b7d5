//! Claims of jobs that others are taking at the same moment.

use serde_json::{Value, json};

use super::World;
use crate::support::eventually;

/// How many claims one transaction serves.
const TOGETHER: usize = 64;

/// Jobs that others are taking hide nothing that comes behind them, however many they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_behind_many_locked_jobs_is_found() {
    let world = World::new().await;
    let jobs = world.jobs(200).await;
    let mut other = world.database.connect().await;
    let taking = other.transaction().await.unwrap();
    taking.execute("select from jobs where id = any ($1) for update", &[&&jobs[..120]]).await.unwrap();
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 3})).await, jobs[120..123]);
    taking.rollback().await.unwrap();
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, jobs[..1]);
    world.end().await;
}

/// Those who wait and find the first jobs being taken by another server are given what comes behind; nobody who came later is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_a_job_to_another_server_is_not_passed_over() {
    let world = World::new().await;
    let database = world.database.connect().await;
    let register = "insert into clients (id, name, entity, available_cpu, available_accelerators, last_heartbeat)
                    select 'client-' || n, 'c', 'lab', 1, 0, now() - interval '1 hour' from generate_series(0, $1::bigint - 1) as n";
    database.execute(register, &[&(2 * TOGETHER as i64)]).await.unwrap();
    let mut waiting = Vec::new();
    for wave in 0..2 {
        for n in 0..TOGETHER {
            let (api, path) = (world.api.clone(), format!("/projects/{}/claims", world.project));
            let claim = json!({"client_id": format!("client-{}", wave * TOGETHER + n), "wait_seconds": 60});
            waiting.push(tokio::spawn(async move { api.post(&path, claim).await.expect(200) }));
        }
        let heard = "select count(*) from clients where id like 'client-%' and last_heartbeat > now() - interval '30 minutes'";
        eventually("a wave waits", || async { database.query_one(heard, &[]).await.unwrap().get::<_, i64>(0) == waiting.len() as i64 })
            .await;
    }
    // As many jobs are being taken by another server as there are claims in a wave, and as many come behind them.
    let set_status = async |status: &str| {
        let project = json!({"name": "p", "description": "", "status": status});
        world.api.put(&format!("/projects/{}", world.project), project).await.expect(200);
    };
    set_status("ARCHIVED").await;
    let jobs = world.jobs(2 * TOGETHER).await;
    let mut other = world.database.connect().await;
    let taking = other.transaction().await.unwrap();
    taking.execute("select from jobs where id = any ($1) for update", &[&&jobs[..TOGETHER]]).await.unwrap();
    set_status("ACTIVE").await;
    let (first, second) = waiting.split_at_mut(TOGETHER);
    for waiting in first {
        let claimed: Value = waiting.await.unwrap();
        let got = claimed["jobs"][0]["job"]["id"].as_i64().expect("a job for each that came first");
        assert!(jobs[TOGETHER..].contains(&got), "{got} is none of those that nobody else was taking");
    }
    assert_eq!(second.iter().filter(|waiting| waiting.is_finished()).count(), 0, "there was none for those who came later");
    taking.rollback().await.unwrap();
    // Of which the bell tells.
    world.api.set_status(jobs[0], "PENDING").await;
    for waiting in second {
        assert!(waiting.await.unwrap()["jobs"][0].is_object(), "a job for each that came later");
    }
    world.end().await;
}
