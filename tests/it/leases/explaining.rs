//! What is told of a job, and of a project.

use serde_json::{Value, json};
use whatsnext::{
    postgres::query::projects::{BUSIEST, STATS},
    queue::{Bells, projects},
};

use super::World;
use crate::support::eventually;

#[tokio::test]
async fn a_job_says_what_it_waits_for() {
    let world = World::new().await;
    let explain = async |job: i64| world.api.get(&format!("/jobs/{job}/explain")).await.expect(200);
    let kinds = |explanation: &Value| -> Vec<String> {
        explanation["waits_for"].as_array().unwrap().iter().map(|wait| wait["kind"].as_str().unwrap().to_owned()).collect()
    };
    let huge = world.task("huge", 1000, 0).await;
    let urgent = world.job_with("urgent", json!({"priority": 5})).await;
    let ready = world.job("ready").await;
    let child = world.job_with("child", json!({"depends": {ready.to_string(): "", urgent.to_string(): ""}})).await;
    let all = json!({"task_id": huge, "not_before": "2999-01-01T00:00:00Z", "depends": {ready.to_string(): ""}});
    let everything = world.job_with("everything", all).await;

    let told = explain(ready).await;
    assert_eq!((&told["ahead"], &told["waits_for"], &told["attempt"]), (&json!(1), &json!([]), &Value::Null));
    assert_eq!(told["summary"], "It is ready; 1 job of the project is more urgent.");
    let told = explain(child).await;
    assert_eq!((kinds(&told), &told["waits_for"][0]["jobs"]), (vec!["jobs".to_owned()], &json!([urgent, ready])));
    let told = explain(everything).await;
    assert_eq!(kinds(&told), ["jobs", "time", "client"]);
    assert!(
        told["summary"]
            .as_str()
            .unwrap()
            .contains("It needs 1000 CPUs and 0 accelerators, which none of the clients that are alive has (1)"),
        "{told}"
    );

    world.claim(json!({"client_id": "node"})).await;
    let told = explain(urgent).await;
    assert_eq!((&told["summary"], &told["attempt"]["client_id"]), (&json!("Client node has it, in attempt 1."), &json!("node")));
    world.say(urgent, 1, "fail", json!({"retryable": false})).await.expect(200);
    assert_eq!(explain(urgent).await["summary"], "It is FAILED, after attempt 1.");
    let told = explain(child).await;
    assert!(told["summary"].as_str().unwrap().contains("of which 1 cannot without a retry"), "{told}");
    let archived = json!({"name": "p", "description": "", "status": "ARCHIVED"});
    world.api.put(&format!("/projects/{}", world.project), archived).await.expect(200);
    assert_eq!(kinds(&explain(ready).await), ["project"]);
    world.api.get("/jobs/99999/explain").await.problem(404);
    world.end().await;
}

#[tokio::test]
async fn a_job_says_why_it_failed_that_it_is_to_be_cancelled_and_who_is_busy() {
    let world = World::new().await;
    let summary = async |job: i64| world.api.get(&format!("/jobs/{job}/explain")).await.expect(200)["summary"].as_str().unwrap().to_owned();
    let wide = world.task("wide", 5, 0).await;
    let job = world.job_with("j", json!({"task_id": wide, "max_attempts": 1})).await;
    assert_eq!(world.claim_ids(json!({"client_id": "node", "lease_seconds": 600})).await, [job]);

    // Of 8 CPUs 5 are taken.
    let (next, small) = (world.job_with("next", json!({"task_id": wide})).await, world.job("small").await);
    let ready = "It is ready; 0 jobs of the project are more urgent.";
    let busy = |clients: i32| format!("{ready} All clients that are alive and have what it needs ({clients}) are busy.");
    assert_eq!(summary(next).await, busy(1));
    assert_eq!(summary(small).await, "It is ready; 1 job of the project is more urgent.", "that one fits beside it");
    world.client("little", 4, 0).await;
    world.client("off", 8, 0).await;
    world.api.post("/clients/off/deactivate", json!({})).await.expect(200);
    assert_eq!(summary(next).await, busy(1), "neither counts");
    world.client("free", 5, 0).await;
    assert_eq!(summary(next).await, ready);
    assert_eq!(world.claim_ids(json!({"client_id": "free", "lease_seconds": 600})).await, [next]);
    let last = world.job_with("last", json!({"task_id": wide, "priority": 1})).await;
    assert_eq!(summary(last).await, busy(2));

    world.api.post(&format!("/jobs/{next}/cancel"), json!({})).await.expect(200);
    let told = summary(next).await;
    assert!(told.starts_with("Client free has it, in attempt 1. It is to be cancelled"), "{told}");
    let error = format!("CUDA out of memory\n  {}", "x".repeat(1000));
    world.say(job, 1, "fail", json!({"error": error})).await.expect(200);
    let told = summary(job).await;
    assert!(told.starts_with("It is FAILED. The last attempt, 1, ended with: CUDA out of memory xxx") && told.len() < 300, "{told}");
    assert_eq!(summary(last).await, ready, "there is room again");
    world.api.post(&format!("/jobs/{job}/retry"), json!({})).await.expect(200);
    assert_eq!(world.claim_ids(json!({"client_id": "node", "max_jobs": 2})).await, [last, small]);
    world.say(last, 1, "complete", json!({})).await.expect(200);
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job]);
    world.say(job, 2, "release", json!({"reason": "unable"})).await.expect(200);
    assert_eq!(summary(job).await, "It is FAILED. The last attempt, 2, ended with: unable");
    // Somebody says another thing of what was completed.
    world.api.set_status(last, "FAILED").await;
    assert_eq!(summary(last).await, "It is FAILED.");
    world.end().await;
}

