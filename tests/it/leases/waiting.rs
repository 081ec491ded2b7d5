//! Waiting for jobs instead of asking again and again.

use std::time::{Duration, Instant};

use serde_json::json;

use super::World;
use crate::support::{Server, eventually, waiting_for_locks};

/// Those who wait look by themselves after a second at the earliest.
const MUCH_SOONER: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_claim_is_answered_as_soon_as_there_is_something() {
    let world = World::with(&[("request_timeout_seconds", "1")]).await;
    // Longer than a request may take otherwise.
    let began = Instant::now();
    let empty = world.claim(json!({"client_id": "node", "wait_seconds": 2})).await;
    assert!(empty.is_empty() && began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());

    let all = world.task("all", 8, 0).await;
    // Jobs that are submitted, that wait no longer for others, that come back, and room that becomes free.
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..3 {
        let parent = world.job("parent").await;
        world.claim(json!({"client_id": "node"})).await;
        let (waiting, began) = (world.waiting(&world.api).await, Instant::now());
        let submitted = world.job("submitted").await;
        let (at, claimed) = waiting.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], submitted);
        times[0].push(at - began);
        let child = world.job_with("child", json!({"depends": {parent.to_string(): ""}})).await;
        let (waiting, began) = (world.waiting(&world.api).await, Instant::now());
        world.say(parent, 1, "complete", json!({})).await.expect(200);
        let (at, claimed) = waiting.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], child);
        times[1].push(at - began);
        let (waiting, began) = (world.waiting(&world.api).await, Instant::now());
        world.say(child, 1, "release", json!({"reason": "preempted"})).await.expect(200);
        let (at, claimed) = waiting.await.unwrap();
        assert_eq!(claimed["jobs"][0]["attempt"], 2);
        times[2].push(at - began);
        let large = world.job_with("large", json!({"task_id": all})).await;
        let (waiting, began) = (world.waiting(&world.api).await, Instant::now());
        for (job, attempt) in [(submitted, 1), (child, 2)] {
            world.say(job, attempt, "complete", json!({})).await.expect(200);
        }
        let (at, claimed) = waiting.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], large);
        times[3].push(at - began);
        world.say(large, 1, "complete", json!({})).await.expect(200);
    }
    for times in &mut times {
        times.sort_unstable();
    }
    assert!(times.iter().all(|times| times[1] < MUCH_SOONER), "expected most of each kind within {MUCH_SOONER:?}: {times:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_wait_and_each_gets_a_job_of_its_own() {
    let world = World::new().await;
    let path = format!("/projects/{}/claims", world.project);
    let mut waiting = Vec::new();
    for n in 0..200 {
        world.client(&format!("c{n}"), 1, 0).await;
        let (api, path) = (world.api.clone(), path.clone());
        let claim = json!({"client_id": format!("c{n}"), "wait_seconds": 60});
        waiting.push(tokio::spawn(async move { api.post(&path, claim).await.expect(200) }));
    }
    let jobs: Vec<_> = (0..200).map(|_| json!({"name": "j", "task_id": world.task, "parameters": {}})).collect();
    world.api.post(&format!("/projects/{}/jobs/batch", world.project), json!({"jobs": jobs})).await.expect(201);
    let mut got = std::collections::HashSet::new();
    for waiting in waiting {
        got.insert(waiting.await.unwrap()["jobs"][0]["job"]["id"].as_i64().unwrap());
    }
    assert_eq!(got.len(), 200, "each got one of its own");
    world.end().await;
}

