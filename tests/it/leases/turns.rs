//! Whose turn it is among those who wait.

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::World;
use crate::support::eventually;

const CLAIMS: usize = 20;

/// Of how many it is known at once that they are served, and in which order.
const TOGETHER: usize = 7;

/// Which of them have been answered.
fn answered(waiting: &[JoinHandle<Value>]) -> Vec<usize> {
    (0..waiting.len()).filter(|n| waiting[*n].is_finished()).collect()
}

/// Each has its place before the next one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_are_served_one_after_the_other_in_the_order_in_which_they_came() {
    let world = World::new().await;
    let database = world.database.connect().await;
    let mut waiting = Vec::new();
    for n in 0..CLAIMS {
        // Neither by name nor by what they have are they in that order.
        let client = format!("c{}", (n * 7 + 3) % CLAIMS);
        world.client(&client, 1 + i32::try_from(n).unwrap() % 3, 0).await;
        database.execute("update clients set last_heartbeat = now() - interval '1 minute' where id = $1", &[&client]).await.unwrap();
        let (api, path) = (world.api.clone(), format!("/projects/{}/claims", world.project));
        let claim = json!({"client_id": client, "wait_seconds": 60});
        waiting.push(tokio::spawn(async move { api.post(&path, claim).await.expect(200)["jobs"][0]["job"]["id"].clone() }));
        let heard = "select last_heartbeat > now() - interval '30 seconds' from clients where id = $1";
        eventually("the claim is parked", || async { database.query_one(heard, &[&client]).await.unwrap().get::<_, bool>(0) }).await;
    }
    let mut jobs = world.jobs(TOGETHER).await;
    eventually("as many are answered as there are jobs", || async { answered(&waiting).len() == TOGETHER }).await;
    assert_eq!(answered(&waiting), (0..TOGETHER).collect::<Vec<_>>(), "those who came first");
    for next in TOGETHER..CLAIMS {
        jobs.push(world.job("j").await);
        eventually("one more is answered", || async { answered(&waiting).len() == next + 1 }).await;
        assert!(waiting[next].is_finished(), "expected the one at place {next} to be next, not one of {:?}", answered(&waiting));
    }
    let mut got = Vec::new();
    for waiting in waiting {
        got.push(waiting.await.unwrap());
    }
    assert_eq!(json!(got), json!(jobs), "the first job is for the first of them, and so on");
    world.end().await;
}