/// It is not enough that one has been there, or that two have it together.
#[tokio::test]
async fn a_job_waits_for_one_client_that_is_there_and_has_all_that_it_needs() {
    let world = World::new().await;
    world.client("small", 1, 0).await;
    let large = world.task("large", 8, 0).await;
    let job = world.job_with("large", json!({"task_id": large})).await;
    let explain = async |job: i64| world.api.get(&format!("/jobs/{job}/explain")).await.expect(200);
    assert_eq!(explain(job).await["waits_for"], json!([]), "node has it");
    world.api.post("/clients/node/deactivate", json!({})).await.expect(200);
    let told = explain(job).await;
    assert_eq!((&told["waits_for"][0]["kind"], &told["waits_for"][1]), (&json!("client"), &Value::Null), "{told}");
    assert_eq!(told["summary"], "It needs 8 CPUs and 0 accelerators, which none of the clients that are alive has (1).");
    world.api.post("/clients/node/heartbeat", json!({})).await.expect(200);
    assert_eq!(explain(job).await["waits_for"], json!([]), "it is back");

    // node has 8 CPUs and 2 accelerators.
    world.client("gpus", 2, 4).await;
    let both = world.task("both", 4, 4).await;
    let job = world.job_with("both", json!({"task_id": both})).await;
    let told = explain(job).await;
    assert_eq!(told["summary"], "It needs 4 CPUs and 4 accelerators, which none of the clients that are alive has (3).");
    world.client("gpus", 4, 4).await;
    assert_eq!(explain(job).await["waits_for"], json!([]));
    world.end().await;
}

/// Of all tasks together, and no further than that.
#[tokio::test]
async fn what_is_more_urgent_than_a_job_is_counted_up_to_a_thousand() {
    let world = World::new().await;
    let other = world.task("other", 1, 0).await;
    let ahead = async |job: i64| world.api.get(&format!("/jobs/{job}/explain")).await.expect(200)["ahead"].clone();
    let add = async |priority: i32, counts: [usize; 2]| {
        let jobs = [world.task, other].into_iter().zip(counts).flat_map(|(task, count)| {
            (0..count).map(move |_| json!({"name": "j", "task_id": task, "parameters": {}, "priority": priority}))
        });
        let jobs: Vec<Value> = jobs.collect();
        world.api.post(&format!("/projects/{}/jobs/batch", world.project), json!({"jobs": jobs})).await.expect(201);
    };
    let first = world.job_with("first", json!({"priority": 9})).await;
    assert_eq!(ahead(first).await, 0);
    add(5, [400, 300]).await;
    let middle = world.job_with("middle", json!({"priority": 4})).await;
    assert_eq!((ahead(first).await, ahead(middle).await), (json!(0), json!(701)), "those of both tasks");
    let same = world.job_with("same", json!({"priority": 4, "task_id": other})).await;
    assert_eq!(ahead(same).await, 702, "who came before it is more urgent");
    add(3, [200, 96]).await;
    let last = world.job_with("last", json!({"priority": 2})).await;
    assert_eq!(ahead(last).await, 999);
    add(3, [1, 0]).await;
    assert_eq!(ahead(last).await, 1000);
    add(3, [200, 200]).await;
    let told = world.api.get(&format!("/jobs/{last}/explain")).await.expect(200);
    assert_eq!((&told["ahead"], &told["waits_for"]), (&json!(1000), &json!([])), "counting stops, and neither task has so many");
    assert_eq!(ahead(middle).await, 701, "what is less urgent does not count");
    world.end().await;
}