/// Others hold the one job that many wait for: those are spared, and who just came is looked at all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_just_came_is_served_also_where_many_wait_for_what_others_hold() {
    let world = World::new().await;
    let path = format!("/projects/{}/claims", world.project);
    let (mut clients, mut jobs, watcher) = (world.database.connect().await, world.database.connect().await, world.database.connect().await);
    let mut waiting = Vec::new();
    for n in 0..70 {
        world.client(&format!("c{n}"), 1, 0).await;
        watcher
            .execute("update clients set last_heartbeat = now() - interval '1 minute' where id = $1", &[&format!("c{n}")])
            .await
            .unwrap();
        let (api, path, claim) = (world.api.clone(), path.clone(), json!({"client_id": format!("c{n}"), "wait_seconds": 30}));
        waiting.push(tokio::spawn(async move { api.post(&path, claim).await.expect(200) }));
    }
    let heard = "select count(*) = 70 from clients where id like 'c%' and last_heartbeat > now() - interval '30 seconds'";
    eventually("all claims are parked", || async { watcher.query_one(heard, &[]).await.unwrap().get::<_, bool>(0) }).await;
    // A round waits for a client. Meanwhile somebody takes the job, it rings, and one more comes, whom the server does not know.
    let client = clients.transaction().await.unwrap();
    client.batch_execute("select from clients where id like 'c%' for update").await.unwrap();
    let job = world.job("held").await;
    eventually("the server waits", || async { waiting_for_locks(&watcher).await == 1 }).await;
    let held = jobs.transaction().await.unwrap();
    held.execute("select from jobs where id = $1 for update", &[&job]).await.unwrap();
    let large = world.task("large", 9, 0).await;
    world.job_with("bell", json!({"task_id": large})).await;
    let comes = {
        let (api, path) = (world.api.clone(), path.clone());
        tokio::spawn(async move { api.post(&path, json!({"client_id": "nobody"})).await })
    };
    for _ in 0..5 {
        world.api.get("/projects").await.expect(200);
    }
    client.rollback().await.unwrap();
    comes.await.unwrap().problem(404);
    held.rollback().await.unwrap();
    eventually("the job is somebody's", || async { waiting.iter().any(tokio::task::JoinHandle::is_finished) }).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    world.end().await;
}

/// Not everything that gives a client more room is told to those who wait: so they look by themselves, also where it rings all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_not_forgotten_where_it_rings_all_the_time() {
    let world = World::new().await;
    let (all, large) = (world.task("all", 8, 0).await, world.task("large", 9, 0).await);
    let held = world.job_with("held", json!({"task_id": all})).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [held]);
    let database = world.database.connect().await;
    database.execute("update clients set last_heartbeat = now() - interval '1 minute'", &[]).await.unwrap();
    let job = world.job("j").await;
    let waiting = {
        let (api, path) = (world.api.clone(), format!("/projects/{}/claims", world.project));
        let claim = json!({"client_id": "node", "wait_seconds": 50, "task_ids": [world.task]});
        tokio::spawn(async move { api.post(&path, claim).await.expect(200)["jobs"][0]["job"]["id"].as_i64() })
    };
    let heard = "select last_heartbeat > now() - interval '30 seconds' from clients where id = 'node'";
    eventually("the claim is parked", || async { database.query_one(heard, &[]).await.unwrap().get::<_, bool>(0) }).await;
    database.execute("update attempts set status = 'RELEASED', ended_at = now()", &[]).await.unwrap();
    let began = Instant::now();
    while !waiting.is_finished() {
        // Which nobody here can take.
        world.job_with("bell", json!({"task_id": large})).await;
        assert!(began.elapsed() < Duration::from_secs(6), "expected that a claim that has room again is served within two seconds");
    }
    assert_eq!(waiting.await.unwrap(), Some(job));
}

/// Who stops waiting gets nothing, and what a server that stops has parked is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_gets_nothing_and_a_server_that_stops_answers() {
    let world = World::new().await;
    let second = Server::start_with(&world.database, &[("rate_limit_per_minute", "0")]).await;
    let gone = world.waiting(&second.api).await;
    gone.abort();
    let job = world.job("j").await;
    eventually("the job is there for somebody else", || async {
        world.claim_ids(json!({"client_id": "node", "wait_seconds": 1})).await == [job]
    })
    .await;

    let (waits, began) = (world.waiting(&second.api).await, Instant::now());
    second.stop().await;
    assert_eq!(waits.await.unwrap().1, json!({"jobs": []}));
    assert!(began.elapsed() < Duration::from_secs(20), "it does not wait for those who wait: {:?}", began.elapsed());
    world.end().await;
}

