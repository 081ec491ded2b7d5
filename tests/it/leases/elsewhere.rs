//! Who waits on one server hears of what is done on another, and of what nobody can tell it looks by itself.

use std::time::{Duration, Instant};

use serde_json::json;

use super::World;
use crate::support::{Proxy, Server, eventually};

/// How soon most of those who wait hear of it. Those who look by themselves do so after a second at the earliest.
const AT_ONCE: Duration = Duration::from_millis(100);

/// How late a job may be given out whose time has come.
const LATE: Duration = Duration::from_millis(250);

/// Another server on the world's database.
async fn second(world: &World, settings: &[(&str, &str)]) -> Server {
    Server::start_with(&world.database, &[&[("rate_limit_per_minute", "0"), ("backoff_seconds", "0")], settings].concat()).await
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_parents_completion_is_heard_of_on_other_servers_at_once() {
    let world = World::new().await;
    let second = second(&world, &[]).await;
    // Of whom nobody who waits hears that it has room again.
    world.client("other", 8, 2).await;
    let mut times = Vec::new();
    for _ in 0..9 {
        let parents = world.jobs(2).await;
        assert_eq!(world.claim_ids(json!({"client_id": "other", "max_jobs": 2, "lease_seconds": 600})).await, parents);
        let depends = json!({parents[0].to_string(): "", parents[1].to_string(): ""});
        let child = world.job_with("child", json!({"depends": depends})).await;
        let waits = world.waiting(&second.api).await;
        world.say(parents[0], 1, "complete", json!({})).await.expect(200);
        assert!(!waits.is_finished(), "expected that it waits for the other parent");
        let began = Instant::now();
        world.say(parents[1], 1, "complete", json!({})).await.expect(200);
        let (at, claimed) = waits.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], child);
        times.push(at - began);
        world.say(child, 1, "complete", json!({})).await.expect(200);
    }
    assert!(median(&mut times) < AT_ONCE, "expected most answers within {AT_ONCE:?}: {times:?}");
    second.stop().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_becomes_due_is_heard_of_on_other_servers_at_once() {
    const AHEAD: Duration = Duration::from_millis(100);
    let world = World::new().await;
    let second = second(&world, &[]).await;
    let mut late = Vec::new();
    for _ in 0..9 {
        let waits = world.waiting(&second.api).await;
        let (due, time) = (Instant::now() + AHEAD, chrono::Utc::now() + AHEAD);
        let job = world.job_with("j", json!({"not_before": time.to_rfc3339()})).await;
        let (at, claimed) = waits.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], job);
        late.push(at.saturating_duration_since(due));
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    assert!(median(&mut late) < LATE, "expected most jobs within {LATE:?} of their time: {late:?}");
    second.stop().await;
    world.end().await;
}

/// A claim that is parked, and nobody who could tell it: it looks each second or two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_who_waits_looks_by_itself() {
    const SOON: Duration = Duration::from_secs(3);
    let proxy = Proxy::to_redis().await;
    let url = proxy.redis_url();
    let world = World::with(&[("redis_url", &url)]).await;
    let second = second(&world, &[("redis_url", &url)]).await;
    proxy.cut();
    for api in [&world.api, &second.api] {
        eventually("the server knows that Redis is away", || async { api.get("/readyz").await.body["redis"] == "down" }).await;
    }
    for _ in 0..5 {
        let waits = world.waiting(&second.api).await;
        let began = Instant::now();
        let job = world.job("j").await;
        let (at, claimed) = waits.await.unwrap();
        assert_eq!(claimed["jobs"][0]["job"]["id"], job);
        assert!(at - began < SOON, "expected an answer within {SOON:?}, not after {:?}", at - began);
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    second.stop().await;
    world.end().await;
}

/// What waits holds nothing of PostgreSQL, and nobody is told that it was away who need not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_outlives_postgresql() {
    let world = World::new().await;
    let proxy = Proxy::to_postgresql().await;
    let url = proxy.database_url(&world.database);
    let cut_off = second(&world, &[("database_url", &url), ("database_pooler", "none")]).await;
    world.client("other", 1, 0).await;
    let job = json!({"name": "j", "project_id": world.project, "task_id": world.task, "parameters": {}});
    for _ in 0..2 {
        let waits = world.waiting(&cut_off.api).await;
        // That its client was heard of is seen before the server knows that it is. Whoever comes next has its turn when that is over.
        let next = cut_off.api.post(&format!("/projects/{}/claims", world.project), json!({"client_id": "other"})).await;
        assert_eq!(next.expect(200), json!({"jobs": []}));
        proxy.cut();
        eventually("requests are refused", || async { cut_off.api.try_get("/projects").await == Some(503) }).await;
        // What fails may have been done: so each of these makes those who wait look.
        for _ in 0..5 {
            assert_eq!(cut_off.api.post("/jobs", job.clone()).await.status, 503);
        }
        assert!(!waits.is_finished(), "expected that it waits for what comes when PostgreSQL is back");
        proxy.mend();
        eventually("requests are served again", || async { cut_off.api.try_get("/projects").await == Some(200) }).await;
        let job = cut_off.api.post("/jobs", job.clone()).await.expect(201)["id"].as_i64().unwrap();
        assert_eq!(waits.await.unwrap().1["jobs"][0]["job"]["id"], job);
        world.say(job, 1, "complete", json!({})).await.expect(200);
    }
    cut_off.stop().await;
    world.end().await;
}