/// What statements count is what there is, whatever is done.
#[tokio::test]
async fn a_project_says_how_it_stands() {
    let world = World::new().await;
    let stats = async || world.api.get(&format!("/projects/{}/stats", world.project)).await.expect(200);
    assert_eq!(stats().await["oldest_ready_seconds"], Value::Null);
    let oldest = world.job_with("oldest", json!({"priority": -5})).await;
    let jobs: Vec<Value> = (0..40).map(|n| json!({"name": "j", "task_id": world.task, "parameters": {}, "priority": n % 3})).collect();
    let added = world.api.post(&format!("/projects/{}/jobs/batch", world.project), json!({"jobs": jobs})).await.expect(201);
    let first = added["job_ids"][0].as_i64().unwrap();
    world.job_with("child", json!({"depends": {first.to_string(): ""}})).await;
    world.claim(json!({"client_id": "node", "max_jobs": 2})).await;
    world.api.set_status(first, "FAILED").await;
    let told = stats().await;
    let expected = json!({"PENDING": 38, "QUEUED": 2, "RUNNING": 0, "COMPLETED": 0, "FAILED": 1, "BLOCKED": 1, "CANCELLED": 0});
    assert_eq!((&told["jobs"], &told["live_clients"], &told["leases"]), (&expected, &json!(1), &json!(2)));
    let database = world.database.connect().await;
    let seconds = "select extract(epoch from clock_timestamp() - updated_at)::float8 from jobs where id = $1";
    let age: f64 = database.query_one(seconds, &[&oldest]).await.unwrap().get(0);
    let told = told["oldest_ready_seconds"].as_f64().unwrap();
    assert!((age - 5.0..=age).contains(&told), "the oldest is ready for about {age} s, though it is the least urgent; told: {told}");
    // Many rows become few, and say the same.
    let rows = async || database.query_one("select count(*) from job_counts", &[]).await.unwrap().get::<_, i64>(0);
    for _ in 0..20 {
        world.api.set_status(first, "PENDING").await;
        world.api.set_status(first, "FAILED").await;
    }
    eventually("the counts are compacted", || async { rows().await <= 40 }).await;
    assert_eq!(stats().await["jobs"], expected);
    world.api.delete(&format!("/projects/{}", world.project)).await;
    world.api.get(&format!("/projects/{}/stats", world.project)).await.problem(404);
    world.end().await;
}

/// What is tried again and is ready only now stands before what has been ready for days.
#[tokio::test]
async fn the_oldest_ready_job_need_not_be_the_next() {
    let world = World::new().await;
    let (first, waits) = (world.job("first").await, world.job("waits").await);
    let database = world.database.connect().await;
    database.execute("update jobs set updated_at = now() - interval '3 days' where id = $1", &[&waits]).await.unwrap();
    assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [first]);
    world.say(first, 1, "fail", json!({"error": "e"})).await.expect(200);
    let store = projects::Store::new(world.database.database(), Bells::default());
    let days = 3.0 * 86_400.0;
    let told = world.api.get(&format!("/projects/{}/stats", world.project)).await.expect(200);
    let told = [told["oldest_ready_seconds"].as_f64().unwrap(), store.overview(10).await.unwrap().busiest[0].oldest_ready_seconds.unwrap()];
    assert!(told.iter().all(|told| (days..days + 60.0).contains(told)), "expected three days, not {told:?} s");
    world.end().await;
}

/// Of what is looked at each project has its share.
#[tokio::test]
async fn a_project_with_many_priorities_hides_no_other() {
    let world = World::new().await;
    let database = world.database.connect().await;
    let (small, task) = world.api.project_with_task("small").await;
    let jobs = "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet, updated_at)
                select $1, $2, 'j', '{}', 'PENDING', n, 0, now() - interval '3 days' from generate_series(1, $3::integer) as n";
    database.execute(jobs, &[&world.project, &world.task, &2000]).await.unwrap();
    database.execute(jobs, &[&small, &task, &1]).await.unwrap();
    let overview = projects::Store::new(world.database.database(), Bells::default()).overview(10).await.unwrap();
    for project in [world.project, small] {
        let told = overview.busiest.iter().find(|busy| busy.project_id == project).and_then(|busy| busy.oldest_ready_seconds);
        assert!(
            told.is_some_and(|seconds| seconds >= 3.0 * 86_400.0),
            "project {project} has a job that has been ready for three days, not {told:?}"
        );
    }
    world.end().await;
}

/// However many priorities and jobs there are.
#[tokio::test]
async fn how_a_project_stands_is_told_by_looking_at_few_of_its_jobs() {
    let world = World::new().await;
    let database = world.database.connect().await;
    let jobs = "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet)
                select $1, $2, 'j', '{}', 'PENDING', case when n <= 6000 then n else 0 end, 0 from generate_series(1, 20000) as n";
    database.execute(jobs, &[&world.project, &world.task]).await.unwrap();
    database.batch_execute("analyze; set enable_seqscan = off; set enable_bitmapscan = off").await.unwrap();
    for (query, first) in [(STATS, world.project), (BUSIEST, 100)] {
        let counted = async |what: &str| {
            let sql = format!("select pg_stat_get_xact_{what}('jobs_ready_idx'::regclass)");
            database.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0)
        };
        database.batch_execute("begin").await.unwrap();
        let before = (counted("numscans").await, counted("tuples_returned").await);
        let row = database.query_one(query.sql, &[&first, &1000_i64, &10_000_i64]).await.unwrap();
        assert!(row.get::<_, Option<f64>>("oldest_ready_seconds").is_some(), "{} tells it", query.name);
        let (looks, read) = (counted("numscans").await - before.0, counted("tuples_returned").await - before.1);
        database.batch_execute("rollback").await.unwrap();
        assert!(looks <= 2_100, "{}: expected a look or two for each of a thousand priorities, not {looks}", query.name);
        assert!(read <= 12_000, "{}: expected ten thousand jobs at most, not {read}", query.name);
    }
    world.end().await;
}