/// What happens on one server is heard on the others, much sooner than they look by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_on_one_server_hears_of_a_job_submitted_on_another() {
    let world = World::new().await;
    let second = Server::start_with(&world.database, &[("rate_limit_per_minute", "0")]).await;
    let mut times = Vec::new();
    for _ in 0..9 {
        let waiting = world.waiting(&second.api).await;
        let sent = Instant::now();
        let job = world.job("j").await;
        let (at, claimed) = waiting.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], job);
        times.push(at - sent);
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    times.sort_unstable();
    assert!(times[4] < Duration::from_millis(100), "expected half of them within 100 ms: {times:?}");
    second.stop().await;
    world.end().await;
}

/// Who signs off while it waits is not made to come back, and gets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_off_while_waiting_is_given_nothing_and_stays_away() {
    let world = World::new().await;
    let database = world.database.connect().await;
    database.execute("update clients set last_heartbeat = now() - interval '1 minute'", &[]).await.unwrap();
    let waits = {
        let (api, path) = (world.api.clone(), format!("/projects/{}/claims", world.project));
        tokio::spawn(async move { api.post(&path, json!({"client_id": "node", "wait_seconds": 60})).await.expect(200) })
    };
    let heard = "select last_heartbeat > now() - interval '30 seconds' from clients where id = 'node'";
    eventually("the claim is parked", || async { database.query_one(heard, &[]).await.unwrap().get::<_, bool>(0) }).await;
    world.api.post("/clients/node/deactivate", json!({})).await.expect(200);
    let job = world.job("j").await;
    assert_eq!(waits.await.unwrap(), json!({"jobs": []}));
    let client = world.api.get("/clients/node").await.expect(200);
    assert_eq!(client["is_active"], 0, "{client}");
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job], "who claims anew is there again");
    assert_eq!(world.api.get("/clients/node").await.expect(200)["is_active"], 1);
    world.end().await;
}

/// A claim that comes in while others wait has its turn after them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_come_before_those_who_just_came() {
    let world = World::new().await;
    for client in ["waits", "comes", "locked"] {
        world.client(client, 1, 0).await;
    }
    let (mut database, watcher) = (world.database.connect().await, world.database.connect().await);
    let other = world.task("other", 1, 0).await;
    let claim = |client: &str, task: i64| {
        let (api, path) = (world.api.clone(), format!("/projects/{}/claims", world.project));
        let claim = json!({"client_id": client, "wait_seconds": 30, "task_ids": [task]});
        tokio::spawn(async move { api.post(&path, claim).await.expect(200)["jobs"][0]["job"]["id"].as_i64() })
    };
    for _ in 0..3 {
        watcher.execute("update clients set last_heartbeat = now() - interval '1 minute'", &[]).await.unwrap();
        let (waits, locked) = (claim("waits", world.task), claim("locked", other));
        let heard = "select bool_and(last_heartbeat > now() - interval '30 seconds') from clients where id in ('waits', 'locked')";
        eventually("both claims are parked", || async { watcher.query_one(heard, &[]).await.unwrap().get::<_, bool>(0) }).await;
        // The server serves one of them, and has to wait, since somebody else has locked that client.
        let transaction = database.transaction().await.unwrap();
        transaction.execute("select from clients where id = 'locked' for update", &[]).await.unwrap();
        let first = world.job_with("first", json!({"task_id": other})).await;
        eventually("the server waits", || async { waiting_for_locks(&watcher).await == 1 }).await;
        // Meanwhile another one comes, and then there is a job.
        let comes = claim("comes", world.task);
        for _ in 0..5 {
            world.api.get("/projects").await.expect(200);
        }
        let job = world.job("j").await;
        transaction.rollback().await.unwrap();
        assert_eq!(waits.await.unwrap(), Some(job), "whoever waited longest has it");
        let more = world.job("j").await;
        assert_eq!(comes.await.unwrap(), Some(more));
        assert_eq!(locked.await.unwrap(), Some(first));
        for job in [job, more, first] {
            world.say(job, 1, "complete", json!({})).await.expect(200);
        }
    }
    world.end().await;
}
