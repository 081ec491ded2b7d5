//! How often a job is tried, and when again.

use serde_json::json;
use whatsnext::queue::{
    Bells, Policy,
    jobs::{self, Outcome, Report},
};

use super::World;
use crate::support::{TestDatabase, id};

/// What its task says holds for a job that says nothing, and for no other.
#[tokio::test]
async fn a_job_is_tried_as_often_as_it_says_or_its_task_or_the_server() {
    let world = World::with(&[("max_attempts", "3"), ("backoff_seconds", "1000")]).await;
    let task = json!({"name": "patient", "project_id": world.project, "max_attempts": 2, "backoff_seconds": 500});
    let patient = id(&world.api.post("/tasks", task).await.expect(201));
    let fails = async |job: i64| {
        let mut waits = Vec::new();
        for attempt in 1.. {
            assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job]);
            let failed = world.say(job, attempt, "fail", json!({"error": "e"})).await.expect(200);
            if failed["job_status"] == "FAILED" {
                break;
            }
            let told = world.api.get(&format!("/jobs/{job}")).await.expect(200);
            let time = |value: &serde_json::Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
            let wait = time(&told["not_before"]) - time(&told["updated_at"]);
            waits.push(wait.num_milliseconds().saturating_add(500) / 1000);
            world.api.post(&format!("/jobs/{job}/retry"), json!({})).await.expect(200);
        }
        waits
    };
    let servers = world.job("the server's").await;
    assert_eq!(fails(servers).await, [1000, 2000]);
    let tasks = world.job_with("its task's", json!({"task_id": patient})).await;
    assert_eq!(fails(tasks).await, [500]);
    let own = world.job_with("its own", json!({"task_id": patient, "max_attempts": 4, "backoff_seconds": 7})).await;
    assert_eq!(fails(own).await, [7, 14, 28]);
    let half = world.job_with("half its own", json!({"task_id": patient, "max_attempts": 3})).await;
    assert_eq!(fails(half).await, [500, 1000]);
    world.end().await;
}

/// However it is asked to: it may fail as often as one that is new, and waits as long before it is tried again.
#[tokio::test]
async fn a_job_that_is_run_again_has_all_of_its_attempts() {
    let world = World::new().await;
    for way in ["the job's", "the project's", "by its status"] {
        let job = world.job_with(way, json!({"max_attempts": 2, "backoff_seconds": 1000})).await;
        let retry = format!("/jobs/{job}/retry");
        // What becomes of it after one more failure, and how many seconds it is to wait.
        let fails = async |attempt: i64| {
            assert_eq!(world.claim_ids(json!({"client_id": "node"})).await, [job], "{way}: attempt {attempt}");
            world.say(job, attempt, "fail", json!({"error": "e"})).await.expect(200);
            let told = world.api.get(&format!("/jobs/{job}")).await.expect(200);
            let time = |value: &serde_json::Value| value.as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
            let waits = (told["status"] == "PENDING").then(|| (time(&told["not_before"]) - time(&told["updated_at"])).num_milliseconds());
            (told["status"].as_str().unwrap().to_owned(), waits.map(|waits| (waits + 500) / 1000))
        };
        let (again, failed) = (("PENDING".to_owned(), Some(1000)), ("FAILED".to_owned(), None));
        assert_eq!(fails(1).await, again, "{way}");
        world.api.post(&retry, json!({})).await.expect(200);
        assert_eq!(fails(2).await, failed, "{way}: who does not wait has no more attempts for it");
        for round in [3, 5] {
            match way {
                "the job's" => drop(world.api.post(&retry, json!({})).await.expect(200)),
                "the project's" => {
                    let retried = world.api.post(&format!("/projects/{}/retry", world.project), json!({"status": "FAILED"})).await;
                    assert_eq!(retried.expect(200)["retried"], 1);
                }
                _ => drop(world.api.set_status(job, "PENDING").await),
            }
            assert_eq!(fails(round).await, again, "{way}: the first failure of two");
            world.api.post(&retry, json!({})).await.expect(200);
            assert_eq!(fails(round + 1).await, failed, "{way}: the second");
        }
        assert_eq!(world.api.delete(&format!("/jobs/{job}")).await.status, 204);
    }
    world.end().await;
}

/// What is decided here of one job that fails, and by a statement of many whose leases have ended, is the same.
#[tokio::test]
async fn a_lease_that_ends_counts_as_a_failure_that_is_reported() {
    let database = TestDatabase::new().await;
    let client = database.connect().await;
    let store = jobs::Store::new(database.database(), Policy::default(), Bells::default());
    let tasks = "insert into projects (name, description, status) values ('p', '', 'ACTIVE');
                 insert into tasks (project_id, name, required_cpu, required_accelerators, max_attempts, backoff_seconds)
                     values (1, 'silent', 1, 0, null, null), (1, 'says', 1, 0, 40, 5);";
    client.batch_execute(tasks).await.unwrap();
    // Each twice: those with an even name are reported, the others' leases end.
    let all = "insert into jobs (project_id, task_id, name, parameters, status, priority, unmet, attempt, max_attempts, backoff_seconds, failed_attempts)
               select 1, task, (row_number() over (order by task, most, backoff, failed, twin))::text, '{}', 'RUNNING', 0, 0, 1, most, backoff, failed
               from (values (1), (2)) as t (task)
               cross join (values (null::integer), (1), (2), (3), (40), (1000)) as m (most)
               cross join (values (null::integer), (0), (1), (7), (3599), (3600), (3601), (86400)) as b (backoff)
               cross join (values (0), (1), (2), (9), (29), (30), (31), (38), (39), (40), (998), (999)) as f (failed)
               cross join generate_series(1, 2) as twin";
    let count = client.execute(all, &[]).await.unwrap();
    let attempts = "insert into attempts (job_id, number, status, cpu, accelerators, lease_seconds, lease_expires_at)
                    select id, 1, 'RUNNING', 1, 0, 60, now() + case when name::integer % 2 = 0 then interval '1 hour' else interval '0' end from jobs";
    client.execute(attempts, &[]).await.unwrap();
    assert!(store.sweep_leases().await.unwrap().is_more, "so many may have been joined by others meanwhile");
    for row in client.query("select id from jobs where name::integer % 2 = 0", &[]).await.unwrap() {
        let outcome = Outcome::Failed { error: String::new(), exit_code: None, retryable: true };
        store.report(row.get(0), 1, Report { outcome, log_tail: None }, None).await.unwrap();
    }
    let compared = "select a.max_attempts, a.backoff_seconds, a.task_id, a.status, b.status as reported, a.failed_attempts, b.failed_attempts as counted,
                           a.wait as wait, b.wait as told
                    from (select *, round(extract(epoch from not_before - updated_at))::bigint as wait from jobs) as a
                    join (select *, round(extract(epoch from not_before - updated_at))::bigint as wait from jobs) as b on b.name::integer = a.name::integer + 1
                    where a.name::integer % 2 = 1";
    let rows = client.query(compared, &[]).await.unwrap();
    assert_eq!(rows.len() as u64 * 2, count);
    let waits = rows.iter().filter(|row| row.get::<_, &str>("status") == "PENDING").count();
    assert!((100..rows.len() - 100).contains(&waits), "some are tried again and some are not: {waits} of {}", rows.len());
    for row in rows {
        let of = |status, failed, wait| (row.get::<_, String>(status), row.get::<_, i32>(failed), row.get::<_, Option<i64>>(wait));
        let what: (i64, Option<i32>, Option<i32>) = (row.get("task_id"), row.get("max_attempts"), row.get("backoff_seconds"));
        assert_eq!(of("status", "failed_attempts", "wait"), of("reported", "counted", "told"), "task, attempts and backoff: {what:?}");
    }
    database.assert_graph_is_true().await;
}
